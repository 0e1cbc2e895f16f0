#include "vm/nif_msg.h"

#include <errno.h>
#include <string.h>

enum {
    COPY_ALL =
        4096, /* bytes of a message that is copied whole: cheaper than to keep its binaries */
    PIECES_STACK = 64,
    DEPTH = 16, /* of a term that is called small */
};

static struct pt_chan_owner *new_owner(ERL_NIF_TERM list)
{
    ERL_NIF_TERM tail;
    struct pt_chan_owner *o = pt_alloc(sizeof *o);
    if (!o)
        return NULL;
    o->iov = NULL;
    o->bin = NULL;
    atomic_init(&o->refs, 1);
    /* no environment: the binaries are kept until enif_free_iovec() */
    if (enif_inspect_iovec(NULL, PT_NIF_PIECES_MAX, list, &tail, &o->iov))
        return o;
    pt_free(o);
    return NULL;
}

/* A compressed message has no other front. */
static struct pt_msg *build(const ErlNifIOVec *v, struct pt_chan_owner *owner,
                            const uint8_t *envelope, size_t len)
{
    static const uint8_t packet[] = {131, 68, 0};
    uint8_t front[PT_RELAY_ENVELOPE_MAX + sizeof packet];
    void *few[PIECES_STACK], **owners = few;
    size_t n = (size_t)v->iovcnt;
    bool zip = *(const uint8_t *)v->iov[0].iov_base == PT_ZIP_TAG;

    if (n > PIECES_STACK && !(owners = pt_alloc(n * sizeof *owners)))
        return NULL;
    for (size_t i = 0; i < n; i++)
        owners[i] = owner;
    if (len)
        memcpy(front, envelope, len);
    memcpy(front + len, packet, sizeof packet);
    struct pt_source src = {.iov = (const struct iovec *)v->iov,
                            .owners = owners,
                            .count = n,
                            .skip = zip ? 0 : sizeof packet,
                            .prefix = front,
                            .prefix_len = zip ? 0 : len + sizeof packet};
    struct pt_msg *m = pt_msg_new(&src, &pt_chan_owner_ops);
    if (owners != few)
        pt_free(owners);
    if (m)
        m->kind = PT_ORDER_SENDER;
    return m;
}

bool pt_nif_well_formed(const ErlNifIOVec *v, bool may_be_zip)
{
    if (!v->iovcnt)
        return false;
    const uint8_t *p = (const uint8_t *)v->iov[0].iov_base;
    size_t n = v->iov[0].iov_len;
    return n > PT_ZIP_HEAD &&
           ((may_be_zip && p[0] == PT_ZIP_TAG) || (p[0] == 131 && p[1] == 104 && p[2] == 2));
}

struct pt_msg *pt_nif_message(ERL_NIF_TERM list, const ErlNifIOVec *v, const uint8_t *envelope,
                              size_t len)
{
    if (v->size <= COPY_ALL)
        return build(v, NULL, envelope, len);
    struct pt_chan_owner *owner = new_owner(list);
    if (!owner)
        return NULL;
    struct pt_msg *m = build(owner->iov, owner, envelope, len);
    pt_chan_owner_ops.unref(owner);
    return m;
}

struct pt_msg *pt_nif_message_of_term(ErlNifEnv *env, ERL_NIF_TERM term, const uint8_t *envelope,
                                      size_t len)
{
    ErlNifBinary bin;
    struct pt_msg *m = NULL;

    if (!enif_term_to_binary(env, term, &bin))
        return NULL;
    SysIOVec iov = {(char *)bin.data, bin.size};
    ErlNifIOVec v = {.iovcnt = 1, .size = bin.size, .iov = &iov};
    if (pt_nif_well_formed(&v, false))
        m = build(&v, NULL, envelope, len);
    enif_release_binary(&bin);
    return m;
}

int pt_nif_small_of_term(ErlNifEnv *env, ERL_NIF_TERM term, const struct pt_chan *c,
                         ErlNifBinary *bin, struct pt_small *small, unsigned *refs)
{
    if (!enif_term_to_binary(env, term, bin))
        return -ENOMEM;
    SysIOVec iov = {(char *)bin->data, bin->size};
    ErlNifIOVec v = {.iovcnt = 1, .size = bin->size, .iov = &iov};
    if (bin->size > PT_BATCH_COPY || !pt_nif_well_formed(&v, false)) {
        enif_release_binary(bin);
        return 0;
    }
    size_t at = pt_names_refer(&c->names, bin->data, bin->size, refs);
    *small = (struct pt_small){.section = c->names.section[*refs],
                               .there = PT_NAMES_SECTION_MAX,
                               .bytes = bin->data + at,
                               .len = bin->size - at};
    return 1;
}

/* The VM's choice: the atom's place in its table, by which it puts it into its caches (OTP 25,
 * external.c, atom2cix). A node that chooses otherwise only says the names more often. */
static unsigned slot_of(ErlNifEnv *env, const struct pt_name *name)
{
    enum { TAG_BITS = 6 };
    ERL_NIF_TERM a;
    bool is = name->len && enif_make_existing_atom_len(env, (const char *)name->text, name->len, &a,
                                                       ERL_NIF_LATIN1);
    return is ? (unsigned)(a >> TAG_BITS) % PT_ATOM_SLOTS : 0;
}

void pt_nif_set_names(ErlNifEnv *env, struct pt_chan *c, const char *peer)
{
    struct pt_name mine, theirs = {.text = (const uint8_t *)peer, .len = strlen(peer)};
    ErlNifPid self;
    ErlNifBinary bin;

    if (!enif_self(env, &self) || !enif_term_to_binary(env, enif_make_pid(env, &self), &bin))
        return;
    if (pt_names_of_pid(bin.data, bin.size, &mine)) {
        mine.slot = slot_of(env, &mine);
        theirs.slot = slot_of(env, &theirs);
        pt_chan_set_names(c, &mine, &theirs);
    }
    enif_release_binary(&bin);
}

/* One wish for each process and message: those who wait at one relay for several nodes get a message of
 * each. 64 bits, so that no two are taken for one. */
static uint64_t notify_key(const struct pt_chan_wait *w)
{
    uint64_t message = (uint64_t)enif_hash(ERL_NIF_INTERNAL_HASH, w->message, 0) << 32 |
                       (uint32_t)enif_hash(ERL_NIF_INTERNAL_HASH, w->message, 1);
    uint64_t key = pt_mix64((uint64_t)w->pid.pid ^ pt_mix64(message));
    return key ? key : 1;
}

bool pt_nif_get_wait(ErlNifEnv *env, ERL_NIF_TERM term, struct pt_chan_wait *w)
{
    const ERL_NIF_TERM *t;
    int arity;

    *w = (struct pt_chan_wait){.kind = PT_CHAN_NO_WAIT};
    if (enif_is_atom(env, term))
        return true;
    if (!enif_get_tuple(env, term, &arity, &t) || arity != 2 || !enif_is_atom(env, t[0]) ||
        !enif_self(env, &w->pid))
        return false;
    w->kind =
        enif_is_identical(t[0], enif_make_atom(env, "notify")) ? PT_CHAN_NOTIFY : PT_CHAN_WAIT;
    w->message = t[1];
    w->key = w->kind == PT_CHAN_NOTIFY ? notify_key(w) : 0;
    return true;
}

/* Is the message certainly small? Looks at some dozens of parts at most. */
struct glance {
    unsigned parts;
    size_t bytes;
};

static bool is_small(ErlNifEnv *env, ERL_NIF_TERM t, struct glance *left, unsigned depth);

static bool spend(struct glance *left, size_t bytes)
{
    if (!left->parts || left->bytes < bytes)
        return false;
    left->parts--;
    left->bytes -= bytes;
    return true;
}

static bool small_integer(ErlNifEnv *env, ERL_NIF_TERM t)
{
    ErlNifSInt64 i;
    ErlNifUInt64 u;
    return enif_get_int64(env, t, &i) || enif_get_uint64(env, t, &u);
}

static bool small_map(ErlNifEnv *env, ERL_NIF_TERM t, struct glance *left, unsigned depth)
{
    ErlNifMapIterator it;
    ERL_NIF_TERM key, value;
    size_t n;
    bool fits = enif_get_map_size(env, t, &n) && n <= left->parts;

    if (!fits || !enif_map_iterator_create(env, t, &it, ERL_NIF_MAP_ITERATOR_FIRST))
        return false;
    while (fits && enif_map_iterator_get_pair(env, &it, &key, &value)) {
        fits = is_small(env, key, left, depth) && is_small(env, value, left, depth);
        enif_map_iterator_next(env, &it);
    }
    enif_map_iterator_destroy(env, &it);
    return fits;
}

static bool small_list(ErlNifEnv *env, ERL_NIF_TERM t, struct glance *left, unsigned depth)
{
    ERL_NIF_TERM head;
    while (enif_get_list_cell(env, t, &head, &t))
        if (!is_small(env, head, left, depth))
            return false;
    return enif_is_empty_list(env, t) || is_small(env, t, left, depth); /* an improper one's tail */
}

static bool is_small(ErlNifEnv *env, ERL_NIF_TERM t, struct glance *left, unsigned depth)
{
    enum { ATOM = 64, REFERENCE = 128 };
    const ERL_NIF_TERM *part;
    ErlNifBinary bin;
    int arity;

    if (!depth)
        return false;
    depth--;
    switch (enif_term_type(env, t)) {
    case ERL_NIF_TERM_TYPE_INTEGER: return small_integer(env, t) && spend(left, 16);
    case ERL_NIF_TERM_TYPE_FLOAT: return spend(left, 16);
    case ERL_NIF_TERM_TYPE_ATOM: return spend(left, ATOM);
    case ERL_NIF_TERM_TYPE_PID:
    case ERL_NIF_TERM_TYPE_PORT:
    case ERL_NIF_TERM_TYPE_REFERENCE: return spend(left, REFERENCE);
    case ERL_NIF_TERM_TYPE_BITSTRING:
        return enif_inspect_binary(env, t, &bin) && spend(left, bin.size + 8);
    case ERL_NIF_TERM_TYPE_TUPLE:
        if (!enif_get_tuple(env, t, &arity, &part) || !spend(left, 8))
            return false;
        for (int i = 0; i < arity; i++)
            if (!is_small(env, part[i], left, depth))
                return false;
        return true;
    case ERL_NIF_TERM_TYPE_LIST: return spend(left, 8) && small_list(env, t, left, depth);
    case ERL_NIF_TERM_TYPE_MAP: return spend(left, 8) && small_map(env, t, left, depth);
    default: return false; /* funs carry an environment */
    }
}

bool pt_nif_is_small(ErlNifEnv *env, ERL_NIF_TERM t)
{
    struct glance left = {.parts = 64, .bytes = COPY_ALL};
    return is_small(env, t, &left, DEPTH);
}

bool pt_nif_is_signal(ErlNifEnv *env, ERL_NIF_TERM t)
{
    const ERL_NIF_TERM *pair;
    int arity;
    return enif_get_tuple(env, t, &arity, &pair) && arity == 2 && enif_is_tuple(env, pair[0]);
}

/* The NIFs of channels: a handle for a channel, sending on it, looking at it.
 *
 * A handle outlives the session: it holds a reference on the channel, which then answers `closed`. */
#include "vm/chan.h"
#include "vm/nif.h"
#include "vm/peer.h"

#include <errno.h>
#include <string.h>

enum {
    COPY_ALL =
        4096, /* bytes of a message that is copied whole: cheaper than to keep its binaries */
    PIECES_MAX = 4096, /* of one message: more are for the caller to flatten */
    PIECES_STACK = 64,
    DEPTH = 16,                   /* of a term that is called small */
    BYTES_PER_PERCENT = 8 * 1024, /* of a time slice: a copy into a socket, and the system call */
};

struct handle {
    struct pt_chan *chan;
};

static ErlNifResourceType *handle_type;

static void handle_gone(ErlNifEnv *env, void *obj)
{
    (void)env;
    pt_chan_unref(((struct handle *)obj)->chan);
}

int pt_nif_chan_load(ErlNifEnv *env)
{
    handle_type = enif_open_resource_type(env, NULL, "partisan_channel", handle_gone,
                                          ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER, NULL);
    return handle_type ? 0 : -ENOMEM;
}

static struct pt_chan *get_chan(ErlNifEnv *env, ERL_NIF_TERM term)
{
    void *h;
    return enif_get_resource(env, term, handle_type, &h) ? ((struct handle *)h)->chan : NULL;
}

static ERL_NIF_TERM atom(ErlNifEnv *env, const char *name) { return enif_make_atom(env, name); }

/* channel(SessionId, No) -> Handle | undefined */
ERL_NIF_TERM pt_nif_channel(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifBinary id;
    unsigned no;
    struct pt_chan *c = NULL;
    (void)argc;

    if (!enif_inspect_binary(env, argv[0], &id) || id.size != 16 ||
        !enif_get_uint(env, argv[1], &no))
        return enif_make_badarg(env);
    pthread_mutex_lock(&pt_node.lock);
    for (struct pt_list *n = pt_node.peers.next; !c && n != &pt_node.peers; n = n->next) {
        struct pt_peer *p = PT_CONTAINER_OF(n, struct pt_peer, node_link);
        if (!memcmp(p->session_id, id.data, sizeof p->session_id))
            c = pt_chan_find(p, no);
    }
    if (c)
        pt_chan_ref(c);
    pthread_mutex_unlock(&pt_node.lock);
    if (!c)
        return atom(env, "undefined");
    struct handle *h = enif_alloc_resource(handle_type, sizeof *h);
    h->chan = c;
    ERL_NIF_TERM out = enif_make_resource(env, h);
    enif_release_resource(h);
    return out;
}

/* ---- sending ---- */

/* What distinguishes the flows of a channel: a sender, or a sender and a partition key. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u; /* the finalizer of splitmix64 */
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static struct pt_chan_owner *new_owner(ERL_NIF_TERM list)
{
    ERL_NIF_TERM tail;
    struct pt_chan_owner *o = pt_alloc(sizeof *o);
    if (!o)
        return NULL;
    o->iov = NULL;
    atomic_init(&o->refs, 1);
    /* no environment: the binaries are kept until enif_free_iovec() */
    if (enif_inspect_iovec(NULL, PIECES_MAX, list, &tail, &o->iov))
        return o;
    pt_free(o);
    return NULL;
}

/* A message of the form that term_to_iovec({Control, Message}) has: 131 104 2 Control Message. In a
 * distribution packet it is 131 68 0 Control Message. Compressed ones come as they travel. */
static struct pt_msg *build(const ErlNifIOVec *v, struct pt_chan_owner *owner)
{
    static const uint8_t packet[] = {131, 68, 0};
    void *few[PIECES_STACK], **owners = few;
    size_t n = (size_t)v->iovcnt;
    bool zip = *(const uint8_t *)v->iov[0].iov_base == PT_ZIP_TAG;

    if (n > PIECES_STACK && !(owners = pt_alloc(n * sizeof *owners)))
        return NULL;
    for (size_t i = 0; i < n; i++)
        owners[i] = owner;
    struct pt_source src = {.iov = (const struct iovec *)v->iov,
                            .owners = owners,
                            .count = n,
                            .skip = zip ? 0 : sizeof packet,
                            .prefix = packet,
                            .prefix_len = zip ? 0 : sizeof packet};
    struct pt_msg *m = pt_msg_new(&src, &pt_chan_owner_ops);
    if (owners != few)
        pt_free(owners);
    if (m)
        m->kind = PT_ORDER_SENDER;
    return m;
}

static bool well_formed(const ErlNifIOVec *v)
{
    if (!v->iovcnt)
        return false;
    const uint8_t *p = (const uint8_t *)v->iov[0].iov_base;
    size_t n = v->iov[0].iov_len;
    return n > PT_ZIP_HEAD && (p[0] == PT_ZIP_TAG || (p[0] == 131 && p[1] == 104 && p[2] == 2));
}

/* 0, or an answer to give (with *out). The message is made outside of the channel's lock. */
static int make_message(ERL_NIF_TERM list, ErlNifIOVec *v, struct pt_msg **out)
{
    if (v->size <= COPY_ALL)
        return (*out = build(v, NULL)) ? 0 : -ENOMEM;
    struct pt_chan_owner *owner = new_owner(list);
    if (!owner)
        return -ENOMEM;
    *out = build(owner->iov, owner);
    pt_chan_owner_ops.unref(owner);
    return *out ? 0 : -ENOMEM;
}

static bool get_wait(ErlNifEnv *env, ERL_NIF_TERM term, struct pt_chan_wait *w)
{
    const ERL_NIF_TERM *t;
    int arity;

    *w = (struct pt_chan_wait){.kind = PT_CHAN_NO_WAIT};
    if (enif_is_atom(env, term))
        return true;
    if (!enif_get_tuple(env, term, &arity, &t) || arity != 2 || !enif_is_atom(env, t[0]) ||
        !enif_self(env, &w->pid))
        return false;
    w->kind = enif_is_identical(t[0], atom(env, "notify")) ? PT_CHAN_NOTIFY : PT_CHAN_WAIT;
    w->message = t[1];
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

/* What send and send_term have in common. */
struct request {
    struct pt_chan *chan;
    ErlNifPid self;
    bool keyed;
    unsigned partition;
    ErlNifBinary key;
};

static bool get_request(ErlNifEnv *env, const ERL_NIF_TERM argv[], struct request *r)
{
    *r = (struct request){.chan = get_chan(env, argv[0])};
    r->keyed = !enif_is_atom(env, argv[2]);
    return r->chan && enif_self(env, &r->self) &&
           (!r->keyed || enif_get_uint(env, argv[2], &r->partition)) &&
           (!r->chan->monotonic || enif_inspect_binary(env, argv[3], &r->key));
}

/* Takes m. */
static ERL_NIF_TERM submit(ErlNifEnv *env, const struct request *r, struct pt_msg *m,
                           const struct pt_chan_wait *wait)
{
    uint64_t id = 0;
    uint64_t flow = mix(r->self.pid + (r->keyed ? mix(r->partition + 1u) : 0));
    uint64_t lane = r->keyed ? mix(r->partition) : flow;
    size_t size = m->size;

    m->key = flow ? flow : 1;
    int rc = pt_chan_send(r->chan, m, (uint32_t)lane, r->key.data, r->key.size, wait, &id);
    if (rc == PT_CHAN_SENT) {
        if (size > BYTES_PER_PERCENT)
            enif_consume_timeslice(env, (int)PT_MIN(size / BYTES_PER_PERCENT, (size_t)100));
        return atom(env, "ok");
    }
    pt_msg_free(m, &pt_chan_owner_ops);
    switch (rc) {
    case PT_CHAN_BUSY:
        return id ? enif_make_tuple2(env, atom(env, "busy"), enif_make_uint64(env, id))
                  : atom(env, "busy");
    case PT_CHAN_CLOSED: return atom(env, "closed");
    default: return atom(env, "system_limit");
    }
}

/* Partition: a hash of the partition key, or `none`. Key: a binary, of a monotonic channel. Wait: an
 * atom, {wait, Message} or {notify, Message}.
 * send(Handle, Data, Partition, Key, Wait) -> ok | busy | {busy, Id} | closed | flatten |
 *                                             system_limit */
ERL_NIF_TERM pt_nif_channel_send(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifIOVec space, *v = &space;
    struct request r;
    struct pt_chan_wait wait;
    ERL_NIF_TERM tail;
    struct pt_msg *m;
    (void)argc;

    if (!get_request(env, argv, &r) || !enif_inspect_iovec(env, PIECES_MAX, argv[1], &tail, &v) ||
        !well_formed(v) || !get_wait(env, argv[4], &wait))
        return enif_make_badarg(env);
    if (!enif_is_empty_list(env, tail))
        return atom(env, "flatten");
    if (make_message(argv[1], v, &m))
        return atom(env, "system_limit");
    return submit(env, &r, m, &wait);
}

/* send_term(Handle, {Control, Message}, Partition, Key) -> ok | busy | closed | large | system_limit.
 * Small terms are encoded here: term_to_iovec/1 takes half a microsecond for the smallest. */
ERL_NIF_TERM pt_nif_channel_send_term(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    static const struct pt_chan_wait no_wait = {.kind = PT_CHAN_NO_WAIT};
    struct glance left = {.parts = 64, .bytes = COPY_ALL};
    const ERL_NIF_TERM *pair;
    struct request r;
    ErlNifBinary bin;
    int arity;
    (void)argc;

    if (!get_request(env, argv, &r) || !enif_get_tuple(env, argv[1], &arity, &pair) || arity != 2 ||
        !enif_is_tuple(env, pair[0]))
        return enif_make_badarg(env);
    if (!is_small(env, argv[1], &left, DEPTH))
        return atom(env, "large");
    if (!enif_term_to_binary(env, argv[1], &bin))
        return atom(env, "system_limit");
    struct pt_msg *m = NULL;
    SysIOVec iov = {(char *)bin.data, bin.size};
    ErlNifIOVec v = {.iovcnt = 1, .size = bin.size, .iov = &iov};
    if (well_formed(&v))
        m = build(&v, NULL);
    enif_release_binary(&bin);
    return m ? submit(env, &r, m, &no_wait) : atom(env, "system_limit");
}

/* cancel(Handle, Id) -> ok */
ERL_NIF_TERM pt_nif_channel_cancel(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct pt_chan *c = get_chan(env, argv[0]);
    ErlNifUInt64 id;
    (void)argc;
    if (!c || !enif_get_uint64(env, argv[1], &id))
        return enif_make_badarg(env);
    pt_chan_cancel(c, id);
    return atom(env, "ok");
}

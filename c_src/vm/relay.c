#include "vm/relay.h"

#include "vm/host.h"
#include "vm/peer.h"

#include <errno.h>
#include <string.h>

enum {
    COPY_MAX = 4096,   /* bytes of a message that is copied, rather than kept where it was read */
    HANDED_MAX = 4096, /* messages that Erlang may have to take yet */
    TABLE_CHANGES = 8, /* while one message looks for its way: more cannot be */
};
static const uint64_t TELL_NS = 10 * 1000000000ull;

struct class_name {
    size_t len;
    uint8_t name[PT_CHAN_NAME_MAX];
};

struct pt_relay_table {
    atomic_uint refs;
    struct pt_routes *routes;
    size_t self_len;
    uint8_t self[PT_RELAY_NAME_MAX];
    struct class_name *classes;
    unsigned nclasses, nchans;
    struct pt_chan *chans[]; /* nclasses of each hop */
};

static struct {
    pthread_mutex_t lock;
    /* lock */
    struct pt_relay_table *table; /* NULL: none was set */
    struct pt_seen seen;
    ErlNifPid owner;
    unsigned handed; /* and not taken */
    uint64_t told_at;
    uint64_t origin;
    /* any thread */
    atomic_uint_fast64_t number;
    atomic_uint_fast64_t counts[PT_RELAY_COUNTS];
} relay = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *const names[PT_RELAY_COUNTS] = {
    [PT_RELAY_SENT] = "sent",           [PT_RELAY_PASSED] = "passed",
    [PT_RELAY_DELIVERED] = "delivered", [PT_RELAY_HANDED] = "handed",
    [PT_RELAY_DOUBLED] = "doubled",     [PT_RELAY_NO_ROUTE] = "no_route",
    [PT_RELAY_NO_HOPS] = "no_hops",     [PT_RELAY_OVERRUN] = "overrun",
    [PT_RELAY_MALFORMED] = "malformed", [PT_RELAY_CLOSING] = "closing",
};

static void count(enum pt_relay_count what)
{
    atomic_fetch_add_explicit(&relay.counts[what], 1, memory_order_relaxed);
}

uint64_t pt_relay_counter(enum pt_relay_count what) { return atomic_load(&relay.counts[what]); }

const char *pt_relay_counter_name(enum pt_relay_count what) { return names[what]; }

/* ---- the table ---- */

static void unref(struct pt_relay_table *t)
{
    if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (unsigned i = 0; i < t->nchans; i++)
        if (t->chans[i])
            pt_chan_unref(t->chans[i]);
    if (t->routes)
        pt_routes_free(t->routes);
    pt_free(t->classes);
    pt_free(t);
}

static int copy_classes(struct pt_relay_table *t, const struct pt_relay_parts *parts)
{
    if (!(t->classes = pt_alloc(parts->nclasses * sizeof *t->classes)))
        return -ENOMEM;
    for (unsigned i = 0; i < parts->nclasses; i++) {
        const struct pt_relay_name *name = &parts->classes[i];
        if (!name->len || name->len > PT_CHAN_NAME_MAX)
            return PT_E_BAD_FRAME;
        t->classes[i].len = name->len;
        memcpy(t->classes[i].name, name->p, name->len);
    }
    return 0;
}

int pt_relay_table_new(struct pt_relay_table **out, const struct pt_relay_parts *parts)
{
    unsigned nchans = parts->nclasses * parts->nhops;
    if (!parts->self.len || parts->self.len > PT_RELAY_NAME_MAX || !parts->nclasses)
        return PT_E_BAD_FRAME;
    struct pt_relay_table *t = pt_zalloc(sizeof *t + nchans * sizeof(struct pt_chan *));
    if (!t)
        return -ENOMEM;
    atomic_init(&t->refs, 1);
    t->self_len = parts->self.len;
    memcpy(t->self, parts->self.p, parts->self.len);
    t->nclasses = parts->nclasses;
    int rc = copy_classes(t, parts);
    if (!rc)
        rc = pt_routes_new(&t->routes, parts->routes.p, parts->routes.len, parts->nhops);
    for (; !rc && t->nchans < nchans; t->nchans++) {
        struct pt_chan *c = parts->chans[t->nchans];
        if (!c && t->nchans % parts->nclasses == 0)
            rc = PT_E_BAD_FRAME;
        t->chans[t->nchans] = c ? pt_chan_ref(c) : NULL;
    }
    if (rc)
        unref(t);
    else
        *out = t;
    return rc;
}

void pt_relay_table_free(struct pt_relay_table *t) { unref(t); }

static struct pt_relay_table *current(void)
{
    pthread_mutex_lock(&relay.lock);
    struct pt_relay_table *t = relay.table;
    if (t)
        atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&relay.lock);
    return t;
}

int pt_relay_table_set(struct pt_relay_table *t, const ErlNifPid *owner, uint64_t origin,
                       bool force)
{
    struct pt_relay_table *old = NULL;
    int rc = 0;

    pthread_mutex_lock(&relay.lock);
    if (!relay.table || enif_compare_pids(&relay.owner, owner) != 0) {
        relay.handed = 0;
        relay.owner = *owner;
    }
    if (relay.handed && !force) {
        rc = -EAGAIN;
    } else {
        old = relay.table;
        relay.table = t;
        relay.origin = relay.origin ? relay.origin : origin;
    }
    pthread_mutex_unlock(&relay.lock);
    unref(old);
    return rc;
}

void pt_relay_taken(void)
{
    pthread_mutex_lock(&relay.lock);
    if (relay.handed)
        relay.handed--;
    pthread_mutex_unlock(&relay.lock);
}

size_t pt_relay_routes(void)
{
    struct pt_relay_table *t = current();
    size_t n = t ? pt_routes_count(t->routes) : 0;
    unref(t);
    return n;
}

/* ---- to Erlang ---- */

/* enif_send() has no environment of a caller here: most often this is a callback of a port, not a NIF
 * call. */

static ERL_NIF_TERM binary(ErlNifEnv *env, const uint8_t *p, size_t len)
{
    ERL_NIF_TERM out;
    memcpy(enif_make_new_binary(env, len, &out), p, len);
    return out;
}

/* Counts all, and tells the owner of one each 10 s. */
static void drop(enum pt_relay_count why, const struct pt_relay_envelope *e)
{
    uint64_t now = pt_now_ns();
    count(why);
    pthread_mutex_lock(&relay.lock);
    if (relay.table && (!relay.told_at || now - relay.told_at >= TELL_NS)) {
        relay.told_at = now;
        ErlNifEnv *env = enif_alloc_env();
        if (env) {
            (void)enif_send(NULL, &relay.owner, env,
                            enif_make_tuple3(env, enif_make_atom(env, "partisan_relay_dropped"),
                                             enif_make_atom(env, names[why]),
                                             binary(env, e->name, e->name_len)));
            enif_free_env(env);
        }
    }
    pthread_mutex_unlock(&relay.lock);
}

/* The whole message, as it came, and its class. False: the table is another one by now, look there.
 * Under the lock with which a table is set, so that none is set while its owner has such a message yet:
 * what follows would go by the new table, and be there before it. The message is copied before: all
 * ports of the node meet at that lock. */
static bool hand(const struct pt_relay_table *t, const struct pt_chan *from,
                 const struct pt_relay_envelope *e, const uint8_t *p, size_t len)
{
    ErlNifEnv *env = enif_alloc_env();
    ERL_NIF_TERM message = 0;
    bool same, sent = false;

    if (env)
        message = enif_make_tuple3(env, enif_make_atom(env, "partisan_relay_frame"),
                                   binary(env, (const uint8_t *)from->name, from->name_len),
                                   binary(env, p, len));
    pthread_mutex_lock(&relay.lock);
    same = relay.table == t;
    if (same && relay.handed < HANDED_MAX)
        sent = env && enif_send(NULL, &relay.owner, env, message);
    relay.handed += sent;
    pthread_mutex_unlock(&relay.lock);
    if (env)
        enif_free_env(env);
    if (sent)
        count(PT_RELAY_HANDED);
    else if (same)
        drop(PT_RELAY_OVERRUN, e);
    return same;
}

/* ---- passing on ---- */

/* t->nclasses: none that the table has. */
static unsigned class_of(const struct pt_relay_table *t, const uint8_t *name, size_t len)
{
    unsigned i = 0;
    while (i < t->nclasses &&
           (t->classes[i].len != len || memcmp(t->classes[i].name, name, len) != 0))
        i++;
    return i;
}

/* How to go: of which class, back to whom not, and whether another channel may stand in. */
struct course {
    unsigned class;
    const struct pt_chan *from; /* or NULL */
    bool only;
};

/* Over the best of the ways that stands. A full one is no reason to take another: order would be lost,
 * and two ways would be full. Nor is one whose channel has to be opened (again) while the connection
 * stands, which is Erlang's: PT_CHAN_CLOSED. Takes m if it returns PT_CHAN_SENT. */
static int by_ways(const struct pt_relay_table *t, const uint16_t *ways, int n,
                   const struct course *course, struct pt_msg *m, const struct pt_chan_wait *wait,
                   struct pt_chan **via, uint64_t *id)
{
    for (int i = 0; i < n; i++) {
        struct pt_chan *const *of_hop = t->chans + (size_t)ways[i] * t->nclasses;
        struct pt_chan *common = of_hop[0];
        struct pt_chan *c = course->class < t->nclasses ? of_hop[course->class] : NULL;
        /* the peer is only compared: it may be gone */
        if (course->from && common->s.peer == course->from->s.peer)
            continue;
        if (course->only && course->class && c == common)
            return PT_RELAY_UNKNOWN;
        if (c) {
            int rc = pt_chan_send(c, m, (uint32_t)m->key, NULL, 0, wait, id);
            *via = c;
            if (rc != PT_CHAN_CLOSED)
                return rc;
        }
        if (c != common && pt_chan_is_open(common))
            return PT_CHAN_CLOSED;
    }
    return PT_CHAN_CLOSED;
}

/* The message as it goes on: one hop less, the packet as it came. */
static struct pt_msg *passed_on(const struct pt_relay_envelope *e, void *bin, const uint8_t *p,
                                size_t head, size_t len)
{
    uint8_t envelope[PT_RELAY_ENVELOPE_MAX];
    struct pt_chan_owner *owner = NULL;
    void *owners[1] = {NULL};

    memcpy(envelope, p, head);
    envelope[PT_RELAY_HOPS_AT]--;
    if (bin && len - head > COPY_MAX) {
        if (!(owner = pt_chan_owner_of(bin)))
            return NULL;
        owners[0] = owner;
    }
    struct iovec iov = {(void *)(uintptr_t)(p + head), len - head};
    struct pt_source src = {
        .iov = &iov, .owners = owners, .count = 1, .prefix = envelope, .prefix_len = head};
    struct pt_msg *m = pt_msg_new(&src, &pt_chan_owner_ops);
    if (owner)
        pt_chan_owner_ops.unref(owner);
    if (m) {
        m->kind = PT_ORDER_SENDER;
        m->key = e->flow;
    }
    return m;
}

static const struct pt_chan_wait no_wait = {.kind = PT_CHAN_NO_WAIT};

static void pass(const struct pt_relay_table *t, const struct pt_chan *from, void *bin,
                 const struct pt_relay_envelope *e, const uint8_t *p, size_t head, size_t len,
                 bool *again)
{
    struct course course = {.class = class_of(t, (const uint8_t *)from->name, from->name_len),
                            .from = from};
    uint16_t ways[PT_ROUTES_WAYS];
    struct pt_chan *via;
    uint64_t id;
    int n = pt_routes_find(t->routes, e->name, e->name_len, ways);

    if (n < 0) {
        drop(PT_RELAY_NO_ROUTE, e);
        return;
    }
    if (n > 0) {
        struct pt_msg *m = passed_on(e, bin, p, head, len);
        int rc = m ? by_ways(t, ways, n, &course, m, &no_wait, &via, &id) : -ENOMEM;
        if (rc == PT_CHAN_SENT) {
            count(PT_RELAY_PASSED);
            return;
        }
        if (m)
            pt_msg_free(m, &pt_chan_owner_ops);
        if (rc != PT_CHAN_CLOSED) {
            drop(PT_RELAY_OVERRUN, e);
            return;
        }
    }
    *again = !hand(t, from, e, p, len);
}

static bool is_for(const struct pt_relay_table *t, const struct pt_relay_envelope *e)
{
    return t->self_len == e->name_len && !memcmp(t->self, e->name, e->name_len);
}

/* Decodes it once, for nothing but to know, under the port lock of the relay it came from.
 * {Control, Message} has the packet's parts behind another head. */
static bool decodes(const uint8_t *p, size_t len)
{
    static const uint8_t pair[] = {131, 104, 2};
    ERL_NIF_TERM term;
    ErlNifEnv *env = enif_alloc_env();
    uint8_t *copy = pt_alloc(len);
    bool does = false;

    if (env && copy) {
        memcpy(copy, p, len);
        memcpy(copy, pair, sizeof pair);
        does = enif_binary_to_term(env, copy, len, &term, 0) == len;
    }
    pt_free(copy);
    if (env)
        enif_free_env(env);
    return does;
}

static int deliver(struct pt_peer *peer, void *bin, const struct pt_relay_envelope *e,
                   const uint8_t *p, size_t len)
{
    if (peer->flushing) {
        drop(PT_RELAY_CLOSING, e);
        return 0;
    }
    if (!pt_relay_deliverable(p, len) || !(pt_relay_is_sure(p, len) || decodes(p, len))) {
        drop(PT_RELAY_MALFORMED, e);
        return 0;
    }
    pthread_mutex_lock(&relay.lock);
    bool is_new = pt_seen_note(&relay.seen, e->origin, e->number) != 0; /* without memory, too */
    pthread_mutex_unlock(&relay.lock);
    count(is_new ? PT_RELAY_DELIVERED : PT_RELAY_DOUBLED);
    return is_new ? pt_rx_to_vm(peer, bin, p, len) : 0;
}

int pt_relay_packet(struct pt_chan *from, void *bin, const uint8_t *p, size_t len)
{
    struct pt_relay_envelope e;
    int head = pt_relay_decode(p, len, &e);
    bool again = true;
    int rc = 0;

    if (head < 0) {
        count(PT_RELAY_MALFORMED);
        return 0;
    }
    for (int i = 0; again && i < TABLE_CHANGES; i++) {
        struct pt_relay_table *t = current();
        again = false;
        if (!t)
            drop(PT_RELAY_NO_ROUTE, &e);
        else if (is_for(t, &e))
            rc = deliver(from->s.peer, bin, &e, p + head, len - (size_t)head);
        else if (e.hops <= 1)
            drop(PT_RELAY_NO_HOPS, &e);
        else
            pass(t, from, bin, &e, p, (size_t)head, len, &again);
        unref(t);
    }
    if (again)
        drop(PT_RELAY_NO_ROUTE, &e);
    return rc;
}

int pt_relay_hand_on(struct pt_chan *to, const uint8_t *p, size_t len)
{
    struct pt_relay_envelope e;
    uint64_t id;
    int head = pt_relay_decode(p, len, &e);

    if (head < 0 || e.hops <= 1)
        return PT_E_BAD_FRAME;
    struct pt_msg *m = passed_on(&e, NULL, p, (size_t)head, len);
    if (!m)
        return -ENOMEM;
    int rc = pt_chan_send(to, m, (uint32_t)m->key, NULL, 0, &no_wait, &id);
    if (rc == PT_CHAN_SENT)
        count(PT_RELAY_PASSED);
    else
        pt_msg_free(m, &pt_chan_owner_ops);
    return rc;
}

/* ---- sending ---- */

/* What distinguishes the sender's flows, with the hash of a partition key in the half that chooses the
 * lane: all senders of one key share it, as they do on a channel. */
static uint64_t flow_of(const struct pt_relay_send *s)
{
    uint64_t flow = pt_mix64(s->sender ^ relay.origin); /* origin: constant by now */
    if (s->keyed)
        flow = pt_mix64(flow + pt_mix64(s->partition + UINT64_C(1))) << 32 |
               (uint32_t)pt_mix64(s->partition);
    return flow ? flow : 1;
}

int pt_relay_send(struct pt_relay_send *s)
{
    uint8_t envelope[PT_RELAY_ENVELOPE_MAX];
    uint16_t ways[PT_ROUTES_WAYS];
    int rc = PT_CHAN_CLOSED;
    struct pt_relay_table *t = current();
    int n = t ? pt_routes_find(t->routes, s->to.p, s->to.len, ways) : -1;

    if (n <= 0)
        goto out;
    struct course course = {.class = class_of(t, s->class.p, s->class.len), .only = s->only};
    struct pt_relay_envelope e = {
        .hops = s->hops,
        .origin = relay.origin,
        .number = atomic_fetch_add_explicit(&relay.number, 1, memory_order_relaxed) + 1,
        .flow = flow_of(s),
        .name = s->to.p,
        .name_len = s->to.len};
    struct pt_msg *m = s->make(s, envelope, pt_relay_encode(envelope, &e));
    if (!m) {
        rc = -ENOMEM;
        goto out;
    }
    m->kind = PT_ORDER_SENDER;
    m->key = e.flow;
    s->size = m->size;
    rc = by_ways(t, ways, n, &course, m, &s->wait, &s->via, &s->id);
    if (rc == PT_CHAN_SENT) {
        count(PT_RELAY_SENT);
        goto out;
    }
    pt_msg_free(m, &pt_chan_owner_ops);
    if (rc == PT_CHAN_BUSY)
        pt_chan_ref(s->via); /* the table may go */
out:
    unref(t);
    return rc;
}

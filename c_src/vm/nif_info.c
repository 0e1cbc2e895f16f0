/* Inspection. The node lock keeps a listed peer alive (its stop callback unlinks it first); the
 * session lock makes its numbers consistent. Receive-side numbers are those last published. */
#include "vm/chan.h"
#include "vm/loops.h"
#include "vm/nif.h"
#include "vm/peer.h"

#include <string.h>
#include <time.h>

enum {
    MAX_KEYS = 48,
    AT_A_TIME = 16, /* sessions, under the node lock */
};

struct map {
    ErlNifEnv *env;
    unsigned n;
    ERL_NIF_TERM keys[MAX_KEYS], values[MAX_KEYS];
};

static void put(struct map *m, const char *key, ERL_NIF_TERM value)
{
    if (m->n == MAX_KEYS)
        return;
    m->keys[m->n] = enif_make_atom(m->env, key);
    m->values[m->n++] = value;
}

static void put_n(struct map *m, const char *key, uint64_t value)
{
    put(m, key, enif_make_uint64(m->env, value));
}

static void put_b(struct map *m, const char *key, bool value)
{
    put(m, key, enif_make_atom(m->env, value ? "true" : "false"));
}

static void put_s(struct map *m, const char *key, const char *value)
{
    put(m, key, enif_make_string(m->env, value, ERL_NIF_LATIN1));
}

static ERL_NIF_TERM made(struct map *m)
{
    ERL_NIF_TERM out;
    if (!enif_make_map_from_arrays(m->env, m->keys, m->values, m->n, &out))
        return enif_make_badarg(m->env); /* a key twice: a mistake here */
    return out;
}

static ERL_NIF_TERM node_name(ErlNifEnv *env, const struct pt_peer *p)
{
    ERL_NIF_TERM bin, name;
    /* enif_make_atom takes latin1; names are UTF-8, so go through the external format:
     * 131 119 Len Name */
    uint8_t ext[3 + 255];
    size_t len = strlen(p->node);
    if (len <= 255) {
        ext[0] = 131;
        ext[1] = 119;
        ext[2] = (uint8_t)len;
        memcpy(ext + 3, p->node, len);
        if (enif_binary_to_term(env, ext, 3 + len, &name, 0))
            return name;
    }
    memcpy(enif_make_new_binary(env, len, &bin), p->node, len);
    return bin;
}

/* Why bulk takes more lanes than one. */
static const char *spread_name(enum pt_path_why why)
{
    switch (why) {
    case PT_PATH_LOSS: return "loss";
    case PT_PATH_WINDOW: return "window";
    case PT_PATH_ONE_LANE: break;
    }
    return "no";
}

static const char *state_name(enum pt_lane_state s)
{
    switch (s) {
    case PT_LANE_NONE: return "none";
    case PT_LANE_IDLE: return "idle";
    case PT_LANE_SCHED: return "scheduler";
    case PT_LANE_LOOP: return "loop";
    case PT_LANE_DEAD: return "dead";
    }
    return "unknown";
}

static ERL_NIF_TERM tcp_map(ErlNifEnv *env, const struct pt_sock_info *si)
{
    struct map m = {.env = env};
    put_n(&m, "rtt_us", si->rtt_us);
    put_n(&m, "rttvar_us", si->rttvar_us);
    put_n(&m, "cwnd", si->cwnd);
    put_n(&m, "mss", si->mss);
    put_n(&m, "unacked", si->unacked);
    put_n(&m, "retransmits", si->retransmits);
    put_n(&m, "notsent", si->notsent);
    put_n(&m, "bytes_acked", si->bytes_acked);
    put_n(&m, "bytes_received", si->bytes_received);
    put_n(&m, "delivery_rate", si->delivery_rate);
    put_n(&m, "out_queue", si->out_queue);
    put_n(&m, "in_queue", si->in_queue);
    return made(&m);
}

static ERL_NIF_TERM lane_map(ErlNifEnv *env, const struct pt_stream *s, const struct pt_lane *l)
{
    struct map m = {.env = env};
    struct pt_sock_info si;
    put_n(&m, "lane", l->no);
    put(&m, "state", enif_make_atom(env, state_name(l->state)));
    put_n(&m, "bytes_out", l->batch->sent_bytes);
    put_n(&m, "frames_out", l->batch->frames);
    put_n(&m, "sends", l->sends);
    put_n(&m, "queue", l->batch->bytes);
    put_n(&m, "bytes_in", atomic_load(&s->seen.lane[l->no].bytes));
    put_n(&m, "frames_in", atomic_load(&s->seen.lane[l->no].frames));
    put_n(&m, "reads", atomic_load(&s->seen.lane[l->no].reads));
    put_b(&m, "paused", l->tx_paused);
    if (!pt_sock_info(l->fd, &si)) {
        put(&m, "tcp", tcp_map(env, &si));
        put_s(&m, "local", si.local);
        put_s(&m, "remote", si.remote);
    }
    return made(&m);
}

static ERL_NIF_TERM channel_map(ErlNifEnv *env, struct pt_chan *c)
{
    struct map m = {.env = env};
    ERL_NIF_TERM lanes = enif_make_list(env, 0), name;

    memcpy(enif_make_new_binary(env, c->name_len, &name), c->name, c->name_len);
    put(&m, "name", name);
    put_n(&m, "channel", c->no);
    put_n(&m, "lanes_wanted", c->s.lanes_wanted);
    put_b(&m, "monotonic", c->monotonic);
    pthread_mutex_lock(&c->s.lock);
    if (!c->gone) {
        for (unsigned i = PT_LANES_MAX; i-- > 0;)
            if (c->s.lanes[i].batch)
                lanes = enif_make_list_cell(env, lane_map(env, &c->s, &c->s.lanes[i]), lanes);
        put_n(&m, "queue_bytes", c->s.txq.bytes + c->s.waiting_bytes);
        put_n(&m, "queue_messages", c->s.txq.messages + c->s.waiting_messages);
        put_n(&m, "flows", pt_txq_flows(&c->s.txq));
        put_n(&m, "unacked", pt_txq_unacked(&c->s.txq));
        put_n(&m, "unacked_bytes", pt_txq_memory(&c->s.txq));
        put_n(&m, "messages_out", c->s.txq.stats.numbered);
        put_n(&m, "chunks_out", c->s.txq.stats.chunks);
    }
    put(&m, "lanes", lanes);
    put_n(&m, "lanes_attached", c->s.attached);
    put_n(&m, "queue_max", c->s.max_queue);
    put_n(&m, "waiting", c->waiters.count + c->notifies.count);
    put_n(&m, "bytes_out", c->s.sent_bytes);
    put_n(&m, "dropped", c->replaced);
    put_n(&m, "busy_count", c->busy_count);
    put_n(&m, "messages_in", atomic_load(&c->s.seen.delivered));
    put_n(&m, "bytes_in", atomic_load(&c->s.seen.delivered_bytes));
    put_n(&m, "held_messages", atomic_load(&c->s.seen.held_count));
    pthread_mutex_unlock(&c->s.lock);
    return made(&m);
}

static ERL_NIF_TERM session_map(ErlNifEnv *env, struct pt_peer *p)
{
    struct map m = {.env = env};
    ERL_NIF_TERM lanes = enif_make_list(env, 0), channels = lanes;
    ERL_NIF_TERM id;

    memcpy(enif_make_new_binary(env, sizeof p->session_id, &id), p->session_id,
           sizeof p->session_id);
    put(&m, "node", node_name(env, p));
    put(&m, "session_id", id);
    put_n(&m, "lanes_wanted", p->s.lanes_wanted);
    put_n(&m, "max_message", p->max_message);
    pthread_mutex_lock(&p->s.lock);
    for (unsigned i = PT_LANES_MAX; i-- > 0;)
        if (p->s.lanes[i].batch)
            lanes = enif_make_list_cell(env, lane_map(env, &p->s, &p->s.lanes[i]), lanes);
    put(&m, "lanes", lanes);
    put_n(&m, "lanes_attached", p->s.attached);
    put_n(&m, "queue_bytes", p->s.txq.bytes);
    put_n(&m, "queue_messages", p->s.txq.messages);
    put_n(&m, "queue_max", p->s.max_queue);
    put_n(&m, "pool_bytes", p->s.pool.count * (uint64_t)PT_MSG_POOL_BLOCK);
    put_n(&m, "unacked_bytes", pt_txq_memory(&p->s.txq));
    put_n(&m, "transfers_in_room", atomic_load(&p->s.seen.room));
    put_n(&m, "flows", pt_txq_flows(&p->s.txq));
    put_n(&m, "unacked", pt_txq_unacked(&p->s.txq));
    put_n(&m, "speculative_bytes", p->s.txq.speculative);
    put_n(&m, "messages_out", p->s.txq.stats.numbered);
    put_n(&m, "chunks_out", p->s.txq.stats.chunks);
    put_n(&m, "fences", p->s.txq.stats.fences);
    put_n(&m, "blocked", p->s.txq.stats.blocked);
    put_n(&m, "bytes_out", p->s.sent_bytes);
    put_n(&m, "messages_in", atomic_load(&p->s.seen.delivered));
    put_n(&m, "bytes_in", atomic_load(&p->s.seen.delivered_bytes));
    put_n(&m, "watermark", atomic_load(&p->s.seen.watermark));
    put_n(&m, "held_messages", atomic_load(&p->s.seen.held_count));
    put_n(&m, "held_bytes", atomic_load(&p->s.seen.held_bytes));
    put_n(&m, "held_bytes_peak", atomic_load(&p->s.seen.held_peak));
    put_n(&m, "transfers_in", atomic_load(&p->s.seen.transfers));
    put_n(&m, "busy_count", atomic_load(&p->s.seen.busy_count));
    put_b(&m, "busy", atomic_load(&p->s.seen.busy));
    put(&m, "spread", enif_make_atom(env, spread_name(pt_path_spread(&p->s.path, pt_now_ns()))));
    pthread_mutex_unlock(&p->s.lock);
    for (struct pt_list *n = p->chans.next; n != &p->chans; n = n->next)
        channels = enif_make_list_cell(
            env, channel_map(env, PT_CONTAINER_OF(n, struct pt_chan, link)), channels);
    put(&m, "channels", channels);
    return made(&m);
}

/* Node lock. The first peer behind that serial number, or NULL. */
static struct pt_peer *peer_after(uint64_t serial)
{
    for (struct pt_list *n = pt_node.peers.next; n != &pt_node.peers; n = n->next) {
        struct pt_peer *p = PT_CONTAINER_OF(n, struct pt_peer, node_link);
        if (p->serial > serial)
            return p;
    }
    return NULL;
}

/* A session takes some 30 us, most of it system calls, and schedulers take the node lock when
 * connections and channels come and go: they get it between a few sessions. Asleep, since who unlocks a
 * mutex and locks it again at once is quicker than who waits for it. */
ERL_NIF_TERM pt_nif_sessions(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    static const struct timespec pause = {.tv_nsec = 20 * 1000};
    ERL_NIF_TERM list = enif_make_list(env, 0);
    struct pt_peer *p = NULL;
    uint64_t serial = 0;
    (void)argc, (void)argv;
    do {
        if (p)
            (void)nanosleep(&pause, NULL);
        pthread_mutex_lock(&pt_node.lock);
        for (unsigned i = 0; i < AT_A_TIME && (p = peer_after(serial)); i++) {
            list = enif_make_list_cell(env, session_map(env, p), list);
            serial = p->serial;
        }
        pthread_mutex_unlock(&pt_node.lock);
    } while (p);
    return list;
}

ERL_NIF_TERM pt_nif_session(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ERL_NIF_TERM found = enif_make_atom(env, "undefined");
    (void)argc;
    if (!enif_is_atom(env, argv[0]))
        return enif_make_badarg(env);
    pthread_mutex_lock(&pt_node.lock);
    for (struct pt_list *n = pt_node.peers.next; n != &pt_node.peers; n = n->next) {
        struct pt_peer *p = PT_CONTAINER_OF(n, struct pt_peer, node_link);
        if (enif_is_identical(node_name(env, p), argv[0])) {
            found = session_map(env, p);
            break;
        }
    }
    pthread_mutex_unlock(&pt_node.lock);
    return found;
}

static void put_loop_stats(struct map *m, const char *const key[5], const struct pt_loop_stats *st)
{
    put_n(m, key[0], st->submits);
    put_n(m, key[1], st->sends);
    put_n(m, key[2], st->bytes);
    put_n(m, key[3], st->wakes);
    put_n(m, key[4], st->waits);
}

/* One map a loop, and all of them together. */
static void put_loops(struct map *m, const struct pt_loops_info *loops)
{
    static const char *const one[] = {"submits", "sends", "bytes", "wakes", "waits"};
    static const char *const all[] = {"loop_submits", "loop_sends", "loop_bytes", "loop_wakes",
                                      "loop_waits"};
    ERL_NIF_TERM each[PT_LOOPS_MAX];
    struct pt_loop_stats sum = {0};

    for (unsigned i = 0; i < loops->count; i++) {
        const struct pt_loop_stats *st = &loops->loop[i].stats;
        struct map l = {.env = m->env};
        put(&l, "backend", enif_make_atom(m->env, loops->loop[i].backend));
        put_loop_stats(&l, one, st);
        each[i] = made(&l);
        sum.submits += st->submits;
        sum.sends += st->sends;
        sum.bytes += st->bytes;
        sum.wakes += st->wakes;
        sum.waits += st->waits;
    }
    put(m, "loops", enif_make_list_from_array(m->env, each, loops->count));
    if (loops->count)
        put_loop_stats(m, all, &sum);
}

ERL_NIF_TERM pt_nif_info(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct map m = {.env = env};
    struct pt_loops_info loops;
    unsigned sessions = 0;
    uint64_t queued = 0;
    (void)argc, (void)argv;

    pthread_mutex_lock(&pt_node.lock);
    for (struct pt_list *n = pt_node.peers.next; n != &pt_node.peers; n = n->next) {
        struct pt_peer *p = PT_CONTAINER_OF(n, struct pt_peer, node_link);
        pthread_mutex_lock(&p->s.lock);
        queued += pt_stream_pending(&p->s);
        pthread_mutex_unlock(&p->s.lock);
        sessions++;
    }
    pthread_mutex_unlock(&pt_node.lock);
    pt_loops_info(&loops);
    put_s(&m, "backend_reason", loops.reason);
    put_n(&m, "backend_failures", loops.failures);
    put(&m, "backend", enif_make_atom(env, loops.count ? loops.loop[0].backend : "undefined"));
    put_n(&m, "sessions", sessions);
    put_n(&m, "sessions_total", atomic_load(&pt_node.sessions_total));
    put_n(&m, "queue_bytes", queued);
    put_n(&m, "queue_max", pt_node.max_queue);
    put_n(&m, "ram", pt_node.ram);
    put_loops(&m, &loops);
    return made(&m);
}

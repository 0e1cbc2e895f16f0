#include "vm/chan.h"

#include "vm/host.h"
#include "vm/peer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    /* As in tx.c: a channel that was flushed so lately leaves the next flush to the port, which is
     * polled after other senders had their turn, so that their messages leave together. */
    FLUSH_BUSY_NS = 15 * 1000,
    FLUSH_LONE_NS = 3 * 1000,
    /* A monotonic channel keeps this much ready to be sent; what waits behind it can be replaced. */
    MONO_READY = 16 * 1024,
    ROOM_MARGIN = 256 * 1024, /* as pt_peer's: a narrow margin makes short waits */
    /* So much in a lane's batch is sent at once: its room (PT_BATCH_ARENA) should not fill up. */
    PASSED_PLENTY = 32 * 1024,
};

struct waiter {
    ErlNifPid pid;
    ErlNifEnv *env;
    ERL_NIF_TERM message;
};

/* ---- owners ---- */

static void owner_ref(void *owner)
{
    struct pt_chan_owner *o = owner;
    atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed);
}

static void owner_unref(void *owner)
{
    struct pt_chan_owner *o = owner;
    if (atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) == 1) {
        if (o->iov)
            enif_free_iovec(o->iov);
        if (o->bin)
            pt_host_bin_unref(o->bin);
        pt_free(o);
    }
}

struct pt_chan_owner *pt_chan_owner_of(void *bin)
{
    struct pt_chan_owner *o = pt_alloc(sizeof *o);
    if (!o)
        return NULL;
    atomic_init(&o->refs, 1);
    o->iov = NULL;
    o->bin = bin;
    pt_host_bin_ref(bin);
    return o;
}

const struct pt_owner_ops pt_chan_owner_ops = {owner_ref, owner_unref};

/* ---- life ---- */

static void count_waiting(struct pt_chan *c)
{
    c->s.waiting_bytes = c->mono.bytes;
    c->s.waiting_messages = c->mono.messages;
}

static void feed(struct pt_stream *s)
{
    struct pt_chan *c = PT_CONTAINER_OF(s, struct pt_chan, s);
    for (struct pt_msg *m; s->txq.bytes < MONO_READY && (m = pt_mono_first(&c->mono));) {
        pt_mono_shift(&c->mono);
        if (pt_txq_submit(&s->txq, m)) {
            /* No memory for a flow of a hundred bytes. Of what a monotonic channel carries, that
             * this one was replaced is the nearest to the truth. */
            pt_msg_free(m, s->txq.ops);
            c->replaced++;
        }
    }
    count_waiting(c);
}

struct pt_chan *pt_chan_open(struct pt_peer *p, unsigned no, unsigned lanes, unsigned flags,
                             uint64_t max_queue, const char *name, size_t name_len)
{
    struct pt_chan *c = pt_zalloc(sizeof *c);
    if (!c)
        return NULL;
    if (pt_stream_init(&c->s, p)) {
        pt_free(c);
        return NULL;
    }
    atomic_init(&c->refs, 1);
    c->no = no;
    c->name_len = name_len;
    memcpy(c->name, name, name_len);
    c->monotonic = flags & PT_CHAN_MONOTONIC;
    c->relay = flags & PT_CHAN_RELAY;
    pt_mono_init(&c->mono);
    pt_hmap_init(&c->waiters);
    pt_hmap_init(&c->notifies);
    c->next_waiter = 1;
    c->s.mixed = true;
    c->s.auth_sent = true; /* its lanes proved the session's key when they attached */
    c->s.txq.ops = &pt_chan_owner_ops;
    c->s.lanes_wanted = lanes;
    c->s.feed = c->monotonic ? feed : NULL;
    c->s.max_queue = (size_t)max_queue;
    c->s.low_queue = c->s.max_queue - PT_MIN(c->s.max_queue / 4, (size_t)ROOM_MARGIN);
    c->s.rx.auth = NULL;
    /* Only the nodes' names are referred to. The VM gets the packets of all streams from this port, in
     * one order: what it was told is one table. */
    c->s.rx.atom_cache = p->channel_names && !c->relay;
    c->s.rx.told = &p->s.rx.atoms;
    c->s.rx.max_message = p->max_message;
    c->s.rx.max_room = p->s.rx.max_room;
    pthread_mutex_lock(&pt_node.lock);
    pt_list_push(&p->chans, &c->link);
    pthread_mutex_unlock(&pt_node.lock);
    return c;
}

struct pt_chan *pt_chan_find(struct pt_peer *p, unsigned no)
{
    for (struct pt_list *n = p->chans.next; n != &p->chans; n = n->next) {
        struct pt_chan *c = PT_CONTAINER_OF(n, struct pt_chan, link);
        if (c->no == no)
            return c;
    }
    return NULL;
}

void pt_chan_lane_name(const struct pt_lane *l, char *out, size_t len)
{
    const struct pt_chan *c = pt_chan_of(l);
    snprintf(out, len, "lane %u of channel %.*s", l->no, (int)c->name_len, c->name);
}

struct pt_chan *pt_chan_ref(struct pt_chan *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void pt_chan_unref(struct pt_chan *c)
{
    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1) {
        pt_names_free(&c->names);
        pt_stream_free(&c->s);
        pt_free(c);
    }
}

void pt_chan_set_names(struct pt_chan *c, const struct pt_name *mine, const struct pt_name *theirs)
{
    pthread_mutex_lock(&c->s.lock);
    if (!c->named && !c->gone && c->s.peer->channel_names) /* gone: so may the peer be */
        (void)pt_names_set(&c->names, mine, theirs);       /* no memory: they stay texts */
    c->named = true;
    pthread_mutex_unlock(&c->s.lock);
}

bool pt_chan_is_open(struct pt_chan *c)
{
    pthread_mutex_lock(&c->s.lock);
    bool is = !c->gone && !c->stopped;
    pthread_mutex_unlock(&c->s.lock);
    return is;
}

/* ---- who waits ---- */

static void tell(struct waiter *w)
{
    /* no environment of a caller: this is a callback of the port, not a NIF call */
    (void)enif_send(NULL, &w->pid, w->env, w->message);
    enif_free_env(w->env);
    pt_free(w);
}

static void tell_all(struct pt_hmap *m)
{
    size_t pos = 0;
    for (struct waiter *w; (w = pt_hmap_next(m, &pos));)
        tell(w);
    pt_hmap_free(m);
    pt_hmap_init(m);
}

static bool somebody_waits(const struct pt_chan *c)
{
    return c->waiters.count || c->notifies.count;
}

/* Registers the wait. Under the lock that found the channel full, so the wake-up cannot be missed. */
static int enter(struct pt_chan *c, const struct pt_chan_wait *wait, uint64_t *id)
{
    struct pt_hmap *map = wait->kind == PT_CHAN_NOTIFY ? &c->notifies : &c->waiters;
    *id = wait->kind == PT_CHAN_NOTIFY ? wait->key : c->next_waiter;
    if (pt_hmap_get(map, *id))
        return 0; /* asked to be notified already */
    struct waiter *w = pt_alloc(sizeof *w);
    ErlNifEnv *env = enif_alloc_env();
    if (!w || !env)
        goto no_memory;
    *w = (struct waiter){wait->pid, env, enif_make_copy(env, wait->message)};
    if (pt_hmap_put(map, *id, w))
        goto no_memory;
    c->next_waiter++;
    c->s.wake_below = !c->draining;
    return 0;
no_memory:
    if (env)
        enif_free_env(env);
    pt_free(w);
    return -ENOMEM;
}

void pt_chan_cancel(struct pt_chan *c, uint64_t id)
{
    pthread_mutex_lock(&c->s.lock);
    struct waiter *w = id ? pt_hmap_del(&c->waiters, id) : NULL;
    pthread_mutex_unlock(&c->s.lock);
    if (w) {
        enif_free_env(w->env);
        pt_free(w);
    }
}

void pt_chan_close(struct pt_chan *c)
{
    pthread_mutex_lock(&pt_node.lock);
    pt_list_del(&c->link);
    pthread_mutex_unlock(&pt_node.lock);
    pthread_mutex_lock(&c->s.lock);
    c->gone = true; /* from now on no sender touches the stream */
    pthread_mutex_unlock(&c->s.lock);
    pt_stream_reclaim(&c->s);
    pt_stream_close_lanes(&c->s);
    pthread_mutex_lock(&c->s.lock);
    tell_all(&c->waiters);
    tell_all(&c->notifies);
    pt_mono_free(&c->mono, c->s.txq.ops);
    pt_stream_clear(&c->s);
    pthread_mutex_unlock(&c->s.lock);
    pt_chan_unref(c);
}

/* Who waits for a channel that drains does not keep it from being closed: that is what they wait for. */
static bool is_quiet(const struct pt_chan *c)
{
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (c->s.lanes[i].state != PT_LANE_IDLE && c->s.lanes[i].state != PT_LANE_NONE)
            return false;
    return !c->s.txq.messages && !c->s.waiting_messages && !pt_stream_pending(&c->s) &&
           (c->draining || !somebody_waits(c)) && !c->gone;
}

static bool has_room(const struct pt_chan *c) { return !c->draining && pt_stream_is_low(&c->s); }

bool pt_chan_stop(struct pt_chan *c, enum pt_chan_stop how)
{
    bool may = true;
    pthread_mutex_lock(&c->s.lock);
    switch (how) {
    case PT_CHAN_STOP:
        may = is_quiet(c);
        if (may)
            c->stopped = c->s.closing = true; /* not even an ACK into a socket that may be closed */
        break;
    case PT_CHAN_DRAIN:
        may = !c->relay;
        c->draining = may;
        break;
    case PT_CHAN_GO_ON:
        c->stopped = c->s.closing = c->draining = false;
        tell_all(&c->waiters);
        tell_all(&c->notifies);
        break;
    }
    pthread_mutex_unlock(&c->s.lock);
    return may;
}

void pt_chan_finish(struct pt_chan *c)
{
    pthread_mutex_lock(&c->s.lock);
    c->stopped = true;
    c->s.wake_on_drain = true;
    tell_all(&c->waiters);
    tell_all(&c->notifies);
    pthread_mutex_unlock(&c->s.lock);
}

bool pt_chan_may_end(const struct pt_lane *l)
{
    if (l->stream == &l->stream->peer->s)
        return false;
    struct pt_chan *c = pt_chan_of(l);
    pthread_mutex_lock(&c->s.lock);
    bool may = c->stopped;
    pthread_mutex_unlock(&c->s.lock);
    return may;
}

int pt_chan_look(struct pt_chan *c)
{
    pthread_mutex_lock(&c->s.lock);
    c->flushed_at = pt_now_ns();
    c->flush_carried = c->since_flush;
    c->since_flush = 0;
    int rc = pt_stream_send(&c->s, 0);
    if (somebody_waits(c) && has_room(c)) {
        c->s.wake_below = false;
        tell_all(&c->waiters);
        tell_all(&c->notifies);
    }
    pthread_mutex_unlock(&c->s.lock);
    return rc;
}

/* ---- sending ---- */

static int queue(struct pt_chan *c, struct pt_msg *m, const uint8_t *key, size_t key_len)
{
    struct pt_msg *old;
    if (!c->monotonic)
        return pt_txq_submit(&c->s.txq, m);
    int rc = pt_mono_put(&c->mono, key, key_len, m, &old);
    if (rc < 0)
        return rc;
    if (rc) {
        c->replaced++;
        pt_msg_free(old, c->s.txq.ops);
    }
    feed(&c->s);
    return 0;
}

/* Past the queue, straight into a batch: into one that others add to already, if there is. */
static bool pass(struct pt_chan *c, const struct pt_small *m, uint32_t lane_hash)
{
    struct pt_stream *s = &c->s;
    unsigned lane = s->passed ? (unsigned)__builtin_ctz(s->passed) : lane_hash % s->lanes_wanted;
    struct pt_batch *b = pt_stream_batch(s, lane);
    if (!b || !pt_batch_pass(b, &s->txq, &c->names.table, m))
        return false;
    s->passed |= 1u << lane;
    return true;
}

static int queue_small(struct pt_chan *c, const struct pt_small *small, unsigned refs)
{
    struct iovec iov = {(void *)(uintptr_t)small->bytes, small->len};
    void *nobody = NULL;
    struct pt_source src = {
        .iov = &iov, .owners = &nobody, .count = 1, .atoms = c->names.ref, .natoms = refs};
    struct pt_msg *m = pt_msg_new_in(&c->s.pool, &src, c->s.txq.ops);
    if (!m)
        return -ENOMEM;
    m->bare = true;
    m->kind = PT_ORDER_SENDER;
    m->key = small->key;
    int rc = pt_txq_submit(&c->s.txq, m);
    if (rc)
        pt_msg_free(m, c->s.txq.ops);
    return rc;
}

static bool plenty(const struct pt_stream *s)
{
    return s->passed && s->lanes[__builtin_ctz(s->passed)].batch->bytes >= PASSED_PLENTY;
}

/* Here and now, or a moment later by the port, with what other senders are about to say. */
static void flush(struct pt_chan *c, uint32_t lane_hash)
{
    struct pt_stream *s = &c->s;
    uint64_t now = pt_now_ns();
    uint64_t since = now - c->flushed_at;

    if (!plenty(s) && (since < FLUSH_LONE_NS || (since < FLUSH_BUSY_NS && c->flush_carried > 1))) {
        pt_stream_due(s);
        return;
    }
    c->flushed_at = now;
    c->flush_carried = c->since_flush;
    c->since_flush = 0;
    /* an error is kept in the stream, and the port looks at it */
    if (pt_stream_send(s, lane_hash % s->lanes_wanted) || (somebody_waits(c) && has_room(c)))
        pt_stream_due(s);
}

int pt_chan_send(struct pt_chan *c, struct pt_msg *m, uint32_t lane_hash, const uint8_t *key,
                 size_t key_len, const struct pt_chan_wait *wait, uint64_t *id)
{
    int rc;
    pthread_mutex_lock(&c->s.lock);
    if (c->gone || c->stopped) {
        rc = PT_CHAN_CLOSED;
    } else if (c->draining || pt_stream_is_full(&c->s)) {
        c->busy_count++;
        rc = wait->kind == PT_CHAN_NO_WAIT ? 0 : enter(c, wait, id);
        rc = rc ? rc : PT_CHAN_BUSY;
    } else {
        rc = queue(c, m, key, key_len);
        if (!rc) {
            c->since_flush++;
            pt_cap_account(&c->s);
            flush(c, lane_hash);
        }
    }
    pthread_mutex_unlock(&c->s.lock);
    return rc;
}

int pt_chan_send_small(struct pt_chan *c, const struct pt_small *m, unsigned refs,
                       uint32_t lane_hash)
{
    int rc = 0;
    pthread_mutex_lock(&c->s.lock);
    if (c->gone || c->stopped) {
        rc = PT_CHAN_CLOSED;
    } else if (c->draining || pt_stream_is_full(&c->s)) {
        c->busy_count++;
        rc = PT_CHAN_BUSY;
    } else {
        if (!pass(c, m, lane_hash)) {
            rc = queue_small(c, m, refs);
            pt_cap_account(&c->s);
        }
        if (!rc) {
            c->since_flush++;
            flush(c, lane_hash);
        }
    }
    pthread_mutex_unlock(&c->s.lock);
    return rc;
}

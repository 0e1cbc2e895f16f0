/* From a stream's transmit queue to its sockets: filling lanes, sending on a scheduler or on the
 * loop thread. */
#include "vm/host.h"
#include "vm/loops.h"
#include "vm/peer.h"

#include <errno.h>
#include <string.h>

enum {
    FLUSH_ROUNDS = 16,         /* over the lanes, in one flush */
    SCHED_SMALL = 1024 * 1024, /* bytes a scheduler sends on a lane in one flush */
    SCHED_MIXED =
        PT_BATCH_BULK, /* the same on a lane of a channel, where the flush is in a NIF call */
    /* A longer queue of bulk goes to the loop at once. Below, sending it here costs no hand-over; on two
     * cores the loop is one thread more than they can run (docs/performance.md). */
    SCHED_BULK = 16 * 1024 * 1024,
    SCHED_BULK_DONE =
        PT_BATCH_BULK,  /* others wait for the port meanwhile (4 MB: half a millisecond) */
    ACK_PIGGYBACK = 16, /* deliveries worth an ACK frame beside data */
    /* What leaves in 20 ms may lie in a bulk lane's socket. BBR, 1 Gbit/s, 20 ms, 0.1 % loss, one lane:
     * 0.86 of inet_tcp with 128 KB or with 5 ms, 1.00 with 20 ms. */
    LOWAT_PER_S = 50,
    LOWAT_MAX = 4 * 1024 * 1024,
};
/* From one wish for the missing lanes to the next, as long as they do not come and are wanted. */
static const uint64_t MORE_LANES_NS = 5 * 1000000000ull;

static size_t messages(const struct pt_stream *s) { return s->txq.messages + s->waiting_messages; }

/* More than `count` messages are queued, or more than `limit` bytes and hardly more than small ones are. */
static bool too_many(const struct pt_stream *s, size_t count, size_t limit)
{
    size_t bytes = pt_stream_queued(s), n = messages(s);
    return n > count || (bytes > limit && !s->mixed && bytes / PT_QUEUE_SMALL_MEAN < n);
}

bool pt_stream_is_full(const struct pt_stream *s)
{
    bool many = s->mixed || s->flooded ? too_many(s, PT_QUEUE_MESSAGES, PT_QUEUE_SMALL)
                                       : too_many(s, PT_QUEUE_SURGE_MESSAGES, PT_QUEUE_SURGE_SMALL);
    return many || pt_stream_queued(s) > s->max_queue || pt_cap_full(s);
}

bool pt_stream_is_low(const struct pt_stream *s)
{
    return pt_stream_queued(s) <= s->low_queue &&
           !too_many(s, PT_QUEUE_MESSAGES_LOW, PT_QUEUE_SMALL_LOW) && pt_cap_low(s);
}

size_t pt_stream_pending(const struct pt_stream *s)
{
    size_t n = s->txq.bytes + s->waiting_bytes;
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (s->lanes[i].batch)
            n += s->lanes[i].batch->bytes;
    return n;
}

size_t pt_stream_to_send(const struct pt_stream *s)
{
    return pt_stream_pending(s) - pt_txq_unfinished(&s->txq);
}

void pt_stream_due(struct pt_stream *s)
{
    atomic_store(&s->due, true);
    pt_peer_wake(s->peer);
}

/* ---- filling a lane; stream lock held ---- */

/* The lane for bulk: the first beside lane 0 that is there. Not always lane 1: the lanes attach in
 * any order, and one may be missing for good. */
static unsigned bulk_lane(const struct pt_stream *s)
{
    unsigned no = 1;
    while (no < PT_LANES_MAX - 1 && s->lanes[no].state == PT_LANE_NONE)
        no++;
    return no;
}

bool pt_stream_plenty(const struct pt_stream *s)
{
    if (s->txq.bytes < PT_BATCH_BYTES)
        return false;
    const struct pt_lane *l = &s->lanes[s->attached == 1 ? 0 : bulk_lane(s)];
    return l->state == PT_LANE_IDLE && !l->tx_paused && pt_txq_has(&s->txq, PT_WANT_BULK);
}

/* With one lane it carries everything. With more, lane 0 is kept for small messages, so that no
 * bulk byte lies before them in a socket buffer; one lane takes bulk, and the others help it only
 * where it alone cannot fill the path (proto/path.h, docs/performance.md). */
static unsigned wants(const struct pt_stream *s, const struct pt_lane *l)
{
    if (s->mixed || s->attached == 1 || (pt_txq_called(&s->txq) & 1u << l->no))
        return PT_WANT_SMALL | PT_WANT_BULK;
    return l->no == 0 ? PT_WANT_SMALL : PT_WANT_BULK;
}

static bool used(const struct pt_stream *s, const struct pt_lane *l, uint64_t now)
{
    return s->mixed || l->no <= bulk_lane(s) || pt_path_spread(&s->path, now) || l->batch->bytes ||
           (pt_txq_called(&s->txq) & 1u << l->no);
}

/* What left by one lane can set free what another must take: a full fence on its way lets pass what
 * waited behind it, small messages and bulk. Nobody else would look at a lane that is idle. */
static bool idle_lane_has_work(const struct pt_stream *s, uint64_t now)
{
    for (unsigned i = 0; i < s->lanes_wanted; i++) {
        const struct pt_lane *l = &s->lanes[i];
        if (l->state == PT_LANE_IDLE && !l->tx_paused && used(s, l, now) &&
            (pt_txq_has(&s->txq, wants(s, l)) || (pt_txq_called(&s->txq) & 1u << i)))
            return true;
    }
    return false;
}

/* Into an empty batch, which has room for them all. data: messages will follow. 0 or -ENOMEM. */
static int control(struct pt_stream *s, struct pt_lane *l, bool data)
{
    struct pt_frame f = {0};
    if (l->no == 0 && !s->auth_sent) {
        f = (struct pt_frame){.type = PT_FRAME_AUTH, .auth = s->peer->my_auth};
        if (!pt_batch_control(l->batch, &f))
            return -ENOMEM;
        s->auth_sent = true;
    }
    if (s->tick) {
        f = (struct pt_frame){.type = PT_FRAME_TICK};
        if (!pt_batch_control(l->batch, &f))
            return -ENOMEM;
        s->tick = false;
    }
    uint64_t watermark = atomic_load_explicit(&s->seen.watermark, memory_order_relaxed);
    uint64_t news = watermark - s->ack_sent;
    if (news && (s->ack_now || (news >= ACK_PIGGYBACK && data))) {
        f = (struct pt_frame){.type = PT_FRAME_ACK, .after = watermark};
        if (!pt_batch_control(l->batch, &f))
            return -ENOMEM;
        s->ack_sent = watermark;
        s->ack_now = false;
    }
    return 0;
}

/* Fills an empty batch. 0 or an error. */
static int fill(struct pt_stream *s, struct pt_lane *l)
{
    if (l->batch->bytes || l->tx_paused || s->closing)
        return 0;
    if (!s->auth_sent && l->no)
        return 0; /* the peer reads the other lanes only after AUTH */
    int rc = control(s, l, !pt_txq_idle(&s->txq));
    if (!rc)
        rc = pt_batch_fill(l->batch, &s->txq, wants(s, l),
                           s->mixed || !l->no ? PT_CHUNK_SHARED : PT_CHUNK_BULK);
    pt_cap_account(s);
    if (!rc && s->feed)
        s->feed(s);
    return rc;
}

struct pt_batch *pt_stream_batch(struct pt_stream *s, unsigned lane)
{
    struct pt_lane *l = &s->lanes[lane];
    if (l->state != PT_LANE_IDLE || l->tx_paused || s->closing || !s->auth_sent ||
        (!l->batch->bytes && control(s, l, true)))
        return NULL;
    return l->batch;
}

static void aim(struct pt_lane *l)
{
    struct pt_batch *b = l->batch;
    memset(&l->tx.msg, 0, sizeof l->tx.msg);
    l->tx.msg.msg_iov = &b->room->iov[b->first];
    l->tx.msg.msg_iovlen = b->count - b->first;
}

static void sent(struct pt_stream *s, struct pt_lane *l, size_t n)
{
    pt_batch_sent(l->batch, n, s->txq.ops);
    l->sends++;
    s->sent_bytes += n;
}

static void lane_failed(struct pt_stream *s, struct pt_lane *l, int err)
{
    l->state = PT_LANE_DEAD;
    if (!s->error)
        s->error = err;
    pthread_cond_broadcast(&s->released);
}

/* ---- the path; stream lock held ---- */

static void want_lowat(struct pt_lane *l, uint64_t need)
{
    unsigned least =
        pt_node.sock.notsent_lowat ? pt_node.sock.notsent_lowat : PT_SOCK_NOTSENT_LOWAT_DEFAULT;
    unsigned want = (unsigned)PT_MAX((uint64_t)least, PT_MIN(need, (uint64_t)LOWAT_MAX));
    unsigned change = want > l->lowat ? want - l->lowat : l->lowat - want;

    if (change > l->lowat / 4 && !pt_sock_set_notsent_lowat(l->fd, want))
        l->lowat = want;
}

/* On a long path the socket has to hold what leaves until this program gets to it again, which on a busy
 * machine takes milliseconds; BBR takes a gap for a slow sender. Lane 0 keeps what is configured, so that
 * no small message lies behind much, but where it is the only lane: there small messages take their
 * time anyway, and a single lane is to carry what a plain connection would. A short path's socket is
 * refilled in time, and more in it only leaves the cache: with what leaves in half a millisecond 16
 * senders of 8 MB on loopback fell from 1.3 to 1.0 of inet_tcp. */
static void adapt_lowat(struct pt_lane *l, const struct pt_sock_flow *flow)
{
    bool far = flow->min_rtt_us >= PT_PATH_LONG_US;
    want_lowat(l, far ? flow->delivery_rate / LOWAT_PER_S : 0);
}

/* One wish for all lanes that are not there. */
static void want_lanes(struct pt_stream *s, uint64_t now)
{
    if (s->attached < s->lanes_wanted && now - s->lanes_asked >= MORE_LANES_NS) {
        s->lanes_asked = now;
        s->more_lanes = true;
    }
}

/* While bulk is queued: what the kernel knows of the lanes that carry it, now and then. */
static void look_at_path(struct pt_stream *s, uint64_t now)
{
    if (s->mixed || !pt_path_due(&s->path, now) || !pt_txq_has(&s->txq, PT_WANT_BULK))
        return;
    s->path.next_look = now + PT_PATH_LOOK_NS; /* also where the kernel tells nothing */
    unsigned bulk = s->attached == 1 ? 0 : bulk_lane(s);
    if (bulk && s->lanes[0].state != PT_LANE_NONE)
        want_lowat(&s->lanes[0], 0); /* it may have been the only one */
    for (unsigned i = bulk; i < s->lanes_wanted; i++) {
        struct pt_lane *l = &s->lanes[i];
        struct pt_sock_flow flow;
        if (l->state == PT_LANE_NONE || !used(s, l, now) || pt_sock_flow(l->fd, &flow))
            continue;
        adapt_lowat(l, &flow);
        struct pt_path_sample sample = {
            .lost = flow.lost,
            .min_rtt_us = flow.min_rtt_us,
            .rtt_us = flow.rtt_us,
            .in_flight = flow.in_flight,
            .not_sent = flow.not_sent,
            .queued = flow.queued,
            .buffer = flow.buffer,
            .peer_window = flow.peer_window,
        };
        if (i == bulk && pt_path_look(&s->path, &l->path, &sample, now))
            want_lanes(s, now);
    }
}

/* ---- a scheduler ---- */

static bool for_the_loop(const struct pt_stream *s, const struct pt_lane *l, size_t done)
{
    if (s->mixed)
        return done >= SCHED_MIXED;
    if (l->no)
        return done >= SCHED_BULK_DONE || s->txq.bytes + l->batch->bytes > SCHED_BULK;
    return done >= SCHED_SMALL;
}

/* Stream lock held on entry and exit, released around sendmsg(). */
static int send_lane(struct pt_stream *s, struct pt_lane *l)
{
    size_t done = 0;
    int rc = 0;
    bool hand_over = false;

    if (!l->tx_paused && !s->closing)
        s->passed &= ~(1u << l->no);
    while (l->state == PT_LANE_IDLE && !l->tx_paused && !s->closing && !(rc = fill(s, l)) &&
           l->batch->bytes) {
        size_t want = l->batch->bytes;
        if (for_the_loop(s, l, done)) {
            hand_over = true;
            break;
        }
        aim(l);
        l->state = PT_LANE_SCHED;
        pthread_mutex_unlock(&s->lock);
        ssize_t n = sendmsg(l->fd, &l->tx.msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        int err = n < 0 ? errno : 0;
        pthread_mutex_lock(&s->lock);
        l->state = PT_LANE_IDLE;
        if (s->closing)
            pthread_cond_broadcast(&s->released);
        if (n > 0) {
            sent(s, l, (size_t)n);
            done += (size_t)n;
            if (pt_txq_idle(&s->txq) && !l->batch->bytes && !s->ack_now && !s->tick)
                break;
        }
        if (err && err != EAGAIN && err != EINTR) {
            lane_failed(s, l, -err);
            rc = -err;
        } else if (err != EINTR && (n < 0 || (size_t)n < want)) {
            hand_over = true;
            break;
        }
    }
    struct pt_loop *loop = hand_over && !s->closing ? pt_loops_of(s->first_loop + l->no) : NULL;
    if (loop) {
        l->state = PT_LANE_LOOP;
        pt_loop_submit(loop, &l->tx);
    }
    return rc;
}

/* Nothing is left for any lane. One with a rest in its batch has somebody to send it, unless the test
 * hook ever stopped a lane half-way. */
static bool all_sent(const struct pt_stream *s)
{
    return pt_txq_idle(&s->txq) && !pt_txq_called(&s->txq) && !s->ack_now && !s->tick &&
           !s->passed && !s->disturbed;
}

int pt_stream_send(struct pt_stream *s, unsigned first)
{
    int rc = 0;
    uint64_t now = 0;

    if (!s->mixed) {
        now = pt_now_ns();
        look_at_path(s, now);
    }
    for (unsigned round = 0; round < FLUSH_ROUNDS; round++) {
        uint64_t before = s->sent_bytes;
        for (unsigned i = 0; !rc && i < s->lanes_wanted; i++) {
            struct pt_lane *l = &s->lanes[(first + i) % s->lanes_wanted];
            if (l->state == PT_LANE_IDLE && used(s, l, now))
                rc = send_lane(s, l);
            if (rc || all_sent(s))
                return rc;
        }
        if (rc || s->sent_bytes == before || !idle_lane_has_work(s, now))
            break;
        if (round + 1 == FLUSH_ROUNDS) /* others want the port, too */
            pt_stream_due(s);
    }
    return rc;
}

/* A lane with an empty batch: whoever owns it finds `closing` set and sends no more. Not on one that
 * was paused by a test, nor before AUTH. */
void pt_stream_say_end(struct pt_stream *s, uint64_t streams)
{
    uint8_t out[PT_FRAME_HEAD_MAX];
    struct pt_frame f = {.type = PT_FRAME_END, .after = s->txq.next_number - 1, .room = streams};

    for (unsigned i = 0; s->auth_sent && i < s->lanes_wanted; i++) {
        struct pt_lane *l = &s->lanes[i];
        if (!l->batch || l->batch->bytes || l->state == PT_LANE_DEAD || l->tx_paused)
            continue;
        size_t n = pt_frame_encode(out, &f, &l->batch->ctx);
        /* Cut short it is followed by FIN, and that is an end, too. */
        ssize_t took = send(l->fd, out, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (took > 0)
            return;
    }
}

/* ---- the loop thread ---- */

size_t pt_send_loop_fill(struct pt_tx *tx)
{
    struct pt_lane *l = PT_CONTAINER_OF(tx, struct pt_lane, tx);
    struct pt_stream *s = l->stream;
    bool wake = false;
    size_t n = 0;

    pthread_mutex_lock(&s->lock);
    uint64_t now = s->mixed ? 0 : pt_now_ns();
    look_at_path(s, now);
    int rc = fill(s, l);
    if (rc < 0) {
        lane_failed(s, l, rc);
        wake = true;
    } else if (s->closing || l->tx_paused || !l->batch->bytes) {
        l->state = PT_LANE_IDLE;
        wake = s->wake_on_drain && !s->closing;
        pthread_cond_broadcast(&s->released);
    } else {
        aim(l);
        n = l->batch->bytes;
    }
    wake = wake || (s->wake_below && pt_stream_is_low(s));
    wake = wake || s->more_lanes || (n && idle_lane_has_work(s, now));
    if (wake) /* under the lock: a closing port waits for it before the descriptor goes */
        pt_stream_due(s);
    pthread_mutex_unlock(&s->lock);
    return n;
}

void pt_send_loop_done(struct pt_tx *tx, ssize_t n)
{
    struct pt_lane *l = PT_CONTAINER_OF(tx, struct pt_lane, tx);
    struct pt_stream *s = l->stream;

    pthread_mutex_lock(&s->lock);
    if (n > 0) {
        sent(s, l, (size_t)n);
    } else {
        lane_failed(s, l, (int)n);
        pt_stream_due(s);
    }
    pthread_mutex_unlock(&s->lock);
}

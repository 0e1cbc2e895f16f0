/* From the VM's packets to the sockets.
 *
 * outputv only queues. An idle connection is flushed by a zero timer, which runs in the same port
 * task after the whole batch of packets; a busy one (flushed less than FLUSH_BUSY_NS ago) by its
 * wake descriptor, so that the packets other processes are about to send leave with it. The
 * scheduler sends while the socket takes everything; what it does not take, and bulk, goes to the
 * loop thread, which owns that lane until its queue is empty. */
#include "vm/peer.h"

#include "vm/host.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

enum {
    FLUSH_BUSY_NS = 15 * 1000,
    FLUSH_LONE_NS = 3 * 1000,  /* the same if the last flush carried one packet only */
    FLUSH_ROUNDS = 16,         /* over the lanes, in one flush */
    SCHED_SMALL = 1024 * 1024, /* bytes a scheduler sends on a lane in one flush */
    SCHED_BULK = 128 * 1024,   /* a longer queue of bulk goes to the loop at once */
    ACK_PIGGYBACK = 16,        /* deliveries worth an ACK frame beside data */
    SCAN = 1024, /* bytes looked at: all of nearly every header and control tuple; one whose
                    sender lies behind is fenced */
    /* Messages in the queue before the port is busy, whatever their size. inet_tcp's senders are
     * suspended with +zdbbl bytes, 1 MB, of them under way, some 8000 of 64 bytes; so are ours, with
     * this many more. A deeper queue of small messages buys no isolation, since it is they that are
     * queued, and costs the cache: one grown to 100 MB is read from memory when it is sent. */
    QUEUE_MESSAGES = 8192,
    QUEUE_MESSAGES_LOW = 7168,
};
static const uint64_t LOSSY_LOOK_NS = 20 * 1000000ull;
static const uint64_t LOSSY_AGAIN_NS = 2 * 1000000000ull;
static const uint64_t LOSSY_HOLD_NS = 10 * 1000000000ull;

/* ---- from the VM ---- */

/* The front of a packet in one piece; n bytes of it. */
static void gather(const ErlIOVec *ev, uint8_t *out, size_t n)
{
    for (size_t i = 0, at = 0; at < n; i++) {
        size_t part = PT_MIN(ev->iov[i].iov_len, n - at);
        if (part)
            memcpy(out + at, ev->iov[i].iov_base, part);
        at += part;
    }
}

/* Resolves the packet's atom references, in the order the VM made them. */
static int read_atoms(struct pt_peer *p, const uint8_t *front, size_t n, const struct pt_packet *pk,
                      struct pt_atom_refs *refs)
{
    refs->count = 0;
    if (!pk->atoms)
        return 0;
    int rc = pt_atoms_read(front + pk->atoms_at, n - pk->atoms_at, &p->vm_atoms, refs);
    return rc > 0 ? 0 : rc;
}

static int submit_whole(struct pt_peer *p, const struct pt_packet *pk, struct pt_source *src,
                        const struct pt_atom_refs *refs, size_t size)
{
    struct pt_msg *m;
    bool bare = pk->form == PT_FORM_WHOLE && size - pk->header_len <= PT_FRAME_SINGLE_MAX &&
                pt_atoms_size(refs->ref, refs->count) <= PT_ATOM_SECTION_MAX;
    if (bare) {
        src->skip = pk->header_len;
        src->atoms = refs->ref;
        src->natoms = refs->count;
        m = pt_msg_new_in(&p->pool, src, &pt_host_owner_ops);
    } else if (pk->form == PT_FORM_WHOLE) {
        m = pt_join_whole(src, pk, refs);
    } else {
        m = pt_msg_new(src, &pt_host_owner_ops);
    }
    if (!m)
        return -ENOMEM;
    m->bare = bare;
    m->kind = (uint8_t)pk->order;
    m->key = pk->key;
    int rc = pt_txq_submit(&p->txq, m);
    if (rc)
        pt_msg_free(m, &pt_host_owner_ops);
    return rc;
}

static int take_packet(struct pt_peer *p, ErlIOVec *ev, const struct pt_packet *pk,
                       const uint8_t *front, size_t n)
{
    struct pt_source src = {.iov = (const struct iovec *)ev->iov,
                            .owners = (void *const *)ev->binv,
                            .count = (size_t)ev->vsize};
    struct pt_atom_refs refs;

    pthread_mutex_lock(&p->lock);
    int rc = read_atoms(p, front, n, pk, &refs);
    struct pt_packet other = {.form = PT_FORM_OTHER, .order = PT_ORDER_FENCE};
    if (rc && rc != -ENOMEM) { /* not the VM's: the peer's VM shall judge it */
        refs.count = 0;
        pk = &other;
        rc = 0;
    }
    if (!rc && (pk->form == PT_FORM_FRAG_FIRST || pk->form == PT_FORM_FRAG_NEXT))
        rc = pt_join_packet(p, pk, &src, &refs);
    else if (!rc)
        rc = submit_whole(p, pk, &src, &refs, (size_t)ev->size);
    bool full = p->txq.bytes > p->max_queue || p->txq.messages > QUEUE_MESSAGES;
    if (full)
        p->wake_below = true;
    pthread_mutex_unlock(&p->lock);
    if (!rc && full && !p->busy) {
        p->busy = true;
        p->busy_count++;
        set_busy_port(p->port, 1);
    }
    return rc;
}

/* More new atoms than usual. All of the section is looked at, whatever its length: a packet that
 * went on with references unread would name other atoms at the peer. */
static int long_header(struct pt_peer *p, ErlIOVec *ev)
{
    struct pt_packet pk;
    size_t size = (size_t)ev->size;

    for (size_t n = 8 * SCAN;; n *= 8) {
        n = PT_MIN(n, size);
        uint8_t *front = pt_alloc(n);
        if (!front)
            return -ENOMEM;
        gather(ev, front, n);
        pt_packet_scan(front, n, size, &pk);
        bool enough = !pk.cut || n == size;
        int rc = enough ? take_packet(p, ev, &pk, front, n) : 0;
        pt_free(front);
        if (enough)
            return rc;
    }
}

int pt_tx_output(struct pt_peer *p, ErlIOVec *ev)
{
    struct pt_packet pk;
    uint8_t front[SCAN];
    size_t size = (size_t)ev->size;
    size_t n = PT_MIN(size, (size_t)SCAN);

    p->packets_out++;
    if (!n) {
        pthread_mutex_lock(&p->lock);
        p->tick = true;
        pthread_mutex_unlock(&p->lock);
        return 0;
    }
    gather(ev, front, n);
    pt_packet_scan(front, n, size, &pk);
    if (PT_LIKELY(!pk.cut || n == size))
        return take_packet(p, ev, &pk, front, n);
    return long_header(p, ev);
}

static bool is_low(const struct pt_peer *p)
{
    return p->txq.bytes <= p->low_queue && p->txq.messages <= QUEUE_MESSAGES_LOW;
}

void pt_tx_unbusy(struct pt_peer *p)
{
    if (!p->busy)
        return;
    pthread_mutex_lock(&p->lock);
    bool low = is_low(p);
    p->wake_below = !low;
    pthread_mutex_unlock(&p->lock);
    if (low) {
        p->busy = false;
        set_busy_port(p->port, 0);
    }
}

static bool scheduled(const struct pt_peer *p)
{
    return p->flush_timer || !p->started ||
           atomic_load_explicit(&p->wake_pending, memory_order_relaxed);
}

/* Has the last flush been so lately that more is likely to come at once? Two that carried a single
 * packet and lie a round trip apart are a lone client's, who gains nothing from waiting. */
static bool busy_sending(const struct pt_peer *p)
{
    uint64_t since = pt_now_ns() - p->flushed_at;
    return since < FLUSH_LONE_NS || (since < FLUSH_BUSY_NS && p->flush_carried > 1);
}

static void soon(struct pt_peer *p, bool busy)
{
    if (busy && !p->direct) {
        pt_peer_wake(p);
        return;
    }
    p->direct = false;
    p->flush_timer = true;
    driver_set_timer(p->port, 0);
}

void pt_tx_schedule(struct pt_peer *p)
{
    if (!scheduled(p))
        soon(p, busy_sending(p));
}

bool pt_tx_at_once(struct pt_peer *p)
{
    if (scheduled(p))
        return false;
    bool busy = busy_sending(p);
    if (busy)
        soon(p, true);
    else
        p->direct = true;
    return !busy;
}

/* ---- filling a lane; session lock held ---- */

size_t pt_tx_pending(struct pt_peer *p)
{
    size_t n = p->txq.bytes;
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (p->lanes[i].batch)
            n += p->lanes[i].batch->bytes;
    return n;
}

/* The lane for bulk: the first beside lane 0 that is there. Not always lane 1: the lanes attach in
 * any order, and one may be missing for good. */
static unsigned bulk_lane(const struct pt_peer *p)
{
    unsigned no = 1;
    while (no < PT_LANES_MAX - 1 && p->lanes[no].state == PT_LANE_NONE)
        no++;
    return no;
}

/* With one lane it carries everything. With more, lane 0 is kept for small messages, so that no
 * bulk byte lies before them in a socket buffer; one lane takes bulk, and the others help it only
 * while it loses packets: on a clean path one connection fills the link, and further ones cost a
 * cold window each and a wake-up at the receiver (docs/performance.md). */
static unsigned wants(const struct pt_peer *p, const struct pt_lane *l)
{
    if (p->attached == 1 || (pt_txq_called(&p->txq) & 1u << l->no))
        return PT_WANT_SMALL | PT_WANT_BULK;
    return l->no == 0 ? PT_WANT_SMALL : PT_WANT_BULK;
}

static bool used(const struct pt_peer *p, const struct pt_lane *l, uint64_t now)
{
    return l->no <= bulk_lane(p) || now < p->lossy_until || l->batch->bytes ||
           (pt_txq_called(&p->txq) & 1u << l->no);
}

/* What left by one lane can set free what another must take: a full fence on its way lets pass what
 * waited behind it, small messages and bulk. Nobody else would look at a lane that is idle. */
static bool idle_lane_has_work(const struct pt_peer *p, uint64_t now)
{
    for (unsigned i = 0; i < p->lanes_wanted; i++) {
        const struct pt_lane *l = &p->lanes[i];
        if (l->state == PT_LANE_IDLE && !l->tx_paused && used(p, l, now) &&
            (pt_txq_has(&p->txq, wants(p, l)) || (pt_txq_called(&p->txq) & 1u << i)))
            return true;
    }
    return false;
}

static void control(struct pt_peer *p, struct pt_lane *l)
{
    struct pt_frame f = {0};
    if (l->no == 0 && !p->auth_sent) {
        f = (struct pt_frame){.type = PT_FRAME_AUTH, .auth = p->my_auth};
        if (!pt_batch_control(l->batch, &f))
            return;
        p->auth_sent = true;
    }
    if (p->tick) {
        f = (struct pt_frame){.type = PT_FRAME_TICK};
        p->tick = !pt_batch_control(l->batch, &f);
    }
    uint64_t watermark = atomic_load_explicit(&p->seen.watermark, memory_order_relaxed);
    uint64_t news = watermark - p->ack_sent;
    if (news && (p->ack_now || (news >= ACK_PIGGYBACK && !pt_txq_idle(&p->txq)))) {
        f = (struct pt_frame){.type = PT_FRAME_ACK, .after = watermark};
        if (pt_batch_control(l->batch, &f)) {
            p->ack_sent = watermark;
            p->ack_now = false;
        }
    }
}

/* Fills an empty batch. 0 or an error. */
static int fill(struct pt_peer *p, struct pt_lane *l)
{
    if (l->batch->bytes || l->tx_paused || p->closing)
        return 0;
    if (!p->auth_sent && l->no)
        return 0; /* the peer reads the other lanes only after AUTH */
    control(p, l);
    return pt_batch_fill(l->batch, &p->txq, wants(p, l), l->no ? PT_CHUNK_BULK : PT_CHUNK_SHARED);
}

static void aim(struct pt_lane *l)
{
    struct pt_batch *b = l->batch;
    memset(&l->tx.msg, 0, sizeof l->tx.msg);
    l->tx.msg.msg_iov = &b->iov[b->first];
    l->tx.msg.msg_iovlen = b->count - b->first;
}

static void sent(struct pt_peer *p, struct pt_lane *l, size_t n)
{
    pt_batch_sent(l->batch, n, &pt_host_owner_ops);
    l->sends++;
    p->sent_bytes += n;
}

static void lane_failed(struct pt_peer *p, struct pt_lane *l, int err)
{
    l->state = PT_LANE_DEAD;
    if (!p->error)
        p->error = err;
    pthread_cond_broadcast(&p->released);
}

/* ---- the scheduler ---- */

static bool for_the_loop(const struct pt_peer *p, const struct pt_lane *l, size_t done)
{
    if (l->no)
        return p->txq.bytes + l->batch->bytes > SCHED_BULK;
    return done >= SCHED_SMALL;
}

/* Session lock held on entry and exit, released around sendmsg(). */
static int send_lane(struct pt_peer *p, struct pt_lane *l)
{
    size_t done = 0;
    int rc = 0;
    bool hand_over = false;

    while (l->state == PT_LANE_IDLE && !l->tx_paused && !p->closing && !(rc = fill(p, l)) &&
           l->batch->bytes) {
        size_t want = l->batch->bytes;
        if (for_the_loop(p, l, done)) {
            hand_over = true;
            break;
        }
        aim(l);
        l->state = PT_LANE_SCHED;
        pthread_mutex_unlock(&p->lock);
        ssize_t n = sendmsg(l->fd, &l->tx.msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        int err = n < 0 ? errno : 0;
        pthread_mutex_lock(&p->lock);
        l->state = PT_LANE_IDLE;
        if (n > 0) {
            sent(p, l, (size_t)n);
            done += (size_t)n;
            if (pt_txq_idle(&p->txq) && !l->batch->bytes && !p->ack_now)
                break;
        }
        if (err && err != EAGAIN && err != EINTR) {
            lane_failed(p, l, -err);
            rc = -err;
        } else if (err != EINTR && (n < 0 || (size_t)n < want)) {
            hand_over = true;
            break;
        }
    }
    if (hand_over && pt_node.loop) {
        l->state = PT_LANE_LOOP;
        pt_loop_submit(pt_node.loop, &l->tx);
    }
    return rc;
}

/* Packet loss on the lane for bulk: read from the kernel now and then while bulk is queued. */
static void look_for_loss(struct pt_peer *p, uint64_t now)
{
    struct pt_lane *l = &p->lanes[bulk_lane(p)];
    struct tcp_info ti;
    socklen_t len = sizeof ti;

    if (p->attached < 3 || now - p->lossy_looked < LOSSY_LOOK_NS)
        return;
    p->lossy_looked = now;
    if (getsockopt(l->fd, IPPROTO_TCP, TCP_INFO, &ti, &len))
        return;
    if (ti.tcpi_total_retrans == l->retransmits)
        return;
    l->retransmits = ti.tcpi_total_retrans;
    /* a single one may be a probe of a busy receiver's */
    if (p->loss_seen && now - p->loss_seen < LOSSY_AGAIN_NS)
        p->lossy_until = now + LOSSY_HOLD_NS;
    p->loss_seen = now;
}

int pt_tx_flush(struct pt_peer *p)
{
    int rc = 0;
    uint64_t now = pt_now_ns();

    if (!p->started)
        return 0;
    p->flushed_at = now;
    p->flush_carried = p->packets_out - p->packets_flushed;
    p->packets_flushed = p->packets_out;
    pthread_mutex_lock(&p->lock);
    if (!pt_txq_idle(&p->txq))
        look_for_loss(p, now);
    for (unsigned round = 0; round < FLUSH_ROUNDS; round++) {
        uint64_t before = p->sent_bytes;
        for (unsigned i = 0; !rc && i < p->lanes_wanted; i++) {
            struct pt_lane *l = &p->lanes[i];
            if (l->state == PT_LANE_IDLE && used(p, l, now))
                rc = send_lane(p, l);
        }
        if (rc || p->sent_bytes == before || !idle_lane_has_work(p, now))
            break;
        if (round + 1 == FLUSH_ROUNDS) /* others want the port, too */
            pt_peer_wake(p);
    }
    pthread_mutex_unlock(&p->lock);
    pt_tx_unbusy(p);
    return rc;
}

/* ---- the loop thread ---- */

size_t pt_tx_loop_fill(struct pt_tx *tx)
{
    struct pt_lane *l = PT_CONTAINER_OF(tx, struct pt_lane, tx);
    struct pt_peer *p = l->peer;
    bool wake = false;
    size_t n = 0;

    pthread_mutex_lock(&p->lock);
    int rc = fill(p, l);
    if (rc < 0) {
        lane_failed(p, l, rc);
        wake = true;
    } else if (p->closing || l->tx_paused || !l->batch->bytes) {
        l->state = PT_LANE_IDLE;
        wake = p->wake_on_drain && !p->closing;
        pthread_cond_broadcast(&p->released);
    } else {
        aim(l);
        n = l->batch->bytes;
    }
    wake = wake || (p->wake_below && is_low(p));
    wake = wake || (n && idle_lane_has_work(p, p->lossy_until ? pt_now_ns() : 0));
    if (wake) /* under the lock: a closing port waits for it before the descriptor goes */
        pt_peer_wake(p);
    pthread_mutex_unlock(&p->lock);
    return n;
}

void pt_tx_loop_done(struct pt_tx *tx, ssize_t n)
{
    struct pt_lane *l = PT_CONTAINER_OF(tx, struct pt_lane, tx);
    struct pt_peer *p = l->peer;

    pthread_mutex_lock(&p->lock);
    if (n > 0) {
        sent(p, l, (size_t)n);
    } else {
        lane_failed(p, l, (int)n);
        pt_peer_wake(p);
    }
    pthread_mutex_unlock(&p->lock);
}

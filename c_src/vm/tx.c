/* From the VM's packets to the sockets.
 *
 * outputv only queues. An idle connection is flushed by a zero timer, which runs in the same port
 * task after the whole batch of packets; a busy one (flushed less than FLUSH_BUSY_NS ago) by its
 * wake descriptor, so that the packets other processes are about to send leave with it. The
 * scheduler sends while the socket takes everything; what it does not take, and bulk, goes to the
 * loop thread, which owns that lane until its queue is empty (send.c). */
#include "vm/peer.h"

#include "vm/host.h"

#include <errno.h>
#include <string.h>

enum {
    FLUSH_BUSY_NS = 15 * 1000,
    FLUSH_LONE_NS = 3 * 1000, /* the same if the last flush carried one packet only */
    /* After a read that delivered several messages: their receivers are about to answer, and not all
     * within FLUSH_LONE_NS of each other. */
    FLUSH_BURST_NS = 50 * 1000,
    /* From full to the next surge (PT_QUEUE_SURGE_..): a receiver that is about as fast as the senders lets
     * the queue run empty now and then (1 KB, 16 senders, each surge from empty: 0.85 of the rate). */
    FLOOD_NS = 200 * 1000 * 1000,
    SCAN = 1024, /* bytes looked at: all of nearly every header and control tuple; one whose
                    sender lies behind is fenced */
};

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
        m = pt_msg_new_in(&p->s.pool, src, &pt_host_owner_ops);
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
    int rc = pt_txq_submit(&p->s.txq, m);
    if (rc)
        pt_msg_free(m, &pt_host_owner_ops);
    return rc;
}

int pt_tx_take(struct pt_peer *p, const struct pt_packet *pk, struct pt_source *src,
               const uint8_t *front, size_t n, size_t size)
{
    struct pt_atom_refs refs;
    int rc = read_atoms(p, front, n, pk, &refs);
    struct pt_packet other = {.form = PT_FORM_OTHER, .order = PT_ORDER_FENCE};
    if (rc && rc != -ENOMEM) { /* not the VM's: the peer's VM shall judge it */
        refs.count = 0;
        pk = &other;
        rc = 0;
    }
    if (!rc && (pk->form == PT_FORM_FRAG_FIRST || pk->form == PT_FORM_FRAG_NEXT))
        rc = pt_join_packet(p, pk, src, &refs);
    else if (!rc)
        rc = submit_whole(p, pk, src, &refs, size);
    return rc;
}

/* Port and session lock: is more queued than may be? Then whoever sends it tells when it is less, and the
 * next surge has to wait. */
static bool is_full(struct pt_peer *p)
{
    struct pt_stream *s = &p->s;
    pt_cap_account(s);
    bool full = pt_stream_is_full(s);
    if (full) {
        s->wake_below = s->flooded = true;
        p->flooded_at = p->flushed_at;
    } else if (s->flooded && !pt_stream_queued(s) && p->flushed_at - p->flooded_at > FLOOD_NS) {
        s->flooded = false;
    }
    return full;
}

static void get_busy(struct pt_peer *p)
{
    if (p->busy)
        return;
    p->busy = true;
    atomic_store_explicit(&p->s.seen.busy, true, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->s.seen.busy_count, 1, memory_order_relaxed);
    set_busy_port(p->port, 1);
}

static int take_packet(struct pt_peer *p, ErlIOVec *ev, const struct pt_packet *pk,
                       const uint8_t *front, size_t n)
{
    struct pt_source src = {.iov = (const struct iovec *)ev->iov,
                            .owners = (void *const *)ev->binv,
                            .count = (size_t)ev->vsize};

    p->part = p->plenty = false;
    if (pt_stage_take(p, pk, ev))
        return 0;
    pthread_mutex_lock(&p->s.lock);
    int rc = pt_stage_move(p);
    if (!rc)
        rc = pt_tx_take(p, pk, &src, front, n, (size_t)ev->size);
    bool full = is_full(p);
    p->plenty = pt_stream_plenty(&p->s);
    p->part = p->part && !full;
    pthread_mutex_unlock(&p->s.lock);
    if (!rc && full)
        get_busy(p);
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
    if (PT_UNLIKELY(!n)) {
        pthread_mutex_lock(&p->s.lock);
        p->s.tick = true;
        pthread_mutex_unlock(&p->s.lock);
        return 0;
    }
    /* The VM puts header and control tuple into one piece, nearly always the first that is not empty.
     * What makes no sense there is looked at once more, with what follows. */
    int i = 0;
    while (!ev->iov[i].iov_len)
        i++;
    size_t piece = PT_MIN(ev->iov[i].iov_len, n);
    const uint8_t *p0 = (const uint8_t *)ev->iov[i].iov_base;
    pt_packet_scan_next(&p->memo, p0, piece, size, &pk);
    if (PT_LIKELY(piece == n || (pk.form == PT_FORM_WHOLE && pk.order == PT_ORDER_SENDER)))
        n = piece;
    else {
        gather(ev, front, n);
        pt_packet_scan(front, n, size, &pk);
        p0 = front;
    }
    if (PT_LIKELY(!pk.cut || n == size))
        return take_packet(p, ev, &pk, p0, n);
    return long_header(p, ev);
}

void pt_tx_unbusy(struct pt_peer *p)
{
    if (!p->busy)
        return;
    pthread_mutex_lock(&p->s.lock);
    bool low = pt_stream_is_low(&p->s);
    p->s.wake_below = !low;
    pthread_mutex_unlock(&p->s.lock);
    if (low) {
        p->busy = false;
        atomic_store_explicit(&p->s.seen.busy, false, memory_order_relaxed);
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
    uint64_t now = pt_now_ns();
    uint64_t since = now - p->flushed_at;
    return since < FLUSH_LONE_NS || (since < FLUSH_BUSY_NS && p->flush_carried > 1) ||
           (p->burst > 1 && now - p->burst_at < FLUSH_BURST_NS);
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

/* The VM hands a large message over in fragments of 64 KB. A send for each costs the sender 1.6 times
 * the time of one for four, and a flush that is put off only lets the socket run dry. */
bool pt_tx_at_once(struct pt_peer *p)
{
    if (PT_UNLIKELY((p->plenty && p->started) || pt_stage_full(&p->stage)))
        return true;
    if (scheduled(p) || p->part)
        return false;
    bool busy = busy_sending(p);
    if (busy)
        soon(p, true);
    else
        p->direct = true;
    return !busy;
}

int pt_tx_flush(struct pt_peer *p)
{
    if (!p->started)
        return 0;
    p->flushed_at = pt_now_ns();
    p->flush_carried = p->packets_out - p->packets_flushed;
    p->packets_flushed = p->packets_out;
    pthread_mutex_lock(&p->s.lock);
    int rc = pt_stage_move(p);
    if (!rc)
        rc = pt_stream_send(&p->s, 0);
    pt_stage_look(p);
    bool more_lanes = p->s.more_lanes;
    p->s.more_lanes = false;
    bool full = is_full(p);
    pthread_mutex_unlock(&p->s.lock);
    if (more_lanes)
        pt_peer_more_lanes(p);
    if (!full)
        pt_tx_unbusy(p);
    else if (!p->flushing)
        get_busy(p);
    return rc;
}

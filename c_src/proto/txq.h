/* The transmit queue of one session: which frame leaves next, and what it must follow.
 *
 * Two jobs in one place because they share the flow table:
 *
 * Fairness. A flow is one sender. Small messages (<= PT_TXQ_SMALL) of a flow with nothing queued
 * leave first; backlogged flows of small messages take turns; of the messages above that size at
 * most PT_TXQ_BULK_ACTIVE are under way at once, a chunk each in turn (pure round robin over all
 * of them makes all finish last: 20-40 % slower echoes). Where small and bulk share a lane, bulk
 * gets a chunk after every PT_TXQ_SMALL_RUN bytes of small messages, so neither starves.
 *
 * Order. A message is numbered when its last byte is emitted. `after` names the last message of
 * the same flow, or the last full fence if that is younger, unless the peer acknowledged it. The
 * messages of a flow are emitted in the order of submission, so `after` always is emitted already.
 * A fence (half or full) is emitted when everything submitted before it is, and tells the peer to
 * wait for every lower number; behind a full fence nothing is emitted before it. Holding back here
 * costs nothing, because the peer would have to hold back the same messages.
 *
 * Speculation. A message is `sure` on a lane if all it waits for travelled on that lane before it,
 * or is acknowledged; the peer never has to hold it. Kept as a number: a message is sure on its
 * lane once everything up to `until` is acknowledged, so a flow that changed lanes once is sure
 * again one round trip later, however fast it sends. The others are speculative; while more than
 * PT_TXQ_SPECULATIVE bytes of them (as the peer would hold them, headers with all their atoms) are
 * unacknowledged, no further speculative message is numbered;
 * one that would be sure on another lane is left to that lane, so that what does not depend on a
 * lane that stands still goes on.
 * So what a peer must hold is bounded at the source. It cannot deadlock: what a speculative
 * message waits for ends in sure messages, which are never blocked.
 *
 * The caller serialises all calls (session lock). Costs: O(1) a message; memory O(messages queued
 * + messages unacknowledged + flows with either).
 */
#ifndef PT_PROTO_TXQ_H
#define PT_PROTO_TXQ_H

#include "base/hmap.h"
#include "proto/frame.h"
#include "proto/msg.h"

enum {
    PT_TXQ_SMALL = 16 * 1024,
    PT_TXQ_BULK_ACTIVE = 2,
    PT_TXQ_TURN = 16 * 1024,
    PT_TXQ_SMALL_RUN = 128 * 1024,
    PT_TXQ_SPECULATIVE = 4 * 1024 * 1024,
    PT_TXQ_COST = 32, /* what a small message counts besides its bytes when classes are weighed */
    /* Numbers given and not acknowledged: 16 bytes each here, a bit at the peer. Two seconds of a
     * lane that stands still, at a million a second on the others. */
    PT_TXQ_UNACKED = 2 * 1024 * 1024,
    PT_TXQ_LANES = 16, /* lanes are numbered below this */
    /* Flows remembered with nothing under way: a client that asks and waits would otherwise enter and
     * leave the table with each request. */
    PT_TXQ_IDLE_FLOWS = 256,
};

enum { PT_WANT_SMALL = 1, PT_WANT_BULK = 2 };

struct pt_txq_stats {
    uint64_t submitted, numbered, fences, chunks, blocked;
};

struct pt_unacked;

struct pt_txq {
    const struct pt_owner_ops *ops;
    struct pt_hmap flows;
    struct pt_flow *hot;   /* the flow used last: batches come from one sender */
    struct pt_flow *spare; /* freed flows for re-use */
    struct pt_list
        idle; /* flows (pt_flow.link) with nothing queued or unacknowledged, oldest first */
    unsigned idle_count;
    /* picking; lists of pt_msg.pick unless said otherwise */
    struct pt_list express; /* small, next to leave */
    struct pt_list small;   /* flows (pt_flow.link) whose head is small and queued */
    struct pt_list bulk_wait;
    struct pt_list bulk_active; /* at most PT_TXQ_BULK_ACTIVE */
    struct pt_list blocked;     /* speculative and over the limit: until the next ack */
    /* the same, but on this lane it would be sure: until the lane asks for more, or the next ack */
    struct pt_list only_small[PT_TXQ_LANES], only_bulk[PT_TXQ_LANES];
    unsigned only; /* lanes, a bit each, that may have something in these lists */
    unsigned active;
    size_t small_run;
    size_t turn;         /* bytes left of the first small flow's turn */
    size_t express_lead; /* what express took while flows with a backlog waited */
    /* order */
    struct pt_list epochs; /* at least one; the last takes new messages */
    struct pt_list open;   /* pt_msg.order: incomplete messages */
    struct pt_list behind; /* pt_msg.order: submitted after a full fence not yet emitted */
    bool staging;
    uint64_t next_number, acked, fence_number, next_transfer;
    uint8_t fence_lane;
    uint64_t fence_until;
    struct pt_unacked *ring; /* numbers acked+1 .. next_number-1 */
    size_t ring_mask;
    size_t speculative; /* bytes numbered, speculative, unacknowledged */
    unsigned lanes;     /* attached lanes; with one lane everything is sure */
    /* accounting */
    size_t bytes; /* submitted, not yet emitted */
    /* Submitted or finished, not done. Not open ones: who keeps senders away for their number would wait
     * for a rest that only these senders have. */
    size_t messages;
    struct pt_txq_stats stats;
};

/* What pt_txq_next() chose: a frame to be built from m. */
struct pt_emit {
    struct pt_msg *msg;
    struct pt_frame frame; /* complete but for nothing: encode it, then payload of frame.length */
};

int pt_txq_init(struct pt_txq *q, const struct pt_owner_ops *ops); /* 0 or -ENOMEM */
void pt_txq_free(struct pt_txq *q); /* with all messages in it; free the lanes' batches first */

/* Takes m (kind and key set, complete). 0 or -ENOMEM (m is still the caller's). */
int pt_txq_submit(struct pt_txq *q, struct pt_msg *m);
/* The short way: a small message of this sender that the queue would choose next for this lane, since
 * nothing small is queued and nothing holds it back. 1: frame is set and numbered, as if the message had
 * been submitted, chosen and emitted; its bytes must leave by the lane in this order. 0: submit it.
 * length: of the frame's payload; held: what a peer keeps that must hold it. */
int pt_txq_pass(struct pt_txq *q, unsigned lane, uint64_t key, size_t length, size_t held,
                struct pt_frame *frame);
/* An incomplete message, from now on the queue's: its chunks may leave, its place in order is taken by
 * pt_txq_finish(). The caller appends with pt_msg_append() and tells the queue the bytes it added. */
void pt_txq_open(struct pt_txq *q, struct pt_msg *m);
void pt_txq_grown(struct pt_txq *q, struct pt_msg *m, size_t added);
int pt_txq_finish(struct pt_txq *q, struct pt_msg *m); /* 0 or -ENOMEM (m stays open) */

/* Chooses the next frame for a lane. `want`: PT_WANT_*; chunk: most payload bytes of a chunk.
 * 1: *e is set, e->frame.length payload bytes are to be taken from e->msg (pt_msg_take/copy) by
 * the caller, who then calls pt_txq_emitted(). 0: nothing to send, or nothing until the next
 * acknowledgement. -ENOMEM. */
int pt_txq_next(struct pt_txq *q, unsigned lane, unsigned want, size_t chunk, struct pt_emit *e);
/* The payload of the frame was taken. 1: the message left the queue, free it once its frames are
 * sent; 0: more of it is to come; -ENOMEM: it left the queue too, and what a fence held back is
 * tried again by the next pt_txq_next(). */
int pt_txq_emitted(struct pt_txq *q, const struct pt_emit *e);

/* Gives back half of the memory kept for unacknowledged numbers, if most of it is unused. Meant to be
 * called now and then: what is needed again grows again. No memory: nothing happens. */
void pt_txq_trim(struct pt_txq *q);
size_t pt_txq_memory(const struct pt_txq *q); /* bytes kept for unacknowledged numbers */

/* The peer delivered everything up to `number`. 0, or PT_E_BAD_NUMBER if that was never sent. */
int pt_txq_ack(struct pt_txq *q, uint64_t number);

/* Lanes, a bit each, that alone can take what other lanes had to put aside: fill these, even if they
 * had nothing to send before. 0 unless a lane stands still with PT_TXQ_SPECULATIVE bytes behind. */
unsigned pt_txq_called(const struct pt_txq *q);

/* Is there anything for a lane that wants this (PT_WANT_*)? It may turn out not to be ready. */
bool pt_txq_has(const struct pt_txq *q, unsigned want);

/* Bytes of messages that are not complete and may never be. O(their number). */
size_t pt_txq_unfinished(const struct pt_txq *q);

bool pt_txq_idle(const struct pt_txq *q);    /* nothing to emit */
size_t pt_txq_flows(const struct pt_txq *q); /* with something queued or unacknowledged */
uint64_t pt_txq_unacked(const struct pt_txq *q);

#endif

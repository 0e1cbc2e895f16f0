/* Shared between txq.c (picking, numbering) and txq_flow.c (flow table, acknowledgements). */
#ifndef PT_PROTO_TXQ_INT_H
#define PT_PROTO_TXQ_INT_H

#include "proto/txq.h"

enum pt_flow_state {
    PT_FLOW_IDLE,  /* nothing queued */
    PT_FLOW_OUT,   /* its head message is in express, bulk or blocked */
    PT_FLOW_SMALL, /* in q->small; its head message is first in `queue` */
};

struct pt_flow {
    struct pt_list link;  /* q->small, or q->idle while resting */
    struct pt_list queue; /* pt_msg.order: complete messages not yet picked, in order */
    struct pt_flow *next_spare;
    uint64_t key;
    uint64_t last; /* number of its last numbered message, 0 = none */
    uint32_t unacked;
    uint8_t state;
    bool resting; /* in q->idle: state IDLE, nothing unacknowledged */
    uint8_t last_lane;
    uint64_t last_until; /* it is sure on last_lane once this number is acknowledged */
};

struct pt_unacked {
    struct pt_flow *flow;
    size_t speculative; /* bytes to give back on acknowledgement */
};

/* A stretch of submissions between two fences. */
struct pt_epoch {
    struct pt_list link;
    size_t outstanding;   /* messages submitted in it and not numbered */
    struct pt_msg *fence; /* ends it; NULL for the current one */
    bool released;        /* the fence was put among the messages to pick */
};

/* Puts m into the list it is to be picked from, unless it is in one already. */
void pt_txq_enlist(struct pt_txq *q, struct pt_msg *m);

struct pt_flow *pt_flow_get(struct pt_txq *q, uint64_t key); /* NULL: no memory */
void pt_flow_maybe_free(struct pt_txq *q, struct pt_flow *f);
void pt_flow_free_all(struct pt_txq *q);

/* Enters the number just given to a message of f (or NULL) into the ring. 0 or -ENOMEM; call
 * pt_unacked_reserve() first and it cannot fail. */
int pt_unacked_reserve(struct pt_txq *q);
void pt_unacked_add(struct pt_txq *q, struct pt_flow *f, size_t speculative);

#endif

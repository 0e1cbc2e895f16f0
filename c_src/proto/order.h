/* The receiving half of order: which message may be delivered now, and which must wait.
 *
 * Numbers run from 1 without gaps; they arrive in any order, since frames take any lane. A message
 * may be delivered when its predecessor is, a fence when every lower number is. State: a watermark
 * (everything up to it is delivered), a bitmap of what is delivered beyond it, and what is held.
 * The bitmap spans the distance between the slowest and the fastest lane; PT_ORDER_SPAN bounds it.
 */
#ifndef PT_PROTO_ORDER_H
#define PT_PROTO_ORDER_H

#include "base/hmap.h"
#include "base/list.h"

/* 64 million messages past a missing one: at a million a second, a minute of a stalled lane. */
#define PT_ORDER_SPAN (UINT64_C(1) << 26)

struct pt_held {
    struct pt_list link;
    struct pt_held *next; /* the same predecessor */
    uint64_t number, after;
    bool fence;
    void *bin; /* the bytes; the holder's reference */
    size_t offset, len;
};

struct pt_order_rx {
    uint64_t watermark;
    uint64_t *bits;         /* ring of numbers watermark+1 .. ; NULL until needed */
    uint64_t span;          /* bits in the ring, a power of two */
    uint64_t beyond;        /* bits set */
    struct pt_hmap waiting; /* predecessor -> chain of pt_held */
    struct pt_hmap fences;  /* number -> pt_held; not a sorted list, which a peer can make long */
    struct pt_list ready;   /* may be delivered now */
    size_t held_bytes, held_count, held_peak;
    size_t held_largest;    /* since nothing was held */
    bool broken_on_purpose; /* test mutation: predecessors are ignored */
};

void pt_order_init(struct pt_order_rx *o);
/* Frees the state; `drop` gets each message that was still held. */
void pt_order_free(struct pt_order_rx *o, void (*drop)(void *ctx, struct pt_held *h), void *ctx);

/* May this message be delivered now? 1 yes, 0 no (hold it), PT_E_BAD_NUMBER. */
int pt_order_check(const struct pt_order_rx *o, uint64_t number, uint64_t after, bool fence);
/* Keeps h until its turn (h->number, after, fence, len set). 0, or h is still the caller's: -ENOMEM,
 * PT_E_BAD_NUMBER (a fence of this number is held). */
int pt_order_hold(struct pt_order_rx *o, struct pt_held *h);
/* `number` was delivered; what that sets free moves to the ready list. 0, -ENOMEM,
 * PT_E_BAD_NUMBER (delivered before, or too far ahead). */
int pt_order_delivered(struct pt_order_rx *o, uint64_t number);
/* Gives the bitmap back if nothing is in it and it grew beyond PT_ORDER_SPAN_SMALL. For now and then. */
#define PT_ORDER_SPAN_SMALL (UINT64_C(1) << 16)
void pt_order_trim(struct pt_order_rx *o);
struct pt_held *pt_order_ready(struct pt_order_rx *o); /* next one set free, now the caller's */

#endif

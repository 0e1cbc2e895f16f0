/* What is on its way, by the time it is due: a 4-ary heap. Items that are due at the same time leave
 * in the order they came. Pure; grows by doubling, never shrinks. */
#ifndef PTN_HEAP_H
#define PTN_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ptn_item {
    uint64_t due;
    uint64_t order; /* set by ptn_sched_put */
    void *train;
    uint32_t first, count; /* segments of the train */
    uint32_t link, epoch;
    uint32_t flow, flow_id; /* place in the table and number; 0 if none */
};

struct ptn_sched {
    struct ptn_item *heap;
    size_t count, room;
    uint64_t order;
};

void ptn_sched_free(struct ptn_sched *s);
bool ptn_sched_put(struct ptn_sched *s, struct ptn_item it); /* false: out of memory */
/* The next one, NULL if there is none. Valid until the heap changes. */
static inline const struct ptn_item *ptn_sched_first(const struct ptn_sched *s)
{
    return s->count ? s->heap : NULL;
}
struct ptn_item ptn_sched_take(struct ptn_sched *s); /* not to be called on an empty one */

#endif

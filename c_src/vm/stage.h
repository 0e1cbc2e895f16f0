/* Small packets between two flushes: copied one behind the other under the port lock alone. A flush
 * then takes the session lock once for all of them, and most go straight into lane 0's batch
 * (pt_batch_pass): what the queue keeps of a small message costs more to build than its bytes to copy.
 *
 * Only while nothing small is queued and nobody else sends on lane 0: what is queued is chosen by
 * fairness, what is staged leaves as it came. That is why so little is staged.
 */
#ifndef PT_VM_STAGE_H
#define PT_VM_STAGE_H

#include "proto/dop.h"

#include <erl_driver.h>

enum {
    PT_STAGE_ROOM = 88 * 1024, /* less than a batch takes: one call sends what one flush finds */
    PT_STAGE_SPARE = 2048,     /* full with less than that */
};

/* Port lock. */
struct pt_stage {
    uint8_t *room; /* NULL: not needed yet, or given back */
    size_t used;
    size_t bytes; /* of the packets in it */
    bool open;    /* as the last flush left the queue and the lane, staging is of use */
    uint64_t taken, trim_taken; /* packets; the same at the last pt_stage_trim() */
};

struct pt_peer;

/* False: not now, not of this kind, or no room: hand it to the queue, behind pt_stage_move(). */
bool pt_stage_take(struct pt_peer *p, const struct pt_packet *pk, const ErlIOVec *ev);
/* Session lock, too. All that is staged goes into lane 0's batch or the queue, in order. 0 or an error,
 * which ends the connection. */
int pt_stage_move(struct pt_peer *p);
void pt_stage_look(struct pt_peer *p);                      /* session lock, too: is it of use? */
static inline bool pt_stage_full(const struct pt_stage *st) /* flush: the next may not fit */
{
    return st->used > PT_STAGE_ROOM - PT_STAGE_SPARE;
}
void pt_stage_trim(struct pt_stage *st); /* gives back what was hardly used since the last call */
void pt_stage_free(struct pt_stage *st); /* with what is in it */

#endif

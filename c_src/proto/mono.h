/* What waits on a monotonic channel: of each key the newest message only. A newer one takes the place
 * of the older, so a key that changes faster than the queue moves is not put off for ever. Keys are
 * compared byte by byte: nothing else is ever replaced. Pure; the caller serialises.
 * Costs: O(1) a message, memory O(keys waiting).
 */
#ifndef PT_PROTO_MONO_H
#define PT_PROTO_MONO_H

#include "base/hmap.h"
#include "proto/msg.h"

struct pt_mono {
    struct pt_hmap slots; /* hash of the key -> struct pt_mono_slot */
    struct pt_list fifo;  /* all slots, the one to leave next first */
    size_t bytes, messages;
};

void pt_mono_init(struct pt_mono *q);
void pt_mono_free(struct pt_mono *q, const struct pt_owner_ops *ops); /* with what is in it */

/* Takes m, which is the caller's again on an error. 1: it replaced *old, which is the caller's now;
 * 0: nothing of this key waited; -ENOMEM. */
int pt_mono_put(struct pt_mono *q, const uint8_t *key, size_t len, struct pt_msg *m,
                struct pt_msg **old);
struct pt_msg *pt_mono_first(const struct pt_mono *q); /* NULL: nothing waits */
void pt_mono_shift(struct pt_mono *q); /* the first one is the caller's from now on */

#endif

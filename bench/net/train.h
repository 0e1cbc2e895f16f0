/* A train through a link: which of its segments arrive, and when. Pure. */
#ifndef PTN_TRAIN_H
#define PTN_TRAIN_H

#include "link.h"
#include "pkt.h"

/* Packets are segments here, whatever the device made of them. */
struct ptn_counts {
    uint64_t offered, offered_bytes;
    uint64_t forwarded, forwarded_bytes; /* delivered to the receiving device, copies included */
    uint64_t lost, lost_burst;           /* on the wire */
    uint64_t full;                       /* queue overflow */
    uint64_t cut, flow_cut;              /* by command */
    uint64_t memory, failed;             /* faults of the emulator: no memory, device refused it */
    uint64_t duplicated, overtaken;
};

struct ptn_run {
    uint32_t first, count;
    uint64_t due;
};

/* Emits runs in order of their segments. Neighbours join one run if they are due within `quantum` ns
 * of its first; the run is due with its last, so that no segment comes early and none is later than
 * that. emit answers false when it has no memory, and the run is counted so. */
void ptn_train_plan(struct ptn_link *l, struct ptn_counts *c, uint64_t now, const struct ptn_pkt *k,
                    uint64_t quantum, bool (*emit)(void *ctx, const struct ptn_run *r), void *ctx);

#endif

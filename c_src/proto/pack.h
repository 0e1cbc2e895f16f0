/* A packet whose atoms are texts, as channels carry them, made one that refers to the receiving VM's
 * atom cache.
 *
 * Why: the VM looks a text up in a table of all atoms, under a lock that its schedulers share, for the
 * names of both nodes in each message. That was 1400 of the 4800 cycles that a message of 1 KB cost the
 * receiving node; what is here costs 200.
 *
 * Pure. The caller serialises all that uses one table.
 */
#ifndef PT_PROTO_PACK_H
#define PT_PROTO_PACK_H

#include "proto/atoms.h"

enum {
    PT_PACK_SCAN = 512, /* bytes of a packet that are looked at: what follows keeps its texts */
    PT_PACK_TERMS = 48,
    PT_PACK_REFS = 16,
    /* the texts, once in the header and a reference for each in their places, and what is around */
    PT_PACK_HEAD_MAX = 2 * PT_PACK_SCAN,
};

struct pt_packed {
    size_t from; /* so many first bytes of the packet are replaced */
    size_t len;  /* by these */
    uint8_t head[PT_PACK_HEAD_MAX];
};

/* told: what the VM has in its cache when it gets the packet; learns what is new, so the packet must
 * get to the VM next. 1: replace; 0: nothing to be replaced, or it is no packet `131 68 0 ..`;
 * -ENOMEM: the same, but `told` is as it was. */
int pt_pack(const uint8_t *p, size_t len, struct pt_atom_table *told, struct pt_packed *out);

#endif

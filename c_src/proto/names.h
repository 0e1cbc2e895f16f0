/* The names of a session's two nodes in the control tuples of a channel's messages.
 *
 * A channel's messages are encoded without the VM's atom cache, so each would carry both names as texts,
 * which the receiving VM looks up under a lock that all its schedulers share: 0.13 us a name, a fifth of
 * what a message of 64 bytes costs there. Only these two are made references (proto/atoms.h): they
 * are constant, and stand at known places. To look through whole messages for atoms costs more than it
 * saves.
 *
 * Pure. The atoms are guarded by the caller; pt_names_refer() reads what is constant after
 * pt_names_set().
 */
#ifndef PT_PROTO_NAMES_H
#define PT_PROTO_NAMES_H

#include "proto/atoms.h"

enum { PT_NAMES_SECTION_MAX = 5 };

struct pt_names {
    bool set;
    struct pt_atom_table table; /* these two */
    struct pt_atom_ref ref[2];  /* the sender's, the receiver's */
    /* sections that refer to none, to the sender's, to both */
    uint8_t section[3][PT_NAMES_SECTION_MAX];
};

/* A name, 1 to 255 bytes, and the slot that the VM uses for it. */
struct pt_name {
    const uint8_t *text;
    size_t len;
    unsigned slot;
};

/* Zero-initialise first. 0 or -ENOMEM. Names that are not of plain ASCII, or of another length, are
 * left texts: `set` stays false. */
int pt_names_set(struct pt_names *n, const struct pt_name *mine, const struct pt_name *theirs);
void pt_names_free(struct pt_names *n);

/* p: `131 104 2 Control Message`. The names of its first pids become references to n->section[*refs],
 * in place; returns where what follows the section begins. */
size_t pt_names_refer(const struct pt_names *n, uint8_t *p, size_t len, unsigned *refs);

/* p: `131`, and a local pid: the node's name in it. False: not of that form. */
bool pt_names_of_pid(const uint8_t *p, size_t len, struct pt_name *name);

#endif

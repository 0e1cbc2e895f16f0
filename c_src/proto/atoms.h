/* The atom references of a distribution header (OTP erts/doc erl_ext_dist, "Distribution Header"):
 *
 *     N   flags, N/2+1 bytes: a nibble a reference: NEW (8) | segment (7); the last: LONG (1)
 *         references: index, and for a NEW one its length (2 bytes if LONG) and UTF-8 text
 *
 * called a *section* here. A reference names one of 2048 cache slots; a NEW one also fills it, so a
 * section means something only after those before it. The VM keeps one cache a connection and
 * direction. Lanes have no common order, so we translate: the sending side resolves the VM's
 * sections in the order it gets them (pt_atoms_read with the VM's table) and writes them again
 * relative to the lane a message takes (pt_atoms_write with the lane's table); the receiving side
 * resolves them by the lane's table and writes them relative to what it has told its own VM. On
 * one quiet lane all three agree and no byte changes.
 *
 * Why not do without the cache: every atom then is looked up by its text, under a lock that all
 * schedulers share; decoding a small message cost the receiving VM 1.6 times as much.
 *
 * Pure. Tables and atoms of one session are guarded by the caller; reference counts are plain.
 */
#ifndef PT_PROTO_ATOMS_H
#define PT_PROTO_ATOMS_H

#include "base/pt.h"

enum {
    PT_ATOM_SLOTS = 2048,
    PT_ATOM_SEGMENT = 256,
    PT_ATOM_REFS = 255,      /* references in one section */
    PT_ATOM_TEXT_MAX = 1020, /* 255 characters of UTF-8 */
    /* Sections up to this size (all references NEW) are written relative to a lane; larger ones
     * travel whole inside the message. */
    PT_ATOM_SECTION_MAX = 512,
    PT_ATOM_MEMO = 16, /* longest section that is remembered: nine references */
};

struct pt_atom {
    uint32_t refs;
    uint16_t len;
    uint8_t text[];
};

/* What each slot holds; segments are allocated when first used. */
struct pt_atom_table {
    struct pt_atom **segment[PT_ATOM_SLOTS / PT_ATOM_SEGMENT];
    uint64_t changes; /* of slots */
};

struct pt_atom_ref {
    uint16_t slot;
    struct pt_atom *atom; /* borrowed from the table, unless said otherwise */
};

struct pt_atom_refs {
    unsigned count;
    struct pt_atom_ref ref[PT_ATOM_REFS];
};

/* The section translated last from one table to another. Messages of one kind have the same section,
 * and as long as no slot of either table changed it translates to the same bytes. Zero-initialise; one
 * for each pair of tables. */
struct pt_atom_memo {
    uint8_t in[PT_ATOM_MEMO], out[PT_ATOM_MEMO];
    uint8_t in_len, out_len; /* 0: nothing is remembered */
    uint16_t size;           /* pt_atoms_size() of what it refers to */
    uint64_t from_changes, to_changes;
};

void pt_atom_table_free(struct pt_atom_table *t);
void pt_atom_hold(struct pt_atom *a);
void pt_atom_drop(struct pt_atom *a);

/* Length of the section at p without a table: > 0; PT_E_MORE; PT_E_BAD_FRAME. */
int pt_atoms_length(const uint8_t *p, size_t avail);
/* Resolves the section at p, filling slots as it says. Its length (> 0), PT_E_MORE, PT_E_BAD_FRAME
 * (malformed, or refers to an empty slot), -ENOMEM. Slots may have changed even on an error, which
 * therefore must end the connection. */
int pt_atoms_read(const uint8_t *p, size_t avail, struct pt_atom_table *t,
                  struct pt_atom_refs *out);
/* Bytes pt_atoms_write() needs if every reference is NEW: the most it can need. */
size_t pt_atoms_size(const struct pt_atom_ref *ref, unsigned count);
/* Writes a section relative to t, and what it says into t; returns its length. t NULL: all
 * references NEW. Without memory t does not learn a new atom, and says it again the next time. */
size_t pt_atoms_write(uint8_t *out, const struct pt_atom_ref *ref, unsigned count,
                      struct pt_atom_table *t);

/* Is the section at p, avail bytes of it, the one remembered? */
bool pt_atoms_recall(const struct pt_atom_memo *memo, const struct pt_atom_table *from,
                     const struct pt_atom_table *to, const uint8_t *p, size_t avail);
/* The section `in`, just read with `from`, was written as `out` relative to `to`. Remembered unless it is
 * long, or either has a NEW reference. */
void pt_atoms_remember(struct pt_atom_memo *memo, const struct pt_atom_table *from,
                       const struct pt_atom_table *to, const uint8_t *in, size_t in_len,
                       const uint8_t *out, size_t out_len, size_t size);

#endif

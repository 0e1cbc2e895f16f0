/* A bounds-checked walk over Erlang's external term format: skip a term, read the few kinds that
 * control tuples are keyed by. Never recursive (a hostile term may be nested a million deep),
 * never allocates, never reads outside [p, end).
 */
#ifndef PT_PROTO_ETF_H
#define PT_PROTO_ETF_H

#include "base/pt.h"

struct pt_etf {
    const uint8_t *p;
    const uint8_t *end;
}; /* never written through, nothing owned: as thread-safe as the bytes it points to */

enum { PT_ETF_MAX_WORK = 65536 }; /* terms in one pt_etf_skip(): bounds the time */

/* Each moves e->p past what it read and returns 0, or leaves e->p where it was and returns
 * PT_E_MORE (input ends inside the term) or PT_E_BAD_FRAME (not what was asked for / malformed). */
int pt_etf_tuple(struct pt_etf *e, uint32_t *arity);
int pt_etf_uint(struct pt_etf *e, uint64_t *value); /* non-negative integer below 2^64 */
int pt_etf_atom(struct pt_etf *e, const uint8_t **name, size_t *len);
/* Any one term; one of more than PT_ETF_MAX_WORK terms is PT_E_BAD_FRAME. Cost follows the number
 * of terms, not of bytes. Atom names, digits and the order of map keys are not looked at. */
int pt_etf_skip(struct pt_etf *e);
/* Any one term that every VM is certain to take: false may also be said of a good one. Steps over what
 * is certain; after false e->p is anywhere. Sure are integers, floats, atoms of ASCII, pids, references,
 * strings, binaries, lists and tuples, as VMs write them, up to PT_ETF_MAX_WORK of them. Not maps, whose
 * keys would have to be compared as terms, and what is rare: ports, funs, bit strings, old encodings. */
bool pt_etf_is_sure(struct pt_etf *e);
/* PID_EXT or NEW_PID_EXT. *key, never 0, is made of id, serial and creation: one to one in id and
 * serial for a given creation, the same for both encodings if the creation fits the old one. The
 * node's name is left out: senders are processes of the node that sends, and hashing an atom that
 * has several encodings would cost more than all the rest. */
int pt_etf_pid(struct pt_etf *e, uint64_t *key);
int pt_etf_is_atom(const struct pt_etf *e); /* 1 if the next term is an atom, else 0 */
int pt_etf_is_pid(const struct pt_etf *e);

#endif

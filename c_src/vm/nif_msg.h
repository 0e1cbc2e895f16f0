/* From terms, and from what term_to_iovec/1 made of them, to messages of a channel. NIF calls only.
 *
 * A message is {Control, Message}: in the external format 131 104 2 Control Message. In a distribution
 * packet it is 131 68 0 Control Message. Compressed ones come as they travel. */
#ifndef PT_VM_NIF_MSG_H
#define PT_VM_NIF_MSG_H

#include "proto/relay.h"
#include "vm/chan.h"

enum { PT_NIF_PIECES_MAX = 4096 }; /* of one message: more are for the caller to flatten */

bool pt_nif_well_formed(const ErlNifIOVec *v, bool may_be_zip); /* as its first bytes tell */
/* Behind an envelope of so many bytes, PT_RELAY_ENVELOPE_MAX at most; 0 for none. `list` is what v was
 * made from; v is well formed, and not compressed if there is an envelope. NULL: no memory. */
struct pt_msg *pt_nif_message(ERL_NIF_TERM list, const ErlNifIOVec *v, const uint8_t *envelope,
                              size_t len);
/* The same for a term that is a signal and small: term_to_iovec/1 takes half a microsecond for the
 * smallest. */
struct pt_msg *pt_nif_message_of_term(ErlNifEnv *env, ERL_NIF_TERM term, const uint8_t *envelope,
                                      size_t len);
/* A binary of a term that is a signal and small, for pt_chan_send_small() on c: in bin, which is the caller's
 * to release. 1; 0: it is too large for that; -ENOMEM. The key is not set. */
int pt_nif_small_of_term(ErlNifEnv *env, ERL_NIF_TERM term, const struct pt_chan *c,
                         ErlNifBinary *bin, struct pt_small *small, unsigned *refs);
/* The names of this node and of the peer, for a channel with it. */
void pt_nif_set_names(ErlNifEnv *env, struct pt_chan *c, const char *peer);
bool pt_nif_is_small(ErlNifEnv *env, ERL_NIF_TERM t); /* certainly; looks at some dozens of parts */
bool pt_nif_is_signal(ErlNifEnv *env, ERL_NIF_TERM t); /* {Control :: tuple(), _} */
/* An atom: no wait; {wait, Message}; {notify, Message}. False: none of these. */
bool pt_nif_get_wait(ErlNifEnv *env, ERL_NIF_TERM term, struct pt_chan_wait *w);

#endif

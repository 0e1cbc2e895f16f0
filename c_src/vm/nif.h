#ifndef PT_VM_NIF_H
#define PT_VM_NIF_H

#include "base/pt.h"

#include <erl_nif.h>

/* Inspection, nif_info.c. Maps of what the carrier is doing; never blocks on the network. */
ERL_NIF_TERM pt_nif_info(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_sessions(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_session(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);

/* Channels, nif_chan.c. */
int pt_nif_chan_load(ErlNifEnv *env); /* 0 or -ENOMEM */
ERL_NIF_TERM pt_nif_channel(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_channel_send(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_channel_send_term(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_channel_cancel(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_channel_is_open(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
struct pt_chan;
struct pt_chan *pt_nif_get_chan(ErlNifEnv *env, ERL_NIF_TERM handle); /* NULL: it is none */
/* A handle, which takes the caller's reference. */
ERL_NIF_TERM pt_nif_chan_handle(ErlNifEnv *env, struct pt_chan *c);
/* So many bytes were sent in this call: it counts as the time that it took. */
void pt_nif_spent(ErlNifEnv *env, size_t size);

/* Relay, nif_relay.c. */
ERL_NIF_TERM pt_nif_relay_set(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_relay_send(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_relay_send_term(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_relay_hand_on(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_relay_taken(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_relay_info(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);

#endif

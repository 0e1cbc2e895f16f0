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

#endif

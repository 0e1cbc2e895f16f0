#ifndef PT_VM_NIF_H
#define PT_VM_NIF_H

#include "base/pt.h"

#include <erl_nif.h>

/* Inspection, nif_info.c. Maps of what the carrier is doing; never blocks on the network. */
ERL_NIF_TERM pt_nif_info(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_sessions(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);
ERL_NIF_TERM pt_nif_session(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[]);

#endif

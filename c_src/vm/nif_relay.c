/* The NIFs of relay: the table of ways comes from Erlang, messages of this node's processes leave. */
#include "vm/nif.h"
#include "vm/nif_msg.h"
#include "vm/relay.h"

#include <errno.h>
#include <sys/random.h>

static ERL_NIF_TERM atom(ErlNifEnv *env, const char *name) { return enif_make_atom(env, name); }

/* ---- the table ---- */

static bool get_classes(ErlNifEnv *env, ERL_NIF_TERM list, struct pt_relay_name *names)
{
    ERL_NIF_TERM head;
    ErlNifBinary bin;
    for (unsigned i = 0; enif_get_list_cell(env, list, &head, &list); i++) {
        if (!enif_inspect_binary(env, head, &bin))
            return false;
        names[i] = (struct pt_relay_name){bin.data, bin.size};
    }
    return true;
}

/* A list of tuples of handles, with an atom for what has to be opened. */
static bool get_chans(ErlNifEnv *env, ERL_NIF_TERM list, unsigned nclasses, struct pt_chan **chans)
{
    const ERL_NIF_TERM *of_hop;
    ERL_NIF_TERM head;
    int arity;
    while (enif_get_list_cell(env, list, &head, &list)) {
        if (!enif_get_tuple(env, head, &arity, &of_hop) || (unsigned)arity != nclasses)
            return false;
        for (unsigned i = 0; i < nclasses; i++, chans++) {
            *chans = pt_nif_get_chan(env, of_hop[i]);
            if (!*chans && !enif_is_atom(env, of_hop[i]))
                return false;
        }
    }
    return true;
}

static int make_table(ErlNifEnv *env, const ERL_NIF_TERM argv[], struct pt_relay_table **out)
{
    ErlNifBinary self, routes;
    unsigned nclasses, nhops;
    struct pt_relay_name *classes = NULL;
    struct pt_chan **chans = NULL;
    int rc = PT_E_BAD_FRAME;

    if (!enif_inspect_binary(env, argv[0], &self) || !enif_inspect_binary(env, argv[3], &routes) ||
        !enif_get_list_length(env, argv[1], &nclasses) || nclasses > UINT16_MAX ||
        !enif_get_list_length(env, argv[2], &nhops) || nhops > UINT16_MAX)
        return PT_E_BAD_FRAME;
    classes = pt_alloc((nclasses + 1) * sizeof *classes);
    chans = pt_alloc(((size_t)nclasses * nhops + 1) * sizeof(struct pt_chan *));
    if (!classes || !chans)
        rc = -ENOMEM;
    else if (get_classes(env, argv[1], classes) && get_chans(env, argv[2], nclasses, chans))
        rc =
            pt_relay_table_new(out, &(struct pt_relay_parts){.self = {self.data, self.size},
                                                             .classes = classes,
                                                             .nclasses = nclasses,
                                                             .chans = chans,
                                                             .nhops = nhops,
                                                             .routes = {routes.data, routes.size}});
    pt_free(classes);
    pt_free(chans);
    return rc;
}

/* The caller is the owner from now on.
 * relay_set(Self, Classes, Hops, Routes, Force) -> ok | again | system_limit */
ERL_NIF_TERM pt_nif_relay_set(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct pt_relay_table *t;
    ErlNifPid owner;
    uint64_t origin = 0;
    (void)argc;

    if (!enif_is_atom(env, argv[4]) || !enif_self(env, &owner))
        return enif_make_badarg(env);
    int rc = make_table(env, argv, &t);
    if (rc == -ENOMEM)
        return atom(env, "system_limit");
    if (rc)
        return enif_make_badarg(env);
    while (!origin) /* eight bytes are never cut short */
        if (getrandom(&origin, sizeof origin, 0) < 0 && errno != EINTR)
            break;
    bool force = enif_is_identical(argv[4], atom(env, "true"));
    if (!origin) {
        pt_relay_table_free(t);
        return atom(env, "system_limit");
    }
    if (pt_relay_table_set(t, &owner, origin, force)) {
        pt_relay_table_free(t);
        return atom(env, "again");
    }
    return atom(env, "ok");
}

/* relay_taken() -> ok */
ERL_NIF_TERM pt_nif_relay_taken(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    (void)argc, (void)argv;
    pt_relay_taken();
    return atom(env, "ok");
}

/* relay_info() -> #{Counter => integer()} */
ERL_NIF_TERM pt_nif_relay_info(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ERL_NIF_TERM keys[PT_RELAY_COUNTS + 1], values[PT_RELAY_COUNTS + 1], map;
    (void)argc, (void)argv;

    for (unsigned i = 0; i < PT_RELAY_COUNTS; i++) {
        keys[i] = atom(env, pt_relay_counter_name((enum pt_relay_count)i));
        values[i] = enif_make_uint64(env, pt_relay_counter((enum pt_relay_count)i));
    }
    keys[PT_RELAY_COUNTS] = atom(env, "routes");
    values[PT_RELAY_COUNTS] = enif_make_uint64(env, pt_relay_routes());
    return enif_make_map_from_arrays(env, keys, values, PT_RELAY_COUNTS + 1, &map)
               ? map
               : enif_make_badarg(env);
}

/* ---- sending ---- */

struct request {
    struct pt_relay_send s;
    ErlNifEnv *env;
    ERL_NIF_TERM what;    /* the term, or the list of v */
    const ErlNifIOVec *v; /* NULL: a term */
};

static struct pt_msg *make(struct pt_relay_send *s, const uint8_t *envelope, size_t len)
{
    struct request *r = PT_CONTAINER_OF(s, struct request, s);
    return r->v ? pt_nif_message(r->what, r->v, envelope, len)
                : pt_nif_message_of_term(r->env, r->what, envelope, len);
}

static bool get_name(ErlNifEnv *env, ERL_NIF_TERM term, size_t most, struct pt_relay_name *name)
{
    ErlNifBinary bin;
    if (!enif_inspect_binary(env, term, &bin) || !bin.size || bin.size > most)
        return false;
    *name = (struct pt_relay_name){bin.data, bin.size};
    return true;
}

/* Node, Hops, Class, Only, Partition, What. */
static bool get_request(ErlNifEnv *env, const ERL_NIF_TERM argv[], struct request *r)
{
    ErlNifPid self;
    unsigned partition = 0;

    *r = (struct request){.s.make = make, .env = env, .what = argv[5]};
    r->s.only = enif_is_identical(argv[3], atom(env, "true"));
    r->s.keyed = !enif_is_atom(env, argv[4]);
    if (!get_name(env, argv[0], PT_RELAY_NAME_MAX, &r->s.to) ||
        !enif_get_uint(env, argv[1], &r->s.hops) || !r->s.hops || r->s.hops > PT_RELAY_HOPS_MAX ||
        !get_name(env, argv[2], PT_CHAN_NAME_MAX, &r->s.class) || !enif_is_atom(env, argv[3]) ||
        (r->s.keyed && !enif_get_uint(env, argv[4], &partition)) || !enif_self(env, &self))
        return false;
    r->s.partition = partition;
    r->s.sender = (uint64_t)self.pid;
    return true;
}

static ERL_NIF_TERM submit(ErlNifEnv *env, struct request *r)
{
    ERL_NIF_TERM handle;
    switch (pt_relay_send(&r->s)) {
    case PT_CHAN_SENT: pt_nif_spent(env, r->s.size); return atom(env, "ok");
    case PT_CHAN_BUSY:
        handle = pt_nif_chan_handle(env, r->s.via);
        return r->s.id ? enif_make_tuple3(env, atom(env, "busy"), handle,
                                          enif_make_uint64(env, r->s.id))
                       : atom(env, "busy");
    case PT_CHAN_CLOSED: return atom(env, "none");
    case PT_RELAY_UNKNOWN: return atom(env, "unknown");
    default: return atom(env, "system_limit");
    }
}

/* relay_send(Node, Hops, Class, Only, Partition, Data, Wait) ->
 *     ok | none | unknown | busy | {busy, Handle, Id} | flatten | system_limit */
ERL_NIF_TERM pt_nif_relay_send(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifIOVec space, *v = &space;
    struct request r;
    ERL_NIF_TERM tail;
    (void)argc;

    if (!get_request(env, argv, &r) ||
        !enif_inspect_iovec(env, PT_NIF_PIECES_MAX, argv[5], &tail, &v) ||
        !pt_nif_well_formed(v, false) || !pt_nif_get_wait(env, argv[6], &r.s.wait))
        return enif_make_badarg(env);
    if (!enif_is_empty_list(env, tail))
        return atom(env, "flatten");
    r.v = v;
    return submit(env, &r);
}

/* relay_send_term(Node, Hops, Class, Only, Partition, {Control, Message}) ->
 *     ok | none | unknown | busy | large | system_limit */
ERL_NIF_TERM pt_nif_relay_send_term(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct request r;
    (void)argc;

    if (!get_request(env, argv, &r) || !pt_nif_is_signal(env, argv[5]))
        return enif_make_badarg(env);
    return pt_nif_is_small(env, argv[5]) ? submit(env, &r) : atom(env, "large");
}

/* hand_on(Handle, Envelope) -> ok | busy | closed | malformed | system_limit */
ERL_NIF_TERM pt_nif_relay_hand_on(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct pt_chan *c = pt_nif_get_chan(env, argv[0]);
    ErlNifBinary bin;
    (void)argc;

    if (!c || !enif_inspect_binary(env, argv[1], &bin))
        return enif_make_badarg(env);
    switch (pt_relay_hand_on(c, bin.data, bin.size)) {
    case PT_CHAN_SENT: return atom(env, "ok");
    case PT_CHAN_BUSY: return atom(env, "busy");
    case PT_CHAN_CLOSED: return atom(env, "closed");
    case PT_E_BAD_FRAME: return atom(env, "malformed");
    default: return atom(env, "system_limit");
    }
}

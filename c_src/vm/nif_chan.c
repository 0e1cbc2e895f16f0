/* The NIFs of channels: a handle for a channel, sending on it, looking at it.
 *
 * A handle outlives the session: it holds a reference on the channel, which then answers `closed`. */
#include "vm/chan.h"
#include "vm/nif.h"
#include "vm/nif_msg.h"
#include "vm/peer.h"

#include <errno.h>
#include <string.h>

enum {
    BYTES_PER_PERCENT = 8 * 1024, /* of a time slice: a copy into a socket, and the system call */
};

struct handle {
    struct pt_chan *chan;
};

static ErlNifResourceType *handle_type;

static void handle_gone(ErlNifEnv *env, void *obj)
{
    (void)env;
    pt_chan_unref(((struct handle *)obj)->chan);
}

int pt_nif_chan_load(ErlNifEnv *env)
{
    handle_type = enif_open_resource_type(env, NULL, "partisan_channel", handle_gone,
                                          ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER, NULL);
    return handle_type ? 0 : -ENOMEM;
}

struct pt_chan *pt_nif_get_chan(ErlNifEnv *env, ERL_NIF_TERM term)
{
    void *h;
    return enif_get_resource(env, term, handle_type, &h) ? ((struct handle *)h)->chan : NULL;
}

ERL_NIF_TERM pt_nif_chan_handle(ErlNifEnv *env, struct pt_chan *c)
{
    struct handle *h = enif_alloc_resource(handle_type, sizeof *h);
    h->chan = c;
    ERL_NIF_TERM out = enif_make_resource(env, h);
    enif_release_resource(h);
    return out;
}

static ERL_NIF_TERM atom(ErlNifEnv *env, const char *name) { return enif_make_atom(env, name); }

/* channel(SessionId, No) -> Handle | undefined */
ERL_NIF_TERM pt_nif_channel(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifBinary id;
    unsigned no;
    struct pt_chan *c = NULL;
    char peer[PT_NODE_NAME_MAX + 1];
    (void)argc;

    if (!enif_inspect_binary(env, argv[0], &id) || id.size != 16 ||
        !enif_get_uint(env, argv[1], &no))
        return enif_make_badarg(env);
    pthread_mutex_lock(&pt_node.lock);
    for (struct pt_list *n = pt_node.peers.next; !c && n != &pt_node.peers; n = n->next) {
        struct pt_peer *p = PT_CONTAINER_OF(n, struct pt_peer, node_link);
        if (!memcmp(p->session_id, id.data, sizeof p->session_id) && (c = pt_chan_find(p, no)))
            memcpy(peer, p->node, sizeof peer);
    }
    if (c)
        pt_chan_ref(c);
    pthread_mutex_unlock(&pt_node.lock);
    if (c)
        pt_nif_set_names(env, c, peer);
    return c ? pt_nif_chan_handle(env, c) : atom(env, "undefined");
}

/* ---- sending ---- */

/* What send and send_term have in common. */
struct request {
    struct pt_chan *chan;
    ErlNifPid self;
    bool keyed;
    unsigned partition;
    ErlNifBinary key;
};

static bool get_request(ErlNifEnv *env, const ERL_NIF_TERM argv[], struct request *r)
{
    *r = (struct request){.chan = pt_nif_get_chan(env, argv[0])};
    r->keyed = !enif_is_atom(env, argv[2]);
    return r->chan && enif_self(env, &r->self) &&
           (!r->keyed || enif_get_uint(env, argv[2], &r->partition)) &&
           (!r->chan->monotonic || enif_inspect_binary(env, argv[3], &r->key));
}

void pt_nif_spent(ErlNifEnv *env, size_t size)
{
    if (size > BYTES_PER_PERCENT)
        enif_consume_timeslice(env, (int)PT_MIN(size / BYTES_PER_PERCENT, (size_t)100));
}

/* What distinguishes the flows of a channel: a sender, or a sender and a partition key. */
static uint64_t flow_of(const struct request *r)
{
    uint64_t flow = pt_mix64(r->self.pid + (r->keyed ? pt_mix64(r->partition + 1u) : 0));
    return flow ? flow : 1;
}

static uint32_t lane_of(const struct request *r)
{
    return (uint32_t)(r->keyed ? pt_mix64(r->partition) : flow_of(r));
}

/* Takes m. */
static ERL_NIF_TERM submit(ErlNifEnv *env, const struct request *r, struct pt_msg *m,
                           const struct pt_chan_wait *wait)
{
    uint64_t id = 0;
    size_t size = m->size;

    m->key = flow_of(r);
    int rc = pt_chan_send(r->chan, m, lane_of(r), r->key.data, r->key.size, wait, &id);
    if (rc == PT_CHAN_SENT) {
        pt_nif_spent(env, size);
        return atom(env, "ok");
    }
    pt_msg_free(m, &pt_chan_owner_ops);
    switch (rc) {
    case PT_CHAN_BUSY:
        return id ? enif_make_tuple2(env, atom(env, "busy"), enif_make_uint64(env, id))
                  : atom(env, "busy");
    case PT_CHAN_CLOSED: return atom(env, "closed");
    default: return atom(env, "system_limit");
    }
}

/* Partition: a hash of the partition key, or `none`. Key: a binary, of a monotonic channel. Wait: an
 * atom, {wait, Message} or {notify, Message}.
 * send(Handle, Data, Partition, Key, Wait) -> ok | busy | {busy, Id} | closed | flatten |
 *                                             system_limit */
ERL_NIF_TERM pt_nif_channel_send(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifIOVec space, *v = &space;
    struct request r;
    struct pt_chan_wait wait;
    ERL_NIF_TERM tail;
    (void)argc;

    if (!get_request(env, argv, &r) ||
        !enif_inspect_iovec(env, PT_NIF_PIECES_MAX, argv[1], &tail, &v) ||
        !pt_nif_well_formed(v, true) || !pt_nif_get_wait(env, argv[4], &wait))
        return enif_make_badarg(env);
    if (!enif_is_empty_list(env, tail))
        return atom(env, "flatten");
    struct pt_msg *m = pt_nif_message(argv[1], v, NULL, 0);
    return m ? submit(env, &r, m, &wait) : atom(env, "system_limit");
}

static ERL_NIF_TERM submit_small(ErlNifEnv *env, const struct request *r, ErlNifBinary *bin,
                                 struct pt_small *small, unsigned refs)
{
    small->key = flow_of(r);
    int rc = pt_chan_send_small(r->chan, small, refs, lane_of(r));
    enif_release_binary(bin);
    switch (rc) {
    case PT_CHAN_SENT: return atom(env, "ok");
    case PT_CHAN_BUSY: return atom(env, "busy");
    case PT_CHAN_CLOSED: return atom(env, "closed");
    default: return atom(env, "system_limit");
    }
}

/* send_term(Handle, {Control, Message}, Partition, Key) -> ok | busy | closed | large | system_limit.
 * Small terms are encoded here: term_to_iovec/1 takes half a microsecond for the smallest. */
ERL_NIF_TERM pt_nif_channel_send_term(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    static const struct pt_chan_wait no_wait = {.kind = PT_CHAN_NO_WAIT};
    struct request r;
    struct pt_small small;
    ErlNifBinary bin;
    unsigned refs;
    (void)argc;

    if (!get_request(env, argv, &r) || !pt_nif_is_signal(env, argv[1]))
        return enif_make_badarg(env);
    if (!pt_nif_is_small(env, argv[1]))
        return atom(env, "large");
    if (pt_chan_takes_small(r.chan)) {
        int rc = pt_nif_small_of_term(env, argv[1], r.chan, &bin, &small, &refs);
        if (rc)
            return rc < 0 ? atom(env, "system_limit") : submit_small(env, &r, &bin, &small, refs);
    }
    struct pt_msg *m = pt_nif_message_of_term(env, argv[1], NULL, 0);
    return m ? submit(env, &r, m, &no_wait) : atom(env, "system_limit");
}

/* cancel(Handle, Id) -> ok */
ERL_NIF_TERM pt_nif_channel_cancel(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct pt_chan *c = pt_nif_get_chan(env, argv[0]);
    ErlNifUInt64 id;
    (void)argc;
    if (!c || !enif_get_uint64(env, argv[1], &id))
        return enif_make_badarg(env);
    pt_chan_cancel(c, id);
    return atom(env, "ok");
}

/* is_open(Handle) -> boolean() */
ERL_NIF_TERM pt_nif_channel_is_open(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct pt_chan *c = pt_nif_get_chan(env, argv[0]);
    (void)argc;
    if (!c)
        return enif_make_badarg(env);
    return atom(env, pt_chan_is_open(c) ? "true" : "false");
}

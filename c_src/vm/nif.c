/* The NIF: start of the loop, keyed hashes for the handshake. Inspection is in nif_info.c. */
#include "vm/nif.h"

#include "proto/auth.h"
#include "vm/loops.h"
#include "vm/node.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static ERL_NIF_TERM atom(ErlNifEnv *env, const char *name) { return enif_make_atom(env, name); }

static ERL_NIF_TERM string(ErlNifEnv *env, const char *s)
{
    return enif_make_string(env, s, ERL_NIF_LATIN1);
}

static ERL_NIF_TERM failed(ErlNifEnv *env, int err)
{
    return enif_raise_exception(env, string(env, pt_strerror(err)));
}

/* ---- start/1 ---- */

static bool get_uint(ErlNifEnv *env, ERL_NIF_TERM map, const char *key, unsigned *out)
{
    ERL_NIF_TERM v;
    return !enif_get_map_value(env, map, atom(env, key), &v) || enif_get_uint(env, v, out);
}

static bool get_backend(ErlNifEnv *env, ERL_NIF_TERM map, enum pt_backend_wish *out)
{
    char name[16];
    ERL_NIF_TERM v;
    if (!enif_get_map_value(env, map, atom(env, "backend"), &v))
        return true;
    if (enif_get_atom(env, v, name, sizeof name, ERL_NIF_LATIN1) <= 0)
        return false;
    if (!strcmp(name, "auto"))
        *out = PT_BACKEND_AUTO;
    else if (!strcmp(name, "uring"))
        *out = PT_BACKEND_URING;
    else if (!strcmp(name, "poll"))
        *out = PT_BACKEND_POLL;
    else
        return false;
    return true;
}

static pthread_mutex_t watcher_lock = PTHREAD_MUTEX_INITIALIZER;
static ErlNifPid watcher;
static bool watched;

void pt_nif_loop_failed(const char *text)
{
    ErlNifEnv *env = enif_alloc_env();
    if (!env)
        return;
    ERL_NIF_TERM m = enif_make_tuple2(env, atom(env, "partisan_loop_failed"), string(env, text));
    pthread_mutex_lock(&watcher_lock);
    if (watched)
        enif_send(NULL, &watcher, env, m);
    pthread_mutex_unlock(&watcher_lock);
    enif_free_env(env);
}

static ERL_NIF_TERM start(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct pt_node_opts o = {.backend = PT_BACKEND_AUTO};
    struct pt_loops_info loops;
    char congestion[32] = "";
    ERL_NIF_TERM v;
    ErlNifUInt64 n;
    (void)argc;
    if (!enif_is_map(env, argv[0]) || !get_backend(env, argv[0], &o.backend) ||
        !get_uint(env, argv[0], "notsent_lowat", &o.notsent_lowat) ||
        !get_uint(env, argv[0], "user_timeout", &o.user_timeout_ms) ||
        !get_uint(env, argv[0], "flush_timeout", &o.flush_timeout_ms) ||
        !get_uint(env, argv[0], "loops", &o.loops))
        return enif_make_badarg(env);
    if (enif_get_map_value(env, argv[0], atom(env, "max_queue_node"), &v)) {
        if (!enif_get_uint64(env, v, &n))
            return enif_make_badarg(env);
        o.max_queue = n;
    }
    if (enif_get_map_value(env, argv[0], atom(env, "ram"), &v)) {
        if (!enif_get_uint64(env, v, &n))
            return enif_make_badarg(env);
        o.ram = n;
    }
    if (enif_get_map_value(env, argv[0], atom(env, "congestion"), &v) &&
        enif_get_string(env, v, congestion, sizeof congestion, ERL_NIF_LATIN1) <= 0)
        return enif_make_badarg(env);
    o.congestion = congestion;
    pthread_mutex_lock(&watcher_lock);
    watched = enif_self(env, &watcher) != NULL;
    pthread_mutex_unlock(&watcher_lock);
    int rc = pt_node_start(&o);
    pt_loops_info(&loops);
    v = string(env, loops.reason);
    return enif_make_tuple2(env, atom(env, rc ? "error" : "ok"), v);
}

/* ---- keyed hashes ---- */

static ERL_NIF_TERM hmac(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifBinary key, data;
    ERL_NIF_TERM out;
    (void)argc;
    if (!enif_inspect_binary(env, argv[0], &key) ||
        !enif_inspect_iolist_as_binary(env, argv[1], &data))
        return enif_make_badarg(env);
    uint8_t *mac = enif_make_new_binary(env, PT_AUTH_MAC_SIZE, &out);
    int rc = pt_auth_hmac(key.data, key.size, data.data, data.size, mac);
    return rc ? failed(env, rc) : out;
}

static ERL_NIF_TERM hkdf(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifBinary key, salt, info;
    ERL_NIF_TERM out;
    unsigned len;
    (void)argc;
    if (!enif_inspect_binary(env, argv[0], &key) || !enif_inspect_binary(env, argv[1], &salt) ||
        !enif_inspect_binary(env, argv[2], &info) || !enif_get_uint(env, argv[3], &len) ||
        len == 0 || len > PT_AUTH_HKDF_MAX)
        return enif_make_badarg(env);
    uint8_t *bytes = enif_make_new_binary(env, len, &out);
    int rc =
        pt_auth_hkdf(key.data, key.size, salt.data, salt.size, info.data, info.size, bytes, len);
    return rc ? failed(env, rc) : out;
}

static ERL_NIF_TERM equal(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ErlNifBinary a, b;
    (void)argc;
    if (!enif_inspect_binary(env, argv[0], &a) || !enif_inspect_binary(env, argv[1], &b))
        return enif_make_badarg(env);
    bool same = a.size == b.size && pt_auth_equal(a.data, b.data, a.size);
    return atom(env, same ? "true" : "false");
}

static ERL_NIF_TERM random_bytes(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    unsigned len;
    ERL_NIF_TERM out;
    (void)argc;
    if (!enif_get_uint(env, argv[0], &len) || len == 0 || len > 256)
        return enif_make_badarg(env); /* getrandom() never cuts 256 bytes short */
    uint8_t *bytes = enif_make_new_binary(env, len, &out);
    ssize_t n;
    do
        n = getrandom(bytes, len, 0);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)len ? out : failed(env, -errno);
}

/* ---- the library ---- */

static int load(ErlNifEnv *env, void **priv, ERL_NIF_TERM info)
{
    (void)priv, (void)info;
    pt_node_init();
    return pt_nif_chan_load(env) ? 1 : 0;
}

/* A new version of partisan_nif: all state is in the library itself; handles change hands. */
static int upgrade(ErlNifEnv *env, void **priv, void **old, ERL_NIF_TERM info)
{
    (void)priv, (void)old, (void)info;
    return pt_nif_chan_load(env) ? 1 : 0;
}

static ErlNifFunc functions[] = {
    {"start", 1, start, ERL_NIF_DIRTY_JOB_IO_BOUND},
    {"hmac", 2, hmac, 0},
    {"hkdf", 4, hkdf, 0},
    {"equal", 2, equal, 0},
    {"random", 1, random_bytes, 0},
    {"info", 0, pt_nif_info, 0},
    {"sessions", 0, pt_nif_sessions, ERL_NIF_DIRTY_JOB_CPU_BOUND},
    {"session", 1, pt_nif_session, ERL_NIF_DIRTY_JOB_CPU_BOUND},
    {"channel", 2, pt_nif_channel, 0},
    {"channel_send", 5, pt_nif_channel_send, 0},
    {"channel_send_term", 4, pt_nif_channel_send_term, 0},
    {"channel_cancel", 2, pt_nif_channel_cancel, 0},
    {"channel_is_open", 1, pt_nif_channel_is_open, 0},
    {"relay_set", 5, pt_nif_relay_set, ERL_NIF_DIRTY_JOB_CPU_BOUND},
    {"relay_send", 7, pt_nif_relay_send, 0},
    {"relay_send_term", 6, pt_nif_relay_send_term, 0},
    {"relay_hand_on", 2, pt_nif_relay_hand_on, 0},
    {"relay_taken", 0, pt_nif_relay_taken, 0},
    {"relay_info", 0, pt_nif_relay_info, 0},
};

ERL_NIF_INIT(partisan_nif, functions, load, NULL, upgrade, NULL)

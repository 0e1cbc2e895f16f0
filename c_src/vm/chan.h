/* A named channel with a peer: a stream of its own, senders that call a NIF, and who waits for room.
 *
 * Lifetime: counted references. The peer's list has one as long as the session lives, each handle
 * that Erlang holds has one (nif_chan.c). When the session ends the channel is `gone`: it keeps
 * nothing but the answer `closed`.
 * Locks: s.lock guards everything but what is marked otherwise; docs/architecture.md has the order.
 */
#ifndef PT_VM_CHAN_H
#define PT_VM_CHAN_H

#include "proto/batch.h"
#include "proto/mono.h"
#include "proto/names.h"
#include "proto/zip.h"
#include "vm/stream.h"

#include <erl_nif.h>

enum { PT_CHAN_NAME_MAX = 255 };

struct pt_chan {
    struct pt_stream s;
    atomic_uint refs;
    /* constant */
    unsigned no; /* its number here; the peer has one of its own */
    size_t name_len;
    char name[PT_CHAN_NAME_MAX]; /* UTF-8 */
    bool monotonic;
    bool relay; /* what comes on it are envelopes (vm/relay.h) */
    /* node lock and port lock to change, either to read */
    struct pt_list link; /* pt_peer.chans */
    /* s.lock */
    bool gone;
    bool stopped;            /* about to be closed: senders are turned away, lanes may end */
    bool draining;           /* to be stopped: senders find it full, what is queued still leaves */
    struct pt_mono mono;     /* beside s.txq, counted in s.waiting_* */
    struct pt_hmap waiters;  /* id -> struct waiter */
    struct pt_hmap notifies; /* pt_chan_wait.key -> struct waiter */
    uint64_t next_waiter;
    bool named;
    struct pt_names names; /* constant once a handle was given out, but for its atoms */
    uint64_t flushed_at;   /* ns */
    unsigned since_flush, flush_carried;
    uint64_t replaced, busy_count, waits;
};

struct pt_peer;

enum { PT_CHAN_MONOTONIC = 1, PT_CHAN_RELAY = 2 }; /* flags */

/* Port lock. `no` is free, lanes 1 .. PT_LANES_MAX. NULL: no memory. */
struct pt_chan *pt_chan_open(struct pt_peer *p, unsigned no, unsigned lanes, unsigned flags,
                             uint64_t max_queue, const char *name, size_t name_len);
struct pt_chan *pt_chan_find(struct pt_peer *p, unsigned no); /* node or port lock; borrowed */
/* Port lock. The end of the session, or of the channel: what is queued is dropped, who waits is told,
 * the peer's reference goes. */
void pt_chan_close(struct pt_chan *c);
enum pt_chan_stop { PT_CHAN_GO_ON, PT_CHAN_STOP, PT_CHAN_DRAIN };
/* Port lock. Stop: if nothing is queued or under way, sends nothing more (senders get PT_CHAN_CLOSED)
 * and takes no offence if lanes end; false: it is in use. Drain: from now on the channel is full, so
 * that it can be stopped when what is queued has left, however much is said on it; false: it relays,
 * and relays drop what a full channel does not take. Go on: as before. */
bool pt_chan_stop(struct pt_chan *c, enum pt_chan_stop how);
/* Port lock. The VM closes the port: what is queued still leaves, but senders get PT_CHAN_CLOSED, or
 * the queue would never be empty. */
void pt_chan_finish(struct pt_chan *c);
struct pt_chan *pt_chan_ref(struct pt_chan *c);
void pt_chan_unref(struct pt_chan *c);   /* any thread */
bool pt_chan_is_open(struct pt_chan *c); /* any thread: would a sender not get PT_CHAN_CLOSED? */

/* Whose lane it is; not of the distribution's own stream. */
static inline struct pt_chan *pt_chan_of(const struct pt_lane *l)
{
    return PT_CONTAINER_OF(l->stream, struct pt_chan, s);
}
void pt_chan_lane_name(const struct pt_lane *l, char *out, size_t len); /* for a log line */
bool pt_chan_may_end(const struct pt_lane *l); /* port lock: is it a lane of a stopped channel? */
/* Port lock: sends what senders left to the port, and tells those who wait that there is room. */
int pt_chan_look(struct pt_chan *c);

/* A sender's wish for when the channel is full. */
struct pt_chan_wait {
    enum { PT_CHAN_NO_WAIT, PT_CHAN_WAIT, PT_CHAN_NOTIFY } kind;
    ErlNifPid pid;
    ERL_NIF_TERM message; /* sent to pid when there is room, or the channel is gone */
    uint64_t key; /* of PT_CHAN_NOTIFY, not 0: the same key once more is the same wish, told once */
};

enum { PT_CHAN_SENT, PT_CHAN_BUSY, PT_CHAN_CLOSED };

/* Any thread. Takes m (kind and key set) if it returns PT_CHAN_SENT. Key: of a monotonic channel.
 * PT_CHAN_BUSY: the channel is full; *id cancels the wait, if there is one. -ENOMEM. */
int pt_chan_send(struct pt_chan *c, struct pt_msg *m, uint32_t lane_hash, const uint8_t *key,
                 size_t key_len, const struct pt_chan_wait *wait, uint64_t *id);
/* The names of the session's nodes, if the peer takes references to them. Before the first
 * pt_chan_send_small(); again: the same. */
void pt_chan_set_names(struct pt_chan *c, const struct pt_name *mine, const struct pt_name *theirs);
/* Any thread. May pt_chan_send_small() be called? */
static inline bool pt_chan_takes_small(const struct pt_chan *c)
{
    return c->names.set && !c->monotonic && !c->relay;
}
/* The same for a small message that is encoded already, PT_BATCH_COPY bytes at most: nobody waits, and
 * the bytes are copied. refs: its section is c->names.section[refs]. */
int pt_chan_send_small(struct pt_chan *c, const struct pt_small *m, unsigned refs,
                       uint32_t lane_hash);
/* The message of this wait will not come any more, unless it was sent. */
void pt_chan_cancel(struct pt_chan *c, uint64_t id);

/* Owners of a channel's messages: binaries that a NIF call was given, or the one in which a message
 * came that is passed on; kept by reference. */
struct pt_chan_owner {
    atomic_uint refs;
    ErlNifIOVec *iov; /* or NULL */
    void *bin;        /* or NULL */
};
extern const struct pt_owner_ops pt_chan_owner_ops;
/* With a reference on bin, and one for the caller on the owner. NULL: no memory. */
struct pt_chan_owner *pt_chan_owner_of(void *bin);

#endif

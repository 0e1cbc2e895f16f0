/* One lane's outgoing bytes: frames chosen from the transmit queue, as iovecs for one sendmsg().
 *
 * Headers and tiny messages are written into the arena one after the other, so that a run of small
 * messages is a single iovec; larger payloads are gathered from where they lie. A batch is filled
 * when empty and then sent until it is empty again (partial sends move the front).
 */
#ifndef PT_PROTO_BATCH_H
#define PT_PROTO_BATCH_H

#include "proto/txq.h"

enum {
    PT_BATCH_IOV = 1024, /* UIO_MAXIOV */
    PT_BATCH_ARENA = 96 * 1024,
    PT_BATCH_COPY = 1280, /* messages up to this size are copied into the arena */
    PT_BATCH_MSGS = 256,
    /* The most there is in a batch (a message of up to 64 KB that is not cut may exceed it): four packets as
     * Linux makes them for loopback and for a device that cuts them up itself (65483 bytes, 65160 in
     * Ethernet's segments, some less with IPv6). A few bytes beyond a multiple are a packet of their own,
     * which costs as much as a full one: with 256 KB, a fifth of the rate of large messages
     * (docs/performance.md). More would only age in the batch. */
    PT_BATCH_BYTES = 4 * 64000,
    PT_BATCH_LEAST = 16 * 1024, /* room for less is not used: a chunk has its price at both ends */
    PT_BATCH_BULK = PT_BATCH_BYTES - PT_BATCH_LEAST /* about what a batch of chunks has at least */
};

/* What a batch needs while there is something in it. */
struct pt_batch_room {
    struct pt_msg *msgs[PT_BATCH_MSGS]; /* a reference for each frame built from it */
    struct iovec iov[PT_BATCH_IOV];
    uint8_t arena[PT_BATCH_ARENA];
};

struct pt_batch {
    struct pt_frame_ctx ctx;    /* numbers of this lane */
    struct pt_atom_table atoms; /* what was sent on this lane */
    struct pt_atom_memo memo;   /* from the VM's table to this one */
    unsigned lane;
    size_t bytes;          /* left to send */
    unsigned first, count; /* iov[first .. count) is left to send */
    unsigned nmsgs;
    size_t used;     /* of the arena */
    uint64_t frames; /* counters for inspection */
    uint64_t sent_bytes;
    uint64_t trim_frames;       /* frames at the last pt_batch_trim() */
    struct pt_batch_room *room; /* NULL: not needed yet, or given back */
};

struct pt_batch *pt_batch_new(unsigned lane);                           /* NULL: no memory */
void pt_batch_free(struct pt_batch *b, const struct pt_owner_ops *ops); /* drops what is unsent */

/* Adds a frame without payload (TICK, ACK, AUTH, DROP). False: no room, send first; if the batch is
 * empty, no memory. */
bool pt_batch_control(struct pt_batch *b, const struct pt_frame *f);
/* Adds frames from the queue until the batch is full or the queue has nothing for this lane.
 * 0, an error of the queue, or -ENOMEM. */
int pt_batch_fill(struct pt_batch *b, struct pt_txq *q, unsigned want, size_t chunk);
/* A whole packet of the VM, small: the atom section (`there` bytes can be read), and the `len` bytes
 * behind it, PT_BATCH_COPY at most. */
struct pt_small {
    uint64_t key;
    const uint8_t *section;
    size_t there;
    const uint8_t *bytes;
    size_t len;
};
/* Adds it as the frame it would become if it were queued, without queueing it (see pt_txq_pass). vm: the
 * VM's atoms. 1: done; 0: it has to be queued, vm may have learnt its atoms already. */
int pt_batch_pass(struct pt_batch *b, struct pt_txq *q, struct pt_atom_table *vm,
                  const struct pt_small *m);
/* n bytes left; at the end of the batch its messages are released. */
void pt_batch_sent(struct pt_batch *b, size_t n, const struct pt_owner_ops *ops);
/* For now and then: gives the room of an empty batch back if next to nothing was built since the last
 * call. Nobody may be sending from it. */
void pt_batch_trim(struct pt_batch *b);

#endif

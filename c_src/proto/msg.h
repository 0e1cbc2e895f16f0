/* An outgoing message: its bytes as slices, partly referenced and partly copied, and its place in
 * the transmit queue. A message is built in one piece, or grows while the VM hands over its
 * fragments (`complete` is false until the last one).
 */
#ifndef PT_PROTO_MSG_H
#define PT_PROTO_MSG_H

#include "base/list.h"
#include "proto/atoms.h"
#include "proto/dop.h"

#include <sys/uio.h>

/* Pieces up to this size are copied: holding a reference costs about as much as copying so few
 * bytes, and a copy does not keep a large binary alive. */
enum { PT_MSG_COPY_MAX = 256 };

/* Most iovecs a frame's payload takes: a MSG of 64 KB has at most one kept piece for each 257
 * bytes and a copied one before each; chunks are cut to fit. */
enum { PT_MSG_IOV_MAX = 512 };

/* References are counted by the host (driver_binary_inc_refc in the VM). Any thread. */
struct pt_owner_ops {
    void (*ref)(void *owner);
    void (*unref)(void *owner);
};

struct pt_slice {
    void *owner; /* NULL: the bytes lie inside the segment itself */
    const uint8_t *base;
    size_t len;
};

struct pt_seg {
    struct pt_seg *next;
    uint32_t nslices;
    struct pt_slice slices[]; /* followed by the copied bytes */
};

/* Blocks for small messages: they are made and freed at the rate of messages, often on different
 * threads, which is the slow case of any allocator. Guarded by the session lock, like the messages. */
enum { PT_MSG_POOL_BLOCK = 640, PT_MSG_POOL_KEPT = 4096 };
struct pt_msg_pool {
    void *free; /* linked through the first word */
    unsigned count;
};
void pt_msg_pool_free(struct pt_msg_pool *pool); /* after all its messages */
/* Gives back half of the blocks that lie unused, but for PT_MSG_POOL_FLOOR of them. Called now and
 * then it takes a pool that is not used any more to the floor, and costs one that is little. */
enum { PT_MSG_POOL_FLOOR = 32 };
void pt_msg_pool_trim(struct pt_msg_pool *pool);

struct pt_flow;
struct pt_epoch;

struct pt_msg {
    struct pt_msg_pool *pool; /* where the block goes back to, or NULL */
    struct pt_list pick;      /* express, bulk or blocked list of the queue */
    struct pt_list order;     /* its flow's queue, or the list behind a fence */
    struct pt_flow *flow;     /* NULL: fence, free, or not yet submitted */
    struct pt_epoch *epoch;
    uint64_t key;      /* sender; valid with PT_ORDER_SENDER */
    uint64_t transfer; /* 0 until the first chunk left */
    uint64_t room;     /* upper bound of size, exact once complete */
    size_t size;       /* bytes known so far */
    size_t emitted;
    uint32_t inflight; /* frames built from it and not yet sent */
    uint16_t lanes;    /* lanes its chunks took, a bit each */
    uint8_t kind;      /* enum pt_order */
    bool complete;
    bool head; /* its turn has come: nothing must be numbered before it */
    bool bare; /* the bytes start with Ctl: 131 68 and the section were taken off */
    bool done; /* its last byte is in a frame */
    /* bare: what the section refers to, our references (session lock) */
    uint16_t natoms;
    struct pt_atom_ref *atoms;
    /* cursor of emission */
    struct pt_seg *seg;
    uint32_t slice;
    size_t slice_off;
    struct pt_seg *last;
    struct pt_seg first; /* must stay last: its slices follow */
};

/* Source bytes: iov[i] belongs to owners[i] (NULL: must be copied). The first `skip` bytes are left
 * out and the `prefix` is put in front. References are taken on owners that are kept. NULL: no
 * memory, nothing taken. */
struct pt_source {
    const struct iovec *iov;
    void *const *owners;
    size_t count;
    size_t skip;
    const uint8_t *prefix;
    size_t prefix_len;
    const struct pt_atom_ref *atoms; /* pt_msg_new() only: copied, with references */
    unsigned natoms;
};
struct pt_msg *pt_msg_new(const struct pt_source *src, const struct pt_owner_ops *ops);
/* The same from a pool, if it is small. */
struct pt_msg *pt_msg_new_in(struct pt_msg_pool *pool, const struct pt_source *src,
                             const struct pt_owner_ops *ops);
/* Appends a fragment. 0 or -ENOMEM (message unchanged). */
int pt_msg_append(struct pt_msg *m, const struct pt_source *src, const struct pt_owner_ops *ops);
void pt_msg_free(struct pt_msg *m, const struct pt_owner_ops *ops);

/* The next `len` bytes as iovecs; returns their number, or 0 if more than `max` would be needed
 * (nothing moved then). len <= size - emitted. */
unsigned pt_msg_take(struct pt_msg *m, size_t len, struct iovec *iov, unsigned max);
/* How many of the next bytes fit into `max` iovecs, at most len. */
size_t pt_msg_fit(const struct pt_msg *m, size_t len, unsigned max);
/* Copies the next `len` bytes to out and moves on. */
void pt_msg_copy(struct pt_msg *m, uint8_t *out, size_t len);

#endif

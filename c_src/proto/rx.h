/* The receiving side of a session: bytes of its lanes in, packets in a legal order out.
 *
 * Pure: the caller asks where the next bytes of a lane should go (pt_rx_space), reads them there,
 * and tells how many came (pt_rx_got). Large payloads thus go straight into the binary they are
 * delivered in. The caller serialises all calls of one session (in the VM: the port lock).
 */
#ifndef PT_PROTO_RX_H
#define PT_PROTO_RX_H

#include "proto/atoms.h"
#include "proto/frame.h"
#include "proto/order.h"

#include <sys/uio.h>

enum {
    PT_RX_BUF_MIN = 8 * 1024,
    PT_RX_BUF_MAX = 64 * 1024,
    PT_RX_COPY_MAX = 16 * 1024,  /* delivered by copy, so that it does not keep a buffer alive:
                                    a quarter of the buffer, the VM's own rule for binaries */
    PT_RX_DIRECT_MIN = 4 * 1024, /* a longer payload cut off by the buffer's end is read in place */
    PT_RX_ACK_BYTES = 256 * 1024,
    PT_RX_ACK_COUNT = 256,
    PT_RX_GROUP = 2048,      /* small packets that came together share a binary of this size */
    PT_RX_GROUP_MAX = 16,    /* so many at most */
    PT_RX_TRANSFERS = 65536, /* unfinished transfers of one session */
};

/* The host's binaries and what it does with packets. `host` is the first argument of each. */
struct pt_rx_ops {
    void *(*bin_new)(size_t size);             /* NULL: no memory */
    void *(*bin_grow)(void *bin, size_t size); /* sole reference; NULL: no memory, bin kept */
    uint8_t *(*bin_data)(void *bin);
    bool (*bin_shared)(void *bin); /* has other references than ours */
    void (*bin_ref)(void *bin);
    void (*bin_unref)(void *bin);
    /* One packet. bin: the bytes lie in it (the callee takes its own reference); NULL: copy them.
     * < 0: the host wants no more, which ends the session. */
    int (*deliver)(void *host, void *bin, const uint8_t *p, size_t len);
    int (*acked)(void *host, uint64_t number); /* 0 or PT_E_* */
};

enum pt_body { PT_BODY_NONE, PT_BODY_MSG, PT_BODY_CHUNK, PT_BODY_SKIP };

struct pt_rx_lane {
    struct pt_frame_ctx ctx;
    struct pt_atom_table atoms; /* what came on this lane */
    struct pt_atom_memo memo;   /* from this table to the session's */
    void *buf;                  /* NULL until used */
    size_t cap, start, end;     /* unparsed bytes are buf[start, end) */
    unsigned small_reads;
    size_t want; /* capacity the traffic asks for */
    /* payload being read in place; the buffer is empty meanwhile */
    enum pt_body body;
    size_t left;           /* bytes to come */
    size_t at;             /* where they go in bin or transfer->bin */
    struct pt_frame frame; /* whose payload it is */
    void *bin;             /* PT_BODY_MSG: our reference */
    struct pt_transfer *transfer;
    bool bulk; /* the last payload was a chunk: expect another */
    uint64_t frames, bytes;
};

struct pt_rx {
    const struct pt_rx_ops *ops;
    void *host;
    struct pt_order_rx order;
    struct pt_atom_table atoms; /* see told */
    /* What the VM was told, and has in its cache: `atoms`, or, of streams that speak to one VM by one
     * connection, those of the first. */
    struct pt_atom_table *told;
    bool atom_cache; /* it has one; without, references would crash OTP 25 */
    struct pt_hmap transfers;
    uint64_t room, max_room; /* of the transfers: the sum, and its limit */
    size_t max_held;         /* messages: each costs memory, however small it is */
    /* Small packets ready to be delivered, copied from the lane's buffer. One allocation for
     * several; one that stays in a mailbox keeps no more than PT_RX_GROUP bytes alive. */
    struct {
        void *bin; /* PT_RX_GROUP bytes, or NULL */
        unsigned count;
        size_t used;
        size_t len[PT_RX_GROUP_MAX];
    } group;
    bool alone; /* nothing came behind the message at hand: no group to make */
    uint64_t max_message;
    const uint8_t *auth; /* 32 bytes lane 0 must open with; NULL once seen */
    struct {
        bool seen;
        uint64_t last, streams;
    } end;                  /* what END said */
    uint64_t acked;         /* the watermark told last */
    size_t since_bytes;     /* delivered since */
    size_t uncovered_bytes; /* at most so much of what came before the last ACK lay beyond it */
    uint64_t delivered, delivered_bytes;
    int error; /* the first one. Nothing is delivered after it: `atoms` may then tell
                                 more than the VM was told, which would exchange atoms */
};

/* max_room starts as UINT64_MAX, max_held as what a sender may have unacknowledged. */
void pt_rx_init(struct pt_rx *r, const struct pt_rx_ops *ops, void *host, uint64_t max_message,
                const uint8_t auth[PT_FRAME_AUTH_LEN]); /* auth stays the caller's */
void pt_rx_free(struct pt_rx *r);
void pt_rx_lane_init(struct pt_rx_lane *l);
void pt_rx_lane_free(struct pt_rx *r, struct pt_rx_lane *l);

/* Where to read: 1 or 2 iovecs, or -ENOMEM. */
int pt_rx_space(struct pt_rx *r, struct pt_rx_lane *l, struct iovec iov[2]);
/* n bytes were read there. 0; PT_E_*; -ENOMEM; or what deliver returned if < 0. Any error ends the
 * session. `first`: this is lane 0, which opens with AUTH. */
int pt_rx_got(struct pt_rx *r, struct pt_rx_lane *l, size_t n, bool first);

/* END has come, and everything that was sent before it. */
bool pt_rx_complete(const struct pt_rx *r);

/* Gives back memory that a peak needed; for now and then. */
void pt_rx_trim(struct pt_rx *r);

/* Should an ACK be sent now even if nothing else is? And its value (piggy-backed when it differs
 * from r->acked); pt_rx_ack_sent() notes that it was. */
bool pt_rx_ack_due(const struct pt_rx *r);
void pt_rx_ack_sent(struct pt_rx *r, uint64_t number);

#endif

/* One peer: the driver's port, its lanes, the session's transmit and receive state.
 *
 * Locks, in the order they may be taken: port lock (the VM's), node lock, session lock, the loop's
 * inbox. The members are grouped by what guards them.
 */
#ifndef PT_VM_PEER_H
#define PT_VM_PEER_H

#include "io/loop.h"
#include "proto/batch.h"
#include "proto/rx.h"
#include "proto/txq.h"
#include "vm/node.h"

#include <erl_driver.h>

enum {
    PT_LANES_MAX = 16,
    PT_NODE_NAME_MAX = 1023,
    /* Between bulk and small messages on one lane a chunk is the head of the line; on a lane of
     * its own it only sets how often two bulk messages alternate. */
    PT_CHUNK_SHARED = 64 * 1024,
    PT_CHUNK_BULK = 256 * 1024,
};

/* Who may touch a lane's batch and socket for sending. Changed under the session lock only. */
enum pt_lane_state {
    PT_LANE_NONE,  /* not attached */
    PT_LANE_IDLE,  /* nobody sends */
    PT_LANE_SCHED, /* a scheduler is inside sendmsg(), with the port lock */
    PT_LANE_LOOP,  /* the loop thread */
    PT_LANE_DEAD,  /* sending failed */
};

struct pt_peer;

struct pt_lane {
    struct pt_peer *peer; /* constant */
    unsigned no;          /* constant */
    int fd;               /* constant once attached */
    /* port lock */
    struct pt_rx_lane rx;
    bool selected; /* driver_select() was called for fd: stop_select closes it */
    bool reading, rx_paused;
    bool ended; /* the peer sends no more on it */
    uint64_t reads;
    /* session lock */
    enum pt_lane_state state;
    bool tx_paused, full; /* full: the socket took less than offered last time */
    struct pt_tx tx;
    struct pt_batch *batch;
    uint64_t sends;
    uint32_t retransmits; /* at the last look, see pt_peer.lossy_until */
};

struct pt_peer {
    /* constant after INIT */
    ErlDrvPort port;
    ErlDrvTermData port_term;
    bool ready; /* INIT was done */
    uint8_t session_id[16], my_auth[PT_FRAME_AUTH_LEN], peer_auth[PT_FRAME_AUTH_LEN];
    char node[PT_NODE_NAME_MAX + 1];
    unsigned lanes_wanted;
    uint64_t max_message;
    int wake_fd;
    struct pt_lane lanes[PT_LANES_MAX];

    /* port lock */
    struct pt_rx rx;
    struct pt_hmap joins; /* SeqId -> struct pt_join */
    bool started, busy, flush_timer, flushing, failed;
    bool ending;     /* a lane ended or failed: the others are read to their ends */
    uint64_t end_by; /* ns: but not longer than this */
    char end_text[160];
    ErlDrvTermData notify;
    bool has_notify;
    uint64_t flushed_at;  /* ns */
    bool direct;          /* that flush was made by outputv: its batch may go on */
    bool half_closed;     /* nothing more to send: FIN sent on all lanes */
    uint64_t flush_mark;  /* how far a closing port had come when it last moved */
    uint64_t flush_moved; /* ns, when that was */
    uint64_t packets_out, packets_flushed, flush_carried, busy_count;

    /* node lock */
    struct pt_list node_link;

    /* session lock */
    pthread_mutex_t lock;
    pthread_cond_t released; /* the loop gave a lane up */
    struct pt_txq txq;
    struct pt_msg_pool pool;
    struct pt_atom_table vm_atoms; /* the VM's cache of atoms it sent, as its packets tell it */
    unsigned attached;
    bool auth_sent, tick, ack_now, closing, wake_on_drain, wake_below;
    uint64_t ack_sent;
    size_t max_queue, low_queue;
    int error;            /* first sending error */
    uint64_t lossy_until; /* ns: the bulk lane lost packets lately, bulk may use more lanes */
    uint64_t lossy_looked;
    uint64_t loss_seen; /* ns: when it had retransmitted at a look */
    uint64_t sent_bytes;

    /* written with the port lock, read by any thread, relaxed: what the sending side and
     * inspection want to know of the receiving side */
    struct {
        atomic_uint_fast64_t delivered, delivered_bytes, watermark, held_bytes, held_count,
            held_peak, transfers, busy_count;
        atomic_bool busy;
        struct {
            atomic_uint_fast64_t frames, bytes, reads;
        } lane[PT_LANES_MAX];
    } seen;

    /* any thread */
    atomic_bool wake_pending;
};

uint64_t pt_now_ns(void); /* monotonic */

/* peer.c; port lock */
struct pt_peer *pt_peer_new(ErlDrvPort port); /* NULL with errno set */
void pt_peer_free(struct pt_peer *p);         /* stop callback: waits until the loop let go */
int pt_peer_attach(struct pt_peer *p, unsigned lane, int fd, char *why, size_t why_len);
/* Forgets a lane that never carried anything: the peer gave its half up while it was attached. False:
 * it did carry something, or is the first. */
bool pt_peer_detach(struct pt_peer *p, struct pt_lane *l);
int pt_peer_start(struct pt_peer *p);
/* Ends the connection because of the wire. The port may be gone on return: return at once. */
void pt_peer_fail(struct pt_peer *p, int err, const char *what);
/* The same, but first what the peer sent on its other lanes is read: a peer that closes has closed
 * all of them, and they end one after the other. l: the lane that ended, or NULL if one failed in
 * sending. The port may be gone on return. */
void pt_peer_end(struct pt_peer *p, struct pt_lane *l, int err, const char *what);
void pt_peer_end_check(struct pt_peer *p); /* timer: is the time up? The port may be gone */
void pt_peer_wake(struct pt_peer *p); /* any thread: the port's wake descriptor becomes readable */

/* tx.c */
int pt_tx_output(struct pt_peer *p, ErlIOVec *ev); /* port lock: a packet of the VM */
void pt_tx_schedule(struct pt_peer *p);            /* port lock: a flush soon */
/* Port lock, after pt_tx_output(): true if the caller should flush now, else it is scheduled. */
bool pt_tx_at_once(struct pt_peer *p);
int pt_tx_flush(struct pt_peer *p);                /* port lock: send now what the sockets take */
size_t pt_tx_loop_fill(struct pt_tx *tx);          /* loop thread */
void pt_tx_loop_done(struct pt_tx *tx, ssize_t n); /* loop thread */
size_t pt_tx_pending(struct pt_peer *p);           /* session lock held: bytes not yet sent */
void pt_tx_unbusy(struct pt_peer *p);              /* port lock */

/* join.c; port and session lock */
struct pt_join;
/* refs: what the packet's section refers to; of FRAG_FIRST only. */
int pt_join_packet(struct pt_peer *p, const struct pt_packet *pk, struct pt_source *src,
                   const struct pt_atom_refs *refs);
void pt_join_free(struct pt_peer *p);
/* A message with a header that depends on no earlier one: 131 68, all references NEW, and what
 * follows the header in src. NULL: no memory. */
struct pt_msg *pt_join_whole(struct pt_source *src, const struct pt_packet *pk,
                             const struct pt_atom_refs *refs);

/* rx_io.c; port lock */
int pt_rx_io(struct pt_peer *p, struct pt_lane *l);
void pt_rx_select(struct pt_peer *p, struct pt_lane *l, bool on);
extern const struct pt_rx_ops pt_peer_rx_ops;

/* verbs.c; port lock */
ErlDrvSSizeT pt_verb(struct pt_peer *p, unsigned verb, const uint8_t *buf, size_t len, char **rbuf,
                     ErlDrvSizeT rlen);

#endif

/* One peer: the driver's port and the streams of the session.
 *
 * Locks, in the order they may be taken: port lock (the VM's), node lock, session lock, a channel's
 * lock, the loop's inbox. The members are grouped by what guards them.
 */
#ifndef PT_VM_PEER_H
#define PT_VM_PEER_H

#include "vm/node.h"
#include "vm/stage.h"
#include "vm/stream.h"

#include <erl_driver.h>

enum { PT_NODE_NAME_MAX = 1023 };

struct pt_peer {
    /* constant after INIT */
    ErlDrvPort port;
    ErlDrvTermData port_term;
    bool ready; /* INIT was done */
    uint8_t session_id[16], my_auth[PT_FRAME_AUTH_LEN], peer_auth[PT_FRAME_AUTH_LEN];
    char node[PT_NODE_NAME_MAX + 1];
    uint64_t serial; /* of the sessions since the VM started; pt_node.peers is in its order */
    uint64_t max_message;
    bool channel_names; /* on channels both sides may refer to the nodes' names (proto/names.h) */
    int wake_fd;

    /* port lock */
    struct pt_hmap joins; /* SeqId -> struct pt_join */
    bool started, busy, flush_timer, flushing, failed;
    bool ending; /* the peer said END, a lane ended or failed: the others are read to their ends */
    uint64_t end_by;     /* ns: but not longer than this, .. */
    uint64_t end_reads;  /* .. if no more reads than these were made in END_GRACE_NS, .. */
    uint64_t end_graces; /* .. or so many of those have passed */
    char end_text[160];
    ErlDrvTermData notify;
    bool has_notify;
    uint64_t flushed_at, flooded_at; /* ns */
    bool direct;                     /* that flush was made by outputv: its batch may go on */
    /* of the last packet: more of its message is to come, nothing to send yet; or enough for a send
     * is queued, and the lane for it is free */
    bool part, plenty;
    uint64_t burst;       /* messages delivered by the last read .. */
    uint64_t burst_at;    /* .. and when, ns, if several */
    bool half_closed;     /* nothing more to send: FIN sent on all lanes */
    uint64_t flush_mark;  /* how far a closing port had come when it last moved */
    uint64_t flush_moved; /* ns, when that was */
    uint64_t packets_out, packets_flushed, flush_carried;
    struct pt_packet_memo memo;
    struct pt_stage stage;

    /* node lock */
    struct pt_list node_link;

    /* node lock and port lock to change, either to read */
    struct pt_list chans; /* struct pt_chan.link */

    struct pt_stream s; /* the distribution's own traffic; s.lock is the session lock */

    /* session lock */
    struct pt_atom_table vm_atoms; /* the VM's cache of atoms it sent, as its packets tell it */

    /* any thread */
    atomic_bool wake_pending;
};

/* peer.c; port lock */
struct pt_peer *pt_peer_new(ErlDrvPort port); /* NULL with errno set */
void pt_peer_free(struct pt_peer *p);         /* stop callback: waits until the loop let go */
int pt_peer_start(struct pt_peer *p);
/* All streams of the session, the distribution's own first: s = NULL begins, NULL ends. */
struct pt_stream *pt_peer_stream(struct pt_peer *p, struct pt_stream *s);
/* Ends the connection because of the wire. The port may be gone on return: return at once. */
void pt_peer_fail(struct pt_peer *p, int err, const char *what);
/* The same, but first what the peer sent on its other lanes is read: a peer that closes has closed
 * all of them, and they end one after the other. l: the lane that ended, or NULL if one failed in
 * sending, or if the peer said END. The port may be gone on return. */
void pt_peer_end(struct pt_peer *p, struct pt_lane *l, int err, const char *what);
/* Has the peer said that it ends the connection, and has all come that it sent before? */
bool pt_peer_complete(struct pt_peer *p);
void pt_peer_end_check(struct pt_peer *p); /* timer: is the time up? The port may be gone */
/* Tells the lanes' process that a lane was forgotten: {partisan_lane_gone, Port, Channel, Lane}, where
 * channel 0 is the distribution's own stream. */
void pt_peer_lane_gone(struct pt_peer *p, const struct pt_lane *l);
/* Bulk would use lanes that are not there: {partisan_more_lanes, Port}. */
void pt_peer_more_lanes(struct pt_peer *p);
void pt_peer_wake(struct pt_peer *p); /* any thread: the port's wake descriptor becomes readable */

/* tx.c */
int pt_tx_output(struct pt_peer *p, ErlIOVec *ev); /* port lock: a packet of the VM */
/* Port and session lock: queues a packet. The first n bytes of it, header and all, lie at front. */
int pt_tx_take(struct pt_peer *p, const struct pt_packet *pk, struct pt_source *src,
               const uint8_t *front, size_t n, size_t size);
void pt_tx_schedule(struct pt_peer *p); /* port lock: a flush soon */
/* Port lock, after pt_tx_output(): true if the caller should flush now, else it is scheduled. */
bool pt_tx_at_once(struct pt_peer *p);
int pt_tx_flush(struct pt_peer *p);   /* port lock: send now what the sockets take */
void pt_tx_unbusy(struct pt_peer *p); /* port lock */

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

/* send.c; loop thread */
size_t pt_send_loop_fill(struct pt_tx *tx);
void pt_send_loop_done(struct pt_tx *tx, ssize_t n);

/* rx_io.c; port lock */
bool pt_rx_may_read(const struct pt_lane *l); /* not before START, nor before lane 0 said AUTH */
int pt_rx_io(struct pt_peer *p, struct pt_lane *l);
void pt_rx_select(struct pt_peer *p, struct pt_lane *l, bool on);
/* A packet for the VM. bin: it lies in this binary; NULL: it is copied. 0, or -ESHUTDOWN: the VM wants
 * no more. */
int pt_rx_to_vm(struct pt_peer *peer, void *bin, const uint8_t *p, size_t len);
extern const struct pt_rx_ops pt_peer_rx_ops;

/* verbs.c; port lock */
ErlDrvSSizeT pt_verb(struct pt_peer *p, unsigned verb, const uint8_t *buf, size_t len, char **rbuf,
                     ErlDrvSizeT rlen);

#endif

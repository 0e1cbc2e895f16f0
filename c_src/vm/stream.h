/* A stream of a session: messages with numbers of their own, and the lanes that carry them. The
 * distribution's own traffic is one, each open channel is another (chan.h). Streams of one session
 * share the driver's port and nothing else.
 *
 * Locks: the members are grouped by what guards them. `port lock` is that of the session's port.
 */
#ifndef PT_VM_STREAM_H
#define PT_VM_STREAM_H

#include "io/loop.h"
#include "proto/batch.h"
#include "proto/path.h"
#include "proto/rx.h"
#include "proto/txq.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    PT_LANES_MAX = 16,
    /* Between bulk and small messages on one lane a chunk is the head of the line; on a lane of
     * its own it only sets how often two bulk messages alternate: with each batch. */
    PT_CHUNK_SHARED = 64 * 1024,
    PT_CHUNK_BULK = PT_BATCH_BYTES,
    /* Messages in the queue before it is full, whatever their size, and bytes in the distribution's own
     * queue, if its messages have less than .._MEAN on average: as much as the VM takes behind them by
     * default (+zdbbl). A deeper queue of small messages buys no isolation, since it is they that are
     * queued, and nothing of it is in the cache when it is sent. A large message raises the average:
     * small ones beside it are let in as far as the other limits go. */
    PT_QUEUE_MESSAGES = 8192,
    PT_QUEUE_MESSAGES_LOW = 7168,
    PT_QUEUE_SMALL = 1024 * 1024,
    PT_QUEUE_SMALL_LOW = 768 * 1024,
    PT_QUEUE_SMALL_MEAN = 4096,
    /* The same in the distribution's own queue for the first surge after it was empty: more than the 4 MB
     * that a socket of inet_tcp takes from it (net.ipv4.tcp_wmem) before the VM's own limit counts. So
     * nobody who sends with `nosuspend' is refused earlier than there. */
    PT_QUEUE_SURGE_MESSAGES = 65536,
    PT_QUEUE_SURGE_SMALL = 6 * 1024 * 1024,
};

/* Who may touch a lane's batch and socket for sending. Changed under the stream lock only. */
enum pt_lane_state {
    PT_LANE_NONE,  /* not attached */
    PT_LANE_IDLE,  /* nobody sends */
    PT_LANE_SCHED, /* a scheduler is inside sendmsg(); with the port lock, or in a NIF (channels) */
    PT_LANE_LOOP,  /* the loop thread */
    PT_LANE_DEAD,  /* sending failed */
};

struct pt_peer;
struct pt_stream;

struct pt_lane {
    struct pt_stream *stream; /* constant */
    unsigned no;              /* constant */
    int fd;                   /* constant once attached */
    /* port lock */
    struct pt_rx_lane rx;
    bool selected; /* driver_select() was called for fd: stop_select closes it */
    bool reading, rx_paused;
    bool ended; /* the peer sends no more on it */
    uint64_t reads;
    /* stream lock */
    enum pt_lane_state state;
    bool tx_paused, full; /* full: the socket took less than offered last time */
    struct pt_tx tx;
    struct pt_batch *batch;
    uint64_t sends;
    struct pt_path_lane path;
    unsigned lowat; /* bytes: TCP_NOTSENT_LOWAT of the socket */
};

struct pt_stream {
    /* constant once it is used */
    struct pt_peer *peer;
    unsigned lanes_wanted;
    unsigned first_loop; /* that of lane 0, see pt_loops_of() */
    /* Every lane takes everything. Else lane 0 is for small messages, the next for bulk, and the
     * others help while pt_path_spread(). */
    bool mixed;
    /* Called with the stream lock after a fill: puts more into txq, if there is. Or NULL. */
    void (*feed)(struct pt_stream *s);

    /* port lock */
    struct pt_rx rx;
    bool cleared;

    /* stream lock */
    pthread_mutex_t lock;
    pthread_cond_t released; /* a lane was given up by the loop, or by a NIF while closing */
    struct pt_txq txq;
    struct pt_msg_pool pool;
    unsigned attached;
    bool auth_sent, tick, ack_now, closing, wake_on_drain, wake_below;
    uint64_t ack_sent;
    size_t max_queue, low_queue;
    size_t waiting_bytes, waiting_messages; /* queued, but not in txq yet (see feed) */
    size_t told_lumps;                      /* cap.c */
    bool flooded;                           /* it was full a moment ago, or was not empty since */
    bool disturbed;                         /* by the test hook: a lane may have a rest to send */
    unsigned passed;                        /* lanes, a bit each: see pt_stream_batch() */
    int error;                              /* first sending error */
    struct pt_path path;
    uint64_t lanes_asked; /* ns: when more_lanes was set last */
    bool more_lanes;      /* the port shall ask for the lanes that are not there */
    uint64_t sent_bytes;

    /* any thread */
    atomic_bool
        due; /* the port shall look at it; the distribution's own stream is always looked at */

    /* written with the port lock, read by any thread, relaxed: what the sending side and
     * inspection want to know of the receiving side */
    struct {
        atomic_uint_fast64_t delivered, delivered_bytes, watermark, held_bytes, held_count,
            held_peak, transfers, room, busy_count;
        atomic_bool busy;
        struct {
            atomic_uint_fast64_t frames, bytes, reads;
        } lane[PT_LANES_MAX];
    } seen;

    struct pt_lane lanes[PT_LANES_MAX];
};

/* stream.c; port lock */
int pt_stream_init(struct pt_stream *s, struct pt_peer *p); /* 0 or -ENOMEM */
/* Waits until nobody sends any more: one turn of the loop thread, or the end of a sendmsg() that
 * does not block. Sending is over for good. */
void pt_stream_reclaim(struct pt_stream *s);
/* Lets go of the lanes' sockets and of what they received. After pt_stream_reclaim(). */
void pt_stream_close_lanes(struct pt_stream *s);
void pt_stream_clear(struct pt_stream *s); /* what is queued and held, for good. After that */
void pt_stream_free(struct pt_stream *s);  /* the rest; nobody else may know it any more */
/* The lane gets a duplicate of fd. Or -errno, with the words in why. */
int pt_stream_attach(struct pt_stream *s, unsigned lane, int fd, char *why, size_t why_len);
/* Gives back memory that a peak needed. Takes the stream lock. For now and then: what is used again is
 * allocated again. */
void pt_stream_trim(struct pt_stream *s);
/* Forgets a lane that never carried anything: the peer gave its half up while it was attached.
 * False: it did carry something, or is the session's first. */
bool pt_stream_detach(struct pt_stream *s, struct pt_lane *l);

/* send.c; stream lock */
void pt_stream_due(struct pt_stream *s);             /* the port looks at it soon */
size_t pt_stream_pending(const struct pt_stream *s); /* bytes not yet sent */
/* Stream lock: the same without messages that are not complete; the rest of one whose sender was stopped half-way
 * does not come. */
size_t pt_stream_to_send(const struct pt_stream *s);
/* Bulk for a whole batch is queued, and the lane that carries it waits for some. */
bool pt_stream_plenty(const struct pt_stream *s);
static inline size_t pt_stream_queued(const struct pt_stream *s) /* bytes, not in a batch yet */
{
    return s->txq.bytes + s->waiting_bytes;
}
/* Full: who sends shall stop; low: may go on. Call pt_cap_account() after txq grew. */
bool pt_stream_is_full(const struct pt_stream *s);
bool pt_stream_is_low(const struct pt_stream *s);
/* A lane's batch, if frames may be added to it behind what is due first. NULL: to the queue. Who adds
 * some without sending it under this very lock sets the lane's bit in `passed`: pt_stream_send() then
 * does not take the stream for empty. */
struct pt_batch *pt_stream_batch(struct pt_stream *s, unsigned lane);
/* Sends what the sockets take now, `first` the lane to begin with. The lock is released around each
 * sendmsg(). 0, or the error with which a lane failed. */
int pt_stream_send(struct pt_stream *s, unsigned first);

/* Tells the peer that nothing follows, if a socket takes it at once: it then need not wait for the end
 * of each lane. `streams`: see docs/wire-protocol.md, END. After `closing` was set and when nothing is
 * pending. */
void pt_stream_say_end(struct pt_stream *s, uint64_t streams);

/* cap.c: the node's limit over all streams; stream lock but for the last */
void pt_cap_account(struct pt_stream *s); /* txq.bytes changed */
void pt_cap_forget(struct pt_stream *s);  /* before txq is freed */
bool pt_cap_full(const struct pt_stream *s);
bool pt_cap_low(const struct pt_stream *s);
uint64_t pt_cap_queued(void); /* bytes, about; any thread */

#endif

/* The verbs of the port; docs/architecture.md lists them. Data that does not fit its verb is
 * answered with words, never trusted; an unknown verb is a badarg, as with any other driver. */
#include "vm/chan.h"
#include "vm/loops.h"
#include "vm/peer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum verb {
    INIT = 1,
    LANE,
    START,
    TICK,
    STAT,
    TEST,
    SETQ,
    NOTIFY,
    CHANNEL,
    CHANNEL_LANE,
    CHANNEL_STATE,
    CHANNEL_CLOSE,
    CHANNEL_STOP
};
enum test { PAUSE_SEND = 1, RESUME_SEND, PAUSE_RECV, RESUME_RECV, SHUT, BREAK_LOOP };

struct answer {
    uint8_t bytes[256];
    size_t len;
};

static void ok(struct answer *a, const void *data, size_t len)
{
    a->bytes[0] = 0;
    memcpy(a->bytes + 1, data, len);
    a->len = 1 + len;
}

static void no(struct answer *a, const char *words)
{
    a->bytes[0] = 1;
    a->len = 1 + (size_t)snprintf((char *)a->bytes + 1, sizeof a->bytes - 1, "%s", words);
    a->len = PT_MIN(a->len, sizeof a->bytes - 1);
}

enum {
    INIT_FIXED = 1 + 1 + 1 + 16 + 32 + 32 + 8 + 8 + 2,
    INIT_ATOM_CACHE = 1,
    INIT_CHANNEL_NAMES = 2
};

static void set_max_queue(struct pt_peer *p, uint64_t bytes)
{
    enum { LEAST = 1024 * 1024, MARGIN = 256 * 1024 };
    size_t max = (size_t)PT_MAX(bytes, (uint64_t)LEAST);
    pthread_mutex_lock(&p->s.lock);
    p->s.max_queue = max;
    /* Each time the queue falls by the margin the VM lets every suspended sender send once more:
     * a narrow margin keeps that cycle short for those who send little. Small ping-pong beyond the
     * cap, four unbounded 8 MB streams: p50 10.4, 3.4, 2.3 ms with 4 MB, 1 MB, 256 KB. */
    p->s.low_queue = max - PT_MIN(max / 4, (size_t)MARGIN);
    pthread_mutex_unlock(&p->s.lock);
}

static void verb_init(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    char why[200];
    if (p->ready)
        return no(a, "INIT was done already");
    if (!pt_loops_work(why, sizeof why))
        return no(a, why);
    if (len < INIT_FIXED || b[0] != 1 || len - INIT_FIXED != pt_get16(b + INIT_FIXED - 2) ||
        len - INIT_FIXED > PT_NODE_NAME_MAX || b[1] < 1 || b[1] > PT_LANES_MAX)
        return no(a, "malformed INIT");
    p->s.lanes_wanted = b[1];
    p->s.rx.atom_cache = b[2] & INIT_ATOM_CACHE;
    p->channel_names = p->s.rx.atom_cache && (b[2] & INIT_CHANNEL_NAMES);
    memcpy(p->session_id, b + 3, 16);
    memcpy(p->my_auth, b + 19, 32);
    memcpy(p->peer_auth, b + 51, 32);
    set_max_queue(p, pt_get64(b + 83));
    p->max_message = pt_get64(b + 91);
    p->s.rx.max_message = p->max_message;
    /* Of an honest peer only two large messages grow at a time, and those whose senders were suspended
     * half-way are unfinished; what does not fit the memory would not arrive in any case. */
    p->s.rx.max_room = PT_MAX(2 * PT_MIN(p->max_message, UINT64_MAX / 2), pt_node.ram);
    memcpy(p->node, b + INIT_FIXED, len - INIT_FIXED);
    p->ready = true;
    pthread_mutex_lock(&pt_node.lock);
    p->serial = atomic_fetch_add(&pt_node.sessions_total, 1) + 1;
    pt_list_push(&pt_node.peers, &p->node_link);
    pthread_mutex_unlock(&pt_node.lock);
    ok(a, "", 0);
}

static void verb_lane(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    char why[200];
    if (!p->ready)
        return no(a, "INIT comes first");
    if (len != 5 || b[0] >= p->s.lanes_wanted)
        return no(a, "malformed LANE");
    if (pt_stream_attach(&p->s, b[0], (int)pt_get32(b + 1), why, sizeof why))
        return no(a, why);
    pt_tx_schedule(p);
    ok(a, "", 0);
}

static void verb_stat(struct pt_peer *p, struct answer *a)
{
    uint8_t r[24];
    uint64_t in = 0, out = 0, pending = p->stage.bytes;
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));) {
        /* any byte is a sign of life: count reads too */
        for (unsigned i = 0; i < PT_LANES_MAX; i++)
            in += s->lanes[i].rx.frames + s->lanes[i].reads;
        pthread_mutex_lock(&s->lock);
        for (unsigned i = 0; i < PT_LANES_MAX; i++)
            if (s->lanes[i].batch)
                out += s->lanes[i].batch->frames + s->lanes[i].sends;
        /* Not of a message whose sender stands still: dist_util sends no tick while bytes are pending */
        pending += pt_stream_to_send(s);
        pthread_mutex_unlock(&s->lock);
    }
    pt_put64(r, in);
    pt_put64(r + 8, out);
    pt_put64(r + 16, pending);
    ok(a, r, sizeof r);
    /* The owner asks once a tick, a quarter of net_ticktime: the time to look at what nothing else
     * looks at in quiet. Whether the node's limit still makes this port busy depends on others. */
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));)
        pt_stream_trim(s);
    pt_stage_trim(&p->stage);
    pt_tx_unbusy(p);
}

static void verb_test(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    if (len != 6 || b[1] >= PT_LANES_MAX)
        return no(a, "malformed TEST");
    unsigned channel = pt_get32(b + 2);
    struct pt_chan *c = channel ? pt_chan_find(p, channel) : NULL;
    struct pt_stream *s = c ? &c->s : &p->s;
    if ((channel && !c) || s->lanes[b[1]].fd < 0)
        return no(a, "TEST: no such lane");
    struct pt_lane *l = &s->lanes[b[1]];
    switch (b[0]) {
    case PAUSE_SEND:
    case RESUME_SEND:
        pthread_mutex_lock(&s->lock);
        l->tx_paused = b[0] == PAUSE_SEND;
        s->disturbed = true;
        pthread_mutex_unlock(&s->lock);
        atomic_store(&s->due, true);
        if (b[0] == RESUME_SEND)
            pt_tx_schedule(p);
        break;
    case PAUSE_RECV:
    case RESUME_RECV:
        l->rx_paused = b[0] == PAUSE_RECV;
        if (p->started)
            pt_rx_select(p, l, b[0] == RESUME_RECV && pt_rx_may_read(l));
        break;
    case SHUT: shutdown(l->fd, SHUT_RDWR); break;
    case BREAK_LOOP: pt_loop_break(pt_loops_of(s->first_loop + l->no), -EBADF); break;
    default: return no(a, "unknown TEST");
    }
    ok(a, "", 0);
}

/* ---- channels ---- */

enum { CHANNEL_FIXED = 4 + 1 + 1 + 8 };

static void verb_channel(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    if (!p->ready)
        return no(a, "INIT comes first");
    if (len <= CHANNEL_FIXED || len - CHANNEL_FIXED > PT_CHAN_NAME_MAX || !pt_get32(b) ||
        b[4] < 1 || b[4] > PT_LANES_MAX)
        return no(a, "malformed CHANNEL");
    if (pt_chan_find(p, pt_get32(b)))
        return no(a, "there is a channel of this number");
    if (!pt_chan_open(p, pt_get32(b), b[4], b[5], pt_get64(b + 6), (const char *)b + CHANNEL_FIXED,
                      len - CHANNEL_FIXED))
        return no(a, "out of memory");
    ok(a, "", 0);
}

static void verb_channel_lane(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    char why[200];
    struct pt_chan *c = len == 9 ? pt_chan_find(p, pt_get32(b)) : NULL;
    if (!c || b[4] >= c->s.lanes_wanted)
        return no(a, "malformed CHANNEL_LANE, or no such channel");
    if (pt_stream_attach(&c->s, b[4], (int)pt_get32(b + 5), why, sizeof why))
        return no(a, why);
    atomic_store(&c->s.due, true);
    pt_tx_schedule(p);
    ok(a, "", 0);
}

/* Sent and acknowledged numbers, delivered numbers, and whether anything is queued: what both sides
 * must agree on before they close a channel that is not used. */
static void verb_channel_state(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    uint8_t r[17];
    struct pt_chan *c = len == 4 ? pt_chan_find(p, pt_get32(b)) : NULL;
    if (!c)
        return no(a, "malformed CHANNEL_STATE, or no such channel");
    pthread_mutex_lock(&c->s.lock);
    pt_put64(r, c->s.txq.next_number - 1);
    pt_put64(r + 8, c->s.rx.order.watermark);
    r[16] = c->s.txq.messages || pt_stream_pending(&c->s);
    pthread_mutex_unlock(&c->s.lock);
    ok(a, r, sizeof r);
}

static void verb_channel_stop(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    struct pt_chan *c = len == 5 ? pt_chan_find(p, pt_get32(b)) : NULL;
    if (!c || b[4] > PT_CHAN_DRAIN)
        return no(a, "malformed CHANNEL_STOP, or no such channel");
    if (!pt_chan_stop(c, (enum pt_chan_stop)b[4]))
        return no(a, "the channel is in use");
    ok(a, "", 0);
}

static void verb_channel_close(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    struct pt_chan *c = len == 4 ? pt_chan_find(p, pt_get32(b)) : NULL;
    if (!c)
        return no(a, "malformed CHANNEL_CLOSE, or no such channel");
    pt_chan_close(c);
    ok(a, "", 0);
}

static void dispatch(struct pt_peer *p, unsigned verb, const uint8_t *b, size_t len,
                     struct answer *a)
{
    switch (verb) {
    case INIT: return verb_init(p, b, len, a);
    case LANE: return verb_lane(p, b, len, a);
    case START:
        if (!p->ready || p->s.lanes[0].fd < 0)
            return no(a, "INIT and LANE 0 come first");
        pt_peer_start(p);
        return ok(a, "", 0);
    case TICK:
        pthread_mutex_lock(&p->s.lock);
        p->s.tick = true;
        pthread_mutex_unlock(&p->s.lock);
        pt_tx_schedule(p);
        return ok(a, "", 0);
    case STAT: return verb_stat(p, a);
    case TEST: return verb_test(p, b, len, a);
    case SETQ:
        if (len != 8)
            return no(a, "malformed SETQ");
        set_max_queue(p, pt_get64(b));
        pt_tx_unbusy(p); /* nothing else may look as long as the peer takes nothing */
        return ok(a, "", 0);
    case NOTIFY:
        p->notify = driver_caller(p->port);
        p->has_notify = true;
        return ok(a, "", 0);
    case CHANNEL: return verb_channel(p, b, len, a);
    case CHANNEL_LANE: return verb_channel_lane(p, b, len, a);
    case CHANNEL_STATE: return verb_channel_state(p, b, len, a);
    case CHANNEL_STOP: return verb_channel_stop(p, b, len, a);
    case CHANNEL_CLOSE: return verb_channel_close(p, b, len, a);
    default: a->len = 0;
    }
}

ErlDrvSSizeT pt_verb(struct pt_peer *p, unsigned verb, const uint8_t *buf, size_t len, char **rbuf,
                     ErlDrvSizeT rlen)
{
    struct answer a;
    dispatch(p, verb, buf, len, &a);
    /* inet:getstat/1 and the like, called with this port by a tool that takes each distribution
     * controller for a socket: prim_inet makes {error, einval} of a badarg, and of nothing else. */
    if (!a.len)
        return -1;
    if (a.len <= rlen) {
        memcpy(*rbuf, a.bytes, a.len);
    } else { /* PORT_CONTROL_FLAG_BINARY: the VM takes a binary over */
        ErlDrvBinary *bin = driver_alloc_binary(a.len);
        if (!bin)
            return -1;
        memcpy(bin->orig_bytes, a.bytes, a.len);
        *rbuf = (char *)bin;
    }
    return (ErlDrvSSizeT)a.len;
}

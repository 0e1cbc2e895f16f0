/* The verbs of the port; docs/architecture.md lists them. Data that does not fit its verb is
 * answered with words, never trusted. */
#include "vm/peer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum verb { INIT = 1, LANE, START, TICK, STAT, TEST, SETQ, NOTIFY };
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

enum { INIT_FIXED = 1 + 1 + 1 + 16 + 32 + 32 + 8 + 8 + 2, INIT_ATOM_CACHE = 1 };

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
    if (!pt_node_loop_works(why, sizeof why))
        return no(a, why);
    if (len < INIT_FIXED || b[0] != 1 || len - INIT_FIXED != pt_get16(b + INIT_FIXED - 2) ||
        len - INIT_FIXED > PT_NODE_NAME_MAX || b[1] < 1 || b[1] > PT_LANES_MAX)
        return no(a, "malformed INIT");
    p->s.lanes_wanted = b[1];
    p->s.rx.atom_cache = b[2] & INIT_ATOM_CACHE;
    memcpy(p->session_id, b + 3, 16);
    memcpy(p->my_auth, b + 19, 32);
    memcpy(p->peer_auth, b + 51, 32);
    set_max_queue(p, pt_get64(b + 83));
    p->max_message = pt_get64(b + 91);
    p->s.rx.max_message = p->max_message;
    memcpy(p->node, b + INIT_FIXED, len - INIT_FIXED);
    p->ready = true;
    atomic_fetch_add(&pt_node.sessions_total, 1);
    pthread_mutex_lock(&pt_node.lock);
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
    uint64_t in = 0, out = 0;
    for (unsigned i = 0; i < PT_LANES_MAX; i++) /* any byte is a sign of life: count reads too */
        in += p->s.lanes[i].rx.frames + p->s.lanes[i].reads;
    pthread_mutex_lock(&p->s.lock);
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (p->s.lanes[i].batch)
            out += p->s.lanes[i].batch->frames + p->s.lanes[i].sends;
    uint64_t pending = pt_stream_pending(&p->s);
    pthread_mutex_unlock(&p->s.lock);
    pt_put64(r, in);
    pt_put64(r + 8, out);
    pt_put64(r + 16, pending);
    ok(a, r, sizeof r);
}

static void verb_test(struct pt_peer *p, const uint8_t *b, size_t len, struct answer *a)
{
    if (len != 6 || b[1] >= PT_LANES_MAX || p->s.lanes[b[1]].fd < 0)
        return no(a, "malformed TEST, or no such lane");
    struct pt_lane *l = &p->s.lanes[b[1]];
    switch (b[0]) {
    case PAUSE_SEND:
    case RESUME_SEND:
        pthread_mutex_lock(&p->s.lock);
        l->tx_paused = b[0] == PAUSE_SEND;
        pthread_mutex_unlock(&p->s.lock);
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
    case BREAK_LOOP: pt_loop_break(pt_node.loop, -EBADF); break;
    default: return no(a, "unknown TEST");
    }
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
    default: return no(a, "unknown verb");
    }
}

ErlDrvSSizeT pt_verb(struct pt_peer *p, unsigned verb, const uint8_t *buf, size_t len, char **rbuf,
                     ErlDrvSizeT rlen)
{
    struct answer a;
    dispatch(p, verb, buf, len, &a);
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

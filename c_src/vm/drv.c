/* The driver's callbacks. One port a peer; every callback runs with that port's lock.
 * Driver interface: erl_driver(3); what a distribution controller must do: docs/architecture.md. */
#include "vm/chan.h"
#include "vm/peer.h"

#include <erl_driver.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static ErlDrvData start(ErlDrvPort port, char *command)
{
    (void)command;
    pt_node_init();
    /* The loop thread and open sessions need the code for as long as the VM runs. */
    static atomic_bool locked;
    if (!atomic_exchange(&locked, true))
        driver_lock_driver(port);
    set_port_control_flags(port, PORT_CONTROL_FLAG_BINARY);
    struct pt_peer *p = pt_peer_new(port);
    return p ? (ErlDrvData)p : ERL_DRV_ERROR_ERRNO;
}

static void stop(ErlDrvData data) { pt_peer_free((struct pt_peer *)data); }

static void stop_select(ErlDrvEvent event, void *reserved)
{
    (void)reserved;
    close((int)(intptr_t)event);
}

/* ---- a closing port ---- */

enum { FLUSH_LOOK_MS = 20 };

/* Bytes that are not yet with the peer's kernel. What is only in our socket's queue counts: closing
 * a socket with unread input resets the connection, and takes that queue with it. */
static uint64_t undelivered(struct pt_peer *p, bool *dead)
{
    struct pt_sock_info si;
    uint64_t n = 0;

    *dead = false;
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));) {
        pthread_mutex_lock(&s->lock);
        n += pt_stream_to_send(s);
        *dead = *dead || s->error;
        pthread_mutex_unlock(&s->lock);
        for (unsigned i = 0; i < PT_LANES_MAX; i++)
            if (s->lanes[i].fd >= 0 && !pt_sock_info(s->lanes[i].fd, &si))
                n += si.out_queue;
    }
    return n;
}

/* FIN right behind the last byte. Waiting for the peer's kernel first would keep the end of the
 * connection from it for a delayed acknowledgement, up to 40 ms: longer than inet_tcp does, which
 * sends FIN at once (erl_distribution_SUITE:differing_cookies). */
static void half_close(struct pt_peer *p)
{
    if (p->half_closed)
        return;
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));) {
        pthread_mutex_lock(&s->lock);
        bool more = pt_stream_to_send(s) != 0;
        pthread_mutex_unlock(&s->lock);
        if (more)
            return;
    }
    uint64_t streams = 0;
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));) {
        pthread_mutex_lock(&s->lock);
        s->closing =
            true; /* not even an ACK: it would fail, and we would not wait for what is under way */
        if (s != &p->s && s->txq.next_number > 1) {
            pt_stream_say_end(s, 0);
            streams++;
        }
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_lock(&p->s.lock);
    pt_stream_say_end(&p->s, streams);
    pthread_mutex_unlock(&p->s.lock);
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));) {
        for (unsigned i = 0; i < PT_LANES_MAX; i++)
            if (s->lanes[i].fd >= 0)
                shutdown(s->lanes[i].fd, SHUT_WR);
    }
    p->half_closed = true;
}

/* Done when everything is delivered, or nothing moved for flush_timeout: halt() must not wait for a
 * dead peer (OTP issue 7438). */
static void flush_look(struct pt_peer *p)
{
    bool dead;
    half_close(p);
    uint64_t left = undelivered(p, &dead);
    uint64_t now = pt_now_ns();

    if (left != p->flush_mark) {
        p->flush_mark = left;
        p->flush_moved = now;
    }
    if (!p->started || p->ending || dead || left == 0 ||
        now - p->flush_moved > pt_node.flush_timeout_ms * 1000000ull) {
        if (driver_sizeq(p->port))
            driver_deq(p->port, driver_sizeq(p->port));
    } else {
        driver_set_timer(p->port, FLUSH_LOOK_MS);
    }
}

static int flush_streams(struct pt_peer *p)
{
    int rc = pt_tx_flush(p);
    for (struct pt_list *n = p->chans.next, *next; n != &p->chans; n = next) {
        struct pt_chan *c = PT_CONTAINER_OF(n, struct pt_chan, link);
        next = n->next;
        if (atomic_exchange(&c->s.due, false) || p->flushing) {
            int failed = pt_chan_look(c);
            rc = rc ? rc : failed;
        }
    }
    return rc;
}

static void flush(ErlDrvData data)
{
    struct pt_peer *p = (struct pt_peer *)data;
    p->flushing = true; /* reading goes on: what is left may wait for acknowledgements */
    pthread_mutex_lock(&p->s.lock);
    p->s.wake_on_drain = true;
    pthread_mutex_unlock(&p->s.lock);
    for (struct pt_list *n = p->chans.next; n != &p->chans; n = n->next)
        pt_chan_finish(PT_CONTAINER_OF(n, struct pt_chan, link));
    p->flush_moved = pt_now_ns();
    p->flush_timer = false; /* the port has one timer, and flush_look() takes it */
    if (!p->failed)
        (void)flush_streams(p);
    flush_look(p);
}

/* ---- events ---- */

/* The port may be gone on return. */
static void send_now(struct pt_peer *p)
{
    int rc = flush_streams(p);
    if (p->flushing)
        flush_look(p);
    else if (rc)
        pt_peer_end(p, NULL, rc, "sending failed");
    else if (p->ending)
        pt_peer_end_check(p);
}

static void outputv(ErlDrvData data, ErlIOVec *ev)
{
    struct pt_peer *p = (struct pt_peer *)data;
    if (p->failed)
        return;
    int rc = pt_tx_output(p, ev);
    if (rc)
        pt_peer_fail(p, rc, "cannot queue a message");
    else if (pt_tx_at_once(p))
        send_now(p);
}

static void timeout(ErlDrvData data)
{
    struct pt_peer *p = (struct pt_peer *)data;
    p->flush_timer = false;
    send_now(p);
}

static void on_wake(struct pt_peer *p)
{
    uint64_t count;
    ssize_t n = read(p->wake_fd, &count, sizeof count);
    (void)n;
    atomic_store(&p->wake_pending, false); /* before looking: what comes later wakes again */
    int err = 0;
    for (struct pt_stream *s = NULL; !err && (s = pt_peer_stream(p, s));) {
        pthread_mutex_lock(&s->lock);
        err = s->error;
        pthread_mutex_unlock(&s->lock);
    }
    if (err && !p->flushing)
        pt_peer_end(p, NULL, err, "sending failed");
    else
        send_now(p);
}

static void on_lane(struct pt_peer *p, struct pt_lane *l)
{
    char lane[320], what[352];
    int rc = pt_rx_io(p, l);

    if (rc && l->stream == &p->s)
        snprintf(lane, sizeof lane, "lane %u", l->no);
    else if (rc)
        pt_chan_lane_name(l, lane, sizeof lane);
    bool complete = p->s.rx.end.seen && pt_peer_complete(p);
    if (p->flushing) {
        if (rc) {
            l->ended = true;
            pt_rx_select(p, l, false);
        }
        if (rc || complete)
            p->ending = true; /* whatever ended it, nobody listens there any more */
        send_now(p);          /* an acknowledgement may have released the last message */
    } else if (complete && (!rc || rc == -ENODATA || rc == -ECONNRESET)) {
        pt_peer_fail(p, 0, "closed by the peer");
    } else if (!rc && p->s.rx.end.seen && !p->ending) {
        pt_peer_end(p, NULL, 0, "closed by the peer");
    } else if (rc && !p->ending && pt_chan_may_end(l)) {
        l->ended = true;
        pt_rx_select(p, l, false);
    } else if ((rc == -ENODATA || rc == -ECONNRESET) && !p->ending &&
               pt_stream_detach(l->stream, l)) {
        pt_peer_lane_gone(p, l); /* the connection does well without it */
    } else if (rc == -ENODATA) {
        snprintf(what, sizeof what, "%s was closed by the peer", lane);
        pt_peer_end(p, l, 0, what);
    } else if (rc == -ECONNRESET || rc == -EPIPE || rc == -ETIMEDOUT) {
        pt_peer_end(p, l, rc, lane);
    } else if (rc == -ESHUTDOWN) {
        pt_rx_select(p, l, false); /* the VM is closing the port */
    } else if (rc) {
        pt_peer_fail(p, rc, lane);
    }
}

static struct pt_lane *lane_of(struct pt_peer *p, int fd)
{
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));)
        for (unsigned i = 0; i < s->lanes_wanted; i++)
            if (s->lanes[i].fd == fd)
                return &s->lanes[i];
    return NULL;
}

static void ready_input(ErlDrvData data, ErlDrvEvent event)
{
    struct pt_peer *p = (struct pt_peer *)data;
    int fd = (int)(intptr_t)event;

    if (fd == p->wake_fd) {
        on_wake(p);
        return;
    }
    struct pt_lane *l = lane_of(p, fd);
    if (l && l->reading && !p->failed)
        on_lane(p, l);
}

static ErlDrvSSizeT control(ErlDrvData data, unsigned int verb, char *buf, ErlDrvSizeT len,
                            char **rbuf, ErlDrvSizeT rlen)
{
    return pt_verb((struct pt_peer *)data, verb, (const uint8_t *)buf, len, rbuf, rlen);
}

static ErlDrvEntry entry = {
    .start = start,
    .stop = stop,
    .ready_input = ready_input,
    .driver_name = (char *)(uintptr_t) "partisan_drv",
    .control = control,
    .timeout = timeout,
    .outputv = outputv,
    .flush = flush,
    .extended_marker = (int)ERL_DRV_EXTENDED_MARKER,
    .major_version = ERL_DRV_EXTENDED_MAJOR_VERSION,
    .minor_version = ERL_DRV_EXTENDED_MINOR_VERSION,
    /* setnode() refuses a port whose driver lacks SOFT_BUSY */
    .driver_flags = ERL_DRV_FLAG_USE_PORT_LOCKING | ERL_DRV_FLAG_SOFT_BUSY,
    .stop_select = stop_select,
};

DRIVER_INIT(partisan_drv)
{
    pt_node_init();
    return &entry;
}

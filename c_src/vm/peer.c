#include "vm/peer.h"

#include "vm/chan.h"
#include "vm/host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* How long the other lanes may take to end once one did: the rest of what is in flight, a
 * retransmission included. After END, which tells how much there is, the time in which nothing
 * comes: a slow path takes long, and so does a VM that is not run. Without END a peer that goes on
 * sending could keep up a connection in which nothing is sent to it. */
static const uint64_t END_GRACE_NS = 1000 * 1000000ull;

/* All of them together are so many times flush_timeout, 5 minutes by default: else a peer that sends a
 * byte now and then would keep a connection in which nothing is sent to it. What is under way after
 * END lies in its sockets' buffers, some MB; a path that needs longer for it is slower than 1 Mbit/s.
 * They are counted and not the time, since a VM that was stopped meanwhile has them still to come. */
static const uint64_t END_TIMES = 60;

struct pt_peer *pt_peer_new(ErlDrvPort port)
{
    struct pt_peer *p = pt_zalloc(sizeof *p);
    if (!p) {
        errno = ENOMEM;
        return NULL;
    }
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake_fd < 0 || pt_stream_init(&p->s, p)) {
        int err = p->wake_fd < 0 ? errno : ENOMEM;
        if (p->wake_fd >= 0)
            close(p->wake_fd);
        pt_free(p);
        errno = err;
        return NULL;
    }
    p->port = port;
    p->port_term = driver_mk_port(port);
    pt_list_init(&p->node_link);
    pt_list_init(&p->chans);
    pt_hmap_init(&p->joins);
    driver_select(port, (ErlDrvEvent)(intptr_t)p->wake_fd, ERL_DRV_READ | ERL_DRV_USE, 1);
    return p;
}

void pt_peer_free(struct pt_peer *p)
{
    pthread_mutex_lock(&pt_node.lock);
    pt_list_del(&p->node_link);
    pthread_mutex_unlock(&pt_node.lock);
    for (struct pt_list *n; (n = pt_list_first(&p->chans));)
        pt_chan_close(PT_CONTAINER_OF(n, struct pt_chan, link));
    pt_stream_reclaim(&p->s);
    pt_stream_close_lanes(&p->s);
    driver_select(p->port, (ErlDrvEvent)(intptr_t)p->wake_fd, ERL_DRV_READ | ERL_DRV_USE, 0);
    pt_join_free(p);
    pt_stage_free(&p->stage);
    pt_stream_free(&p->s);
    pt_atom_table_free(&p->vm_atoms);
    pt_free(p);
}

struct pt_stream *pt_peer_stream(struct pt_peer *p, struct pt_stream *s)
{
    if (!s)
        return &p->s;
    struct pt_list *n =
        s == &p->s ? p->chans.next : PT_CONTAINER_OF(s, struct pt_chan, s)->link.next;
    return n == &p->chans ? NULL : &PT_CONTAINER_OF(n, struct pt_chan, link)->s;
}

int pt_peer_start(struct pt_peer *p)
{
    char byte = 0;
    if (p->started)
        return 0;
    p->started = true;
    /* A byte in the port's own queue makes the VM call flush() before it closes the port, so that
     * halt() and init:stop() wait for what is unsent. */
    driver_enq(p->port, &byte, 1);
    pt_rx_select(p, &p->s.lanes[0], true);
    pt_tx_schedule(p);
    return 0;
}

void pt_peer_wake(struct pt_peer *p)
{
    if (!atomic_exchange(&p->wake_pending, true)) {
        uint64_t one = 1;
        ssize_t n = write(p->wake_fd, &one, sizeof one); /* cannot fail: the counter is 0 or 1 */
        (void)n;
    }
}

static void notify(struct pt_peer *p, const char *text)
{
    ErlDrvTermData spec[] = {ERL_DRV_ATOM,
                             driver_mk_atom((char *)(uintptr_t) "partisan_closed"),
                             ERL_DRV_PORT,
                             p->port_term,
                             ERL_DRV_STRING,
                             (ErlDrvTermData)text,
                             strlen(text),
                             ERL_DRV_TUPLE,
                             3};
    if (p->has_notify)
        erl_drv_send_term(p->port_term, p->notify, spec, sizeof spec / sizeof spec[0]);
}

void pt_peer_lane_gone(struct pt_peer *p, const struct pt_lane *l)
{
    ErlDrvTermData spec[] = {
        ERL_DRV_ATOM,  driver_mk_atom((char *)(uintptr_t) "partisan_lane_gone"),
        ERL_DRV_PORT,  p->port_term,
        ERL_DRV_UINT,  l->stream == &p->s ? 0 : pt_chan_of(l)->no,
        ERL_DRV_UINT,  l->no,
        ERL_DRV_TUPLE, 4};
    if (p->has_notify)
        erl_drv_send_term(p->port_term, p->notify, spec, sizeof spec / sizeof spec[0]);
}

void pt_peer_more_lanes(struct pt_peer *p)
{
    ErlDrvTermData spec[] = {
        ERL_DRV_ATOM,  driver_mk_atom((char *)(uintptr_t) "partisan_more_lanes"),
        ERL_DRV_PORT,  p->port_term,
        ERL_DRV_TUPLE, 2};
    if (p->has_notify)
        erl_drv_send_term(p->port_term, p->notify, spec, sizeof spec / sizeof spec[0]);
}

void pt_peer_fail(struct pt_peer *p, int err, const char *what)
{
    char text[200];
    if (p->failed)
        return;
    p->failed = true;
    snprintf(text, sizeof text, "%s%s%s", what, err ? ": " : "", err ? pt_strerror(err) : "");
    notify(p, text);
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));)
        for (unsigned i = 0; i < PT_LANES_MAX; i++)
            if (s->lanes[i].reading)
                pt_rx_select(p, &s->lanes[i], false);
    /* nothing of this connection will be sent any more: let the port close at once */
    if (driver_sizeq(p->port))
        driver_deq(p->port, driver_sizeq(p->port));
    driver_failure_atom(p->port, (char *)(uintptr_t) "connection_closed");
}

bool pt_peer_complete(struct pt_peer *p)
{
    uint64_t streams = 0;
    for (struct pt_stream *s = pt_peer_stream(p, &p->s); s; s = pt_peer_stream(p, s))
        streams += pt_rx_complete(&s->rx);
    return pt_rx_complete(&p->s.rx) && streams == p->s.rx.end.streams;
}

/* Reads made so far. *more: some lane did not end. */
static uint64_t reads_made(struct pt_peer *p, bool *more)
{
    uint64_t n = 0;
    *more = false;
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));) {
        for (unsigned i = 0; i < PT_LANES_MAX; i++) {
            n += s->lanes[i].reads;
            *more = *more || s->lanes[i].reading;
        }
    }
    return n;
}

/* Something has come that was not read yet. */
static bool something_unread(struct pt_peer *p)
{
    struct pt_sock_info si;
    for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));)
        for (unsigned i = 0; i < PT_LANES_MAX; i++)
            if (s->lanes[i].reading && !pt_sock_info(s->lanes[i].fd, &si) && si.in_queue)
                return true;
    return false;
}

static bool grace_again(struct pt_peer *p)
{
    uint64_t most = END_TIMES * pt_node.flush_timeout_ms * 1000000ull;
    return ++p->end_graces * END_GRACE_NS < most;
}

void pt_peer_end_check(struct pt_peer *p)
{
    bool more;
    uint64_t reads = reads_made(p, &more);
    uint64_t now = pt_now_ns();
    const char *text = p->end_text;
    if (more && now >= p->end_by && p->s.rx.end.seen) {
        text = "the peer closed the connection, and what it had sent before did not come in time";
        if ((reads != p->end_reads || something_unread(p)) && grace_again(p)) {
            p->end_by = now + END_GRACE_NS;
            p->end_reads = reads;
        }
    }
    if (!more || now >= p->end_by) {
        pt_peer_fail(p, 0, text);
    } else if (!p->flush_timer) {
        driver_set_timer(p->port, (unsigned long)((p->end_by - now) / 1000000 + 1));
    }
}

void pt_peer_end(struct pt_peer *p, struct pt_lane *l, int err, const char *what)
{
    if (l) {
        l->ended = true;
        pt_rx_select(p, l, false);
    }
    if (!p->ending) {
        bool more;
        p->ending = true;
        p->end_by = pt_now_ns() + END_GRACE_NS;
        p->end_reads = reads_made(p, &more);
        snprintf(p->end_text, sizeof p->end_text, "%s%s%s", what, err ? ": " : "",
                 err ? pt_strerror(err) : "");
        for (struct pt_stream *s = NULL; (s = pt_peer_stream(p, s));) {
            pthread_mutex_lock(&s->lock);
            s->closing = true; /* sending on is in vain */
            pthread_mutex_unlock(&s->lock);
        }
    }
    pt_peer_end_check(p);
}

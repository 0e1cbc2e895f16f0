#include "vm/peer.h"

#include "vm/host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* How long the other lanes may take to end once one did: the rest of what is in flight, a
 * retransmission included. */
static const uint64_t END_GRACE_NS = 1000 * 1000000ull;

uint64_t pt_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct pt_peer *pt_peer_new(ErlDrvPort port)
{
    struct pt_peer *p = pt_zalloc(sizeof *p);
    if (!p) {
        errno = ENOMEM;
        return NULL;
    }
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake_fd < 0 || pt_txq_init(&p->txq, &pt_host_owner_ops)) {
        int err = p->wake_fd < 0 ? errno : ENOMEM;
        if (p->wake_fd >= 0)
            close(p->wake_fd);
        pt_free(p);
        errno = err;
        return NULL;
    }
    p->port = port;
    p->port_term = driver_mk_port(port);
    p->max_queue = SIZE_MAX;
    p->low_queue = SIZE_MAX;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->released, NULL);
    pt_list_init(&p->node_link);
    pt_hmap_init(&p->joins);
    pt_rx_init(&p->rx, &pt_peer_rx_ops, p, UINT64_MAX, p->peer_auth);
    p->rx.order.broken_on_purpose = pt_node.break_order;
    for (unsigned i = 0; i < PT_LANES_MAX; i++) {
        struct pt_lane *l = &p->lanes[i];
        l->peer = p;
        l->no = i;
        l->fd = -1;
        l->tx.fill = pt_tx_loop_fill;
        l->tx.done = pt_tx_loop_done;
        pt_rx_lane_init(&l->rx);
    }
    driver_select(port, (ErlDrvEvent)(intptr_t)p->wake_fd, ERL_DRV_READ | ERL_DRV_USE, 1);
    return p;
}

/* A lane the loop owns must be given back before its socket is closed. The shut down socket makes
 * the pending send end at once, so this waits for one turn of the loop thread. */
static void reclaim_lanes(struct pt_peer *p)
{
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (p->lanes[i].fd >= 0)
            shutdown(p->lanes[i].fd, SHUT_RDWR);
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        while (p->lanes[i].state == PT_LANE_LOOP)
            pthread_cond_wait(&p->released, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void pt_peer_free(struct pt_peer *p)
{
    pthread_mutex_lock(&pt_node.lock);
    pt_list_del(&p->node_link);
    pthread_mutex_unlock(&pt_node.lock);
    reclaim_lanes(p);
    for (unsigned i = 0; i < PT_LANES_MAX; i++) {
        struct pt_lane *l = &p->lanes[i];
        pt_batch_free(l->batch, &pt_host_owner_ops);
        pt_rx_lane_free(&p->rx, &l->rx);
        if (l->selected)
            driver_select(p->port, (ErlDrvEvent)(intptr_t)l->fd,
                          ERL_DRV_READ | ERL_DRV_WRITE | ERL_DRV_USE, 0);
        else if (l->fd >= 0)
            close(l->fd);
    }
    driver_select(p->port, (ErlDrvEvent)(intptr_t)p->wake_fd, ERL_DRV_READ | ERL_DRV_USE, 0);
    pt_join_free(p);
    pt_txq_free(&p->txq);
    pt_msg_pool_free(&p->pool);
    pt_atom_table_free(&p->vm_atoms);
    pt_rx_free(&p->rx);
    pthread_cond_destroy(&p->released);
    pthread_mutex_destroy(&p->lock);
    pt_free(p);
}

int pt_peer_attach(struct pt_peer *p, unsigned no, int fd, char *why, size_t why_len)
{
    struct pt_lane *l = &p->lanes[no];
    struct pt_batch *batch = NULL;
    int copy, rc = 0;

    if (l->fd >= 0) {
        snprintf(why, why_len, "lane %u is attached already", no);
        return -EEXIST;
    }
    copy = pt_sock_dup(fd);
    if (copy < 0) {
        snprintf(why, why_len, "cannot duplicate the socket: %s", pt_strerror(copy));
        return copy;
    }
    rc = pt_sock_prepare(copy, &pt_node.sock, why, why_len);
    if (!rc && !(batch = pt_batch_new(no))) {
        snprintf(why, why_len, "out of memory");
        rc = -ENOMEM;
    }
    if (rc) {
        close(copy);
        return rc;
    }
    pthread_mutex_lock(&p->lock);
    l->fd = copy;
    l->tx.fd = copy;
    l->batch = batch;
    l->state = PT_LANE_IDLE;
    p->attached++;
    p->txq.lanes = p->attached;
    pthread_mutex_unlock(&p->lock);
    if (p->half_closed) /* it came while the port closes: the peer waits for the end of each lane */
        shutdown(l->fd, SHUT_WR);
    if (p->started && (no == 0 || !p->rx.auth))
        pt_rx_select(p, l, true);
    return 0;
}

bool pt_peer_detach(struct pt_peer *p, struct pt_lane *l)
{
    struct pt_batch *batch = NULL;

    if (l->no == 0 || l->rx.bytes)
        return false;
    pthread_mutex_lock(&p->lock);
    bool unused = l->state == PT_LANE_IDLE && !l->sends && !l->batch->bytes;
    if (unused) {
        batch = l->batch;
        l->batch = NULL;
        l->state = PT_LANE_NONE;
        p->attached--;
        p->txq.lanes = p->attached;
    }
    pthread_mutex_unlock(&p->lock);
    if (!unused)
        return false;
    pt_batch_free(batch, &pt_host_owner_ops);
    pt_rx_lane_free(&p->rx, &l->rx);
    pt_rx_lane_init(&l->rx);
    driver_select(p->port, (ErlDrvEvent)(intptr_t)l->fd, ERL_DRV_READ | ERL_DRV_USE, 0);
    l->reading = l->selected = l->rx_paused = false;
    pthread_mutex_lock(&p->lock);
    l->tx_paused = false; /* the next lane of this number is another one */
    l->fd = l->tx.fd = -1;
    pthread_mutex_unlock(&p->lock);
    return true;
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
    pt_rx_select(p, &p->lanes[0], true);
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

void pt_peer_fail(struct pt_peer *p, int err, const char *what)
{
    char text[200];
    if (p->failed)
        return;
    p->failed = true;
    snprintf(text, sizeof text, "%s%s%s", what, err ? ": " : "", err ? pt_strerror(err) : "");
    notify(p, text);
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (p->lanes[i].reading)
            pt_rx_select(p, &p->lanes[i], false);
    /* nothing of this connection will be sent any more: let the port close at once */
    if (driver_sizeq(p->port))
        driver_deq(p->port, driver_sizeq(p->port));
    driver_failure_atom(p->port, (char *)(uintptr_t) "connection_closed");
}

void pt_peer_end_check(struct pt_peer *p)
{
    bool more = false;
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        more = more || p->lanes[i].reading;
    uint64_t now = pt_now_ns();
    if (!more || now >= p->end_by) {
        pt_peer_fail(p, 0, p->end_text);
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
        p->ending = true;
        p->end_by = pt_now_ns() + END_GRACE_NS;
        snprintf(p->end_text, sizeof p->end_text, "%s%s%s", what, err ? ": " : "",
                 err ? pt_strerror(err) : "");
        pthread_mutex_lock(&p->lock);
        p->closing = true; /* sending on is in vain */
        pthread_mutex_unlock(&p->lock);
    }
    pt_peer_end_check(p);
}

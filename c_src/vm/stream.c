#include "vm/stream.h"

#include "vm/host.h"
#include "vm/loops.h"
#include "vm/peer.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int pt_stream_init(struct pt_stream *s, struct pt_peer *p)
{
    if (pt_txq_init(&s->txq, &pt_host_owner_ops))
        return -ENOMEM;
    s->peer = p;
    s->first_loop = pt_loops_deal();
    s->max_queue = SIZE_MAX;
    s->low_queue = SIZE_MAX;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->released, NULL);
    pt_rx_init(&s->rx, &pt_peer_rx_ops, s, UINT64_MAX, p->peer_auth);
    s->rx.order.broken_on_purpose = pt_node.break_order;
    for (unsigned i = 0; i < PT_LANES_MAX; i++) {
        struct pt_lane *l = &s->lanes[i];
        l->stream = s;
        l->no = i;
        l->fd = -1;
        l->tx.fill = pt_send_loop_fill;
        l->tx.done = pt_send_loop_done;
        pt_rx_lane_init(&l->rx);
    }
    return 0;
}

/* The shut down socket makes a pending send end at once. */
void pt_stream_reclaim(struct pt_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (s->lanes[i].fd >= 0)
            shutdown(s->lanes[i].fd, SHUT_RDWR);
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        while (s->lanes[i].state == PT_LANE_LOOP || s->lanes[i].state == PT_LANE_SCHED)
            pthread_cond_wait(&s->released, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void pt_stream_close_lanes(struct pt_stream *s)
{
    for (unsigned i = 0; i < PT_LANES_MAX; i++) {
        struct pt_lane *l = &s->lanes[i];
        pt_batch_free(l->batch, s->txq.ops);
        pt_rx_lane_free(&s->rx, &l->rx);
        if (l->selected)
            driver_select(s->peer->port, (ErlDrvEvent)(intptr_t)l->fd,
                          ERL_DRV_READ | ERL_DRV_WRITE | ERL_DRV_USE, 0);
        else if (l->fd >= 0)
            close(l->fd);
        l->batch = NULL;
        l->selected = l->reading = false;
        l->fd = l->tx.fd = -1;
        l->state = PT_LANE_NONE;
    }
}

void pt_stream_trim(struct pt_stream *s)
{
    pt_rx_trim(&s->rx);
    pthread_mutex_lock(&s->lock);
    pt_msg_pool_trim(&s->pool);
    pt_txq_trim(&s->txq);
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (s->lanes[i].state == PT_LANE_IDLE)
            pt_batch_trim(s->lanes[i].batch);
    pthread_mutex_unlock(&s->lock);
}

void pt_stream_clear(struct pt_stream *s)
{
    if (s->cleared)
        return;
    s->cleared = true;
    pt_cap_forget(s);
    pt_txq_free(&s->txq);
    pt_msg_pool_free(&s->pool);
    pt_rx_free(&s->rx);
}

void pt_stream_free(struct pt_stream *s)
{
    pt_stream_clear(s);
    pthread_cond_destroy(&s->released);
    pthread_mutex_destroy(&s->lock);
}

int pt_stream_attach(struct pt_stream *s, unsigned no, int fd, char *why, size_t why_len)
{
    struct pt_peer *p = s->peer;
    struct pt_lane *l = &s->lanes[no];
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
    pthread_mutex_lock(&s->lock);
    l->fd = copy;
    l->tx.fd = copy;
    l->batch = batch;
    l->path = (struct pt_path_lane){0};
    l->lowat =
        pt_node.sock.notsent_lowat ? pt_node.sock.notsent_lowat : PT_SOCK_NOTSENT_LOWAT_DEFAULT;
    l->state = PT_LANE_IDLE;
    s->attached++;
    s->txq.lanes = s->attached;
    pthread_mutex_unlock(&s->lock);
    if (p->half_closed) /* it came while the port closes: the peer waits for the end of each lane */
        shutdown(l->fd, SHUT_WR);
    if (pt_rx_may_read(l))
        pt_rx_select(p, l, true);
    return 0;
}

bool pt_stream_detach(struct pt_stream *s, struct pt_lane *l)
{
    struct pt_batch *batch = NULL;

    if ((l->no == 0 && !s->mixed) || l->rx.bytes)
        return false;
    pthread_mutex_lock(&s->lock);
    bool unused = l->state == PT_LANE_IDLE && !l->sends && !l->batch->bytes;
    if (unused) {
        batch = l->batch;
        l->batch = NULL;
        l->state = PT_LANE_NONE;
        s->attached--;
        s->txq.lanes = s->attached;
    }
    pthread_mutex_unlock(&s->lock);
    if (!unused)
        return false;
    pt_batch_free(batch, s->txq.ops);
    pt_rx_lane_free(&s->rx, &l->rx);
    pt_rx_lane_init(&l->rx);
    driver_select(s->peer->port, (ErlDrvEvent)(intptr_t)l->fd, ERL_DRV_READ | ERL_DRV_USE, 0);
    l->reading = l->selected = l->rx_paused = false;
    pthread_mutex_lock(&s->lock);
    l->tx_paused = false; /* the next lane of this number is another one */
    l->fd = l->tx.fd = -1;
    pthread_mutex_unlock(&s->lock);
    return true;
}

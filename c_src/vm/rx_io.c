/* From the sockets to the VM: reads on the scheduler that polls, straight into place. */
#include "proto/zip.h"
#include "vm/host.h"
#include "vm/peer.h"
#include "vm/relay.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { READS = 4 }; /* in one callback: others wait for the port lock */

/* A compressed message of a channel. */
static int inflated(struct pt_peer *p, const uint8_t *z, size_t len)
{
    int64_t size = pt_zip_size(z, len, p->max_message);
    if (size < 0)
        return (int)size;
    ErlDrvBinary *bin = driver_alloc_binary((ErlDrvSizeT)size);
    if (!bin)
        return -ENOMEM;
    int rc = pt_zip_inflate(z, len, (uint8_t *)bin->orig_bytes, (size_t)size);
    /* one with references would tell the VM atoms that nobody here keeps account of */
    if (!rc && (size < 3 || memcmp(bin->orig_bytes, "\x83\x44", 3) != 0))
        rc = PT_E_BAD_FRAME;
    if (!rc)
        rc = driver_output_binary(p->port, NULL, 0, bin, 0, (ErlDrvSizeT)size) < 0 ? -ESHUTDOWN : 0;
    driver_free_binary(bin);
    return rc;
}

int pt_rx_to_vm(struct pt_peer *peer, void *bin, const uint8_t *p, size_t len)
{
    int rc;
    if (bin) {
        ErlDrvBinary *b = bin;
        rc = driver_output_binary(peer->port, NULL, 0, b,
                                  (ErlDrvSizeT)((const char *)p - b->orig_bytes), len);
    } else {
        rc = driver_output(peer->port, (char *)(uintptr_t)p, len);
    }
    /* the VM found the packet bad, or the connection is on its way down already: it closes the
     * port itself, and what we read is of no use to it */
    return rc < 0 ? -ESHUTDOWN : 0;
}

static int on_packet(void *host, void *bin, const uint8_t *p, size_t len)
{
    struct pt_stream *s = host;
    struct pt_peer *peer = s->peer;
    if (s != &peer->s) {
        struct pt_chan *c = PT_CONTAINER_OF(s, struct pt_chan, s);
        if (c->relay)
            return pt_relay_packet(c, bin, p, len);
    }
    if (peer->flushing) /* the VM is done with the connection, the peer not yet with us */
        return 0;
    if (len && p[0] == PT_ZIP_TAG && s != &peer->s)
        return inflated(peer, p, len);
    return pt_rx_to_vm(peer, bin, p, len);
}

static void look_at(struct pt_stream *s)
{
    atomic_store(&s->due, true);
    pt_tx_schedule(s->peer);
}

static int on_ack(void *host, uint64_t number)
{
    struct pt_stream *s = host;
    pthread_mutex_lock(&s->lock);
    int rc = pt_txq_ack(&s->txq, number);
    bool more = !pt_txq_idle(&s->txq);
    pthread_mutex_unlock(&s->lock);
    if (!rc && more) /* messages blocked until this acknowledgement */
        look_at(s);
    return rc;
}

const struct pt_rx_ops pt_peer_rx_ops = {
    .bin_new = pt_host_bin_new,
    .bin_grow = pt_host_bin_grow,
    .bin_data = pt_host_bin_data,
    .bin_shared = pt_host_bin_shared,
    .bin_ref = pt_host_bin_ref,
    .bin_unref = pt_host_bin_unref,
    .deliver = on_packet,
    .acked = on_ack,
};

bool pt_rx_may_read(const struct pt_lane *l)
{
    const struct pt_stream *s = l->stream;
    return s->peer->started && ((s == &s->peer->s && l->no == 0) || !s->peer->s.rx.auth);
}

void pt_rx_select(struct pt_peer *p, struct pt_lane *l, bool on)
{
    on = on && !l->rx_paused && !l->ended;
    if (on == l->reading)
        return;
    driver_select(p->port, (ErlDrvEvent)(intptr_t)l->fd,
                  on ? ERL_DRV_READ | ERL_DRV_USE : ERL_DRV_READ, on);
    l->reading = on;
    l->selected = l->selected || on;
}

static void tell(atomic_uint_fast64_t *to, uint64_t value)
{
    atomic_store_explicit(to, value, memory_order_relaxed);
}

static void publish(struct pt_stream *s, struct pt_lane *l)
{
    const struct pt_rx *r = &s->rx;

    tell(&s->seen.delivered, r->delivered);
    tell(&s->seen.delivered_bytes, r->delivered_bytes);
    tell(&s->seen.watermark, r->order.watermark);
    tell(&s->seen.held_bytes, r->order.held_bytes);
    tell(&s->seen.held_count, r->order.held_count);
    tell(&s->seen.held_peak, r->order.held_peak);
    tell(&s->seen.transfers, r->transfers.count);
    tell(&s->seen.room, r->room);
    tell(&s->seen.lane[l->no].frames, l->rx.frames);
    tell(&s->seen.lane[l->no].bytes, l->rx.bytes);
    tell(&s->seen.lane[l->no].reads, l->reads);
    if (!pt_rx_ack_due(r))
        return;
    pthread_mutex_lock(&s->lock);
    s->ack_now = true;
    pthread_mutex_unlock(&s->lock);
    pt_rx_ack_sent(&s->rx, r->order.watermark);
    look_at(s);
}

static int read_some(struct pt_stream *s, struct pt_lane *l)
{
    for (int i = 0; i < READS; i++) {
        struct iovec iov[2];
        int n = pt_rx_space(&s->rx, &l->rx, iov);
        if (n < 0)
            return n;
        size_t space = iov[0].iov_len + (n > 1 ? iov[1].iov_len : 0);
        struct msghdr mh = {.msg_iov = iov, .msg_iovlen = (size_t)n};
        ssize_t got = recvmsg(l->fd, &mh, MSG_DONTWAIT);
        if (got < 0)
            return errno == EAGAIN ? 0 : errno == EINTR ? 0 : -errno;
        if (got == 0)
            return -ENODATA;
        l->reads++;
        int rc = pt_rx_got(&s->rx, &l->rx, (size_t)got, l->no == 0);
        if (rc)
            return rc;
        if ((size_t)got < space)
            return 0;
    }
    return 0;
}

int pt_rx_io(struct pt_peer *p, struct pt_lane *l)
{
    struct pt_stream *s = l->stream;
    bool authed = !p->s.rx.auth;
    uint64_t before = s->rx.delivered;
    int rc = read_some(s, l);
    publish(s, l);
    if (s == &p->s) {
        p->burst = s->rx.delivered - before;
        if (p->burst > 1)
            p->burst_at = pt_now_ns();
    }
    if (!rc && !authed && !p->s.rx.auth)
        for (struct pt_stream *all = NULL; (all = pt_peer_stream(p, all));)
            for (unsigned i = 0; i < PT_LANES_MAX; i++)
                if (all->lanes[i].fd >= 0)
                    pt_rx_select(p, &all->lanes[i], true);
    return rc;
}

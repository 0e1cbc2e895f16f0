/* The driver's callbacks. One port a peer; every callback runs with that port's lock.
 * Driver interface: erl_driver(3); what a distribution controller must do: docs/architecture.md. */
#include "vm/peer.h"

#include <errno.h>
#include <erl_driver.h>
#include <stdio.h>
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

static void outputv(ErlDrvData data, ErlIOVec *ev)
{
    struct pt_peer *p = (struct pt_peer *)data;
    if (p->failed)
        return;
    int rc = pt_tx_output(p, ev);
    if (rc)
        pt_peer_fail(p, rc, "cannot queue a message");
}

static bool drained(struct pt_peer *p)
{
    pthread_mutex_lock(&p->lock);
    bool empty = pt_tx_pending(p) == 0;
    pthread_mutex_unlock(&p->lock);
    return empty;
}

/* A port that closes: nothing is left to send, or nothing moves any more (halt() must not wait for
 * a dead peer, OTP issue 7438). */
static void flush_step(struct pt_peer *p)
{
    pthread_mutex_lock(&p->lock);
    uint64_t progress = p->sent_bytes;
    bool dead = p->error != 0;
    pthread_mutex_unlock(&p->lock);
    if (!p->started || dead || drained(p)) {
        if (driver_sizeq(p->port))
            driver_deq(p->port, driver_sizeq(p->port));
        return;
    }
    p->flush_progress = progress;
}

static void give_up(struct pt_peer *p)
{
    pthread_mutex_lock(&p->lock);
    bool stuck = p->sent_bytes == p->flush_progress;
    pthread_mutex_unlock(&p->lock);
    if (stuck) {
        if (driver_sizeq(p->port))
            driver_deq(p->port, driver_sizeq(p->port));
        return;
    }
    flush_step(p);
    if (driver_sizeq(p->port))
        driver_set_timer(p->port, pt_node.flush_timeout_ms);
}

static void flush(ErlDrvData data)
{
    struct pt_peer *p = (struct pt_peer *)data;
    p->flushing = true;
    for (unsigned i = 0; i < PT_LANES_MAX; i++)
        if (p->lanes[i].reading)
            pt_rx_select(p, &p->lanes[i], false);
    pthread_mutex_lock(&p->lock);
    p->wake_on_drain = true;
    pthread_mutex_unlock(&p->lock);
    if (!p->failed)
        (void)pt_tx_flush(p);
    flush_step(p);
    if (driver_sizeq(p->port))
        driver_set_timer(p->port, pt_node.flush_timeout_ms);
}

static void send_now(struct pt_peer *p)
{
    int rc = pt_tx_flush(p);
    if (p->flushing)
        flush_step(p);
    else if (rc)
        pt_peer_fail(p, rc, "sending failed");
}

static void timeout(ErlDrvData data)
{
    struct pt_peer *p = (struct pt_peer *)data;
    if (p->flushing) {
        give_up(p);
        return;
    }
    p->flush_timer = false;
    send_now(p);
}

static void on_wake(struct pt_peer *p)
{
    uint64_t count;
    ssize_t n = read(p->wake_fd, &count, sizeof count);
    (void)n;
    atomic_store(&p->wake_pending, false); /* before looking: what comes later wakes again */
    pthread_mutex_lock(&p->lock);
    int err = p->error;
    pthread_mutex_unlock(&p->lock);
    if (err && !p->flushing)
        pt_peer_fail(p, err, "sending failed");
    else
        send_now(p);
}

static void ready_input(ErlDrvData data, ErlDrvEvent event)
{
    struct pt_peer *p = (struct pt_peer *)data;
    int fd = (int)(intptr_t)event;

    if (fd == p->wake_fd) {
        on_wake(p);
        return;
    }
    for (unsigned i = 0; i < PT_LANES_MAX; i++) {
        struct pt_lane *l = &p->lanes[i];
        if (l->fd != fd)
            continue;
        if (p->failed || p->flushing || !l->reading)
            return;
        int rc = pt_rx_io(p, l);
        char what[64];
        if (rc == -ENODATA) {
            snprintf(what, sizeof what, "lane %u was closed by the peer", i);
            pt_peer_fail(p, 0, what);
        } else if (rc == -ESHUTDOWN) {
            pt_rx_select(p, l, false); /* the VM is closing the port */
        } else if (rc) {
            snprintf(what, sizeof what, "lane %u", i);
            pt_peer_fail(p, rc, what);
        }
        return;
    }
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

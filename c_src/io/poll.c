/* The backend for every Linux: non-blocking sends, readiness from the kernel.
 *
 * It is called "poll" because that is what it does, but it asks epoll(7): poll(2) copies and scans
 * all waiting lanes at each call, and a wake-up from another thread would rescan them for nothing.
 */
#include "io/loop.h"
#include "io/probe.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS 64

struct poller {
    int ep;
    int wakefd;
    unsigned armed; /* lanes registered with epoll */
    /* lanes to try without waiting, oldest first, linked by backend_word */
    struct pt_tx *first, *last;
};

static void poll_close(void *state)
{
    struct poller *p = state;
    if (p->wakefd >= 0)
        close(p->wakefd);
    if (p->ep >= 0)
        close(p->ep);
    pt_free(p);
}

static int poll_open(void **state, char *why, size_t why_len)
{
    struct poller *p = pt_zalloc(sizeof *p);
    if (!p) {
        snprintf(why, why_len, "no memory");
        return -ENOMEM;
    }
    const char *what = "epoll_create1";
    p->wakefd = -1;
    p->ep = epoll_create1(EPOLL_CLOEXEC);
    if (p->ep >= 0) {
        what = "eventfd";
        p->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    if (p->wakefd >= 0) {
        what = "epoll_ctl";
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}; /* NULL: no lane, a wake */
        if (epoll_ctl(p->ep, EPOLL_CTL_ADD, p->wakefd, &ev) == 0) {
            snprintf(why, why_len, "epoll");
            *state = p;
            return 0;
        }
    }
    int err = -errno;
    snprintf(why, why_len, "%s: %s", what, pt_errno_name(err));
    poll_close(p);
    return err;
}

/* Only queues: all sends happen in wait(), where a result has a place to go. */
static int poll_send(void *state, struct pt_tx *tx)
{
    struct poller *p = state;
    tx->backend_word = 0;
    if (p->last)
        p->last->backend_word = (uint64_t)(uintptr_t)tx;
    else
        p->first = tx;
    p->last = tx;
    return 0;
}

static struct pt_tx *take_first(struct poller *p)
{
    struct pt_tx *tx = p->first;
    p->first = (struct pt_tx *)(uintptr_t)tx->backend_word;
    if (!p->first)
        p->last = NULL;
    return tx;
}

/* Result of the send, or -EAGAIN: the socket takes nothing now. */
static ssize_t try_send(struct pt_tx *tx)
{
    for (;;) {
        ssize_t n = sendmsg(tx->fd, &tx->msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
            return n;
        if (n == 0)
            return -EIO; /* cannot be: there was something to send */
        if (errno != EINTR)
            return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    }
}

/* First try of a lane. True: *res is its completion; false: it waits for room.
 * Edge-triggered: a send that fails with EAGAIN after an edge needs no system call to be woken
 * again, and when the kernel is short of memory for sockets a level that says "writable" while
 * sendmsg() says EAGAIN cannot make us spin. No edge is lost: EAGAIN means that bytes are queued,
 * and the kernel reports the room that their departure makes after we were registered. */
static bool begin(struct poller *p, struct pt_tx *tx, ssize_t *res)
{
    *res = try_send(tx);
    if (*res != -EAGAIN)
        return true;
    struct epoll_event ev = {.events = EPOLLOUT | EPOLLET, .data.ptr = tx};
    if (epoll_ctl(p->ep, EPOLL_CTL_ADD, tx->fd, &ev) != 0) {
        *res = -errno;
        return true;
    }
    p->armed++;
    return false;
}

/* A registered lane may have room. The registration goes before the completion is told: the owner
 * may then close the descriptor while a duplicate keeps the socket alive, and epoll would go on
 * reporting a lane that no longer exists. */
static bool resume(struct poller *p, struct pt_tx *tx, ssize_t *res)
{
    *res = try_send(tx);
    if (*res == -EAGAIN)
        return false;
    (void)epoll_ctl(p->ep, EPOLL_CTL_DEL, tx->fd, NULL);
    p->armed--;
    return true;
}

static void drain_wake(struct poller *p)
{
    uint64_t n;
    while (read(p->wakefd, &n, sizeof n) < 0 && errno == EINTR) {
    }
}

static int poll_wait(void *state, struct pt_tx **tx, ssize_t *res, unsigned max)
{
    struct poller *p = state;
    struct epoll_event ev[EVENTS];
    unsigned n = 0;

    for (;;) {
        /* Lanes that always have room must not keep out those that waited for theirs. */
        unsigned limit = p->armed ? max - max / 4 : max;
        while (p->first && n < limit) {
            struct pt_tx *t = take_first(p);
            if (begin(p, t, &res[n]))
                tx[n++] = t;
        }
        if (n == max || (n > 0 && p->armed == 0))
            return (int)n; /* nothing to ask epoll for; a wake-up stays readable */

        int timeout = n > 0 || p->first ? 0 : -1;
        int k = epoll_wait(p->ep, ev, (int)PT_MIN(max - n, (unsigned)EVENTS), timeout);
        if (k < 0) {
            if (errno == EINTR)
                continue;
            if (n > 0)
                return (int)n; /* these did complete; the next call finds the error again */
            return -errno;
        }
        bool woken = false;
        for (int i = 0; i < k; i++) {
            struct pt_tx *t = ev[i].data.ptr;
            if (!t) {
                drain_wake(p);
                woken = true;
            } else if (resume(p, t, &res[n])) {
                tx[n++] = t;
            }
        }
        if (n > 0 || woken)
            return (int)n;
    }
}

static void poll_wake(void *state)
{
    struct poller *p = state;
    const uint64_t one = 1;
    /* EAGAIN: the counter is full, so the wake-up is there already. */
    while (write(p->wakefd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

const struct pt_backend pt_backend_poll = {
    .name = "poll",
    .open = poll_open,
    .close = poll_close,
    .send = poll_send,
    .wait = poll_wait,
    .wake = poll_wake,
};

/* Moving bytes: blocking system calls, or the same calls through io_uring. */
#include "floor.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#ifdef HAVE_LIBURING
#include <liburing.h>

static int ring_open(struct pt_floor_io *io)
{
    struct io_uring *ring = malloc(sizeof *ring);

    if (!ring)
        return -ENOMEM;
    /* The cheapest way for one thread that submits and waits at once (kernel 6.1). */
    int rc = io_uring_queue_init(8, ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);

    if (rc < 0) {
        free(ring);
        return rc;
    }
    io->ring = ring;
    return 0;
}

/* Submits the one entry that is prepared and waits for its result. */
static long ring_go(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    int rc = io_uring_submit_and_wait(ring, 1);

    if (rc < 0)
        return rc;
    rc = io_uring_wait_cqe(ring, &cqe);
    if (rc < 0)
        return rc;
    long res = cqe->res;

    io_uring_cqe_seen(ring, cqe);
    return res;
}

static long ring_send(struct pt_floor_io *io, const void *buf, size_t len)
{
    io_uring_prep_send(io_uring_get_sqe(io->ring), io->fd, buf, len, MSG_NOSIGNAL);
    return ring_go(io->ring);
}

static long ring_recv(struct pt_floor_io *io, void *buf, size_t room)
{
    io_uring_prep_recv(io_uring_get_sqe(io->ring), io->fd, buf, room, 0);
    return ring_go(io->ring);
}

static void ring_close(struct pt_floor_io *io)
{
    io_uring_queue_exit(io->ring);
    free(io->ring);
}
#else
static int ring_open(struct pt_floor_io *io)
{
    (void)io;
    return -ENOSYS;
}
static long ring_send(struct pt_floor_io *io, const void *buf, size_t len)
{
    (void)io, (void)buf, (void)len;
    return -ENOSYS;
}
static long ring_recv(struct pt_floor_io *io, void *buf, size_t room)
{
    (void)io, (void)buf, (void)room;
    return -ENOSYS;
}
static void ring_close(struct pt_floor_io *io) { (void)io; }
#endif

int pt_floor_open(struct pt_floor_io *io, int fd, bool uring)
{
    io->fd = fd;
    io->ring = NULL;
    return uring ? ring_open(io) : 0;
}

void pt_floor_close(struct pt_floor_io *io)
{
    if (io->ring)
        ring_close(io);
    io->ring = NULL;
}

int pt_floor_send(struct pt_floor_io *io, const void *buf, size_t len)
{
    const char *at = buf;

    while (len > 0) {
        long n = io->ring ? ring_send(io, at, len) : (long)send(io->fd, at, len, MSG_NOSIGNAL);

        if (n < 0 && !io->ring)
            n = -errno;
        if (n == -EINTR)
            continue;
        if (n < 0)
            return (int)n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

long pt_floor_recv(struct pt_floor_io *io, void *buf, size_t room)
{
    for (;;) {
        long n = io->ring ? ring_recv(io, buf, room) : (long)recv(io->fd, buf, room, 0);

        if (n < 0 && !io->ring)
            n = -errno;
        if (n != -EINTR)
            return n;
    }
}

int pt_floor_recv_all(struct pt_floor_io *io, void *buf, size_t len)
{
    char *at = buf;

    while (len > 0) {
        long n = pt_floor_recv(io, at, len);

        if (n <= 0)
            return n ? (int)n : -EPIPE;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

uint64_t pt_floor_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t pt_floor_cpu_us(void)
{
    struct rusage r;

    getrusage(RUSAGE_SELF, &r);
    return (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

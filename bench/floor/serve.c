/* The receiving end: one connection after the other, each as its first bytes ask. */
#include "floor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct window { /* what is measured begins at the first bytes behind the warm-up */
    uint64_t opens;
    uint64_t began;
    uint64_t cpu;
};

static void count(struct window *w, struct pt_floor_answer *a, uint64_t n)
{
    uint64_t now = pt_floor_now();

    a->all_bytes += n;
    if (now < w->opens)
        return;
    if (!w->began) {
        w->began = now;
        w->cpu = pt_floor_cpu_us();
        return;
    }
    a->bytes += n;
    a->ns = now - w->began;
    a->cpu_us = pt_floor_cpu_us() - w->cpu;
}

static int swallow(struct pt_floor_io *io, struct window *w, struct pt_floor_answer *a, char *buf)
{
    long n;

    while ((n = pt_floor_recv(io, buf, PT_FLOOR_BUF)) > 0)
        count(w, a, (uint64_t)n);
    return (int)n;
}

/* Small messages go back as they come, many at a time. A large one is read to its end first: the
 * client does not read while it sends. */
static int echo(struct pt_floor_io *io, struct window *w, struct pt_floor_answer *a, char *buf,
                size_t size)
{
    for (;;) {
        long n = pt_floor_recv(io, buf, size > PT_FLOOR_BUF ? size : PT_FLOOR_BUF);

        if (n <= 0)
            return (int)n;
        if ((size_t)n < size) {
            int rc = pt_floor_recv_all(io, buf + n, size - (size_t)n);

            if (rc < 0)
                return rc;
            n = (long)size;
        }
        count(w, a, (uint64_t)n);
        int rc = pt_floor_send(io, buf, (size_t)n);

        if (rc < 0)
            return rc;
    }
}

static int serve_one(int fd)
{
    struct pt_floor_io io = {.fd = fd};
    struct pt_floor_answer answer = {0};
    struct pt_floor_ask ask;
    int rc = pt_floor_recv_all(&io, &ask, sizeof ask);

    if (rc < 0)
        return rc;
    if (ask.size == 0 || ask.size > (1u << 30))
        return -EPROTO;
    char *buf = malloc(ask.size > PT_FLOOR_BUF ? ask.size : PT_FLOOR_BUF);

    if (!buf)
        return -ENOMEM;
    rc = pt_floor_open(&io, fd, ask.uring);
    if (rc == 0) {
        struct window w = {.opens = pt_floor_now() + ask.warm_ns};

        rc = ask.stream ? swallow(&io, &w, &answer, buf) : echo(&io, &w, &answer, buf, ask.size);
        if (rc == 0)
            rc = pt_floor_send(&io, &answer, sizeof answer);
        pt_floor_close(&io);
    }
    free(buf);
    return rc;
}

static int listen_at(const char *host)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *at;
    int one = 1;

    if (getaddrinfo(host, "0", &hints, &at) != 0)
        return -EADDRNOTAVAIL;
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = fd < 0 ? -errno : 0;

    if (rc == 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
                    bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, 4) < 0))
        rc = -errno;
    freeaddrinfo(at);
    if (rc < 0 && fd >= 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

static unsigned port_of(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;

    if (getsockname(fd, (struct sockaddr *)&at, &len) < 0)
        return 0;
    /* The port lies at the same place in both families' addresses. */
    return ntohs(((struct sockaddr_in *)&at)->sin_port);
}

int pt_floor_serve(const char *host)
{
    int listener = listen_at(host);
    int one = 1;

    if (listener < 0) {
        fprintf(stderr, "floor: cannot listen at %s: %s\n", host, strerror(-listener));
        return 1;
    }
    printf("%u\n", port_of(listener));
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            fprintf(stderr, "floor: accept: %s\n", strerror(errno));
            return 1;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        int rc = serve_one(fd);

        if (rc < 0)
            fprintf(stderr, "floor: server: %s\n", strerror(-rc));
        close(fd);
    }
}

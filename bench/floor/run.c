/* The sending end: one measurement, its result as a line on standard output. */
#include "floor.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The same buckets as bench/pt_bench_hist.erl, from 0: 256 a power of two, up to 2^42 ns. */
#define SUB_BITS 8u
#define BUCKETS ((42u - SUB_BITS + 1u) << SUB_BITS)

struct figures {
    uint64_t began;
    uint64_t ended;
    uint64_t cpu;
    uint64_t messages; /* behind the warm-up */
    uint64_t bytes;    /* all */
    uint32_t hist[BUCKETS];
};

static unsigned bucket(uint64_t ns)
{
    if (ns < (1u << SUB_BITS))
        return (unsigned)ns;
    if (ns >> 42)
        return BUCKETS - 1;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - SUB_BITS;

    return (shift << SUB_BITS) + (unsigned)(ns >> shift);
}

/* Keeps `under_way` requests on the connection and measures each. The number of a message is in its
 * first eight bytes (what is shorter carries none) and must come back in order. */
static int echo(struct pt_floor_io *io, const struct pt_floor_ask *ask, uint64_t under_way,
                uint64_t until, struct figures *f)
{
    size_t size = ask->size;
    char *out = calloc(under_way, size);
    char *in = malloc(under_way * size);
    uint64_t *sent_at = malloc(under_way * sizeof *sent_at);
    uint64_t sent = 0, got = 0, opens = pt_floor_now() + ask->warm_ns;
    uint64_t room = under_way;
    size_t have = 0;
    int rc = out && in && sent_at ? 0 : -ENOMEM;

    while (rc == 0) {
        uint64_t now = pt_floor_now();

        if (now < until && room > 0) {
            for (uint64_t i = 0; i < room; i++) {
                if (size >= sizeof sent)
                    memcpy(out + i * size, &sent, sizeof sent);
                sent_at[sent++ % under_way] = now;
            }
            rc = pt_floor_send(io, out, room * size);
            f->bytes += room * size;
            room = 0;
        }
        if (got == sent || rc < 0)
            break;
        long n = pt_floor_recv(io, in + have, (sent - got) * size - have);

        if (n <= 0) {
            rc = n ? (int)n : -EPIPE;
            break;
        }
        have += (size_t)n;
        now = pt_floor_now();
        size_t used = 0;

        for (; have - used >= size; used += size, got++, room++) {
            if (size >= sizeof got && memcmp(in + used, &got, sizeof got) != 0)
                rc = -EBADMSG;
            if (now < opens)
                continue;
            if (!f->began) {
                f->began = now;
                f->cpu = pt_floor_cpu_us();
                continue;
            }
            f->messages++;
            f->hist[bucket(now - sent_at[got % under_way])]++;
        }
        memmove(in, in + used, have - used);
        have -= used;
        f->ended = now;
    }
    free(out);
    free(in);
    free(sent_at);
    return rc;
}

static int stream(struct pt_floor_io *io, const struct pt_floor_ask *ask, const char *out,
                  uint64_t memory, uint64_t until, struct figures *f)
{
    uint64_t opens = pt_floor_now() + ask->warm_ns, at = 0;
    int rc = 0;

    while (rc == 0) {
        uint64_t now = pt_floor_now();

        if (!f->began && now >= opens) {
            f->began = now;
            f->cpu = pt_floor_cpu_us();
        }
        if (now >= until)
            break;
        rc = pt_floor_send(io, out + at, PT_FLOOR_BUF);
        f->bytes += PT_FLOOR_BUF;
        at = at + 2 * PT_FLOOR_BUF <= memory ? at + PT_FLOOR_BUF : 0;
    }
    f->ended = pt_floor_now();
    return rc;
}

static int dial(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *to;
    int one = 1;

    if (getaddrinfo(host, port, &hints, &to) != 0)
        return -EADDRNOTAVAIL;
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen) < 0 ? -errno : fd;

    if (rc < 0 && fd >= 0)
        close(fd);
    freeaddrinfo(to);
    if (rc >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return rc;
}

/* One line: messages, seconds (of the client for echo, of the server for a stream), CPU seconds of
 * both processes, messages under way, then the histogram as INDEX:COUNT, indexes from 1. */
static void report(const struct pt_floor_ask *ask, uint64_t under_way, const struct figures *f,
                   const struct pt_floor_answer *a)
{
    uint64_t cpu = a->cpu_us + pt_floor_cpu_us() - f->cpu;
    double messages = ask->stream ? (double)a->bytes / (double)ask->size : (double)f->messages;
    uint64_t ns = ask->stream ? a->ns : f->ended - f->began;

    printf("messages=%.3f seconds=%.6f cpu=%.6f under_way=%llu hist=", messages, (double)ns / 1e9,
           (double)cpu / 1e6, (unsigned long long)under_way);
    for (unsigned i = 0; i < BUCKETS; i++)
        if (f->hist[i])
            printf("%u:%u,", i + 1, f->hist[i]);
    printf("\n");
}

int pt_floor_run(const char *host, const char *port, const char *kind, struct pt_floor_ask ask,
                 uint64_t under_way, uint64_t run_ns, uint64_t memory)
{
    static struct figures f;
    struct pt_floor_answer answer = {0};
    struct pt_floor_io io = {0};
    char *out = NULL;

    ask.stream = strcmp(kind, "stream") == 0;
    if (memory < PT_FLOOR_BUF)
        memory = PT_FLOOR_BUF;
    if (ask.stream && !(out = malloc(memory))) {
        fprintf(stderr, "floor: no memory\n");
        return 1;
    }
    if (out)
        memset(out, 1, memory); /* written: else it is one page of zeros, many times */
    int fd = dial(host, port);
    int rc = fd < 0 ? fd : 0;

    /* No more under way than surely fits the sockets: a blocking client does not read while it
     * sends, nor does the server. */
    if (under_way * ask.size > 64u * 1024u)
        under_way = ask.size < 64u * 1024u ? 64u * 1024u / ask.size : 1;
    if (rc == 0) {
        io.fd = fd;
        rc = pt_floor_send(&io, &ask, sizeof ask);
    }
    if (rc == 0)
        rc = pt_floor_open(&io, fd, ask.uring);
    if (rc == 0) {
        uint64_t until = pt_floor_now() + ask.warm_ns + run_ns;

        rc = ask.stream ? stream(&io, &ask, out, memory, until, &f)
                        : echo(&io, &ask, under_way, until, &f);
        shutdown(fd, SHUT_WR);
        if (rc == 0)
            rc = pt_floor_recv_all(&io, &answer, sizeof answer);
        if (rc == 0 && answer.all_bytes != f.bytes)
            rc = -EBADMSG;
        pt_floor_close(&io);
    }
    if (fd >= 0)
        close(fd);
    free(out);
    if (rc < 0) {
        fprintf(stderr, "floor: %s over %s:%s: %s\n", kind, host, port, strerror(-rc));
        return 1;
    }
    report(&ask, under_way, &f, &answer);
    return 0;
}

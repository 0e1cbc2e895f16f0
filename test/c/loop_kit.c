#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "loop_kit.h"

#include "io/sock.h"

#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum pt_backend_wish kit_wish(int backend) { return backend ? PT_BACKEND_URING : PT_BACKEND_POLL; }

int kit_backends(void)
{
    char reason[KIT_REASON];
    struct pt_loop *loop;
    if (pt_loop_start(&loop, PT_BACKEND_URING, reason, sizeof reason) != 0) {
        printf("NOT TESTED: uring: %s\n", reason);
        return 1;
    }
    pt_loop_stop(loop);
    return KIT_BACKENDS;
}

double kit_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}
static void stream_bytes(uint64_t seed, uint64_t pos, uint8_t *out, size_t n)
{
    for (size_t at = 0; at < n;) {
        uint64_t z = ((pos + at) >> 3) + seed * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        size_t skip = (pos + at) & 7, part = PT_MIN(n - at, 8 - skip);
        memcpy(out + at, (const uint8_t *)&z + skip, part);
        at += part;
    }
}
size_t lane_fill(struct pt_tx *tx)
{
    struct lane *l = PT_CONTAINER_OF(tx, struct lane, tx);
    pthread_mutex_lock(&l->lock);
    if (l->error)
        l->fills_after_error++;
    uint64_t left = l->credit - l->sent, pos = l->sent;
    if (left == 0) {
        l->owned = false;
        atomic_store(&l->with_loop, false);
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        return 0;
    }
    pthread_mutex_unlock(&l->lock);

    size_t n = (size_t)PT_MIN(left, (uint64_t)l->piece);
    stream_bytes(l->seed, pos, l->buf, n);
    /* cut at places that depend on the position */
    size_t at = 0, k = 0;
    while (at < n) {
        size_t part =
            k == MAX_IOV - 1 ? n - at : PT_MIN(n - at, 1 + (size_t)((pos + at * 31) % 40009));
        l->iov[k].iov_base = l->buf + at;
        l->iov[k++].iov_len = part;
        at += part;
    }
    tx->msg.msg_iov = l->iov;
    tx->msg.msg_iovlen = k;
    return n;
}

static void lane_done(struct pt_tx *tx, ssize_t n)
{
    struct lane *l = PT_CONTAINER_OF(tx, struct lane, tx);
    pthread_mutex_lock(&l->lock);
    if (n > 0) {
        l->sent += (uint64_t)n;
    } else {
        l->error = n ? (int)n : -1;
        l->owned = false;
        atomic_store(&l->with_loop, false);
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
}

/* A connected pair over TCP on the loopback, as in life; small: with the smallest send buffer. */
static void tcp_pair(int *a, int *b, bool small)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    ck_assert(ls >= 0);
    ck_assert(bind(ls, (struct sockaddr *)&sa, sizeof sa) == 0);
    if (small)
        ck_assert(setsockopt(ls, SOL_SOCKET, SO_RCVBUF, &one, sizeof one) == 0);
    ck_assert(listen(ls, 1) == 0);
    ck_assert(getsockname(ls, (struct sockaddr *)&sa, &len) == 0);
    *a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (small)
        ck_assert(setsockopt(*a, SOL_SOCKET, SO_SNDBUF, &one, sizeof one) == 0);
    ck_assert(connect(*a, (struct sockaddr *)&sa, sizeof sa) == 0);
    *b = accept(ls, NULL, NULL);
    ck_assert(*b >= 0);
    close(ls);
    char why[200];
    struct pt_sock_opts opts = {0};
    ck_assert_msg(pt_sock_prepare(*a, &opts, why, sizeof why) == 0, "%s", why);
}

void lane_init(struct lane *l, uint64_t seed, size_t piece, bool small)
{
    memset(l, 0, sizeof *l);
    tcp_pair(&l->tx.fd, &l->peer, small);
    l->tx.fill = lane_fill;
    l->tx.done = lane_done;
    l->seed = seed;
    l->piece = piece;
    l->read_size = 65536;
    l->buf = malloc(piece);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
}

void lane_free(struct lane *l)
{
    if (l->tx.fd >= 0)
        close(l->tx.fd);
    if (l->peer >= 0)
        close(l->peer);
    free(l->buf);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
}

/* What the scheduler does: more to send; hands the lane over if it is not with the loop. */
void lane_offer(struct pt_loop *loop, struct lane *l, uint64_t bytes)
{
    pthread_mutex_lock(&l->lock);
    l->credit += bytes;
    bool submit = !l->owned;
    l->owned = true;
    atomic_store(&l->with_loop, true);
    pthread_mutex_unlock(&l->lock);
    if (submit)
        pt_loop_submit(loop, &l->tx);
}

void lane_wait_returned(struct lane *l)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&l->lock);
    while (l->owned)
        ck_assert_msg(pthread_cond_timedwait(&l->changed, &l->lock, &ts) == 0,
                      "the loop keeps a lane: sent %llu of %llu", (unsigned long long)l->sent,
                      (unsigned long long)l->credit);
    pthread_mutex_unlock(&l->lock);
}

bool lane_owned(struct lane *l)
{
    pthread_mutex_lock(&l->lock);
    bool owned = l->owned;
    pthread_mutex_unlock(&l->lock);
    return owned;
}

void *lane_reader(void *arg)
{
    struct lane *l = arg;
    uint8_t *buf = malloc(l->read_size), *expected = malloc(l->read_size);
    for (;;) {
        ssize_t n = recv(l->peer, buf, l->read_size, 0);
        if (n <= 0)
            break;
        stream_bytes(l->seed, l->received, expected, (size_t)n);
        l->corrupt |= memcmp(buf, expected, (size_t)n) != 0;
        l->received += (uint64_t)n;
    }
    free(buf);
    free(expected);
    return NULL;
}

void lane_finish(struct lane *l) /* all sent: the reader must have it all */
{
    lane_wait_returned(l);
    ck_assert_int_eq(l->error, 0);
    ck_assert(shutdown(l->tx.fd, SHUT_WR) == 0);
    pthread_join(l->reader, NULL);
    ck_assert_uint_eq(l->received, l->credit);
    ck_assert_uint_eq(l->sent, l->credit);
    ck_assert(!l->corrupt);
}

int kit_in_queue(int fd)
{
    int n = 0;
    ck_assert(ioctl(fd, FIONREAD, &n) == 0);
    return n;
}

struct pt_loop *kit_start(int backend)
{
    char reason[KIT_REASON];
    struct pt_loop *loop;
    int err;
#ifdef HAVE_LIBURING
    if (backend == 2)
        err = pt_loop_start_with(&loop, PT_BACKEND_URING, &kit_uring_again, &pt_backend_poll,
                                 reason, sizeof reason);
    else
#endif
        err = pt_loop_start(&loop, kit_wish(backend), reason, sizeof reason);
    ck_assert_msg(err == 0, "%s", reason);
    ck_assert_str_eq(pt_loop_backend(loop), backend ? "uring" : "poll");
    return loop;
}

int kit_entries(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    ck_assert_ptr_nonnull(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

void lane_stick(struct pt_loop *loop, struct lane *l)
{
    lane_offer(loop, l, 1 << 26);
    EVENTUALLY(kit_in_queue(l->peer) > 0);
}

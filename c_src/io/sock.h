/* Options and state of a lane's socket. All functions: any thread, no locks, never block. */
#ifndef PT_IO_SOCK_H
#define PT_IO_SOCK_H

#include "base/pt.h"

#define PT_SOCK_NOTSENT_LOWAT_DEFAULT (128 * 1024)
/* "[" IPv6 address "%" scope "]:" port and the NUL; a path of a local socket is cut. */
#define PT_SOCK_ADDR_MAX 80

/* 0 or NULL leaves the socket's present value, except where noted. Seconds as in tcp(7). */
struct pt_sock_opts {
    unsigned notsent_lowat;   /* bytes; 0: PT_SOCK_NOTSENT_LOWAT_DEFAULT */
    unsigned user_timeout_ms; /* TCP_USER_TIMEOUT */
    bool keepalive;
    unsigned keepalive_idle_s; /* the three count only with keepalive */
    unsigned keepalive_interval_s;
    unsigned keepalive_count;
    const char *congestion; /* TCP_CONGESTION, e.g. "bbr" */
};

/* Makes fd what the driver and both backends expect: blocking, close-on-exec, little unsent data
 * in the kernel; and sets the options. TCP_NODELAY stays with the Erlang side. Options that fd's
 * protocol does not know are passed over (tests use socket pairs), except a congestion control,
 * which somebody asked for by name.
 * 0, or -errno with one line in why. Some options may be set already then: close fd. */
int pt_sock_prepare(int fd, const struct pt_sock_opts *opts, char *why, size_t why_len);

/* A second descriptor, close-on-exec, of the same socket; the caller owns it. Or -errno.
 * Status flags such as O_NONBLOCK are shared with the original. */
int pt_sock_dup(int fd);

/* Values that the kernel does not have (older, or no TCP socket) are 0. */
struct pt_sock_info {
    uint32_t rtt_us, rttvar_us;
    uint32_t cwnd;        /* segments */
    uint32_t mss;         /* bytes of a segment sent */
    uint32_t unacked;     /* segments */
    uint32_t retransmits; /* segments, total */
    uint32_t notsent;     /* bytes in the send queue that never left */
    uint64_t bytes_acked, bytes_received;
    uint64_t delivery_rate; /* bytes/s */
    uint32_t out_queue;     /* SIOCOUTQ: bytes not acknowledged yet; 0 when gone */
    uint32_t in_queue;      /* SIOCINQ: bytes not read yet */
    bool gone; /* reset, timed out, or closed by both: nothing will be sent or acknowledged */
    char local[PT_SOCK_ADDR_MAX], remote[PT_SOCK_ADDR_MAX]; /* "" when unknown */
};

/* What sending looks at now and then, cheaper than pt_sock_info(). Values as there. */
struct pt_sock_flow {
    /* Segments sent again, less those the peer says it had already (DSACK, RFC 2883): a probe of a busy
     * receiver is no loss. That word comes a round trip later. */
    uint32_t lost;
    uint32_t min_rtt_us, rtt_us;
    uint64_t delivery_rate;
    /* bytes */
    uint64_t in_flight, not_sent; /* of what the socket took */
    uint32_t queued, buffer; /* what it holds and may hold, as the kernel counts (SO_MEMINFO) */
    uint32_t peer_window;    /* as advertised last */
};

/* 0 or -errno; values that the kernel does not have are 0. */
int pt_sock_flow(int fd, struct pt_sock_flow *flow);
int pt_sock_set_notsent_lowat(int fd, unsigned bytes); /* 0 or -errno */

/* 0, or -errno (-EBADF, -ENOTSOCK). */
int pt_sock_info(int fd, struct pt_sock_info *info);

#endif

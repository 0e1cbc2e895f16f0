/* When bulk may use more lanes than one: judged from what the kernel says of the lane that carries
 * it. Pure: the caller brings the samples and the time.
 *
 * A clean path is filled by one connection, and further ones cost a cold window each and a wake-up at
 * the receiver. There are two causes for more: packets are lost (each loss halves the window of one lane
 * only), and a path whose bandwidth times delay is more than one connection's buffers hold, where the
 * connection stands still for most of each round trip with nothing wrong. */
#ifndef PT_PROTO_PATH_H
#define PT_PROTO_PATH_H

#include "base/pt.h"

enum {
    PT_PATH_LONG_US = 1000,         /* a round trip from which a path is a long one */
    PT_PATH_LOOK_NS = 20 * 1000000, /* between two looks, and two round trips */
};

/* Of one connection, now. What the kernel does not know is 0. */
struct pt_path_sample {
    uint32_t lost; /* segments sent again that the peer did not have already; may fall later */
    uint32_t min_rtt_us, rtt_us; /* the least so far; smoothed */
    /* bytes */
    uint64_t in_flight, not_sent; /* of what the socket took: sent but not acknowledged; not sent */
    uint32_t queued, buffer;      /* what the socket holds, and may hold, as the kernel counts it */
    uint32_t peer_window;         /* as advertised last */
};

enum pt_path_why { PT_PATH_ONE_LANE, PT_PATH_LOSS, PT_PATH_WINDOW };

/* What was seen of one lane. Starts as zeros. */
struct pt_path_lane {
    uint32_t lost, lost_seen; /* counted already; at the last look */
    uint32_t widest;          /* peer_window at most */
    unsigned narrow;          /* looks that found full buffers, less those that did not */
};

/* Of one session. Starts as zeros. Times in ns of one clock that never goes back. */
struct pt_path {
    uint64_t spread_until; /* bulk may use more lanes */
    uint64_t next_look;
    uint64_t loss_seen; /* when packets were lost at a look; 0 never */
    enum pt_path_why why;
};

/* A look at the lane that carries bulk, while bulk waits. True: it should be spread, so lanes that are
 * not there are wished for. Sets when to look again. */
bool pt_path_look(struct pt_path *p, struct pt_path_lane *l, const struct pt_path_sample *s,
                  uint64_t now);

static inline bool pt_path_due(const struct pt_path *p, uint64_t now)
{
    return now >= p->next_look;
}

static inline enum pt_path_why pt_path_spread(const struct pt_path *p, uint64_t now)
{
    return now < p->spread_until ? p->why : PT_PATH_ONE_LANE;
}

#endif

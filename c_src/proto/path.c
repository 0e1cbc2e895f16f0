#include "proto/path.h"

static const uint64_t LOSS_AGAIN_NS = 2 * 1000000000ull;
static const uint64_t HOLD_NS = 10 * 1000000000ull;
/* More looks with full buffers than with others: one of them meets a gap now and then. */
enum { NARROW_LOOKS = 3, NARROW_MOST = 4 };

/* Lost for sure is what was lost at two looks, which are more than a round trip apart: only then the
 * peer's word that it had a segment already has come. */
static bool lost_more(struct pt_path_lane *l, uint32_t lost)
{
    uint32_t sure = PT_MIN(lost, l->lost_seen);
    bool more = sure > l->lost;
    l->lost_seen = lost;
    l->lost = sure;
    return more;
}

/* Our buffer is what limits: it is full of what is on its way, and nothing waits in it for the
 * congestion window, which allows more. Otherwise Linux makes the buffer twice what the window needs
 * (tcp_sndbuf_expand), so it is less than half full. Its own tcpi_sndbuf_limited does not count a sender that
 * waits for room by polling. */
static bool buffer_full(const struct pt_path_sample *s)
{
    return s->queued && s->queued >= s->buffer / 2 && s->not_sent <= s->in_flight / 8;
}

/* The peer's window is what limits. That of a peer which is slow to read moves between nothing and full;
 * where its buffer is too small for the path it stays as it is. More lanes help the second only, and
 * fill buffers for nothing at the first. Before Linux 5.4 nobody tells the window: 0. */
static bool window_full(struct pt_path_lane *l, const struct pt_path_sample *s)
{
    l->widest = PT_MAX(l->widest, s->peer_window);
    return s->peer_window && s->in_flight >= (uint64_t)s->peer_window * 3 / 4 &&
           s->peer_window >= l->widest / 2;
}

/* A round trip that takes longer than it must has a queue on its way: the path is full. */
static bool room_on_the_way(const struct pt_path_sample *s)
{
    return s->min_rtt_us >= PT_PATH_LONG_US && s->rtt_us <= s->min_rtt_us + s->min_rtt_us / 4;
}

static bool narrow(struct pt_path_lane *l, const struct pt_path_sample *s)
{
    bool full = window_full(l, s) || buffer_full(s);
    if (full && room_on_the_way(s))
        l->narrow = PT_MIN(l->narrow + 1, (unsigned)NARROW_MOST);
    else if (l->narrow)
        l->narrow--;
    return l->narrow >= NARROW_LOOKS;
}

bool pt_path_look(struct pt_path *p, struct pt_path_lane *l, const struct pt_path_sample *s,
                  uint64_t now)
{
    enum pt_path_why why = PT_PATH_ONE_LANE;

    p->next_look = now + PT_PATH_LOOK_NS + 2000 * (uint64_t)s->min_rtt_us;
    if (narrow(l, s))
        why = PT_PATH_WINDOW;
    if (lost_more(l, s->lost)) {
        /* a single one may be a probe of a busy receiver's, where the peer does not say so */
        if (p->loss_seen && now - p->loss_seen < LOSS_AGAIN_NS)
            why = PT_PATH_LOSS;
        p->loss_seen = now;
    }
    if (why == PT_PATH_ONE_LANE)
        return false;
    p->spread_until = now + HOLD_NS;
    p->why = why;
    return true;
}

/* The node's limit on what is queued over all streams.
 *
 * Each stream has a limit of its own (max_queue); this one bounds their sum. While it is exceeded,
 * streams above their fair share of it are full, the others go on: a peer that stands still must not
 * cost the others their queue, and they must not pay for it by becoming busy.
 *
 * Streams tell in lumps what they have queued, so that schedulers that serve different peers do not
 * share a cache line at every message: the sum is wrong by a lump a stream at most. */
#include "vm/stream.h"

#include "vm/node.h"

enum {
    LUMP = 64 * 1024,
    /* The share is never less: with inet_tcp the VM queues 1 MB (+zdbbl) for a peer before its
     * senders are suspended, and nobody is to be suspended earlier here. */
    LEAST = 1024 * 1024
};

void pt_cap_account(struct pt_stream *s)
{
    size_t lumps = pt_stream_queued(s) / LUMP;
    if (PT_LIKELY(lumps == s->told_lumps))
        return;
    if (!lumps != !s->told_lumps)
        atomic_fetch_add_explicit(&pt_node.queuing, lumps ? 1 : -1, memory_order_relaxed);
    atomic_fetch_add_explicit(&pt_node.queued_lumps, (int64_t)lumps - (int64_t)s->told_lumps,
                              memory_order_relaxed);
    s->told_lumps = lumps;
}

void pt_cap_forget(struct pt_stream *s)
{
    if (s->told_lumps)
        atomic_fetch_add_explicit(&pt_node.queuing, -1, memory_order_relaxed);
    atomic_fetch_add_explicit(&pt_node.queued_lumps, -(int64_t)s->told_lumps, memory_order_relaxed);
    s->told_lumps = 0;
}

uint64_t pt_cap_queued(void)
{
    int64_t lumps = atomic_load_explicit(&pt_node.queued_lumps, memory_order_relaxed);
    return lumps > 0 ? (uint64_t)lumps * LUMP : 0; /* relaxed: may be below 0 for a moment */
}

static uint64_t share(void)
{
    int64_t streams = atomic_load_explicit(&pt_node.queuing, memory_order_relaxed);
    return PT_MAX(pt_node.max_queue / (uint64_t)PT_MAX(streams, 1), (uint64_t)LEAST);
}

bool pt_cap_full(const struct pt_stream *s)
{
    return pt_stream_queued(s) > LEAST && pt_cap_queued() > pt_node.max_queue &&
           pt_stream_queued(s) > share();
}

bool pt_cap_low(const struct pt_stream *s)
{
    return pt_stream_queued(s) <= LEAST / 4 * 3 ||
           pt_cap_queued() <= pt_node.max_queue - pt_node.max_queue / 16 ||
           pt_stream_queued(s) <= share() / 4 * 3;
}

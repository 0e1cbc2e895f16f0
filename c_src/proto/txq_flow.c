#include "proto/txq_int.h"

#include <errno.h>

enum { RING_LEAST = 256, RING_SMALL = 1024 };

struct pt_flow *pt_flow_get(struct pt_txq *q, uint64_t key)
{
    struct pt_flow *f = q->hot;
    if (!f || f->key != key)
        f = pt_hmap_get(&q->flows, key);
    if (f && f->resting) {
        pt_list_del(&f->link);
        f->resting = false;
        q->idle_count--;
    }
    if (!f) {
        f = q->spare;
        if (f)
            q->spare = f->next_spare;
        else if (!(f = pt_alloc(sizeof *f)))
            return NULL;
        *f = (struct pt_flow){.key = key};
        pt_list_init(&f->link);
        pt_list_init(&f->queue);
        if (pt_hmap_put(&q->flows, key, f)) {
            pt_free(f);
            return NULL;
        }
    }
    q->hot = f;
    return f;
}

static void forget(struct pt_txq *q, struct pt_flow *f)
{
    pt_hmap_del(&q->flows, f->key);
    if (q->hot == f)
        q->hot = NULL;
    f->next_spare = q->spare;
    q->spare = f;
}

void pt_flow_maybe_free(struct pt_txq *q, struct pt_flow *f)
{
    if (f->unacked || f->state != PT_FLOW_IDLE || f->resting)
        return;
    f->resting = true;
    pt_list_push(&q->idle, &f->link);
    if (q->idle_count < PT_TXQ_IDLE_FLOWS) {
        q->idle_count++;
        return;
    }
    forget(q, PT_CONTAINER_OF(pt_list_pop(&q->idle), struct pt_flow, link));
}

void pt_flow_free_all(struct pt_txq *q)
{
    size_t pos = 0;
    for (struct pt_flow *f; (f = pt_hmap_next(&q->flows, &pos));)
        pt_free(f);
    pt_hmap_free(&q->flows);
    for (struct pt_flow *f = q->spare, *next; f; f = next) {
        next = f->next_spare;
        pt_free(f);
    }
    q->spare = q->hot = NULL;
}

static size_t ring_size(const struct pt_txq *q) { return q->ring ? q->ring_mask + 1 : 0; }

/* size: a power of two, larger than what is unacknowledged. */
static int resize_ring(struct pt_txq *q, size_t size)
{
    struct pt_unacked *ring = pt_alloc(size * sizeof *ring);
    if (!ring)
        return -ENOMEM;
    for (uint64_t n = q->acked + 1; q->ring && n < q->next_number; n++)
        ring[n & (size - 1)] = q->ring[n & q->ring_mask];
    pt_free(q->ring);
    q->ring = ring;
    q->ring_mask = size - 1;
    return 0;
}

int pt_unacked_reserve(struct pt_txq *q)
{
    size_t size = ring_size(q);
    if (pt_txq_unacked(q) < size)
        return 0;
    return resize_ring(q, PT_MAX(2 * size, (size_t)RING_LEAST));
}

/* Half of the flows kept for re-use: the rear half, as the front is used first. */
static void trim_spare(struct pt_txq *q)
{
    struct pt_flow **end = &q->spare;
    bool odd = false;
    for (struct pt_flow *f = q->spare; f; f = f->next_spare, odd = !odd)
        if (odd)
            end = &(*end)->next_spare;
    struct pt_flow *f = *end;
    *end = NULL;
    while (f) {
        struct pt_flow *next = f->next_spare;
        pt_free(f);
        f = next;
    }
}

void pt_txq_trim(struct pt_txq *q)
{
    size_t size = ring_size(q);
    if (size > RING_SMALL && pt_txq_unacked(q) * 8 <= size)
        (void)resize_ring(q, size / 2);
    for (struct pt_list *n; (n = pt_list_pop(&q->idle));)
        forget(q, PT_CONTAINER_OF(n, struct pt_flow, link));
    q->idle_count = 0;
    trim_spare(q);
    pt_hmap_trim(&q->flows);
}

size_t pt_txq_memory(const struct pt_txq *q) { return ring_size(q) * sizeof(struct pt_unacked); }

void pt_unacked_add(struct pt_txq *q, struct pt_flow *f, size_t speculative)
{
    q->ring[q->next_number & q->ring_mask] = (struct pt_unacked){f, speculative};
    q->speculative += speculative;
    if (f)
        f->unacked++;
    q->next_number++;
}

int pt_txq_ack(struct pt_txq *q, uint64_t number)
{
    if (number >= q->next_number)
        return PT_E_BAD_NUMBER;
    if (number <= q->acked) /* acknowledgements on different lanes may overtake each other */
        return 0;
    while (q->acked < number) {
        struct pt_unacked *u = &q->ring[++q->acked & q->ring_mask];
        q->speculative -= u->speculative;
        if (u->flow) {
            u->flow->unacked--;
            pt_flow_maybe_free(q, u->flow);
        }
    }
    for (unsigned i = 0; q->only >> i; i++) {
        pt_list_splice(&q->blocked, &q->only_small[i]);
        pt_list_splice(&q->blocked, &q->only_bulk[i]);
    }
    q->only = 0;
    for (struct pt_list *n; (n = pt_list_pop(&q->blocked));)
        pt_txq_enlist(q, PT_CONTAINER_OF(n, struct pt_msg, pick));
    return 0;
}

unsigned pt_txq_called(const struct pt_txq *q)
{
    unsigned lanes = 0;
    for (unsigned i = 0; q->only >> i; i++)
        if (!pt_list_empty(&q->only_small[i]) || !pt_list_empty(&q->only_bulk[i]))
            lanes |= 1u << i;
    return lanes;
}

size_t pt_txq_flows(const struct pt_txq *q) { return q->flows.count - q->idle_count; }

uint64_t pt_txq_unacked(const struct pt_txq *q) { return q->next_number - 1 - q->acked; }

#include "link.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_MIN = 64, SLOTS_MAX = 1 << 22 };

void ptn_link_init(struct ptn_link *l, uint64_t seed)
{
    memset(l, 0, sizeof *l);
    l->rng.s = seed;
}

void ptn_link_free(struct ptn_link *l)
{
    free(l->slot);
    l->slot = NULL;
}

void ptn_link_configure(struct ptn_link *l, const struct ptn_link_conf *c)
{
    if (c->to_bad <= 0)
        l->bad = false;
    /* A shorter delay would hold new segments back behind old ones for no reason. */
    if (c->delay != l->conf.delay || c->jitter != l->conf.jitter)
        l->last_due = 0;
    if (!c->rate)
        l->free_at = l->rest = 0;
    l->conf = *c;
}

void ptn_link_burst(struct ptn_link_conf *c, double loss, double length)
{
    c->to_good = 1 / length;
    c->to_bad = c->to_good * loss / (1 - loss);
    c->bad_loss = 1;
    c->good_loss = 0;
}

/* ---- the queue ---- */

static void retire(struct ptn_link *l, uint64_t now)
{
    while (l->count && l->slot[l->head & l->mask].gone <= now) {
        l->queued -= l->slot[l->head & l->mask].bytes;
        l->head++;
        l->count--;
    }
}

static bool grow(struct ptn_link *l)
{
    uint32_t size = l->slot ? (l->mask + 1) * 2 : SLOTS_MIN;
    struct ptn_slot *slot = size <= SLOTS_MAX ? malloc(size * sizeof *slot) : NULL;

    if (!slot)
        return false;
    for (uint32_t i = 0; i < l->count; i++)
        slot[i] = l->slot[(l->head + i) & l->mask];
    free(l->slot);
    l->slot = slot;
    l->mask = size - 1;
    l->head = 0;
    return true;
}

/* When the transmitter is done with the segment; or why it never gets there. */
static enum ptn_fate transmit(struct ptn_link *l, uint64_t now, uint32_t bytes, uint64_t *gone)
{
    const struct ptn_link_conf *c = &l->conf;

    retire(l, now);
    *gone = now;
    if (!c->rate)
        return PTN_PASS;
    if ((c->queue_packets && l->count >= c->queue_packets) ||
        (c->queue_bytes && l->queued + bytes > c->queue_bytes))
        return PTN_FULL;
    if ((!l->slot || l->count > l->mask) && !grow(l))
        return PTN_NO_MEMORY;
    if (l->free_at < now) {
        l->free_at = now;
        l->rest = 0;
    }
    uint64_t bits = (uint64_t)bytes * 8 * 1000000000u + l->rest;
    l->free_at += bits / c->rate;
    l->rest = bits % c->rate;
    *gone = l->free_at;
    l->slot[(l->head + l->count++) & l->mask] = (struct ptn_slot){.gone = *gone, .bytes = bytes};
    l->queued += bytes;
    if (l->queued > l->peak_bytes)
        l->peak_bytes = l->queued;
    if (l->count > l->peak_packets)
        l->peak_packets = l->count;
    return PTN_PASS;
}

/* ---- the wire ---- */

static enum ptn_fate lose(struct ptn_link *l)
{
    const struct ptn_link_conf *c = &l->conf;

    if (c->to_bad > 0) {
        if (ptn_chance(&l->rng, l->bad ? c->to_good : c->to_bad))
            l->bad = !l->bad;
        if (ptn_chance(&l->rng, l->bad ? c->bad_loss : c->good_loss))
            return PTN_BURST;
    }
    return ptn_chance(&l->rng, c->loss) ? PTN_LOST : PTN_PASS;
}

/* Mean 0, deviation 1, cut at 4: Box and Muller's cosine. */
static double normal(struct ptn_rng *r)
{
    double u = 1 - ptn_rand_unit(r); /* never 0 */
    double x = sqrt(-2 * log(u)) * cos(2 * M_PI * ptn_rand_unit(r));
    return x > 4 ? 4 : x < -4 ? -4 : x;
}

void ptn_link_train(struct ptn_link *l, uint64_t now)
{
    const struct ptn_link_conf *c = &l->conf;

    retire(l, now);
    if (!c->jitter) {
        l->jitter = 0;
        return;
    }
    double x = c->jitter_is == PTN_JITTER_NORMAL ? normal(&l->rng) : 2 * ptn_rand_unit(&l->rng) - 1;
    l->jitter = (int64_t)(x * (double)c->jitter);
    if (l->jitter < 0 && (uint64_t)-l->jitter > c->delay)
        l->jitter = -(int64_t)c->delay;
}

struct ptn_verdict ptn_link_offer(struct ptn_link *l, uint64_t now, uint32_t bytes)
{
    struct ptn_verdict v = {.fate = PTN_PASS};
    uint64_t gone;

    v.fate = transmit(l, now, bytes, &gone);
    if (v.fate == PTN_PASS)
        v.fate = lose(l);
    if (v.fate != PTN_PASS)
        return v;
    v.due = gone + l->conf.delay + (uint64_t)l->jitter;
    if (v.due < l->last_due)
        v.due = l->last_due;
    v.overtaken = ptn_chance(&l->rng, l->conf.reorder);
    if (v.overtaken)
        v.due += l->conf.reorder_by;
    else
        l->last_due = v.due;
    v.twice = ptn_chance(&l->rng, l->conf.duplicate);
    return v;
}

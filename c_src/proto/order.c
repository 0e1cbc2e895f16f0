#include "proto/order.h"

#include <errno.h>
#include <string.h>

#define HELD_OF(node) PT_CONTAINER_OF(node, struct pt_held, link)

void pt_order_init(struct pt_order_rx *o)
{
    memset(o, 0, sizeof *o);
    pt_hmap_init(&o->waiting);
    pt_hmap_init(&o->fences);
    pt_list_init(&o->ready);
}

void pt_order_free(struct pt_order_rx *o, void (*drop)(void *ctx, struct pt_held *h), void *ctx)
{
    size_t pos = 0;
    for (struct pt_held *h; (h = pt_hmap_next(&o->waiting, &pos));)
        for (struct pt_held *next; h; h = next) {
            next = h->next;
            drop(ctx, h);
        }
    pos = 0;
    for (struct pt_held *h; (h = pt_hmap_next(&o->fences, &pos));)
        drop(ctx, h);
    for (struct pt_list *n; (n = pt_list_pop(&o->ready));)
        drop(ctx, HELD_OF(n));
    pt_hmap_free(&o->waiting);
    pt_hmap_free(&o->fences);
    pt_free(o->bits);
    o->bits = NULL;
}

static uint64_t *word(const struct pt_order_rx *o, uint64_t number)
{
    return &o->bits[(number & (o->span - 1)) / 64];
}

static uint64_t bit(uint64_t number) { return UINT64_C(1) << (number % 64); }

static bool is_delivered(const struct pt_order_rx *o, uint64_t number)
{
    if (number <= o->watermark)
        return true;
    return o->beyond && number - o->watermark <= o->span && (*word(o, number) & bit(number));
}

int pt_order_check(const struct pt_order_rx *o, uint64_t number, uint64_t after, bool fence)
{
    if (!number || after >= number || number - o->watermark > PT_ORDER_SPAN ||
        is_delivered(o, number))
        return PT_E_BAD_NUMBER;
    if (o->broken_on_purpose)
        return 1;
    if (fence)
        return o->watermark + 1 == number;
    return after == 0 || is_delivered(o, after);
}

int pt_order_hold(struct pt_order_rx *o, struct pt_held *h)
{
    pt_list_init(&h->link);
    h->next = NULL;
    if (h->fence) {
        if (pt_hmap_get(&o->fences, h->number))
            return PT_E_BAD_NUMBER;
        if (pt_hmap_put(&o->fences, h->number, h))
            return -ENOMEM;
    } else {
        struct pt_held *first = pt_hmap_get(&o->waiting, h->after);
        if (first) { /* a chain of more than one is rare: only a fence has several followers */
            h->next = first->next;
            first->next = h;
        } else if (pt_hmap_put(&o->waiting, h->after, h)) {
            return -ENOMEM;
        }
    }
    o->held_bytes += h->len;
    o->held_count++;
    o->held_peak = PT_MAX(o->held_peak, o->held_bytes);
    o->held_largest = PT_MAX(o->held_largest, h->len);
    return 0;
}

static int widen(struct pt_order_rx *o, uint64_t distance)
{
    uint64_t span = o->span ? o->span : 1024;
    while (span < distance)
        span *= 2;
    uint64_t *bits = pt_zalloc((size_t)(span / 8));
    if (!bits)
        return -ENOMEM;
    struct pt_order_rx old = *o;
    o->bits = bits;
    o->span = span;
    for (uint64_t n = old.watermark + 1; old.beyond && n <= old.watermark + old.span; n++)
        if (*word(&old, n) & bit(n))
            *word(o, n) |= bit(n);
    pt_free(old.bits);
    return 0;
}

static int mark(struct pt_order_rx *o, uint64_t number)
{
    if (number == o->watermark + 1) {
        o->watermark++;
        while (o->beyond && (*word(o, o->watermark + 1) & bit(o->watermark + 1))) {
            o->watermark++;
            *word(o, o->watermark) &= ~bit(o->watermark);
            o->beyond--;
        }
        return 0;
    }
    if (is_delivered(o, number) || number - o->watermark > PT_ORDER_SPAN)
        return PT_E_BAD_NUMBER;
    if (number - o->watermark > o->span) {
        int rc = widen(o, number - o->watermark);
        if (rc)
            return rc;
    }
    *word(o, number) |= bit(number);
    o->beyond++;
    return 0;
}

static void set_free(struct pt_order_rx *o, struct pt_held *h)
{
    o->held_bytes -= h->len;
    if (--o->held_count == 0)
        o->held_largest = 0;
    pt_list_push(&o->ready, &h->link);
}

int pt_order_delivered(struct pt_order_rx *o, uint64_t number)
{
    int rc = mark(o, number);
    if (rc || !o->held_count)
        return rc;
    for (struct pt_held *h = pt_hmap_del(&o->waiting, number), *next; h; h = next) {
        next = h->next;
        set_free(o, h);
    }
    struct pt_held *fence = o->fences.count ? pt_hmap_del(&o->fences, o->watermark + 1) : NULL;
    if (fence)
        set_free(o, fence);
    return 0;
}

void pt_order_trim(struct pt_order_rx *o)
{
    if (!o->beyond && o->span > PT_ORDER_SPAN_SMALL) {
        pt_free(o->bits);
        o->bits = NULL;
        o->span = 0;
    }
    pt_hmap_trim(&o->waiting);
    pt_hmap_trim(&o->fences);
}

struct pt_held *pt_order_ready(struct pt_order_rx *o)
{
    struct pt_list *n = pt_list_pop(&o->ready);
    return n ? HELD_OF(n) : NULL;
}

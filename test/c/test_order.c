/* The receiving half of order against a list scan: all short sequences of messages, numbered by the
 * real transmit queue, in all orders of arrival (which is what any number of lanes can do). */
#include "support.h"

#include "proto/order.h"
#include "proto/txq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 6, FLOW_1 = 1, FLOW_2, FLOW_3, FREE, HALF, FULL };

/* One sequence of submissions and what the transmit queue made of it. In order of emission. */
struct example {
    unsigned n;
    uint8_t what[MOST];   /* by place of submission */
    unsigned place[MOST]; /* of the message emitted i-th */
    struct pt_frame frame[MOST];
};

/* ---- the model: what must come before what, from the promise to users alone ---- */

static bool must_precede(const struct example *x, unsigned first, unsigned second)
{
    uint8_t a = x->what[first], b = x->what[second];

    if (first >= second)
        return false;
    return a == FULL || b == FULL || b == HALF || (a == b && a <= FLOW_3);
}

static const char *judge(const struct example *x, unsigned delivered_places, unsigned place)
{
    if (delivered_places & 1u << place)
        return "delivered twice";
    for (unsigned i = 0; i < x->n; i++)
        if (must_precede(x, i, place) && !(delivered_places & 1u << i))
            return "delivered too early";
    return NULL;
}

/* The same from the wire: the trivially right way to do what the core does. */
static bool may_go(const struct example *x, unsigned delivered, unsigned i)
{
    const struct pt_frame *f = &x->frame[i];
    if (f->flags & PT_FRAME_FENCE) {
        for (unsigned k = 0; k < x->n; k++)
            if (x->frame[k].number < f->number && !(delivered & 1u << k))
                return false;
        return true;
    }
    for (unsigned k = 0; k < x->n; k++)
        if (x->frame[k].number == f->after && !(delivered & 1u << k))
            return false;
    return true;
}

static unsigned closure(const struct example *x, unsigned arrived, unsigned delivered)
{
    for (unsigned i = 0; i < x->n; i++)
        if ((arrived & ~delivered & 1u << i) && may_go(x, delivered, i))
            return closure(x, arrived, delivered | 1u << i);
    return delivered;
}

/* ---- the example: emitted by the real queue, some of it acknowledged on the way ---- */

static void emit(struct example *x, unsigned acked_after)
{
    struct pt_txq q;
    uint8_t byte[MOST] = {0, 1, 2, 3, 4, 5};

    sup_must(pt_txq_init(&q, &sup_owner_ops) == 0);
    for (unsigned i = 0; i < x->n; i++) {
        struct pt_msg *m = sup_msg(&byte[i], 1, NULL);
        m->kind = x->what[i] == FREE   ? PT_ORDER_FREE
                  : x->what[i] == HALF ? PT_ORDER_HALF_FENCE
                  : x->what[i] == FULL ? PT_ORDER_FENCE
                                       : PT_ORDER_SENDER;
        m->key = x->what[i] <= FLOW_3 ? x->what[i] : 0;
        sup_must(pt_txq_submit(&q, m) == 0);
    }
    for (unsigned i = 0; i < x->n; i++) {
        struct pt_emit e;
        uint8_t place;
        if (i == acked_after)
            sup_must(pt_txq_ack(&q, i) == 0);
        sup_must(pt_txq_next(&q, 0, PT_WANT_SMALL, 1, &e) == 1);
        pt_msg_copy(e.msg, &place, 1);
        sup_must(pt_txq_emitted(&q, &e) == 1);
        pt_msg_free(e.msg, &sup_owner_ops);
        x->place[i] = place;
        x->frame[i] = e.frame;
    }
    pt_txq_free(&q);
}

/* ---- the core ---- */

struct run {
    const struct example *x;
    struct pt_order_rx o;
    struct pt_held held[MOST];
    unsigned delivered, places;
    const char *wrong;
};

static void deliver(struct run *r, unsigned i)
{
    const char *wrong = judge(r->x, r->places, r->x->place[i]);
    if (wrong && !r->wrong)
        r->wrong = wrong;
    r->delivered |= 1u << i;
    r->places |= 1u << r->x->place[i];
    if (pt_order_delivered(&r->o, r->x->frame[i].number) && !r->wrong)
        r->wrong = "refused a delivery";
}

static void arrive(struct run *r, unsigned i)
{
    const struct pt_frame *f = &r->x->frame[i];
    bool fence = f->flags & PT_FRAME_FENCE;
    int rc = pt_order_check(&r->o, f->number, f->after, fence);

    sup_must(rc >= 0);
    if (rc) {
        deliver(r, i);
    } else {
        struct pt_held *h = &r->held[i];
        *h = (struct pt_held){.number = f->number, .after = f->after, .fence = fence, .len = 10};
        sup_must(pt_order_hold(&r->o, h) == 0);
    }
    for (struct pt_held *h; (h = pt_order_ready(&r->o));)
        deliver(r, (unsigned)(h - r->held));
}

static void no_drop(void *ctx, struct pt_held *h)
{
    (void)ctx;
    (void)h;
}

/* One order of arrival; what is wrong with it, or NULL. `first` arrived and were acknowledged. */
static const char *arrivals(const struct example *x, const unsigned *perm, unsigned first,
                            bool broken)
{
    struct run r = {.x = x};
    unsigned arrived = 0;

    pt_order_init(&r.o);
    r.o.broken_on_purpose = broken;
    for (unsigned i = 0; i < x->n && !r.wrong; i++) {
        unsigned which = i < first ? i : perm[i - first] + first;
        arrive(&r, which);
        arrived |= 1u << which;
        if (!r.wrong && !broken && r.delivered != closure(x, arrived, 0))
            r.wrong = "not what the list scan delivers";
    }
    if (!r.wrong && (r.places != (1u << x->n) - 1 || r.o.held_count || r.o.held_bytes))
        r.wrong = "something stayed behind";
    if (!r.wrong && (r.o.watermark != x->n || r.o.beyond))
        r.wrong = "the watermark does not cover everything";
    pt_order_free(&r.o, no_drop, NULL);
    return r.wrong;
}

static bool next_permutation(unsigned *p, unsigned n)
{
    unsigned i = n, j = n;
    if (n < 2)
        return false;
    for (i = n - 1; i && p[i - 1] >= p[i]; i--)
        ;
    if (!i)
        return false;
    while (p[--j] <= p[i - 1])
        ;
    unsigned t = p[i - 1];
    p[i - 1] = p[j];
    p[j] = t;
    for (j = n; i < --j; i++) {
        t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
    return true;
}

static const char *all_arrivals(const struct example *x, unsigned first, bool broken)
{
    unsigned perm[MOST];
    const char *wrong = NULL;

    for (unsigned i = 0; i < MOST; i++)
        perm[i] = i;
    do
        wrong = arrivals(x, perm, first, broken);
    while (!wrong && next_permutation(perm, x->n - first));
    return wrong;
}

/* Flows are named in order of appearance: other names are the same sequence. False at the end. */
static bool next_example(struct example *x)
{
    for (unsigned i = x->n; i--;) {
        unsigned flows = 0;
        for (unsigned k = 0; k < i; k++)
            if (x->what[k] <= FLOW_3)
                flows = PT_MAX(flows, x->what[k]);
        do
            x->what[i]++;
        while (x->what[i] <= FLOW_3 && x->what[i] > flows + 1);
        if (x->what[i] <= FULL)
            return true;
        x->what[i] = FLOW_1;
    }
    return false;
}

static unsigned long check_length(unsigned n)
{
    struct example x = {.n = n};
    unsigned long count = 0;

    memset(x.what, FLOW_1, sizeof x.what);
    do {
        for (unsigned first = 0; first < PT_MIN(n, 3); first++) {
            emit(&x, first);
            const char *wrong = all_arrivals(&x, first, false);
            if (wrong)
                ck_abort_msg("%s: %u%u%u%u%u%u, %u acknowledged", wrong, x.what[0], x.what[1],
                             x.what[2], x.what[3], x.what[4], x.what[5], first);
            count++;
        }
    } while (next_example(&x));
    return count;
}

START_TEST(all_interleavings)
{
    unsigned long count = 0;

    sup_alloc_fail_at(0);
    for (unsigned n = 1; n <= 5; n++)
        count += check_length(n);
    ck_assert_uint_gt(count, 3000);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* Six messages: too many for all sequences in a unit test; every 23rd, and another one each time
 * the number of sequences changes. */
START_TEST(interleavings_of_six)
{
    struct example x = {.n = 6};
    unsigned long i = 0;

    sup_alloc_fail_at(0);
    memset(x.what, FLOW_1, sizeof x.what);
    do {
        if (i++ % 23)
            continue;
        emit(&x, 0);
        ck_assert_ptr_null(all_arrivals(&x, 0, false));
    } while (next_example(&x));
    ck_assert_uint_gt(i, 5000);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* ---- broken rules must be seen ---- */

enum mutation { IGNORE_ORDER, NO_PREDECESSOR, NO_FENCE_FLAG, WRONG_PREDECESSOR };

/* Of all sequences in which the mutation changes something that matters: how many are caught, and
 * how many are not although two messages of one flow, or a fence, are there to be mixed up. */
static void mutate(enum mutation kind, unsigned long *caught, unsigned long *missed)
{
    struct example x = {.n = 4};

    memset(x.what, FLOW_1, sizeof x.what);
    *caught = *missed = 0;
    do {
        struct example y;
        bool related = false, changed = kind == IGNORE_ORDER;
        emit(&x, x.n);
        y = x;
        for (unsigned i = 0; i < x.n; i++) {
            struct pt_frame *f = &y.frame[i];
            for (unsigned k = 0; k < x.n; k++)
                related |= must_precede(&x, k, i);
            if (kind == NO_PREDECESSOR && f->after && !(f->flags & PT_FRAME_FENCE)) {
                f->after = 0;
                changed = true;
            }
            if (kind == NO_FENCE_FLAG && f->flags & PT_FRAME_FENCE && i > 0) {
                f->flags = 0;
                changed = true;
            }
            /* the one before instead of the right one, where these differ */
            if (kind == WRONG_PREDECESSOR && f->after > 1 && !(f->flags & PT_FRAME_FENCE)) {
                f->after--;
                changed = true;
            }
        }
        if (!changed || !related)
            continue;
        if (all_arrivals(&y, 0, kind == IGNORE_ORDER))
            ++*caught;
        else
            ++*missed;
    } while (next_example(&x));
}

START_TEST(broken_rules_are_seen)
{
    unsigned long caught, missed;

    sup_alloc_fail_at(0);
    mutate(IGNORE_ORDER, &caught, &missed);
    ck_assert_uint_gt(caught, 100);
    ck_assert_uint_eq(missed, 0);
    mutate(NO_PREDECESSOR, &caught, &missed);
    ck_assert_uint_gt(caught, 100);
    ck_assert_uint_eq(missed, 0);
    /* a fence whose predecessor alone implies the rest needs no flag: those are not caught */
    mutate(NO_FENCE_FLAG, &caught, &missed);
    ck_assert_uint_gt(caught, 100);
    mutate(WRONG_PREDECESSOR, &caught, &missed);
    ck_assert_uint_gt(caught, 20);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* ---- numbers ---- */

START_TEST(refused_numbers)
{
    struct pt_order_rx o;

    pt_order_init(&o);
    for (uint64_t n = 1; n <= 10; n++)
        ck_assert_int_eq(pt_order_delivered(&o, n), 0);
    ck_assert_int_eq(pt_order_delivered(&o, 15), 0);
    ck_assert_int_eq(pt_order_check(&o, 0, 0, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 1, 0, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 10, 0, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 15, 0, true), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 12, 12, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 12, 13, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 10 + PT_ORDER_SPAN + 1, 0, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, UINT64_MAX, 0, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 10 + PT_ORDER_SPAN, 0, false), 1);
    ck_assert_int_eq(pt_order_check(&o, 11, 0, true), 1);
    ck_assert_int_eq(pt_order_check(&o, 12, 0, true), 0);
    ck_assert_int_eq(pt_order_check(&o, 12, 11, false), 0);
    ck_assert_int_eq(pt_order_check(&o, 16, 15, false), 1);
    ck_assert_int_eq(pt_order_delivered(&o, 10), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_delivered(&o, 15), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_delivered(&o, 10 + PT_ORDER_SPAN + 1), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_delivered(&o, 0), PT_E_BAD_NUMBER);
    pt_order_free(&o, no_drop, NULL);
}
END_TEST

/* The farthest a slow lane may lag; the bitmap grows to its limit and is used up again. */
START_TEST(the_whole_span)
{
    struct pt_order_rx o;

    sup_alloc_fail_at(0);
    pt_order_init(&o);
    for (uint64_t n = 2; n <= 5000; n++)
        sup_must(pt_order_delivered(&o, n) == 0);
    ck_assert_int_eq(pt_order_delivered(&o, PT_ORDER_SPAN), 0);
    ck_assert_uint_eq(o.watermark, 0);
    ck_assert_uint_eq(o.beyond, 5000);
    ck_assert_uint_le(o.span, PT_ORDER_SPAN);
    for (uint64_t n = 2; n <= 5000; n++)
        sup_must(pt_order_check(&o, n, 0, false) == PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, 5001, 5000, false), 1);
    ck_assert_int_eq(pt_order_check(&o, 5002, 5001, false), 0);
    ck_assert_int_eq(pt_order_delivered(&o, 1), 0);
    ck_assert_uint_eq(o.watermark, 5000);
    ck_assert_uint_eq(o.beyond, 1);
    pt_order_free(&o, no_drop, NULL);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* Numbers in random order, the ring going round many times, against an array of bits. */
/* The bitmap goes when nothing is beyond the watermark, not before, and comes back when needed. */
START_TEST(the_bitmap_is_given_back)
{
    const uint64_t far = 4 * PT_ORDER_SPAN_SMALL;
    struct pt_order_rx o;

    sup_alloc_fail_at(0);
    pt_order_init(&o);
    sup_must(pt_order_delivered(&o, far) == 0);
    pt_order_trim(&o);
    ck_assert_ptr_nonnull(o.bits);
    ck_assert_int_eq(pt_order_check(&o, far, 0, false), PT_E_BAD_NUMBER); /* it is known */
    for (uint64_t n = 1; n < far; n++)
        sup_must(pt_order_delivered(&o, n) == 0);
    ck_assert_uint_eq(o.watermark, far);
    pt_order_trim(&o);
    ck_assert_ptr_null(o.bits);
    ck_assert_int_eq(pt_order_check(&o, far, 0, false), PT_E_BAD_NUMBER);
    sup_must(pt_order_delivered(&o, far + 3) == 0);
    ck_assert_int_eq(pt_order_check(&o, far + 3, 0, false), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_order_check(&o, far + 4, far + 3, false), 1);
    pt_order_trim(&o); /* a small one stays */
    sup_must(pt_order_delivered(&o, far + 1) == 0 && pt_order_delivered(&o, far + 2) == 0);
    ck_assert_uint_eq(o.watermark, far + 3);
    pt_order_trim(&o);
    ck_assert_ptr_nonnull(o.bits);
    pt_order_free(&o, NULL, NULL);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(watermark_model)
{
    enum { COUNT = 200000, WINDOW = 3000 };
    static bool there[COUNT + WINDOW + 1];
    struct sup_rng rng = {5};
    struct pt_order_rx o;
    uint64_t low = 1;

    memset(there, 0, sizeof there);
    pt_order_init(&o);
    for (unsigned i = 0; low <= COUNT; i++) {
        uint64_t n = sup_chance(&rng, 60) ? low : low + sup_below(&rng, 1 + i % WINDOW);
        sup_must((pt_order_check(&o, n, 0, false) < 0) == there[n]);
        sup_must((pt_order_delivered(&o, n) == PT_E_BAD_NUMBER) == there[n]);
        there[n] = true;
        while (there[low])
            low++;
        sup_must(o.watermark == low - 1);
    }
    pt_order_free(&o, no_drop, NULL);
}
END_TEST

static void count_drop(void *ctx, struct pt_held *h)
{
    (void)h;
    ++*(unsigned *)ctx;
}

START_TEST(held_ones_are_dropped_at_the_end)
{
    struct pt_order_rx o;
    struct pt_held h[7];
    unsigned dropped = 0;

    sup_alloc_fail_at(0);
    pt_order_init(&o);
    for (unsigned i = 0; i < 7; i++) { /* three behind 1, one behind 5, fences out of order */
        static const uint64_t number[] = {2, 3, 4, 6, 9, 7, 8};
        h[i] = (struct pt_held){
            .number = number[i], .after = i < 3 ? 1 : 5, .fence = i >= 4, .len = 1};
        ck_assert_int_eq(pt_order_hold(&o, &h[i]), 0);
    }
    ck_assert_uint_eq(o.held_count, 7);
    ck_assert_int_eq(pt_order_delivered(&o, 1), 0); /* three are ready and nobody takes them */
    ck_assert_uint_eq(o.held_count, 4);
    pt_order_free(&o, count_drop, &dropped);
    ck_assert_uint_eq(dropped, 7);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* Each fence before those that came before it: a time that grows with the square of their number is
 * not over before the test's is. */
START_TEST(many_fences_backwards)
{
    enum { N = 400000 };
    struct pt_held *h = calloc(N + 1, sizeof *h), again = {.number = N, .after = 0, .fence = true};
    struct pt_order_rx o;

    ck_assert_ptr_nonnull(h);
    pt_order_init(&o);
    for (unsigned n = N; n > 1; n--) {
        h[n] = (struct pt_held){.number = n, .fence = true, .len = 1};
        ck_assert_int_eq(pt_order_hold(&o, &h[n]), 0);
    }
    ck_assert_int_eq(pt_order_hold(&o, &again), PT_E_BAD_NUMBER);
    for (unsigned n = 1; n <= N; n++) { /* each sets the next one free, and no other */
        ck_assert_int_eq(pt_order_delivered(&o, n), 0);
        ck_assert_ptr_eq(pt_order_ready(&o), n < N ? &h[n + 1] : NULL);
        ck_assert_ptr_null(pt_order_ready(&o));
    }
    ck_assert_uint_eq(o.held_count, 0);
    ck_assert_uint_eq(o.held_bytes, 0);
    pt_order_free(&o, no_drop, NULL);
    free(h);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(out_of_memory)
{
    struct pt_order_rx o;
    struct pt_held h = {.number = 3, .after = 2, .len = 1};

    pt_order_init(&o);
    sup_alloc_fail_at(1);
    ck_assert_int_eq(pt_order_hold(&o, &h), -ENOMEM);
    sup_alloc_fail_at(1);
    h.fence = true;
    ck_assert_int_eq(pt_order_hold(&o, &h), -ENOMEM);
    ck_assert_uint_eq(o.held_count, 0);
    ck_assert_uint_eq(o.held_bytes, 0);
    sup_alloc_fail_at(1);
    ck_assert_int_eq(pt_order_delivered(&o, 5), -ENOMEM);
    ck_assert_int_eq(pt_order_check(&o, 5, 0, false), 1); /* as if it had not been tried */
    ck_assert_int_eq(pt_order_delivered(&o, 5), 0);
    sup_alloc_fail_at(1);
    ck_assert_int_eq(pt_order_delivered(&o, 5000), -ENOMEM);
    ck_assert_int_eq(pt_order_check(&o, 5, 0, false), PT_E_BAD_NUMBER);
    pt_order_free(&o, no_drop, NULL);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {all_interleavings,     interleavings_of_six,
                            broken_rules_are_seen, refused_numbers,
                            the_whole_span,        the_bitmap_is_given_back,
                            watermark_model,       held_ones_are_dropped_at_the_end,
                            many_fences_backwards, out_of_memory};
    return SUP_MAIN("order", tests);
}

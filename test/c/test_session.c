/* Random sessions: both ends, lanes that cut, stall and come late, every kind of message. */
#include "support_session.h"

#include <errno.h>
#include <string.h>

enum { FLOWS = 24, STEPS = 6000 };

static size_t random_size(struct sup_rng *r)
{
    switch (sup_below(r, 20)) {
    case 0: return sup_below(r, SIM_TINY);
    case 1: return PT_BATCH_COPY - 2 + sup_below(r, 5);
    case 2: return PT_RX_DIRECT_MIN - 2 + sup_below(r, 5);
    case 3: return PT_TXQ_SMALL - 2 + sup_below(r, 5);
    case 4: return PT_FRAME_SINGLE_MAX - 2 + sup_below(r, 5);
    case 5: return SIM_TINY + sup_below(r, 300 * 1024);
    case 6: return SIM_TINY + sup_below(r, 64 * 1024);
    case 7:
    case 8: return SIM_TINY + sup_below(r, 6000);
    default: return SIM_TINY + sup_below(r, 200);
    }
}

static enum pt_order random_kind(struct sup_rng *r, unsigned fences)
{
    if (sup_below(r, 1000) < fences)
        return sup_chance(r, 50) ? PT_ORDER_FENCE : PT_ORDER_HALF_FENCE;
    return sup_chance(r, 10) ? PT_ORDER_FREE : PT_ORDER_SENDER;
}

/* A few flows send most of it, so that some have a backlog. */
static uint64_t random_key(struct sup_rng *r)
{
    return 1 + (sup_chance(r, 60) ? sup_below(r, 3) : sup_below(r, FLOWS));
}

static void act(struct sim *s, struct sim_end *e, unsigned fences)
{
    struct sup_rng *r = &s->r.rng;
    enum pt_order kind = random_kind(r, fences);
    size_t size = random_size(r);

    if (size < SIM_TINY && kind != PT_ORDER_FREE) /* it could not be told from another */
        size += SIM_TINY;
    switch (sup_below(r, 12)) {
    case 0:
        size = PT_MAX(size, SIM_TINY);
        sim_open_message(e, kind, random_key(r), size, sup_below(r, size + 1));
        break;
    case 1:
    case 2:
        if (e->nopen)
            sim_grow(e, (unsigned)sup_below(r, e->nopen), sup_below(r, 100 * 1024));
        break;
    case 3:
        if (e->nopen)
            sim_finish(e, (unsigned)sup_below(r, e->nopen));
        break;
    default:
        sim_send(e, kind, random_key(r), size, size <= PT_FRAME_SINGLE_MAX && sup_chance(r, 50));
    }
}

static size_t random_piece(struct sup_rng *r)
{
    static const size_t most[] = {1, 7, 100, 5000, 70000, SIZE_MAX / 2};
    return 1 + sup_below(r, most[sup_below(r, 6)]);
}

static void step(struct sim *s, unsigned fences, unsigned stalls)
{
    struct sup_rng *r = &s->r.rng;
    struct sim_end *e = &s->end[sup_below(r, 4) == 0];
    unsigned lane = (unsigned)sup_below(r, s->lanes);

    switch (sup_below(r, 8)) {
    case 0:
    case 1:
        if (e->q.bytes < 4 * 1024 * 1024)
            act(s, e, fences);
        break;
    case 2:
    case 3:
    case 4: sim_pump_tx(e, lane, random_piece(r)); break;
    case 5:
    case 6: sim_pump_rx(e, lane, random_piece(r)); break;
    default:
        if (sup_chance(r, stalls)) {
            bool *stall = sup_chance(r, 50) ? &e->tx_stalled[lane] : &e->rx_stalled[lane];
            *stall = !*stall;
        } else if (sup_below(r, 300) == 0) {
            sim_attach(s);
        }
    }
}

static void resume(struct sim *s)
{
    for (unsigned i = 0; i < 2; i++)
        for (unsigned k = 0; k < SIM_LANES; k++)
            s->end[i].tx_stalled[k] = s->end[i].rx_stalled[k] = false;
}

/* How many messages took the short way. */
static uint64_t run(uint64_t seed, bool any_lane)
{
    struct sim s;

    sup_alloc_fail_at(0);
    sim_init(&s, seed, 1 + (unsigned)sup_below(&(struct sup_rng){seed}, SIM_LANES));
    struct sup_rng *r = &s.r.rng;
    s.any_lane = any_lane;
    s.acks_when_due = sup_chance(r, 50);
    s.chunk = PT_FRAME_SINGLE_MAX << sup_below(r, 4);
    unsigned fences = sup_chance(r, 30) ? 0 : (unsigned)sup_below(r, 100);
    unsigned stalls = sup_chance(r, 30) ? 0 : (unsigned)sup_below(r, 60);
    for (unsigned i = 0; i < STEPS; i++) {
        step(&s, fences, stalls);
        if (s.error || s.end[0].sent.violation[0] || s.end[1].sent.violation[0])
            break;
    }
    sim_check(&s);
    resume(&s);
    sim_settle(&s);
    /* half of the open ones stay unfinished and hold up nothing */
    for (unsigned i = 0; i < 2; i++)
        while (s.end[i].nopen && sup_chance(r, 70))
            sim_finish(&s.end[i], (unsigned)sup_below(r, s.end[i].nopen));
    sim_settle(&s);
    sim_check_done(&s);
    uint64_t passed = s.end[0].passed + s.end[1].passed;
    sim_free(&s);
    sup_must(sup_alloc_live() == 0);
    return passed;
}

/* SESSION_ROUNDS=1000 SESSION_SEED=5000 CK_FORK=no for a longer look, or to see one seed again. */
static unsigned rounds(void)
{
    const char *n = getenv("SESSION_ROUNDS");
    return n ? (unsigned)strtoul(n, NULL, 10) : 40;
}

static uint64_t first_seed(void)
{
    const char *n = getenv("SESSION_SEED");
    return n ? strtoull(n, NULL, 10) : 1;
}

/* One lane after the other stands still, for long, while the others run at full speed. */
static uint64_t press(uint64_t seed, bool any_lane)
{
    static const size_t sizes[] = {40, 300, 20 * 1024, 60 * 1024, 60 * 1024, 200 * 1024};
    struct sim s;

    sup_alloc_fail_at(0);
    sim_init(&s, seed, 2 + (unsigned)(seed % (SIM_LANES - 1)));
    struct sup_rng *r = &s.r.rng;
    struct sim_end *e = &s.end[0];
    s.any_lane = any_lane;
    s.acks_when_due = true;
    for (unsigned phase = 0; phase < 8; phase++) {
        unsigned still = (unsigned)sup_below(r, s.lanes);
        s.end[1].rx_stalled[still] = sup_chance(r, 80);
        for (unsigned i = 0; i < 250; i++) {
            enum pt_order kind = random_kind(r, 4);
            if (e->q.bytes < 8 * 1024 * 1024)
                sim_send(e, kind, 1 + sup_below(r, 5), sizes[sup_below(r, 6)], false);
            for (unsigned k = 0; k < 3; k++) {
                sim_pump_tx(e, (unsigned)sup_below(r, s.lanes), SIZE_MAX);
                sim_pump_rx(e->peer, (unsigned)sup_below(r, s.lanes), SIZE_MAX);
            }
            sim_pump_tx(e->peer, 0, SIZE_MAX); /* acknowledgements */
            sim_pump_rx(e, 0, SIZE_MAX);
        }
        sim_check(&s);
        s.end[1].rx_stalled[still] = false;
        if (sup_chance(r, 50))
            sim_settle(&s);
    }
    sim_settle(&s);
    sim_check_done(&s);
    /* the largest message apart, no more than the limit is held */
    sup_must(s.end[1].speculative_held_peak <= PT_TXQ_SPECULATIVE);
    uint64_t blocked = e->q.stats.blocked;
    sim_free(&s);
    sup_must(sup_alloc_live() == 0);
    return blocked;
}

START_TEST(lanes_that_stand_still)
{
    uint64_t blocked = 0;

    for (uint64_t seed = 1; seed <= 1 + rounds() / 5; seed++)
        blocked += press(first_seed() + seed, seed & 1);
    ck_assert_uint_gt(blocked, 100);
}
END_TEST

/* The rules are broken on purpose: does the oracle see it? */
START_TEST(the_oracle_sees_a_receiver_that_ignores_order)
{
    unsigned caught = 0;

    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct sim s;
        sup_alloc_fail_at(0);
        sim_init(&s, seed, 4);
        s.any_lane = true;
        s.end[1].rx.order.broken_on_purpose = true;
        for (unsigned i = 0; i < STEPS && !s.end[0].sent.violation[0] && !s.error; i++)
            step(&s, 30, 20);
        caught += s.end[0].sent.violation[0] != 0;
        ck_assert_str_eq(s.end[1].sent.violation, ""); /* that way all is well */
        sim_free(&s);
    }
    ck_assert_uint_eq(caught, 6);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* ---- one lane stands still ---- */

enum { PIECE = 60 * 1024 };

/* Sends one message of a flow on a lane and lets it arrive there if that lane does not stand. */
static void send_on(struct sim_end *e, unsigned lane, uint64_t key, size_t size)
{
    sup_must(sim_send(e, PT_ORDER_SENDER, key, size, false));
    while (sim_pump_tx(e, lane, SIZE_MAX))
        sim_pump_rx(e->peer, lane, SIZE_MAX);
    sim_check(e->sim);
}

/* Flow 3 goes from lane to lane, so that each message waits for one on another lane, until the
 * queue numbers no more of that kind. */
static void speculate(struct sim *s, unsigned one, unsigned other)
{
    struct sim_end *e = &s->end[0];
    for (unsigned i = 0; e->q.speculative <= PT_TXQ_SPECULATIVE; i++)
        send_on(e, i & 1 ? one : other, 3, PIECE);
}

static void stall_init(struct sim *s)
{
    sup_alloc_fail_at(0);
    sim_init(s, 1, 4);
    s->any_lane = s->acks_when_due = true;
}

static void stall_end(struct sim *s)
{
    resume(s);
    sim_settle(s);
    sim_check_done(s);
    sim_free(s);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}

/* The lane that came last brings the watermark forward by megabytes with one small message. */
START_TEST(acknowledged_although_little_came_last)
{
    struct sim s;

    stall_init(&s);
    s.end[1].rx_stalled[1] = s.end[1].rx_stalled[2] = true;
    send_on(&s.end[0], 2, 1, 100);
    send_on(&s.end[0], 1, 2, 100);
    speculate(&s, 0, 3);
    ck_assert_uint_eq(s.end[1].rx.order.held_count, 0); /* all delivered, nothing acknowledged */
    s.end[1].rx_stalled[2] = false;
    sim_settle(&s);
    s.end[1].rx_stalled[1] = false;
    sim_settle(&s);
    /* this one may only leave on lane 3, or after an acknowledgement */
    s.end[0].tx_stalled[3] = true;
    send_on(&s.end[0], 0, 3, PIECE);
    sim_settle(&s);
    ck_assert_uint_eq(s.end[0].sent.delivered, s.end[0].sent.submitted);
    stall_end(&s);
}
END_TEST

START_TEST(held_bytes_are_bounded)
{
    struct sim s;

    stall_init(&s);
    s.end[1].rx_stalled[1] = true;
    send_on(&s.end[0], 1, 3, 100); /* everything of flow 3 waits for this one */
    speculate(&s, 2, 3);
    struct sim_end *e = &s.end[0];
    ck_assert_uint_eq(e->sent.delivered, 0);
    for (unsigned i = 0; i < 200; i++)
        sup_must(sim_send(e, PT_ORDER_SENDER, 3, PIECE, false));
    sim_settle(&s);
    ck_assert_uint_eq(e->sent.delivered, 0);
    size_t held = s.end[1].rx.order.held_bytes;
    ck_assert_uint_gt(held, PT_TXQ_SPECULATIVE); /* it was used to the full */
    ck_assert_uint_le(held, PT_TXQ_SPECULATIVE + PIECE);
    ck_assert_uint_gt(e->q.messages, 190);
    stall_end(&s);
}
END_TEST

/* The end of a message came on one lane, a part of it stands still on another: what follows on the
 * first lane is not sure. */
START_TEST(held_bytes_behind_a_split_message_are_bounded)
{
    struct sim s;

    stall_init(&s);
    struct sim_end *e = &s.end[0];
    s.end[1].rx_stalled[1] = true;
    sup_must(sim_send(e, PT_ORDER_SENDER, 3, 300 * 1024, false));
    sup_must(sim_pump_tx(e, 1, SIZE_MAX) < 300 * 1024);
    for (unsigned i = 0; i < 200; i++)
        send_on(e, 2, 3, PIECE);
    size_t held = s.end[1].rx.order.held_bytes;
    ck_assert_uint_gt(held, PT_TXQ_SPECULATIVE);
    ck_assert_uint_le(held, PT_TXQ_SPECULATIVE + PIECE);
    ck_assert_uint_eq(e->sent.delivered, 0);
    stall_end(&s);
}
END_TEST

START_TEST(held_bytes_behind_a_fence_are_bounded)
{
    struct sim s;

    stall_init(&s);
    struct sim_end *e = &s.end[0];
    s.end[1].rx_stalled[1] = true;
    send_on(e, 1, 9, 100);
    sup_must(sim_send(e, PT_ORDER_FENCE, 0, 100, false));
    for (unsigned i = 0; i < 200; i++)
        send_on(e, 2, 3, PIECE);
    size_t held = s.end[1].rx.order.held_bytes;
    ck_assert_uint_gt(held, PT_TXQ_SPECULATIVE);
    ck_assert_uint_le(held, PT_TXQ_SPECULATIVE + PIECE);
    ck_assert_uint_eq(e->sent.delivered, 0);
    stall_end(&s);
}
END_TEST

START_TEST(independent_traffic_goes_on)
{
    struct sim s;

    stall_init(&s);
    struct sim_end *e = &s.end[0];
    s.end[1].rx_stalled[1] = true;
    send_on(e, 1, 3, 100);
    speculate(&s, 2, 3);
    e->tx_stalled[1] = true;
    uint64_t before = e->sent.submitted;
    for (unsigned i = 0; i < 100; i++) {
        sup_must(sim_send(e, PT_ORDER_SENDER, 4, PIECE, false));
        sup_must(sim_send(e, PT_ORDER_SENDER, 5, 100, false));
        sup_must(sim_send(e, PT_ORDER_FREE, 0, 1000, true));
        if (i % 20 == 0)
            sim_settle(&s);
    }
    sim_settle(&s);
    ck_assert_uint_eq(e->sent.delivered, e->sent.submitted - before);
    ck_assert_uint_eq(pt_txq_called(&e->q), 0);
    /* Not so for messages whose chunks took several lanes: what follows them is sure nowhere. They
     * wait, and go on with the rest. */
    for (unsigned i = 0; i < 50; i++)
        sup_must(sim_send(e, PT_ORDER_SENDER, 6, 200 * 1024, false));
    sim_settle(&s);
    stall_end(&s);
}
END_TEST

/* ---- memory runs out at each place in turn ---- */

static size_t run_out(size_t nth, bool refill)
{
    struct sim s;

    sup_alloc_fail_at(nth);
    sim_init(&s, 7, 2);
    s.expect_errors = true;
    s.refill = refill;
    s.any_lane = true;
    for (unsigned i = 0; i < 600 && !s.error; i++)
        step(&s, 150, 5);
    sim_check(&s);
    if (!s.error) {
        resume(&s);
        sim_settle(&s);
    }
    if (!s.error)
        sim_check_done(&s);
    bool hit = sup_alloc_failed();
    sim_free(&s);
    if (sup_alloc_live())
        ck_abort_msg("allocation %zu failed: %zu blocks leaked", nth, sup_alloc_live());
    return hit ? nth : 0;
}

START_TEST(every_allocation_may_fail)
{
    size_t n = 0;
    while (run_out(n + 1, false))
        n++;
    ck_assert_uint_gt(n, 200);
    for (n = 1; run_out(n, true); n++)
        ;
}
END_TEST

/* A session may end at any time. */
START_TEST(freed_in_mid_traffic)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct sim s;
        sup_alloc_fail_at(0);
        sim_init(&s, seed, 1 + seed % SIM_LANES);
        s.any_lane = seed & 1;
        for (unsigned i = 0; i < seed * 20; i++)
            step(&s, 60, 40);
        sim_check(&s);
        sim_free(&s);
        sup_must(sup_alloc_live() == 0);
    }
}
END_TEST

START_TEST(lanes_as_the_driver_uses_them)
{
    uint64_t passed = 0;
    for (unsigned i = 0; i < rounds(); i++)
        passed += run(first_seed() + i, false);
    ck_assert_uint_gt(passed, rounds());
}
END_TEST

START_TEST(any_frame_on_any_lane)
{
    for (unsigned i = 0; i < rounds(); i++)
        run(first_seed() + i, true);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {lanes_as_the_driver_uses_them,
                            any_frame_on_any_lane,
                            lanes_that_stand_still,
                            the_oracle_sees_a_receiver_that_ignores_order,
                            acknowledged_although_little_came_last,
                            held_bytes_are_bounded,
                            held_bytes_behind_a_split_message_are_bounded,
                            held_bytes_behind_a_fence_are_bounded,
                            independent_traffic_goes_on,
                            every_allocation_may_fail,
                            freed_in_mid_traffic};
    return SUP_MAIN("session", tests);
}

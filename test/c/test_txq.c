/* The transmit queue alone: who goes first, what names what, limits, and lack of memory. */
#include "support.h"

#include "proto/txq.h"
#include "proto/txq_int.h"

#include <errno.h>
#include <string.h>

enum { BOTH = PT_WANT_SMALL | PT_WANT_BULK, CHUNK = PT_FRAME_SINGLE_MAX };

static uint8_t bytes[1024 * 1024];

static void init(struct pt_txq *q, unsigned lanes)
{
    sup_alloc_fail_at(0);
    ck_assert_int_eq(pt_txq_init(q, &sup_owner_ops), 0);
    q->lanes = lanes;
}

static void done(struct pt_txq *q)
{
    pt_txq_free(q);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}

static struct pt_msg *message(enum pt_order kind, uint64_t key, size_t size)
{
    struct pt_msg *m = sup_msg(bytes, size, NULL);
    sup_must(m);
    m->kind = (uint8_t)kind;
    m->key = key;
    return m;
}

static struct pt_msg *submit(struct pt_txq *q, enum pt_order kind, uint64_t key, size_t size)
{
    struct pt_msg *m = message(kind, key, size);
    sup_must(pt_txq_submit(q, m) == 0);
    return m;
}

static struct pt_msg *small(struct pt_txq *q, uint64_t key)
{
    return submit(q, PT_ORDER_SENDER, key, 100);
}

/* What a frame was; the message itself is gone when it is done. */
struct sent {
    int rc; /* of pt_txq_next() */
    const struct pt_msg *msg;
    uint64_t key;
    struct pt_frame frame;
    bool last;
};

static struct sent pull_chunk(struct pt_txq *q, unsigned lane, unsigned want, size_t chunk)
{
    static uint8_t out[sizeof bytes];
    struct pt_emit e;
    struct sent s = {.rc = pt_txq_next(q, lane, want, chunk, &e)};
    if (s.rc != 1)
        return s;
    s.msg = e.msg;
    s.key = e.msg->key;
    s.frame = e.frame;
    pt_msg_copy(e.msg, out, e.frame.length);
    int rc = pt_txq_emitted(q, &e);
    sup_must(rc >= 0);
    s.last = rc == 1;
    if (s.last)
        pt_msg_free(e.msg, &sup_owner_ops);
    return s;
}

static struct sent pull(struct pt_txq *q, unsigned lane, unsigned want)
{
    return pull_chunk(q, lane, want, CHUNK);
}

/* ---- fairness ---- */

START_TEST(small_overtakes_bulk)
{
    struct pt_txq q;

    init(&q, 1);
    for (uint64_t k = 1; k <= 5; k++)
        submit(&q, PT_ORDER_SENDER, k, 300 * 1024);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_uint_eq(pull(&q, 0, BOTH).frame.type, PT_FRAME_PART);
    small(&q, 100);
    ck_assert_uint_eq(pull(&q, 0, BOTH).key, 100);
    /* but not its own flow's bulk */
    small(&q, 5);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.type, PT_FRAME_PART);
    done(&q);
}
END_TEST

START_TEST(wants_are_respected)
{
    struct pt_txq q;

    init(&q, 2);
    submit(&q, PT_ORDER_SENDER, 1, 300 * 1024);
    ck_assert_int_eq(pull(&q, 0, PT_WANT_SMALL).rc, 0);
    small(&q, 2);
    small(&q, 2);
    ck_assert_uint_eq(pull(&q, 1, PT_WANT_BULK).key, 1);
    ck_assert_uint_eq(pull(&q, 0, PT_WANT_SMALL).key, 2);
    ck_assert_uint_eq(pull(&q, 0, PT_WANT_SMALL).key, 2);
    ck_assert_int_eq(pull(&q, 0, PT_WANT_SMALL).rc, 0);
    ck_assert_int_eq(pull(&q, 0, 0).rc, 0);
    done(&q);
}
END_TEST

START_TEST(two_large_messages_interleave)
{
    struct pt_txq q;
    unsigned finished = 0, alternations = 0;
    const struct pt_msg *open[8] = {0}, *before = NULL;
    unsigned nopen = 0, most = 0;

    init(&q, 1);
    for (uint64_t k = 1; k <= 6; k++)
        submit(&q, PT_ORDER_SENDER, k, 500 * 1024);
    while (finished < 6) {
        struct sent s = pull(&q, 0, BOTH);
        unsigned i = 0;
        sup_must(s.rc == 1);
        while (i < nopen && open[i] != s.msg)
            i++;
        if (i == nopen)
            open[nopen++] = s.msg;
        most = PT_MAX(most, nopen);
        alternations += s.msg != before;
        before = s.msg;
        if (s.last) {
            open[i] = open[--nopen];
            finished++;
        }
    }
    ck_assert_uint_eq(most, PT_TXQ_BULK_ACTIVE);
    ck_assert_uint_ge(alternations, 6 * 500 / 64 - 6);
    done(&q);
}
END_TEST

START_TEST(neither_class_starves)
{
    struct pt_txq q;
    size_t run = 0, longest = 0;
    unsigned chunks = 0, bulk_run = 0;

    init(&q, 1);
    submit(&q, PT_ORDER_SENDER, 1, 900 * 1024);
    submit(&q, PT_ORDER_SENDER, 2, 900 * 1024);
    for (unsigned i = 0; i < 3000; i++) {
        submit(&q, PT_ORDER_SENDER, 10 + i % 7, 1000); /* always something small */
        struct sent s = pull(&q, 0, BOTH);
        sup_must(s.rc == 1);
        if (s.key > 2) {
            run += s.frame.length;
            bulk_run = 0;
        } else {
            longest = PT_MAX(longest, run);
            run = 0;
            chunks++;
            sup_must(++bulk_run == 1);
        }
    }
    ck_assert_uint_le(longest, PT_TXQ_SMALL_RUN + PT_TXQ_SMALL);
    ck_assert_uint_ge(chunks, 3000 * 1000 / (PT_TXQ_SMALL_RUN + PT_TXQ_SMALL) - 1);
    done(&q);
}
END_TEST

START_TEST(a_backlog_delays_others_by_a_turn_at_most)
{
    struct pt_txq q;

    init(&q, 1);
    for (unsigned i = 0; i < 10000; i++)
        small(&q, 1);
    for (unsigned i = 0; i < 50; i++)
        ck_assert_uint_eq(pull(&q, 0, BOTH).key, 1);
    /* the first message of a flow at rest: at once */
    small(&q, 2);
    ck_assert_uint_eq(pull(&q, 0, BOTH).key, 2);
    /* three more flows with a backlog of their own: each has its say within a round of turns */
    for (unsigned i = 0; i < 1000; i++)
        for (uint64_t k = 3; k <= 5; k++)
            small(&q, k);
    size_t taken[6] = {0}, total = 0;
    for (unsigned i = 0; i < 3; i++) /* their first ones, at once again */
        ck_assert_uint_ge(pull(&q, 0, BOTH).key, 3);
    while (total < 4 * (PT_TXQ_TURN + 100)) {
        struct sent s = pull(&q, 0, BOTH);
        taken[s.key] += s.frame.length;
        total += s.frame.length;
    }
    for (uint64_t k = 3; k <= 5; k++)
        ck_assert_uint_ge(taken[k], PT_TXQ_TURN - 100);
    ck_assert_uint_le(taken[1], 2 * PT_TXQ_TURN);
    done(&q);
}
END_TEST

/* Senders that come, say one thing and go must not stop one that has much to say. */
START_TEST(a_backlog_goes_on_beside_new_flows)
{
    struct pt_txq q;
    size_t backlog = 0, others = 0;

    init(&q, 1);
    for (unsigned i = 0; i < 5000; i++)
        small(&q, 1);
    for (uint64_t k = 10; k < 8010; k++) {
        small(&q, k);
        struct sent s = pull(&q, 0, BOTH);
        *(s.key == 1 ? &backlog : &others) += s.frame.length;
    }
    ck_assert_uint_gt(backlog, 0);
    ck_assert_uint_ge(backlog * 20, others);
    ck_assert_uint_ge(others, backlog);
    done(&q);
}
END_TEST

/* ---- order ---- */

START_TEST(predecessors)
{
    struct pt_txq q;

    init(&q, 1);
    small(&q, 1);
    small(&q, 2);
    submit(&q, PT_ORDER_FREE, 0, 10);
    struct sent s = pull(&q, 0, BOTH);
    ck_assert_uint_eq(s.frame.number, 1);
    ck_assert_uint_eq(s.frame.after, 0);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 0);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 0);
    small(&q, 1);
    small(&q, 2);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 1);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 2);
    /* what is acknowledged need not be named */
    ck_assert_int_eq(pt_txq_ack(&q, 4), 0);
    small(&q, 1);
    small(&q, 2);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 0);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 5);
    done(&q);
}
END_TEST

START_TEST(a_full_fence_joins_all)
{
    struct pt_txq q;

    init(&q, 1);
    submit(&q, PT_ORDER_SENDER, 1, 300 * 1024);
    submit(&q, PT_ORDER_FENCE, 0, 50);
    small(&q, 2);
    submit(&q, PT_ORDER_FREE, 0, 60);
    struct sent s;
    do { /* the message before it takes its chunks; nothing behind the fence gets past */
        s = pull(&q, 0, BOTH);
        ck_assert_uint_eq(s.key, 1);
    } while (!s.last);
    s = pull(&q, 0, BOTH);
    ck_assert_uint_eq(s.frame.number, 2);
    ck_assert_uint_eq(s.frame.flags, PT_FRAME_FENCE);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 2);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 2);
    small(&q, 1);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 2);
    ck_assert_int_eq(pt_txq_ack(&q, 2), 0);
    small(&q, 7);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 0);
    done(&q);
}
END_TEST

START_TEST(a_half_fence_lets_others_pass)
{
    struct pt_txq q;

    init(&q, 1);
    submit(&q, PT_ORDER_SENDER, 1, 300 * 1024);
    submit(&q, PT_ORDER_HALF_FENCE, 0, 50);
    small(&q, 2);
    struct sent s = pull(&q, 0, BOTH);
    ck_assert_uint_eq(s.key, 2);
    ck_assert_uint_eq(s.frame.number, 1);
    do
        s = pull(&q, 0, BOTH);
    while (!s.last);
    ck_assert_uint_eq(s.key, 1);
    s = pull(&q, 0, BOTH);
    ck_assert_uint_eq(s.frame.number, 3);
    ck_assert_uint_eq(s.frame.flags, PT_FRAME_FENCE);
    small(&q, 3);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 0);
    done(&q);
}
END_TEST

START_TEST(an_open_message_takes_its_place_when_finished)
{
    struct pt_txq q;

    init(&q, 1);
    struct pt_msg *m = message(PT_ORDER_SENDER, 1, 200 * 1024);
    m->room = 300 * 1024;
    pt_txq_open(&q, m);
    /* It counts when it can leave: else who limits the number of messages could be full of such whose
     * rest he keeps away. */
    ck_assert_uint_eq(q.messages, 0);
    struct sent s;
    unsigned parts = 0;
    while ((s = pull(&q, 0, BOTH)).rc) {
        ck_assert_uint_eq(s.frame.type, PT_FRAME_PART);
        ck_assert_uint_eq(s.frame.room, 300 * 1024);
        parts++;
    }
    ck_assert_uint_eq(parts, 3); /* 8 KB are left: crumbs */
    small(&q, 1);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.number, 1);
    submit(&q, PT_ORDER_FENCE, 0, 10); /* an unfinished message holds up no fence */
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.number, 2);
    int added = sup_append(m, bytes, 1000, NULL);
    ck_assert_int_eq(added, 1000);
    pt_txq_grown(&q, m, 1000);
    ck_assert_int_eq(pull(&q, 0, BOTH).rc, 0);
    ck_assert_int_eq(pt_txq_finish(&q, m), 0);
    ck_assert_uint_eq(q.messages, 1);
    s = pull(&q, 0, BOTH);
    ck_assert_uint_eq(s.frame.type, PT_FRAME_LAST);
    ck_assert_uint_eq(s.frame.room, 201 * 1024 - 24);
    ck_assert_uint_eq(s.frame.number, 3);
    ck_assert_uint_eq(s.frame.after, 2);
    ck_assert_uint_eq(q.bytes, 0);
    ck_assert_uint_eq(q.messages, 0);
    done(&q);
}
END_TEST

/* It may be in the list of bulk while it waits in its flow's queue: once, not twice. */
START_TEST(opened_and_finished_without_growing)
{
    struct pt_txq q;

    init(&q, 1);
    small(&q, 1);
    small(&q, 1);
    struct pt_msg *m = message(PT_ORDER_SENDER, 1, 500);
    pt_txq_open(&q, m);
    ck_assert_int_eq(pt_txq_finish(&q, m), 0);
    small(&q, 1);
    for (uint64_t n = 1; n <= 4; n++)
        ck_assert_uint_eq(pull(&q, 0, BOTH).frame.number, n);
    ck_assert_int_eq(pull(&q, 0, BOTH).rc, 0);
    ck_assert(pt_txq_idle(&q));
    done(&q);
}
END_TEST

/* ---- acknowledgements and limits ---- */

START_TEST(acknowledgements)
{
    struct pt_txq q;

    init(&q, 1);
    ck_assert_int_eq(pt_txq_ack(&q, 0), 0);
    ck_assert_int_eq(pt_txq_ack(&q, 1), PT_E_BAD_NUMBER);
    for (uint64_t k = 1; k <= 1000; k++) {
        small(&q, k);
        pull(&q, 0, BOTH);
    }
    ck_assert_uint_eq(pt_txq_flows(&q), 1000);
    ck_assert_int_eq(pt_txq_ack(&q, 1001), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_txq_ack(&q, UINT64_MAX), PT_E_BAD_NUMBER);
    ck_assert_int_eq(pt_txq_ack(&q, 100), 0);
    for (uint64_t k = 1; k <= 1000; k++) { /* each number is its own flow's still */
        const struct pt_flow *f = pt_hmap_get(&q.flows, k);
        sup_must(f && f->resting == (k <= 100));
    }
    ck_assert_int_eq(pt_txq_ack(&q, 600), 0);
    ck_assert_int_eq(pt_txq_ack(&q, 500), 0); /* overtaken on another lane */
    ck_assert_uint_eq(pt_txq_flows(&q), 400);
    ck_assert_uint_eq(pt_txq_unacked(&q), 400);
    ck_assert_int_eq(pt_txq_ack(&q, 1000), 0);
    ck_assert_uint_eq(pt_txq_flows(&q), 0);
    done(&q);
}
END_TEST

/* Number 1 of flow 1 on lane 1; then flow 1 on lane 0 until its messages are no longer numbered. */
static void fill_speculation(struct pt_txq *q)
{
    small(q, 1);
    sup_must(pull(q, 1, BOTH).rc == 1);
    do
        submit(q, PT_ORDER_SENDER, 1, 60 * 1024);
    while (pull(q, 0, BOTH).rc == 1);
    sup_must(q->speculative > PT_TXQ_SPECULATIVE);
    sup_must(q->speculative <= PT_TXQ_SPECULATIVE + 60 * 1024);
}

START_TEST(speculation_is_bounded_and_resumes)
{
    struct pt_txq q;

    init(&q, 3);
    fill_speculation(&q);
    for (unsigned lane = 0; lane < 3; lane++)
        ck_assert_int_eq(pull(&q, lane, BOTH).rc, 0);
    ck_assert_uint_eq(q.messages, 1);
    /* a fence behind it waits as well, and what is behind that */
    submit(&q, PT_ORDER_FENCE, 0, 10);
    small(&q, 9);
    ck_assert_int_eq(pull(&q, 0, BOTH).rc, 0);
    ck_assert_int_eq(pt_txq_ack(&q, q.next_number - 1), 0);
    ck_assert_uint_eq(q.speculative, 0);
    ck_assert_uint_eq(pull(&q, 2, BOTH).key, 1);
    ck_assert_uint_eq(pull(&q, 1, BOTH).frame.flags, PT_FRAME_FENCE);
    ck_assert_uint_eq(pull(&q, 0, BOTH).key, 9);
    ck_assert_uint_eq(q.messages, 0);
    done(&q);
}
END_TEST

START_TEST(what_follows_a_fence_is_sure_on_its_lane)
{
    struct pt_txq q;

    init(&q, 3);
    submit(&q, PT_ORDER_FENCE, 0, 50);
    ck_assert_uint_eq(pull(&q, 2, BOTH).frame.flags, PT_FRAME_FENCE);
    small(&q, 1);
    ck_assert_uint_eq(pull(&q, 2, BOTH).frame.after, 1);
    ck_assert_uint_eq(q.speculative, 0);
    small(&q, 2);
    ck_assert_uint_eq(pull(&q, 0, BOTH).frame.after, 1);
    ck_assert_uint_eq(q.speculative, 100);
    ck_assert_int_eq(pt_txq_ack(&q, 3), 0);
    ck_assert_uint_eq(q.speculative, 0);
    done(&q);
}
END_TEST

START_TEST(put_aside_for_the_lane_that_may_take_it)
{
    static const size_t sizes[] = {100, 40 * 1024, 60 * 1024};

    for (unsigned i = 0; i < 3; i++) {
        struct pt_txq q;

        init(&q, 3);
        fill_speculation(&q);
        submit(&q, PT_ORDER_SENDER, 2, sizes[i]);
        ck_assert_uint_eq(pull(&q, 2, BOTH).key, 2);
        submit(&q, PT_ORDER_SENDER, 2, sizes[i]);
        ck_assert_uint_eq(pt_txq_called(&q), 0);
        ck_assert_int_eq(pull(&q, 0, BOTH).rc, 0);
        ck_assert_int_eq(pull(&q, 1, BOTH).rc, 0);
        ck_assert_uint_eq(pt_txq_called(&q), 1 << 2);
        ck_assert_int_eq(pull(&q, 2, sizes[i] == 100 ? PT_WANT_BULK : PT_WANT_SMALL).rc, 0);
        ck_assert_uint_eq(pull(&q, 2, BOTH).key, 2);
        ck_assert_uint_eq(pt_txq_called(&q), 0);
        /* an acknowledgement sets it free for every lane */
        submit(&q, PT_ORDER_SENDER, 2, sizes[i]);
        ck_assert_int_eq(pull(&q, 0, BOTH).rc, 0);
        ck_assert_int_eq(pt_txq_ack(&q, q.next_number - 1), 0);
        ck_assert_uint_eq(pt_txq_called(&q), 0);
        ck_assert_uint_eq(pull(&q, 0, BOTH).key + pull(&q, 0, BOTH).key, 1 + 2);
        /* and freed with the queue */
        fill_speculation(&q);
        submit(&q, PT_ORDER_SENDER, 3, sizes[i]);
        ck_assert_uint_eq(pull(&q, 2, BOTH).key, 3);
        submit(&q, PT_ORDER_SENDER, 3, sizes[i]);
        ck_assert_int_eq(pull(&q, 0, BOTH).rc, 0);
        done(&q);
    }
}
END_TEST

/* A lane that stands still must not let the others number messages without end: the queue
 * remembers each of them, and the peer can look only so far ahead. */
START_TEST(unacknowledged_numbers_are_bounded)
{
    struct pt_txq q;
    uint64_t sent = 0;

    init(&q, 2);
    for (;; sent++) {
        submit(&q, PT_ORDER_FREE, 0, 0);
        if (pull(&q, 0, BOTH).rc != 1)
            break;
        sup_must(sent <= PT_TXQ_UNACKED);
    }
    ck_assert_uint_eq(sent, PT_TXQ_UNACKED);
    ck_assert_int_eq(pt_txq_ack(&q, 1), 0);
    ck_assert_int_eq(pull(&q, 1, BOTH).rc, 1);
    ck_assert_int_eq(pull(&q, 1, BOTH).rc, 0);
    done(&q);
}
END_TEST

/* ---- lack of memory ---- */

/* After a failure the same call is made again with memory: nothing may be lost or out of order. */
static bool fail_once(size_t nth)
{
    struct pt_txq q;
    bool seen[61] = {false};
    static const enum pt_order kinds[] = {PT_ORDER_SENDER, PT_ORDER_FENCE,  PT_ORDER_SENDER,
                                          PT_ORDER_FENCE,  PT_ORDER_SENDER, PT_ORDER_HALF_FENCE};
    struct pt_msg *queued[60];

    sup_alloc_fail_at(0);
    for (unsigned i = 0; i < 60; i++)
        queued[i] = message(kinds[i % 6], i + 1, i % 7 ? 100 : 20000);
    sup_alloc_fail_at(nth);
    while (pt_txq_init(&q, &sup_owner_ops))
        ;
    for (unsigned i = 0; i < 60; i++) {
        if (i % 5 == 4) {
            pt_txq_open(&q, queued[i]);
            while (pt_txq_finish(&q, queued[i]))
                ;
        } else {
            while (pt_txq_submit(&q, queued[i]))
                ;
        }
    }
    for (unsigned i = 0; i < 60;) {
        struct pt_emit e;
        int rc = pt_txq_next(&q, 0, BOTH, CHUNK, &e);
        sup_must(rc == 1 || rc == -ENOMEM);
        if (rc < 0)
            continue;
        /* a full fence at least every fourth: nothing gets further ahead than that */
        sup_must(e.msg->key <= i + 3 && e.msg->key + 2 >= i + 1 && !seen[e.msg->key]);
        seen[e.msg->key] = true;
        if (kinds[(e.msg->key - 1) % 6] == PT_ORDER_FENCE)
            sup_must(e.msg->key == i + 1);
        pt_txq_emitted(&q, &e);
        pt_msg_free(e.msg, &sup_owner_ops);
        i++;
    }
    sup_must(q.messages == 0 && q.bytes == 0);
    bool hit = sup_alloc_failed();
    pt_txq_free(&q);
    if (sup_alloc_live())
        ck_abort_msg("allocation %zu failed: %zu blocks leaked", nth, sup_alloc_live());
    return hit;
}

/* What a fence held back cannot be set free for lack of memory: nothing gets past it meanwhile. */
START_TEST(no_overtaking_after_a_failure)
{
    struct pt_txq q;
    struct pt_emit e;

    init(&q, 1);
    submit(&q, PT_ORDER_FENCE, 0, 50);
    small(&q, 1);
    small(&q, 2);
    ck_assert_int_eq(pt_txq_next(&q, 0, BOTH, CHUNK, &e), 1);
    sup_alloc_fail_at(1); /* the flow of the first */
    ck_assert_int_eq(pt_txq_emitted(&q, &e), -ENOMEM);
    pt_msg_free(e.msg, &sup_owner_ops);
    submit(&q, PT_ORDER_SENDER, 1, 200);
    struct sent s = pull(&q, 0, BOTH);
    ck_assert_uint_eq(s.key, 1);
    ck_assert_uint_eq(s.frame.length, 100);
    ck_assert_uint_eq(s.frame.after, 1);
    size_t rest = pull(&q, 0, BOTH).frame.length;
    rest += pull(&q, 0, BOTH).frame.length;
    ck_assert_uint_eq(rest, 300);
    ck_assert_uint_eq(q.messages, 0);
    done(&q);
}
END_TEST

/* Many unacknowledged numbers and flows, then few: memory goes, what is unacknowledged stays known. */
START_TEST(memory_is_given_back)
{
    enum { MANY = 20000 };
    struct pt_txq q;

    init(&q, 2);
    for (uint64_t k = 1; k <= MANY; k++) {
        small(&q, k);
        sup_must(pull(&q, 0, BOTH).rc == 1);
    }
    size_t before = sup_alloc_live(), large = pt_txq_memory(&q);
    pt_txq_trim(&q);
    ck_assert_uint_eq(pt_txq_memory(&q), large); /* all of it is used */
    ck_assert_int_eq(pt_txq_ack(&q, MANY - 100), 0);
    ck_assert_uint_eq(pt_txq_flows(&q), 100);
    ck_assert_uint_eq(sup_alloc_live(), before);
    sup_alloc_fail_at(1);
    pt_txq_trim(&q);
    ck_assert_uint_eq(pt_txq_memory(&q), large);
    sup_alloc_fail_at(0);
    for (unsigned i = 0; i < 20; i++)
        pt_txq_trim(&q);
    ck_assert_uint_le(pt_txq_memory(&q), large / 16);
    ck_assert_uint_lt(sup_alloc_live(), 200);
    ck_assert_uint_eq(pt_txq_unacked(&q), 100);
    /* a flow with an unacknowledged message still names it, one without does not */
    small(&q, MANY);
    ck_assert_uint_eq(pull(&q, 1, BOTH).frame.after, MANY);
    small(&q, 1);
    ck_assert_uint_eq(pull(&q, 1, BOTH).frame.after, 0);
    ck_assert_int_eq(pt_txq_ack(&q, MANY + 2), 0);
    ck_assert_uint_eq(pt_txq_flows(&q), 0);
    done(&q);
}
END_TEST

START_TEST(out_of_memory)
{
    size_t n = 1;
    while (fail_once(n))
        n++;
    ck_assert_uint_gt(n, 60);
}
END_TEST

/* The short way is open only where the queue would choose the message next. */
START_TEST(what_may_pass)
{
    struct pt_txq q;
    struct pt_frame f;
    init(&q, 2);
    ck_assert_int_eq(pt_txq_pass(&q, 0, 7, 100, 120, &f), 1);
    ck_assert_int_eq(f.type, PT_FRAME_MSG);
    ck_assert_int_eq(f.flags, PT_FRAME_BARE);
    ck_assert_uint_eq(f.number, 1);
    ck_assert_uint_eq(f.after, 0);
    ck_assert_uint_eq(f.length, 100);
    ck_assert_int_eq(pt_txq_pass(&q, 0, 7, 100, 120, &f), 1);
    ck_assert_uint_eq(f.number, 2);
    ck_assert_uint_eq(f.after, 1);
    ck_assert_uint_eq(q.speculative, 0); /* its predecessor took the same lane */
    ck_assert_int_eq(pt_txq_pass(&q, 1, 7, 100, 120, &f), 1);
    ck_assert_uint_eq(q.speculative, 120);
    ck_assert_uint_eq(q.messages + q.bytes, 0);
    ck_assert_uint_eq(pt_txq_flows(&q), 1);

    submit(&q, PT_ORDER_SENDER, 7, 600 * 1024); /* bulk: holds up its own sender only */
    ck_assert_int_eq(pt_txq_pass(&q, 0, 7, 100, 120, &f), 0);
    ck_assert_int_eq(pt_txq_pass(&q, 0, 8, 100, 120, &f), 1);
    while (pull(&q, 1, PT_WANT_BULK).rc == 1)
        ;
    ck_assert_int_eq(pt_txq_pass(&q, 0, 7, 100, 120, &f), 1);
    ck_assert_uint_eq(f.after, f.number - 1);

    small(&q, 9); /* something small is queued: nobody passes it */
    ck_assert_int_eq(pt_txq_pass(&q, 0, 8, 100, 120, &f), 0);
    ck_assert_int_eq(pull(&q, 0, BOTH).rc, 1);
    ck_assert_int_eq(pt_txq_pass(&q, 0, 8, 100, 120, &f), 1);

    submit(&q, PT_ORDER_FREE, 0, 100 * 1024);
    submit(&q, PT_ORDER_FENCE, 0, 10); /* waits for the bulk, and all wait for it */
    ck_assert_int_eq(pt_txq_pass(&q, 0, 8, 100, 120, &f), 0);
    while (pull(&q, 1, BOTH).rc == 1)
        ;
    ck_assert_int_eq(pt_txq_pass(&q, 0, 10, 100, 120, &f), 1);
    ck_assert_uint_eq(f.after, f.number - 1); /* the fence */

    ck_assert_int_eq(pt_txq_ack(&q, f.number), 0);
    ck_assert_uint_eq(q.speculative, 0);
    ck_assert_uint_eq(pt_txq_flows(&q), 0);
    done(&q);
}
END_TEST

START_TEST(what_passes_is_bounded_as_well)
{
    struct pt_txq q;
    struct pt_frame f;
    unsigned n = 0;
    init(&q, 2);
    sup_must(pt_txq_pass(&q, 1, 7, 100, 120, &f) == 1);
    do { /* each on another lane than the one before */
        ck_assert_uint_le(q.speculative, PT_TXQ_SPECULATIVE + 60000);
        ck_assert_uint_lt(n, 1000);
    } while (pt_txq_pass(&q, ++n % 2, 7, 100, 60000, &f) == 1);
    ck_assert_uint_gt(q.speculative, PT_TXQ_SPECULATIVE);
    ck_assert_int_eq(pt_txq_pass(&q, n % 2, 8, 100, 120, &f), 1); /* follows nobody */
    ck_assert_int_eq(pt_txq_ack(&q, f.number), 0);
    ck_assert_int_eq(pt_txq_pass(&q, n % 2, 7, 100, 60000, &f), 1);
    while (pt_txq_unacked(&q) < PT_TXQ_UNACKED)
        sup_must(pt_txq_pass(&q, 0, 8, 100, 120, &f) == 1);
    ck_assert_int_eq(pt_txq_pass(&q, 0, 8, 100, 120, &f), 0);
    done(&q);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {small_overtakes_bulk,
                            wants_are_respected,
                            two_large_messages_interleave,
                            neither_class_starves,
                            a_backlog_delays_others_by_a_turn_at_most,
                            a_backlog_goes_on_beside_new_flows,
                            predecessors,
                            a_full_fence_joins_all,
                            a_half_fence_lets_others_pass,
                            an_open_message_takes_its_place_when_finished,
                            opened_and_finished_without_growing,
                            acknowledgements,
                            speculation_is_bounded_and_resumes,
                            what_follows_a_fence_is_sure_on_its_lane,
                            put_aside_for_the_lane_that_may_take_it,
                            unacknowledged_numbers_are_bounded,
                            no_overtaking_after_a_failure,
                            memory_is_given_back,
                            what_may_pass,
                            what_passes_is_bounded_as_well,
                            out_of_memory};
    return SUP_MAIN("txq", tests);
}

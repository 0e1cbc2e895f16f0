/* One lane's outgoing bytes: limits of a batch, partial sends, who frees a message. */
#include "support.h"

#include "proto/batch.h"

#include <string.h>

enum { BOTH = PT_WANT_SMALL | PT_WANT_BULK };

static uint8_t bytes[2 * 1024 * 1024];

static struct pt_msg *submit(struct pt_txq *q, uint64_t key, size_t size, struct sup_rng *cuts)
{
    struct pt_msg *m = sup_msg(bytes, size, cuts);
    sup_must(m);
    m->kind = PT_ORDER_SENDER;
    m->key = key;
    sup_must(pt_txq_submit(q, m) == 0);
    return m;
}

static struct pt_batch *begin(struct pt_txq *q)
{
    sup_alloc_fail_at(0);
    ck_assert_int_eq(pt_txq_init(q, &sup_owner_ops), 0);
    q->lanes = 2;
    struct pt_batch *b = pt_batch_new(0);
    ck_assert_ptr_nonnull(b);
    return b;
}

static size_t in_iovs(const struct pt_batch *b)
{
    size_t n = 0;
    for (unsigned i = b->first; i < b->count; i++)
        n += b->room->iov[i].iov_len;
    return n;
}

START_TEST(control_frames_fill_it)
{
    struct pt_txq q;
    struct pt_batch *b = begin(&q);
    struct pt_frame ack = {.type = PT_FRAME_ACK, .after = 1};
    uint64_t n = 0;

    while (pt_batch_control(b, &ack))
        n++;
    ck_assert_uint_eq(b->frames, n);
    ck_assert_uint_eq(b->bytes, n * 2);
    ck_assert_uint_eq(b->count - b->first, 1); /* one run of bytes */
    ck_assert_uint_le(b->used, PT_BATCH_ARENA);
    submit(&q, 1, 100, NULL);
    ck_assert_int_eq(pt_batch_fill(b, &q, BOTH, 65536), 0);
    ck_assert_uint_eq(b->frames, n); /* no room for it */
    pt_batch_sent(b, b->bytes, &sup_owner_ops);
    ck_assert_uint_eq(b->bytes, 0);
    ck_assert_int_eq(pt_batch_fill(b, &q, BOTH, 65536), 0);
    ck_assert_uint_eq(b->frames, n + 1);
    pt_batch_free(b, &sup_owner_ops);
    pt_txq_free(&q);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* Every limit in turn: bytes, messages, arena, iovecs. Nothing is ever written beyond one. */
START_TEST(limits)
{
    static const size_t sizes[] = {0, 1, 512, 513, 5000, 16384, 65536, 1000000};

    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (unsigned cuts = 0; cuts < 2; cuts++) {
            struct pt_txq q;
            struct pt_batch *b = begin(&q);
            struct sup_rng rng = {i + 1};
            for (uint64_t k = 1; k <= 400; k++)
                if (k * sizes[i] < 20 * 1000 * 1000)
                    submit(&q, k, sizes[i], cuts ? &rng : NULL);
            size_t total = q.bytes, moved = 0;
            while (q.messages) {
                size_t before = q.bytes;
                ck_assert_int_eq(pt_batch_fill(b, &q, BOTH, 256 * 1024), 0);
                sup_must(b->bytes > 0 && in_iovs(b) == b->bytes);
                sup_must(b->bytes <=
                         PT_BATCH_BYTES + (sizes[i] > PT_FRAME_SINGLE_MAX ? 0 : sizes[i]));
                sup_must(b->nmsgs <= PT_BATCH_MSGS && b->count <= PT_BATCH_IOV);
                sup_must(b->used <= PT_BATCH_ARENA);
                moved += before - q.bytes;
                while (b->bytes) { /* partial sends */
                    pt_batch_sent(b, 1 + sup_below(&rng, b->bytes), &sup_owner_ops);
                    sup_must(in_iovs(b) == b->bytes);
                }
            }
            ck_assert_uint_eq(moved, total);
            if (sizes[i] <= PT_FRAME_SINGLE_MAX) /* not cut, however little room was left */
                ck_assert_uint_eq(q.stats.chunks, 0);
            pt_batch_free(b, &sup_owner_ops);
            pt_txq_free(&q);
            ck_assert_uint_eq(sup_alloc_live(), 0);
        }
    }
}
END_TEST

/* Its chunks lie in two batches: the one that is sent last frees it, and not before its end. */
START_TEST(a_message_in_two_batches)
{
    for (unsigned order = 0; order < 2; order++) {
        struct pt_txq q;
        struct pt_batch *b[2] = {begin(&q), pt_batch_new(1)};
        void *owner = sup_bin_new(600 * 1024);
        struct iovec iov = {sup_bin_data(owner), 600 * 1024};
        struct pt_msg *m = pt_msg_new(
            &(struct pt_source){.iov = &iov, .owners = &owner, .count = 1}, &sup_owner_ops);

        m->kind = PT_ORDER_FREE;
        ck_assert_int_eq(pt_txq_submit(&q, m), 0);
        for (unsigned lane = 0; lane < 2; lane++)
            ck_assert_int_eq(pt_batch_fill(b[lane], &q, BOTH, 128 * 1024), 0);
        for (unsigned lane = 0; lane < 2; lane++) {
            pt_batch_sent(b[lane], b[lane]->bytes, &sup_owner_ops);
            ck_assert_int_eq(pt_batch_fill(b[lane], &q, BOTH, 128 * 1024), 0);
        }
        ck_assert_uint_eq(q.messages, 0);
        ck_assert(sup_bin_shared(owner)); /* the last chunk is not sent */
        if (order)
            for (unsigned lane = 0; lane < 2; lane++)
                if (b[lane]->bytes)
                    pt_batch_sent(b[lane], b[lane]->bytes, &sup_owner_ops);
        ck_assert_int_eq(sup_bin_shared(owner), !order);
        for (unsigned lane = 0; lane < 2; lane++)
            pt_batch_free(b[lane], &sup_owner_ops);
        ck_assert(!sup_bin_shared(owner));
        sup_bin_unref(owner);
        pt_txq_free(&q);
        ck_assert_uint_eq(sup_alloc_live(), 0);
    }
}
END_TEST

START_TEST(out_of_memory)
{
    sup_alloc_fail_at(1);
    ck_assert_ptr_null(pt_batch_new(0));
    pt_batch_free(NULL, &sup_owner_ops);
    sup_alloc_fail_at(0);

    /* the room, which comes with the first frame */
    struct pt_txq q;
    struct pt_batch *b = begin(&q);
    struct pt_frame tick = {.type = PT_FRAME_TICK};
    ck_assert_ptr_null(b->room);
    ck_assert_int_eq(pt_batch_fill(b, &q, BOTH, 65536), 0);
    ck_assert_ptr_null(b->room);
    sup_alloc_fail_at(1);
    ck_assert(!pt_batch_control(b, &tick));
    sup_alloc_fail_at(0);
    ck_assert_uint_eq(b->bytes, 0);
    ck_assert(pt_batch_control(b, &tick));
    pt_batch_free(b, &sup_owner_ops);
    pt_txq_free(&q);
}
END_TEST

/* The room of a batch goes back when it was hardly used lately, and comes again. */
START_TEST(quiet_batch)
{
    struct pt_txq q;
    struct pt_batch *b = begin(&q);
    struct pt_frame tick = {.type = PT_FRAME_TICK};

    for (int i = 0; i < 100; i++)
        ck_assert(pt_batch_control(b, &tick));
    pt_batch_trim(b); /* not with something in it */
    ck_assert_ptr_nonnull(b->room);
    pt_batch_sent(b, b->bytes, &sup_owner_ops);
    for (int i = 0; i < 100; i++)
        ck_assert(pt_batch_control(b, &tick));
    pt_batch_sent(b, b->bytes, &sup_owner_ops);
    pt_batch_trim(b); /* nor after much */
    ck_assert_ptr_nonnull(b->room);
    ck_assert(pt_batch_control(b, &tick));
    pt_batch_sent(b, b->bytes, &sup_owner_ops);
    pt_batch_trim(b);
    ck_assert_ptr_null(b->room);
    ck_assert(pt_batch_control(b, &tick));
    ck_assert_uint_eq(b->frames, 202);
    pt_batch_free(b, &sup_owner_ops);
    pt_txq_free(&q);
}
END_TEST

static void leave(struct pt_batch *b, struct pt_txq *q)
{
    ck_assert_int_eq(pt_batch_fill(b, q, BOTH, 65536), 0);
    pt_batch_sent(b, b->bytes, &sup_owner_ops);
}

/* A lane that gave its room back is the only one that may take a message: it gets room for it. */
START_TEST(quiet_batch_is_called)
{
    struct pt_txq q;
    struct pt_batch *b[2] = {begin(&q), pt_batch_new(1)};

    submit(&q, 1, 100, NULL);
    leave(b[1], &q);
    submit(&q, 2, 100, NULL);
    leave(b[1], &q);
    pt_batch_trim(b[1]);
    ck_assert_ptr_null(b[1]->room);
    while (!pt_txq_called(&q)) { /* behind what left by lane 1: until no more may be speculative */
        submit(&q, 2, 16000, NULL);
        ck_assert_uint_le(q.bytes, 64 * 1024 * 1024);
        leave(b[0], &q);
        if (q.speculative > PT_TXQ_SPECULATIVE) {
            submit(&q, 1, 100, NULL);
            leave(b[0], &q);
        }
    }
    ck_assert_uint_eq(pt_txq_called(&q), 1u << 1);
    uint64_t before = b[1]->frames;
    ck_assert_int_eq(pt_batch_fill(b[1], &q, BOTH, 65536), 0);
    ck_assert_uint_eq(b[1]->frames, before + 1);
    for (int i = 0; i < 2; i++)
        pt_batch_free(b[i], &sup_owner_ops);
    pt_txq_free(&q);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {control_frames_fill_it, limits,      a_message_in_two_batches,
                            out_of_memory,          quiet_batch, quiet_batch_is_called};
    return SUP_MAIN("batch", tests);
}

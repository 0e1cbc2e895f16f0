/* Chunks of a message in any order and cut against a byte map. */
#include "support.h"

#include "proto/transfer.h"

#include <string.h>

static struct pt_frame part(uint64_t from, uint64_t to)
{
    return (struct pt_frame){
        .type = PT_FRAME_PART, .transfer = 1, .offset = from, .length = to - from};
}

static struct pt_frame last(uint64_t from, uint64_t to)
{
    struct pt_frame f = part(from, to);
    f.type = PT_FRAME_LAST;
    f.number = 9;
    f.after = 7;
    f.flags = PT_FRAME_FENCE;
    return f;
}

static int claim(struct pt_transfer *t, struct pt_frame f) { return pt_transfer_claim(t, &f); }

START_TEST(in_order)
{
    struct pt_transfer t = {0};

    ck_assert_int_eq(claim(&t, part(0, 10)), 0);
    ck_assert(!pt_transfer_arrived(&t, 10));
    ck_assert_int_eq(claim(&t, part(10, 20)), 0);
    ck_assert(!pt_transfer_arrived(&t, 10));
    ck_assert_uint_eq(t.stretches, 1);
    ck_assert_int_eq(claim(&t, last(20, 25)), 0);
    ck_assert(pt_transfer_arrived(&t, 5));
    ck_assert_uint_eq(t.total, 25);
    ck_assert_uint_eq(t.number, 9);
    ck_assert_uint_eq(t.after, 7);
    ck_assert(t.fence);
}
END_TEST

START_TEST(claimed_is_not_arrived)
{
    struct pt_transfer t = {0};

    ck_assert_int_eq(claim(&t, part(0, 10)), 0);
    ck_assert_int_eq(claim(&t, last(10, 20)), 0);
    ck_assert(!pt_transfer_arrived(&t, 10));
    ck_assert(pt_transfer_arrived(&t, 10));
}
END_TEST

START_TEST(empty_chunks)
{
    struct pt_transfer t = {0}, u = {0};

    ck_assert_int_eq(claim(&t, last(0, 0)), 0);
    ck_assert(pt_transfer_arrived(&t, 0));
    for (unsigned i = 0; i < 1000; i++) { /* no state for nothing */
        ck_assert_int_eq(claim(&u, part(i * 2, i * 2)), 0);
        ck_assert(!pt_transfer_arrived(&u, 0));
    }
    ck_assert_uint_eq(u.stretches, 0);
    ck_assert_int_eq(claim(&u, part(0, 8)), 0);
    ck_assert(!pt_transfer_arrived(&u, 8));
    ck_assert_int_eq(claim(&u, last(8, 8)), 0);
    ck_assert(pt_transfer_arrived(&u, 0));
}
END_TEST

START_TEST(contradictions)
{
    struct pt_transfer t = {0};

    ck_assert_int_eq(claim(&t, part(10, 20)), 0);
    ck_assert_int_eq(claim(&t, part(10, 20)), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(claim(&t, part(19, 21)), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(claim(&t, part(0, 11)), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(claim(&t, part(0, 40)), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(claim(&t, part(12, 13)), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(claim(&t, last(5, 8)), PT_E_BAD_TRANSFER); /* ends before what is there */
    ck_assert_int_eq(claim(&t, last(20, 30)), 0);
    ck_assert_int_eq(claim(&t, last(0, 10)), PT_E_BAD_TRANSFER); /* a second end */
    ck_assert_int_eq(claim(&t, last(30, 30)), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(claim(&t, part(30, 31)), PT_E_BAD_TRANSFER); /* behind the end */
    ck_assert_int_eq(claim(&t, part(0, 10)), 0);
    ck_assert_uint_eq(t.stretches, 1);
}
END_TEST

START_TEST(scattered_stretches_are_bounded)
{
    struct pt_transfer t = {0};

    for (unsigned i = 0; i < PT_TRANSFER_STRETCHES; i++)
        ck_assert_int_eq(claim(&t, part(i * 10 + 1, i * 10 + 5)), 0);
    ck_assert_int_eq(claim(&t, part(20008, 20009)), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(claim(&t, part(0, 1)), 0); /* joins another: no new one */
    ck_assert_int_eq(claim(&t, part(5, 11)), 0);
    ck_assert_uint_eq(t.stretches, PT_TRANSFER_STRETCHES - 1);
    ck_assert_int_eq(claim(&t, part(20008, 20009)), 0);
    ck_assert_int_eq(claim(&t, part(20108, 20109)), PT_E_BAD_TRANSFER);
}
END_TEST

START_TEST(byte_map)
{
    enum { SIZE = 300 };
    struct sup_rng rng = {11};
    unsigned complete = 0;

    for (unsigned round = 0; round < 3000; round++) {
        struct pt_transfer t = {0};
        bool map[SIZE] = {false}, ended = false;
        uint64_t size = 1 + sup_below(&rng, SIZE), got = 0;

        for (unsigned i = 0; i < 400 && !(ended && got == size); i++) {
            uint64_t from = sup_below(&rng, size);
            if (sup_chance(&rng, 70)) /* mostly what is missing */
                for (from = 0; from < size && map[from]; from++)
                    ;
            if (from == size)
                from = size - 1;
            uint64_t to = from + 1 + sup_below(&rng, PT_MIN(size - from, 20));
            bool is_last = !ended && to == size && sup_chance(&rng, 50);
            bool overlap = false;
            for (uint64_t k = from; k < to; k++)
                overlap |= map[k];
            struct pt_transfer before = t;
            int rc = claim(&t, is_last ? last(from, to) : part(from, to));
            if (rc && !overlap) {
                sup_must(before.stretches == PT_TRANSFER_STRETCHES);
                break;
            }
            sup_must((rc != 0) == overlap);
            if (rc) { /* an error ends the session; here it is as if nothing had come */
                t = before;
                continue;
            }
            memset(map + from, true, to - from);
            got += to - from;
            ended |= is_last;
            sup_must(pt_transfer_arrived(&t, to - from) == (ended && got == size));
            unsigned stretches = 0;
            for (uint64_t k = 0; k < size; k++)
                stretches += map[k] && (!k || !map[k - 1]);
            sup_must(t.stretches == stretches);
        }
        complete += ended && got == size;
    }
    ck_assert_uint_gt(complete, 500);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {in_order,       claimed_is_not_arrived,          empty_chunks,
                            contradictions, scattered_stretches_are_bounded, byte_map};
    return SUP_MAIN("transfer", tests);
}

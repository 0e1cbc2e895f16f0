/* Messages as slices: what is copied, what is kept, and that the bytes come out as they went in. */
#include "support.h"

#include <errno.h>
#include <string.h>

enum { MOST = 20000 };

static uint8_t source[MOST], out[MOST];

static void fill_source(struct sup_rng *r)
{
    for (size_t i = 0; i < MOST; i++)
        source[i] = (uint8_t)sup_rand(r);
}

/* Takes everything in random steps by all three ways; compares with the source. */
static void drain(struct pt_msg *m, size_t size, struct sup_rng *r)
{
    size_t at = 0;

    sup_must(m->size == size);
    while (at < size) {
        struct iovec iov[40];
        size_t n = 1 + sup_below(r, size - at);
        if (sup_chance(r, 50)) {
            pt_msg_copy(m, out + at, n);
        } else {
            unsigned max = 1 + (unsigned)sup_below(r, 40);
            size_t fit = pt_msg_fit(m, n, max);
            sup_must(fit > 0 && fit <= n);
            if (fit < n) {
                size_t emitted = m->emitted;
                sup_must(pt_msg_take(m, n, iov, max) == 0);
                sup_must(m->emitted == emitted);
            }
            unsigned count = pt_msg_take(m, fit, iov, max);
            sup_must(count >= 1 && count <= max);
            size_t k = at;
            for (unsigned i = 0; i < count; i++) {
                memcpy(out + k, iov[i].iov_base, iov[i].iov_len);
                k += iov[i].iov_len;
            }
            sup_must(k == at + fit);
            n = fit;
        }
        at += n;
        sup_must(m->emitted == at);
    }
    struct iovec iov;
    sup_must(pt_msg_take(m, 0, &iov, 1) == 0);
    sup_must(pt_msg_fit(m, 1, 1) == 0);
    sup_must(memcmp(out, source, size) == 0);
}

START_TEST(random_pieces)
{
    struct sup_rng rng = {3};

    sup_alloc_fail_at(0);
    fill_source(&rng);
    for (unsigned round = 0; round < 4000; round++) {
        size_t size = sup_below(&rng, round % 10 ? 2000 : MOST);
        size_t first = size - (round % 3 ? 0 : sup_below(&rng, size + 1));
        struct pt_msg *m = sup_msg(source, first, &rng);
        for (size_t at = first; at < size;) {
            size_t n = 1 + sup_below(&rng, size - at);
            sup_must(sup_append(m, source + at, n, &rng) == (int)n);
            at += n;
        }
        drain(m, size, &rng);
        pt_msg_free(m, &sup_owner_ops);
        sup_must(sup_alloc_live() == 0);
    }
}
END_TEST

/* An ErlIOVec starts with an empty element; headers are cut off and a prefix put in front. */
START_TEST(skip_and_prefix)
{
    struct sup_rng rng = {4};

    sup_alloc_fail_at(0);
    fill_source(&rng);
    for (size_t skip = 0; skip <= 1000; skip += 1 + skip / 8) {
        void *kept = sup_bin_new(600);
        memcpy(sup_bin_data(kept), source + 403, 600);
        struct iovec iov[] = {{NULL, 0}, {source + 3, 400}, {sup_bin_data(kept), 600}};
        void *owners[] = {NULL, NULL, kept};
        struct pt_source src = {.iov = iov,
                                .owners = owners,
                                .count = 3,
                                .skip = skip,
                                .prefix = source,
                                .prefix_len = 3};
        struct pt_msg *m = pt_msg_new(&src, &sup_owner_ops);
        bool referenced = skip < 1000 && 1000 - PT_MAX(skip, 400) > PT_MSG_COPY_MAX;
        ck_assert_int_eq(sup_bin_shared(kept), referenced);
        ck_assert_uint_eq(m->size, 3 + 1000 - skip);
        pt_msg_copy(m, out, m->size);
        ck_assert_mem_eq(out, source, 3);
        if (skip < 1000)
            ck_assert_mem_eq(out + 3, source + 3 + skip, 1000 - skip);
        pt_msg_free(m, &sup_owner_ops);
        ck_assert(!sup_bin_shared(kept));
        sup_bin_unref(kept);
    }
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(small_pieces_are_copied_together)
{
    struct iovec iov[4];
    void *owners[4];

    sup_alloc_fail_at(0);
    for (unsigned i = 0; i < 4; i++) {
        owners[i] = sup_bin_new(PT_MSG_COPY_MAX);
        iov[i] = (struct iovec){sup_bin_data(owners[i]), PT_MSG_COPY_MAX};
    }
    struct pt_msg *m =
        pt_msg_new(&(struct pt_source){.iov = iov, .owners = owners, .count = 4}, &sup_owner_ops);
    ck_assert_uint_eq(m->first.nslices, 1);
    for (unsigned i = 0; i < 4; i++)
        sup_bin_unref(owners[i]); /* nothing of them is needed */
    pt_msg_copy(m, out, m->size);
    ck_assert_uint_eq(out[4 * PT_MSG_COPY_MAX - 1], sup_bin_filler);
    pt_msg_free(m, &sup_owner_ops);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(out_of_memory)
{
    void *owner;

    sup_alloc_fail_at(0);
    owner = sup_bin_new(1000);
    struct iovec iov = {sup_bin_data(owner), 1000};
    struct pt_source src = {.iov = &iov, .owners = &owner, .count = 1};
    sup_alloc_fail_at(1);
    ck_assert_ptr_null(pt_msg_new(&src, &sup_owner_ops));
    ck_assert(!sup_bin_shared(owner));
    struct pt_msg *m = pt_msg_new(&src, &sup_owner_ops);
    sup_alloc_fail_at(1);
    ck_assert_int_eq(pt_msg_append(m, &src, &sup_owner_ops), -ENOMEM);
    ck_assert_uint_eq(m->size, 1000);
    ck_assert_uint_eq(((struct sup_bin *)owner)->refs, 2);
    ck_assert_int_eq(pt_msg_append(m, &src, &sup_owner_ops), 0);
    ck_assert_uint_eq(m->size, 2000);
    pt_msg_free(m, &sup_owner_ops);
    sup_bin_unref(owner);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(pool)
{
    struct pt_msg_pool pool = {0};
    struct pt_msg *m[PT_MSG_POOL_KEPT + 10];
    struct iovec iov = {source, 0};
    void *owner = NULL;
    struct pt_source src = {.iov = &iov, .owners = &owner, .count = 1};
    struct sup_rng rng = {6};

    sup_alloc_fail_at(0);
    fill_source(&rng);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < PT_MSG_POOL_KEPT + 10; i++) {
            iov.iov_len = i % (PT_MSG_POOL_BLOCK + 200); /* some are too large for a block */
            m[i] = pt_msg_new_in(&pool, &src, &sup_owner_ops);
            sup_must(m[i] && m[i]->size == iov.iov_len);
        }
        for (unsigned i = 0; i < PT_MSG_POOL_KEPT + 10; i++) {
            size_t size = m[i]->size;
            pt_msg_copy(m[i], out, size);
            sup_must(memcmp(out, source, size) == 0);
            pt_msg_free(m[i], &sup_owner_ops);
        }
        ck_assert_uint_le(pool.count, PT_MSG_POOL_KEPT);
        ck_assert_uint_gt(pool.count, 0);
        ck_assert_uint_eq(sup_alloc_live(), pool.count);
    }
    /* in quiet it goes down to the floor, and what is out comes back to it */
    struct pt_msg *out_of_it = pt_msg_new_in(&pool, &src, &sup_owner_ops);
    unsigned full = pool.count;
    pt_msg_pool_trim(&pool);
    ck_assert_uint_eq(pool.count, full / 2);
    for (unsigned i = 0; i < 20; i++)
        pt_msg_pool_trim(&pool);
    ck_assert_uint_eq(pool.count, PT_MSG_POOL_FLOOR);
    ck_assert_uint_eq(sup_alloc_live(), PT_MSG_POOL_FLOOR + 1);
    pt_msg_free(out_of_it, &sup_owner_ops);
    pt_msg_pool_free(&pool);
    ck_assert_uint_eq(sup_alloc_live(), 0);
    sup_alloc_fail_at(1);
    ck_assert_ptr_null(pt_msg_new_in(&pool, &src, &sup_owner_ops));
    ck_assert_uint_eq(pool.count, 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {random_pieces, skip_and_prefix, small_pieces_are_copied_together,
                            out_of_memory, pool};
    return SUP_MAIN("msg", tests);
}

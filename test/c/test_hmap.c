/* Hash map and list of the base against the simplest model: an array of what should be there. */
#include "support.h"

#include "base/hmap.h"
#include "base/list.h"

#include <errno.h>
#include <string.h>

enum { KEYS = 400 };

/* Keys that a weak mixing function sends to the same place. */
static uint64_t key_of(unsigned family, uint64_t i)
{
    switch (family) {
    case 0: return i + 1;
    case 1: return (i + 1) << 32;
    case 2: return (i + 1) << 20;
    case 3: return UINT64_MAX - i;
    default: return (i + 1) * UINT64_C(0x0123456789ABCDEF) | 1;
    }
}

static void check_all(const struct pt_hmap *m, unsigned family, void *const model[KEYS])
{
    size_t there = 0, walked = 0, pos = 0;

    for (uint64_t i = 0; i < KEYS; i++) {
        sup_must(pt_hmap_get(m, key_of(family, i)) == model[i]);
        there += model[i] != NULL;
    }
    ck_assert_uint_eq(m->count, there);
    while (pt_hmap_next(m, &pos))
        walked++;
    ck_assert_uint_eq(walked, there);
}

START_TEST(model)
{
    static char values[KEYS];

    sup_alloc_fail_at(0);
    for (unsigned family = 0; family < 5; family++) {
        struct sup_rng rng = {family + 1};
        struct pt_hmap m;
        void *there[KEYS] = {0};

        pt_hmap_init(&m);
        for (unsigned step = 0; step < 20000; step++) {
            uint64_t i = sup_below(&rng, KEYS);
            uint64_t key = key_of(family, i);
            if (there[i]) {
                sup_must(pt_hmap_del(&m, key) == there[i]);
                sup_must(!pt_hmap_del(&m, key));
                there[i] = NULL;
            } else {
                there[i] = &values[i];
                sup_must(pt_hmap_put(&m, key, there[i]) == 0);
            }
            if (step % 500 == 0)
                check_all(&m, family, there);
        }
        check_all(&m, family, there);
        pt_hmap_free(&m);
        ck_assert_ptr_null(pt_hmap_get(&m, 1));
    }
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(out_of_memory_leaves_the_map_as_it_was)
{
    static char value;

    for (size_t nth = 1;; nth++) {
        struct pt_hmap m;
        uint64_t added = 0;

        pt_hmap_init(&m);
        sup_alloc_fail_at(nth);
        while (added < 100 && pt_hmap_put(&m, added + 1, &value) == 0)
            added++;
        bool hit = sup_alloc_failed();
        ck_assert_uint_eq(m.count, added);
        for (uint64_t k = 1; k <= added; k++)
            sup_must(pt_hmap_get(&m, k) == &value);
        ck_assert_ptr_null(pt_hmap_get(&m, added + 1));
        if (hit) /* and it goes on when memory is back */
            ck_assert_int_eq(pt_hmap_put(&m, added + 1, &value), 0);
        pt_hmap_free(&m);
        ck_assert_uint_eq(sup_alloc_live(), 0);
        if (!hit)
            break;
    }
}
END_TEST

START_TEST(empty_map)
{
    struct pt_hmap m;
    size_t pos = 0;

    pt_hmap_init(&m);
    ck_assert_ptr_null(pt_hmap_get(&m, 1));
    ck_assert_ptr_null(pt_hmap_del(&m, 1));
    ck_assert_ptr_null(pt_hmap_next(&m, &pos));
    pt_hmap_free(&m);
}
END_TEST

struct item {
    struct pt_list link;
    unsigned value;
};

static void expect(struct pt_list *l, const char *digits)
{
    const struct pt_list *n = l->next;
    for (; *digits; digits++, n = n->next) {
        ck_assert_ptr_ne(n, l);
        ck_assert_uint_eq(PT_CONTAINER_OF(n, struct item, link)->value, (unsigned)(*digits - '0'));
        ck_assert_ptr_eq(n->next->prev, n);
        ck_assert_ptr_eq(n->prev->next, n);
    }
    ck_assert_ptr_eq(n, l);
}

START_TEST(list)
{
    struct pt_list a, b;
    struct item items[6];

    pt_list_init(&a);
    pt_list_init(&b);
    for (unsigned i = 0; i < 6; i++) {
        items[i].value = i;
        pt_list_init(&items[i].link);
        ck_assert(pt_list_unlinked(&items[i].link));
    }
    ck_assert(pt_list_empty(&a));
    ck_assert_ptr_null(pt_list_pop(&a));
    ck_assert_ptr_null(pt_list_first(&a));
    pt_list_push(&a, &items[1].link);
    pt_list_push(&a, &items[2].link);
    pt_list_push_front(&a, &items[0].link);
    expect(&a, "012");
    pt_list_splice(&b, &a);
    expect(&a, "");
    expect(&b, "012");
    pt_list_splice(&b, &a);
    expect(&b, "012");
    pt_list_push(&a, &items[3].link);
    pt_list_push(&a, &items[4].link);
    pt_list_splice(&b, &a);
    expect(&b, "01234");
    pt_list_del(&items[2].link);
    ck_assert(pt_list_unlinked(&items[2].link));
    expect(&b, "0134");
    ck_assert_ptr_eq(pt_list_first(&b), &items[0].link);
    ck_assert_ptr_eq(pt_list_pop(&b), &items[0].link);
    ck_assert(pt_list_unlinked(&items[0].link));
    expect(&b, "134");
    pt_list_del(&items[4].link);
    pt_list_del(&items[4].link); /* twice is once */
    expect(&b, "13");
}
END_TEST

/* A table that was large gets small step by step, with all that is still in it. */
START_TEST(trim)
{
    static char value;
    struct pt_hmap m;
    enum { MANY = 5000, FEW = 40 };

    sup_alloc_fail_at(0);
    pt_hmap_init(&m);
    pt_hmap_trim(&m);
    for (uint64_t k = 1; k <= MANY; k++)
        sup_must(pt_hmap_put(&m, k << 20, &value) == 0);
    size_t large = m.mask;
    pt_hmap_trim(&m);
    ck_assert_uint_eq(m.mask, large); /* it is full */
    for (uint64_t k = FEW + 1; k <= MANY; k++)
        sup_must(pt_hmap_del(&m, k << 20) == &value);
    sup_alloc_fail_at(1);
    pt_hmap_trim(&m);
    ck_assert_uint_eq(m.mask, large);
    sup_alloc_fail_at(0);
    for (unsigned i = 0; i < 20; i++)
        pt_hmap_trim(&m);
    ck_assert_uint_lt(m.mask, 8 * FEW);
    ck_assert_uint_eq(m.count, FEW);
    for (uint64_t k = 1; k <= MANY; k++)
        sup_must((pt_hmap_get(&m, k << 20) == &value) == (k <= FEW));
    pt_hmap_free(&m);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {trim, model, out_of_memory_leaves_the_map_as_it_was, empty_map, list};
    return SUP_MAIN("hmap", tests);
}

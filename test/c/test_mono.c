/* Monotonic channels: which message replaces which, and what order is kept. */
#include "proto/mono.h"
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct pt_owner_ops no_owners;
static const char COLLIDING[] = "8yn0iYCKYHlIj4-BwPqk", WITH[] = "GReLUrM4wMqfg9yzV3KQ";

static struct pt_msg *message(const char *text)
{
    struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
    void *owner = NULL;
    struct pt_source src = {.iov = &iov, .owners = &owner, .count = 1};
    struct pt_msg *m = pt_msg_new(&src, &no_owners);
    ck_assert_ptr_nonnull(m);
    return m;
}

static void put(struct pt_mono *q, const char *key, const char *text, const char *replaces)
{
    struct pt_msg *old = NULL;
    char was[64] = "";
    int rc = pt_mono_put(q, (const uint8_t *)key, strlen(key), message(text), &old);
    ck_assert_int_eq(rc, replaces != NULL);
    if (!rc)
        return;
    size_t len = old->size;
    pt_msg_copy(old, (uint8_t *)was, len);
    was[len] = 0;
    ck_assert_str_eq(was, replaces);
    pt_msg_free(old, &no_owners);
}

static void take(struct pt_mono *q, const char *text)
{
    char is[64];
    struct pt_msg *m = pt_mono_first(q);
    ck_assert_ptr_nonnull(m);
    pt_mono_shift(q);
    size_t len = m->size;
    pt_msg_copy(m, (uint8_t *)is, len);
    is[len] = 0;
    ck_assert_str_eq(is, text);
    pt_msg_free(m, &no_owners);
}

START_TEST(newest_in_the_place_of_the_oldest)
{
    struct pt_mono q;
    pt_mono_init(&q);
    put(&q, "a", "a1", NULL);
    put(&q, "b", "b1", NULL);
    put(&q, "", "none1", NULL);
    put(&q, "a", "a2", "a1");
    put(&q, "ab", "ab1", NULL);
    put(&q, "a", "a three", "a2");
    put(&q, "", "none2", "none1");
    ck_assert_uint_eq(q.messages, 4);
    ck_assert_uint_eq(q.bytes, strlen("a three"
                                      "b1"
                                      "none2"
                                      "ab1"));
    take(&q, "a three");
    put(&q, "a", "a4", NULL); /* the other one is gone: a new place, at the end */
    take(&q, "b1");
    take(&q, "none2");
    take(&q, "ab1");
    take(&q, "a4");
    ck_assert_ptr_null(pt_mono_first(&q));
    ck_assert_uint_eq(q.messages, 0);
    ck_assert_uint_eq(q.bytes, 0);
    pt_mono_free(&q, &no_owners);
}
END_TEST

/* A model of it: the latest message of each key, in the order in which the keys came. */
START_TEST(as_a_model_says)
{
    enum { KEYS = 50, STEPS = 20000 };
    struct pt_mono q;
    unsigned latest[KEYS] = {0}, order[KEYS], waiting = 0;

    pt_mono_init(&q);
    srand(7);
    for (unsigned step = 1; step <= STEPS; step++) {
        char key[16], text[16], old[16];
        if (rand() % 3 == 0 && waiting) {
            unsigned k = order[0];
            snprintf(text, sizeof text, "%u", latest[k]);
            take(&q, text);
            latest[k] = 0;
            memmove(order, order + 1, --waiting * sizeof *order);
            continue;
        }
        unsigned k = (unsigned)rand() % KEYS;
        snprintf(key, sizeof key, "key %u", k);
        snprintf(text, sizeof text, "%u", step);
        snprintf(old, sizeof old, "%u", latest[k]);
        put(&q, key, text, latest[k] ? old : NULL);
        if (!latest[k])
            order[waiting++] = k;
        latest[k] = step;
        ck_assert_uint_eq(q.messages, waiting);
    }
    pt_mono_free(&q, &no_owners); /* with what is in it: the sanitizer looks for leaks */
}
END_TEST

/* Two keys that FNV-1a gives one hash: neither replaces the other. */
START_TEST(one_hash_is_not_one_key)
{
    struct pt_mono q;
    pt_mono_init(&q);
    put(&q, COLLIDING, "a1", NULL);
    put(&q, WITH, "b1", NULL);
    put(&q, COLLIDING, "a2", "a1");
    put(&q, WITH, "b2", NULL); /* the second to come is not in the map: kept, never replaced */
    ck_assert_uint_eq(q.messages, 3);
    take(&q, "a2");
    take(&q, "b1");
    put(&q, WITH, "b3", NULL);
    put(&q, WITH, "b4", "b3");
    take(&q, "b2");
    take(&q, "b4");
    pt_mono_free(&q, &no_owners);
}
END_TEST

START_TEST(without_memory)
{
    sup_alloc_fail_at(0);
    for (size_t nth = 1;; nth++) {
        struct pt_mono q;
        struct pt_msg *old, *m = message("x");
        pt_mono_init(&q);
        sup_alloc_fail_at(nth);
        int rc = pt_mono_put(&q, (const uint8_t *)"key", 3, m, &old);
        ck_assert_int_eq(rc, sup_alloc_failed() ? -ENOMEM : 0);
        sup_alloc_fail_at(0);
        if (rc)
            pt_msg_free(m, &no_owners);
        ck_assert_uint_eq(q.messages, rc ? 0 : 1);
        pt_mono_free(&q, &no_owners);
        if (!rc) {
            ck_assert_uint_gt(nth, 2); /* the slot, the map */
            break;
        }
    }
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {newest_in_the_place_of_the_oldest, as_a_model_says,
                            one_hash_is_not_one_key, without_memory};
    return SUP_MAIN("mono", tests);
}

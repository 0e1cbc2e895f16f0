/* The walk over external terms: every tag, every truncation, lengths that lie, bounds. */
#include "proto/etf.h"
#include "term.h"

#include <stdio.h>

static struct term t; /* the term under test; too large for a stack */

static int skip(size_t avail, size_t *used)
{
    struct exact copy = exact_copy(t.at, avail);
    struct pt_etf e = {copy.p, copy.p + avail};
    int rc = pt_etf_skip(&e);
    *used = (size_t)(e.p - copy.p);
    free(copy.block);
    return rc;
}

/* t is one term: all of it is skipped, nothing less, and not what follows it. */
static void check_one_term(void)
{
    size_t used;

    for (size_t n = 0; n < t.len; n++) {
        ck_assert_int_eq(skip(n, &used), PT_E_MORE);
        ck_assert_uint_eq(used, 0);
    }
    ck_assert_int_eq(skip(t.len, &used), 0);
    ck_assert_uint_eq(used, t.len);
    size_t len = t.len;
    put_fill(&t, 0xff, 3);
    ck_assert_int_eq(skip(t.len, &used), 0);
    ck_assert_uint_eq(used, len);
}

/* One term of each tag, as hexadecimal; 7700 is the atom '', 6a the empty list. */
static const struct {
    const char *name;
    const char *hex;
} kinds[] = {
    {"SMALL_INTEGER_EXT", "61ff"},
    {"INTEGER_EXT", "62ffffffff"},
    {"FLOAT_EXT", "63312e3530303030303030303030303030303030303030652b30300000000000"},
    {"NEW_FLOAT_EXT", "463ff8000000000000"},
    {"ATOM_CACHE_REF", "5207"},
    {"ATOM_EXT", "640002616f"},
    {"ATOM_EXT, empty", "640000"},
    {"SMALL_ATOM_EXT", "7302616f"},
    {"ATOM_UTF8_EXT", "760003e282ac"},
    {"SMALL_ATOM_UTF8_EXT", "7703e282ac"},
    {"SMALL_ATOM_UTF8_EXT, empty", "7700"},
    {"PID_EXT", "6764000161000000010000000203"},
    {"NEW_PID_EXT", "58770161000000010000000200000003"},
    {"NEW_PID_EXT, node in the cache", "5852ff000000010000000200000003"},
    {"PORT_EXT", "667701610000000103"},
    {"NEW_PORT_EXT", "597701610000000100000003"},
    {"V4_PORT_EXT", "78770161000000000000000100000003"},
    {"REFERENCE_EXT", "657701610000000103"},
    {"NEW_REFERENCE_EXT", "72000277016103"
                          "0000000100000002"},
    {"NEWER_REFERENCE_EXT", "5a0002770161"
                            "00000003"
                            "0000000100000002"},
    {"NEWER_REFERENCE_EXT, no words", "5a0000770161"
                                      "00000003"},
    {"NEWER_REFERENCE_EXT, node in the cache", "5a00025200"
                                               "00000003"
                                               "0000000100000002"},
    {"SMALL_TUPLE_EXT", "680261016102"},
    {"SMALL_TUPLE_EXT, empty", "6800"},
    {"LARGE_TUPLE_EXT", "690000000261016102"},
    {"NIL_EXT", "6a"},
    {"STRING_EXT", "6b0003010203"},
    {"LIST_EXT", "6c00000002610161026a"},
    {"LIST_EXT, improper", "6c0000000161017700"},
    {"BINARY_EXT", "6d00000003010203"},
    {"BIT_BINARY_EXT", "4d0000000203ffe0"},
    {"SMALL_BIG_EXT", "6e030101ffff"},
    {"LARGE_BIG_EXT", "6f000000030001ffff"},
    {"MAP_EXT", "7400000002610177006102"
                "6a"},
    {"MAP_EXT, empty", "7400000000"},
    {"EXPORT_EXT", "7177016d7701666102"},
    {"NEW_FUN_EXT, size field wrong", "70ffffffff01"
                                      "000102030405060708090a0b0c0d0e0f"
                                      "00000000"
                                      "00000001"
                                      "77016d"
                                      "6100"
                                      "6101"
                                      "58770161000000010000000200000003"
                                      "6a"},
    {"FUN_EXT", "7500000001"
                "58770161000000010000000200000003"
                "77016d"
                "6100"
                "6101"
                "6a"},
    {"nested", "6802"
               "6c00000001"
               "680161016a"
               "7400000001"
               "6a"
               "6c000000016a6a"},
};

START_TEST(test_skip_kind)
{
    t.len = 0;
    put_hex(&t, kinds[_i].hex);
    check_one_term();
}
END_TEST

/* What every VM takes, and beside it what some would refuse or what is not looked into. */
static const struct {
    const char *hex;
    bool sure;
} certain[] = {
    {"61ff", true},
    {"62ffffffff", true},
    {"463ff8000000000000", true},
    {"467fefffffffffffff", true},
    {"467ff0000000000000", false}, /* infinite */
    {"46fff8000000000000", false}, /* not a number */
    {"7700", true},
    {"77026162", true},
    {"7303616263", true},
    {"6400016f", true},
    {"76000161", true},
    {"7703e282ac", false}, /* not ASCII */
    {"7702c328", false},   /* nor UTF-8 */
    {"5207", false},
    {"58770161000000010000000200000003", true},
    {"5877016100007fff00001fff00000003", true},
    {"58770161000080000000000200000003", false}, /* beyond a VM's own */
    {"58770161000000010000200000000003", false},
    {"587701e1000000010000000200000003", false},
    {"5a00037701610000000300000001000000020000000a", true},
    {"5a00037701610000000300040000000000020000000a", false},
    {"5a0002770161000000030000000100000002", false},
    {"6800", true},
    {"690000000261016102", true},
    {"6a", true},
    {"6b0003010203", true},
    {"6c00000002610161026a", true},
    {"6c0000000161017700", true},
    {"6c000000006a", false},
    {"6d00000003010203", true},
    {"6e030101ffff", true},
    {"6e0300010000", false}, /* a zero above */
    {"6e0000", false},
    {"6e010201", false}, /* no sign */
    {"6f000000030001ffff", false},
    {"7400000000", false},
    {"7400000001610177006102", false},
    {"4d0000000203ffe0", false},
    {"7177016d7701666102", false},
    {"597701610000000100000003", false},
    {"6802680161017703e282ac", false}, /* one of several is not */
    {"6802680161017700", true},
};

START_TEST(test_sure)
{
    t.len = 0;
    put_hex(&t, certain[_i].hex);
    for (size_t n = 0; n <= t.len; n++) { /* never of a part */
        struct exact copy = exact_copy(t.at, n);
        struct pt_etf e = {copy.p, copy.p + n};
        bool sure = pt_etf_is_sure(&e);
        ck_assert_int_eq(sure, n == t.len && certain[_i].sure);
        if (sure)
            ck_assert_ptr_eq(e.p, e.end);
        free(copy.block);
    }
}
END_TEST

START_TEST(test_sure_atoms_and_bounds)
{
    for (unsigned len = 254; len < 258; len++) { /* characters of an atom */
        t.len = 0;
        put8(&t, 118);
        put16(&t, len);
        put_fill(&t, 'a', len);
        struct pt_etf e = {t.at, t.at + t.len};
        ck_assert_int_eq(pt_etf_is_sure(&e), len <= 255);
    }
    for (uint32_t n = PT_ETF_MAX_WORK - 2; n < PT_ETF_MAX_WORK + 2;
         n++) { /* with the tuple itself */
        t.len = 0;
        put8(&t, 105);
        put32(&t, n);
        put_fill(&t, 106, n);
        struct pt_etf e = {t.at, t.at + t.len};
        ck_assert_int_eq(pt_etf_is_sure(&e), n + 1 <= PT_ETF_MAX_WORK);
    }
}
END_TEST

START_TEST(test_every_tag_is_known_or_refused)
{
    /* Those that have no sample above, or are malformed with zeros after them. */
    for (unsigned tag = 0; tag < 256; tag++) {
        bool known = false;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            char digits[3] = {kinds[i].hex[0], kinds[i].hex[1], 0};
            known |= strtoul(digits, NULL, 16) == tag;
        }
        size_t used;
        t.len = 0;
        put8(&t, tag);
        put_fill(&t, 0, 300);
        int rc = skip(1, &used);
        ck_assert_int_eq(rc, !known ? PT_E_BAD_FRAME : tag == 106 ? 0 : PT_E_MORE);
        if (!known)
            ck_assert_int_eq(skip(t.len, &used), PT_E_BAD_FRAME);
    }
}
END_TEST

/* Tags that would be followed by a length: with the largest, and little behind it. */
START_TEST(test_lengths_that_lie)
{
    static const struct {
        const char *head;
        int rc; /* the bound on terms is known at once, missing bytes might yet come */
    } cases[] = {
        {"6dffffffff", PT_E_MORE},
        {"4dffffffff08", PT_E_MORE},
        {"6fffffffff00", PT_E_MORE},
        {"69ffffffff", PT_E_BAD_FRAME},
        {"6cffffffff", PT_E_BAD_FRAME},
        {"74ffffffff", PT_E_BAD_FRAME},
        {"75ffffffff", PT_E_BAD_FRAME},
        {"72ffff77016103", PT_E_MORE},
        {"5affff77016100000003", PT_E_MORE},
        {"7480000000", PT_E_BAD_FRAME},
        {"64ffff61", PT_E_MORE},
        {"6bffff61", PT_E_MORE},
        {"77ff61", PT_E_MORE},
        {"58"
         "64ffff",
         PT_E_MORE},
        {"58"
         "6a",
         PT_E_BAD_FRAME},
        {"67"
         "6101",
         PT_E_BAD_FRAME},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t used;
        t.len = 0;
        put_hex(&t, cases[i].head);
        put_fill(&t, 0x6a, 40);
        ck_assert_int_eq(skip(t.len, &used), cases[i].rc);
        ck_assert_uint_eq(used, 0);
    }
}
END_TEST

/* Exactly PT_ETF_MAX_WORK terms are walked, one more is not, wide or deep. */
START_TEST(test_bound_on_terms)
{
    for (uint32_t kids = PT_ETF_MAX_WORK - 1; kids <= PT_ETF_MAX_WORK; kids++) {
        bool within = kids + 1 <= PT_ETF_MAX_WORK;
        size_t used;

        t.len = 0;
        put8(&t, 105);
        put32(&t, kids);
        put_fill(&t, 106, kids);
        ck_assert_int_eq(skip(t.len, &used), within ? 0 : PT_E_BAD_FRAME);
        ck_assert_uint_eq(used, within ? t.len : 0);

        t.len = 0;
        for (uint32_t depth = 0; depth < kids; depth++)
            put16(&t, 104 << 8 | 1);
        put8(&t, 106);
        ck_assert_int_eq(skip(t.len, &used), within ? 0 : PT_E_BAD_FRAME);
        ck_assert_uint_eq(used, within ? t.len : 0);
    }
}
END_TEST

START_TEST(test_tuple)
{
    static const struct {
        const char *hex;
        int rc;
        uint32_t arity;
        size_t used;
    } cases[] = {
        {"68ff", 0, 255, 2},
        {"6800", 0, 0, 2},
        {"69fffffffe61", 0, 0xfffffffe, 5},
        {"68", PT_E_MORE, 0, 0},
        {"69000000", PT_E_MORE, 0, 0},
        {"", PT_E_MORE, 0, 0},
        {"6c00000001", PT_E_BAD_FRAME, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t.len = 0;
        put_hex(&t, cases[i].hex);
        struct exact copy = exact_copy(t.at, t.len);
        struct pt_etf e = {copy.p, copy.p + t.len};
        uint32_t arity = 0;
        ck_assert_int_eq(pt_etf_tuple(&e, &arity), cases[i].rc);
        ck_assert_uint_eq(arity, cases[i].arity);
        ck_assert_uint_eq((size_t)(e.p - copy.p), cases[i].used);
        free(copy.block);
    }
}
END_TEST

START_TEST(test_uint)
{
    static const struct {
        const char *hex;
        int rc;
        uint64_t value;
    } cases[] = {
        {"6100", 0, 0},
        {"61ff", 0, 255},
        {"6200000100", 0, 256},
        {"627fffffff", 0, INT32_MAX},
        {"6280000000", PT_E_BAD_FRAME, 0},
        {"6e0000", 0, 0},
        {"6e040000000080", 0, 0x80000000},
        {"6e0800ffffffffffffffff", 0, UINT64_MAX},
        {"6e08000102030405060708", 0, 0x0807060504030201},
        {"6e0801ffffffffffffffff", PT_E_BAD_FRAME, 0},
        {"6e0900000000000000000001", PT_E_BAD_FRAME, 0},
        {"6f0000000200ff01", 0, 0x1ff},
        {"6fffffffff0001", PT_E_BAD_FRAME, 0},
        {"", PT_E_MORE, 0},
        {"7700", PT_E_BAD_FRAME, 0},
        {"463ff8000000000000", PT_E_BAD_FRAME, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t.len = 0;
        put_hex(&t, cases[i].hex);
        for (size_t n = 0; n <= t.len; n++) {
            struct exact copy = exact_copy(t.at, n);
            struct pt_etf e = {copy.p, copy.p + n};
            uint64_t value = 0;
            int rc = pt_etf_uint(&e, &value);
            if (n == t.len)
                ck_assert_int_eq(rc, cases[i].rc);
            else
                ck_assert(rc == PT_E_MORE || (rc == PT_E_BAD_FRAME && cases[i].rc));
            ck_assert_uint_eq(value, n == t.len ? cases[i].value : 0);
            ck_assert_uint_eq((size_t)(e.p - copy.p), rc == 0 ? n : 0);
            free(copy.block);
        }
    }
}
END_TEST

static const unsigned atom_tags[] = {100, 115, 118, 119};

START_TEST(test_atom)
{
    t.len = 0;
    put_atom(&t, atom_tags[_i], "abc");
    for (size_t n = 0; n <= t.len; n++) {
        struct exact copy = exact_copy(t.at, n);
        struct pt_etf e = {copy.p, copy.p + n};
        const uint8_t *name;
        size_t len;
        ck_assert_int_eq(pt_etf_is_atom(&e), n > 0);
        ck_assert_int_eq(pt_etf_is_pid(&e), 0);
        int rc = pt_etf_atom(&e, &name, &len);
        ck_assert_int_eq(rc, n < t.len ? PT_E_MORE : 0);
        ck_assert_ptr_eq(e.p, copy.p + (rc ? 0 : n));
        if (rc == 0) {
            ck_assert_uint_eq(len, 3);
            ck_assert_mem_eq(name, "abc", 3);
        }
        free(copy.block);
    }
    t.at[0] = 107;
    struct pt_etf e = {t.at, t.at + t.len};
    const uint8_t *name;
    size_t len;
    ck_assert_int_eq(pt_etf_is_atom(&e), 0);
    ck_assert_int_eq(pt_etf_atom(&e, &name, &len), PT_E_BAD_FRAME);
}
END_TEST

/* Its text is in the header, or in the receiver's cache: here it has none. */
START_TEST(test_atom_in_the_cache)
{
    static const uint8_t ref[] = {82, 200, 82};
    for (size_t n = 0; n <= sizeof ref; n++) {
        struct exact copy = exact_copy(ref, n);
        struct pt_etf e = {copy.p, copy.p + n};
        const uint8_t *name;
        size_t len = 9;
        ck_assert_int_eq(pt_etf_is_atom(&e), n > 0);
        ck_assert_int_eq(pt_etf_atom(&e, &name, &len), n < 2 ? PT_E_MORE : 0);
        ck_assert_uint_eq((size_t)(e.p - copy.p), n < 2 ? 0 : 2);
        ck_assert_uint_eq(len, n < 2 ? 9 : 0);
        free(copy.block);
    }
}
END_TEST

static uint64_t key_of(unsigned tag, unsigned atom_tag, uint32_t id, uint32_t serial,
                       uint32_t creation)
{
    t.len = 0;
    put_pid(&t, tag, atom_tag, id, serial, creation);
    uint64_t key = 0;
    for (size_t n = 0; n <= t.len; n++) {
        struct exact copy = exact_copy(t.at, n);
        struct pt_etf e = {copy.p, copy.p + n};
        ck_assert_int_eq(pt_etf_is_pid(&e), n > 0);
        ck_assert_int_eq(pt_etf_is_atom(&e), 0);
        int rc = pt_etf_pid(&e, &key);
        ck_assert_int_eq(rc, n < t.len ? PT_E_MORE : 0);
        ck_assert_ptr_eq(e.p, copy.p + (rc ? 0 : n));
        ck_assert_uint_eq(key != 0, rc == 0);
        free(copy.block);
    }
    return key;
}

START_TEST(test_pid_key_is_the_same_in_every_encoding)
{
    uint64_t key = key_of(88, 119, 4711, 3, 2);

    for (size_t i = 0; i < sizeof atom_tags / sizeof *atom_tags; i++) {
        ck_assert_uint_eq(key_of(88, atom_tags[i], 4711, 3, 2), key);
        ck_assert_uint_eq(key_of(103, atom_tags[i], 4711, 3, 2), key);
    }
}
END_TEST

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

START_TEST(test_pid_keys_differ)
{
    static const uint32_t values[] = {0, 1, 2, 255, 256, 0x7fff, 0x10000, 0x71ac3e2f, 0xffffffff};
    enum { N = sizeof values / sizeof *values };
    uint64_t keys[N * N * N];
    size_t n = 0;

    for (size_t i = 0; i < N * N * N; i++)
        keys[n++] = key_of(88, 119, values[i % N], values[i / N % N], values[i / N / N]);
    qsort(keys, n, sizeof *keys, by_value);
    for (size_t i = 1; i < n; i++)
        ck_assert_uint_ne(keys[i - 1], keys[i]);
}
END_TEST

/* The pids of a node count up: a table indexed by the low bits must spread them. */
START_TEST(test_pid_keys_spread)
{
    unsigned in_slot[256] = {0}, most = 0;

    for (uint32_t id = 0; id < 4 * 256; id++) {
        unsigned *slot = &in_slot[key_of(88, 119, 100 + id * 8, 0, 0x71ac3e2f) & 255];
        most = PT_MAX(most, ++*slot);
    }
    /* 4 on average; 20 is beyond what chance gives. */
    ck_assert_uint_lt(most, 20);
}
END_TEST

START_TEST(test_not_a_pid)
{
    static const char *const cases[] = {"6161", "7700", "78770161000000000000000100000003",
                                        "586101"};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        t.len = 0;
        put_hex(&t, cases[i]);
        struct pt_etf e = {t.at, t.at + t.len};
        uint64_t key;
        ck_assert_int_eq(pt_etf_pid(&e, &key), PT_E_BAD_FRAME);
        ck_assert_ptr_eq(e.p, t.at);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("etf");
    TCase *c = tcase_create("etf");

    tcase_add_loop_test(c, test_skip_kind, 0, sizeof kinds / sizeof *kinds);
    tcase_add_loop_test(c, test_sure, 0, sizeof certain / sizeof *certain);
    tcase_add_test(c, test_sure_atoms_and_bounds);
    tcase_add_test(c, test_every_tag_is_known_or_refused);
    tcase_add_test(c, test_lengths_that_lie);
    tcase_add_test(c, test_bound_on_terms);
    tcase_add_test(c, test_tuple);
    tcase_add_test(c, test_uint);
    tcase_add_loop_test(c, test_atom, 0, sizeof atom_tags / sizeof *atom_tags);
    tcase_add_test(c, test_atom_in_the_cache);
    tcase_add_test(c, test_pid_key_is_the_same_in_every_encoding);
    tcase_add_test(c, test_pid_keys_differ);
    tcase_add_test(c, test_pid_keys_spread);
    tcase_add_test(c, test_not_a_pid);
    suite_add_tcase(s, c);

    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

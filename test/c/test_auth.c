/* HMAC-SHA256 against RFC 4231, HKDF-SHA256 against RFC 5869, and the limits of both. */
#include "proto/auth.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
    size_t len;
    uint8_t at[256];
};

static unsigned nibble(char c)
{
    const char *digits = "0123456789abcdef";
    const char *p = strchr(digits, c);

    ck_assert_ptr_nonnull(p);
    return (unsigned)(p - digits);
}

static struct bytes hex(const char *s)
{
    struct bytes b = {.len = strlen(s) / 2};

    ck_assert_uint_le(b.len, sizeof b.at);
    for (size_t i = 0; i < b.len; i++)
        b.at[i] = (uint8_t)(nibble(s[2 * i]) << 4 | nibble(s[2 * i + 1]));
    return b;
}

static struct bytes fill(uint8_t byte, size_t len)
{
    struct bytes b = {.len = len};

    memset(b.at, byte, len);
    return b;
}

static struct bytes text(const char *s)
{
    struct bytes b = {.len = strlen(s)};

    memcpy(b.at, s, b.len);
    return b;
}

static struct bytes range(uint8_t first, size_t len)
{
    struct bytes b = {.len = len};

    for (size_t i = 0; i < len; i++)
        b.at[i] = (uint8_t)(first + i);
    return b;
}

static void check_hmac(struct bytes key, struct bytes data, const char *expected)
{
    struct bytes want = hex(expected);
    uint8_t mac[PT_AUTH_MAC_SIZE];

    ck_assert_int_eq(pt_auth_hmac(key.at, key.len, data.at, data.len, mac), 0);
    ck_assert_mem_eq(mac, want.at, want.len); /* case 5 of the RFC is truncated to 128 bits */
}

START_TEST(hmac_rfc4231)
{
    check_hmac(fill(0x0b, 20), text("Hi There"),
               "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    check_hmac(text("Jefe"), text("what do ya want for nothing?"),
               "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    check_hmac(fill(0xaa, 20), fill(0xdd, 50),
               "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    check_hmac(range(0x01, 25), fill(0xcd, 50),
               "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
    check_hmac(fill(0x0c, 20), text("Test With Truncation"), "a3b6167473100ee06e0c796c2955552b");
    check_hmac(fill(0xaa, 131), text("Test Using Larger Than Block-Size Key - Hash Key First"),
               "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    check_hmac(fill(0xaa, 131),
               text("This is a test using a larger than block-size key and a larger than "
                    "block-size data. The key needs to be hashed before being used by the HMAC "
                    "algorithm."),
               "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
}
END_TEST

/* libcrypto takes a NULL key for "the key of the previous call". */
START_TEST(hmac_empty_key_and_data)
{
    const char *expected = "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad";
    struct bytes want = hex(expected);
    uint8_t mac[PT_AUTH_MAC_SIZE];

    check_hmac(fill(0x0b, 20), text("Hi There"),
               "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    ck_assert_int_eq(pt_auth_hmac(NULL, 0, NULL, 0, mac), 0);
    ck_assert_mem_eq(mac, want.at, want.len);
}
END_TEST

static void check_hkdf(struct bytes key, struct bytes salt, struct bytes info, const char *expected)
{
    struct bytes want = hex(expected);
    uint8_t out[256];

    ck_assert_int_eq(
        pt_auth_hkdf(key.at, key.len, salt.at, salt.len, info.at, info.len, out, want.len), 0);
    ck_assert_mem_eq(out, want.at, want.len);
}

START_TEST(hkdf_rfc5869)
{
    check_hkdf(
        fill(0x0b, 22), range(0x00, 13), range(0xf0, 10),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
    check_hkdf(
        range(0x00, 80), range(0x60, 80), range(0xb0, 80),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41"
        "c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87");
    check_hkdf(
        fill(0x0b, 22), fill(0, 0), fill(0, 0),
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}
END_TEST

/* A shorter output is a prefix of a longer one, at every length around the block size. */
START_TEST(hkdf_lengths)
{
    struct bytes key = text("key"), salt = text("salt"), info = text("info");
    uint8_t whole[PT_AUTH_HKDF_MAX], part[PT_AUTH_HKDF_MAX];

    ck_assert_int_eq(
        pt_auth_hkdf(key.at, key.len, salt.at, salt.len, info.at, info.len, whole, sizeof whole),
        0);
    for (size_t len = 1; len <= 3 * PT_AUTH_MAC_SIZE + 1; len++) {
        memset(part, 0x5a, sizeof part);
        ck_assert_int_eq(
            pt_auth_hkdf(key.at, key.len, salt.at, salt.len, info.at, info.len, part, len), 0);
        ck_assert_mem_eq(part, whole, len);
        ck_assert_uint_eq(part[len], 0x5a);
    }
    ck_assert_int_eq(pt_auth_hkdf(key.at, key.len, NULL, 0, NULL, 0, part, 0), -EINVAL);
    ck_assert_int_eq(pt_auth_hkdf(key.at, key.len, NULL, 0, NULL, 0, part, PT_AUTH_HKDF_MAX + 1),
                     -EINVAL);
}
END_TEST

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

static void *no_memory_again(void *p, size_t size)
{
    (void)p;
    (void)size;
    return NULL;
}

START_TEST(hkdf_out_of_memory)
{
    const struct pt_alloc_hooks failing = {no_memory, no_memory_again, free};
    const struct pt_alloc_hooks normal = {malloc, realloc, free};
    struct bytes key = text("key");
    uint8_t out[16];
    int err;

    pt_alloc_set_hooks(&failing);
    err = pt_auth_hkdf(key.at, key.len, NULL, 0, NULL, 0, out, sizeof out);
    pt_alloc_set_hooks(&normal);
    ck_assert_int_eq(err, -ENOMEM);
}
END_TEST

START_TEST(equal)
{
    struct bytes a = range(0, 32), b = range(0, 32);

    ck_assert(pt_auth_equal(a.at, b.at, 32));
    ck_assert(pt_auth_equal(a.at, b.at, 0));
    for (size_t i = 0; i < 32; i++) {
        b.at[i] ^= 0x80;
        ck_assert(!pt_auth_equal(a.at, b.at, 32));
        b.at[i] ^= 0x80;
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("auth");
    TCase *tc = tcase_create("auth");
    SRunner *sr;
    int failed;

    tcase_add_test(tc, hmac_rfc4231);
    tcase_add_test(tc, hmac_empty_key_and_data);
    tcase_add_test(tc, hkdf_rfc5869);
    tcase_add_test(tc, hkdf_lengths);
    tcase_add_test(tc, hkdf_out_of_memory);
    tcase_add_test(tc, equal);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Compressed messages: what inflates, and everything else. */
#include "proto/zip.h"
#include "support.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>

static size_t pack(uint8_t *out, size_t room, const uint8_t *in, size_t len, uint32_t claimed)
{
    uLongf n = room - PT_ZIP_HEAD;
    out[0] = PT_ZIP_TAG;
    pt_put32(out + 1, claimed);
    ck_assert_int_eq(compress2(out + PT_ZIP_HEAD, &n, in, len, 6), Z_OK);
    return n + PT_ZIP_HEAD;
}

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i % 251 * (i / 4096));
}

START_TEST(there_and_back)
{
    static const size_t sizes[] = {1, 3, 1000, 65536, 1000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i], room = n + n / 100 + 100;
        uint8_t *in = malloc(n), *z = malloc(room),
                *out = malloc(n); /* exact: ASan guards the end */
        fill(in, n);
        size_t len = pack(z, room, in, n, (uint32_t)n);
        ck_assert_int_eq(pt_zip_size(z, len, n), (int64_t)n);
        ck_assert_int_eq(pt_zip_inflate(z, len, out, n), 0);
        ck_assert_mem_eq(in, out, n);
        free(in);
        free(z);
        free(out);
    }
}
END_TEST

START_TEST(sizes_that_are_refused)
{
    uint8_t z[PT_ZIP_HEAD + 1] = {PT_ZIP_TAG};
    pt_put32(z + 1, 1000);
    ck_assert_int_eq(pt_zip_size(z, sizeof z, 1000), 1000);
    ck_assert_int_eq(pt_zip_size(z, sizeof z, 999), PT_E_TOO_LARGE);
    ck_assert_int_eq(pt_zip_size(z, PT_ZIP_HEAD, 1000), PT_E_BAD_FRAME);
    ck_assert_int_eq(pt_zip_size(z, 0, 1000), PT_E_BAD_FRAME);
    pt_put32(z + 1, 0);
    ck_assert_int_eq(pt_zip_size(z, sizeof z, 1000), PT_E_BAD_FRAME);
    pt_put32(z + 1, PT_ZIP_MAX);
    ck_assert_int_eq(pt_zip_size(z, sizeof z, UINT64_MAX), PT_ZIP_MAX);
    pt_put32(z + 1, PT_ZIP_MAX + 1);
    ck_assert_int_eq(pt_zip_size(z, sizeof z, UINT64_MAX), PT_E_TOO_LARGE);
    pt_put32(z + 1, UINT32_MAX);
    ck_assert_int_eq(pt_zip_size(z, sizeof z, UINT64_MAX), PT_E_TOO_LARGE);
    z[0] = 131;
    ck_assert_int_eq(pt_zip_size(z, sizeof z, 1000), PT_E_BAD_FRAME);
}
END_TEST

/* A stream that inflates to more or to less than was said, is cut off, or has something behind it. */
START_TEST(streams_that_are_refused)
{
    enum { N = 10000 };
    uint8_t in[N], z[N], *out = malloc(N);
    memset(in, 7, N);
    size_t len = pack(z, sizeof z, in, N, N);
    ck_assert_int_eq(pt_zip_inflate(z, len, out, N), 0);
    for (size_t size = 0; size < N; size += 37)
        ck_assert_int_eq(pt_zip_inflate(z, len, out, size), PT_E_BAD_FRAME);
    uint8_t *more = malloc(2 * N);
    ck_assert_int_eq(pt_zip_inflate(z, len, more, 2 * N), PT_E_BAD_FRAME);
    free(more);
    for (size_t cut = 0; cut < len; cut++)
        ck_assert_int_eq(pt_zip_inflate(z, cut, out, N), PT_E_BAD_FRAME);
    ck_assert_int_eq(pt_zip_inflate(z, len + 1, out, N), PT_E_BAD_FRAME);
    free(out);
}
END_TEST

/* Damaged at any bit: an error, or what was packed (zlib's checksum), never a byte outside. */
START_TEST(damage)
{
    enum { N = 600 };
    uint8_t in[N], z[N + 100], *out = malloc(N);
    fill(in, N);
    memset(in, 3, N / 2);
    size_t len = pack(z, sizeof z, in, N, N);
    for (size_t bit = PT_ZIP_HEAD * 8; bit < len * 8; bit++) {
        z[bit / 8] ^= (uint8_t)(1u << bit % 8);
        int rc = pt_zip_inflate(z, len, out, N);
        ck_assert(rc == PT_E_BAD_FRAME || (rc == 0 && !memcmp(in, out, N)));
        z[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(out);
}
END_TEST

START_TEST(without_memory)
{
    uint8_t in[100] = {0}, z[200], out[100];
    size_t len = pack(z, sizeof z, in, sizeof in, sizeof in);
    size_t nth = 0;
    int rc;
    do {
        sup_alloc_fail_at(++nth);
        rc = pt_zip_inflate(z, len, out, sizeof out);
        ck_assert_int_eq(rc, sup_alloc_failed() ? -ENOMEM : 0);
    } while (rc);
    sup_alloc_fail_at(0);
    ck_assert_uint_gt(nth, 1);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {there_and_back, sizes_that_are_refused, streams_that_are_refused,
                            damage, without_memory};
    return SUP_MAIN("zip", tests);
}

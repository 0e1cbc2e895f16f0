#include "proto/zip.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>

int64_t pt_zip_size(const uint8_t *p, size_t len, uint64_t max)
{
    if (len <= PT_ZIP_HEAD || p[0] != PT_ZIP_TAG)
        return PT_E_BAD_FRAME;
    uint32_t size = pt_get32(p + 1);
    if (!size)
        return PT_E_BAD_FRAME;
    return size > PT_ZIP_MAX || size > max ? PT_E_TOO_LARGE : (int64_t)size;
}

static void *zalloc(void *ctx, unsigned n, unsigned size)
{
    (void)ctx;
    return pt_alloc((size_t)n * size);
}

static void zfree(void *ctx, void *p)
{
    (void)ctx;
    pt_free(p);
}

int pt_zip_inflate(const uint8_t *p, size_t len, uint8_t *out, size_t size)
{
    z_stream z = {.zalloc = zalloc, .zfree = zfree};

    if (len <= PT_ZIP_HEAD || len > UINT32_MAX || size > UINT32_MAX)
        return PT_E_BAD_FRAME;
    z.next_in = (uint8_t *)(uintptr_t)(p + PT_ZIP_HEAD);
    z.avail_in = (unsigned)(len - PT_ZIP_HEAD);
    z.next_out = out;
    z.avail_out = (unsigned)size;
    if (inflateInit(&z) != Z_OK)
        return -ENOMEM;
    int rc = inflate(&z, Z_FINISH);
    bool exact = rc == Z_STREAM_END && !z.avail_out && !z.avail_in;
    inflateEnd(&z);
    return exact ? 0 : rc == Z_MEM_ERROR ? -ENOMEM : PT_E_BAD_FRAME;
}

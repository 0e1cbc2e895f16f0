#include "proto/frame.h"

#include <string.h>

static uint8_t *put_uint(uint8_t *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

static size_t uint_size(uint64_t v)
{
    size_t n = 1;
    while (v >>= 7)
        n++;
    return n;
}

static uint64_t zigzag(uint64_t difference)
{
    return (difference << 1) ^ (uint64_t)((int64_t)difference >> 63);
}

static uint64_t unzigzag(uint64_t v) { return (v >> 1) ^ (~(v & 1) + 1); }

struct reader {
    const uint8_t *p, *end;
    int err;
};

static uint64_t get_long_uint(struct reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0;; shift += 7) {
        if (r->p == r->end) {
            if (!r->err)
                r->err = PT_E_MORE;
            return 0;
        }
        uint8_t b = *r->p++;
        /* the tenth byte holds bit 63 only */
        if (shift == 63 && b > 1) {
            r->err = PT_E_BAD_FRAME;
            return 0;
        }
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return v;
    }
}

/* Of a small message each is a single byte. */
static inline uint64_t get_uint(struct reader *r)
{
    if (PT_LIKELY(r->p < r->end && *r->p < 0x80))
        return *r->p++;
    return get_long_uint(r);
}

static uint8_t *put_order(uint8_t *p, const struct pt_frame *f, struct pt_frame_ctx *ctx)
{
    p = put_uint(p, zigzag(f->number - ctx->number));
    p = put_uint(p, f->after ? f->number - f->after : 0);
    ctx->number = f->number + 1;
    return p;
}

static void get_order(struct reader *r, struct pt_frame *f, const struct pt_frame_ctx *ctx)
{
    f->number = ctx->number + unzigzag(get_uint(r));
    uint64_t back = get_uint(r);
    if (r->err)
        return;
    if (!f->number || back >= f->number)
        r->err = PT_E_BAD_NUMBER;
    f->after = back ? f->number - back : 0;
}

size_t pt_frame_encode(uint8_t *out, const struct pt_frame *f, struct pt_frame_ctx *ctx)
{
    uint8_t *p = out;
    *p++ = (uint8_t)(f->type | f->flags | (f->type == PT_FRAME_END ? PT_FRAME_SKIP : 0));
    switch (f->type) {
    case PT_FRAME_MSG:
        p = put_order(p, f, ctx);
        p = put_uint(p, f->length);
        break;
    case PT_FRAME_PART:
    case PT_FRAME_LAST:
        p = put_uint(p, f->transfer);
        p = put_uint(p, f->room);
        p = put_uint(p, f->offset);
        p = put_uint(p, f->length);
        if (f->type == PT_FRAME_LAST)
            p = put_order(p, f, ctx);
        break;
    case PT_FRAME_DROP: p = put_uint(p, f->transfer); break;
    case PT_FRAME_ACK: p = put_uint(p, f->after); break;
    case PT_FRAME_AUTH:
        memcpy(p, f->auth, PT_FRAME_AUTH_LEN);
        p += PT_FRAME_AUTH_LEN;
        break;
    case PT_FRAME_END:
        p = put_uint(p, uint_size(f->after) + uint_size(f->room) + f->length);
        p = put_uint(p, f->after);
        p = put_uint(p, f->room);
        break;
    default: break;
    }
    return (size_t)(p - out);
}

static void check_chunk(struct reader *r, const struct pt_frame *f)
{
    if (r->err)
        return;
    if (!f->transfer || f->length > PT_FRAME_CHUNK_MAX || f->offset > f->room ||
        f->length > f->room - f->offset)
        r->err = PT_E_BAD_TRANSFER;
    else if (f->type == PT_FRAME_LAST && f->offset + f->length != f->room)
        r->err = PT_E_BAD_TRANSFER;
}

/* What END says, and how much of its length is left to skip. */
static uint64_t get_end(struct reader *r, struct pt_frame *f, uint64_t length)
{
    const uint8_t *from = r->p;
    f->after = get_uint(r);
    f->room = get_uint(r);
    uint64_t used = (uint64_t)(r->p - from);
    if (!r->err && used > length)
        r->err = PT_E_BAD_FRAME;
    return r->err ? 0 : length - used;
}

int pt_frame_decode(const uint8_t *p, size_t avail, struct pt_frame *f, struct pt_frame_ctx *ctx)
{
    struct reader r = {.p = p, .end = p + avail};
    uint64_t length = 0;

    if (!avail)
        return PT_E_MORE;
    memset(f, 0, sizeof *f);
    f->type = *r.p & PT_FRAME_TYPE_MASK;
    f->flags = *r.p & (PT_FRAME_FENCE | PT_FRAME_BARE);
    if (*r.p & PT_FRAME_RESERVED)
        return PT_E_BAD_FRAME;
    bool skippable = *r.p++ & PT_FRAME_SKIP;
    if (skippable && f->type <= PT_FRAME_AUTH)
        return PT_E_BAD_FRAME;

    switch (f->type) {
    case PT_FRAME_TICK: break;
    case PT_FRAME_MSG:
        get_order(&r, f, ctx);
        length = get_uint(&r);
        if (!r.err && length > PT_FRAME_SINGLE_MAX + PT_FRAME_SECTION_MAX)
            r.err = PT_E_BAD_FRAME;
        break;
    case PT_FRAME_PART:
    case PT_FRAME_LAST:
        f->transfer = get_uint(&r);
        f->room = get_uint(&r);
        f->offset = get_uint(&r);
        length = get_uint(&r);
        f->length = (size_t)length;
        if (f->type == PT_FRAME_LAST)
            get_order(&r, f, ctx);
        check_chunk(&r, f);
        break;
    case PT_FRAME_DROP: f->transfer = get_uint(&r); break;
    case PT_FRAME_ACK: f->after = get_uint(&r); break;
    case PT_FRAME_AUTH:
        if ((size_t)(r.end - r.p) < PT_FRAME_AUTH_LEN)
            return PT_E_MORE;
        f->auth = r.p;
        r.p += PT_FRAME_AUTH_LEN;
        break;
    default:
        if (!skippable)
            return PT_E_BAD_TYPE;
        length = get_uint(&r);
        if (!r.err && length > PT_FRAME_CHUNK_MAX)
            r.err = PT_E_BAD_FRAME;
        if (f->type == PT_FRAME_END)
            length = get_end(&r, f, length);
        break;
    }
    if (r.err)
        return r.err;
    if (f->type == PT_FRAME_MSG || f->type == PT_FRAME_LAST)
        ctx->number = f->number + 1;
    f->length = (size_t)length;
    return (int)(r.p - p);
}

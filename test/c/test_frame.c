/* Frame headers: what is encoded is decoded, what is cut off waits, what is wrong is refused. */
#include "support.h"

#include "proto/frame.h"

#include <string.h>

static const uint64_t edges[] = {0,
                                 1,
                                 2,
                                 63,
                                 64,
                                 127,
                                 128,
                                 129,
                                 16383,
                                 16384,
                                 (1 << 21) - 1,
                                 1 << 21,
                                 UINT32_MAX,
                                 UINT64_C(1) << 32,
                                 (UINT64_C(1) << 56) - 1,
                                 (UINT64_C(1) << 63) - 1,
                                 UINT64_C(1) << 63,
                                 UINT64_MAX - 1,
                                 UINT64_MAX};
enum { EDGES = sizeof edges / sizeof edges[0] };

static uint8_t auth[PT_FRAME_AUTH_LEN];

static void same(const struct pt_frame *a, const struct pt_frame *b)
{
    sup_must(a->type == b->type);
    sup_must(a->flags == b->flags);
    sup_must(a->number == b->number);
    sup_must(a->after == b->after);
    sup_must(a->transfer == b->transfer);
    sup_must(a->room == b->room);
    sup_must(a->offset == b->offset);
    sup_must(a->length == b->length);
    if (a->type == PT_FRAME_AUTH)
        sup_must(memcmp(a->auth, b->auth, PT_FRAME_AUTH_LEN) == 0);
}

/* Decodes from a block of exactly n bytes, so that ASan sees a read beyond. */
static int decode(const uint8_t *p, size_t n, struct pt_frame *f, struct pt_frame_ctx *ctx)
{
    uint8_t *exact = malloc(n ? n : 1);
    static uint8_t keep[PT_FRAME_AUTH_LEN];

    memcpy(exact, p, n);
    memset(f, 0xEE, sizeof *f); /* nothing of it may be taken for granted */
    int rc = pt_frame_decode(exact, n, f, ctx);
    if (rc > 0 && f->type == PT_FRAME_AUTH) {
        memcpy(keep, f->auth, sizeof keep);
        f->auth = keep;
    }
    free(exact);
    return rc;
}

/* There and back, and each truncation on the way. Returns the length of the header. */
static size_t round_trip(const struct pt_frame *f, uint64_t expected_number)
{
    uint8_t out[PT_FRAME_HEAD_MAX + 1];
    struct pt_frame_ctx tx = {expected_number}, rx = {expected_number};
    struct pt_frame got;

    memset(out, 0xAA, sizeof out);
    size_t n = pt_frame_encode(out, f, &tx);
    sup_must(n <= PT_FRAME_HEAD_MAX);
    sup_must(out[n] == 0xAA);
    for (size_t cut = 0; cut < n; cut++) {
        sup_must(decode(out, cut, &got, &rx) == PT_E_MORE);
        sup_must(rx.number == expected_number);
    }
    sup_must(decode(out, n, &got, &rx) == (int)n);
    same(f, &got);
    sup_must(tx.number == rx.number);
    bool numbered = f->type == PT_FRAME_MSG || f->type == PT_FRAME_LAST;
    sup_must(rx.number == (numbered ? f->number + 1 : expected_number));
    /* bytes that follow are none of its business */
    rx.number = expected_number;
    sup_must(pt_frame_decode(out, sizeof out, &got, &rx) == (int)n);
    return n;
}

START_TEST(msg_round_trip)
{
    static const size_t lengths[] = {0, 1, 127, 128, 16384, PT_FRAME_SINGLE_MAX};

    for (unsigned i = 0; i < EDGES; i++) {
        for (unsigned j = 0; j < EDGES; j++)
            for (unsigned k = 0; k < EDGES; k++) {
                struct pt_frame f = {.type = PT_FRAME_MSG,
                                     .number = edges[i],
                                     .after = edges[j],
                                     .length = lengths[k % 6],
                                     .flags = (uint8_t)((k & 3) << 4)};
                if (f.after < f.number)
                    round_trip(&f, edges[k]);
            }
    }
}
END_TEST

START_TEST(chunk_round_trip)
{
    static const size_t lengths[] = {0, 1, 65536, PT_FRAME_CHUNK_MAX};

    for (unsigned i = 1; i < EDGES; i++) {
        for (unsigned j = 0; j < EDGES; j++)
            for (unsigned k = 0; k < 4; k++) {
                struct pt_frame f = {.type = PT_FRAME_PART,
                                     .transfer = edges[i],
                                     .room = edges[j],
                                     .length = lengths[k]};
                if (f.length > f.room)
                    continue;
                round_trip(&f, 7);
                f.offset = f.room - f.length;
                round_trip(&f, 7);
                f.type = PT_FRAME_LAST;
                f.flags = PT_FRAME_FENCE;
                f.number = edges[i];
                f.after = edges[i] - 1;
                round_trip(&f, edges[j]);
            }
    }
}
END_TEST

START_TEST(other_round_trips)
{
    struct pt_frame f = {.type = PT_FRAME_TICK};

    ck_assert_uint_eq(round_trip(&f, 1), 1);
    for (unsigned i = 0; i < EDGES; i++) {
        f = (struct pt_frame){.type = PT_FRAME_DROP, .transfer = edges[i]};
        round_trip(&f, edges[i]);
        f = (struct pt_frame){.type = PT_FRAME_ACK, .after = edges[i]};
        round_trip(&f, edges[i]);
    }
    for (unsigned i = 0; i < sizeof auth; i++)
        auth[i] = (uint8_t)(i * 37);
    f = (struct pt_frame){.type = PT_FRAME_AUTH, .auth = auth};
    ck_assert_uint_eq(round_trip(&f, 1), 1 + PT_FRAME_AUTH_LEN);
    for (unsigned i = 0; i < EDGES; i++)
        for (unsigned j = 0; j < EDGES; j++) {
            f = (struct pt_frame){.type = PT_FRAME_END, .after = edges[i], .room = edges[j]};
            round_trip(&f, edges[i]);
            f.length = 7; /* a later version says more */
            round_trip(&f, edges[j]);
        }
}
END_TEST

/* A header written byte by byte. */
struct bytes {
    uint8_t at[128];
    size_t n;
};

static void put(struct bytes *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        b->at[b->n++] = (uint8_t)(v | 0x80);
    b->at[b->n++] = (uint8_t)v;
}

static int decode_bytes(const struct bytes *b, struct pt_frame *f)
{
    struct pt_frame_ctx ctx = {1};
    int rc = decode(b->at, b->n, f, &ctx);
    if (rc < 0)
        ck_assert_uint_eq(ctx.number, 1);
    return rc;
}

static int decode_ack(const char *varint, size_t n, uint64_t *value)
{
    struct bytes b = {.at = {PT_FRAME_ACK}, .n = 1 + n};
    struct pt_frame f;
    memcpy(b.at + 1, varint, n);
    int rc = decode_bytes(&b, &f);
    *value = f.after;
    return rc;
}

START_TEST(integers)
{
    uint64_t v;
    char long_zero[12];

    /* not the shortest form: accepted, at most ten bytes */
    ck_assert_int_eq(decode_ack("\x80\x00", 2, &v), 3);
    ck_assert_uint_eq(v, 0);
    memset(long_zero, 0x80, sizeof long_zero);
    long_zero[9] = 0;
    ck_assert_int_eq(decode_ack(long_zero, 10, &v), 11);
    ck_assert_uint_eq(v, 0);
    /* eleven bytes; a tenth byte that does not fit 64 bits; no end */
    long_zero[9] = (char)0x80;
    long_zero[10] = 0;
    ck_assert_int_eq(decode_ack(long_zero, 11, &v), PT_E_BAD_FRAME);
    ck_assert_int_eq(decode_ack("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10, &v),
                     PT_E_BAD_FRAME);
    ck_assert_int_eq(decode_ack("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81", 10, &v),
                     PT_E_BAD_FRAME);
    ck_assert_int_eq(decode_ack("\xff\xff\xff\xff\xff\xff\xff\xff\xff", 9, &v), PT_E_MORE);
    ck_assert_int_eq(decode_ack("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, &v), 11);
    ck_assert_uint_eq(v, UINT64_MAX);
}
END_TEST

static int decode_chunk(uint8_t type, uint64_t transfer, uint64_t room, uint64_t offset,
                        uint64_t length)
{
    struct bytes b = {.at = {type}, .n = 1};
    struct pt_frame f;
    put(&b, transfer);
    put(&b, room);
    put(&b, offset);
    put(&b, length);
    if ((type & PT_FRAME_TYPE_MASK) == PT_FRAME_LAST) {
        put(&b, 0);
        put(&b, 0);
    }
    return decode_bytes(&b, &f);
}

START_TEST(bad_chunks)
{
    ck_assert_int_gt(decode_chunk(PT_FRAME_PART, 1, 10, 0, 10), 0);
    ck_assert_int_gt(decode_chunk(PT_FRAME_LAST, 1, 10, 0, 10), 0);
    ck_assert_int_gt(decode_chunk(PT_FRAME_LAST, 1, 0, 0, 0), 0);
    ck_assert_int_eq(decode_chunk(PT_FRAME_PART, 0, 10, 0, 10), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(decode_chunk(PT_FRAME_PART, 1, 10, 0, 11), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(decode_chunk(PT_FRAME_PART, 1, 10, 1, 10), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(decode_chunk(PT_FRAME_PART, 1, 10, 11, 0), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(decode_chunk(PT_FRAME_PART, 1, UINT64_MAX, UINT64_MAX, 1), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(decode_chunk(PT_FRAME_PART, 1, 10, UINT64_MAX, 10), PT_E_BAD_TRANSFER);
    ck_assert_int_eq(decode_chunk(PT_FRAME_PART, 1, UINT64_MAX, 0, PT_FRAME_CHUNK_MAX + 1),
                     PT_E_BAD_TRANSFER);
    ck_assert_int_eq(decode_chunk(PT_FRAME_LAST, 1, 10, 0, 9), PT_E_BAD_TRANSFER);
}
END_TEST

static int decode_msg(uint64_t zigzag, uint64_t back, uint64_t length)
{
    struct bytes b = {.at = {PT_FRAME_MSG}, .n = 1};
    struct pt_frame f;
    put(&b, zigzag);
    put(&b, back);
    put(&b, length);
    return decode_bytes(&b, &f);
}

START_TEST(bad_messages)
{
    ck_assert_int_gt(decode_msg(0, 0, 5), 0);
    ck_assert_int_eq(decode_msg(1, 0, 5), PT_E_BAD_NUMBER); /* number 0 */
    ck_assert_int_eq(decode_msg(0, 1, 5), PT_E_BAD_NUMBER); /* after message 0 */
    ck_assert_int_eq(decode_msg(0, UINT64_MAX, 5), PT_E_BAD_NUMBER);
    ck_assert_int_gt(decode_msg(2, 1, 5), 0);
    ck_assert_int_gt(decode_msg(0, 0, PT_FRAME_SINGLE_MAX), 0);
    ck_assert_int_gt(decode_msg(0, 0, PT_FRAME_SINGLE_MAX + PT_FRAME_SECTION_MAX), 0);
    ck_assert_int_eq(decode_msg(0, 0, PT_FRAME_SINGLE_MAX + PT_FRAME_SECTION_MAX + 1),
                     PT_E_BAD_FRAME);
    ck_assert_int_eq(decode_msg(0, 0, UINT64_MAX), PT_E_BAD_FRAME);
}
END_TEST

START_TEST(types)
{
    for (unsigned first = 0; first < 256; first++) {
        struct bytes b = {.at = {(uint8_t)first}, .n = 1};
        struct pt_frame f;
        unsigned type = first & PT_FRAME_TYPE_MASK;
        bool skip = first & PT_FRAME_SKIP;

        put(&b, 300); /* a length for what may be skipped */
        int rc = decode_bytes(&b, &f);
        if (first & PT_FRAME_RESERVED)
            ck_assert_int_eq(rc, PT_E_BAD_FRAME);
        else if (type <= PT_FRAME_AUTH && skip)
            ck_assert_int_eq(rc, PT_E_BAD_FRAME);
        else if (type > PT_FRAME_AUTH && !skip)
            ck_assert_int_eq(rc, PT_E_BAD_TYPE);
        else if (type == PT_FRAME_END)
            ck_assert_int_eq(rc, PT_E_MORE); /* that length covers what it says itself */
        else if (type > PT_FRAME_AUTH) {
            ck_assert_int_eq(rc, 3);
            ck_assert_uint_eq(f.length, 300);
            ck_assert_uint_eq(f.type, type);
        }
    }
    struct bytes b = {.at = {PT_FRAME_SKIP | 9}, .n = 1};
    struct pt_frame f;
    put(&b, PT_FRAME_CHUNK_MAX + 1);
    ck_assert_int_eq(decode_bytes(&b, &f), PT_E_BAD_FRAME);
}
END_TEST

START_TEST(end_in_its_length)
{
    struct bytes b = {.at = {PT_FRAME_SKIP | PT_FRAME_END, 2, 0xac, 0x02, 0}, .n = 5};
    struct pt_frame f;

    ck_assert_int_eq(decode_bytes(&b, &f), PT_E_BAD_FRAME); /* three bytes in a length of two */
    b.at[1] = 3;
    ck_assert_int_eq(decode_bytes(&b, &f), 5);
    ck_assert_uint_eq(f.after, 300);
    ck_assert_uint_eq(f.length, 0);
}
END_TEST

/* The budget of DESIGN: a 64-byte message pays at most about 12 bytes. What it really pays: */
START_TEST(header_sizes)
{
    /* the next number on the lane, a predecessor not acknowledged yet within 127 numbers */
    struct pt_frame f = {.type = PT_FRAME_MSG, .number = 1000000, .after = 999990, .length = 64};
    ck_assert_uint_eq(round_trip(&f, 1000000), 4);
    /* several lanes take turns, the predecessor lies up to 16383 numbers back */
    f.after = f.number - 16383;
    ck_assert_uint_eq(round_trip(&f, f.number - 63), 5);
    /* one message of a flow in a million others: the dearest that a small message can be */
    f.number = UINT64_C(1) << 40;
    f.after = f.number - (1 << 20);
    ck_assert_uint_eq(round_trip(&f, f.number - (1 << 20)), 9);
    /* and the longest possible header of all */
    f = (struct pt_frame){.type = PT_FRAME_LAST,
                          .transfer = UINT64_MAX,
                          .room = UINT64_MAX,
                          .offset = UINT64_MAX - PT_FRAME_CHUNK_MAX,
                          .length = PT_FRAME_CHUNK_MAX,
                          .number = UINT64_MAX,
                          .after = 1};
    ck_assert_uint_le(round_trip(&f, UINT64_C(1) << 63), 1 + 10 + 10 + 10 + 4 + 10 + 10);
}
END_TEST

/* A frame that is refused leaves the lane's numbers alone, whatever its bytes are. */
START_TEST(random_bytes)
{
    struct sup_rng rng = {42};

    for (unsigned i = 0; i < 300000; i++) {
        uint8_t in[80];
        struct pt_frame f;
        struct pt_frame_ctx ctx = {sup_rand(&rng) >> sup_below(&rng, 64)};
        uint64_t before = ctx.number;
        size_t n = sup_below(&rng, sizeof in + 1);

        for (size_t k = 0; k < n; k++)
            in[k] = (uint8_t)(sup_rand(&rng) >> sup_below(&rng, 8) * 8);
        if (n)
            in[0] &= (uint8_t)(sup_chance(&rng, 80) ? 0x37 : 0xff);
        int rc = pt_frame_decode(in, n, &f, &ctx);
        if (rc <= 0) {
            sup_must(ctx.number == before);
            sup_must(n < PT_FRAME_HEAD_MAX || rc != PT_E_MORE);
            sup_must(rc != 0);
            continue;
        }
        sup_must((size_t)rc <= n);
        if (f.type > PT_FRAME_AUTH || f.type == PT_FRAME_AUTH)
            continue;
        /* the shortest form of the same frame */
        uint8_t out[PT_FRAME_HEAD_MAX];
        struct pt_frame again;
        struct pt_frame_ctx tx = {before}, rx = {before};
        size_t len = pt_frame_encode(out, &f, &tx);
        sup_must(len <= (size_t)rc);
        sup_must(pt_frame_decode(out, len, &again, &rx) == (int)len);
        same(&f, &again);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        msg_round_trip, chunk_round_trip,  other_round_trips, integers,    bad_chunks, bad_messages,
        types,          end_in_its_length, header_sizes,      random_bytes};
    return SUP_MAIN("frame", tests);
}

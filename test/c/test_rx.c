/* The receiver on hand-made bytes: reading in every cut, delivery by copy and in place, order over
 * lanes, transfers, what a peer must not do, acknowledgements, lack of memory. */
#include "support.h"

#include "proto/rx.h"
#include "proto/txq.h"

#include <errno.h>
#include <string.h>

enum { LANES = 3, MAX_MESSAGE = 1024 * 1024, STREAM = 3 * 1024 * 1024 };

/* ---- what a peer writes on a lane ---- */

struct stream {
    struct pt_frame_ctx ctx;
    uint8_t *at;
    size_t n;
};

static struct stream streams[LANES];

static void reset(void)
{
    for (unsigned i = 0; i < LANES; i++) {
        if (!streams[i].at)
            streams[i].at = malloc(STREAM);
        sup_must(streams[i].at);
        streams[i].ctx.number = 1;
        streams[i].n = 0;
    }
}

static uint8_t payload(uint64_t number, size_t i) { return (uint8_t)(number * 13 + i * 3 + 1); }

static void put_frame(unsigned lane, const struct pt_frame *f)
{
    struct stream *s = &streams[lane];
    s->n += pt_frame_encode(s->at + s->n, f, &s->ctx);
}

static void put_msg(unsigned lane, uint64_t number, uint64_t after, size_t len, uint8_t flags)
{
    struct stream *s = &streams[lane];
    bool bare = flags & PT_FRAME_BARE;
    put_frame(lane, &(struct pt_frame){.type = PT_FRAME_MSG,
                                       .number = number,
                                       .after = after,
                                       .length = len + bare,
                                       .flags = flags});
    if (bare)
        s->at[s->n++] = 0; /* no atom references */
    for (size_t i = 0; i < len; i++)
        s->at[s->n++] = payload(number, i);
}

/* A chunk of message `number`; `end` makes it the last. */
static void put_chunk(unsigned lane, uint64_t number, uint64_t room, uint64_t from, size_t len,
                      bool end, uint64_t after, uint8_t flags)
{
    struct stream *s = &streams[lane];
    put_frame(lane, &(struct pt_frame){.type = end ? PT_FRAME_LAST : PT_FRAME_PART,
                                       .transfer = number,
                                       .room = room,
                                       .offset = from,
                                       .length = len,
                                       .number = number,
                                       .after = after,
                                       .flags = flags});
    for (size_t i = 0; i < len; i++)
        s->at[s->n++] = payload(number, from + i);
}

/* ---- the host ---- */

struct got {
    uint64_t number;
    size_t len;
    bool bare, in_place;
};

struct host {
    struct pt_rx rx;
    struct pt_rx_lane lane[LANES];
    size_t read[LANES];
    struct got got[400];
    unsigned n;
    uint64_t acked;
    unsigned fail_at; /* deliver refuses this one */
    /* The last packets in place are kept for a while, as processes keep binaries. */
    struct {
        void *bin;
        const uint8_t *p;
        size_t len;
        uint64_t number;
    } kept[8];
    bool wrong;
};

/* Which message these bytes are: the peer puts nothing in them but payload(). 0 if none. */
static uint64_t number_of(const uint8_t *p, size_t len)
{
    for (uint64_t n = 1; n < 256; n++) {
        size_t i = 0;
        while (i < len && p[i] == payload(n, i))
            i++;
        if (i == len)
            return n;
    }
    return 0;
}

static void let_go(struct host *h, unsigned i)
{
    if (!h->kept[i].bin)
        return;
    if (number_of(h->kept[i].p, h->kept[i].len) != h->kept[i].number)
        h->wrong = true; /* overwritten while somebody held it */
    sup_bin_unref(h->kept[i].bin);
    h->kept[i].bin = NULL;
}

static int deliver(void *host, void *bin, const uint8_t *p, size_t len)
{
    struct host *h = host;
    bool bare = len >= 3 && p[0] == 131 && p[1] == 68 && p[2] == 0;

    if (h->fail_at && h->n + 1 == h->fail_at)
        return -EPIPE;
    if (bare) {
        p += 3;
        len -= 3;
    }
    struct got *g = &h->got[h->n++];
    *g = (struct got){number_of(p, len), len, bare, bin != NULL};
    if (bin) {
        unsigned i = h->n % 8;
        let_go(h, i);
        sup_bin_ref(bin);
        h->kept[i].bin = bin;
        h->kept[i].p = p;
        h->kept[i].len = len;
        h->kept[i].number = g->number;
    }
    return 0;
}

static int acked(void *host, uint64_t number)
{
    struct host *h = host;
    h->acked = number;
    return number > 1000 ? PT_E_BAD_NUMBER : 0;
}

static const struct pt_rx_ops ops = {sup_bin_new, sup_bin_grow,  sup_bin_data, sup_bin_shared,
                                     sup_bin_ref, sup_bin_unref, deliver,      acked};

static const uint8_t secret[PT_FRAME_AUTH_LEN] = {9, 8, 7};

static void host_init(struct host *h, bool auth)
{
    memset(h, 0, sizeof *h);
    pt_rx_init(&h->rx, &ops, h, MAX_MESSAGE, auth ? secret : NULL);
    for (unsigned i = 0; i < LANES; i++)
        pt_rx_lane_init(&h->lane[i]);
}

static void host_free(struct host *h)
{
    for (unsigned i = 0; i < LANES; i++)
        pt_rx_lane_free(&h->rx, &h->lane[i]);
    pt_rx_free(&h->rx);
    for (unsigned i = 0; i < 8; i++)
        let_go(h, i);
    sup_must(!h->wrong);
    if (sup_alloc_live())
        ck_abort_msg("%zu blocks leaked", sup_alloc_live());
}

/* At most n bytes of a lane's stream; 1 when some were read, 0 at its end, or an error. */
static int read_some(struct host *h, unsigned lane, size_t n)
{
    struct iovec iov[2];
    struct stream *s = &streams[lane];
    size_t done = 0;

    n = PT_MIN(n, s->n - h->read[lane]);
    if (!n)
        return 0;
    int parts = pt_rx_space(&h->rx, &h->lane[lane], iov);
    if (parts < 0)
        return parts;
    for (int i = 0; i < parts && done < n; i++) {
        size_t part = PT_MIN(n - done, iov[i].iov_len);
        memcpy(iov[i].iov_base, s->at + h->read[lane], part);
        h->read[lane] += part;
        done += part;
    }
    sup_must(done);
    int rc = pt_rx_got(&h->rx, &h->lane[lane], done, lane == 0);
    return rc ? rc : 1;
}

static int read_lane(struct host *h, unsigned lane, size_t piece)
{
    int rc;
    while ((rc = read_some(h, lane, piece)) == 1)
        ;
    return rc;
}

static void start(struct host *h)
{
    sup_alloc_fail_at(0);
    reset();
    host_init(h, false);
}

static void expect(const struct host *h, unsigned i, uint64_t number, size_t len)
{
    ck_assert_uint_lt(i, h->n);
    ck_assert_uint_eq(h->got[i].number, number);
    ck_assert_uint_eq(h->got[i].len, len);
}

/* ---- reading ---- */

START_TEST(sizes_and_cuts)
{
    static const size_t sizes[] = {1,     2,     100,   4095,  4096,  4097,  8191,  8192, 8193,
                                   16380, 16384, 16385, 60000, 65535, 65536, 30000, 5,    7000};
    static const size_t cuts[] = {1, 2, 3, 5, 61, 1000, 4096, 8192, 65536, SIZE_MAX};
    enum { N = sizeof sizes / sizeof sizes[0] };

    for (unsigned c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
        struct host h;
        start(&h);
        for (unsigned i = 0; i < 3 * N; i++)
            put_msg(0, i + 1, i, sizes[i % N], i % 2 ? PT_FRAME_BARE : 0);
        ck_assert_int_eq(read_lane(&h, 0, cuts[c]), 0);
        ck_assert_uint_eq(h.n, 3 * N);
        for (unsigned i = 0; i < h.n; i++) {
            bool bare = i % 2;
            size_t wire = sizes[i % N] + bare;
            /* one byte may be any message's: its number is told by its place */
            if (sizes[i % N] > 2)
                sup_must(h.got[i].number == i + 1);
            sup_must(h.got[i].len == sizes[i % N] && h.got[i].bare == bare);
            if (wire > PT_RX_GROUP && wire <= PT_RX_DIRECT_MIN)
                sup_must(!h.got[i].in_place);
            if (wire > PT_RX_COPY_MAX)
                sup_must(h.got[i].in_place);
        }
        ck_assert_uint_eq(h.lane[0].frames, 3 * N);
        ck_assert_uint_eq(h.rx.order.watermark, 3 * N);
        host_free(&h);
    }
}
END_TEST

/* Small packets of one read share a binary, in order; one that comes alone is copied. */
START_TEST(small_packets_come_in_groups)
{
    struct host h;
    unsigned n = 0;

    start(&h);
    for (; n < 100; n++)
        put_msg(0, n + 1, n, 3 + n % 50 * 20, n % 2 ? PT_FRAME_BARE : 0);
    put_msg(0, ++n, 0, 20000, 0); /* nothing gets past the group */
    put_msg(0, ++n, 0, 30, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_uint_eq(h.n, n);
    unsigned shared = 0;
    for (unsigned i = 0; i < n; i++) {
        sup_must(h.got[i].number == i + 1);
        shared += h.got[i].in_place && h.got[i].len < 1000;
    }
    ck_assert_uint_gt(shared, 50);
    put_msg(0, ++n, 0, 40, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_uint_eq(h.n, n);
    expect(&h, n - 1, n, 40);
    ck_assert(!h.got[n - 1].in_place);
    host_free(&h);
}
END_TEST

START_TEST(unknown_frames_are_skipped)
{
    for (size_t cut = 1; cut < 5000; cut = cut * 3 + 1) {
        struct host h;
        start(&h);
        for (unsigned i = 0; i < 20; i++) {
            struct stream *s = &streams[1];
            size_t len = i * 700;
            s->at[s->n++] = PT_FRAME_SKIP | 11;
            s->at[s->n++] = (uint8_t)(len & 0x7f) | 0x80;
            s->at[s->n++] = (uint8_t)(len >> 7);
            memset(s->at + s->n, 0xff, len);
            s->n += len;
            put_msg(1, i + 1, 0, 50, 0);
        }
        ck_assert_int_eq(read_lane(&h, 1, cut), 0);
        ck_assert_uint_eq(h.n, 20);
        expect(&h, 19, 20, 50);
        host_free(&h);
    }
}
END_TEST

START_TEST(a_quiet_lane_has_a_small_buffer)
{
    struct host h;

    start(&h);
    put_msg(0, 1, 0, 60000, 0);
    for (unsigned i = 2; i < 6; i++)
        put_msg(0, i, 0, 4000, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    for (unsigned i = 0; i < 20; i++)
        put_msg(0, 6 + i, 0, 4000, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_uint_eq(h.lane[0].want, PT_RX_BUF_MAX);
    for (unsigned i = 0; i < 300; i++) {
        put_msg(0, 26 + i, 0, 20, 0);
        ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    }
    ck_assert_uint_eq(h.lane[0].cap, PT_RX_BUF_MIN);
    host_free(&h);
}
END_TEST

/* ---- order ---- */

START_TEST(lanes_are_put_in_order)
{
    struct host h;

    start(&h);
    put_msg(0, 1, 0, 100, 0);
    put_msg(1, 2, 1, 200, PT_FRAME_BARE);
    put_msg(1, 3, 0, 300, 0);
    put_msg(2, 4, 2, 5000, 0);
    put_msg(2, 5, 4, 20000, 0);
    put_msg(2, 6, 0, 60, PT_FRAME_FENCE);
    put_msg(1, 7, 6, 70, 0);
    ck_assert_int_eq(read_lane(&h, 2, 500), 0);
    ck_assert_uint_eq(h.n, 0);
    ck_assert_uint_eq(h.rx.order.held_bytes, 5000 + 20000 + 60);
    ck_assert_int_eq(read_lane(&h, 1, 7), 0);
    ck_assert_uint_eq(h.n, 1);
    /* the buffers they lay in are used for other things meanwhile */
    put_msg(1, 8, 6, 4000, 0);
    ck_assert_int_eq(read_lane(&h, 1, SIZE_MAX), 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_uint_eq(h.n, 8);
    expect(&h, 0, 3, 300);
    expect(&h, 1, 1, 100);
    expect(&h, 2, 2, 200);
    ck_assert(h.got[2].bare);
    expect(&h, 3, 4, 5000);
    ck_assert(h.got[3].in_place); /* the block it was held in */
    expect(&h, 4, 5, 20000);
    expect(&h, 5, 6, 60);
    ck_assert_uint_eq(h.got[6].number + h.got[7].number, 7 + 8);
    ck_assert_uint_eq(h.rx.order.held_count, 0);
    host_free(&h);
}
END_TEST

START_TEST(repeated_and_strange_numbers)
{
    static const struct {
        uint64_t number, after;
        int rc;
    } bad[] = {{1, 0, PT_E_BAD_NUMBER},
               {2, 0, PT_E_BAD_NUMBER},
               {3 + PT_ORDER_SPAN, 0, PT_E_BAD_NUMBER},
               {UINT64_MAX, 0, PT_E_BAD_NUMBER},
               {3, 0, 0}};
    for (unsigned i = 0; i < 5; i++) {
        struct host h;
        start(&h);
        put_msg(0, 1, 0, 10, 0);
        put_msg(0, 2, 0, 10, 0);
        put_msg(0, bad[i].number, bad[i].after, 10, 0);
        ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), bad[i].rc);
        ck_assert_uint_eq(h.n, bad[i].rc ? 2 : 3);
        host_free(&h);
    }
}
END_TEST

START_TEST(too_much_to_hold)
{
    for (size_t size = 60000;; size = 0) { /* many bytes, then many messages without any */
        struct host h;
        int rc = 0;
        unsigned n = 2;

        start(&h);
        ck_assert_uint_ge(h.rx.max_held, PT_TXQ_UNACKED);
        h.rx.max_held = size ? h.rx.max_held : 100;
        while (!rc && n < 250) {
            streams[0].n = h.read[0] = 0;
            put_msg(0, n++, 1, size, 0); /* 1 never comes */
            rc = read_lane(&h, 0, SIZE_MAX);
        }
        ck_assert_int_eq(rc, PT_E_HELD_LIMIT);
        ck_assert_uint_le(h.rx.order.held_bytes, 2 * PT_TXQ_SPECULATIVE + 2 * 60000);
        ck_assert_uint_eq(h.n, 0);
        host_free(&h);
        if (!size)
            break;
    }
}
END_TEST

/* ---- transfers ---- */

START_TEST(chunks_over_lanes)
{
    for (size_t cut = 1; cut < 200000; cut = cut * 5 + 2) {
        struct host h;
        start(&h);
        put_chunk(0, 1, 100000, 0, 30000, false, 0, 0);
        put_chunk(1, 1, 100000, 30000, 30000, false, 0, 0);
        put_chunk(2, 1, 100000, 60000, 40000, true, 0, 0);
        put_chunk(1, 2, 50000, 0, 10000, false, 0, 0);
        put_chunk(1, 2, 10000, 10000, 0, true, 1, 0); /* it grew shorter than announced */
        put_msg(0, 3, 2, 100, 0);
        /* all three lanes in the middle of a chunk at once */
        for (unsigned going = 1; going;) {
            going = 0;
            for (unsigned i = 0; i < LANES; i++) {
                int rc = read_some(&h, i, cut);
                ck_assert_int_ge(rc, 0);
                going += (unsigned)rc;
            }
        }
        ck_assert_uint_eq(h.n, 3);
        expect(&h, 0, 1, 100000);
        expect(&h, 1, 2, 10000);
        expect(&h, 2, 3, 100);
        ck_assert(h.got[0].in_place);
        ck_assert_uint_eq(h.rx.transfers.count, 0);
        host_free(&h);
    }
}
END_TEST

/* The announcement may be outgrown while another lane is reading into the block. */
START_TEST(room_grows)
{
    struct host h;

    start(&h);
    put_chunk(0, 1, 10000, 0, 9000, false, 0, 0);
    put_chunk(1, 1, 90000, 9000, 50000, false, 0, 0);
    put_chunk(2, 1, 60000, 59000, 1000, true, 0, 0);
    ck_assert_int_eq(read_some(&h, 0, 5000), 1);
    ck_assert_int_eq(read_some(&h, 1, 20000), 1);
    ck_assert_int_eq(read_lane(&h, 2, SIZE_MAX), 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_uint_eq(h.n, 0);
    ck_assert_int_eq(read_lane(&h, 1, SIZE_MAX), 0);
    expect(&h, 0, 1, 60000);
    host_free(&h);
}
END_TEST

START_TEST(dropped_and_unfinished)
{
    struct host h;

    start(&h);
    put_chunk(0, 1, 10000, 0, 5000, false, 0, 0);
    put_frame(0, &(struct pt_frame){.type = PT_FRAME_DROP, .transfer = 1});
    put_chunk(0, 1, 8000, 0, 8000, true, 0, 0); /* the id is free again */
    put_chunk(0, 2, 10000, 0, 5000, false, 0, 0);
    put_chunk(1, 3, 10000, 0, 5000, false, 0, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_int_eq(read_some(&h, 1, 3000), 1);
    ck_assert_uint_eq(h.rx.transfers.count, 2);
    expect(&h, 0, 1, 8000);
    host_free(&h); /* one transfer unfinished, one in the middle of a chunk */
}
END_TEST

enum bad_transfer {
    DROP_UNKNOWN,
    DROP_ZERO,
    DROP_UNDER_WAY,
    OVERLAP,
    TOO_LARGE,
    SECOND_LAST,
    REPEATED_NUMBER
};

static int bad_transfer(struct host *h, enum bad_transfer which)
{
    put_chunk(0, 1, 10000, 0, 5000, false, 0, 0);
    switch (which) {
    case DROP_UNKNOWN:
        put_frame(0, &(struct pt_frame){.type = PT_FRAME_DROP, .transfer = 2});
        break;
    case DROP_ZERO: put_frame(0, &(struct pt_frame){.type = PT_FRAME_DROP}); break;
    case DROP_UNDER_WAY:
        put_chunk(1, 1, 10000, 5000, 5000, false, 0, 0);
        put_frame(0, &(struct pt_frame){.type = PT_FRAME_DROP, .transfer = 1});
        sup_must(read_some(h, 1, 2000) == 1);
        break;
    case OVERLAP: put_chunk(0, 1, 10000, 4999, 5001, true, 0, 0); break;
    case TOO_LARGE: put_chunk(0, 2, MAX_MESSAGE + 1, 0, 10, false, 0, 0); break;
    case SECOND_LAST:
        put_chunk(0, 1, 10000, 9000, 1000, true, 0, 0);
        put_chunk(0, 1, 10000, 10000, 0, true, 0, 0);
        break;
    case REPEATED_NUMBER:
        put_msg(0, 7, 0, 10, 0);
        put_chunk(0, 7, 10000, 0, 10000, true, 0, 0);
        break;
    }
    return read_lane(h, 0, SIZE_MAX);
}

START_TEST(bad_transfers)
{
    for (enum bad_transfer which = DROP_UNKNOWN; which <= REPEATED_NUMBER; which++) {
        struct host h;
        start(&h);
        int rc = bad_transfer(&h, which);
        ck_assert_int_eq(rc, which == TOO_LARGE         ? PT_E_TOO_LARGE
                             : which == REPEATED_NUMBER ? PT_E_BAD_NUMBER
                                                        : PT_E_BAD_TRANSFER);
        host_free(&h);
    }
}
END_TEST

START_TEST(unfinished_transfers_are_bounded)
{
    struct host h;
    int rc = 0;
    unsigned n = 0;

    start(&h);
    while (!rc) {
        streams[0].n = h.read[0] = 0;
        put_chunk(0, ++n, 1, 0, 1, false, 0, 0);
        rc = read_lane(&h, 0, SIZE_MAX);
    }
    ck_assert_int_eq(rc, PT_E_BAD_TRANSFER);
    ck_assert_uint_eq(n, PT_RX_TRANSFERS + 1);
    host_free(&h);
}
END_TEST

/* What unfinished transfers may take together has a limit; those that ended do not count. */
START_TEST(room_of_transfers_is_bounded)
{
    struct host h;

    start(&h);
    h.rx.max_room = 1000;
    put_chunk(0, 1, 600, 0, 1, false, 0, 0);
    put_chunk(0, 2, 400, 0, 1, false, 0, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_uint_eq(h.rx.room, 1000);
    put_frame(0, &(struct pt_frame){.type = PT_FRAME_DROP, .transfer = 2});
    put_chunk(0, 3, 300, 0, 1, false, 0, 0);
    put_chunk(0, 3, 400, 1, 1, false, 0, 0); /* grows to just the limit */
    put_chunk(0, 1, 600, 1, 599, true, 1, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert_uint_eq(h.n, 1);
    ck_assert_uint_eq(h.rx.room, 400);
    put_chunk(0, 4, 601, 0, 1, false, 0, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), PT_E_ROOM);
    host_free(&h);
}
END_TEST

/* ---- authentication, acknowledgements, errors ---- */

static int with_auth(unsigned lane, const uint8_t *mac, unsigned times, size_t cut, unsigned *n)
{
    struct host h;
    sup_alloc_fail_at(0);
    reset();
    host_init(&h, true);
    for (unsigned i = 0; i < times; i++)
        put_frame(lane, &(struct pt_frame){.type = PT_FRAME_AUTH, .auth = mac});
    put_msg(lane, 1, 0, 10, 0);
    int rc = read_lane(&h, lane, cut);
    *n = h.n;
    host_free(&h);
    return rc;
}

START_TEST(authentication)
{
    uint8_t wrong[PT_FRAME_AUTH_LEN];
    unsigned n;

    ck_assert_int_eq(with_auth(0, secret, 1, SIZE_MAX, &n), 0);
    ck_assert_uint_eq(n, 1);
    ck_assert_int_eq(with_auth(0, secret, 1, 1, &n), 0);
    ck_assert_uint_eq(n, 1);
    for (unsigned i = 0; i < PT_FRAME_AUTH_LEN; i++) {
        memcpy(wrong, secret, sizeof wrong);
        wrong[i] ^= 0x10;
        ck_assert_int_eq(with_auth(0, wrong, 1, SIZE_MAX, &n), PT_E_BAD_AUTH);
        ck_assert_uint_eq(n, 0);
    }
    ck_assert_int_eq(with_auth(0, secret, 0, SIZE_MAX, &n), PT_E_BAD_AUTH);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(with_auth(1, secret, 1, SIZE_MAX, &n), PT_E_BAD_AUTH);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(with_auth(0, secret, 2, SIZE_MAX, &n), PT_E_BAD_FRAME);
    ck_assert_uint_eq(n, 0);
}
END_TEST

START_TEST(acknowledgements_are_due)
{
    struct host h;
    unsigned n = 0;

    start(&h);
    put_frame(2, &(struct pt_frame){.type = PT_FRAME_ACK, .after = 700});
    ck_assert_int_eq(read_lane(&h, 2, 1), 0);
    ck_assert_uint_eq(h.acked, 700);
    ck_assert(!pt_rx_ack_due(&h.rx));
    while (!pt_rx_ack_due(&h.rx)) { /* by number */
        put_msg(0, ++n, 0, 10, 0);
        ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    }
    ck_assert_uint_eq(n, PT_RX_ACK_COUNT);
    pt_rx_ack_sent(&h.rx, n);
    ck_assert(!pt_rx_ack_due(&h.rx));
    unsigned before = n;
    while (!pt_rx_ack_due(&h.rx)) { /* by bytes */
        put_msg(0, ++n, 0, 60000, 0);
        ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    }
    ck_assert_uint_eq(n - before, PT_RX_ACK_BYTES / 60000 + 1);
    put_frame(2, &(struct pt_frame){.type = PT_FRAME_ACK, .after = 1001});
    ck_assert_int_eq(read_lane(&h, 2, 1), PT_E_BAD_NUMBER);
    host_free(&h);
}
END_TEST

START_TEST(complete_at_the_end)
{
    struct host h;
    struct pt_frame end = {.type = PT_FRAME_END, .after = 3, .room = 1};

    start(&h);
    put_msg(0, 1, 0, 10, 0);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), 0);
    ck_assert(!pt_rx_complete(&h.rx));
    put_frame(0, &end);
    ck_assert_int_eq(read_lane(&h, 0, 1), 0);
    ck_assert_uint_eq(h.rx.end.streams, 1);
    ck_assert(!pt_rx_complete(&h.rx)); /* two messages are still on their way, */
    put_msg(1, 3, 2, 10, 0);
    ck_assert_int_eq(read_lane(&h, 1, SIZE_MAX), 0);
    ck_assert(!pt_rx_complete(&h.rx)); /* the later one, which has to wait, came first */
    put_msg(2, 2, 0, 10, 0);
    ck_assert_int_eq(read_lane(&h, 2, SIZE_MAX), 0);
    ck_assert(pt_rx_complete(&h.rx));
    put_frame(0, &end);
    ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), PT_E_BAD_FRAME);
    host_free(&h);
}
END_TEST

START_TEST(garbage_is_named)
{
    static const struct {
        uint8_t bytes[14];
        size_t n;
        int rc;
    } cases[] = {{{0x07}, 1, PT_E_BAD_TYPE},
                 {{0x40}, 1, PT_E_BAD_FRAME},
                 {{0x81}, 1, PT_E_BAD_FRAME},
                 {{1, 3, 0, 5}, 4, PT_E_BAD_NUMBER},
                 {{1, 0, 0, 0x80, 0x80, 8}, 6, PT_E_BAD_FRAME},
                 {{2, 1, 5, 3, 3}, 5, PT_E_BAD_TRANSFER},
                 {{0x21, 0, 0, 0}, 4, PT_E_BAD_FRAME},             /* no section of references */
                 {{0x21, 0, 0, 1, 1}, 5, PT_E_BAD_FRAME},          /* half a section */
                 {{0x21, 0, 0, 3, 1, 0, 5}, 7, PT_E_BAD_FRAME},    /* an empty slot */
                 {{0x21, 0, 0, 4, 1, 8, 5, 9}, 8, PT_E_BAD_FRAME}, /* text cut off */
                 {{5, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, 12, PT_E_BAD_FRAME}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct host h;
        start(&h);
        put_msg(0, 1, 0, 10, 0);
        memcpy(streams[0].at + streams[0].n, cases[i].bytes, cases[i].n);
        streams[0].n += cases[i].n;
        ck_assert_int_eq(read_lane(&h, 0, i % 2 ? 1 : SIZE_MAX), cases[i].rc);
        ck_assert_uint_eq(h.n, 1);
        ck_assert_str_ne(pt_strerror(cases[i].rc), "unknown error");
        host_free(&h);
    }
}
END_TEST

/* The host wants no more: of packets that came, or that were set free by one. */
START_TEST(the_host_refuses)
{
    for (unsigned fail_at = 1; fail_at <= 4; fail_at++) {
        struct host h;
        start(&h);
        h.fail_at = fail_at;
        put_msg(1, 2, 1, 5000, 0);
        put_chunk(1, 3, 30000, 0, 30000, true, 2, 0);
        put_msg(1, 4, 3, 20, 0);
        put_msg(0, 1, 0, 100, 0);
        ck_assert_int_eq(read_lane(&h, 1, SIZE_MAX), 0);
        ck_assert_int_eq(read_lane(&h, 0, SIZE_MAX), -EPIPE);
        ck_assert_uint_eq(h.n, fail_at - 1);
        host_free(&h);
    }
}
END_TEST

static bool run_out(size_t nth, size_t cut)
{
    struct host h;
    int rc = 0;

    start(&h);
    put_chunk(0, 1, 30000, 0, 10000, false, 0, 0);
    put_chunk(1, 1, 60000, 10000, 20000, false, 0, 0);
    put_msg(1, 3, 2, 9000, 0);
    put_msg(1, 4, 2, 100, PT_FRAME_BARE);
    put_msg(2, 5, 0, 30000, PT_FRAME_FENCE);
    put_msg(2, 1500, 0, 30, 0);
    put_msg(2, 6, 5, 60, 0);
    put_chunk(0, 1, 40000, 30000, 10000, true, 0, 0);
    put_msg(0, 2, 1, 20000, 0);
    sup_alloc_fail_at(nth);
    for (unsigned i = 0; i < 30 && !rc; i++)
        for (unsigned lane = 0; lane < LANES && rc >= 0; lane++) {
            int one = read_some(&h, lane, cut);
            rc = PT_MIN(one, 0);
        }
    for (unsigned lane = 0; lane < LANES && !rc; lane++)
        rc = read_lane(&h, lane, SIZE_MAX);
    bool hit = sup_alloc_failed();
    ck_assert_int_eq(rc, hit ? -ENOMEM : 0);
    if (!hit)
        ck_assert_uint_eq(h.n, 7);
    host_free(&h);
    return hit;
}

START_TEST(every_allocation_may_fail)
{
    for (size_t cut = 700; cut < 100000; cut *= 4) {
        size_t n = 1;
        while (run_out(n, cut))
            n++;
        ck_assert_uint_gt(n, 10);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {sizes_and_cuts,
                            small_packets_come_in_groups,
                            unknown_frames_are_skipped,
                            a_quiet_lane_has_a_small_buffer,
                            lanes_are_put_in_order,
                            repeated_and_strange_numbers,
                            too_much_to_hold,
                            chunks_over_lanes,
                            room_grows,
                            dropped_and_unfinished,
                            bad_transfers,
                            unfinished_transfers_are_bounded,
                            room_of_transfers_is_bounded,
                            authentication,
                            acknowledgements_are_due,
                            complete_at_the_end,
                            garbage_is_named,
                            the_host_refuses,
                            every_allocation_may_fail};
    return SUP_MAIN("rx", tests);
}

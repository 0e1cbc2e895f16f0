/* Arbitrary bytes on several lanes of a receiver, read in arbitrary pieces, with memory that runs
 * out. Everything must be freed, and what is delivered must not depend on what blocks were filled
 * with before: no byte is delivered that was not received.
 *
 * Input: byte 0: bit 0 authentication is asked for, bits 1-7 the allocation that fails (0: none);
 * then pieces: lane (low 2 bits) and how many bytes a read returns at most, length, bytes. */
#include "proto/rx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LANES = 4, MAX_MESSAGE = 100 * 1000 };

static void must(bool cond)
{
    if (!cond)
        abort();
}

/* ---- memory ---- */

static size_t live, countdown;
static uint8_t filler;

static void *get(size_t size)
{
    if (countdown && --countdown == 0)
        return NULL;
    void *p = malloc(size);
    must(p != NULL);
    memset(p, filler, size);
    live++;
    return p;
}

static void put(void *p)
{
    live--;
    free(p);
}

static void *no_realloc(void *p, size_t size)
{
    (void)p;
    (void)size;
    abort(); /* not used by what is tested here */
}

struct bin {
    size_t refs, size;
    uint8_t data[];
};

static void *bin_new(size_t size)
{
    struct bin *b = get(sizeof *b + size);
    if (b) {
        b->refs = 1;
        b->size = size;
    }
    return b;
}

static void bin_unref(void *bin)
{
    struct bin *b = bin;
    must(b->refs > 0);
    if (--b->refs == 0)
        put(b);
}

static void *bin_grow(void *bin, size_t size)
{
    struct bin *b = bin;
    must(b->refs == 1 && size > b->size);
    struct bin *new = bin_new(size);
    if (!new)
        return NULL;
    memcpy(new->data, b->data, b->size);
    bin_unref(b);
    return new;
}

static uint8_t *bin_data(void *bin) { return ((struct bin *)bin)->data; }
static bool bin_shared(void *bin) { return ((struct bin *)bin)->refs > 1; }
static void bin_ref(void *bin) { ((struct bin *)bin)->refs++; }

/* ---- the host keeps some of what it gets, as a VM does ---- */

struct host {
    uint64_t digest, count;
    struct {
        void *bin;
        const uint8_t *p;
        size_t len;
        uint64_t digest;
    } kept[16];
};

static uint64_t digest(uint64_t h, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001B3);
    return h ^ len;
}

static void let_go(struct host *h, unsigned i)
{
    if (!h->kept[i].bin)
        return;
    /* nobody wrote there since */
    must(digest(0, h->kept[i].p, h->kept[i].len) == h->kept[i].digest);
    bin_unref(h->kept[i].bin);
    h->kept[i].bin = NULL;
}

static int deliver(void *host, void *bin, const uint8_t *p, size_t len)
{
    struct host *h = host;

    h->digest = digest(h->digest * 31, p, len);
    h->count++;
    if (bin) {
        struct bin *b = bin;
        unsigned i = h->count % 16;
        must(p >= b->data && p + len <= b->data + b->size);
        let_go(h, i);
        bin_ref(bin);
        h->kept[i].bin = bin;
        h->kept[i].p = p;
        h->kept[i].len = len;
        h->kept[i].digest = digest(0, p, len);
    }
    return 0;
}

static int acked(void *host, uint64_t number)
{
    struct host *h = host;
    h->digest ^= number;
    return 0;
}

static const struct pt_rx_ops ops = {bin_new, bin_grow,  bin_data, bin_shared,
                                     bin_ref, bin_unref, deliver,  acked};

/* ---- one run ---- */

struct piece {
    unsigned lane;
    size_t most, n;
    const uint8_t *at;
};

static bool next_piece(const uint8_t **data, size_t *size, struct piece *p)
{
    static const size_t most[] = {SIZE_MAX, 1, 2, 3, 7, 16, 61, 300};
    if (*size < 2)
        return false;
    p->lane = (*data)[0] % LANES;
    p->most = most[(*data)[0] >> 2 & 7];
    /* a length of 255 stands for a long piece, so that payloads of some size occur */
    p->n = (*data)[1] == 255 ? 5000 : (*data)[1];
    *data += 2;
    *size -= 2;
    p->n = PT_MIN(p->n, *size);
    p->at = *data;
    *data += p->n;
    *size -= p->n;
    return true;
}

static int feed(struct pt_rx *r, struct pt_rx_lane *l, const struct piece *p)
{
    for (size_t done = 0; done < p->n;) {
        struct iovec iov[2];
        int parts = pt_rx_space(r, l, iov);
        if (parts < 0)
            return parts;
        size_t n = PT_MIN(p->most, p->n - done), got = 0;
        for (int i = 0; i < parts && got < n; i++) {
            size_t part = PT_MIN(n - got, iov[i].iov_len);
            memcpy(iov[i].iov_base, p->at + done + got, part);
            got += part;
        }
        must(got > 0);
        done += got;
        int rc = pt_rx_got(r, l, got, p->lane == 0);
        if (rc)
            return rc;
        if (pt_rx_ack_due(r))
            pt_rx_ack_sent(r, r->order.watermark);
    }
    return 0;
}

static uint64_t run(const uint8_t *data, size_t size, uint8_t fill, int *rc)
{
    static const uint8_t auth[PT_FRAME_AUTH_LEN] = {1, 2, 3, 4};
    struct host h = {0};
    struct pt_rx r;
    struct pt_rx_lane lanes[LANES];
    struct piece p;

    filler = fill;
    countdown = data[0] >> 1;
    pt_rx_init(&r, &ops, &h, MAX_MESSAGE, data[0] & 1 ? auth : NULL);
    for (unsigned i = 0; i < LANES; i++)
        pt_rx_lane_init(&lanes[i]);
    data++;
    size--;
    *rc = 0;
    while (!*rc && next_piece(&data, &size, &p))
        *rc = feed(&r, &lanes[p.lane], &p);
    must(*rc <= 0 && *rc != PT_E_MORE);
    for (unsigned i = 0; i < LANES; i++)
        pt_rx_lane_free(&r, &lanes[i]);
    pt_rx_free(&r);
    for (unsigned i = 0; i < 16; i++)
        let_go(&h, i);
    must(live == 0);
    return h.digest ^ h.count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int rc, again;

    if (!size)
        return 0;
    pt_alloc_set_hooks(&(struct pt_alloc_hooks){get, no_realloc, put});
    uint64_t first = run(data, size, 0xA5, &rc);
    must(run(data, size, 0x5A, &again) == first && rc == again);
    return 0;
}

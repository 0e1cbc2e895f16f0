/* Any bytes as an envelope, as a packet in one, and as a table of ways. */
#include "proto/etf.h"
#include "proto/relay.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok)
        abort();
}

/* What was read, written again, is what was there; and nobody who sees less of it sees more in it. */
static void envelope(const uint8_t *p, size_t len)
{
    struct pt_relay_envelope e, cut;
    uint8_t again[PT_RELAY_ENVELOPE_MAX];
    int head = pt_relay_decode(p, len, &e);

    require(head == PT_E_BAD_FRAME || (head > PT_RELAY_HEAD && (size_t)head < len));
    if (head < 0)
        return;
    require(e.hops > 0 && e.hops <= PT_RELAY_HOPS_MAX && e.flow && e.name_len <= PT_RELAY_NAME_MAX);
    require(pt_relay_encode(again, &e) == (size_t)head && !memcmp(again, p, (size_t)head));
    require(pt_relay_decode(p, (size_t)head, &cut) == PT_E_BAD_FRAME);
    (void)pt_relay_deliverable(p + head, len - (size_t)head);
    (void)pt_relay_is_sure(p + head, len - (size_t)head);
}

/* Each entry is found under its name. */
static void table(const uint8_t *p, size_t len, unsigned hops)
{
    struct pt_routes *r;
    uint16_t ways[PT_ROUTES_WAYS];
    size_t count = 0;

    if (pt_routes_new(&r, p, len, hops))
        return;
    for (size_t at = 0; at < len; count++) {
        size_t name = pt_get16(p + at);
        unsigned n = p[at + 2 + name];
        require(pt_routes_find(r, p + at + 2, name, ways) == (int)n);
        for (unsigned i = 0; i < n; i++)
            require(ways[i] < hops && ways[i] == pt_get16(p + at + 3 + name + 2 * i));
        at += 3 + name + 2 * n;
    }
    require(count == pt_routes_count(r));
    pt_routes_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *block = calloc(1, size + 1);
    require(block != NULL);
    if (size)
        memcpy(block + 1, data, size); /* ends with the block */
    envelope(block + 1, size);
    table(block + 1, size, size ? data[0] : 0);
    if (size)
        table(block + 2, size - 1, data[0]);
    (void)pt_relay_deliverable(block + 1, size);
    /* what is certain is at least well formed */
    struct pt_etf e = {block + 1 + 3, block + 1 + size};
    if (pt_relay_is_sure(block + 1, size))
        require(!pt_etf_skip(&e) && !pt_etf_skip(&e) && e.p == e.end);
    free(block);
    return 0;
}

/* Any bytes as a distribution packet, and as a term: no read out of bounds (the sanitizers), and
 * what the interfaces promise holds. */
#include "proto/atoms.h"
#include "proto/dop.h"
#include "proto/etf.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok)
        abort();
}

static bool equal(const struct pt_packet *a, const struct pt_packet *b)
{
    return a->form == b->form && a->order == b->order && a->op == b->op && a->key == b->key &&
           a->seq_id == b->seq_id && a->frag_id == b->frag_id && a->atoms_at == b->atoms_at &&
           a->atoms == b->atoms && a->header_len == b->header_len;
}

/* The first `avail` bytes, in a block that ends with them. */
static void scan(const uint8_t *data, size_t avail, size_t total, struct pt_packet *out)
{
    uint8_t *block = malloc(1 + avail);
    require(block != NULL);
    if (avail)
        memcpy(block + 1, data, avail);
    pt_packet_scan(block + 1, avail, total, out);
    free(block);

    bool fragment = out->form == PT_FORM_FRAG_FIRST || out->form == PT_FORM_FRAG_NEXT;
    bool by_key = out->order == PT_ORDER_SENDER && out->form != PT_FORM_FRAG_NEXT;
    require(by_key == (out->key != 0));
    require(fragment == (out->seq_id != 0) && fragment == (out->frag_id != 0));
    require(out->header_len <= avail);
    require((out->op == 0) == (strcmp(pt_dop_name(out->op), "UNKNOWN") == 0));
    require((out->form == PT_FORM_TICK) == (total == 0));
    if (out->form == PT_FORM_OTHER)
        require(out->order == PT_ORDER_FENCE && out->op == 0 && out->header_len == 0 &&
                out->atoms_at == 0 && out->atoms == 0);
    if (out->form == PT_FORM_WHOLE || out->form == PT_FORM_FRAG_FIRST)
        require(out->atoms_at < out->header_len && out->atoms == data[out->atoms_at] &&
                pt_atoms_length(data + out->atoms_at, avail - out->atoms_at) ==
                    (int)(out->header_len - out->atoms_at));
    require(!out->cut || out->form == PT_FORM_OTHER);
}

/* Whoever sees less of a packet may only become more careful: a fence, or the same answer. */
static void scan_prefixes(const uint8_t *data, size_t size)
{
    struct pt_packet all, some;

    scan(data, size, size, &all);
    for (size_t n = 0; n < size; n += n < 100 ? 1 : n / 4) {
        scan(data, n, size, &some);
        require(some.order == PT_ORDER_FENCE || equal(&some, &all));
    }
    scan(data, size, size + 1000000, &some);
    require(size == 0 || equal(&some, &all));
}

static int skip(const uint8_t *data, size_t size, size_t *used)
{
    uint8_t *block = malloc(1 + size);
    require(block != NULL);
    if (size)
        memcpy(block + 1, data, size);
    struct pt_etf e = {block + 1, block + 1 + size};
    int rc = pt_etf_skip(&e);
    *used = (size_t)(e.p - (block + 1));
    free(block);
    require(*used <= size && (rc == 0) == (*used > 0));
    return rc;
}

/* A term has one length, whatever follows it, and no part of it is a term. */
static void skip_term(const uint8_t *data, size_t size)
{
    size_t used, again;
    int rc = skip(data, size, &used);

    require(rc == 0 || rc == PT_E_MORE || rc == PT_E_BAD_FRAME);
    if (rc)
        return;
    require(skip(data, used, &again) == 0 && again == used);
    require(skip(data, used - 1, &again) == PT_E_MORE);
    require(skip(data, used / 2, &again) == PT_E_MORE);
}

/* The readers take no more than the term, and nothing if they refuse it. */
static void read_term(const uint8_t *data, size_t size)
{
    struct pt_etf start = {data, data + size}, e = start, skipped = start;
    uint64_t n;
    const uint8_t *name;
    size_t len;
    int is_pid = pt_etf_is_pid(&e), is_atom = pt_etf_is_atom(&e);

    (void)pt_etf_skip(&skipped);
    int rc = pt_etf_pid(&e, &n);
    require(rc == 0 ? is_pid && n != 0 && e.p == skipped.p : e.p == start.p);
    require(!is_pid || rc != 0 || !is_atom);
    e = start;
    rc = pt_etf_atom(&e, &name, &len);
    require(rc == 0 ? is_atom && name + len == e.p && e.p == skipped.p : e.p == start.p);
    e = start;
    rc = pt_etf_uint(&e, &n);
    require(rc == 0 ? e.p == skipped.p : e.p == start.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    scan_prefixes(data, size);
    skip_term(data, size);
    read_term(data, size);
    /* The same bytes behind a header, and where the scanner looks for the sender. */
    static const uint8_t before[] = {131, 68, 0, 104, 4, 97, 35};
    uint8_t *packet = malloc(sizeof before + size);
    require(packet != NULL);
    memcpy(packet, before, sizeof before);
    if (size)
        memcpy(packet + sizeof before, data, size);
    struct pt_packet out;
    scan(packet, sizeof before + size, sizeof before + size, &out);
    free(packet);
    return 0;
}

#include "proto/pack.h"

#include "proto/etf.h"

#include <errno.h>
#include <string.h>

/* Where the texts of references are while they are collected; no text is copied. */
struct texts {
    unsigned count;
    uint16_t slot[PT_PACK_REFS];
    const uint8_t *text[PT_PACK_REFS];
    size_t len[PT_PACK_REFS];
};

/* Of its length and both ends: names of nodes differ there. Two atoms of one slot only say their texts
 * again in turns. */
static unsigned slot_of(const uint8_t *text, size_t len)
{
    uint64_t first = 0, last = 0;
    size_t n = PT_MIN(len, sizeof first);
    memcpy(&first, text, n);
    memcpy(&last, text + len - n, n);
    uint64_t x = (first ^ (last << 29 | last >> 35) ^ len) * 0x9e3779b97f4a7c15u;
    return (unsigned)(x >> 53); /* 2^11 slots */
}

static bool taken(const struct texts *t, unsigned slot)
{
    for (unsigned i = 0; i < t->count; i++)
        if (t->slot[i] == slot)
            return true;
    return false;
}

/* The number of its reference, or -1: there are too many. */
static int refer(struct texts *t, const uint8_t *text, size_t len)
{
    for (unsigned i = 0; i < t->count; i++)
        if (t->len[i] == len && !memcmp(t->text[i], text, len))
            return (int)i;
    if (t->count == PT_PACK_REFS)
        return -1;
    unsigned slot = slot_of(text, len);
    while (taken(t, slot))
        slot = (slot + 1) % PT_ATOM_SLOTS;
    t->slot[t->count] = (uint16_t)slot;
    t->text[t->count] = text;
    t->len[t->count] = len;
    return (int)t->count++;
}

/* The atoms: those in the table, or new ones that the caller drops. */
static int resolve(const struct texts *t, const struct pt_atom_table *told, struct pt_atom_ref *ref)
{
    for (unsigned i = 0; i < t->count; i++) {
        struct pt_atom *a = pt_atom_at(told, t->slot[i]);
        if (a && a->len == t->len[i] && !memcmp(a->text, t->text[i], a->len))
            pt_atom_hold(a);
        else
            a = pt_atom_new(t->text[i], t->len[i]);
        ref[i] = (struct pt_atom_ref){t->slot[i], a};
        if (!a) {
            while (i--)
                pt_atom_drop(ref[i].atom);
            return -ENOMEM;
        }
    }
    return 0;
}

/* The terms from e on, their atoms replaced. Returns the bytes written up to the last that was, *end
 * points behind it in the packet. */
static size_t rewrite(struct pt_etf *e, struct texts *t, uint8_t *out, const uint8_t **end)
{
    enum { ATOM_CACHE_REF = 82 };
    size_t n = 0, kept = 0;
    uint64_t seen = 2; /* control, message */
    struct pt_etf_part part;

    for (unsigned done = 0; done < seen && done < PT_PACK_TERMS; done++) {
        const uint8_t *p = e->p;
        if (pt_etf_part(e, &part))
            break; /* it goes on beyond what is looked at, or is malformed: the VM's to judge */
        seen += part.kids;
        int ref = part.name && part.name_len ? refer(t, part.name, part.name_len) : -1;
        if (ref < 0) {
            memcpy(out + n, p, (size_t)(e->p - p));
            n += (size_t)(e->p - p);
            continue;
        }
        memcpy(out + n, p, part.before);
        n += part.before;
        out[n++] = ATOM_CACHE_REF;
        out[n++] = (uint8_t)ref;
        memcpy(out + n, e->p - part.behind, part.behind);
        n += part.behind;
        kept = n;
        *end = e->p;
    }
    return kept;
}

int pt_pack(const uint8_t *p, size_t len, struct pt_atom_table *told, struct pt_packed *out)
{
    enum { VERSION = 131, HEADER = 68, HEAD = 3 };
    struct texts t = {.count = 0};
    struct pt_atom_ref ref[PT_PACK_REFS];
    uint8_t body[PT_PACK_SCAN];
    const uint8_t *end = NULL;

    if (len <= HEAD || p[0] != VERSION || p[1] != HEADER || p[2] != 0)
        return 0;
    struct pt_etf e = {p + HEAD, p + PT_MIN(len, (size_t)PT_PACK_SCAN)};
    size_t n = rewrite(&e, &t, body, &end);
    if (!t.count)
        return 0;
    int rc = resolve(&t, told, ref);
    if (rc)
        return rc;
    out->head[0] = VERSION;
    out->head[1] = HEADER;
    out->len = 2 + pt_atoms_write(out->head + 2, ref, t.count, told);
    memcpy(out->head + out->len, body, n);
    out->len += n;
    out->from = (size_t)(end - p);
    for (unsigned i = 0; i < t.count; i++)
        pt_atom_drop(ref[i].atom);
    return 1;
}

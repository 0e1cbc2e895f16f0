#include "proto/atoms.h"

#include <errno.h>
#include <string.h>

enum { NEW = 8, SEGMENT = 7, LONG = 1 };

void pt_atom_hold(struct pt_atom *a) { a->refs++; }

void pt_atom_drop(struct pt_atom *a)
{
    if (a && --a->refs == 0)
        pt_free(a);
}

void pt_atom_table_free(struct pt_atom_table *t)
{
    for (unsigned s = 0; s < PT_ATOM_SLOTS / PT_ATOM_SEGMENT; s++) {
        if (!t->segment[s])
            continue;
        for (unsigned i = 0; i < PT_ATOM_SEGMENT; i++)
            pt_atom_drop(t->segment[s][i]);
        pt_free(t->segment[s]);
        t->segment[s] = NULL;
    }
}

static struct pt_atom *lookup(const struct pt_atom_table *t, unsigned slot)
{
    struct pt_atom **segment = t->segment[slot / PT_ATOM_SEGMENT];
    return segment ? segment[slot % PT_ATOM_SEGMENT] : NULL;
}

/* Takes its own reference. */
static int fill(struct pt_atom_table *t, unsigned slot, struct pt_atom *a)
{
    struct pt_atom ***segment = &t->segment[slot / PT_ATOM_SEGMENT];
    if (!*segment && !(*segment = pt_zalloc(PT_ATOM_SEGMENT * sizeof(void *))))
        return -ENOMEM;
    struct pt_atom **place = &(*segment)[slot % PT_ATOM_SEGMENT];
    pt_atom_hold(a);
    pt_atom_drop(*place);
    *place = a;
    t->changes++;
    return 0;
}

static bool same(const struct pt_atom *a, const struct pt_atom *b)
{
    return a == b || (a && a->len == b->len && !memcmp(a->text, b->text, a->len));
}

/* ---- reading ---- */

struct walk {
    const uint8_t *p, *end; /* behind what was read */
    const uint8_t *flags;
    unsigned count;
    bool long_atoms;
};

struct entry {
    unsigned slot;
    bool is_new;
    const uint8_t *text;
    size_t len;
};

static unsigned nibble(const uint8_t *flags, unsigned i)
{
    return (flags[i / 2] >> (i % 2 ? 4 : 0)) & 0xf;
}

static int begin(struct walk *w, const uint8_t *p, size_t avail)
{
    if (!avail)
        return PT_E_MORE;
    w->count = p[0];
    w->p = p + 1;
    w->end = p + avail;
    if (!w->count)
        return 0;
    size_t bytes = w->count / 2 + 1;
    if (avail - 1 < bytes)
        return PT_E_MORE;
    w->flags = w->p;
    w->long_atoms = nibble(w->flags, w->count) & LONG;
    w->p += bytes;
    return 0;
}

static int next(struct walk *w, unsigned i, struct entry *e)
{
    unsigned flags = nibble(w->flags, i);
    size_t left = (size_t)(w->end - w->p);
    if (left < 1)
        return PT_E_MORE;
    e->slot = (flags & SEGMENT) * PT_ATOM_SEGMENT + w->p[0];
    e->is_new = flags & NEW;
    w->p++;
    left--;
    if (!e->is_new)
        return 0;
    size_t width = w->long_atoms ? 2 : 1;
    if (left < width)
        return PT_E_MORE;
    e->len = w->long_atoms ? pt_get16(w->p) : w->p[0];
    if (e->len > PT_ATOM_TEXT_MAX)
        return PT_E_BAD_FRAME;
    if (left - width < e->len)
        return PT_E_MORE;
    e->text = w->p + width;
    w->p += width + e->len;
    return 0;
}

int pt_atoms_length(const uint8_t *p, size_t avail)
{
    struct walk w;
    struct entry e;
    int rc = begin(&w, p, avail);
    for (unsigned i = 0; !rc && i < w.count; i++)
        rc = next(&w, i, &e);
    return rc ? rc : (int)(w.p - p);
}

static int learn(struct pt_atom_table *t, const struct entry *e)
{
    struct pt_atom *known = lookup(t, e->slot);
    if (known && known->len == e->len && !memcmp(known->text, e->text, e->len))
        return 0;
    struct pt_atom *a = pt_alloc(sizeof *a + e->len);
    if (!a)
        return -ENOMEM;
    a->refs = 1;
    a->len = (uint16_t)e->len;
    memcpy(a->text, e->text, e->len);
    int rc = fill(t, e->slot, a);
    pt_atom_drop(a);
    return rc;
}

int pt_atoms_read(const uint8_t *p, size_t avail, struct pt_atom_table *t, struct pt_atom_refs *out)
{
    struct walk w;
    struct entry e;
    int rc = begin(&w, p, avail);
    if (rc)
        return rc;
    for (unsigned i = 0; i < w.count; i++) {
        rc = next(&w, i, &e);
        if (!rc && e.is_new)
            rc = learn(t, &e);
        if (rc)
            return rc;
        out->ref[i].slot = (uint16_t)e.slot;
        out->ref[i].atom = lookup(t, e.slot);
        if (!out->ref[i].atom)
            return PT_E_BAD_FRAME;
        /* a slot filled anew in one section would leave the first reference dangling */
        for (unsigned k = 0; e.is_new && k < i; k++)
            if (out->ref[k].slot == e.slot && out->ref[k].atom != out->ref[i].atom)
                return PT_E_BAD_FRAME;
    }
    out->count = w.count;
    return (int)(w.p - p);
}

/* ---- writing ---- */

static bool any_long(const struct pt_atom_ref *ref, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (ref[i].atom->len > 255)
            return true;
    return false;
}

size_t pt_atoms_size(const struct pt_atom_ref *ref, unsigned count)
{
    size_t width = any_long(ref, count) ? 2 : 1;
    size_t n = count ? 1 + count / 2 + 1 : 1;
    for (unsigned i = 0; i < count; i++)
        n += 1 + width + ref[i].atom->len;
    return n;
}

size_t pt_atoms_write(uint8_t *out, const struct pt_atom_ref *ref, unsigned count,
                      struct pt_atom_table *t)
{
    bool fresh[PT_ATOM_REFS];
    bool long_atoms = false;
    uint8_t *p = out;

    *p++ = (uint8_t)count;
    if (!count)
        return 1;
    for (unsigned i = 0; i < count; i++) {
        fresh[i] = !t || !same(lookup(t, ref[i].slot), ref[i].atom);
        long_atoms = long_atoms || (fresh[i] && ref[i].atom->len > 255);
    }
    uint8_t *flags = p;
    memset(flags, 0, count / 2 + 1);
    p += count / 2 + 1;
    for (unsigned i = 0; i < count; i++) {
        const struct pt_atom *a = ref[i].atom;
        unsigned bits = ref[i].slot / PT_ATOM_SEGMENT;
        *p++ = (uint8_t)(ref[i].slot % PT_ATOM_SEGMENT);
        if (fresh[i]) {
            bits |= NEW;
            if (long_atoms)
                *p++ = (uint8_t)(a->len >> 8);
            *p++ = (uint8_t)a->len;
            memcpy(p, a->text, a->len);
            p += a->len;
            /* Fails only where the slot's segment is missing: the slot then stays empty, and no
             * later section can refer to what the reader has in it. */
            if (t)
                (void)fill(t, ref[i].slot, ref[i].atom);
        }
        flags[i / 2] |= (uint8_t)(bits << (i % 2 ? 4 : 0));
    }
    if (long_atoms)
        flags[count / 2] |= (uint8_t)(LONG << (count % 2 ? 4 : 0));
    return (size_t)(p - out);
}

/* ---- remembering ---- */

bool pt_atoms_recall(const struct pt_atom_memo *memo, const struct pt_atom_table *from,
                     const struct pt_atom_table *to, const uint8_t *p, size_t avail)
{
    return memo->in_len && memo->from_changes == from->changes && memo->to_changes == to->changes &&
           avail >= memo->in_len && !memcmp(memo->in, p, memo->in_len);
}

static bool any_new(const uint8_t *section)
{
    for (unsigned i = 0; i < section[0]; i++)
        if (nibble(section + 1, i) & NEW)
            return true;
    return false;
}

void pt_atoms_remember(struct pt_atom_memo *memo, const struct pt_atom_table *from,
                       const struct pt_atom_table *to, const uint8_t *in, size_t in_len,
                       const uint8_t *out, size_t out_len, size_t size)
{
    if (in_len > PT_ATOM_MEMO || out_len > PT_ATOM_MEMO || size > UINT16_MAX || any_new(in) ||
        any_new(out))
        return;
    memcpy(memo->in, in, in_len);
    memcpy(memo->out, out, out_len);
    memo->in_len = (uint8_t)in_len;
    memo->out_len = (uint8_t)out_len;
    memo->size = (uint16_t)size;
    memo->from_changes = from->changes;
    memo->to_changes = to->changes;
}

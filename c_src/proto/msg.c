#include "proto/msg.h"

#include <errno.h>
#include <string.h>

/* Decides what is copied and what is kept; called once to count and once to fill. */
struct plan {
    uint32_t nslices;
    size_t copied;
    size_t total;
};

struct fill {
    struct pt_slice *slices;
    uint8_t *bytes;
    const struct pt_owner_ops *ops;
};

static void add_copy(struct plan *pl, bool *open, const struct fill *fl, const uint8_t *p, size_t n)
{
    if (!n)
        return;
    if (!*open) {
        if (fl)
            fl->slices[pl->nslices] = (struct pt_slice){NULL, fl->bytes + pl->copied, 0};
        pl->nslices++;
        *open = true;
    }
    if (fl) {
        memcpy(fl->bytes + pl->copied, p, n);
        fl->slices[pl->nslices - 1].len += n;
    }
    pl->copied += n;
    pl->total += n;
}

static void walk(const struct pt_source *src, struct plan *pl, const struct fill *fl)
{
    bool open = false; /* the current slice is one of copied bytes and may grow */
    size_t skip = src->skip;

    *pl = (struct plan){0};
    add_copy(pl, &open, fl, src->prefix, src->prefix_len);
    for (size_t i = 0; i < src->count; i++) {
        const uint8_t *p = src->iov[i].iov_base;
        size_t n = src->iov[i].iov_len;
        size_t cut = PT_MIN(skip, n);
        if (n == cut) { /* also the empty first element of an ErlIOVec, whose base is NULL */
            skip -= cut;
            continue;
        }
        skip -= cut;
        p += cut;
        n -= cut;
        if (!src->owners[i] || n <= PT_MSG_COPY_MAX) {
            add_copy(pl, &open, fl, p, n);
            continue;
        }
        if (fl) {
            fl->ops->ref(src->owners[i]);
            fl->slices[pl->nslices] = (struct pt_slice){src->owners[i], p, n};
        }
        pl->nslices++;
        pl->total += n;
        open = false;
    }
}

static size_t tail_size(const struct plan *pl)
{
    return pl->nslices * sizeof(struct pt_slice) + pl->copied;
}

static void fill_seg(struct pt_seg *seg, const struct pt_source *src, struct plan *pl,
                     uint8_t *bytes, const struct pt_owner_ops *ops)
{
    struct fill fl = {seg->slices, bytes, ops};
    seg->next = NULL;
    walk(src, pl, &fl);
    seg->nslices = pl->nslices;
}

void pt_msg_pool_free(struct pt_msg_pool *pool)
{
    for (void *p = pool->free, *next; p; p = next) {
        next = *(void **)p;
        pt_free(p);
    }
    *pool = (struct pt_msg_pool){0};
}

void pt_msg_pool_trim(struct pt_msg_pool *pool)
{
    unsigned keep = PT_MAX(pool->count / 2, (unsigned)PT_MSG_POOL_FLOOR);
    while (pool->count > keep) {
        void *p = pool->free;
        pool->free = *(void **)p;
        pool->count--;
        pt_free(p);
    }
}

static void *pool_get(struct pt_msg_pool *pool)
{
    void *p = pool->free;
    if (!p)
        return pt_alloc(PT_MSG_POOL_BLOCK);
    pool->free = *(void **)p;
    pool->count--;
    return p;
}

static void pool_put(struct pt_msg_pool *pool, void *p)
{
    if (pool->count == PT_MSG_POOL_KEPT) {
        pt_free(p);
        return;
    }
    *(void **)p = pool->free;
    pool->free = p;
    pool->count++;
}

struct pt_msg *pt_msg_new(const struct pt_source *src, const struct pt_owner_ops *ops)
{
    return pt_msg_new_in(NULL, src, ops);
}

static struct pt_msg *begin(struct pt_msg *m, struct pt_msg_pool *pool, const struct pt_source *src,
                            uint32_t nslices)
{
    memset(m, 0, sizeof *m);
    m->pool = pool;
    pt_list_init(&m->pick);
    pt_list_init(&m->order);
    /* slices, references, copied bytes */
    m->natoms = (uint16_t)src->natoms;
    m->atoms = (struct pt_atom_ref *)(m->first.slices + nslices);
    for (unsigned i = 0; i < src->natoms; i++) {
        m->atoms[i] = src->atoms[i];
        pt_atom_hold(m->atoms[i].atom);
    }
    m->seg = m->last = &m->first;
    m->complete = true;
    return m;
}

/* What fits a block of the pool is one copied slice: nothing to plan, no reference to count. NULL:
 * it does not fit, or there is no memory, which the long way will find, too. */
static struct pt_msg *new_flat(struct pt_msg_pool *pool, const struct pt_source *src)
{
    size_t room = PT_MSG_POOL_BLOCK - sizeof(struct pt_msg) - sizeof(struct pt_slice);
    size_t need = src->natoms * sizeof(struct pt_atom_ref) + src->prefix_len;
    size_t skip = src->skip;

    for (size_t i = 0; i < src->count; i++)
        need += src->iov[i].iov_len;
    if (need - skip > room)
        return NULL;
    struct pt_msg *m = pool_get(pool);
    if (!m)
        return NULL;
    begin(m, pool, src, 1);
    uint8_t *start = (uint8_t *)(m->atoms + m->natoms), *to = start;
    if (src->prefix_len) {
        memcpy(to, src->prefix, src->prefix_len);
        to += src->prefix_len;
    }
    for (size_t i = 0; i < src->count; i++) {
        size_t n = src->iov[i].iov_len;
        size_t cut = PT_MIN(skip, n);
        skip -= cut;
        if (n == cut) /* also the empty first element of an ErlIOVec, whose base is NULL */
            continue;
        memcpy(to, (const uint8_t *)src->iov[i].iov_base + cut, n - cut);
        to += n - cut;
    }
    m->size = m->room = (size_t)(to - start);
    m->first.nslices = m->size ? 1 : 0;
    m->first.slices[0] = (struct pt_slice){NULL, start, m->size};
    return m;
}

struct pt_msg *pt_msg_new_in(struct pt_msg_pool *pool, const struct pt_source *src,
                             const struct pt_owner_ops *ops)
{
    struct plan pl;
    struct pt_msg *flat = pool ? new_flat(pool, src) : NULL;
    if (PT_LIKELY(flat))
        return flat;
    walk(src, &pl, NULL);
    size_t atoms_size = src->natoms * sizeof(struct pt_atom_ref);
    size_t size = sizeof(struct pt_msg) + atoms_size + tail_size(&pl);
    if (size > PT_MSG_POOL_BLOCK)
        pool = NULL;
    struct pt_msg *m = pool ? pool_get(pool) : pt_alloc(size);
    if (!m)
        return NULL;
    begin(m, pool, src, pl.nslices);
    fill_seg(&m->first, src, &pl, (uint8_t *)(m->atoms + m->natoms), ops);
    m->size = m->room = pl.total;
    return m;
}

int pt_msg_append(struct pt_msg *m, const struct pt_source *src, const struct pt_owner_ops *ops)
{
    struct plan pl;
    walk(src, &pl, NULL);
    struct pt_seg *seg = pt_alloc(sizeof *seg + tail_size(&pl));
    if (!seg)
        return -ENOMEM;
    fill_seg(seg, src, &pl, (uint8_t *)(seg->slices + pl.nslices), ops);
    m->last->next = seg;
    m->last = seg;
    m->size += pl.total;
    return 0;
}

static void drop_refs(struct pt_seg *seg, const struct pt_owner_ops *ops)
{
    for (uint32_t i = 0; i < seg->nslices; i++)
        if (seg->slices[i].owner)
            ops->unref(seg->slices[i].owner);
}

void pt_msg_free(struct pt_msg *m, const struct pt_owner_ops *ops)
{
    for (unsigned i = 0; i < m->natoms; i++)
        pt_atom_drop(m->atoms[i].atom);
    drop_refs(&m->first, ops);
    for (struct pt_seg *seg = m->first.next, *next; seg; seg = next) {
        next = seg->next;
        drop_refs(seg, ops);
        pt_free(seg);
    }
    if (m->pool)
        pool_put(m->pool, m);
    else
        pt_free(m);
}

struct cursor {
    struct pt_seg *seg;
    uint32_t slice;
    size_t off;
};

/* The slice under the cursor, stepping over what is used up; NULL at the end. */
static const struct pt_slice *here(struct cursor *c)
{
    for (;;) {
        if (c->slice < c->seg->nslices) {
            const struct pt_slice *s = &c->seg->slices[c->slice];
            if (c->off < s->len)
                return s;
            c->slice++;
            c->off = 0;
        } else if (c->seg->next) {
            c->seg = c->seg->next;
            c->slice = 0;
            c->off = 0;
        } else {
            return NULL;
        }
    }
}

static struct cursor cursor_of(const struct pt_msg *m)
{
    return (struct cursor){m->seg, m->slice, m->slice_off};
}

static void moved(struct pt_msg *m, const struct cursor *c, size_t len)
{
    m->seg = c->seg;
    m->slice = c->slice;
    m->slice_off = c->off;
    m->emitted += len;
}

unsigned pt_msg_take(struct pt_msg *m, size_t len, struct iovec *iov, unsigned max)
{
    struct cursor c = cursor_of(m);
    unsigned n = 0;
    for (size_t left = len; left;) {
        const struct pt_slice *s = here(&c);
        if (!s || n == max)
            return 0;
        size_t part = PT_MIN(left, s->len - c.off);
        iov[n++] = (struct iovec){(void *)(uintptr_t)(s->base + c.off), part};
        c.off += part;
        left -= part;
    }
    moved(m, &c, len);
    return n;
}

size_t pt_msg_fit(const struct pt_msg *m, size_t len, unsigned max)
{
    struct cursor c = cursor_of(m);
    size_t fit = 0;
    while (max-- && fit < len) {
        const struct pt_slice *s = here(&c);
        if (!s)
            break;
        size_t part = PT_MIN(len - fit, s->len - c.off);
        c.off += part;
        fit += part;
    }
    return fit;
}

void pt_msg_copy(struct pt_msg *m, uint8_t *out, size_t len)
{
    struct cursor c = cursor_of(m);
    if (PT_LIKELY(!m->emitted && m->first.nslices == 1 && m->first.slices[0].len == len)) {
        memcpy(out, m->first.slices[0].base, len);
        m->emitted = m->slice_off = len;
        return;
    }
    for (size_t left = len; left;) {
        const struct pt_slice *s = here(&c);
        if (!s)
            break;
        size_t part = PT_MIN(left, s->len - c.off);
        memcpy(out, s->base + c.off, part);
        out += part;
        c.off += part;
        left -= part;
    }
    moved(m, &c, len);
}

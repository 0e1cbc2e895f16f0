#include "base/hmap.h"

#include <errno.h>

struct pt_hmap_slot {
    uint64_t key; /* 0 = free */
    void *value;
};

enum { LEAST = 16, SMALL = 256 }; /* slots */

/* Fibonacci mixing: sender keys are built from small consecutive numbers. */
static size_t place(const struct pt_hmap *m, uint64_t key)
{
    return (size_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & m->mask;
}

void pt_hmap_init(struct pt_hmap *m)
{
    m->slots = NULL;
    m->mask = 0;
    m->count = 0;
}

void pt_hmap_free(struct pt_hmap *m)
{
    pt_free(m->slots);
    pt_hmap_init(m);
}

static struct pt_hmap_slot *find(const struct pt_hmap *m, uint64_t key)
{
    if (!m->slots)
        return NULL;
    for (size_t i = place(m, key);; i = (i + 1) & m->mask) {
        struct pt_hmap_slot *s = &m->slots[i];
        if (s->key == key)
            return s;
        if (!s->key)
            return NULL;
    }
}

void *pt_hmap_get(const struct pt_hmap *m, uint64_t key)
{
    const struct pt_hmap_slot *s = find(m, key);
    return s ? s->value : NULL;
}

static void put_new(struct pt_hmap *m, uint64_t key, void *value)
{
    size_t i = place(m, key);
    while (m->slots[i].key)
        i = (i + 1) & m->mask;
    m->slots[i].key = key;
    m->slots[i].value = value;
}

static size_t capacity(const struct pt_hmap *m) { return m->slots ? m->mask + 1 : 0; }

static int resize(struct pt_hmap *m, size_t cap)
{
    struct pt_hmap other = {.count = m->count, .mask = cap - 1};

    other.slots = pt_zalloc(cap * sizeof *other.slots);
    if (!other.slots)
        return -ENOMEM;
    for (size_t i = 0; i < capacity(m); i++)
        if (m->slots[i].key)
            put_new(&other, m->slots[i].key, m->slots[i].value);
    pt_free(m->slots);
    *m = other;
    return 0;
}

void pt_hmap_trim(struct pt_hmap *m)
{
    size_t cap = capacity(m);
    if (cap > SMALL && m->count * 8 <= cap)
        (void)resize(m, cap / 2);
}

int pt_hmap_put(struct pt_hmap *m, uint64_t key, void *value)
{
    /* three quarters full at most */
    if (!m->slots || (m->count + 1) * 4 > (m->mask + 1) * 3) {
        int rc = resize(m, PT_MAX(2 * capacity(m), (size_t)LEAST));
        if (rc)
            return rc;
    }
    put_new(m, key, value);
    m->count++;
    return 0;
}

void *pt_hmap_del(struct pt_hmap *m, uint64_t key)
{
    struct pt_hmap_slot *s = find(m, key);
    if (!s)
        return NULL;
    void *value = s->value;
    size_t hole = (size_t)(s - m->slots);
    for (size_t i = (hole + 1) & m->mask; m->slots[i].key; i = (i + 1) & m->mask) {
        size_t home = place(m, m->slots[i].key);
        /* move i back unless its home lies cyclically in (hole, i] */
        if (((i - home) & m->mask) >= ((i - hole) & m->mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole].key = 0;
    m->slots[hole].value = NULL;
    m->count--;
    return value;
}

void *pt_hmap_next(const struct pt_hmap *m, size_t *pos)
{
    if (!m->slots)
        return NULL;
    while (*pos <= m->mask) {
        const struct pt_hmap_slot *s = &m->slots[(*pos)++];
        if (s->key)
            return s->value;
    }
    return NULL;
}

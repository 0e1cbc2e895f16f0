#include "proto/mono.h"

#include <errno.h>
#include <string.h>

struct pt_mono_slot {
    struct pt_list link;
    struct pt_msg *msg;
    uint64_t hash; /* 0: not in the map, another key has this hash */
    size_t len;
    uint8_t key[];
};

#define SLOT(node) PT_CONTAINER_OF(node, struct pt_mono_slot, link)

void pt_mono_init(struct pt_mono *q)
{
    memset(q, 0, sizeof *q);
    pt_hmap_init(&q->slots);
    pt_list_init(&q->fifo);
}

/* FNV-1a; never 0. Whoever makes keys collide gains nothing: they are compared. */
static uint64_t hash(const uint8_t *p, size_t len)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h ? h : 1;
}

int pt_mono_put(struct pt_mono *q, const uint8_t *key, size_t len, struct pt_msg *m,
                struct pt_msg **old)
{
    uint64_t h = hash(key, len);
    struct pt_mono_slot *s = pt_hmap_get(&q->slots, h);

    if (s && s->len == len && !memcmp(s->key, key, len)) {
        *old = s->msg;
        q->bytes += m->size - s->msg->size;
        s->msg = m;
        return 1;
    }
    bool taken = s != NULL;
    s = pt_alloc(sizeof *s + len);
    if (!s)
        return -ENOMEM;
    *s = (struct pt_mono_slot){.msg = m, .hash = taken ? 0 : h, .len = len};
    memcpy(s->key, key, len);
    if (!taken && pt_hmap_put(&q->slots, h, s)) {
        pt_free(s);
        return -ENOMEM;
    }
    pt_list_push(&q->fifo, &s->link);
    q->bytes += m->size;
    q->messages++;
    return 0;
}

struct pt_msg *pt_mono_first(const struct pt_mono *q)
{
    struct pt_list *n = pt_list_first(&q->fifo);
    return n ? SLOT(n)->msg : NULL;
}

void pt_mono_shift(struct pt_mono *q)
{
    struct pt_mono_slot *s = SLOT(pt_list_pop(&q->fifo));
    if (s->hash)
        pt_hmap_del(&q->slots, s->hash);
    q->bytes -= s->msg->size;
    q->messages--;
    pt_free(s);
}

void pt_mono_free(struct pt_mono *q, const struct pt_owner_ops *ops)
{
    for (struct pt_msg *m; (m = pt_mono_first(q));) {
        pt_mono_shift(q);
        pt_msg_free(m, ops);
    }
    pt_hmap_free(&q->slots);
}

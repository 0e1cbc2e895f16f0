#include "proto/batch.h"

#include <errno.h>
#include <string.h>

/* Frames from one trim to the next, a quarter of net_ticktime apart, that need no room between them: a
 * tick, an acknowledgement, and a message or two of somebody who looks whether the peer is well. */
enum { QUIET_FRAMES = 4 };

struct pt_batch *pt_batch_new(unsigned lane)
{
    struct pt_batch *b = pt_zalloc(sizeof *b);
    if (!b)
        return NULL;
    b->ctx.number = 1;
    b->lane = lane;
    return b;
}

static void release(struct pt_batch *b, const struct pt_owner_ops *ops)
{
    for (unsigned i = 0; i < b->nmsgs; i++) {
        struct pt_msg *m = b->room->msgs[i];
        if (--m->inflight == 0 && m->done)
            pt_msg_free(m, ops);
    }
    b->nmsgs = 0;
    b->first = b->count = 0;
    b->used = 0;
    b->bytes = 0;
}

void pt_batch_free(struct pt_batch *b, const struct pt_owner_ops *ops)
{
    if (!b)
        return;
    release(b, ops);
    pt_atom_table_free(&b->atoms);
    pt_free(b->room);
    pt_free(b);
}

void pt_batch_trim(struct pt_batch *b)
{
    if (!b->bytes && b->frames - b->trim_frames <= QUIET_FRAMES) {
        pt_free(b->room);
        b->room = NULL;
    }
    b->trim_frames = b->frames;
}

/* Most of it is written before it is read: not zeroed. */
static struct pt_batch_room *get_room(struct pt_batch *b)
{
    if (PT_UNLIKELY(!b->room))
        b->room = pt_alloc(sizeof *b->room);
    return b->room;
}

/* n bytes were written at arena + used. */
static void arena_grew(struct pt_batch *b, struct pt_batch_room *r, size_t n)
{
    uint8_t *at = r->arena + b->used;
    struct iovec *last = b->count > b->first ? &r->iov[b->count - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == at)
        last->iov_len += n;
    else
        r->iov[b->count++] = (struct iovec){at, n};
    b->used += n;
    b->bytes += n;
}

static bool has_room(const struct pt_batch *b)
{
    return b->bytes + PT_FRAME_HEAD_MAX + PT_BATCH_LEAST <= PT_BATCH_BYTES &&
           b->nmsgs < PT_BATCH_MSGS && b->count + PT_MSG_IOV_MAX + 2 <= PT_BATCH_IOV &&
           b->used + PT_FRAME_HEAD_MAX + PT_ATOM_SECTION_MAX + PT_BATCH_COPY <= PT_BATCH_ARENA;
}

bool pt_batch_control(struct pt_batch *b, const struct pt_frame *f)
{
    struct pt_batch_room *r;
    if (b->used + PT_FRAME_HEAD_MAX > PT_BATCH_ARENA || b->count == PT_BATCH_IOV ||
        !(r = get_room(b)))
        return false;
    arena_grew(b, r, pt_frame_encode(r->arena + b->used, f, &b->ctx));
    b->frames++;
    return true;
}

/* The header of e's frame, and behind it the section of a BARE message: bytes written. */
static size_t put_header(struct pt_batch *b, struct pt_batch_room *r, const struct pt_emit *e)
{
    uint8_t *at = r->arena + b->used;
    struct pt_frame f = e->frame;
    uint8_t section[PT_ATOM_SECTION_MAX];
    size_t len = 0;

    if (f.flags & PT_FRAME_BARE) {
        len = pt_atoms_write(section, e->msg->atoms, e->msg->natoms, &b->atoms);
        f.length += len;
    }
    size_t head = pt_frame_encode(at, &f, &b->ctx);
    if (len)
        memcpy(at + head, section, len);
    return head + len;
}

int pt_batch_fill(struct pt_batch *b, struct pt_txq *q, unsigned want, size_t chunk)
{
    struct pt_emit e;
    /* not after pt_txq_next(), which takes what it chose out of the queue */
    struct pt_batch_room *r = b->room;
    bool wanted = r || pt_txq_has(q, want) || !pt_list_empty(&q->behind) ||
                  (pt_txq_called(q) & 1u << b->lane);
    if (wanted && !r && !(r = get_room(b)))
        return -ENOMEM;
    while (r && has_room(b)) {
        size_t left = PT_BATCH_BYTES - b->bytes - PT_FRAME_HEAD_MAX;
        int rc = pt_txq_next(q, b->lane, want, PT_MIN(chunk, left), &e);
        if (rc <= 0)
            return rc;
        struct pt_msg *m = e.msg;
        bool copy = e.frame.type == PT_FRAME_MSG && e.frame.length <= PT_BATCH_COPY;
        size_t head = put_header(b, r, &e);
        if (copy) {
            pt_msg_copy(m, r->arena + b->used + head, e.frame.length);
            arena_grew(b, r, head + e.frame.length);
        } else {
            arena_grew(b, r, head);
            b->count += pt_msg_take(m, e.frame.length, &r->iov[b->count], PT_MSG_IOV_MAX);
            b->bytes += e.frame.length;
            r->msgs[b->nmsgs++] = m;
            m->inflight++;
        }
        b->frames++;
        rc = pt_txq_emitted(q, &e);
        if (copy)
            pt_msg_free(m, q->ops);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int pt_batch_pass(struct pt_batch *b, struct pt_txq *q, struct pt_atom_table *vm,
                  const struct pt_small *m)
{
    struct pt_batch_room *r = get_room(b);
    struct pt_atom_refs refs;
    struct pt_frame f;
    int in_len = 0;
    size_t size = b->memo.size;

    if (!r || !has_room(b))
        return 0;
    bool known = pt_atoms_recall(&b->memo, vm, &b->atoms, m->section, m->there);
    if (!known) {
        in_len = pt_atoms_read(m->section, m->there, vm, &refs);
        if (in_len < 0)
            return 0;
        size = pt_atoms_size(refs.ref, refs.count);
        if (size > PT_ATOM_SECTION_MAX)
            return 0;
    }
    if (!pt_txq_pass(q, b->lane, m->key, m->len, m->len + 2 + size, &f))
        return 0;
    uint8_t section[PT_ATOM_SECTION_MAX];
    const uint8_t *out = known ? b->memo.out : section;
    size_t len = b->memo.out_len;
    if (!known) {
        len = pt_atoms_write(section, refs.ref, refs.count, &b->atoms);
        pt_atoms_remember(&b->memo, vm, &b->atoms, m->section, (size_t)in_len, section, len, size);
    }
    f.length += len;
    uint8_t *at = r->arena + b->used;
    size_t head = pt_frame_encode(at, &f, &b->ctx);
    memcpy(at + head, out, len);
    memcpy(at + head + len, m->bytes, m->len);
    arena_grew(b, r, head + len + m->len);
    b->frames++;
    return 1;
}

void pt_batch_sent(struct pt_batch *b, size_t n, const struct pt_owner_ops *ops)
{
    b->bytes -= n;
    b->sent_bytes += n;
    if (!b->bytes) {
        release(b, ops);
        return;
    }
    while (n) {
        struct iovec *v = &b->room->iov[b->first];
        if (n < v->iov_len) {
            v->iov_base = (char *)v->iov_base + n;
            v->iov_len -= n;
            return;
        }
        n -= v->iov_len;
        b->first++;
    }
}

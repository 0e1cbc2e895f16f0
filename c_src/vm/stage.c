#include "vm/stage.h"

#include "vm/peer.h"

#include <string.h>

enum {
    QUIET_PACKETS = 4,                    /* as of a lane's batch (proto/batch.c) */
    HEADER_MAX = 2 + PT_ATOM_SECTION_MAX, /* a longer one is not written relative to a lane */
};
_Static_assert(HEADER_MAX + PT_BATCH_COPY + 64 < PT_STAGE_SPARE,
               "what may be staged fits a stage that is not full");

/* In front of each packet; the next one starts at a multiple of its alignment. */
struct record {
    uint64_t key;
    uint32_t size;
    uint16_t header_len;
    uint8_t atoms;
};

static size_t room_of(size_t size)
{
    size_t n = sizeof(struct record) + size, align = _Alignof(struct record);
    return (n + align - 1) / align * align;
}

bool pt_stage_take(struct pt_peer *p, const struct pt_packet *pk, const ErlIOVec *ev)
{
    struct pt_stage *st = &p->stage;
    size_t size = (size_t)ev->size;

    if (!st->open || pk->form != PT_FORM_WHOLE || pk->order != PT_ORDER_SENDER || p->flushing ||
        pk->header_len > HEADER_MAX || size - pk->header_len > PT_BATCH_COPY ||
        st->used + room_of(size) > PT_STAGE_ROOM)
        return false;
    if (PT_UNLIKELY(!st->room) && !(st->room = pt_alloc(PT_STAGE_ROOM)))
        return false;
    *(struct record *)(void *)(st->room + st->used) =
        (struct record){pk->key, (uint32_t)size, (uint16_t)pk->header_len, pk->atoms};
    uint8_t *to = st->room + st->used + sizeof(struct record);
    for (int i = 0; i < ev->vsize; i++) {
        size_t n = ev->iov[i].iov_len;
        if (n) /* the first element of an ErlIOVec is empty, its base NULL */
            memcpy(to, ev->iov[i].iov_base, n);
        to += n;
    }
    st->used += room_of(size);
    st->bytes += size;
    st->taken++;
    return true;
}

static bool pass(struct pt_peer *p, struct pt_batch *b, const struct record *r,
                 const uint8_t *bytes)
{
    enum { SECTION_AT = 2 };
    struct pt_small m = {.key = r->key,
                         .section = bytes + SECTION_AT,
                         .there = r->size - SECTION_AT,
                         .bytes = bytes + r->header_len,
                         .len = r->size - r->header_len};
    return pt_batch_pass(b, &p->s.txq, &p->vm_atoms, &m);
}

static int queue(struct pt_peer *p, const struct record *r, const uint8_t *bytes)
{
    struct iovec iov = {(void *)(uintptr_t)bytes, r->size};
    void *nobody = NULL;
    struct pt_source src = {.iov = &iov, .owners = &nobody, .count = 1};
    struct pt_packet pk = {.form = PT_FORM_WHOLE,
                           .order = PT_ORDER_SENDER,
                           .key = r->key,
                           .atoms = r->atoms,
                           .atoms_at = 2,
                           .header_len = r->header_len};
    return pt_tx_take(p, &pk, &src, bytes, r->size, r->size);
}

int pt_stage_move(struct pt_peer *p)
{
    struct pt_stage *st = &p->stage;
    int rc = 0;

    if (!st->used)
        return 0;
    struct pt_batch *b = pt_stream_batch(&p->s, 0);
    for (size_t at = 0; !rc && at < st->used;) {
        const struct record *r = (const struct record *)(const void *)(st->room + at);
        const uint8_t *bytes = st->room + at + sizeof *r;
        at += room_of(r->size);
        if (b && pass(p, b, r, bytes))
            continue;
        b = NULL; /* one is queued: the others must not pass it */
        rc = queue(p, r, bytes);
    }
    st->used = st->bytes = 0;
    return rc;
}

void pt_stage_look(struct pt_peer *p)
{
    const struct pt_lane *l = &p->s.lanes[0];
    p->stage.open = l->state == PT_LANE_IDLE && !l->tx_paused && p->s.auth_sent &&
                    !pt_txq_has(&p->s.txq, PT_WANT_SMALL);
}

void pt_stage_trim(struct pt_stage *st)
{
    if (!st->used && st->taken - st->trim_taken <= QUIET_PACKETS)
        pt_stage_free(st);
    st->trim_taken = st->taken;
}

void pt_stage_free(struct pt_stage *st)
{
    pt_free(st->room);
    st->room = NULL;
    st->used = st->bytes = 0;
}

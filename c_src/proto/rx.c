#include "proto/rx.h"

#include "proto/rx_int.h"
#include "proto/txq.h"

#include <errno.h>
#include <string.h>

void pt_rx_init(struct pt_rx *r, const struct pt_rx_ops *ops, void *host, uint64_t max_message,
                const uint8_t auth[PT_FRAME_AUTH_LEN])
{
    memset(r, 0, sizeof *r);
    r->ops = ops;
    r->host = host;
    r->max_message = max_message;
    r->max_room = UINT64_MAX;
    r->max_held = PT_TXQ_UNACKED;
    r->auth = auth;
    r->told = &r->atoms;
    r->atom_cache = true;
    pt_order_init(&r->order);
    pt_hmap_init(&r->transfers);
}

static void drop_held(void *ctx, struct pt_held *h)
{
    struct pt_rx *r = ctx;
    r->ops->bin_unref(h->bin);
    pt_free(h);
}

void pt_rx_free(struct pt_rx *r)
{
    size_t pos = 0;
    for (struct pt_transfer *t; (t = pt_hmap_next(&r->transfers, &pos));) {
        r->ops->bin_unref(t->bin);
        pt_free(t);
    }
    pt_hmap_free(&r->transfers);
    pt_order_free(&r->order, drop_held, r);
    pt_atom_table_free(&r->atoms);
    if (r->group.bin)
        r->ops->bin_unref(r->group.bin);
}

bool pt_rx_complete(const struct pt_rx *r)
{
    return r->end.seen && r->order.watermark >= r->end.last;
}

void pt_rx_trim(struct pt_rx *r)
{
    pt_order_trim(&r->order);
    pt_hmap_trim(&r->transfers);
}

/* ---- delivery in order ---- */

int pt_rx_flush_group(struct pt_rx *r)
{
    unsigned count = r->group.count;
    void *bin = r->group.bin;
    int rc = 0;

    if (!count)
        return 0;
    r->group.count = 0;
    r->group.used = 0;
    const uint8_t *p = r->ops->bin_data(bin);
    if (count == 1) /* alone it gets a copy of its own size, and the binary serves again */
        return r->ops->deliver(r->host, NULL, p, r->group.len[0]);
    r->group.bin = NULL;
    for (unsigned i = 0; rc >= 0 && i < count; i++) {
        rc = r->ops->deliver(r->host, bin, p, r->group.len[i]);
        p += r->group.len[i];
    }
    r->ops->bin_unref(bin);
    return PT_MIN(rc, 0);
}

static int to_group(struct pt_rx *r, const uint8_t *p, size_t len)
{
    if (r->group.count == PT_RX_GROUP_MAX || r->group.used + len > PT_RX_GROUP) {
        int rc = pt_rx_flush_group(r);
        if (rc)
            return rc;
    }
    if (!r->group.bin && !(r->group.bin = r->ops->bin_new(PT_RX_GROUP)))
        return -ENOMEM;
    memcpy(r->ops->bin_data(r->group.bin) + r->group.used, p, len);
    r->group.used += len;
    r->group.len[r->group.count++] = len;
    return 0;
}

/* Counts as delivered what is in the group: nothing else gets to the VM before it. */
static int deliver_one(struct pt_rx *r, uint64_t number, void *bin, const uint8_t *p, size_t len)
{
    int rc;
    if (!bin && len <= PT_RX_GROUP / 2 && !(r->alone && !r->group.count)) {
        rc = to_group(r, p, len);
    } else {
        rc = pt_rx_flush_group(r);
        if (!rc)
            rc = r->ops->deliver(r->host, bin, p, len);
    }
    if (rc < 0)
        return rc;
    r->delivered++;
    r->delivered_bytes += len;
    r->since_bytes += len;
    return pt_order_delivered(&r->order, number);
}

/* A packet with a header of its own changes the VM's cache as the header says. One that nobody can
 * read, made by hand, is cut behind the number of its references: the VM finds it corrupt, says so and
 * ends the connection, and its decoder never looks into a cache that may not be there (OTP 25). */
static int note_atoms(struct pt_rx *r, const uint8_t *p, size_t *len)
{
    enum { VERSION = 131, HEADER = 68, FIRST_FRAGMENT = 69 };
    struct pt_atom_refs refs;
    size_t at = *len > 2 && p[1] == HEADER ? 2 : *len > 18 && p[1] == FIRST_FRAGMENT ? 18 : 0;
    if (!at || p[0] != VERSION || !p[at])
        return 0;
    int rc = r->atom_cache ? pt_atoms_read(p + at, *len - at, r->told, &refs) : PT_E_BAD_FRAME;
    if (rc == -ENOMEM)
        return rc;
    if (rc < 0)
        *len = at + 1;
    return 0;
}

static int deliver_held(struct pt_rx *r)
{
    struct pt_held *h;
    int rc = 0;
    while (!rc && (h = pt_order_ready(&r->order))) {
        const uint8_t *p = r->ops->bin_data(h->bin) + h->offset;
        size_t len = h->len;
        rc = note_atoms(r, p, &len);
        if (!rc)
            rc = deliver_one(r, h->number, len > PT_RX_DIRECT_MIN ? h->bin : NULL, p, len);
        drop_held(r, h);
    }
    return rc;
}

static int hold(struct pt_rx *r, const struct pt_frame *f, void *bin, const uint8_t *p, size_t len)
{
    struct pt_held *h = pt_zalloc(sizeof *h);
    int rc = -ENOMEM;

    if (!h)
        return rc;
    h->number = f->number;
    h->after = f->after;
    h->fence = f->flags & PT_FRAME_FENCE;
    h->len = len;
    if (bin && p == r->ops->bin_data(bin)) {
        r->ops->bin_ref(bin);
        h->bin = bin;
    } else if ((h->bin = r->ops->bin_new(len))) { /* it lies in a lane's buffer */
        memcpy(r->ops->bin_data(h->bin), p, len);
    }
    if (h->bin)
        rc = pt_order_hold(&r->order, h);
    if (rc) {
        if (h->bin)
            r->ops->bin_unref(h->bin);
        pt_free(h);
        return rc;
    }
    /* The largest is left out: the sender may pass its limit by one message of any size. Twice, so
     * that a peer may count a little differently. */
    if (r->order.held_count > r->max_held ||
        r->order.held_bytes - PT_MIN(r->order.held_bytes, r->order.held_largest) >
            2 * (size_t)PT_TXQ_SPECULATIVE)
        return PT_E_HELD_LIMIT;
    return 0;
}

int pt_rx_packet(struct pt_rx *r, const struct pt_frame *f, void *bin, const uint8_t *p, size_t len)
{
    int rc = pt_order_check(&r->order, f->number, f->after, f->flags & PT_FRAME_FENCE);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return hold(r, f, bin, p, len);
    rc = note_atoms(r, p, &len);
    if (!rc)
        rc = deliver_one(r, f->number, bin, p, len);
    return rc ? rc : deliver_held(r);
}

/* 131 68, the section, the rest, in a binary of its own. */
static void *assemble(struct pt_rx *r, const uint8_t *section, size_t n, const struct pt_bare *b)
{
    void *bin = r->ops->bin_new(2 + n + b->len);
    if (!bin)
        return NULL;
    uint8_t *p = r->ops->bin_data(bin);
    p[0] = 131;
    p[1] = 68;
    memcpy(p + 2, section, n);
    memcpy(p + 2 + n, b->bytes, b->len);
    return bin;
}

/* Its turn has come, and there is room for the header. */
static int deliver_in_place(struct pt_rx *r, const struct pt_frame *f, const uint8_t *section,
                            size_t n, const struct pt_bare *b)
{
    uint8_t *p = b->bytes - n - 2;
    memcpy(p + 2, section, n);
    p[0] = 131;
    p[1] = 68;
    return deliver_one(r, f->number, b->bin, p, 2 + n + b->len);
}

int pt_rx_known(struct pt_rx *r, const struct pt_rx_lane *l, const struct pt_frame *f,
                const struct pt_bare *b)
{
    size_t n = l->memo.out_len;
    int rc = pt_order_check(&r->order, f->number, f->after, f->flags & PT_FRAME_FENCE);
    if (rc <= 0)
        return rc;
    if (2 + n > b->room)
        return 0;
    rc = deliver_in_place(r, f, l->memo.out, n, b);
    if (!rc)
        rc = deliver_held(r);
    return rc ? rc : 1;
}

int pt_rx_bare(struct pt_rx *r, struct pt_rx_lane *l, const struct pt_frame *f,
               const struct pt_atom_refs *refs, const struct pt_bare *b)
{
    uint8_t section[PT_FRAME_SECTION_MAX];
    int rc = pt_order_check(&r->order, f->number, f->after, f->flags & PT_FRAME_FENCE);
    if (rc < 0)
        return rc;
    if (refs->count && !r->atom_cache)
        return PT_E_BAD_FRAME;
    bool now = rc > 0;
    size_t n = pt_atoms_write(section, refs->ref, refs->count, now ? r->told : NULL);
    size_t head = 2 + n;
    if (now)
        pt_atoms_remember(&l->memo, &l->atoms, r->told, b->section, b->section_len, section, n,
                          head);
    if (now && head <= b->room) {
        rc = deliver_in_place(r, f, section, n, b);
    } else {
        void *bin = assemble(r, section, n, b);
        if (!bin)
            return -ENOMEM;
        const uint8_t *p = r->ops->bin_data(bin);
        if (now)
            rc = deliver_one(r, f->number, b->bin ? bin : NULL, p, head + b->len);
        else
            rc = hold(r, f, bin, p, head + b->len);
        r->ops->bin_unref(bin);
    }
    return rc || !now ? rc : deliver_held(r);
}

/* ---- transfers ---- */

static struct pt_transfer *new_transfer(struct pt_rx *r, const struct pt_frame *f)
{
    struct pt_transfer *t = pt_alloc(sizeof *t);
    if (!t)
        return NULL;
    memset(t, 0, offsetof(struct pt_transfer, claimed));
    t->id = f->transfer;
    t->room = f->room;
    t->bin = r->ops->bin_new((size_t)f->room);
    if (t->bin && !pt_hmap_put(&r->transfers, t->id, t)) {
        r->room += t->room;
        return t;
    }
    if (t->bin)
        r->ops->bin_unref(t->bin);
    pt_free(t);
    return NULL;
}

int pt_rx_transfer(struct pt_rx *r, const struct pt_frame *f, struct pt_transfer **out)
{
    struct pt_transfer *t = pt_hmap_get(&r->transfers, f->transfer);

    if (f->room > r->max_message)
        return PT_E_TOO_LARGE;
    if (f->room > (t ? t->room : 0) && f->room - (t ? t->room : 0) > r->max_room - r->room)
        return PT_E_ROOM;
    if (!t) {
        if (r->transfers.count >= PT_RX_TRANSFERS)
            return PT_E_BAD_TRANSFER;
        t = new_transfer(r, f);
        if (!t)
            return -ENOMEM;
    } else if (f->room > t->room) {
        /* a sequence of fragments that is not the VM's own may outgrow its announcement */
        void *bin = r->ops->bin_grow(t->bin, (size_t)f->room);
        if (!bin)
            return -ENOMEM;
        t->bin = bin;
        r->room += f->room - t->room;
        t->room = f->room;
    }
    int rc = pt_transfer_claim(t, f);
    if (rc)
        return rc;
    t->under_way++;
    *out = t;
    return 0;
}

int pt_rx_chunk_arrived(struct pt_rx *r, struct pt_transfer *t, size_t len)
{
    t->under_way--;
    if (!pt_transfer_arrived(t, len))
        return 0;
    struct pt_frame f = {
        .number = t->number, .after = t->after, .flags = t->fence ? PT_FRAME_FENCE : 0};
    void *bin = t->bin;
    size_t total = (size_t)t->total;
    r->room -= t->room;
    pt_hmap_del(&r->transfers, t->id);
    pt_free(t);
    int rc = pt_rx_packet(r, &f, bin, r->ops->bin_data(bin), total);
    r->ops->bin_unref(bin);
    return rc;
}

int pt_rx_drop(struct pt_rx *r, uint64_t id)
{
    struct pt_transfer *t = pt_hmap_get(&r->transfers, id);
    if (!t || t->under_way)
        return PT_E_BAD_TRANSFER;
    r->room -= t->room;
    pt_hmap_del(&r->transfers, id);
    r->ops->bin_unref(t->bin);
    pt_free(t);
    return 0;
}

/* ---- acknowledgements ---- */

/* The third case: a little that came last on a slow lane may take the watermark past much that was
 * delivered before the last ACK but not covered by it. The peer may be waiting for just that. */
bool pt_rx_ack_due(const struct pt_rx *r)
{
    uint64_t news = r->order.watermark - r->acked;
    return news && (r->since_bytes >= PT_RX_ACK_BYTES || news >= PT_RX_ACK_COUNT ||
                    (r->uncovered_bytes >= PT_RX_ACK_BYTES && !r->order.beyond));
}

void pt_rx_ack_sent(struct pt_rx *r, uint64_t number)
{
    r->acked = number;
    bool covers_all = number == r->order.watermark && !r->order.beyond;
    r->uncovered_bytes = covers_all ? 0 : r->uncovered_bytes + r->since_bytes;
    r->since_bytes = 0;
}

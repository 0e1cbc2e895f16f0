#include "proto/rx_int.h"

#include <errno.h>
#include <string.h>

void pt_rx_lane_init(struct pt_rx_lane *l)
{
    memset(l, 0, sizeof *l);
    l->ctx.number = 1;
    l->want = PT_RX_BUF_MIN;
}

void pt_rx_lane_free(struct pt_rx *r, struct pt_rx_lane *l)
{
    if (l->bin)
        r->ops->bin_unref(l->bin);
    if (l->buf)
        r->ops->bin_unref(l->buf);
    l->bin = l->buf = NULL;
    pt_atom_table_free(&l->atoms);
}

static uint8_t *data(const struct pt_rx *r, const struct pt_rx_lane *l)
{
    return r->ops->bin_data(l->buf);
}

/* ---- where to read ---- */

static int replace_buffer(struct pt_rx *r, struct pt_rx_lane *l, size_t cap)
{
    size_t kept = l->end - l->start;
    void *buf = r->ops->bin_new(cap);
    if (!buf)
        return -ENOMEM;
    if (l->buf) {
        memcpy(r->ops->bin_data(buf), data(r, l) + l->start, kept);
        r->ops->bin_unref(l->buf);
    }
    l->buf = buf;
    l->cap = cap;
    l->start = 0;
    l->end = kept;
    return 0;
}

/* Room for a header and the longest payload that is not read in place. */
static int make_space(struct pt_rx *r, struct pt_rx_lane *l)
{
    size_t enough = PT_FRAME_HEAD_MAX + PT_RX_DIRECT_MIN;
    bool empty = l->start == l->end;

    if (!l->buf || (empty && l->cap != l->want))
        return replace_buffer(r, l, l->want);
    if (!empty && l->cap - l->end >= enough)
        return 0;
    if (r->ops->bin_shared(l->buf)) /* delivered packets lie in it */
        return l->cap - l->end >= enough ? 0 : replace_buffer(r, l, l->want);
    memmove(data(r, l), data(r, l) + l->start, l->end - l->start);
    l->end -= l->start;
    l->start = 0;
    return 0;
}

int pt_rx_space(struct pt_rx *r, struct pt_rx_lane *l, struct iovec iov[2])
{
    int n = 0;
    int rc = make_space(r, l);
    if (rc)
        return rc;
    size_t space = l->cap - l->end;
    if (l->body == PT_BODY_MSG || l->body == PT_BODY_CHUNK) {
        void *bin = l->body == PT_BODY_MSG ? l->bin : l->transfer->bin;
        iov[n++] = (struct iovec){r->ops->bin_data(bin) + l->at, l->left};
    }
    /* behind a chunk most likely comes another: what is read past its header must be copied */
    if (l->bulk && n)
        space = PT_MIN(space, (size_t)PT_RX_DIRECT_MIN);
    iov[n++] = (struct iovec){data(r, l) + l->end, space};
    return n;
}

/* ---- what was read ---- */

static struct pt_bare bare(void *bin, uint8_t *p, size_t len, size_t section, size_t room)
{
    return (struct pt_bare){.bin = bin,
                            .bytes = p + section,
                            .len = len - section,
                            .room = room + section,
                            .section = p,
                            .section_len = section};
}

static int msg_read(struct pt_rx *r, struct pt_rx_lane *l, const struct pt_frame *f, void *bin,
                    uint8_t *p, size_t room)
{
    struct pt_atom_refs refs;
    int section = pt_atoms_read(p, f->length, &l->atoms, &refs);
    if (section < 0)
        return section == PT_E_MORE ? PT_E_BAD_FRAME : section;
    if (pt_atoms_size(refs.ref, refs.count) > PT_FRAME_SECTION_MAX)
        return PT_E_BAD_FRAME;
    struct pt_bare b = bare(bin, p, f->length, (size_t)section, room);
    return pt_rx_bare(r, l, f, &refs, &b);
}

/* A whole MSG payload of f->length bytes at p, `room` bytes before it may be overwritten. */
static int msg_arrived(struct pt_rx *r, struct pt_rx_lane *l, const struct pt_frame *f, void *bin,
                       uint8_t *p, size_t room)
{
    if (!(f->flags & PT_FRAME_BARE))
        return pt_rx_packet(r, f, bin, p, f->length);
    if (pt_atoms_recall(&l->memo, &l->atoms, r->told, p, f->length)) {
        struct pt_bare b = bare(bin, p, f->length, l->memo.in_len, room);
        int rc = pt_rx_known(r, l, f, &b);
        if (PT_LIKELY(rc))
            return PT_MIN(rc, 0);
    }
    return msg_read(r, l, f, bin, p, room);
}

static int body_done(struct pt_rx *r, struct pt_rx_lane *l)
{
    enum pt_body body = l->body;
    l->body = PT_BODY_NONE;
    if (body == PT_BODY_CHUNK)
        return pt_rx_chunk_arrived(r, l->transfer, l->frame.length);
    if (body == PT_BODY_SKIP)
        return 0;
    void *bin = l->bin;
    l->bin = NULL;
    size_t room = l->at - l->frame.length;
    int rc = msg_arrived(r, l, &l->frame, bin, r->ops->bin_data(bin) + room, room);
    r->ops->bin_unref(bin);
    return rc;
}

/* Bytes at the buffer's front go to the payload. */
static int feed_body(struct pt_rx *r, struct pt_rx_lane *l)
{
    size_t n = PT_MIN(l->left, l->end - l->start);
    if (n && l->body != PT_BODY_SKIP) {
        void *bin = l->body == PT_BODY_MSG ? l->bin : l->transfer->bin;
        memcpy(r->ops->bin_data(bin) + l->at, data(r, l) + l->start, n);
    }
    l->start += n;
    l->at += n;
    l->left -= n;
    return l->left ? 0 : body_done(r, l);
}

static int start_body(struct pt_rx *r, struct pt_rx_lane *l, enum pt_body body,
                      const struct pt_frame *f, size_t at)
{
    l->body = body;
    l->frame = *f;
    l->at = at;
    l->left = f->length;
    l->bulk = body == PT_BODY_CHUNK;
    return feed_body(r, l);
}

static int on_msg(struct pt_rx *r, struct pt_rx_lane *l, const struct pt_frame *f, size_t head)
{
    if (l->end - l->start >= f->length) {
        uint8_t *p = data(r, l) + l->start;
        l->start += f->length;
        l->bulk = false;
        r->alone = l->start == l->end;
        return msg_arrived(r, l, f, f->length > PT_RX_COPY_MAX ? l->buf : NULL, p, head);
    }
    /* room for the longest header its references can become */
    size_t room = f->flags & PT_FRAME_BARE ? 2 + PT_FRAME_SECTION_MAX : 0;
    l->bin = r->ops->bin_new(room + f->length);
    if (!l->bin)
        return -ENOMEM;
    return start_body(r, l, PT_BODY_MSG, f, room);
}

static int on_auth(struct pt_rx *r, const struct pt_frame *f)
{
    uint8_t differs = 0;
    if (!r->auth)
        return PT_E_BAD_FRAME;
    for (unsigned i = 0; i < PT_FRAME_AUTH_LEN; i++)
        differs |= (uint8_t)(r->auth[i] ^ f->auth[i]);
    r->auth = NULL;
    return differs ? PT_E_BAD_AUTH : 0;
}

static int on_end(struct pt_rx *r, struct pt_rx_lane *l, const struct pt_frame *f)
{
    if (r->end.seen)
        return PT_E_BAD_FRAME;
    r->end.seen = true;
    r->end.last = f->after;
    r->end.streams = f->room;
    return start_body(r, l, PT_BODY_SKIP, f, 0); /* what a later version adds */
}

static int on_frame(struct pt_rx *r, struct pt_rx_lane *l, const struct pt_frame *f, size_t head)
{
    struct pt_transfer *t;
    int rc;

    switch (f->type) {
    case PT_FRAME_TICK: return 0;
    case PT_FRAME_MSG: return on_msg(r, l, f, head);
    case PT_FRAME_PART:
    case PT_FRAME_LAST:
        rc = pt_rx_transfer(r, f, &t);
        if (rc)
            return rc;
        l->transfer = t;
        return start_body(r, l, PT_BODY_CHUNK, f, (size_t)f->offset);
    case PT_FRAME_DROP: return pt_rx_drop(r, f->transfer);
    case PT_FRAME_ACK: return r->ops->acked(r->host, f->after);
    case PT_FRAME_AUTH: return on_auth(r, f);
    case PT_FRAME_END: return on_end(r, l, f);
    default: return start_body(r, l, PT_BODY_SKIP, f, 0);
    }
}

static int parse(struct pt_rx *r, struct pt_rx_lane *l, bool first)
{
    while (l->start < l->end) {
        if (l->body != PT_BODY_NONE) { /* only a payload to be skipped is left in the buffer */
            int rc = feed_body(r, l);
            if (rc)
                return rc;
            continue;
        }
        struct pt_frame f;
        struct pt_frame_ctx before = l->ctx;
        size_t avail = l->end - l->start;
        int head = pt_frame_decode(data(r, l) + l->start, avail, &f, &l->ctx);
        if (head == PT_E_MORE)
            return avail >= PT_FRAME_HEAD_MAX ? PT_E_BAD_FRAME : 0;
        if (head < 0)
            return head;
        if (r->auth && (!first || f.type != PT_FRAME_AUTH))
            return PT_E_BAD_AUTH;
        if (f.type == PT_FRAME_MSG && f.length <= PT_RX_DIRECT_MIN &&
            avail - (size_t)head < f.length) {
            l->ctx = before; /* short: wait until all of it is in the buffer */
            return 0;
        }
        l->start += (size_t)head;
        l->frames++;
        int rc = on_frame(r, l, &f, (size_t)head);
        if (rc)
            return rc;
    }
    return 0;
}

/* Small buffers for quiet lanes, large ones under load. */
static void adapt(struct pt_rx_lane *l, size_t n, size_t space)
{
    if (n >= space) {
        l->want = PT_RX_BUF_MAX;
        l->small_reads = 0;
    } else if (n > PT_RX_BUF_MIN / 2) {
        l->small_reads = 0;
    } else if (++l->small_reads >= 256) {
        l->want = PT_RX_BUF_MIN;
        l->small_reads = 0;
    }
}

static int take_in(struct pt_rx *r, struct pt_rx_lane *l, size_t n, bool first)
{
    l->bytes += n;
    if (l->body == PT_BODY_MSG || l->body == PT_BODY_CHUNK) {
        size_t in_place = PT_MIN(n, l->left);
        l->at += in_place;
        l->left -= in_place;
        n -= in_place;
        if (!l->left) {
            int rc = body_done(r, l);
            if (rc)
                return rc;
        }
    } else {
        adapt(l, n, l->cap - l->end);
    }
    l->end += n;
    return parse(r, l, first);
}

int pt_rx_got(struct pt_rx *r, struct pt_rx_lane *l, size_t n, bool first)
{
    if (r->error)
        return r->error;
    int rc = take_in(r, l, n, first);
    int delivered = pt_rx_flush_group(r); /* what came before an error is still good */
    r->error = rc ? rc : delivered;
    return r->error;
}

#include "support_session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- atom caches ---- */

static uint64_t mix(uint64_t h, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001B3);
    return (h ^ len) * UINT64_C(0x9E3779B97F4A7C15);
}

size_t sim_cache_read(struct sim_cache *c, const uint8_t *p, size_t len, uint64_t *digest)
{
    *digest = 0;
    if (!len)
        return 0;
    unsigned n = p[0];
    size_t at = n ? 1 + n / 2 + 1 : 1;
    if (at > len)
        return 0;
    bool wide = n && (p[1 + n / 2] >> (n % 2 * 4)) & 1;
    for (unsigned i = 0; i < n; i++) {
        unsigned flags = p[1 + i / 2] >> (i % 2 * 4) & 15;
        if (at >= len)
            return 0;
        unsigned slot = (flags & 7) * 256 + p[at++];
        if (flags & 8) {
            if (at + 1 + wide > len)
                return 0;
            size_t text = wide ? pt_get16(p + at) : p[at];
            at += 1 + wide;
            if (text > SIM_ATOM_TEXT || at + text > len)
                return 0;
            memcpy(c->slot[slot].text, p + at, text);
            c->slot[slot].len = (uint16_t)text;
            c->slot[slot].filled = true;
            at += text;
        }
        if (!c->slot[slot].filled)
            return 0;
        *digest = mix(*digest + slot, c->slot[slot].text, c->slot[slot].len);
    }
    return at;
}

/* The section a VM writes for a message: a few of not many slots, now and then with a new atom. */
static size_t make_section(struct sim_cache *c, struct sup_rng *r, uint8_t *out)
{
    unsigned n = (unsigned)sup_below(r, 6), used[6];
    bool wide = sup_below(r, 30) == 0;
    size_t at = n ? 1 + n / 2 + 1 : 1;

    out[0] = (uint8_t)n;
    memset(out + 1, 0, at - 1);
    for (unsigned i = 0; i < n; i++) {
        unsigned slot = (unsigned)sup_below(r, 60) * 34, k = 0;
        while (k < i)
            k = used[k] == slot ? (slot = (slot + 34) % 2040, 0) : k + 1;
        used[i] = slot;
        bool fresh = !c->slot[slot].filled || sup_chance(r, 10);
        out[1 + i / 2] |= (uint8_t)((slot / 256 | (fresh ? 8 : 0)) << (i % 2 * 4));
        out[at++] = (uint8_t)slot;
        if (!fresh)
            continue;
        size_t len = wide && i == 0 ? 260 : 1 + sup_below(r, 20);
        if (wide)
            out[at++] = (uint8_t)(len >> 8);
        out[at++] = (uint8_t)len;
        for (size_t b = 0; b < len; b++)
            out[at + b] = (uint8_t)('a' + sup_below(r, 26));
        at += len;
    }
    if (wide && n)
        out[1 + n / 2] |= (uint8_t)(1 << (n % 2 * 4));
    return at;
}

/* ---- oracle ---- */

static void violation(struct sim_oracle *o, const char *fmt, ...)
{
    va_list ap;
    if (o->violation[0])
        return;
    va_start(ap, fmt);
    vsnprintf(o->violation, sizeof o->violation, fmt, ap);
    va_end(ap);
}

void sim_oracle_free(struct sim_oracle *o)
{
    free(o->records);
    free(o->order);
    free(o->told);
    memset(o, 0, sizeof *o);
}

uint64_t sim_oracle_id(struct sim_oracle *o, size_t size, enum pt_order kind, bool bare)
{
    if (o->ids + 2 > o->capacity) {
        o->capacity = o->capacity ? o->capacity * 2 : 1024;
        o->records = realloc(o->records, o->capacity * sizeof *o->records);
        o->order = realloc(o->order, o->capacity * sizeof *o->order);
        if (!o->records || !o->order)
            abort();
    }
    o->records[++o->ids] =
        (struct sim_record){.size = (uint32_t)size, .kind = (uint8_t)kind, .bare = bare};
    return o->ids;
}

void sim_oracle_submit(struct sim_oracle *o, uint64_t id, uint64_t key)
{
    struct sim_record *r = &o->records[id];
    r->index = ++o->submitted;
    o->order[r->index] = id;
    r->fence_before = o->fence_last;
    if (r->kind == PT_ORDER_SENDER) {
        r->before = o->flow_last[key];
        o->flow_last[key] = id;
    } else if (r->kind == PT_ORDER_FENCE) {
        o->fence_last = id;
    }
    if (!o->low)
        o->low = 1;
}

void sim_bytes(uint8_t *out, uint64_t id, size_t size, size_t from, size_t n)
{
    uint8_t head[8];
    pt_put64(head, id);
    for (size_t i = 0; i < n; i++) {
        size_t at = from + i;
        out[i] = size < SIM_TINY ? (uint8_t)(0x50 + size)
                 : at < 8        ? head[at]
                                 : (uint8_t)(id * 31 + at * 7 + (at >> 8));
    }
}

static uint64_t tiny(const struct sim_oracle *o, size_t size, bool bare)
{
    for (uint64_t i = PT_MAX(o->low, 1); i <= o->submitted; i++) {
        const struct sim_record *r = &o->records[o->order[i]];
        if (!r->delivered && r->size == size && r->bare == bare)
            return o->order[i];
    }
    return 0;
}

/* Which message is it, and are its bytes its own? 0 if not. */
static uint64_t identify(struct sim_oracle *o, const uint8_t *p, size_t len)
{
    static uint8_t want[SIM_MAX_SIZE];
    bool bare = len >= 3 && p[0] == 131 && p[1] == 68;
    uint64_t atoms = 0;
    if (bare) {
        if (!o->told && !(o->told = calloc(1, sizeof *o->told)))
            abort();
        size_t section = sim_cache_read(o->told, p + 2, len - 2, &atoms);
        if (!section) {
            violation(o, "delivered: a section the VM cannot read");
            return 0;
        }
        p += 2 + section;
        len -= 2 + section;
    }
    uint64_t id = len < SIM_TINY ? tiny(o, len, bare) : pt_get64(p);
    if (!id || id > o->ids) {
        violation(o, "delivered: %zu bytes of no message", len);
        return 0;
    }
    const struct sim_record *r = &o->records[id];
    if (r->size != len || r->bare != bare || !r->index) {
        violation(o, "message %llu: %zu bytes (bare %d) instead of %u (%d), index %llu",
                  (unsigned long long)id, len, bare, r->size, r->bare,
                  (unsigned long long)r->index);
        return 0;
    }
    if (len >= SIM_TINY && r->atoms != atoms) {
        violation(o, "message %llu: its references mean other atoms", (unsigned long long)id);
        return 0;
    }
    sim_bytes(want, id, len, 0, len);
    if (memcmp(want, p, len) != 0) {
        violation(o, "message %llu of %zu bytes: contents", (unsigned long long)id, len);
        return 0;
    }
    return id;
}

void sim_oracle_deliver(struct sim_oracle *o, const uint8_t *p, size_t len)
{
    uint64_t id = identify(o, p, len);
    if (!id)
        return;
    struct sim_record *r = &o->records[id];
    unsigned long long n = id;
    if (r->delivered)
        violation(o, "message %llu: delivered twice", n);
    if (r->before && !o->records[r->before].delivered)
        violation(o, "message %llu: before %llu of the same sender", n,
                  (unsigned long long)r->before);
    if (r->fence_before && !o->records[r->fence_before].delivered)
        violation(o, "message %llu: before fence %llu", n, (unsigned long long)r->fence_before);
    bool fence = r->kind == PT_ORDER_FENCE || r->kind == PT_ORDER_HALF_FENCE;
    if (fence && r->index != o->low)
        violation(o, "fence %llu: before message %llu", n, (unsigned long long)o->order[o->low]);
    o->delivered += !r->delivered;
    r->delivered = true;
    while (o->low <= o->submitted && o->records[o->order[o->low]].delivered)
        o->low++;
}

/* ---- receiving ---- */

static int on_deliver(void *host, void *bin, const uint8_t *p, size_t len)
{
    struct sim_end *e = host;
    if (bin &&
        (p < sup_bin_data(bin) || p + len > sup_bin_data(bin) + ((struct sup_bin *)bin)->size))
        violation(&e->peer->sent, "delivered bytes lie outside their block");
    sim_oracle_deliver(&e->peer->sent, p, len);
    return 0;
}

static int on_ack(void *host, uint64_t number)
{
    struct sim_end *e = host;
    return pt_txq_ack(&e->q, number);
}

static const struct pt_rx_ops rx_ops = {sup_bin_new, sup_bin_grow,  sup_bin_data, sup_bin_shared,
                                        sup_bin_ref, sup_bin_unref, on_deliver,   on_ack};

static void note(struct sim *s, int rc)
{
    if (rc < 0 && !s->error)
        s->error = rc;
}

size_t sim_pump_rx(struct sim_end *e, unsigned lane, size_t n)
{
    struct sim_pipe *pipe = &e->peer->pipe[lane];
    struct iovec iov[2];

    n = PT_MIN(n, pipe->end - pipe->start);
    if (e->rx_stalled[lane] || !n || e->sim->error)
        return 0;
    int parts = pt_rx_space(&e->rx, &e->lane[lane], iov);
    note(e->sim, parts);
    if (parts < 0)
        return 0;
    size_t done = 0;
    for (int i = 0; i < parts && done < n; i++) {
        size_t part = PT_MIN(n - done, iov[i].iov_len);
        memcpy(iov[i].iov_base, pipe->at + pipe->start, part);
        pipe->start += part;
        done += part;
    }
    sup_must(done > 0); /* there is always room for something */
    note(e->sim, pt_rx_got(&e->rx, &e->lane[lane], done, lane == 0));
    struct pt_order_rx *o = &e->rx.order;
    e->speculative_held_peak =
        PT_MAX(e->speculative_held_peak, o->held_bytes - PT_MIN(o->held_bytes, o->held_largest));
    e->ack_value = o->watermark;
    if (pt_rx_ack_due(&e->rx)) {
        e->ack_now = true;
        pt_rx_ack_sent(&e->rx, o->watermark);
    }
    return done;
}

/* ---- sending ---- */

static size_t pipe_write(struct sim_pipe *p, const uint8_t *from, size_t n)
{
    if (p->start == p->end)
        p->start = p->end = 0;
    n = PT_MIN(n, p->limit - p->end);
    memcpy(p->at + p->end, from, n);
    p->end += n;
    return n;
}

static void control(struct sim_end *e, struct pt_batch *b)
{
    struct sup_rng *rng = &e->sim->r.rng;
    bool wanted = e->ack_now || (!e->sim->acks_when_due && sup_chance(rng, 20));

    if (wanted && e->ack_value != e->ack_sent) {
        struct pt_frame f = {.type = PT_FRAME_ACK, .after = e->ack_value};
        if (pt_batch_control(b, &f)) {
            e->ack_sent = e->ack_value;
            e->ack_now = false;
        }
    }
    if (sup_chance(rng, 1))
        pt_batch_control(b, &(struct pt_frame){.type = PT_FRAME_TICK});
}

size_t sim_pump_tx(struct sim_end *e, unsigned lane, size_t n)
{
    struct sim *s = e->sim;
    struct pt_batch *b = e->batch[lane];
    unsigned want = PT_WANT_SMALL | PT_WANT_BULK;

    if (e->tx_stalled[lane] || s->error)
        return 0;
    if (!s->any_lane && s->lanes > 1)
        want = lane ? PT_WANT_BULK : PT_WANT_SMALL;
    if (!b->bytes) {
        control(e, b);
        int rc = pt_batch_fill(b, &e->q, want, s->chunk);
        note(s, s->refill && rc == -ENOMEM ? 0 : rc);
    }
    size_t done = 0, total = 0;
    for (unsigned i = b->first; i < b->count; i++)
        total += b->room->iov[i].iov_len;
    sup_must(total == b->bytes);
    for (unsigned i = b->first; i < b->count && done < n; i++) {
        size_t part = PT_MIN(n - done, b->room->iov[i].iov_len);
        size_t sent = pipe_write(&e->pipe[lane], b->room->iov[i].iov_base, part);
        done += sent;
        if (sent < part)
            break;
    }
    if (done)
        pt_batch_sent(b, done, &sup_owner_ops);
    return done;
}

enum { SECTION = 700 };

/* What the VM writes in front of a message; 0: nothing. */
static size_t say_atoms(struct sim_end *e, uint64_t id, uint8_t section[SECTION])
{
    struct sim_record *record = &e->sent.records[id];
    if (!record->bare || record->size < SIM_TINY)
        return 0;
    size_t len = make_section(e->cache, &e->sim->r.rng, section);
    sup_must(sim_cache_read(e->cache, section, len, &record->atoms) == len);
    return len;
}

/* The short way, as a scheduler goes that finds the lane free. */
static bool pass(struct sim_end *e, uint64_t id, uint64_t key, size_t size, const uint8_t *section,
                 size_t len)
{
    uint8_t bytes[PT_BATCH_COPY];
    struct pt_batch *b = e->batch[0];

    if (!len || e->tx_stalled[0] || size > sizeof bytes || sup_chance(&e->sim->r.rng, 50))
        return false;
    if (!b->bytes)
        control(e, b);
    sim_bytes(bytes, id, size, 0, size);
    struct pt_small m = {.key = key, .section = section, .there = len, .bytes = bytes, .len = size};
    return pt_batch_pass(b, &e->q, &e->atoms, &m);
}

static struct pt_msg *make(struct sim_end *e, uint64_t id, size_t total, size_t n,
                           const uint8_t *section, size_t len)
{
    static uint8_t buf[SIM_MAX_SIZE];
    struct sup_rng *r = &e->sim->r.rng;
    struct sim_record *record = &e->sent.records[id];
    struct pt_atom_refs refs = {0};

    sim_bytes(buf, id, total, 0, n);
    if (len) {
        int rc = pt_atoms_read(section, len, &e->atoms, &refs);
        if (rc < 0) { /* the VM has told what the driver did not take in: the end */
            sup_must(rc == -ENOMEM);
            note(e->sim, rc);
            return NULL;
        }
        sup_must((size_t)rc == len);
        /* too long for a BARE message, the driver sends it another way: not our business */
        if (pt_atoms_size(refs.ref, refs.count) > PT_ATOM_SECTION_MAX)
            refs.count = 0, record->atoms = 0;
    }
    return sup_msg_atoms(buf, n, sup_chance(r, 70) ? r : NULL, refs.ref, refs.count);
}

uint64_t sim_send(struct sim_end *e, enum pt_order kind, uint64_t key, size_t size, bool bare)
{
    uint64_t id = sim_oracle_id(&e->sent, size, kind, bare);
    uint8_t section[SECTION];
    size_t len = say_atoms(e, id, section);
    if (kind == PT_ORDER_SENDER && pass(e, id, key, size, section, len)) {
        sim_oracle_submit(&e->sent, id, key);
        e->passed++;
        return id;
    }
    struct pt_msg *m = make(e, id, size, size, section, len);
    if (!m)
        return 0;
    m->kind = (uint8_t)kind;
    m->key = kind == PT_ORDER_SENDER ? key : 0;
    m->bare = bare;
    if (pt_txq_submit(&e->q, m)) {
        pt_msg_free(m, &sup_owner_ops);
        return 0;
    }
    sim_oracle_submit(&e->sent, id, key);
    return id;
}

bool sim_open_message(struct sim_end *e, enum pt_order kind, uint64_t key, size_t total, size_t now)
{
    if (e->nopen == SIM_OPEN)
        return false;
    uint64_t id = sim_oracle_id(&e->sent, total, kind, false);
    struct pt_msg *m = make(e, id, total, now, NULL, 0);
    if (!m)
        return false;
    m->kind = (uint8_t)kind;
    m->key = kind == PT_ORDER_SENDER ? key : 0;
    m->room = total + sup_below(&e->sim->r.rng, 2) * 1000; /* a bound, not always exact */
    e->open[e->nopen++] = (struct sim_open){m, id, key, total};
    pt_txq_open(&e->q, m);
    return true;
}

bool sim_grow(struct sim_end *e, unsigned which, size_t by)
{
    static uint8_t buf[SIM_MAX_SIZE];
    struct sim_open *o = &e->open[which];
    size_t before = o->msg->size;

    by = PT_MIN(by, o->total - before);
    if (!by)
        return true;
    sim_bytes(buf, o->id, o->total, before, by);
    int added = sup_append(o->msg, buf, by, sup_chance(&e->sim->r.rng, 70) ? &e->sim->r.rng : NULL);
    if (added < 0)
        return false;
    pt_txq_grown(&e->q, o->msg, (size_t)added);
    return true;
}

bool sim_finish(struct sim_end *e, unsigned which)
{
    struct sim_open o = e->open[which];
    if (!sim_grow(e, which, o.total) || pt_txq_finish(&e->q, o.msg))
        return false;
    sim_oracle_submit(&e->sent, o.id, o.key);
    e->open[which] = e->open[--e->nopen];
    return true;
}

/* ---- both ---- */

void sim_attach(struct sim *s)
{
    unsigned lane = s->lanes;
    if (lane == SIM_LANES)
        return;
    for (unsigned i = 0; i < 2; i++) {
        struct sim_end *e = &s->end[i];
        if (!e->batch[lane])
            e->batch[lane] = pt_batch_new(lane);
        if (!e->batch[lane]) {
            note(s, -ENOMEM);
            return;
        }
    }
    s->lanes++;
    s->end[0].q.lanes = s->end[1].q.lanes = s->lanes;
}

void sim_init(struct sim *s, uint64_t seed, unsigned lanes)
{
    memset(s, 0, sizeof *s);
    s->r.seed = s->r.rng.s = seed;
    s->chunk = 64 * 1024;
    for (unsigned i = 0; i < 2; i++) {
        struct sim_end *e = &s->end[i];
        e->sim = s;
        e->peer = &s->end[1 - i];
        note(s, pt_txq_init(&e->q, &sup_owner_ops));
        e->cache = calloc(1, sizeof *e->cache);
        if (!e->cache)
            abort();
        pt_rx_init(&e->rx, &rx_ops, e, SIM_MAX_SIZE, NULL);
        for (unsigned k = 0; k < SIM_LANES; k++) {
            pt_rx_lane_init(&e->lane[k]);
            e->pipe[k].limit = 256 * 1024;
            e->pipe[k].at = malloc(e->pipe[k].limit);
            if (!e->pipe[k].at)
                abort();
        }
    }
    while (s->lanes < lanes && !s->error)
        sim_attach(s);
}

void sim_free(struct sim *s)
{
    for (unsigned i = 0; i < 2; i++) {
        struct sim_end *e = &s->end[i];
        for (unsigned k = 0; k < SIM_LANES; k++) {
            pt_batch_free(e->batch[k], &sup_owner_ops);
            pt_rx_lane_free(&e->rx, &e->lane[k]);
            free(e->pipe[k].at);
        }
        pt_txq_free(&e->q);
        pt_rx_free(&e->rx);
        pt_atom_table_free(&e->atoms);
        free(e->cache);
        sim_oracle_free(&e->sent);
    }
}

void sim_check(struct sim *s)
{
    for (unsigned i = 0; i < 2; i++)
        if (s->end[i].sent.violation[0])
            ck_abort_msg("seed %llu, from end %u: %s", (unsigned long long)s->r.seed, i,
                         s->end[i].sent.violation);
    if (s->error && !s->expect_errors)
        ck_abort_msg("seed %llu: %s", (unsigned long long)s->r.seed, pt_strerror(s->error));
}

void sim_settle(struct sim *s)
{
    size_t moved;
    do {
        moved = 0;
        for (unsigned i = 0; i < 2; i++)
            for (unsigned k = 0; k < s->lanes; k++) {
                moved += sim_pump_tx(&s->end[i], k, SIZE_MAX);
                moved += sim_pump_rx(&s->end[1 - i], k, SIZE_MAX);
            }
        sim_check(s);
    } while (moved);
}

static void check_end(struct sim_end *e)
{
    const struct sim_oracle *o = &e->sent;
    const struct pt_rx *rx = &e->peer->rx;
    unsigned long long seed = e->sim->r.seed;

    if (o->delivered != o->submitted)
        ck_abort_msg("seed %llu: stuck: %llu of %llu delivered; queue holds %zu messages, %s, "
                     "speculative %zu, blocked %d, behind %d, held %zu, transfers %zu",
                     seed, (unsigned long long)o->delivered, (unsigned long long)o->submitted,
                     e->q.messages, pt_txq_idle(&e->q) ? "idle" : "not idle", e->q.speculative,
                     !pt_list_empty(&e->q.blocked), !pt_list_empty(&e->q.behind),
                     rx->order.held_count, rx->transfers.count);
    sup_must(o->low == o->submitted + 1 || !o->submitted);
    sup_must(pt_txq_idle(&e->q));
    sup_must(pt_list_empty(&e->q.blocked));
    sup_must(pt_list_empty(&e->q.behind));
    sup_must(e->q.messages == 0);
    sup_must(e->q.active == 0);
    sup_must(rx->order.held_count == 0 && rx->order.held_bytes == 0);
    sup_must(rx->order.beyond == 0);
    sup_must(rx->order.watermark == e->q.next_number - 1);
    sup_must(rx->transfers.count <= e->nopen);
    size_t waiting = 0;
    for (unsigned i = 0; i < e->nopen; i++)
        waiting += e->open[i].msg->size - e->open[i].msg->emitted;
    sup_must(e->q.bytes == waiting);
    /* an acknowledgement of everything leaves no flow behind */
    sup_must(pt_txq_ack(&e->q, rx->order.watermark) == 0);
    sup_must(pt_txq_flows(&e->q) == 0);
    sup_must(e->q.speculative == 0);
    sup_must(pt_txq_unacked(&e->q) == 0);
}

void sim_check_done(struct sim *s)
{
    sim_check(s);
    for (unsigned i = 0; i < 2; i++)
        check_end(&s->end[i]);
}

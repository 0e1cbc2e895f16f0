/* Atom references from VM to VM: the driver's own sending side (vm/tx.c, vm/join.c), lanes that cut
 * and stall, the receiving side, and a model of each VM's cache written from OTP's document alone.
 * Whatever way and in whatever order messages travel, each must be decoded with the atoms it was
 * encoded with. */
#include "support.h"

/* The glue is not in the library: it takes the VM's calls, which are answered below. */
#include "vm/join.c"
#include "vm/stage.c"
#include "vm/tx.c"

#include "proto/rx_int.h"

#include <stdio.h>

/* ---- what the VM would provide ---- */

struct pt_node pt_node;
const struct pt_owner_ops pt_host_owner_ops = {sup_bin_ref, sup_bin_unref};

void set_busy_port(ErlDrvPort port, int on)
{
    (void)port;
    (void)on;
}

int driver_set_timer(ErlDrvPort port, unsigned long ms)
{
    (void)port;
    (void)ms;
    return 0;
}

void pt_peer_wake(struct pt_peer *p) { (void)p; }

void pt_peer_more_lanes(struct pt_peer *p) { (void)p; }

uint64_t pt_now_ns(void) { return 0; }

/* Sending and the limits are not under test: the lanes are emptied below. */
void pt_cap_account(struct pt_stream *s) { (void)s; }

bool pt_stream_is_full(const struct pt_stream *s)
{
    (void)s;
    return false;
}

bool pt_stream_is_low(const struct pt_stream *s)
{
    (void)s;
    return true;
}

bool pt_stream_plenty(const struct pt_stream *s)
{
    (void)s;
    return false;
}

/* What is staged goes straight into the batch, or into the queue. */
static bool lane_is_free;

struct pt_batch *pt_stream_batch(struct pt_stream *s, unsigned lane)
{
    (void)lane;
    return lane_is_free ? s->lanes[0].batch : NULL;
}

int pt_stream_send(struct pt_stream *s, unsigned first)
{
    (void)s;
    (void)first;
    return 0;
}

/* ---- atoms: more than slots in use, so that they collide ---- */

enum { ATOMS = 900, SLOTS_USED = 300, LANES = 4, SENDERS = 12, MAX_BODY = 400 * 1024 };

static unsigned slot_of(unsigned atom) { return atom % SLOTS_USED * 2047 / SLOTS_USED; }

/* Its text: mostly short, some empty, some longer than a byte can tell. */
static size_t text_of(unsigned atom, uint8_t *out)
{
    struct sup_rng r = {atom};
    static const unsigned lens[] = {1, 3, 6, 10, 20, 60, 254, 255, 256, 257, 1019, 1020, 0};
    size_t len = sup_chance(&r, 85) ? 2 + sup_below(&r, 12) : lens[sup_below(&r, 13)];
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)sup_rand(&r);
    for (size_t i = 0; i < 2 && i < len; i++) /* so that texts of two bytes and more differ */
        out[i] = (uint8_t)(atom >> 8 * i);
    return len;
}

/* ---- the session ---- */

struct message {
    unsigned atoms[255], count, sender;
    size_t body;
    uint64_t before; /* the sender's message before it */
    bool delivered;
};

struct fragments {
    uint8_t *body;
    size_t size, at;
    uint64_t seq_id, left;
};

struct run {
    struct sup_rng rng;
    struct pt_peer *p;
    struct pt_rx rx;
    struct pt_rx_lane lane[LANES];
    struct {
        uint8_t *at;
        size_t start, end;
        bool stalled;
    } pipe[LANES];
    unsigned lanes;
    /* the VMs; text NULL: empty */
    int out_cache[2048];
    struct {
        bool filled;
        uint16_t len;
        uint8_t text[PT_ATOM_TEXT_MAX];
    } in_cache[2048];
    struct message *messages; /* by id, from 1 */
    uint64_t count, delivered, last[SENDERS], seq;
    struct fragments open[SENDERS];
    uint64_t refuse_at; /* the receiving VM refuses this delivery, counted from 1; 0: none */
    uint64_t calls;
    bool over; /* the receiving side has failed: nothing may be delivered */
    int error;
};

/* ---- the receiving VM ---- */

/* Reads a section as OTP's document describes it, NULL if it cannot. */
static const uint8_t *vm_read(struct run *r, const uint8_t *p, const uint8_t *end, unsigned *slots,
                              unsigned *count)
{
    if (p == end)
        return NULL;
    *count = *p++;
    if (!*count)
        return p;
    const uint8_t *flags = p;
    if ((size_t)(end - p) < *count / 2 + 1)
        return NULL;
    p += *count / 2 + 1;
    bool wide = flags[*count / 2] >> (*count % 2 ? 4 : 0) & 1;
    for (unsigned i = 0; i < *count; i++) {
        unsigned nibble = flags[i / 2] >> (i % 2 ? 4 : 0) & 15;
        if (p == end)
            return NULL;
        slots[i] = (nibble & 7) << 8 | *p++;
        if (nibble & 8) {
            if (end - p < 1 + wide)
                return NULL;
            size_t len = wide ? pt_get16(p) : *p;
            p += 1 + wide;
            if (len > PT_ATOM_TEXT_MAX || (size_t)(end - p) < len)
                return NULL;
            memcpy(r->in_cache[slots[i]].text, p, len);
            r->in_cache[slots[i]].len = (uint16_t)len;
            r->in_cache[slots[i]].filled = true;
            p += len;
        }
        if (!r->in_cache[slots[i]].filled)
            return NULL;
    }
    return p;
}

static void body_bytes(uint8_t *out, uint64_t id, size_t size);

/* The packet of a message that was sent; false: none of those. */
static bool recognise(struct run *r, const uint8_t *p, const uint8_t *end, const unsigned *slots,
                      unsigned count)
{
    static uint8_t want[MAX_BODY];
    enum { ID_AT = 2 + 2 + 4 + 12 + 1 };
    if (end - p < ID_AT + 8)
        return false;
    uint64_t id = pt_get64(p + ID_AT);
    if (!id || id > r->count)
        return false;
    struct message *m = &r->messages[id];
    sup_must((size_t)(end - p) == m->body);
    body_bytes(want, id, m->body);
    pt_put32(want + 8, m->sender + 1);
    sup_must(!memcmp(want, p, m->body));
    sup_must(!m->delivered);
    sup_must(!m->before || r->messages[m->before].delivered);
    sup_must(m->count == count);
    for (unsigned i = 0; i < count; i++) {
        uint8_t text[PT_ATOM_TEXT_MAX];
        size_t len = text_of(m->atoms[i], text);
        if (len != r->in_cache[slots[i]].len || memcmp(text, r->in_cache[slots[i]].text, len))
            ck_abort_msg("message %llu: reference %u, slot %u: another atom",
                         (unsigned long long)id, i, slots[i]);
    }
    m->delivered = true;
    r->delivered++;
    return true;
}

static int on_deliver(void *host, void *bin, const uint8_t *p, size_t len)
{
    struct run *r = host;
    unsigned slots[255], count;

    sup_must(!r->over);
    if (bin)
        sup_must(p >= sup_bin_data(bin) &&
                 p + len <= sup_bin_data(bin) + ((struct sup_bin *)bin)->size);
    if (++r->calls == r->refuse_at)
        goto refused;
    size_t at = len > 2 && p[1] == 68 ? 2 : len > 18 && p[1] == 69 ? 18 : 0;
    if (!at || p[0] != 131)
        goto refused;
    const uint8_t *rest = vm_read(r, p + at, p + len, slots, &count);
    if (!rest)
        goto refused;
    if (!recognise(r, rest, p + len, slots, count))
        goto refused;
    return 0;
refused:
    r->over = true;
    return -ESHUTDOWN;
}

static int on_ack(void *host, uint64_t number)
{
    (void)host;
    (void)number;
    return PT_E_BAD_FRAME; /* the sender's business: this end sends no messages */
}

static const struct pt_rx_ops rx_ops = {sup_bin_new, sup_bin_grow,  sup_bin_data, sup_bin_shared,
                                        sup_bin_ref, sup_bin_unref, on_deliver,   on_ack};

/* ---- the sending VM ---- */

static size_t vm_write(struct run *r, const struct message *m, uint8_t *out)
{
    bool fresh[255], wide = false;
    uint8_t text[PT_ATOM_TEXT_MAX], *p = out;

    for (unsigned i = 0; i < m->count; i++) {
        unsigned slot = slot_of(m->atoms[i]);
        fresh[i] = r->out_cache[slot] != (int)m->atoms[i];
        r->out_cache[slot] = (int)m->atoms[i];
        /* The VM sets LONG if a referred atom is long, new or not. */
        wide = wide || text_of(m->atoms[i], text) > 255;
    }
    *p++ = (uint8_t)m->count;
    if (!m->count)
        return 1;
    uint8_t *flags = p;
    memset(flags, 0, m->count / 2 + 1);
    p += m->count / 2 + 1;
    if (wide)
        flags[m->count / 2] |= (uint8_t)(1 << (m->count % 2 ? 4 : 0));
    for (unsigned i = 0; i < m->count; i++) {
        unsigned slot = slot_of(m->atoms[i]);
        flags[i / 2] |= (uint8_t)((slot >> 8 | (fresh[i] ? 8u : 0u)) << (i % 2 ? 4 : 0));
        *p++ = (uint8_t)slot;
        if (!fresh[i])
            continue;
        size_t len = text_of(m->atoms[i], text);
        if (wide)
            *p++ = (uint8_t)(len >> 8);
        *p++ = (uint8_t)len;
        memcpy(p, text, len);
        p += len;
    }
    return (size_t)(p - out);
}

/* {22, <sender>, ...}: as much of it as the scanner looks at, the message's number, and filling. */
static void body_bytes(uint8_t *out, uint64_t id, size_t size)
{
    static const uint8_t control[] = {104, 3, 97, 22, 88, 119, 1, 'n'};
    struct sup_rng f = {id};
    sup_must(size >= 29 && size <= MAX_BODY);
    memcpy(out, control, sizeof control);
    memset(out + 8, 0, 12);
    out[20] = 106;
    pt_put64(out + 21, id);
    for (size_t i = 29; i < size; i += 8) {
        uint64_t word = sup_rand(&f);
        memcpy(out + i, &word, PT_MIN(size - i, (size_t)8));
    }
}

/* A packet to the driver, its header in the second element as the VM has it. */
static void output(struct run *r, const uint8_t *head, size_t head_len, const uint8_t *body,
                   size_t size)
{
    void *bin = size && sup_chance(&r->rng, 60) ? sup_bin_new(size) : NULL;
    if (bin)
        memcpy(sup_bin_data(bin), body, size);
    const uint8_t *at = bin ? sup_bin_data(bin) : body;
    size_t cut = size ? sup_below(&r->rng, size) : 0;
    SysIOVec iov[4] = {{NULL, 0},
                       {(char *)(uintptr_t)head, head_len},
                       {(char *)(uintptr_t)at, cut},
                       {(char *)(uintptr_t)(at + cut), size - cut}};
    ErlDrvBinary *binv[4] = {NULL, NULL, bin, bin};
    ErlIOVec ev = {4, head_len + size, iov, binv};
    int rc = pt_tx_output(r->p, &ev);
    if (rc && !r->error)
        r->error = rc;
    if (bin)
        sup_bin_unref(bin);
}

static void choose_atoms(struct run *r, struct message *m)
{
    static const unsigned most[] = {0, 1, 2, 3, 4, 6, 12, 40, 255};
    unsigned want = most[sup_below(&r->rng, 9)];
    if (want == 40 || (want == 255 && sup_chance(&r->rng, 80)))
        want = 1 + (unsigned)sup_below(&r->rng, want);
    bool taken[2048] = {false};
    while (m->count < want) {
        /* neighbours in time mean the same atoms, so that some references are not NEW */
        unsigned range = want > 40 ? ATOMS : 60 * (1 + (unsigned)sup_below(&r->rng, 15));
        unsigned atom = (unsigned)sup_below(&r->rng, range);
        if (taken[slot_of(atom)]) {
            if (want > 40)
                want--;
            continue; /* as text, in the VM */
        }
        taken[slot_of(atom)] = true;
        m->atoms[m->count++] = atom;
    }
}

static size_t random_body(struct sup_rng *r)
{
    switch (sup_below(r, 24)) {
    case 0: return PT_FRAME_SINGLE_MAX - 3 + sup_below(r, 6);
    case 1: return 29 + sup_below(r, 300 * 1024);
    case 2: return 29 + sup_below(r, 70 * 1024);
    case 3:
    case 4: return 29 + sup_below(r, 6000);
    default: return 29 + sup_below(r, 150);
    }
}

/* The next fragment of a sender's message. */
static void go_on(struct run *r, struct fragments *f)
{
    uint8_t head[18] = {131, 70};
    size_t n = f->left == 1 ? f->size - f->at : PT_MIN(f->size - f->at, (size_t)VM_FRAGMENT);
    pt_put64(head + 2, f->seq_id);
    pt_put64(head + 10, f->left);
    output(r, head, sizeof head, f->body + f->at, n);
    f->at += n;
    if (--f->left == 0) {
        free(f->body);
        *f = (struct fragments){0};
    }
}

/* The next message of a sender; its atoms and its encoding are still to come. */
static struct message *begin_message(struct run *r, unsigned sender, size_t body)
{
    if ((r->count & (r->count + 1)) == 0)
        r->messages = realloc(r->messages, (size_t)(2 * r->count + 2) * sizeof *r->messages);
    sup_must(r->messages);
    struct message *m = &r->messages[++r->count];
    *m = (struct message){.sender = sender, .body = body, .before = r->last[sender]};
    r->last[sender] = r->count;
    return m;
}

static void post(struct run *r, const struct message *m, bool split)
{
    static uint8_t head[18 + 1 + 128 + 255 * 1023];
    struct fragments *f = &r->open[m->sender];
    size_t front = split ? 18 : 2;
    size_t len = front + vm_write(r, m, head + front);
    head[0] = 131;
    head[1] = split ? 69 : 68;

    uint8_t *body = malloc(m->body);
    sup_must(body);
    body_bytes(body, (uint64_t)(m - r->messages), m->body);
    pt_put32(body + 8, m->sender + 1);
    if (!split) {
        output(r, head, len, body, m->body);
        free(body);
        return;
    }
    size_t first = PT_MIN(m->body, (size_t)VM_FRAGMENT);
    *f = (struct fragments){body, m->body, first, ++r->seq, 0};
    f->left = (m->body - first + VM_FRAGMENT - 1) / VM_FRAGMENT;
    pt_put64(head + 2, f->seq_id);
    pt_put64(head + 10, f->left + 1);
    output(r, head, len, body, first);
    if (!f->left) {
        free(body);
        *f = (struct fragments){0};
    }
}

static void send_message(struct run *r)
{
    unsigned sender = (unsigned)sup_below(&r->rng, SENDERS);
    if (r->open[sender].left) {
        go_on(r, &r->open[sender]);
        return;
    }
    struct message *m = begin_message(r, sender, random_body(&r->rng));
    if (r->count > 1 && sup_chance(&r->rng, 40)) { /* of the same kind as the last one */
        memcpy(m->atoms, m[-1].atoms, sizeof m->atoms);
        m->count = m[-1].count;
    } else {
        choose_atoms(r, m);
    }
    r->p->stage.open = sup_chance(&r->rng, 80);
    post(r, m, m->body > VM_FRAGMENT || sup_below(&r->rng, 20) == 0);
}

/* As in a flush. */
static void empty_stage(struct run *r)
{
    lane_is_free = sup_chance(&r->rng, 70);
    int rc = pt_stage_move(r->p);
    if (rc && !r->error)
        r->error = rc;
}

/* ---- the lanes ---- */

enum { PIPE = 512 * 1024 };

static void pump_tx(struct run *r, unsigned i, size_t n)
{
    struct pt_batch *b = r->p->s.lanes[i].batch;
    if (!b->bytes) {
        unsigned want = r->lanes == 1 || sup_chance(&r->rng, 70) ? PT_WANT_SMALL | PT_WANT_BULK
                        : i                                      ? PT_WANT_BULK
                                                                 : PT_WANT_SMALL;
        int rc = pt_batch_fill(b, &r->p->s.txq, want, PT_FRAME_SINGLE_MAX);
        if (rc < 0 && !r->error)
            r->error = rc;
    }
    size_t done = 0;
    if (r->pipe[i].start == r->pipe[i].end)
        r->pipe[i].start = r->pipe[i].end = 0;
    for (unsigned k = b->first; k < b->count && done < n && !r->error; k++) {
        size_t part = PT_MIN(PT_MIN(n - done, b->room->iov[k].iov_len), PIPE - r->pipe[i].end);
        memcpy(r->pipe[i].at + r->pipe[i].end, b->room->iov[k].iov_base, part);
        r->pipe[i].end += part;
        done += part;
        if (part < b->room->iov[k].iov_len)
            break;
    }
    if (done)
        pt_batch_sent(b, done, &pt_host_owner_ops);
}

static void pump_rx(struct run *r, unsigned i, size_t n)
{
    struct iovec iov[2];
    n = PT_MIN(n, r->pipe[i].end - r->pipe[i].start);
    if (!n)
        return;
    int parts = pt_rx_space(&r->rx, &r->lane[i], iov);
    size_t done = 0;
    for (int k = 0; k < parts && done < n; k++) {
        size_t part = PT_MIN(n - done, iov[k].iov_len);
        memcpy(iov[k].iov_base, r->pipe[i].at + r->pipe[i].start, part);
        r->pipe[i].start += part;
        done += part;
    }
    int rc = parts < 0 ? parts : pt_rx_got(&r->rx, &r->lane[i], done, i == 0);
    if (rc) {
        if (parts > 0)
            r->over = true;
        r->error = r->error ? r->error : rc;
        return;
    }
    if (!r->over)
        sup_must(pt_txq_ack(&r->p->s.txq, r->rx.order.watermark) == 0 || sup_alloc_failed());
}

static size_t random_piece(struct sup_rng *r)
{
    static const size_t most[] = {1, 20, 300, 5000, 70000, 400000};
    return 1 + sup_below(r, most[sup_below(r, 6)]);
}

static void step(struct run *r, unsigned stalls)
{
    unsigned i = (unsigned)sup_below(&r->rng, r->lanes);
    if (sup_chance(&r->rng, 10))
        empty_stage(r);
    switch (sup_below(&r->rng, 6)) {
    case 0:
        if (r->p->s.txq.bytes < 2 * 1024 * 1024)
            send_message(r);
        break;
    case 1:
    case 2: pump_tx(r, i, random_piece(&r->rng)); break;
    case 3:
    case 4:
        if (!r->pipe[i].stalled)
            pump_rx(r, i, random_piece(&r->rng));
        break;
    default:
        if (sup_chance(&r->rng, stalls))
            r->pipe[i].stalled = !r->pipe[i].stalled;
    }
}

static bool start(struct run *r, uint64_t seed, unsigned lanes)
{
    memset(r, 0, sizeof *r);
    r->rng.s = seed;
    r->lanes = lanes;
    for (unsigned i = 0; i < 2048; i++)
        r->out_cache[i] = -1;
    r->p = calloc(1, sizeof *r->p);
    sup_must(r->p);
    pthread_mutex_init(&r->p->s.lock, NULL);
    pt_hmap_init(&r->p->joins);
    r->p->s.max_queue = r->p->s.low_queue = SIZE_MAX;
    pt_rx_init(&r->rx, &rx_ops, r, UINT64_MAX, NULL);
    r->error = pt_txq_init(&r->p->s.txq, &pt_host_owner_ops);
    r->p->s.txq.lanes = lanes;
    for (unsigned i = 0; i < lanes; i++) {
        pt_rx_lane_init(&r->lane[i]);
        r->pipe[i].at = malloc(PIPE);
        sup_must(r->pipe[i].at);
        r->p->s.lanes[i].batch = pt_batch_new(i);
        if (!r->p->s.lanes[i].batch)
            r->error = -ENOMEM;
    }
    return !r->error;
}

static void finish(struct run *r)
{
    for (unsigned i = 0; i < r->lanes; i++) {
        pt_batch_free(r->p->s.lanes[i].batch, &pt_host_owner_ops);
        pt_rx_lane_free(&r->rx, &r->lane[i]);
        free(r->pipe[i].at);
    }
    for (unsigned i = 0; i < SENDERS; i++)
        free(r->open[i].body);
    pt_join_free(r->p);
    pt_stage_free(&r->p->stage);
    pt_txq_free(&r->p->s.txq);
    pt_msg_pool_free(&r->p->s.pool);
    pt_atom_table_free(&r->p->vm_atoms);
    pt_rx_free(&r->rx);
    pthread_mutex_destroy(&r->p->s.lock);
    free(r->p);
    free(r->messages);
    sup_must(sup_alloc_live() == 0);
}

static void settle(struct run *r)
{
    for (unsigned i = 0; i < SENDERS; i++)
        while (r->open[i].left && !r->error)
            go_on(r, &r->open[i]);
    for (unsigned quiet = 0; quiet < 100 && !r->error;) {
        uint64_t before = r->delivered;
        empty_stage(r);
        for (unsigned i = 0; i < r->lanes; i++) {
            pump_tx(r, i, SIZE_MAX);
            pump_rx(r, i, SIZE_MAX);
        }
        quiet = r->delivered == before && r->delivered == r->count ? 100
                : r->delivered == before                           ? quiet + 1
                                                                   : 0;
    }
}

static struct run run; /* too large for a stack */

static unsigned rounds(void)
{
    const char *n = getenv("SESSION_ROUNDS");
    return n ? (unsigned)strtoul(n, NULL, 10) : 25;
}

START_TEST(test_every_message_keeps_its_atoms)
{
    uint64_t held = 0, most = 0;
    for (uint64_t seed = 1; seed <= rounds(); seed++) {
        sup_alloc_fail_at(0);
        sup_must(start(&run, seed, 1 + seed % LANES));
        unsigned stalls = sup_chance(&run.rng, 30) ? 0 : 10;
        for (unsigned i = 0; i < 3000 && !run.error; i++)
            step(&run, stalls);
        settle(&run);
        if (run.error || run.delivered != run.count)
            ck_abort_msg("seed %llu: %s, %llu of %llu delivered", (unsigned long long)seed,
                         pt_strerror(run.error), (unsigned long long)run.delivered,
                         (unsigned long long)run.count);
        held = PT_MAX(held, run.rx.order.held_peak);
        for (uint64_t id = 1; id <= run.count; id++)
            most = PT_MAX(most, run.messages[id].count);
        finish(&run);
    }
    /* the runs were worth it: messages overtook each other, and some had very many atoms */
    ck_assert_uint_gt(held, 0);
    ck_assert_uint_gt(most, 150);
}
END_TEST

/* The receiving VM refuses a packet, perhaps in the middle of a group: none comes after it. */
START_TEST(test_nothing_after_a_refusal)
{
    unsigned refused = 0;
    for (uint64_t seed = 1; seed <= rounds(); seed++) {
        sup_alloc_fail_at(0);
        sup_must(start(&run, seed, 1 + seed % LANES));
        run.refuse_at = 1 + sup_below(&run.rng, 200);
        for (unsigned i = 0; i < 2000; i++) {
            step(&run, 5);
            run.error = 0; /* the driver's other lanes go on for a while */
        }
        settle(&run);
        refused += run.over;
        finish(&run);
    }
    ck_assert_uint_gt(refused, rounds() / 2);
}
END_TEST

/* Every allocation may fail: the session may end, and until then all atoms are right. */
START_TEST(test_without_memory)
{
    unsigned failed = 0;
    for (uint64_t seed = 1; seed <= rounds() * 8; seed++) {
        sup_alloc_fail_at(1 + sup_below(&(struct sup_rng){seed}, 900));
        if (start(&run, seed, 1 + seed % LANES)) {
            for (unsigned i = 0; i < 500 && !run.error; i++)
                step(&run, 5);
            settle(&run);
            if (!run.error)
                sup_must(run.delivered == run.count);
        }
        failed += sup_alloc_failed();
        finish(&run);
    }
    ck_assert_uint_gt(failed, rounds());
    sup_alloc_fail_at(0);
}
END_TEST

/* Packets that no VM writes, between those of a VM: the receiving VM refuses the session or sees
 * what was sent; what came before keeps its atoms. */
START_TEST(test_garbage_between)
{
    unsigned ended = 0;
    for (uint64_t seed = 1; seed <= rounds() * 2; seed++) {
        sup_alloc_fail_at(0);
        sup_must(start(&run, seed, 1 + seed % LANES));
        for (unsigned i = 0; i < 1500 && !run.error; i++) {
            step(&run, 5);
            if (i != 700)
                continue;
            uint8_t junk[80] = {131, (uint8_t)(67 + sup_below(&run.rng, 5))};
            size_t len = 2 + sup_below(&run.rng, sizeof junk - 2);
            for (size_t k = 2; k < len; k++)
                junk[k] = sup_chance(&run.rng, 50) ? (uint8_t)sup_below(&run.rng, 4)
                                                   : (uint8_t)sup_rand(&run.rng);
            output(&run, junk, len, NULL, 0);
        }
        settle(&run);
        ended += run.error != 0;
        finish(&run);
    }
    ck_assert_uint_gt(ended, rounds());
}
END_TEST

/* A lane stands still under a large message, and what its sender says next has small bodies behind
 * long sections: the peer must hold all of it, and no more than both sides agree on. */
START_TEST(test_held_sections_count)
{
    enum { LARGE = 100 * 1024, SMALL = 30, MANY = 120000 };
    sup_alloc_fail_at(0);
    sup_must(start(&run, 7, 2));
    post(&run, begin_message(&run, 0, LARGE), true);
    while (run.open[0].left)
        go_on(&run, &run.open[0]);
    while (run.p->s.txq.bytes || run.p->s.lanes[1].batch->bytes)
        pump_tx(&run, 1, SIZE_MAX);
    for (unsigned i = 0; i < MANY && !run.error; i++) {
        struct message *m = begin_message(&run, 0, SMALL);
        for (unsigned atom = 0; m->count < 4 && atom < ATOMS; atom++) {
            uint8_t text[PT_ATOM_TEXT_MAX];
            size_t len = text_of(atom, text);
            if (len > 50 && len < 120)
                m->atoms[m->count++] = atom;
        }
        sup_must(m->count == 4);
        post(&run, m, false);
        if (i % 100 == 0) {
            pump_tx(&run, 0, SIZE_MAX);
            pump_rx(&run, 0, SIZE_MAX);
        }
    }
    for (unsigned i = 0; i < 3000; i++) {
        pump_tx(&run, 0, SIZE_MAX);
        pump_rx(&run, 0, SIZE_MAX);
    }
    ck_assert_str_eq(pt_strerror(run.error), pt_strerror(0));
    ck_assert_uint_gt(run.rx.order.held_bytes, PT_TXQ_SPECULATIVE / 2);
    ck_assert_uint_gt(run.p->s.txq.messages, 0); /* the limit was reached: else all is on its way */
    settle(&run);
    ck_assert_uint_eq(run.delivered, run.count);
    finish(&run);
}
END_TEST

/* A VM without the cache would follow a reference into nothing: none gets to it, in whatever
 * kind of message it comes. */
START_TEST(test_receiver_without_a_cache)
{
    unsigned ended = 0;
    for (uint64_t seed = 1; seed <= rounds() * 2; seed++) {
        sup_alloc_fail_at(0);
        sup_must(start(&run, seed, 1 + seed % LANES));
        run.rx.atom_cache = false;
        for (unsigned i = 0; i < 500 && !run.error; i++)
            step(&run, 5);
        settle(&run);
        ended += run.error == PT_E_BAD_FRAME;
        for (uint64_t id = 1; id <= run.count; id++)
            sup_must(!run.messages[id].delivered || !run.messages[id].count);
        finish(&run);
    }
    ck_assert_uint_gt(ended, rounds());
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {test_every_message_keeps_its_atoms,
                                  test_nothing_after_a_refusal,
                                  test_without_memory,
                                  test_garbage_between,
                                  test_held_sections_count,
                                  test_receiver_without_a_cache};
    return SUP_MAIN("session_atoms", tests);
}

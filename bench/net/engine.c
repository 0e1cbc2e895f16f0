#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    SMALL = 2048,    /* a packet of the usual MTU; the front of a super-packet */
    BIG = 65536,     /* the rest of the largest one */
    READS = 32,      /* from one device before others have their turn */
    DELIVERIES = 64, /* before devices are read again */
    WINDOW_NS = 100 * 1000 * 1000,
    FULL_PERCENT = 90, /* awake so much of a window: the emulator is at its limit */
};
static const uint64_t MEMORY_MAX = 512ull << 20;

struct ptn_big {
    struct ptn_big *next;
    uint8_t data[BIG];
};

/* What one read gave: `size` bytes, the first SMALL of them in front. */
struct ptn_buf {
    struct ptn_buf *next;
    struct ptn_big *big;
    unsigned refs;
    struct virtio_net_hdr vh;
    struct ptn_pkt pkt;
    uint8_t front[SMALL];
};

uint64_t ptn_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t cpu_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- buffers: taken from the system once, then kept ---- */

static void *take_memory(struct ptn_engine *e, size_t size)
{
    void *p = e->memory + size <= e->memory_max ? malloc(size) : NULL;
    if (p)
        e->memory += size;
    return p;
}

/* A buffer with room for the largest packet. NULL: at the limit. */
static struct ptn_buf *spare(struct ptn_engine *e)
{
    struct ptn_buf *b = e->spare;

    if (b)
        return b;
    if ((b = e->free_bufs))
        e->free_bufs = b->next;
    else if (!(b = take_memory(e, sizeof *b)))
        return NULL;
    if ((b->big = e->free_bigs))
        e->free_bigs = b->big->next;
    else if (!(b->big = take_memory(e, sizeof *b->big))) {
        b->next = e->free_bufs;
        e->free_bufs = b;
        return NULL;
    }
    b->refs = 1;
    return e->spare = b;
}

static void release(struct ptn_engine *e, struct ptn_buf *b)
{
    if (--b->refs)
        return;
    if (b->big) {
        b->big->next = e->free_bigs;
        e->free_bigs = b->big;
    }
    b->next = e->free_bufs;
    e->free_bufs = b;
}

/* ---- delivery ---- */

static bool put(const struct ptn_engine *e, unsigned to, const struct iovec *iov, int n)
{
    ssize_t rc;
    do
        rc = writev(e->node[to].tun, iov, n);
    while (rc < 0 && errno == EINTR);
    return rc >= 0;
}

static void put_rst(struct ptn_engine *e, const struct ptn_rst *r)
{
    struct virtio_net_hdr vh = {0};
    uint8_t bytes[PTN_RST_MAX];
    int to = ptn_engine_owner(e, &r->dst);

    if (to < 0)
        return;
    size_t n = ptn_pkt_rst(r, bytes);
    struct iovec iov[] = {{&vh, sizeof vh}, {bytes, n}};
    e->resets += put(e, (unsigned)to, iov, 2);
}

/* Adds payload bytes [at, at + n) of the packet, counted from its first byte. */
static int pieces(const struct ptn_buf *b, size_t at, size_t n, struct iovec *iov)
{
    int used = 0;

    if (at < SMALL && n) {
        size_t part = n < SMALL - at ? n : SMALL - at;
        iov[used++] = (struct iovec){(void *)(b->front + at), part};
        at += part;
        n -= part;
    }
    if (n)
        iov[used++] = (struct iovec){b->big->data + (at - SMALL), n};
    return used;
}

static void deliver(struct ptn_engine *e, const struct ptn_item *it)
{
    struct ptn_path *p = &e->path[it->link];
    struct ptn_buf *b = it->train;
    const struct ptn_pkt *k = &b->pkt;
    unsigned to = it->link % e->count;
    struct virtio_net_hdr vh;
    uint8_t hdr[PTN_HDR_MAX];
    struct iovec iov[4];
    int n = 0;

    if (p->epoch != it->epoch) {
        p->n.cut += it->count;
        return;
    }
    if (ptn_flow_rule(&e->flows, it->flow, it->flow_id) != PTN_RULE_NONE) {
        p->n.flow_cut += it->count;
        return;
    }
    size_t bytes;
    if (it->count == k->segments) {
        iov[n++] = (struct iovec){&b->vh, sizeof b->vh};
        n += pieces(b, 0, k->len, iov + n);
        bytes = k->len + (size_t)(k->segments - 1) * k->hdr_len;
    } else {
        size_t at, len;
        ptn_pkt_run(k, b->front, it->first, it->count, hdr, &vh);
        ptn_pkt_range(k, it->first, it->count, &at, &len);
        iov[n++] = (struct iovec){&vh, sizeof vh};
        iov[n++] = (struct iovec){hdr, k->hdr_len};
        n += pieces(b, k->hdr_len + at, len, iov + n);
        bytes = len + (size_t)it->count * k->hdr_len;
    }
    if (put(e, to, iov, n)) {
        p->n.forwarded += it->count;
        p->n.forwarded_bytes += bytes;
    } else {
        p->n.failed += it->count;
    }
}

static void note_late(struct ptn_timing *t, uint64_t late)
{
    unsigned bucket = late ? 64 - (unsigned)__builtin_clzll(late) : 0;

    t->runs++;
    t->late += late > PTN_LATE_NS;
    t->bucket[bucket < PTN_LATE_BUCKETS ? bucket : PTN_LATE_BUCKETS - 1]++;
    if (late > t->max)
        t->max = late;
}

static uint64_t deliver_due(struct ptn_engine *e, uint64_t now)
{
    const struct ptn_item *first;

    for (int i = 0; i < DELIVERIES && (first = ptn_sched_first(&e->sched)); i++) {
        if (first->due > now && first->due > (now = ptn_now()))
            break;
        struct ptn_item it = ptn_sched_take(&e->sched);
        note_late(&e->timing, now - it.due);
        deliver(e, &it);
        release(e, it.train);
        now = ptn_now();
    }
    return now;
}

/* ---- arrival ---- */

struct arrival {
    struct ptn_engine *e;
    struct ptn_item it;
};

static bool on_its_way(void *ctx, const struct ptn_run *r)
{
    struct arrival *a = ctx;
    struct ptn_buf *b = a->it.train;

    a->it.due = r->due;
    a->it.first = r->first;
    a->it.count = r->count;
    if (!ptn_sched_put(&a->e->sched, a->it))
        return false;
    b->refs++;
    return true;
}

int ptn_engine_owner(const struct ptn_engine *e, const struct ptn_addr *a)
{
    for (unsigned i = 0; i < e->count; i++)
        if (!memcmp(&e->node[i].addr[0], a, sizeof *a) ||
            !memcmp(&e->node[i].addr[1], a, sizeof *a))
            return (int)i;
    return -1;
}

static bool blocked(const struct ptn_engine *e, const struct ptn_pkt *k)
{
    for (int i = 0; i < PTN_PORTS_MAX && e->blocked[i]; i++)
        if (k->sport == e->blocked[i] || k->dport == e->blocked[i])
            return true;
    return false;
}

static void arrive(struct ptn_engine *e, unsigned from, struct ptn_buf *b, uint64_t now)
{
    const struct ptn_pkt *k = &b->pkt;
    struct ptn_rst rst;
    int side, to = ptn_engine_owner(e, &k->dst);

    if (to < 0 || (unsigned)to == from) {
        e->nowhere += !k->multicast; /* IPv6 looks for routers; nobody misses that */
        return;
    }
    struct ptn_path *p = ptn_engine_path(e, from, (unsigned)to);
    struct arrival a = {.e = e, .it = {.train = b, .link = from * e->count + (unsigned)to}};
    a.it.epoch = p->epoch;
    struct ptn_flow *w = ptn_flow_seen(&e->flows, k, now, &side);
    if (w) {
        a.it.flow = (uint32_t)(w - e->flows.flow);
        a.it.flow_id = w->id;
    }
    bool stopped = (w && w->rule != PTN_RULE_NONE) || (k->tcp && e->blocked[0] && blocked(e, k));
    if (p->cut || stopped) {
        p->n.offered += k->segments;
        *(p->cut ? &p->n.cut : &p->n.flow_cut) += k->segments;
        if (!p->cut && w && w->rule == PTN_RULE_RESET && ptn_pkt_refuse(k, &rst))
            put_rst(e, &rst);
        return;
    }
    ptn_train_plan(&p->link, &p->n, now, k, e->quantum, on_its_way, &a);
}

/* Reads one packet. 1, 0 if there is none, or -errno. */
static int receive(struct ptn_engine *e, unsigned from, uint64_t now)
{
    struct ptn_buf *b = spare(e);
    struct virtio_net_hdr *vh;

    if (!b) {
        /* Read and thrown away, so that the device does not stay ready for ever. */
        uint8_t waste[SMALL];
        ssize_t n = read(e->node[from].tun, waste, sizeof waste);
        for (unsigned to = 0; n > 0 && to < e->count; to++)
            if (to != from) {
                ptn_engine_path(e, from, to)->n.memory++;
                break;
            }
        return n > 0;
    }
    vh = &b->vh;
    struct iovec iov[] = {{vh, sizeof *vh}, {b->front, SMALL}, {b->big->data, BIG}};
    ssize_t n = readv(e->node[from].tun, iov, 3);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    size_t len = (size_t)n > sizeof *vh ? (size_t)n - sizeof *vh : 0;
    if (ptn_pkt_parse(b->front, len < SMALL ? len : SMALL, len, vh, &b->pkt)) {
        e->strange++;
        return 1;
    }
    e->spare = NULL;
    if (len <= SMALL) { /* a small packet holds no large piece */
        b->big->next = e->free_bigs;
        e->free_bigs = b->big;
        b->big = NULL;
    }
    arrive(e, from, b, now);
    release(e, b);
    return 1;
}

/* ---- a turn ---- */

/* A packet that lies in the device while this thread waits for a CPU is late before we know of it;
 * the scheduler's own account of such waits tells. */
static bool starved(struct ptn_engine *e)
{
    char text[128];
    unsigned long long ran, waited, wakes;
    ssize_t n = e->schedstat < 0 ? -1 : pread(e->schedstat, text, sizeof text - 1, 0);

    if (n <= 0)
        return false;
    text[n] = 0;
    if (sscanf(text, "%llu %llu %llu", &ran, &waited, &wakes) != 3)
        return false;
    bool yes = waited - e->waited > (wakes - e->wakes) * PTN_LATE_NS;
    e->waited = waited;
    e->wakes = wakes;
    return yes;
}

static void account(struct ptn_engine *e, uint64_t now, uint64_t idle)
{
    e->window_idle += idle;
    uint64_t length = now - e->window_start;
    if (length < WINDOW_NS)
        return;
    e->timing.windows++;
    e->timing.full_windows += (length - e->window_idle) * 100 > length * FULL_PERCENT;
    e->timing.starved_windows += starved(e);
    e->window_start = now;
    e->window_idle = 0;
}

static int wait_for(struct ptn_engine *e, struct pollfd *fds, unsigned nfds, uint64_t now)
{
    const struct ptn_item *first = ptn_sched_first(&e->sched);
    struct timespec ts = {0};
    bool forever = !first;

    if (first && first->due > now + e->spin) {
        uint64_t left = first->due - now - e->spin;
        ts.tv_sec = (time_t)(left / 1000000000u);
        ts.tv_nsec = (long)(left % 1000000000u);
    }
    return ppoll(fds, nfds, forever ? NULL : &ts, NULL);
}

int ptn_engine_turn(struct ptn_engine *e, struct pollfd *fds, unsigned nfds)
{
    uint64_t now = deliver_due(e, ptn_now());
    int n = wait_for(e, fds, nfds, now);
    uint64_t woken = ptn_now();

    account(e, woken, woken - now);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (unsigned i = 0; i < e->count; i++) {
        if (!fds[i].revents)
            continue;
        int got = 1;
        for (int r = 0; r < READS && got > 0; r++)
            got = receive(e, i, r ? ptn_now() : woken);
        if (got < 0)
            return got;
        woken = deliver_due(e, ptn_now());
    }
    return 0;
}

/* ---- start, end, commands ---- */

int ptn_engine_start(struct ptn_engine *e, uint64_t seed, char *err)
{
    struct ptn_rng rng = {seed};

    e->path = calloc((size_t)e->count * e->count, sizeof *e->path);
    if (!e->path) {
        snprintf(err, PTN_ERR_MAX, "out of memory");
        return -1;
    }
    for (unsigned i = 0; i < e->count * e->count; i++)
        ptn_link_init(&e->path[i].link, ptn_rand(&rng));
    if (!e->memory_max)
        e->memory_max = MEMORY_MAX;
    prctl(PR_SET_TIMERSLACK, 1); /* ns; 50 us otherwise */
    /* A delivery must not wait for the time slice of what is measured. */
    struct sched_param sp = {.sched_priority = 1};
    e->realtime = !sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &sp);
    e->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    ptn_engine_count_anew(e);
    return 0;
}

static void free_list(struct ptn_engine *e)
{
    for (struct ptn_buf *b; (b = e->free_bufs);) {
        e->free_bufs = b->next;
        free(b);
    }
    for (struct ptn_big *b; (b = e->free_bigs);) {
        e->free_bigs = b->next;
        free(b);
    }
}

void ptn_engine_free(struct ptn_engine *e)
{
    while (ptn_sched_first(&e->sched)) {
        struct ptn_item it = ptn_sched_take(&e->sched);
        release(e, it.train);
    }
    if (e->spare)
        release(e, e->spare);
    free_list(e);
    if (e->path && e->schedstat >= 0)
        close(e->schedstat);
    ptn_sched_free(&e->sched);
    for (unsigned i = 0; e->path && i < e->count * e->count; i++)
        ptn_link_free(&e->path[i].link);
    free(e->path);
}

void ptn_engine_cut(struct ptn_engine *e, unsigned from, unsigned to, bool cut)
{
    struct ptn_path *p = ptn_engine_path(e, from, to);

    if (cut && !p->cut)
        p->epoch++;
    p->cut = cut;
}

void ptn_engine_rule(struct ptn_engine *e, struct ptn_flow *w, enum ptn_rule rule)
{
    struct ptn_rst r;

    w->rule = rule;
    if (rule != PTN_RULE_RESET)
        return;
    /* What was on its way to either side vanishes from now on, so the number each has acknowledged
     * is the one it goes on expecting, and a reset with it is taken. If its latest acknowledgement
     * is still to be read, that packet is answered. */
    for (int side = 0; side < 2; side++)
        if (ptn_flow_rst(w, side, &r))
            put_rst(e, &r);
    w->closed = true;
}

int ptn_engine_node(const struct ptn_engine *e, const char *name)
{
    for (unsigned i = 0; i < e->count; i++)
        if (!strcmp(e->node[i].name, name))
            return (int)i;
    return -1;
}

void ptn_engine_count_anew(struct ptn_engine *e)
{
    for (unsigned i = 0; i < e->count * e->count; i++) {
        memset(&e->path[i].n, 0, sizeof e->path[i].n);
        e->path[i].link.peak_bytes = e->path[i].link.peak_packets = 0;
    }
    for (unsigned i = 0; i < e->count; i++)
        e->drops_before[i] = ptn_ns_tun_drops(&e->node[i]);
    e->strange = e->nowhere = e->resets = 0;
    e->timing = (struct ptn_timing){.since = ptn_now(), .cpu_since = cpu_now()};
    (void)starved(e);
    e->window_start = e->timing.since;
    e->window_idle = 0;
}

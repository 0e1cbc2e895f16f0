/* Sending on a channel from several threads, as schedulers do it in a NIF, with the driver's own ports,
 * loop thread and sockets around it: what arrives, in which order, who waits and who is told. */
#include "support.h"
#include "vm/fake_vm.h"

#include "vm/chan.h"
#include "vm/peer.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    THREADS = 4,
    MESSAGES = 2000, /* of each */
    LANES = 2,
    MAX_QUEUE = 64 * 1024,
    LARGE = 40000,
    TRAILER = 8,
    DEADLINE_S = 60,
    INIT = 1,
    LANE,
    START,
    STAT = 5,
    TEST,
    CHANNEL = 9,
    CHANNEL_LANE,
    CHANNEL_STATE,
    CHANNEL_STOP = 13,
};

struct ends {
    struct fv_port *port[2];
    int fd[1 + LANES][2]; /* of the session's lane, and the channel's */
    struct pt_chan *chan; /* of port 0, our reference */
    bool names;           /* small messages go by pt_chan_send_small() */
    atomic_bool stopped;  /* it may be, for a while: closed is no reason to end */
};

struct sender {
    pthread_t thread;
    struct ends *ends;
    unsigned no;
    unsigned messages; /* 0: until the channel is closed */
    unsigned sent, waits, cancels;
    bool closed;
};

/* ---- who was told ---- */

static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told_changed = PTHREAD_COND_INITIALIZER;
static unsigned told[THREADS];

static void on_send(ERL_NIF_TERM pid, ERL_NIF_TERM message)
{
    (void)message;
    pthread_mutex_lock(&told_lock);
    told[pid]++;
    pthread_cond_broadcast(&told_changed);
    pthread_mutex_unlock(&told_lock);
}

static unsigned told_so_far(unsigned no)
{
    pthread_mutex_lock(&told_lock);
    unsigned n = told[no];
    pthread_mutex_unlock(&told_lock);
    return n;
}

static void wait_until_told(unsigned no, unsigned before)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += DEADLINE_S;
    int rc = 0;
    pthread_mutex_lock(&told_lock);
    while (told[no] == before && !rc)
        rc = pthread_cond_timedwait(&told_changed, &told_lock, &limit);
    pthread_mutex_unlock(&told_lock);
    sup_must(!rc);
}

/* ---- messages: {22, From, To}, a binary that ends with who sent it and its number ---- */

static const char node_a[] = "sender@127.0.0.1", node_b[] = "receiver@127.0.0.1";

static size_t put_pid(uint8_t *p, const char *node)
{
    static const uint8_t tail[12] = {0, 0, 0, 85, 0, 0, 0, 0, 1, 2, 3, 4};
    size_t n = strlen(node);
    p[0] = 88;
    p[1] = 119;
    p[2] = (uint8_t)n;
    memcpy(p + 3, node, n);
    memcpy(p + 3 + n, tail, sizeof tail);
    return 3 + n + sizeof tail;
}

static size_t packet(uint8_t *p, unsigned no, unsigned number, size_t bytes)
{
    static const uint8_t start[] = {131, 68, 0, 104, 3, 97, 22};
    size_t n = sizeof start;
    memcpy(p, start, n);
    n += put_pid(p + n, node_a);
    n += put_pid(p + n, node_b);
    p[n++] = 109;
    pt_put32(p + n, (uint32_t)(bytes + TRAILER));
    n += 4;
    memset(p + n, (int)(number + no), bytes);
    n += bytes;
    pt_put32(p + n, no);
    pt_put32(p + n + 4, number);
    return n + TRAILER;
}

static size_t size_of(unsigned number) { return number % 50 == 0 ? LARGE : number * 37 % 3000; }

static struct pt_msg *message(unsigned no, unsigned number)
{
    uint8_t bytes[LARGE + 256];
    size_t size = packet(bytes, no, number, size_of(number));
    struct pt_chan_owner *owner = NULL;
    struct iovec iov = {bytes, size};
    void *owners[1] = {NULL};
    if (size > 4096) { /* kept by reference, as the NIF does */
        owner = pt_zalloc(sizeof *owner);
        atomic_init(&owner->refs, 1);
        owner->iov = fv_iovec(bytes, size);
        iov = (struct iovec){owner->iov->iov[0].iov_base, size};
        owners[0] = owner;
    }
    struct pt_source src = {.iov = &iov, .owners = owners, .count = 1};
    struct pt_msg *m = pt_msg_new(&src, &pt_chan_owner_ops);
    if (owner)
        pt_chan_owner_ops.unref(owner);
    m->kind = PT_ORDER_SENDER;
    m->key = no + 1;
    return m;
}

/* What arrived: in the receiving port's thread. */
struct seen {
    unsigned next[THREADS];
    struct pt_atom_table told; /* what the VM has in its cache */
    unsigned with_names;
    atomic_uint total;
    atomic_bool wrong;
};

/* The references of a packet, as the VM resolves them. */
static bool resolve(struct seen *s, const uint8_t *p, size_t len)
{
    static const char *const nodes[2] = {node_a, node_b};
    struct pt_atom_refs refs;
    int n = pt_atoms_read(p + 2, len - 2, &s->told, &refs);
    bool good = n > 0 && (refs.count == 0 || refs.count == 2);
    for (unsigned i = 0; good && i < refs.count; i++)
        good = refs.ref[i].atom->len == strlen(nodes[i]) &&
               !memcmp(refs.ref[i].atom->text, nodes[i], strlen(nodes[i]));
    s->with_names += good && refs.count;
    return good;
}

static void deliver(void *ctx, const uint8_t *p, size_t len)
{
    struct seen *s = ctx;
    const uint8_t *t = p + len - TRAILER;
    unsigned no = len > TRAILER ? pt_get32(t) : THREADS;
    bool good = no < THREADS && pt_get32(t + 4) == s->next[no] && p[0] == 131 && p[1] == 68 &&
                resolve(s, p, len);
    if (good)
        s->next[no]++;
    for (const uint8_t *q = t - 1; good && q > t - 100 && q > p + 160; q--)
        good = *q == (uint8_t)(s->next[no] - 1 + no);
    if (!good)
        atomic_store(&s->wrong, true);
    atomic_fetch_add(&s->total, 1);
}

static void nothing(void *ctx, const uint8_t *p, size_t len)
{
    (void)p, (void)len;
    atomic_store((atomic_bool *)ctx, true);
}

/* ---- two ports and their lanes ---- */

static void must(struct fv_port *p, unsigned verb, const void *data, size_t len)
{
    char words[256];
    ck_assert_msg(fv_control(p, verb, data, len, words), "verb %u: %s", verb, words);
}

static void connect_lane(int fd[2])
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(l, (struct sockaddr *)&a, len), 0);
    ck_assert_int_eq(listen(l, 1), 0);
    ck_assert_int_eq(getsockname(l, (struct sockaddr *)&a, &len), 0);
    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd[0], (struct sockaddr *)&a, len), 0);
    fd[1] = accept(l, NULL, NULL);
    ck_assert_int_ge(fd[1], 0);
    close(l);
}

static void init_port(struct fv_port *p, unsigned end, bool names)
{
    uint8_t b[101 + 3] = {1, 1, names ? 3 : 1};
    b[3] = (uint8_t)(end + 1); /* session ids differ: both ends live in one node here */
    memset(b + 19, end ? 'b' : 'a', 32);
    memset(b + 51, end ? 'a' : 'b', 32);
    pt_put64(b + 83, 1 << 20);
    pt_put64(b + 91, 1 << 26);
    b[100] = 3;
    memcpy(b + 101, "n@h", 3);
    must(p, INIT, b, sizeof b);
}

static void open_ends(struct ends *e, struct seen *seen, atomic_bool *stray, bool names)
{
    struct pt_node_opts opts = {
        .backend = PT_BACKEND_POLL, .loops = 2, .flush_timeout_ms = 1000, .congestion = ""};
    memset(e, 0, sizeof *e);
    e->names = names;
    fv_on_send = on_send;
    e->port[0] = fv_open(nothing, stray);
    e->port[1] = fv_open(deliver, seen);
    ck_assert_int_eq(pt_node_start(&opts), 0);
    for (unsigned i = 0; i <= LANES; i++)
        connect_lane(e->fd[i]);
    for (unsigned end = 0; end < 2; end++) {
        struct fv_port *p = e->port[end];
        uint8_t lane[5] = {0}, channel[15] = {0}, channel_lane[9] = {0};
        init_port(p, end, names);
        pt_put32(lane + 1, (uint32_t)e->fd[0][end]);
        must(p, LANE, lane, sizeof lane);
        must(p, START, "", 0);
        pt_put32(channel, 1);
        channel[4] = LANES;
        pt_put64(channel + 6, MAX_QUEUE);
        channel[14] = 'c';
        must(p, CHANNEL, channel, sizeof channel);
        for (unsigned i = 0; i < LANES; i++) {
            pt_put32(channel_lane, 1);
            channel_lane[4] = (uint8_t)i;
            pt_put32(channel_lane + 5, (uint32_t)e->fd[1 + i][end]);
            must(p, CHANNEL_LANE, channel_lane, sizeof channel_lane);
        }
    }
    fv_lock(e->port[0]);
    e->chan = pt_chan_ref(pt_chan_find((struct pt_peer *)fv_data(e->port[0]), 1));
    fv_unlock(e->port[0]);
    struct pt_name a = {(const uint8_t *)node_a, strlen(node_a), 7};
    struct pt_name b = {(const uint8_t *)node_b, strlen(node_b), 2000};
    pt_chan_set_names(e->chan, &a, &b);
    ck_assert(pt_chan_takes_small(e->chan) == names);
}

static void close_end(struct ends *e, unsigned end)
{
    fv_close(e->port[end]);
    for (unsigned i = 0; i <= LANES; i++)
        close(e->fd[i][end]);
}

/* ---- senders ---- */

static int send_small(struct pt_chan *c, unsigned no, unsigned number, size_t body, uint32_t hash)
{
    uint8_t bytes[PT_BATCH_COPY];
    size_t size = packet(bytes, no, number, body);
    unsigned refs;
    size_t at = pt_names_refer(&c->names, bytes, size, &refs);
    struct pt_small small = {.key = no + 1,
                             .section = c->names.section[refs],
                             .there = PT_NAMES_SECTION_MAX,
                             .bytes = bytes + at,
                             .len = size - at};
    return pt_chan_send_small(c, &small, refs, hash);
}

static int send_one(struct sender *s, unsigned i, const struct pt_chan_wait *wait, uint64_t *id)
{
    uint32_t hash = s->no * 7 + i;

    if (s->ends->names && size_of(i) <= PT_BATCH_COPY - 200) {
        int rc = send_small(s->ends->chan, s->no, i, size_of(i), hash);
        if (rc != PT_CHAN_BUSY)
            return rc;
        s->waits++;
    }
    struct pt_msg *m = message(s->no, i);
    int rc = pt_chan_send(s->ends->chan, m, hash, NULL, 0, wait, id);
    if (rc != PT_CHAN_SENT)
        pt_msg_free(m, &pt_chan_owner_ops);
    return rc;
}

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (unsigned i = 0; !s->closed && (!s->messages || i < s->messages);) {
        struct pt_chan_wait wait = {.kind = PT_CHAN_WAIT, .pid = {s->no}, .message = s->no};
        unsigned before = told_so_far(s->no);
        uint64_t id = 0;
        int rc = send_one(s, i, &wait, &id);
        if (rc == PT_CHAN_SENT) {
            i++;
            continue;
        }
        if (rc == PT_CHAN_CLOSED && atomic_load(&s->ends->stopped)) {
            sched_yield();
            continue;
        }
        s->closed = rc == PT_CHAN_CLOSED;
        sup_must(s->closed || rc == PT_CHAN_BUSY);
        if (s->closed)
            break;
        if (i % 5 == 0) { /* its time is over */
            pt_chan_cancel(s->ends->chan, id);
            s->cancels++;
            sched_yield();
        } else {
            wait_until_told(s->no, before);
            s->waits++;
        }
    }
    return NULL;
}

static void start_senders(struct sender *s, struct ends *e, unsigned messages)
{
    for (unsigned i = 0; i < THREADS; i++) {
        s[i] = (struct sender){.ends = e, .no = i, .messages = messages};
        ck_assert_int_eq(pthread_create(&s[i].thread, NULL, send_all, &s[i]), 0);
    }
}

enum { PAUSE_RECV = 3, RESUME_RECV };

/* The receiving end's lanes of the channel. */
static void receiver(struct ends *e, uint8_t what)
{
    for (unsigned i = 0; i < LANES; i++) {
        uint8_t test[6] = {what, (uint8_t)i, 0, 0, 0, 1};
        must(e->port[1], TEST, test, sizeof test);
    }
}

static void until_it_was_full(struct ends *e)
{
    uint64_t limit = pt_now_ns() + DEADLINE_S * 1000000000ull;
    uint64_t full;
    do {
        ck_assert_msg(pt_now_ns() < limit, "it never was full");
        pthread_mutex_lock(&e->chan->s.lock);
        full = e->chan->busy_count;
        pthread_mutex_unlock(&e->chan->s.lock);
        sched_yield();
    } while (!full);
}

/* What others do to the port meanwhile. */
static void look(struct ends *e)
{
    static const uint8_t one[4] = {0, 0, 0, 1};
    for (unsigned end = 0; end < 2; end++) {
        must(e->port[end], STAT, "", 0);
        must(e->port[end], CHANNEL_STATE, one, sizeof one);
    }
    usleep(1000);
}

static void until_seen(struct ends *e, struct seen *seen, unsigned count)
{
    uint64_t limit = pt_now_ns() + DEADLINE_S * 1000000000ull;
    while (atomic_load(&seen->total) < count) {
        ck_assert_msg(pt_now_ns() < limit, "%u of %u came", atomic_load(&seen->total), count);
        ck_assert(!fv_failed(e->port[0]) && !fv_failed(e->port[1]));
        look(e);
    }
}

static void arrive_in_order(bool names)
{
    struct seen seen = {0};
    atomic_bool stray = false;
    struct ends e;
    struct sender s[THREADS];
    unsigned waits = 0, cancels = 0;
    open_ends(&e, &seen, &stray, names);
    /* Nobody reads at first: so it is full at times, however fast the reader is. */
    receiver(&e, PAUSE_RECV);
    start_senders(s, &e, MESSAGES);
    until_it_was_full(&e);
    receiver(&e, RESUME_RECV);
    until_seen(&e, &seen, THREADS * MESSAGES);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(s[i].thread, NULL);
        ck_assert(!s[i].closed);
        waits += s[i].waits;
        cancels += s[i].cancels;
    }
    if (names) { /* of those before, some may have been queued as others are when it was full */
        fv_lock(e.port[1]);
        unsigned before = seen.with_names;
        fv_unlock(e.port[1]);
        ck_assert_int_eq(send_small(e.chan, 0, MESSAGES, 100, 3), PT_CHAN_SENT);
        until_seen(&e, &seen, THREADS * MESSAGES + 1);
        ck_assert_uint_eq(seen.with_names, before + 1);
    } else {
        ck_assert_uint_eq(seen.with_names, 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        ck_assert_uint_eq(seen.next[i], MESSAGES + (names && i == 0));
    ck_assert(!atomic_load(&seen.wrong) && !atomic_load(&stray));
    ck_assert_uint_gt(waits + cancels, 0);
    close_end(&e, 0);
    close_end(&e, 1);
    pt_atom_table_free(&seen.told);
    struct pt_chan_wait wait = {.kind = PT_CHAN_NO_WAIT};
    uint64_t id;
    struct pt_msg *m = message(0, 1);
    ck_assert_int_eq(pt_chan_send(e.chan, m, 0, NULL, 0, &wait, &id), PT_CHAN_CLOSED);
    pt_msg_free(m, &pt_chan_owner_ops);
    pt_chan_unref(e.chan);
}

START_TEST(all_arrive_in_order) { arrive_in_order(false); }
END_TEST

START_TEST(all_arrive_in_order_with_names) { arrive_in_order(true); }
END_TEST

/* The port closes under senders that send and wait: all of them hear of it. */
START_TEST(closed_under_load)
{
    static struct seen seen;
    static atomic_bool stray;
    struct ends e;
    struct sender s[THREADS];
    open_ends(&e, &seen, &stray, true);
    start_senders(s, &e, 0);
    until_seen(&e, &seen, 500);
    close_end(&e, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(s[i].thread, NULL);
        ck_assert(s[i].closed);
    }
    ck_assert(!atomic_load(&seen.wrong));
    close_end(&e, 1);
    pt_atom_table_free(&seen.told);
    pt_chan_unref(e.chan);
}
END_TEST

static bool stop(struct ends *e, uint8_t how)
{
    const uint8_t b[5] = {0, 0, 0, 1, how};
    char words[256];
    return fv_control(e->port[0], CHANNEL_STOP, b, sizeof b, words);
}

/* However much is said on it, a channel that drains can be stopped; what was taken has left then, and
 * who waits goes on when the channel does. */
START_TEST(drained_under_load)
{
    static struct seen seen;
    static atomic_bool stray;
    struct ends e;
    struct sender s[THREADS];
    open_ends(&e, &seen, &stray, true);
    atomic_store(&e.stopped, true);
    start_senders(s, &e, 0);
    for (unsigned round = 0; round < 5; round++) {
        uint64_t limit = pt_now_ns() + DEADLINE_S * 1000000000ull;
        until_seen(&e, &seen, atomic_load(&seen.total) + 500);
        ck_assert(stop(&e, PT_CHAN_DRAIN));
        while (!stop(&e, PT_CHAN_STOP)) {
            ck_assert_msg(pt_now_ns() < limit, "it does not drain");
            look(&e);
        }
        pthread_mutex_lock(&e.chan->s.lock);
        unsigned sent = (unsigned)e.chan->s.txq.next_number - 1;
        size_t left = pt_stream_queued(&e.chan->s) + pt_stream_pending(&e.chan->s);
        pthread_mutex_unlock(&e.chan->s.lock);
        ck_assert_uint_eq(left, 0);
        ck_assert(!pt_chan_is_open(e.chan));
        until_seen(&e, &seen, sent);
        ck_assert_uint_eq(atomic_load(&seen.total), sent);
        ck_assert(stop(&e, PT_CHAN_GO_ON));
        ck_assert(pt_chan_is_open(e.chan));
    }
    atomic_store(&e.stopped, false);
    close_end(&e, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(s[i].thread, NULL);
        ck_assert(s[i].closed);
    }
    ck_assert(!atomic_load(&seen.wrong) && !atomic_load(&stray));
    close_end(&e, 1);
    pt_atom_table_free(&seen.told);
    pt_chan_unref(e.chan);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {all_arrive_in_order, all_arrive_in_order_with_names,
                                  closed_under_load, drained_under_load};
    return SUP_MAIN("vm_chan", tests);
}

/* The backend on io_uring: sends of all lanes enter the kernel in one call, and a lane whose window
 * is full waits inside the kernel.
 *
 * Sockets are expected to be blocking (pt_sock_prepare()): the kernel then tries a send without
 * blocking, arms a poll of its own when there is no room (IORING_FEAT_FAST_POLL), and tries again
 * from our own thread. A socket that is O_NONBLOCK nevertheless gets -EAGAIN from the kernel; we
 * poll for it, so it works with one more round.
 *
 * Uses liburing 2.3 (what Debian 12 has); newer ones are source compatible. IORING_SETUP_NO_SQARRAY
 * and ring sizes by the caller are left alone, 2.3 does not know them.
 */
#ifdef HAVE_LIBURING

#include "io/loop.h"
#include "io/probe.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Entries of the submission queue. Not a limit for lanes: what finds no room waits in the backlog.
 * Small, because before Linux 5.12 rings count against RLIMIT_MEMLOCK, 64 KB by default. */
#define ENTRIES 128
#define HARVEST 64
#define PROBE_SECONDS 2
#define PROBED_OPS 64u /* the kernel fills in fewer when it knows fewer */

/* user_data: a tx with the kind of request in its low bits (a tx is aligned), or WAKE. */
#define KIND_SEND 0u
#define KIND_POLL 1u
#define KIND_MASK 1u
#define WAKE 2u

struct uring {
    struct io_uring ring;
    int wakefd;
    uint64_t wake_count; /* where the kernel puts what it read from wakefd */
    bool wake_armed;
    int broken; /* -errno for the next wait() */
    /* requests that found no room in the submission queue, oldest first: user_data words, linked
     * by backend_word of their tx */
    uint64_t backlog_first, backlog_last;
};

/* Best first; the kernel answers EINVAL to flags it does not know. SUBMIT_ALL (5.18): one bad
 * request does not hold back those behind it. SINGLE_ISSUER and DEFER_TASKRUN (6.1): completions
 * run when we wait for them, in a batch, instead of interrupting the thread. COOP_TASKRUN (5.19):
 * no inter-processor interrupt for each completion. None: 5.7 and later. */
static const struct {
    unsigned flags;
    const char *name;
} ladder[] = {
    {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
     "single issuer, deferred task work"},
    {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL, "cooperative task work"},
    {0, "no flags"},
};

/* NODROP: completions are never lost when their queue is full. SUBMIT_STABLE: a msghdr need not
 * outlive its submission. FAST_POLL: see above; without it each waiting lane would occupy a
 * kernel thread. */
static const struct {
    unsigned bit;
    const char *name;
} features[] = {
    {IORING_FEAT_NODROP, "NODROP"},
    {IORING_FEAT_SUBMIT_STABLE, "SUBMIT_STABLE"},
    {IORING_FEAT_FAST_POLL, "FAST_POLL"},
};

static const struct {
    int op;
    const char *name;
} operations[] = {
    {IORING_OP_NOP, "NOP"},
    {IORING_OP_SENDMSG, "SENDMSG"},
    {IORING_OP_READ, "READ"},
    {IORING_OP_POLL_ADD, "POLL_ADD"},
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void add_name(char *list, size_t size, const char *name)
{
    size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%s", used ? ", " : "", name);
}

static int probe_operations(struct uring *u, char *missing, size_t size)
{
    /* io_uring_get_probe_ring() would hide the error's number. */
    struct io_uring_probe *probe =
        pt_zalloc(sizeof *probe + PROBED_OPS * sizeof(struct io_uring_probe_op));
    if (!probe)
        return -ENOMEM;
    int err = io_uring_register_probe(&u->ring, probe, PROBED_OPS);
    for (size_t i = 0; i < COUNT(operations) && err >= 0; i++) {
        if (!io_uring_opcode_supported(probe, operations[i].op))
            add_name(missing, size, operations[i].name);
    }
    pt_free(probe);
    return err < 0 ? err : *missing ? -EOPNOTSUPP : 0;
}

/* Waits for the one completion that is due. Its result, or -ETIME. */
static int probe_completion(struct uring *u)
{
    struct __kernel_timespec limit = {.tv_sec = PROBE_SECONDS};
    struct io_uring_cqe *cqe;
    int err;
    do {
        err = io_uring_wait_cqe_timeout(&u->ring, &cqe, &limit);
    } while (err == -EINTR);
    if (err)
        return err;
    int res = cqe->res;
    io_uring_cqe_seen(&u->ring, cqe);
    return res;
}

static int probe_nop(struct uring *u)
{
    io_uring_prep_nop(io_uring_get_sqe(&u->ring)); /* an empty queue has room */
    int n = io_uring_submit(&u->ring);
    if (n != 1)
        return n < 0 ? n : -EIO;
    int res = probe_completion(u);
    return res < 0 ? res : 0;
}

static void arm_wake(struct uring *u, struct io_uring_sqe *sqe)
{
    io_uring_prep_read(sqe, u->wakefd, &u->wake_count, sizeof u->wake_count, 0);
    io_uring_sqe_set_data64(sqe, WAKE);
    u->wake_armed = true;
}

static void uring_wake(void *state)
{
    struct uring *u = state;
    const uint64_t one = 1;
    while (write(u->wakefd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

/* Not only that a read works, but that one which had to wait is ended by a write. */
static int probe_wake(struct uring *u)
{
    /* Blocking, so that the kernel waits for us; a writer would have to be 2^64 wake-ups ahead to
     * block. */
    u->wakefd = eventfd(0, EFD_CLOEXEC);
    if (u->wakefd < 0)
        return -errno;
    arm_wake(u, io_uring_get_sqe(&u->ring));
    int n = io_uring_submit(&u->ring);
    if (n != 1)
        return n < 0 ? n : -EIO;
    uring_wake(u);
    int res = probe_completion(u);
    u->wake_armed = false;
    return res == (int)sizeof u->wake_count ? 0 : res < 0 ? res : -EIO;
}

/* Every step of the ladder; the name of the step that held in *how. */
static int set_up(struct uring *u, const char **how)
{
    int err = -EINVAL;
    for (size_t i = 0; i < COUNT(ladder) && err == -EINVAL; i++) {
        struct io_uring_params params = {.flags = ladder[i].flags};
        err = io_uring_queue_init_params(ENTRIES, &u->ring, &params);
        *how = ladder[i].name;
    }
    return err;
}

static void uring_close(void *state)
{
    struct uring *u = state;
    io_uring_queue_exit(&u->ring);
    if (u->wakefd >= 0)
        close(u->wakefd);
    pt_free(u);
}

static int uring_open(void **state, char *why, size_t why_len)
{
    struct uring *u = pt_zalloc(sizeof *u);
    if (!u) {
        snprintf(why, why_len, "no memory");
        return -ENOMEM;
    }
    u->wakefd = -1;

    char missing[64] = "";
    const char *how;
    int err = set_up(u, &how);
    if (err) {
        pt_uring_refusal(PT_URING_SETUP, err, pt_uring_sysctl(), NULL, why, why_len);
        pt_free(u);
        return err;
    }
    for (size_t i = 0; i < COUNT(features); i++) {
        if (!(u->ring.features & features[i].bit)) {
            add_name(missing, sizeof missing, features[i].name);
            err = -EOPNOTSUPP;
        }
    }
    enum pt_uring_step step = PT_URING_FEATURES;
    if (!err) {
        step = PT_URING_OPCODES;
        err = probe_operations(u, missing, sizeof missing);
    }
    if (!err) {
        step = PT_URING_NOP;
        err = probe_nop(u);
    }
    if (!err) {
        step = PT_URING_WAKE;
        err = probe_wake(u);
    }
    if (err) {
        pt_uring_refusal(step, err, -1, missing, why, why_len);
        uring_close(u);
        return err;
    }
    snprintf(why, why_len, "probe passed (%s)", how);
    *state = u;
    return 0;
}

static struct pt_tx *tx_of(uint64_t word)
{
    return (struct pt_tx *)(uintptr_t)(word & ~(uint64_t)KIND_MASK);
}

static bool prepare(struct uring *u, uint64_t word)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe)
        return false;
    struct pt_tx *tx = tx_of(word);
    if ((word & KIND_MASK) == KIND_POLL)
        io_uring_prep_poll_add(sqe, tx->fd, POLLOUT);
    else
        /* Not MSG_WAITALL: the kernel would then finish all of msg before it tells us, which saves
         * a few percent of CPU when msg is 1 MB and nothing at 256 KB, while small messages queued
         * since wait behind the whole of it. A short completion lets fill put them in front. */
        io_uring_prep_sendmsg(sqe, tx->fd, &tx->msg, MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, word);
    return true;
}

static void request(struct uring *u, uint64_t word)
{
    /* Behind the backlog if there is one, else a lane could overtake for ever. */
    if (!u->backlog_first && prepare(u, word))
        return;
    tx_of(word)->backend_word = 0;
    if (u->backlog_first)
        tx_of(u->backlog_last)->backend_word = word;
    else
        u->backlog_first = word;
    u->backlog_last = word;
}

static int uring_send(void *state, struct pt_tx *tx)
{
    request(state, (uint64_t)(uintptr_t)tx | KIND_SEND);
    return 0;
}

/* Room in the submission queue goes to the wake-up first: without it nobody could reach us. */
static void fill_queue(struct uring *u)
{
    struct io_uring_sqe *sqe;
    if (!u->wake_armed && (sqe = io_uring_get_sqe(&u->ring)))
        arm_wake(u, sqe);
    while (u->backlog_first) {
        uint64_t next = tx_of(u->backlog_first)->backend_word;
        if (!prepare(u, u->backlog_first))
            return;
        u->backlog_first = next;
    }
}

/* True: a lane's completion, in *res. False: the request goes on, or it was no lane's. */
static bool finish(struct uring *u, const struct io_uring_cqe *cqe, struct pt_tx **tx, ssize_t *res,
                   bool *woken)
{
    uint64_t word = io_uring_cqe_get_data64(cqe);
    int r = cqe->res;

    if (word == WAKE) {
        u->wake_armed = false;
        *woken = true; /* after an error too: the loop looks at its inbox, we arm it anew */
        if (r < 0 && r != -EINTR && r != -ECANCELED)
            u->broken = r;
        return false;
    }
    /* Before Linux 5.11 liburing limits a wait by a request of its own, and the probe's outlive it. */
    if (word == LIBURING_UDATA_TIMEOUT)
        return false;
    *tx = tx_of(word);
    if ((word & KIND_MASK) == KIND_POLL) {
        if (r < 0 && r != -EINTR) {
            *res = r;
            return true;
        }
        request(u, (word & ~(uint64_t)KIND_MASK) | KIND_SEND);
        return false;
    }
    /* EAGAIN: O_NONBLOCK is set. EINTR, ECANCELED: nothing was sent, else the count were here.
     * Through a poll in all three cases: it waits for room, so a repeated error cannot spin. */
    if (r == -EAGAIN || r == -EINTR || r == -ECANCELED) {
        request(u, word | KIND_POLL);
        return false;
    }
    *res = r ? r : -EIO; /* 0 cannot be: there was something to send */
    return true;
}

/* Enters the kernel: submits, and waits unless something is there already. */
static int enter(struct uring *u)
{
    unsigned ready = io_uring_cq_ready(&u->ring);
    if (ready && io_uring_sq_ready(&u->ring) == 0)
        return 0;
    /* With a backlog we come back at once, to put it into the queue that is now empty. */
    int n = io_uring_submit_and_wait(&u->ring, ready || u->backlog_first ? 0 : 1);
    switch (n) {
    case -EAGAIN: /* the kernel has no memory for requests just now */
    case -ENOMEM:
    case -EBUSY: /* completions must be taken first */
        /* Nothing tells when memory is back, so look every millisecond rather than spin. */
        if (io_uring_cq_ready(&u->ring) == 0)
            (void)poll(NULL, 0, 1);
        return 0;
    case -EINTR: return 0;
    default: return n < 0 ? n : 0;
    }
}

static int uring_wait(void *state, struct pt_tx **tx, ssize_t *res, unsigned max)
{
    struct uring *u = state;
    struct io_uring_cqe *cqe[HARVEST];

    for (;;) {
        if (u->broken)
            return u->broken;
        fill_queue(u);
        int err = enter(u);
        if (err)
            return err;
        unsigned n = io_uring_peek_batch_cqe(&u->ring, cqe, PT_MIN(max, (unsigned)HARVEST));
        unsigned complete = 0;
        bool woken = false;
        for (unsigned i = 0; i < n; i++) {
            if (finish(u, cqe[i], &tx[complete], &res[complete], &woken))
                complete++;
        }
        io_uring_cq_advance(&u->ring, n);
        if (complete || woken)
            return (int)complete;
    }
}

const struct pt_backend pt_backend_uring = {
    .name = "uring",
    .open = uring_open,
    .close = uring_close,
    .send = uring_send,
    .wait = uring_wait,
    .wake = uring_wake,
};

#else
typedef int pt_uring_not_built; /* a translation unit must not be empty */
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np */
#endif
#include "io/loop.h"
#include "io/probe.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

/* Completions taken from the backend at a time: enough to pay for a system call, few enough that
 * the arrays live on the stack. */
#define BATCH 64
/* Rounds over the inbox before completions get their turn. One suffices in the common case; more
 * save the wake-up that the loop must send itself when the inbox filled up meanwhile. The bound
 * keeps a storm of hand-overs from starving lanes that wait for their completion. */
#define INBOX_ROUNDS 8
#define CACHE_LINE 64

struct pt_loop {
    /* constant once started */
    const struct pt_backend *backend;
    void *state;
    pthread_t thread;

    /* between pt_loop_start() and the thread, until `opened` is posted */
    enum pt_backend_wish wish;
    const struct pt_backend *uring, *poll;
    int verdict;
    char *reason;
    size_t reason_len;
    sem_t opened;

    /* written by any thread. Padded, not aligned: pt_alloc() promises no more than malloc(). */
    char pad1[CACHE_LINE];
    _Atomic(struct pt_tx *) inbox; /* stack, newest first; pushed by any, emptied by the loop */
    atomic_bool sleeping;          /* the loop waits or is about to: whoever clears it wakes */
    atomic_bool stopping;
    _Atomic(pt_loop_failed *) failed;
    atomic_int broken; /* pt_loop_break() */
    _Atomic uint64_t submits, wakes;

    /* written by the loop thread only */
    char pad2[CACHE_LINE];
    struct pt_tx *under_way; /* list by next/prev: sends without a completion yet */
    atomic_int failure;      /* 0 or -errno since the backend is unusable */
    struct pt_loop *heir;    /* serves what comes after that; or NULL */
    _Atomic uint64_t sends, bytes, waits;
    sem_t bell; /* what the loop waits on once the backend cannot wait any more */
};

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* The wake-up protocol. The loop stores sleeping, then looks at the inbox; a submitter pushes, then
 * looks at sleeping. With sequentially consistent operations at least one of them sees the other's
 * store, so either the loop finds the work or the submitter wakes it. The exchange lets one
 * submitter of many pay for the write. */
static void wake_if_sleeping(struct pt_loop *loop)
{
    if (!atomic_exchange(&loop->sleeping, false))
        return;
    count(&loop->wakes, 1);
    /* `failure` was stored before the `sleeping` that we have just read, if it was stored at all
     * before the loop last went to sleep: so the bell is rung whenever the loop waits for it. */
    if (atomic_load(&loop->failure))
        sem_post(&loop->bell);
    else
        loop->backend->wake(loop->state);
}

void pt_loop_submit(struct pt_loop *loop, struct pt_tx *tx)
{
    count(&loop->submits, 1);
    struct pt_tx *head = atomic_load_explicit(&loop->inbox, memory_order_relaxed);
    do {
        tx->next = head;
    } while (!atomic_compare_exchange_weak(&loop->inbox, &head, tx));
    /* From here tx may be sent, given back and freed. */
    wake_if_sleeping(loop);
}

static void link_under_way(struct pt_loop *loop, struct pt_tx *tx)
{
    tx->prev = NULL;
    tx->next = loop->under_way;
    if (tx->next)
        tx->next->prev = tx;
    loop->under_way = tx;
}

static void unlink_under_way(struct pt_loop *loop, struct pt_tx *tx)
{
    if (tx->prev)
        tx->prev->next = tx->next;
    else
        loop->under_way = tx->next;
    if (tx->next)
        tx->next->prev = tx->prev;
}

/* Next piece of a lane that the loop owns and that has no send under way. */
static void go_on(struct pt_loop *loop, struct pt_tx *tx)
{
    if (PT_UNLIKELY(atomic_load_explicit(&loop->failure, memory_order_relaxed))) {
        if (loop->heir)
            pt_loop_submit(loop->heir, tx);
        else
            tx->done(tx, -EIO);
        return;
    }
    if (tx->fill(tx) == 0)
        return;
    link_under_way(loop, tx); /* before send(): `next` and `prev` are ours, not the backend's */
    int err = loop->backend->send(loop->state, tx);
    if (PT_UNLIKELY(err)) {
        unlink_under_way(loop, tx);
        tx->done(tx, err);
        return;
    }
    count(&loop->sends, 1);
}

static void complete(struct pt_loop *loop, struct pt_tx *tx, ssize_t res)
{
    unlink_under_way(loop, tx);
    tx->done(tx, res);
    if (res < 0)
        return;
    count(&loop->bytes, (uint64_t)res);
    go_on(loop, tx);
}

/* Takes what was submitted, oldest first. False: there was nothing. */
static bool serve_inbox(struct pt_loop *loop)
{
    struct pt_tx *newest = atomic_exchange(&loop->inbox, NULL), *tx = NULL;
    if (!newest)
        return false;
    while (newest) {
        struct pt_tx *older = newest->next;
        newest->next = tx;
        tx = newest;
        newest = older;
    }
    while (tx) {
        struct pt_tx *next = tx->next; /* tx may be gone after go_on() */
        go_on(loop, tx);
        tx = next;
    }
    return true;
}

/* The backend cannot tell us of completions any more: give up every lane, once. The kernel may
 * still hold a request that points into memory which done() frees; after shutdown() no byte of it
 * can reach the wire. The ring itself stays open until pt_loop_stop(), as wake() may be running. */
static void fail(struct pt_loop *loop, int err)
{
    atomic_store(&loop->failure, err);
    pt_loop_failed *failed = atomic_load(&loop->failed);
    if (failed)
        loop->heir = failed(loop, err);
    while (loop->under_way) {
        struct pt_tx *tx = loop->under_way;
        unlink_under_way(loop, tx);
        (void)shutdown(tx->fd, SHUT_RDWR);
        tx->done(tx, err);
    }
}

static bool finished(struct pt_loop *loop)
{
    return atomic_load(&loop->stopping) && !loop->under_way && !atomic_load(&loop->inbox);
}

static void wait_and_complete(struct pt_loop *loop)
{
    struct pt_tx *tx[BATCH];
    ssize_t res[BATCH];

    atomic_store(&loop->sleeping, true);
    /* Look again. If there is something, wait() is still entered, woken in advance, so that
     * completions are taken in any case. */
    if (atomic_load(&loop->inbox) || finished(loop) || atomic_load(&loop->broken))
        wake_if_sleeping(loop);
    if (atomic_load_explicit(&loop->failure, memory_order_relaxed)) {
        while (sem_wait(&loop->bell) != 0 && errno == EINTR) {
        }
        atomic_store(&loop->sleeping, false);
        return;
    }
    count(&loop->waits, 1);
    int n = loop->backend->wait(loop->state, tx, res, BATCH);
    /* A store, not an exchange: a submitter that was quicker has already written its wake-up, which
     * makes the next wait() return early, no harm done. */
    atomic_store(&loop->sleeping, false);
    if (PT_UNLIKELY(n < 0)) {
        fail(loop, n);
        return;
    }
    for (int i = 0; i < n; i++)
        complete(loop, tx[i], res[i]);
    if (PT_UNLIKELY(atomic_load_explicit(&loop->broken, memory_order_relaxed)))
        fail(loop, atomic_exchange(&loop->broken, 0));
}

static void *run(void *arg)
{
    struct pt_loop *loop = arg;

    (void)pthread_setname_np(pthread_self(), "partisan_loop");
    /* Here and not in pt_loop_start(): a ring with SINGLE_ISSUER belongs to the thread that made
     * it. */
    int verdict = pt_backend_choose(loop->wish, loop->uring, loop->poll, &loop->backend,
                                    &loop->state, loop->reason, loop->reason_len);
    loop->verdict = verdict;
    sem_post(&loop->opened); /* on failure the starter frees the loop after joining us */
    if (verdict)
        return NULL;
    for (;;) {
        for (int i = 0; i < INBOX_ROUNDS && serve_inbox(loop); i++) {
        }
        if (finished(loop))
            return NULL;
        wait_and_complete(loop);
    }
}

/* All signals blocked: the VM's handlers must run on its own threads, which expect them. */
static int start_thread(struct pt_loop *loop)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&loop->thread, NULL, run, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -err;
}

static void destroy(struct pt_loop *loop)
{
    sem_destroy(&loop->opened);
    sem_destroy(&loop->bell);
    pt_free(loop);
}

int pt_loop_start(struct pt_loop **loop, enum pt_backend_wish wish, char *reason, size_t reason_len)
{
#ifdef HAVE_LIBURING
    const struct pt_backend *uring = &pt_backend_uring;
#else
    const struct pt_backend *uring = NULL;
#endif
    return pt_loop_start_with(loop, wish, uring, &pt_backend_poll, reason, reason_len);
}

int pt_loop_start_with(struct pt_loop **out, enum pt_backend_wish wish,
                       const struct pt_backend *uring, const struct pt_backend *poll, char *reason,
                       size_t reason_len)
{
    *out = NULL;
    struct pt_loop *loop = pt_zalloc(sizeof *loop);
    if (!loop) {
        snprintf(reason, reason_len, "no memory for the loop thread");
        return -ENOMEM;
    }
    loop->wish = wish;
    loop->uring = uring;
    loop->poll = poll;
    loop->reason = reason;
    loop->reason_len = reason_len;
    sem_init(&loop->opened, 0, 0);
    sem_init(&loop->bell, 0, 0);

    int err = start_thread(loop);
    if (err) {
        snprintf(reason, reason_len, "no thread for the loop: %s; see ulimit -u",
                 pt_errno_name(err));
        destroy(loop);
        return err;
    }
    while (sem_wait(&loop->opened) != 0 && errno == EINTR) {
    }
    if (loop->verdict) {
        err = loop->verdict;
        pthread_join(loop->thread, NULL);
        destroy(loop);
        return err;
    }
    *out = loop;
    return 0;
}

void pt_loop_stop(struct pt_loop *loop)
{
    if (!loop)
        return;
    atomic_store(&loop->stopping, true);
    wake_if_sleeping(loop);
    pthread_join(loop->thread, NULL);
    loop->backend->close(loop->state);
    destroy(loop);
}

const char *pt_loop_backend(const struct pt_loop *loop) { return loop->backend->name; }

int pt_loop_failure(const struct pt_loop *loop) { return atomic_load(&loop->failure); }

void pt_loop_on_failure(struct pt_loop *loop, pt_loop_failed *failed)
{
    atomic_store(&loop->failed, failed);
}

void pt_loop_break(struct pt_loop *loop, int err)
{
    atomic_store(&loop->broken, err);
    wake_if_sleeping(loop);
}

void pt_loop_stats(const struct pt_loop *loop, struct pt_loop_stats *out)
{
    out->submits = atomic_load_explicit(&loop->submits, memory_order_relaxed);
    out->sends = atomic_load_explicit(&loop->sends, memory_order_relaxed);
    out->bytes = atomic_load_explicit(&loop->bytes, memory_order_relaxed);
    out->wakes = atomic_load_explicit(&loop->wakes, memory_order_relaxed);
    out->waits = atomic_load_explicit(&loop->waits, memory_order_relaxed);
}

/* The loop thread: sends what the schedulers must not or cannot send at once.
 *
 * A node has one or several (vm/loops.h). A lane's sending side is a `struct pt_tx`; it is owned
 * either by the scheduler that holds the port lock or by the loop, never by both. pt_loop_submit() hands it to the loop.
 * The loop then asks `fill` for data, sends it with the backend, tells `done`, and goes on until
 * `fill` says that nothing is left; the owner changes back *inside* that last fill (under the
 * session's lock, which the callback takes), so no wake-up is lost.
 *
 * Callbacks run on the loop thread with no loop lock held. They must not block.
 */
#ifndef PT_IO_LOOP_H
#define PT_IO_LOOP_H

#include "base/pt.h"

#include <sys/socket.h>
#include <sys/types.h>

struct pt_tx {
    /* constant while the loop owns it */
    int fd; /* a blocking stream socket; sends use MSG_NOSIGNAL */
    /* Sets tx->msg (iov, iovlen) and returns the bytes to send, > 0; or 0: nothing left, the
     * loop gives the lane up and touches tx no more (tx may be freed as soon as fill returned). */
    size_t (*fill)(struct pt_tx *tx);
    /* n > 0: that many bytes of tx->msg left, possibly fewer than asked for (fill is called next
     * and prepares the remainder); n < 0: -errno, the lane is dead and fill is not called again:
     * the loop touches tx no more after done(n < 0). Never 0. */
    void (*done)(struct pt_tx *tx, ssize_t n);
    struct msghdr msg; /* owned by whoever owns the tx */
    /* private to the loop */
    struct pt_tx *next, *prev;
    /* private to the backend between send() and the completion */
    uint64_t backend_word;
};

/* What a backend must do. open(), send() and wait() are called on the loop thread only. */
struct pt_backend {
    const char *name; /* "uring", "poll" */
    /* Create, probing what is needed. 0, or -errno and nothing left behind. why gets one line in
     * both cases: what was set up, or what is missing and who can change it
     * ("io_uring_setup: EPERM; a seccomp profile or kernel.io_uring_disabled forbids it"). */
    int (*open)(void **state, char *why, size_t why_len);
    /* After the loop thread ended: a wake() may run until then. No send is under way, except
     * after wait() failed. */
    void (*close)(void *state);
    /* Begin to send tx->msg. A completion comes from wait(), exactly one for each send() that
     * returned 0. -errno: nothing was begun. */
    int (*send)(void *state, struct pt_tx *tx);
    /* Block until at least one completion or a wake(); at most max completions are stored, each
     * res > 0 or -errno, never -EAGAIN or -EINTR. Nothing of the backend refers to a tx or its fd
     * any more once its completion is stored. Returns their number (0 after a mere wake) or
     * -errno: the backend is unusable, only wake() and close() may still be called. */
    int (*wait)(void *state, struct pt_tx **tx, ssize_t *res, unsigned max);
    /* Any thread. Makes the present wait(), or else the next one, return. */
    void (*wake)(void *state);
};

extern const struct pt_backend pt_backend_poll;
#ifdef HAVE_LIBURING
extern const struct pt_backend pt_backend_uring;
#endif

enum pt_backend_wish { PT_BACKEND_AUTO, PT_BACKEND_URING, PT_BACKEND_POLL };

struct pt_loop;

/* Chooses the backend (wish; AUTO = uring if it opens, else poll), starts the thread.
 * 0, or -errno when a forced uring cannot start (or no thread, memory or descriptor can be had);
 * then nothing is left behind and *loop is NULL. `reason` always gets one line saying what was
 * chosen and why. */
int pt_loop_start(struct pt_loop **loop, enum pt_backend_wish wish, char *reason,
                  size_t reason_len);
/* The same with backends of the caller's (uring may be NULL): tests bring their own. */
int pt_loop_start_with(struct pt_loop **loop, enum pt_backend_wish wish,
                       const struct pt_backend *uring, const struct pt_backend *poll, char *reason,
                       size_t reason_len);
/* Ends the thread after the sends under way completed; tests and sanitizers want it, the VM never
 * calls it. No tx may be submitted any more, and every pt_loop_submit() must have returned. */
void pt_loop_stop(struct pt_loop *loop);
/* Any thread; never blocks, never calls back, so it may be called under the session's lock. The
 * loop then calls tx->fill. If the backend has failed at run time, the loop's heir does, and if it has
 * none it calls done(-EIO) instead. */
void pt_loop_submit(struct pt_loop *loop, struct pt_tx *tx);
const char *pt_loop_backend(const struct pt_loop *loop);
/* 0, or the -errno with which the backend failed at run time: every lane then under way was shut
 * down and got done(-errno), and the node can send no more through this loop. Any thread. */
int pt_loop_failure(const struct pt_loop *loop);
/* What to do then, called once on the loop thread before any lane is given up; at best set before
 * anything is submitted. Returns the heir: a loop that serves what is submitted to this one from then
 * on and lives as long; or NULL. */
typedef struct pt_loop *pt_loop_failed(struct pt_loop *loop, int err);
void pt_loop_on_failure(struct pt_loop *loop, pt_loop_failed *failed);
/* Test hook, any thread: the loop behaves as if its backend had failed with err (-errno). */
void pt_loop_break(struct pt_loop *loop, int err);

/* Running totals. wakes counts writes to the wake-up descriptor, waits calls into the backend. */
struct pt_loop_stats {
    uint64_t submits, sends, bytes, wakes, waits;
};
void pt_loop_stats(const struct pt_loop *loop, struct pt_loop_stats *out); /* any thread */

#endif

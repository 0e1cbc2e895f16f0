/* Lanes for the tests of the loop: a sender that checks the rules of ownership and a reader that
 * checks every byte. Backend numbers (index of a loop test): 0 poll, 1 uring, 2 uring
 * that is told EAGAIN (uring_again.c). */
#ifndef PT_TEST_LOOP_KIT_H
#define PT_TEST_LOOP_KIT_H

#include "io/loop.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/uio.h>

#ifndef DEADLINE_S
#define DEADLINE_S 60
#endif
#define MAX_IOV 64
#define KIT_REASON 1024

#define EVENTUALLY(cond)                                                                 \
    do {                                                                                 \
        double limit_ = kit_now() + DEADLINE_S;                                          \
        while (!(cond)) {                                                                \
            ck_assert_msg(kit_now() < limit_, "not within %d s: %s", DEADLINE_S, #cond); \
            sched_yield();                                                               \
        }                                                                                \
    } while (0)

struct lane {
    struct pt_tx tx;
    int peer; /* the reader's end */
    uint64_t seed;
    size_t piece; /* most bytes a fill offers */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under lock */
    uint64_t credit; /* bytes that may be sent in all */
    uint64_t sent;
    bool owned; /* by the loop */
    int error;
    unsigned fills_after_error;
    atomic_bool with_loop; /* `owned` for those who look without the lock */
    /* the sending owner's */
    uint8_t *buf;
    struct iovec iov[MAX_IOV];
    /* the reader's */
    uint64_t received;
    bool corrupt;
    size_t read_size;
    pthread_t reader;
};

#ifdef HAVE_LIBURING
extern const struct pt_backend kit_uring_again, kit_uring_old; /* uring_again.c, uring_old.c */
#endif
#define KIT_BACKENDS 3
enum pt_backend_wish kit_wish(int backend);
/* KIT_BACKENDS when this machine allows io_uring; else 1, and a line that says what is not tested. */
int kit_backends(void);
/* Starts the loop on that backend; it must start. */
struct pt_loop *kit_start(int backend);
double kit_now(void);
/* Bytes that wait to be read. */
int kit_in_queue(int fd);
/* Names in a directory: open descriptors, threads. */
int kit_entries(const char *dir);

/* A lane over TCP on the loopback, as in life; small: with the smallest buffers. */
void lane_init(struct lane *l, uint64_t seed, size_t piece, bool small);
void lane_free(struct lane *l);
size_t lane_fill(struct pt_tx *tx);
/* What a scheduler does: more to send; the lane is handed over unless the loop has it. */
void lane_offer(struct pt_loop *loop, struct lane *l, uint64_t bytes);
void lane_wait_returned(struct lane *l);
bool lane_owned(struct lane *l);
/* Thread of a reader; its argument is the lane. */
void *lane_reader(void *arg);
/* All is sent: joins the reader, which must have it all. */
void lane_finish(struct lane *l);
/* Nobody reads: more than fits is offered, and some of it has arrived. */
void lane_stick(struct pt_loop *loop, struct lane *l);

#endif

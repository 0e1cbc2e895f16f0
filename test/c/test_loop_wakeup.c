/* The protocol between submitters and the loop that falls asleep, over a backend without system
 * calls. Where the processor can be stepped, a hand-over is put between any two instructions of the
 * loop on its way to sleep; and hand-overs by another thread follow each other as fast as they can.
 * And what the loop does with a backend that fails. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* REG_EFL */
#endif
#include "io/loop.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef __x86_64__
#define IS_X86_64 1
#else
#define IS_X86_64 0
#endif

#define LOST_AFTER_S 60 /* nobody is kept from running that long */
#define LOOKS 2000      /* before the processor is offered to others */

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- the backend ---- */

static atomic_bool woken, handed_over, lost;
static int send_error;
static atomic_int wait_error;
static struct pt_tx *sending;

static int fake_open(void **state, char *why, size_t why_len)
{
    (void)why;
    (void)why_len;
    *state = NULL;
    return 0;
}

static void fake_close(void *state) { (void)state; }

static int fake_send(void *state, struct pt_tx *tx)
{
    (void)state;
    if (!send_error)
        sending = tx;
    return send_error;
}

static void on_sleep(void);

static int fake_wait(void *state, struct pt_tx **tx, ssize_t *res, unsigned max)
{
    (void)state;
    (void)max;
    if (atomic_load(&wait_error))
        return atomic_load(&wait_error);
    if (sending) {
        tx[0] = sending;
        res[0] = 1;
        sending = NULL;
        return 1;
    }
    on_sleep();
    double limit = 0;
    for (unsigned looks = 1; !atomic_exchange(&woken, false); looks++) {
        if (looks % LOOKS)
            continue;
        sched_yield();
        if (!atomic_load(&handed_over)) {
            limit = 0;
        } else if (limit == 0) {
            limit = now() + LOST_AFTER_S;
        } else if (now() > limit) {
            atomic_store(&lost, true);
            return 0;
        }
    }
    return atomic_load(&wait_error);
}

static void fake_wake(void *state)
{
    (void)state;
    atomic_store(&woken, true);
}

static const struct pt_backend fake = {"fake",    fake_open, fake_close,
                                       fake_send, fake_wait, fake_wake};

static struct pt_loop *start(void)
{
    struct pt_loop *loop;
    char reason[300];
    ck_assert_msg(pt_loop_start_with(&loop, PT_BACKEND_POLL, NULL, &fake, reason, sizeof reason) ==
                      0,
                  "%s", reason);
    ck_assert_str_eq(pt_loop_backend(loop), "fake");
    return loop;
}

/* ---- hand-overs ---- */

static unsigned fills;
static size_t give_back(struct pt_tx *tx)
{
    (void)tx;
    fills++;
    atomic_store(&handed_over, false);
    return 0;
}

START_TEST(no_wake_up_is_lost)
{
    const unsigned rounds = 300000;
    const double until = now() + 3; /* a busy machine has fewer rounds */
    struct pt_loop *loop = start();
    struct pt_tx tx = {.fd = -1, .fill = give_back};
    unsigned i;
    for (i = 0; i < rounds && !atomic_load(&lost) && (i % 1024 || now() < until); i++) {
        atomic_store(&handed_over, true);
        pt_loop_submit(loop, &tx);
        for (unsigned looks = 1; atomic_load(&handed_over); looks++) {
            if (looks % LOOKS == 0)
                sched_yield();
        }
        /* a different distance from the giving back each time */
        for (volatile unsigned pause = i % 97; pause > 0; pause--) {
        }
    }
    struct pt_loop_stats st;
    pt_loop_stats(loop, &st);
    pt_loop_stop(loop);
    ck_assert_msg(!atomic_load(&lost), "lost in hand-over %u", i);
    ck_assert_uint_eq(fills, i);
    ck_assert_uint_eq(st.submits, i);
    ck_assert_uint_eq(st.sends, 0);
}
END_TEST

/* ---- a hand-over between two instructions ---- */

static volatile bool stepping, submitted_here;
static atomic_bool round_over;
static bool whole_way; /* the loop slept before it came to instruction submit_at */

static void on_sleep(void)
{
    if (submitted_here) { /* that submit is over, so its wake-up is here or will never be */
        submitted_here = false;
        if (!atomic_load(&woken)) {
            atomic_store(&lost, true);
            atomic_store(&woken, true);
        }
    } else if (stepping) {
        stepping = false;
        whole_way = true;
        atomic_store(&round_over, true);
    }
}

/* ThreadSanitizer delivers signals late, which is the opposite of what is needed here. */
#if defined(__SANITIZE_THREAD__)
#define CAN_STEP 0
#elif defined(__has_feature)
#define CAN_STEP (IS_X86_64 && !__has_feature(thread_sanitizer))
#else
#define CAN_STEP IS_X86_64
#endif
#if CAN_STEP
#define TRAP_FLAG 0x100
static struct pt_loop *stepped_loop;
static struct pt_tx stepped;
static volatile unsigned steps, submit_at;

static void on_trap(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)sig;
    (void)info;
    if (stepping && steps++ == submit_at) {
        stepping = false;
        submitted_here = true;
        pt_loop_submit(stepped_loop, &stepped); /* takes no lock, so it may run anywhere */
    }
    if (!stepping)
        uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static size_t step_from_here(struct pt_tx *tx)
{
    static bool second;
    sigset_t trap;
    (void)tx;
    second = !second;
    if (!second || whole_way) {
        second = submitted_here = false; /* it has arrived */
        atomic_store(&round_over, true);
        return 0;
    }
    sigemptyset(&trap);
    sigaddset(&trap, SIGTRAP);
    pthread_sigmask(SIG_UNBLOCK, &trap, NULL);
    steps = 0;
    stepping = true;
    __asm__ volatile("pushfq\n\torq %0, (%%rsp)\n\tpopfq" ::"i"(TRAP_FLAG) : "memory", "cc");
    return 0;
}

START_TEST(hand_over_between_any_two_instructions)
{
    struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &sa, NULL);
    stepped.fd = -1;
    stepped.fill = step_from_here;
    stepped_loop = start();
    for (submit_at = 0; !whole_way; submit_at++) {
        atomic_store(&round_over, false);
        pt_loop_submit(stepped_loop, &stepped);
        double limit = now() + LOST_AFTER_S;
        while (!atomic_load(&round_over)) {
            ck_assert_msg(now() < limit, "no end at instruction %u", submit_at);
            sched_yield();
        }
        ck_assert_msg(!atomic_load(&lost), "lost when submitted at instruction %u", submit_at);
    }
    ck_assert_uint_gt(submit_at, 20); /* it did step */
    pt_loop_stop(stepped_loop);
}
END_TEST
#endif

/* ---- failures ---- */

static ssize_t last_done;
static atomic_uint dones;
static size_t fill_one(struct pt_tx *tx)
{
    (void)tx;
    fills++;
    return 1;
}

static void note_done(struct pt_tx *tx, ssize_t n)
{
    (void)tx;
    last_done = n;
    atomic_fetch_add(&dones, 1);
}

static void await_dones(unsigned n)
{
    double limit = now() + LOST_AFTER_S;
    while (atomic_load(&dones) < n) {
        ck_assert_msg(now() < limit, "done() was not called");
        sched_yield();
    }
}

START_TEST(send_that_cannot_begin)
{
    send_error = -ENOBUFS;
    struct pt_loop *loop = start();
    struct pt_tx tx = {.fd = -1, .fill = fill_one, .done = note_done};
    for (unsigned i = 1; i <= 3; i++) {
        pt_loop_submit(loop, &tx);
        await_dones(i);
        ck_assert_int_eq((int)last_done, -ENOBUFS);
        ck_assert_uint_eq(fills, i);
    }
    ck_assert_int_eq(pt_loop_failure(loop), 0); /* that lane's matter, not the loop's */
    pt_loop_stop(loop);
    ck_assert_uint_eq(atomic_load(&dones), 3);
}
END_TEST

START_TEST(wait_that_fails)
{
    int p[2];
    char c;
    ck_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
    atomic_store(&wait_error, -EFAULT);
    struct pt_loop *loop = start();
    struct pt_tx tx = {.fd = p[0], .fill = fill_one, .done = note_done};
    double limit = now() + LOST_AFTER_S;
    while (!pt_loop_failure(loop)) {
        ck_assert(now() < limit);
        sched_yield();
    }
    for (unsigned i = 1; i <= 1000; i++) {
        pt_loop_submit(loop, &tx);
        await_dones(i);
        ck_assert_int_eq((int)last_done, -EIO);
    }
    ck_assert_uint_eq(fills, 0);
    ck_assert_int_eq(pt_loop_failure(loop), -EFAULT);
    ck_assert(send(p[0], "x", 1, 0) == 1); /* it was never under way: the owner shuts it down */
    ck_assert(recv(p[1], &c, 1, 0) == 1);
    pt_loop_stop(loop);
    close(p[0]);
    close(p[1]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop wake-up");
    TCase *t = tcase_create("wake-up");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, no_wake_up_is_lost);
#if CAN_STEP
    tcase_add_test(t, hand_over_between_any_two_instructions);
#endif
    tcase_add_test(t, send_that_cannot_begin);
    tcase_add_test(t, wait_that_fails);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_FORK); /* each test has its own globals */
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

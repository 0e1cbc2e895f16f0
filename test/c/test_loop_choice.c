/* The choice of a backend: every reason not to use io_uring is told, nothing is left behind, and a
 * backend that fails at run time gives up its lanes. The kernel's refusals are made with seccomp,
 * as a container makes them, so nothing in the product exists only for these tests. Each test is
 * a process, in which the filter ends. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "loop_kit.h"

#include "io/probe.h"

#include <check.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- refusals ---- */

/* From now on these system calls answer -err; in all threads if they exist already. */
static void forbid(const long *calls, unsigned n, int err, bool all_threads)
{
    struct sock_filter code[16];
    unsigned k = 0;
    code[k++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < n; i++)
        code[k++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i],
                                                 (uint8_t)(n - i), 0);
    code[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)err);
    struct sock_fprog prog = {.len = (unsigned short)k, .filter = code};
    ck_assert(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    ck_assert_msg(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                          all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0, &prog) == 0,
                  "seccomp: %s", strerror(errno));
}

#ifdef HAVE_LIBURING
static const struct refusal {
    long call;
    int err;
    const char *words[3];
} refusals[] = {
    {SYS_io_uring_setup, EPERM, {"io_uring_setup: EPERM", "seccomp", "container"}},
    {SYS_io_uring_setup, ENOSYS, {"io_uring_setup: ENOSYS", "no io_uring", "gVisor"}},
    {SYS_io_uring_setup, ENOMEM, {"io_uring_setup: ENOMEM", "RLIMIT_MEMLOCK", "5.12"}},
    {SYS_io_uring_setup, EMFILE, {"io_uring_setup: EMFILE", "descriptor", "ulimit"}},
    {SYS_io_uring_setup, EINVAL, {"io_uring_setup: EINVAL", "flags", ""}},
    {SYS_io_uring_register, EPERM, {"io_uring_register", "EPERM", "seccomp"}},
    {SYS_io_uring_enter, EPERM, {"NOP", "EPERM", "io_uring_enter"}},
    {SYS_io_uring_enter, ENOSYS, {"NOP", "ENOSYS", "sandbox"}},
    {SYS_eventfd2, EMFILE, {"wake-up", "eventfd", "EMFILE"}},
};

static void assert_words(const char *reason, const struct refusal *r)
{
    for (int i = 0; i < 3; i++)
        ck_assert_msg(strstr(reason, r->words[i]) != NULL, "\"%s\" not in: %s", r->words[i],
                      reason);
    ck_assert_msg(strchr(reason, '\n') == NULL, "more than one line: %s", reason);
}

START_TEST(forced_uring_refuses)
{
    const struct refusal *r = &refusals[_i];
    char reason[KIT_REASON];
    struct pt_loop *loop = (void *)&reason;
    int fds = kit_entries("/proc/self/fd"), threads = kit_entries("/proc/self/task");
    forbid(&r->call, 1, r->err, false);
    ck_assert_int_eq(pt_loop_start(&loop, PT_BACKEND_URING, reason, sizeof reason), -r->err);
    ck_assert_ptr_null(loop);
    assert_words(reason, r);
    ck_assert_ptr_nonnull(strstr(reason, "uring was asked for"));
    ck_assert_int_eq(kit_entries("/proc/self/fd"), fds);
    /* a thread that was joined is listed a moment longer */
    EVENTUALLY(kit_entries("/proc/self/task") == threads);
}
END_TEST

START_TEST(auto_falls_back)
{
    const struct refusal *r = &refusals[_i];
    char reason[KIT_REASON];
    struct pt_loop *loop;
    struct lane l;
    if (r->call == SYS_eventfd2)
        return; /* poll needs it too: no_backend_at_all */
    forbid(&r->call, 1, r->err, false);
    ck_assert_int_eq(pt_loop_start(&loop, PT_BACKEND_AUTO, reason, sizeof reason), 0);
    ck_assert_str_eq(pt_loop_backend(loop), "poll");
    ck_assert_msg(strncmp(reason, "poll: io_uring cannot be used: ", 31) == 0, "%s", reason);
    assert_words(reason, r);
    lane_init(&l, 5, 100000, false);
    ck_assert(pthread_create(&l.reader, NULL, lane_reader, &l) == 0);
    lane_offer(loop, &l, 1 << 20);
    lane_finish(&l);
    lane_free(&l);
    pt_loop_stop(loop);
}
END_TEST

START_TEST(auto_takes_uring)
{
    char reason[KIT_REASON];
    struct pt_loop *loop;
    ck_assert_int_eq(pt_loop_start(&loop, PT_BACKEND_AUTO, reason, sizeof reason), 0);
    ck_assert_str_eq(pt_loop_backend(loop), "uring");
    ck_assert_msg(strncmp(reason, "uring: probe passed", 19) == 0, "%s", reason);
    pt_loop_stop(loop);
}
END_TEST
#endif

/* Causes that cannot be produced here are still told from one another. */
START_TEST(words_of_refusals)
{
    static const struct {
        enum pt_uring_step step;
        int err, sysctl;
        const char *missing, *words;
    } t[] = {
        {PT_URING_NOT_BUILT, -ENOSYS, 0, NULL, "not built in"},
        {PT_URING_SETUP, -EPERM, 2, NULL, "kernel.io_uring_disabled = 2"},
        {PT_URING_SETUP, -EPERM, 1, NULL, "kernel.io_uring_group"},
        {PT_URING_SETUP, -EPERM, 0, NULL, "seccomp"},
        {PT_URING_SETUP, -EPERM, -1, NULL, "seccomp"},
        {PT_URING_SETUP, -EUCLEAN, -1, NULL, "report"},
        {PT_URING_FEATURES, -EOPNOTSUPP, 0, "FAST_POLL", "lacks FAST_POLL; Linux 5.7"},
        {PT_URING_OPCODES, -EOPNOTSUPP, 0, "SENDMSG, READ", "operations SENDMSG, READ"},
        {PT_URING_NOP, -ETIME, 0, NULL, "ETIME"},
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char why[KIT_REASON];
        pt_uring_refusal(t[i].step, t[i].err, t[i].sysctl, t[i].missing, why, sizeof why);
        ck_assert_msg(strstr(why, t[i].words) != NULL, "\"%s\" not in: %s", t[i].words, why);
        pt_uring_refusal(t[i].step, t[i].err, t[i].sysctl, t[i].missing, why, 10);
        ck_assert_uint_le(strlen(why), 9);
    }
}
END_TEST

START_TEST(not_built_in)
{
    const struct pt_backend *b = NULL;
    void *state = NULL;
    char reason[KIT_REASON];
    ck_assert_int_eq(pt_backend_choose(PT_BACKEND_URING, NULL, &pt_backend_poll, &b, &state, reason,
                                       sizeof reason),
                     -ENOSYS);
    ck_assert_ptr_null(b);
    ck_assert_ptr_nonnull(strstr(reason, "not built in"));
    ck_assert_int_eq(pt_backend_choose(PT_BACKEND_AUTO, NULL, &pt_backend_poll, &b, &state, reason,
                                       sizeof reason),
                     0);
    ck_assert_ptr_eq(b, &pt_backend_poll);
    ck_assert_ptr_nonnull(strstr(reason, "not built in"));
    b->close(state);
}
END_TEST

START_TEST(no_backend_at_all)
{
    char reason[KIT_REASON];
    struct pt_loop *loop;
    int fds = kit_entries("/proc/self/fd");
    struct rlimit was, rl;
    ck_assert(getrlimit(RLIMIT_NOFILE, &was) == 0);
    rl = was;
    rl.rlim_cur = 3;
    ck_assert(setrlimit(RLIMIT_NOFILE, &rl) == 0);
    for (int i = 0; i < 3; i++) { /* descriptors 0 to 2 are in use, so there are none */
#ifndef HAVE_LIBURING
        if (i == PT_BACKEND_URING)
            continue;
#endif
        ck_assert_int_eq(pt_loop_start(&loop, (enum pt_backend_wish)i, reason, sizeof reason),
                         -EMFILE);
        ck_assert_ptr_null(loop);
        ck_assert_msg(strstr(reason, "EMFILE") != NULL, "%s", reason);
    }
    ck_assert(setrlimit(RLIMIT_NOFILE, &was) == 0);
    ck_assert_int_eq(kit_entries("/proc/self/fd"), fds);
}
END_TEST

static int allocations_left;
static void *scarce_alloc(size_t n) { return allocations_left-- > 0 ? malloc(n) : NULL; }
static void *scarce_realloc(void *p, size_t n)
{
    return allocations_left-- > 0 ? realloc(p, n) : NULL;
}

START_TEST(no_memory)
{
    const struct pt_alloc_hooks hooks = {scarce_alloc, scarce_realloc, free};
    struct pt_loop *loop;
    char reason[KIT_REASON];
    int fds = kit_entries("/proc/self/fd"), refused = 0, err;
    pt_alloc_set_hooks(&hooks);
    do {
        allocations_left = refused;
        err = pt_loop_start(&loop, kit_wish(_i), reason, sizeof reason);
        if (err) {
            ck_assert_int_eq(err, -ENOMEM);
            ck_assert_ptr_null(loop);
            ck_assert_int_eq(kit_entries("/proc/self/fd"), fds);
            refused++;
        }
    } while (err);
    ck_assert_int_ge(refused, 2); /* the loop and the backend's state */
    pt_loop_stop(loop);
}
END_TEST

/* Nothing of the probe may be in the ring when it serves lanes: what the loop finds there it takes for
 * the completion of a lane's send. */
#ifdef HAVE_LIBURING
START_TEST(an_old_kernels_ring_serves)
{
    const struct pt_backend *old = &kit_uring_old;
    char why[KIT_REASON];
    struct pt_tx *tx[1];
    ssize_t res[1];
    void *state;
    int err = old->open(&state, why, sizeof why);
    ck_assert_msg(err == 0, "%s", why);
    ck_assert_msg(strstr(why, "no flags") != NULL, "%s", why);
    for (int i = 0; i < 4; i++) { /* what waits for other completions to come gets some */
        old->wake(state);
        ck_assert_int_eq(old->wait(state, tx, res, 1), 0);
    }
    old->close(state);
}
END_TEST
#endif

/* ---- a backend that becomes unusable while lanes are under way ---- */

START_TEST(backend_fails_at_run_time)
{
    static const long poll_calls[] = {
#ifdef SYS_epoll_wait
        SYS_epoll_wait,
#endif
        SYS_epoll_pwait, SYS_epoll_pwait2};
    static const long uring_calls[] = {SYS_io_uring_enter};
    struct pt_loop *loop = kit_start(_i);
    struct lane l[3], late;
    for (int i = 0; i < 3; i++) {
        lane_init(&l[i], 1, 1 << 20, true);
        lane_stick(loop, &l[i]);
    }
    lane_init(&late, 1, 1 << 20, true);
    if (_i == 0)
        forbid(poll_calls, sizeof poll_calls / sizeof poll_calls[0], EBADF, true);
    else
        forbid(uring_calls, 1, EBADF, true);
    shutdown(l[0].tx.fd, SHUT_RDWR); /* something happens, so the loop calls the kernel again */
    for (int i = 0; i < 3; i++) {
        lane_wait_returned(&l[i]);
        ck_assert_int_lt(l[i].error, 0);
    }
    for (int i = 1; i < 3; i++)
        ck_assert_int_eq(l[i].error, -EBADF);
    ck_assert_int_eq(pt_loop_failure(loop), -EBADF);
    for (int i = 0; i < 3; i++) { /* again and again: the loop still listens */
        late.error = 0;
        lane_offer(loop, &late, 1);
        lane_wait_returned(&late);
        ck_assert_int_eq(late.error, -EIO);
        ck_assert_uint_eq(late.fills_after_error, 0);
    }
    for (int i = 0; i < 3; i++) {
        char c; /* shut down, not left half open: the peer sees the end behind what had left */
        ssize_t n;
        while ((n = recv(l[i].peer, &c, 1, 0)) > 0) {
        }
        ck_assert_int_le((int)n, 0);
        lane_free(&l[i]);
    }
    lane_free(&late);
    pt_loop_stop(loop);
}
END_TEST

/* What is not under way when the backend fails goes on with the heir, and so does what is submitted
 * to the old loop later; nobody finds out. */
static struct pt_loop *heir;
static atomic_int failures;

static struct pt_loop *take_over(struct pt_loop *loop, int err)
{
    ck_assert_int_eq(err, -ENODEV);
    ck_assert_int_eq(pt_loop_failure(loop), -ENODEV);
    atomic_fetch_add(&failures, 1);
    return heir;
}

START_TEST(an_heir_takes_over)
{
    struct pt_loop *loop = kit_start(_i);
    struct lane stuck, idle, late;
    struct lane *sends[] = {&idle, &late};
    struct pt_loop_stats st;

    heir = kit_start(0);
    pt_loop_on_failure(loop, take_over);
    lane_init(&stuck, 1, 1 << 20, true);
    lane_stick(loop, &stuck);
    for (int i = 0; i < 2; i++) {
        lane_init(sends[i], (uint64_t)i, 100000, false);
        ck_assert(pthread_create(&sends[i]->reader, NULL, lane_reader, sends[i]) == 0);
    }
    lane_offer(loop, &idle, 1 << 20);
    lane_wait_returned(&idle);
    pt_loop_break(loop, -ENODEV);
    lane_wait_returned(&stuck);
    ck_assert_int_eq(stuck.error, -ENODEV);
    lane_offer(loop, &late, 1 << 20);
    lane_offer(loop, &idle, 1 << 20);
    for (int i = 0; i < 2; i++)
        lane_finish(sends[i]);
    ck_assert_int_eq(atomic_load(&failures), 1);
    ck_assert_int_eq(pt_loop_failure(heir), 0);
    pt_loop_stats(heir, &st);
    ck_assert_uint_eq(st.bytes, 2 << 20);
    pt_loop_stop(loop);
    pt_loop_stop(heir);
    lane_free(&stuck);
    for (int i = 0; i < 2; i++)
        lane_free(sends[i]);
}
END_TEST

int main(void)
{
    int backends = kit_backends();
    Suite *s = suite_create("loop choice");
    TCase *choice = tcase_create("choice");
    tcase_set_timeout(choice, DEADLINE_S);
#ifdef HAVE_LIBURING
    if (backends > 1) {
        int n = (int)(sizeof refusals / sizeof refusals[0]);
        tcase_add_loop_test(choice, forced_uring_refuses, 0, n);
        tcase_add_test(choice, an_old_kernels_ring_serves);
        tcase_add_loop_test(choice, auto_falls_back, 0, n);
        tcase_add_test(choice, auto_takes_uring);
    }
#endif
    tcase_add_test(choice, words_of_refusals);
    tcase_add_test(choice, not_built_in);
    tcase_add_test(choice, no_backend_at_all);
    tcase_add_loop_test(choice, no_memory, 0, PT_MIN(backends, 2));
    tcase_add_loop_test(choice, backend_fails_at_run_time, 0, backends);
    tcase_add_loop_test(choice, an_heir_takes_over, 0, backends);
    suite_add_tcase(s, choice);

    SRunner *r = srunner_create(s);
    /* Whatever the environment says: seccomp filters and limits end with the process. No thread
     * of ours lives at the fork, which is what ThreadSanitizer asks for. */
    srunner_set_fork_status(r, CK_FORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

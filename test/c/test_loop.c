/* The loop thread over both backends: what is submitted arrives complete and in order, ownership
 * goes back and forth without a lost wake-up, lanes die properly. Each test is a process. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "loop_kit.h"

#include "io/sock.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- streams ---- */

static void stream(int backend, unsigned lanes, size_t piece, uint64_t bytes, bool small,
                   size_t read_size)
{
    struct pt_loop *loop = kit_start(backend);
    struct lane *l = calloc(lanes, sizeof *l);
    for (unsigned i = 0; i < lanes; i++) {
        lane_init(&l[i], i + 1, piece, small);
        l[i].read_size = read_size;
        ck_assert(pthread_create(&l[i].reader, NULL, lane_reader, &l[i]) == 0);
    }
    for (unsigned i = 0; i < lanes; i++)
        lane_offer(loop, &l[i], bytes + i);
    uint64_t total = 0;
    for (unsigned i = 0; i < lanes; i++) {
        lane_finish(&l[i]);
        total += l[i].credit;
    }
    struct pt_loop_stats st;
    pt_loop_stats(loop, &st);
    ck_assert_uint_eq(st.bytes, total);
    pt_loop_stop(loop);
    for (unsigned i = 0; i < lanes; i++)
        lane_free(&l[i]);
    free(l);
}

START_TEST(one_lane) { stream(_i, 1, 256 * 1024, 24 << 20, false, 65536); }
END_TEST
START_TEST(large_messages) { stream(_i, 2, 3 << 20, 12 << 20, false, 65536); }
END_TEST
START_TEST(thirty_two_lanes) { stream(_i, 32, 100000, 1 << 20, false, 65536); }
END_TEST
START_TEST(slow_reader) { stream(_i, 2, 1 << 20, 300000, true, 97); }
END_TEST

/* More lanes than the submission queue has entries, all waiting at once. */
START_TEST(more_lanes_than_entries)
{
    enum { LANES = 300 };
    struct pt_loop *loop = kit_start(_i);
    struct lane *l = calloc(LANES, sizeof *l);
    for (unsigned i = 0; i < LANES; i++)
        lane_init(&l[i], i, 60000, true);
    for (unsigned i = 0; i < LANES; i++)
        lane_offer(loop, &l[i], 60000);
    for (unsigned i = 0; i < LANES; i++)
        EVENTUALLY(kit_in_queue(l[i].peer) > 0); /* nobody reads, yet each lane was served */
    for (unsigned i = 0; i < LANES; i++)
        ck_assert(pthread_create(&l[i].reader, NULL, lane_reader, &l[i]) == 0);
    for (unsigned i = 0; i < LANES; i++) {
        lane_finish(&l[i]);
        lane_free(&l[i]);
    }
    free(l);
    pt_loop_stop(loop);
}
END_TEST

static atomic_bool gate_open, at_gate;
static size_t gate(struct pt_tx *tx)
{
    (void)tx;
    atomic_store(&at_gate, true);
    while (!atomic_load(&gate_open))
        sched_yield();
    return 0;
}

/* More lanes than the queue has entries begin at the same time and none of them can send a byte:
 * the one behind them that can must not wait. */
START_TEST(full_queue_holds_back_nobody)
{
    enum { STUCK = 200 };
    static char block[1 << 16];
    struct pt_loop *loop = kit_start(_i);
    struct lane *l = calloc(STUCK, sizeof *l), last;
    struct pt_tx gate_tx = {.fd = -1, .fill = gate};
    for (unsigned i = 0; i < STUCK; i++) {
        lane_init(&l[i], i, 1000, true);
        while (send(l[i].tx.fd, block, sizeof block, MSG_DONTWAIT) > 0) {
        }
    }
    lane_init(&last, 1, 1000, false);
    ck_assert(pthread_create(&last.reader, NULL, lane_reader, &last) == 0);
    pt_loop_submit(loop, &gate_tx);
    EVENTUALLY(atomic_load(&at_gate));
    for (unsigned i = 0; i < STUCK; i++)
        lane_offer(loop, &l[i], 1000);
    lane_offer(loop, &last, 1000);
    atomic_store(&gate_open, true);
    lane_finish(&last);
    for (unsigned i = 0; i < STUCK; i++)
        ck_assert(shutdown(l[i].tx.fd, SHUT_RDWR) == 0);
    for (unsigned i = 0; i < STUCK; i++) {
        lane_wait_returned(&l[i]);
        lane_free(&l[i]);
    }
    lane_free(&last);
    free(l);
    pt_loop_stop(loop);
}
END_TEST

START_TEST(statistics)
{
    struct pt_loop *loop = kit_start(_i);
    struct lane l;
    struct pt_loop_stats st;
    lane_init(&l, 9, 1000, false);
    ck_assert(pthread_create(&l.reader, NULL, lane_reader, &l) == 0);
    for (int i = 0; i < 10; i++) {
        lane_offer(loop, &l, 500);
        lane_wait_returned(&l);
    }
    pt_loop_stats(loop, &st);
    ck_assert_uint_eq(st.bytes, 5000);
    ck_assert_uint_eq(st.submits, 10);
    ck_assert_uint_eq(st.sends, 10);
    ck_assert_uint_le(st.wakes, 20); /* at most the submitter's and one the loop sends itself */
    ck_assert_uint_ge(st.waits, 10);
    ck_assert_int_eq(pt_loop_failure(loop), 0);
    lane_finish(&l);
    lane_free(&l);
    pt_loop_stop(loop);
}
END_TEST

/* ---- hand-over ---- */

#define LOOKS 3000

struct submitter {
    struct pt_loop *loop;
    struct lane lane;
    unsigned rounds;
    pthread_t thread;
};

static void *submitter(void *arg)
{
    struct submitter *s = arg;
    for (unsigned i = 0; i < s->rounds; i++) {
        lane_offer(s->loop, &s->lane, 1 + i % 3);
        /* A lost wake-up leaves the lane with a loop that sleeps. Mostly wait, so that the lane
         * changes hands: first by looking, and then a little longer, a bit more each round, so
         * that the next hand-over sweeps over the moment in which the loop falls asleep. Else race
         * with the giving back. */
        if (i % 4 == 0)
            continue;
        for (int look = 0; look < LOOKS && atomic_load(&s->lane.with_loop); look++) {
        }
        lane_wait_returned(&s->lane);
        for (volatile unsigned pause = i % 128; pause > 0; pause--) {
        }
    }
    lane_wait_returned(&s->lane);
    return NULL;
}

START_TEST(hand_over)
{
    enum { THREADS = 4, ROUNDS = 33400 };
    struct pt_loop *loop = kit_start(_i);
    struct submitter *s = calloc(THREADS, sizeof *s);
    for (unsigned i = 0; i < THREADS; i++) {
        s[i].loop = loop;
        s[i].rounds = ROUNDS;
        lane_init(&s[i].lane, i, 4096, false);
        ck_assert(pthread_create(&s[i].lane.reader, NULL, lane_reader, &s[i].lane) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        ck_assert(pthread_create(&s[i].thread, NULL, submitter, &s[i]) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(s[i].thread, NULL);
        lane_finish(&s[i].lane);
        lane_free(&s[i].lane);
    }
    struct pt_loop_stats st;
    pt_loop_stats(loop, &st);
    ck_assert_uint_ge(st.submits, 100000);
    pt_loop_stop(loop);
    free(s);
}
END_TEST

/* ---- lanes that die, descriptors that come back ---- */

/* Stuck: nobody reads, and the loop can do nothing about it. */

START_TEST(shutdown_mid_send)
{
    struct pt_loop *loop = kit_start(_i);
    struct lane l, other;
    lane_init(&l, 1, 1 << 20, true);
    lane_init(&other, 2, 1000, false);
    lane_stick(loop, &l);
    ck_assert(lane_owned(&l));
    ck_assert(shutdown(l.tx.fd, SHUT_RDWR) == 0);
    lane_wait_returned(&l);
    ck_assert_int_eq(l.error, -EPIPE);
    /* the loop lives, and has forgotten the dead lane */
    ck_assert(pthread_create(&other.reader, NULL, lane_reader, &other) == 0);
    for (int i = 0; i < 100; i++) {
        lane_offer(loop, &other, 3000);
        lane_wait_returned(&other);
    }
    lane_finish(&other);
    ck_assert_uint_eq(l.fills_after_error, 0);
    lane_free(&l);
    lane_free(&other);
    pt_loop_stop(loop);
}
END_TEST

START_TEST(peer_closes)
{
    struct pt_loop *loop = kit_start(_i);
    struct lane l;
    lane_init(&l, 1, 1 << 20, true);
    lane_stick(loop, &l);
    close(l.peer); /* with unread input: a reset */
    l.peer = -1;
    lane_wait_returned(&l);
    ck_assert_msg(l.error == -EPIPE || l.error == -ECONNRESET, "%s", strerror(-l.error));
    lane_free(&l);
    pt_loop_stop(loop);
}
END_TEST

START_TEST(bad_descriptor)
{
    struct pt_loop *loop = kit_start(_i);
    struct lane l;
    int p[2];
    lane_init(&l, 1, 1000, false);
    close(l.tx.fd);
    lane_offer(loop, &l, 1);
    lane_wait_returned(&l);
    ck_assert_int_eq(l.error, -EBADF);
    ck_assert(pipe(p) == 0);
    l.error = 0;
    l.tx.fd = p[1];
    lane_offer(loop, &l, 1);
    lane_wait_returned(&l);
    ck_assert_int_eq(l.error, -ENOTSOCK);
    close(p[0]);
    lane_free(&l);
    pt_loop_stop(loop);
}
END_TEST

/* The owner closes the descriptor after its lane came back, while a duplicate keeps the socket
 * alive, and the number is used again: no event of the old socket may reach a lane. */
START_TEST(descriptor_comes_back)
{
    struct pt_loop *loop = kit_start(_i);
    enum { ROUNDS = 100, PIECE = 1 << 15 };
    int kept[ROUNDS], peers[ROUNDS], number = -1;
    for (int i = 0; i < ROUNDS; i++) {
        struct lane *l = malloc(sizeof *l); /* freed each round: sanitizers see a stale pointer */
        lane_init(l, (uint64_t)i, PIECE, true);
        if (number >= 0 && l->tx.fd != number) {
            ck_assert(dup3(l->tx.fd, number, O_CLOEXEC) == number);
            close(l->tx.fd);
            l->tx.fd = number;
        }
        number = l->tx.fd;
        lane_stick(loop, l);
        kept[i] = pt_sock_dup(l->tx.fd);
        ck_assert_int_ge(kept[i], 0);
        peers[i] = dup(l->peer);
        if (i % 2) {
            ck_assert(shutdown(l->tx.fd, SHUT_RDWR) == 0);
            lane_wait_returned(l);
        } else { /* to its end, through EAGAIN */
            pthread_mutex_lock(&l->lock);
            /* more than what may be under way, which was offered before */
            l->credit = PT_MAX(l->sent + PIECE + 1, 100000u);
            pthread_mutex_unlock(&l->lock);
            ck_assert(pthread_create(&l->reader, NULL, lane_reader, l) == 0);
            lane_wait_returned(l);
            ck_assert_int_eq(l->error, 0);
            shutdown(l->tx.fd, SHUT_WR);
            pthread_join(l->reader, NULL);
            ck_assert_uint_eq(l->received, l->sent);
            ck_assert(!l->corrupt);
        }
        if (i + 1 < ROUNDS)
            close(l->tx.fd), l->tx.fd = -1;
        lane_free(l);
        free(l);
    }
    for (int i = 0; i < ROUNDS; i++) {
        close(kept[i]);
        close(peers[i]);
    }
    pt_loop_stop(loop);
}
END_TEST

/* A socket left O_NONBLOCK works, and waiting for it costs nothing. */
START_TEST(non_blocking_socket)
{
    struct pt_loop *loop = kit_start(_i);
    struct lane l, other;
    lane_init(&l, 1, 1 << 20, true);
    lane_init(&other, 2, 1000, false);
    ck_assert(fcntl(l.tx.fd, F_SETFL, O_NONBLOCK) == 0);
    lane_offer(loop, &l, 100000);
    EVENTUALLY(kit_in_queue(l.peer) > 0);
    ck_assert(pthread_create(&other.reader, NULL, lane_reader, &other) == 0);
    struct pt_loop_stats a, b;
    pt_loop_stats(loop, &a);
    for (int i = 0; i < 1000; i++) {
        lane_offer(loop, &other, 10);
        lane_wait_returned(&other);
    }
    pt_loop_stats(loop, &b);
    ck_assert(lane_owned(&l));
    /* each hand-over: a wake, a completion, perhaps one early return; the stuck lane a few */
    ck_assert_uint_le(b.waits - a.waits, 3 * 1000 + 100);
    ck_assert_uint_le(b.sends - a.sends, 1000 + 100);
    ck_assert(pthread_create(&l.reader, NULL, lane_reader, &l) == 0);
    lane_finish(&l);
    lane_finish(&other);
    lane_free(&l);
    lane_free(&other);
    pt_loop_stop(loop);
}
END_TEST

static void loop_cpu(double *seconds) /* CPU time of the thread called partisan_loop */
{
    char path[300], name[64] = "", stat[512];
    DIR *d = opendir("/proc/self/task");
    struct dirent *e;
    *seconds = -1;
    while ((e = readdir(d))) {
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!f)
            continue;
        size_t n = fread(stat, 1, sizeof stat - 1, f);
        stat[n] = '\0';
        fclose(f);
        unsigned long u, s;
        char *close_paren = strrchr(stat, ')');
        if (sscanf(stat, "%*d (%63[^)]", name) == 1 && strcmp(name, "partisan_loop") == 0 &&
            sscanf(close_paren + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u,
                   &s) == 2)
            *seconds = (double)(u + s) / (double)sysconf(_SC_CLK_TCK);
    }
    closedir(d);
}

/* The thread has its name, no signal reaches it, and stuck lanes, blocking and not, cost it no CPU
 * time. */
START_TEST(idle_thread)
{
    struct pt_loop *loop = kit_start(_i);
    struct lane l[2];
    for (int i = 0; i < 2; i++) {
        lane_init(&l[i], 1, 1 << 20, true);
        if (i)
            ck_assert(fcntl(l[i].tx.fd, F_SETFL, O_NONBLOCK) == 0);
        lane_stick(loop, &l[i]);
    }
    double before, after, limit = kit_now() + DEADLINE_S;
    do { /* again, if it had not come to rest: one that spins never does */
        double until = kit_now() + 0.3; /* the time in which a spinning loop would show */
        loop_cpu(&before);
        ck_assert_msg(before >= 0, "no thread named partisan_loop");
        while (kit_now() < until)
            sched_yield();
        loop_cpu(&after);
        ck_assert_msg(kit_now() < limit, "%.2f s of CPU while idle", after - before);
    } while (after - before >= 0.1);
    for (int i = 0; i < 2; i++) {
        ck_assert(shutdown(l[i].tx.fd, SHUT_RDWR) == 0);
        lane_wait_returned(&l[i]);
        lane_free(&l[i]);
    }
    pt_loop_stop(loop);
}
END_TEST

static atomic_bool signalled;
static void on_signal(int sig)
{
    char name[32] = "";
    (void)sig;
    prctl(PR_GET_NAME, name);
    if (strcmp(name, "partisan_loop") == 0)
        atomic_store(&signalled, true);
}

static sigset_t fill_mask;
static size_t fill_once(struct pt_tx *tx)
{
    struct lane *l = PT_CONTAINER_OF(tx, struct lane, tx);
    pthread_sigmask(SIG_SETMASK, NULL, &fill_mask);
    kill(getpid(), SIGUSR1);
    return lane_fill(&l->tx);
}

START_TEST(signals_are_blocked)
{
    struct lane l;
    sigset_t mine;
    signal(SIGUSR1, on_signal);
    struct pt_loop *loop = kit_start(_i);
    pthread_sigmask(SIG_SETMASK, NULL, &mine);
    ck_assert_int_eq(sigismember(&mine, SIGUSR1), 0); /* the starter's mask is as before */
    lane_init(&l, 1, 10, false);
    l.tx.fill = fill_once;
    lane_offer(loop, &l, 1);
    lane_wait_returned(&l);
    const int sigs[] = {SIGUSR1, SIGTERM, SIGCHLD, SIGPIPE, SIGHUP, SIGALRM};
    for (size_t i = 0; i < sizeof sigs / sizeof sigs[0]; i++)
        ck_assert_int_eq(sigismember(&fill_mask, sigs[i]), 1);
    ck_assert(!atomic_load(&signalled));
    lane_free(&l);
    pt_loop_stop(loop);
}
END_TEST

int main(void)
{
    struct rlimit rl; /* hundreds of lanes, both ends here */
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
    int backends = kit_backends();
    Suite *s = suite_create("loop");
    TCase *both = tcase_create("both backends");
    tcase_set_timeout(both, 2 * DEADLINE_S);
    tcase_add_loop_test(both, one_lane, 0, backends);
    tcase_add_loop_test(both, large_messages, 0, backends);
    tcase_add_loop_test(both, thirty_two_lanes, 0, backends);
    tcase_add_loop_test(both, slow_reader, 0, backends);
    tcase_add_loop_test(both, more_lanes_than_entries, 0, backends);
    tcase_add_loop_test(both, full_queue_holds_back_nobody, 0, backends);
    tcase_add_loop_test(both, statistics, 0, backends);
    tcase_add_loop_test(both, hand_over, 0, backends);
    tcase_add_loop_test(both, shutdown_mid_send, 0, backends);
    tcase_add_loop_test(both, peer_closes, 0, backends);
    tcase_add_loop_test(both, bad_descriptor, 0, backends);
    tcase_add_loop_test(both, descriptor_comes_back, 0, backends);
    tcase_add_loop_test(both, non_blocking_socket, 0, backends);
    tcase_add_loop_test(both, idle_thread, 0, backends);
    tcase_add_loop_test(both, signals_are_blocked, 0, backends);
    suite_add_tcase(s, both);

    SRunner *r = srunner_create(s);
    /* Whatever the environment says: seccomp filters and limits end with the process. No thread
     * of ours lives at the fork, which is what ThreadSanitizer asks for. */
    srunner_set_fork_status(r, CK_FORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

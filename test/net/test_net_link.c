/* Links and the words that describe them: queue, rate, losses, jitter, runs. */
#include "conf.h"
#include "train.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* For hot loops: ck_assert() reports each success through a pipe. */
#define must(cond)                                    \
    do {                                              \
        if (!(cond))                                  \
            ck_abort_msg("does not hold: %s", #cond); \
    } while (0)

enum { N = 200000, SIGMAS = 5 };
static const uint64_t MS = 1000000;

static void make(struct ptn_link *l, const char *words)
{
    struct ptn_link_conf c = {0};
    char text[256], err[256] = "", *word[32], *rest = NULL;
    int n = 0;

    snprintf(text, sizeof text, "%s", words);
    for (char *w = strtok_r(text, " ", &rest); w; w = strtok_r(NULL, " ", &rest))
        word[n++] = w;
    ck_assert_msg(!ptn_conf_words(&c, n, word, err, sizeof err), "%s", err);
    ptn_link_init(l, 7);
    ptn_link_configure(l, &c);
}

static struct ptn_verdict offer(struct ptn_link *l, uint64_t now, uint32_t bytes)
{
    ptn_link_train(l, now);
    return ptn_link_offer(l, now, bytes);
}

START_TEST(rate_is_exact)
{
    struct ptn_link l;
    struct ptn_verdict v = {0};

    /* 7 Mbit/s: no packet's time is a whole number of ns, and the error must not add up */
    make(&l, "delay 3ms rate 7mbit queue 100000");
    for (int i = 0; i < 70000; i++) {
        v = offer(&l, 5, 1000);
        must(v.fate == PTN_PASS);
    }
    ck_assert_uint_eq(v.due, 5 + 3 * MS + 80000 * MS);
    ck_assert_uint_eq(l.peak_packets, 70000);
    ck_assert_uint_eq(l.peak_bytes, 70000000);
    /* idle since: nothing waits */
    v = offer(&l, 100000 * MS, 7000);
    ck_assert_uint_eq(v.due, 100000 * MS + 8 * MS + 3 * MS);
    ck_assert_uint_eq(l.count, 1);
    ptn_link_free(&l);
}
END_TEST

START_TEST(queue_is_exact)
{
    struct ptn_link l;

    make(&l, "rate 8mbit queue 10"); /* 1000 bytes a ms */
    for (int i = 0; i < 30; i++)
        ck_assert_int_eq(offer(&l, 0, 1000).fate, i < 10 ? PTN_PASS : PTN_FULL);
    ck_assert_int_eq(offer(&l, MS - 1, 1000).fate, PTN_FULL);
    ck_assert_int_eq(offer(&l, MS, 1000).fate, PTN_PASS);
    ck_assert_int_eq(offer(&l, MS, 1000).fate, PTN_FULL);
    ptn_link_free(&l);
    make(&l, "rate 8mbit queue-bytes 2500");
    ck_assert_int_eq(offer(&l, 0, 1000).fate, PTN_PASS);
    ck_assert_int_eq(offer(&l, 0, 1000).fate, PTN_PASS);
    ck_assert_int_eq(offer(&l, 0, 1000).fate, PTN_FULL);
    ck_assert_int_eq(offer(&l, 0, 500).fate, PTN_PASS); /* a smaller one still fits */
    ck_assert_int_eq(offer(&l, 0, 1).fate, PTN_FULL);
    ptn_link_free(&l);
}
END_TEST

START_TEST(loss_is_what_was_asked)
{
    static const char *const words[] = {"loss 0.1%", "loss 0.25", "burst 2% 8",
                                        "gilbert 1% 20% 0.5 1%"};
    static const double share[] = {0.001, 0.25, 0.02, 0.05 / 1.05 * 0.5 + 1 / 1.05 * 0.01};
    struct ptn_link l;
    unsigned lost = 0, bursts = 0;
    bool before = false;

    make(&l, words[_i]);
    for (int i = 0; i < N; i++) {
        enum ptn_fate f = offer(&l, 0, 1500).fate;
        bool gone = f == PTN_LOST || f == PTN_BURST;
        must(gone || f == PTN_PASS);
        must(f != (_i < 2 ? PTN_BURST : PTN_LOST));
        lost += gone;
        bursts += gone && !before;
        before = gone;
    }
    /* Bursts make the count vary more, by up to twice their mean length. */
    double deviation = sqrt(N * share[_i] * (_i == 2 ? 16 : _i == 3 ? 10 : 1));
    ck_assert_double_le(fabs(lost - N * share[_i]), SIGMAS * deviation);
    if (_i == 2)
        ck_assert_double_le(fabs((double)lost / bursts - 8), SIGMAS * 8 / sqrt(bursts));
    ptn_link_free(&l);
}
END_TEST

START_TEST(jitter_stays_in_bounds_and_order)
{
    struct ptn_link l;
    double sum = 0, squares = 0;
    uint64_t last = 0;

    make(&l, _i ? "delay 10ms jitter 1ms normal" : "delay 10ms jitter 1ms");
    for (int i = 0; i < N; i++) { /* far apart: independent */
        uint64_t now = (uint64_t)i * 100 * MS;
        double x = (double)(int64_t)(offer(&l, now, 100).due - now - 10 * MS) / (double)MS;
        must(fabs(x) <= (_i ? 4 : 1));
        sum += x;
        squares += x * x;
    }
    double want = _i ? 1 : 1 / sqrt(3);
    ck_assert_double_le(fabs(sum / N), SIGMAS * want / sqrt(N));
    ck_assert_double_le(fabs(sqrt(squares / N) / want - 1), 0.02);
    for (int i = 0; i < N; i++) { /* close together: none overtakes another */
        uint64_t due = offer(&l, (uint64_t)N * 100 * MS + (uint64_t)i * 1000, 100).due;
        must(due >= last);
        last = due;
    }
    ptn_link_free(&l);
    /* more jitter than delay: not before it was sent */
    make(&l, "delay 1ms jitter 5ms");
    for (uint64_t i = 0; i < 1000; i++)
        ck_assert_uint_ge(offer(&l, i * 100 * MS, 100).due, i * 100 * MS);
    ptn_link_free(&l);
}
END_TEST

START_TEST(a_seed_is_a_run)
{
    struct ptn_link a, b;

    make(&a, "delay 2ms jitter 1ms normal loss 5% duplicate 2% reorder 3% 4ms burst 1% 3");
    make(&b, "delay 2ms jitter 1ms normal loss 5% duplicate 2% reorder 3% 4ms burst 1% 3");
    for (uint64_t i = 0; i < 10000; i++) {
        struct ptn_verdict x = offer(&a, i * 1000, 1500), y = offer(&b, i * 1000, 1500);
        must(x.fate == y.fate && x.due == y.due && x.twice == y.twice);
    }
}
END_TEST

/* ---- trains ---- */

struct got {
    unsigned runs, segments[64], arrivals[64];
    struct ptn_run run[256];
    unsigned room; /* runs that fit */
};

static bool take(void *ctx, const struct ptn_run *r)
{
    struct got *g = ctx;

    if (g->runs == g->room)
        return false;
    g->run[g->runs++] = *r;
    for (uint32_t i = r->first; i < r->first + r->count; i++)
        g->arrivals[i]++;
    return true;
}

START_TEST(trains_become_runs)
{
    struct ptn_pkt k = {.len = 40 + 40 * 1000, .hdr_len = 40, .segments = 40, .mss = 1000};
    struct ptn_counts n = {0};
    struct got g = {.room = 256};
    struct ptn_link l;

    /* without a rate all leave together, whatever the quantum */
    make(&l, "delay 1ms");
    ptn_train_plan(&l, &n, 0, &k, 0, take, &g);
    ck_assert(g.runs == 1 && g.run[0].count == 40 && g.run[0].due == MS);
    /* 1040 bytes take 8.32 us; four of them lie within 30 us of the first */
    make(&l, "delay 1ms rate 1gbit");
    g = (struct got){.room = 256};
    ptn_train_plan(&l, &n, 0, &k, 30000, take, &g);
    ck_assert_uint_eq(g.runs, 10);
    for (unsigned i = 0; i < g.runs; i++) {
        ck_assert_uint_eq(g.run[i].count, 4);
        ck_assert_uint_eq(g.run[i].due, MS + 8320 * 4 * (i + 1)); /* with the last, never early */
    }
    ck_assert_uint_eq(n.offered, 80);
    ck_assert_uint_eq(n.offered_bytes, 80 * 1040);
    ptn_link_free(&l);
}
END_TEST

START_TEST(each_segment_has_its_fate)
{
    struct ptn_pkt k = {.len = 40 + 40 * 1000 - 7, .hdr_len = 40, .segments = 40, .mss = 1000};
    struct ptn_counts n = {0};
    struct ptn_link l;
    unsigned gone = 0, twice = 0;

    make(&l, "loss 10% duplicate 10% reorder 10% 1ms rate 1gbit queue 30");
    for (unsigned round = 0; round < 2000; round++) {
        struct got g = {.room = 256};
        ptn_train_plan(&l, &n, round * 100 * MS, &k, 30000, take, &g);
        for (unsigned i = 0; i < 40; i++) {
            gone += g.arrivals[i] == 0;
            twice += g.arrivals[i] == 2;
            must(g.arrivals[i] <= 2);
        }
        for (unsigned i = 0; i < g.runs; i++)
            must(g.run[i].count >= 1);
    }
    ck_assert_uint_eq(n.full, 2000 * 10); /* the last ten of each */
    ck_assert_uint_eq(gone, n.full + n.lost);
    ck_assert_uint_eq(twice, n.duplicated);
    ck_assert(n.lost > 5000 && n.lost < 7000 && n.overtaken > 4500 && n.overtaken < 6500);
    ptn_link_free(&l);
    /* no memory for a run: its segments are counted so */
    struct got g = {.room = 0};
    n = (struct ptn_counts){0};
    make(&l, "delay 1ms");
    ptn_train_plan(&l, &n, 0, &k, 0, take, &g);
    ck_assert_uint_eq(n.memory, 40);
}
END_TEST

/* ---- words ---- */

START_TEST(units)
{
    uint64_t n;
    double x;

    ck_assert(ptn_read_time("10ms", &n) && n == 10 * MS);
    ck_assert(ptn_read_time("1.5s", &n) && n == 1500 * MS);
    ck_assert(ptn_read_time("250us", &n) && n == 250000);
    ck_assert(ptn_read_time("0", &n) && n == 0);
    ck_assert(!ptn_read_time("10", &n) && !ptn_read_time("", &n) && !ptn_read_time("-1ms", &n));
    ck_assert(!ptn_read_time("1e9s", &n) && !ptn_read_time("nan", &n) &&
              !ptn_read_time("1 ms", &n));
    ck_assert(ptn_read_rate("2.5gbit", &n) && n == 2500000000u);
    ck_assert(ptn_read_size("64k", &n) && n == 65536);
    ck_assert(ptn_read_share("0.1%", &x) && fabs(x - 0.001) < 1e-12);
    ck_assert(ptn_read_share("1", &x) && x == 1 && !ptn_read_share("1.01", &x));
    ck_assert(!ptn_read_share("101%", &x) && !ptn_read_share("%", &x));
    ck_assert(ptn_read_count("65535", 65535, &n) && !ptn_read_count("65536", 65535, &n));
    ck_assert(!ptn_read_count("1.5", 10, &n) && !ptn_read_count("", 10, &n));
}
END_TEST

/* What is printed is read again as the same. */
START_TEST(words_and_back)
{
    struct ptn_link a, b;
    char text[512];

    make(&a, "delay 12.5ms jitter 300us normal rate 100mbit queue 77 loss 0.1% gilbert 1% 25% 1 0 "
             "duplicate 2% reorder 1% 5ms");
    ptn_conf_print(&a.conf, text, sizeof text);
    make(&b, text);
    ck_assert_mem_eq(&a.conf.delay, &b.conf.delay, sizeof a.conf.delay);
    ck_assert(a.conf.jitter == b.conf.jitter && a.conf.jitter_is == b.conf.jitter_is);
    ck_assert(a.conf.rate == b.conf.rate && a.conf.queue_packets == b.conf.queue_packets);
    ck_assert(a.conf.reorder_by == b.conf.reorder_by && fabs(a.conf.loss - b.conf.loss) < 1e-9);
    ptn_conf_print(&a.conf, text, 10); /* cut, not overrun */
    ck_assert_uint_eq(strlen(text), 9);
}
END_TEST

START_TEST(bad_words)
{
    static char *const bad[][4] = {{"delay", "10"},      {"delay"},
                                   {"loss", "2"},        {"burst", "5%"},
                                   {"burst", "5%", "0"}, {"burst", "80%", "1"},
                                   {"queue", "0"},       {"rate", "fast"},
                                   {"reorder", "1%"},    {"gilbert", "1", "1", "1"},
                                   {"speed", "1"},       {"duplicate", "x"}};
    struct ptn_link_conf c = {.delay = 5}, before = c;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char err[256] = "";
        int n = 0;
        while (n < 4 && bad[i][n])
            n++;
        ck_assert_int_eq(ptn_conf_words(&c, n, bad[i], err, sizeof err), -1);
        ck_assert_uint_gt(strlen(err), 0);
        ck_assert_mem_eq(&c, &before, sizeof c);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("net_link");
    TCase *t = tcase_create("link");
    suite_add_tcase(s, t);
    tcase_add_test(t, rate_is_exact);
    tcase_add_test(t, queue_is_exact);
    tcase_add_loop_test(t, loss_is_what_was_asked, 0, 4);
    tcase_add_loop_test(t, jitter_stays_in_bounds_and_order, 0, 2);
    tcase_add_test(t, a_seed_is_a_run);
    tcase_add_test(t, trains_become_runs);
    tcase_add_test(t, each_segment_has_its_fate);
    tcase_add_test(t, units);
    tcase_add_test(t, words_and_back);
    tcase_add_test(t, bad_words);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}

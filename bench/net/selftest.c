#define _GNU_SOURCE
#include "selftest.h"

#include "ctl.h"
#include "probe.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Bounds of random counts are five deviations: one false alarm in a million. Upper bounds of times
 * hold unless the emulator itself says that it was late: on a busy machine that is its duty. One
 * pause of the machine is below what it reports, so what is timed has TRIES: a link that does not do
 * what it was asked for fails them all. */
enum { MS = 1000000, LATE_OK = 100 * 1000, SIGMAS = 5 };
/* Between probes that are only counted: a burst could overflow a queue of the kernel's. */
enum { PACE_NS = 20 * 1000, TRIES = 5 };
static const double NEED_GBIT = 2.0;

static unsigned passed, failed;

__attribute__((format(printf, 3, 4))) static void check(bool good, const char *name,
                                                        const char *format, ...)
{
    char words[256];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    printf("  %-6s %-24s %s\n", good ? "ok" : "FAILED", name, words);
    fflush(stdout);
    *(good ? &passed : &failed) += 1;
}

/* Clears the link, gives it these words, counts anew. */
static void set(struct ptn_lab *lab, const char *words)
{
    char line[512];

    snprintf(line, sizeof line, "link a b clear %s", words);
    if (!ptn_lab_do(lab, line) || !ptn_lab_do(lab, "reset-stats"))
        check(false, "control socket", "%s: %s", line, lab->answer);
}

static bool was_limited(struct ptn_lab *lab)
{
    return !ptn_lab_do(lab, "stats") || !strstr(lab->answer, "bottleneck no\n");
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

struct times {
    double mean, deviation, median, p99, min, max;
    unsigned n;
};

static struct times times(const struct ptn_probes *p)
{
    int64_t *t = malloc(p->count * sizeof *t);
    struct times r = {0};
    double sum = 0, squares = 0;

    for (unsigned i = 0; t && i < p->count; i++)
        if (p->took[i] >= 0) {
            t[r.n++] = p->took[i];
            sum += (double)p->took[i];
        }
    if (r.n) {
        r.mean = sum / r.n;
        for (unsigned i = 0; i < r.n; i++)
            squares += ((double)t[i] - r.mean) * ((double)t[i] - r.mean);
        r.deviation = sqrt(squares / r.n);
        qsort(t, r.n, sizeof *t, compare);
        size_t half = r.n / 2, most = (size_t)r.n * 99 / 100;
        r.median = (double)t[half];
        r.p99 = (double)t[most];
        r.min = (double)t[0];
        r.max = (double)t[r.n - 1];
    }
    free(t);
    return r;
}

/* ---- UDP ---- */

/* Probes of which every one reaches the emulator: on a busy machine, where it does not run before
 * others, the kernel's queue may overflow. Then anew, at half the pace. */
static bool probe_all(struct ptn_lab *lab, unsigned count, struct ptn_probes *p)
{
    uint64_t gap = PACE_NS;

    for (int tries = 0;; tries++, gap *= 2) {
        if (!ptn_lab_do(lab, "reset-stats") || !ptn_probe(lab, count, 64, gap, p))
            return false;
        if (tries == TRIES || ptn_lab_stat(lab, "node a", "unread") == 0)
            return true;
        ptn_probes_free(p);
    }
}

/* What is timed: `true` ends the tries. `last`: it is said whatever it is. */
typedef bool timed(struct ptn_lab *lab, unsigned scale, unsigned i, bool last);

static void tries(struct ptn_lab *lab, unsigned scale, unsigned kinds, timed *once)
{
    for (unsigned i = 0; i < kinds; i++)
        for (int n = 1; n <= TRIES && !once(lab, scale, i, n == TRIES); n++)
            ;
}

static bool no_sockets(const char *name)
{
    check(false, name, "no sockets: %s", strerror(errno));
    return true;
}

static const unsigned delays[] = {0, 1, 10, 50};

static bool delay(struct ptn_lab *lab, unsigned scale, unsigned i, bool last)
{
    char words[64], name[64];
    struct ptn_probes p;

    snprintf(words, sizeof words, "delay %ums", delays[i]);
    snprintf(name, sizeof name, "delay %u ms", delays[i]);
    set(lab, words);
    if (!ptn_probe(lab, 200 * scale, 64, MS, &p))
        return no_sockets(name);
    struct times t = times(&p);
    double want = (double)delays[i] * MS;
    bool late = was_limited(lab);
    bool good = p.arrived == p.count && t.min >= want && (late || t.median <= want + LATE_OK);
    if (good || last)
        check(good, name, "min +%.0f us, median +%.0f us, p99 +%.0f us%s", (t.min - want) / 1e3,
              (t.median - want) / 1e3, (t.p99 - want) / 1e3,
              late ? " (the emulator says it was late)" : "");
    ptn_probes_free(&p);
    return good;
}

static const struct {
    const char *words, *name;
    double deviation, reach;
} jitters[] = {{"delay 10ms jitter 1ms", "jitter, uniform", MS / 1.7320508, MS},
               {"delay 10ms jitter 300us normal", "jitter, normal", 0.3 * MS, 1.2 * MS}};

static bool jitter(struct ptn_lab *lab, unsigned scale, unsigned i, bool last)
{
    struct ptn_probes p;

    set(lab, jitters[i].words);
    if (!ptn_probe(lab, 400 * scale, 64, 5 * MS / 2, &p))
        return no_sockets(jitters[i].name);
    struct times t = times(&p);
    double want = 10.0 * MS, slack = SIGMAS * jitters[i].deviation / sqrt(t.n);
    bool late = was_limited(lab);
    bool good =
        p.arrived == p.count && t.min >= want - jitters[i].reach && t.mean >= want - slack &&
        (late ||
         (t.mean <= want + slack + LATE_OK && fabs(t.deviation / jitters[i].deviation - 1) < 0.2));
    if (good || last)
        check(good, jitters[i].name, "mean %.3f ms, deviation %.0f us, wanted %.0f us%s",
              t.mean / MS, t.deviation / 1e3, jitters[i].deviation / 1e3,
              late ? " (the emulator says it was late)" : "");
    ptn_probes_free(&p);
    return good;
}

static const unsigned rates[] = {10, 100};

static bool rate(struct ptn_lab *lab, unsigned scale, unsigned i, bool last)
{
    char words[64], name[64];
    struct ptn_probes p;
    unsigned count = rates[i] * 5 * scale;

    snprintf(words, sizeof words, "rate %umbit queue 100000", rates[i]);
    snprintf(name, sizeof name, "rate %u Mbit/s", rates[i]);
    set(lab, words);
    /* 1472 bytes and 28 of headers, four times as fast as they can leave. */
    double each = 1500 * 8 * 1e3 / rates[i], want = each * (count - 1);
    if (!ptn_probe(lab, count, 1472, (uint64_t)each / 4, &p))
        return no_sockets(name);
    double span = (double)(p.at[count - 1] - p.at[0]);
    bool late = was_limited(lab);
    bool good = p.arrived == count && (late || fabs(span / want - 1) < 0.01);
    if (good || last)
        check(good, name, "%u packets in %.2f ms, wanted %.2f%s", p.arrived, span / MS, want / MS,
              late ? " (the emulator says it was late)" : "");
    ptn_probes_free(&p);
    return good;
}

static void queue(struct ptn_lab *lab)
{
    struct ptn_probes p;

    set(lab, "rate 10mbit queue 50");
    if (!ptn_probe(lab, 300, 1472, 0, &p)) {
        check(false, "queue", "no sockets: %s", strerror(errno));
        return;
    }
    double full = ptn_lab_stat(lab, "link a>b", "queue_full");
    double peak = ptn_lab_stat(lab, "link a>b", "queue_peak_packets");
    check(p.arrived + full == p.count && peak == 50 && p.arrived >= 50, "queue of 50",
          "%u of %u came, %.0f found it full, peak %.0f", p.arrived, p.count, full, peak);
    ptn_probes_free(&p);
}

static void loss(struct ptn_lab *lab, unsigned scale)
{
    static const double share[] = {0.01, 0.1, 0.5};
    char words[64], name[64];

    for (unsigned i = 0; i < 3; i++) {
        struct ptn_probes p;
        unsigned n = 4000 * scale;
        snprintf(words, sizeof words, "loss %g%%", share[i] * 100);
        snprintf(name, sizeof name, "loss %g %%", share[i] * 100);
        set(lab, words);
        if (!probe_all(lab, n, &p)) {
            check(false, name, "no sockets: %s", strerror(errno));
            continue;
        }
        double counted = ptn_lab_stat(lab, "link a>b", "lost"), lost = n - p.arrived;
        double slack = SIGMAS * sqrt(n * share[i] * (1 - share[i]));
        check(lost == counted && fabs(lost - n * share[i]) <= slack, name,
              "%.0f of %u, counted %.0f, wanted %.0f +-%.0f", lost, n, counted, n * share[i],
              slack);
        ptn_probes_free(&p);
    }
}

static void burst(struct ptn_lab *lab, unsigned scale)
{
    enum { LENGTH = 5 };
    struct ptn_probes p;
    unsigned n = 10000 * scale, bursts = 0, lost = 0;

    set(lab, "burst 5% 5");
    if (!probe_all(lab, n, &p)) {
        check(false, "loss in bursts", "no sockets: %s", strerror(errno));
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        bool gone = p.took[i] < 0;
        lost += gone;
        bursts += gone && (!i || p.took[i - 1] >= 0);
    }
    double length = bursts ? (double)lost / bursts : 0, r = 1.0 / LENGTH;
    /* A burst's length is geometric: deviation sqrt(1 - r) / r. */
    double slack = SIGMAS * sqrt(1 - r) / r / sqrt(bursts ? bursts : 1);
    check(fabs(length - LENGTH) <= slack && lost > 0.03 * n && lost < 0.07 * n, "loss in bursts",
          "%.2f %% in %u bursts of %.2f, wanted %d +-%.2f", lost * 100.0 / n, bursts, length,
          LENGTH, slack);
    ptn_probes_free(&p);
}

static void copies(struct ptn_lab *lab, unsigned scale)
{
    struct ptn_probes p;
    unsigned n = 4000 * scale;
    double share = 0.1, slack = SIGMAS * sqrt(n * share * (1 - share));

    set(lab, "duplicate 10%");
    if (!probe_all(lab, n, &p)) {
        check(false, "duplicates", "no sockets: %s", strerror(errno));
        return;
    }
    double doubled = p.copies - p.arrived;
    check(p.arrived == n && fabs(doubled - n * share) <= slack, "duplicates",
          "%.0f, wanted %.0f +-%.0f", doubled, n * share, slack);
    ptn_probes_free(&p);
}

static void order(struct ptn_lab *lab, unsigned scale)
{
    struct ptn_probes p;
    unsigned n = 1000 * scale, overtaken = 0;
    double share = 0.1, slack = SIGMAS * sqrt(n * share * (1 - share));
    int64_t first = INT64_MAX; /* of those sent later */

    set(lab, "delay 1ms reorder 10% 20ms");
    if (!ptn_probe(lab, n, 64, MS / 2, &p)) {
        check(false, "reordering", "no sockets: %s", strerror(errno));
        return;
    }
    /* By their order, not by the time they took: a machine that pauses makes all of them slow. */
    for (unsigned i = n; i-- > 0;) {
        overtaken += p.at[i] > first;
        if (p.at[i] < first)
            first = p.at[i];
    }
    check(p.arrived == n && fabs(overtaken - n * share) <= slack, "reordering",
          "%u overtaken, wanted %.0f +-%.0f", overtaken, n * share, slack);
    ptn_probes_free(&p);
}

static void cut(struct ptn_lab *lab)
{
    struct ptn_probes p[3] = {0};

    set(lab, "delay 1ms");
    bool good = ptn_probe(lab, 20, 64, 0, &p[0]) && ptn_lab_do(lab, "cut a b") &&
                ptn_probe(lab, 20, 64, 0, &p[1]) && ptn_lab_do(lab, "heal a b") &&
                ptn_probe(lab, 20, 64, 0, &p[2]);
    check(good && p[0].arrived == 20 && p[1].arrived == 0 && p[2].arrived == 20, "cut and heal",
          "%u before, %u while cut, %u after, of 20", p[0].arrived, p[1].arrived, p[2].arrived);
    for (int i = 0; i < 3; i++)
        ptn_probes_free(&p[i]);
}

/* ---- TCP ---- */

static void stream(struct ptn_lab *lab, int family, const char *words, const char *name,
                   uint64_t ns, double need)
{
    struct ptn_stream s;

    set(lab, words);
    if (!ptn_stream_open(lab, family, &s)) {
        check(false, name, "no connection");
        ptn_stream_close(&s);
        return;
    }
    uint64_t start = ptn_now();
    ptn_stream_pump(&s, ns);
    double gbit = (double)s.got * 8 / (double)(ptn_now() - start);
    bool all = ptn_stream_drain(&s, 60ull * 1000 * MS), limited = was_limited(lab);
    double busy = ptn_lab_stat(lab, "emulator", "busy");
    check(all && !s.corrupt && s.got && gbit >= need, name,
          "%.1f MB, %.3f Gbit/s, emulator busy %.0f %%%s", (double)s.got / 1e6, gbit, busy * 100,
          limited ? ", says it was the bottleneck" : "");
    ptn_stream_close(&s);
}

static void flow_cut(struct ptn_lab *lab)
{
    struct ptn_stream s;

    set(lab, "delay 5ms rate 200mbit");
    if (!ptn_stream_open(lab, AF_INET, &s)) {
        check(false, "one flow cut", "no connection");
    } else {
        ptn_stream_pump(&s, 200 * MS);
        bool done = ptn_lab_do(lab, "flow cut busiest a b");
        /* What was under way comes, and is read. */
        uint64_t before;
        do {
            before = s.got;
            ptn_stream_pump(&s, 50 * MS);
        } while (before != s.got || ptn_lab_stat(lab, "emulator", "under_way") > 0);
        ptn_stream_pump(&s, 200 * MS);
        uint64_t while_cut = s.got - before;
        done = done && ptn_lab_do(lab, "flow heal port 7007");
        bool all = ptn_stream_drain(&s, 60ull * 1000 * MS);
        check(done && before && !while_cut && all && !s.corrupt, "one flow cut",
              "%llu bytes before, %llu while cut, all after: %s", (unsigned long long)before,
              (unsigned long long)while_cut, all ? "yes" : "no");
    }
    ptn_stream_close(&s);
}

static void flow_reset(struct ptn_lab *lab, const char *words, const char *name)
{
    struct ptn_stream s;

    set(lab, words);
    if (!ptn_stream_open(lab, AF_INET, &s)) {
        check(false, name, "no connection");
    } else {
        ptn_stream_pump(&s, 300 * MS);
        bool done = ptn_lab_do(lab, "flow reset busiest a b");
        ptn_stream_pump(&s, 60000ull * MS);
        check(done && s.error_from == ECONNRESET && s.error_to == ECONNRESET, name,
              "after %.1f MB; ends saw: %s; %s", (double)s.got / 1e6, strerror(s.error_from),
              strerror(s.error_to));
    }
    ptn_stream_close(&s);
}

int ptn_selftest(bool is_long)
{
    static struct ptn_lab lab;
    unsigned scale = is_long ? 10 : 1;
    uint64_t ns = (is_long ? 5000ull : 700ull) * MS;
    int rc = ptn_lab_open(&lab);

    if (rc) {
        printf("%s\n", rc == 77 ? "NOT RUN: no network namespaces or tun devices here (see above)"
                                : "FAILED: the emulator did not start");
        ptn_lab_close(&lab);
        return rc;
    }
    tries(&lab, scale, sizeof delays / sizeof *delays, delay);
    tries(&lab, scale, sizeof jitters / sizeof *jitters, jitter);
    tries(&lab, scale, sizeof rates / sizeof *rates, rate);
    queue(&lab);
    loss(&lab, scale);
    burst(&lab, scale);
    copies(&lab, scale);
    order(&lab, scale);
    cut(&lab);
    stream(&lab, AF_INET, "delay 10ms", "TCP, RTT 20 ms", 3 * ns, is_long ? NEED_GBIT : 0);
    stream(&lab, AF_INET, "delay 1ms rate 300mbit", "TCP, 300 Mbit/s", ns, 0);
    stream(&lab, AF_INET, "delay 1ms loss 1%", "TCP, 1 % loss", ns, 0);
    stream(&lab, AF_INET, "delay 1ms duplicate 2% reorder 2% 1ms", "TCP, reordering", ns, 0);
    if (ptn_lab_do(&lab, "nodes") && strstr(lab.answer, "fd77::2\n"))
        stream(&lab, AF_INET6, "delay 1ms loss 0.5%", "TCP over IPv6", ns, 0);
    else
        printf("  NOT RUN TCP over IPv6: it is switched off here\n");
    flow_cut(&lab);
    flow_reset(&lab, "delay 10ms", "RST, long path");
    flow_reset(&lab, "delay 2ms loss 1% rate 100mbit", "RST, lossy path");
    ptn_lab_close(&lab);
    printf("ptnet self-test: %u passed, %u failed\n", passed, failed);
    return failed ? 1 : 0;
}

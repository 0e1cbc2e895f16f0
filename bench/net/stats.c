#include "stats.h"

#include <arpa/inet.h>
#include <string.h>
#include <time.h>

enum {
    LATE_PERMILLE = 10, /* more late deliveries than this: the delays are not what was asked for */
    FULL_PERMILLE = 20, /* windows in which it hardly slept */
};

const char *ptn_addr_text(const struct ptn_addr *a, char out[PTN_ADDR_TEXT])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    bool v4 = !memcmp(a->b, mapped, sizeof mapped);

    if (!inet_ntop(v4 ? AF_INET : AF_INET6, a->b + (v4 ? 12 : 0), out, PTN_ADDR_TEXT))
        out[0] = 0;
    return out;
}

static uint64_t tun_drops(const struct ptn_engine *e, unsigned i)
{
    return ptn_ns_tun_drops(&e->node[i]) - e->drops_before[i];
}

static void cause(char *out, size_t size, const char *name)
{
    size_t at = strlen(out);
    snprintf(out + at, size - at, "%s%s", at ? "," : "", name);
}

void ptn_stats_bottleneck(const struct ptn_engine *e, char *out, size_t size)
{
    const struct ptn_timing *t = &e->timing;
    uint64_t unread = 0, memory = 0, failed = 0;

    for (unsigned i = 0; i < e->count; i++)
        unread += tun_drops(e, i);
    for (unsigned i = 0; i < e->count * e->count; i++) {
        memory += e->path[i].n.memory;
        failed += e->path[i].n.failed;
    }
    out[0] = 0;
    if (t->full_windows * 1000 > t->windows * FULL_PERMILLE)
        cause(out, size, "cpu");
    if (t->late * 1000 > t->runs * LATE_PERMILLE ||
        t->starved_windows * 1000 > t->windows * FULL_PERMILLE)
        cause(out, size, "late");
    if (unread)
        cause(out, size, "unread");
    if (memory)
        cause(out, size, "memory");
    if (failed)
        cause(out, size, "refused");
}

/* Upper end of the bucket that the share falls into, in microseconds. */
static double late_us(const struct ptn_timing *t, double share)
{
    uint64_t want = (uint64_t)((double)t->runs * share), sum = 0;

    for (unsigned i = 0; i < PTN_LATE_BUCKETS; i++) {
        sum += t->bucket[i];
        if (sum > want)
            return (double)(1ull << i) / 1e3;
    }
    return (double)t->max / 1e3;
}

#define U(x) ((unsigned long long)(x))

static void link_line(const struct ptn_engine *e, unsigned from, unsigned to, struct ptn_text *out)
{
    const struct ptn_path *p = &e->path[from * e->count + to];
    const struct ptn_counts *c = &p->n;

    ptn_text_add(out,
                 "link %s>%s offered %llu offered_bytes %llu forwarded %llu forwarded_bytes %llu "
                 "lost %llu lost_burst %llu queue_full %llu cut %llu flow_cut %llu duplicated %llu "
                 "overtaken %llu memory %llu refused %llu queue_peak_bytes %llu "
                 "queue_peak_packets %llu\n",
                 e->node[from].name, e->node[to].name, U(c->offered), U(c->offered_bytes),
                 U(c->forwarded), U(c->forwarded_bytes), U(c->lost), U(c->lost_burst), U(c->full),
                 U(c->cut), U(c->flow_cut), U(c->duplicated), U(c->overtaken), U(c->memory),
                 U(c->failed), U(p->link.peak_bytes), U(p->link.peak_packets));
}

void ptn_stats(const struct ptn_engine *e, struct ptn_text *out)
{
    const struct ptn_timing *t = &e->timing;
    struct timespec ts;
    char limits[64];

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    uint64_t cpu = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec - t->cpu_since;
    double wall = (double)(ptn_now() - t->since);
    for (unsigned i = 0; i < e->count; i++)
        for (unsigned j = 0; j < e->count; j++)
            if (i != j)
                link_line(e, i, j, out);
    for (unsigned i = 0; i < e->count; i++)
        ptn_text_add(out, "node %s unread %llu\n", e->node[i].name, U(tun_drops(e, i)));
    ptn_text_add(
        out,
        "emulator seconds %.3f busy %.3f windows %llu full_windows %llu starved_windows %llu "
        "deliveries %llu "
        "late %llu late_p50_us %g late_p99_us %g late_max_us %g under_way %zu "
        "memory_bytes %llu strange %llu nowhere %llu resets %llu flows_pushed_out %llu "
        "realtime %d\n",
        wall / 1e9, wall > 0 ? (double)cpu / wall : 0, U(t->windows), U(t->full_windows),
        U(t->starved_windows), U(t->runs), U(t->late), late_us(t, 0.5), late_us(t, 0.99),
        (double)t->max / 1e3, e->sched.count, U(e->memory), U(e->strange), U(e->nowhere),
        U(e->resets), U(e->flows.pushed_out), e->realtime);
    ptn_stats_bottleneck(e, limits, sizeof limits);
    ptn_text_add(out, "bottleneck %s\n", limits[0] ? limits : "no");
}

#include "conf.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_PACKETS = 1000 }; /* as many as a Linux interface queues */

struct unit {
    const char *name;
    double factor;
};

/* A number, not negative, and one of the units. */
static bool read_unit(const char *s, const struct unit *units, double max, double *out)
{
    char *end;

    if (!isdigit((unsigned char)*s) && *s != '.')
        return false;
    double x = strtod(s, &end);
    if (end == s || !isfinite(x))
        return false;
    for (const struct unit *u = units; u->name; u++)
        if (!strcmp(end, u->name) && x * u->factor <= max) {
            *out = x * u->factor;
            return true;
        }
    return !strcmp(end, "") && x == 0 && (*out = 0, true);
}

static bool read_whole(const char *s, const struct unit *units, double max, uint64_t *out)
{
    double x;

    if (!read_unit(s, units, max, &x))
        return false;
    *out = (uint64_t)llround(x);
    return true;
}

bool ptn_read_time(const char *s, uint64_t *ns)
{
    static const struct unit units[] = {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}, {0}};
    return read_whole(s, units, 3600e9, ns);
}

bool ptn_read_rate(const char *s, uint64_t *bits)
{
    static const struct unit units[] = {
        {"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}, {0}};
    return read_whole(s, units, 1e12, bits);
}

bool ptn_read_size(const char *s, uint64_t *bytes)
{
    static const struct unit units[] = {
        {"", 1}, {"k", 1024}, {"m", 1048576}, {"g", 1073741824}, {0}};
    return read_whole(s, units, 0x1p40, bytes);
}

bool ptn_read_share(const char *s, double *share)
{
    static const struct unit units[] = {{"%", 0.01}, {"", 1}, {0}};
    return read_unit(s, units, 1, share);
}

bool ptn_read_count(const char *s, uint64_t max, uint64_t *n)
{
    static const struct unit units[] = {{"", 1}, {0}};
    return strspn(s, "0123456789") == strlen(s) && read_whole(s, units, (double)max, n);
}

/* ---- words of a link ---- */

const char ptn_conf_help[] =
    "  delay TIME                 one way\n"
    "  jitter TIME [normal]       uniform within +-TIME, or normal with that deviation\n"
    "  rate RATE                  2gbit, 100mbit, 0 = no limit; counts IP bytes\n"
    "  queue PACKETS              before the transmitter, tail drop; default 1000 with a rate\n"
    "  queue-bytes SIZE           in bytes instead; a queue word behind it limits both\n"
    "  loss SHARE                 of each packet: 0.1% or 0.001\n"
    "  burst SHARE LENGTH         loss in bursts of this mean length\n"
    "  gilbert P R BAD GOOD       Gilbert-Elliott: to bad, to good, loss in bad, loss in good\n"
    "  duplicate SHARE\n"
    "  reorder SHARE TIME         these arrive TIME later, behind packets sent after them\n"
    "  clear                      a perfect link again\n";

static int bad(char *err, size_t size, const char *word, const char *wants)
{
    snprintf(err, size, "%s: %s", word, wants);
    return -1;
}

struct words {
    int count, at;
    char *const *word;
};

static const char *next(struct words *w) { return w->at < w->count ? w->word[w->at++] : ""; }

static bool optional(struct words *w, const char *word)
{
    if (w->at >= w->count || strcmp(w->word[w->at], word) != 0)
        return false;
    w->at++;
    return true;
}

static int one(struct ptn_link_conf *c, const char *name, struct words *w, char *err, size_t size)
{
    uint64_t n;

    if (!strcmp(name, "clear")) {
        memset(c, 0, sizeof *c);
    } else if (!strcmp(name, "delay")) {
        if (!ptn_read_time(next(w), &c->delay))
            return bad(err, size, name, "wants a time, such as 10ms");
    } else if (!strcmp(name, "jitter")) {
        if (!ptn_read_time(next(w), &c->jitter))
            return bad(err, size, name, "wants a time, such as 2ms");
        c->jitter_is = optional(w, "normal") ? PTN_JITTER_NORMAL : PTN_JITTER_UNIFORM;
    } else if (!strcmp(name, "rate")) {
        if (!ptn_read_rate(next(w), &c->rate))
            return bad(err, size, name, "wants a rate, such as 100mbit");
        if (c->rate && !c->queue_packets && !c->queue_bytes)
            c->queue_packets = DEFAULT_PACKETS;
    } else if (!strcmp(name, "queue")) {
        if (!ptn_read_count(next(w), 1000000, &n) || !n)
            return bad(err, size, name, "wants a number of packets, 1 to 1000000");
        c->queue_packets = (uint32_t)n;
    } else if (!strcmp(name, "queue-bytes")) {
        if (!ptn_read_size(next(w), &c->queue_bytes) || !c->queue_bytes)
            return bad(err, size, name, "wants a size, such as 256k");
        c->queue_packets = 0;
    } else if (!strcmp(name, "loss")) {
        if (!ptn_read_share(next(w), &c->loss))
            return bad(err, size, name, "wants a share, such as 0.1%");
    } else if (!strcmp(name, "burst")) {
        double share, length;
        if (!ptn_read_share(next(w), &share) || share > 0.9)
            return bad(err, size, name, "wants a share up to 90%, then a mean length");
        char *end;
        const char *s = next(w);
        length = strtod(s, &end);
        if (end == s || *end || !(length >= 1 && length <= 1e6))
            return bad(err, size, name, "wants a mean length of 1 or more packets");
        ptn_link_burst(c, share, length);
        if (c->to_bad > 1)
            return bad(err, size, name, "so much loss needs longer bursts");
    } else if (!strcmp(name, "gilbert")) {
        if (!ptn_read_share(next(w), &c->to_bad) || !ptn_read_share(next(w), &c->to_good) ||
            !ptn_read_share(next(w), &c->bad_loss) || !ptn_read_share(next(w), &c->good_loss))
            return bad(err, size, name, "wants four shares: P R BAD GOOD");
    } else if (!strcmp(name, "duplicate")) {
        if (!ptn_read_share(next(w), &c->duplicate))
            return bad(err, size, name, "wants a share, such as 1%");
    } else if (!strcmp(name, "reorder")) {
        if (!ptn_read_share(next(w), &c->reorder))
            return bad(err, size, name, "wants a share, then a time");
        if (!ptn_read_time(next(w), &c->reorder_by))
            return bad(err, size, name, "wants a time after its share, such as 5ms");
    } else {
        return bad(err, size, name, "is no property of a link");
    }
    return 0;
}

int ptn_conf_words(struct ptn_link_conf *c, int count, char *const *words, char *err, size_t size)
{
    struct words w = {.count = count, .word = words};
    struct ptn_link_conf try = *c;

    while (w.at < w.count)
        if (one(&try, next(&w), &w, err, size))
            return -1;
    *c = try;
    return 0;
}

struct text {
    char *out;
    size_t size, at;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *format, ...)
{
    va_list args;

    if (t->at >= t->size)
        return;
    va_start(args, format);
    int n = vsnprintf(t->out + t->at, t->size - t->at, format, args);
    va_end(args);
    t->at += n > 0 ? (size_t)n : 0;
}

void ptn_conf_print(const struct ptn_link_conf *c, char *out, size_t size)
{
    struct text t = {.out = out, .size = size};

    add(&t, "delay %gms", (double)c->delay / 1e6);
    if (c->jitter)
        add(&t, " jitter %gms%s", (double)c->jitter / 1e6,
            c->jitter_is == PTN_JITTER_NORMAL ? " normal" : "");
    if (c->rate)
        add(&t, " rate %gmbit", (double)c->rate / 1e6);
    if (c->rate && c->queue_packets)
        add(&t, " queue %u", c->queue_packets);
    if (c->rate && c->queue_bytes)
        add(&t, " queue-bytes %llu", (unsigned long long)c->queue_bytes);
    if (c->loss > 0)
        add(&t, " loss %g%%", c->loss * 100);
    if (c->to_bad > 0)
        add(&t, " gilbert %g%% %g%% %g%% %g%%", c->to_bad * 100, c->to_good * 100,
            c->bad_loss * 100, c->good_loss * 100);
    if (c->duplicate > 0)
        add(&t, " duplicate %g%%", c->duplicate * 100);
    if (c->reorder > 0)
        add(&t, " reorder %g%% %gms", c->reorder * 100, (double)c->reorder_by / 1e6);
}

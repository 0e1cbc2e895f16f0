/* Relay: the envelope, the table of ways, what was seen; and that no message runs in a circle for ever. */
#include "proto/relay.h"
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- envelope ---- */

static size_t envelope(uint8_t *out, unsigned hops, const char *name, const char *packet)
{
    struct pt_relay_envelope e = {.hops = hops,
                                  .origin = UINT64_C(0x0102030405060708),
                                  .number = UINT64_C(0xf1f2f3f4f5f6f7f8),
                                  .flow = UINT64_C(0x8182838485868788),
                                  .name = (const uint8_t *)name,
                                  .name_len = strlen(name)};
    size_t n = pt_relay_encode(out, &e);
    memcpy(out + n, packet, strlen(packet));
    return n + strlen(packet);
}

/* In a block of its own size: ASan guards both ends. */
static int decode(const uint8_t *p, size_t len, struct pt_relay_envelope *e)
{
    uint8_t *block = malloc(len ? len : 1);
    memcpy(block, p, len);
    int rc = pt_relay_decode(block, len, e);
    e->name = NULL;
    free(block);
    return rc;
}

START_TEST(envelope_there_and_back)
{
    uint8_t b[128];
    struct pt_relay_envelope e;
    size_t n = envelope(b, 255, "b@127.0.0.1", "packet");
    int head = pt_relay_decode(b, n, &e);
    ck_assert_int_eq(head, PT_RELAY_HEAD + 11);
    ck_assert_uint_eq(e.hops, 255);
    ck_assert_uint_eq(e.origin, UINT64_C(0x0102030405060708));
    ck_assert_uint_eq(e.number, UINT64_C(0xf1f2f3f4f5f6f7f8));
    ck_assert_uint_eq(e.flow, UINT64_C(0x8182838485868788));
    ck_assert_uint_eq(e.name_len, 11);
    ck_assert_mem_eq(e.name, "b@127.0.0.1", 11);
    ck_assert_mem_eq(b + head, "packet", 6);
}
END_TEST

START_TEST(longest_name)
{
    static uint8_t b[PT_RELAY_ENVELOPE_MAX + 16];
    char name[PT_RELAY_NAME_MAX + 2];
    struct pt_relay_envelope e;
    memset(name, 'n', sizeof name);
    name[PT_RELAY_NAME_MAX] = 0;
    size_t n = envelope(b, 1, name, "p");
    ck_assert_int_eq(decode(b, n, &e), PT_RELAY_ENVELOPE_MAX);
    name[PT_RELAY_NAME_MAX] = 'n';
    name[PT_RELAY_NAME_MAX + 1] = 0;
    n = envelope(b, 1, name, "p");
    ck_assert_int_eq(decode(b, n, &e), PT_E_BAD_FRAME);
}
END_TEST

START_TEST(cut_or_changed)
{
    uint8_t b[128];
    struct pt_relay_envelope e;
    size_t n = envelope(b, 1, "node", "p");
    for (size_t cut = 0; cut < n; cut++) /* without a packet, too */
        ck_assert_int_eq(decode(b, cut, &e), PT_E_BAD_FRAME);
    ck_assert_int_eq(decode(b, n, &e), PT_RELAY_HEAD + 4);
    static const struct {
        size_t at, len;
        uint8_t value;
    } bad[] = {{0, 1, 131}, {0, 1, 'z'},  {1, 1, 0}, {1, 1, 2}, {2, 1, 0}, /* hops */
               {19, 8, 0},                                                 /* flow */
               {27, 2, 0},  {27, 2, 255}, {28, 1, 5}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        n = envelope(b, 1, "node", "p");
        memset(b + bad[i].at, bad[i].value, bad[i].len);
        ck_assert_int_eq(decode(b, n, &e), PT_E_BAD_FRAME);
    }
}
END_TEST

/* 131 68 0 {Op, Pid, ..}; pid: 88, atom a, id, serial, creation */
#define PID 88, 119, 1, 'a', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1

START_TEST(what_the_vm_may_have)
{
    static const uint8_t send[] = {131, 68, 0, 104, 3, 97, 22, PID, PID, 106};
    static const uint8_t reg[] = {131, 68, 0, 104, 4, 97, 6, PID, 119, 0, 119, 1, 'n', 106};
    static const uint8_t alias[] = {131, 68,  0, 104, 3, 97, 33, PID, 90, 0, 1,  119,
                                    1,   'a', 0, 0,   0, 1,  0,  0,   0,  1, 106};
    static const uint8_t token[] = {104, 5, 97, 1, 106, 97, 2, PID, 97, 3};
    uint8_t other[96];
    ck_assert(pt_relay_deliverable(send, sizeof send));
    ck_assert(pt_relay_deliverable(reg, sizeof reg));
    ck_assert(pt_relay_deliverable(alias, sizeof alias));
    for (unsigned op = 0; op < 256; op++) {
        memcpy(other, reg, sizeof reg);
        other[6] = (uint8_t)op;
        ck_assert_int_eq(pt_relay_deliverable(other, sizeof reg), op == 6); /* or other elements */
        memcpy(other, send, sizeof send);
        other[6] = (uint8_t)op;
        ck_assert_int_eq(pt_relay_deliverable(other, sizeof send), op == 22);
        memcpy(other, alias, sizeof alias);
        other[6] = (uint8_t)op;
        ck_assert_int_eq(pt_relay_deliverable(other, sizeof alias), op == 33);
        for (unsigned more = 0; more < 3; more++) { /* with a trace token */
            static const struct {
                const uint8_t *p;
                size_t len;
                unsigned op;
            } kinds[] = {{reg, sizeof reg, 16}, {send, sizeof send, 23}, {alias, sizeof alias, 34}};
            /* the message comes last; it is nil in each */
            size_t len = kinds[more].len - 1;
            memcpy(other, kinds[more].p, len);
            other[4]++;
            other[6] = (uint8_t)op;
            memcpy(other + len, token, sizeof token);
            other[len + sizeof token] = 106;
            ck_assert_int_eq(pt_relay_deliverable(other, len + sizeof token + 1),
                             op == kinds[more].op);
            /* what is none: more elements; flags, serial, sender, last of another type; nil */
            static const size_t at[] = {1, 2, 5, 7, sizeof token - 2};
            for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
                other[len + at[i]]++;
                ck_assert(!pt_relay_deliverable(other, len + sizeof token + 1));
                other[len + at[i]]--;
            }
            other[len] = other[len + 1] = 106;
            ck_assert(!pt_relay_deliverable(other, len + 2));
        }
    }
    ck_assert(pt_relay_is_sure(send, sizeof send));
    ck_assert(pt_relay_is_sure(reg, sizeof reg));
    ck_assert(!pt_relay_is_sure(alias, sizeof alias)); /* an odd reference */
    memcpy(other, send, sizeof send);
    other[sizeof send] = 106;
    ck_assert(pt_relay_deliverable(other, sizeof send + 1));
    ck_assert(!pt_relay_is_sure(other, sizeof send + 1)); /* nothing behind the message */
    other[sizeof send - 1] = 116;
    ck_assert(!pt_relay_is_sure(other, sizeof send));
    for (size_t cut = 0; cut < sizeof send; cut++)
        ck_assert(!pt_relay_is_sure(send, cut));
    for (size_t cut = 0; cut < sizeof send; cut++) /* and not without a message */
        ck_assert(!pt_relay_deliverable(send, cut));
    for (size_t at = 0; at < 4; at++) { /* not from a pid; another form; references */
        memcpy(other, reg, sizeof reg);
        other[at == 3 ? 7 : at]++;
        ck_assert(!pt_relay_deliverable(other, sizeof reg));
    }
}
END_TEST

/* ---- table ---- */

struct entries {
    uint8_t at[4096];
    size_t len;
};

static void entry(struct entries *e, const char *name, unsigned n, const uint16_t *hops)
{
    size_t len = strlen(name);
    pt_put16(e->at + e->len, (uint16_t)len);
    memcpy(e->at + e->len + 2, name, len);
    e->len += 2 + len;
    e->at[e->len++] = (uint8_t)n;
    for (unsigned i = 0; i < n; i++, e->len += 2)
        pt_put16(e->at + e->len, hops[i]);
}

static int routes(struct pt_routes **out, const uint8_t *p, size_t len, unsigned hops)
{
    uint8_t *block = malloc(len ? len : 1);
    memcpy(block, p, len);
    int rc = pt_routes_new(out, block, len, hops);
    free(block); /* it keeps nothing of it */
    return rc;
}

static void finds(const struct pt_routes *r, const char *name, int n, const uint16_t *hops)
{
    uint16_t found[PT_ROUTES_WAYS];
    ck_assert_int_eq(pt_routes_find(r, (const uint8_t *)name, strlen(name), found), n);
    if (n > 0)
        ck_assert_mem_eq(found, hops, (size_t)n * sizeof *hops);
}

START_TEST(ways_in_their_order)
{
    static const uint16_t ways[] = {2, 0, 1, 3};
    struct entries e = {.len = 0};
    struct pt_routes *r;
    entry(&e, "a", 4, ways);
    entry(&e, "ab", 1, ways + 1);
    entry(&e, "b", 0, NULL);
    ck_assert_int_eq(routes(&r, e.at, e.len, 4), 0);
    ck_assert_uint_eq(pt_routes_count(r), 3);
    finds(r, "a", 4, ways);
    finds(r, "ab", 1, ways + 1);
    finds(r, "b", 0, NULL);
    finds(r, "abc", -1, NULL);
    finds(r, "", -1, NULL);
    pt_routes_free(r);
    entry(&e, "", 2, ways + 2);
    ck_assert_int_eq(routes(&r, e.at, e.len, 4), 0);
    finds(r, "abc", 2, ways + 2);
    finds(r, "b", 0, NULL); /* known, and no way to it: not the default's */
    pt_routes_free(r);
}
END_TEST

START_TEST(empty_table)
{
    struct pt_routes *r;
    ck_assert_int_eq(routes(&r, (const uint8_t *)"", 0, 0), 0);
    finds(r, "a", -1, NULL);
    ck_assert_uint_eq(pt_routes_count(r), 0);
    pt_routes_free(r);
    pt_routes_free(NULL);
}
END_TEST

START_TEST(bad_tables)
{
    static const uint16_t ways[] = {0, 1, 2, 3, 4};
    struct entries e = {.len = 0};
    struct pt_routes *r;
    entry(&e, "node", 4, ways);
    ck_assert_int_eq(routes(&r, e.at, e.len, 3), PT_E_BAD_FRAME); /* hop 3 is none of three */
    for (size_t cut = 1; cut < e.len; cut++)
        ck_assert_int_eq(routes(&r, e.at, cut, 4), PT_E_BAD_FRAME);
    entry(&e, "other", 1, ways);
    entry(&e, "node", 1, ways);
    ck_assert_int_eq(routes(&r, e.at, e.len, 4), PT_E_BAD_FRAME); /* twice */
    e.len = 0;
    entry(&e, "node", 5, ways);
    ck_assert_int_eq(routes(&r, e.at, e.len, 5), PT_E_BAD_FRAME);
    char name[PT_RELAY_NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    name[PT_RELAY_NAME_MAX + 1] = 0;
    e.len = 0;
    entry(&e, name, 1, ways);
    ck_assert_int_eq(routes(&r, e.at, e.len, 5), PT_E_BAD_FRAME);
    name[PT_RELAY_NAME_MAX] = 0;
    e.len = 0;
    entry(&e, name, 1, ways);
    ck_assert_int_eq(routes(&r, e.at, e.len, 5), 0);
    finds(r, name, 1, ways);
    pt_routes_free(r);
}
END_TEST

static void numbered(char *out, unsigned i)
{
    sprintf(out, "node%u@10.0.%u.%u", i, i / 256, i % 256);
}

START_TEST(thousands_of_nodes)
{
    enum { NODES = 5000 };
    char name[64];
    size_t len = 0;
    uint8_t *p = malloc(NODES * sizeof name);
    struct pt_routes *r;
    for (unsigned i = 0; i < NODES; i++) {
        numbered(name, i);
        pt_put16(p + len, (uint16_t)strlen(name));
        memcpy(p + len + 2, name, strlen(name));
        len += 2 + strlen(name);
        p[len++] = 1;
        pt_put16(p + len, (uint16_t)(i % 7));
        len += 2;
    }
    ck_assert_int_eq(routes(&r, p, len, 7), 0);
    for (unsigned i = 0; i < NODES; i++) {
        uint16_t found[PT_ROUTES_WAYS];
        numbered(name, i);
        sup_must(pt_routes_find(r, (uint8_t *)name, strlen(name), found) == 1 && found[0] == i % 7);
        strcat(name, "x");
        sup_must(pt_routes_find(r, (uint8_t *)name, strlen(name), found) == -1);
    }
    pt_routes_free(r);
    free(p);
}
END_TEST

/* ---- seen ---- */

START_TEST(seen_once)
{
    struct pt_seen s;
    pt_seen_init(&s);
    for (int round = 0; round < 2; round++)
        for (uint64_t origin = 0; origin < 3; origin++)
            for (uint64_t n = 0; n < 100; n++)
                ck_assert_int_eq(pt_seen_note(&s, origin, n), round == 0);
    pt_seen_free(&s);
}
END_TEST

START_TEST(the_last_are_known)
{
    struct pt_seen s;
    pt_seen_init(&s);
    for (uint64_t n = 1; n <= 5 * PT_SEEN_KEPT; n++) {
        sup_must(pt_seen_note(&s, 7, n) == 1);
        sup_must(pt_seen_note(&s, 7, n) == 0);
        uint64_t before = n > PT_SEEN_KEPT ? n - PT_SEEN_KEPT : 1;
        sup_must(pt_seen_note(&s, 7, before) == 0);
    }
    ck_assert_int_eq(pt_seen_note(&s, 7, 1), 1); /* long ago */
    pt_seen_free(&s);
}
END_TEST

/* ---- without memory ---- */

START_TEST(without_memory)
{
    static const uint16_t ways[] = {0};
    struct entries e = {.len = 0};
    struct pt_routes *r;
    entry(&e, "node", 1, ways);
    sup_alloc_fail_at(0);
    for (size_t nth = 1;; nth++) {
        sup_alloc_fail_at(nth);
        int rc = pt_routes_new(&r, e.at, e.len, 1);
        ck_assert_int_eq(rc, sup_alloc_failed() ? -ENOMEM : 0);
        sup_alloc_fail_at(0);
        if (!rc) {
            pt_routes_free(r);
            ck_assert_uint_gt(nth, 4);
            break;
        }
    }
    struct pt_seen s;
    pt_seen_init(&s);
    sup_alloc_fail_at(1);
    ck_assert_int_eq(pt_seen_note(&s, 1, 1), -ENOMEM);
    sup_alloc_fail_at(0);
    for (uint64_t n = 1; n <= PT_SEEN_KEPT; n++)
        sup_must(pt_seen_note(&s, 1, n) == 1);
    sup_alloc_fail_at(1); /* the second generation */
    ck_assert_int_eq(pt_seen_note(&s, 2, 1), -ENOMEM);
    sup_alloc_fail_at(0);
    ck_assert_int_eq(pt_seen_note(&s, 1, 1), 0); /* nothing was lost by that */
    ck_assert_int_eq(pt_seen_note(&s, 2, 1), 1);
    pt_seen_free(&s);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* ---- circles ---- */

/* A node's rule on the parts above: to the first way that is not where it came from. Nodes whose tables
 * send everything to each other, whatever they are: each message ends, by its hops. */
START_TEST(circles_end)
{
    enum { NODES = 5, HOPS = 32 };
    struct sup_rng rng = {1};
    struct pt_routes *table[NODES];
    unsigned longest = 0;

    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < NODES; i++) {
            struct entries e = {.len = 0};
            uint16_t ways[PT_ROUTES_WAYS];
            for (unsigned w = 0; w < PT_ROUTES_WAYS; w++)
                ways[w] = (uint16_t)sup_below(&rng, NODES);
            entry(&e, "nobody", PT_ROUTES_WAYS, ways);
            ck_assert_int_eq(routes(&table[i], e.at, e.len, NODES), 0);
        }
        uint8_t b[64];
        size_t n = envelope(b, HOPS, "nobody", "p");
        unsigned at = 0, from = NODES, links = 0;
        for (bool goes = true; goes;) {
            struct pt_relay_envelope e;
            uint16_t ways[PT_ROUTES_WAYS];
            goes = false;
            sup_must(pt_relay_decode(b, n, &e) > 0);
            int count = pt_routes_find(table[at], e.name, e.name_len, ways);
            for (int w = 0; !goes && w < count && e.hops > 1; w++) {
                if (ways[w] == from || ways[w] == at)
                    continue;
                goes = true;
                b[PT_RELAY_HOPS_AT]--;
                from = at;
                at = ways[w];
                links++;
            }
        }
        sup_must(links < HOPS);
        longest = PT_MAX(longest, links);
        for (unsigned i = 0; i < NODES; i++)
            pt_routes_free(table[i]);
    }
    ck_assert_uint_eq(longest, HOPS - 1); /* some did run in circles */
}
END_TEST

int main(void)
{
    const TTest *tests[] = {envelope_there_and_back,
                            longest_name,
                            cut_or_changed,
                            what_the_vm_may_have,
                            ways_in_their_order,
                            empty_table,
                            bad_tables,
                            thousands_of_nodes,
                            seen_once,
                            the_last_are_known,
                            without_memory,
                            circles_end};
    return SUP_MAIN("relay", tests);
}

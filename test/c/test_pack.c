/* Texts of atoms in a packet become references, and nothing else changes: what the VM makes of both is
 * compared byte by byte, with a table that plays the VM's. */
#include "support.h"

#include "proto/etf.h"
#include "proto/pack.h"

#include <stdio.h>
#include <string.h>

enum {
    ATOM = 119,
    LONG_ATOM = 118,
    LATIN = 115,
    PID = 88,
    REF = 90,
    TUPLE = 104,
    SMALL = 97,
    BIN = 109
};

static struct pt_atom_table told, vm;

static void forget(void)
{
    pt_atom_table_free(&told);
    pt_atom_table_free(&vm);
}

/* ---- packets ---- */

struct buf {
    uint8_t b[8192];
    size_t n;
};

static void put(struct buf *w, const void *p, size_t n)
{
    memcpy(w->b + w->n, p, n);
    w->n += n;
}

static void byte(struct buf *w, unsigned v) { w->b[w->n++] = (uint8_t)v; }

static void atom(struct buf *w, const char *text)
{
    byte(w, ATOM);
    byte(w, (unsigned)strlen(text));
    put(w, text, strlen(text));
}

static void pid(struct buf *w, const char *node)
{
    static const uint8_t tail[12] = {0, 0, 0, 85, 0, 0, 0, 0, 1, 2, 3, 4};
    byte(w, PID);
    atom(w, node);
    put(w, tail, sizeof tail);
}

static void start(struct buf *w)
{
    static const uint8_t head[] = {131, 68, 0};
    w->n = 0;
    put(w, head, sizeof head);
}

/* {22, From, To} */
static void send_sender(struct buf *w, const char *from, const char *to)
{
    start(w);
    byte(w, TUPLE), byte(w, 3), byte(w, SMALL), byte(w, 22);
    pid(w, from);
    pid(w, to);
}

/* ---- the VM ---- */

/* The packet with texts for references, as a decoder with its own cache sees it. */
static void decode(const uint8_t *p, size_t n, struct buf *out)
{
    struct pt_atom_refs refs = {.count = 0};
    ck_assert_uint_eq(p[0], 131);
    ck_assert_uint_eq(p[1], 68);
    int section = pt_atoms_read(p + 2, n - 2, &vm, &refs);
    ck_assert_int_gt(section, 0);
    start(out);
    struct pt_etf e = {p + 2 + section, p + n};
    struct pt_etf_part part;
    while (e.p < e.end) {
        const uint8_t *q = e.p;
        if (pt_etf_part(&e, &part))
            break;
        bool node = *q == PID || *q == REF;
        const uint8_t *a = q + (node ? (*q == PID ? 1 : 3) : 0);
        if (*a == 82) {
            ck_assert_uint_lt(a[1], refs.count);
            const struct pt_atom *t = refs.ref[a[1]].atom;
            put(out, q, (size_t)(a - q));
            if (t->len > 255)
                byte(out, LONG_ATOM), byte(out, t->len >> 8);
            else
                byte(out, ATOM);
            byte(out, t->len & 255);
            put(out, t->text, t->len);
            put(out, a + 2, (size_t)(e.p - a - 2));
        } else {
            put(out, q, (size_t)(e.p - q));
        }
    }
    put(out, e.p, (size_t)(e.end - e.p));
}

/* What the VM gets; 0: as it is. */
static int deliver(const struct buf *w, struct buf *got)
{
    struct pt_packed k;
    int rc = pt_pack(w->b, w->n, &told, &k);
    got->n = 0;
    if (rc <= 0) {
        put(got, w->b, w->n);
        return rc;
    }
    ck_assert_uint_le(k.len, sizeof k.head);
    ck_assert_uint_le(k.from, w->n);
    put(got, k.head, k.len);
    put(got, w->b + k.from, w->n - k.from);
    return rc;
}

static void same_for_the_vm(const struct buf *w, struct buf *got)
{
    struct buf back;
    (void)deliver(w, got);
    decode(got->b, got->n, &back);
    ck_assert_mem_eq(back.b, w->b, w->n);
    ck_assert_uint_eq(back.n, w->n);
}

/* ---- */

START_TEST(names_once_then_short)
{
    struct buf w, got;
    send_sender(&w, "sender@host.example.org", "receiver@host.example.org");
    byte(&w, BIN);
    put(&w, "\0\0\0\4data", 8);
    same_for_the_vm(&w, &got);
    ck_assert_uint_gt(got.n, w.n); /* both names, and what says so */
    same_for_the_vm(&w, &got);
    /* 131 68, two references and their flags; each name two bytes: see the vectors of the wire protocol */
    ck_assert_uint_eq(got.n, w.n -
                                 strlen("sender@host.example.org"
                                        "receiver@host.example.org") +
                                 4);
    send_sender(&w, "receiver@host.example.org", "sender@host.example.org");
    same_for_the_vm(&w, &got);
    ck_assert_uint_lt(got.n, w.n);
}
END_TEST

START_TEST(one_name_is_one_reference)
{
    struct buf w, got;
    send_sender(&w, "a@b", "a@b");
    byte(&w, TUPLE), byte(&w, 2);
    atom(&w, "a@b");
    atom(&w, "$gen_cast");
    same_for_the_vm(&w, &got);
    ck_assert_uint_eq(got.b[2], 2);
}
END_TEST

START_TEST(not_ours)
{
    struct buf w, got;
    struct {
        const char *what;
        uint8_t b[12];
        size_t n;
    } bad[] = {
        {"empty", {0}, 0},
        {"version", {130, 68, 0, ATOM, 1, 'a'}, 6},
        {"no header", {131, 104, 0, ATOM, 1, 'a'}, 6},
        {"has references", {131, 68, 1, 0, 0, 82, 0}, 7},
        {"no term", {131, 68, 0}, 3},
        {"no such tag", {131, 68, 0, 0}, 4},
        {"cut", {131, 68, 0, ATOM, 9, 'a'}, 6},
        {"no name", {131, 68, 0, ATOM, 0}, 5},
        {"latin", {131, 68, 0, LATIN, 1, 0xe4}, 6},
        {"no atom", {131, 68, 0, SMALL, 7}, 5},
        {"compressed", {'z', 0, 0, 1, 0, 1}, 6},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        w.n = 0;
        put(&w, bad[i].b, bad[i].n);
        ck_assert_msg(deliver(&w, &got) == 0, "%s", bad[i].what);
        ck_assert_mem_eq(got.b, w.b, w.n);
    }
}
END_TEST

/* Behind what is looked at, and behind what cannot be read, all stays as it is. */
START_TEST(only_the_front)
{
    struct buf w, got;
    send_sender(&w, "a@b", "c@d");
    byte(&w, TUPLE), byte(&w, 3);
    atom(&w, "first");
    byte(&w, BIN);
    put(&w, "\0\0\4\0", 4);
    memset(w.b + w.n, 'x', 1024);
    w.n += 1024;
    atom(&w, "last");
    same_for_the_vm(&w, &got);
    ck_assert_uint_eq(got.b[2], 3);
    send_sender(&w, "a@b", "c@d");
    byte(&w, 0); /* the VM's to judge */
    atom(&w, "behind");
    (void)deliver(&w, &got);
    ck_assert_uint_eq(got.b[2], 2);
    ck_assert_mem_eq(got.b + got.n - 9, w.b + w.n - 9, 9);
}
END_TEST

START_TEST(more_than_there_is_room_for)
{
    struct buf w, got;
    char name[16];
    send_sender(&w, "a@b", "c@d");
    byte(&w, TUPLE), byte(&w, 60);
    for (int i = 0; i < 60; i++) {
        snprintf(name, sizeof name, "m%d", i);
        atom(&w, name);
    }
    same_for_the_vm(&w, &got);
    ck_assert_uint_eq(got.b[2], PT_PACK_REFS);
    same_for_the_vm(&w, &got);
}
END_TEST

/* Any texts in any order, two thousand packets: slots are taken over, and the VM is told each time. */
START_TEST(slots_are_taken_over)
{
    struct buf w, got;
    char name[300];
    unsigned seed = 7;
    for (int round = 0; round < 2000; round++) {
        send_sender(&w, "a@b", "c@d");
        unsigned n = (unsigned)rand_r(&seed) % 12;
        byte(&w, TUPLE), byte(&w, n);
        for (unsigned i = 0; i < n; i++) {
            int len = snprintf(name, sizeof name, "%u", (unsigned)rand_r(&seed) % 5000);
            if (rand_r(&seed) % 16 == 0) {
                memset(name + len, 'y', 260);
                byte(&w, LONG_ATOM), byte(&w, (unsigned)(len + 260) >> 8),
                    byte(&w, (unsigned)(len + 260));
                put(&w, name, (size_t)len + 260);
            } else {
                atom(&w, name);
            }
        }
        same_for_the_vm(&w, &got);
    }
}
END_TEST

/* Without memory the packet goes as it came, and the table says what the VM was told. */
START_TEST(no_memory)
{
    struct buf w, got;
    for (unsigned fail = 1; fail < 8; fail++) {
        struct buf back;
        send_sender(&w, "a@b", "c@d");
        sup_alloc_fail_at(fail);
        (void)deliver(&w, &got);
        ck_assert(fail > 4 || sup_alloc_failed()); /* two atoms, two segments */
        sup_alloc_fail_at(0);
        decode(got.b, got.n, &back);
        ck_assert_mem_eq(back.b, w.b, w.n);
        same_for_the_vm(&w, &got);
        forget();
    }
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        names_once_then_short,       one_name_is_one_reference, not_ours, only_the_front,
        more_than_there_is_room_for, slots_are_taken_over,      no_memory};
    return SUP_MAIN("pack", tests);
}

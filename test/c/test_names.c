/* The nodes' names in control tuples: what becomes a reference, and what is left as it is. */
#include "proto/names.h"
#include "support.h"

#include <string.h>

static const char mine[] = "a@127.0.0.1", theirs[] = "the-other@10.0.0.2";

enum { MINE = 1, THEIRS = 2, STRANGE = 3 };

static const char *const names[] = {"", mine, theirs, "a@127.0.0.2"};

static struct pt_name name_of(const char *text, unsigned slot)
{
    return (struct pt_name){.text = (const uint8_t *)text, .len = strlen(text), .slot = slot};
}

static void set(struct pt_names *n, unsigned a, unsigned b)
{
    struct pt_name x = name_of(mine, a), y = name_of(theirs, b);
    memset(n, 0, sizeof *n);
    ck_assert_int_eq(pt_names_set(n, &x, &y), 0);
    ck_assert(n->set);
}

/* ---- terms ---- */

static size_t put_atom(uint8_t *p, uint8_t tag, const uint8_t *text, size_t len)
{
    size_t head = tag == 119 ? 2 : 3;
    p[0] = tag;
    if (tag == 119)
        p[1] = (uint8_t)len;
    else
        pt_put16(p + 1, (uint16_t)len);
    memcpy(p + head, text, len);
    return head + len;
}

static size_t put_pid(uint8_t *p, uint8_t tag, unsigned node, uint8_t id)
{
    p[0] = 88;
    size_t n = 1 + put_atom(p + 1, tag, (const uint8_t *)names[node], strlen(names[node]));
    for (uint8_t i = 0; i < 12; i++)
        p[n++] = (uint8_t)(id + i);
    return n;
}

struct form {
    uint8_t op, tag;
    unsigned first, second; /* nodes of the pids, 0: none */
    unsigned refs;
};

static const uint8_t rest[] = {104, 2, 97, 7, 109, 0, 0, 0, 2, 88, 119};

static size_t put(uint8_t *p, const struct form *f)
{
    size_t n = 0;
    memcpy(p, (uint8_t[]){131, 104, 2, 104, 3, 97, f->op}, 7);
    n += 7;
    if (f->first)
        n += put_pid(p + n, f->tag, f->first, 100);
    if (f->second)
        n += put_pid(p + n, f->tag, f->second, 200);
    memcpy(p + n, rest, sizeof rest);
    return n + sizeof rest;
}

/* The term with its references written out again, as this tag does. */
static size_t expand(uint8_t *out, const uint8_t *p, size_t len, const struct pt_atom_refs *refs,
                     uint8_t tag)
{
    size_t n = 3, at = 0;
    memcpy(out, (uint8_t[]){131, 104, 2}, 3);
    memcpy(out + n, p, 4);
    n += 4;
    at += 4;
    for (unsigned i = 0; i < refs->count; i++) {
        ck_assert_int_eq(p[at], 88);
        ck_assert_int_eq(p[at + 1], 82);
        ck_assert_uint_eq(p[at + 2], i);
        const struct pt_atom *a = refs->ref[i].atom;
        out[n++] = 88;
        n += put_atom(out + n, tag, a->text, a->len);
        memcpy(out + n, p + at + 3, 12);
        n += 12;
        at += 15;
    }
    memcpy(out + n, p + at, len - at);
    return n + len - at;
}

static const struct form forms[] = {
    {22, 119, MINE, THEIRS, 2},
    {22, 118, MINE, THEIRS, 2},
    {22, 100, MINE, THEIRS, 2},
    {22, 119, MINE, STRANGE, 1},
    {22, 119, STRANGE, THEIRS, 0},
    {22, 119, THEIRS, MINE, 0},
    {22, 119, MINE, MINE, 1},
    {22, 119, MINE, 0, 1},
    {22, 119, 0, 0, 0},
    /* by name, by alias: what follows the sender is no pid of the peer's, whatever it looks like */
    {6, 119, MINE, 0, 1},
    {33, 119, MINE, THEIRS, 1},
    {23, 119, MINE, THEIRS, 1},
    {6, 77, MINE, 0, 0},
};

START_TEST(references_mean_what_was_there)
{
    uint8_t in[200], before[200], after[200];
    const struct form *f = &forms[_i];
    struct pt_names n;
    struct pt_atom_table sent = {0}, got = {0};
    unsigned count;

    set(&n, 77, 1999);
    size_t len = put(in, f);
    memcpy(before, in, len);
    size_t at = pt_names_refer(&n, in, len, &count);
    ck_assert_uint_eq(count, f->refs);
    ck_assert_uint_ge(at, 3);
    for (unsigned again = 0; again < 2; again++) { /* the second time nothing is NEW */
        struct pt_atom_refs refs, there;
        uint8_t section[PT_ATOM_SECTION_MAX];
        int here = pt_atoms_read(n.section[count], PT_NAMES_SECTION_MAX, &n.table, &refs);
        ck_assert_int_gt(here, 0);
        size_t out = pt_atoms_write(section, refs.ref, refs.count, &sent);
        ck_assert_int_eq(pt_atoms_read(section, out, &got, &there), (int)out);
        ck_assert_uint_eq(there.count, count);
        ck_assert_uint_eq(expand(after, in + at, len - at, &there, f->tag), len);
        ck_assert_mem_eq(before, after, len);
        ck_assert(!again || out <= PT_NAMES_SECTION_MAX);
    }
    pt_atom_table_free(&sent);
    pt_atom_table_free(&got);
    pt_names_free(&n);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* Cut anywhere, in a block of exactly that size. */
START_TEST(cut_short)
{
    uint8_t whole[200];
    struct pt_names n;
    unsigned count;

    set(&n, 1, 2);
    size_t len = put(whole, &forms[0]);
    for (size_t cut = 3; cut <= len; cut++) {
        uint8_t *p = malloc(cut);
        memcpy(p, whole, cut);
        size_t at = pt_names_refer(&n, p, cut, &count);
        ck_assert_uint_le(at, cut);
        free(p);
    }
    pt_names_free(&n);
}
END_TEST

START_TEST(one_slot_for_both)
{
    static const unsigned slots[] = {0, 5, 255, 2047};
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        struct pt_names n;
        struct pt_atom_refs refs;
        set(&n, slots[i], slots[i]);
        ck_assert_int_eq(pt_atoms_read(n.section[2], PT_NAMES_SECTION_MAX, &n.table, &refs), 5);
        ck_assert_uint_eq(refs.count, 2);
        ck_assert_uint_eq(refs.ref[0].slot, slots[i]);
        ck_assert_uint_ne(refs.ref[1].slot, slots[i]);
        ck_assert_mem_eq(refs.ref[0].atom->text, mine, strlen(mine));
        ck_assert_mem_eq(refs.ref[1].atom->text, theirs, strlen(theirs));
        pt_names_free(&n);
    }
}
END_TEST

/* A text in Latin-1 may have the bytes of another one in UTF-8. */
START_TEST(names_that_stay_texts)
{
    char longest[257];
    memset(longest, 'x', sizeof longest - 1);
    longest[256] = 0;
    const char *const bad[] = {"", "\xc3\xa9@host", longest};
    struct pt_name good = name_of(mine, 1), beyond = name_of(theirs, PT_ATOM_SLOTS);
    for (size_t i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
        struct pt_names n = {0};
        struct pt_name other = name_of(bad[i / 2], 2);
        ck_assert_int_eq(i % 2 ? pt_names_set(&n, &good, &other) : pt_names_set(&n, &other, &good),
                         0);
        ck_assert(!n.set);
        pt_names_free(&n);
    }
    struct pt_names n = {0};
    ck_assert_int_eq(pt_names_set(&n, &good, &beyond), 0);
    ck_assert(!n.set);
    longest[255] = 0; /* the most */
    struct pt_name most = name_of(longest, 2), other = name_of("b@h", 3);
    ck_assert_int_eq(pt_names_set(&n, &most, &good), 0);
    ck_assert(n.set);
    ck_assert_int_eq(pt_names_set(&n, &other, &good), 0); /* once */
    ck_assert_uint_eq(n.ref[0].atom->len, 255);
    pt_names_free(&n);
}
END_TEST

START_TEST(name_of_a_pid)
{
    static const uint8_t tags[] = {119, 118, 100};
    uint8_t p[100] = {131};
    struct pt_name name;
    for (size_t i = 0; i < sizeof tags; i++) {
        size_t len = 1 + put_pid(p + 1, tags[i], MINE, 1);
        ck_assert(pt_names_of_pid(p, len, &name));
        ck_assert_uint_eq(name.len, strlen(mine));
        ck_assert_mem_eq(name.text, mine, strlen(mine));
        ck_assert(!pt_names_of_pid(p, 5, &name));
        ck_assert(!pt_names_of_pid(p, 1, &name));
    }
    p[1] = 103; /* as VMs before 23 wrote them */
    ck_assert(!pt_names_of_pid(p, sizeof p, &name));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("names");
    TCase *c = tcase_create("names");
    tcase_add_loop_test(c, references_mean_what_was_there, 0, sizeof forms / sizeof *forms);
    tcase_add_test(c, cut_short);
    tcase_add_test(c, one_slot_for_both);
    tcase_add_test(c, names_that_stay_texts);
    tcase_add_test(c, name_of_a_pid);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

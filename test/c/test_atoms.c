/* Sections of atom references: reading, writing, tables. */
#include "support.h"
#include "term.h"

#include "proto/atoms.h"

#include <errno.h>
#include <stdio.h>

static struct term t; /* the section under test; too large for a stack */
static struct pt_atom_refs refs;

struct spec {
    unsigned slot;
    bool is_new;
    const char *text; /* of a NEW one */
};

static void flag(size_t flags, unsigned i, unsigned nibble)
{
    t.at[flags + i / 2] |= (uint8_t)(nibble << (i % 2 ? 4 : 0));
}

/* As OTP's document has it. */
static void put_section(const struct spec *s, unsigned count, bool wide)
{
    t.len = 0;
    put8(&t, count);
    size_t flags = t.len;
    if (count)
        put_fill(&t, 0, count / 2 + 1);
    for (unsigned i = 0; i < count; i++) {
        flag(flags, i, (s[i].is_new ? 8u : 0u) | s[i].slot >> 8);
        put8(&t, s[i].slot & 255);
        if (!s[i].is_new)
            continue;
        if (wide)
            put16(&t, (unsigned)strlen(s[i].text));
        else
            put8(&t, (unsigned)strlen(s[i].text));
        put(&t, s[i].text, strlen(s[i].text));
    }
    if (count && wide)
        flag(flags, count, 1);
}

/* From a block that ends where the bytes end. */
static int read_of(const uint8_t *p, size_t n, struct pt_atom_table *table)
{
    struct exact copy = exact_copy(p, n);
    memset(&refs, 0xa5, sizeof refs);
    int rc = pt_atoms_read(copy.p, n, table, &refs);
    int len = pt_atoms_length(copy.p, n);
    /* the length needs no table, and says the same unless that is what is wrong */
    if (rc > 0 || rc == PT_E_MORE)
        ck_assert_int_eq(len, rc);
    free(copy.block);
    return rc;
}

static int read_it(struct pt_atom_table *table) { return read_of(t.at, t.len, table); }

static void check_ref(unsigned i, unsigned slot, const char *text)
{
    ck_assert_uint_lt(i, refs.count);
    ck_assert_uint_eq(refs.ref[i].slot, slot);
    ck_assert_uint_eq(refs.ref[i].atom->len, strlen(text));
    ck_assert_mem_eq(refs.ref[i].atom->text, text, strlen(text));
}

static const char *long_text(unsigned len)
{
    static char text[2048];
    memset(text, 'x', len);
    text[len] = 0;
    return text;
}

START_TEST(test_no_references)
{
    struct pt_atom_table table = {0};
    sup_alloc_fail_at(0);
    put_section(NULL, 0, false);
    put8(&t, 104); /* what follows is not looked at */
    ck_assert_int_eq(read_it(&table), 1);
    ck_assert_uint_eq(refs.count, 0);
    ck_assert_int_eq(read_of(t.at, 0, &table), PT_E_MORE);
    uint8_t out[1];
    ck_assert_uint_eq(pt_atoms_size(NULL, 0), 1);
    ck_assert_uint_eq(pt_atoms_write(out, NULL, 0, &table), 1);
    ck_assert_uint_eq(out[0], 0);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(test_slots_are_filled_and_referred_to)
{
    struct pt_atom_table table = {0};
    sup_alloc_fail_at(0);
    const struct spec first[] = {
        {0, true, "a"}, {255, true, ""}, {256, true, "bc"}, {2047, true, "\xc3\xa9"}};
    put_section(first, 4, false);
    ck_assert_int_eq(read_it(&table), (int)t.len);
    for (unsigned i = 0; i < 4; i++)
        check_ref(i, first[i].slot, first[i].text);

    const struct spec second[] = {
        {2047, false, NULL}, {0, false, NULL}, {256, true, "other"}, {0, false, NULL}};
    put_section(second, 4, false);
    ck_assert_int_eq(read_it(&table), (int)t.len);
    check_ref(0, 2047, "\xc3\xa9");
    check_ref(1, 0, "a");
    check_ref(2, 256, "other");
    check_ref(3, 0, "a"); /* one slot may be referred to twice */

    const struct spec third[] = {{256, false, NULL}, {255, false, NULL}};
    put_section(third, 2, false);
    ck_assert_int_eq(read_it(&table), (int)t.len);
    check_ref(0, 256, "other");
    check_ref(1, 255, "");
    pt_atom_table_free(&table);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

START_TEST(test_empty_slots)
{
    for (unsigned slot = 0; slot < PT_ATOM_SLOTS; slot++) {
        struct pt_atom_table table = {0};
        const struct spec near = {slot ^ 1, true, "near"}, here = {slot, false, NULL};
        put_section(&here, 1, false);
        ck_assert_int_eq(read_it(&table), PT_E_BAD_FRAME);
        ck_assert_int_gt(pt_atoms_length(t.at, t.len), 0);
        put_section(&near, 1, false);
        ck_assert_int_eq(read_it(&table), (int)t.len);
        put_section(&here, 1, false);
        ck_assert_int_eq(read_it(&table), PT_E_BAD_FRAME);
        pt_atom_table_free(&table);
    }
}
END_TEST

/* References are borrowed from the table: the one that was there first would be freed. */
START_TEST(test_one_slot_filled_twice)
{
    static const struct {
        struct spec s[3];
        unsigned count;
        bool fine;
    } cases[] = {
        {{{7, true, "a"}, {7, true, "b"}}, 2, false},
        {{{7, true, "a"}, {9, true, "c"}, {7, true, "b"}}, 3, false},
        {{{7, true, "a"}, {7, true, "a"}}, 2, true},
        {{{8, false, NULL}, {8, true, "b"}}, 2, false},
        {{{8, true, "b"}, {8, false, NULL}}, 2, true},
        {{{7, true, "a"}, {263, true, "b"}}, 2, true},
    };
    sup_alloc_fail_at(0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pt_atom_table table = {0};
        const struct spec before = {8, true, "before"};
        put_section(&before, 1, false);
        ck_assert_int_gt(read_it(&table), 0);
        put_section(cases[i].s, cases[i].count, false);
        ck_assert_int_eq(read_it(&table), cases[i].fine ? (int)t.len : PT_E_BAD_FRAME);
        pt_atom_table_free(&table);
        ck_assert_uint_eq(sup_alloc_live(), 0);
    }
}
END_TEST

START_TEST(test_lengths)
{
    static const unsigned lens[] = {0, 1, 254, 255, 256, 1019, 1020, 1021, 1500};
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
        for (unsigned wide = lens[i] > 255; wide < 2; wide++) {
            struct pt_atom_table table = {0};
            const struct spec s[] = {{1, true, long_text(lens[i])}, {2, true, "z"}};
            put_section(s, 2, wide);
            int rc = read_it(&table);
            ck_assert_int_eq(rc, lens[i] > PT_ATOM_TEXT_MAX ? PT_E_BAD_FRAME : (int)t.len);
            if (rc > 0) {
                check_ref(0, 1, s[0].text);
                check_ref(1, 2, "z");
            }
            pt_atom_table_free(&table);
        }
}
END_TEST

/* Every number of references, odd and even; and each prefix of the section wants more. */
START_TEST(test_every_count_and_truncation)
{
    for (unsigned count = 0; count <= PT_ATOM_REFS; count++) {
        struct pt_atom_table table = {0}, part = {0};
        struct spec s[PT_ATOM_REFS];
        char text[PT_ATOM_REFS][8];
        bool wide = count % 3 == 0;
        for (unsigned i = 0; i < count; i++) {
            snprintf(text[i], sizeof text[i], "%u", i * 7);
            s[i] = (struct spec){i * 8 + count % 8, true, text[i]};
        }
        if (wide && count)
            s[count / 2].text = long_text(300);
        put_section(s, count, wide && count);
        for (size_t n = 0; n < t.len; n++)
            ck_assert_int_eq(read_of(t.at, n, &part), PT_E_MORE);
        ck_assert_int_eq(read_it(&table), (int)t.len);
        ck_assert_uint_eq(refs.count, count);
        for (unsigned i = 0; i < count; i++)
            check_ref(i, s[i].slot, s[i].text);

        /* Written again all NEW it is the same section, and relative to what is known it has no
         * texts. */
        uint8_t *out = malloc(pt_atoms_size(refs.ref, count));
        ck_assert_ptr_nonnull(out);
        ck_assert_uint_eq(pt_atoms_size(refs.ref, count), t.len);
        ck_assert_uint_eq(pt_atoms_write(out, refs.ref, count, NULL), t.len);
        ck_assert_mem_eq(out, t.at, t.len);
        size_t again = pt_atoms_write(out, refs.ref, count, &table);
        ck_assert_uint_eq(again, count ? 1 + count / 2 + 1 + count : 1);
        free(out);
        pt_atom_table_free(&table);
        pt_atom_table_free(&part);
    }
}
END_TEST

/* LONG makes all lengths wide, so it is not said for an atom that goes without its text. */
START_TEST(test_long_is_said_for_new_atoms_only)
{
    struct pt_atom_table from = {0}, to = {0};
    uint8_t out[512];
    const struct spec both[] = {{3, true, long_text(256)}, {4, true, "s"}};
    put_section(both, 2, true);
    ck_assert_int_gt(read_it(&from), 0);
    ck_assert_uint_eq(pt_atoms_size(refs.ref, 2), t.len);
    ck_assert_uint_eq(pt_atoms_write(out, refs.ref, 1, &to), 1 + 1 + 1 + 2 + 256);
    ck_assert_uint_eq(out[1], 8 | 1 << 4);
    size_t n = pt_atoms_write(out, refs.ref, 2, &to);
    static const uint8_t want[] = {2, 0x80, 0x00, 3, 4, 1, 's'};
    ck_assert_uint_eq(n, sizeof want);
    ck_assert_mem_eq(out, want, n);
    pt_atom_table_free(&from);
    pt_atom_table_free(&to);
}
END_TEST

/* The atoms of a section live as long as anybody holds them. */
START_TEST(test_reference_counts)
{
    struct pt_atom_table from = {0}, to = {0};
    uint8_t out[64];
    sup_alloc_fail_at(0);
    const struct spec s = {5, true, "kept"}, other = {5, true, "other"};
    put_section(&s, 1, false);
    ck_assert_int_gt(read_it(&from), 0);
    struct pt_atom_ref kept = refs.ref[0];
    ck_assert_uint_eq(kept.atom->refs, 1);
    ck_assert_int_gt(read_it(&from), 0); /* known already: no other one is made */
    ck_assert_ptr_eq(refs.ref[0].atom, kept.atom);
    pt_atom_hold(kept.atom);
    pt_atoms_write(out, &kept, 1, &to);
    ck_assert_uint_eq(kept.atom->refs, 3);
    put_section(&other, 1, false);
    ck_assert_int_gt(read_it(&from), 0);
    ck_assert_uint_eq(kept.atom->refs, 2);
    pt_atoms_write(out, refs.ref, 1, &to);
    ck_assert_uint_eq(kept.atom->refs, 1);
    ck_assert_mem_eq(kept.atom->text, "kept", 4);
    pt_atom_table_free(&from);
    ck_assert_uint_eq(sup_alloc_live(), 1 + 1 + 1); /* kept, other, and a segment */
    pt_atom_drop(kept.atom);
    pt_atom_drop(NULL);
    pt_atom_table_free(&to);
    ck_assert_uint_eq(sup_alloc_live(), 0);
}
END_TEST

/* Segments come when their slots are used, and only those. */
START_TEST(test_table_growth)
{
    struct pt_atom_table table = {0};
    sup_alloc_fail_at(0);
    size_t before = sup_alloc_live();
    for (unsigned segment = 0; segment < 8; segment++) {
        const struct spec s = {segment * 256 + 255 - segment, true, "t"};
        put_section(&s, 1, false);
        ck_assert_int_gt(read_it(&table), 0);
        ck_assert_uint_eq(sup_alloc_live() - before, 2 * (segment + 1));
    }
    pt_atom_table_free(&table);
    ck_assert_uint_eq(sup_alloc_live(), before);
    pt_atom_table_free(&table); /* empty again, not dangling */
}
END_TEST

/* Reading: the error is told, whichever allocation it is. Writing goes on without it, and whoever
 * reads what was written, now and after, has the right atoms. */
START_TEST(test_without_memory)
{
    const struct spec s[] = {
        {1, true, "one"}, {300, true, "two"}, {301, true, "three"}, {900, true, "four"}};
    unsigned runs = 0;
    for (size_t nth = 1;; nth++, runs++) {
        struct pt_atom_table table = {0};
        put_section(s, 4, false);
        sup_alloc_fail_at(nth);
        int rc = read_it(&table);
        ck_assert_int_eq(rc, sup_alloc_failed() ? -ENOMEM : (int)t.len);
        pt_atom_table_free(&table);
        ck_assert_uint_eq(sup_alloc_live(), 0);
        if (rc > 0)
            break;
    }
    ck_assert_uint_eq(runs, 4 + 3); /* atoms and segments */

    for (size_t nth = 1; nth <= 3; nth++) {
        struct pt_atom_table from = {0}, lane = {0}, other = {0};
        uint8_t out[128];
        sup_alloc_fail_at(0);
        put_section(s, 4, false);
        ck_assert_int_gt(read_it(&from), 0);
        struct pt_atom_refs sent = refs;
        sup_alloc_fail_at(nth);
        for (unsigned again = 0; again < 3; again++) {
            size_t n = pt_atoms_write(out, sent.ref, 4, &lane);
            ck_assert_uint_eq(sup_alloc_failed(), 1);
            ck_assert_int_eq(read_of(out, n, &other), (int)n);
            for (unsigned i = 0; i < 4; i++)
                check_ref(i, s[i].slot, s[i].text);
        }
        pt_atom_table_free(&from);
        pt_atom_table_free(&lane);
        pt_atom_table_free(&other);
        ck_assert_uint_eq(sup_alloc_live(), 0);
    }
    sup_alloc_fail_at(0);
}
END_TEST

/* VM, lane, lane, VM: four tables, random sections, the lane chosen at random. */
START_TEST(test_translations)
{
    enum { LANES = 3 };
    static struct pt_atom_table vm, out[LANES], in[LANES], told, model;
    struct sup_rng r = {42};
    for (unsigned step = 0; step < 4000; step++) {
        struct spec s[12];
        char text[12][8];
        unsigned count = (unsigned)sup_below(&r, 13), lane = (unsigned)sup_below(&r, LANES);
        for (unsigned i = 0; i < count; i++) {
            snprintf(text[i], sizeof text[i], "%u", (unsigned)sup_below(&r, 40));
            s[i] = (struct spec){i * 170 + (unsigned)sup_below(&r, 3), true, text[i]};
        }
        put_section(s, count, false);
        uint8_t bytes[512];
        ck_assert_int_eq(read_it(&vm), (int)t.len);
        size_t all = pt_atoms_size(refs.ref, refs.count);
        size_t n = pt_atoms_write(bytes, refs.ref, refs.count, &out[lane]);
        sup_must(n <= all);
        sup_must(read_of(bytes, n, &in[lane]) == (int)n);
        n = pt_atoms_write(bytes, refs.ref, refs.count, &told);
        sup_must(n <= all);
        sup_must(read_of(bytes, n, &model) == (int)n);
        for (unsigned i = 0; i < count; i++)
            sup_must(refs.ref[i].slot == s[i].slot && refs.ref[i].atom->len == strlen(s[i].text) &&
                     !memcmp(refs.ref[i].atom->text, s[i].text, strlen(s[i].text)));
    }
    pt_atom_table_free(&vm);
    pt_atom_table_free(&told);
    pt_atom_table_free(&model);
    for (unsigned i = 0; i < LANES; i++) {
        pt_atom_table_free(&out[i]);
        pt_atom_table_free(&in[i]);
    }
}
END_TEST

/* Remembered are short sections that say nothing new, until a slot of either table changes. */
START_TEST(test_what_is_remembered)
{
    struct pt_atom_table from = {0}, to = {0}, *tables[] = {&from, &to};
    const struct spec fresh[] = {{3, true, "a"}, {300, true, "b"}};
    const struct spec known[] = {{3, false, NULL}, {300, false, NULL}};
    const struct spec other[] = {{300, false, NULL}, {3, false, NULL}};
    struct pt_atom_memo memo = {0};
    uint8_t out[64];

    put_section(fresh, 2, false);
    ck_assert_int_eq(read_it(&from), (int)t.len);
    size_t n = pt_atoms_write(out, refs.ref, refs.count, &to);
    pt_atoms_remember(&memo, &from, &to, t.at, t.len, out, n, 20);
    ck_assert(!pt_atoms_recall(&memo, &from, &to, t.at, t.len));
    put_section(known, 2, false);
    ck_assert_int_eq(read_it(&from), (int)t.len);
    n = pt_atoms_write(out, refs.ref, refs.count, &to);
    for (unsigned i = 0; i < 3; i++) {
        pt_atoms_remember(&memo, &from, &to, t.at, t.len, out, n, 20);
        ck_assert(pt_atoms_recall(&memo, &from, &to, t.at, t.len));
        ck_assert(pt_atoms_recall(&memo, &from, &to, t.at, t.len + 1));
        ck_assert(!pt_atoms_recall(&memo, &from, &to, t.at, t.len - 1));
        ck_assert_uint_eq(memo.size, 20);
        ck_assert_uint_eq(memo.in_len, t.len);
        ck_assert_uint_eq(memo.out_len, n);
        ck_assert(!memcmp(memo.out, out, n));
        put_section(other, 2, false);
        ck_assert(!pt_atoms_recall(&memo, &from, &to, t.at, t.len));
        if (i < 2) { /* the slot now means another atom, here or there */
            put_section(&(struct spec){3, true, i ? "c" : "d"}, 1, false);
            ck_assert_int_eq(read_it(tables[i]), (int)t.len);
            put_section(known, 2, false);
            ck_assert(!pt_atoms_recall(&memo, &from, &to, t.at, t.len));
        }
    }
    struct spec many[16];
    for (unsigned i = 0; i < 16; i++)
        many[i] = (struct spec){3, false, NULL};
    put_section(many, 16, false); /* longer than what is kept */
    pt_atoms_remember(&memo, &from, &to, t.at, t.len, out, n, 20);
    ck_assert(!pt_atoms_recall(&memo, &from, &to, t.at, t.len));
    pt_atom_table_free(&from);
    pt_atom_table_free(&to);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {test_no_references,
                                  test_slots_are_filled_and_referred_to,
                                  test_empty_slots,
                                  test_one_slot_filled_twice,
                                  test_lengths,
                                  test_every_count_and_truncation,
                                  test_long_is_said_for_new_atoms_only,
                                  test_reference_counts,
                                  test_table_growth,
                                  test_without_memory,
                                  test_translations,
                                  test_what_is_remembered};
    return SUP_MAIN("atoms", tests);
}

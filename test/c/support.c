#include "support.h"

#include <errno.h>
#include <string.h>

uint64_t sup_rand(struct sup_rng *r) /* splitmix64 */
{
    uint64_t z = (r->s += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* ---- allocation ---- */

static size_t live, countdown;
static bool failed;

static bool fails_now(void)
{
    if (!countdown || --countdown)
        return false;
    failed = true;
    return true;
}

static void *count_alloc(size_t size)
{
    void *p = fails_now() ? NULL : malloc(size);
    live += p != NULL;
    return p;
}

static void *count_realloc(void *p, size_t size)
{
    void *new = fails_now() ? NULL : realloc(p, size);
    live += !p && new;
    return new;
}

static void count_free(void *p)
{
    live--;
    free(p);
}

void sup_alloc_fail_at(size_t nth)
{
    pt_alloc_set_hooks(&(struct pt_alloc_hooks){count_alloc, count_realloc, count_free});
    countdown = nth;
    failed = false;
}

bool sup_alloc_failed(void) { return failed; }

size_t sup_alloc_live(void) { return live; }

/* ---- blocks ---- */

uint8_t sup_bin_filler = 0xA5;

void *sup_bin_new(size_t size)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    struct sup_bin *b = count_alloc(sizeof *b + size);
    if (!b)
        return NULL;
    b->refs = 1;
    b->size = size;
    memset(b->data, sup_bin_filler, size);
    return b;
}

void *sup_bin_grow(void *bin, size_t size)
{
    struct sup_bin *b = bin;
    size_t before = b->size;

    ck_assert_uint_eq(b->refs, 1);
    ck_assert_uint_ge(size, before);
    /* always elsewhere, so that a pointer kept across the call is found out */
    struct sup_bin *new = sup_bin_new(size);
    if (!new)
        return NULL;
    memcpy(new->data, b->data, before);
    sup_bin_unref(b);
    return new;
}

uint8_t *sup_bin_data(void *bin) { return ((struct sup_bin *)bin)->data; }

bool sup_bin_shared(void *bin) { return ((struct sup_bin *)bin)->refs > 1; }

void sup_bin_ref(void *bin) { ((struct sup_bin *)bin)->refs++; }

void sup_bin_unref(void *bin)
{
    struct sup_bin *b = bin;
    if (!b->refs)
        abort();
    if (--b->refs == 0)
        count_free(b);
}

const struct pt_owner_ops sup_owner_ops = {sup_bin_ref, sup_bin_unref};

/* ---- messages ---- */

enum { PIECES = 24 };

/* Cuts the bytes into pieces: some borrowed (to be copied), some blocks of their own. */
static size_t cut(const uint8_t *p, size_t size, struct sup_rng *r, struct iovec *iov,
                  void **owners)
{
    size_t n = 0;
    do {
        size_t part = size;
        if (n + 1 < PIECES && size > 1 && sup_chance(r, 70))
            part = sup_chance(r, 50) ? 1 + sup_below(r, PT_MIN(size, (size_t)300))
                                     : 1 + sup_below(r, size);
        part = PT_MIN(part, size);
        owners[n] = NULL;
        iov[n] = (struct iovec){(void *)(uintptr_t)p, part};
        if (sup_chance(r, 60) && (owners[n] = sup_bin_new(part))) {
            memcpy(sup_bin_data(owners[n]), p, part);
            iov[n].iov_base = sup_bin_data(owners[n]);
        }
        n++;
        p += part;
        size -= part;
    } while (size);
    return n;
}

struct pieces {
    struct iovec iov[PIECES];
    void *owners[PIECES];
    struct pt_source src;
};

static void build(struct pieces *s, const uint8_t *p, size_t size, struct sup_rng *r)
{
    if (r) {
        s->src.count = cut(p, size, r, s->iov, s->owners);
    } else {
        s->iov[0] = (struct iovec){(void *)(uintptr_t)p, size};
        s->owners[0] = NULL;
        s->src.count = 1;
    }
    s->src.iov = s->iov;
    s->src.owners = s->owners;
}

static void dismantle(struct pieces *s)
{
    for (size_t i = 0; i < s->src.count; i++)
        if (s->owners[i])
            sup_bin_unref(s->owners[i]);
}

struct pt_msg *sup_msg(const uint8_t *p, size_t size, struct sup_rng *cuts)
{
    return sup_msg_atoms(p, size, cuts, NULL, 0);
}

struct pt_msg *sup_msg_atoms(const uint8_t *p, size_t size, struct sup_rng *cuts,
                             const struct pt_atom_ref *atoms, unsigned natoms)
{
    struct pieces s = {0};
    build(&s, p, size, cuts);
    s.src.atoms = atoms;
    s.src.natoms = natoms;
    struct pt_msg *m = pt_msg_new(&s.src, &sup_owner_ops);
    dismantle(&s);
    return m;
}

int sup_append(struct pt_msg *m, const uint8_t *p, size_t size, struct sup_rng *cuts)
{
    struct pieces s = {0};
    build(&s, p, size, cuts);
    int rc = pt_msg_append(m, &s.src, &sup_owner_ops);
    dismantle(&s);
    return rc ? rc : (int)size;
}

/* ---- programs ---- */

int sup_main(const char *name, const TTest *const *tests, size_t count)
{
    Suite *s = suite_create(name);
    TCase *tc = tcase_create(name);

    tcase_set_timeout(tc, 60);
    for (size_t i = 0; i < count; i++)
        tcase_add_test(tc, tests[i]);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    int bad = srunner_ntests_failed(sr);
    srunner_free(sr);
    return bad == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

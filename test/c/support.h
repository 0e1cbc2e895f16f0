/* What the tests of the protocol core share: random numbers, an allocator that counts and fails on
 * demand, and reference-counted blocks that stand for the VM's binaries. */
#ifndef PT_TEST_SUPPORT_H
#define PT_TEST_SUPPORT_H

#include "proto/msg.h"
#include "proto/rx.h"

#include <check.h>
#include <stdlib.h>

/* For hot loops: ck_assert() reports each success through a pipe. */
#define sup_must(cond)                                \
    do {                                              \
        if (PT_UNLIKELY(!(cond)))                     \
            ck_abort_msg("does not hold: %s", #cond); \
    } while (0)

/* ---- random numbers: the same run from the same seed ---- */

struct sup_rng {
    uint64_t s;
};
uint64_t sup_rand(struct sup_rng *r);
static inline uint64_t sup_below(struct sup_rng *r, uint64_t n) { return sup_rand(r) % n; }
static inline bool sup_chance(struct sup_rng *r, unsigned percent)
{
    return sup_below(r, 100) < percent;
}

/* ---- allocation ---- */

/* From now on pt_alloc counts. The nth call from now fails (1 = the next), 0 = none does; blocks
 * of sup_bin_new() count as well. */
void sup_alloc_fail_at(size_t nth);
bool sup_alloc_failed(void); /* did the call that was to fail happen? */
size_t sup_alloc_live(void); /* blocks allocated and not freed */

/* ---- blocks with references ---- */

struct sup_bin {
    size_t refs, size;
    uint8_t data[];
};
void *sup_bin_new(size_t size); /* filled with sup_bin_filler; NULL when an allocation is to fail */
void *sup_bin_grow(void *bin, size_t size);
uint8_t *sup_bin_data(void *bin);
bool sup_bin_shared(void *bin);
void sup_bin_ref(void *bin);
void sup_bin_unref(void *bin);
extern uint8_t sup_bin_filler;
extern const struct pt_owner_ops sup_owner_ops;

/* A message of `size` bytes at p: copied, or as slices of blocks with random cuts if rng. */
struct pt_msg *sup_msg(const uint8_t *p, size_t size, struct sup_rng *cuts);
/* The same with atom references (natoms of them), as in a message that leaves BARE. */
struct pt_msg *sup_msg_atoms(const uint8_t *p, size_t size, struct sup_rng *cuts,
                             const struct pt_atom_ref *atoms, unsigned natoms);
/* The same, appended to an open message; the bytes added or -ENOMEM. */
int sup_append(struct pt_msg *m, const uint8_t *p, size_t size, struct sup_rng *cuts);

/* Runs one suite with one case as Check programs do; the value for main() to return. */
int sup_main(const char *name, const TTest *const *tests, size_t count);
#define SUP_MAIN(name, tests) sup_main(name, tests, sizeof(tests) / sizeof((tests)[0]))

#endif

/* Random numbers of the emulator: splitmix64. Small state, any seed is good, and the same seed gives
 * the same packets lost on every machine. */
#ifndef PTN_RNG_H
#define PTN_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct ptn_rng {
    uint64_t s;
};

static inline uint64_t ptn_rand(struct ptn_rng *r)
{
    uint64_t z = (r->s += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* 0 <= x < 1 */
static inline double ptn_rand_unit(struct ptn_rng *r)
{
    return (double)(ptn_rand(r) >> 11) * 0x1p-53;
}

/* No number is drawn for a chance of 0, so that a feature which is off changes no other. */
static inline bool ptn_chance(struct ptn_rng *r, double p) { return p > 0 && ptn_rand_unit(r) < p; }

#endif

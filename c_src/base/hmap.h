/* Hash map from a non-zero 64-bit key to a pointer. Linear probing with deletion by shifting back,
 * so there are no tombstones and a lookup in a map that lived long costs what it costs in a new one.
 */
#ifndef PT_BASE_HMAP_H
#define PT_BASE_HMAP_H

#include "base/pt.h"

struct pt_hmap {
    struct pt_hmap_slot *slots; /* NULL while empty and never used */
    size_t mask;                /* capacity - 1 */
    size_t count;
};

void pt_hmap_init(struct pt_hmap *m);
void pt_hmap_free(struct pt_hmap *m); /* the values are the caller's */
void *pt_hmap_get(const struct pt_hmap *m, uint64_t key);
/* Key must not be present. 0 or -ENOMEM (map unchanged). */
int pt_hmap_put(struct pt_hmap *m, uint64_t key, void *value);
void *pt_hmap_del(struct pt_hmap *m, uint64_t key); /* the value it had, or NULL */
/* Halves a table that is an eighth full at most; a small one stays. No memory: nothing happens. */
void pt_hmap_trim(struct pt_hmap *m);
/* Walks all values in no order; start with *pos = 0; NULL at the end. No change while walking. */
void *pt_hmap_next(const struct pt_hmap *m, size_t *pos);

#endif

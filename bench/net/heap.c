#include "heap.h"

#include <stdlib.h>

enum { WAYS = 4, ROOM_MIN = 256 };

static bool before(const struct ptn_item *a, const struct ptn_item *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

void ptn_sched_free(struct ptn_sched *s)
{
    free(s->heap);
    *s = (struct ptn_sched){0};
}

bool ptn_sched_put(struct ptn_sched *s, struct ptn_item it)
{
    if (s->count == s->room) {
        size_t room = s->room ? s->room * 2 : ROOM_MIN;
        struct ptn_item *heap = realloc(s->heap, room * sizeof *heap);
        if (!heap)
            return false;
        s->heap = heap;
        s->room = room;
    }
    it.order = s->order++;
    size_t at = s->count++;
    while (at) {
        size_t up = (at - 1) / WAYS;
        if (!before(&it, &s->heap[up]))
            break;
        s->heap[at] = s->heap[up];
        at = up;
    }
    s->heap[at] = it;
    return true;
}

struct ptn_item ptn_sched_take(struct ptn_sched *s)
{
    struct ptn_item top = s->heap[0];
    struct ptn_item last = s->heap[--s->count];
    size_t at = 0;

    for (;;) {
        size_t child = at * WAYS + 1, best = child;
        if (child >= s->count)
            break;
        for (size_t i = child + 1; i < child + WAYS && i < s->count; i++)
            if (before(&s->heap[i], &s->heap[best]))
                best = i;
        if (!before(&s->heap[best], &last))
            break;
        s->heap[at] = s->heap[best];
        at = best;
    }
    s->heap[at] = last;
    return top;
}

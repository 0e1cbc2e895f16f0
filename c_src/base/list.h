/* Intrusive doubly linked list; a list head is a node that points to itself when empty. */
#ifndef PT_BASE_LIST_H
#define PT_BASE_LIST_H

#include "base/pt.h"

struct pt_list {
    struct pt_list *next, *prev;
};

static inline void pt_list_init(struct pt_list *l) { l->next = l->prev = l; }
static inline bool pt_list_empty(const struct pt_list *l) { return l->next == l; }
/* Also true for a node that was unlinked with pt_list_del(). */
static inline bool pt_list_unlinked(const struct pt_list *n) { return n->next == n; }

static inline void pt_list_insert_(struct pt_list *prev, struct pt_list *next, struct pt_list *n)
{
    n->prev = prev;
    n->next = next;
    prev->next = n;
    next->prev = n;
}
static inline void pt_list_push(struct pt_list *l, struct pt_list *n) /* at the end */
{
    pt_list_insert_(l->prev, l, n);
}
static inline void pt_list_push_front(struct pt_list *l, struct pt_list *n)
{
    pt_list_insert_(l, l->next, n);
}
static inline void pt_list_del(struct pt_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    pt_list_init(n);
}
static inline struct pt_list *pt_list_pop(struct pt_list *l) /* NULL if empty */
{
    struct pt_list *n = l->next;
    if (n == l)
        return NULL;
    pt_list_del(n);
    return n;
}
static inline struct pt_list *pt_list_first(const struct pt_list *l)
{
    return pt_list_empty(l) ? NULL : l->next;
}
/* Moves all of `from` to the end of `to`. */
static inline void pt_list_splice(struct pt_list *to, struct pt_list *from)
{
    if (pt_list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    pt_list_init(from);
}

#endif

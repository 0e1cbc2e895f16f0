#include "proto/names.h"

#include <errno.h>
#include <string.h>

enum {
    VERSION = 131,
    NEW_PID = 88,
    SMALL_ATOM_UTF8 = 119,
    ATOM_UTF8 = 118,
    ATOM_LATIN1 = 100, /* as OTP 25 writes what Latin-1 has */
    CACHE_REF = 82,
    PID_TAIL = 12, /* id, serial, creation */
    HEAD = 3,      /* 131 104 2 */
    CONTROL = 4,   /* 104 N 97 Op */
    SEND_SENDER = 22,
    NEW_REF = 8, /* of a reference's nibble */
};

static bool plain(const struct pt_name *a)
{
    if (!a->len || a->len > UINT8_MAX || a->slot >= PT_ATOM_SLOTS)
        return false;
    for (size_t i = 0; i < a->len; i++)
        if (a->text[i] > 127)
            return false;
    return true;
}

static size_t say(uint8_t *out, const struct pt_name *a, unsigned slot)
{
    out[0] = (uint8_t)(slot % PT_ATOM_SEGMENT);
    out[1] = (uint8_t)a->len;
    memcpy(out + 2, a->text, a->len);
    return 2 + a->len;
}

int pt_names_set(struct pt_names *n, const struct pt_name *mine, const struct pt_name *theirs)
{
    uint8_t all[3 + 2 * (2 + UINT8_MAX)];
    struct pt_atom_refs refs;

    if (n->set || !plain(mine) || !plain(theirs))
        return 0;
    unsigned a = mine->slot, b = theirs->slot;
    if (a == b) /* one of them is said at another place than the VM would */
        b = (b + 1) % PT_ATOM_SLOTS;
    uint8_t a_segment = (uint8_t)(a / PT_ATOM_SEGMENT), b_segment = (uint8_t)(b / PT_ATOM_SEGMENT);
    size_t len = 3;
    all[0] = 2;
    all[1] = (uint8_t)((NEW_REF | a_segment) | (NEW_REF | b_segment) << 4);
    all[2] = 0;
    len += say(all + len, mine, a);
    len += say(all + len, theirs, b);
    int rc = pt_atoms_read(all, len, &n->table, &refs);
    if (rc < 0)
        return rc;
    memcpy(n->ref, refs.ref, sizeof n->ref);
    n->section[0][0] = 0;
    memcpy(n->section[1], (uint8_t[]){1, a_segment, (uint8_t)(a % PT_ATOM_SEGMENT)}, 3);
    memcpy(n->section[2],
           (uint8_t[]){2, (uint8_t)(a_segment | b_segment << 4), 0, (uint8_t)(a % PT_ATOM_SEGMENT),
                       (uint8_t)(b % PT_ATOM_SEGMENT)},
           5);
    n->set = true;
    return 0;
}

void pt_names_free(struct pt_names *n)
{
    pt_atom_table_free(&n->table);
    n->set = false;
}

/* The atom at p: bytes in front of its text, or 0. */
static size_t atom_at(const uint8_t *p, size_t len, size_t *text)
{
    size_t head = 0;
    if (len >= 2 && p[0] == SMALL_ATOM_UTF8) {
        head = 2;
        *text = p[1];
    } else if (len >= 3 && (p[0] == ATOM_UTF8 || p[0] == ATOM_LATIN1)) {
        head = 3;
        *text = pt_get16(p + 1);
    }
    return head && *text <= len - head ? head : 0;
}

/* Where the pid at p ends if it is one of this node, else 0. */
static size_t pid_of(const struct pt_atom *node, const uint8_t *p, size_t len)
{
    size_t text;
    size_t head = len && p[0] == NEW_PID ? atom_at(p + 1, len - 1, &text) : 0;
    if (!head || text != node->len || len - 1 - head - text < PID_TAIL ||
        memcmp(p + 1 + head, node->text, text) != 0)
        return 0;
    return 1 + head + text + PID_TAIL;
}

/* The pid that ends at `from` is written so that it ends at `to`; returns where it starts. */
static uint8_t *put_pid(uint8_t *to, const uint8_t *from, uint8_t ref)
{
    to -= PID_TAIL;
    memmove(to, from - PID_TAIL, PID_TAIL);
    to -= 3;
    to[0] = NEW_PID;
    to[1] = CACHE_REF;
    to[2] = ref;
    return to;
}

size_t pt_names_refer(const struct pt_names *n, uint8_t *p, size_t len, unsigned *refs)
{
    *refs = 0;
    size_t at = HEAD + CONTROL;
    if (len < at || p[HEAD] != 104 || p[HEAD + 2] != 97)
        return HEAD;
    size_t first = pid_of(n->ref[0].atom, p + at, len - at);
    if (!first)
        return HEAD;
    uint8_t *first_end = p + at + first, *to = first_end;
    size_t second = 0;
    if (p[HEAD + 3] == SEND_SENDER)
        second = pid_of(n->ref[1].atom, first_end, len - at - first);
    if (second) {
        to = put_pid(first_end + second, first_end + second, 1);
        *refs = 2;
    } else {
        *refs = 1;
    }
    to = put_pid(to, first_end, 0) - CONTROL;
    memmove(to, p + HEAD, CONTROL);
    return (size_t)(to - p);
}

bool pt_names_of_pid(const uint8_t *p, size_t len, struct pt_name *name)
{
    size_t head =
        len >= 2 && p[0] == VERSION && p[1] == NEW_PID ? atom_at(p + 2, len - 2, &name->len) : 0;
    name->text = p + 2 + head;
    return head != 0;
}

#include "proto/etf.h"

/* Tags of the external term format (OTP erts/doc erl_ext_dist). Left out on purpose: 80 and 131
 * start a whole external term and never occur inside one; 72-76 and 121 never leave a VM. */
enum {
    NEW_FLOAT_EXT = 70,
    BIT_BINARY_EXT = 77,
    ATOM_CACHE_REF = 82, /* an atom named in the distribution header */
    NEW_PID_EXT = 88,
    NEW_PORT_EXT = 89,
    NEWER_REFERENCE_EXT = 90,
    SMALL_INTEGER_EXT = 97,
    INTEGER_EXT = 98,
    FLOAT_EXT = 99,
    ATOM_EXT = 100,
    REFERENCE_EXT = 101,
    PORT_EXT = 102,
    PID_EXT = 103,
    SMALL_TUPLE_EXT = 104,
    LARGE_TUPLE_EXT = 105,
    NIL_EXT = 106,
    STRING_EXT = 107,
    LIST_EXT = 108,
    BINARY_EXT = 109,
    SMALL_BIG_EXT = 110,
    LARGE_BIG_EXT = 111,
    NEW_FUN_EXT = 112,
    EXPORT_EXT = 113,
    NEW_REFERENCE_EXT = 114,
    SMALL_ATOM_EXT = 115,
    MAP_EXT = 116,
    FUN_EXT = 117,
    ATOM_UTF8_EXT = 118,
    SMALL_ATOM_UTF8_EXT = 119,
    V4_PORT_EXT = 120,
};

/* Every kind of term is: a head of fixed size, which may hold a length; then, in some, an atom
 * naming a node; then a tail of a fixed size plus so many bytes per unit of the length; then
 * child terms, a fixed number plus so many per unit of the length. */
struct shape {
    uint8_t head;      /* bytes, tag included; 0: no such tag */
    uint8_t len_at;    /* where in the head the length is */
    uint8_t len_width; /* bytes it has: 0, 1, 2, 4 */
    bool node;
    uint8_t tail;
    uint8_t tail_per;
    uint8_t kids;
    uint8_t kids_per;
};

static const struct shape shapes[256] = {
    [SMALL_INTEGER_EXT] = {.head = 2},
    [INTEGER_EXT] = {.head = 5},
    [FLOAT_EXT] = {.head = 32},
    [NEW_FLOAT_EXT] = {.head = 9},
    [NIL_EXT] = {.head = 1},

    [ATOM_CACHE_REF] = {.head = 2},
    [ATOM_EXT] = {.head = 3, .len_at = 1, .len_width = 2, .tail_per = 1},
    [ATOM_UTF8_EXT] = {.head = 3, .len_at = 1, .len_width = 2, .tail_per = 1},
    [SMALL_ATOM_EXT] = {.head = 2, .len_at = 1, .len_width = 1, .tail_per = 1},
    [SMALL_ATOM_UTF8_EXT] = {.head = 2, .len_at = 1, .len_width = 1, .tail_per = 1},
    [STRING_EXT] = {.head = 3, .len_at = 1, .len_width = 2, .tail_per = 1},
    [BINARY_EXT] = {.head = 5, .len_at = 1, .len_width = 4, .tail_per = 1},
    [BIT_BINARY_EXT] = {.head = 6, .len_at = 1, .len_width = 4, .tail_per = 1},
    [SMALL_BIG_EXT] = {.head = 3, .len_at = 1, .len_width = 1, .tail_per = 1},
    [LARGE_BIG_EXT] = {.head = 6, .len_at = 1, .len_width = 4, .tail_per = 1},

    [PID_EXT] = {.head = 1, .node = true, .tail = 9},
    [NEW_PID_EXT] = {.head = 1, .node = true, .tail = 12},
    [PORT_EXT] = {.head = 1, .node = true, .tail = 5},
    [NEW_PORT_EXT] = {.head = 1, .node = true, .tail = 8},
    [V4_PORT_EXT] = {.head = 1, .node = true, .tail = 12},
    [REFERENCE_EXT] = {.head = 1, .node = true, .tail = 5},
    [NEW_REFERENCE_EXT] =
        {.head = 3, .len_at = 1, .len_width = 2, .node = true, .tail = 1, .tail_per = 4},
    [NEWER_REFERENCE_EXT] =
        {.head = 3, .len_at = 1, .len_width = 2, .node = true, .tail = 4, .tail_per = 4},

    [SMALL_TUPLE_EXT] = {.head = 2, .len_at = 1, .len_width = 1, .kids_per = 1},
    [LARGE_TUPLE_EXT] = {.head = 5, .len_at = 1, .len_width = 4, .kids_per = 1},
    [LIST_EXT] = {.head = 5, .len_at = 1, .len_width = 4, .kids = 1, .kids_per = 1},
    [MAP_EXT] = {.head = 5, .len_at = 1, .len_width = 4, .kids_per = 2},
    [EXPORT_EXT] = {.head = 1, .kids = 3},
    /* Its Size field is not used: VMs since OTP 23 may write one that is too large (a note in OTP
     * 25's external.c), and their decoders walk the parts just so. */
    [NEW_FUN_EXT] = {.head = 30, .len_at = 26, .len_width = 4, .kids = 4, .kids_per = 1},
    [FUN_EXT] = {.head = 5, .len_at = 1, .len_width = 4, .kids = 4, .kids_per = 1},
};

static size_t left(const struct pt_etf *e) { return (size_t)(e->end - e->p); }

static uint32_t read_len(const uint8_t *p, unsigned width)
{
    switch (width) {
    case 1: return p[0];
    case 2: return pt_get16(p);
    case 4: return pt_get32(p);
    default: return 0;
    }
}

static bool is_atom_tag(uint8_t tag)
{
    return tag == ATOM_CACHE_REF || tag == SMALL_ATOM_UTF8_EXT || tag == ATOM_EXT ||
           tag == ATOM_UTF8_EXT || tag == SMALL_ATOM_EXT;
}

/* The atom at p, of which `n` bytes are there: *head bytes of tag and length, *len of name. */
static int atom_at(const uint8_t *p, size_t n, size_t *head, size_t *len)
{
    if (n == 0)
        return PT_E_MORE;
    if (!is_atom_tag(p[0]))
        return PT_E_BAD_FRAME;
    *head = shapes[p[0]].head;
    if (n < *head)
        return PT_E_MORE;
    *len = p[0] == ATOM_CACHE_REF ? 0 : read_len(p + 1, (unsigned)*head - 1);
    return n - *head < *len ? PT_E_MORE : 0;
}

/* The term at p without its children: *size bytes, then *kids terms. */
static int term_at(const uint8_t *p, size_t n, size_t *size, uint64_t *kids)
{
    if (n == 0)
        return PT_E_MORE;
    const struct shape *s = &shapes[p[0]];
    if (s->head == 0)
        return PT_E_BAD_FRAME;
    if (n < s->head)
        return PT_E_MORE;
    uint32_t len = read_len(p + s->len_at, s->len_width);
    size_t used = s->head;
    if (s->node) {
        size_t atom_head, atom_len;
        int rc = atom_at(p + used, n - used, &atom_head, &atom_len);
        if (rc)
            return rc;
        used += atom_head + atom_len;
    }
    /* 64 bits wide: a length of 2^32-1 must not wrap where size_t has 32. */
    uint64_t tail = s->tail + (uint64_t)s->tail_per * len;
    if (n - used < tail)
        return PT_E_MORE;
    *size = used + (size_t)tail;
    *kids = s->kids + (uint64_t)s->kids_per * len;
    return 0;
}

int pt_etf_skip(struct pt_etf *e)
{
    const uint8_t *p = e->p;
    uint64_t seen = 1; /* terms found, looked at or not */

    for (uint64_t done = 0; done < seen; done++) {
        size_t size;
        uint64_t kids;
        int rc = term_at(p, (size_t)(e->end - p), &size, &kids);
        if (rc)
            return rc;
        p += size;
        seen += kids;
        if (seen > PT_ETF_MAX_WORK)
            return PT_E_BAD_FRAME;
    }
    e->p = p;
    return 0;
}

/* ASCII of at most 255 bytes, so of at most 255 characters, which is what a VM takes. */
static bool is_plain_atom(const uint8_t *p, size_t n)
{
    enum { ATOM_MAX = 255 };
    size_t head, len;
    if (atom_at(p, n, &head, &len) || p[0] == ATOM_CACHE_REF || len > ATOM_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if (p[head + i] >= 0x80)
            return false;
    return true;
}

/* The limits are those that a VM has for its own pids and references (OTP 25, erl_term.h, on 32 bits,
 * where they are the narrower ones); it takes wider ones of other nodes. */
static bool is_sure_term(const uint8_t *p, size_t n)
{
    enum { PID_LIMIT = 1 << 15, SERIAL_LIMIT = 1 << 13, REF_WORDS = 3, REF_LIMIT = 1 << 18 };
    switch (p[0]) {
    case SMALL_INTEGER_EXT:
    case INTEGER_EXT:
    case NIL_EXT:
    case STRING_EXT:
    case BINARY_EXT:
    case SMALL_TUPLE_EXT:
    case LARGE_TUPLE_EXT: return true;
    case LIST_EXT: return pt_get32(p + 1) > 0;
    case SMALL_BIG_EXT: return p[1] > 0 && p[2] <= 1 && p[n - 1] != 0;
    case NEW_FLOAT_EXT: return (pt_get16(p + 1) & 0x7ff0) != 0x7ff0; /* not finite */
    case ATOM_EXT:
    case ATOM_UTF8_EXT:
    case SMALL_ATOM_EXT:
    case SMALL_ATOM_UTF8_EXT: return is_plain_atom(p, n);
    case NEW_PID_EXT:
        return is_plain_atom(p + 1, n - 1) && pt_get32(p + n - 12) < PID_LIMIT &&
               pt_get32(p + n - 8) < SERIAL_LIMIT;
    case NEWER_REFERENCE_EXT:
        return pt_get16(p + 1) == REF_WORDS && is_plain_atom(p + 3, n - 3) &&
               pt_get32(p + n - 4 * REF_WORDS) < REF_LIMIT;
    default: return false;
    }
}

bool pt_etf_is_sure(struct pt_etf *e)
{
    uint64_t seen = 1;

    for (uint64_t done = 0; done < seen; done++) {
        size_t size;
        uint64_t kids;
        if (term_at(e->p, left(e), &size, &kids) || !is_sure_term(e->p, size))
            return false;
        e->p += size;
        seen += kids;
        if (seen > PT_ETF_MAX_WORK)
            return false;
    }
    return true;
}

int pt_etf_tuple(struct pt_etf *e, uint32_t *arity)
{
    if (left(e) == 0)
        return PT_E_MORE;
    if (e->p[0] != SMALL_TUPLE_EXT && e->p[0] != LARGE_TUPLE_EXT)
        return PT_E_BAD_FRAME;
    size_t head = shapes[e->p[0]].head;
    if (left(e) < head)
        return PT_E_MORE;
    *arity = read_len(e->p + 1, (unsigned)head - 1);
    e->p += head;
    return 0;
}

/* Sign and digits, least significant first, of a big integer. Zeros above the eighth digit are
 * refused too: no VM writes them. */
static int big_uint(struct pt_etf *e, uint64_t *value)
{
    size_t head = shapes[e->p[0]].head;
    if (left(e) < head)
        return PT_E_MORE;
    uint32_t len = read_len(e->p + 1, (unsigned)head - 2);
    bool negative = e->p[head - 1] != 0;
    if (negative || len > 8)
        return PT_E_BAD_FRAME;
    if (left(e) - head < len)
        return PT_E_MORE;
    uint64_t v = 0;
    for (uint32_t i = len; i > 0; i--)
        v = v << 8 | e->p[head + i - 1];
    *value = v;
    e->p += head + len;
    return 0;
}

int pt_etf_uint(struct pt_etf *e, uint64_t *value)
{
    if (left(e) == 0)
        return PT_E_MORE;
    switch (e->p[0]) {
    case SMALL_INTEGER_EXT:
        if (left(e) < 2)
            return PT_E_MORE;
        *value = e->p[1];
        e->p += 2;
        return 0;
    case INTEGER_EXT: {
        if (left(e) < 5)
            return PT_E_MORE;
        uint32_t v = pt_get32(e->p + 1);
        if (v > INT32_MAX) /* two's complement: negative */
            return PT_E_BAD_FRAME;
        *value = v;
        e->p += 5;
        return 0;
    }
    case SMALL_BIG_EXT:
    case LARGE_BIG_EXT: return big_uint(e, value);
    default: return PT_E_BAD_FRAME;
    }
}

int pt_etf_atom(struct pt_etf *e, const uint8_t **name, size_t *len)
{
    size_t head, n;
    int rc = atom_at(e->p, left(e), &head, &n);
    if (rc)
        return rc;
    *name = e->p + head;
    *len = n;
    e->p += head + n;
    return 0;
}

/* One-to-one in {id, serial} for a given creation, so two processes of one node life never share
 * a key. The multiplier is 2^64 over the golden ratio; the last shift brings the well mixed high
 * half down, where a hash map takes its bits. */
static uint64_t pid_key(uint32_t id, uint32_t serial, uint32_t creation)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    uint64_t x = ((uint64_t)serial << 32 | id) ^ creation * golden;

    x ^= x >> 32;
    x *= golden;
    x ^= x >> 32;
    return x ? x : 1;
}

int pt_etf_pid(struct pt_etf *e, uint64_t *key)
{
    if (left(e) == 0)
        return PT_E_MORE;
    if (!pt_etf_is_pid(e))
        return PT_E_BAD_FRAME;
    bool old = e->p[0] == PID_EXT;
    size_t tail = old ? 9 : 12;
    size_t head, len;
    int rc = atom_at(e->p + 1, left(e) - 1, &head, &len);
    if (rc)
        return rc;
    const uint8_t *num = e->p + 1 + head + len;
    if ((size_t)(e->end - num) < tail)
        return PT_E_MORE;
    *key = pid_key(pt_get32(num), pt_get32(num + 4), old ? num[8] : pt_get32(num + 8));
    e->p = num + tail;
    return 0;
}

int pt_etf_is_atom(const struct pt_etf *e) { return left(e) > 0 && is_atom_tag(e->p[0]); }

int pt_etf_is_pid(const struct pt_etf *e)
{
    return left(e) > 0 && (e->p[0] == NEW_PID_EXT || e->p[0] == PID_EXT);
}

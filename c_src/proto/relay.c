#include "proto/relay.h"

#include "proto/etf.h"

#include <errno.h>
#include <string.h>

/* ---- envelope ---- */

size_t pt_relay_encode(uint8_t *out, const struct pt_relay_envelope *e)
{
    out[0] = PT_RELAY_TAG;
    out[1] = PT_RELAY_VERSION;
    out[PT_RELAY_HOPS_AT] = (uint8_t)e->hops;
    pt_put64(out + 3, e->origin);
    pt_put64(out + 11, e->number);
    pt_put64(out + 19, e->flow);
    pt_put16(out + 27, (uint16_t)e->name_len);
    memcpy(out + PT_RELAY_HEAD, e->name, e->name_len);
    return PT_RELAY_HEAD + e->name_len;
}

int pt_relay_decode(const uint8_t *p, size_t len, struct pt_relay_envelope *e)
{
    if (len <= PT_RELAY_HEAD || p[0] != PT_RELAY_TAG || p[1] != PT_RELAY_VERSION)
        return PT_E_BAD_FRAME;
    *e = (struct pt_relay_envelope){.hops = p[PT_RELAY_HOPS_AT],
                                    .origin = pt_get64(p + 3),
                                    .number = pt_get64(p + 11),
                                    .flow = pt_get64(p + 19),
                                    .name = p + PT_RELAY_HEAD,
                                    .name_len = pt_get16(p + 27)};
    if (!e->hops || !e->flow || !e->name_len || e->name_len > PT_RELAY_NAME_MAX ||
        len - PT_RELAY_HEAD <= e->name_len)
        return PT_E_BAD_FRAME;
    return (int)(PT_RELAY_HEAD + e->name_len);
}

/* The element of a control tuple at e, which is stepped over. */
enum element { END, PID, ATOM, REF, TOKEN };

/* seq_trace's {Flags, Label, Serial, From, Last}. The VM that gets it looks into it unchecked (OTP 25,
 * beam_jit_common.cpp), so another term would be its end. */
static bool is_token(struct pt_etf *e)
{
    uint32_t arity;
    uint64_t n;
    return !pt_etf_tuple(e, &arity) && arity == 5 && !pt_etf_uint(e, &n) && !pt_etf_skip(e) &&
           !pt_etf_uint(e, &n) && (pt_etf_is_pid(e) || pt_etf_is_atom(e)) && !pt_etf_skip(e) &&
           !pt_etf_uint(e, &n);
}

static bool is_next(struct pt_etf *e, enum element what)
{
    enum { NEW_REFERENCE = 114, NEWER_REFERENCE = 90 };
    bool is = false;
    if (what == TOKEN)
        return is_token(e);
    if (what == PID)
        is = pt_etf_is_pid(e);
    else if (what == ATOM)
        is = pt_etf_is_atom(e);
    else if (what == REF)
        is = e->p < e->end && (*e->p == NEW_REFERENCE || *e->p == NEWER_REFERENCE);
    return is && pt_etf_skip(e) == 0;
}

bool pt_relay_deliverable(const uint8_t *p, size_t len)
{
    static const struct {
        uint8_t op;
        uint8_t rest[4];
    } sends[] = {{6, {PID, ATOM, ATOM, END}}, {16, {PID, ATOM, ATOM, TOKEN}},
                 {22, {PID, PID, END, END}},  {23, {PID, PID, TOKEN, END}},
                 {33, {PID, REF, END, END}},  {34, {PID, REF, TOKEN, END}}};
    static const uint8_t head[] = {131, 68, 0};
    uint32_t arity;
    uint64_t op;

    if (len <= sizeof head || memcmp(p, head, sizeof head) != 0)
        return false;
    struct pt_etf e = {p + sizeof head, p + len};
    if (pt_etf_tuple(&e, &arity) || pt_etf_uint(&e, &op))
        return false;
    for (size_t i = 0; i < sizeof sends / sizeof *sends; i++) {
        if (sends[i].op != op)
            continue;
        unsigned n = 0;
        while (n < 4 && sends[i].rest[n] != END)
            if (!is_next(&e, sends[i].rest[n++]))
                return false;
        return arity == 1 + n && e.p < e.end;
    }
    return false;
}

bool pt_relay_is_sure(const uint8_t *p, size_t len)
{
    struct pt_etf e = {p + 3, p + len};
    return len > 3 && pt_etf_is_sure(&e) && pt_etf_is_sure(&e) && e.p == e.end;
}

/* ---- table ---- */

struct route {
    uint32_t name_at; /* in bytes */
    uint16_t name_len;
    uint16_t count;
    uint16_t hops[PT_ROUTES_WAYS];
};

struct pt_routes {
    uint8_t *bytes; /* the names, as they came */
    struct route *routes;
    uint32_t *slots; /* number of a route + 1, 0: free; a power of two of them, half of them free */
    size_t count, mask;
};

static uint64_t hash_name(const uint8_t *name, size_t len)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ len; /* FNV-1a, mixed: names differ at their ends */
    for (size_t i = 0; i < len; i++)
        h = (h ^ name[i]) * UINT64_C(0x100000001b3);
    return pt_mix64(h);
}

/* The slot of that name, or the free one where it belongs. */
static uint32_t *slot_of(const struct pt_routes *r, const uint8_t *name, size_t len)
{
    for (size_t i = (size_t)hash_name(name, len) & r->mask;; i = (i + 1) & r->mask) {
        uint32_t *slot = &r->slots[i];
        if (!*slot)
            return slot;
        const struct route *found = &r->routes[*slot - 1];
        if (found->name_len == len && !memcmp(r->bytes + found->name_at, name, len))
            return slot;
    }
}

/* One entry at *at, which moves behind it. */
static int read_route(const uint8_t *p, size_t len, size_t *at, unsigned hops, struct route *out)
{
    size_t i = *at;
    if (len - i < 2)
        return PT_E_BAD_FRAME;
    size_t name_len = pt_get16(p + i);
    i += 2;
    if (name_len > PT_RELAY_NAME_MAX || len - i <= name_len)
        return PT_E_BAD_FRAME;
    *out = (struct route){.name_at = (uint32_t)i, .name_len = (uint16_t)name_len};
    i += name_len;
    out->count = p[i++];
    if (out->count > PT_ROUTES_WAYS || len - i < 2u * out->count)
        return PT_E_BAD_FRAME;
    for (unsigned n = 0; n < out->count; n++, i += 2) {
        out->hops[n] = pt_get16(p + i);
        if (out->hops[n] >= hops)
            return PT_E_BAD_FRAME;
    }
    *at = i;
    return 0;
}

static int fill(struct pt_routes *r, size_t len, unsigned hops)
{
    size_t at = 0;
    for (size_t n = 0; n < r->count; n++) {
        struct route *new = &r->routes[n];
        int rc = read_route(r->bytes, len, &at, hops, new);
        if (rc)
            return rc;
        uint32_t *slot = slot_of(r, r->bytes + new->name_at, new->name_len);
        if (*slot)
            return PT_E_BAD_FRAME;
        *slot = (uint32_t)n + 1;
    }
    return 0;
}

static int allocate(struct pt_routes *r, const uint8_t *p, size_t len)
{
    size_t slots = 2;
    while (slots < 2 * r->count)
        slots *= 2;
    r->mask = slots - 1;
    r->bytes = pt_alloc(PT_MAX(len, (size_t)1));
    r->routes = pt_alloc(PT_MAX(r->count, (size_t)1) * sizeof *r->routes);
    r->slots = pt_zalloc(slots * sizeof *r->slots);
    if (!r->bytes || !r->routes || !r->slots)
        return -ENOMEM;
    if (len)
        memcpy(r->bytes, p, len);
    return 0;
}

int pt_routes_new(struct pt_routes **out, const uint8_t *p, size_t len, unsigned hops)
{
    struct route one;
    size_t count = 0;

    if (len > UINT32_MAX)
        return PT_E_BAD_FRAME;
    for (size_t at = 0; at < len; count++) {
        int rc = read_route(p, len, &at, hops, &one);
        if (rc)
            return rc;
    }
    struct pt_routes *r = pt_zalloc(sizeof *r);
    if (!r)
        return -ENOMEM;
    r->count = count;
    int rc = allocate(r, p, len);
    if (!rc)
        rc = fill(r, len, hops);
    if (rc) {
        pt_routes_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

void pt_routes_free(struct pt_routes *r)
{
    if (!r)
        return;
    pt_free(r->bytes);
    pt_free(r->routes);
    pt_free(r->slots);
    pt_free(r);
}

int pt_routes_find(const struct pt_routes *r, const uint8_t *name, size_t len,
                   uint16_t hops[PT_ROUTES_WAYS])
{
    uint32_t slot = *slot_of(r, name, len);
    if (!slot)
        slot = *slot_of(r, name, 0);
    if (!slot)
        return -1;
    const struct route *found = &r->routes[slot - 1];
    memcpy(hops, found->hops, sizeof found->hops);
    return found->count;
}

size_t pt_routes_count(const struct pt_routes *r) { return r->count; }

/* ---- seen ---- */

void pt_seen_init(struct pt_seen *s) { *s = (struct pt_seen){0}; }

void pt_seen_free(struct pt_seen *s)
{
    pt_free(s->young);
    pt_free(s->old);
    pt_seen_init(s);
}

/* The slot of the key, or the free one where it belongs. */
static uint64_t *place(uint64_t *keys, uint64_t key)
{
    size_t i = (size_t)key & (PT_SEEN_SLOTS - 1);
    while (keys[i] && keys[i] != key)
        i = (i + 1) & (PT_SEEN_SLOTS - 1);
    return &keys[i];
}

/* A message is known by 64 bits of its 128: one in 2^51 is taken for one that is kept. */
int pt_seen_note(struct pt_seen *s, uint64_t origin, uint64_t number)
{
    uint64_t key = pt_mix64(origin ^ pt_mix64(number + 1));
    key = key ? key : 1;
    if (!s->young && !(s->young = pt_zalloc(PT_SEEN_SLOTS * sizeof *s->young)))
        return -ENOMEM;
    if (*place(s->young, key) || (s->old && *place(s->old, key)))
        return 0;
    if (s->count == PT_SEEN_KEPT) {
        uint64_t *spare = s->old ? s->old : pt_alloc(PT_SEEN_SLOTS * sizeof *spare);
        if (!spare)
            return -ENOMEM;
        s->old = s->young;
        s->young = memset(spare, 0, PT_SEEN_SLOTS * sizeof *spare);
        s->count = 0;
    }
    *place(s->young, key) = key;
    s->count++;
    return 1;
}

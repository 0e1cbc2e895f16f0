/* Messages that travel over several nodes: the envelope, the table of ways, and what was seen before.
 * Pure; docs/wire-protocol.md has the format, docs/overlays.md the rules.
 *
 * A relay reads the envelope and nothing behind it. Nothing here knows what carries the envelope from
 * one node to the next.
 */
#ifndef PT_PROTO_RELAY_H
#define PT_PROTO_RELAY_H

#include "base/pt.h"

enum {
    PT_RELAY_TAG = 'r',
    PT_RELAY_VERSION = 1,
    PT_RELAY_HEAD = 29,       /* bytes before the destination's name */
    PT_RELAY_NAME_MAX = 1020, /* bytes: 255 characters of an atom, in UTF-8 */
    PT_RELAY_ENVELOPE_MAX = PT_RELAY_HEAD + PT_RELAY_NAME_MAX,
    PT_RELAY_HOPS_AT = 2,
    PT_RELAY_HOPS_MAX = 255,
};

struct pt_relay_envelope {
    unsigned hops; /* links that it may take from here on, the one it is on included; > 0 */
    uint64_t origin, number; /* no other message of any life of any node has this pair */
    uint64_t flow;           /* messages of one flow keep their order; not 0 */
    const uint8_t *name;     /* the destination's, UTF-8, not terminated */
    size_t name_len;
};

/* Bytes written, at most PT_RELAY_ENVELOPE_MAX. */
size_t pt_relay_encode(uint8_t *out, const struct pt_relay_envelope *e);
/* Bytes read; the packet is behind them and not empty. PT_E_BAD_FRAME: none that this version knows.
 * e->name points into p. */
int pt_relay_decode(const uint8_t *p, size_t len, struct pt_relay_envelope *e);
/* May the receiving VM have this packet? It ends the connection with whoever handed it a bad one, which
 * would be a neighbour that only passed it on. So only what sends a message is let through, and of that
 * what has a control tuple as the VM makes it; the message is not looked at. */
bool pt_relay_deliverable(const uint8_t *p, size_t len);
/* Of a deliverable one: is it certain that the VM can decode it, the message, too? False: to be tried. */
bool pt_relay_is_sure(const uint8_t *p, size_t len);

/* ---- the table: which neighbours lead to a node, the best first ---- */

enum { PT_ROUTES_WAYS = 4 }; /* a node has at most so many */

struct pt_routes;

/* From entries `Size:16 Name:Size/binary Count:8 Hop:16 ..`; an empty name is that of all nodes that
 * have no entry. Hops are numbers below `hops`. 0; -ENOMEM; PT_E_BAD_FRAME: cut short, a name longer
 * than PT_RELAY_NAME_MAX or twice, more than PT_ROUTES_WAYS hops, or one that is none. */
int pt_routes_new(struct pt_routes **out, const uint8_t *p, size_t len, unsigned hops);
void pt_routes_free(struct pt_routes *r); /* NULL is fine */
/* The number of ways to that node, which may be 0, and their hops; -1: it has no entry. */
int pt_routes_find(const struct pt_routes *r, const uint8_t *name, size_t len,
                   uint16_t hops[PT_ROUTES_WAYS]);
size_t pt_routes_count(const struct pt_routes *r);

/* ---- what was seen before ---- */

/* Keys in two generations: when the younger is full the older one goes. So the last PT_SEEN_KEPT are
 * known at least, and twice as many at most. */
enum { PT_SEEN_KEPT = 4096, PT_SEEN_SLOTS = 2 * PT_SEEN_KEPT };

struct pt_seen {
    uint64_t *young, *old; /* PT_SEEN_SLOTS each, NULL until used */
    unsigned count;        /* in young */
};

void pt_seen_init(struct pt_seen *s);
void pt_seen_free(struct pt_seen *s);
/* 1: new, and noted; 0: seen before; -ENOMEM: not known. */
int pt_seen_note(struct pt_seen *s, uint64_t origin, uint64_t number);

#endif

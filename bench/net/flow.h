/* The TCP connections seen, so that one of them can be cut or reset. Pure.
 *
 * A fixed table; the longest quiet one makes room, never one with a rule while others are left. */
#ifndef PTN_FLOW_H
#define PTN_FLOW_H

#include "pkt.h"

enum ptn_rule {
    PTN_RULE_NONE,
    PTN_RULE_CUT,   /* its packets vanish, those on their way as well */
    PTN_RULE_RESET, /* the same, and the sender of each is answered with a reset */
};

/* Side 0 is the one with the lower address and port. */
struct ptn_flow {
    uint32_t id; /* from 1; 0 is a free place */
    enum ptn_rule rule;
    struct ptn_addr addr[2];
    uint16_t port[2];
    uint8_t version;
    bool closed; /* a reset, or FIN from both sides */
    bool fin[2], acked[2];
    uint32_t expects[2];           /* the highest acknowledgement number that side sent */
    uint64_t packets[2], bytes[2]; /* sent by that side, payload bytes */
    uint64_t seen;                 /* ns, the last packet */
};

enum { PTN_FLOW_WAYS = 8, PTN_FLOW_SETS = 512, PTN_FLOWS = PTN_FLOW_WAYS * PTN_FLOW_SETS };

struct ptn_flows {
    struct ptn_flow flow[PTN_FLOWS];
    uint32_t last_id;
    uint64_t pushed_out; /* known ones that made room */
};

/* The flow of a TCP packet, noting what it tells; made if new. NULL: not TCP, or no room because all
 * candidates have rules. *side is the sender's. */
struct ptn_flow *ptn_flow_seen(struct ptn_flows *f, const struct ptn_pkt *k, uint64_t now,
                               int *side);
struct ptn_flow *ptn_flow_by_id(struct ptn_flows *f, uint32_t id);
/* Is the flow at this place still the one with the number? Its rule, or none. */
static inline enum ptn_rule ptn_flow_rule(const struct ptn_flows *f, uint32_t place, uint32_t id)
{
    return id && f->flow[place].id == id ? f->flow[place].rule : PTN_RULE_NONE;
}
/* A reset for `to`, as if its peer had sent it. False: it has not said yet what it expects. */
bool ptn_flow_rst(const struct ptn_flow *w, int to, struct ptn_rst *r);

#endif

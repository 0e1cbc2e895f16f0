#include "flow.h"

#include <string.h>

static int compare(const struct ptn_pkt *k)
{
    int c = memcmp(&k->src, &k->dst, sizeof k->src);
    return c ? c : (int)k->sport - (int)k->dport;
}

static uint32_t hash(const struct ptn_addr *a, const struct ptn_addr *b, uint32_t ports)
{
    uint64_t h = ports;

    for (size_t i = 0; i < sizeof a->b; i += 8) {
        uint64_t x, y;
        memcpy(&x, a->b + i, 8);
        memcpy(&y, b->b + i, 8);
        h = (h ^ x) * UINT64_C(0xBF58476D1CE4E5B9);
        h = (h ^ (h >> 29) ^ y) * UINT64_C(0x94D049BB133111EB);
    }
    return (uint32_t)(h >> 32);
}

static bool same(const struct ptn_flow *w, const struct ptn_pkt *k, int side)
{
    return w->port[side] == k->sport && w->port[!side] == k->dport &&
           !memcmp(&w->addr[side], &k->src, sizeof k->src) &&
           !memcmp(&w->addr[!side], &k->dst, sizeof k->dst);
}

/* The place to be reused: free, else closed, else the longest quiet; none with a rule. */
static struct ptn_flow *victim(struct ptn_flow *set)
{
    struct ptn_flow *best = NULL;

    for (int i = 0; i < PTN_FLOW_WAYS; i++) {
        struct ptn_flow *w = &set[i];
        if (!w->id)
            return w;
        if (w->rule != PTN_RULE_NONE && !w->closed)
            continue;
        if (!best || w->closed > best->closed ||
            (w->closed == best->closed && w->seen < best->seen))
            best = w;
    }
    return best;
}

static void note(struct ptn_flow *w, const struct ptn_pkt *k, int side, uint64_t now)
{
    w->seen = now;
    w->packets[side] += k->segments;
    w->bytes[side] += k->len - k->hdr_len;
    if ((k->tcp_flags & PTN_TCP_ACK) && !(k->tcp_flags & PTN_TCP_RST)) {
        if (!w->acked[side] || (int32_t)(k->ack - w->expects[side]) > 0)
            w->expects[side] = k->ack;
        w->acked[side] = true;
    }
    if (k->tcp_flags & PTN_TCP_FIN)
        w->fin[side] = true;
    if ((k->tcp_flags & PTN_TCP_RST) || (w->fin[0] && w->fin[1]))
        w->closed = true;
}

struct ptn_flow *ptn_flow_seen(struct ptn_flows *f, const struct ptn_pkt *k, uint64_t now,
                               int *side)
{
    if (!k->tcp)
        return NULL;
    *side = compare(k) > 0;
    uint32_t h = *side ? hash(&k->dst, &k->src, (uint32_t)k->dport << 16 | k->sport)
                       : hash(&k->src, &k->dst, (uint32_t)k->sport << 16 | k->dport);
    struct ptn_flow *set = &f->flow[(h % PTN_FLOW_SETS) * PTN_FLOW_WAYS], *w = NULL;
    for (int i = 0; i < PTN_FLOW_WAYS && !w; i++)
        if (set[i].id && same(&set[i], k, *side))
            w = &set[i];
    /* The ports of a closed connection may be used again: that is another one. */
    bool anew = w && (k->tcp_flags & (PTN_TCP_SYN | PTN_TCP_ACK)) == PTN_TCP_SYN && w->closed;
    if (!w || anew) {
        if (!w)
            w = victim(set);
        if (!w)
            return NULL;
        f->pushed_out += w->id && !w->closed;
        memset(w, 0, sizeof *w);
        w->id = ++f->last_id;
        w->version = k->version;
        w->addr[*side] = k->src;
        w->addr[!*side] = k->dst;
        w->port[*side] = k->sport;
        w->port[!*side] = k->dport;
    }
    note(w, k, *side, now);
    return w;
}

struct ptn_flow *ptn_flow_by_id(struct ptn_flows *f, uint32_t id)
{
    for (int i = 0; id && i < PTN_FLOWS; i++)
        if (f->flow[i].id == id)
            return &f->flow[i];
    return NULL;
}

bool ptn_flow_rst(const struct ptn_flow *w, int to, struct ptn_rst *r)
{
    *r = (struct ptn_rst){.src = w->addr[!to],
                          .dst = w->addr[to],
                          .sport = w->port[!to],
                          .dport = w->port[to],
                          .seq = w->expects[to],
                          .version = w->version};
    return w->acked[to];
}

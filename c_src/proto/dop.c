#include "proto/dop.h"

#include "proto/atoms.h"
#include "proto/etf.h"

#include <string.h>

enum {
    VERSION_MAGIC = 131,
    DIST_HEADER = 68,
    DIST_FRAG_HEADER = 69,
    DIST_FRAG_CONT = 70,

    WHOLE_HEADER = 2 + 1,    /* number of atom cache references */
    FRAG_HEADER = 2 + 8 + 8, /* sequence, countdown */
    FRAG_FIRST_HEADER = FRAG_HEADER + 1,
};

enum rule { RULE_NONE, RULE_FENCE, RULE_SENDER, RULE_SENDER_OR_NAME, RULE_RESULT };

struct dop {
    const char *name;
    uint8_t arity;
    uint8_t sender;
    uint8_t rule;
};

static const struct dop dops[] = {
#define PT_DOP(number, name, arity, sender, rule, since) \
    [number] = {#name, arity, sender, RULE_##rule},
#include "proto/dop.def"
#undef PT_DOP
};

enum { DOP_COUNT = sizeof(dops) / sizeof(dops[0]) };

const char *pt_dop_name(uint8_t op)
{
    return op < DOP_COUNT && dops[op].name ? dops[op].name : "UNKNOWN";
}

/* Order of the control tuple that starts at e: a fence whenever anything is not as it should be,
 * since a fence is right for every operation, only slower. */
static void scan_control(struct pt_etf *e, struct pt_packet *out)
{
    uint32_t arity;
    uint64_t op;
    const uint8_t *from = e->p;

    out->order = PT_ORDER_FENCE;
    if (pt_etf_tuple(e, &arity) || arity == 0 || pt_etf_uint(e, &op))
        return;
    if (op >= DOP_COUNT || !dops[op].name)
        return;
    out->op = (uint8_t)op;
    const struct dop *dop = &dops[op];
    if (arity < dop->arity || dop->rule == RULE_FENCE)
        return;
    for (unsigned i = 2; i < dop->sender; i++) {
        if (pt_etf_skip(e))
            return;
    }
    if (PT_LIKELY(pt_etf_pid(e, &out->key) == 0)) {
        out->order = PT_ORDER_SENDER;
        out->looked_at = out->header_len + (size_t)(e->p - from);
        return;
    }
    const uint8_t *name;
    size_t len;
    if (dop->rule == RULE_SENDER || pt_etf_atom(e, &name, &len))
        return;
    out->order = dop->rule == RULE_RESULT ? PT_ORDER_FREE : PT_ORDER_HALF_FENCE;
}

/* Reads sequence and countdown. Those of the VM are never 0 (a sender pid's word; N .. 1): it takes
 * a first fragment of sequence 0 for a whole packet, so we must not join it to others. */
static bool scan_fragment(const uint8_t *p, struct pt_packet *out)
{
    uint64_t seq_id = pt_get64(p + 2);
    uint64_t frag_id = pt_get64(p + 10);

    if (seq_id == 0 || frag_id == 0)
        return false;
    out->seq_id = seq_id;
    out->frag_id = frag_id;
    return true;
}

/* The section of atom references at p[at]: sets where the control tuple starts. */
static bool scan_section(const uint8_t *p, size_t n, size_t at, struct pt_packet *out)
{
    int len = n > at ? pt_atoms_length(p + at, n - at) : PT_E_MORE;
    if (len < 0) {
        out->cut = len == PT_E_MORE;
        return false;
    }
    out->atoms_at = at;
    out->atoms = p[at];
    out->header_len = at + (size_t)len;
    return true;
}

void pt_packet_scan(const uint8_t *p, size_t avail, size_t total, struct pt_packet *out)
{
    *out = (struct pt_packet){.form = PT_FORM_OTHER, .order = PT_ORDER_FENCE};
    if (total == 0) {
        out->form = PT_FORM_TICK;
        out->order = PT_ORDER_FREE;
        return;
    }
    size_t n = PT_MIN(avail, total);
    if (n < WHOLE_HEADER || p[0] != VERSION_MAGIC)
        return;
    switch (p[1]) {
    case DIST_HEADER:
        if (!scan_section(p, n, WHOLE_HEADER - 1, out))
            return;
        out->form = PT_FORM_WHOLE;
        break;
    case DIST_FRAG_HEADER:
        if (n < FRAG_FIRST_HEADER || !scan_fragment(p, out))
            return;
        if (!scan_section(p, n, FRAG_HEADER, out)) {
            out->seq_id = out->frag_id = 0;
            return;
        }
        out->form = PT_FORM_FRAG_FIRST;
        break;
    case DIST_FRAG_CONT:
        if (n < FRAG_HEADER || !scan_fragment(p, out))
            return;
        out->form = PT_FORM_FRAG_NEXT;
        out->order = PT_ORDER_SENDER;
        out->header_len = FRAG_HEADER;
        return;
    default: return;
    }
    scan_control(&(struct pt_etf){p + out->header_len, p + n}, out);
}

void pt_packet_scan_next(struct pt_packet_memo *memo, const uint8_t *p, size_t avail, size_t total,
                         struct pt_packet *out)
{
    size_t n = memo->pk.looked_at;
    if (PT_LIKELY(n && PT_MIN(avail, total) >= n && !memcmp(p, memo->bytes, n))) {
        *out = memo->pk;
        return;
    }
    pt_packet_scan(p, avail, total, out);
    n = out->looked_at;
    if (n && n <= sizeof memo->bytes && out->form == PT_FORM_WHOLE) {
        memcpy(memo->bytes, p, n);
        memo->pk = *out;
    }
}

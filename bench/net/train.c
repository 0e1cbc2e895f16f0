#include "train.h"

struct plan {
    struct ptn_counts *counts;
    bool (*emit)(void *, const struct ptn_run *);
    void *ctx;
    struct ptn_run open;
    uint64_t open_first_due;
};

static void out(struct plan *p, const struct ptn_run *r)
{
    if (!p->emit(p->ctx, r))
        p->counts->memory += r->count;
}

static void close_run(struct plan *p)
{
    if (p->open.count)
        out(p, &p->open);
    p->open.count = 0;
}

static void dropped(struct ptn_counts *c, enum ptn_fate fate)
{
    switch (fate) {
    case PTN_LOST: c->lost++; break;
    case PTN_BURST: c->lost_burst++; break;
    case PTN_FULL: c->full++; break;
    case PTN_NO_MEMORY: c->memory++; break;
    case PTN_PASS: break;
    }
}

void ptn_train_plan(struct ptn_link *l, struct ptn_counts *c, uint64_t now, const struct ptn_pkt *k,
                    uint64_t quantum, bool (*emit)(void *ctx, const struct ptn_run *r), void *ctx)
{
    struct plan p = {.counts = c, .emit = emit, .ctx = ctx};

    ptn_link_train(l, now);
    for (uint32_t i = 0; i < k->segments; i++) {
        uint32_t bytes = ptn_pkt_wire(k, i);
        struct ptn_verdict v = ptn_link_offer(l, now, bytes);
        c->offered++;
        c->offered_bytes += bytes;
        if (v.fate != PTN_PASS) {
            dropped(c, v.fate);
            close_run(&p);
            continue;
        }
        bool alone = v.twice || v.overtaken;
        if (alone || !p.open.count || v.due > p.open_first_due + quantum) {
            close_run(&p);
            p.open = (struct ptn_run){.first = i};
            p.open_first_due = v.due;
        }
        p.open.count++;
        p.open.due = v.due;
        c->overtaken += v.overtaken;
        if (alone) {
            struct ptn_run copy = p.open;
            close_run(&p);
            if (v.twice) {
                c->duplicated++;
                out(&p, &copy);
            }
        }
    }
    close_run(&p);
}

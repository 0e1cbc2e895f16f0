#include "proto/transfer.h"

#include <string.h>

static int claim_range(struct pt_transfer *t, uint64_t from, uint64_t to)
{
    unsigned i = 0;
    if (from == to)
        return 0;
    while (i < t->stretches && t->claimed[i].to < from)
        i++;
    /* claimed[i] is the first that ends at or behind `from` */
    bool joins_left = i < t->stretches && t->claimed[i].to == from;
    unsigned right = joins_left ? i + 1 : i;
    if (right < t->stretches && t->claimed[right].from < to)
        return PT_E_BAD_TRANSFER;
    bool joins_right = right < t->stretches && t->claimed[right].from == to;

    if (joins_left && joins_right) {
        t->claimed[i].to = t->claimed[right].to;
        t->stretches--;
        memmove(&t->claimed[right], &t->claimed[right + 1],
                (t->stretches - right) * sizeof t->claimed[0]);
    } else if (joins_left) {
        t->claimed[i].to = to;
    } else if (joins_right) {
        t->claimed[right].from = from;
    } else {
        if (t->stretches == PT_TRANSFER_STRETCHES)
            return PT_E_BAD_TRANSFER;
        memmove(&t->claimed[i + 1], &t->claimed[i], (t->stretches - i) * sizeof t->claimed[0]);
        t->claimed[i].from = from;
        t->claimed[i].to = to;
        t->stretches++;
    }
    return 0;
}

int pt_transfer_claim(struct pt_transfer *t, const struct pt_frame *f)
{
    uint64_t end = f->offset + f->length;
    if (f->type == PT_FRAME_LAST) {
        if (t->last_seen || (t->stretches && t->claimed[t->stretches - 1].to > end))
            return PT_E_BAD_TRANSFER;
        t->last_seen = true;
        t->total = end;
        t->number = f->number;
        t->after = f->after;
        t->fence = f->flags & PT_FRAME_FENCE;
    } else if (t->last_seen && end > t->total) {
        return PT_E_BAD_TRANSFER;
    }
    return claim_range(t, f->offset, end);
}

bool pt_transfer_arrived(struct pt_transfer *t, size_t len)
{
    t->got += len;
    return t->last_seen && t->got == t->total;
}

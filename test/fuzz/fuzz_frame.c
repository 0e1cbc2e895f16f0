/* Frame headers from arbitrary bytes: no read beyond the input, a refused frame changes nothing,
 * an accepted one survives being encoded again. The first byte chooses what number is expected. */
#include "proto/frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool cond)
{
    if (!cond)
        abort();
}

static void check_again(const struct pt_frame *f, uint64_t expected, int head)
{
    uint8_t out[PT_FRAME_HEAD_MAX];
    struct pt_frame_ctx tx = {expected}, rx = {expected};
    struct pt_frame g;

    if (f->type > PT_FRAME_AUTH)
        return;
    size_t n = pt_frame_encode(out, f, &tx);
    must(n <= (size_t)head);
    must(pt_frame_decode(out, n, &g, &rx) == (int)n);
    must(tx.number == rx.number);
    must(g.type == f->type && g.flags == f->flags && g.length == f->length);
    must(g.number == f->number && g.after == f->after);
    must(g.transfer == f->transfer && g.room == f->room && g.offset == f->offset);
    for (size_t cut = 0; cut < n; cut++) {
        rx.number = expected;
        must(pt_frame_decode(out, cut, &g, &rx) == PT_E_MORE && rx.number == expected);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t expected[] = {1, 2, 127, 1000000, UINT64_MAX - 1, UINT64_MAX, 0};
    struct pt_frame_ctx ctx = {1};

    if (!size)
        return 0;
    ctx.number = expected[*data % (sizeof expected / sizeof expected[0])];
    data++;
    size--;
    while (size) {
        struct pt_frame f;
        uint64_t before = ctx.number;
        int head = pt_frame_decode(data, size, &f, &ctx);
        must(head != 0);
        if (head < 0) {
            must(ctx.number == before);
            must(head != PT_E_MORE || size < PT_FRAME_HEAD_MAX);
            return 0;
        }
        must((size_t)head <= size && head <= PT_FRAME_HEAD_MAX);
        must(f.length <= PT_FRAME_CHUNK_MAX);
        if (f.type == PT_FRAME_MSG || f.type == PT_FRAME_LAST)
            must(f.number && f.after < f.number && ctx.number == f.number + 1);
        if (f.type == PT_FRAME_PART || f.type == PT_FRAME_LAST)
            must(f.transfer && f.offset + f.length <= f.room);
        check_again(&f, before, head);
        data += head;
        size -= (size_t)head;
    }
    return 0;
}

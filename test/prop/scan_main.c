/* pt_packet_scan() as an Erlang port ({packet, 4}), for property tests.
 *
 * Request: Total:64, then the bytes that are seen of a packet of that size.
 * Answer:  Form:8 Order:8 Op:8 Atoms:8 Cut:8 Key:64 SeqId:64 FragId:64 HeaderLen:32, then the
 *          operation's name.
 * Ends with 0 when its input ends between requests.
 */
#include "proto/dop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUEST_HEAD = 8, ANSWER_HEAD = 5 + 3 * 8 + 4 };

static void fail(const char *what)
{
    fprintf(stderr, "scan_main: %s\n", what);
    exit(2);
}

static uint8_t *block(size_t size)
{
    uint8_t *p = malloc(size);
    if (!p)
        fail("out of memory");
    return p;
}

static void answer(const uint8_t *request, size_t size)
{
    size_t avail = size - REQUEST_HEAD;
    /* A copy that ends where its block ends, even if empty: the address sanitizer then sees the
     * first byte read beyond it. */
    uint8_t *copy = block(1 + avail);
    memcpy(copy + 1, request + REQUEST_HEAD, avail);
    struct pt_packet pkt;
    pt_packet_scan(copy + 1, avail, (size_t)pt_get64(request), &pkt);
    free(copy);

    const char *name = pt_dop_name(pkt.op);
    uint8_t out[4 + ANSWER_HEAD];
    pt_put32(out, (uint32_t)(ANSWER_HEAD + strlen(name)));
    out[4] = (uint8_t)pkt.form;
    out[5] = (uint8_t)pkt.order;
    out[6] = pkt.op;
    out[7] = pkt.atoms;
    out[8] = pkt.cut;
    pt_put64(out + 9, pkt.key);
    pt_put64(out + 17, pkt.seq_id);
    pt_put64(out + 25, pkt.frag_id);
    pt_put32(out + 33, (uint32_t)pkt.header_len);
    if (fwrite(out, sizeof out, 1, stdout) != 1 || fputs(name, stdout) == EOF || fflush(stdout))
        fail("cannot write the answer");
}

int main(void)
{
    uint8_t len[4];

    while (fread(len, 1, sizeof len, stdin) == sizeof len) {
        size_t size = pt_get32(len);
        if (size < REQUEST_HEAD)
            fail("request too short");
        uint8_t *request = block(size);
        if (fread(request, 1, size, stdin) != size)
            fail("input ends inside a request");
        answer(request, size);
        free(request);
    }
    return 0;
}

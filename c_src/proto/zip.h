/* A compressed message of a channel: 'z', its size when inflated (32 bits), a zlib stream. Messages
 * that are not compressed start with 131. Pure.
 *
 * The receiving side inflates, because the VM does not: it takes the compressed form of the external
 * format (131 80) at the top of a term only, never inside a distribution packet.
 */
#ifndef PT_PROTO_ZIP_H
#define PT_PROTO_ZIP_H

#include "base/pt.h"

enum {
    PT_ZIP_TAG = 'z',
    PT_ZIP_HEAD = 5,
    /* Inflating holds up everything else from that peer: some 50 ms for this much. */
    PT_ZIP_MAX = 16 * 1024 * 1024,
};

/* The inflated size of the message at p: > 0; or PT_E_BAD_FRAME (no such message, or a size of 0),
 * PT_E_TOO_LARGE (more than PT_ZIP_MAX or max). */
int64_t pt_zip_size(const uint8_t *p, size_t len, uint64_t max);
/* Inflates it to out, `size` bytes by pt_zip_size(): no more is ever written. 0; PT_E_BAD_FRAME if it
 * does not inflate to exactly that; -ENOMEM. */
int pt_zip_inflate(const uint8_t *p, size_t len, uint8_t *out, size_t size);

#endif

/* Frames: what travels on a lane. docs/wire-protocol.md is the specification.
 *
 *   byte 0   7 6 5 4   3 2 1 0
 *            | | | |   +-+-+-+-- type
 *            | | | +-- FENCE: deliver only after every message with a lower number
 *            | | +---- BARE: the payload's first two bytes, 131 68, are left out, and the atom
 *            | |       references that follow them are relative to the lane (proto/atoms.h)
 *            | +------ reserved, 0
 *            +-------- SKIP: unknown types with this bit carry a length and may be skipped
 *
 *   TICK                                                          keeps the connection alive
 *   MSG   number, after, length, payload                          a whole message
 *   PART  transfer, room, offset, length, payload                 a chunk of a larger one
 *   LAST  transfer, room, offset, length, number, after, payload  its final chunk, room = total
 *   DROP  transfer                                                the transfer will not be finished
 *   ACK   watermark                                               everything up to it is delivered
 *   AUTH  32 bytes                                                first frame of lane 0
 *   END   watermark, streams                                      nothing more will be sent; SKIP
 *
 * Integers are LEB128, at most ten bytes. `number` is the zigzag difference to the number that
 * follows the last one on the same lane; `after` is the distance back to the predecessor, 0 for
 * none. A number belongs to a message when its last byte is emitted, so an unfinished transfer
 * holds nothing up.
 */
#ifndef PT_PROTO_FRAME_H
#define PT_PROTO_FRAME_H

#include "proto/atoms.h"

enum pt_frame_type {
    PT_FRAME_TICK = 0,
    PT_FRAME_MSG = 1,
    PT_FRAME_PART = 2,
    PT_FRAME_LAST = 3,
    PT_FRAME_DROP = 4,
    PT_FRAME_ACK = 5,
    PT_FRAME_AUTH = 6,
    PT_FRAME_END = 7, /* only with SKIP, so that who does not know it goes on without */
};

enum {
    PT_FRAME_TYPE_MASK = 0x0f,
    PT_FRAME_FENCE = 0x10,
    PT_FRAME_BARE = 0x20,
    PT_FRAME_RESERVED = 0x40,
    PT_FRAME_SKIP = 0x80,

    PT_FRAME_AUTH_LEN = 32,
    PT_FRAME_HEAD_MAX = 1 + 6 * 10,  /* type and six integers */
    PT_FRAME_SINGLE_MAX = 64 * 1024, /* longest payload of a MSG, a BARE one's section aside */
    PT_FRAME_SECTION_MAX = PT_ATOM_SECTION_MAX, /* longest section of a BARE MSG, all NEW */
    PT_FRAME_CHUNK_MAX = 1024 * 1024            /* longest payload of a PART or LAST */
};
_Static_assert(PT_FRAME_AUTH_LEN < PT_FRAME_HEAD_MAX, "an AUTH frame fits a header buffer");

struct pt_frame {
    uint8_t type;
    uint8_t flags;   /* PT_FRAME_FENCE | PT_FRAME_BARE */
    uint64_t number; /* MSG, LAST; from 1 */
    uint64_t after;  /* MSG, LAST: predecessor's number, 0 = none; ACK, END: watermark */
    uint64_t transfer;
    uint64_t room; /* END: streams */
    uint64_t offset;
    size_t length;       /* payload bytes that follow the header */
    const uint8_t *auth; /* AUTH: 32 bytes inside the input */
};

/* Per lane and direction. Zero-initialise, then number = 1. */
struct pt_frame_ctx {
    uint64_t number; /* the number expected next */
};

/* Writes the header to out (PT_FRAME_HEAD_MAX bytes); returns its length. Payload follows it. */
size_t pt_frame_encode(uint8_t *out, const struct pt_frame *f, struct pt_frame_ctx *ctx);

/* Reads one header from [p, p+avail). Returns its length (> 0), PT_E_MORE if the header is not
 * complete (ctx untouched), or another PT_E_*. A skippable frame of unknown type comes back with
 * its type and length; skip the payload. */
int pt_frame_decode(const uint8_t *p, size_t avail, struct pt_frame *f, struct pt_frame_ctx *ctx);

#endif

/* Assembly of one message from its chunks, which may come over several lanes and in any order. */
#ifndef PT_PROTO_TRANSFER_H
#define PT_PROTO_TRANSFER_H

#include "proto/frame.h"

/* Disjoint stretches a message is known in. A lane that stands still leaves a hole for each chunk in
 * its sockets' buffers, so the bound follows what those hold: 15 lanes of 12 MB in chunks of 256 KB
 * make 720. */
enum { PT_TRANSFER_STRETCHES = 1024 };

struct pt_transfer {
    uint64_t id;
    void *bin; /* room bytes */
    uint64_t room;
    uint64_t got; /* bytes that arrived */
    /* from the final chunk */
    uint64_t total; /* 0 until then */
    uint64_t number, after;
    bool fence, last_seen;
    unsigned under_way; /* lanes that are reading a chunk of it now */
    unsigned stretches; /* sorted, disjoint, not adjacent; what is claimed, arrived or under way */
    struct {
        uint64_t from, to;
    } claimed[PT_TRANSFER_STRETCHES];
};

/* Claims the bytes of a chunk (PART or LAST): 0, or PT_E_BAD_TRANSFER if it overlaps what came
 * before or contradicts the final chunk. The caller makes room for f->room bytes first. */
int pt_transfer_claim(struct pt_transfer *t, const struct pt_frame *f);
/* A claimed chunk of `len` bytes arrived whole; true if the message is complete now. */
bool pt_transfer_arrived(struct pt_transfer *t, size_t len);

#endif

/* Between rx.c (session: order, transfers) and rx_lane.c (bytes of one lane). */
#ifndef PT_PROTO_RX_INT_H
#define PT_PROTO_RX_INT_H

#include "proto/rx.h"
#include "proto/transfer.h"

/* Hands over the small packets collected so far. */
int pt_rx_flush_group(struct pt_rx *r);
/* A whole packet: delivered now or held. References: takes its own. */
int pt_rx_packet(struct pt_rx *r, const struct pt_frame *f, void *bin, const uint8_t *p,
                 size_t len);
/* The same for a packet whose header is still to be written: `bytes` are what follows the section. */
struct pt_bare {
    void *bin; /* the bytes lie in it and may be delivered there; NULL: copy them */
    uint8_t *bytes;
    size_t len;
    size_t room;            /* bytes before them that may be overwritten */
    const uint8_t *section; /* as it came, the end of that room */
    size_t section_len;
};
int pt_rx_bare(struct pt_rx *r, struct pt_rx_lane *l, const struct pt_frame *f,
               const struct pt_atom_refs *refs, const struct pt_bare *b);
/* Its section is the one the lane remembers. 1: done; 0: not delivered now, or no room: the long way. */
int pt_rx_known(struct pt_rx *r, const struct pt_rx_lane *l, const struct pt_frame *f,
                const struct pt_bare *b);
/* Finds or makes the transfer of a chunk and claims its bytes. */
int pt_rx_transfer(struct pt_rx *r, const struct pt_frame *f, struct pt_transfer **out);
/* The claimed chunk arrived whole; t may be gone afterwards. */
int pt_rx_chunk_arrived(struct pt_rx *r, struct pt_transfer *t, size_t len);
int pt_rx_drop(struct pt_rx *r, uint64_t id);

#endif

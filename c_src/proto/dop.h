/* What a distribution packet is and who sent it, read from its first bytes.
 *
 * Input is one packet as the VM hands it to a driver (no 4-byte length), possibly scattered; the
 * caller gathers at least the first PT_DOP_PEEK bytes (or the whole packet if shorter).
 * Formats: OTP erts/doc erl_ext_dist "Distribution Header" and erl_dist_protocol; evidence in
 * docs/ordering.md. Pure: no allocation, no system call; never reads beyond `len`.
 */
#ifndef PT_PROTO_DOP_H
#define PT_PROTO_DOP_H

#include "base/pt.h"

/* Enough to reach the sender in every known operation: control tuples put it within the first
 * three elements, except SPAWN_REPLY, whose Result comes after a reference, a pid and flags. An
 * atom takes at most 1020+3 bytes (255 UTF-8 characters), node atoms occur up to three times. */
#define PT_DOP_PEEK 4096

enum pt_packet_form {
    PT_FORM_TICK,       /* empty */
    PT_FORM_WHOLE,      /* 131 68 0 Ctl [Msg]: header without atom cache references */
    PT_FORM_FRAG_FIRST, /* 131 69 SeqId FragId 0 Ctl Msg-part */
    PT_FORM_FRAG_NEXT,  /* 131 70 SeqId FragId Msg-part */
    PT_FORM_OTHER,      /* anything else: pass through untouched, fenced. So are headers with
                           atom cache references, and a fragment's 0 as SeqId or FragId */
};

enum pt_order {
    PT_ORDER_SENDER,     /* follows and leads the sender in `key` */
    PT_ORDER_FREE,       /* no order owed (SPAWN_REPLY with an error atom, a tick) */
    PT_ORDER_HALF_FENCE, /* after everything before it (DOWN for a monitor by name) */
    PT_ORDER_FENCE,      /* that, and everything after it follows it */
};

struct pt_packet {
    enum pt_packet_form form;
    enum pt_order order;
    uint8_t op; /* DOP number, 0 if unknown or not parsed */
    /* Identifies the sender: not 0 with PT_ORDER_SENDER, else 0. A hash: two senders with one key
     * are merely ordered with each other. 0 in FRAG_NEXT too: its order is its sequence's. */
    uint64_t key;
    uint64_t seq_id; /* fragments: sequence and countdown (N .. 1) */
    uint64_t frag_id;
    size_t atoms_at;   /* WHOLE, FRAG_FIRST: where the section of atom references is (atoms.h) */
    uint8_t atoms;     /* how many it has */
    bool cut;          /* OTHER because `avail` ends inside the section: show more */
    size_t header_len; /* bytes before Ctl (WHOLE, FRAG_FIRST) or before the part (FRAG_NEXT) */
    size_t looked_at;  /* with PT_ORDER_SENDER: nothing behind these bytes was looked at, else 0 */
};

/* Fills *out from the first `avail` bytes of a packet of `total` bytes. Cannot fail: what is not
 * understood is PT_FORM_OTHER or PT_ORDER_FENCE. Only what precedes the sender is read; the rest
 * of the control tuple and the message are the receiving VM's to judge. Any thread. */
void pt_packet_scan(const uint8_t *p, size_t avail, size_t total, struct pt_packet *out);

/* The front of the last packet that was understood: a sender's next message to anybody in the same
 * process begins with the same bytes. Zero-initialise. */
struct pt_packet_memo {
    uint8_t bytes[64];
    struct pt_packet pk;
};
/* The same as pt_packet_scan(). */
void pt_packet_scan_next(struct pt_packet_memo *memo, const uint8_t *p, size_t avail, size_t total,
                         struct pt_packet *out);

/* Name of an operation for statistics ("SEND_SENDER"), "UNKNOWN" if it has none. */
const char *pt_dop_name(uint8_t op);

#endif

/* Two ends of a session in memory: a transmit queue and a receiver each, lanes as byte pipes that
 * stall and cut at will, and an oracle that knows what each end was asked to send and judges every
 * delivery by the rules of docs/ordering.md, not by the numbers on the wire.
 */
#ifndef PT_TEST_SUPPORT_SESSION_H
#define PT_TEST_SUPPORT_SESSION_H

#include "support.h"

#include "proto/batch.h"
#include "proto/rx.h"

enum { SIM_LANES = 8, SIM_OPEN = 6, SIM_TINY = 8, SIM_MAX_SIZE = 16 * 1024 * 1024 };

/* ---- the oracle of one direction ---- */

struct sim_record {
    uint32_t size;
    uint8_t kind;
    bool bare, delivered;
    uint64_t index;        /* place in the order of submission, from 1; 0 = not submitted */
    uint64_t before;       /* id of the same flow's message before it, 0 = none */
    uint64_t fence_before; /* id of the last full fence before it, 0 = none */
    uint64_t atoms;        /* digest of the texts its references mean */
};

/* The atom cache of a VM as the protocol documents it, apart from the code under test. */
enum { SIM_ATOM_TEXT = 300 };
struct sim_cache {
    struct {
        uint16_t len;
        bool filled;
        uint8_t text[SIM_ATOM_TEXT];
    } slot[2048];
};
/* Reads a section: its length, or 0 if it is malformed or refers to an empty slot. */
size_t sim_cache_read(struct sim_cache *c, const uint8_t *p, size_t len, uint64_t *digest);

struct sim_oracle {
    struct sim_record *records; /* by id, from 1 */
    uint64_t *order;            /* ids by index */
    uint64_t ids, capacity, submitted, delivered;
    uint64_t low; /* lowest index not delivered */
    uint64_t flow_last[64], fence_last;
    char violation[160];    /* the first one */
    struct sim_cache *told; /* what the receiving VM knows */
};

void sim_oracle_free(struct sim_oracle *o);
uint64_t sim_oracle_id(struct sim_oracle *o, size_t size, enum pt_order kind, bool bare);
void sim_oracle_submit(struct sim_oracle *o, uint64_t id, uint64_t key);
void sim_oracle_deliver(struct sim_oracle *o, const uint8_t *p, size_t len);
/* The bytes from..from+n of the message of `size` bytes; below SIM_TINY bytes it has no identity. */
void sim_bytes(uint8_t *out, uint64_t id, size_t size, size_t from, size_t n);

/* ---- the ends ---- */

struct sim_pipe {
    uint8_t *at;
    size_t start, end, limit;
};

struct sim_open {
    struct pt_msg *msg;
    uint64_t id, key;
    size_t total;
};

struct sim;
struct sim_end {
    struct sim *sim;
    struct sim_end *peer;
    struct pt_txq q;
    struct pt_batch *batch[SIM_LANES];
    struct sim_pipe pipe[SIM_LANES]; /* what it sent and the peer has not read */
    bool tx_stalled[SIM_LANES], rx_stalled[SIM_LANES];
    struct pt_rx rx;
    struct pt_rx_lane lane[SIM_LANES];
    uint64_t ack_value, ack_sent;
    uint64_t passed; /* messages that took the short way */
    bool ack_now;
    struct sim_oracle sent;
    struct sim_cache *cache; /* the sending VM's, and what the driver made of it */
    struct pt_atom_table atoms;
    struct sim_open open[SIM_OPEN];
    unsigned nopen;
    uint64_t speculative_held_peak; /* most bytes held, the largest message apart */
};

struct sim {
    struct sim_rng_holder {
        uint64_t seed;
        struct sup_rng rng;
    } r;
    struct sim_end end[2];
    unsigned lanes;
    bool any_lane;      /* every lane takes everything, else as the driver wants it */
    bool acks_when_due; /* no acknowledgement but those that pt_rx_ack_due() asks for */
    bool expect_errors; /* injected failures: a negative code ends the run, quietly */
    bool refill;        /* and a batch that could not be filled is tried again */
    size_t chunk;
    int error;
};

void sim_init(struct sim *s, uint64_t seed, unsigned lanes);
void sim_free(struct sim *s); /* in any state; everything must be gone afterwards */
void sim_attach(struct sim *s);

/* A whole message; its id (0: out of memory). */
uint64_t sim_send(struct sim_end *e, enum pt_order kind, uint64_t key, size_t size, bool bare);
/* Opens a message that will have `total` bytes, of which `now` are there. */
bool sim_open_message(struct sim_end *e, enum pt_order kind, uint64_t key, size_t total,
                      size_t now);
bool sim_grow(struct sim_end *e, unsigned which, size_t by);
bool sim_finish(struct sim_end *e, unsigned which); /* the rest is added first */

/* Moves at most n bytes; how many. */
size_t sim_pump_tx(struct sim_end *e, unsigned lane, size_t n);
size_t sim_pump_rx(struct sim_end *e, unsigned lane, size_t n);
/* Runs the lanes that are not stalled until nothing moves. Fails the test on any error. */
void sim_settle(struct sim *s);
/* Everything submitted came out at the other end, and nothing is left anywhere but in messages
 * that are open still. */
void sim_check_done(struct sim *s);
/* Fails the test if the oracle saw a violation or an end reported an error. */
void sim_check(struct sim *s);

#endif

/* One direction of a link: a transmitter of a certain rate with a queue before it, then a wire with
 * delay, jitter, loss, reordering and duplication. Pure: time comes in as an argument.
 *
 * A segment that finds the queue full is dropped (tail drop). Loss is on the wire, behind the
 * transmitter: a lost segment has taken its share of the rate, as on a real link. */
#ifndef PTN_LINK_H
#define PTN_LINK_H

#include "rng.h"

#include <stddef.h>

enum ptn_jitter { PTN_JITTER_UNIFORM, PTN_JITTER_NORMAL };

struct ptn_link_conf {
    uint64_t delay;  /* ns */
    uint64_t jitter; /* ns: half width of the uniform one, deviation of the normal one */
    enum ptn_jitter jitter_is;
    uint64_t rate;          /* bit/s; 0 = no limit, and no queue */
    uint64_t queue_bytes;   /* 0 = no limit in bytes */
    uint32_t queue_packets; /* 0 = no limit in packets */
    double loss;            /* of each segment, independent */
    double to_bad,
        to_good; /* Gilbert-Elliott: chances of a change at each segment, to_bad 0 = off */
    double bad_loss, good_loss;
    double duplicate;
    double reorder;      /* chance of a segment to arrive reorder_by later, behind others */
    uint64_t reorder_by; /* ns */
};

struct ptn_slot { /* a segment in the queue or being sent */
    uint64_t gone;
    uint32_t bytes;
};

struct ptn_link {
    struct ptn_link_conf conf;
    struct ptn_rng rng;
    uint64_t free_at;      /* when the transmitter has sent all it took */
    uint64_t rest;         /* of the division by the rate, so that rounding does not add up */
    uint64_t last_due;     /* the wire keeps the order */
    int64_t jitter;        /* of the present train */
    bool bad;              /* state of the Gilbert-Elliott model */
    struct ptn_slot *slot; /* ring, mask + 1 places */
    uint32_t mask, head, count;
    uint64_t queued; /* bytes in the ring */
    uint64_t peak_bytes, peak_packets;
};

enum ptn_fate { PTN_PASS, PTN_LOST, PTN_BURST, PTN_FULL, PTN_NO_MEMORY };

struct ptn_verdict {
    enum ptn_fate fate;
    uint64_t due;   /* ns, if it passes */
    bool twice;     /* a copy arrives right behind */
    bool overtaken; /* sent late on purpose: keeps no order with others */
};

void ptn_link_init(struct ptn_link *l, uint64_t seed);
void ptn_link_free(struct ptn_link *l);
/* New values; what is queued keeps its times. */
void ptn_link_configure(struct ptn_link *l, const struct ptn_link_conf *c);

/* A train begins at `now`: its segments share one jitter, since they left the sender together. */
void ptn_link_train(struct ptn_link *l, uint64_t now);
struct ptn_verdict ptn_link_offer(struct ptn_link *l, uint64_t now, uint32_t bytes);

/* Gilbert-Elliott with every segment lost in the bad state, from what is measured: the share of
 * segments lost and the mean length of a burst. */
void ptn_link_burst(struct ptn_link_conf *c, double loss, double length);

#endif

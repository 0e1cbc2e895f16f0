/* Relay: messages that neighbours pass on, from the channel they came on to the next one's, on the
 * scheduler that read them. The VM sees those that are for this node.
 *
 * Erlang hands over a table (nif_relay.c): this node's name, the relay channels of its neighbours, and
 * which neighbours lead where. It is never changed, only replaced, and whoever uses it holds a
 * reference: a table keeps its channels, and a channel that is gone says so when it is sent on.
 *
 * A neighbour has several relay channels: a common one, and one for each of the user's channels that
 * messages were relayed on. Their names are the classes. A message stays in the class of the channel
 * it came on.
 *
 * Locks: the relay lock guards which table is current, what was seen, and what Erlang was handed; it
 * is held for some instructions and the handing over of a message, and no other lock of ours is taken
 * under it. A message is passed on with the port lock of the peer it came from, and takes the lock of
 * the next channel: never two channels'. No port lock is taken under a channel's, so two peers that
 * pass messages to each other cannot meet.
 */
#ifndef PT_VM_RELAY_H
#define PT_VM_RELAY_H

#include "proto/relay.h"
#include "vm/chan.h"

enum pt_relay_count {
    PT_RELAY_SENT,      /* by processes of this node, to the first relay */
    PT_RELAY_PASSED,    /* from neighbour to neighbour */
    PT_RELAY_DELIVERED, /* to the VM */
    PT_RELAY_HANDED,    /* to Erlang: the next neighbour has no relay channel (yet) */
    PT_RELAY_DOUBLED,   /* not delivered a second time */
    /* dropped: */
    PT_RELAY_NO_ROUTE,
    PT_RELAY_NO_HOPS,
    PT_RELAY_OVERRUN,   /* the next neighbour's channel is full, or Erlang is behind */
    PT_RELAY_MALFORMED, /* or none that this version knows */
    PT_RELAY_CLOSING,   /* for this node, on a connection that it is closing */
    PT_RELAY_COUNTS
};

struct pt_relay_table;

struct pt_relay_name {
    const uint8_t *p;
    size_t len;
};

/* What a table is made of; everything is copied, and references are taken on the channels. */
struct pt_relay_parts {
    struct pt_relay_name self;
    const struct pt_relay_name *classes; /* the common one first; PT_CHAN_NAME_MAX at most */
    unsigned nclasses;                   /* > 0 */
    /* Of each hop one for each class. NULL: it has to be opened yet. The first is never NULL; where it
     * is also that of another class, it stands in: the neighbour does not have that class. */
    struct pt_chan *const *chans;
    unsigned nhops;
    struct pt_relay_name routes; /* as pt_routes_new() has it */
};

/* 0, -ENOMEM, PT_E_BAD_FRAME. */
int pt_relay_table_new(struct pt_relay_table **out, const struct pt_relay_parts *parts);
/* From now on this table. Owner: who is handed what only Erlang can pass on, and told of losses. A new
 * owner has been handed nothing. -EAGAIN: it was handed messages that it has not taken yet, which what
 * comes from now on would overtake; never if `force`. Takes t, if it returns 0. */
int pt_relay_table_set(struct pt_relay_table *t, const ErlNifPid *owner, uint64_t origin,
                       bool force);
void pt_relay_table_free(struct pt_relay_table *t); /* one that was not set */
/* The owner took one message that it was handed. */
void pt_relay_taken(void);

/* A message of this node. `make` builds it behind the envelope it is given; called once at most. */
struct pt_relay_send {
    struct pt_relay_name to;
    struct pt_relay_name class;
    bool only; /* no other channel may stand in at the first hop */
    unsigned hops;
    uint64_t sender;
    bool keyed; /* with a partition key, whose hash is: */
    uint32_t partition;
    struct pt_chan_wait wait;
    struct pt_msg *(*make)(struct pt_relay_send *s, const uint8_t *envelope, size_t len);
    /* out, of PT_CHAN_BUSY: the channel that is full, a reference; and what cancels the wait */
    struct pt_chan *via;
    uint64_t id;
    size_t size;
};
enum { PT_RELAY_UNKNOWN = PT_CHAN_CLOSED + 1 };

/* PT_CHAN_SENT, PT_CHAN_BUSY; PT_CHAN_CLOSED: there is no way that C knows, or its channel has to be
 * opened; PT_RELAY_UNKNOWN: `only`, and the first neighbour does not have that class; -ENOMEM. Any
 * thread. */
int pt_relay_send(struct pt_relay_send *s);

/* Port lock. A message on a relay channel: delivered, passed on, handed to Erlang, or dropped and
 * counted. 0, or what pt_rx_to_vm() said. */
int pt_relay_packet(struct pt_chan *from, void *bin, const uint8_t *p, size_t len);
/* The same for one that Erlang was handed, over this channel and no other. PT_CHAN_*, -ENOMEM, or
 * PT_E_BAD_FRAME. */
int pt_relay_hand_on(struct pt_chan *to, const uint8_t *p, size_t len);

uint64_t pt_relay_counter(enum pt_relay_count what);
const char *pt_relay_counter_name(enum pt_relay_count what);
size_t pt_relay_routes(void); /* entries of the current table */

#endif

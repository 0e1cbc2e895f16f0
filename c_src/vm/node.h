/* What there is once a node: options, the list of peers. */
#ifndef PT_VM_NODE_H
#define PT_VM_NODE_H

#include "base/list.h"
#include "io/loop.h"
#include "io/sock.h"

#include <pthread.h>
#include <stdatomic.h>

struct pt_node {
    /* constant after pt_node_start() */
    struct pt_sock_opts sock;
    char congestion[32];
    unsigned flush_timeout_ms; /* no byte leaves for so long: a closing port gives up */
    uint64_t ram;              /* bytes; at first the machine's */
    uint64_t max_queue;        /* bytes over all streams */
    bool break_order;          /* PARTISAN_TEST_BREAK_ORDER: mutation for the order tests */
    /* lock */
    pthread_mutex_t lock;
    struct pt_list peers; /* struct pt_peer.node_link */
    bool started;
    int start_result;
    /* any thread */
    atomic_uint_fast64_t sessions_total;
    atomic_int_fast64_t queued_lumps, queuing; /* cap.c: their sum, and streams with any */
};

extern struct pt_node pt_node;

struct pt_node_opts {
    enum pt_backend_wish backend;
    unsigned loops; /* loop threads; 0 is 1 */
    unsigned notsent_lowat, user_timeout_ms, flush_timeout_ms;
    uint64_t max_queue;     /* 0: no limit */
    uint64_t ram;           /* 0: the machine's */
    const char *congestion; /* "" = the system's */
};

uint64_t pt_now_ns(void); /* monotonic */
void pt_node_init(void);  /* when the object is loaded; idempotent */
/* Starts the loops, once a VM: later calls return the first result. 0 or -errno; the words are in
 * pt_loops_info() either way. */
int pt_node_start(const struct pt_node_opts *opts);

#endif

/* The emulator at work: reads packets from the devices, sends them through the links, delivers what
 * is due. One thread. */
#ifndef PTN_ENGINE_H
#define PTN_ENGINE_H

#include "flow.h"
#include "heap.h"
#include "ns.h"
#include "train.h"

/* A delivery this much behind its time is counted as late. */
enum { PTN_LATE_NS = 100 * 1000, PTN_LATE_BUCKETS = 40, PTN_PORTS_MAX = 16 };

struct ptn_timing {
    uint64_t runs;                     /* deliveries */
    uint64_t late, max;                /* more than PTN_LATE_NS; ns */
    uint64_t bucket[PTN_LATE_BUCKETS]; /* by the power of two of ns */
    uint64_t since, cpu_since;         /* when counting began, ns */
    uint64_t windows, full_windows;    /* of 100 ms; those in which it hardly slept */
    uint64_t starved_windows;          /* in which it waited for a CPU, PTN_LATE_NS each time */
};

struct ptn_path { /* a link in one direction, and what is known of it */
    struct ptn_link link;
    struct ptn_counts n;
    bool cut;
    uint32_t epoch; /* what was on its way when it was cut is gone */
};

struct ptn_buf;

struct ptn_engine {
    unsigned count;
    struct ptn_node node[PTN_NODES_MAX];
    uint64_t drops_before[PTN_NODES_MAX]; /* of the device, when counting began */
    struct ptn_path *path;                /* [from * count + to] */
    struct ptn_sched sched;
    struct ptn_flows flows;
    uint16_t blocked[PTN_PORTS_MAX]; /* TCP ports; 0 is a free place */
    uint64_t quantum, spin;          /* ns */
    uint64_t memory, memory_max;     /* bytes in buffers */
    struct ptn_buf *free_bufs;
    struct ptn_big *free_bigs;
    struct ptn_buf *spare; /* for the next read */
    struct ptn_timing timing;
    uint64_t strange, nowhere, resets; /* not IP; no node has the address; forged */
    uint64_t window_start, window_idle;
    int schedstat;          /* how long this thread waited for a CPU; -1: not to be had */
    uint64_t waited, wakes; /* as it said last */
    bool realtime;          /* runs before ordinary processes */
};

int ptn_engine_start(struct ptn_engine *e, uint64_t seed, char *err);
void ptn_engine_free(struct ptn_engine *e);

static inline struct ptn_path *ptn_engine_path(struct ptn_engine *e, unsigned from, unsigned to)
{
    return &e->path[from * e->count + to];
}

uint64_t ptn_now(void); /* CLOCK_MONOTONIC, ns */

/* One turn: delivers, reads, delivers; sleeps until something is due or can be read, or another
 * descriptor of `fds` is ready. The first `count` places of fds are the engine's. 0 or -errno. */
struct pollfd;
int ptn_engine_turn(struct ptn_engine *e, struct pollfd *fds, unsigned nfds);

/* Commands. */
void ptn_engine_cut(struct ptn_engine *e, unsigned from, unsigned to, bool cut);
void ptn_engine_rule(struct ptn_engine *e, struct ptn_flow *w, enum ptn_rule rule);
int ptn_engine_node(const struct ptn_engine *e, const char *name);
int ptn_engine_owner(const struct ptn_engine *e, const struct ptn_addr *a); /* -1: no node's */
void ptn_engine_count_anew(struct ptn_engine *e);

#endif

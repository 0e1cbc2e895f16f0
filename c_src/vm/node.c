#include "vm/node.h"

#include "vm/host.h"
#include "vm/loops.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct pt_node pt_node = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init(void)
{
    pt_host_init();
    pt_list_init(&pt_node.peers);
    pt_node.flush_timeout_ms = 5000;
    pt_node.max_queue = UINT64_MAX;
    long pages = sysconf(_SC_PHYS_PAGES);
    long page = sysconf(_SC_PAGESIZE);
    pt_node.ram = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    const char *mutation = getenv("PARTISAN_TEST_BREAK_ORDER");
    pt_node.break_order = mutation && *mutation == '1';
}

void pt_node_init(void) { pthread_once(&once, init); }

uint64_t pt_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int pt_node_start(const struct pt_node_opts *o)
{
    struct pt_node *n = &pt_node;
    pt_node_init();
    pthread_mutex_lock(&n->lock);
    if (!n->started) {
        n->sock.notsent_lowat = o->notsent_lowat;
        n->sock.user_timeout_ms = o->user_timeout_ms;
        /* net ticks watch the node, on any lane; these watch the lanes that are quiet */
        n->sock.keepalive = true;
        n->sock.keepalive_idle_s = 30;
        n->sock.keepalive_interval_s = 10;
        n->sock.keepalive_count = 3;
        if (o->congestion && *o->congestion) {
            snprintf(n->congestion, sizeof n->congestion, "%s", o->congestion);
            n->sock.congestion = n->congestion;
        }
        if (o->max_queue)
            n->max_queue = o->max_queue;
        if (o->ram)
            n->ram = o->ram;
        if (o->flush_timeout_ms)
            n->flush_timeout_ms = o->flush_timeout_ms;
        n->start_result = pt_loops_start(PT_MAX(o->loops, 1u), o->backend);
        n->started = n->start_result == 0;
    }
    int rc = n->start_result;
    pthread_mutex_unlock(&n->lock);
    return rc;
}

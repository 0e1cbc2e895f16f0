#include "vm/node.h"

#include "vm/host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* A loop that fails sooner than this after the last failure gets no heir: whatever forbids it would
 * forbid the next one, and each that failed leaves a thread behind. */
static const uint64_t AGAIN_NS = 10 * 1000000000ull;

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

static struct pt_loop *loop_failed(struct pt_loop *old, int err);

/* Node lock. On poll, whatever the option says: it needs the least, and a node that serves is worth
 * more than the backend that was asked for. The new loop or NULL. */
static struct pt_loop *other_loop(const char *failed, int err)
{
    struct pt_node *n = &pt_node;
    struct pt_loop *loop;
    char why[200] = "";

    if (pt_loop_start(&loop, PT_BACKEND_POLL, why, sizeof why)) {
        snprintf(n->backend_reason, sizeof n->backend_reason,
                 "the %s backend failed at run time (%s), and no other loop could be started: %s",
                 failed, pt_strerror(err), why);
        return NULL;
    }
    pt_loop_on_failure(loop, loop_failed);
    n->loop = loop;
    snprintf(n->backend_reason, sizeof n->backend_reason,
             "poll: the %s backend failed at run time (%s)", failed, pt_strerror(err));
    return loop;
}

/* Loop thread of the one that failed. */
static struct pt_loop *loop_failed(struct pt_loop *old, int err)
{
    struct pt_node *n = &pt_node;
    struct pt_loop *heir = NULL;
    const char *name = pt_loop_backend(old);
    char text[400];

    pthread_mutex_lock(&n->lock);
    uint64_t now = pt_now_ns();
    if (n->loop_failures++ && now - n->loop_failed_at < AGAIN_NS)
        snprintf(n->backend_reason, sizeof n->backend_reason,
                 "the %s backend failed at run time (%s), again within %u s", name,
                 pt_strerror(err), (unsigned)(AGAIN_NS / 1000000000u));
    else
        heir = other_loop(name, err);
    n->loop_failed_at = now;
    pthread_mutex_unlock(&n->lock);
    snprintf(
        text, sizeof text,
        heir ? "the %s backend failed at run time: %s. Connections that it was sending on end; a "
               "new loop on poll serves the others and new ones. Restart the node to use %s again"
             : "the %s backend failed at run time: %s, and there is no other loop. Connections "
               "end when they send much, new ones are refused. Restart the node; if it says the "
               "same again, see what forbids %s",
        name, pt_strerror(err), name);
    pt_nif_loop_failed(text);
    return heir;
}

bool pt_node_loop_works(char *why, size_t why_len)
{
    struct pt_node *n = &pt_node;
    bool works;

    pthread_mutex_lock(&n->lock);
    struct pt_loop *loop = n->loop;
    int err = loop ? pt_loop_failure(loop) : 0;
    if (!loop) {
        works = false;
        snprintf(why, why_len, "the loop thread is not running: partisan_nif:start/1 comes first");
    } else {
        works = !err || (pt_now_ns() - n->loop_failed_at >= AGAIN_NS &&
                         other_loop(pt_loop_backend(loop), err));
        snprintf(why, why_len, "%s", n->backend_reason);
    }
    pthread_mutex_unlock(&n->lock);
    return works;
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
        struct pt_loop *loop;
        n->start_result =
            pt_loop_start(&loop, o->backend, n->backend_reason, sizeof n->backend_reason);
        n->started = n->start_result == 0;
        if (n->started) {
            pt_loop_on_failure(loop, loop_failed);
            n->loop = loop;
        }
    }
    int rc = n->start_result;
    pthread_mutex_unlock(&n->lock);
    return rc;
}

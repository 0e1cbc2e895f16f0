#include "vm/loops.h"

#include "vm/node.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* A loop that fails sooner than this after the one before it gets no heir: whatever forbids it would
 * forbid the next one, and each that failed leaves a thread behind. */
static const uint64_t AGAIN_NS = 10 * 1000000000ull;

static struct {
    struct {
        /* Another one after a failure. The old one stays, for who just took it from here. */
        _Atomic(struct pt_loop *) loop;
        uint64_t failures, failed_at; /* ns; lock */
    } slot[PT_LOOPS_MAX];
    atomic_uint count, dealt;
    /* lock, the last one of all: nothing is called with it held but the start of a loop */
    pthread_mutex_t lock;
    uint64_t failures;
    char reason[PT_LOOPS_REASON_MAX];
} loops = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct pt_loop *loop_failed(struct pt_loop *old, int err);

/* Lock. On poll, whatever the option says: it needs the least, and a node that serves is worth more
 * than the backend that was asked for. The new loop or NULL. */
static struct pt_loop *replace(unsigned i, const char *failed, int err)
{
    struct pt_loop *loop;
    char why[200] = "";

    if (pt_loop_start(&loop, PT_BACKEND_POLL, why, sizeof why)) {
        snprintf(loops.reason, sizeof loops.reason,
                 "the %s backend failed at run time (%s), and no other loop could be started: %s",
                 failed, pt_strerror(err), why);
        return NULL;
    }
    pt_loop_on_failure(loop, loop_failed);
    loops.slot[i].loop = loop;
    snprintf(loops.reason, sizeof loops.reason, "poll: the %s backend failed at run time (%s)",
             failed, pt_strerror(err));
    return loop;
}

/* Loop thread of the one that failed. */
static struct pt_loop *loop_failed(struct pt_loop *old, int err)
{
    struct pt_loop *heir = NULL;
    const char *name = pt_loop_backend(old);
    char text[400];
    unsigned i = 0;

    pthread_mutex_lock(&loops.lock);
    while (i < PT_LOOPS_MAX - 1 && loops.slot[i].loop != old)
        i++;
    uint64_t now = pt_now_ns();
    loops.failures++;
    if (loops.slot[i].failures++ && now - loops.slot[i].failed_at < AGAIN_NS)
        snprintf(loops.reason, sizeof loops.reason,
                 "the %s backend failed at run time (%s), again within %u s", name,
                 pt_strerror(err), (unsigned)(AGAIN_NS / 1000000000u));
    else
        heir = replace(i, name, err);
    loops.slot[i].failed_at = now;
    pthread_mutex_unlock(&loops.lock);
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

int pt_loops_start(unsigned wanted, enum pt_backend_wish wish)
{
    char why[200] = "";
    unsigned n = 0;
    int rc = 0;

    pthread_mutex_lock(&loops.lock);
    while (n < PT_MIN(wanted, (unsigned)PT_LOOPS_MAX)) {
        struct pt_loop *loop;
        rc = pt_loop_start(&loop, wish, n ? why : loops.reason,
                           n ? sizeof why : sizeof loops.reason);
        if (rc)
            break;
        pt_loop_on_failure(loop, loop_failed);
        loops.slot[n++].loop = loop;
        /* The others are what the first one is, so that one word names the backend of the node. */
        wish = strcmp(pt_loop_backend(loop), "poll") ? PT_BACKEND_URING : PT_BACKEND_POLL;
    }
    size_t len = strlen(loops.reason);
    if (n && rc)
        snprintf(loops.reason + len, sizeof loops.reason - len,
                 "; %u loop%s of %u wished, the next failed: %s", n, n > 1 ? "s" : "", wanted, why);
    else if (n > 1)
        snprintf(loops.reason + len, sizeof loops.reason - len, "; %u loops", n);
    loops.count = n;
    pthread_mutex_unlock(&loops.lock);
    return n ? 0 : rc;
}

struct pt_loop *pt_loops_of(unsigned n)
{
    unsigned count = atomic_load_explicit(&loops.count, memory_order_acquire);
    return count ? loops.slot[n % count].loop : NULL;
}

unsigned pt_loops_deal(void)
{
    return atomic_fetch_add_explicit(&loops.dealt, 1, memory_order_relaxed);
}

bool pt_loops_work(char *why, size_t why_len)
{
    bool work = loops.count > 0;

    if (!work) {
        snprintf(why, why_len, "the loop thread is not running: partisan_nif:start/1 comes first");
        return false;
    }
    pthread_mutex_lock(&loops.lock);
    for (unsigned i = 0; work && i < loops.count; i++) {
        struct pt_loop *loop = loops.slot[i].loop;
        int err = pt_loop_failure(loop);
        work = !err || (pt_now_ns() - loops.slot[i].failed_at >= AGAIN_NS &&
                        replace(i, pt_loop_backend(loop), err));
    }
    snprintf(why, why_len, "%s", loops.reason);
    pthread_mutex_unlock(&loops.lock);
    return work;
}

void pt_loops_info(struct pt_loops_info *out)
{
    pthread_mutex_lock(&loops.lock);
    out->count = loops.count;
    for (unsigned i = 0; i < out->count; i++) {
        struct pt_loop *loop = loops.slot[i].loop;
        out->loop[i].backend = pt_loop_backend(loop);
        pt_loop_stats(loop, &out->loop[i].stats);
    }
    out->failures = loops.failures;
    memcpy(out->reason, loops.reason, sizeof out->reason);
    pthread_mutex_unlock(&loops.lock);
}

/* The node's loop threads: how many there are, which lane is whose, what follows when one fails.
 *
 * A loop sends for many lanes, a lane is sent by one loop: one core's copying is what a loop can do, so
 * lanes are dealt out, the bulk lanes of different peers and the several of one peer to different loops.
 */
#ifndef PT_VM_LOOPS_H
#define PT_VM_LOOPS_H

#include "io/loop.h"

enum { PT_LOOPS_MAX = 16, PT_LOOPS_REASON_MAX = 512 };

/* Starts up to `wanted` loops, 1..PT_LOOPS_MAX; once a VM. 0, or -errno when not even one can be had. Fewer
 * than wanted are no error: the reason says so. */
int pt_loops_start(unsigned wanted, enum pt_backend_wish wish);
/* The loop for a lane, any number: they are dealt out round. NULL before the start; else never NULL
 * again. The loop stays valid for good, also when it failed and another took its place. Any thread. */
struct pt_loop *pt_loops_of(unsigned n);
/* Where a new stream's lanes shall begin to be dealt out. Any thread. */
unsigned pt_loops_deal(void);
/* Can all of them send? Those that failed are replaced, but not right after the last failure. False:
 * the words are in why. */
bool pt_loops_work(char *why, size_t why_len);

struct pt_loops_info {
    unsigned count; /* 0: not started */
    struct {
        const char *backend;
        struct pt_loop_stats stats;
    } loop[PT_LOOPS_MAX];
    uint64_t failures;
    char reason[PT_LOOPS_REASON_MAX]; /* what was chosen, and why; or what failed */
};
void pt_loops_info(struct pt_loops_info *out); /* any thread */

/* nif.c: tells the process that called start/1; any thread. */
void pt_nif_loop_failed(const char *text);

#endif

/* Which backend runs, and the words that say why. */
#ifndef PT_IO_PROBE_H
#define PT_IO_PROBE_H

#include "io/loop.h"

/* Where the probe of io_uring stopped. */
enum pt_uring_step {
    PT_URING_NOT_BUILT, /* no liburing when this library was built */
    PT_URING_SETUP,     /* io_uring_setup(2) */
    PT_URING_FEATURES,  /* the kernel's io_uring is older than what the backend needs */
    PT_URING_OPCODES,   /* IORING_REGISTER_PROBE, or an operation is missing */
    PT_URING_NOP,       /* a NOP did not come back */
    PT_URING_WAKE, /* the wake-up descriptor could not be made, or its read did not come back */
};

/* The line for the user: what failed, why in all likelihood, who can change it. Pure.
 * err is -errno; sysctl the value of kernel.io_uring_disabled (-1: the kernel has none);
 * missing names the absent features or operations, NULL or "" when that is not the matter. */
void pt_uring_refusal(enum pt_uring_step step, int err, int sysctl, const char *missing, char *why,
                      size_t why_len);

/* kernel.io_uring_disabled (Linux 6.6): 0, 1 or 2; -1 when there is no such file. */
int pt_uring_sysctl(void);

/* "EPERM" for -EPERM; words of strerror for the uncommon ones. Never NULL. */
const char *pt_errno_name(int err);

/* The policy, in one place. Opens the backend that `wish` asks for; call it on the loop thread.
 * uring is NULL in a build without liburing. 0 and the backend and its state; or -errno and
 * nothing open. reason always gets one line. */
int pt_backend_choose(enum pt_backend_wish wish, const struct pt_backend *uring,
                      const struct pt_backend *poll, const struct pt_backend **backend,
                      void **state, char *reason, size_t reason_len);

#endif

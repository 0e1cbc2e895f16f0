/* The io_uring backend once more, as a kernel before 5.11 runs it: none of the flags for a ring, and no
 * time limit in io_uring_enter(2), in whose place liburing puts a request of its own into the ring. */
#ifdef HAVE_LIBURING
#include <errno.h>
#include <liburing.h>

static int init_old(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
    if (p->flags)
        return -EINVAL;
    int err = io_uring_queue_init_params(entries, ring, p);
    ring->features &= ~IORING_FEAT_EXT_ARG;
    return err;
}

#define io_uring_queue_init_params init_old
#define pt_backend_uring kit_uring_old
#include "io/uring.c"
#endif

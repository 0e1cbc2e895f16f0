/* The io_uring backend once more, with every send MSG_DONTWAIT: the kernel then answers EAGAIN where
 * it would otherwise wait, as some kernels do for a socket that is O_NONBLOCK. */
#ifdef HAVE_LIBURING
#include <sys/socket.h>
enum { SEND_FLAGS = MSG_NOSIGNAL | MSG_DONTWAIT };
#undef MSG_NOSIGNAL
#define MSG_NOSIGNAL SEND_FLAGS
#define pt_backend_uring kit_uring_again
#include "io/uring.c"
#endif

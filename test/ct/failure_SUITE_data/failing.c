/* Preloaded into a node: calls of the socket interface that fail when the test says so, by a file that is
 * mapped here: three 32-bit numbers, which call (below), its errno, and how many times. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum call { SENDMSG = 1, RECVMSG, ACCEPT };

struct plan {
    _Atomic int call, err, times;
};

static struct plan *plan;

__attribute__((constructor)) static void map_plan(void)
{
    const char *path = getenv("PT_FAILING");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED)
        plan = p;
}

static bool fails(enum call call)
{
    if (!plan || plan->call != (int)call || plan->times <= 0 ||
        atomic_fetch_sub(&plan->times, 1) <= 0)
        return false;
    errno = plan->err;
    return true;
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    static ssize_t (*real)(int, const struct msghdr *, int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "sendmsg");
    return fails(SENDMSG) ? -1 : real(fd, m, flags);
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    static ssize_t (*real)(int, struct msghdr *, int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "recvmsg");
    return fails(RECVMSG) ? -1 : real(fd, m, flags);
}

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    static int (*real)(int, struct sockaddr *, socklen_t *, int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "accept4");
    return fails(ACCEPT) ? -1 : real(fd, addr, len, flags);
}

int accept(int fd, struct sockaddr *addr, socklen_t *len) { return accept4(fd, addr, len, 0); }

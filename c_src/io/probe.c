#include "io/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WHY_MAX 512

const char *pt_errno_name(int err)
{
    /* strerrorname_np() would do, but musl has none. */
    switch (-err) {
    case EPERM: return "EPERM";
    case EACCES: return "EACCES";
    case ENOSYS: return "ENOSYS";
    case ENOMEM: return "ENOMEM";
    case EINVAL: return "EINVAL";
    case EMFILE: return "EMFILE";
    case ENFILE: return "ENFILE";
    case EAGAIN: return "EAGAIN";
    case ETIME: return "ETIME";
    case EOPNOTSUPP: return "EOPNOTSUPP";
    case EBADF: return "EBADF";
    case EIO: return "EIO";
    default: return err < 0 ? strerror(-err) : "no error";
    }
}

int pt_uring_sysctl(void)
{
    char c = 0;
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, &c, 1);
    close(fd);
    return n == 1 && c >= '0' && c <= '9' ? c - '0' : -1;
}

static const char *setup_advice(int err, int sysctl)
{
    switch (-err) {
    case EPERM:
    case EACCES:
        if (sysctl >= 2)
            return "the administrator has turned io_uring off for everybody "
                   "(kernel.io_uring_disabled = 2)";
        if (sysctl == 1)
            return "kernel.io_uring_disabled = 1 allows it only to members of "
                   "kernel.io_uring_group and to CAP_SYS_ADMIN";
        return "a seccomp profile or security module forbids it, as container runtimes do by "
               "default; allow io_uring_setup, io_uring_enter and io_uring_register in the profile";
    case ENOSYS:
        return "this kernel has no io_uring (before 5.1, built without it, or a sandbox such as "
               "gVisor)";
    case ENOMEM:
        return "no memory for the ring; before Linux 5.12 it counts against RLIMIT_MEMLOCK, "
               "see ulimit -l";
    case EMFILE:
    case ENFILE: return "no file descriptor left for the ring, see ulimit -n";
    case EINVAL: return "the kernel refuses every set of ring flags we can work with";
    default: return "unexpected, please report it";
    }
}

void pt_uring_refusal(enum pt_uring_step step, int err, int sysctl, const char *missing, char *why,
                      size_t why_len)
{
    const char *name = pt_errno_name(err);
    bool named = missing && *missing;

    switch (step) {
    case PT_URING_NOT_BUILT:
        snprintf(why, why_len, "not built in; liburing was absent when partisan was compiled");
        return;
    case PT_URING_SETUP:
        snprintf(why, why_len, "io_uring_setup: %s; %s", name, setup_advice(err, sysctl));
        return;
    case PT_URING_FEATURES:
        snprintf(why, why_len, "the kernel's io_uring lacks %s; Linux 5.7 or later is needed",
                 named ? missing : "a needed feature");
        return;
    case PT_URING_OPCODES:
        if (named)
            snprintf(why, why_len,
                     "the kernel's io_uring lacks the operations %s; Linux 5.7 or later is needed",
                     missing);
        else
            snprintf(why, why_len,
                     "io_uring_register (probe of operations): %s; a seccomp profile forbids it, "
                     "or the kernel is older than 5.6",
                     name);
        return;
    case PT_URING_NOP:
        snprintf(why, why_len,
                 "a NOP through the ring failed: %s; a seccomp profile forbids io_uring_enter, or "
                 "the sandbox only pretends to have io_uring",
                 name);
        return;
    case PT_URING_WAKE:
        snprintf(why, why_len, "the wake-up through an eventfd failed: %s", name);
        return;
    }
    snprintf(why, why_len, "io_uring: %s", name);
}

/* Every refusal of io_uring passes through here, so that the node's log, the inspection NIF and
 * the error of a forced start tell the same story. io_uring is tried first because streaming
 * costs it fewer system calls; it is never taken on a kernel version's word, only after
 * it carried something. */
int pt_backend_choose(enum pt_backend_wish wish, const struct pt_backend *uring,
                      const struct pt_backend *poll, const struct pt_backend **backend,
                      void **state, char *reason, size_t reason_len)
{
    char why[WHY_MAX] = "", poll_why[WHY_MAX] = "";
    int err;

    if (wish != PT_BACKEND_POLL) {
        if (uring) {
            err = uring->open(state, why, sizeof why);
        } else {
            err = -ENOSYS;
            pt_uring_refusal(PT_URING_NOT_BUILT, err, -1, NULL, why, sizeof why);
        }
        if (!err) {
            *backend = uring;
            snprintf(reason, reason_len, "uring: %s", why);
            return 0;
        }
        if (wish == PT_BACKEND_URING) {
            snprintf(reason, reason_len,
                     "backend uring was asked for and cannot start: %s. Remove the cause, or ask "
                     "for backend auto or poll",
                     why);
            return err;
        }
    }
    err = poll->open(state, poll_why, sizeof poll_why);
    if (err) {
        snprintf(reason, reason_len, "no backend can start: poll: %s%s%s", poll_why,
                 *why ? "; uring: " : "", why);
        return err;
    }
    *backend = poll;
    if (wish == PT_BACKEND_POLL)
        snprintf(reason, reason_len, "poll: asked for");
    else
        snprintf(reason, reason_len, "poll: io_uring cannot be used: %s", why);
    return 0;
}

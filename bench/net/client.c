#define _GNU_SOURCE
#include "ctl.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { STATUS_ERROR = 1, STATUS_USAGE = 2, STATUS_NOT_RUN = 127 };

static int dial(const char *path)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) < sizeof sun.sun_path) {
        snprintf(sun.sun_path, sizeof sun.sun_path, "%s", path);
        if (fd >= 0 && !connect(fd, (struct sockaddr *)&sun, sizeof sun))
            return fd;
    }
    fprintf(stderr, "ptnet: nobody answers at %s: %s\n", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static int say(int fd, int count, char *const *words)
{
    char line[sizeof((struct ptn_client *)0)->line];
    size_t at = 0;

    for (int i = 0; i < count; i++) {
        int n = snprintf(line + at, sizeof line - at, "%s%s", words[i], i + 1 < count ? " " : "\n");
        if (n < 0 || (size_t)n >= sizeof line - at) {
            fprintf(stderr, "ptnet: the command is too long\n");
            return -1;
        }
        at += (size_t)n;
    }
    return send(fd, line, at, MSG_NOSIGNAL) == (ssize_t)at ? 0 : -1;
}

int ptn_ctl_ask(const char *path, int count, char *const *words)
{
    int fd = count ? dial(path) : -1;
    char *line = NULL;
    size_t room = 0;
    int status = STATUS_ERROR;

    if (fd < 0 || say(fd, count, words))
        return count ? STATUS_ERROR : STATUS_USAGE;
    FILE *in = fdopen(fd, "r");
    while (in && getline(&line, &room, in) > 0) {
        if (!strcmp(line, "ok\n")) {
            status = 0;
            break;
        }
        if (!strncmp(line, "error: ", 7)) {
            fprintf(stderr, "ptnet: %s", line + 7);
            break;
        }
        fputs(line, stdout);
    }
    free(line);
    if (in)
        fclose(in);
    return status;
}

/* The descriptors that come with the answer; how many, 0 if an error came instead. */
static int receive_fds(int fd, int fds[2])
{
    char text[1024];
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } u;
    struct iovec iov = {text, sizeof text - 1};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    struct cmsghdr *h = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

    if (!h || h->cmsg_type != SCM_RIGHTS) {
        text[n > 0 ? n : 0] = 0;
        fprintf(stderr, "ptnet: %s", n > 0 ? text : "no answer\n");
        return 0;
    }
    size_t size = h->cmsg_len - CMSG_LEN(0);
    memcpy(fds, CMSG_DATA(h), size);
    return (int)(size / sizeof(int));
}

int ptn_ctl_exec(const char *path, const char *node, char *const *command)
{
    char *words[] = {"netns", (char *)node};
    int fds[2], fd = dial(path);

    if (fd < 0 || say(fd, 2, words))
        return STATUS_ERROR;
    int n = receive_fds(fd, fds);
    close(fd);
    if (!n)
        return STATUS_ERROR;
    /* The second is the emulator's user namespace, if it has one; EINVAL: we are in it already. */
    if ((n == 2 && setns(fds[1], CLONE_NEWUSER) && errno != EINVAL) ||
        setns(fds[0], CLONE_NEWNET)) {
        fprintf(stderr, "ptnet: cannot enter the namespace of %s: %s\n", node, strerror(errno));
        return STATUS_ERROR;
    }
    execvp(command[0], command);
    fprintf(stderr, "ptnet: %s: %s\n", command[0], strerror(errno));
    return STATUS_NOT_RUN;
}

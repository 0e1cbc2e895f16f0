#define _GNU_SOURCE
#include "ctl.h"

#include "cmd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_MS = 1000 };

int ptn_ctl_open(struct ptn_ctl *c, const char *path, char *err)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};

    for (int i = 0; i < PTN_CLIENTS_MAX; i++)
        c->client[i].fd = -1;
    c->listener = -1;
    if (strlen(path) >= sizeof sun.sun_path) {
        snprintf(err, PTN_ERR_MAX, "the path of the control socket is too long: %.150s", path);
        return -1;
    }
    snprintf(sun.sun_path, sizeof sun.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sun, sizeof sun) || listen(fd, PTN_CLIENTS_MAX)) {
        snprintf(err, PTN_ERR_MAX, "control socket %.150s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    snprintf(c->path, sizeof c->path, "%s", path);
    c->listener = fd;
    return 0;
}

void ptn_ctl_close(struct ptn_ctl *c)
{
    for (int i = 0; i < PTN_CLIENTS_MAX; i++)
        if (c->client[i].fd >= 0)
            close(c->client[i].fd);
    if (c->listener >= 0) {
        close(c->listener);
        unlink(c->path);
    }
}

unsigned ptn_ctl_fds(const struct ptn_ctl *c, struct pollfd *fds)
{
    unsigned n = 0;

    fds[n++] = (struct pollfd){.fd = c->listener, .events = POLLIN};
    for (int i = 0; i < PTN_CLIENTS_MAX; i++)
        fds[n++] = (struct pollfd){.fd = c->client[i].fd, .events = POLLIN};
    return n;
}

static void hang_up(struct ptn_client *cl)
{
    close(cl->fd);
    cl->fd = -1;
    cl->n = 0;
}

/* Sends all of it, or gives the client up: the emulator waits for nobody for long. */
static bool send_all(struct ptn_client *cl, const char *p, size_t n)
{
    while (n) {
        ssize_t sent = send(cl->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd pfd = {.fd = cl->fd, .events = POLLOUT};
            if (poll(&pfd, 1, ANSWER_MS) == 1)
                continue;
        }
        if (sent <= 0)
            return false;
        p += sent;
        n -= (size_t)sent;
    }
    return true;
}

static bool send_netns(struct ptn_client *cl, const struct ptn_node *node)
{
    int fds[2] = {node->ns, ptn_ns_user()};
    size_t size = sizeof(int) * (fds[1] >= 0 ? 2 : 1);
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(sizeof fds)];
    } u = {0};
    struct iovec iov = {(void *)"ok\n", 3};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = CMSG_SPACE(size)};

    u.h.cmsg_level = SOL_SOCKET;
    u.h.cmsg_type = SCM_RIGHTS;
    u.h.cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(&u.h), fds, size);
    return sendmsg(cl->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

/* False: told to quit. */
static bool line(struct ptn_client *cl, struct ptn_engine *e, char *text)
{
    struct ptn_text out = {0};
    int node = -1;
    enum ptn_cmd_result r = ptn_cmd(e, text, &out, &node);
    bool good = r == PTN_CMD_NETNS ? send_netns(cl, &e->node[node]) : send_all(cl, out.p, out.n);

    ptn_text_free(&out);
    if (!good)
        hang_up(cl);
    return r != PTN_CMD_QUIT;
}

static bool serve(struct ptn_client *cl, struct ptn_engine *e)
{
    ssize_t n = read(cl->fd, cl->line + cl->n, sizeof cl->line - cl->n);

    if (n <= 0) {
        hang_up(cl);
        return true;
    }
    cl->n += (size_t)n;
    for (char *end; cl->fd >= 0 && (end = memchr(cl->line, '\n', cl->n));) {
        size_t used = (size_t)(end - cl->line) + 1;
        *end = 0;
        if (!line(cl, e, cl->line))
            return false;
        if (cl->fd < 0)
            return true;
        cl->n -= used;
        memmove(cl->line, end + 1, cl->n);
    }
    if (cl->n == sizeof cl->line)
        hang_up(cl);
    return true;
}

static void welcome(struct ptn_ctl *c)
{
    int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    for (int i = 0; fd >= 0 && i < PTN_CLIENTS_MAX; i++)
        if (c->client[i].fd < 0) {
            c->client[i] = (struct ptn_client){.fd = fd};
            return;
        }
    if (fd >= 0)
        close(fd);
}

bool ptn_ctl_serve(struct ptn_ctl *c, struct ptn_engine *e, const struct pollfd *fds, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        if (fds[i].revents && c->client[i - 1].fd == fds[i].fd && !serve(&c->client[i - 1], e))
            return false;
    if (fds[0].revents)
        welcome(c);
    return true;
}

#define _GNU_SOURCE
#include "probe.h"

#include "ctl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    PORT = 7007,
    BUFFER = 64 << 20,
    /* Silence after which the last probes have come, once the emulator has nothing more of them; and
     * if it should lose count of them. */
    SILENCE_MS = 100,
    SILENCE_MOST_MS = 20000,
    CHUNK = 65536,
    STATUS_NO_NETWORK = 3,
    SKIP = 77,
};

/* ---- the emulator ---- */

static int dial(const char *path)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(sun.sun_path, sizeof sun.sun_path, "%s", path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&sun, sizeof sun)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The namespace of a node; enters the emulator's user namespace if it has one. */
static int netns(const char *path, const char *node)
{
    char line[64], text[256];
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } u;
    struct iovec iov = {text, sizeof text};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
    int fds[2] = {-1, -1}, fd = dial(path);

    if (fd < 0)
        return -1;
    int n = snprintf(line, sizeof line, "netns %s\n", node);
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) == n && recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) > 0) {
        struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
        if (h && h->cmsg_type == SCM_RIGHTS)
            memcpy(fds, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0));
    }
    close(fd);
    if (fds[1] >= 0) {
        /* The second time it is ours already. A network namespace that goes with it, since there is
         * no way back into one of others, and whoever stays in a node ends with it. */
        if (!setns(fds[1], CLONE_NEWUSER))
            unshare(CLONE_NEWNET);
        close(fds[1]);
    }
    return fds[0];
}

static pid_t spawn(int *in, int *out)
{
    int i[2], o[2];

    if (pipe2(i, O_CLOEXEC) || pipe2(o, O_CLOEXEC))
        return -1;
    pid_t pid = fork();
    if (!pid) {
        dup2(i[0], STDIN_FILENO);
        dup2(o[1], STDOUT_FILENO);
        execl("/proc/self/exe", "ptnet", "run", "--node", "a", "--node", "b", "--eof", "--sysctl",
              "net.ipv4.tcp_rmem=4096 131072 33554432", "--sysctl",
              "net.ipv4.tcp_wmem=4096 131072 33554432", (char *)NULL);
        _exit(127);
    }
    close(i[0]);
    close(o[1]);
    *in = i[1];
    *out = o[0];
    return pid;
}

int ptn_lab_open(struct ptn_lab *lab)
{
    int out = -1, status = 0;
    char line[256] = "";

    memset(lab, 0, sizeof *lab);
    lab->ctl = lab->eof = lab->ns[0] = lab->ns[1] = -1;
    lab->pid = spawn(&lab->eof, &out);
    if (lab->pid < 0)
        return 1;
    FILE *f = fdopen(out, "r");
    bool ready = f && fgets(line, sizeof line, f) && sscanf(line, "ready %107s", lab->socket) == 1;
    if (f)
        fclose(f);
    if (!ready) {
        waitpid(lab->pid, &status, 0);
        lab->pid = 0;
        return WIFEXITED(status) && WEXITSTATUS(status) == STATUS_NO_NETWORK ? SKIP : 1;
    }
    lab->ctl = dial(lab->socket);
    lab->ns[0] = netns(lab->socket, "a");
    lab->ns[1] = netns(lab->socket, "b");
    return lab->ctl < 0 || lab->ns[0] < 0 || lab->ns[1] < 0;
}

void ptn_lab_close(struct ptn_lab *lab)
{
    for (int i = 0; i < 2; i++)
        if (lab->ns[i] >= 0)
            close(lab->ns[i]);
    if (lab->ctl >= 0)
        close(lab->ctl);
    if (lab->eof >= 0)
        close(lab->eof);
    if (lab->pid > 0)
        waitpid(lab->pid, NULL, 0);
}

bool ptn_lab_do(struct ptn_lab *lab, const char *command)
{
    size_t at = 0;

    if (send(lab->ctl, command, strlen(command), MSG_NOSIGNAL) < 0 ||
        send(lab->ctl, "\n", 1, MSG_NOSIGNAL) < 0)
        return false;
    while (at < sizeof lab->answer - 1) {
        ssize_t n = read(lab->ctl, lab->answer + at, sizeof lab->answer - 1 - at);
        if (n <= 0)
            return false;
        at += (size_t)n;
        lab->answer[at] = 0;
        if (!strcmp(lab->answer, "ok\n") || (at > 3 && !strcmp(lab->answer + at - 4, "\nok\n")))
            return true;
        if (strstr(lab->answer, "error: "))
            return false;
    }
    return false;
}

double ptn_lab_stat(struct ptn_lab *lab, const char *line, const char *key)
{
    char want[64];

    if (!ptn_lab_do(lab, "stats"))
        return -1;
    const char *l = strstr(lab->answer, line);
    snprintf(want, sizeof want, " %s ", key);
    const char *v = l ? strstr(l, want) : NULL;
    return v ? strtod(v + strlen(want), NULL) : -1;
}

int ptn_lab_socket(struct ptn_lab *lab, int node, int family, int type)
{
    int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), fd = -1;

    if (home >= 0 && !setns(lab->ns[node], CLONE_NEWNET)) {
        fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (setns(home, CLONE_NEWNET)) {
            close(fd);
            fd = -1;
        }
    }
    if (home >= 0)
        close(home);
    return fd;
}

/* ---- UDP probes ---- */

static socklen_t address_b(int family, struct sockaddr_storage *ss)
{
    memset(ss, 0, sizeof *ss);
    if (family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)ss;
        in->sin_family = AF_INET;
        in->sin_port = htons(PORT);
        inet_pton(AF_INET, "10.77.0.2", &in->sin_addr);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(PORT);
    inet_pton(AF_INET6, "fd77::2", &in6->sin6_addr);
    return sizeof *in6;
}

static uint64_t real_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct stamp {
    uint64_t no, at;
};

static void take(int fd, struct ptn_probes *p)
{
    char data[65536] = {0}, control[256];

    for (;;) {
        struct iovec iov = {data, sizeof data};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
        ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);
        struct cmsghdr *h = n >= (ssize_t)sizeof(struct stamp) ? CMSG_FIRSTHDR(&msg) : NULL;
        if (!h)
            return;
        struct stamp s;
        struct timespec ts;
        memcpy(&s, data, sizeof s);
        memcpy(&ts, CMSG_DATA(h), sizeof ts);
        p->copies++;
        if (s.no >= p->count || p->took[s.no] >= 0)
            continue;
        p->at[s.no] = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
        p->took[s.no] = p->at[s.no] - (int64_t)s.at;
        p->arrived++;
    }
}

/* Packets from a to b that the emulator has seen, or the kernel has dropped before it. */
static double seen(struct ptn_lab *lab)
{
    return ptn_lab_stat(lab, "link a>b", "offered") + ptn_lab_stat(lab, "node a", "unread");
}

/* Not before the emulator has dealt with all of them: it may stand still for longer than any silence. */
static void take_last(struct ptn_lab *lab, int to, double all, struct ptn_probes *p)
{
    uint64_t last = ptn_now(), quiet;

    do {
        struct pollfd pfd = {.fd = to, .events = POLLIN};
        unsigned before = p->copies;
        poll(&pfd, 1, 10);
        take(to, p);
        if (p->copies != before)
            last = ptn_now();
        quiet = (ptn_now() - last) / 1000000;
    } while (quiet < SILENCE_MS ||
             (quiet < SILENCE_MOST_MS &&
              (seen(lab) < all || ptn_lab_stat(lab, "emulator", "under_way") > 0)));
}

static void send_and_take(int from, int to, size_t size, uint64_t gap, struct ptn_probes *p)
{
    char data[65536] = {0};
    uint64_t start = ptn_now();

    for (unsigned i = 0; i < p->count; i++) {
        uint64_t due = start + i * gap, now;
        while ((now = ptn_now()) < due) {
            struct timespec ts = {.tv_nsec = (long)(due - now)};
            struct pollfd pfd = {.fd = to, .events = POLLIN};
            ppoll(&pfd, 1, &ts, NULL);
            take(to, p);
        }
        struct stamp s = {.no = i, .at = real_now()};
        memcpy(data, &s, sizeof s);
        while (send(from, data, size, 0) < 0 && (errno == EAGAIN || errno == ENOBUFS))
            take(to, p);
        if (i % 8 == 0)
            take(to, p);
    }
}

bool ptn_probe(struct ptn_lab *lab, unsigned count, size_t size, uint64_t gap, struct ptn_probes *p)
{
    int from = ptn_lab_socket(lab, 0, AF_INET, SOCK_DGRAM);
    int to = ptn_lab_socket(lab, 1, AF_INET, SOCK_DGRAM);
    int on = 1, room = BUFFER;
    struct sockaddr_storage ss;
    socklen_t len = address_b(AF_INET, &ss);

    *p = (struct ptn_probes){.count = count};
    p->took = malloc(count * sizeof *p->took);
    p->at = calloc(count, sizeof *p->at);
    bool good = p->took && p->at && from >= 0 && to >= 0 &&
                !setsockopt(to, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) &&
                !bind(to, (struct sockaddr *)&ss, len) &&
                !connect(from, (struct sockaddr *)&ss, len);
    for (unsigned i = 0; good && i < count; i++)
        p->took[i] = -1;
    if (good) {
        /* FORCE needs more privilege than a user namespace gives. */
        if (setsockopt(to, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
            setsockopt(to, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        double all = seen(lab) + count;
        send_and_take(from, to, size, gap, p);
        take_last(lab, to, all, p);
    }
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
    return good;
}

void ptn_probes_free(struct ptn_probes *p)
{
    free(p->took);
    free(p->at);
}

/* ---- a TCP stream ---- */

static void pattern(uint8_t *p, size_t n, uint64_t at)
{
    for (size_t i = 0; i < n; i++, at++)
        p[i] = (uint8_t)((at >> 8) * 31 + at);
}

bool ptn_stream_open(struct ptn_lab *lab, int family, struct ptn_stream *s)
{
    int listener = ptn_lab_socket(lab, 1, family, SOCK_STREAM), on = 1;
    struct sockaddr_storage ss;
    socklen_t len = address_b(family, &ss);

    *s = (struct ptn_stream){.from = ptn_lab_socket(lab, 0, family, SOCK_STREAM), .to = -1};
    if (listener >= 0 && s->from >= 0) {
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        struct pollfd pfd = {.fd = listener, .events = POLLIN};
        if (!bind(listener, (struct sockaddr *)&ss, len) && !listen(listener, 1) &&
            (!connect(s->from, (struct sockaddr *)&ss, len) || errno == EINPROGRESS) &&
            poll(&pfd, 1, 30000) == 1)
            s->to = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    }
    if (listener >= 0)
        close(listener);
    return s->to >= 0;
}

static void feed(struct ptn_stream *s)
{
    uint8_t data[CHUNK];

    pattern(data, sizeof data, s->sent);
    ssize_t n = send(s->from, data, sizeof data, MSG_NOSIGNAL);
    if (n > 0)
        s->sent += (uint64_t)n;
    else if (errno != EAGAIN && errno != EINTR)
        s->error_from = errno;
}

static void drink(struct ptn_stream *s)
{
    uint8_t data[4 * CHUNK], want[sizeof data];

    ssize_t n = recv(s->to, data, sizeof data, 0);
    if (n > 0) {
        pattern(want, (size_t)n, s->got);
        s->corrupt |= memcmp(data, want, (size_t)n) != 0;
        s->got += (uint64_t)n;
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        s->error_to = errno;
    }
}

static void pump(struct ptn_stream *s, bool sending, int ms)
{
    struct pollfd fds[] = {{.fd = s->error_from ? -1 : s->from, .events = sending ? POLLOUT : 0},
                           {.fd = s->error_to ? -1 : s->to, .events = POLLIN}};

    poll(fds, 2, ms);
    if (fds[1].revents)
        drink(s);
    if (fds[0].revents)
        feed(s);
}

void ptn_stream_pump(struct ptn_stream *s, uint64_t ns)
{
    for (uint64_t end = ptn_now() + ns; ptn_now() < end && !(s->error_from && s->error_to);)
        pump(s, true, 10);
}

bool ptn_stream_drain(struct ptn_stream *s, uint64_t limit_ns)
{
    for (uint64_t end = ptn_now() + limit_ns; s->got < s->sent && ptn_now() < end && !s->error_to;)
        pump(s, false, 10);
    return s->got == s->sent;
}

void ptn_stream_close(struct ptn_stream *s)
{
    struct linger now = {.l_onoff = 1};

    /* By a reset: no port is left waiting for the next test. */
    if (s->from >= 0) {
        setsockopt(s->from, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(s->from);
    }
    if (s->to >= 0)
        close(s->to);
}

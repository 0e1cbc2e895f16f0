/* ptnet: a network in user space. `ptnet --help` is its manual, docs/network-emulator.md its story. */
#define _GNU_SOURCE
#include "cmd.h"
#include "conf.h"
#include "ctl.h"
#include "selftest.h"
#include "stats.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STATUS_USAGE = 2, STATUS_NO_NETWORK = 3, LISTS = 64 };
static const uint64_t QUANTUM_NS = 30000;

static const char usage[] =
    "ptnet run [options] [-- COMMAND...]   build the network; end with the command, or by `quit`\n"
    "ptnet exec [--socket PATH] NODE COMMAND...   run a command inside a node\n"
    "ptnet ctl [--socket PATH] WORDS...           a command for the emulator, `help` lists them\n"
    "ptnet self-test [--long]                     prove delay, rate, loss and the rest\n"
    "\n"
    "options of run:\n"
    "  --node NAME          a node in a network namespace of its own, 10.77.0.1 and up; at least "
    "two\n"
    "  --node NAME=PATH     the same in an existing namespace, such as /run/netns/x\n"
    "  --link \"WORDS\"       what all links are like, each direction; words as below\n"
    "  --link \"A B WORDS\"   the link between two nodes; later ones win\n"
    "  --cc NAME            TCP congestion control in new namespaces (cubic, bbr, reno)\n"
    "  --sysctl NAME=VALUE  in new namespaces, any number of times\n"
    "  --mtu BYTES          default 1500\n"
    "  --seed N             of everything that is random, default 1\n"
    "  --quantum TIME       segments of one super-packet that are due within it are delivered\n"
    "                       together, default 30us\n"
    "  --spin TIME          do not sleep this long before a delivery, default 0\n"
    "  --socket PATH        the control socket; default: a new one, $PTNET_SOCKET for COMMAND\n"
    "  --eof                end when standard input does\n"
    "\n"
    "COMMAND runs outside of the nodes, with PTNET_SOCKET set, which exec and ctl read, and PTNET, "
    "the\n"
    "path of this program. Whatever runs in new namespaces at the end is ended. Needs root, or\n"
    "user namespaces and a /dev/net/tun it may open. Exit status: the command's; 2 wrong usage; 3 "
    "no\n"
    "network to be had.\n"
    "\n"
    "words of a link:\n";

struct setup {
    const char *node[PTN_NODES_MAX];
    const char *link[LISTS];
    const char *sysctl[LISTS + 1];
    unsigned nodes, links, sysctls, mtu;
    const char *congestion, *socket;
    uint64_t seed, quantum, spin;
    bool eof;
};

static int complain(const char *words)
{
    fprintf(stderr, "ptnet: %s\n", words);
    return STATUS_USAGE;
}

/* ---- options ---- */

enum { O_NODE = 256, O_LINK, O_CC, O_SYSCTL, O_MTU, O_SEED, O_QUANTUM, O_SPIN, O_SOCKET, O_EOF };

static const struct option options[] = {{"node", required_argument, NULL, O_NODE},
                                        {"link", required_argument, NULL, O_LINK},
                                        {"cc", required_argument, NULL, O_CC},
                                        {"sysctl", required_argument, NULL, O_SYSCTL},
                                        {"mtu", required_argument, NULL, O_MTU},
                                        {"seed", required_argument, NULL, O_SEED},
                                        {"quantum", required_argument, NULL, O_QUANTUM},
                                        {"spin", required_argument, NULL, O_SPIN},
                                        {"socket", required_argument, NULL, O_SOCKET},
                                        {"eof", no_argument, NULL, O_EOF},
                                        {NULL, 0, NULL, 0}};

static int take_option(struct setup *s, int o, const char *value)
{
    uint64_t n;

    switch (o) {
    case O_NODE:
        if (s->nodes == PTN_NODES_MAX)
            return complain("too many nodes");
        s->node[s->nodes++] = value;
        return 0;
    case O_LINK:
        if (s->links == LISTS)
            return complain("too many --link");
        s->link[s->links++] = value;
        return 0;
    case O_SYSCTL:
        if (s->sysctls == LISTS)
            return complain("too many --sysctl");
        s->sysctl[s->sysctls++] = value;
        return 0;
    case O_CC: s->congestion = value; return 0;
    case O_SOCKET: s->socket = value; return 0;
    case O_EOF: s->eof = true; return 0;
    case O_MTU:
        if (!ptn_read_count(value, 65535, &n) || n < 1280)
            return complain("--mtu wants 1280 to 65535 bytes");
        s->mtu = (unsigned)n;
        return 0;
    case O_SEED:
        return ptn_read_count(value, 1ull << 52, &s->seed) ? 0 : complain("--seed wants a number");
    case O_QUANTUM:
        return ptn_read_time(value, &s->quantum) ? 0 : complain("--quantum wants a time, as 30us");
    case O_SPIN:
        return ptn_read_time(value, &s->spin) ? 0 : complain("--spin wants a time, as 50us");
    default: return complain("wrong options, see ptnet --help");
    }
}

/* ---- the network ---- */

static int make_nodes(struct ptn_engine *e, const struct setup *s, char *err)
{
    struct ptn_ns_opts o = {.mtu = s->mtu, .congestion = s->congestion, .sysctls = s->sysctl};

    if (s->congestion && ptn_ns_allow(s->congestion, err))
        return -1;
    for (unsigned i = 0; i < s->nodes; i++) {
        const char *eq = strchr(s->node[i], '=');
        size_t n = eq ? (size_t)(eq - s->node[i]) : strlen(s->node[i]);
        struct ptn_node *node = &e->node[i];
        if (!n || n >= sizeof node->name || memchr(s->node[i], ' ', n) || *s->node[i] == '*') {
            snprintf(err, PTN_ERR_MAX, "no name for a node: %.100s", s->node[i]);
            return -1;
        }
        memcpy(node->name, s->node[i], n);
        node->name[n] = 0;
        if (ptn_engine_node(e, node->name) >= 0) {
            snprintf(err, PTN_ERR_MAX, "two nodes are called %s", node->name);
            return -1;
        }
        o.path = eq ? eq + 1 : NULL;
        e->count = i + 1; /* what is open is closed, whatever happens */
        if (ptn_ns_open(node, i, &o, err))
            return -1;
    }
    return 0;
}

/* A command through the same door as those of the socket. */
static int command(struct ptn_engine *e, const char *verb, const char *words, char *err)
{
    struct ptn_text out = {0};
    char line[PTN_LINE_MAX];
    int node;

    snprintf(line, sizeof line, "%s %s", verb, words);
    int rc = ptn_cmd(e, line, &out, &node) == PTN_CMD_OK ? 0 : -1;
    if (rc)
        snprintf(err, PTN_ERR_MAX, "--link \"%.100s\": %.140s", words, out.p ? out.p : "");
    ptn_text_free(&out);
    return rc;
}

static int make_links(struct ptn_engine *e, const struct setup *s, char *err)
{
    for (unsigned i = 0; i < s->links; i++) {
        char first[PTN_NAME_MAX] = "";
        sscanf(s->link[i], "%31s", first);
        bool pair = ptn_engine_node(e, first) >= 0 || !strcmp(first, "*");
        if (command(e, pair ? "link" : "link * *", s->link[i], err))
            return -1;
    }
    return 0;
}

/* ---- the command ---- */

static pid_t start_command(char **argv, const char *socket, const sigset_t *old)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    pid_t pid = fork();

    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, old, NULL);
    self[n > 0 ? n : 0] = 0;
    setenv("PTNET", self, 1);
    setenv("PTNET_SOCKET", socket, 1);
    execvp(argv[0], argv);
    fprintf(stderr, "ptnet: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

struct signals {
    int fd;
    sigset_t old;
};

static int catch_signals(struct signals *s, char *err)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN); /* whoever reads our last words may be gone; the nodes still end */
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &s->old);
    s->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->fd < 0)
        snprintf(err, PTN_ERR_MAX, "signalfd: %s", strerror(errno));
    return s->fd < 0 ? -1 : 0;
}

/* True: it is time to end, *status says how. */
static bool signalled(const struct signals *s, pid_t child, int *status)
{
    struct signalfd_siginfo info;
    int st;

    while (read(s->fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGCHLD) {
            *status = 128 + (int)info.ssi_signo;
            if (child > 0)
                kill(child, SIGTERM);
            return true;
        }
        if (child > 0 && waitpid(child, &st, WNOHANG) == child) {
            *status = WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
            return true;
        }
    }
    return false;
}

static bool ended(int fd)
{
    char waste[256];
    ssize_t n = read(fd, waste, sizeof waste);
    return n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN);
}

static int serve(struct ptn_engine *e, struct ptn_ctl *ctl, const struct signals *sig, pid_t child,
                 bool eof)
{
    struct pollfd fds[PTN_NODES_MAX + PTN_CLIENTS_MAX + 3];
    int status = 0;

    for (;;) {
        unsigned n = 0;
        for (; n < e->count; n++)
            fds[n] = (struct pollfd){.fd = e->node[n].tun, .events = POLLIN};
        unsigned own = n;
        fds[n++] = (struct pollfd){.fd = sig->fd, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = eof ? STDIN_FILENO : -1, .events = POLLIN};
        unsigned ctl_at = n;
        n += ptn_ctl_fds(ctl, fds + n);
        for (unsigned i = 0; i < n; i++)
            fds[i].revents = 0;
        int rc = ptn_engine_turn(e, fds, n);
        if (rc) {
            fprintf(stderr, "ptnet: a device failed: %s\n", strerror(-rc));
            return STATUS_NO_NETWORK;
        }
        if (fds[own].revents && signalled(sig, child, &status))
            return status;
        if (fds[own + 1].revents && ended(STDIN_FILENO))
            return 0;
        if (!ptn_ctl_serve(ctl, e, fds + ctl_at, n - ctl_at))
            return 0;
    }
}

/* ---- run ---- */

static int with_network(struct ptn_engine *e, const struct setup *s, const char *socket,
                        char **argv, char *err)
{
    static struct ptn_ctl ctl;
    struct signals sig;
    char limits[64];

    if (ptn_engine_start(e, s->seed, err) || make_links(e, s, err) || catch_signals(&sig, err) ||
        ptn_ctl_open(&ctl, socket, err))
        return -1;
    pid_t child = 0;
    if (*argv) {
        child = start_command(argv, socket, &sig.old);
    } else {
        printf("ready %s\n", socket);
        fflush(stdout);
    }
    int status = serve(e, &ctl, &sig, child, s->eof);
    ptn_stats_bottleneck(e, limits, sizeof limits);
    if (limits[0])
        fprintf(stderr, "ptnet: the emulator was the bottleneck: %s\n", limits);
    ptn_ctl_close(&ctl);
    close(sig.fd);
    return status;
}

static int run(int argc, char **argv)
{
    static struct ptn_engine e;
    struct setup s = {.mtu = 1500, .seed = 1, .quantum = QUANTUM_NS};
    char err[PTN_ERR_MAX] = "", dir[] = "/tmp/ptnet.XXXXXX", path[64];
    int o;

    while ((o = getopt_long(argc, argv, "+", options, NULL)) != -1)
        if (take_option(&s, o, optarg))
            return STATUS_USAGE;
    if (s.nodes < 2)
        return complain("at least two --node are wanted");
    e.quantum = s.quantum;
    e.spin = s.spin;
    if (!s.socket && !mkdtemp(dir)) {
        fprintf(stderr, "ptnet: %s: %s\n", dir, strerror(errno));
        return STATUS_NO_NETWORK;
    }
    snprintf(path, sizeof path, "%s/ctl", dir);
    int status = ptn_ns_privilege(err);
    if (!status)
        status = make_nodes(&e, &s, err);
    if (!status)
        status = with_network(&e, &s, s.socket ? s.socket : path, argv + optind, err);
    ptn_ns_close(e.node, e.count);
    ptn_engine_free(&e);
    if (!s.socket)
        rmdir(dir);
    if (status < 0)
        fprintf(stderr, "ptnet: %s\n", err);
    return status < 0 ? STATUS_NO_NETWORK : status;
}

/* ---- exec, ctl ---- */

static const char *socket_path(int *argc, char ***argv)
{
    const char *path = getenv("PTNET_SOCKET");

    if (*argc > 1 && !strcmp((*argv)[0], "--socket")) {
        path = (*argv)[1];
        *argc -= 2;
        *argv += 2;
    }
    if (!path)
        complain("which emulator? give --socket PATH or set PTNET_SOCKET");
    return path;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    int rest = argc - 2;
    char **words = argv + 2;

    if (!strcmp(verb, "run"))
        return run(argc - 1, argv + 1);
    if (!strcmp(verb, "self-test"))
        return ptn_selftest(rest > 0 && !strcmp(words[0], "--long"));
    if (!strcmp(verb, "ctl") || !strcmp(verb, "exec")) {
        const char *path = socket_path(&rest, &words);
        if (!path)
            return STATUS_USAGE;
        if (*verb == 'c')
            return ptn_ctl_ask(path, rest, words);
        return rest < 2 ? complain("exec NODE COMMAND...")
                        : ptn_ctl_exec(path, words[0], words + 1);
    }
    bool help = !strcmp(verb, "--help") || !strcmp(verb, "help");
    fprintf(help ? stdout : stderr, "%s%s", usage, ptn_conf_help);
    return help ? 0 : STATUS_USAGE;
}

#define _GNU_SOURCE
#include "ns.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "ptn0"
/* Packets the kernel keeps until they are read; super-packets count once. */
enum { TX_QUEUE = 4096, END_MS = 2000, END_STEP_MS = 20, PREFIX4 = 24, PREFIX6 = 64 };

static int user_ns = -1;

static int fail(char *err, const char *what, const char *detail)
{
    snprintf(err, PTN_ERR_MAX, "%s%s%s: %s", what, *detail ? " " : "", detail, strerror(errno));
    return -1;
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    int e = errno;
    close(fd);
    errno = e;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

/* ---- privilege ---- */

int ptn_ns_privilege(char *err)
{
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();

    int net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int way_back = net < 0 ? -1 : setns(net, CLONE_NEWNET); /* the call that decides */
    if (net >= 0)
        close(net);
    if (!way_back)
        return 0;
    /* There is no way back into a namespace of others: the one to come back to is ours, too. */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
        return fail(err, "not root, and no user namespace to be had", "");
    snprintf(map, sizeof map, "0 %u 1", uid);
    if (write_file("/proc/self/setgroups", "deny") || write_file("/proc/self/uid_map", map))
        return fail(err, "uid_map", "");
    snprintf(map, sizeof map, "0 %u 1", gid);
    if (write_file("/proc/self/gid_map", map))
        return fail(err, "gid_map", "");
    user_ns = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    return user_ns < 0 ? fail(err, "/proc/self/ns/user", "") : 0;
}

int ptn_ns_user(void) { return user_ns; }

/* ---- what is set up inside; the caller is in the namespace ---- */

static int sysctl_set(const char *assignment, char *err)
{
    char path[PTN_ERR_MAX / 2] = "/proc/sys/";
    const char *value = strchr(assignment, '=');
    size_t at = strlen(path);

    errno = EINVAL;
    if (!value || at + (size_t)(value - assignment) >= sizeof path)
        return fail(err, "a sysctl is NAME=VALUE, not", assignment);
    for (const char *p = assignment; p < value; p++)
        path[at++] = *p == '.' ? '/' : *p;
    path[at] = 0;
    return write_file(path, value + 1) ? fail(err, "sysctl", assignment) : 0;
}

/* New namespaces may only have what the first one allows to everybody. To allow it is machine-wide,
 * lets a process choose it for its own sockets and nothing else, and is said. */
int ptn_ns_allow(const char *congestion, char *err)
{
    static const char path[] = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    char text[512], *rest = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text / 2);

    if (fd >= 0)
        close(fd);
    if (n < 0)
        return fail(err, path, "");
    text[n] = 0;
    char words[sizeof text];
    snprintf(words, sizeof words, "%s", text);
    for (char *w = strtok_r(words, " \n", &rest); w; w = strtok_r(NULL, " \n", &rest))
        if (!strcmp(w, congestion))
            return 0;
    text[strcspn(text, "\n")] = 0;
    snprintf(words, sizeof words, "%.255s %.64s", text, congestion);
    if (write_file(path, words))
        return fail(err, "cannot allow TCP congestion control", congestion);
    fprintf(stderr, "ptnet: %s is now among net.ipv4.tcp_allowed_congestion_control\n", congestion);
    return 0;
}

static int sysctls(const struct ptn_ns_opts *o, char *err)
{
    char cc[64];

    /* What one connection learnt of the path must not slow down the next one measured. */
    if (sysctl_set("net.ipv4.tcp_no_metrics_save=1", err))
        return -1;
    if (o->congestion) {
        snprintf(cc, sizeof cc, "net.ipv4.tcp_congestion_control=%s", o->congestion);
        if (sysctl_set(cc, err))
            return -1;
    }
    for (const char *const *s = o->sysctls; s && *s; s++)
        if (sysctl_set(*s, err))
            return -1;
    return 0;
}

static int up(int sock, const char *device, char *err)
{
    struct ifreq ifr = {0};

    snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", device);
    if (ioctl(sock, SIOCGIFFLAGS, &ifr))
        return fail(err, "flags of", device);
    ifr.ifr_flags = (short)(ifr.ifr_flags | IFF_UP);
    return ioctl(sock, SIOCSIFFLAGS, &ifr) ? fail(err, "cannot bring up", device) : 0;
}

static int number(int sock, unsigned long request, int value, const char *what, char *err)
{
    struct ifreq ifr = {.ifr_name = DEVICE};

    if (request == SIOCSIFMTU)
        ifr.ifr_mtu = value;
    else
        ifr.ifr_qlen = value;
    return ioctl(sock, request, &ifr) ? fail(err, what, DEVICE) : 0;
}

static int address4(int sock, const struct ptn_addr *a, char *err)
{
    struct ifreq ifr = {.ifr_name = DEVICE};
    struct sockaddr_in in = {.sin_family = AF_INET};

    memcpy(&in.sin_addr, a->b + 12, 4);
    memcpy(&ifr.ifr_addr, &in, sizeof in);
    if (ioctl(sock, SIOCSIFADDR, &ifr))
        return fail(err, "IPv4 address of", DEVICE);
    in.sin_addr.s_addr = htonl(~0u << (32 - PREFIX4));
    memcpy(&ifr.ifr_netmask, &in, sizeof in);
    return ioctl(sock, SIOCSIFNETMASK, &ifr) ? fail(err, "netmask of", DEVICE) : 0;
}

/* Where IPv6 is switched off IPv4 is enough; the node then has no such address. */
static void address6(struct ptn_addr *a)
{
    int sock = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct in6_ifreq r = {.ifr6_prefixlen = PREFIX6, .ifr6_ifindex = (int)if_nametoindex(DEVICE)};
    memcpy(&r.ifr6_addr, a->b, 16);
    if (sock < 0 || ioctl(sock, SIOCSIFADDR, &r))
        memset(a, 0, sizeof *a);
    if (sock >= 0)
        close(sock);
}

static int tun(char *err)
{
    struct ifreq ifr = {.ifr_name = DEVICE, .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    int size = sizeof(struct virtio_net_hdr);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return fail(err, "/dev/net/tun", "");
    if (ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETVNETHDRSZ, &size) ||
        ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)) {
        fail(err, "tun device", DEVICE);
        close(fd);
        return -1;
    }
    return fd;
}

static int furnish(struct ptn_node *n, const struct ptn_ns_opts *o, char *err)
{
    struct stat st;

    if (n->owned && sysctls(o, err))
        return -1;
    n->net_dev = open("/proc/thread-self/net/dev", O_RDONLY | O_CLOEXEC);
    if (n->net_dev < 0 || fstat(n->ns, &st))
        return fail(err, "/proc/thread-self/net/dev", "");
    n->dev = st.st_dev;
    n->ino = st.st_ino;
    n->tun = tun(err);
    if (n->tun < 0)
        return -1;
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return fail(err, "socket", "");
    /* Only the machine's root may lengthen the queue; the 500 there are do for less than extreme
     * load, and what finds it full is counted as unread. */
    (void)number(sock, SIOCSIFTXQLEN, TX_QUEUE, "queue length of", err);
    int rc = up(sock, "lo", err) || number(sock, SIOCSIFMTU, (int)o->mtu, "MTU of", err) ||
             up(sock, DEVICE, err) || address4(sock, &n->addr[0], err);
    close(sock);
    address6(&n->addr[1]);
    return rc ? -1 : 0;
}

int ptn_ns_open(struct ptn_node *n, unsigned no, const struct ptn_ns_opts *o, char *err)
{
    int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

    n->tun = n->ns = n->net_dev = -1;
    n->owned = !o->path;
    n->addr[0] = (struct ptn_addr){{[10] = 0xff, [11] = 0xff, 10, 77, 0, (uint8_t)(no + 1)}};
    n->addr[1] = (struct ptn_addr){{0xfd, 0x77, [15] = (uint8_t)(no + 1)}};
    if (home < 0)
        return fail(err, "/proc/thread-self/ns/net", "");
    if (o->path) {
        n->ns = open(o->path, O_RDONLY | O_CLOEXEC);
        if (n->ns < 0 || setns(n->ns, CLONE_NEWNET)) {
            close(home);
            return fail(err, "network namespace", o->path);
        }
    } else {
        if (unshare(CLONE_NEWNET)) {
            close(home);
            return fail(err, "no network namespace to be had", "");
        }
        n->ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    }
    int rc = n->ns < 0 ? fail(err, "/proc/thread-self/ns/net", "") : furnish(n, o, err);
    if (setns(home, CLONE_NEWNET)) /* whatever else would be done in the wrong place */
        rc = fail(err, "no way back to the first namespace", "");
    close(home);
    return rc;
}

/* ---- the end ---- */

static bool inside(pid_t pid, const struct ptn_node *nodes, unsigned count)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    if (stat(path, &st))
        return false;
    for (unsigned i = 0; i < count; i++)
        if (nodes[i].owned && nodes[i].ns >= 0 && nodes[i].ino == st.st_ino &&
            nodes[i].dev == st.st_dev)
            return true;
    return false;
}

/* Sends the signal to every process in our namespaces; how many there are. */
static unsigned signal_all(const struct ptn_node *nodes, unsigned count, int sig)
{
    DIR *d = opendir("/proc");
    unsigned found = 0;

    if (!d)
        return 0;
    /* cppcheck-suppress readdirCalled ; one thread, a directory stream of its own */
    for (struct dirent *e; (e = readdir(d));) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        if (pid > 1 && pid != getpid() && inside(pid, nodes, count)) {
            found++;
            kill(pid, sig);
        }
    }
    closedir(d);
    return found;
}

void ptn_ns_close(struct ptn_node *nodes, unsigned count)
{
    struct timespec step = {.tv_nsec = END_STEP_MS * 1000000L};

    if (signal_all(nodes, count, SIGTERM))
        for (int ms = 0; ms < 2 * END_MS; ms += END_STEP_MS) {
            nanosleep(&step, NULL);
            if (!signal_all(nodes, count, ms < END_MS ? 0 : SIGKILL))
                break;
        }
    for (unsigned i = 0; i < count; i++) {
        if (nodes[i].tun >= 0)
            close(nodes[i].tun);
        if (nodes[i].net_dev >= 0)
            close(nodes[i].net_dev);
        if (nodes[i].ns >= 0)
            close(nodes[i].ns);
        nodes[i].tun = nodes[i].net_dev = nodes[i].ns = -1;
    }
}

uint64_t ptn_ns_tun_drops(const struct ptn_node *n)
{
    char text[8192];
    unsigned long long v[12] = {0};
    ssize_t got = pread(n->net_dev, text, sizeof text - 1, 0);

    if (got <= 0)
        return 0;
    text[got] = 0;
    const char *line = strstr(text, DEVICE ":");
    /* receive: bytes packets errs drop fifo frame compressed multicast; transmit: bytes packets
     * errs drop */
    if (!line ||
        sscanf(line + sizeof DEVICE, "%llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu",
               &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9], &v[10],
               &v[11]) != 12)
        return 0;
    return v[11];
}

#include "io/sock.h"
#include "io/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/tcp.h> /* not netinet/tcp.h: glibc's struct tcp_info ends before bytes_acked */
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* tcpi_state; the kernel's TCP_CLOSE, which linux/tcp.h does not have */
enum { STATE_CLOSE = 7 };

static int complain(char *why, size_t why_len, const char *what, int err)
{
    snprintf(why, why_len, "%s: %s", what, pt_errno_name(err));
    return err;
}

/* An option that the protocol does not know is no error. A socket pair answers EOPNOTSUPP, other
 * protocols ENOPROTOOPT. */
static int set_unsigned(int fd, int level, int option, unsigned value)
{
    if (setsockopt(fd, level, option, &value, sizeof value) == 0)
        return 0;
    return errno == ENOPROTOOPT || errno == EOPNOTSUPP ? 0 : -errno;
}

static int set_congestion(int fd, const char *name, char *why, size_t why_len)
{
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0)
        return 0;
    int err = -errno;
    const char *advice = "not possible on this socket";
    if (err == -ENOENT)
        advice = "this kernel has no such congestion control; see "
                 "net.ipv4.tcp_available_congestion_control, modprobe may load it";
    else if (err == -EPERM)
        advice = "not permitted; the administrator can add it to "
                 "net.ipv4.tcp_allowed_congestion_control";
    snprintf(why, why_len, "congestion control \"%.32s\": %s", name, advice);
    return err;
}

static int set_flags(int fd)
{
    int fl = fcntl(fd, F_GETFL);
    if (fl < 0 || ((fl & O_NONBLOCK) && fcntl(fd, F_SETFL, fl & ~O_NONBLOCK) < 0))
        return -errno;
    int fdfl = fcntl(fd, F_GETFD);
    if (fdfl < 0 || fcntl(fd, F_SETFD, fdfl | FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}

int pt_sock_prepare(int fd, const struct pt_sock_opts *o, char *why, size_t why_len)
{
    const struct {
        bool wanted;
        int level, option;
        unsigned value;
        const char *name;
    } table[] = {
        {true, IPPROTO_TCP, TCP_NOTSENT_LOWAT,
         o->notsent_lowat ? o->notsent_lowat : PT_SOCK_NOTSENT_LOWAT_DEFAULT, "TCP_NOTSENT_LOWAT"},
        {o->user_timeout_ms > 0, IPPROTO_TCP, TCP_USER_TIMEOUT, o->user_timeout_ms,
         "TCP_USER_TIMEOUT"},
        {o->keepalive, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"},
        {o->keepalive && o->keepalive_idle_s, IPPROTO_TCP, TCP_KEEPIDLE, o->keepalive_idle_s,
         "TCP_KEEPIDLE"},
        {o->keepalive && o->keepalive_interval_s, IPPROTO_TCP, TCP_KEEPINTVL,
         o->keepalive_interval_s, "TCP_KEEPINTVL"},
        {o->keepalive && o->keepalive_count, IPPROTO_TCP, TCP_KEEPCNT, o->keepalive_count,
         "TCP_KEEPCNT"},
    };

    if (why_len)
        why[0] = '\0';
    int err = set_flags(fd);
    if (err)
        return complain(why, why_len, "fcntl", err);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (!table[i].wanted)
            continue;
        err = set_unsigned(fd, table[i].level, table[i].option, table[i].value);
        if (err)
            return complain(why, why_len, table[i].name, err);
    }
    if (o->congestion && *o->congestion)
        return set_congestion(fd, o->congestion, why, why_len);
    return 0;
}

int pt_sock_dup(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

static void format_address(const struct sockaddr_storage *ss, char *text)
{
    char host[INET6_ADDRSTRLEN], scope[IF_NAMESIZE];

    text[0] = '\0';
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)ss;
        if (inet_ntop(AF_INET, &in->sin_addr, host, sizeof host))
            snprintf(text, PT_SOCK_ADDR_MAX, "%s:%u", host, ntohs(in->sin_port));
    } else if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)ss;
        if (!inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host))
            return;
        bool scoped = in6->sin6_scope_id && if_indextoname(in6->sin6_scope_id, scope);
        snprintf(text, PT_SOCK_ADDR_MAX, "[%s%s%s]:%u", host, scoped ? "%" : "",
                 scoped ? scope : "", ntohs(in6->sin6_port));
    } else if (ss->ss_family == AF_UNIX) {
        snprintf(text, PT_SOCK_ADDR_MAX, "unix");
    }
}

static void tcp_values(int fd, struct pt_sock_info *info)
{
    struct tcp_info ti;
    socklen_t len = sizeof ti;
    memset(&ti, 0, sizeof ti); /* an older kernel fills less */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) != 0)
        return;
    info->rtt_us = ti.tcpi_rtt;
    info->rttvar_us = ti.tcpi_rttvar;
    info->cwnd = ti.tcpi_snd_cwnd;
    info->mss = ti.tcpi_snd_mss;
    info->unacked = ti.tcpi_unacked;
    info->retransmits = ti.tcpi_total_retrans;
    info->notsent = ti.tcpi_notsent_bytes;
    info->bytes_acked = ti.tcpi_bytes_acked;
    info->bytes_received = ti.tcpi_bytes_received;
    info->delivery_rate = ti.tcpi_delivery_rate;
    info->gone = ti.tcpi_state == STATE_CLOSE;
}

int pt_sock_flow(int fd, struct pt_sock_flow *flow)
{
    struct tcp_info ti;
    socklen_t len = sizeof ti;

    memset(flow, 0, sizeof *flow);
    memset(&ti, 0, sizeof ti);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) != 0)
        return -errno;
    flow->lost = ti.tcpi_total_retrans - PT_MIN(ti.tcpi_total_retrans, ti.tcpi_dsack_dups);
    flow->min_rtt_us = ti.tcpi_min_rtt;
    flow->rtt_us = ti.tcpi_rtt;
    flow->delivery_rate = ti.tcpi_delivery_rate;
    flow->in_flight = (uint64_t)ti.tcpi_unacked * ti.tcpi_snd_mss;
    flow->not_sent = ti.tcpi_notsent_bytes;
    flow->peer_window = ti.tcpi_snd_wnd;
    uint32_t memory[SK_MEMINFO_VARS];
    len = sizeof memory;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &len) == 0 &&
        len > SK_MEMINFO_WMEM_QUEUED * sizeof *memory) {
        flow->queued = memory[SK_MEMINFO_WMEM_QUEUED];
        flow->buffer = memory[SK_MEMINFO_SNDBUF];
    }
    return 0;
}

int pt_sock_set_notsent_lowat(int fd, unsigned bytes)
{
    return set_unsigned(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes);
}

static uint32_t queue_length(int fd, unsigned long what)
{
    int n = 0;
    return ioctl(fd, what, &n) == 0 && n > 0 ? (uint32_t)n : 0;
}

int pt_sock_info(int fd, struct pt_sock_info *info)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;

    memset(info, 0, sizeof *info);
    if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
        return -errno;
    format_address(&ss, info->local);
    len = sizeof ss;
    if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0) /* else: not connected any more */
        format_address(&ss, info->remote);
    tcp_values(fd, info);
    /* A reset empties the queue, but Linux goes on telling its length. */
    info->out_queue = info->gone ? 0 : queue_length(fd, SIOCOUTQ);
    info->in_queue = queue_length(fd, SIOCINQ);
    return 0;
}

/* Socket options and state, on TCP over both families and on a socket pair. */
#include "io/sock.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char why[300];

static int option(int fd, int level, int name)
{
    int v = -1;
    socklen_t len = sizeof v;
    ck_assert(getsockopt(fd, level, name, &v, &len) == 0);
    return v;
}

static int tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ck_assert_int_ge(fd, 0);
    return fd;
}

/* False: this machine has no IPv6. */
static bool tcp_pair(int family, int *a, int *b)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    int ls = socket(family, SOCK_STREAM, 0);
    memset(&ss, 0, sizeof ss);
    if (family == AF_INET) {
        struct sockaddr_in *in = (void *)&ss;
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        len = sizeof *in;
    } else {
        struct sockaddr_in6 *in6 = (void *)&ss;
        in6->sin6_family = AF_INET6;
        in6->sin6_addr = in6addr_loopback;
        len = sizeof *in6;
    }
    if (ls < 0 || bind(ls, (struct sockaddr *)&ss, len) != 0) {
        ck_assert_int_eq(family, AF_INET6);
        if (ls >= 0)
            close(ls);
        return false;
    }
    ck_assert(listen(ls, 1) == 0);
    ck_assert(getsockname(ls, (struct sockaddr *)&ss, &len) == 0);
    *a = socket(family, SOCK_STREAM, 0);
    ck_assert(connect(*a, (struct sockaddr *)&ss, len) == 0);
    *b = accept(ls, NULL, NULL);
    ck_assert_int_ge(*b, 0);
    close(ls);
    return true;
}

START_TEST(defaults)
{
    int fd = tcp();
    struct pt_sock_opts o = {0};
    int keepalive = option(fd, SOL_SOCKET, SO_KEEPALIVE);
    int timeout = option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT);
    ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    ck_assert_int_eq(pt_sock_prepare(fd, &o, why, sizeof why), 0);
    ck_assert_str_eq(why, "");
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT), PT_SOCK_NOTSENT_LOWAT_DEFAULT);
    ck_assert_int_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), keepalive);
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), timeout);
    ck_assert_int_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(fd);
}
END_TEST

START_TEST(everything_set)
{
    int fd = tcp();
    struct pt_sock_opts o = {
        .notsent_lowat = 77777,
        .user_timeout_ms = 12345,
        .keepalive = true,
        .keepalive_idle_s = 11,
        .keepalive_interval_s = 7,
        .keepalive_count = 5,
        .congestion = "reno", /* the one every kernel has and permits */
    };
    char cc[16] = "";
    socklen_t len = sizeof cc;
    ck_assert_msg(pt_sock_prepare(fd, &o, why, sizeof why) == 0, "%s", why);
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT), 77777);
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 12345);
    ck_assert_int_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 11);
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 7);
    ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_KEEPCNT), 5);
    ck_assert(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cc, &len) == 0);
    ck_assert_str_eq(cc, "reno");
    close(fd);
}
END_TEST

START_TEST(unknown_congestion_control)
{
    int fd = tcp();
    struct pt_sock_opts o = {.congestion = "no_such_cc"};
    ck_assert_int_eq(pt_sock_prepare(fd, &o, why, sizeof why), -ENOENT);
    ck_assert_msg(strstr(why, "no_such_cc") && strstr(why, "tcp_available_congestion_control"),
                  "%s", why);
    close(fd);
}
END_TEST

START_TEST(bad_value_is_told)
{
    int fd = tcp();
    struct pt_sock_opts o = {.keepalive = true, .keepalive_count = 1000}; /* the most is 127 */
    ck_assert_int_eq(pt_sock_prepare(fd, &o, why, sizeof why), -EINVAL);
    ck_assert_str_eq(why, "TCP_KEEPCNT: EINVAL");
    close(fd);
}
END_TEST

START_TEST(socket_pair)
{
    int p[2];
    struct pt_sock_opts o = {.user_timeout_ms = 1, .keepalive = true, .keepalive_idle_s = 1};
    struct pt_sock_info info;
    ck_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p) == 0);
    ck_assert_msg(pt_sock_prepare(p[0], &o, why, sizeof why) == 0, "%s", why);
    ck_assert_int_eq(fcntl(p[0], F_GETFL) & O_NONBLOCK, 0);
    o.congestion = "reno";
    ck_assert_int_lt(pt_sock_prepare(p[0], &o, why, sizeof why), 0);
    ck_assert_msg(strstr(why, "not possible on this socket") != NULL, "%s", why);
    ck_assert(write(p[0], "abc", 3) == 3);
    ck_assert_int_eq(pt_sock_info(p[1], &info), 0);
    ck_assert_uint_eq(info.in_queue, 3);
    ck_assert_uint_eq(info.rtt_us, 0);
    ck_assert_str_eq(info.local, "unix");
    close(p[0]);
    close(p[1]);
}
END_TEST

START_TEST(not_a_socket)
{
    struct pt_sock_opts o = {0};
    struct pt_sock_info info;
    int p[2];
    ck_assert(pipe(p) == 0);
    ck_assert_int_eq(pt_sock_prepare(p[0], &o, why, sizeof why), -ENOTSOCK);
    ck_assert_ptr_nonnull(strstr(why, "TCP_NOTSENT_LOWAT"));
    ck_assert_int_eq(pt_sock_info(p[0], &info), -ENOTSOCK);
    close(p[0]);
    ck_assert_int_eq(pt_sock_prepare(p[0], &o, why, sizeof why), -EBADF);
    ck_assert_str_eq(why, "fcntl: EBADF");
    ck_assert_int_eq(pt_sock_info(p[0], &info), -EBADF);
    ck_assert_int_eq(pt_sock_dup(p[0]), -EBADF);
    close(p[1]);
}
END_TEST

START_TEST(duplicate)
{
    int a, b, c;
    char byte = 0;
    ck_assert(tcp_pair(AF_INET, &a, &b));
    c = pt_sock_dup(a);
    ck_assert_int_ge(c, 0);
    ck_assert_int_ne(c, a);
    ck_assert_int_eq(fcntl(c, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    close(a);
    ck_assert(send(c, "x", 1, 0) == 1);
    ck_assert(recv(b, &byte, 1, 0) == 1);
    ck_assert_int_eq(byte, 'x');
    close(b);
    close(c);
}
END_TEST

static void check_info(int family, const char *prefix)
{
    int a, b;
    char buf[5000] = {1}, port[16];
    struct pt_sock_info ia, ib;
    if (!tcp_pair(family, &a, &b)) {
        printf("NOT TESTED: IPv6 addresses: this machine has none\n");
        return;
    }
    ck_assert(send(a, buf, sizeof buf, 0) == sizeof buf);
    ck_assert(recv(b, buf, 1000, MSG_WAITALL) == 1000);
    ck_assert(recv(b, buf, 4000, MSG_PEEK | MSG_WAITALL) == 4000); /* all has arrived */
    do { /* and the acknowledgement on its way: the test's own timeout is the deadline */
        ck_assert_int_eq(pt_sock_info(a, &ia), 0);
    } while (ia.bytes_acked < sizeof buf || ia.out_queue);
    ck_assert_int_eq(pt_sock_info(b, &ib), 0);
    ck_assert_uint_eq(ib.in_queue, 4000);
    ck_assert_uint_eq(ib.bytes_received, sizeof buf);
    ck_assert_uint_eq(ia.bytes_received, 0);
    ck_assert_uint_eq(ia.notsent, 0);
    ck_assert_uint_eq(ia.unacked, 0);
    ck_assert_uint_gt(ia.rtt_us, 0);
    ck_assert_uint_gt(ia.cwnd, 0);
    ck_assert_uint_gt(ia.mss, 0);
    ck_assert_str_eq(ia.local, ib.remote);
    ck_assert_str_eq(ia.remote, ib.local);
    ck_assert_str_ne(ia.local, ia.remote);
    ck_assert_msg(strncmp(ia.remote, prefix, strlen(prefix)) == 0, "%s", ia.remote);

    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    ck_assert(getpeername(a, (struct sockaddr *)&ss, &len) == 0);
    snprintf(port, sizeof port, "%u", ntohs(((struct sockaddr_in *)&ss)->sin_port));
    ck_assert_str_eq(ia.remote + strlen(prefix), port);
    close(a);
    close(b);
}

START_TEST(info_ipv4) { check_info(AF_INET, "127.0.0.1:"); }
END_TEST
START_TEST(info_ipv6) { check_info(AF_INET6, "[::1]:"); }
END_TEST

/* Nobody reads: what waits is seen where it waits. */
START_TEST(info_of_a_full_window)
{
    int a, b;
    static char buf[65536];
    struct pt_sock_opts o = {0};
    struct pt_sock_info info;
    ck_assert(tcp_pair(AF_INET, &a, &b));
    ck_assert_int_eq(pt_sock_prepare(a, &o, why, sizeof why), 0);
    do { /* again, if the window was still growing */
        while (send(a, buf, sizeof buf, MSG_DONTWAIT) > 0) {
        }
        ck_assert_int_eq(errno, EAGAIN);
        ck_assert_int_eq(pt_sock_info(a, &info), 0);
    } while (info.notsent == 0);
    ck_assert_uint_gt(info.notsent, 0);
    ck_assert_uint_ge(info.out_queue, info.notsent);
    /* the limit, exceeded by one buffer at most */
    ck_assert_uint_le(info.notsent, PT_SOCK_NOTSENT_LOWAT_DEFAULT + 2 * sizeof buf);
    close(a);
    close(b);
}
END_TEST

/* The peer closes with unread input, which resets the connection: nothing is under way any more,
 * whatever the kernel says of the queue. A closing port would wait for it. */
START_TEST(info_of_a_reset_connection)
{
    int a, b;
    static char buf[65536];
    struct pt_sock_info info;
    ck_assert(tcp_pair(AF_INET, &a, &b));
    while (send(a, buf, sizeof buf, MSG_DONTWAIT) > 0) {
    }
    ck_assert_int_eq(pt_sock_info(a, &info), 0);
    ck_assert(!info.gone);
    ck_assert_uint_gt(info.out_queue, 0);
    close(b);
    do
        ck_assert_int_eq(pt_sock_info(a, &info), 0);
    while (!info.gone);
    ck_assert_uint_eq(info.out_queue, 0);
    close(a);
}
END_TEST

START_TEST(not_connected)
{
    int fd = tcp();
    struct pt_sock_info info;
    ck_assert_int_eq(pt_sock_info(fd, &info), 0);
    ck_assert_str_eq(info.remote, "");
    ck_assert_str_eq(info.local, "0.0.0.0:0");
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sock");
    TCase *t = tcase_create("sock");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, defaults);
    tcase_add_test(t, everything_set);
    tcase_add_test(t, unknown_congestion_control);
    tcase_add_test(t, bad_value_is_told);
    tcase_add_test(t, socket_pair);
    tcase_add_test(t, not_a_socket);
    tcase_add_test(t, duplicate);
    tcase_add_test(t, info_ipv4);
    tcase_add_test(t, info_ipv6);
    tcase_add_test(t, info_of_a_full_window);
    tcase_add_test(t, info_of_a_reset_connection);
    tcase_add_test(t, not_connected);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

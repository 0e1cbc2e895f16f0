/*
 * A C node for plain_peer_SUITE, through ei and nothing else.
 *
 *   cnode connect NAME@IP COOKIE PEER   connects to PEER and reports to pt_cnode there
 *   cnode accept  NAME@IP COOKIE        publishes itself at epmd and takes one connection
 *
 * Then it serves {echo, Pid, Term}: sends {cnode, Term} to Pid; {stop, Pid}: ends. Both modes listen:
 * whoever is connected has no reason to connect again, and a second connection that waits at the end
 * is reported.
 *
 * Exit status: 0 stopped as told, 2 failure of ei (a line on stderr says where), 3 a second
 * connection, 4 the connection broke.
 */
#include <arpa/inet.h>
#include <ei.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MS_ACCEPT 60000
/* Longer than any test case; ends a node that the test has forgotten. */
#define MS_IDLE 120000

static void die(int status, const char *what)
{
    fprintf(stderr, "cnode: %s: erl_errno %d\n", what, erl_errno);
    exit(status);
}

static void check(int result, const char *what)
{
    if (result < 0) {
        die(2, what);
    }
}

/* Sends {cnode, Term} to a pid; term: the encoded term without version, length in bytes. */
static void echo(int fd, erlang_pid *to, const char *term, int length)
{
    ei_x_buff out;

    check(ei_x_new_with_version(&out), "ei_x_new_with_version");
    check(ei_x_encode_tuple_header(&out, 2), "encode");
    check(ei_x_encode_atom(&out, "cnode"), "encode");
    check(ei_x_append_buf(&out, term, length), "encode");
    check(ei_send(fd, to, out.buff, out.index), "ei_send");
    ei_x_free(&out);
}

/* True when told to stop. */
static int serve(int fd, const ei_x_buff *in)
{
    int index = 0, version, arity, start;
    char what[MAXATOMLEN];
    erlang_pid from;

    check(ei_decode_version(in->buff, &index, &version), "decode version");
    check(ei_decode_tuple_header(in->buff, &index, &arity), "decode tuple");
    check(ei_decode_atom(in->buff, &index, what), "decode atom");
    check(ei_decode_pid(in->buff, &index, &from), "decode pid");
    if (strcmp(what, "stop") == 0) {
        return 1;
    }
    start = index;
    check(ei_skip_term(in->buff, &index), "skip term");
    echo(fd, &from, in->buff + start, index - start);
    return 0;
}

static void report(ei_cnode *ec, int fd)
{
    ei_x_buff out;
    erlang_pid self;

    check(ei_make_pid(ec, &self), "ei_make_pid");
    check(ei_x_new_with_version(&out), "ei_x_new_with_version");
    check(ei_x_encode_tuple_header(&out, 2), "encode");
    check(ei_x_encode_atom(&out, "up"), "encode");
    check(ei_x_encode_pid(&out, &self), "encode");
    check(ei_reg_send(ec, fd, "pt_cnode", out.buff, out.index), "ei_reg_send");
    ei_x_free(&out);
}

int main(int argc, char **argv)
{
    ei_cnode ec;
    char alive[MAXNODELEN], *host;
    struct in_addr ip;
    int fd, lfd, port = 0, connecting;
    ErlConnect peer;
    ei_x_buff in;

    if (argc < 4 || (connecting = strcmp(argv[1], "connect") == 0) != (argc == 5)) {
        fprintf(stderr, "usage: cnode connect NAME@IP COOKIE PEER | cnode accept NAME@IP COOKIE\n");
        return 2;
    }
    snprintf(alive, sizeof alive, "%s", argv[2]);
    host = strchr(alive, '@');
    if (host == NULL || inet_aton(host + 1, &ip) == 0) {
        fprintf(stderr, "cnode: no IP address in %s\n", argv[2]);
        return 2;
    }
    *host++ = '\0';
    check(ei_init(), "ei_init");
    check(ei_connect_xinit(&ec, host, alive, argv[2], (Erl_IpAddr)&ip, argv[3], 1),
          "ei_connect_xinit");
    check(lfd = ei_listen(&ec, &port, 5), "ei_listen");
    check(ei_publish(&ec, port), "ei_publish");
    printf("ready\n");
    fflush(stdout);
    if (connecting) {
        check(fd = ei_connect(&ec, argv[4]), "ei_connect");
        report(&ec, fd);
    } else {
        check(fd = ei_accept_tmo(&ec, lfd, &peer, MS_ACCEPT), "ei_accept");
    }

    check(ei_x_new(&in), "ei_x_new");
    for (;;) {
        erlang_msg msg;
        int got;

        in.index = 0;
        got = ei_xreceive_msg_tmo(fd, &msg, &in, MS_IDLE);
        if (got == ERL_TICK) {
            continue;
        }
        if (got != ERL_MSG) {
            die(4, "receive");
        }
        if ((msg.msgtype == ERL_SEND || msg.msgtype == ERL_REG_SEND) && serve(fd, &in)) {
            struct pollfd more = {.fd = lfd, .events = POLLIN};

            if (poll(&more, 1, 0) != 0) {
                die(3, "a second connection");
            }
            return 0;
        }
    }
}

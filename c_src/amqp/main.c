/* partisan_amqp: a port program of the node, one connection to an AMQP broker for as long as it runs.
 *
 * A program and no driver: librabbitmq blocks (name look-ups, TLS, a broker that takes nothing), and
 * what goes wrong in it or in its TLS ends a process of its own and not the node. It keeps nothing: the
 * node has every message until it is confirmed, and starts another program when this one has ended.
 *
 * Frames (amqp/codec.h) come on stdin and leave on stdout. The first one is an open; the end of stdin is
 * the end. Exit status 0: told to end; 1: the connection failed, said in a last frame; 2: bad frames.
 */
#include "amqp/conn.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    IN_ROOM = 64 * 1024,
    OUT_ROOM = 64 * 1024,
    ROUND = 256, /* methods of the broker between two looks at the node */
    TICK = 500,  /* ms; heartbeats are due in seconds */
    WHY_SIZE = 512,
};

static struct {
    uint8_t *at;
    size_t room, len;
} in;

static struct {
    uint8_t at[OUT_ROOM];
    size_t len;
} out;

static void write_all(const uint8_t *p, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            _exit(0); /* the node is gone */
        p += n;
        len -= (size_t)n;
    }
}

static void flush(void)
{
    write_all(out.at, out.len);
    out.len = 0;
}

static void emit(void *arg, uint8_t op, uint64_t a, uint16_t b, const void *more, size_t len)
{
    uint8_t head[PT_AMQP_HEAD_MAX];
    size_t n = pt_amqp_put(head, op, a, b, len);

    (void)arg;
    if (out.len + n + len > sizeof out.at)
        flush();
    if (n + len > sizeof out.at) {
        write_all(head, n);
        write_all(more, len);
        return;
    }
    memcpy(out.at + out.len, head, n);
    if (len > 0)
        memcpy(out.at + out.len + n, more, len);
    out.len += n + len;
}

static int failed(const char *why)
{
    emit(NULL, PT_AMQP_FAILED, 0, 0, why, strlen(why));
    flush();
    return 1;
}

/* Reads once. False at the end of stdin. */
static bool fill(void)
{
    if (in.len == in.room) {
        size_t room = in.room ? in.room * 2 : IN_ROOM;
        uint8_t *at = realloc(in.at, room);
        if (!at)
            return false;
        in.at = at;
        in.room = room;
    }
    ssize_t n = read(STDIN_FILENO, in.at + in.len, in.room - in.len);
    if (n > 0)
        in.len += (size_t)n;
    return n > 0 || (n < 0 && errno == EINTR);
}

/* The size of the frame at `off` with its length, 0 while it is not whole, PT_E_BAD_FRAME. */
static int64_t whole(size_t off)
{
    if (in.len - off < 4)
        return 0;
    uint32_t len = pt_get32(in.at + off);
    if (len > PT_AMQP_FRAME_MAX)
        return PT_E_BAD_FRAME;
    return in.len - off - 4 < len ? 0 : (int64_t)len + 4;
}

static void drop(size_t n)
{
    in.len -= n;
    memmove(in.at, in.at + n, in.len);
    if (in.len == 0 && in.room > IN_ROOM) { /* a large message must not cost its memory for ever */
        free(in.at);
        in.at = NULL;
        in.room = 0;
    }
}

static struct pt_amqp_conn *start(char *why, int *status)
{
    struct pt_amqp_cmd cmd;
    int64_t n;

    *status = 0;
    while ((n = whole(0)) == 0)
        if (!fill())
            return NULL;
    *status = 2;
    if (n < 0 || pt_amqp_decode(in.at + 4, (size_t)n - 4, &cmd) != 0 || cmd.op != PT_AMQP_OPEN)
        return NULL;
    struct pt_amqp_conn *c = pt_amqp_connect(&cmd, why, WHY_SIZE);
    explicit_bzero(in.at, (size_t)n); /* a password is in it */
    drop((size_t)n);
    *status = c ? 0 : failed(why);
    return c;
}

/* Carries out what is there in whole frames. 0; 1 when the connection failed; 2 on a bad frame. */
static int commands(struct pt_amqp_conn *c, char *why)
{
    struct pt_amqp_cmd cmd;
    size_t off = 0;
    int64_t n;

    while ((n = whole(off)) > 0) {
        int rc = -EIO;
        if (pt_amqp_decode(in.at + off + 4, (size_t)n - 4, &cmd) != 0 || cmd.op == PT_AMQP_OPEN)
            return 2;
        if (cmd.op == PT_AMQP_PUBLISH)
            rc = pt_amqp_publish(c, &cmd, why, WHY_SIZE);
        else
            rc = pt_amqp_ack(c, cmd.ack, why, WHY_SIZE);
        if (rc != 0)
            return failed(why);
        off += (size_t)n;
    }
    if (off > 0)
        drop(off);
    return n < 0 ? 2 : 0;
}

static int run(struct pt_amqp_conn *c, char *why)
{
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = pt_amqp_fd(c), .events = POLLIN}};
    int status;

    emit(NULL, PT_AMQP_READY, 0, 0, NULL, 0);
    flush();
    for (;;) {
        if (poll(fds, 2, pt_amqp_pending(c) ? 0 : TICK) < 0) {
            if (errno != EINTR)
                return 2;
            continue; /* what poll() left in fds is from before */
        }
        if (fds[0].revents && !fill())
            return 0;
        if ((status = commands(c, why)) != 0)
            return status;
        if (pt_amqp_read(c, ROUND, emit, NULL, why, WHY_SIZE) != 0)
            return failed(why);
        flush();
    }
}

int main(void)
{
    char why[WHY_SIZE] = "";
    int status;

    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return 2;
    struct pt_amqp_conn *c = start(why, &status);
    if (c) {
        status = run(c, why);
        pt_amqp_close(c);
    }
    free(in.at);
    return status;
}

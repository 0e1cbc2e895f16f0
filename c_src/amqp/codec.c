#include "amqp/codec.h"

#include <string.h>

/* A reader that says at its end whether everything was there. */
struct in {
    const uint8_t *p;
    size_t left;
    bool bad;
};

static const uint8_t *take(struct in *in, size_t n)
{
    static const uint8_t nothing[8];
    const uint8_t *at = in->p;

    if (in->left < n) {
        in->bad = true;
        return n <= sizeof nothing ? nothing : NULL;
    }
    in->p += n;
    in->left -= n;
    return at;
}

static uint8_t get8(struct in *in) { return *take(in, 1); }
static uint16_t get16(struct in *in) { return pt_get16(take(in, 2)); }
static uint32_t get32(struct in *in) { return pt_get32(take(in, 4)); }
static uint64_t get64(struct in *in) { return pt_get64(take(in, 8)); }

static struct pt_amqp_str get_str(struct in *in)
{
    size_t len = get16(in);
    const uint8_t *at = take(in, len);

    if (in->bad)
        return (struct pt_amqp_str){"", 0};
    if (memchr(at, 0, len))
        in->bad = true;
    return (struct pt_amqp_str){(const char *)at, len};
}

static void get_open(struct in *in, struct pt_amqp_cmd *cmd)
{
    if (get8(in) != PT_AMQP_VERSION)
        in->bad = true;
    cmd->open.role = get8(in);
    if (cmd->open.role != PT_AMQP_PUBLISHER && cmd->open.role != PT_AMQP_CONSUMER)
        in->bad = true;
    cmd->open.flags = get8(in);
    cmd->open.port = get16(in);
    cmd->open.heartbeat = get16(in);
    cmd->open.prefetch = get16(in);
    cmd->open.timeout = get32(in);
    cmd->open.expires = get32(in);
    cmd->open.max_bytes = get64(in);
    for (int i = 0; i < PT_AMQP_WORDS; i++)
        cmd->open.word[i] = get_str(in);
}

int pt_amqp_decode(const uint8_t *p, size_t len, struct pt_amqp_cmd *cmd)
{
    struct in in = {p, len, false};

    memset(cmd, 0, sizeof *cmd);
    cmd->op = get8(&in);
    switch (cmd->op) {
    case PT_AMQP_OPEN: get_open(&in, cmd); break;
    case PT_AMQP_PUBLISH:
        cmd->publish.flags = get8(&in);
        cmd->publish.id = get64(&in);
        cmd->publish.key = get_str(&in);
        cmd->publish.body = in.p;
        cmd->publish.len = in.left;
        in.left = 0;
        break;
    case PT_AMQP_ACK: cmd->ack = get64(&in); break;
    default: return PT_E_BAD_FRAME;
    }
    return in.bad || in.left != 0 ? PT_E_BAD_FRAME : 0;
}

size_t pt_amqp_put(uint8_t at[PT_AMQP_HEAD_MAX], uint8_t op, uint64_t a, uint16_t b, size_t more)
{
    size_t n = 4;

    at[n++] = op;
    switch (op) {
    case PT_AMQP_CONFIRM:
    case PT_AMQP_NACK:
    case PT_AMQP_DELIVER:
        pt_put64(at + n, a);
        at[n + 8] = (uint8_t)b;
        n += 9;
        break;
    case PT_AMQP_RETURNED:
        pt_put64(at + n, a);
        pt_put16(at + n + 8, b);
        n += 10;
        break;
    default: break;
    }
    pt_put32(at, (uint32_t)(n - 4 + more));
    return n;
}

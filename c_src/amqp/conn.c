#include "amqp/conn.h"

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    CHANNEL = 1,
    /* Of heartbeats that a node which does not read leaves with the broker; the oldest go. */
    FANOUT_QUEUE_MAX = 10000,
    CLOSE_TIMEOUT = 2, /* s */
};

struct pt_amqp_conn {
    amqp_connection_state_t state;
    char *word[PT_AMQP_WORDS];
    bool up;
};

static amqp_bytes_t bytes(struct pt_amqp_str s)
{
    /* librabbitmq's bytes are not const; it does not write to what it sends. */
    return (amqp_bytes_t){s.len, (void *)(uintptr_t)s.at};
}

static amqp_bytes_t word(const struct pt_amqp_conn *c, enum pt_amqp_word w)
{
    return amqp_cstring_bytes(c->word[w]);
}

static int lib_error(int status, const char *doing, char *why, size_t size)
{
    snprintf(why, size, "%s: %s", doing, amqp_error_string2(status));
    return -EIO;
}

/* The words of the broker, when it closed the channel or the connection. */
static void closed_words(amqp_method_t m, const char *doing, char *why, size_t size)
{
    amqp_bytes_t text = amqp_empty_bytes;

    if (m.id == AMQP_CONNECTION_CLOSE_METHOD)
        text = ((amqp_connection_close_t *)m.decoded)->reply_text;
    else if (m.id == AMQP_CHANNEL_CLOSE_METHOD)
        text = ((amqp_channel_close_t *)m.decoded)->reply_text;
    snprintf(why, size, "%s: the broker says %.*s", doing, (int)text.len, (const char *)text.bytes);
}

static int reply_error(amqp_rpc_reply_t r, const char *doing, char *why, size_t size)
{
    switch (r.reply_type) {
    case AMQP_RESPONSE_NORMAL: return 0;
    case AMQP_RESPONSE_LIBRARY_EXCEPTION: return lib_error(r.library_error, doing, why, size);
    case AMQP_RESPONSE_SERVER_EXCEPTION: closed_words(r.reply, doing, why, size); return -EIO;
    default: snprintf(why, size, "%s: no answer", doing); return -EIO;
    }
}

static int answered(struct pt_amqp_conn *c, const char *doing, char *why, size_t size)
{
    return reply_error(amqp_get_rpc_reply(c->state), doing, why, size);
}

/* ---- connecting ---- */

static int secure(struct pt_amqp_conn *c, amqp_socket_t *s, bool verify, char *why, size_t size)
{
    int rc;

    /* librabbitmq would take TLS 1.0. */
    rc = amqp_ssl_socket_set_ssl_versions(s, AMQP_TLSv1_2, AMQP_TLSvLATEST);
    if (rc != AMQP_STATUS_OK)
        return lib_error(rc, "TLS 1.2", why, size);
    amqp_ssl_socket_set_verify_peer(s, verify);
    amqp_ssl_socket_set_verify_hostname(s, verify);
    if (*c->word[PT_AMQP_CA]) {
        rc = amqp_ssl_socket_set_cacert(s, c->word[PT_AMQP_CA]);
        if (rc != AMQP_STATUS_OK) {
            snprintf(why, size, "no CA certificate can be read from %s", c->word[PT_AMQP_CA]);
            return -EIO;
        }
    }
    if (*c->word[PT_AMQP_CERT]) {
        rc = amqp_ssl_socket_set_key(s, c->word[PT_AMQP_CERT], c->word[PT_AMQP_KEY]);
        if (rc != AMQP_STATUS_OK) {
            snprintf(why, size, "certificate %s and key %s are no pair that can be read",
                     c->word[PT_AMQP_CERT], c->word[PT_AMQP_KEY]);
            return -EIO;
        }
    }
    return 0;
}

static struct timeval millis(uint32_t ms)
{
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
}

static int dial(struct pt_amqp_conn *c, const struct pt_amqp_cmd *cmd, char *why, size_t size)
{
    bool tls = cmd->open.flags & PT_AMQP_F_TLS;
    struct timeval timeout = millis(cmd->open.timeout);
    amqp_socket_t *s = tls ? amqp_ssl_socket_new(c->state) : amqp_tcp_socket_new(c->state);

    if (!s) {
        snprintf(why, size, "no memory for a socket");
        return -EIO;
    }
    if (tls && secure(c, s, cmd->open.flags & PT_AMQP_F_VERIFY, why, size) != 0)
        return -EIO;
    int rc = amqp_socket_open_noblock(s, c->word[PT_AMQP_HOST], cmd->open.port, &timeout);
    if (rc != AMQP_STATUS_OK)
        return lib_error(rc, "connecting", why, size);

    /* librabbitmq waits for ever for a broker that takes nothing; the kernel does not. */
    unsigned user_timeout = cmd->open.timeout;
    if (setsockopt(amqp_get_sockfd(c->state), IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout,
                   sizeof user_timeout) != 0) {
        snprintf(why, size, "setting TCP_USER_TIMEOUT: errno %d", errno);
        return -EIO;
    }
    return 0;
}

static amqp_table_entry_t entry(const char *key, uint8_t kind)
{
    amqp_table_entry_t e = {.key = amqp_cstring_bytes(key)};
    e.value.kind = kind;
    return e;
}

static int login(struct pt_amqp_conn *c, const struct pt_amqp_cmd *cmd, char *why, size_t size)
{
    struct timeval timeout = millis(cmd->open.timeout);
    amqp_table_entry_t can = entry("connection.blocked", AMQP_FIELD_KIND_BOOLEAN);
    amqp_table_entry_t says[2] = {entry("capabilities", AMQP_FIELD_KIND_TABLE),
                                  entry("connection_name", AMQP_FIELD_KIND_UTF8)};
    amqp_table_t properties = {2, says};

    can.value.value.boolean = 1;
    says[0].value.value.table = (amqp_table_t){1, &can};
    says[1].value.value.bytes = word(c, PT_AMQP_NAME);
    if (amqp_set_handshake_timeout(c->state, &timeout) != AMQP_STATUS_OK ||
        amqp_set_rpc_timeout(c->state, &timeout) != AMQP_STATUS_OK) {
        snprintf(why, size, "a timeout of %u ms is not possible", cmd->open.timeout);
        return -EIO;
    }
    amqp_rpc_reply_t r = amqp_login_with_properties(
        c->state, c->word[PT_AMQP_VHOST], 1, AMQP_DEFAULT_FRAME_SIZE, cmd->open.heartbeat,
        &properties, AMQP_SASL_METHOD_PLAIN, c->word[PT_AMQP_USER], c->word[PT_AMQP_PASSWORD]);
    if (reply_error(r, "logging in", why, size) != 0)
        return -EIO;
    c->up = true;
    amqp_channel_open(c->state, CHANNEL);
    return answered(c, "opening a channel", why, size);
}

static int exchanges(struct pt_amqp_conn *c, char *why, size_t size)
{
    amqp_exchange_declare(c->state, CHANNEL, word(c, PT_AMQP_DIRECT), amqp_cstring_bytes("direct"),
                          0, 1, 0, 0, amqp_empty_table);
    if (answered(c, "declaring the exchange for messages", why, size) != 0)
        return -EIO;
    amqp_exchange_declare(c->state, CHANNEL, word(c, PT_AMQP_FANOUT), amqp_cstring_bytes("fanout"),
                          0, 1, 0, 0, amqp_empty_table);
    return answered(c, "declaring the exchange for membership", why, size);
}

/* The queue for messages outlives the connection, and is this consumer's alone: two nodes of one name
 * would share it, and a connection of before that the broker still believes in would mix the order. */
static int node_queue(struct pt_amqp_conn *c, const struct pt_amqp_cmd *cmd, char *why, size_t size)
{
    amqp_table_entry_t args[3] = {entry("x-expires", AMQP_FIELD_KIND_I64),
                                  entry("x-max-length-bytes", AMQP_FIELD_KIND_I64),
                                  entry("x-overflow", AMQP_FIELD_KIND_UTF8)};

    args[0].value.value.i64 = (int64_t)cmd->open.expires;
    args[1].value.value.i64 = (int64_t)cmd->open.max_bytes;
    args[2].value.value.bytes = amqp_cstring_bytes("reject-publish");
    amqp_queue_declare(c->state, CHANNEL, word(c, PT_AMQP_QUEUE), 0, 1, 0, 0,
                       (amqp_table_t){3, args});
    if (answered(c, "declaring the queue", why, size) != 0)
        return -EIO;
    amqp_queue_bind(c->state, CHANNEL, word(c, PT_AMQP_QUEUE), word(c, PT_AMQP_DIRECT),
                    word(c, PT_AMQP_QUEUE), amqp_empty_table);
    if (answered(c, "binding the queue", why, size) != 0)
        return -EIO;
    amqp_basic_qos(c->state, CHANNEL, 0, cmd->open.prefetch, 0);
    if (answered(c, "setting the prefetch", why, size) != 0)
        return -EIO;
    amqp_basic_consume(c->state, CHANNEL, word(c, PT_AMQP_QUEUE), amqp_cstring_bytes("m"), 0, 0, 1,
                       amqp_empty_table);
    return answered(c, "consuming from the queue", why, size);
}

/* Old heartbeats are worth nothing: this queue is gone with the connection. */
static int fanout_queue(struct pt_amqp_conn *c, char *why, size_t size)
{
    amqp_table_entry_t most = entry("x-max-length", AMQP_FIELD_KIND_I64);

    most.value.value.i64 = FANOUT_QUEUE_MAX;
    amqp_queue_declare_ok_t *ok = amqp_queue_declare(c->state, CHANNEL, amqp_empty_bytes, 0, 0, 1,
                                                     1, (amqp_table_t){1, &most});
    if (answered(c, "declaring the queue for membership", why, size) != 0)
        return -EIO;
    amqp_bytes_t name = amqp_bytes_malloc_dup(ok->queue);
    if (!name.bytes) {
        snprintf(why, size, "no memory");
        return -EIO;
    }
    amqp_queue_bind(c->state, CHANNEL, name, word(c, PT_AMQP_FANOUT), amqp_empty_bytes,
                    amqp_empty_table);
    int rc = answered(c, "binding the queue for membership", why, size);
    if (rc == 0) {
        amqp_basic_consume(c->state, CHANNEL, name, amqp_cstring_bytes("f"), 0, 1, 1,
                           amqp_empty_table);
        rc = answered(c, "consuming from the queue for membership", why, size);
    }
    amqp_bytes_free(name);
    return rc;
}

static int set_up(struct pt_amqp_conn *c, const struct pt_amqp_cmd *cmd, char *why, size_t size)
{
    if (dial(c, cmd, why, size) != 0 || login(c, cmd, why, size) != 0 ||
        exchanges(c, why, size) != 0)
        return -EIO;
    if (cmd->open.role == PT_AMQP_PUBLISHER) {
        amqp_confirm_select(c->state, CHANNEL);
        return answered(c, "asking for confirms", why, size);
    }
    int rc = fanout_queue(c, why, size);
    return rc == 0 ? node_queue(c, cmd, why, size) : rc;
}

struct pt_amqp_conn *pt_amqp_connect(const struct pt_amqp_cmd *open, char *why, size_t size)
{
    struct pt_amqp_conn *c = calloc(1, sizeof *c);
    bool room = c && (c->state = amqp_new_connection());

    for (int i = 0; room && i < PT_AMQP_WORDS; i++)
        room = (c->word[i] = strndup(open->open.word[i].at, open->open.word[i].len)) != NULL;
    if (!room)
        snprintf(why, size, "no memory");
    else if (set_up(c, open, why, size) == 0)
        return c;
    if (c)
        pt_amqp_close(c);
    return NULL;
}

void pt_amqp_close(struct pt_amqp_conn *c)
{
    if (c->up) {
        struct timeval soon = {.tv_sec = CLOSE_TIMEOUT};
        if (amqp_set_rpc_timeout(c->state, &soon) == AMQP_STATUS_OK)
            (void)amqp_connection_close(c->state, AMQP_REPLY_SUCCESS);
    }
    if (c->state)
        (void)amqp_destroy_connection(c->state);
    for (int i = 0; i < PT_AMQP_WORDS; i++)
        free(c->word[i]);
    free(c);
}

int pt_amqp_fd(const struct pt_amqp_conn *c) { return amqp_get_sockfd(c->state); }

bool pt_amqp_pending(struct pt_amqp_conn *c)
{
    return amqp_frames_enqueued(c->state) || amqp_data_in_buffer(c->state);
}

/* ---- traffic ---- */

/* A return has the message itself, and only what is in it says which one it is. */
int pt_amqp_publish(struct pt_amqp_conn *c, const struct pt_amqp_cmd *cmd, char *why, size_t size)
{
    bool fanout = cmd->publish.flags & PT_AMQP_F_FANOUT;
    uint8_t id[8];
    amqp_basic_properties_t props = {
        ._flags = AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG,
        .message_id = {sizeof id, id},
        .delivery_mode = cmd->publish.flags & PT_AMQP_F_PERSISTENT ? AMQP_DELIVERY_PERSISTENT
                                                                   : AMQP_DELIVERY_NONPERSISTENT,
    };

    pt_put64(id, cmd->publish.id);
    int rc = amqp_basic_publish(
        c->state, CHANNEL, word(c, fanout ? PT_AMQP_FANOUT : PT_AMQP_DIRECT),
        bytes(cmd->publish.key), (cmd->publish.flags & PT_AMQP_F_MANDATORY) != 0, 0, &props,
        (amqp_bytes_t){cmd->publish.len, (void *)(uintptr_t)cmd->publish.body});
    if (rc == AMQP_STATUS_OK)
        return 0;
    c->up = false;
    return lib_error(rc, "publishing", why, size);
}

int pt_amqp_ack(struct pt_amqp_conn *c, uint64_t tag, char *why, size_t size)
{
    int rc = amqp_basic_ack(c->state, CHANNEL, tag, 0);

    if (rc == AMQP_STATUS_OK)
        return 0;
    c->up = false;
    return lib_error(rc, "acknowledging", why, size);
}

/* The content behind basic.deliver and basic.return. */
static int content(struct pt_amqp_conn *c, const amqp_method_t *m, pt_amqp_emit *emit, void *arg,
                   char *why, size_t size)
{
    amqp_message_t msg;

    if (reply_error(amqp_read_message(c->state, CHANNEL, &msg, 0), "reading a message", why,
                    size) != 0)
        return -EIO;
    if (m->id == AMQP_BASIC_RETURN_METHOD) {
        const amqp_basic_return_t *r = m->decoded;
        amqp_bytes_t id = msg.properties.message_id;
        if ((msg.properties._flags & AMQP_BASIC_MESSAGE_ID_FLAG) && id.len == 8)
            emit(arg, PT_AMQP_RETURNED, pt_get64(id.bytes), r->reply_code, NULL, 0);
    } else {
        const amqp_basic_deliver_t *d = m->decoded;
        bool fanout = d->consumer_tag.len == 1 && *(const char *)d->consumer_tag.bytes == 'f';
        emit(arg, PT_AMQP_DELIVER, d->delivery_tag, fanout, msg.body.bytes, msg.body.len);
    }
    amqp_destroy_message(&msg);
    return 0;
}

static int method(struct pt_amqp_conn *c, const amqp_method_t *m, pt_amqp_emit *emit, void *arg,
                  char *why, size_t size)
{
    switch (m->id) {
    case AMQP_BASIC_DELIVER_METHOD:
    case AMQP_BASIC_RETURN_METHOD: return content(c, m, emit, arg, why, size);
    case AMQP_BASIC_ACK_METHOD: {
        const amqp_basic_ack_t *a = m->decoded;
        emit(arg, PT_AMQP_CONFIRM, a->delivery_tag, a->multiple != 0, NULL, 0);
        return 0;
    }
    case AMQP_BASIC_NACK_METHOD: {
        const amqp_basic_nack_t *a = m->decoded;
        emit(arg, PT_AMQP_NACK, a->delivery_tag, a->multiple != 0, NULL, 0);
        return 0;
    }
    case AMQP_CONNECTION_BLOCKED_METHOD: {
        const amqp_connection_blocked_t *b = m->decoded;
        emit(arg, PT_AMQP_BLOCKED, 0, 0, b->reason.bytes, b->reason.len);
        return 0;
    }
    case AMQP_CONNECTION_UNBLOCKED_METHOD: emit(arg, PT_AMQP_UNBLOCKED, 0, 0, NULL, 0); return 0;
    case AMQP_BASIC_CANCEL_METHOD:
        snprintf(why, size, "the broker has deleted the node's queue");
        return -EIO;
    case AMQP_CHANNEL_CLOSE_METHOD:
    case AMQP_CONNECTION_CLOSE_METHOD: closed_words(*m, "closed", why, size); return -EIO;
    default: return 0; /* of a newer broker */
    }
}

int pt_amqp_read(struct pt_amqp_conn *c, int most, pt_amqp_emit *emit, void *arg, char *why,
                 size_t size)
{
    struct timeval now = {0};
    amqp_frame_t frame;

    for (int i = 0; i < most; i++) {
        amqp_maybe_release_buffers(c->state);
        int rc = amqp_simple_wait_frame_noblock(c->state, &frame, &now);
        if (rc == AMQP_STATUS_TIMEOUT)
            return 0;
        if (rc != AMQP_STATUS_OK) {
            c->up = false;
            return lib_error(rc, "connection lost", why, size);
        }
        if (frame.frame_type == AMQP_FRAME_METHOD &&
            method(c, &frame.payload.method, emit, arg, why, size) != 0) {
            c->up = false;
            return -EIO;
        }
    }
    return 0;
}

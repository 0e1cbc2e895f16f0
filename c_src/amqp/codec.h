/* What the node and the port program partisan_amqp say to each other: frames of {packet, 4}, each an
 * opcode and its fields, big-endian. Strings are a length of 16 bits and bytes without NUL. The other
 * half is src/app/partisan_amqp_proto.erl. Pure. */
#ifndef PT_AMQP_CODEC_H
#define PT_AMQP_CODEC_H

#include "base/pt.h"

enum {
    PT_AMQP_VERSION = 1,
    /* A frame without its length. RabbitMQ takes messages of 128 MiB; a node should not. */
    PT_AMQP_FRAME_MAX = 64 * 1024 * 1024,

    /* From the node. */
    PT_AMQP_OPEN = 1,
    PT_AMQP_PUBLISH = 2,
    PT_AMQP_ACK = 3,

    /* To the node. */
    PT_AMQP_READY = 1,
    PT_AMQP_CONFIRM = 2,
    PT_AMQP_NACK = 3,
    PT_AMQP_RETURNED = 4,
    PT_AMQP_BLOCKED = 5,
    PT_AMQP_UNBLOCKED = 6,
    PT_AMQP_DELIVER = 7,
    PT_AMQP_FAILED = 8,

    PT_AMQP_PUBLISHER = 1,
    PT_AMQP_CONSUMER = 2,

    PT_AMQP_F_TLS = 1,
    PT_AMQP_F_VERIFY = 2,

    PT_AMQP_F_MANDATORY = 1,
    PT_AMQP_F_PERSISTENT = 2,
    PT_AMQP_F_FANOUT = 4,

    PT_AMQP_HEAD_MAX = 32, /* what pt_amqp_put() writes at most */
};

struct pt_amqp_str {
    const char *at; /* into the frame; no NUL behind it */
    size_t len;
};

/* The strings of an open, in their order in the frame. */
enum pt_amqp_word {
    PT_AMQP_HOST,
    PT_AMQP_VHOST,
    PT_AMQP_USER,
    PT_AMQP_PASSWORD,
    PT_AMQP_CA,
    PT_AMQP_CERT,
    PT_AMQP_KEY,
    PT_AMQP_NAME,   /* of the connection, for the broker's administrator */
    PT_AMQP_DIRECT, /* exchange for messages */
    PT_AMQP_FANOUT, /* exchange for membership */
    PT_AMQP_QUEUE,  /* the node's, and its routing key */
    PT_AMQP_WORDS,
};

struct pt_amqp_cmd {
    uint8_t op;
    union {
        struct {
            uint8_t role;
            uint8_t flags;
            uint16_t port;
            uint16_t heartbeat; /* s */
            uint16_t prefetch;
            uint32_t timeout;   /* ms: of connecting, of an answer, of a peer that takes nothing */
            uint32_t expires;   /* ms until the broker drops the queue of a node that is gone */
            uint64_t max_bytes; /* of what waits in a node's queue */
            struct pt_amqp_str word[PT_AMQP_WORDS];
        } open;
        struct {
            uint8_t flags;
            uint64_t id;
            struct pt_amqp_str key;
            const uint8_t *body;
            size_t len;
        } publish;
        uint64_t ack; /* delivery tag */
    };
};

/* The command in the frame at p, of `len` bytes without the length in front. What it refers to stays in
 * the frame. 0, or PT_E_BAD_FRAME. */
int pt_amqp_decode(const uint8_t *p, size_t len, struct pt_amqp_cmd *cmd);

/* Writes the head of a frame to the node, the length of it and of `more` bytes to follow in front, and
 * returns its size. What a and b mean, by op (0 where there is none):
 *   CONFIRM, NACK  delivery tag, whether it stands for all up to it
 *   RETURNED       id of the publish, reply code
 *   DELIVER        delivery tag, whether it came over the fanout; the body follows
 *   BLOCKED, FAILED  words follow
 */
size_t pt_amqp_put(uint8_t at[PT_AMQP_HEAD_MAX], uint8_t op, uint64_t a, uint16_t b, size_t more);

#endif

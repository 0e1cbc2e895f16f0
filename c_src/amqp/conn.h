/* One connection to an AMQP broker, by librabbitmq. One thread; calls may block for as long as the
 * broker takes nothing, up to the timeout of the open. */
#ifndef PT_AMQP_CONN_H
#define PT_AMQP_CONN_H

#include "amqp/codec.h"

struct pt_amqp_conn;

/* Something for the node, as pt_amqp_put() has it. */
typedef void pt_amqp_emit(void *arg, uint8_t op, uint64_t a, uint16_t b, const void *more,
                          size_t len);

/* Connects, logs in and declares what the role needs: both the exchanges, the consumer its queues.
 * The connection, to be given to pt_amqp_close(); or NULL, and `why` says what is wrong in one line. */
struct pt_amqp_conn *pt_amqp_connect(const struct pt_amqp_cmd *open, char *why, size_t size);
/* Says goodbye if the connection stands, and frees it. */
void pt_amqp_close(struct pt_amqp_conn *c);

int pt_amqp_fd(const struct pt_amqp_conn *c);
/* Whether something of the broker's is here already, so that nothing needs to come for a read. */
bool pt_amqp_pending(struct pt_amqp_conn *c);

/* 0, or -EIO and why. */
int pt_amqp_publish(struct pt_amqp_conn *c, const struct pt_amqp_cmd *cmd, char *why, size_t size);
int pt_amqp_ack(struct pt_amqp_conn *c, uint64_t tag, char *why, size_t size);
/* Takes what the broker has sent, at most `most` methods, without waiting for more, and sends the
 * heartbeats that are due. To be called at least every second. 0, or -EIO and why. */
int pt_amqp_read(struct pt_amqp_conn *c, int most, pt_amqp_emit *emit, void *arg, char *why,
                 size_t size);

#endif

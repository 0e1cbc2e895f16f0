/* A VM as far as the driver's callbacks need one: ports with a lock and a thread each that polls their
 * descriptors, binaries with counted references, messages to processes. For tests of the driver with
 * real sockets and real threads, under the sanitizers. */
#ifndef PT_TEST_FAKE_VM_H
#define PT_TEST_FAKE_VM_H

#include <erl_driver.h>
#include <erl_nif.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fv_port;

/* A packet for the VM, in the port's thread, which holds its lock. */
typedef void fv_deliver(void *ctx, const uint8_t *p, size_t len);

struct fv_port *fv_open(fv_deliver *deliver, void *ctx);
void fv_close(struct fv_port *p); /* the stop callback; waits for the port's thread */
/* erlang:port_control/3: true if the answer was ok, else *words. */
bool fv_control(struct fv_port *p, unsigned verb, const void *data, size_t len, char words[256]);
void fv_lock(struct fv_port *p);
void fv_unlock(struct fv_port *p);
ErlDrvData fv_data(struct fv_port *p);
bool fv_failed(struct fv_port *p); /* the driver ended it */

/* enif_send(): called with the receiver and the message, in any thread. */
extern void (*fv_on_send)(ERL_NIF_TERM pid, ERL_NIF_TERM message);

/* For enif_free_iovec(): a copy of the bytes, with one owner. */
ErlNifIOVec *fv_iovec(const void *p, size_t len);

#endif

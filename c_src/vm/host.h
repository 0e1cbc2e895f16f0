/* The VM's memory behind the interfaces of the pure layers. */
#ifndef PT_VM_HOST_H
#define PT_VM_HOST_H

#include "proto/msg.h"
#include "proto/rx.h"

extern const struct pt_owner_ops pt_host_owner_ops; /* owners are ErlDrvBinary */

/* Makes pt_alloc() use driver_alloc(): thread-safe, and counted by the VM. */
void pt_host_init(void);

void *pt_host_bin_new(size_t size);
void *pt_host_bin_grow(void *bin, size_t size);
uint8_t *pt_host_bin_data(void *bin);
bool pt_host_bin_shared(void *bin);
void pt_host_bin_ref(void *bin);
void pt_host_bin_unref(void *bin);

#endif

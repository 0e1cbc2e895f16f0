#include "vm/host.h"

#include <erl_driver.h>

void pt_host_bin_ref(void *bin) { driver_binary_inc_refc(bin); }

void pt_host_bin_unref(void *bin) { driver_free_binary(bin); }

const struct pt_owner_ops pt_host_owner_ops = {pt_host_bin_ref, pt_host_bin_unref};

static void *host_alloc(size_t size) { return driver_alloc(size); }
static void *host_realloc(void *p, size_t size) { return driver_realloc(p, size); }
static void host_free(void *p) { driver_free(p); }

void pt_host_init(void)
{
    static const struct pt_alloc_hooks hooks = {host_alloc, host_realloc, host_free};
    pt_alloc_set_hooks(&hooks);
}

void *pt_host_bin_new(size_t size) { return driver_alloc_binary(size); }

void *pt_host_bin_grow(void *bin, size_t size) { return driver_realloc_binary(bin, size); }

uint8_t *pt_host_bin_data(void *bin) { return (uint8_t *)((ErlDrvBinary *)bin)->orig_bytes; }

bool pt_host_bin_shared(void *bin) { return driver_binary_get_refc(bin) > 1; }

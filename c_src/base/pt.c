#include "base/pt.h"

#include <stdlib.h>
#include <string.h>

static struct pt_alloc_hooks hooks = {malloc, realloc, free};

void pt_alloc_set_hooks(const struct pt_alloc_hooks *h) { hooks = *h; }

void *pt_alloc(size_t size) { return hooks.alloc(size ? size : 1); }

void *pt_zalloc(size_t size)
{
    void *p = pt_alloc(size);
    if (p)
        memset(p, 0, size);
    return p;
}

void *pt_realloc(void *p, size_t size) { return hooks.realloc(p, size ? size : 1); }

void pt_free(void *p)
{
    if (p)
        hooks.free(p);
}

const char *pt_strerror(int err)
{
    switch (err) {
    case PT_E_BAD_FRAME: return "malformed frame";
    case PT_E_BAD_TYPE: return "unknown frame type";
    case PT_E_BAD_AUTH: return "peer failed authentication";
    case PT_E_BAD_NUMBER: return "message number out of sequence";
    case PT_E_BAD_TRANSFER: return "chunk does not fit its message";
    case PT_E_TOO_LARGE: return "message larger than the limit";
    case PT_E_ROOM: return "too many large messages at a time (see option max_message)";
    case PT_E_HELD_LIMIT: return "too much data held back for order";
    case PT_E_MORE: return "input ends too early";
    default: return err < 0 && err > PT_E_FIRST ? strerror(-err) : "unknown error";
    }
}

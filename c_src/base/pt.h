/* Common ground of the whole library: integer helpers, error codes, allocation.
 *
 * Error rule: functions return 0 or a count on success and a negative number on failure.
 * System errors are `-errno`; protocol errors are the PT_E_* values below, which lie outside
 * the errno range so that one int carries both. Nothing above io/ reads errno.
 *
 * Allocation rule: pt_alloc() may fail and every caller says what happens then. It goes through
 * the hooks so that the driver uses driver_alloc (threads, VM statistics) and the stand-alone
 * tests use malloc, or a malloc that fails on demand.
 */
#ifndef PT_H
#define PT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PT_LIKELY(x) __builtin_expect(!!(x), 1)
#define PT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PT_MIN(a, b) ((a) < (b) ? (a) : (b))
#define PT_MAX(a, b) ((a) > (b) ? (a) : (b))
#define PT_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Protocol errors. Each ends the connection; pt_strerror() gives the words of the log line. */
enum pt_error {
    PT_E_FIRST = -20000,
    PT_E_BAD_FRAME,    /* a frame that cannot be parsed */
    PT_E_BAD_TYPE,     /* unknown frame type that may not be skipped */
    PT_E_BAD_AUTH,     /* the first frame is missing or its MAC is wrong */
    PT_E_BAD_NUMBER,   /* message number repeated or too far ahead */
    PT_E_BAD_TRANSFER, /* chunk outside its message, or contradicting an earlier chunk */
    PT_E_TOO_LARGE,    /* message beyond the configured maximum */
    PT_E_ROOM,         /* more large messages begun at a time than there is room for */
    PT_E_HELD_LIMIT,   /* the peer made us hold more than the protocol allows */
    PT_E_MORE,         /* not an error for the peer: the input ends too early, read on */
};

const char *pt_strerror(int err);

struct pt_alloc_hooks {
    void *(*alloc)(size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
};
/* Set once before any other thread runs; malloc until then. */
void pt_alloc_set_hooks(const struct pt_alloc_hooks *hooks);
void *pt_alloc(size_t size);            /* NULL when out of memory; contents undefined */
void *pt_zalloc(size_t size);           /* same, zeroed */
void *pt_realloc(void *p, size_t size); /* NULL when out of memory, p then still valid */
void pt_free(void *p);                  /* NULL is fine */

static inline uint16_t pt_get16(const uint8_t *p) { return (uint16_t)((p[0] << 8) | p[1]); }
static inline uint32_t pt_get32(const uint8_t *p)
{
    return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | p[3];
}
static inline uint64_t pt_get64(const uint8_t *p)
{
    return ((uint64_t)pt_get32(p) << 32) | pt_get32(p + 4);
}
static inline void pt_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void pt_put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}
static inline void pt_put64(uint8_t *p, uint64_t v)
{
    pt_put32(p, (uint32_t)(v >> 32));
    pt_put32(p + 4, (uint32_t)v);
}

/* The finalizer of splitmix64: every bit of x changes half of the result's. One to one. */
static inline uint64_t pt_mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

#endif

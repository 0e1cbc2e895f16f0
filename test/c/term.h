/* Building external terms by hand in the tests, and giving them to a reader in a block that ends
 * where they end, so that the address sanitizer sees the first byte read beyond. */
#ifndef PT_TEST_TERM_H
#define PT_TEST_TERM_H

#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct term {
    size_t len;
    uint8_t at[1 << 19];
};

struct exact {
    uint8_t *block;
    const uint8_t *p;
};

static inline struct exact exact_copy(const uint8_t *p, size_t len)
{
    /* One byte more in front: a block for no bytes at all would still have one to read. */
    uint8_t *block = malloc(1 + len);
    ck_assert_ptr_nonnull(block);
    if (len)
        memcpy(block + 1, p, len);
    return (struct exact){block, block + 1};
}

static inline void put(struct term *t, const void *bytes, size_t len)
{
    ck_assert_uint_le(t->len + len, sizeof t->at);
    if (len)
        memcpy(t->at + t->len, bytes, len);
    t->len += len;
}

static inline void put8(struct term *t, unsigned v) { put(t, &(uint8_t){(uint8_t)v}, 1); }

static inline void put16(struct term *t, unsigned v)
{
    put8(t, v >> 8);
    put8(t, v & 0xff);
}

static inline void put32(struct term *t, uint32_t v)
{
    put16(t, v >> 16);
    put16(t, v & 0xffff);
}

static inline void put64(struct term *t, uint64_t v)
{
    put32(t, (uint32_t)(v >> 32));
    put32(t, (uint32_t)v);
}

static inline void put_fill(struct term *t, uint8_t byte, size_t len)
{
    while (len--)
        put8(t, byte);
}

/* tag: 100 and 118 have a 16-bit length, 115 and 119 one of 8 bits. */
static inline void put_atom(struct term *t, unsigned tag, const char *name)
{
    put8(t, tag);
    if (tag == 100 || tag == 118)
        put16(t, (unsigned)strlen(name));
    else
        put8(t, (unsigned)strlen(name));
    put(t, name, strlen(name));
}

/* tag: 103 (creation of 8 bits) or 88 */
static inline void put_pid(struct term *t, unsigned tag, unsigned atom_tag, uint32_t id,
                           uint32_t serial, uint32_t creation)
{
    put8(t, tag);
    put_atom(t, atom_tag, "node@host");
    put32(t, id);
    put32(t, serial);
    if (tag == 103)
        put8(t, creation);
    else
        put32(t, creation);
}

static inline void put_ref(struct term *t)
{
    put8(t, 90);
    put16(t, 3);
    put_atom(t, 119, "node@host");
    put32(t, 7);
    put_fill(t, 1, 12);
}

static inline void put_hex(struct term *t, const char *hex)
{
    for (; *hex; hex += 2) {
        char digits[3] = {hex[0], hex[1], 0};
        put8(t, (unsigned)strtoul(digits, NULL, 16));
    }
}

#endif

/* Any bytes as sections of atom references, one after the other, as a sending VM's: whatever is
 * read is written again for a lane, read there, written for the receiving VM, and read there, and
 * must mean the same atoms all the way.
 *
 * Input: pieces, each led by two bytes of length; the top two bits choose the lane.
 */
#include "proto/atoms.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LANES = 4 };

struct session {
    struct pt_atom_table vm, out[LANES], in[LANES], told, receiver;
};

static void require(bool ok)
{
    if (!ok)
        abort();
}

/* Reads from a block that ends where the bytes end. */
static int read_exact(const uint8_t *p, size_t n, struct pt_atom_table *t,
                      struct pt_atom_refs *refs)
{
    uint8_t *block = malloc(1 + n);
    require(block != NULL);
    if (n)
        memcpy(block + 1, p, n);
    int rc = pt_atoms_read(block + 1, n, t, refs);
    int len = pt_atoms_length(block + 1, n);
    free(block);
    require(rc != 0 && len != 0 && rc <= (int)n && len <= (int)n);
    require(rc > 0 || rc == PT_E_MORE || rc == PT_E_BAD_FRAME);
    require(rc == PT_E_BAD_FRAME || len == rc);
    return rc;
}

static void equal(const struct pt_atom_refs *a, const struct pt_atom_refs *b)
{
    require(a->count == b->count);
    for (unsigned i = 0; i < a->count; i++) {
        const struct pt_atom *x = a->ref[i].atom, *y = b->ref[i].atom;
        require(a->ref[i].slot == b->ref[i].slot && x->len == y->len &&
                !memcmp(x->text, y->text, x->len));
    }
}

static void carry(const struct pt_atom_refs *from, struct pt_atom_table *out,
                  struct pt_atom_table *in, struct pt_atom_refs *to)
{
    size_t most = pt_atoms_size(from->ref, from->count);
    uint8_t *bytes = malloc(most);
    require(bytes != NULL);
    size_t n = pt_atoms_write(bytes, from->ref, from->count, out);
    require(n > 0 && n <= most && (out || n == most));
    require(read_exact(bytes, n, in, to) == (int)n);
    equal(from, to);
    free(bytes);
}

/* False: the session is over. */
static bool section(struct session *s, const uint8_t *p, size_t n, unsigned lane)
{
    static struct pt_atom_refs sent, carried, got, alone;
    struct pt_atom_table none = {0};
    int rc = read_exact(p, n, &s->vm, &sent);

    if (rc < 0)
        return rc == PT_E_MORE && n == 0;
    require(sent.count == p[0]);
    carry(&sent, NULL, &none, &alone);
    carry(&sent, &s->out[lane], &s->in[lane], &carried);
    carry(&carried, &s->told, &s->receiver, &got);
    equal(&sent, &got);
    pt_atom_table_free(&none);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct session s = {0};

    while (size >= 2) {
        unsigned lane = data[0] >> 6;
        size_t n = (size_t)(data[0] & 0x3f) << 8 | data[1];
        n = PT_MIN(n, size - 2);
        if (!section(&s, data + 2, n, lane))
            break;
        data += 2 + n;
        size -= 2 + n;
    }
    pt_atom_table_free(&s.vm);
    pt_atom_table_free(&s.told);
    pt_atom_table_free(&s.receiver);
    for (unsigned i = 0; i < LANES; i++) {
        pt_atom_table_free(&s.out[i]);
        pt_atom_table_free(&s.in[i]);
    }
    return 0;
}

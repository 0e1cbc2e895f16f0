/* The VM's fragments (131 69, 131 70) become one message again: handed over as fragments they cost
 * the receiving VM a concatenating copy, 0.15-0.2 CPU seconds a GB (docs/performance.md). A packet
 * that continues no sequence we know goes through as it is: whoever sent it by hand gets what the
 * receiving VM makes of it. */
#include "vm/peer.h"

#include "vm/host.h"

#include <errno.h>

enum { VM_FRAGMENT = 64 * 1024 }; /* ERTS_DIST_FRAGMENT_SIZE, OTP 22-29 */

struct pt_join {
    struct pt_msg *msg; /* the queue's */
    uint64_t expected;  /* next FragId, counting down to 1 */
};

struct pt_msg *pt_join_whole(struct pt_source *src, const struct pt_packet *pk,
                             const struct pt_atom_refs *refs)
{
    uint8_t small[1024], *prefix = small;
    size_t size = 2 + pt_atoms_size(refs->ref, refs->count);
    if (size > sizeof small && !(prefix = pt_alloc(size)))
        return NULL;
    prefix[0] = 131;
    prefix[1] = 68;
    pt_atoms_write(prefix + 2, refs->ref, refs->count, NULL);
    src->skip = pk->header_len;
    src->prefix = prefix;
    src->prefix_len = size;
    struct pt_msg *m = pt_msg_new(src, &pt_host_owner_ops);
    if (prefix != small)
        pt_free(prefix);
    return m;
}

static int raw(struct pt_peer *p, struct pt_source *src, uint8_t kind)
{
    struct pt_msg *m = pt_msg_new(src, &pt_host_owner_ops);
    if (!m)
        return -ENOMEM;
    m->kind = kind;
    int rc = pt_txq_submit(&p->s.txq, m);
    if (rc)
        pt_msg_free(m, &pt_host_owner_ops);
    return rc;
}

static int first(struct pt_peer *p, const struct pt_packet *pk, struct pt_source *src,
                 const struct pt_atom_refs *refs)
{
    struct pt_join *j = pt_alloc(sizeof *j);
    struct pt_msg *m = pt_join_whole(src, pk, refs);
    int rc = -ENOMEM;
    if (!j || !m)
        goto fail;
    m->kind = (uint8_t)pk->order;
    m->key = pk->key;
    if (pk->frag_id == 1) {
        rc = pt_txq_submit(&p->s.txq, m);
        if (rc)
            goto fail;
        pt_free(j);
        return 0;
    }
    *j = (struct pt_join){m, pk->frag_id - 1};
    rc = pt_hmap_put(&p->joins, pk->seq_id, j);
    if (rc)
        goto fail;
    p->part = true;
    m->room = m->size + PT_MIN(j->expected, UINT64_MAX / VM_FRAGMENT / 2) * VM_FRAGMENT;
    pt_txq_open(&p->s.txq, m);
    return 0;
fail:
    pt_free(j);
    if (m)
        pt_msg_free(m, &pt_host_owner_ops);
    return rc;
}

static int next(struct pt_peer *p, const struct pt_packet *pk, struct pt_source *src,
                struct pt_join *j)
{
    struct pt_msg *m = j->msg;
    size_t before = m->size;

    src->skip = pk->header_len;
    int rc = pt_msg_append(m, src, &pt_host_owner_ops);
    if (rc)
        return rc;
    m->room = PT_MAX(m->room, (uint64_t)m->size);
    pt_txq_grown(&p->s.txq, m, m->size - before);
    if (--j->expected) {
        p->part = true;
        return 0;
    }
    pt_hmap_del(&p->joins, pk->seq_id);
    pt_free(j);
    return pt_txq_finish(&p->s.txq, m);
}

int pt_join_packet(struct pt_peer *p, const struct pt_packet *pk, struct pt_source *src,
                   const struct pt_atom_refs *refs)
{
    struct pt_join *j = pk->seq_id ? pt_hmap_get(&p->joins, pk->seq_id) : NULL;

    if (pk->form == PT_FORM_FRAG_FIRST && !j && pk->seq_id)
        return first(p, pk, src, refs);
    if (pk->form == PT_FORM_FRAG_NEXT && j && j->expected == pk->frag_id)
        return next(p, pk, src, j);
    /* The receiving VM would end the connection at a sequence begun twice; it cannot see that, for
     * the packets joined so far have not been sent. */
    if (pk->form == PT_FORM_FRAG_FIRST && j)
        return -EPROTO;
    return raw(p, src, PT_ORDER_FENCE);
}

void pt_join_free(struct pt_peer *p)
{
    size_t pos = 0;
    for (struct pt_join *j; (j = pt_hmap_next(&p->joins, &pos));)
        pt_free(j);
    pt_hmap_free(&p->joins);
}

/* The VM's fragments (131 69, 131 70) become one message again: handed over as fragments they cost
 * the receiving VM a concatenating copy, 0.15-0.2 CPU seconds a GB (docs/performance.md). A packet
 * that continues no sequence we know goes through as it is: whoever sent it by hand gets what the
 * receiving VM makes of it. */
#include "vm/peer.h"

#include "vm/host.h"

#include <errno.h>

enum { VM_FRAGMENT = 64 * 1024 }; /* ERTS_DIST_FRAGMENT_SIZE, OTP 22-29 */

struct pt_join {
    uint64_t seq_id;
    struct pt_msg *msg; /* the queue's */
    uint64_t expected;  /* next FragId, counting down to 1 */
    bool may_end;       /* it is not finished if its sender dies: */
    uint32_t id, serial;
    uint64_t looked; /* what was expected at the last look */
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
                 const struct pt_atom_refs *refs, const uint8_t *front)
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
    *j = (struct pt_join){.seq_id = pk->seq_id, .msg = m, .expected = pk->frag_id - 1};
    j->may_end = pt_packet_sender(front, pk, &j->id, &j->serial);
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
                   const struct pt_atom_refs *refs, const uint8_t *front)
{
    struct pt_join *j = pk->seq_id ? pt_hmap_get(&p->joins, pk->seq_id) : NULL;

    if (pk->form == PT_FORM_FRAG_FIRST && !j && pk->seq_id)
        return first(p, pk, src, refs, front);
    if (pk->form == PT_FORM_FRAG_NEXT && j && j->expected == pk->frag_id)
        return next(p, pk, src, j);
    /* The receiving VM would end the connection at a sequence begun twice; it cannot see that, for
     * the packets joined so far have not been sent. */
    if (pk->form == PT_FORM_FRAG_FIRST && j)
        return -EPROTO;
    return raw(p, src, PT_ORDER_FENCE);
}

/* The VM says nothing when the sender of a large message is killed in the middle of it: the rest just does
 * not come. (Over inet_tcp the receiving VM keeps what came until the connection ends.) So from tick to tick
 * whoever did not go on while nobody was suspended is asked for; of one that is dead, nothing is in the VM's
 * queue any more either, since that is handed over at once. */
void pt_join_look(struct pt_peer *p)
{
    size_t pos = 0;
    uint64_t busy = atomic_load_explicit(&p->s.seen.busy_count, memory_order_relaxed);
    bool calm = !p->busy && busy == p->joins_busy;
    unsigned asked = 0;

    p->joins_busy = busy;
    for (struct pt_join *j; (j = pt_hmap_next(&p->joins, &pos));) {
        if (j->may_end && calm && j->looked == j->expected && asked++ < PT_DROPS)
            pt_peer_unfinished(p, j->seq_id, j->id, j->serial);
        j->looked = j->expected;
    }
}

bool pt_join_abandon(struct pt_peer *p, uint64_t seq_id)
{
    struct pt_join *j = pt_hmap_get(&p->joins, seq_id);
    struct pt_stream *s = &p->s;
    uint64_t transfer;
    unsigned lane;

    if (!j || !j->may_end || j->looked != j->expected || p->busy)
        return false;
    pthread_mutex_lock(&s->lock);
    bool done = s->ndrops < PT_DROPS && pt_txq_abandon(&s->txq, j->msg, &transfer, &lane);
    if (done && transfer) {
        s->drops[s->ndrops].transfer = transfer;
        s->drops[s->ndrops++].lane = lane;
    }
    pt_cap_account(s);
    pthread_mutex_unlock(&s->lock);
    if (!done)
        return false;
    pt_hmap_del(&p->joins, seq_id);
    pt_free(j);
    return true;
}

void pt_join_free(struct pt_peer *p)
{
    size_t pos = 0;
    for (struct pt_join *j; (j = pt_hmap_next(&p->joins, &pos));)
        pt_free(j);
    pt_hmap_free(&p->joins);
}

#include "proto/txq.h"
#include "proto/txq_int.h"

#include <errno.h>
#include <string.h>

#define MSG_OF(node, member) PT_CONTAINER_OF(node, struct pt_msg, member)

static int new_epoch(struct pt_txq *q)
{
    struct pt_epoch *ep = pt_zalloc(sizeof *ep);
    if (!ep)
        return -ENOMEM;
    pt_list_push(&q->epochs, &ep->link);
    return 0;
}

static struct pt_epoch *first_epoch(const struct pt_txq *q)
{
    return PT_CONTAINER_OF(q->epochs.next, struct pt_epoch, link);
}

static struct pt_epoch *last_epoch(const struct pt_txq *q)
{
    return PT_CONTAINER_OF(q->epochs.prev, struct pt_epoch, link);
}

int pt_txq_init(struct pt_txq *q, const struct pt_owner_ops *ops)
{
    memset(q, 0, sizeof *q);
    q->ops = ops;
    pt_hmap_init(&q->flows);
    pt_list_init(&q->idle);
    pt_list_init(&q->express);
    pt_list_init(&q->small);
    pt_list_init(&q->bulk_wait);
    pt_list_init(&q->bulk_active);
    pt_list_init(&q->blocked);
    for (unsigned i = 0; i < PT_TXQ_LANES; i++) {
        pt_list_init(&q->only_small[i]);
        pt_list_init(&q->only_bulk[i]);
    }
    pt_list_init(&q->epochs);
    pt_list_init(&q->behind);
    pt_list_init(&q->open);
    q->next_number = 1;
    q->next_transfer = 1;
    q->lanes = 1;
    q->turn = PT_TXQ_TURN;
    return new_epoch(q);
}

/* ---- picking lists ---- */

static bool is_fence(const struct pt_msg *m)
{
    return m->kind == PT_ORDER_FENCE || m->kind == PT_ORDER_HALF_FENCE;
}

static bool is_small(const struct pt_msg *m)
{
    /* one segment: a joined message may have more slices than a frame takes */
    return m->complete && !m->transfer && m->size <= PT_TXQ_SMALL && m->last == &m->first;
}

/* Small, and in no list: one that was opened and did not grow may wait among bulk already. */
static bool takes_turns(const struct pt_msg *m)
{
    return is_small(m) && pt_list_unlinked(&m->pick);
}

void pt_txq_enlist(struct pt_txq *q, struct pt_msg *m)
{
    if (pt_list_unlinked(&m->pick))
        pt_list_push(is_small(m) ? &q->express : &q->bulk_wait, &m->pick);
}

/* Bulk lists only. */
static void delist(struct pt_txq *q, struct pt_msg *m)
{
    pt_list_del(&m->pick);
    q->active--;
}

/* m, already taken from its flow's queue, is the flow's next message. */
static void make_head(struct pt_txq *q, struct pt_flow *f, struct pt_msg *m)
{
    f->state = PT_FLOW_OUT;
    m->head = true;
    pt_txq_enlist(q, m);
}

static void flow_next(struct pt_txq *q, struct pt_flow *f)
{
    struct pt_list *n = pt_list_first(&f->queue);
    if (!n) {
        f->state = PT_FLOW_IDLE;
        pt_flow_maybe_free(q, f);
        return;
    }
    struct pt_msg *m = MSG_OF(n, order);
    if (takes_turns(m)) {
        f->state = PT_FLOW_SMALL;
        pt_list_push(&q->small, &f->link);
        return;
    }
    pt_list_del(n);
    make_head(q, f, m);
}

/* ---- submission ---- */

static void check_epochs(struct pt_txq *q)
{
    struct pt_epoch *ep = first_epoch(q);
    if (!ep->fence || ep->released || ep->outstanding)
        return;
    ep->released = true;
    ep->fence->head = true;
    pt_txq_enlist(q, ep->fence);
}

static int place(struct pt_txq *q, struct pt_msg *m)
{
    struct pt_epoch *ep = last_epoch(q);

    if (is_fence(m)) {
        if (new_epoch(q))
            return -ENOMEM;
        ep->fence = m;
        m->epoch = ep;
        q->staging = m->kind == PT_ORDER_FENCE;
        q->stats.fences++;
        check_epochs(q);
        return 0;
    }
    struct pt_flow *f = NULL;
    if (m->kind == PT_ORDER_SENDER && !(f = pt_flow_get(q, m->key)))
        return -ENOMEM;
    ep->outstanding++;
    m->epoch = ep;
    m->flow = f;
    if (!f) {
        m->head = true;
        pt_txq_enlist(q, m);
    } else if (f->state == PT_FLOW_IDLE) {
        make_head(q, f, m);
    } else {
        pt_list_push(&f->queue, &m->order);
    }
    return 0;
}

/* What waited behind the full fence just emitted, up to the next one. */
static int unstage(struct pt_txq *q)
{
    while (!q->staging) {
        struct pt_list *n = pt_list_first(&q->behind);
        if (!n)
            break;
        pt_list_del(n);
        int rc = place(q, MSG_OF(n, order));
        if (rc) {
            pt_list_push_front(&q->behind, n);
            return rc;
        }
    }
    return 0;
}

static int enter(struct pt_txq *q, struct pt_msg *m)
{
    /* some stay behind without staging while unstage() lacks memory */
    if (q->staging || !pt_list_empty(&q->behind)) {
        pt_list_push(&q->behind, &m->order);
        return 0;
    }
    return place(q, m);
}

int pt_txq_submit(struct pt_txq *q, struct pt_msg *m)
{
    size_t size = m->size;
    int rc = enter(q, m);
    if (rc)
        return rc;
    q->bytes += size;
    q->messages++;
    q->stats.submitted++;
    return 0;
}

void pt_txq_open(struct pt_txq *q, struct pt_msg *m)
{
    m->complete = false;
    q->bytes += m->size;
    pt_list_push(&q->open, &m->order);
    pt_txq_enlist(q, m);
}

void pt_txq_grown(struct pt_txq *q, struct pt_msg *m, size_t added)
{
    q->bytes += added;
    pt_txq_enlist(q, m);
}

int pt_txq_finish(struct pt_txq *q, struct pt_msg *m)
{
    m->complete = true;
    m->room = m->size;
    pt_list_del(&m->order);
    int rc = enter(q, m);
    if (rc) {
        m->complete = false;
        pt_list_push(&q->open, &m->order);
        return rc;
    }
    q->messages++;
    q->stats.submitted++;
    return 0;
}

/* ---- numbering ---- */

struct order {
    uint64_t after;
    uint64_t until; /* the message is sure on this lane once that number is acknowledged */
    int only;       /* the one lane on which it would be sure now, -1: none */
};

static struct order order_of(const struct pt_txq *q, const struct pt_flow *f, bool fence,
                             unsigned lane)
{
    struct order o = {.only = -1};
    unsigned pred_lane;
    uint64_t pred_until;

    if (f && f->last > q->fence_number) {
        o.after = f->last;
        pred_lane = f->last_lane;
        pred_until = f->last_until;
    } else {
        o.after = q->fence_number;
        pred_lane = q->fence_lane;
        pred_until = q->fence_until;
    }
    if (o.after <= q->acked)
        o.after = 0;
    if (q->lanes <= 1)
        return o;
    if (fence) {
        o.until = q->next_number - 1;
    } else if (o.after) {
        o.until = pred_lane == lane ? pred_until : o.after;
        o.only = pred_until <= q->acked ? (int)pred_lane : -1;
    }
    return o;
}

/* So much is speculative that no more of it may be numbered. */
static bool over_limit(const struct pt_txq *q)
{
    return q->lanes > 1 && q->speculative > PT_TXQ_SPECULATIVE;
}

/* Puts aside what may not be numbered on this lane now: until the next acknowledgement, or until
 * the lane asks for more that carried its predecessor. m is in no list. */
static bool must_wait(struct pt_txq *q, struct pt_msg *m, unsigned lane)
{
    if (!over_limit(q))
        return false;
    struct order o = order_of(q, m->flow, is_fence(m), lane);
    if (o.until <= q->acked)
        return false;
    struct pt_list *only = is_small(m) ? q->only_small : q->only_bulk;
    pt_list_push(o.only < 0 ? &q->blocked : &only[o.only], &m->pick);
    if (o.only >= 0)
        q->only |= 1u << o.only;
    q->stats.blocked++;
    return true;
}

/* What the peer keeps if it must hold m: a BARE message with its header, all references NEW, which
 * can be many times its own bytes. */
static size_t held_size(const struct pt_msg *m)
{
    return m->size + (m->bare ? 2 + pt_atoms_size(m->atoms, m->natoms) : 0);
}

/* A message of f (or of none) gets the next number; it is sure on the lane after `until`. */
static void assign(struct pt_txq *q, unsigned lane, struct pt_flow *f, const struct order *o,
                   uint64_t until, size_t held, struct pt_frame *frame)
{
    uint64_t n = q->next_number;

    frame->number = n;
    frame->after = o->after;
    if (f) {
        f->last = n;
        f->last_lane = (uint8_t)lane;
        f->last_until = until;
    }
    pt_unacked_add(q, f, o->until <= q->acked ? 0 : held);
    q->stats.numbered++;
}

static void number(struct pt_txq *q, unsigned lane, struct pt_emit *e)
{
    struct pt_msg *m = e->msg;
    struct order o = order_of(q, m->flow, is_fence(m), lane);
    uint64_t n = q->next_number;
    /* chunks on several lanes: that the last one arrived says nothing about the others */
    uint64_t until = m->lanes & ~(1u << lane) ? n : o.until;

    if (is_fence(m))
        e->frame.flags |= PT_FRAME_FENCE;
    if (m->kind == PT_ORDER_FENCE) {
        q->fence_number = n;
        q->fence_lane = (uint8_t)lane;
        q->fence_until = until;
    }
    assign(q, lane, m->flow, &o, until, held_size(m), &e->frame);
    m->done = true;
    q->messages--;
}

/* One epoch: no fence waits for its turn. */
static bool all_at_rest(const struct pt_txq *q)
{
    return !q->staging && pt_list_empty(&q->behind) && q->epochs.next == q->epochs.prev &&
           pt_list_empty(&q->express) && pt_list_empty(&q->small) && !q->only;
}

int pt_txq_pass(struct pt_txq *q, unsigned lane, uint64_t key, size_t length, size_t held,
                struct pt_frame *frame)
{
    if (!all_at_rest(q) || pt_txq_unacked(q) >= PT_TXQ_UNACKED || pt_unacked_reserve(q))
        return 0;
    struct pt_flow *f = pt_flow_get(q, key);
    if (!f)
        return 0;
    struct order o = order_of(q, f, false, lane);
    if (f->state != PT_FLOW_IDLE || (over_limit(q) && o.until > q->acked)) {
        pt_flow_maybe_free(q, f);
        return 0;
    }
    *frame = (struct pt_frame){.type = PT_FRAME_MSG, .flags = PT_FRAME_BARE, .length = length};
    assign(q, lane, f, &o, o.until, held, frame);
    q->small_run += length;
    q->express_lead = 0;
    q->stats.submitted++;
    return 1;
}

/* After numbering: the epoch, and the flow's next message. */
static int settle(struct pt_txq *q, struct pt_msg *m)
{
    struct pt_epoch *ep = m->epoch;
    int rc = 0;

    m->epoch = NULL;
    if (ep->fence == m) {
        bool full = m->kind == PT_ORDER_FENCE;
        pt_list_del(&ep->link);
        pt_free(ep);
        if (full) {
            q->staging = false;
            rc = unstage(q);
        }
    } else {
        ep->outstanding--;
    }
    check_epochs(q);
    if (m->flow && m->flow->state == PT_FLOW_OUT)
        flow_next(q, m->flow);
    return rc;
}

/* ---- picking ---- */

static void emit_whole(struct pt_txq *q, unsigned lane, struct pt_emit *e)
{
    e->frame = (struct pt_frame){
        .type = PT_FRAME_MSG, .flags = e->msg->bare ? PT_FRAME_BARE : 0, .length = e->msg->size};
    number(q, lane, e);
}

static bool pick_express(struct pt_txq *q, unsigned lane, struct pt_emit *e)
{
    struct pt_list *n = pt_list_pop(&q->only_small[lane]);
    if (n) {
        e->msg = MSG_OF(n, pick);
        emit_whole(q, lane, e);
        return true;
    }
    while ((n = pt_list_pop(&q->express))) {
        struct pt_msg *m = MSG_OF(n, pick);
        if (must_wait(q, m, lane))
            continue;
        e->msg = m;
        emit_whole(q, lane, e);
        return true;
    }
    return false;
}

static bool pick_small(struct pt_txq *q, unsigned lane, struct pt_emit *e)
{
    struct pt_list *l;
    while ((l = pt_list_first(&q->small))) {
        struct pt_flow *f = PT_CONTAINER_OF(l, struct pt_flow, link);
        struct pt_msg *m = MSG_OF(pt_list_pop(&f->queue), order);
        pt_list_del(l);
        f->state = PT_FLOW_OUT;
        m->head = true;
        if (must_wait(q, m, lane))
            continue;
        e->msg = m;
        /* the flow keeps its place until its turn is used up */
        struct pt_list *next = pt_list_first(&f->queue);
        if (next && takes_turns(MSG_OF(next, order))) {
            f->state = PT_FLOW_SMALL;
            if (q->turn > m->size) {
                q->turn -= m->size;
                pt_list_push_front(&q->small, l);
            } else {
                q->turn = PT_TXQ_TURN;
                pt_list_push(&q->small, l);
            }
        } else {
            q->turn = PT_TXQ_TURN;
        }
        emit_whole(q, lane, e);
        return true;
    }
    return false;
}

static void refill_active(struct pt_txq *q)
{
    while (q->active < PT_TXQ_BULK_ACTIVE && !pt_list_empty(&q->bulk_wait)) {
        pt_list_push(&q->bulk_active, pt_list_pop(&q->bulk_wait));
        q->active++;
    }
}

/* 1: a frame; 0: this message cannot go on now (it left the active list). */
static bool bulk_frame(struct pt_txq *q, struct pt_msg *m, unsigned lane, size_t chunk,
                       struct pt_emit *e)
{
    size_t left = m->size - m->emitted;
    /* One that may travel whole does, also where less is asked for: BARE ones cannot be cut. */
    bool single = m->complete && !m->transfer && m->size <= PT_FRAME_SINGLE_MAX;
    size_t part = pt_msg_fit(m, single ? left : PT_MIN(left, chunk), PT_MSG_IOV_MAX);
    bool final = m->complete && left == part;

    if (final && single) {
        delist(q, m);
        if (!m->head || must_wait(q, m, lane))
            return false;
        e->msg = m;
        emit_whole(q, lane, e);
        return true;
    }
    delist(q, m);
    if (!m->complete && left < PT_MIN(chunk, (size_t)PT_FRAME_SINGLE_MAX))
        return false; /* wait for more rather than send crumbs */
    if (final && (!m->head || must_wait(q, m, lane)))
        return false;

    if (!m->transfer)
        m->transfer = q->next_transfer++;
    m->lanes |= (uint16_t)(1u << lane);
    e->msg = m;
    e->frame = (struct pt_frame){.type = final ? PT_FRAME_LAST : PT_FRAME_PART,
                                 .transfer = m->transfer,
                                 .room = m->room,
                                 .offset = m->emitted,
                                 .length = part};
    q->stats.chunks++;
    if (final) {
        number(q, lane, e);
    } else { /* to the end of the round */
        pt_list_push(&q->bulk_active, &m->pick);
        q->active++;
    }
    return true;
}

static bool pick_bulk(struct pt_txq *q, unsigned lane, size_t chunk, struct pt_emit *e)
{
    struct pt_list *n = pt_list_pop(&q->only_bulk[lane]);
    if (n) { /* one more than otherwise, and only for a chunk or two: it was put aside near its end */
        pt_list_push_front(&q->bulk_active, n);
        q->active++;
    }
    for (;;) {
        refill_active(q);
        n = pt_list_first(&q->bulk_active);
        if (!n)
            return false;
        if (bulk_frame(q, MSG_OF(n, pick), lane, chunk, e))
            return true;
    }
}

/* Express first, but where flows with a backlog wait they get a fifth of the bytes: without that,
 * senders that say one thing each, and always a new one, would stop them altogether. */
static bool pick_any_small(struct pt_txq *q, unsigned lane, struct pt_emit *e)
{
    if (q->express_lead >= PT_TXQ_TURN && pick_small(q, lane, e)) {
        q->express_lead -= PT_MIN(q->express_lead, 4 * (e->frame.length + PT_TXQ_COST));
        return true;
    }
    if (pick_express(q, lane, e)) {
        bool others = !pt_list_empty(&q->small);
        q->express_lead = others ? q->express_lead + e->frame.length + PT_TXQ_COST : 0;
        return true;
    }
    return pick_small(q, lane, e);
}

int pt_txq_next(struct pt_txq *q, unsigned lane, unsigned want, size_t chunk, struct pt_emit *e)
{
    if (PT_UNLIKELY(pt_unacked_reserve(q) || unstage(q)))
        return -ENOMEM;
    if (PT_UNLIKELY(pt_txq_unacked(q) >= PT_TXQ_UNACKED))
        return 0;
    if ((want & PT_WANT_BULK) && q->small_run >= PT_TXQ_SMALL_RUN) {
        q->small_run = 0;
        if (pick_bulk(q, lane, chunk, e))
            return 1;
    }
    if ((want & PT_WANT_SMALL) && pick_any_small(q, lane, e)) {
        q->small_run += e->frame.length;
        return 1;
    }
    if ((want & PT_WANT_BULK) && pick_bulk(q, lane, chunk, e)) {
        q->small_run = 0;
        return 1;
    }
    return 0;
}

int pt_txq_emitted(struct pt_txq *q, const struct pt_emit *e)
{
    q->bytes -= e->frame.length;
    if (!e->msg->done)
        return 0;
    int rc = settle(q, e->msg);
    return rc ? rc : 1;
}

bool pt_txq_has(const struct pt_txq *q, unsigned want)
{
    if ((want & PT_WANT_SMALL) && !(pt_list_empty(&q->express) && pt_list_empty(&q->small)))
        return true;
    return (want & PT_WANT_BULK) &&
           !(pt_list_empty(&q->bulk_wait) && pt_list_empty(&q->bulk_active));
}

size_t pt_txq_unfinished(const struct pt_txq *q)
{
    size_t n = 0;
    for (const struct pt_list *l = q->open.next; l != &q->open; l = l->next) {
        const struct pt_msg *m = PT_CONTAINER_OF(l, struct pt_msg, order);
        n += m->size - m->emitted;
    }
    return n;
}

bool pt_txq_idle(const struct pt_txq *q)
{
    return pt_list_empty(&q->express) && pt_list_empty(&q->small) && pt_list_empty(&q->bulk_wait) &&
           pt_list_empty(&q->bulk_active);
}

/* ---- the end ---- */

static void free_picks(struct pt_txq *q, struct pt_list *l)
{
    for (struct pt_list *n; (n = pt_list_pop(l));) {
        struct pt_msg *m = MSG_OF(n, pick);
        pt_list_del(&m->order);
        pt_msg_free(m, q->ops);
    }
}

static void free_orders(struct pt_txq *q, struct pt_list *l)
{
    for (struct pt_list *n; (n = pt_list_pop(l));) {
        struct pt_msg *m = MSG_OF(n, order);
        pt_list_del(&m->pick);
        pt_msg_free(m, q->ops);
    }
}

void pt_txq_free(struct pt_txq *q)
{
    free_orders(q, &q->open);
    for (struct pt_list *n = q->epochs.next; n != &q->epochs; n = n->next) {
        struct pt_epoch *ep = PT_CONTAINER_OF(n, struct pt_epoch, link);
        if (ep->fence && !ep->released) { /* it may be in a bulk list, its chunks leaving */
            pt_list_del(&ep->fence->pick);
            pt_msg_free(ep->fence, q->ops);
        }
    }
    free_picks(q, &q->express);
    free_picks(q, &q->bulk_wait);
    free_picks(q, &q->bulk_active);
    free_picks(q, &q->blocked);
    for (unsigned i = 0; i < PT_TXQ_LANES; i++) {
        free_picks(q, &q->only_small[i]);
        free_picks(q, &q->only_bulk[i]);
    }
    free_orders(q, &q->behind);
    size_t pos = 0;
    for (struct pt_flow *f; (f = pt_hmap_next(&q->flows, &pos));)
        free_orders(q, &f->queue);
    for (struct pt_list *n; (n = pt_list_pop(&q->epochs));)
        pt_free(PT_CONTAINER_OF(n, struct pt_epoch, link));
    pt_flow_free_all(q);
    pt_free(q->ring);
    q->ring = NULL;
}

/* The table of connections, and the order in which things are due. */
#include "flow.h"
#include "heap.h"

#include <check.h>
#include <stdlib.h>

static struct ptn_flows flows;

static struct ptn_pkt packet(unsigned from, unsigned to, unsigned sport, unsigned dport,
                             unsigned flags)
{
    struct ptn_pkt k = {
        .tcp = true, .ports = true, .version = 4, .segments = 1, .hdr_len = 40, .len = 40};
    k.src.b[15] = (uint8_t)from;
    k.dst.b[15] = (uint8_t)to;
    k.sport = (uint16_t)sport;
    k.dport = (uint16_t)dport;
    k.tcp_flags = (uint8_t)flags;
    return k;
}

START_TEST(both_directions_are_one)
{
    struct ptn_pkt there = packet(1, 2, 4000, 9100, PTN_TCP_ACK),
                   back = packet(2, 1, 9100, 4000, PTN_TCP_ACK);
    int a, b;

    there.len += 100;
    struct ptn_flow *w = ptn_flow_seen(&flows, &there, 1, &a);
    ck_assert_ptr_nonnull(w);
    ck_assert_ptr_eq(ptn_flow_seen(&flows, &back, 2, &b), w);
    ck_assert_int_ne(a, b);
    ck_assert_uint_eq(w->bytes[a], 100);
    ck_assert_uint_eq(w->bytes[b], 0);
    ck_assert_uint_eq(w->port[a], 4000);
    struct ptn_pkt other = packet(1, 2, 4001, 9100, PTN_TCP_ACK);
    ck_assert_ptr_ne(ptn_flow_seen(&flows, &other, 3, &a), w);
    ck_assert_ptr_eq(ptn_flow_by_id(&flows, w->id), w);
    /* a loop: both ends the same address */
    struct ptn_pkt l1 = packet(3, 3, 10, 20, 0), l2 = packet(3, 3, 20, 10, 0);
    ck_assert_ptr_eq(ptn_flow_seen(&flows, &l1, 4, &a), ptn_flow_seen(&flows, &l2, 4, &b));
    other.tcp = false;
    ck_assert_ptr_null(ptn_flow_seen(&flows, &other, 3, &a));
}
END_TEST

START_TEST(a_reset_has_the_expected_number)
{
    struct ptn_pkt syn = packet(1, 2, 4000, 9100, PTN_TCP_SYN),
                   ack = packet(1, 2, 4000, 9100, PTN_TCP_ACK);
    struct ptn_rst r;
    int side;

    struct ptn_flow *w = ptn_flow_seen(&flows, &syn, 1, &side);
    ck_assert(!ptn_flow_rst(w, side, &r));
    ack.ack = 0xfffffff0;
    ptn_flow_seen(&flows, &ack, 2, &side);
    ack.ack = 0x10; /* later, beyond the wrap */
    ptn_flow_seen(&flows, &ack, 3, &side);
    ack.ack = 0xfffffff8; /* an old one, overtaken */
    ptn_flow_seen(&flows, &ack, 4, &side);
    ck_assert(ptn_flow_rst(w, side, &r));
    ck_assert_uint_eq(r.seq, 0x10);
    ck_assert_uint_eq(r.dport, 4000);
    ck_assert_uint_eq(r.src.b[15], 2);
    ck_assert(!ptn_flow_rst(w, !side, &r));
}
END_TEST

START_TEST(ports_used_again)
{
    struct ptn_pkt syn = packet(1, 2, 4000, 9100, PTN_TCP_SYN),
                   fin = packet(1, 2, 4000, 9100, PTN_TCP_FIN | PTN_TCP_ACK);
    struct ptn_pkt fin2 = packet(2, 1, 9100, 4000, PTN_TCP_FIN | PTN_TCP_ACK);
    int side;

    struct ptn_flow *w = ptn_flow_seen(&flows, &syn, 1, &side);
    uint32_t id = w->id, place = (uint32_t)(w - flows.flow);
    ck_assert_ptr_eq(ptn_flow_seen(&flows, &syn, 1, &side), w); /* sent again: the same */
    ck_assert_uint_eq(w->id, id);
    w->rule = PTN_RULE_CUT;
    ck_assert_int_eq(ptn_flow_rule(&flows, place, id), PTN_RULE_CUT);
    ptn_flow_seen(&flows, &fin, 2, &side);
    ck_assert(!w->closed);
    ptn_flow_seen(&flows, &fin2, 3, &side);
    ck_assert(w->closed);
    ptn_flow_seen(&flows, &syn, 4, &side);
    ck_assert_uint_ne(w->id, id);
    ck_assert_int_eq(w->rule, PTN_RULE_NONE);
    ck_assert_int_eq(ptn_flow_rule(&flows, place, id), PTN_RULE_NONE);
}
END_TEST

/* More connections than places: those with rules stay. */
START_TEST(full_table)
{
    struct ptn_pkt first = packet(1, 2, 1, 9100, PTN_TCP_ACK);
    int side;
    uint32_t id = 0;

    struct ptn_flow *w = ptn_flow_seen(&flows, &first, 1, &side);
    w->rule = PTN_RULE_RESET;
    id = w->id;
    for (unsigned p = 2; p < 60000; p++) {
        struct ptn_pkt k = packet(1, 2, p, 9100, PTN_TCP_ACK);
        ck_assert_ptr_nonnull(ptn_flow_seen(&flows, &k, p, &side));
    }
    ck_assert_ptr_eq(ptn_flow_by_id(&flows, id), w);
    ck_assert_uint_eq(w->rule, PTN_RULE_RESET);
    unsigned known = 0;
    for (int i = 0; i < PTN_FLOWS; i++)
        known += flows.flow[i].id != 0;
    ck_assert_uint_eq(flows.pushed_out + known, 59999);
    for (int i = 0; i < PTN_FLOWS; i++)
        flows.flow[i].rule = PTN_RULE_CUT;
    struct ptn_pkt k = packet(1, 3, 1, 1, PTN_TCP_ACK);
    ck_assert_ptr_null(ptn_flow_seen(&flows, &k, 1, &side));
}
END_TEST

START_TEST(due_in_order)
{
    struct ptn_sched s = {0};
    uint64_t last_due = 0, last_order = 0, put = 0, taken = 0;

    srand(3);
    for (int round = 0; round < 200000; round++) {
        bool grow = round % 50000 < 30000;
        if (!s.count || rand() % 10 < (grow ? 6 : 4)) {
            /* few values: many are due together; never before what has left */
            struct ptn_item it = {.due = last_due + (uint64_t)(rand() % 50)};
            ck_assert(ptn_sched_put(&s, it));
            put++;
        } else {
            ck_assert_uint_eq(ptn_sched_first(&s)->due, s.heap[0].due);
            struct ptn_item it = ptn_sched_take(&s);
            if (it.due < last_due || (it.due == last_due && taken && it.order < last_order))
                ck_abort_msg("out of order");
            last_due = it.due;
            last_order = it.order;
            taken++;
        }
    }
    ck_assert_uint_eq(put, taken + s.count);
    while (s.count)
        ptn_sched_take(&s);
    ck_assert_ptr_null(ptn_sched_first(&s));
    ptn_sched_free(&s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("net_flow");
    TCase *t = tcase_create("flow");
    suite_add_tcase(s, t);
    tcase_add_test(t, both_directions_are_one);
    tcase_add_test(t, a_reset_has_the_expected_number);
    tcase_add_test(t, ports_used_again);
    tcase_add_test(t, full_table);
    tcase_add_test(t, due_in_order);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}

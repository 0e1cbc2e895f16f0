/* The packet scanner: each form, each operation, every truncation. */
#include "proto/dop.h"
#include "term.h"

static struct term t; /* the packet under test; too large for a stack */

/* Each packet is scanned in both ways: alone, and by who remembers the front of one before it. */
static struct pt_packet_memo memo;

static void check_same(struct pt_packet a, struct pt_packet b);

static struct pt_packet scan_of(size_t avail, size_t total)
{
    struct exact copy = exact_copy(t.at, avail);
    struct pt_packet pkt, next;

    memset(&pkt, 0xa5, sizeof pkt);
    memset(&next, 0xa5, sizeof next);
    pt_packet_scan(copy.p, avail, total, &pkt);
    pt_packet_scan_next(&memo, copy.p, avail, total, &next);
    if (memcmp(&pkt, &next, sizeof pkt)) /* padding is left alone */
        check_same(pkt, next);
    ck_assert_uint_eq(pkt.looked_at, next.looked_at);
    ck_assert_uint_le(pkt.looked_at, PT_MIN(avail, total));
    free(copy.block);
    size_t at = pkt.form == PT_FORM_WHOLE ? 2 : pkt.form == PT_FORM_FRAG_FIRST ? 18 : 0;
    ck_assert_uint_eq(pkt.atoms_at, at);
    ck_assert_uint_eq(pkt.atoms, at ? t.at[at] : 0);
    if (pkt.cut)
        ck_assert_int_eq(pkt.form, PT_FORM_OTHER);
    return pkt;
}

static struct pt_packet scan(void) { return scan_of(t.len, t.len); }

static void check_same(struct pt_packet a, struct pt_packet b)
{
    ck_assert_int_eq(a.form, b.form);
    ck_assert_int_eq(a.order, b.order);
    ck_assert_uint_eq(a.op, b.op);
    ck_assert_uint_eq(a.key, b.key);
    ck_assert_uint_eq(a.seq_id, b.seq_id);
    ck_assert_uint_eq(a.frag_id, b.frag_id);
    ck_assert_uint_eq(a.header_len, b.header_len);
    ck_assert_uint_eq(a.atoms, b.atoms);
    ck_assert_uint_eq(a.cut, b.cut);
}

static void check_other(void)
{
    check_same(scan(), (struct pt_packet){.form = PT_FORM_OTHER, .order = PT_ORDER_FENCE});
}

/* The packet is seen in part: a fence, until the sender is seen; then as if all were there.
 * `sender_end` is 0 if no part of it is enough. */
static void check_every_truncation(size_t sender_end)
{
    struct pt_packet all = scan();

    for (size_t n = 0; n < t.len; n++) {
        struct pt_packet part = scan_of(n, t.len);
        if (sender_end && n >= sender_end)
            check_same(part, all);
        else
            ck_assert_int_eq(part.order, PT_ORDER_FENCE);
        /* The same bytes as a packet of their own. */
        if (n > 0)
            check_same(scan_of(n, n), part);
    }
}

static void whole_header(void)
{
    t.len = 0;
    put8(&t, 131);
    put8(&t, 68);
    put8(&t, 0);
}

static void fragment_header(unsigned tag, uint64_t seq_id, uint64_t frag_id)
{
    t.len = 0;
    put8(&t, 131);
    put8(&t, tag);
    put64(&t, seq_id);
    put64(&t, frag_id);
}

enum { TO_ID = 1000, FROM_ID = 2000 };

static void put_to(void) { put_pid(&t, 88, 119, TO_ID, 1, 7); }

static void put_from(void) { put_pid(&t, 88, 119, FROM_ID, 1, 7); }

/* Key of put_from(), by way of LINK; t stays as it is. */
static uint64_t from_key(void)
{
    size_t len = t.len;
    uint8_t kept[128];
    memcpy(kept, t.at, sizeof kept);
    whole_header();
    put16(&t, 104 << 8 | 3);
    put16(&t, 97 << 8 | 1);
    put_from();
    ck_assert_uint_le(t.len, sizeof kept);
    uint64_t key = scan().key;
    memcpy(t.at, kept, sizeof kept);
    t.len = len;
    ck_assert_uint_ne(key, 0);
    return key;
}

/* Control tuples by their elements: F sender, T some other pid, A atom, N name of length 0,
 * R reference, I small integer, L list, O what may follow. Not from the table under test: from the
 * protocol's document. */
static const struct {
    unsigned op;
    const char *elements;
    enum pt_order order;
    const char *name;
} ops[] = {
    {1, "FT", PT_ORDER_SENDER, "LINK"},
    {2, "NT", PT_ORDER_FENCE, "SEND"},
    {3, "FTA", PT_ORDER_SENDER, "EXIT"},
    {4, "FT", PT_ORDER_SENDER, "UNLINK"},
    {6, "FNA", PT_ORDER_SENDER, "REG_SEND"},
    {7, "TT", PT_ORDER_FENCE, "GROUP_LEADER"},
    {8, "FTA", PT_ORDER_SENDER, "EXIT2"},
    {12, "NTL", PT_ORDER_FENCE, "SEND_TT"},
    {13, "FTLA", PT_ORDER_SENDER, "EXIT_TT"},
    {16, "FNAL", PT_ORDER_SENDER, "REG_SEND_TT"},
    {18, "FTLA", PT_ORDER_SENDER, "EXIT2_TT"},
    {19, "FAR", PT_ORDER_SENDER, "MONITOR_P"},
    {20, "FTR", PT_ORDER_SENDER, "DEMONITOR_P"},
    {21, "FTRA", PT_ORDER_SENDER, "MONITOR_P_EXIT"},
    {21, "ATRA", PT_ORDER_HALF_FENCE, "MONITOR_P_EXIT"},
    {21, "RTRA", PT_ORDER_FENCE, "MONITOR_P_EXIT"},
    {22, "FT", PT_ORDER_SENDER, "SEND_SENDER"},
    {23, "FTL", PT_ORDER_SENDER, "SEND_SENDER_TT"},
    {24, "FT", PT_ORDER_SENDER, "PAYLOAD_EXIT"},
    {25, "FTL", PT_ORDER_SENDER, "PAYLOAD_EXIT_TT"},
    {26, "FT", PT_ORDER_SENDER, "PAYLOAD_EXIT2"},
    {27, "FTL", PT_ORDER_SENDER, "PAYLOAD_EXIT2_TT"},
    {28, "FTR", PT_ORDER_SENDER, "PAYLOAD_MONITOR_P_EXIT"},
    {28, "ATR", PT_ORDER_HALF_FENCE, "PAYLOAD_MONITOR_P_EXIT"},
    {28, "ITR", PT_ORDER_FENCE, "PAYLOAD_MONITOR_P_EXIT"},
    {29, "RFTLL", PT_ORDER_SENDER, "SPAWN_REQUEST"},
    {30, "RFTLLL", PT_ORDER_SENDER, "SPAWN_REQUEST_TT"},
    {31, "RTIF", PT_ORDER_SENDER, "SPAWN_REPLY"},
    {31, "RTIA", PT_ORDER_FREE, "SPAWN_REPLY"},
    {31, "RTIR", PT_ORDER_FENCE, "SPAWN_REPLY"},
    {32, "RTIFL", PT_ORDER_SENDER, "SPAWN_REPLY_TT"},
    {32, "RTIAL", PT_ORDER_FREE, "SPAWN_REPLY_TT"},
    {33, "FR", PT_ORDER_SENDER, "ALIAS_SEND"},
    {34, "FRL", PT_ORDER_SENDER, "ALIAS_SEND_TT"},
    {35, "IFT", PT_ORDER_SENDER, "UNLINK_ID"},
    {36, "IFT", PT_ORDER_SENDER, "UNLINK_ID_ACK"},
    {37, "IFT", PT_ORDER_SENDER, "ALTACT_SIG_SEND"},
    {37, "IFTLLL", PT_ORDER_SENDER, "ALTACT_SIG_SEND"},
    /* What should be a pid is none. */
    {22, "AT", PT_ORDER_FENCE, "SEND_SENDER"},
    {35, "IAT", PT_ORDER_FENCE, "UNLINK_ID"},
};
enum { OPS = sizeof ops / sizeof *ops };

static void put_element(char kind)
{
    switch (kind) {
    case 'F': put_from(); break;
    case 'T': put_to(); break;
    case 'A': put_atom(&t, 119, "some_atom"); break;
    case 'N': put_atom(&t, 119, ""); break;
    case 'R': put_ref(&t); break;
    case 'I': put16(&t, 97 << 8 | 5); break;
    case 'L': put8(&t, 106); break;
    default: ck_abort_msg("no such element: %c", kind);
    }
}

/* Puts a control tuple; returns where the element that decides its order ends. */
static size_t put_control(unsigned op, const char *elements)
{
    size_t decided = 0;
    size_t at = op == 31 || op == 32 ? 3 : op == 29 || op == 30 || op >= 35 ? 1 : 0;

    put8(&t, 104);
    put8(&t, (unsigned)strlen(elements) + 1);
    put16(&t, 97 << 8 | op);
    for (size_t i = 0; elements[i]; i++) {
        put_element(elements[i]);
        if (i == at)
            decided = t.len;
    }
    return decided;
}

static void check_op(int i, enum pt_packet_form form, uint64_t seq_id, uint64_t frag_id)
{
    size_t header_len = t.len;
    size_t decided = put_control(ops[i].op, ops[i].elements);
    bool sender = ops[i].order == PT_ORDER_SENDER;

    put_fill(&t, 0xee, 30); /* message: not the scanner's business */
    check_same(scan(), (struct pt_packet){.form = form,
                                          .order = ops[i].order,
                                          .op = (uint8_t)ops[i].op,
                                          .key = sender ? from_key() : 0,
                                          .seq_id = seq_id,
                                          .frag_id = frag_id,
                                          .header_len = header_len});
    check_every_truncation(ops[i].order == PT_ORDER_FENCE ? 0 : decided);
}

START_TEST(test_op_whole)
{
    whole_header();
    check_op(_i, PT_FORM_WHOLE, 0, 0);
    ck_assert_str_eq(pt_dop_name((uint8_t)ops[_i].op), ops[_i].name);
}
END_TEST

START_TEST(test_op_first_fragment)
{
    fragment_header(69, 0x0102030405060708, 0x1112131415161718);
    put8(&t, 0);
    check_op(_i, PT_FORM_FRAG_FIRST, 0x0102030405060708, 0x1112131415161718);
}
END_TEST

/* An element less than the operation has: fenced even if the sender would be there. */
START_TEST(test_op_too_short)
{
    whole_header();
    put_control(ops[_i].op, ops[_i].elements);
    for (unsigned arity = 0; arity <= strlen(ops[_i].elements); arity++) {
        t.at[4] = (uint8_t)arity;
        struct pt_packet pkt = scan();
        ck_assert_int_eq(pkt.form, PT_FORM_WHOLE);
        if (ops[_i].op == 37 && arity >= 4)
            continue; /* may be longer: so is the sample */
        ck_assert_int_eq(pkt.order, PT_ORDER_FENCE);
        ck_assert_uint_eq(pkt.op, arity ? ops[_i].op : 0);
        ck_assert_uint_eq(pkt.key, 0);
    }
}
END_TEST

static bool is_op(unsigned op)
{
    for (int i = 0; i < OPS; i++) {
        if (ops[i].op == op)
            return true;
    }
    return false;
}

START_TEST(test_unknown_ops)
{
    for (unsigned op = 0; op < 256; op++) {
        if (is_op(op))
            continue;
        whole_header();
        put_control(op, "FTRR");
        check_same(scan(), (struct pt_packet){
                               .form = PT_FORM_WHOLE, .order = PT_ORDER_FENCE, .header_len = 3});
        ck_assert_str_eq(pt_dop_name((uint8_t)op), "UNKNOWN");
    }
}
END_TEST

/* 22 in several encodings; then numbers that are 22 only in their low bits, and no numbers. */
START_TEST(test_op_encodings)
{
    static const struct {
        const char *hex;
        uint8_t op;
    } cases[] = {
        {"6116", 22},
        {"6200000016", 22},
        {"6e010016", 22},
        {"6f000000010016", 22},
        {"6200000116", 0},
        {"6280000016", 0},
        {"6e010116", 0},
        {"6e050016000000ff", 0},
        {"6e09001600000000000000"
         "01",
         0},
        {"7700", 0},
        {"6a", 0},
        {"80", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        whole_header();
        put16(&t, 104 << 8 | 3);
        put_hex(&t, cases[i].hex);
        put_from();
        put_to();
        struct pt_packet pkt = scan();
        ck_assert_uint_eq(pkt.op, cases[i].op);
        ck_assert_int_eq(pkt.order, cases[i].op ? PT_ORDER_SENDER : PT_ORDER_FENCE);
    }
}
END_TEST

START_TEST(test_large_tuple)
{
    whole_header();
    put8(&t, 105);
    put32(&t, 3);
    put16(&t, 97 << 8 | 22);
    put_from();
    size_t decided = t.len;
    put_to();
    ck_assert_uint_eq(scan().key, from_key());
    check_every_truncation(decided);
}
END_TEST

/* What a VM (OTP 25) put on the wire, fragments cut after 100 bytes. */
static const struct {
    const char *hex;
    struct pt_packet want; /* key: not compared, but there with a sender */
} captured[] = {
    {"834400680361165877117369676e616c73406c6f63616c686f73740000005b00000000b1a6aa6158770e"
     "73696e6b3139406e6f776865726500001267000000000000004d680277077061796c6f61646b000a0102"
     "030405060708090a",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_SENDER, .op = 22, .header_len = 3}},
    {"834400680461065877117369676e616c73406c6f63616c686f73740000005c00000000b1a6aa61770077"
     "0a72656769737465726564680277077061796c6f61646b000a0102030405060708090a",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_SENDER, .op = 6, .header_len = 3}},
    {"834400680361215877117369676e616c73406c6f63616c686f73740000005d00000000b1a6aa615a0005"
     "770e73696e6b3139406e6f77686572650000004d00001267000000000000000000000000000000016802"
     "77077061796c6f61646b000a0102030405060708090a",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_SENDER, .op = 33, .header_len = 3}},
    {"83440068036102770058770d73696e6b33406e6f776865726500001267000000000000004d6802770770"
     "61796c6f61646b000a0102030405060708090a",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_FENCE, .op = 2, .header_len = 3}},
    {"834400680361075877117369676e616c73406c6f63616c686f73740000006d00000000b1a6aa6158770e"
     "73696e6b3139406e6f776865726500001267000000000000004d",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_FENCE, .op = 7, .header_len = 3}},
    {"8344006804611c77146e6f626f64795f6861735f746869735f6e616d6558770e73696e6b3139406e6f77"
     "6865726500001267000000000000004d5a0003770e73696e6b3139406e6f77686572650000004d000000"
     "83000000000000000177066e6f70726f63",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_HALF_FENCE, .op = 28, .header_len = 3}},
    {"8344006806611d5a000377117369676e616c73406c6f63616c686f7374b1a6aa610003301e31c4000299"
     "4b0f695877117369676e616c73406c6f63616c686f73740000006e00000000b1a6aa615877117369676e"
     "616c73406c6f63616c686f73740000004100000000b1a6aa61680377016d77016661016a6c0000000177"
     "01616a",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_SENDER, .op = 29, .header_len = 3}},
    {"8344006805611f5a0003770e73696e6b3139406e6f77686572650000004d000000a30000000000000001"
     "58770e73696e6b3139406e6f776865726500001267000000000000004d610077066261646f7074",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_FREE, .op = 31, .header_len = 3}},
    {"834400680461246e080000000000000000405877117369676e616c73406c6f63616c686f73740000006c"
     "00000000b1a6aa6158770e73696e6b3139406e6f776865726500001267000000000000004d",
     {.form = PT_FORM_WHOLE, .order = PT_ORDER_SENDER, .op = 36, .header_len = 3}},
    {"83450000030800000613000000000000000500680361165877117369676e616c73406c6f63616c686f73"
     "740000006100000000b1a6aa6158770e73696e6b3139406e6f776865726500001267000000000000004d"
     "6d000493e06c617267656c617267656c",
     {.form = PT_FORM_FRAG_FIRST,
      .order = PT_ORDER_SENDER,
      .op = 22,
      .seq_id = 0x0000030800000613,
      .frag_id = 5,
      .header_len = 19}},
    {"834600000308000006130000000000000001656c617267656c617267656c617267656c617267656c6172"
     "67656c617267656c617267656c617267656c617267656c617267656c617267656c617267656c61726765"
     "6c617267656c617267656c617267656c",
     {.form = PT_FORM_FRAG_NEXT,
      .order = PT_ORDER_SENDER,
      .op = 0,
      .seq_id = 0x0000030800000613,
      .frag_id = 1,
      .header_len = 18}},
};

START_TEST(test_captured)
{
    t.len = 0;
    put_hex(&t, captured[_i].hex);
    struct pt_packet pkt = scan(), want = captured[_i].want;
    bool keyed = want.order == PT_ORDER_SENDER && want.form != PT_FORM_FRAG_NEXT;
    ck_assert_uint_eq(pkt.key != 0, keyed);
    want.key = pkt.key;
    check_same(pkt, want);
}
END_TEST

START_TEST(test_tick)
{
    struct pt_packet pkt;
    memset(&pkt, 0xa5, sizeof pkt);
    pt_packet_scan(NULL, 0, 0, &pkt);
    check_same(pkt, (struct pt_packet){.form = PT_FORM_TICK, .order = PT_ORDER_FREE});
}
END_TEST

START_TEST(test_next_fragment)
{
    fragment_header(70, UINT64_MAX, 1);
    size_t header = t.len;
    put_fill(&t, 0xee, 20);
    struct pt_packet want = {.form = PT_FORM_FRAG_NEXT,
                             .order = PT_ORDER_SENDER,
                             .seq_id = UINT64_MAX,
                             .frag_id = 1,
                             .header_len = 18};
    ck_assert_uint_eq(header, want.header_len);
    check_same(scan(), want);
    for (size_t n = 1; n < t.len; n++) {
        if (n >= header)
            check_same(scan_of(n, n), want);
        else
            ck_assert_int_eq(scan_of(n, t.len).form, PT_FORM_OTHER);
    }
}
END_TEST

START_TEST(test_fragments_without_number)
{
    static const struct {
        unsigned tag;
        uint64_t seq_id, frag_id;
    } cases[] = {{69, 9, 0}, {69, 0, 9}, {70, 9, 0}, {70, 0, 9}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fragment_header(cases[i].tag, cases[i].seq_id, cases[i].frag_id);
        put8(&t, 0);
        put_control(22, "FT");
        check_other();
    }
}
END_TEST

/* A section of `refs` references, every third NEW with a text of `len` bytes. */
static void put_section(unsigned refs, unsigned len)
{
    put8(&t, refs);
    size_t flags = t.len;
    if (refs)
        put_fill(&t, 0, refs / 2 + 1);
    for (unsigned i = 0; i < refs; i++) {
        put8(&t, i);
        if (i % 3)
            continue;
        t.at[flags + i / 2] |= (uint8_t)(8 << (i % 2 ? 4 : 0));
        if (len > 255)
            put16(&t, len);
        else
            put8(&t, len);
        put_fill(&t, 'a', len);
    }
    if (len > 255)
        t.at[flags + refs / 2] |= (uint8_t)(1 << (refs % 2 ? 4 : 0));
}

/* SEND_SENDER, behind a section that ends here, from a process whose node is the `i`th reference. */
static void check_section(size_t section, unsigned i, struct pt_packet want)
{
    want.order = PT_ORDER_SENDER;
    want.op = 22;
    want.header_len = t.len;
    want.key = from_key();
    put16(&t, 104 << 8 | 3);
    put16(&t, 97 << 8 | 22);
    put16(&t, 88 << 8 | 82);
    put8(&t, i);
    put32(&t, FROM_ID);
    put32(&t, 1);
    put32(&t, 7);
    size_t decided = t.len;
    put_to();
    check_same(scan(), want);
    check_every_truncation(decided);
    for (size_t n = 1; n < t.len; n++)
        ck_assert_uint_eq(scan_of(n, t.len).cut, n > section && n < want.header_len);
}

START_TEST(test_atom_cache)
{
    static const unsigned lens[] = {0, 1, 255, 256, 1020};
    for (unsigned refs = 0; refs < 256; refs += refs < 9 || refs == 254 ? 1 : 49) {
        for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
            if (refs > 20 && lens[i] > 1)
                continue; /* every truncation of it would take long */
            t.len = 0;
            put16(&t, 131 << 8 | 68);
            put_section(refs, lens[i]);
            check_section(
                2, refs / 2,
                (struct pt_packet){.form = PT_FORM_WHOLE, .atoms_at = 2, .atoms = (uint8_t)refs});
            fragment_header(69, 9, 8);
            put_section(refs, lens[i]);
            check_section(18, refs / 2,
                          (struct pt_packet){.form = PT_FORM_FRAG_FIRST,
                                             .atoms_at = 18,
                                             .atoms = (uint8_t)refs,
                                             .seq_id = 9,
                                             .frag_id = 8});
        }
    }
}
END_TEST

/* The longest section there is. */
START_TEST(test_longest_section)
{
    t.len = 0;
    put16(&t, 131 << 8 | 68);
    put8(&t, 255);
    put_fill(&t, 0x88, 127);
    put8(&t, 0x18); /* the last reference and LONG */
    for (unsigned i = 0; i < 255; i++) {
        put8(&t, i);
        put16(&t, 1020);
        put_fill(&t, 'a', 1020);
    }
    size_t end = t.len;
    put_control(22, "FT");
    for (size_t n = 3; n < end; n += 97)
        ck_assert_uint_eq(scan_of(n, t.len).cut, 1);
    ck_assert_uint_eq(scan_of(end - 1, t.len).cut, 1);
    ck_assert_uint_eq(scan_of(end, t.len).header_len, end);
    ck_assert_int_eq(scan().order, PT_ORDER_SENDER);
}
END_TEST

/* No VM writes a text longer than 255 characters: not understood, however much of it is seen. */
START_TEST(test_atom_too_long)
{
    t.len = 0;
    put16(&t, 131 << 8 | 68);
    put_section(1, 1021);
    put_control(22, "FT");
    check_other();
    fragment_header(69, 9, 9);
    put_section(1, 1021);
    put_control(22, "FT");
    check_other();
}
END_TEST

START_TEST(test_other_headers)
{
    whole_header();
    put_control(22, "FT");
    struct exact copy = exact_copy(t.at, t.len);
    uint8_t *head = copy.block + 1;
    for (unsigned i = 0; i < 0x10000; i++) {
        pt_put16(head, (uint16_t)i);
        if (head[0] == 131 && head[1] >= 68 && head[1] <= 70)
            continue;
        struct pt_packet pkt;
        pt_packet_scan(head, t.len, t.len, &pkt);
        if (pkt.form != PT_FORM_OTHER || pkt.order != PT_ORDER_FENCE || pkt.key != 0)
            ck_abort_msg("header %04x", i);
    }
    free(copy.block);
}
END_TEST

/* The farthest that a VM puts a sender: 255 characters of four bytes in each node's name. */
START_TEST(test_peek_is_enough)
{
    char name[4 * 255 + 1];
    for (size_t i = 0; i < sizeof name - 1; i += 4)
        memcpy(name + i, "\xf0\x9f\x98\x80", 4);
    name[sizeof name - 1] = 0;

    whole_header();
    put16(&t, 104 << 8 | 6);
    put16(&t, 97 << 8 | 32);
    put8(&t, 90);
    put16(&t, 5);
    put_atom(&t, 118, name);
    put_fill(&t, 1, 4 + 5 * 4);
    put8(&t, 88);
    put_atom(&t, 118, name);
    put_fill(&t, 1, 12);
    put8(&t, 98);
    put32(&t, 3);
    put8(&t, 88);
    put_atom(&t, 118, name);
    put_fill(&t, 2, 12);
    ck_assert_uint_le(t.len, PT_DOP_PEEK);
    put_fill(&t, 0xee, PT_DOP_PEEK);
    struct pt_packet pkt = scan_of(PT_DOP_PEEK, t.len);
    ck_assert_int_eq(pkt.order, PT_ORDER_SENDER);
    check_same(pkt, scan());
}
END_TEST

/* More bytes at hand than the packet has are not looked at. */
/* The next message of the same sender: the same front, whatever follows it. Of another: not. */
START_TEST(test_the_same_front)
{
    struct pt_packet_memo m = {0};
    struct pt_packet a, b;
    size_t from = 3 + 2 + 2; /* 131 68 0, {4, 6, From .. */

    whole_header();
    put8(&t, 104), put8(&t, 4), put8(&t, 97), put8(&t, 6);
    put8(&t, 88), put8(&t, 119), put8(&t, 1), put8(&t, 'n');
    put_fill(&t, 0, 12);
    size_t front = t.len;
    put_fill(&t, 7, 100);
    pt_packet_scan_next(&m, t.at, t.len, t.len, &a);
    ck_assert_int_eq(a.order, PT_ORDER_SENDER);
    ck_assert_uint_eq(a.looked_at, front);
    t.at[front] ^= 1; /* not looked at */
    pt_packet_scan_next(&m, t.at, t.len, t.len, &b);
    check_same(a, b);
    for (size_t i = 0; i < front; i++) {
        t.at[i] ^= 1;
        pt_packet_scan_next(&m, t.at, t.len, t.len, &b);
        check_same(b, scan());
        if (i >= from + 4 && i < front)
            ck_assert_uint_ne(b.key, a.key);
        t.at[i] ^= 1;
    }
    pt_packet_scan_next(&m, t.at, front - 1, t.len, &b); /* seen in part */
    ck_assert_int_eq(b.order, PT_ORDER_FENCE);
}
END_TEST

START_TEST(test_avail_beyond_total)
{
    whole_header();
    size_t decided = put_control(22, "FT");
    ck_assert_int_eq(scan_of(t.len, decided).order, PT_ORDER_SENDER);
    ck_assert_int_eq(scan_of(t.len, decided - 1).order, PT_ORDER_FENCE);
    ck_assert_int_eq(scan_of(t.len, 0).form, PT_FORM_TICK);
    ck_assert_int_eq(scan_of(t.len, 2).form, PT_FORM_OTHER);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dop");
    TCase *c = tcase_create("dop");

    tcase_add_loop_test(c, test_op_whole, 0, OPS);
    tcase_add_loop_test(c, test_op_first_fragment, 0, OPS);
    tcase_add_loop_test(c, test_op_too_short, 0, OPS);
    tcase_add_test(c, test_unknown_ops);
    tcase_add_test(c, test_op_encodings);
    tcase_add_test(c, test_large_tuple);
    tcase_add_loop_test(c, test_captured, 0, sizeof captured / sizeof *captured);
    tcase_add_test(c, test_tick);
    tcase_add_test(c, test_next_fragment);
    tcase_add_test(c, test_fragments_without_number);
    tcase_add_test(c, test_atom_cache);
    tcase_add_test(c, test_longest_section);
    tcase_add_test(c, test_atom_too_long);
    tcase_add_test(c, test_other_headers);
    tcase_add_test(c, test_peek_is_enough);
    tcase_add_test(c, test_the_same_front);
    tcase_add_test(c, test_avail_beyond_total);
    suite_add_tcase(s, c);

    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

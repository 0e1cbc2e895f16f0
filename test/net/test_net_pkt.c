/* Packets: a super-packet cut into any runs gives the same bytes, in packets that are right. */
#include "pkt.h"

#include <check.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

enum { MSS = 100, OPTIONS = 12, ID = 0xfffe, SEQ = 0x7fffff00 };

static const uint8_t from6[16] = {0xfd, 0x77, [15] = 1}, to6[16] = {0xfd, 0x77, [15] = 2};

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}
static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* A TCP packet with options and `payload` bytes of a pattern; its length. */
static size_t tcp_packet(uint8_t *p, int version, unsigned flags, size_t payload)
{
    size_t ip = version == 4 ? 20 : 40, tcp = 20 + OPTIONS, len = ip + tcp + payload;

    memset(p, 0, ip + tcp);
    if (version == 4) {
        p[0] = 0x45;
        put16(p + 2, (unsigned)len);
        put16(p + 4, ID);
        p[8] = 64;
        p[9] = IPPROTO_TCP;
        memcpy(p + 12, (uint8_t[]){10, 77, 0, 1, 10, 77, 0, 2}, 8);
    } else {
        p[0] = 0x60;
        put16(p + 4, (unsigned)(len - 40));
        p[6] = IPPROTO_TCP;
        memcpy(p + 8, from6, 16);
        memcpy(p + 24, to6, 16);
    }
    uint8_t *t = p + ip;
    put16(t, 4369);
    put16(t + 2, 9100);
    put32(t + 4, SEQ);
    put32(t + 8, 12345);
    t[12] = (uint8_t)((tcp / 4) << 4);
    t[13] = (uint8_t)flags;
    for (size_t i = 0; i < payload; i++)
        p[ip + tcp + i] = (uint8_t)(i * 7 + i / 256);
    return len;
}

static struct virtio_net_hdr gso(int version, unsigned mss)
{
    return (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                   .gso_type = version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4
                                                            : VIRTIO_NET_HDR_GSO_TCPV6,
                                   .gso_size = (uint16_t)mss};
}

START_TEST(parses)
{
    uint8_t p[4096];
    struct ptn_pkt k;
    int version = _i ? 6 : 4;
    struct virtio_net_hdr vh = gso(version, MSS), none = {0};
    size_t len = tcp_packet(p, version, PTN_TCP_ACK | PTN_TCP_FIN, 1001);

    ck_assert_int_eq(ptn_pkt_parse(p, len, len, &vh, &k), 0);
    ck_assert_uint_eq(k.segments, 11);
    ck_assert_uint_eq(k.mss, MSS);
    ck_assert_uint_eq(k.hdr_len, len - 1001);
    ck_assert_uint_eq(k.sport, 4369);
    ck_assert_uint_eq(k.dport, 9100);
    ck_assert_uint_eq(k.seq, SEQ);
    ck_assert_uint_eq(k.ack, 12345);
    ck_assert_uint_eq(ptn_pkt_seqs(&k), 1002);
    ck_assert_uint_eq(ptn_pkt_wire(&k, 0), k.hdr_len + MSS);
    ck_assert_uint_eq(ptn_pkt_wire(&k, 10), k.hdr_len + 1);
    ck_assert_uint_eq(k.dst.b[15], 2);
    ck_assert_int_eq(ptn_pkt_parse(p, len, len, &none, &k), 0);
    ck_assert_uint_eq(k.segments, 1);
    /* the other version's offload, and one that nobody asked for */
    vh = gso(version == 4 ? 6 : 4, MSS);
    ck_assert_int_eq(ptn_pkt_parse(p, len, len, &vh, &k), -1);
    vh.gso_type = VIRTIO_NET_HDR_GSO_UDP;
    ck_assert_int_eq(ptn_pkt_parse(p, len, len, &vh, &k), -1);
}
END_TEST

/* Whatever is cut short or changed: an answer, and no byte read beyond the end (ASan looks). */
START_TEST(parses_anything)
{
    struct virtio_net_hdr vh = gso(4, MSS);
    struct ptn_pkt k;
    uint8_t whole[2048];
    size_t len = tcp_packet(whole, _i ? 6 : 4, PTN_TCP_ACK, 300);

    srand(1);
    for (int round = 0; round < 20000; round++) {
        size_t n = round < 400 ? (size_t)round % len : 1 + (size_t)rand() % len;
        uint8_t *p = malloc(n ? n : 1);
        memcpy(p, whole, n);
        for (int i = rand() % 4; i > 0 && n; i--)
            p[(size_t)rand() % (n < 60 ? n : 60)] = (uint8_t)rand();
        if (!ptn_pkt_parse(p, n, len, &vh, &k))
            ck_assert_uint_le(k.hdr_len, n);
        free(p);
    }
}
END_TEST

START_TEST(extension_headers)
{
    uint8_t p[256] = {0x60, 0, 0, 0, 0, 0, IPPROTO_HOPOPTS, 64};
    struct virtio_net_hdr none = {0};
    struct ptn_pkt k;

    p[40] = IPPROTO_FRAGMENT;
    p[48] = IPPROTO_UDP;
    put16(p + 56, 1234);
    put16(p + 58, 5678);
    ck_assert_int_eq(ptn_pkt_parse(p, 80, 80, &none, &k), 0);
    ck_assert(k.ports && !k.tcp && k.sport == 1234 && k.dport == 5678);
    p[51] = 8; /* a later fragment has no ports */
    ck_assert_int_eq(ptn_pkt_parse(p, 80, 80, &none, &k), 0);
    ck_assert(!k.ports);
    ck_assert_int_eq(ptn_pkt_parse(p, 44, 80, &none, &k), -1);
}
END_TEST

/* Checks what the kernel would: lengths, IP checksum, the partial sum completed over the bytes. */
static void check_run(const struct ptn_pkt *k, const uint8_t *run, size_t n,
                      const struct virtio_net_hdr *vh)
{
    struct ptn_pkt got;
    size_t l4 = n - k->l4_at;

    ck_assert_int_eq(ptn_pkt_parse(run, n, n, vh, &got), 0);
    if (k->version == 4) {
        ck_assert_uint_eq((unsigned)(run[2] << 8 | run[3]), n);
        ck_assert_uint_eq(ptn_csum(run, k->l4_at, 0), 0);
    } else {
        ck_assert_uint_eq((unsigned)(run[4] << 8 | run[5]), n - 40);
    }
    ck_assert_uint_eq(vh->csum_start, k->l4_at);
    /* The field holds the pseudo header's sum; computed here in another way. */
    const uint8_t *addr = run + (k->version == 4 ? 12 : 8);
    uint8_t pseudo[40] = {0};
    size_t alen = k->version == 4 ? 8 : 32;
    memcpy(pseudo, addr, alen);
    put32(pseudo + alen, (uint32_t)l4);
    pseudo[alen + 7] = IPPROTO_TCP;
    const uint8_t *field = run + k->l4_at + vh->csum_offset;
    ck_assert_uint_eq((uint16_t) ~(field[0] << 8 | field[1]), ptn_csum(pseudo, alen + 8, 0));
}

START_TEST(runs_are_the_whole)
{
    static uint8_t p[70000], run[70000], seen[65536];
    int version = _i % 2 ? 6 : 4;
    size_t payload = _i < 2 ? 1001 : 5 * MSS;
    struct virtio_net_hdr vh = gso(version, MSS), out;
    struct ptn_pkt k;
    size_t len =
        tcp_packet(p, version, PTN_TCP_ACK | PTN_TCP_PSH | PTN_TCP_FIN | PTN_TCP_CWR, payload);

    ck_assert_int_eq(ptn_pkt_parse(p, len, len, &vh, &k), 0);
    for (uint32_t each = 1; each <= k.segments; each++) {
        memset(seen, 0xee, sizeof seen);
        for (uint32_t first = 0; first < k.segments; first += each) {
            uint32_t count = first + each <= k.segments ? each : k.segments - first;
            bool last = first + count == k.segments;
            size_t at, n;
            ptn_pkt_run(&k, p, first, count, run, &out);
            ptn_pkt_range(&k, first, count, &at, &n);
            memcpy(run + k.hdr_len, p + k.hdr_len + at, n);
            check_run(&k, run, k.hdr_len + n, &out);
            uint8_t *tcp = run + k.l4_at;
            ck_assert_uint_eq(get32(tcp + 4), SEQ + (uint32_t)at);
            ck_assert_uint_eq(tcp[13] & PTN_TCP_FIN, last ? PTN_TCP_FIN : 0);
            ck_assert_uint_eq(tcp[13] & PTN_TCP_PSH, last ? PTN_TCP_PSH : 0);
            ck_assert_uint_eq(tcp[13] & PTN_TCP_CWR, first ? 0 : PTN_TCP_CWR);
            if (version == 4)
                ck_assert_uint_eq((uint16_t)(run[4] << 8 | run[5]), (uint16_t)(ID + first));
            ck_assert_uint_eq(out.gso_type, count > 1 ? vh.gso_type : 0);
            memcpy(seen + at, run + k.hdr_len, n);
        }
        ck_assert_mem_eq(seen, p + k.hdr_len, payload);
    }
}
END_TEST

START_TEST(resets)
{
    uint8_t p[256], r[PTN_RST_MAX];
    int version = _i ? 6 : 4;
    struct virtio_net_hdr none = {0};
    struct ptn_pkt k, got;
    struct ptn_rst rst;
    size_t ip = version == 4 ? 20 : 40;

    size_t len = tcp_packet(p, version, PTN_TCP_ACK, 10);
    ck_assert_int_eq(ptn_pkt_parse(p, len, len, &none, &k), 0);
    ck_assert(ptn_pkt_refuse(&k, &rst));
    size_t n = ptn_pkt_rst(&rst, r);
    ck_assert_uint_eq(n, ip + 20);
    ck_assert_int_eq(ptn_pkt_parse(r, n, n, &none, &got), 0);
    ck_assert_uint_eq(got.tcp_flags, PTN_TCP_RST);
    ck_assert_uint_eq(got.seq, k.ack); /* what the sender expects: it takes the reset */
    ck_assert_uint_eq(got.sport, k.dport);
    ck_assert_mem_eq(&got.dst, &k.src, sizeof k.src);

    /* TCP checksum over the real bytes and the pseudo header */
    uint8_t all[100] = {0};
    size_t alen = version == 4 ? 8 : 32;
    memcpy(all, r + (version == 4 ? 12 : 8), alen);
    put32(all + alen, 20);
    all[alen + 7] = IPPROTO_TCP;
    memcpy(all + alen + 8, r + ip, 20);
    ck_assert_uint_eq(ptn_csum(all, alen + 8 + 20, 0), 0);

    /* a SYN is answered with its number acknowledged; a reset with nothing */
    len = tcp_packet(p, version, PTN_TCP_SYN, 0);
    ck_assert_int_eq(ptn_pkt_parse(p, len, len, &none, &k), 0);
    ck_assert(ptn_pkt_refuse(&k, &rst) && rst.answers_syn);
    ck_assert_uint_eq(rst.ack, SEQ + 1u);
    ck_assert_int_eq(ptn_pkt_parse(r, n, n, &none, &k), 0);
    ck_assert(!ptn_pkt_refuse(&k, &rst));
}
END_TEST

START_TEST(checksum)
{
    /* RFC 1071, section 3 */
    static const uint8_t words[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    ck_assert_uint_eq(ptn_csum(words, sizeof words, 0), (uint16_t)~0xddf2);
    ck_assert_uint_eq(ptn_csum(words, 1, 0), 0xffff);
    ck_assert_uint_eq(ptn_csum("\x12", 1, 0), (uint16_t)~0x1200);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("net_pkt");
    TCase *t = tcase_create("pkt");
    suite_add_tcase(s, t);
    tcase_add_loop_test(t, parses, 0, 2);
    tcase_add_loop_test(t, parses_anything, 0, 2);
    tcase_add_test(t, extension_headers);
    tcase_add_loop_test(t, runs_are_the_whole, 0, 4);
    tcase_add_loop_test(t, resets, 0, 2);
    tcase_add_test(t, checksum);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}

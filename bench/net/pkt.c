#include "pkt.h"

#include <netinet/in.h>
#include <string.h>

enum { IP4_MIN = 20, IP6_LEN = 40, TCP_MIN = 20, TCP_CSUM = 16, DEFAULT_TTL = 64 };

static uint16_t get16(const uint8_t *p) { return (uint16_t)((p[0] << 8) | p[1]); }
static uint32_t get32(const uint8_t *p)
{
    return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | p[3];
}
static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)(v >> 16));
    put16(p + 2, (uint16_t)v);
}

static uint16_t fold(uint32_t sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

static uint32_t sum_bytes(const uint8_t *p, size_t n, uint32_t sum)
{
    uint64_t s = sum;

    for (; n > 1; n -= 2, p += 2)
        s += get16(p);
    if (n)
        s += (uint32_t)p[0] << 8;
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint32_t)s;
}

uint16_t ptn_csum(const void *p, size_t n, uint32_t sum)
{
    return (uint16_t)~fold(sum_bytes(p, n, sum));
}

/* Sum of the TCP pseudo header for l4 bytes. */
static uint32_t pseudo(const struct ptn_addr *src, const struct ptn_addr *dst, uint8_t version,
                       uint32_t l4)
{
    size_t skip = version == 4 ? 12 : 0;
    uint32_t sum = sum_bytes(src->b + skip, 16 - skip, 0);
    sum = sum_bytes(dst->b + skip, 16 - skip, sum);
    return sum + (l4 >> 16) + (l4 & 0xffff) + IPPROTO_TCP;
}

/* ---- parsing ---- */

static void map4(struct ptn_addr *a, const uint8_t *p)
{
    memset(a->b, 0, 10);
    memset(a->b + 10, 0xff, 2);
    memcpy(a->b + 12, p, 4);
}

static int parse4(const uint8_t *p, size_t n, struct ptn_pkt *k, bool *later_fragment)
{
    if (n < IP4_MIN)
        return -1;
    size_t ihl = (size_t)(p[0] & 15) * 4;
    if (ihl < IP4_MIN || n < ihl)
        return -1;
    map4(&k->src, p + 12);
    map4(&k->dst, p + 16);
    k->l4_at = (uint16_t)ihl;
    k->proto = p[9];
    k->multicast = p[16] >= 224;
    *later_fragment = (get16(p + 6) & 0x1fff) != 0;
    return 0;
}

static int parse6(const uint8_t *p, size_t n, struct ptn_pkt *k, bool *later_fragment)
{
    size_t at = IP6_LEN;

    if (n < IP6_LEN)
        return -1;
    memcpy(k->src.b, p + 8, 16);
    memcpy(k->dst.b, p + 24, 16);
    k->multicast = p[24] == 0xff;
    k->proto = p[6];
    for (;;) {
        size_t len;
        if (k->proto == IPPROTO_HOPOPTS || k->proto == IPPROTO_ROUTING ||
            k->proto == IPPROTO_DSTOPTS) {
            if (n < at + 8)
                return -1;
            len = ((size_t)p[at + 1] + 1) * 8;
        } else if (k->proto == IPPROTO_FRAGMENT) {
            if (n < at + 8)
                return -1;
            len = 8;
            *later_fragment = (get16(p + at + 2) & 0xfff8) != 0;
        } else {
            break;
        }
        k->proto = p[at];
        at += len;
        if (at > n || at > PTN_HDR_MAX)
            return -1;
        if (*later_fragment)
            break;
    }
    k->l4_at = (uint16_t)at;
    return 0;
}

static int parse_tcp(const uint8_t *p, size_t n, struct ptn_pkt *k)
{
    if (n < TCP_MIN)
        return -1;
    size_t doff = (size_t)(p[12] >> 4) * 4;
    if (doff < TCP_MIN || n < doff)
        return -1;
    k->tcp = true;
    k->seq = get32(p + 4);
    k->ack = get32(p + 8);
    k->tcp_flags = p[13];
    k->hdr_len = (uint16_t)(k->l4_at + doff);
    return 0;
}

static int segments(struct ptn_pkt *k, const struct virtio_net_hdr *vh)
{
    uint8_t want = k->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;

    k->segments = 1;
    if (vh->gso_type == VIRTIO_NET_HDR_GSO_NONE)
        return 0;
    if (vh->gso_type != want || !k->tcp || !vh->gso_size || k->hdr_len > PTN_HDR_MAX)
        return -1;
    size_t payload = k->len - k->hdr_len;
    if (payload > vh->gso_size) {
        k->mss = vh->gso_size;
        k->segments = (uint32_t)((payload + k->mss - 1) / k->mss);
    }
    return 0;
}

int ptn_pkt_parse(const uint8_t *p, size_t n, size_t len, const struct virtio_net_hdr *vh,
                  struct ptn_pkt *out)
{
    bool later_fragment = false;

    memset(out, 0, sizeof *out);
    if (!n || n > len || len > UINT32_MAX)
        return -1;
    out->len = (uint32_t)len;
    out->version = p[0] >> 4;
    int rc = out->version == 4   ? parse4(p, n, out, &later_fragment)
             : out->version == 6 ? parse6(p, n, out, &later_fragment)
                                 : -1;
    if (rc)
        return -1;
    out->hdr_len = out->l4_at;
    if (!later_fragment && (out->proto == IPPROTO_TCP || out->proto == IPPROTO_UDP)) {
        const uint8_t *l4 = p + out->l4_at;
        size_t room = n - out->l4_at;
        if (room < 8 || (out->proto == IPPROTO_TCP && parse_tcp(l4, room, out)))
            return -1;
        out->ports = true;
        out->sport = get16(l4);
        out->dport = get16(l4 + 2);
    }
    return segments(out, vh);
}

uint32_t ptn_pkt_seqs(const struct ptn_pkt *k)
{
    return k->len - k->hdr_len + ((k->tcp_flags & PTN_TCP_SYN) != 0) +
           ((k->tcp_flags & PTN_TCP_FIN) != 0);
}

/* ---- runs ---- */

void ptn_pkt_range(const struct ptn_pkt *k, uint32_t first, uint32_t count, size_t *at, size_t *n)
{
    size_t payload = k->len - k->hdr_len;

    if (k->segments == 1) {
        *at = 0;
        *n = payload;
        return;
    }
    size_t end = (size_t)(first + count) * k->mss;
    *at = (size_t)first * k->mss;
    *n = (end < payload ? end : payload) - *at;
}

uint32_t ptn_pkt_wire(const struct ptn_pkt *k, uint32_t i)
{
    size_t at, n;

    ptn_pkt_range(k, i, 1, &at, &n);
    return k->hdr_len + (uint32_t)n;
}

void ptn_pkt_run(const struct ptn_pkt *k, const uint8_t *hdr, uint32_t first, uint32_t count,
                 uint8_t *out, struct virtio_net_hdr *vh)
{
    size_t at, n;
    uint8_t *tcp = out + k->l4_at;

    ptn_pkt_range(k, first, count, &at, &n);
    memcpy(out, hdr, k->hdr_len);
    size_t len = k->hdr_len + n;
    if (k->version == 4) {
        put16(out + 2, (uint16_t)len);
        put16(out + 4, (uint16_t)(get16(out + 4) + first));
        put16(out + 10, 0);
        put16(out + 10, ptn_csum(out, k->l4_at, 0));
    } else {
        put16(out + 4, (uint16_t)(len - IP6_LEN));
    }
    put32(tcp + 4, k->seq + (uint32_t)at);
    if (first + count < k->segments)
        tcp[13] &= (uint8_t) ~(PTN_TCP_FIN | PTN_TCP_PSH);
    if (first)
        tcp[13] &= (uint8_t)~PTN_TCP_CWR;
    /* The device completes the checksum: what stands in the field is the pseudo header's sum. */
    put16(tcp + TCP_CSUM, fold(pseudo(&k->src, &k->dst, k->version, (uint32_t)(len - k->l4_at))));
    memset(vh, 0, sizeof *vh);
    vh->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    vh->csum_start = k->l4_at;
    vh->csum_offset = TCP_CSUM;
    if (count > 1) {
        vh->gso_type = k->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
        vh->gso_size = k->mss;
        vh->hdr_len = k->hdr_len;
    }
}

/* ---- resets ---- */

size_t ptn_pkt_rst(const struct ptn_rst *r, uint8_t out[PTN_RST_MAX])
{
    size_t ip = r->version == 4 ? IP4_MIN : IP6_LEN;
    uint8_t *tcp = out + ip;

    memset(out, 0, PTN_RST_MAX);
    if (r->version == 4) {
        out[0] = 0x45;
        put16(out + 2, IP4_MIN + TCP_MIN);
        put16(out + 6, 0x4000); /* do not fragment */
        out[8] = DEFAULT_TTL;
        out[9] = IPPROTO_TCP;
        memcpy(out + 12, r->src.b + 12, 4);
        memcpy(out + 16, r->dst.b + 12, 4);
        put16(out + 10, ptn_csum(out, IP4_MIN, 0));
    } else {
        out[0] = 0x60;
        put16(out + 4, TCP_MIN);
        out[6] = IPPROTO_TCP;
        out[7] = DEFAULT_TTL;
        memcpy(out + 8, r->src.b, 16);
        memcpy(out + 24, r->dst.b, 16);
    }
    put16(tcp, r->sport);
    put16(tcp + 2, r->dport);
    put32(tcp + 4, r->seq);
    put32(tcp + 8, r->answers_syn ? r->ack : 0);
    tcp[12] = (TCP_MIN / 4) << 4;
    tcp[13] = PTN_TCP_RST | (r->answers_syn ? PTN_TCP_ACK : 0);
    put16(tcp + TCP_CSUM, ptn_csum(tcp, TCP_MIN, pseudo(&r->src, &r->dst, r->version, TCP_MIN)));
    return ip + TCP_MIN;
}

bool ptn_pkt_refuse(const struct ptn_pkt *k, struct ptn_rst *r)
{
    if (!k->tcp || (k->tcp_flags & PTN_TCP_RST))
        return false;
    *r = (struct ptn_rst){
        .src = k->dst, .dst = k->src, .sport = k->dport, .dport = k->sport, .version = k->version};
    if (k->tcp_flags & PTN_TCP_ACK) {
        r->seq = k->ack;
    } else {
        r->answers_syn = true;
        r->ack = k->seq + ptn_pkt_seqs(k);
    }
    return true;
}

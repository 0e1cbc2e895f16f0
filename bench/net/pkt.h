/* IP packets as they come from and go to a tun device with offloads: parsing, checksums, cutting a
 * TCP super-packet into runs of its segments, forging a reset. Pure: no system calls.
 *
 * A *train* is what one read of the tun device gives: one packet, or a TCP super-packet that stands
 * for many segments of `mss` bytes (virtio_net_hdr.gso_size). Everything the emulator decides it
 * decides for each segment; a *run* is consecutive segments of a train that leave together. */
#ifndef PTN_PKT_H
#define PTN_PKT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PTN_HDR_MAX = 512, /* IP with options or extension headers, and TCP with options */
    PTN_TCP_FIN = 0x01,
    PTN_TCP_SYN = 0x02,
    PTN_TCP_RST = 0x04,
    PTN_TCP_PSH = 0x08,
    PTN_TCP_ACK = 0x10,
    PTN_TCP_CWR = 0x80,
    PTN_RST_MAX = 60, /* IPv6 and TCP without options */
};

/* Addresses are 16 bytes, an IPv4 one is mapped (::ffff:a.b.c.d). */
struct ptn_addr {
    uint8_t b[16];
};

struct ptn_pkt {
    struct ptn_addr src, dst;
    uint32_t len;     /* all of it, IP header included */
    uint16_t l4_at;   /* where TCP or UDP starts */
    uint16_t hdr_len; /* IP and TCP header; equal to l4_at if it is not TCP */
    uint16_t sport, dport;
    uint32_t seq, ack;
    uint32_t segments; /* 1 for an ordinary packet */
    uint16_t mss;      /* payload of each segment but the last; 0 if segments == 1 */
    uint8_t version, proto, tcp_flags;
    bool tcp, ports; /* ports: sport and dport are known (TCP or UDP, not a later fragment) */
    bool multicast;
};

/* Parses the front of a packet of len bytes; n of them are at p. 0, or -1: not IP, cut short, or an
 * offload that was not asked for. */
int ptn_pkt_parse(const uint8_t *p, size_t n, size_t len, const struct virtio_net_hdr *vh,
                  struct ptn_pkt *out);

/* Payload bytes of the run of `count` segments from `first`: where it starts, how long it is. */
void ptn_pkt_range(const struct ptn_pkt *k, uint32_t first, uint32_t count, size_t *at, size_t *n);
/* Bytes on the wire of segment i: headers and its part of the payload. */
uint32_t ptn_pkt_wire(const struct ptn_pkt *k, uint32_t i);

/* Headers of a run: copies hdr_len bytes from hdr to out, corrected in lengths, identification,
 * sequence number, flags and checksums, and fills vh. Only for trains of more than one segment. */
void ptn_pkt_run(const struct ptn_pkt *k, const uint8_t *hdr, uint32_t first, uint32_t count,
                 uint8_t *out, struct virtio_net_hdr *vh);

/* Internet checksum of n bytes, folded and complemented; `sum` is what goes before. */
uint16_t ptn_csum(const void *p, size_t n, uint32_t sum);

/* A reset from one end of a TCP connection to the other, checksums included. Bytes written. With
 * `answers_syn` it carries ack as well, which is what a SYN wants. */
struct ptn_rst {
    struct ptn_addr src, dst;
    uint16_t sport, dport;
    uint32_t seq, ack;
    uint8_t version;
    bool answers_syn;
};
size_t ptn_pkt_rst(const struct ptn_rst *r, uint8_t out[PTN_RST_MAX]);
/* What a host without the connection answers to packet k (RFC 9293, 3.10.7.1). False: nothing, as
 * for a reset. */
bool ptn_pkt_refuse(const struct ptn_pkt *k, struct ptn_rst *r);

/* TCP sequence numbers a train takes: payload, SYN, FIN. */
uint32_t ptn_pkt_seqs(const struct ptn_pkt *k);

#endif

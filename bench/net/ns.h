/* Network namespaces and the tun devices in them. */
#ifndef PTN_NS_H
#define PTN_NS_H

#include "pkt.h"

#include <stdio.h>
#include <sys/types.h>

enum { PTN_NAME_MAX = 32, PTN_ERR_MAX = 256, PTN_NODES_MAX = 64 };

struct ptn_ns_opts {
    const char *path; /* an existing namespace, NULL: a new one */
    unsigned mtu;
    const char *congestion; /* tcp_congestion_control of a new one; NULL: what the kernel gives */
    const char *const *sysctls; /* "net.ipv4.tcp_sack=0", for new ones; ends with NULL */
};

struct ptn_node {
    char name[PTN_NAME_MAX];
    int tun, ns; /* descriptors: the device, the namespace */
    int net_dev; /* /proc/net/dev of the namespace, for the drops of the device */
    bool owned;  /* we made the namespace: what runs in it ends with it */
    dev_t dev;   /* of the namespace's inode */
    ino_t ino;
    struct ptn_addr addr[2]; /* IPv4 as mapped, IPv6 */
};

/* Makes this process able to make namespaces: nothing as root; else it enters a user namespace of
 * its own, and an empty network namespace that goes with it. 0 or -1 with words in err. Before any other call here, with one thread. */
int ptn_ns_privilege(char *err);
/* The user namespace entered, as a descriptor; -1 if none was needed. */
int ptn_ns_user(void);

/* Makes sure that new namespaces may use this congestion control. Before the first of them. */
int ptn_ns_allow(const char *congestion, char *err);

/* Makes or joins the namespace and puts device ptn0 with addresses 10.77.0.(no+1)/24 and
 * fd77::(no+1)/64 into it. The caller is back in its own namespace afterwards. 0 or -1 with words. */
int ptn_ns_open(struct ptn_node *n, unsigned no, const struct ptn_ns_opts *o, char *err);
/* Ends every process in namespaces that we made, SIGTERM first, and closes the descriptors. */
void ptn_ns_close(struct ptn_node *nodes, unsigned count);

/* Packets that the kernel dropped because they were not read in time, since the device exists. */
uint64_t ptn_ns_tun_drops(const struct ptn_node *n);

#endif

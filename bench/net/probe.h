/* What the self-test works with: an emulator of its own, sockets in its nodes, UDP probes whose
 * arrival the kernel stamps, a TCP stream whose bytes are checked. */
#ifndef PTN_PROBE_H
#define PTN_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ptn_lab {
    pid_t pid;
    int eof; /* closing it ends the emulator */
    char socket[108];
    int ctl;
    int ns[2];
    char answer[65536]; /* of the last command */
};

/* Starts an emulator with nodes a and b. 0; 77 if there is no network to be had, 1 otherwise. */
int ptn_lab_open(struct ptn_lab *lab);
void ptn_lab_close(struct ptn_lab *lab);
/* Sends a command, waits for its answer. */
bool ptn_lab_do(struct ptn_lab *lab, const char *command);
/* The number behind `key` in the first line that starts with `line`; -1 if there is none. */
double ptn_lab_stat(struct ptn_lab *lab, const char *line, const char *key);
/* A socket inside node 0 or 1. */
int ptn_lab_socket(struct ptn_lab *lab, int node, int family, int type);

/* Probes from a to b: `count` of `size` bytes of UDP payload, `gap` ns apart. For each: ns it took
 * (the first copy) and when it came, how many came. */
struct ptn_probes {
    unsigned count, arrived, copies;
    int64_t *took; /* -1: lost */
    int64_t *at;   /* ns of real time */
};
bool ptn_probe(struct ptn_lab *lab, unsigned count, size_t size, uint64_t gap,
               struct ptn_probes *p);
void ptn_probes_free(struct ptn_probes *p);

/* A TCP connection from a to b; bytes from a are a pattern that b checks. */
struct ptn_stream {
    int from, to;
    uint64_t sent, got;
    int error_from, error_to; /* errno that ended that side */
    bool corrupt;
};
bool ptn_stream_open(struct ptn_lab *lab, int family, struct ptn_stream *s);
/* Pumps for so long, or until an error on both sides. */
void ptn_stream_pump(struct ptn_stream *s, uint64_t ns);
/* Stops sending and reads what is on its way; true if all of it came. */
bool ptn_stream_drain(struct ptn_stream *s, uint64_t limit_ns);
void ptn_stream_close(struct ptn_stream *s);

#endif

/* The floor: what one TCP connection gives two C processes on the same path. Shared by its parts. */
#ifndef PT_FLOOR_H
#define PT_FLOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A buffer that fits a socket's and whole packets of loopback (c_src/proto/batch.h): larger ones gain
 * nothing there, smaller ones cost calls. */
#define PT_FLOOR_BUF (4u * 64000u)

/* How bytes are moved. One thread uses it. Open and close it around a connection. */
struct pt_floor_io {
    int fd;
    void *ring; /* NULL: blocking system calls */
};

/* uring: one ring for the connection; -ENOSYS when this build or this kernel has none. */
int pt_floor_open(struct pt_floor_io *io, int fd, bool uring);
void pt_floor_close(struct pt_floor_io *io);
/* All of len bytes. 0 or -errno. */
int pt_floor_send(struct pt_floor_io *io, const void *buf, size_t len);
/* What is there, at least a byte. Bytes, 0 at the end of the stream, or -errno. */
long pt_floor_recv(struct pt_floor_io *io, void *buf, size_t room);
/* All of len bytes. 0 or -errno; -EPIPE when the stream ended before. */
int pt_floor_recv_all(struct pt_floor_io *io, void *buf, size_t len);

/* Opens a connection: what the client wants. Both ends are of one build on one kind of machine, so
 * the bytes go as they lie in memory. */
struct pt_floor_ask {
    uint64_t stream; /* 1: the server swallows; 0: it sends every message back */
    uint64_t size;   /* bytes a message */
    uint64_t warm_ns;
    uint64_t uring;
};

/* Ends it: what the server saw behind the warm-up. */
struct pt_floor_answer {
    uint64_t all_bytes; /* with the warm-up: proof that nothing was lost */
    uint64_t bytes;
    uint64_t ns;
    uint64_t cpu_us;
};

uint64_t pt_floor_now(void);    /* ns, CLOCK_MONOTONIC */
uint64_t pt_floor_cpu_us(void); /* user and system time of this process */

int pt_floor_serve(const char *host);
/* memory: bytes a stream's sender goes through, from the start again at their end; 0: one buffer. */
int pt_floor_run(const char *host, const char *port, const char *kind, struct pt_floor_ask ask,
                 uint64_t under_way, uint64_t run_ns, uint64_t memory);

#endif

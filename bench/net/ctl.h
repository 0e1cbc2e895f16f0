/* The control socket, both ends of it. */
#ifndef PTN_CTL_H
#define PTN_CTL_H

#include "engine.h"

#include <poll.h>

enum { PTN_CLIENTS_MAX = 16 };

struct ptn_ctl {
    int listener;
    char path[108]; /* sun_path */
    struct ptn_client {
        int fd; /* -1: free place */
        size_t n;
        char line[4096];
    } client[PTN_CLIENTS_MAX];
};

int ptn_ctl_open(struct ptn_ctl *c, const char *path, char *err);
void ptn_ctl_close(struct ptn_ctl *c);
/* Fills fds with what is to be polled; how many. */
unsigned ptn_ctl_fds(const struct ptn_ctl *c, struct pollfd *fds);
/* Serves what is ready among the same. False: told to quit. */
bool ptn_ctl_serve(struct ptn_ctl *c, struct ptn_engine *e, const struct pollfd *fds, unsigned n);

/* `ctl`: sends the words as a line, prints the answer. Exit status. */
int ptn_ctl_ask(const char *path, int count, char *const *words);
/* `exec`: replaces this process by the command, inside the node's namespace. Returns on failure only:
 * the exit status. */
int ptn_ctl_exec(const char *path, const char *node, char *const *command);

#endif

/* floor serve HOST                                      prints its port, serves until killed
 * floor run HOST PORT echo|stream SIZE UNDER_WAY WARM_MS MS blocking|uring MEMORY */
#include "floor.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

static uint64_t number(const char *word)
{
    char *end;
    uint64_t n = strtoull(word, &end, 10);

    if (*end != '\0' || *word == '\0') {
        fprintf(stderr, "floor: no number: %s\n", word);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    /* Whoever started it, if killed, takes it along. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return pt_floor_serve(argv[2]);
    if (argc == 11 && strcmp(argv[1], "run") == 0) {
        struct pt_floor_ask ask = {.size = number(argv[5]),
                                   .warm_ns = number(argv[7]) * 1000000u,
                                   .uring = strcmp(argv[9], "uring") == 0};

        if (ask.size > 0 && number(argv[6]) > 0)
            return pt_floor_run(argv[2], argv[3], argv[4], ask, number(argv[6]),
                                number(argv[8]) * 1000000u, number(argv[10]));
    }
    fprintf(stderr, "usage: floor serve HOST\n"
                    "       floor run HOST PORT echo|stream SIZE UNDER_WAY WARM_MS MS "
                    "blocking|uring MEMORY\n");
    return 2;
}

/* Proves on real sockets that the emulator does what it is told. */
#ifndef PTN_SELFTEST_H
#define PTN_SELFTEST_H

#include <stdbool.h>

/* Prints a line a check. Exit status: 0 all good, 1 not, 77 no network to be had here. */
int ptn_selftest(bool is_long);

#endif

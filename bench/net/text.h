/* Text that grows: answers on the control socket. */
#ifndef PTN_TEXT_H
#define PTN_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct ptn_text {
    char *p;
    size_t n, room;
    bool failed; /* out of memory; what is there is still valid */
};

__attribute__((format(printf, 2, 3))) void ptn_text_add(struct ptn_text *t, const char *format,
                                                        ...);
void ptn_text_free(struct ptn_text *t);

#endif

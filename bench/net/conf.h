/* Words of the command line and of the control socket that describe a link. Pure. */
#ifndef PTN_CONF_H
#define PTN_CONF_H

#include "link.h"

/* Each reads all of s or answers false. */
bool ptn_read_time(const char *s, uint64_t *ns);    /* 10ms, 250us, 1.5s, 0 */
bool ptn_read_rate(const char *s, uint64_t *bits);  /* 2gbit, 100mbit, 64kbit, 9600bit, 0 */
bool ptn_read_size(const char *s, uint64_t *bytes); /* 1500, 64k, 4m */
bool ptn_read_share(const char *s, double *share);  /* 1%, 0.01; 0 to 1 */
bool ptn_read_count(const char *s, uint64_t max, uint64_t *n);

/* Applies words such as "delay 10ms loss 0.1%" to *c. 0, or -1 with words for people in err; *c is
 * then as it was. */
int ptn_conf_words(struct ptn_link_conf *c, int count, char *const *words, char *err, size_t size);
/* The same words again; always ends with 0. */
void ptn_conf_print(const struct ptn_link_conf *c, char *out, size_t size);

extern const char ptn_conf_help[];

#endif

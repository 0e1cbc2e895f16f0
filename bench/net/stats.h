/* What the emulator says about its links and about itself. */
#ifndef PTN_STATS_H
#define PTN_STATS_H

#include "engine.h"
#include "text.h"

/* Lines of "KIND NAME key value key value ...". */
void ptn_stats(const struct ptn_engine *e, struct ptn_text *out);
/* Was the emulator, not the link, what limited the traffic? The causes, joined by commas; empty: no. */
void ptn_stats_bottleneck(const struct ptn_engine *e, char *out, size_t size);
/* "10.77.0.1" of an address. */
enum { PTN_ADDR_TEXT = 46 };
const char *ptn_addr_text(const struct ptn_addr *a, char out[PTN_ADDR_TEXT]);

#endif

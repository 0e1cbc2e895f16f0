/* Commands of the control socket: a line of words in, lines of text out. */
#ifndef PTN_CMD_H
#define PTN_CMD_H

#include "engine.h"
#include "text.h"

enum { PTN_LINE_MAX = 4096, PTN_WORDS_MAX = 128 };

enum ptn_cmd_result {
    PTN_CMD_OK,
    PTN_CMD_ERROR,
    PTN_CMD_QUIT,
    PTN_CMD_NETNS, /* the caller sends the namespace of *node as a descriptor */
};

/* Carries out the line (which is cut into words in place). The answer is complete, "ok" or
 * "error: WORDS" its last line; but for NETNS, whose last line is still to come. */
enum ptn_cmd_result ptn_cmd(struct ptn_engine *e, char *line, struct ptn_text *out, int *node);

extern const char ptn_cmd_help[];

#endif

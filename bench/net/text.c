#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROOM_MIN = 4096 };

void ptn_text_add(struct ptn_text *t, const char *format, ...)
{
    va_list args;

    for (;;) {
        size_t left = t->room - t->n;
        va_start(args, format);
        int n = vsnprintf(t->p ? t->p + t->n : NULL, left, format, args);
        va_end(args);
        if (n < 0 || t->failed)
            return;
        if ((size_t)n < left) {
            t->n += (size_t)n;
            return;
        }
        size_t room = t->room ? t->room * 2 : ROOM_MIN;
        while (room - t->n <= (size_t)n)
            room *= 2;
        char *p = realloc(t->p, room);
        if (!p) {
            t->failed = true;
            return;
        }
        t->p = p;
        t->room = room;
    }
}

void ptn_text_free(struct ptn_text *t)
{
    free(t->p);
    *t = (struct ptn_text){0};
}

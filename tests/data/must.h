/* What these programs do where the test itself can't go on: say so, and end at once. */
#ifndef MUST_H
#define MUST_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void must(int good, const char *what)
{
    if (good)
        return;
    printf("%s: %s\n", what, strerror(errno));
    fflush(stdout);
    _exit(3);
}

#endif

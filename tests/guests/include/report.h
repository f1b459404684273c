/* What the guests print that start processes: a line for a value, and one for what a call returned. Flushed at
 * once: what is left in a buffer would be a child's as well. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void say(const char *what, long value) {
    printf("%s: %ld\n", what, value);
    fflush(stdout);
}

static void answer(const char *what, long result) {
    if (result < 0) printf("%s: %s\n", what, strerrorname_np(errno));
    else printf("%s: %ld\n", what, result);
    fflush(stdout);
}

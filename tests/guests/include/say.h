/* What the guests print that compare calls: one line a call. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void say(const char *what, long result)
{
    if (result == -1)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, result);
    fflush(stdout);
}
#define SAY(call) (errno = 0, say(#call, (long)(call)))

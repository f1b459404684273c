/* For counting the host's calls. "host_calls WHAT COUNT" prints "ready", waits for a byte, makes one
   kind of call COUNT times, with a getpriority() before and after them, and ends. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char line[32] = "A line of thirty-two characters";
static int word;

static int once(const char *what)
{
    if (strcmp(what, "write") == 0)
        return write(1, line, sizeof line) == sizeof line;
    if (strcmp(what, "read") == 0)
        return read(0, line, 1) == 1;
    if (strcmp(what, "stat") == 0) {
        struct stat found;
        return stat("file", &found) == 0;
    }
    if (strcmp(what, "stat-below") == 0) {
        struct stat found;
        return stat("below/file", &found) == 0;
    }
    if (strcmp(what, "open") == 0)
        return close(open("file", O_RDONLY)) == 0;
    if (strcmp(what, "yield") == 0)
        return sched_yield() == 0;
    if (strcmp(what, "futex-wake") == 0)
        return syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 0;
    if (strcmp(what, "futex-wait") == 0)
        return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, 0, 0, 0) == -1;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3 || write(1, "ready\n", 6) != 6 || read(0, line, 1) != 1)
        return 2;
    getpriority(PRIO_PROCESS, 0);
    for (int n = atoi(argv[2]); n > 0; n--)
        if (!once(argv[1]))
            return 3;
    getpriority(PRIO_PROCESS, 0);
    return 0;
}

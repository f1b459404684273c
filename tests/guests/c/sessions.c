// `setsid` by a program that goes on, and what it starts then. `all` prints the same natively and in a VM.
// `marked` has bytes in its memory that are nowhere else, makes a session, and waits for the end of its input.
#define _GNU_SOURCE
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/say.h"

extern char **environ;
static char *self;

static int status_of(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -status;
}

/* In a child of the session's leader. */
static int member(pid_t leader, int depth)
{
    printf("depth %d: session %d, group %d, parent %d\n", depth, getsid(0) == leader, getpgrp() == leader,
           getsid(getppid()) == leader);
    SAY(setpgid(0, 0));
    printf("own group: %d\n", getpgrp() == getpid());
    fflush(stdout);
    if (depth == 2) return 5;
    pid_t pid = fork();
    if (pid == 0) _exit(member(leader, depth + 1));
    return status_of(pid);
}

static int leader(void)
{
    SAY(setsid() == getpid());
    SAY(setsid());
    pid_t me = getpid();
    printf("session %d, group %d\n", getsid(0) == me, getpgrp() == me);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) _exit(member(me, 1));
    printf("forked: %d\n", status_of(pid));
    char number[16];
    snprintf(number, sizeof number, "%d", me);
    char *args[] = { self, "spawned", number, NULL };
    fflush(stdout);
    if (posix_spawn(&pid, self, NULL, NULL, args, environ)) return 1;
    printf("spawned: %d\n", status_of(pid));
    /* In the place of this one, and then once more. */
    fflush(stdout);
    execl(self, self, "replaced", number, NULL);
    return 1;
}

static int all(void)
{
    pid_t pid = fork();
    if (pid == 0) _exit(leader());
    printf("leader: %d\n", status_of(pid));
    puts("done");
    return 0;
}

static int marked(void)
{
    /* Put together here, so that it is in no file. */
    static char marker[64];
    const char *backwards = "tnednopsednoitaripsniyraicurtsni";
    for (size_t i = 0, n = strlen(backwards); i < n; i++)
        marker[i] = backwards[n - 1 - i];
    pid_t pid = fork();
    if (pid) return status_of(pid);
    if (setsid() != getpid()) return 2;
    printf("%d\n", getpid());
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    /* It is still there. */
    return marker[0] != 'i';
}

int main(int argc, char **argv)
{
    self = argv[0];
    const char *what = argc > 1 ? argv[1] : "all";
    if (!strcmp(what, "spawned")) return member(atoi(argv[2]), 2);
    if (!strcmp(what, "replaced")) {
        pid_t pid = fork();
        if (pid == 0) _exit(member(atoi(argv[2]), 1));
        return status_of(pid);
    }
    return strcmp(what, "marked") ? all() : marked();
}

/* A timer's handler while the program makes calls: where did it interrupt it? Only ever in the program: either before
   the instruction that makes the call, or after the call. A handler that runs in between would not be noticed by a call
   that waits. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

extern char __executable_start, etext;

static volatile sig_atomic_t handled, elsewhere;
static volatile uintptr_t where;

static void handler(int signal, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    (void)signal;
    (void)info;
    handled++;
    if (at < (uintptr_t)&__executable_start || at >= (uintptr_t)&etext) {
        elsewhere++;
        where = at;
    }
}

int main(void)
{
    enum { WANTED = 500 };
    const struct itimerval often = { { 0, 311 }, { 0, 311 } }, never = { { 0, 0 }, { 0, 0 } };
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    while (handled < WANTED)
        syscall(SYS_getppid);
    setitimer(ITIMER_REAL, &never, NULL);
    if (elsewhere)
        printf("%d of %d handlers interrupted something else, the last one %#lx\n", (int)elsewhere, (int)handled,
               (unsigned long)where);
    puts("done");
    return 0;
}

// Each `int3` is a SIGTRAP behind it, however many timers interrupt the program at the same time. Prints what came.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <ucontext.h>

static volatile sig_atomic_t traps, ticks, elsewhere;
extern const char behind[];

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    traps++;
    elsewhere += (const char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] != behind;
}

static void on_tick(int signal)
{
    (void)signal;
    ticks++;
}

int main(int argc, char **argv)
{
    int wanted = argc > 1 ? atoi(argv[1]) : 20000;
    struct sigaction trap = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
    sigaction(SIGTRAP, &trap, NULL);
    signal(SIGALRM, on_tick);
    struct itimerval often = { { 0, 100 }, { 0, 100 } };
    setitimer(ITIMER_REAL, &often, NULL);
    int made = 0;
    // At least so many timers, too.
    while (made < wanted || ticks < 100) {
        __asm__ volatile("int3\n.globl behind\nbehind: nop" ::: "memory");
        made++;
    }
    printf("lost %d, elsewhere %d\n", made - (int)traps, (int)elsewhere);
    return 0;
}

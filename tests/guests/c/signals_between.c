/* Signals from one process to another, by each way of sending them: what arrives, and what happens without a handler. Those
 * that a VMM uses itself are among them. By the kernel's own calls: the C library refuses two. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/report.h"
#include "../include/forks.h"

#define VALUE ((void *)0x123456789abul)
/* Of several signals that are pending for a process, the kernel gives it this one last. */
#define LAST 64

struct action {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

extern void back(void);
__asm__("back: mov $15, %eax\n syscall");

static volatile siginfo_t seen;
static volatile int times;

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    seen = *info;
    times++;
}

static void set(int signal, void *handler) {
    struct action action = {handler, SA_SIGINFO | 0x04000000 /* SA_RESTORER */, (void *)back, 0};
    if (syscall(SYS_rt_sigaction, signal, &action, NULL, 8)) answer("rt_sigaction", -1);
}

static void mask(int how, int signal) {
    unsigned long set = 1ul << (signal - 1);
    syscall(SYS_rt_sigprocmask, how, &set, NULL, 8);
}

static int is_pending(int signal) {
    unsigned long set = 0;
    syscall(SYS_rt_sigpending, &set, 8);
    return set >> (signal - 1) & 1;
}

static long send(int way, pid_t pid, int signal) {
    siginfo_t info = {.si_signo = signal, .si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = VALUE;
    switch (way) {
    case 0: return syscall(SYS_kill, pid, signal);
    case 1: return syscall(SYS_tkill, pid, signal);
    case 2: return syscall(SYS_tgkill, pid, pid, signal);
    case 3: return syscall(SYS_rt_sigqueueinfo, pid, signal, &info);
    // Twice: an ordinary signal arrives once, a real-time one as often as it was sent.
    default: return syscall(SYS_kill, pid, signal) | syscall(SYS_kill, pid, signal);
    }
}

static void handled(int signal, int way) {
    int ready[2], sent[2];
    if (pipe(ready) || pipe(sent)) exit(1);
    mask(SIG_BLOCK, signal);
    mask(SIG_BLOCK, LAST);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        char byte = 0;
        set(signal, on_signal);
        close(sent[1]);
        if (write(ready[1], &byte, 1) != 1 || read(sent[0], &byte, 1) != 0) _exit(1);
        for (int i = 0; i < 100000 && !is_pending(signal); i++) usleep(500);
        // Of one that was sent twice the second may still be on its way: what is sent after it, and taken last, is not.
        if (way == 4 && signal != LAST)
            while (!is_pending(LAST)) usleep(500);
        int pending = is_pending(signal);
        mask(SIG_UNBLOCK, signal);
        for (int i = 0; i < 100000 && way == 4 && signal == LAST && times < 2; i++) usleep(500);
        printf("%d by %d: pending %d, %d times, code %d, %s, %s\n", signal, way, pending, times, seen.si_code,
               seen.si_pid == parent && seen.si_uid == getuid() ? "from the parent" : "from somebody",
               seen.si_code == SI_QUEUE && seen.si_value.sival_ptr != VALUE ? "another value" : "its value");
        fflush(stdout);
        _exit(0);
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) exit(1);
    if (send(way, pid, signal)) answer("send", -1);
    if (way == 4 && signal != LAST && send(0, pid, LAST)) answer("the last", -1);
    close(sent[1]);
    if (end_of(pid)) say("the child's end", signal);
    mask(SIG_UNBLOCK, signal);
    close(ready[0]);
    close(ready[1]);
    close(sent[0]);
}

static void unhandled(int signal, void *action) {
    int ready[2];
    if (pipe(ready)) exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_DUMPABLE, 0);
        set(signal, action);
        if (write(ready[1], "r", 1) != 1) _exit(1);
        if (action == SIG_IGN) usleep(20000);
        else sleep(600);
        _exit(3);
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) exit(1);
    if (send(0, pid, signal)) answer("send", -1);
    say(action == SIG_IGN ? "ignored" : "by default", end_of(pid));
    close(ready[0]);
    close(ready[1]);
}

int main(void) {
    const int signals[] = {SIGINT,  SIGILL,    SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGUSR1, SIGSEGV, SIGPIPE,
                           SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGSYS, 32,     33,      34,      35,      64};
    for (size_t at = 0; at < sizeof signals / sizeof *signals; at++) {
        for (int way = 0; way < 5; way++) handled(signals[at], way);
        unhandled(signals[at], SIG_DFL);
        unhandled(signals[at], SIG_IGN);
    }
    for (int way = 0; way < 5; way++) handled(SIGCHLD, way);
    return 0;
}

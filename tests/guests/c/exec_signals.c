// What of signals and timers stays when a program takes another one's place. It starts itself, from its first
// thread and from another one, and prints the same natively and in a VM.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "../include/say.h"

static char *self;

static sigset_t set_of(int a, int b, int c, int d)
{
    sigset_t set;
    sigemptyset(&set);
    int all[] = { a, b, c, d };
    for (int i = 0; i < 4; i++)
        if (all[i]) sigaddset(&set, all[i]);
    return set;
}

/* Whatever is pending, in order. */
static void drain(void)
{
    sigset_t all;
    sigfillset(&all);
    struct timespec none = { 0, 0 };
    siginfo_t info;
    int signal;
    while ((signal = sigtimedwait(&all, &info, &none)) > 0)
        printf("pending: %d, code %d, value %d\n", signal, info.si_code,
               info.si_code == SI_QUEUE ? info.si_value.sival_int : 0);
}

static void handler(int signal) { (void)signal; }

static void *leave(void *how)
{
    /* For the thread alone. */
    SAY(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR2));
    fflush(stdout);
    execl(self, self, how, NULL);
    return NULL;
}

static void timers(void)
{
    struct itimerval real = { { 1000, 0 }, { 2000, 0 } }, cpu = { { 0, 0 }, { 3000, 0 } };
    SAY(setitimer(ITIMER_REAL, &real, NULL));
    SAY(setitimer(ITIMER_PROF, &cpu, NULL));
    timer_t timer;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2 };
    struct itimerspec soon = { { 0, 0 }, { 0, 1 } };
    SAY(timer_create(CLOCK_MONOTONIC, &event, &timer));
    SAY(timer_settime(timer, 0, &soon, NULL));
    /* Until it has expired. */
    sigset_t pending;
    do sigpending(&pending);
    while (!sigismember(&pending, SIGRTMIN + 2));
}

static int first(const char *how)
{
    sigset_t blocked;
    sigfillset(&blocked);
    SAY(sigprocmask(SIG_SETMASK, &blocked, NULL));
    signal(SIGUSR1, handler);
    signal(SIGTERM, SIG_IGN);
    SAY(kill(getpid(), SIGUSR1));
    SAY(kill(getpid(), SIGTERM));
    for (int i = 1; i <= 3; i++)
        SAY(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ i }));
    timers();
    pthread_t thread;
    if (!strcmp(how, "thread")) {
        pthread_create(&thread, NULL, leave, "after");
        pthread_join(thread, NULL);
    } else {
        leave("after");
    }
    return 1;
}

static int after(void)
{
    struct itimerval left;
    SAY(getitimer(ITIMER_REAL, &left));
    printf("real: %d, every %ld\n", left.it_value.tv_sec > 1000 && left.it_value.tv_sec < 2001,
           (long)left.it_interval.tv_sec);
    SAY(getitimer(ITIMER_PROF, &left));
    printf("cpu: %d, every %ld\n", left.it_value.tv_sec > 2000 && left.it_value.tv_sec < 3001,
           (long)left.it_interval.tv_sec);
    SAY(getitimer(ITIMER_VIRTUAL, &left));
    printf("none: %ld\n", (long)left.it_value.tv_sec);
    SAY(timer_getoverrun((timer_t)0));
    drain();
    printf("alarm: %d\n", alarm(0) > 1000);
    /* A signal file is ready for what was pending before. */
    SAY(kill(getpid(), SIGUSR1));
    sigset_t one = set_of(SIGUSR1, 0, 0, 0);
    int fd = signalfd(-1, &one, 0);
    char number[16];
    snprintf(number, sizeof number, "%d", fd);
    fflush(stdout);
    execl(self, self, "file", number, NULL);
    return 1;
}

static int file(int fd)
{
    struct signalfd_siginfo info;
    ssize_t got = read(fd, &info, sizeof info);
    printf("read: %zd, %u\n", got, got > 0 ? info.ssi_signo : 0);
    /* One that expires while the program is replaced, or after it. */
    struct itimerval soon = { { 0, 0 }, { 0, 1 } };
    SAY(setitimer(ITIMER_REAL, &soon, NULL));
    fflush(stdout);
    execl(self, self, "expired", NULL);
    return 1;
}

static int expired(void)
{
    sigset_t alarm_set = set_of(SIGALRM, 0, 0, 0);
    int signal = 0;
    SAY(sigwait(&alarm_set, &signal));
    printf("alarm: %d\n", signal == SIGALRM);
    /* One that ends the next program, as soon as that does not block it any more. */
    SAY(kill(getpid(), SIGUSR1));
    fflush(stdout);
    execl(self, self, "spin", NULL);
    return 1;
}

int main(int argc, char **argv)
{
    self = argv[0];
    const char *how = argc > 1 ? argv[1] : "first";
    if (!strcmp(how, "after")) return after();
    if (!strcmp(how, "file")) return file(atoi(argv[2]));
    if (!strcmp(how, "expired")) return expired();
    if (!strcmp(how, "spin")) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        for (;;)
            ;
    }
    return first(how);
}

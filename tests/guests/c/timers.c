/* Timers and clocks, one topic per argument. Prints the same natively and in a VM. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

/* What a call returned, or its error as a negative number. */
static long e(long done)
{
    return done < 0 ? -errno : done;
}

static volatile sig_atomic_t seen[65];

static void note(int signal)
{
    seen[signal]++;
}

static void wait_for(int signal, int times)
{
    while (seen[signal] < times)
        usleep(1000);
}

static void burn_until(int signal)
{
    while (!seen[signal]) {
    }
}

static void intervals(void)
{
    struct itimerval set = {{0, 0}, {0, 0}}, old;
    signal(SIGALRM, note);
    signal(SIGVTALRM, note);
    signal(SIGPROF, note);
    printf("none: %u\n", alarm(100));
    printf("left: %u\n", alarm(0));
    getitimer(ITIMER_REAL, &old);
    printf("off: %ld %ld\n", (long)old.it_value.tv_sec, (long)old.it_value.tv_usec);
    set.it_value.tv_usec = set.it_interval.tv_usec = 20000;
    printf("set: %d\n", setitimer(ITIMER_REAL, &set, NULL));
    wait_for(SIGALRM, 3);
    getitimer(ITIMER_REAL, &old);
    printf("interval: %ld, left: %d\n", (long)old.it_interval.tv_usec,
           old.it_value.tv_usec > 0 && old.it_value.tv_usec <= 20000);
    alarm(0);
    memset(&set, 0, sizeof set);
    set.it_value.tv_usec = 20000;
    setitimer(ITIMER_PROF, &set, NULL);
    burn_until(SIGPROF);
    printf("by CPU time\n");
    setitimer(ITIMER_VIRTUAL, &set, NULL);
    burn_until(SIGVTALRM);
    printf("by user time\n");
    set.it_value.tv_usec = 1000000;
    printf("wrong time: %ld\n", e(setitimer(ITIMER_REAL, &set, NULL)));
    printf("wrong timer: %ld\n", e(setitimer(3, &old, NULL)));
    printf("wrong timer: %ld\n", e(getitimer(-1, &old)));
    /* pause ends with an alarm. */
    seen[SIGALRM] = 0;
    alarm(1);
    printf("pause: %ld\n", e(pause()));
}

static volatile sig_atomic_t value, code, own;
static pthread_t wanted;

static void with_info(int signal, siginfo_t *info, void *context)
{
    (void)context;
    value = info->si_value.sival_int;
    code = info->si_code;
    own = pthread_equal(pthread_self(), wanted);
    seen[signal]++;
}

static timer_t make(clockid_t clock, int notify, int signal, int word)
{
    struct sigevent event;
    timer_t timer = 0;
    memset(&event, 0, sizeof event);
    event.sigev_notify = notify;
    event.sigev_signo = signal;
    event.sigev_value.sival_int = word;
    if (notify == SIGEV_THREAD_ID)
        event._sigev_un._tid = (int)syscall(SYS_gettid);
    if (timer_create(clock, &event, &timer))
        printf("timer_create: %s\n", strerror(errno));
    return timer;
}

static void set(timer_t timer, long ns, long every)
{
    struct itimerspec spec = {{0, every}, {0, ns}};
    timer_settime(timer, 0, &spec, NULL);
}

static void *thread_timer(void *argument)
{
    (void)argument;
    wanted = pthread_self();
    timer_t timer = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 1, 5);
    set(timer, 1000000, 0);
    while (!seen[SIGRTMIN + 1])
        usleep(1000);
    printf("to its thread: %d, value %d\n", own, value);
    timer_delete(timer);
    timer = make(CLOCK_THREAD_CPUTIME_ID, SIGEV_THREAD_ID, SIGRTMIN + 2, 6);
    set(timer, 5000000, 0);
    burn_until(SIGRTMIN + 2);
    printf("by its own CPU time: value %d\n", value);
    timer_delete(timer);
    return NULL;
}

static void called(union sigval word)
{
    value = word.sival_int;
    seen[0] = 1;
}

static void posix(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = with_info;
    action.sa_flags = SA_SIGINFO;
    for (int i = 0; i < 4; i++)
        sigaction(SIGRTMIN + i, &action, NULL);
    timer_t timer = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN, 42);
    set(timer, 1000000, 0);
    wait_for(SIGRTMIN, 1);
    printf("signal: code %d value %d\n", code, value);
    struct itimerspec now;
    timer_gettime(timer, &now);
    printf("over: %ld %ld\n", (long)now.it_value.tv_sec, now.it_value.tv_nsec);
    timer_delete(timer);
    printf("deleted: %ld\n", e(timer_gettime(timer, &now)));

    pthread_t thread;
    pthread_create(&thread, NULL, thread_timer, NULL);
    pthread_join(thread, NULL);

    /* While its signal is pending, a timer counts the signals it would have sent. */
    sigset_t block;
    sigemptyset(&block);
    sigaddset(&block, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &block, NULL);
    timer = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 7);
    set(timer, 1000000, 1000000);
    usleep(50000);
    siginfo_t info;
    int got = sigwaitinfo(&block, &info);
    printf("overrun: %d %d %d\n", got == SIGRTMIN + 3, info.si_overrun > 2,
           timer_getoverrun(timer) == info.si_overrun);
    timer_delete(timer);
    struct timespec none = {0, 0};
    printf("nothing left: %d\n", sigtimedwait(&block, &info, &none));

    timer = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
    struct itimerspec spec = {{0, 0}, {100, 0}};
    printf("silent: %d\n", timer_settime(timer, 0, &spec, NULL));
    timer_gettime(timer, &now);
    printf("runs: %d\n", now.it_value.tv_sec >= 90);
    spec.it_value.tv_nsec = 1000000000;
    printf("wrong time: %ld\n", e(timer_settime(timer, 0, &spec, NULL)));
    timer_delete(timer);

    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = called;
    event.sigev_value.sival_int = 9;
    printf("thread: %d\n", timer_create(CLOCK_MONOTONIC, &event, &timer));
    set(timer, 1000000, 0);
    wait_for(0, 1);
    printf("called: %d\n", value);
    timer_delete(timer);

    int id;
    memset(&event, 0, sizeof event);
    event.sigev_signo = 65;
    printf("signal 65: %ld\n", e(syscall(SYS_timer_create, 1, &event, &id)));
    event.sigev_signo = 10;
    event.sigev_notify = 77;
    printf("notify 77: %ld\n", e(syscall(SYS_timer_create, 1, &event, &id)));
    event.sigev_notify = SIGEV_THREAD_ID;
    event._sigev_un._tid = 1;
    printf("another's thread: %ld\n", e(syscall(SYS_timer_create, 1, &event, &id)));
    printf("no clock: %ld\n", e(syscall(SYS_timer_create, 77, NULL, &id)));
    printf("no room: %ld\n", e(syscall(SYS_timer_create, 1, NULL, 8)));
}

static void *spin(void *clock)
{
    pthread_getcpuclockid(pthread_self(), clock);
    struct timespec now;
    do
        clock_gettime(*(clockid_t *)clock, &now);
    while (!now.tv_sec && now.tv_nsec < 20000000);
    return NULL;
}

static void clocks(void)
{
    clockid_t process, thread;
    struct timespec t, u;
    printf("process: %s\n", strerror(clock_getcpuclockid(0, &process)));
    printf("own: %s\n", strerror(clock_getcpuclockid(getpid(), &process)));
    printf("read: %d\n", clock_gettime(process, &t));
    printf("another's: %d\n", clock_getcpuclockid(0x3ffffff0, &thread) != 0);
    pthread_t other;
    pthread_create(&other, NULL, spin, &thread);
    pthread_join(other, NULL);
    /* A thread can be joined a moment before it has exited. */
    while (!clock_gettime(thread, &t))
        usleep(1000);
    printf("ended: %ld\n", e(clock_gettime(thread, &t)));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &u);
    printf("all is more than one: %d\n", u.tv_sec > t.tv_sec || u.tv_nsec > t.tv_nsec + 10000000);
    struct rusage one, all;
    getrusage(RUSAGE_SELF, &all);
    printf("usage: %d %d", getrusage(RUSAGE_THREAD, &one), getrusage(RUSAGE_CHILDREN, &all));
    printf(" %ld\n", e(getrusage(9, &all)));
    struct timespec soon = {0, 1000000}, wrong = {0, -1};
    printf("sleep: %ld", e(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &soon, NULL)));
    static const int refused[] = {3, 4, 5, 6, 10, 77};
    for (unsigned i = 0; i < 6; i++)
        printf(" %ld", e(syscall(SYS_clock_nanosleep, refused[i], 0, &soon, NULL)));
    printf(" %ld\n", e(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &wrong, NULL)));
    struct timex timex;
    memset(&timex, 0, sizeof timex);
    printf("adjtimex: %d\n", adjtimex(&timex) >= 0 && timex.tick > 0);
    printf("another clock: %ld\n", e(syscall(SYS_clock_adjtime, CLOCK_MONOTONIC, &timex)));
    printf("cannot be set: %ld\n", e(clock_settime(CLOCK_MONOTONIC, &soon)));
    printf("wrong: %ld\n", e(clock_settime(CLOCK_REALTIME, &wrong)));
    printf("times: %d\n", times(NULL) > 0);
}

static volatile sig_atomic_t spender, told_spender, told_others;

static void tell(int signal)
{
    (void)signal;
    if (syscall(SYS_gettid) == spender)
        told_spender++;
    else
        told_others++;
}

static void *spend(void *arg)
{
    spender = (int)syscall(SYS_gettid);
    while (told_spender + told_others < 20)
        ;
    return arg;
}

/* Of processor time the thread is told that spends it, not the first one, which waits for it. */
static void profile(void)
{
    struct sigaction action = { .sa_handler = tell, .sa_flags = SA_RESTART };
    sigaction(SIGPROF, &action, NULL);
    struct itimerval often = { { 0, 10000 }, { 0, 10000 } };
    pthread_t thread;
    pthread_create(&thread, NULL, spend, NULL);
    setitimer(ITIMER_PROF, &often, NULL);
    pthread_join(thread, NULL);
    printf("the one who spends is told: %d\n", told_spender > told_others);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "intervals"))
        intervals();
    else if (argc > 1 && !strcmp(argv[1], "posix"))
        posix();
    else if (argc > 1 && !strcmp(argv[1], "clocks"))
        clocks();
    else if (argc > 1 && !strcmp(argv[1], "profile"))
        profile();
    else
        return 2;
    return 0;
}

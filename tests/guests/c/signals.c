/* Linux's promises about signals, one topic per argument. Prints the same natively and in a VM. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* What a call returned, or its error as a negative number. */
static long e(long done)
{
    return done < 0 ? -errno : done;
}

static sigjmp_buf back;
static int kind;

static void on(int signal, int flags, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    sigaction(signal, &action, NULL);
}

static void out(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    siglongjmp(back, 1 + info->si_code);
}

static void spoil(int signal, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    (void)signal, (void)info;
    switch (kind) {
    case 0: c->uc_mcontext.fpregs = (void *)8; break;
    case 1: c->uc_mcontext.gregs[REG_CSGSFS] = 0; break;
    case 2: c->uc_mcontext.gregs[REG_RIP] = 1ll << 47; break;
    case 3: /* A frame that cannot be read at all. */
        __asm__ volatile("mov $16, %%rsp; mov $15, %%eax; syscall" ::: "memory");
    }
}

/* A bad frame is SIGSEGV, which the program may handle. */
static void bad_frames(void)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    on(SIGSEGV, SA_ONSTACK, out);
    on(SIGUSR1, 0, spoil);
    for (kind = 0; kind < 4; kind++) {
        int code = sigsetjmp(back, 1);
        if (!code)
            raise(SIGUSR1);
        printf("frame %d: %s, code %d\n", kind, code ? "handled" : "not noticed", code - 1);
    }
}

static void nothing(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
}

/* A frame that cannot be written is SIGSEGV, too. */
static void bad_stacks(void)
{
    char *memory = mmap(0, 65536, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t unwritable = {.ss_sp = memory, .ss_size = 65536};
    on(SIGSEGV, 0, out);
    on(SIGUSR1, SA_ONSTACK, nothing);
    sigaltstack(&unwritable, NULL);
    int code = sigsetjmp(back, 1);
    if (!code)
        raise(SIGUSR1);
    printf("unwritable: %d\n", code - 1);
    static char little[3072]; /* More than MINSIGSTKSZ, less than a frame may need. */
    int fits = sysconf(_SC_MINSIGSTKSZ) <= (long)sizeof little;
    stack_t small = {.ss_sp = little, .ss_size = 2048};
    printf("small: %d\n", sigaltstack(&small, NULL));
    code = sigsetjmp(back, 1);
    if (!code)
        raise(SIGUSR1);
    printf("overflow: %s\n", code || fits ? "noticed" : "not noticed");
}

static void stack_arguments(void)
{
    static char memory[65536];
    stack_t old, s = {.ss_sp = memory, .ss_size = 100};
    printf("too small: %ld\n", e(sigaltstack(&s, NULL)));
    s.ss_size = sizeof memory;
    s.ss_flags = 4;
    printf("unknown flag: %ld\n", e(sigaltstack(&s, NULL)));
    s.ss_flags = (int)(1u << 31);
    printf("disarmed by a handler: %d\n", sigaltstack(&s, &old));
    printf("before: %#x\n", (unsigned)old.ss_flags);
    sigaltstack(NULL, &old);
    printf("now: %#x %zu\n", (unsigned)old.ss_flags, old.ss_size);
    s.ss_flags = SS_DISABLE;
    printf("off: %d\n", sigaltstack(&s, NULL));
    sigaltstack(NULL, &old);
    printf("now: %#x %zu\n", (unsigned)old.ss_flags, old.ss_size);
}

static volatile sig_atomic_t disarmed;

static void look(int signal, siginfo_t *info, void *context)
{
    stack_t now;
    (void)signal, (void)info, (void)context;
    sigaltstack(NULL, &now);
    disarmed = now.ss_flags == SS_DISABLE && now.ss_size == 0;
}

static void autodisarm(void)
{
    static char memory[65536];
    stack_t now, s = {.ss_sp = memory, .ss_size = sizeof memory, .ss_flags = (int)(1u << 31)};
    sigaltstack(&s, NULL);
    on(SIGUSR1, SA_ONSTACK, look);
    raise(SIGUSR1);
    sigaltstack(NULL, &now);
    printf("in the handler: %s, after it: %#x %zu\n", disarmed ? "none" : "one",
           (unsigned)now.ss_flags, now.ss_size);
}

static int order[32], count;

static void note(int signal, siginfo_t *info, void *context)
{
    (void)context;
    if (count < 32)
        order[count++] = signal * 100 + info->si_value.sival_int;
}

static void queued(void)
{
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 3; i++) {
        on(SIGRTMIN + 2 - i, 0, note);
        for (int j = 0; j < 3; j++)
            sigqueue(getpid(), SIGRTMIN + 2 - i, (union sigval){.sival_int = j});
    }
    siginfo_t info;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 1);
    int got = sigwaitinfo(&one, &info);
    printf("waited: %d code %d value %d pid %s\n", got - SIGRTMIN, info.si_code,
           info.si_value.sival_int, info.si_pid == getpid() ? "own" : "other");
    on(SIGUSR1, 0, note);
    for (int i = 0; i < 3; i++)
        kill(getpid(), SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    /* Each handler's frame lies on top of those of the signals delivered before it. */
    for (int i = 0; i < count; i++)
        if (order[i] / 100 >= SIGRTMIN)
            printf("%d:%d ", order[i] / 100 - SIGRTMIN, order[i] % 100);
    printf("of %d\n", count);
}

static long info_call(long call, long a, long b, long c, siginfo_t *info)
{
    long done = call == SYS_rt_sigqueueinfo ? syscall(call, a, b, info) : syscall(call, a, b, c, info);
    return done < 0 ? -errno : done;
}

static void queue_arguments(void)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_code = SI_QUEUE;
    long pid = getpid(), none = 0x3ffffff0;
    printf("no signal: %ld\n", info_call(SYS_rt_sigqueueinfo, pid, 0, 0, &info));
    printf("beyond: %ld\n", info_call(SYS_rt_sigqueueinfo, pid, 65, 0, &info));
    printf("nobody: %ld\n", info_call(SYS_rt_sigqueueinfo, none, 0, 0, &info));
    printf("no info: %ld\n", info_call(SYS_rt_sigqueueinfo, pid, 10, 0, (void *)8));
    printf("thread 0: %ld\n", info_call(SYS_rt_tgsigqueueinfo, pid, 0, 10, &info));
    info.si_code = 0;
    printf("as kill, to another: %ld\n", info_call(SYS_rt_sigqueueinfo, none, 10, 0, &info));
    info.si_code = -1000;
    ((char *)&info)[127] = 1;
    printf("too long: %ld\n", info_call(SYS_rt_sigqueueinfo, pid, 0, 0, &info));
    printf("tgkill: %ld", e(syscall(SYS_tgkill, pid, 0, 0)));
    printf(" %ld", e(syscall(SYS_tgkill, -1, pid, 0)));
    printf(" %ld\n", e(syscall(SYS_tgkill, pid, pid, 0)));
    printf("tkill: %ld\n", e(syscall(SYS_tkill, 0, 0)));
    printf("kill 65: %ld\n", e(kill(getpid(), 65)));
    printf("to others: %ld\n", e(kill((pid_t)none, 0)));
    printf("lowest: %ld\n", e(kill(-0x7fffffff - 1, 0)));
}

static void see_mask(int signal, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    (void)signal, (void)info;
    siglongjmp(back, 1 + sigismember(&c->uc_sigmask, SIGUSR1));
}

/* A signal that ends a wait with another mask, and whose frame cannot be written: the frame of the
   SIGSEGV has the mask from before the wait. */
static void lost_in_suspend(void)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    static sigset_t none, blocked;
    sigaltstack(&alternate, NULL);
    on(SIGSEGV, SA_ONSTACK, see_mask);
    on(SIGUSR1, 0, nothing);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    raise(SIGUSR1);
    int seen = sigsetjmp(back, 1);
    if (!seen)
        __asm__ volatile("mov $16, %%rsp; syscall" ::"a"(SYS_rt_sigsuspend), "D"(&none), "S"(8L)
                         : "memory");
    printf("blocked as before: %d\n", seen - 1);
}

static void *later(void *target)
{
    usleep(50000);
    pthread_kill(*(pthread_t *)target, SIGUSR2);
    return NULL;
}

static volatile sig_atomic_t has_come;

/* Until it is told to stop: the first may come before the wait that it is for. */
static void *repeatedly(void *target)
{
    while (!has_come)
        later(target);
    return NULL;
}

/* How a wait ends that this thread is in, sooner or later, when it gets the signal. */
static long waited(const sigset_t *set, siginfo_t *info)
{
    pthread_t self = pthread_self(), thread;
    has_come = 0;
    pthread_create(&thread, NULL, repeatedly, &self);
    long got = e(sigwaitinfo(set, info));
    has_come = 1;
    pthread_join(thread, NULL);
    return got;
}

static void waiting(void)
{
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    /* A signal that is ignored and blocked stays pending; setting it to be ignored discards it. */
    raise(SIGUSR1);
    signal(SIGUSR1, SIG_IGN);
    sigpending(&pending);
    printf("thrown away: %d\n", !sigismember(&pending, SIGUSR1));
    raise(SIGUSR1);
    sigpending(&pending);
    printf("waits although ignored: %d\n", sigismember(&pending, SIGUSR1));
    siginfo_t info;
    printf("taken: %d\n", sigwaitinfo(&set, &info) == SIGUSR1);
    struct timespec none = {0, 0}, wrong = {0, 1000000000};
    printf("none: %ld\n", e(sigtimedwait(&set, &info, &none)));
    printf("no time: %ld\n", e(sigtimedwait(&set, &info, &wrong)));
    pthread_t self = pthread_self(), thread;
    pthread_create(&thread, NULL, later, &self);
    printf("sent later: %d\n", sigwaitinfo(&set, &info) == SIGUSR2);
    pthread_join(thread, NULL);
    /* The same with the signal not blocked: the wait comes before a handler. Ignored, and not
       blocked before the wait, it is not even seen. */
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    on(SIGUSR2, 0, nothing);
    printf("before a handler: %d\n", waited(&set, &info) == SIGUSR2);
    signal(SIGUSR2, SIG_IGN);
    struct timespec while_ = {0, 300000000};
    pthread_create(&thread, NULL, later, &self);
    printf("ignored: %ld\n", e(sigtimedwait(&set, &info, &while_)));
    pthread_join(thread, NULL);
    on(SIGUSR2, 0, nothing);
    sigdelset(&set, SIGUSR2);
    printf("another: %ld\n", waited(&set, &info));
}

static void *rain(void *target)
{
    for (int i = 0; i < 15; i++) {
        usleep(100000);
        pthread_kill(*(pthread_t *)target, SIGUSR1);
    }
    return NULL;
}

/* select stores the remaining time, so that a loop around it ends. */
static void select_remaining(void)
{
    pthread_t self = pthread_self(), thread;
    on(SIGUSR1, 0, nothing);
    pthread_create(&thread, NULL, rain, &self);
    struct timeval left = {0, 500000};
    while (select(0, NULL, NULL, NULL, &left) < 0 && errno == EINTR) {
    }
    printf("left %ld %ld\n", (long)left.tv_sec, (long)left.tv_usec);
    pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {
        {"bad-frames", bad_frames}, {"bad-stacks", bad_stacks},
        {"stack-arguments", stack_arguments}, {"autodisarm", autodisarm},
        {"queued", queued}, {"queue-arguments", queue_arguments},
        {"lost-in-suspend", lost_in_suspend},
        {"waiting", waiting}, {"select", select_remaining},
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (argc > 1 && !strcmp(argv[1], all[i].name)) {
            all[i].run();
            return 0;
        }
    return 2;
}

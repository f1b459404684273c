/* Does what a debugger looks at, as its argument says. */
#define SPACEJMP_HEADER_ONLY
#include <spacejmp.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

volatile int counter;
volatile int handled;
const char text[] = "in read-only memory";
static int pipes[2];

__attribute__((noinline)) int at_work(int n)
{
    counter += n;
    return counter;
}

/* In an address space, and outside of it. */
__attribute__((noinline)) int inside(volatile int *at)
{
    return *at;
}

__attribute__((noinline)) int outside(volatile int *at)
{
    counter += at != NULL;
    return counter;
}

static int in_address_space(void)
{
    vasid_t vas = vas_create("genome", 0600);
    segid_t segment = seg_alloc("reads", 0, 1 << 20, 0600);
    if (vas == 0 || segment == 0 || seg_attach(vas, segment, SEG_WRITE) < 0)
        return 1;
    vhandle_t handle = vas_attach(vas, 0);
    struct seg_stat stat;
    if (handle < 0 || seg_stat(segment, &stat) != 0 || vas_switch(handle) < 0)
        return 1;
    volatile int *at = (volatile int *)(uintptr_t)stat.base;
    *at = 42;
    int before = inside(at);
    vas_switch(VAS_HOME);
    outside(at);
    vas_switch(handle);
    int after = inside(at);
    vas_switch(VAS_HOME);
    printf("%d %d\n", before, after);
    return 7;
}

__attribute__((noinline)) int twice(int n)
{
    return 2 * n;
}

/* The thread that waits, once it is about to. */
static volatile int waiting;

/* Whether it sleeps, which it does in one call only. */
static int is_asleep(void)
{
    char name[64], line[256] = "";
    snprintf(name, sizeof name, "/proc/self/task/%d/stat", waiting);
    FILE *stat = waiting ? fopen(name, "r") : NULL;
    if (!stat) return 0;
    char *end = fgets(line, sizeof line, stat) ? strrchr(line, ')') : NULL;
    fclose(stat);
    return end && end[1] == ' ' && end[2] == 'S';
}

static void *waits(void *unused)
{
    char byte;
    prctl(PR_SET_NAME, "waits");
    waiting = (int)syscall(SYS_gettid);
    /* Until the other end is closed, whatever happens meanwhile. */
    long got = read(pipes[0], &byte, 1);
    return got == 0 ? unused : NULL;
}

/* Each value of the counter is there once, however many threads count. */
__attribute__((noinline)) static void count_one(void)
{
    __atomic_add_fetch(&counter, 1, __ATOMIC_SEQ_CST);
}

static int one_at_a_time;

static void *works(void *unused)
{
    prctl(PR_SET_NAME, "works");
    for (int n = 0; n < 100; n++) {
        if (one_at_a_time)
            count_one();
        else
            at_work(1);
    }
    return unused;
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    handled = signal;
    if (signal == SIGSEGV)
        _exit(5);
}

__attribute__((noinline)) static void crash_here(volatile int *at)
{
    *at = 1;
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "plain";
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
    for (int n = 1; n <= 3; n++)
        at_work(n);
    one_at_a_time = strcmp(how, "counting") == 0;
    if (strcmp(how, "threads") == 0 || one_at_a_time) {
        pthread_t waiting, working[2];
        if (pipe(pipes) != 0 || pthread_create(&waiting, NULL, waits, pipes) != 0)
            return 1;
        while (!is_asleep())
            usleep(1000);
        for (int n = 0; n < 2; n++)
            if (pthread_create(&working[n], NULL, works, pipes) != 0)
                return 1;
        for (int n = 0; n < 2; n++)
            pthread_join(working[n], NULL);
        close(pipes[1]);
        void *result;
        pthread_join(waiting, &result);
        printf("%s\n", result ? "undisturbed" : "disturbed");
    }
    if (strcmp(how, "segv") == 0) {
        sigaction(SIGSEGV, &action, NULL);
        crash_here((int *)16);
    }
    if (strcmp(how, "die") == 0)
        crash_here((int *)16);
    if (strcmp(how, "signal") == 0) {
        sigaction(SIGUSR1, &action, NULL);
        raise(SIGUSR1);
        printf("handled %d\n", handled);
    }
    if (strcmp(how, "sleep") == 0) {
        struct timespec left = { 0 }, time = { .tv_sec = 600 };
        printf("sleeping\n");
        fflush(stdout);
        int slept = nanosleep(&time, &left);
        printf("slept %d\n", slept);
    }
    if (strcmp(how, "spin") == 0) {
        printf("spinning\n");
        fflush(stdout);
        while (!handled)
            counter++;
        printf("released\n");
    }
    if (strcmp(how, "work") == 0) {
        printf("working\n");
        fflush(stdout);
        while (!handled)
            at_work(1);
        printf("released\n");
    }
    if (strcmp(how, "await") == 0) {
        char byte;
        sigaction(SIGUSR1, &action, NULL);
        if (pipe(pipes) != 0)
            return 1;
        printf("waiting\n");
        fflush(stdout);
        /* Only the signal ends it. */
        long got = read(pipes[0], &byte, 1);
        printf("%s\n", got == -1 && errno == EINTR && handled == SIGUSR1 ? "undisturbed" : "disturbed");
    }
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "fork") == 0) {
        pid_t child = fork();
        if (child == 0) {
            at_work(1);
            _exit(3);
        }
        int status = 0;
        if (waitpid(child, &status, 0) != child)
            return 1;
        printf("child %x\n", status);
    }
    if (strcmp(how, "vas") == 0)
        return in_address_space();
    if (strcmp(how, "exec") == 0)
        execl(argv[0], argv[0], "plain", NULL);
    return 7;
}

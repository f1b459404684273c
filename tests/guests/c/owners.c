/* A program's identity, and locks that identify their owner by it.
 *
 *   numbers             as natively: how pid and tids relate
 *   alone               in a VM: there are no other processes
 *   init KIND           a mutex in the file "lock": recursive, robust, robust-pi
 *   hold HOW            locks it, and ends by exit, segv, abort, thread, main or wait
 *   pending HOW         as if it were just about to lock or unlock it
 *   try, next           locks it without waiting, or within some seconds; prints the result
 *   pi                  as natively: priority inheritance among threads
 *   requeue             as natively: FUTEX_CMP_REQUEUE_PI
 *   futex, clones       as natively: what these calls refuse */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long futex(void *word, int op, unsigned val, const struct timespec *t, void *word2, unsigned val3)
{
    long done = syscall(SYS_futex, word, op, val, t, word2, val3);
    return done < 0 ? -errno : done;
}

/* What a call returned, or its error as a negative number. */
static long e(long done)
{
    return done < 0 ? -errno : done;
}

static pid_t tids[2];

static void *number(void *slot)
{
    *(pid_t *)slot = (pid_t)syscall(SYS_gettid);
    return NULL;
}

static volatile pid_t sender;

static void note(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    sender = info->si_pid;
}

static void numbers(void)
{
    pthread_t one, two;
    pthread_create(&one, NULL, number, &tids[0]);
    pthread_create(&two, NULL, number, &tids[1]);
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    pid_t pid = getpid();
    printf("main: %d others: %d\n", pid == (pid_t)syscall(SYS_gettid), tids[0] != pid && tids[1] != pid);
    printf("set_tid_address: %d\n", pid == syscall(SYS_set_tid_address, NULL));
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = note;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGUSR1, &action, NULL);
    kill(pid, SIGUSR1);
    printf("si_pid: %d\n", sender == pid);
    sender = 0;
    raise(SIGUSR1);
    printf("si_pid: %d\n", sender == pid);
    printf("parent: %d\n", getppid() != pid);
    printf("group: %d %d session: %d\n", getpgrp() == getpgid(0), getpgrp() == getpgid(pid),
           getsid(0) == getsid(pid));
    printf("same group: %ld\n", e(setpgid(0, getpgrp())));
    printf("negative: %ld\n", e(setpgid(0, -1)));
    /* A thread can be joined a moment before it has exited. */
    while (!syscall(SYS_tgkill, pid, tids[0], 0))
        usleep(1000);
    printf("a thread that has ended: %ld\n", e(syscall(SYS_tgkill, pid, tids[0], 0)));
    void *head = NULL;
    long bytes = 0;
    printf("my list: %ld", e(syscall(SYS_get_robust_list, 0, &head, &bytes)));
    printf(" %d %ld\n", head != NULL, bytes);
}

static void alone(void)
{
    pid_t pid = getpid();
    printf("%ld %ld ", e(kill(1, 0)), e(kill(getppid(), 0)));
    printf("%ld %ld\n", e(kill(-1, 0)), e(kill(-0x3ffffff0, 0)));
    int known = 0;
    /* The VMM has other threads, whose ids are close. */
    for (pid_t tid = pid - 50; tid < pid + 200; tid++)
        known += tid > 0 && !syscall(SYS_tkill, tid, 0);
    printf("known: %d\n", known);
    printf("of others: %ld %ld %ld\n", e(getpgid(1)), e(getsid(1)), e(setpgid(1, 0)));
    printf("into another group: %ld\n", e(setpgid(0, 1)));
    printf("group: %d, I: %d, %d\n", kill(0, 0), kill(-getpgrp(), 0), kill(pid, 0));
}

/* With the leader of group and session outside the PID namespace, or being the leader itself. */
static void outside(void)
{
    pid_t pid = getpid();
    printf("%d %d %d %d %d %d\n", pid, getppid(), getpgrp(), getpgid(0), getsid(0), getsid(pid));
    int fields[6] = {0};
    FILE *stat = fopen("/proc/self/stat", "r");
    if (fscanf(stat, "%d %*s %*c %d %d %d", &fields[0], &fields[1], &fields[2], &fields[3]) != 4)
        puts("unreadable");
    fclose(stat);
    printf("%d %d %d %d\n", fields[0], fields[1], fields[2], fields[3]);
    printf("%ld %ld %ld\n", e(kill(0, 0)), e(kill(pid, 0)), e(setpriority(PRIO_PGRP, 0, 5)));
    printf("%ld\n", e(setpgid(0, getpgrp())));
    printf("%d %d\n", getpgrp(), getsid(0));
    printf("%ld\n", e(setsid()));
    printf("%ld %d %d\n", e(setpgid(0, 0)), getpgrp(), getsid(0));
}

static pthread_mutex_t *shared(void)
{
    int fd = open("lock", O_RDWR | O_CREAT, 0600);
    if (ftruncate(fd, 4096))
        exit(3);
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static void init(pthread_mutex_t *mutex, const char *kind)
{
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    if (!strcmp(kind, "recursive"))
        pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    else
        pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    if (!strcmp(kind, "robust-pi"))
        pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
    memset(mutex, 0, 4096);
    printf("%s\n", strerror(pthread_mutex_init(mutex, &a)));
}

static void *take_and_end(void *mutex)
{
    pthread_mutex_lock(mutex);
    return NULL;
}

static sem_t is_taken;

static void *take_and_stay(void *mutex)
{
    pthread_mutex_lock(mutex);
    sem_post(&is_taken);
    pause();
    return NULL;
}

static void *idle(void *argument)
{
    (void)argument;
    usleep(200000);
    return NULL;
}

static int hold(pthread_mutex_t *mutex, const char *how)
{
    pthread_t thread;
    if (!strcmp(how, "thread")) {
        pthread_create(&thread, NULL, take_and_end, mutex);
        pthread_join(thread, NULL);
        return 0;
    }
    if (!strcmp(how, "other")) {
        /* A thread that does not hold it ends the process. */
        sem_init(&is_taken, 0, 0);
        pthread_create(&thread, NULL, take_and_stay, mutex);
        sem_wait(&is_taken);
        return 0;
    }
    pthread_mutex_lock(mutex);
    puts("held");
    fflush(stdout);
    if (!strcmp(how, "segv"))
        *(volatile int *)8 = 1;
    if (!strcmp(how, "abort"))
        abort();
    if (!strcmp(how, "main")) {
        pthread_create(&thread, NULL, idle, NULL);
        pthread_exit(NULL);
    }
    if (!strcmp(how, "wait"))
        pause();
    return 0;
}

/* What a thread leaves behind if it ends between storing to the lock and to its list. */
static int pending(pthread_mutex_t *mutex, const char *how)
{
    static struct {
        void *next;
        long offset;
        void *pending;
    } head;
    int *word = (int *)mutex;
    head.next = &head;
    head.offset = 0;
    head.pending = word;
    syscall(SYS_set_robust_list, &head, sizeof head);
    if (!strcmp(how, "taken"))
        *word = (int)syscall(SYS_gettid);
    if (!strcmp(how, "others"))
        *word = 1;
    return 0;
}

static int next(pthread_mutex_t *mutex)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    int error = pthread_mutex_timedlock(mutex, &until);
    puts(strerror(error));
    if (error == EOWNERDEAD)
        pthread_mutex_consistent(mutex);
    return pthread_mutex_unlock(mutex);
}

static pthread_mutex_t pi_mutex;
static long total;

static void *add(void *argument)
{
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(&pi_mutex);
        total++;
        pthread_mutex_unlock(&pi_mutex);
    }
    return argument;
}

static void *try(void *argument)
{
    struct timespec until;
    (void)argument;
    printf("try: %s\n", strerror(pthread_mutex_trylock(&pi_mutex)));
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 30000000;
    if (until.tv_nsec >= 1000000000)
        until.tv_sec++, until.tv_nsec -= 1000000000;
    printf("timed: %s\n", strerror(pthread_mutex_timedlock(&pi_mutex, &until)));
    return NULL;
}

static void pi(void)
{
    pthread_mutexattr_t a;
    pthread_t threads[4];
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
    printf("init: %s\n", strerror(pthread_mutex_init(&pi_mutex, &a)));
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, add, NULL);
    add(NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("total: %ld\n", total);
    pthread_mutex_lock(&pi_mutex);
    printf("again: %s\n", strerror(pthread_mutex_lock(&pi_mutex)));
    pthread_create(&threads[0], NULL, try, NULL);
    pthread_join(threads[0], NULL);
    pthread_mutex_unlock(&pi_mutex);
    printf("not mine: %s\n", strerror(pthread_mutex_unlock(&pi_mutex)));
    static int word;
    printf("raw: %ld", futex(&word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
    printf(" %d", word == (int)syscall(SYS_gettid));
    printf(" %ld", futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    printf(" %ld", futex(&word, 13 /* FUTEX_LOCK_PI2 */, 0, NULL, NULL, 0));
    printf(" %ld", futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
    printf(" %d\n", word);
    word = 0x3ffffff0; /* No thread's id. */
    printf("owner gone: %ld\n", futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
}

static int from, to;
static volatile long requeued = 1;

static void *wait_requeue(void *argument)
{
    requeued = futex(&from, FUTEX_WAIT_REQUEUE_PI, 0, NULL, &to, 0);
    if (!requeued)
        futex(&to, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    return argument;
}

static void requeue(void)
{
    pthread_t thread;
    printf("lock: %ld\n", futex(&to, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    pthread_create(&thread, NULL, wait_requeue, NULL);
    long moved;
    do {
        usleep(10000);
        moved = futex(&from, FUTEX_CMP_REQUEUE_PI, 1, (void *)0, &to, 0);
    } while (!moved);
    printf("moved: %ld\n", moved);
    futex(&to, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    pthread_join(thread, NULL);
    printf("woken: %ld, lock %d\n", requeued, to);
}

/* Flags that cannot create a thread. The calls fail, so no child comes back. */
static void clones(void)
{
    static char stack[4096];
    const unsigned long thread = 0x10f00 | 0x40000;
    static const unsigned long wrong[] = {0x20000, 0x10000000, 0x20000000};
    for (int i = 0; i < 3; i++)
        printf("%ld ", e(syscall(SYS_clone, thread | wrong[i], stack + 4096, NULL, NULL, 0)));
    unsigned long args[12] = {thread, 0, 0, 0, 0, (unsigned long)stack, 4096};
    printf("%ld ", e(syscall(SYS_clone3, args, 56)));
    printf("%ld ", e(syscall(SYS_clone3, args, 5000)));
    printf("%ld ", e(syscall(SYS_clone3, 8, 88)));
    args[11] = 1;
    printf("%ld ", e(syscall(SYS_clone3, args, 96)));
    args[4] = 17;
    printf("%ld ", e(syscall(SYS_clone3, args, 88)));
    args[4] = args[6] = 0;
    printf("%ld ", e(syscall(SYS_clone3, args, 88)));
    args[6] = 4096;
    args[0] |= 0x400000;
    printf("%ld ", e(syscall(SYS_clone3, args, 88)));
    args[0] = thread | 1ul << 40;
    printf("%ld\n", e(syscall(SYS_clone3, args, 88)));
}

static void refused(void)
{
    static int words[2];
    char *readable = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct timespec wrong = {0, -1}, soon = {0, 1000000};
    printf("unknown: %ld", futex(words, 64, 0, NULL, NULL, 0));
    printf(" %ld", futex(words, FUTEX_FD, 0, NULL, NULL, 0));
    printf(" %ld\n", futex(words, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 1, NULL, NULL, 0));
    printf("time: %ld", futex(words, FUTEX_WAIT, 0, &wrong, NULL, 0));
    printf(" %ld\n", futex(words, FUTEX_WAIT, 0, &soon, NULL, 0));
    printf("bits: %ld %ld\n", futex(words, FUTEX_WAIT_BITSET, 0, NULL, NULL, 0),
           futex(words, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0));
    printf("unaligned: %ld\n", futex((char *)words + 1, FUTEX_WAIT, 0, NULL, NULL, 0));
    printf("unmapped: %ld\n", futex((void *)8, FUTEX_WAIT, 0, NULL, NULL, 0));
    printf("value: %ld\n", futex(words, FUTEX_WAIT, 1, NULL, NULL, 0));
    /* The program must be allowed to write where the kernel would. */
    printf("read-only: %ld", futex(readable, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
    printf(" %ld\n", futex(words, FUTEX_WAKE_OP, 1, NULL, readable, 0x1000));
    printf("counts: %ld\n", futex(words, FUTEX_REQUEUE, (unsigned)-1, NULL, words + 1, 0));
    printf("same: %ld\n", futex(words, FUTEX_WAIT_REQUEUE_PI, 0, &soon, words, 0));
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "numbers"))
        return numbers(), 0;
    if (!strcmp(what, "alone"))
        return alone(), 0;
    if (!strcmp(what, "outside"))
        return outside(), 0;
    if (!strcmp(what, "pi"))
        return pi(), 0;
    if (!strcmp(what, "requeue"))
        return requeue(), 0;
    if (!strcmp(what, "futex"))
        return refused(), 0;
    if (!strcmp(what, "clones"))
        return clones(), 0;
    pthread_mutex_t *mutex = shared();
    if (!strcmp(what, "init"))
        return init(mutex, argv[2]), 0;
    if (!strcmp(what, "hold"))
        return hold(mutex, argv[2]);
    if (!strcmp(what, "pending"))
        return pending(mutex, argv[2]);
    if (!strcmp(what, "word"))
        return printf("%x\n", *(unsigned *)mutex), 0;
    if (!strcmp(what, "try"))
        return puts(strerror(pthread_mutex_trylock(mutex))), 0;
    return next(mutex);
}

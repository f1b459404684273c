/* Threads that work together, and do what they are told by lines: to be snapshotted in the middle.
 *
 * Workers take rounds: each adds to a sum under locks of several kinds, then all meet at a barrier. A sleeper waits for
 * jobs at a condition variable. A holder takes a lock of each kind that knows its owner, and keeps them until it is
 * told; a waiter waits for one of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WORKERS 5

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t jobs_there = PTHREAD_COND_INITIALIZER, jobs_done = PTHREAD_COND_INITIALIZER;
static pthread_cond_t holder_told = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_mutex_t recursive, errorcheck, robust, inheriting;
static pthread_rwlock_t writing = PTHREAD_RWLOCK_INITIALIZER;
static long sum, rounds, jobs, done;
static atomic_int stop, stop_after_round, wrong, signalled;
static int holder_state, waiter_state;
static _Thread_local int turns;

struct worker {
    pthread_t thread;
    pid_t tid;
    char name[16];
    long turns;
} workers[WORKERS];
static pthread_t sleeper, holder, waiter;

static void check(int is_right)
{
    if (!is_right)
        wrong++;
}

static void on_signal(int signal)
{
    (void)signal;
    signalled++;
}

static void make(pthread_mutex_t *mutex, int type, int is_robust, int protocol)
{
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_settype(&how, type);
    if (is_robust)
        pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setprotocol(&how, protocol);
    check(pthread_mutex_init(mutex, &how) == 0);
}

static void *work(void *argument)
{
    struct worker *own = argument;
    char name[16];
    own->tid = gettid();
    snprintf(own->name, sizeof own->name, "worker %d", (int)(own - workers));
    pthread_setname_np(pthread_self(), own->name);
    while (!stop_after_round) {
        check(pthread_mutex_lock(&recursive) == 0 && pthread_mutex_lock(&recursive) == 0);
        check(pthread_mutex_lock(&errorcheck) == 0 && pthread_mutex_lock(&errorcheck) == EDEADLK);
        check(pthread_mutex_lock(&robust) == 0);
        check(pthread_mutex_lock(&inheriting) == 0);
        check(pthread_rwlock_wrlock(&writing) == 0);
        long before = sum;
        if (turns % 7 == 0)
            sched_yield();
        sum = before + 1;
        check(pthread_rwlock_unlock(&writing) == 0);
        check(pthread_mutex_unlock(&inheriting) == 0);
        check(pthread_mutex_unlock(&robust) == 0);
        check(pthread_mutex_unlock(&errorcheck) == 0 && pthread_mutex_unlock(&errorcheck) == EPERM);
        check(pthread_mutex_unlock(&recursive) == 0 && pthread_mutex_unlock(&recursive) == 0);
        check(pthread_mutex_unlock(&recursive) == EPERM);
        own->turns = ++turns;
        check(gettid() == own->tid);
        pthread_getname_np(pthread_self(), name, sizeof name);
        check(!strcmp(name, own->name));
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
            rounds++;
            stop_after_round = stop;
        }
        pthread_barrier_wait(&barrier);
    }
    return own;
}

static void *sleep_until_jobs(void *unused)
{
    pthread_mutex_lock(&lock);
    while (!stop || jobs) {
        if (jobs) {
            jobs--;
            done++;
            pthread_cond_broadcast(&jobs_done);
        } else {
            pthread_cond_wait(&jobs_there, &lock);
        }
    }
    pthread_mutex_unlock(&lock);
    return unused;
}

static void become(int *state, int to)
{
    pthread_mutex_lock(&lock);
    *state = to;
    pthread_cond_broadcast(&holder_told);
    pthread_mutex_unlock(&lock);
}

static void await(int *state, int wanted)
{
    pthread_mutex_lock(&lock);
    while (*state != wanted)
        pthread_cond_wait(&holder_told, &lock);
    pthread_mutex_unlock(&lock);
}

static pthread_mutex_t held[4];
static pthread_rwlock_t held_to_write = PTHREAD_RWLOCK_INITIALIZER;

static void *hold(void *unused)
{
    for (int i = 0; i < 4; i++)
        check(pthread_mutex_lock(&held[i]) == 0);
    check(pthread_mutex_lock(&held[0]) == 0);
    check(pthread_rwlock_wrlock(&held_to_write) == 0);
    become(&holder_state, 1);
    await(&holder_state, 2);
    check(pthread_mutex_lock(&held[1]) == EDEADLK);
    check(pthread_rwlock_unlock(&held_to_write) == 0);
    check(pthread_rwlock_trywrlock(&held_to_write) == 0 && pthread_rwlock_unlock(&held_to_write) == 0);
    check(pthread_mutex_unlock(&held[0]) == 0);
    for (int i = 0; i < 4; i++)
        check(pthread_mutex_unlock(&held[i]) == 0);
    check(pthread_mutex_unlock(&held[0]) == EPERM && pthread_mutex_unlock(&held[1]) == EPERM);
    become(&holder_state, 3);
    return unused;
}

/* Ends with a robust lock. */
static void *die_with_lock(void *unused)
{
    check(pthread_mutex_lock(&held[2]) == 0);
    return unused;
}

/* What the first thread has locked. */
static pthread_mutex_t mine[4];
static pthread_rwlock_t mine_to_write = PTHREAD_RWLOCK_INITIALIZER;

static void lock_mine(void)
{
    for (int i = 0; i < 4; i++)
        check(pthread_mutex_lock(&mine[i]) == 0);
    check(pthread_rwlock_wrlock(&mine_to_write) == 0);
}

static void unlock_mine(void)
{
    check(pthread_rwlock_unlock(&mine_to_write) == 0);
    for (int i = 0; i < 4; i++)
        check(pthread_mutex_unlock(&mine[i]) == 0);
}

static pthread_t first;

static void *wait_for_first(void *unused)
{
    check(pthread_mutex_lock(&mine[3]) == 0 && pthread_mutex_unlock(&mine[3]) == 0);
    check(pthread_kill(first, SIGUSR1) == 0);
    return unused;
}

static void *wait_for_lock(void *unused)
{
    become(&waiter_state, 1);
    check(pthread_mutex_lock(&held[3]) == 0);
    check(pthread_mutex_unlock(&held[3]) == 0);
    become(&waiter_state, 2);
    return unused;
}

static void start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    check(pthread_create(thread, NULL, function, argument) == 0);
}

int main(void)
{
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGUSR1, on_signal);
    make(&recursive, PTHREAD_MUTEX_RECURSIVE, 0, PTHREAD_PRIO_NONE);
    make(&errorcheck, PTHREAD_MUTEX_ERRORCHECK, 0, PTHREAD_PRIO_NONE);
    make(&robust, PTHREAD_MUTEX_NORMAL, 1, PTHREAD_PRIO_NONE);
    make(&inheriting, PTHREAD_MUTEX_NORMAL, 0, PTHREAD_PRIO_INHERIT);
    for (pthread_mutex_t *of = held; of; of = of == held ? mine : NULL) {
        make(&of[0], PTHREAD_MUTEX_RECURSIVE, 0, PTHREAD_PRIO_NONE);
        make(&of[1], PTHREAD_MUTEX_ERRORCHECK, 0, PTHREAD_PRIO_NONE);
        make(&of[2], PTHREAD_MUTEX_NORMAL, 1, PTHREAD_PRIO_NONE);
        make(&of[3], PTHREAD_MUTEX_ERRORCHECK, 0, PTHREAD_PRIO_INHERIT);
    }
    first = pthread_self();
    lock_mine();
    pthread_barrier_init(&barrier, NULL, WORKERS);
    for (int i = 0; i < WORKERS; i++)
        start(&workers[i].thread, work, &workers[i]);
    start(&sleeper, sleep_until_jobs, NULL);
    start(&holder, hold, NULL);
    await(&holder_state, 1);
    start(&waiter, wait_for_lock, NULL);
    await(&waiter_state, 1);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "jobs")) {
            pthread_mutex_lock(&lock);
            long wanted = done + 3;
            jobs += 3;
            pthread_cond_signal(&jobs_there);
            while (done < wanted)
                pthread_cond_wait(&jobs_done, &lock);
            printf("%ld done\n", done);
            pthread_mutex_unlock(&lock);
        } else if (!strcmp(line, "release")) {
            become(&holder_state, 2);
            await(&holder_state, 3);
            await(&waiter_state, 2);
            printf("released, %d wrong\n", wrong);
        } else if (!strcmp(line, "mine")) {
            pthread_t other;
            int before = signalled;
            start(&other, wait_for_first, NULL);
            check(pthread_mutex_lock(&mine[1]) == EDEADLK && pthread_mutex_lock(&mine[0]) == 0);
            check(pthread_mutex_unlock(&mine[0]) == 0);
            unlock_mine();
            pthread_join(other, NULL);
            while (signalled == before)
                sched_yield();
            lock_mine();
            printf("unlocked and locked, %d wrong\n", wrong);
        } else if (!strcmp(line, "die")) {
            pthread_t dying;
            start(&dying, die_with_lock, NULL);
            pthread_join(dying, NULL);
            int told = pthread_mutex_lock(&held[2]);
            check(pthread_mutex_consistent(&held[2]) == 0 && pthread_mutex_unlock(&held[2]) == 0);
            printf("%s, %d wrong\n", told == EOWNERDEAD ? "its owner has died" : "nothing", wrong);
        } else if (!strcmp(line, "signal")) {
            int before = signalled;
            for (int i = 0; i < WORKERS; i++) {
                struct timespec spent;
                clockid_t clock;
                int now = signalled;
                check(pthread_kill(workers[i].thread, SIGUSR1) == 0);
                while (signalled == now)
                    sched_yield();
                check(pthread_getcpuclockid(workers[i].thread, &clock) == 0);
                check(clock_gettime(clock, &spent) == 0);
                check(syscall(SYS_tgkill, getpid(), workers[i].tid, 0) == 0);
            }
            printf("%d signals, %d wrong\n", signalled - before, wrong);
        } else if (!strcmp(line, "numbers")) {
            char path[64];
            int found = 0;
            for (int i = 0; i < WORKERS; i++) {
                snprintf(path, sizeof path, "/proc/self/task/%d/comm", workers[i].tid);
                FILE *file = fopen(path, "r");
                char name[32] = "";
                if (file && fgets(name, sizeof name, file))
                    found += !strncmp(name, workers[i].name, strlen(workers[i].name));
                if (file)
                    fclose(file);
            }
            printf("%d of %d, the first has %s number\n", found, WORKERS,
                   getpid() == gettid() ? "the process's" : "another");
        } else if (!strcmp(line, "rounds")) {
            long at = *(volatile long *)&rounds;
            while (*(volatile long *)&rounds < at + 3)
                sched_yield();
            printf("3 more\n");
        } else if (!strcmp(line, "end")) {
            long all = 0;
            pthread_mutex_lock(&lock);
            stop = 1;
            pthread_cond_broadcast(&jobs_there);
            pthread_mutex_unlock(&lock);
            for (int i = 0; i < WORKERS; i++) {
                void *own;
                check(pthread_join(workers[i].thread, &own) == 0 && own == &workers[i]);
                check(workers[i].turns == rounds);
                all += workers[i].turns;
            }
            pthread_join(sleeper, NULL);
            pthread_join(holder, NULL);
            pthread_join(waiter, NULL);
            check(all == sum);
            printf("%s, %d wrong\n", all == sum ? "the sum is right" : "the sum is not right", wrong);
            return 5;
        }
    }
    return 0;
}

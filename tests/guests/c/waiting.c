/* epoll, timerfd and inotify: what each call returns and what arrives, one line each. A test compares
 * a native run with one in a VM. The argument is a directory to watch. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "../include/say.h"

/* Waits once, and prints what arrived in the order of the data. */
static int by_data(const void *a, const void *b)
{
    const struct epoll_event *x = a, *y = b;
    return x->data.u64 < y->data.u64 ? -1 : x->data.u64 > y->data.u64;
}

static void wait_for(const char *what, int ep, int timeout)
{
    struct epoll_event got[8];
    int count = epoll_wait(ep, got, 8, timeout);
    if (count < 0) {
        printf("%s: %s\n", what, strerrorname_np(errno));
        return;
    }
    qsort(got, (size_t)count, sizeof got[0], by_data);
    printf("%s: %d", what, count);
    for (int i = 0; i < count; i++)
        printf(" %llx=%x", (unsigned long long)got[i].data.u64, got[i].events);
    printf("\n");
}

static struct epoll_event event(uint32_t events, uint64_t data)
{
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = events;
    e.data.u64 = data;
    return e;
}

static void put(int fd)
{
    if (write(fd, "x", 1) != 1)
        puts("cannot write");
}

static void take(int fd)
{
    char byte;
    if (read(fd, &byte, 1) != 1)
        puts("cannot read");
}

static void registrations(void)
{
    int pipes[2], ep = epoll_create1(EPOLL_CLOEXEC), file = open("/proc/self/exe", O_RDONLY);
    struct epoll_event in = event(EPOLLIN, 0x1111222233334444), other = event(EPOLLIN, 5);
    if (ep < 0 || file < 0 || pipe(pipes))
        exit(2);
    SAY(fcntl(ep, F_GETFD));
    SAY(epoll_create(0));
    SAY(epoll_create1(1));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, pipes[0], &in));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, pipes[0], &in));
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, pipes[1], &in));
    SAY(epoll_ctl(ep, EPOLL_CTL_DEL, pipes[1], NULL));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, file, &in));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, 77, &in));
    SAY(epoll_ctl(77, EPOLL_CTL_ADD, pipes[0], &in));
    SAY(epoll_ctl(pipes[0], EPOLL_CTL_ADD, pipes[1], &in));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &in));
    SAY(epoll_ctl(ep, 9, pipes[0], &in));
    SAY(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_MOD, pipes[0], 1));
    SAY(epoll_wait(ep, &in, 0, 0));
    SAY(syscall(SYS_epoll_wait, ep, 1, 1, 0));
    SAY(epoll_wait(pipes[0], &in, 1, 0));
    in = event(EPOLLIN, 0x1111222233334444);
    wait_for("nothing", ep, 0);
    put(pipes[1]);
    wait_for("one", ep, -1);
    wait_for("again", ep, 1000);
    /* The same open file under a second number. */
    int twice = dup(pipes[0]);
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, twice, &other));
    wait_for("both numbers", ep, 1000);
    SAY(epoll_ctl(ep, EPOLL_CTL_DEL, pipes[0], NULL));
    wait_for("the second", ep, 1000);
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, pipes[0], &in));
    SAY(close(pipes[0]));
    /* Linux keeps it as long as the file is open. */
    wait_for("closed once", ep, 1000);
    SAY(close(twice));
    wait_for("closed", ep, 10);
    SAY(read(ep, &other, 8));
    close(pipes[1]);
    close(ep);
    close(file);
}

static void ways(void)
{
    int pipes[2], ep = epoll_create(1), outer = epoll_create1(0), counter = eventfd(0, EFD_NONBLOCK);
    struct epoll_event e = event(EPOLLIN | EPOLLET, 1);
    if (pipe(pipes))
        exit(2);
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, pipes[0], &e));
    put(pipes[1]);
    wait_for("edge", ep, 1000);
    wait_for("no edge", ep, 10);
    put(pipes[1]);
    wait_for("next edge", ep, 1000);
    e = event(EPOLLIN | EPOLLONESHOT, 2);
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, pipes[0], &e));
    wait_for("one shot", ep, 1000);
    wait_for("shot", ep, 10);
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, pipes[0], &e));
    wait_for("armed", ep, 1000);
    e = event(EPOLLIN, 3);
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, pipes[0], &e));
    e = event(EPOLLIN | EPOLLEXCLUSIVE, 4);
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, counter, &e));
    SAY(epoll_ctl(ep, EPOLL_CTL_MOD, counter, &e));
    uint64_t one = 1;
    SAY(write(counter, &one, 8));
    wait_for("pipe and counter", ep, 1000);
    e = event(EPOLLIN, 0xabc);
    SAY(epoll_ctl(outer, EPOLL_CTL_ADD, ep, &e));
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, outer, &e));
    wait_for("nested", outer, 1000);
    SAY(read(counter, &one, 8));
    take(pipes[0]);
    take(pipes[0]);
    wait_for("nested, empty", outer, 10);
    close(pipes[1]);
    wait_for("hung up", ep, 1000);
    close(pipes[0]);
    close(counter);
    wait_for("all closed", ep, 10);
    close(ep);
    close(outer);
}

static void nothing(int number)
{
    (void)number;
}

static volatile sig_atomic_t has_come;

static void *later(void *argument)
{
    struct timespec time = {0, 50 * 1000 * 1000};
    int *pair = argument;
    do {
        nanosleep(&time, NULL);
        if (pair[1] < 0)
            pthread_kill(*(pthread_t *)(pair + 2), SIGUSR1);
        else
            put(pair[1]);
        /* The first signal may come before the wait that it is for. */
    } while (pair[1] < 0 && !has_come);
    return NULL;
}

static void interrupted(void)
{
    struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    struct {
        int fds[2];
        pthread_t self;
    } shared = {{-1, -1}, pthread_self()};
    pthread_t thread;
    int ep = epoll_create1(0), pipes[2];
    struct epoll_event got, e = event(EPOLLIN, 6);
    sigset_t none, usr1;
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigaction(SIGUSR1, &action, NULL);
    pthread_create(&thread, NULL, later, &shared);
    wait_for("a signal", ep, 10000);
    has_come = 1;
    pthread_join(thread, NULL);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    raise(SIGUSR1);
    SAY(epoll_pwait(ep, &got, 1, 10, NULL));
    SAY(epoll_pwait(ep, &got, 1, 10000, &none));
    struct timespec short_time = {0, 1000000};
    SAY(syscall(SYS_epoll_pwait2, ep, &got, 1, &short_time, NULL, 8));
    SAY(syscall(SYS_epoll_pwait2, ep, &got, 1, &short_time, &none, 7));
    sigprocmask(SIG_UNBLOCK, &usr1, NULL);
    if (pipe(pipes))
        exit(2);
    epoll_ctl(ep, EPOLL_CTL_ADD, pipes[0], &e);
    shared.fds[1] = pipes[1];
    pthread_create(&thread, NULL, later, &shared);
    wait_for("another thread", ep, 10000);
    pthread_join(thread, NULL);
    close(pipes[0]);
    close(pipes[1]);
    close(ep);
}

static void timers(void)
{
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), ep = epoll_create1(0);
    struct itimerspec set = {{0, 0}, {0, 20 * 1000 * 1000}}, was;
    struct epoll_event e = event(EPOLLIN, 7);
    uint64_t count = 0;
    SAY(timerfd_create(99, 0));
    SAY(timerfd_create(CLOCK_REALTIME, 1));
    SAY(timerfd_settime(ep, 0, &set, NULL));
    SAY(timerfd_gettime(77, &was));
    SAY(read(timer, &count, 8));
    SAY(timerfd_settime(timer, 0, &set, NULL));
    epoll_ctl(ep, EPOLL_CTL_ADD, timer, &e);
    wait_for("timer", ep, 10000);
    SAY(read(timer, &count, 8));
    SAY(count);
    SAY(timerfd_gettime(timer, &was));
    SAY(was.it_value.tv_sec + was.it_value.tv_nsec);
    set.it_interval.tv_nsec = 5 * 1000 * 1000;
    SAY(timerfd_settime(timer, 0, &set, &was));
    usleep(100000);
    SAY(read(timer, &count, 8));
    SAY(count >= 5);
    set.it_value.tv_nsec = 1000000000;
    SAY(timerfd_settime(timer, 0, &set, NULL));
    struct itimerspec absolute = {{0, 0}, {0, 0}};
    clock_gettime(CLOCK_MONOTONIC, &absolute.it_value);
    absolute.it_value.tv_sec += 1000;
    SAY(timerfd_settime(timer, TFD_TIMER_ABSTIME, &absolute, NULL));
    SAY(timerfd_gettime(timer, &was));
    SAY(was.it_value.tv_sec >= 990 && was.it_value.tv_sec <= 1000);
    int blocking = timerfd_create(CLOCK_REALTIME, 0);
    struct itimerspec soon = {{0, 0}, {0, 20 * 1000 * 1000}};
    SAY(timerfd_settime(blocking, 0, &soon, NULL));
    SAY(read(blocking, &count, 8));
    SAY(read(blocking, &count, 4));
    close(blocking);
    close(timer);
    close(ep);
}

static void watches(const char *folder)
{
    char name[4096], buffer[4096] __attribute__((aligned(8)));
    int watch = inotify_init1(IN_NONBLOCK), ep = epoll_create1(0);
    struct epoll_event e = event(EPOLLIN, 8);
    SAY(inotify_init1(1));
    SAY(inotify_add_watch(watch, "/does/not/exist", IN_CREATE));
    SAY(inotify_add_watch(77, folder, IN_CREATE));
    SAY(inotify_add_watch(ep, folder, IN_CREATE));
    SAY(inotify_add_watch(watch, folder, 0));
    SAY(inotify_add_watch(watch, folder, IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_ONLYDIR));
    SAY(read(watch, buffer, sizeof buffer));
    epoll_ctl(ep, EPOLL_CTL_ADD, watch, &e);
    snprintf(name, sizeof name, "%s/made", folder);
    close(open(name, O_CREAT | O_RDWR, 0600));
    SAY(inotify_add_watch(watch, name, IN_MODIFY | IN_ONLYDIR));
    unlink(name);
    wait_for("changes", ep, 10000);
    ssize_t bytes = read(watch, buffer, sizeof buffer);
    for (char *at = buffer; at < buffer + bytes;) {
        struct inotify_event *seen = (struct inotify_event *)at;
        printf("watch %d: %x %s\n", seen->wd, seen->mask, seen->len ? seen->name : "");
        at += sizeof *seen + seen->len;
    }
    SAY(inotify_rm_watch(watch, 5));
    SAY(inotify_rm_watch(watch, 1));
    close(watch);
    close(ep);
}

/* All that is ready comes at once, however much it is. */
static void many(void)
{
    enum { COUNT = 900 };
    static struct epoll_event events[COUNT + 1];
    int epoll = epoll_create1(0);
    for (int i = 0; i < COUNT; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = eventfd(1, 0)};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event)) perror("epoll_ctl");
    }
    SAY(epoll_wait(epoll, events, COUNT + 1, 0));
    SAY(epoll_wait(epoll, events, COUNT - 1, 0));
    close_range(epoll, ~0U, 0);
}

int main(int argc, char **argv)
{
    many();
    registrations();
    ways();
    interrupted();
    timers();
    watches(argc > 1 ? argv[1] : ".");
    return 0;
}

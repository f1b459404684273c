/* signalfd, pidfd of the program itself, and eventfd: what each call returns, one line each. A test compares
 * a native run with one in a VM. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../include/say.h"

static sigset_t set_of(int a, int b)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, a);
    if (b)
        sigaddset(&set, b);
    return set;
}

static void told(const struct signalfd_siginfo *info)
{
    printf("signal %u code %d own %d uid %d int %d ptr %llx timer %d overrun %d\n", info->ssi_signo, info->ssi_code,
           info->ssi_pid == (uint32_t)getpid(), info->ssi_uid == getuid(), info->ssi_int,
           (unsigned long long)info->ssi_ptr, info->ssi_tid != 0, info->ssi_overrun != 0);
}

static int ready(int fd)
{
    struct pollfd one = { fd, POLLIN, 0 };
    return poll(&one, 1, 0) == 1 ? one.revents : 0;
}

static int handled;
static void on_signal(int number) { handled += number; }

static void *send_later(void *target)
{
    struct timespec soon = { 0, 20000000 };
    nanosleep(&soon, NULL);
    pthread_kill(*(pthread_t *)target, SIGUSR1);
    return NULL;
}

static void signal_files(void)
{
    sigset_t set = set_of(SIGUSR1, SIGRTMIN + 3), other = set_of(SIGUSR2, 0), all;
    struct signalfd_siginfo got[4];
    sigfillset(&all);
    sigdelset(&all, SIGALRM);
    sigprocmask(SIG_BLOCK, &all, NULL);
    SAY(syscall(SYS_signalfd4, -1, &set, 4, 0));
    SAY(syscall(SYS_signalfd4, -1, 1, 8, 0));
    SAY(signalfd(-1, &set, 1));
    SAY(signalfd(77, &set, 0));
    SAY(signalfd(0, &set, 0));
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    SAY(fcntl(fd, F_GETFD));
    SAY(fcntl(fd, F_GETFL));
    SAY(read(fd, got, sizeof got));
    SAY(read(fd, got, 127));
    SAY(read(fd, got, 0));
    SAY(write(fd, got, sizeof got));
    SAY(pread(fd, got, sizeof got, 0));
    SAY(ready(fd));
    kill(getpid(), SIGUSR2);
    SAY(ready(fd));
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR1);
    union sigval value = { .sival_int = 4711 };
    SAY(sigqueue(getpid(), SIGRTMIN + 3, value));
    SAY(ready(fd));
    int ep = epoll_create1(0);
    struct epoll_event event = { EPOLLIN, { .u32 = 5 } };
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
    SAY(epoll_wait(ep, &event, 1, 1000));
    SAY(read(fd, got, sizeof got[0] + 1));
    told(got);
    SAY(ready(fd));
    SAY(read(fd, got, sizeof got));
    told(got);
    SAY(ready(fd));
    SAY(epoll_wait(ep, &event, 1, 0));
    SAY(read(fd, got, sizeof got));
    /* Another set: what was pending all the time. */
    SAY(signalfd(fd, &other, 0) == fd);
    SAY(ready(fd));
    SAY(epoll_wait(ep, &event, 1, 1000));
    SAY(read(fd, got, sizeof got));
    told(got);
    /* Taken by someone else. */
    kill(getpid(), SIGUSR2);
    SAY(ready(fd));
    SAY(sigwaitinfo(&other, NULL));
    SAY(ready(fd));
    SAY(epoll_wait(ep, &event, 1, 0));
    /* Delivered to a handler. */
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGUSR2, &action, NULL);
    kill(getpid(), SIGUSR2);
    SAY(ready(fd));
    sigprocmask(SIG_UNBLOCK, &other, NULL);
    printf("handled %d\n", handled);
    SAY(ready(fd));
    SAY(read(fd, got, sizeof got));
    close(fd);
    /* A timer's, and one that waits. */
    fd = signalfd(-1, &set, 0);
    struct sigevent by = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value = { .sival_int = 6 } };
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, &by, &timer);
    struct itimerspec soon = { .it_value = { 0, 20000000 } };
    timer_settime(timer, 0, &soon, NULL);
    SAY(read(fd, got, sizeof got));
    printf("signal %u code %d int %d\n", got[0].ssi_signo, got[0].ssi_code, got[0].ssi_int);
    timer_delete(timer);
    pthread_t self = pthread_self(), sender;
    pthread_create(&sender, NULL, send_later, &self);
    struct iovec parts[2] = { { got, sizeof got[0] }, { got + 1, sizeof got[0] } };
    SAY(readv(fd, parts, 2));
    told(got);
    pthread_join(sender, NULL);
    /* A blocked reader is interrupted. */
    sigaction(SIGALRM, &action, NULL);
    by.sigev_signo = SIGALRM;
    timer_create(CLOCK_MONOTONIC, &by, &timer);
    /* Again and again: the first may come before the call that it is for. */
    soon.it_interval = soon.it_value;
    timer_settime(timer, 0, &soon, NULL);
    SAY(read(fd, got, sizeof got));
    timer_delete(timer);
    close(fd);
    close(ep);
}

static int pidfd_send(int fd, int number, siginfo_t *info, unsigned flags)
{
    return (int)syscall(SYS_pidfd_send_signal, fd, number, info, flags);
}

static void process_files(void)
{
    sigset_t set = set_of(SIGUSR1, SIGRTMIN + 3);
    siginfo_t info;
    SAY(syscall(SYS_pidfd_open, 0, 0));
    SAY(syscall(SYS_pidfd_open, -5, 0));
    SAY(syscall(SYS_pidfd_open, getpid(), 1));
    SAY(syscall(SYS_pidfd_open, 1 << 29, 0));
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    SAY(fcntl(fd, F_GETFD));
    SAY(ready(fd));
    SAY(read(fd, &info, 8));
    SAY(pidfd_send(fd, 0, NULL, 0));
    SAY(pidfd_send(fd, 65, NULL, 0));
    SAY(pidfd_send(fd, 0, NULL, 99));
    SAY(pidfd_send(0, 0, NULL, 0));
    SAY(pidfd_send(77, 0, NULL, 0));
    int directory = open("/proc/self", O_RDONLY | O_DIRECTORY), task = open("/proc/self/task", O_RDONLY);
    SAY(pidfd_send(directory, 0, NULL, 0));
    SAY(pidfd_send(task, 0, NULL, 0));
    close(directory);
    close(task);
    SAY(pidfd_send(fd, SIGUSR1, NULL, 0));
    SAY(sigwaitinfo(&set, &info));
    printf("code %d own %d\n", info.si_code, info.si_pid == getpid());
    memset(&info, 0, sizeof info);
    info.si_signo = SIGRTMIN + 3;
    info.si_code = SI_QUEUE;
    info.si_value.sival_int = 12;
    SAY(pidfd_send(fd, SIGRTMIN + 3, &info, 0));
    SAY(pidfd_send(fd, SIGUSR1, &info, 0));
    SAY(sigwaitinfo(&set, &info));
    printf("code %d value %d\n", info.si_code, info.si_value.sival_int);
    SAY(waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    SAY(waitid(P_PIDFD, 0, &info, WEXITED));
    int pipes[2];
    if (pipe(pipes))
        exit(2);
    int copy = (int)syscall(SYS_pidfd_getfd, fd, pipes[1], 0);
    SAY(fcntl(copy, F_GETFD));
    SAY(write(copy, "abc", 3));
    SAY(syscall(SYS_pidfd_getfd, fd, 77, 0));
    SAY(syscall(SYS_pidfd_getfd, fd, 0, 1));
    SAY(syscall(SYS_pidfd_getfd, pipes[0], 0, 0));
    close(copy);
    close(pipes[0]);
    close(pipes[1]);
    close(fd);
}

static void *add_later(void *at)
{
    struct timespec soon = { 0, 20000000 };
    nanosleep(&soon, NULL);
    eventfd_write(*(int *)at, 3);
    return NULL;
}

static void counters(void)
{
    eventfd_t value;
    SAY(eventfd(1, 0x100));
    int fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
    SAY(fcntl(fd, F_GETFD));
    SAY(fcntl(fd, F_GETFL));
    SAY(eventfd_read(fd, &value));
    SAY(eventfd_read(fd, &value));
    printf("%llu\n", (unsigned long long)value);
    SAY(eventfd_read(fd, &value));
    SAY(ready(fd));
    close(fd);
    fd = eventfd(0, EFD_NONBLOCK);
    SAY(eventfd_write(fd, UINT64_MAX - 1));
    SAY(eventfd_write(fd, 1));
    SAY(eventfd_write(fd, UINT64_MAX));
    struct pollfd one = { fd, POLLIN | POLLOUT, 0 };
    SAY(poll(&one, 1, 0));
    printf("%x\n", one.revents);
    SAY(read(fd, &value, 7));
    SAY(write(fd, &value, 7));
    SAY(eventfd_read(fd, &value));
    printf("%llx\n", (unsigned long long)value);
    SAY(lseek(fd, 0, SEEK_SET));
    SAY(fcntl(fd, F_SETFL, 0));
    pthread_t thread;
    pthread_create(&thread, NULL, add_later, &fd);
    SAY(eventfd_read(fd, &value));
    printf("%llu\n", (unsigned long long)value);
    pthread_join(thread, NULL);
    close(fd);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal_files();
    process_files();
    counters();
    puts("done");
    return 0;
}

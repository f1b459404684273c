// Forks: what parent and child share from then on. The first argument says what is tried; natively and in a VM
// it prints the same.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/report.h"
#include "../include/forks.h"

static void files(void) {
    char name[] = "forks-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    if (write(fd, "0123456789", 10) != 10) exit(1);
    lseek(fd, 2, SEEK_SET);
    int again = dup(fd), closed = fcntl(fd, F_DUPFD_CLOEXEC, 20);
    mkdir("below", 0755);
    if (chdir("below")) exit(1);
    umask(027);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    answer("lock", fcntl(fd, F_SETLK, &lock));
    answer("flock", flock(fd, LOCK_EX | LOCK_NB));
    CHILD("the same files", {
        char byte[2];
        result = read(fd, byte, 2) == 2 && byte[0] == '2' && lseek(again, 0, SEEK_CUR) == 4;
        result += 2 * (fcntl(closed, F_GETFD) == FD_CLOEXEC && fcntl(again, F_GETFD) == 0);
        char cwd[4096];
        result += 4 * (strcmp(strrchr(getcwd(cwd, sizeof cwd), '/'), "/below") == 0);
        result += 8 * (umask(0) == 027);
        struct flock other = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
        fcntl(fd, F_GETLK, &other);
        result += 16 * (other.l_type == F_WRLCK && other.l_pid == getppid());
        result += 32 * (flock(fd, LOCK_EX | LOCK_NB) == 0);
        close(again);
        if (chdir("/")) result = 99;
    });
    say("the offset", lseek(fd, 0, SEEK_CUR));
    say("still open", fcntl(again, F_GETFD));
    char cwd[4096];
    say("still there", strcmp(strrchr(getcwd(cwd, sizeof cwd), '/'), "/below") == 0);
    struct flock mine = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    CHILD("the lock outlives the child", {
        fcntl(fd, F_GETLK, &mine);
        result = mine.l_type == F_WRLCK;
    });
    close(dup(fd));
    CHILD("closing a copy drops it", {
        fcntl(fd, F_GETLK, &mine);
        result = mine.l_type == F_UNLCK;
    });
    int one = fork();
    if (one == 0) {
        char numbers[3][12];
        int all[3] = {fd, again, closed};
        for (int n = 0; n < 3; n++) snprintf(numbers[n], sizeof numbers[n], "%d", all[n]);
        execl("/proc/self/exe", "forks", "descriptors", numbers[0], numbers[1], numbers[2], NULL);
        _exit(99);
    }
    say("after exec", end_of(one));
}

// Which of some descriptors a program that was started finds open.
static int descriptors(char **numbers) {
    int open = 0;
    for (int n = 0; numbers[n]; n++) open |= (fcntl(atoi(numbers[n]), F_GETFD) >= 0) << n;
    return open;
}

struct common {
    pthread_mutex_t mutex, robust;
    pthread_cond_t cond;
    pthread_barrier_t barrier;
    sem_t sem;
    uint32_t word;
    int turn, sum;
};

static void in_shared(struct common *common) {
    pthread_mutexattr_t mutexes;
    pthread_mutexattr_init(&mutexes);
    pthread_mutexattr_setpshared(&mutexes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&common->mutex, &mutexes);
    pthread_mutexattr_setrobust(&mutexes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&common->robust, &mutexes);
    pthread_condattr_t conds;
    pthread_condattr_init(&conds);
    pthread_condattr_setpshared(&conds, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&common->cond, &conds);
    pthread_barrierattr_t barriers;
    pthread_barrierattr_init(&barriers);
    pthread_barrierattr_setpshared(&barriers, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&common->barrier, &barriers, 4);
    sem_init(&common->sem, 1, 0);
    pid_t children[3];
    fflush(stdout);
    for (int n = 0; n < 3; n++) {
        children[n] = fork();
        if (children[n] != 0) continue;
        pthread_barrier_wait(&common->barrier);
        for (int round = 0; round < 200; round++) {
            pthread_mutex_lock(&common->mutex);
            common->sum++;
            pthread_mutex_unlock(&common->mutex);
        }
        pthread_mutex_lock(&common->mutex);
        while (common->turn != n) pthread_cond_wait(&common->cond, &common->mutex);
        common->turn++;
        pthread_cond_broadcast(&common->cond);
        pthread_mutex_unlock(&common->mutex);
        sem_post(&common->sem);
        _exit(n);
    }
    pthread_barrier_wait(&common->barrier);
    for (int n = 0; n < 3; n++) sem_wait(&common->sem);
    for (int n = 0; n < 3; n++) end_of(children[n]);
    say("sum", common->sum);
    say("turn", common->turn);
    pid_t pid = fork();
    if (pid == 0) {
        while (__atomic_load_n(&common->word, __ATOMIC_SEQ_CST) == 0)
            syscall(SYS_futex, &common->word, FUTEX_WAIT, 0, NULL, NULL, 0);
        _exit((int)common->word);
    }
    usleep(50000);
    __atomic_store_n(&common->word, 8, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &common->word, FUTEX_WAKE, 1, NULL, NULL, 0);
    say("woken", end_of(pid));
    pid = fork();
    if (pid == 0) {
        pthread_mutex_lock(&common->robust);
        _exit(9);
    }
    say("holds it", end_of(pid));
    say("the owner died", pthread_mutex_lock(&common->robust) == EOWNERDEAD);
    pthread_mutex_consistent(&common->robust);
    pthread_mutex_unlock(&common->robust);
    pid = fork();
    if (pid == 0) {
        pthread_mutex_lock(&common->robust);
        sem_post(&common->sem);
        pause();
    }
    sem_wait(&common->sem);
    kill(pid, SIGKILL);
    say("is killed", end_of(pid));
    say("the owner died", pthread_mutex_lock(&common->robust) == EOWNERDEAD);
}

static void shared(void) {
    puts("anonymous");
    in_shared(anonymous(sizeof(struct common), MAP_SHARED));
    puts("memfd");
    int fd = memfd_create("common", 0);
    if (ftruncate(fd, sizeof(struct common))) exit(1);
    in_shared(mmap(NULL, sizeof(struct common), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    puts("file");
    char name[] = "forks-XXXXXX";
    fd = mkstemp(name);
    if (ftruncate(fd, sizeof(struct common))) exit(1);
    in_shared(mmap(NULL, sizeof(struct common), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    unlink(name);
    puts("anonymous, in pieces");
    char *at = anonymous(16 << 20, MAP_SHARED);
    at[PAGE] = 1;
    mprotect(at + 2 * PAGE, PAGE, PROT_READ);
    munmap(at + 4 * PAGE, PAGE);
    CHILD("a child", {
        at[PAGE]++;
        at[8 << 20] = 5;
        result = at[0];
        char *moved = mremap(at + (8 << 20), 4 << 20, 6 << 20, MREMAP_MAYMOVE);
        if (moved == MAP_FAILED || moved[0] != 5) result = 9;
        else moved[PAGE] = 6;
        CHILD("its child", at[PAGE]++);
        madvise(at, PAGE, MADV_DONTNEED);
    });
    say("seen", at[PAGE] * 100 + at[8 << 20] * 10 + at[(8 << 20) + PAGE]);
    madvise(at, 2 * PAGE, MADV_DONTNEED);
    say("still seen", at[PAGE]);
}

static void posix_shared(void) {
    shm_unlink("/forks");
    shm_unlink("/forks-late");
    int before = shm_open("/forks", O_RDWR | O_CREAT | O_EXCL, 0600);
    if (ftruncate(before, PAGE)) exit(1);
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, before, 0);
    sem_t *named = sem_open("/forks", O_CREAT | O_EXCL, 0600, 0);
    CHILD("by its name", {
        int fd = shm_open("/forks", O_RDWR, 0);
        if (fd < 0) result = 1;
        else {
            char *same = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            same[0] = 'c';
        }
        sem_t *also = sem_open("/forks", 0);
        if (also == SEM_FAILED || sem_post(also)) result += 2;
        int late = shm_open("/forks-late", O_RDWR | O_CREAT | O_EXCL, 0600);
        if (late < 0 || write(late, "late", 4) != 4) result += 4;
        if (shm_open("/forks", O_RDWR | O_CREAT | O_EXCL, 0600) != -1 || errno != EEXIST) result += 8;
        if (shm_unlink("/forks")) result += 16;
        CHILD("its child, too", result = shm_open("/forks-late", O_RDWR, 0) < 0);
    });
    say("written", at[0]);
    answer("posted", sem_trywait(named));
    int late = shm_open("/forks-late", O_RDONLY, 0);
    char text[5] = {0};
    if (late >= 0 && read(late, text, 4) == 4) puts(text);
    else answer("late", -1);
    answer("unlinked", shm_open("/forks", O_RDWR, 0));
    struct stat stat;
    say("names of the first one", fstat(before, &stat) ? -1 : (long)stat.st_nlink);
    answer("renamed", rename("/dev/shm/forks-late", "/dev/shm/forks-new"));
    CHILD("by its new name", result = shm_open("/forks-new", O_RDWR, 0) < 0);
    sem_unlink("/forks");
    shm_unlink("/forks-new");
    // Of all that try to make it, one does.
    int made = 0;
    pid_t pids[4];
    for (int n = 0; n < 4; n++)
        if ((pids[n] = fork()) == 0)
            _exit(shm_open("/forks-race", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0);
    for (int n = 0; n < 4; n++) made += end_of(pids[n]);
    say("made by", made);
    answer("removed", shm_unlink("/forks-race"));
}

// What a process closes that another one has open, too, stays registered; and what it had alone does not.
static void stays_registered(int poll_fd) {
    int pipes[2], go[2];
    if (pipe(pipes) || pipe(go)) exit(1);
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 79}, got[4];
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, pipes[0], &wanted);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(pipes[1]);
        if (read(go[0], &byte, 1) != 1) _exit(1);
        int count = epoll_wait(poll_fd, got, 4, 10000), hung_up = 0;
        for (int n = 0; n < count; n++) hung_up |= got[n].data.u64 == 79 && got[n].events == EPOLLHUP;
        close(pipes[0]);
        count = epoll_wait(poll_fd, got, 4, 0);
        for (int n = 0; n < count; n++) hung_up |= 2 * (got[n].data.u64 == 79);
        _exit(hung_up);
    }
    close(pipes[0]);
    close(pipes[1]);
    if (write(go[1], "x", 1) != 1) exit(1);
    say("hung up", end_of(child));
    close(go[0]);
    close(go[1]);
}

// Descriptors that wait for something.
static void waiting(void) {
    int event = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, 0);
    int pipes[2];
    if (pipe(pipes)) exit(1);
    int poll_fd = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 77};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, event, &wanted);
    wanted.data.u64 = 78;
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, pipes[0], &wanted);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signal_fd = signalfd(-1, &set, 0);
    struct itimerspec soon = {.it_value = {.tv_nsec = 20000000}};
    timerfd_settime(timer, 0, &soon, NULL);
    CHILD("inherited", {
        uint64_t value = 3;
        if (write(event, &value, 8) != 8) result = 1;
        struct epoll_event got[4];
        if (epoll_wait(poll_fd, got, 4, 10000) != 1 || got[0].data.u64 != 77) result |= 2;
        if (read(timer, &value, 8) != 8 || value != 1) result |= 4;
        raise(SIGUSR1);
        struct signalfd_siginfo info;
        struct pollfd readable = {.fd = signal_fd, .events = POLLIN};
        if (poll(&readable, 1, 10000) != 1 || read(signal_fd, &info, sizeof info) != sizeof info ||
            info.ssi_signo != SIGUSR1 || info.ssi_pid != (uint32_t)getpid())
            result |= 8;
        int mine = epoll_create1(0);
        wanted.data.u64 = 5;
        if (epoll_ctl(mine, EPOLL_CTL_ADD, pipes[0], &wanted) || write(pipes[1], "x", 1) != 1 ||
            epoll_wait(mine, got, 4, 10000) != 1 || got[0].data.u64 != 5)
            result |= 16;
    });
    uint64_t value = 0;
    say("counted", read(event, &value, 8) == 8 ? (long)value : -1);
    struct epoll_event got[4];
    say("the pipe", epoll_wait(poll_fd, got, 4, 0) == 1 && got[0].data.u64 == 78);
    sigset_t pending;
    sigpending(&pending);
    say("not here", sigismember(&pending, SIGUSR1));
    stays_registered(poll_fd);
}

static volatile sig_atomic_t io_signals;
static void on_io(int signal) { io_signals += signal == SIGIO; }

// Waits for the signal with which the kernel tells of input on `fd`.
static int told(int fd) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    struct timespec limit = {.tv_sec = 20};
    char byte;
    return sigtimedwait(&set, NULL, &limit) == SIGIO && read(fd, &byte, 1) == 1;
}

// SIGIO of sockets and pipes, between processes.
static void io(void) {
    int ends[2], pipes[2], on = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || pipe(pipes)) exit(1);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int asked = ioctl(ends[0], FIOASYNC, &on);
    answer("asked for", asked);
    if (asked) return;
    say("kept", fcntl(ends[0], F_GETFL) & O_ASYNC);
    answer("owner", fcntl(ends[0], F_SETOWN, getpid()));
    answer("asked for again", ioctl(ends[0], FIOASYNC, &on));
    CHILD("writes", result = write(ends[1], "x", 1));
    say("the socket's", told(ends[0]));
    answer("owner", fcntl(pipes[0], F_SETOWN, getpid()));
    answer("asked for", fcntl(pipes[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    say("kept", fcntl(pipes[0], F_GETFL) & (O_ASYNC | O_NONBLOCK));
    CHILD("writes", result = write(pipes[1], "x", 1));
    say("the pipe's", told(pipes[0]));
    // A child is not the owner, and one that sets the flags changes nothing about that.
    CHILD("sets the flags", {
        result = fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0 && write(ends[1], "x", 1) == 1;
        sigset_t pending;
        sigpending(&pending);
        result += 2 * sigismember(&pending, SIGIO);
    });
    say("the socket's", told(ends[0]));
    signal(SIGIO, on_io);
    on = 0;
    answer("no longer", ioctl(ends[0], FIOASYNC, &on));
    answer("nobody's", fcntl(pipes[0], F_SETOWN, 0));
    CHILD("writes", result = write(ends[1], "x", 1) + write(pipes[1], "x", 1));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    say("none", io_signals);
    int file = open("forks", O_RDONLY);
    on = 1;
    answer("a file's", ioctl(file, FIOASYNC, &on));
    on = 0;
    answer("a file's none", ioctl(file, FIOASYNC, &on));
}

// What the host would have to send to a thread, or to more than this process.
static void no_io(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) exit(1);
    // A group that has a number, whoever started this.
    setpgid(0, 0);
    answer("group", fcntl(ends[0], F_SETOWN, -getpgrp()));
    answer("asked for", fcntl(ends[0], F_SETFL, O_ASYNC));
    answer("owner", fcntl(ends[0], F_SETOWN, getpid()));
    answer("signal", fcntl(ends[0], F_SETSIG, SIGUSR1));
    answer("asked for", fcntl(ends[0], F_SETFL, O_ASYNC));
    answer("signal", fcntl(ends[0], F_SETSIG, 0));
    answer("asked for", fcntl(ends[0], F_SETFL, O_ASYNC));
    answer("group", fcntl(ends[0], F_SETOWN, -getpgrp()));
    answer("signal", fcntl(ends[0], F_SETSIG, SIGUSR1));
    say("kept", fcntl(ends[0], F_GETOWN) == getpid());
}

static void on_alarm(int signal) { (void)signal; }

// A FIFO, whose ends wait for each other.
static void fifo(void) {
    unlink("fifo");
    answer("made", mkfifo("fifo", 0600));
    answer("no reader", open("fifo", O_WRONLY | O_NONBLOCK));
    for (int first = 0; first < 2; first++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            if (first) usleep(20000);
            int to = open("fifo", O_WRONLY);
            _exit(write(to, "abc", 3) != 3);
        }
        if (!first) usleep(20000);
        int from = open("fifo", O_RDONLY);
        char text[8];
        ssize_t bytes, all = 0;
        while ((bytes = read(from, text, sizeof text)) > 0) all += bytes;
        say("read", all);
        say("writer", end_of(pid));
        close(from);
    }
    // A signal ends the wait.
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval soon = {.it_value = {.tv_usec = 50000}, .it_interval = {.tv_usec = 50000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    answer("nobody writes", open("fifo", O_RDONLY));
    answer("nobody reads", open("fifo", O_WRONLY));
    unlink("fifo");
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(mode, "files")) files();
    else if (!strcmp(mode, "descriptors")) return descriptors(argv + 2);
    else if (!strcmp(mode, "shared")) shared();
    else if (!strcmp(mode, "posix-shared")) posix_shared();
    else if (!strcmp(mode, "waiting")) waiting();
    else if (!strcmp(mode, "io")) io();
    else if (!strcmp(mode, "no-io")) no_io();
    else if (!strcmp(mode, "fifo")) fifo();
    else return 2;
    return 0;
}

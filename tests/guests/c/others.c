// What a program sees of the other processes of its run in /proc, and how many files they may have open together.
// `proc` and `threads` print the same natively and in a VM; `list` says who is there; `files` opens as many as there may be.
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/say.h"

static char *self;

static void show_of(const char *of, const char *name, const char *called)
{
    char path[128], bytes[512];
    snprintf(path, sizeof path, "/proc/%s/%s", of, name);
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
    printf("%s:", called);
    if (got < 0) printf(" %s", strerrorname_np(errno));
    for (ssize_t i = 0; i < got; i++)
        putchar(isprint(bytes[i]) ? bytes[i] : '|');
    puts("");
    if (fd >= 0) close(fd);
}

static void show(int pid, const char *name)
{
    char of[16];
    snprintf(of, sizeof of, "%d", pid);
    show_of(of, name, name);
}

static void link_of_path(const char *of, const char *name)
{
    char path[128], target[512];
    snprintf(path, sizeof path, "/proc/%s/%s", of, name);
    ssize_t len = readlink(path, target, sizeof target - 1);
    if (len < 0) {
        printf("%s: %s\n", name, strerrorname_np(errno));
        return;
    }
    target[len] = 0;
    printf("%s: %s\n", name, !strcmp(name, "exe") ? strrchr(target, '/') : target);
}

static void link_of(int pid, const char *name)
{
    char of[16];
    snprintf(of, sizeof of, "%d", pid);
    link_of_path(of, name);
}

/* State, parent, group, session of `stat`, by their meaning. */
static void stat_of(int pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0) {
        puts("stat: none");
        return;
    }
    text[got] = 0;
    char *rest = strrchr(text, ')') + 2, state;
    int parent, group, session, fields = 2;
    sscanf(rest, "%c %d %d %d", &state, &parent, &group, &session);
    for (char *field = strtok(rest, " \n"); field; field = strtok(NULL, " \n"))
        fields++;
    printf("stat: number %d, state %c, parent %d, group %d, session %d, %d fields\n", atoi(text) == pid, state,
           parent == getpid(), group == getpgrp(), session == getsid(0), fields);
}

static void status_of(int pid)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        int number = colon ? atoi(colon + 1) : 0;
        if (!strncmp(line, "Name:", 5) || !strncmp(line, "State:", 6) || !strncmp(line, "Threads:", 8))
            fputs(line, stdout);
        if (!strncmp(line, "Pid:", 4)) printf("Pid: %d\n", number == pid);
        if (!strncmp(line, "PPid:", 5)) printf("PPid: %d\n", number == getpid());
    }
    if (file) fclose(file);
}

/* Until it waits for something. */
static void settle(int pid)
{
    char path[64], text[1024], *state = NULL;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    do {
        int fd = open(path, O_RDONLY);
        ssize_t got = read(fd, text, sizeof text - 1);
        close(fd);
        if (got <= 0) return;
        text[got] = 0;
        state = strrchr(text, ')');
    } while (state && state[2] != 'S');
}

static void all_of(int pid)
{
    settle(pid);
    show(pid, "comm");
    show(pid, "cmdline");
    link_of(pid, "exe");
    link_of(pid, "cwd");
    link_of(pid, "root");
    stat_of(pid);
    status_of(pid);
}

/* A child that says when it is ready, and goes on when it is told. */
static void child(int ready, int go)
{
    char byte;
    (void)!write(ready, "r", 1);
    (void)!read(go, &byte, 1);
}

static int proc(void)
{
    int ready[2], go[2];
    char byte;
    if (pipe(ready) || pipe(go)) return 1;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_NAME, "a child");
        if (chdir("/dev")) _exit(9);
        child(ready[1], go[0]);
        char to[2][16];
        snprintf(to[0], 16, "%d", ready[1]);
        snprintf(to[1], 16, "%d", go[0]);
        execl(self, "another", "waits", to[0], to[1], "", "last", NULL);
        _exit(8);
    }
    (void)!read(ready[0], &byte, 1);
    all_of(pid);
    (void)!write(go[1], "g", 1);
    (void)!read(ready[0], &byte, 1);
    puts("after execve");
    all_of(pid);
    int status;
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    stat_of(pid);
    kill(pid, SIGKILL);
    siginfo_t info;
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    puts("a zombie");
    show(pid, "comm");
    show(pid, "cmdline");
    stat_of(pid);
    waitpid(pid, &status, 0);
    show(pid, "comm");
    show(getppid() == 1 ? 0 : 1 << 21, "comm");
    return 0;
}

static int told_by[2], waits_for[2];

static void *waits(void *name)
{
    char byte = 0;
    pthread_setname_np(pthread_self(), name);
    (void)!write(told_by[1], "t", 1);
    (void)!read(waits_for[0], &byte, 1);
    return NULL;
}

/* What the descriptors of a process are called, of those that this one has, too. */
static void descriptors_of(int pid, int last)
{
    char path[64], here[512], there[512];
    for (int fd = 0; fd <= last; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(path, here, sizeof here);
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        ssize_t other = readlink(path, there, sizeof there);
        if (other < 0) printf("%d: %s\n", fd, strerrorname_np(errno));
        else printf("%d: the same %d\n", fd, len == other && !memcmp(here, there, (size_t)len));
    }
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    int count = 0;
    while (dir && readdir(dir)) count++;
    printf("entries %d\n", count);
    if (dir) closedir(dir);
}

/* Of a child with three threads: their directories, its descriptors, and what is the same natively. */
static int threads(void)
{
    char byte, path[64];
    /* Natively it may have inherited some. */
    close_range(3, ~0U, 0);
    if (pipe(told_by) || pipe(waits_for)) return 1;
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    open(self, O_RDONLY);
    open("/dev/null", O_RDWR);
    memfd_create("a file", 0);
    int closed = dup(ends[0]);
    pid_t pid = fork();
    if (pid == 0) {
        close(closed);
        dup2(ends[1], closed + 2);
        pthread_t thread;
        close(waits_for[1]);
        for (int i = 0; i < 2; i++) pthread_create(&thread, NULL, waits, "a child");
        waits("a child");
        pthread_exit(NULL);
    }
    for (int i = 0; i < 3; i++) (void)!read(told_by[0], &byte, 1);
    descriptors_of(pid, closed);
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *dir = opendir(path);
    int count = 0, own = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        int tid = atoi(entry->d_name), number = 0, group = 0;
        if (!tid) continue;
        char line[256];
        snprintf(path, sizeof path, "/proc/%d/task/%d/status", pid, tid);
        FILE *file = fopen(path, "r");
        while (file && fgets(line, sizeof line, file)) {
            sscanf(line, "Pid: %d", &number);
            sscanf(line, "Tgid: %d", &group);
        }
        if (file) fclose(file);
        count++;
        own += tid == pid;
        printf("number %d, group %d, ", number == tid, group == pid);
        snprintf(path, sizeof path, "%d/task/%d", pid, tid);
        show_of(path, "comm", "comm");
        link_of_path(path, "root");
    }
    if (dir) closedir(dir);
    printf("threads %d, the first %d\n", count, own);
    snprintf(path, sizeof path, "/proc/%d/task/%d", getpid(), pid);
    SAY(access(path, F_OK));
    snprintf(path, sizeof path, "/proc/%d/task/%d", pid, getpid());
    SAY(access(path, F_OK));
    close(waits_for[1]);
    waitpid(pid, NULL, 0);
    SAY(access(path, F_OK));
    return 0;
}

static int list(void)
{
    int go[2], count = 0, of_run = 0;
    char byte;
    if (pipe(go)) return 1;
    pid_t pids[3];
    for (int i = 0; i < 3; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            close(go[1]);
            _exit(read(go[0], &byte, 1) != 0);
        }
    }
    DIR *dir = opendir("/proc");
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (!isdigit(entry->d_name[0])) continue;
        int pid = atoi(entry->d_name);
        count++;
        of_run += pid == getpid() || pid == pids[0] || pid == pids[1] || pid == pids[2];
    }
    printf("listed %d, of the run %d\n", count, of_run);
    /* What the host has and the run does not. */
    show(1, "comm");
    show(getppid(), "comm");
    SAY(access("/proc/1", F_OK));
    /* What only the other process may see. */
    const char *withheld[] = {"auxv", "environ", "fd/0", "fdinfo", "maps", "smaps"};
    for (size_t i = 0; i < sizeof withheld / sizeof *withheld; i++) show(pids[0], withheld[i]);
    int comm;
    char name[32];
    snprintf(name, sizeof name, "/proc/%d/comm", pids[0]);
    SAY((comm = open(name, O_WRONLY)) >= 0);
    SAY(write(comm, "x", 1));
    close(go[1]);
    while (wait(NULL) > 0)
        ;
    return 0;
}

/* Opens files until that is refused. */
static int most(void)
{
    int count = 0;
    errno = 0;
    while (dup(0) >= 0) count++;
    printf("%d: %s\n", count, strerrorname_np(errno));
    fflush(stdout);
    return count;
}

static int files(void)
{
    /* 0, 1 and 2, and this. Each side tells the other when it has done its part: without that, what one closes
       is free while the other counts. */
    int ends[2];
    char byte = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 1;
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        most();
        (void)!write(ends[1], &byte, 1);
        (void)!read(ends[1], &byte, 1);
        _exit(0);
    }
    close(ends[1]);
    (void)!read(ends[0], &byte, 1);
    while (dup(0) >= 0)
        ;
    /* There is no room for another process that inherits these. */
    most();
    SAY(fork());
    for (int fd = 3; fd < 1000; fd++) close(fd);
    waitpid(pid, NULL, 0);
    /* What it had is free again. */
    int again = most();
    printf("more than before: %d\n", again > 20);
    SAY(dup2(0, 2000 < sysconf(_SC_OPEN_MAX) ? 2000 : 900));
    SAY(dup2(1, 2));
    close(5);
    SAY(dup(0) == 5);
    return 0;
}

static volatile sig_atomic_t told;
static void on_signal(int signal) { told += signal; }

/* Descriptors of processes: of a child, and one that the child inherits. */
static int descriptors(void)
{
    int go[2];
    char byte;
    siginfo_t info;
    if (pipe(go)) return 1;
    signal(SIGUSR1, on_signal);
    int own = (int)syscall(SYS_pidfd_open, getpid(), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(go[1]);
        SAY(syscall(SYS_pidfd_send_signal, own, SIGUSR1, NULL, 0));
        SAY(syscall(SYS_pidfd_getfd, own, 0, 1));
        SAY(waitid(P_PIDFD, (id_t)own, &info, WEXITED | WNOHANG));
        (void)!read(go[0], &byte, 1);
        return 3;
    }
    int of = (int)syscall(SYS_pidfd_open, pid, 0);
    int asks = (int)syscall(SYS_pidfd_open, pid, 04000);
    struct pollfd ends = { .fd = of, .events = POLLIN };
    printf("opened %d %d, ended %d\n", of > 0, asks > 0, poll(&ends, 1, 0));
    SAY(syscall(SYS_pidfd_send_signal, of, 0, NULL, 0));
    SAY(syscall(SYS_pidfd_getfd, of, -1, 1));
    memset(&info, 0, sizeof info);
    SAY(waitid(P_PIDFD, (id_t)of, &info, WEXITED | WNOHANG));
    SAY(waitid(P_PIDFD, (id_t)asks, &info, WEXITED));
    SAY(waitid(P_PIDFD, 0, &info, WEXITED));
    while (!told) usleep(1000);
    printf("told: %d\n", told);
    close(go[1]);
    printf("ended %d\n", poll(&ends, 1, -1));
    SAY(syscall(SYS_pidfd_send_signal, of, 0, NULL, 0));
    SAY(waitid(P_PIDFD, (id_t)of, &info, WEXITED));
    printf("child %d, status %d\n", info.si_pid == pid, info.si_status);
    SAY(syscall(SYS_pidfd_send_signal, of, SIGUSR1, NULL, 0));
    SAY(waitid(P_PIDFD, (id_t)of, &info, WEXITED));
    SAY(syscall(SYS_pidfd_open, pid, 0));
    /* One that is killed by it. */
    pid = fork();
    if (pid == 0) for (;;) pause();
    of = (int)syscall(SYS_pidfd_open, pid, 0);
    SAY(syscall(SYS_pidfd_send_signal, of, SIGTERM, NULL, 0));
    SAY(waitid(P_PIDFD, (id_t)of, &info, WEXITED));
    printf("killed by %d\n", info.si_status);
    return 0;
}

int main(int argc, char **argv)
{
    self = argv[0];
    const char *what = argc > 1 ? argv[1] : "proc";
    if (!strcmp(argv[0], "another")) {
        child(atoi(argv[2]), atoi(argv[3]));
        return 0;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "descriptors")) return descriptors();
    if (!strcmp(what, "threads")) return threads();
    return !strcmp(what, "list") ? list() : !strcmp(what, "files") ? files() : proc();
}

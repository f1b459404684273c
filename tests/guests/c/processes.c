// Starts other processes. The first argument says what is tried; natively and in a VM it prints the
// same, but for the modes that are about what the VM grants.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/report.h"

extern char **environ;
static char *self;

static void show(const char *what, int status) {
    if (WIFEXITED(status)) printf("%s: exited %d\n", what, WEXITSTATUS(status));
    else if (WIFSIGNALED(status)) printf("%s: signal %d\n", what, WTERMSIG(status));
    else if (WIFSTOPPED(status)) printf("%s: stopped %d\n", what, WSTOPSIG(status));
    else if (WIFCONTINUED(status)) printf("%s: continued\n", what);
    fflush(stdout);
}

static pid_t spawn(const char *mode, const char *more) {
    char *args[] = {self, (char *)mode, (char *)more, NULL};
    pid_t pid = -1;
    int error = posix_spawn(&pid, self, NULL, NULL, args, environ);
    if (error) {
        printf("spawn: %s\n", strerrorname_np(error));
        fflush(stdout);
        return -error;
    }
    return pid;
}

static int wait_for(pid_t pid) {
    int status = -1;
    if (waitpid(pid, &status, 0) != pid) perror("waitpid");
    return status;
}

// What a program has at its start, as far as it is the same everywhere.
static int inherited(void) {
    char cwd[4096];
    printf("cwd: %s\n", getcwd(cwd, sizeof cwd) ? strrchr(cwd, '/') : "?");
    mode_t mask = umask(0);
    printf("umask: %o\n", mask);
    for (int fd = 3; fd < 9; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags >= 0) printf("fd %d: cloexec %d offset %ld\n", fd, flags, (long)lseek(fd, 0, SEEK_CUR));
    }
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    for (int n = 1; n < 32; n++) {
        struct sigaction action;
        if (sigaction(n, NULL, &action) == 0 && n != SIGPIPE)
            if (action.sa_handler != SIG_DFL || sigismember(&blocked, n))
                printf("signal %d: ignored %d blocked %d\n", n, action.sa_handler == SIG_IGN,
                       sigismember(&blocked, n));
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    say("nofile", limit.rlim_cur < 1000 ? (long)limit.rlim_cur : -1);
    say("policy", sched_getscheduler(0));
    say("nice", getpriority(PRIO_PROCESS, 0));
    say("leads its group", getpgrp() == getpid());
    say("leads its session", getsid(0) == getpid());
    say("TEST", getenv("TEST") ? atoi(getenv("TEST")) : -1);
    fflush(stdout);
    return 5;
}

static void handler(int signal) { (void)signal; }

static int vfork_own(void) {
    int fd = open(self, O_RDONLY), other = open(self, O_RDONLY | O_CLOEXEC);
    lseek(fd, 100, SEEK_SET);
    signal(SIGUSR1, handler);
    signal(SIGHUP, SIG_IGN);
    char before[4096], after[4096];
    getcwd(before, sizeof before);
    static char *args[] = {NULL, "inherited", NULL};
    args[0] = self;
    setenv("TEST", "42", 1);
    pid_t parent = getpid();
    pid_t pid = vfork();
    if (pid == 0) {
        if (getppid() != parent || getpid() == parent) _exit(90);
        dup2(fd, 7);
        close(fd);
        chdir("/");
        chdir("tmp-of-test");
        umask(027);
        setsid();
        signal(SIGUSR2, SIG_IGN);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigprocmask(SIG_BLOCK, &set, NULL);
        struct rlimit limit = {50, 60};
        setrlimit(RLIMIT_NOFILE, &limit);
        struct sched_param priority = {0};
        if (sched_setscheduler(0, SCHED_BATCH, &priority) || sched_getscheduler(getpid()) != SCHED_BATCH) _exit(92);
        if (setpriority(PRIO_PROCESS, 0, 3)) _exit(93);
        execve(self, args, environ);
        _exit(91);
    }
    show("child", wait_for(pid));
    getcwd(after, sizeof after);
    say("same directory", strcmp(before, after) == 0);
    say("same policy", sched_getscheduler(0));
    say("same nice value", getpriority(PRIO_PROCESS, 0));
    say("same descriptor", lseek(fd, 0, SEEK_CUR));
    answer("its own descriptor", fcntl(7, F_GETFD));
    answer("other", fcntl(other, F_GETFD));
    struct sigaction action;
    sigaction(SIGUSR2, NULL, &action);
    say("same action", action.sa_handler == SIG_DFL);
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    say("same mask", !sigismember(&blocked, SIGTERM));
    say("same umask", umask(022) != 027);
    return 0;
}

static int exec_in_place(void) {
    printf("number before\n");
    char number[32];
    snprintf(number, sizeof number, "%d", getpid());
    int kept = open(self, O_RDONLY), closed = open(self, O_RDONLY | O_CLOEXEC);
    (void)closed;
    lseek(kept, 7, SEEK_SET);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, handler);
    pid_t child = spawn("sleep", NULL);
    char text[32];
    snprintf(text, sizeof text, "%d", child);
    fflush(stdout);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    char told_by[32];
    snprintf(told_by, sizeof told_by, "%d", signalfd(-1, &set, 0));
    execl(self, self, "exec-after", number, text, told_by, NULL);
    perror("execl");
    return 1;
}

static int exec_after(char **argv) {
    say("same number", getpid() == atoi(argv[2]));
    pid_t child = atoi(argv[3]);
    kill(child, SIGKILL);
    show("child from before", wait_for(child));
    struct pollfd told_by = {.fd = atoi(argv[4]), .events = POLLIN};
    struct signalfd_siginfo info = {0};
    say("nothing yet", poll(&told_by, 1, 0));
    raise(SIGUSR2);
    say("told", poll(&told_by, 1, 1000));
    say("bytes", read(told_by.fd, &info, sizeof info));
    say("which", info.ssi_signo);
    return inherited();
}

/* Programs that are named by a descriptor, each in a child. */
static void exec_by(const char *what, int fd, const char *path, int flags) {
    char *args[] = {self, "exit", "6", NULL};
    fflush(stdout);
    pid_t child = vfork();
    if (child == 0) {
        syscall(SYS_execveat, fd, path, args, environ, flags);
        _exit(100 + errno);
    }
    show(what, wait_for(child));
}

static int exec_by_descriptor(void) {
    int file = open(self, O_RDONLY | O_CLOEXEC), path = open(self, O_PATH);
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    int text = open("script", O_CREAT | O_RDWR | O_TRUNC, 0755);
    dprintf(text, "#!%s\n", self);
    exec_by("open to write", text, "", AT_EMPTY_PATH);
    close(text);
    symlink(self, "link");
    exec_by("a file", file, "", AT_EMPTY_PATH);
    exec_by("a path", path, "", AT_EMPTY_PATH);
    exec_by("without the flag", file, "", 0);
    exec_by("a directory", dir, "", AT_EMPTY_PATH);
    exec_by("the current directory", AT_FDCWD, "", AT_EMPTY_PATH);
    exec_by("nothing", 99, "", AT_EMPTY_PATH);
    exec_by("a name", dir, "processes", AT_EMPTY_PATH);
    exec_by("a link", dir, "link", 0);
    exec_by("a link itself", dir, "link", AT_SYMLINK_NOFOLLOW);
    exec_by("a file, no link", dir, "processes", AT_SYMLINK_NOFOLLOW);
    exec_by("an unknown flag", dir, "processes", 0x4000);
    char name[40];
    snprintf(name, sizeof name, "/proc/self/fd/%d", path);
    exec_by("its name", AT_FDCWD, name, 0);
    fchmod(open("script", O_RDONLY), 0644);
    exec_by("no right", open("script", O_RDONLY), "", AT_EMPTY_PATH);
    fflush(stdout);
    char *args[] = {self, "exit", "7", NULL};
    fexecve(file, args, environ);
    return 1;
}

static volatile pid_t told;
static volatile int told_code, told_status;
static void on_child(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    told = info->si_pid;
    told_code = info->si_code;
    told_status = info->si_status;
}

static int signals(void) {
    struct sigaction action = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_NOCLDSTOP};
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &old);
    sigaction(SIGCHLD, &action, NULL);
    pid_t pid = spawn("exit", "9");
    while (!told) sigsuspend(&old);
    printf("told: %d code %d status %d\n", told == pid, told_code == CLD_EXITED, told_status);
    siginfo_t info;
    memset(&info, 0, sizeof info);
    answer("waitid, left there", waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    printf("status %d pid %d\n", info.si_status, info.si_pid == pid);
    show("then", wait_for(pid));
    answer("again", waitpid(pid, NULL, 0));
    pid = spawn("sleep", NULL);
    answer("not yet", waitpid(pid, NULL, WNOHANG));
    int status;
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    show("stop", status);
    kill(pid, SIGCONT);
    waitpid(pid, &status, WCONTINUED);
    show("continue", status);
    kill(pid, SIGTERM);
    show("terminate", wait_for(pid));
    pid = spawn("handle", NULL);
    // It says when it is ready by stopping.
    waitpid(pid, &status, WUNTRACED);
    show("ready", status);
    kill(pid, SIGCONT);
    kill(pid, SIGUSR1);
    show("handled", wait_for(pid));
    signal(SIGCHLD, SIG_IGN);
    pid = spawn("exit", "3");
    answer("ignored", waitpid(pid, NULL, 0));
    answer("kill", kill(pid, 0));
    return 0;
}

static int handle(void) {
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    signal(SIGUSR1, handler);
    raise(SIGSTOP);
    siginfo_t info;
    sigwaitinfo(&set, &info);
    return info.si_pid == getppid() ? 21 : 22;
}

static pid_t spawn_into(pid_t group) {
    posix_spawnattr_t attr;
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attr, group);
    char *args[] = {self, "sleep", NULL};
    pid_t pid = -1;
    say("spawn", posix_spawn(&pid, self, NULL, &attr, args, environ));
    return pid;
}

static int groups(void) {
    pid_t one = spawn_into(0), two = spawn_into(one);
    answer("started already", setpgid(two, two));
    answer("no child", setpgid(1, 1));
    say("group", getpgid(two) == one && getpgid(one) == one && getpgrp() != one);
    answer("none there", waitpid(-getpgrp(), NULL, WNOHANG));
    answer("of the group", waitpid(-one, NULL, WNOHANG));
    answer("kill", kill(-one, SIGINT));
    int first, second;
    pid_t a = waitpid(-one, &first, 0), b = waitpid(-one, &second, 0);
    say("both", (a == one && b == two) || (a == two && b == one));
    show("one", first);
    show("two", second);
    answer("no more", waitpid(-1, NULL, 0));
    answer("no group", kill(-one, 0));
    return 0;
}

static int spawned_as_told(void) {
    posix_spawnattr_t attr;
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                     POSIX_SPAWN_SETSCHEDULER);
    posix_spawnattr_setschedpolicy(&attr, SCHED_BATCH);
    sigset_t mask, defaults;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGUSR2);
    posix_spawnattr_setsigmask(&attr, &mask);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    signal(SIGUSR2, SIG_IGN);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    int pipe_fds[2];
    if (pipe(pipe_fds)) return 1;
    posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], 1);
    posix_spawn_file_actions_addclose(&actions, pipe_fds[0]);
    posix_spawn_file_actions_addclose(&actions, pipe_fds[1]);
    char *args[] = {self, "inherited", NULL};
    pid_t pid;
    say("spawn", posix_spawn(&pid, self, &actions, &attr, args, environ));
    close(pipe_fds[1]);
    char text[4096];
    ssize_t bytes;
    while ((bytes = read(pipe_fds[0], text, sizeof text)) > 0)
        if (write(1, text, bytes) < 0) return 1;
    show("child", wait_for(pid));
    char *none[] = {"/no/such/program", NULL};
    say("not there", posix_spawn(&pid, none[0], NULL, NULL, none, environ));
    char *data[] = {"processes-data", NULL};
    int fd = open(data[0], O_CREAT | O_WRONLY, 0644);
    close(fd);
    say("not executable", posix_spawn(&pid, data[0], NULL, NULL, data, environ));
    chmod(data[0], 0755);
    say("empty", posix_spawn(&pid, data[0], NULL, NULL, data, environ));
    unlink(data[0]);
    return 0;
}

static int ends(void) {
    pid_t pid = vfork();
    if (pid == 0) _exit(17);
    show("_exit", wait_for(pid));
    pid = vfork();
    if (pid == 0) {
        kill(getpid(), SIGKILL);
        _exit(1);
    }
    show("kill", wait_for(pid));
    pid = vfork();
    if (pid == 0) {
        *(volatile int *)8 = 1;
        _exit(1);
    }
    show("fault", wait_for(pid));
    for (int signal = 1; signal < 64; signal++) {
        if (signal != SIGKILL && signal != SIGTERM && signal != SIGUSR1 && signal != 40) continue;
        char number[8];
        snprintf(number, sizeof number, "%d", signal);
        show(number, wait_for(spawn("die", number)));
    }
    return 0;
}

// Two threads wait for any child; there is one.
static void *wait_any(void *argument) {
    (void)argument;
    return (void *)(intptr_t)(wait(NULL) > 0 ? 1 : errno);
}

static int two_wait(void) {
    spawn("nap", NULL);
    pthread_t threads[2];
    for (int n = 0; n < 2; n++) pthread_create(&threads[n], NULL, wait_any, NULL);
    long sum = 0;
    for (int n = 0; n < 2; n++) {
        void *result;
        pthread_join(threads[n], &result);
        sum += (long)(intptr_t)result;
    }
    say("one child and ECHILD", sum == 1 + ECHILD);
    return 0;
}

static int many(void) {
    pid_t pids[64];
    int made = 0;
    while (made < 64) {
        pid_t pid = spawn("sleep", NULL);
        if (pid < 0) break;
        pids[made++] = pid;
    }
    say("made", made);
    for (int n = 0; n < made; n++) kill(pids[n], SIGKILL);
    for (int n = 0; n < made; n++) wait_for(pids[n]);
    pid_t pid = spawn("exit", "0");
    say("afterwards", pid > 0);
    wait_for(pid);
    return 0;
}

static int take(const char *mib) {
    size_t bytes = (size_t)atoi(mib) << 20;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 44;
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    return 0;
}

static int memory(void) {
    show("alone", wait_for(spawn("take", "60")));
    if (take("60")) return 1;
    int status = wait_for(spawn("take", "60"));
    say("together", WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}

// Another thread changes the path between one that may be run and one that may not, and the
// argument between two texts, while the program is started.
static char path[2][256], racing[256];
static volatile int done;
static void *change(void *argument) {
    (void)argument;
    for (unsigned n = 0; !done; n++) {
        memcpy(racing, path[n % 2], sizeof racing);
    }
    return NULL;
}

static int race(const char *outside) {
    strcpy(path[0], self);
    strcpy(path[1], outside);
    strcpy(racing, self);
    pthread_t thread;
    pthread_create(&thread, NULL, change, NULL);
    int ran = 0, refused = 0, strange = 0;
    for (int n = 0; n < 60; n++) {
        char *args[] = {racing, "exit", "33", NULL};
        pid_t pid;
        if (posix_spawn(&pid, racing, NULL, NULL, args, environ)) {
            refused++;
            continue;
        }
        int status = wait_for(pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 33) ran++;
        else strange++;
    }
    done = 1;
    pthread_join(thread, NULL);
    printf("strange: %d of all: %d\n", strange, ran + refused + strange);
    return 0;
}

// Processes that are not of the run.
static int outside(char **argv) {
    pid_t pid = atoi(argv[2]);
    answer("kill", kill(pid, 0));
    answer("kill 1", kill(1, SIGTERM));
    answer("group", kill(-pid, SIGTERM));
    answer("getpgid", getpgid(pid));
    answer("getsid", getsid(pid));
    answer("setpgid", setpgid(pid, 0));
    answer("wait", waitpid(pid, NULL, 0));
    union sigval value = {.sival_int = 1};
    answer("queue", sigqueue(pid, SIGUSR1, value));
    answer("all others", kill(-1, SIGTERM));
    return 0;
}

// A program that was started with descriptors to wait by: an epoll that watches a pipe and the signalfd, which
// is for signals of its own.
static int waiting_inherited(const char *numbers) {
    int poll_fd, signals_fd, pipe_fd;
    if (sscanf(numbers, "%d,%d,%d", &poll_fd, &signals_fd, &pipe_fd) != 3) return 2;
    struct epoll_event got[4] = {0};
    say("events", epoll_wait(poll_fd, got, 4, 10000));
    say("data", got[0].data.u64);
    char byte;
    say("read", read(pipe_fd, &byte, 1));
    say("then", epoll_wait(poll_fd, got, 4, 0));
    struct signalfd_siginfo info = {0};
    say("no signal", read(signals_fd, &info, sizeof info) < 0 && errno == EAGAIN);
    raise(SIGUSR1);
    say("signal", read(signals_fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1);
    say("own", info.ssi_pid == (uint32_t)getpid());
    struct epoll_event more = {EPOLLIN, {.u64 = 9}};
    say("add", epoll_ctl(poll_fd, EPOLL_CTL_ADD, eventfd(1, 0), &more));
    say("events", epoll_wait(poll_fd, got, 4, 10000));
    say("data", got[0].data.u64);
    return 0;
}

static int gives_what_waits(void) {
    int pipe_fds[2];
    if (pipe(pipe_fds)) return 1;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int poll_fd = epoll_create1(0), signals_fd = signalfd(-1, &set, SFD_NONBLOCK);
    struct epoll_event wanted = {EPOLLIN, {.u64 = 77}};
    say("watched", epoll_ctl(poll_fd, EPOLL_CTL_ADD, pipe_fds[0], &wanted));
    char numbers[64];
    snprintf(numbers, sizeof numbers, "%d,%d,%d", poll_fd, signals_fd, pipe_fds[0]);
    // Another process first, then this one.
    if (write(pipe_fds[1], "x", 1) != 1) return 1;
    show("started", wait_for(spawn("waiting-inherited", numbers)));
    struct epoll_event got[4] = {0};
    say("left", epoll_wait(poll_fd, got, 4, 0) == 0);
    if (write(pipe_fds[1], "x", 1) != 1) return 1;
    execl(self, self, "waiting-inherited", numbers, NULL);
    return 1;
}

static int not_the_parents(void) {
    pid_t pid = vfork();
    if (pid == 0) {
        struct itimerval none = {0};
        int refused = setitimer(ITIMER_REAL, &none, NULL) != 0 && errno == ENOSYS;
        _exit(refused ? 1 : 2);
    }
    show("call that would be the parent's", wait_for(pid));
    return 0;
}

static int file_position(void) {
    int fd = open("processes-data", O_CREAT | O_RDWR | O_TRUNC, 0644);
    for (int n = 0; n < 3; n++) wait_for(spawn("append", NULL));
    char text[64] = {0};
    if (pread(fd, text, sizeof text - 1, 0) < 0) return 1;
    printf("%s", text);
    say("offset", lseek(fd, 0, SEEK_CUR));
    unlink("processes-data");
    return 0;
}

static int leave(void) {
    pid_t pid = spawn("sleep", NULL);
    printf("left one: %d\n", pid > 0);
    if (getenv("TELL")) printf("%d\n", pid);
    return 0;
}

static int leave_and_wait(void) {
    pid_t pid = spawn("sleep", NULL);
    printf("%d\n", pid);
    int status = wait_for(pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 1;
}

// What Ctrl-C at a terminal reaches: the foreground group, and not another one.
static int interrupted(void) {
    signal(SIGINT, handler);
    pid_t near = spawn("sleep", NULL), far = -1;
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    char *args[] = {self, "sleep", NULL};
    posix_spawn(&far, self, NULL, &attributes, args, environ);
    say("in the foreground", tcgetpgrp(0) == getpgrp());
    int status = -1;
    while (waitpid(near, &status, 0) < 0 && errno == EINTR) {}
    show("in the foreground", status);
    say("in the background", waitpid(far, &status, WNOHANG));
    kill(far, SIGTERM);
    while (waitpid(far, &status, 0) < 0 && errno == EINTR) {}
    show("in the background", status);
    return 0;
}

static int grandchild(void) {
    // Its child is still there when it ends.
    pid_t pid = spawn("leave", NULL);
    show("parent of an orphan", wait_for(pid));
    answer("none of ours", waitpid(-1, NULL, WNOHANG));
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    self = getenv("SELF") ? getenv("SELF") : argv[0];
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "inherited")) return inherited();
    if (!strcmp(mode, "exit")) return atoi(argv[2]);
    if (!strcmp(mode, "sleep")) return sleep(600);
    if (!strcmp(mode, "nap")) return usleep(50000);
    if (!strcmp(mode, "die")) {
        signal(atoi(argv[2]), SIG_DFL);
        return raise(atoi(argv[2]));
    }
    if (!strcmp(mode, "append")) return write(3, "line\n", 5) != 5;
    if (!strcmp(mode, "handle")) return handle();
    if (!strcmp(mode, "take")) return take(argv[2]);
    if (!strcmp(mode, "exec-after")) return exec_after(argv);
    if (!strcmp(mode, "vfork")) return vfork_own();
    if (!strcmp(mode, "exec")) return exec_in_place();
    if (!strcmp(mode, "exec-by")) return exec_by_descriptor();
    if (!strcmp(mode, "signals")) return signals();
    if (!strcmp(mode, "groups")) return groups();
    if (!strcmp(mode, "spawn")) return spawned_as_told();
    if (!strcmp(mode, "ends")) return ends();
    if (!strcmp(mode, "two-wait")) return two_wait();
    if (!strcmp(mode, "position")) return file_position();
    if (!strcmp(mode, "grandchild")) return grandchild();
    if (!strcmp(mode, "many")) return many();
    if (!strcmp(mode, "memory")) return memory();
    if (!strcmp(mode, "race")) return race(argv[2]);
    if (!strcmp(mode, "outside")) return outside(argv);
    if (!strcmp(mode, "gives-what-waits")) return gives_what_waits();
    if (!strcmp(mode, "waiting-inherited")) return waiting_inherited(argv[2]);
    if (!strcmp(mode, "not-the-parents")) return not_the_parents();
    if (!strcmp(mode, "interrupted")) return interrupted();
    if (!strcmp(mode, "leave")) return leave();
    if (!strcmp(mode, "leave-and-wait")) return leave_and_wait();
    return 2;
}

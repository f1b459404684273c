// Forks: what a child inherits, as it was at the call. The first argument says what is tried; natively and in a
// VM it prints the same.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/report.h"
#include "../include/forks.h"

static int global = 1;
static __thread int of_thread = 2;
static char zeroes[3 * PAGE];

// Each side has its own memory from the call on.
static void plain(void) {
    int local = 3;
    int *heap = malloc(sizeof *heap);
    *heap = 4;
    char *large = malloc(3 << 20);
    memset(large, 5, 3 << 20);
    zeroes[PAGE] = 6;
    int pipes[2];
    if (pipe(pipes)) exit(1);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        int seen = global * 100000 + of_thread * 10000 + local * 1000 + *heap * 100 +
                   large[2 << 20] * 10 + zeroes[PAGE];
        say("the child has", seen);
        say("its parent is", getppid() == parent);
        say("it is its own", getpid() != parent && gettid() == getpid());
        global = of_thread = local = *heap = 9;
        large[2 << 20] = zeroes[PAGE] = 9;
        char go;
        if (read(pipes[0], &go, 1) != 1) _exit(1);
        say("what the parent changed is", global);
        exit(42);
    }
    global = 7;
    large[1 << 20] = 8;
    if (write(pipes[1], "g", 1) != 1) exit(1);
    say("status", end_of(pid));
    say("the parent has", local * 1000 + *heap * 100 + large[2 << 20] * 10 + zeroes[PAGE]);
    say("again", waitpid(pid, NULL, 0) == -1 && errno == ECHILD);
}

// Mappings with their rights, and what is done to them afterwards on either side.
static sigjmp_buf back;
static void jump(int signal) {
    siglongjmp(back, signal);
}
static int faults(volatile char *at, int writes) {
    int signal = sigsetjmp(back, 1);
    if (signal) return signal;
    if (writes) *at = 1;
    else (void)*at;
    return 0;
}

static void memory(void) {
    signal(SIGSEGV, jump);
    signal(SIGBUS, jump);
    char *at = anonymous(64 << 20, MAP_PRIVATE);
    for (size_t page = 0; page < (64 << 20); page += 16 * PAGE) at[page] = (char)(page >> 16);
    mprotect(at + PAGE, PAGE, PROT_READ);
    mprotect(at + 2 * PAGE, PAGE, PROT_NONE);
    munmap(at + 3 * PAGE, PAGE);
    char *none = mmap(NULL, 1 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char name[] = "/tmp/forks-XXXXXX";
    int fd = memfd_create(name, 0);
    if (ftruncate(fd, 4 * PAGE)) exit(1);
    char *file = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    char *shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    file[0] = 'p';
    shared[PAGE] = 's';
    char *top = sbrk(0);
    CHILD("rights", {
        result = (faults(at + PAGE, 0) == 0) + 2 * (faults(at + PAGE, 1) == SIGSEGV) +
                 4 * (faults(at + 2 * PAGE, 0) == SIGSEGV) + 8 * (faults(at + 3 * PAGE, 0) == SIGSEGV) +
                 16 * (faults(none, 0) == SIGSEGV) + 32 * (mprotect(none, PAGE, PROT_READ) == 0 && *none == 0);
    });
    CHILD("content", {
        for (size_t page = 4 * 16 * PAGE; page < (64 << 20); page += 16 * PAGE)
            if (at[page] != (char)(page >> 16)) result = 1;
    });
    CHILD("files", {
        result = file[0] == 'p';
        result += 2 * (shared[PAGE] == 's');
        result += 4 * (file[PAGE] == 's');
        shared[2 * PAGE] = 't';
        file[3 * PAGE] = 'u';
    });
    say("shared", shared[2 * PAGE]);
    say("private", file[3 * PAGE]);
    CHILD("dropped", {
        char *there = at + (32 << 20);
        madvise(there, 4 << 20, MADV_DONTNEED);
        for (size_t byte = 0; byte < (4 << 20); byte += PAGE)
            if (there[byte]) result = 1;
        there[0] = 1;
        if (at[64 * PAGE] != 4) result += 2;
    });
    CHILD("moved", {
        char *there = mremap(at + (16 << 20), 8 << 20, 12 << 20, MREMAP_MAYMOVE);
        if (there == MAP_FAILED) result = 9;
        else {
            for (size_t page = 0; page < (8 << 20); page += 16 * PAGE)
                if (there[page] != (char)((page + (16 << 20)) >> 16)) result = 1;
            for (size_t page = 8 << 20; page < (12 << 20); page += PAGE)
                if (there[page]) result |= 2;
            there[100] = 1;
        }
        if (faults(at + (16 << 20), 0) != SIGSEGV) result |= 4;
    });
    CHILD("unmapped and mapped", {
        char *there = at + (40 << 20);
        munmap(there, 2 << 20);
        char *again = mmap(there, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        for (size_t byte = 0; byte < (2 << 20); byte += PAGE)
            if (again[byte]) result = 1;
    });
    char *wiped = anonymous(4 * PAGE, MAP_PRIVATE);
    memset(wiped, 1, 4 * PAGE);
    madvise(wiped + PAGE, PAGE, MADV_WIPEONFORK);
    madvise(wiped + 2 * PAGE, PAGE, MADV_DONTFORK);
    CHILD("advised", {
        result = wiped[0] + 2 * (wiped[PAGE] == 0) + 4 * (faults(wiped + 2 * PAGE, 0) == SIGSEGV) +
                 8 * wiped[3 * PAGE];
        CHILD("and its child", result = wiped[0] + 2 * (wiped[PAGE] == 0));
    });
    CHILD("heap", {
        if (sbrk(0) != top) result = 1;
        if (sbrk(1 << 20) != top) result += 2;
        memset(top, 1, 1 << 20);
    });
    say("the heap's end", (char *)sbrk(0) == top);
    say("still", at[(40 << 20) + 16 * PAGE]);
}

// Copies of copies: what each has changed, its children have.
static void deep(void) {
    char *at = anonymous(8 << 20, MAP_PRIVATE);
    for (size_t page = 0; page < (8 << 20); page += PAGE) at[page] = 1;
    for (int level = 0; level < 5; level++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0) {
            answer("fork", pid);
            _exit(99);
        }
        if (pid > 0) {
            at[0] = 100;
            int status = end_of(pid);
            if (level) _exit(status);
            say("all the way", status);
            say("and here", at[0] * 1000 + at[PAGE]);
            return;
        }
        long sum = 0;
        for (size_t page = 0; page < (8 << 20); page += PAGE) sum += at[page];
        say("sum", sum);
        for (size_t page = (size_t)level * PAGE; page < (8 << 20); page += 7 * PAGE) at[page]++;
    }
    _exit(7);
}

// Registers, of which the C library would hide that they are lost.
static void registers(void) {
    uint64_t vectors[4] = {1, 2, 3, 4}, after[4] = {0};
    double x87 = 0;
    long pid;
    fflush(stdout);
    __asm__ volatile(
        "movdqu (%[v]), %%xmm5\n movdqu 16(%[v]), %%xmm15\n fldpi\n"
        "mov $57, %%eax\n mov $0x1234, %%r12\n syscall\n"
        "movdqu %%xmm5, (%[a])\n movdqu %%xmm15, 16(%[a])\n fstpl %[x]\n"
        "cmp $0x1234, %%r12\n je 1f\n movq $0, (%[a])\n 1:"
        : "=&a"(pid), [x] "=m"(x87)
        : [v] "r"(vectors), [a] "r"(after)
        : "rcx", "r11", "r12", "xmm5", "xmm15", "memory");
    int same = !memcmp(vectors, after, sizeof vectors) && x87 > 3.14 && x87 < 3.15;
    if (pid == 0) _exit(same ? 11 : 12);
    say("in the parent", same);
    say("in the child", end_of((pid_t)pid));
}

static volatile sig_atomic_t handled, on_stack;
static char alt[64 << 10];
static void handle(int signal) {
    char here;
    handled = signal;
    on_stack = &here > alt && &here < alt + sizeof alt;
}

static void signals(void) {
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGUSR2, SIG_IGN);
    stack_t stack = {.ss_sp = alt, .ss_size = sizeof alt};
    sigaltstack(&stack, NULL);
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    alarm(100);
    struct itimerval timer = {.it_value = {.tv_sec = 100}};
    setitimer(ITIMER_VIRTUAL, &timer, NULL);
    CHILD("inherited", {
        sigset_t now;
        sigprocmask(SIG_BLOCK, NULL, &now);
        result = sigismember(&now, SIGTERM) == 1 && sigismember(&now, SIGHUP) == 0;
        sigpending(&pending);
        result += 2 * (sigismember(&pending, SIGUSR1) == 0);
        struct sigaction old;
        sigaction(SIGUSR2, NULL, &old);
        result += 4 * (old.sa_handler == SIG_IGN);
        result += 8 * (alarm(0) == 0);
        getitimer(ITIMER_VIRTUAL, &timer);
        result += 16 * (timer.it_value.tv_sec == 0);
        sigprocmask(SIG_UNBLOCK, &set, NULL);
        raise(SIGUSR1);
        result += 32 * (handled == SIGUSR1 && on_stack);
    });
    sigpending(&pending);
    say("pending here", sigismember(&pending, SIGUSR1));
    CHILD("killed", raise(SIGKILL));
    CHILD("aborted", {
        signal(SIGABRT, SIG_DFL);
        abort();
    });
    sigset_t of_children;
    sigemptyset(&of_children);
    sigaddset(&of_children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &of_children, NULL);
    pid_t pid = fork();
    if (pid == 0) _exit(5);
    siginfo_t info;
    sigwaitinfo(&of_children, &info);
    say("told", info.si_signo == SIGCHLD && info.si_pid == pid && info.si_code == CLD_EXITED && info.si_status == 5);
    say("waited", end_of(pid));
    pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigsuspend(&none);
        _exit(handled == SIGUSR1 ? 6 : 7);
    }
    kill(pid, SIGUSR1);
    say("signalled", end_of(pid));
}

static void *count(void *arg) {
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
    return NULL;
}
static void *sleeps(void *arg) {
    for (;;) pause();
    return arg;
}
static int prepared, in_parent, in_child;
static void at_prepare(void) { prepared++; }
static void at_parent(void) { in_parent++; }
static void at_child(void) { in_child++; }

static void threads(void) {
    pthread_t other;
    for (int n = 0; n < 3; n++) pthread_create(&other, NULL, sleeps, NULL);
    pthread_atfork(at_prepare, at_parent, at_child);
    CHILD("only the caller", {
        FILE *status = fopen("/proc/self/status", "r");
        char line[256];
        while (status && fgets(line, sizeof line, status))
            if (!strncmp(line, "Threads:", 8)) result = 10 * atoi(line + 8);
        int made = 0;
        pthread_t mine[4];
        for (int n = 0; n < 4; n++) pthread_create(&mine[n], NULL, count, &made);
        for (int n = 0; n < 4; n++) pthread_join(mine[n], NULL);
        result += made;
        if (in_child != 1 || prepared != 1 || in_parent) result = 99;
    });
    say("handlers", in_parent * 100 + in_child * 10 + prepared);
}

static long raw_clone(unsigned long flags, int *parent, int *child, unsigned long tls) {
    return syscall(SYS_clone, flags, 0, parent, child, tls);
}

static void clones(void) {
    int parent = 0, child = 0;
    fflush(stdout);
    long pid = raw_clone(CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID | SIGCHLD, &parent, &child, 0);
    if (pid == 0) _exit(child == (int)syscall(SYS_getpid) ? 1 : 2);
    say("its number in the child", end_of((pid_t)pid));
    say("in the parent", parent == pid && child == 0);
    int *word = anonymous(PAGE, MAP_SHARED);
    pid = raw_clone(CLONE_VFORK | SIGCHLD, NULL, NULL, 0);
    if (pid == 0) {
        usleep(100000);
        *word = 1;
        global = 50;
        _exit(3);
    }
    say("the parent waits", *word * 100 + global);
    say("for", end_of((pid_t)pid));
    struct clone_args args = {.exit_signal = SIGCHLD, .flags = CLONE_CLEAR_SIGHAND};
    signal(SIGUSR1, handle);
    pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        struct sigaction old;
        sigaction(SIGUSR1, NULL, &old);
        _exit(old.sa_handler == SIG_DFL ? 4 : 5);
    }
    say("clone3", end_of((pid_t)pid));
    pid = syscall(SYS_fork);
    if (pid == 0) _exit(6);
    say("fork", end_of((pid_t)pid));
    answer("threads in another process", raw_clone(CLONE_THREAD | SIGCHLD, NULL, NULL, 0));
}

static void groups(void) {
    int go[2];
    if (pipe(go)) exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(go[1]);
        if (read(go[0], &byte, 1) != 0) _exit(1);
        _exit(getpgrp() == getpid() ? 2 : 3);
    }
    answer("into a group of its own", setpgid(pid, pid));
    say("it is there", getpgid(pid) == pid);
    close(go[0]);
    close(go[1]);
    say("it says", end_of(pid));
    CHILD("a session", result = setsid() == getpid());
    int over[2];
    if (pipe(go) || pipe(over)) exit(1);
    pid = fork();
    if (pid == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            char byte;
            if (read(go[0], &byte, 1) != 1) _exit(1);
            say("the orphan has another parent", getppid() != pid);
            _exit(0);
        }
        _exit(4);
    }
    say("its parent", end_of(pid));
    char byte;
    close(over[1]);
    if (write(go[1], "g", 1) != 1) exit(1);
    // Nobody else has the other end: the orphan has said it, and has ended.
    if (read(over[0], &byte, 1) != 0) exit(1);
    close(over[0]);
    pid = fork();
    if (pid == 0) {
        raise(SIGSTOP);
        _exit(8);
    }
    int status;
    waitpid(pid, &status, WUNTRACED);
    say("stopped", WIFSTOPPED(status));
    kill(pid, SIGCONT);
    say("and went on", end_of(pid));
}

// Until it may have no more.
static void many(void) {
    int made = 0, hold[2];
    if (pipe(hold)) exit(1);
    for (;;) {
        pid_t pid = fork();
        if (pid == 0) {
            char byte;
            close(hold[1]);
            _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
        }
        if (pid < 0) break;
        made++;
    }
    answer("fork", -1);
    say("made", made);
    close(hold[1]);
    int ended = 0;
    while (waitpid(-1, NULL, 0) > 0) ended++;
    say("ended", ended);
    CHILD("afterwards", result = 1);
}

// Each child makes more of them.
static void bomb(void) {
    alarm(20);
    for (;;) fork();
}

// Threads that write while another one forks: nothing that they write is lost.
#define COUNTERS 4096
struct writer {
    char *at;
    long written;
    int input;
};
static volatile int stop;
static void *writes(void *arg) {
    struct writer *writer = arg;
    for (size_t n = 0; !stop; n++) {
        volatile uint32_t *counter = (uint32_t *)(writer->at + n % COUNTERS * PAGE);
        *counter += 1;
        writer->written++;
        // Now and then the kernel writes there.
        if (n % 64 == 0 && pread(writer->input, (char *)counter + 8, 4, 0) != 4) writer->written = -1000000;
    }
    return NULL;
}

static void writers(void) {
    struct writer all[3];
    pthread_t threads[3];
    int input = memfd_create("input", 0);
    if (write(input, "abcd", 4) != 4) exit(1);
    for (int n = 0; n < 3; n++) {
        all[n] = (struct writer){.at = anonymous(COUNTERS * PAGE, MAP_PRIVATE), .input = input};
        memset(all[n].at, 0, COUNTERS * PAGE);
        pthread_create(&threads[n], NULL, writes, &all[n]);
    }
    for (int round = 0; round < 6; round++)
        CHILD("a fork", {
            for (int n = 0; n < 3; n++)
                for (size_t counter = 1; counter < COUNTERS; counter++) {
                    uint32_t before = *(uint32_t *)(all[n].at + (counter - 1) * PAGE);
                    uint32_t now = *(uint32_t *)(all[n].at + counter * PAGE);
                    // Copied one after the other, while they went up one after the other.
                    if (now > before + 100000 || before > now + 100000) result = 1;
                }
        });
    stop = 1;
    for (int n = 0; n < 3; n++) {
        pthread_join(threads[n], NULL);
        long sum = 0;
        for (size_t counter = 0; counter < COUNTERS; counter++) sum += *(uint32_t *)(all[n].at + counter * PAGE);
        say("lost", all[n].written - sum);
    }
}

// Forks again and again, of memory that changes in places: what comes from earlier forks is there.
static void again(void) {
    size_t bytes = 48 << 20;
    char *at = anonymous(bytes, MAP_PRIVATE);
    memset(at, 1, bytes);
    long expected = (long)(bytes / PAGE);
    for (int round = 0; round < 14; round++) {
        for (size_t page = (size_t)round; page < bytes / PAGE; page += 5 + (size_t)round) {
            at[page * PAGE]++;
            expected++;
        }
        if (round == 6) {
            madvise(at, 2 << 20, MADV_DONTNEED);
            expected = 0;
            for (size_t page = 0; page < bytes / PAGE; page++) expected += at[page * PAGE];
        }
        CHILD("a child", {
            long sum = 0;
            for (size_t page = 0; page < bytes / PAGE; page++) sum += at[page * PAGE];
            result = sum == expected;
            at[0] = 99;
        });
    }
    long sum = 0;
    for (size_t page = 0; page < bytes / PAGE; page++) sum += at[page * PAGE];
    say("as expected", sum == expected);
}

// More than there is memory for: changed pages of a file have to be copied.
static void too_much(size_t megabytes) {
    int fd = memfd_create("file", 0);
    if (ftruncate(fd, megabytes << 20)) exit(1);
    char *at = mmap(NULL, megabytes << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    close(fd);
    memset(at, 1, megabytes << 20);
    CHILD("fork", result = at[PAGE]);
    munmap(at, megabytes << 20);
    CHILD("afterwards", result = 2);
}

static long sum_of(const char *at, size_t bytes) {
    long sum = 0;
    for (size_t page = 0; page < bytes; page += PAGE) sum += at[page];
    return sum;
}

// Many children at once that read all of their parent's memory and write little of it.
static void family(size_t megabytes, int children) {
    size_t bytes = megabytes << 20;
    char *at = anonymous(bytes, MAP_PRIVATE);
    memset(at, 1, bytes);
    int ready[2], go[2], made = 0, wrong = 0;
    if (pipe(ready) || pipe(go)) exit(1);
    for (; made < children; made++) {
        pid_t pid = fork();
        if (pid < 0) {
            answer("fork", pid);
            break;
        }
        if (pid == 0) {
            char byte;
            close(go[1]);
            at[(size_t)made * PAGE] = 2;
            if (sum_of(at, bytes) != (long)(bytes / PAGE) + 1) _exit(1);
            if (write(ready[1], "r", 1) != 1 || read(go[0], &byte, 1) != 0) _exit(2);
            // What its parent has written since is not its.
            _exit(sum_of(at, bytes) == (long)(bytes / PAGE) + 1 ? 0 : 3);
        }
    }
    for (int child = 0; child < made; child++) {
        char byte;
        if (read(ready[0], &byte, 1) != 1) exit(1);
    }
    memset(at, 3, bytes / 8);
    close(go[1]);
    for (int child = 0; child < made; child++) {
        int status;
        wait(&status);
        wrong += status != 0;
    }
    say("children", made);
    say("wrong", wrong);
    say("parent", sum_of(at, bytes) == (long)(bytes / PAGE) + 2 * (long)(bytes / PAGE / 8));
}

// What a child writes is its own, and counts; and so does what its parent writes.
static void writes_all(size_t megabytes, int parent) {
    size_t bytes = megabytes << 20;
    char *at = anonymous(bytes, MAP_PRIVATE);
    memset(at, 1, bytes);
    int go[2];
    if (pipe(go)) exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(go[1]);
        if (!parent) memset(at, 2, bytes);
        _exit(read(go[0], &byte, 1) == 0 ? at[PAGE] : 9);
    }
    if (parent) memset(at, 2, bytes);
    if (!parent) {
        int status;
        waitpid(pid, &status, 0);
        say("child ended by", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        say("the parent's sum", sum_of(at, bytes) == (long)(bytes / PAGE));
        munmap(at, bytes);
        at = anonymous(bytes, MAP_PRIVATE);
        memset(at, 3, bytes);
        say("and as much anew", at[PAGE]);
    }
}

// How long it takes: microseconds a fork and wait, with so much memory in use.
static void time_it(size_t megabytes, int rounds) {
    char *at = anonymous((megabytes + 1) << 20, MAP_PRIVATE);
    memset(at, 1, megabytes << 20);
    for (int round = 0; round < rounds; round++) {
        struct timespec from, forked, end;
        clock_gettime(CLOCK_MONOTONIC, &from);
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        clock_gettime(CLOCK_MONOTONIC, &forked);
        end_of(pid);
        clock_gettime(CLOCK_MONOTONIC, &end);
        at[(size_t)round * PAGE] = 2;
#define US(a, b) ((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000)
        printf("fork %ld us, to its end %ld us\n", US(from, forked), US(from, end));
    }
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(mode, "plain")) plain();
    else if (!strcmp(mode, "memory")) memory();
    else if (!strcmp(mode, "deep")) deep();
    else if (!strcmp(mode, "registers")) registers();
    else if (!strcmp(mode, "signals")) signals();
    else if (!strcmp(mode, "threads")) threads();
    else if (!strcmp(mode, "clones")) clones();
    else if (!strcmp(mode, "groups")) groups();
    else if (!strcmp(mode, "writers")) writers();
    else if (!strcmp(mode, "again")) again();
    else if (!strcmp(mode, "many")) many();
    else if (!strcmp(mode, "bomb")) bomb();
    else if (!strcmp(mode, "too-much")) too_much((size_t)atoi(argv[2]));
    else if (!strcmp(mode, "family")) family((size_t)atoi(argv[2]), atoi(argv[3]));
    else if (!strcmp(mode, "child-writes")) writes_all((size_t)atoi(argv[2]), 0);
    else if (!strcmp(mode, "parent-writes")) writes_all((size_t)atoi(argv[2]), 1);
    else if (!strcmp(mode, "time")) time_it((size_t)atoi(argv[2]), atoi(argv[3]));
    else return 2;
    return 0;
}

// Forks. The first argument says what is tried; natively and in a VM it prints the same.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
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
#include <time.h>
#include <unistd.h>

#include "../include/report.h"

#define PAGE 4096ul

// How a child ended: its status, or 1000 and the signal.
static int end_of(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// Runs `body` in a child; 0 to 99 are its answers.
#define CHILD(name, ...)                                   \
    do {                                                   \
        fflush(stdout);                                    \
        pid_t child_pid = fork();                          \
        if (child_pid == 0) {                              \
            int result = 0;                                \
            __VA_ARGS__;                                   \
            fflush(stdout);                                \
            _exit(result);                                 \
        }                                                  \
        if (child_pid < 0) answer(name, -1);               \
        else say(name, end_of(child_pid));                 \
    } while (0)

static void *anonymous(size_t bytes, int flags) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        answer("mmap", -1);
        exit(1);
    }
    return at;
}

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

static int pidfd_open_(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
static int pidfd_kill(int fd, int signal) { return (int)syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0); }

// Descriptors of a child and of a parent.
static void pidfds(void) {
    pid_t pid = fork();
    if (pid == 0) for (;;) pause();
    int fd = pidfd_open_(pid);
    say("opened", fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    say("runs", poll(&ended, 1, 0));
    answer("is there", pidfd_kill(fd, 0));
    siginfo_t info = {0};
    answer("not yet", waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG));
    answer("kill", pidfd_kill(fd, SIGUSR1));
    say("ended", poll(&ended, 1, 20000));
    answer("waited for", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    say("it", info.si_pid == pid && info.si_code == CLD_KILLED && info.si_status == SIGUSR1);
    answer("again", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    answer("gone", pidfd_kill(fd, 0));
    answer("nobody", pidfd_open_(pid));
    close(fd);
    // A child that has ended, but has not been waited for.
    pid = fork();
    if (pid == 0) _exit(5);
    siginfo_t seen;
    waitid(P_PID, (id_t)pid, &seen, WEXITED | WNOWAIT);
    fd = pidfd_open_(pid);
    answer("a late one", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    say("its status", info.si_status);
    close(fd);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = pidfd_open_(getpid());
    CHILD("signals its parent", result = pidfd_kill(fd, SIGUSR2) == 0);
    struct timespec limit = {.tv_sec = 20};
    say("arrived", sigtimedwait(&set, &info, &limit));
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
    if (pipe(go)) exit(1);
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
    if (write(go[1], "g", 1) != 1) exit(1);
    usleep(300000);
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

// More than there is memory for.
static void too_much(size_t megabytes) {
    char *at = anonymous(megabytes << 20, MAP_PRIVATE);
    memset(at, 1, megabytes << 20);
    CHILD("fork", result = at[PAGE]);
    munmap(at, megabytes << 20);
    CHILD("afterwards", result = 2);
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
    else if (!strcmp(mode, "files")) files();
    else if (!strcmp(mode, "descriptors")) return descriptors(argv + 2);
    else if (!strcmp(mode, "threads")) threads();
    else if (!strcmp(mode, "clones")) clones();
    else if (!strcmp(mode, "shared")) shared();
    else if (!strcmp(mode, "posix-shared")) posix_shared();
    else if (!strcmp(mode, "waiting")) waiting();
    else if (!strcmp(mode, "io")) io();
    else if (!strcmp(mode, "pidfds")) pidfds();
    else if (!strcmp(mode, "fifo")) fifo();
    else if (!strcmp(mode, "no-io")) no_io();
    else if (!strcmp(mode, "groups")) groups();
    else if (!strcmp(mode, "writers")) writers();
    else if (!strcmp(mode, "again")) again();
    else if (!strcmp(mode, "many")) many();
    else if (!strcmp(mode, "bomb")) bomb();
    else if (!strcmp(mode, "too-much")) too_much((size_t)atoi(argv[2]));
    else if (!strcmp(mode, "time")) time_it((size_t)atoi(argv[2]), atoi(argv[3]));
    else return 2;
    return 0;
}

// Attacks on the VMM by a program that does what no program should, one per argument. Each ends with "survived", and
// says first what it got: that it reached something which was not granted ("LEAK"), or what the host answered.
//
// Races have a second thread that changes what a call reads while the call is made. They go on for a fixed number of
// calls, not for a time.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/report.h"

// Most answers are of no interest here.
#pragma GCC diagnostic ignored "-Wunused-result"

#define ROUNDS 3000

static atomic_int over;

// A second thread that goes on until the attack is over.
static pthread_t beside(void *(*work)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, argument)) abort();
    return thread;
}

static void end(pthread_t thread) {
    over = 1;
    pthread_join(thread, NULL);
    over = 0;
}

static uint64_t random_word(void) {
    static _Thread_local uint64_t state = 0x9e3779b97f4a7c15;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

// Numbers that programs get wrong: sizes, ends of ranges, addresses of the kernel's.
static uint64_t odd_word(void) {
    static const uint64_t odd[] = {0, 1, 4095, 4096, 1ul << 20, INT32_MAX, UINT32_MAX, 1ul << 44, 1ul << 47, (1ul << 47) - 4096,
        0xffff800000000000, 0xffffffff80000000, 1ul << 63, UINT64_MAX - 4095, UINT64_MAX};
    return odd[random_word() % (sizeof odd / sizeof *odd)];
}

// --- races -------------------------------------------------------------------------------------------------------

static struct iovec vector[8];
// Nothing that a call stores too much of harms this program itself.
#define ROOM (1 << 16)
static char *room;

static void *change_vector(void *unused) {
    (void)unused;
    while (!over) {
        struct iovec *one = &vector[random_word() % 8];
        ((volatile struct iovec *)one)->iov_len = random_word() % 4 ? random_word() % 512 : odd_word();
        ((volatile struct iovec *)one)->iov_base = random_word() % 4 ? room + random_word() % 4096 : (void *)odd_word();
    }
    return NULL;
}

static int racing_vectors(void) {
    int fd = memfd_create("data", 0), pair[2];
    if (ftruncate(fd, 1 << 20) || socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair)) return 1;
    pthread_t thread = beside(change_vector, NULL);
    for (int n = 0; n < ROUNDS; n++) {
        // A file may become as long as it likes: the length is cut again.
        pwritev(fd, vector, 8, random_word() % 4096);
        preadv(fd, vector, 8, random_word() % 4096);
        struct msghdr message = {.msg_iov = vector, .msg_iovlen = 8};
        sendmsg(pair[0], &message, MSG_DONTWAIT);
        recvmsg(pair[1], &message, MSG_DONTWAIT);
        process_vm_readv(getpid(), vector, 4, vector + 4, 4, 0);
        if (n % 64 == 0 && ftruncate(fd, 1 << 20)) return 1;
    }
    end(thread);
    return 0;
}

static volatile struct msghdr header;
static char control[256];

static void *change_header(void *unused) {
    (void)unused;
    while (!over) {
        header.msg_controllen = random_word() % 3 ? random_word() % 256 : odd_word();
        header.msg_control = random_word() % 3 ? control : (void *)odd_word();
        header.msg_iovlen = random_word() % 3 ? 1 : odd_word();
        header.msg_name = random_word() % 3 ? NULL : (void *)odd_word();
        header.msg_namelen = random_word() % 3 ? 0 : odd_word();
        struct cmsghdr *first = (struct cmsghdr *)control;
        first->cmsg_len = random_word() % 3 ? CMSG_LEN(4 * (random_word() % 8)) : odd_word();
        first->cmsg_level = SOL_SOCKET;
        first->cmsg_type = random_word() % 2 ? SCM_RIGHTS : SCM_CREDENTIALS;
        int *fds = (int *)CMSG_DATA(first);
        for (int n = 0; n < 8; n++) fds[n] = random_word() % 64;
    }
    return NULL;
}

static int racing_control_data(void) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair)) return 1;
    int most = dup(0);
    close(most);
    struct iovec one = {room, 16};
    header.msg_iov = &one;
    pthread_t thread = beside(change_header, NULL);
    for (int n = 0; n < ROUNDS; n++) {
        sendmsg(pair[0], (struct msghdr *)&header, MSG_DONTWAIT);
        recvmsg(pair[1], (struct msghdr *)&header, MSG_DONTWAIT);
        // What has arrived is closed again.
        for (int fd = most + 2; n % 16 == 0 && fd < 64; fd++) close(fd);
    }
    end(thread);
    return 0;
}

static char path[64];
static const char *two_paths[2];

static void *change_path(void *unused) {
    (void)unused;
    for (int n = 0; !over; n++)
        for (int at = 0; at < 32; at++) ((volatile char *)path)[at] = two_paths[n % 2][at];
    return NULL;
}

// `secret` is a file beside the granted folder, "../secret" from there.
static int racing_paths(void) {
    if (mkdir("inner", 0700) && errno != EEXIST) return 1;
    static char in[64] = "inner/../own", out[64] = "../secret";
    two_paths[0] = in;
    two_paths[1] = out;
    int own = open("own", O_CREAT | O_WRONLY, 0600), leaks = 0;
    if (own < 0) return 1;
    pthread_t thread = beside(change_path, NULL);
    for (int n = 0; n < ROUNDS; n++) {
        int fd = open(path, O_RDONLY);
        char text[16] = {0};
        if (fd >= 0 && read(fd, text, 15) > 0 && !strncmp(text, "secret", 6)) leaks++;
        if (fd >= 0) close(fd);
        struct stat about;
        stat(path, &about);
        rename("own", path);
        rename(path, "own");
    }
    end(thread);
    printf("%s", leaks ? "LEAK: a path that changed led out\n" : "");
    return 0;
}

static void *change_links(void *unused) {
    (void)unused;
    while (!over) {
        unlink("turn");
        if (symlink("inner", "turn")) sched_yield();
        unlink("turn");
        if (symlink("..", "turn")) sched_yield();
        rename("moves/deep", "deep");
        rename("deep", "moves/deep");
    }
    return NULL;
}

static int racing_links(void) {
    if ((mkdir("inner", 0700) && errno != EEXIST) || mkdir("moves", 0700) || mkdir("moves/deep", 0700)) return 1;
    int leaks = 0;
    pthread_t thread = beside(change_links, NULL);
    for (int n = 0; n < ROUNDS; n++) {
        static const char *ways[] = {"turn/secret", "moves/deep/../../../secret", "turn/../secret", "moves/deep/../../turn/secret"};
        int fd = open(ways[n % 4], O_RDONLY);
        char text[16] = {0};
        if (fd >= 0 && read(fd, text, 15) > 0 && !strncmp(text, "secret", 6)) leaks++;
        if (fd >= 0) close(fd);
    }
    end(thread);
    printf("%s", leaks ? "LEAK: a link that changed led out\n" : "");
    return 0;
}

static char *flickering;

static void *change_memory(void *unused) {
    (void)unused;
    while (!over) {
        switch (random_word() % 6) {
        case 0: munmap(flickering + 4096 * (random_word() % 8), 4096 * (1 + random_word() % 8)); break;
        case 1: mprotect(flickering + 4096 * (random_word() % 16), 4096, random_word() % 8); break;
        case 2: madvise(flickering, 16 * 4096, MADV_DONTNEED); break;
        case 3:
            mmap(flickering, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            break;
        case 4: mremap(flickering, 4096, 8192, MREMAP_MAYMOVE); break;
        case 5: mmap(flickering, 16 * 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
        }
    }
    return NULL;
}

static int racing_memory(void) {
    flickering = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = memfd_create("data", 0), zero = open("/dev/zero", O_RDONLY), pipes[2];
    if (ftruncate(fd, 1 << 20) || zero < 0 || pipe2(pipes, O_NONBLOCK)) return 1;
    pthread_t thread = beside(change_memory, NULL);
    for (int n = 0; n < ROUNDS; n++) {
        pread(fd, flickering, 16 * 4096, 0);
        pwrite(fd, flickering, 16 * 4096, 0);
        read(zero, flickering + 100, 40000);
        write(pipes[1], flickering + 4000, 9000);
        read(pipes[0], flickering, 65536);
        syscall(SYS_getcwd, flickering + 4090, 4096);
        poll((struct pollfd *)(flickering + 4092), 16, 0);
        syscall(SYS_futex, flickering + 4096, FUTEX_WAKE, 1, NULL, NULL, 0);
        syscall(SYS_clock_gettime, CLOCK_REALTIME, flickering + 8190);
        syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, flickering + 4092, 8);
    }
    end(thread);
    return 0;
}

static int shrinking;

static void *change_length(void *unused) {
    (void)unused;
    while (!over)
        if (ftruncate(shrinking, (random_word() % 32) * 4096)) break;
    return NULL;
}

static void give_up(int signal) {
    (void)signal;
    static const char text[] = "survived: a signal\n";
    if (write(1, text, sizeof text - 1) < 0) _exit(1);
    _exit(0);
}

// The file behind a mapping becomes shorter while a call has the mapping as its buffer: EFAULT or SIGBUS.
static int shrinking_files(void) {
    shrinking = open("shrinking", O_CREAT | O_RDWR, 0600);
    if (shrinking < 0 || ftruncate(shrinking, 32 * 4096)) return 1;
    char *mapped = mmap(NULL, 32 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shrinking, 0);
    int other = memfd_create("data", 0);
    signal(SIGBUS, give_up);
    pthread_t thread = beside(change_length, NULL);
    for (int n = 0; n < ROUNDS; n++) {
        pwrite(other, mapped, 32 * 4096, 0);
        pread(other, mapped, 32 * 4096, 0);
        struct iovec parts[2] = {{mapped, 4096}, {mapped + 31 * 4096, 4096}};
        preadv(other, parts, 2, 0);
        syscall(SYS_futex, mapped + 31 * 4096, FUTEX_WAIT, 1, &(struct timespec){0, 1000}, NULL, 0);
    }
    end(thread);
    return 0;
}

static struct epoll_event events[16];

static void *change_descriptors(void *unused) {
    (void)unused;
    while (!over) {
        int fd = 3 + random_word() % 12;
        switch (random_word() % 6) {
        case 0: close(fd); break;
        case 1: dup2(3 + random_word() % 12, fd); break;
        case 2: eventfd(random_word() % 2, EFD_NONBLOCK); break;
        case 3: epoll_create1(0); break;
        case 4: timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK); break;
        case 5: memfd_create("x", 0); break;
        }
    }
    return NULL;
}

static int racing_descriptors(void) {
    struct rlimit few = {64, 64};
    if (setrlimit(RLIMIT_NOFILE, &few)) return 1;
    pthread_t thread = beside(change_descriptors, NULL);
    for (int n = 0; n < ROUNDS; n++) {
        int a = 3 + random_word() % 12, b = 3 + random_word() % 12;
        struct epoll_event event = {random_word() % 32, {.u64 = n}};
        epoll_ctl(a, 1 + random_word() % 3, b, &event);
        epoll_wait(a, events, 16, 0);
        read(a, room, 64);
        fcntl(a, F_SETFL, O_NONBLOCK);
        write(b, room, 8);
        lseek(a, random_word() % 4096, SEEK_SET);
        mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, a, 0);
        fstat(b, (struct stat *)room);
    }
    end(thread);
    return 0;
}

// --- exhaustion ----------------------------------------------------------------------------------------------------

static int exhaust_descriptors(void) {
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    long made = 0;
    for (;; made++) {
        int fd, pair[2];
        switch (made % 5) {
        case 0: fd = eventfd(0, 0); break;
        case 1: fd = epoll_create1(0); break;
        case 2: fd = memfd_create("x", 0); break;
        case 3: fd = pipe(pair); break;
        default: fd = open("/proc/self/maps", O_RDONLY); break;
        }
        if (fd < 0) break;
    }
    answer("then", -1);
    // What needs a descriptor fails, and what needs none goes on.
    answer("open", open(".", O_RDONLY));
    answer("socket pair", socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0}));
    pid_t pid = fork();
    if (pid == 0) _exit(3);
    int status = 0;
    if (pid > 0) waitpid(pid, &status, 0);
    say("forked or refused", pid < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 3));
    return made < 100;
}

static void *wait_for_ever(void *unused) {
    (void)unused;
    for (;;) pause();
    return NULL;
}

static int exhaust_threads(void) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    long made = 0;
    pthread_t thread;
    while (made < 100000 && !pthread_create(&thread, &small, wait_for_ever, NULL)) made++;
    say("some, and then no more", made > 10 && made < 100000);
    return 0;
}

static int exhaust_processes(void) {
    long made = 0;
    pid_t all[4096];
    while (made < 4096 && (all[made] = fork()) >= 0) {
        if (all[made] == 0) wait_for_ever(NULL);
        made++;
    }
    answer("then", -1);
    for (long n = 0; n < made; n++) kill(all[n], SIGKILL);
    long ended = 0;
    while (wait(NULL) > 0) ended++;
    say("all have ended", ended == made && made > 0);
    return 0;
}

static int exhaust_ipc(void) {
    long made = 0;
    while (made < 100000 && shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600) >= 0) made++;
    answer("segments", -1);
    while (made < 200000 && semget(IPC_PRIVATE, 250, IPC_CREAT | 0600) >= 0) made++;
    answer("semaphores", -1);
    int queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    struct { long type; char text[4096]; } message = {1, {0}};
    while (queue >= 0 && msgsnd(queue, &message, sizeof message.text, IPC_NOWAIT) == 0) made++;
    answer("messages", -1);
    return 0;
}

static int exhaust_timers(void) {
    long made = 0;
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    signal(SIGRTMIN, SIG_IGN);
    struct itimerspec often = {{0, 1}, {0, 1}};
    while (made < 100000 && !timer_create(CLOCK_MONOTONIC, &event, &timer)) {
        if (made < 64) timer_settime(timer, 0, &often, NULL);
        made++;
    }
    say("some, and then no more", made > 10 && made < 100000);
    return 0;
}

static int exhaust_links(void) {
    int ok = 0;
    for (int n = 0; n < 64; n++) {
        char name[32], to[32];
        snprintf(name, sizeof name, "link%d", n);
        snprintf(to, sizeof to, "link%d", n + 1);
        ok += symlink(to, name) == 0;
    }
    answer("a chain of links", open("link0", O_RDONLY));
    if (symlink("itself", "itself")) return 1;
    answer("a link to itself", open("itself", O_RDONLY));
    static char deep[70000];
    for (size_t at = 0; at + 2 < sizeof deep; at += 2) memcpy(deep + at, "./", 2);
    answer("a path of 70,000 bytes", open(deep, O_RDONLY));
    memset(deep, 'x', 5000);
    deep[5000] = 0;
    answer("a name of 5,000 bytes", open(deep, O_RDONLY));
    // Directories in each other, and no way back by the path.
    for (int n = 0; n < 2000; n++)
        if (mkdir("d", 0700) || chdir("d")) break;
    answer("deep", open("../../d", O_RDONLY) >= 0 ? 0 : -1);
    return ok < 64;
}

// --- signals -------------------------------------------------------------------------------------------------------

static void nothing(int signal) { (void)signal; }

// How many handlers of one signal are in each other. Without a limit they need more stack than there is, natively, too,
// where the sender is quicker than they are.
static atomic_int nested;

static void nest(int signal) {
    (void)signal;
    atomic_fetch_add(&nested, 1);
    atomic_fetch_sub(&nested, 1);
}

static void *send_signals(void *to) {
    while (!over) {
        while (nested > 8 && !over) sched_yield();
        union sigval value = {.sival_int = 1};
        pthread_kill(*(pthread_t *)to, SIGUSR1);
        pthread_sigqueue(*(pthread_t *)to, SIGRTMIN + random_word() % 8, value);
        kill(getpid(), SIGCONT);
        // Or, natively, the receiver would do nothing else.
        nanosleep(&(struct timespec){0, 10000}, NULL);
    }
    return NULL;
}

static int storm_of_signals(void) {
    struct sigaction action = {.sa_handler = nest, .sa_flags = SA_NODEFER | SA_ONSTACK};
    stack_t stack = {.ss_sp = malloc(1 << 22), .ss_size = 1 << 22};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    for (int n = 0; n < 8; n++) sigaction(SIGRTMIN + n, &(struct sigaction){.sa_handler = nothing}, NULL);
    struct itimerval often = {{0, 50}, {0, 50}};
    signal(SIGALRM, nothing);
    setitimer(ITIMER_REAL, &often, NULL);
    pthread_t self = pthread_self(), thread = beside(send_signals, &self);
    int pipes[2];
    if (pipe(pipes)) return 1;
    for (int n = 0; n < ROUNDS / 3; n++) {
        struct pollfd one = {pipes[0], POLLIN, 0};
        poll(&one, 1, 0);
        sched_yield();
        sigset_t all;
        sigfillset(&all);
        sigprocmask(n % 2 ? SIG_BLOCK : SIG_UNBLOCK, &all, NULL);
        struct timespec short_time = {0, 1000};
        nanosleep(&short_time, NULL);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    end(thread);
    return 0;
}

// Frames of signals with random content, each in a process of its own: each ends by a signal or goes on.
static int forged_frames(void) {
    int strange = 0;
    for (int n = 0; n < 40; n++) {
        pid_t pid = fork();
        if (pid < 0) return 1;
        if (pid == 0) {
            for (int k = 0; k <= n; k++) random_word();
            static uint64_t frame[512] __attribute__((aligned(64)));
            for (int at = 0; at < 512; at++) frame[at] = random_word() % 3 ? odd_word() : random_word();
            // The registers' part is plausible in half of them.
            if (n % 2) frame[5 + 16] = (uint64_t)wait_for_ever;
            __asm__ volatile("mov %0, %%rsp; mov $15, %%eax; syscall" ::"r"(&frame[1]) : "memory");
            _exit(9);
        }
        int status;
        struct timespec little = {0, 20000000};
        nanosleep(&little, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        strange += !WIFSIGNALED(status) && !WIFEXITED(status);
    }
    say("strange", strange);
    return 0;
}

static int robust_nonsense(void) {
    static uint64_t list[64];
    // In a circle, into nothing, to addresses of the kernel's.
    uint64_t heads[] = {(uint64_t)&list[0], 0x1000, 0xffffffff80000000, UINT64_MAX - 7, (uint64_t)&list[1] + 3};
    for (size_t n = 0; n < sizeof heads / sizeof *heads; n++) {
        pid_t pid = fork();
        if (pid < 0) return 1;
        if (pid == 0) {
            list[0] = heads[n];
            list[1] = odd_word();
            list[2] = odd_word();
            syscall(SYS_set_robust_list, list, 24);
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        say("ended", WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    return 0;
}

// --- ways out --------------------------------------------------------------------------------------------------------

static int ways_into_the_vmm(void) {
    pid_t pid = getpid();
    close_range(3, ~0u, 0);
    answer("ptrace itself", ptrace(PTRACE_ATTACH, pid, 0, 0));
    answer("trace me", ptrace(PTRACE_TRACEME, 0, 0, 0));
    answer("memory", open("/proc/self/mem", O_RDWR));
    answer("init's memory", open("/proc/1/mem", O_RDWR));
    struct iovec here = {room, 8}, there = {(void *)0x400000, 8};
    answer("process_vm_writev", process_vm_writev(1, &here, 1, &there, 1, 0));
    int itself = syscall(SYS_pidfd_open, pid, 0);
    for (int fd = 4; fd < 64; fd++)
        if (syscall(SYS_pidfd_getfd, itself, fd, 0) >= 0) printf("LEAK: descriptor %d by pidfd_getfd\n", fd);
    close(itself);
    // Descriptors of the VMM's own: none has a number here.
    int reached = 0;
    for (int fd = 3; fd < 4096; fd++) reached += fcntl(fd, F_GETFD) >= 0;
    say("descriptors that are not ours", reached);
    for (int fd = 3; fd < 64; fd++) {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        if (open(name, O_RDWR) >= 0) printf("LEAK: %s\n", name);
    }
    static const char *outside[] = {"/proc/self/root/etc/passwd", "/proc/self/cwd/../secret", "/proc/self/exe/../../secret",
        "/proc/1/root/etc/passwd", "/proc/self/task/../root/etc/passwd", "/dev/kvm", "/dev/mem", "/etc/shadow", "//etc/passwd",
        "/../../../etc/passwd", "/proc/self/map_files", "/sys/kernel/debug", "/proc/kcore"};
    for (size_t n = 0; n < sizeof outside / sizeof *outside; n++)
        if (open(outside[n], O_RDONLY) >= 0) printf("LEAK: %s\n", outside[n]);
    // Sockets of the host's by name, the VMM's own control socket among them.
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "spacejmp/vm/%d/%d", getuid(), pid);
    if (connect(fd, (struct sockaddr *)&name, sizeof(sa_family_t) + 1 + length) == 0) printf("LEAK: the control socket\n");
    static const char *sockets[] = {"/run/systemd/private", "/var/run/docker.sock", "/run/dbus/system_bus_socket"};
    for (size_t n = 0; n < sizeof sockets / sizeof *sockets; n++) {
        strcpy(name.sun_path, sockets[n]);
        if (connect(fd, (struct sockaddr *)&name, sizeof name) == 0) printf("LEAK: %s\n", sockets[n]);
    }
    return 0;
}

static int privileged_calls(void) {
    static const int calls[] = {SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns, SYS_bpf,
        SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_keyctl, SYS_add_key, SYS_init_module, SYS_finit_module,
        SYS_kexec_load, SYS_reboot, SYS_swapon, SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_acct, SYS_settimeofday, SYS_clock_settime,
        SYS_sethostname, SYS_open_by_handle_at, SYS_fanotify_init, SYS_kcmp, SYS_move_mount, SYS_fsopen, SYS_open_tree, SYS_lookup_dcookie,
        SYS_quotactl, SYS_syslog, SYS_vhangup, SYS_nfsservctl, SYS_seccomp, SYS_landlock_create_ruleset};
    int allowed = 0;
    for (size_t n = 0; n < sizeof calls / sizeof *calls; n++)
        for (int k = 0; k < 8; k++) {
            uint64_t a[6];
            for (int i = 0; i < 6; i++) a[i] = k == 0 ? 0 : k == 1 ? (uint64_t)room : odd_word();
            if (syscall(calls[n], a[0], a[1], a[2], a[3], a[4], a[5]) >= 0) {
                // A clone or a filter that a program makes for itself reaches nothing else.
                printf("call %d is served\n", calls[n]);
                allowed++;
                break;
            }
        }
    say("served", allowed);
    return 0;
}

// Prints where it was when the register cannot be.
static int impossible_registers(void) {
    // A stack, bases and flags that no program has, at a system call. Each in a process of its own.
    for (int n = 0; n < 8; n++) {
        pid_t pid = fork();
        if (pid < 0) return 1;
        if (pid == 0) {
            switch (n) {
            case 0: __asm__ volatile("mov $0x8000000000000000, %%rsp; mov $39, %%eax; syscall; mov $60, %%eax; xor %%edi, %%edi; syscall" ::: "memory"); break;
            case 1: __asm__ volatile("mov $-1, %%rsp; mov $39, %%eax; syscall; mov $60, %%eax; xor %%edi, %%edi; syscall" ::: "memory"); break;
            case 2: __asm__ volatile("pushfq; orq $0x4000, (%%rsp); popfq; mov $39, %%eax; syscall; mov $60, %%eax; xor %%edi, %%edi; syscall" ::: "memory"); break;
            case 3: __asm__ volatile("std; mov $39, %%eax; syscall; cld; mov $60, %%eax; xor %%edi, %%edi; syscall" ::: "memory"); break;
            case 4: __asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq; mov $39, %%eax; syscall; mov $60, %%eax; xor %%edi, %%edi; syscall" ::: "memory"); break;
            case 5: syscall(SYS_arch_prctl, 0x1001, 0xffff800000000000); syscall(SYS_arch_prctl, 0x1002, 1ul << 63); _exit(0);
            case 6: __asm__ volatile("mov $0xffffffffffffffff, %%rax; syscall; mov $60, %%eax; xor %%edi, %%edi; syscall" ::: "memory"); break;
            case 7: __asm__ volatile("xor %%esp, %%esp; int3" ::: "memory"); break;
            }
            _exit(9);
        }
        int status;
        waitpid(pid, &status, 0);
        say("ended", WIFEXITED(status) ? WEXITSTATUS(status) == 0 : WIFSIGNALED(status));
    }
    return 0;
}

int main(int argc, char **argv) {
    room = mmap(NULL, 2 * ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED || mprotect(room, ROOM, PROT_READ | PROT_WRITE)) return 1;
    static const struct { const char *name; int (*attack)(void); } attacks[] = {
        {"racing-vectors", racing_vectors}, {"racing-control-data", racing_control_data}, {"racing-paths", racing_paths},
        {"racing-links", racing_links}, {"racing-memory", racing_memory}, {"shrinking-files", shrinking_files},
        {"racing-descriptors", racing_descriptors}, {"exhaust-descriptors", exhaust_descriptors},
        {"exhaust-threads", exhaust_threads}, {"exhaust-processes", exhaust_processes}, {"exhaust-ipc", exhaust_ipc},
        {"exhaust-timers", exhaust_timers}, {"exhaust-links", exhaust_links}, {"storm-of-signals", storm_of_signals},
        {"forged-frames", forged_frames}, {"robust-nonsense", robust_nonsense}, {"ways-into-the-vmm", ways_into_the_vmm},
        {"privileged-calls", privileged_calls}, {"impossible-registers", impossible_registers},
    };
    for (size_t n = 0; n < sizeof attacks / sizeof *attacks; n++)
        if (argc > 1 && !strcmp(argv[1], attacks[n].name)) {
            if (attacks[n].attack()) return 1;
            printf("survived\n");
            fflush(stdout);
            _exit(0);
        }
    return 2;
}

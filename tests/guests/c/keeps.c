/* Settings a program makes for itself, and whether they take effect: memory that moves or is locked,
 * limits, owners of descriptors, what /proc says about it.
 *
 *     keeps TOPIC DIR       in the empty directory DIR; prints the same natively and in a VM */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define PAGE 4096
#define RW (PROT_READ | PROT_WRITE)

static const char *said(int failed)
{
    return failed ? strerrorname_np(errno) : "ok";
}

static int numbered_file(const char *name, int pages)
{
    int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < pages; i++) {
        char page[PAGE];
        memset(page, 'a' + i % 26, sizeof page);
        if (write(file, page, sizeof page) != sizeof page)
            exit(2);
    }
    return file;
}

static sigjmp_buf back;

static void jump_back(int signal)
{
    siglongjmp(back, signal);
}

/* The first byte of each page, `!` where nothing is mapped. */
static void show(const char *what, const volatile char *at, int pages)
{
    printf("%s: ", what);
    signal(SIGSEGV, jump_back);
    signal(SIGBUS, jump_back);
    for (int i = 0; i < pages; i++) {
        volatile char byte = '!';
        if (!sigsetjmp(back, 1))
            byte = at[i * PAGE];
        putchar(byte ? byte : '0');
    }
    putchar('\n');
}

static void moves(void)
{
    int file = numbered_file("f", 700);
    char *all = mmap(0, 600 * PAGE, RW, MAP_PRIVATE, file, PAGE);
    all[0] = 'X', all[5 * PAGE] = 'Y', all[599 * PAGE] = 'Z';
    mprotect(all + 3 * PAGE, PAGE, PROT_READ);
    mprotect(all + 3 * PAGE, PAGE, RW);
    char *target = mmap(0, 900 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *moved = mremap(all, 600 * PAGE, 605 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + PAGE);
    printf("moved: %s %d\n", said(moved == MAP_FAILED), moved == target + PAGE);
    show("its beginning", moved, 8);
    show("its end", moved + 597 * PAGE, 8);
    show("the old place", all, 3);
    /* Pages the program wrote are private copies; the others show the file. */
    if (pwrite(file, "ffff", 4, 3 * PAGE) != 4 || pwrite(file, "gggg", 4, 6 * PAGE) != 4)
        exit(2);
    show("the file written", moved, 8);
    moved[7 * PAGE] = 'W';
    char text[2] = "";
    if (pread(file, text, 1, 8 * PAGE) != 1)
        exit(2);
    printf("the file is not: %s\n", text);
    /* Shrinks while it moves. */
    char *small = mremap(moved, 605 * PAGE, 6 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + 700 * PAGE);
    show("cut", small, 8);
    /* Still mapped, with the file's content. */
    char *twin = mremap(small, 6 * PAGE, 6 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    show("with its pages", twin, 6);
    show("without them", small, 6);
    char *anon = mmap(0, 700 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(anon, 'n', 700 * PAGE);
    char *gone = mremap(anon, 700 * PAGE, 700 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED, target);
    show("memory moved", gone + 695 * PAGE, 6);
    show("zeroes behind it", anon + 695 * PAGE, 5);
    anon[3] = 'q';
    printf("written again: %c %c\n", anon[3], gone[3]);
    char *shared = mmap(0, 2 * PAGE, RW, MAP_SHARED, file, 20 * PAGE);
    char *second = mremap(shared, 0, 2 * PAGE, MREMAP_MAYMOVE);
    printf("once more: %s", said(second == MAP_FAILED));
    second[7] = 's';
    printf(", the same memory: %d\n", shared[7] == 's');
    second = mremap(shared, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    second[8] = 't';
    printf("left shared: %d\n", shared[8] == 't');
    if (ftruncate(file, 22 * PAGE - 100))
        exit(2);
    char *cut = mmap(0, 3 * PAGE, RW, MAP_PRIVATE, file, 21 * PAGE);
    cut[0] = 'C';
    cut = mremap(cut, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    show("behind the end of the file", cut, 5);
    printf("one length left: %s", said(mremap(cut, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0) == MAP_FAILED));
    printf(", stay and leave: %s", said(mremap(cut, PAGE, PAGE, MREMAP_DONTUNMAP, 0) == MAP_FAILED));
    printf(", private once more: %s\n", said(mremap(cut, 0, PAGE, MREMAP_MAYMOVE) == MAP_FAILED));
}

static long field(const char *file, const char *name)
{
    char line[200];
    long value = -1;
    FILE *status = fopen(file, "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, name, strlen(name)))
            value = strtol(line + strlen(name), 0, 10);
    fclose(status);
    return value;
}

static long locked(void)
{
    return field("/proc/self/status", "VmLck:");
}

/* By area, and all together. */
static void locked_by_area(void)
{
    char line[200];
    long sum = 0;
    FILE *smaps = fopen("/proc/self/smaps", "r");
    while (smaps && fgets(line, sizeof line, smaps))
        if (!strncmp(line, "Locked:", 7))
            sum += strtol(line + 7, 0, 10);
    fclose(smaps);
    printf("by area: %ld, together: %ld\n", sum, field("/proc/self/smaps_rollup", "Locked:"));
}

static void locks(void)
{
    struct rlimit limit = { 64 * PAGE, 64 * PAGE };
    printf("limit: %s\n", said(setrlimit(RLIMIT_MEMLOCK, &limit)));
    char *all = mmap(0, 40 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("locked: %s", said(mlock(all + 100, 10 * PAGE)));
    printf(" %ld\n", locked());
    printf("again: %s", said(mlock(all, 4 * PAGE)));
    printf(" %ld\n", locked());
    locked_by_area();
    printf("on fault: %s", said(syscall(SYS_mlock2, all + 20 * PAGE, 4 * PAGE, MLOCK_ONFAULT)));
    printf(" %ld\n", locked());
    printf("bad flag: %s\n", said(syscall(SYS_mlock2, all, PAGE, 2)));
    printf("dropped: %s", said(madvise(all, PAGE, MADV_DONTNEED)));
    printf(", freed: %s", said(madvise(all, PAGE, MADV_FREE)));
    printf(", others: %s\n", said(madvise(all + 30 * PAGE, PAGE, MADV_DONTNEED)));
    all[0] = 'k';
    printf("though locked: %s", said(madvise(all, PAGE, 24)));
    printf(" %d", all[0]);
    printf(" %ld\n", locked());
    printf("flushed: %s\n", said(msync(all, PAGE, MS_INVALIDATE)));
    munmap(all + 35 * PAGE, PAGE);
    printf("a hole: %s\n", said(mlock(all + 34 * PAGE, 3 * PAGE)));
    printf("what came before it: %ld\n", locked());
    printf("unlocked: %s", said(munlock(all, 5 * PAGE)));
    printf(" %ld\n", locked());
    munmap(all, 40 * PAGE);
    printf("unmapped: %ld\n", locked());
    char *fresh = mmap(0, 4 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    printf("mapped locked: %s %ld\n", said(fresh == MAP_FAILED), locked());
    fresh[PAGE] = 'l';
    fresh = mremap(fresh, 4 * PAGE, 9 * PAGE, MREMAP_MAYMOVE);
    printf("grown: %c %ld\n", fresh[PAGE], locked());
    int file = numbered_file("f", 8);
    char *copy = mmap(0, 6 * PAGE, RW, MAP_PRIVATE, file, 0);
    char *shared = mmap(0, 6 * PAGE, RW, MAP_SHARED, file, 0);
    copy[0] = 'c';
    printf("files: %s", said(mlock(copy, 6 * PAGE)));
    printf(" %s %ld\n", said(mlock(shared, 6 * PAGE)), locked());
    copy = mremap(copy, 6 * PAGE, 7 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, fresh + (1 << 24));
    printf("moved: %c%c %ld\n", copy[0], copy[6 * PAGE], locked());
    printf("all: %s", said(munlockall()));
    printf(" %ld\n", locked());
    printf("bad: %s", said(mlockall(0)));
    printf(" %s", said(mlockall(MCL_ONFAULT)));
    printf(" %s\n", said(mlockall(8)));
    printf("what comes: %s", said(mlockall(MCL_FUTURE)));
    char *later = mmap(0, 3 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf(" %ld", locked());
    later = mmap(0, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf(" %ld", locked());
    mprotect(later, PAGE, RW);
    later[0] = 1;
    printf(" %ld\n", locked());
    munlockall();
    later = mmap(0, 3 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("then no longer: %ld\n", locked());
    later = mmap(0, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("without access: %s", said(mlock(later, 2 * PAGE)));
    printf(" %ld", locked());
    printf(", on fault: %s", said(syscall(SYS_mlock2, later + 2 * PAGE, PAGE, MLOCK_ONFAULT)));
    printf(" %ld\n", locked());
}

/* Over the limit: only for programs without the privilege to ignore it. */
static void over(void)
{
    struct rlimit limit = { 8 * PAGE, 8 * PAGE };
    char *all = mmap(0, 40 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    setrlimit(RLIMIT_MEMLOCK, &limit);
    printf("too much: %s", said(mlock(all, 9 * PAGE)));
    printf(", enough: %s", said(mlock(all, 8 * PAGE)));
    printf(", once more: %s", said(mlock(all, 8 * PAGE)));
    printf(", more: %s", said(mlock(all + 8 * PAGE, 1)));
    printf(", mapped: %s", said(mmap(0, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0) == MAP_FAILED));
    printf(", grown: %s", said(mremap(all, 8 * PAGE, 50 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED));
    printf(", all: %s\n", said(mlockall(MCL_CURRENT)));
    munlockall();
    printf("what comes: %s", said(mlockall(MCL_FUTURE)));
    printf(", small: %s", said(mmap(0, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED));
    printf(", large: %s\n", said(mmap(0, 8 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED));
    limit.rlim_cur = 0;
    munlockall();
    setrlimit(RLIMIT_MEMLOCK, &limit);
    printf("nothing: %s", said(mlock(all, 1)));
    printf(" %s", said(mlockall(MCL_CURRENT)));
    printf(" %s\n", said(mmap(0, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0) == MAP_FAILED));
}

static volatile sig_atomic_t signals;

static void count(int signal)
{
    (void)signal;
    signals++;
}

static void wrote(const char *what, long done)
{
    printf("%s: %ld %s, signals %d\n", what, done, done < 0 ? strerrorname_np(errno) : "", signals);
    signals = 0;
}

static void sizes(void)
{
    static char block[3000];
    struct rlimit limit = { 10000, 20000 }, now;
    int source = numbered_file("source", 10);
    signal(SIGXFSZ, count);
    printf("limit: %s", said(setrlimit(RLIMIT_FSIZE, &limit)));
    getrlimit(RLIMIT_FSIZE, &now);
    printf(", now %ld %ld\n", (long)now.rlim_cur, (long)now.rlim_max);
    int file = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < 5; i++)
        wrote("write", write(file, block, sizeof block));
    wrote("over it", pwrite(file, block, sizeof block, 0));
    wrote("across the end", pwrite(file, block, sizeof block, 9000));
    wrote("behind it", pwrite(file, block, sizeof block, 10000));
    wrote("far behind it", pwrite(file, block, sizeof block, 1L << 40));
    struct iovec parts[3] = { { block, 400 }, { block, 400 }, { block, 400 } };
    wrote("parts", pwritev(file, parts, 3, 9500));
    wrote("longer", ftruncate(file, 10001));
    wrote("as long", ftruncate(file, 10000));
    wrote("by name", truncate("f", 10001));
    wrote("space", fallocate(file, 0, 0, 10001));
    wrote("space behind", fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 12000));
    off_t from = 0, to = 8000;
    wrote("copied", copy_file_range(source, &from, file, &to, 5000, 0));
    wrote("copied on", copy_file_range(source, &from, file, &to, 5000, 0));
    lseek(file, 7000, SEEK_SET);
    wrote("sent", sendfile(file, source, 0, 5000));
    wrote("sent on", sendfile(file, source, 0, 5000));
    int end = open("f", O_WRONLY | O_APPEND);
    wrote("at the end", write(end, block, 1));
    wrote("nothing there", write(end, block, 0));
    if (ftruncate(file, 9999))
        exit(2);
    wrote("at the end", write(end, block, 10));
    int memory = memfd_create("m", 0);
    wrote("memory", pwrite(memory, block, sizeof block, 9000));
    wrote("more memory", pwrite(memory, block, sizeof block, 10000));
    int ends[2];
    if (pipe(ends))
        exit(2);
    for (int i = 0; i < 4; i++)
        if (write(ends[1], block, sizeof block) != sizeof block)
            exit(2);
    puts("a pipe: no limit");
    loff_t place = 9000;
    /* Some kernels try the rest, too, and send the signal although not all failed. */
    long spliced = splice(ends[0], 0, file, &place, 3000, 0);
    signals = 0;
    wrote("spliced", spliced);
    wrote("spliced on", splice(ends[0], 0, file, &place, 3000, 0));
    limit.rlim_cur = 12000;
    printf("higher: %s\n", said(setrlimit(RLIMIT_FSIZE, &limit)));
    wrote("behind it", pwrite(file, block, sizeof block, 10000));
    struct stat meta;
    fstat(file, &meta);
    printf("size %ld\n", (long)meta.st_size);
    signal(SIGXFSZ, SIG_DFL);
    fflush(stdout);
    wrote("the signal's own way", pwrite(file, block, 1, 12000));
}

/* How many processors the program has, by each way to ask; also when it wants all. */
static void processors(void)
{
    cpu_set_t set, all;
    memset(&all, 0xff, sizeof all);
    printf("wants all: %s\n", said(sched_setaffinity(0, sizeof all, &all)));
    if (sched_getaffinity(0, sizeof set, &set))
        exit(2);
    int listed = 0;
    char line[4096];
    FILE *info = fopen("/proc/cpuinfo", "r");
    while (info && fgets(line, sizeof line, info))
        listed += !strncmp(line, "processor", 9);
    printf("processors: %d %ld %ld %d\n", CPU_COUNT(&set), sysconf(_SC_NPROCESSORS_ONLN),
           sysconf(_SC_NPROCESSORS_CONF), listed);
}

/* Makes a file longer than it may be. */
static void grow(void)
{
    static char block[3000];
    struct rlimit limit, more = { RLIM_INFINITY, RLIM_INFINITY };
    getrlimit(RLIMIT_FSIZE, &limit);
    printf("limit: %ld %ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
    printf("higher: %s\n", said(setrlimit(RLIMIT_FSIZE, &more)));
    signal(SIGXFSZ, count);
    int file = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600);
    wrote("write", write(file, block, sizeof block));
    wrote("write", write(file, block, sizeof block));
    wrote("write", write(file, block, sizeof block));
    signal(SIGXFSZ, SIG_DFL);
    fflush(stdout);
    wrote("the signal's own way", write(file, block, 1));
}

static void burn(void)
{
    for (volatile long i = 0;; i++)
        if (signals)
            break;
}

/* Children that burn time until something ends them. */
static void together(void)
{
    int ended = 0;
    signal(SIGXCPU, SIG_IGN);
    for (int i = 0; i < 3; i++)
        if (fork() == 0) {
            signal(SIGXCPU, SIG_DFL);
            burn();
            burn();
            _exit(0);
        }
    for (int i = 0, status; i < 3; i++)
        ended += wait(&status) > 0 && WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL);
    printf("ended: %d\n", ended);
}

/* Children that use little time each, and are killed before they have looked at what all have used. */
static void short_ones(void)
{
    for (;;) {
        int child = fork();
        if (child == 0)
            burn();
        struct timespec some = {0, 30000000};
        nanosleep(&some, 0);
        kill(child, SIGKILL);
        if (waitpid(child, 0, 0) < 0)
            _exit(3);
    }
}

static void processor_time(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    struct rlimit limit = { used.tv_sec + 1, used.tv_sec + 2 }, now;
    signal(SIGXCPU, count);
    printf("limit: %s\n", said(setrlimit(RLIMIT_CPU, &limit)));
    getrlimit(RLIMIT_CPU, &now);
    printf("now %d %d\n", now.rlim_cur == limit.rlim_cur, now.rlim_max == limit.rlim_max);
    fflush(stdout);
    burn();
    printf("signals: %d\n", signals);
    fflush(stdout);
    signals = 0;
    burn();
    burn();
}

/* Runs on after the signal, and says how often it came. */
static void given_time(void)
{
    struct rlimit now;
    getrlimit(RLIMIT_CPU, &now);
    printf("limit: %ld %ld\n", (long)now.rlim_cur, (long)now.rlim_max);
    signal(SIGXCPU, count);
    fflush(stdout);
    burn();
    printf("signals: %d\n", signals);
    fflush(stdout);
    signals = 0;
    burn();
    burn();
}

/* Holds locked memory until there is something to read. */
static void hold(void)
{
    char *all = mmap(0, 50 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("locked: %s\n", said(mlock(all, 40 * PAGE)));
    fflush(stdout);
    getchar();
    munlock(all, 30 * PAGE);
    puts("less");
    fflush(stdout);
    getchar();
}

static void *sit(void *until)
{
    pthread_barrier_wait(until);
    return 0;
}

static void threads(void)
{
    struct rlimit limit = { 4, 5 }, now;
    printf("limit: %s", said(setrlimit(RLIMIT_NPROC, &limit)));
    getrlimit(RLIMIT_NPROC, &now);
    printf(", now %ld %ld\n", (long)now.rlim_cur, (long)now.rlim_max);
    pthread_barrier_t until;
    pthread_t ids[4];
    pthread_barrier_init(&until, 0, 4);
    int failed[4];
    for (int i = 0; i < 4; i++)
        failed[i] = pthread_create(ids + i, 0, sit, &until);
    for (int i = 0; i < 4; i++)
        printf("thread: %s\n", failed[i] ? strerrorname_np(failed[i]) : "ok");
    pthread_barrier_wait(&until);
    limit.rlim_max = 6;
    printf("higher: %s\n", said(setrlimit(RLIMIT_NPROC, &limit)));
}

static void kept(void)
{
    static const int all[] = { RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS,
                               RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS, RLIMIT_LOCKS, RLIMIT_SIGPENDING,
                               RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO, RLIMIT_RTTIME };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        struct rlimit was, limit, now;
        getrlimit(all[i], &was);
        limit.rlim_max = was.rlim_max > 1 << 30 ? 1 << 30 : was.rlim_max;
        limit.rlim_cur = limit.rlim_max - limit.rlim_max / 4;
        const char *set = said(setrlimit(all[i], &limit));
        getrlimit(all[i], &now);
        printf("%d: %s %d", all[i], set, now.rlim_cur == limit.rlim_cur && now.rlim_max == limit.rlim_max);
        limit.rlim_cur = limit.rlim_max;
        printf(" %s", said(setrlimit(all[i], &limit)));
        limit.rlim_cur = limit.rlim_max + 1;
        printf(" %s\n", said(setrlimit(all[i], &limit)));
    }
    printf("none: %s\n", said(setrlimit(16, &(struct rlimit){ 1, 1 })));
}

static long deep(long bytes)
{
    volatile char frame[4000];
    frame[0] = frame[3999] = (char)bytes;
    return bytes <= 0 ? frame[0] : deep(bytes - 4000) + frame[3999];
}

/* How much of the stack can be used, of the bytes given. */
static void stack(const char *bytes)
{
    struct rlimit now;
    getrlimit(RLIMIT_STACK, &now);
    printf("limit %ld", (long)now.rlim_cur);
    fflush(stdout);
    deep(atol(bytes));
    puts(", used");
}

static void raise_stack(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    limit.rlim_cur = 100 << 20;
    printf("raised: %s\n", said(setrlimit(RLIMIT_STACK, &limit)));
    fflush(stdout);
    deep(90 << 20);
    puts("used");
}

static void owners(void)
{
    int ends[2];
    if (pipe(ends))
        exit(2);
    struct f_owner_ex owner = { 7, 7 };
    printf("nobody: %d", fcntl(ends[0], F_GETOWN));
    printf(" %s", said(fcntl(ends[0], F_GETOWN_EX, &owner)));
    printf(" %d\n", owner.pid);
    printf("self: %s", said(fcntl(ends[0], F_SETOWN, getpid())));
    printf(" %d", fcntl(ends[0], F_GETOWN) == getpid());
    fcntl(ends[0], F_GETOWN_EX, &owner);
    printf(" %d %d, the other end: %d\n", owner.type, owner.pid == getpid(), fcntl(ends[1], F_GETOWN));
    printf("group: %s", said(fcntl(ends[0], F_SETOWN, -getpgrp())));
    fcntl(ends[0], F_GETOWN_EX, &owner);
    printf(" %d %d\n", owner.type, owner.pid == getpgrp());
    owner = (struct f_owner_ex){ F_OWNER_TID, gettid() };
    printf("thread: %s", said(fcntl(ends[0], F_SETOWN_EX, &owner)));
    printf(" %d", fcntl(ends[0], F_GETOWN) == gettid());
    owner.type = 3;
    printf(", no kind: %s", said(fcntl(ends[0], F_SETOWN_EX, &owner)));
    owner = (struct f_owner_ex){ F_OWNER_PID, 1 << 29 };
    printf(", nobody: %s", said(fcntl(ends[0], F_SETOWN_EX, &owner)));
    printf(" %s", said(fcntl(ends[0], F_SETOWN, 1 << 29)));
    printf(" %s", said(fcntl(ends[0], F_SETOWN, 1 << 31)));
    printf(", still %d\n", fcntl(ends[0], F_GETOWN) == gettid());
    printf("taken back: %s", said(fcntl(ends[0], F_SETOWN, 0)));
    printf(" %d\n", fcntl(ends[0], F_GETOWN));
    printf("signal: %d", fcntl(ends[0], F_GETSIG));
    printf(" %s", said(fcntl(ends[0], F_SETSIG, 40)));
    printf(" %d", fcntl(ends[0], F_GETSIG));
    printf(" %s", said(fcntl(ends[0], F_SETSIG, 65)));
    printf(" %s\n", said(fcntl(ends[0], F_SETSIG, -1)));
    int path = open(".", O_PATH);
    printf("a path: %s", said(fcntl(path, F_SETOWN, getpid())));
    printf(" %s", said(fcntl(path, F_GETOWN_EX, &owner)));
    printf(" %s\n", said(fcntl(-1, F_SETOWN_EX, 0)));
    int file = open("f", O_RDWR | O_CREAT, 0600);
    printf("a file sends nothing: %s %x\n", said(fcntl(file, F_SETFL, O_ASYNC)), fcntl(file, F_GETFL) & O_ASYNC);
}

static void line_of(const char *file, const char *name)
{
    char line[200];
    FILE *status = fopen(file, "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, name, strlen(name)))
            printf("%s", line);
    fclose(status);
}

static void status(void)
{
    line_of("/proc/self/status", "NoNewPrivs:");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    line_of("/proc/self/status", "NoNewPrivs:");
    cpu_set_t mine, one;
    sched_getaffinity(0, sizeof mine, &mine);
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &mine))
        last--;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    sched_setaffinity(0, sizeof one, &one);
    printf("the one processor: %d\n", field("/proc/self/status", "Cpus_allowed_list:") == last);
    CPU_ZERO(&one);
    sched_getaffinity(0, sizeof one, &one);
    printf("as the call says: %d\n", CPU_COUNT(&one) == 1 && CPU_ISSET(last, &one));
    personality(ADDR_NO_RANDOMIZE);
    line_of("/proc/self/personality", "");
}

static void open_pipe(void)
{
    printf("to read: %s", said(open("/proc/self/fd/1", O_RDONLY | O_NONBLOCK) < 0));
    printf(", to write: %s\n", said(open("/proc/self/fd/1", O_WRONLY) < 0));
}

int main(int argc, char **argv)
{
    if (argc < 3 || chdir(argv[2]))
        return 2;
    const char *topic = argv[1];
    if (!strcmp(topic, "moves"))
        moves();
    else if (!strcmp(topic, "locks"))
        locks();
    else if (!strcmp(topic, "over"))
        over();
    else if (!strcmp(topic, "sizes"))
        sizes();
    else if (!strcmp(topic, "time"))
        processor_time();
    else if (!strcmp(topic, "threads"))
        threads();
    else if (!strcmp(topic, "kept"))
        kept();
    else if (!strcmp(topic, "stack"))
        stack(argc > 3 ? argv[3] : "0");
    else if (!strcmp(topic, "raise"))
        raise_stack();
    else if (!strcmp(topic, "owners"))
        owners();
    else if (!strcmp(topic, "status"))
        status();
    else if (!strcmp(topic, "hold"))
        hold();
    else if (!strcmp(topic, "processors"))
        processors();
    else if (!strcmp(topic, "grow"))
        grow();
    else if (!strcmp(topic, "count"))
        given_time();
    else if (!strcmp(topic, "together"))
        together();
    else if (!strcmp(topic, "short"))
        short_ones();
    else if (!strcmp(topic, "burn"))
        burn();
    else if (!strcmp(topic, "pipe"))
        open_pipe();
    else
        return 2;
    return 0;
}

/* Calls that few programs make, and the order in which Linux checks their arguments.
 *
 *     rare_calls DIR        prints the same natively and in a VM
 *     rare_calls DIR vm     and what is specific to the VM */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/random.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

#define SECOND 1000000000L

static const char *said(long result)
{
    return result < 0 ? strerrorname_np(errno) : "ok";
}

static void directories(void)
{
    static char long_name[300];
    memset(long_name, 'n', sizeof long_name - 1);
    /* Only calls that fail for every user: natively root could make the others. */
    const char *const bad[] = { "missing", "file", "file/x", "loop", long_name, "" };
    for (int i = 0; i < 6; i++)
        printf("chroot %.10s: %s\n", bad[i], said(syscall(SYS_chroot, bad[i])));
    printf("chroot nowhere: %s\n", said(syscall(SYS_chroot, -1L)));
}

static void protection_keys(void)
{
    static char page[8192] __attribute__((aligned(4096)));
    printf("no key: %s\n", said(syscall(SYS_pkey_mprotect, page, 4096L, PROT_READ, -1)));
    printf("and back: %s\n", said(syscall(SYS_pkey_mprotect, page, 4096L, PROT_READ | PROT_WRITE, -1)));
    page[0] = 1;
    printf("not this key: %s\n", said(syscall(SYS_pkey_mprotect, page, 4096L, PROT_READ, 15)));
    printf("not these flags: %s\n", said(syscall(SYS_pkey_alloc, 1L, 0L)));
    printf("not these rights: %s\n", said(syscall(SYS_pkey_alloc, 0L, 4L)));
    printf("never given: %s\n", said(syscall(SYS_pkey_free, 14)));
    long key = syscall(SYS_pkey_alloc, 0L, 0L);
    /* Not every processor has them (ENOSPC), nor every kernel (EINVAL). */
    printf("a key, or none: %d\n", key > 0 || errno == ENOSPC || errno == EINVAL);
}

static void settings(void)
{
    struct timex adjust = { .modes = 0x8000 };
    printf("adjtimex, not single: %s\n", said(syscall(SYS_adjtimex, &adjust)));
    adjust.modes = 0xa001;
    printf("adjtimex, only read: %s, modes %x\n", said(syscall(SYS_adjtimex, &adjust)), adjust.modes);
    printf("adjtimex nowhere: %s\n", said(syscall(SYS_adjtimex, -1L)));
    printf("CPUID: %ld\n", syscall(SYS_arch_prctl, 0x1011, 0));
    printf("secure bits: %s\n", said(prctl(PR_SET_SECUREBITS, -1L, 0, 0, 0)));
}

static void personalities(void)
{
    char text[20] = "";
    struct utsname name;
    personality(UNAME26 | STICKY_TIMEOUTS);
    int fd = open("/proc/self/personality", O_RDONLY);
    if (read(fd, text, sizeof text - 1) < 0)
        printf("no file\n");
    close(fd);
    uname(&name);
    printf("personality %.8s, release %s\n", text, name.release);
    for (int sticky = 1; sticky >= 0; sticky--) {
        personality(sticky ? STICKY_TIMEOUTS : 0);
        struct timeval limit = { 0, 2000 };
        select(0, 0, 0, 0, &limit);
        printf("sticky %d: %ld left\n", sticky, (long)limit.tv_usec);
    }
}

/* What a program of 64 bits may say it is. */
static void systems(void)
{
    const unsigned int some[] = { PER_SVR4, PER_SCOSVR3, PER_BSD, PER_LINUX_32BIT, PER_HPUX, ADDR_LIMIT_3GB, PER_LINUX32, PER_LINUX };
    for (unsigned int i = 0; i < sizeof some / sizeof *some; i++) {
        struct utsname name;
        printf("personality %x: %s", some[i], said(personality(some[i])));
        uname(&name);
        printf(", now %x, on %s\n", personality(0xffffffff), name.machine);
    }
}

static void groups(void)
{
    static gid_t list[65536];
    int count = getgroups(0, 0);
    printf("groups: %d, %d:", count, getgroups(65536, list));
    for (int i = 0; i < count; i++)
        printf(" %d", list[i]);
    /* Without any there is nothing to store. */
    printf("; nowhere: %s; into too few: %s\n", said(getgroups(65536, count ? (void *)-1L : list)), said(count > 1 ? getgroups(1, list) : 0));
    char text[8192];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(text, sizeof text, status))
        if (!strncmp(text, "Groups:", 7))
            printf("%s", text);
    fclose(status);
}

static void clocks(void)
{
    const clockid_t coarse[] = { CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE };
    for (int c = 0; c < 2; c++) {
        int backwards = 0;
        long before = 0;
        for (int i = 0; i < 3000; i++) {
            struct timespec now;
            if (i % 2)
                clock_gettime(coarse[c], &now);
            else
                syscall(SYS_clock_gettime, coarse[c], &now);
            long at = now.tv_sec * SECOND + now.tv_nsec;
            backwards += at < before;
            before = at;
        }
        printf("clock %d back: %d times\n", coarse[c], backwards);
    }
}

static void files(void)
{
    int from = open("file", O_RDONLY), to = open("copy", O_RDWR | O_CREAT, 0600), dir = open(".", O_RDONLY), ends[2];
    int urandom = open("/dev/urandom", O_RDONLY), null = open("/dev/null", O_RDWR), bits = -1;
    if (pipe(ends))
        exit(2);
    printf("clone: %s\n", said(ioctl(to, FICLONE, from)));
    printf("clone of nothing: %s\n", said(ioctl(to, FICLONE, 99)));
    printf("clone of a directory: %s\n", said(ioctl(to, FICLONE, dir)));
    printf("clone of a pipe: %s\n", said(ioctl(to, FICLONE, ends[0])));
    printf("clone to read only: %s\n", said(ioctl(from, FICLONE, to)));
    printf("clone to a directory: %s\n", said(ioctl(dir, FICLONE, from)));
    struct file_clone_range range = { from, 0, 0, 0 };
    printf("clone of a range: %s\n", said(ioctl(to, FICLONERANGE, &range)));
    range.src_fd = 99;
    printf("clone of a range of nothing: %s\n", said(ioctl(to, FICLONERANGE, &range)));
    printf("clone of a range nowhere: %s\n", said(ioctl(to, FICLONERANGE, -1L)));
    printf("entropy: %s, ", said(ioctl(urandom, RNDGETENTCNT, &bits)));
    printf("%d bits\n", bits);
    printf("entropy of null: %s\n", said(ioctl(null, RNDGETENTCNT, &bits)));
    printf("entropy to nowhere: %s\n", said(ioctl(urandom, RNDGETENTCNT, -1L)));
    const char *const limits[] = { "pipe-user-pages-hard", "pipe-user-pages-soft", "inotify/max_queued_events",
        "inotify/max_user_instances", "inotify/max_user_watches" };
    for (int i = 0; i < 5; i++) {
        char path[60], text[30] = "";
        snprintf(path, sizeof path, "/proc/sys/fs/%s", limits[i]);
        FILE *file = fopen(path, "r");
        printf("%s: %s", limits[i], file && fgets(text, sizeof text, file) ? text : "none\n");
    }
}

static void residence(void)
{
    /* Larger than whatever is made present together, and with nothing mapped around it. */
    enum { PAGES = 1024 };
    static unsigned char resident[PAGES];
    char *all = mmap(0, 4 * PAGES * 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *middle = (char *)(((uintptr_t)all + PAGES * 4096L) & -(PAGES * 4096L));
    const char *const when[] = { "untouched", "touched" };
    for (int i = 0; i < 2; i++) {
        if (i == 1)
            memset(middle, 1, PAGES * 4096L);
        memset(resident, 0xff, sizeof resident);
        printf("%s: %s", when[i], said(mincore(middle, PAGES * 4096L, resident)));
        int count = 0;
        for (int page = 0; page < PAGES; page++)
            count += resident[page];
        printf(", %d resident\n", count);
    }
}

struct waiter {
    uint64_t value, address;
    uint32_t flags, reserved;
};
static uint32_t words[128];
static struct waiter waiters[129];

static long wait_for(int count, unsigned flags, struct timespec *limit, int clock)
{
    return syscall(SYS_futex_waitv, waiters, count, flags, limit, clock);
}

static void good_waiters(void)
{
    for (int i = 0; i < 129; i++)
        waiters[i] = (struct waiter){ 0, (uintptr_t)&words[i % 128], 0x82, 0 };
}

/* The data do not fit into the pipe: `writev` would wait forever for a reader. */
static void more_than_room(void)
{
    static char data[1 << 20], back[1 << 20];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = i * 7 + i / 4096;
    int ends[2];
    if (pipe(ends))
        exit(2);
    struct iovec part = { data, sizeof data };
    long moved = vmsplice(ends[1], &part, 1, 0);
    printf("vmsplice, some: %d\n", moved >= 4096 && moved < (long)sizeof data);
    printf("vmsplice, full: %s\n", said(vmsplice(ends[1], &part, 1, SPLICE_F_NONBLOCK)));
    part = (struct iovec){ back, sizeof back };
    long got = vmsplice(ends[0], &part, 1, 0);
    printf("vmsplice, back: %d\n", got > 0 && got <= moved && memcmp(data, back, got) == 0);
    while (got < moved)
        got += read(ends[0], back, sizeof back);
    printf("vmsplice, empty: %s\n", said(vmsplice(ends[0], &part, 1, SPLICE_F_NONBLOCK)));
    close(ends[1]);
    printf("vmsplice, end: %ld\n", vmsplice(ends[0], &part, 1, 0));
}

static void *wake(void *word)
{
    while (syscall(SYS_futex, word, 0x81, 1, 0, 0, 0) == 0)
        usleep(1000);
    return 0;
}

static void nothing(int signal)
{
    (void)signal;
}

static void waits(void)
{
    struct timespec past = { 1, 0 }, bad = { 0, SECOND }, later;
    good_waiters();
    printf("waitv flags: %s\n", said(wait_for(1, 1, 0, 0)));
    printf("waitv of none: %s\n", said(wait_for(0, 0, 0, 0)));
    printf("waitv of too many: %s\n", said(wait_for(129, 0, 0, 0)));
    printf("waitv of a null: %s\n", said(syscall(SYS_futex_waitv, 0, 1, 0, 0, 0)));
    printf("waitv nowhere: %s\n", said(syscall(SYS_futex_waitv, -8L, 1, 0, 0, 0)));
    printf("waitv clock: %s\n", said(wait_for(1, 0, &past, CLOCK_BOOTTIME)));
    printf("waitv without limit and clock: %s\n", said((words[0] = 1, wait_for(1, 0, 0, 99))));
    words[0] = 0;
    printf("waitv bad time: %s\n", said(wait_for(1, 0, &bad, CLOCK_MONOTONIC)));
    const uint32_t sizes[] = { 0, 1, 3, 2 | 4, 2 | 0x100, 0x80 };
    for (int i = 0; i < 6; i++) {
        waiters[1].flags = sizes[i];
        printf("waitv waiter's flags %x: %s\n", sizes[i], said(wait_for(2, 0, &past, CLOCK_MONOTONIC)));
    }
    good_waiters();
    waiters[1].reserved = 1;
    printf("waitv reserved: %s\n", said(wait_for(2, 0, &past, CLOCK_MONOTONIC)));
    good_waiters();
    waiters[1].address++;
    printf("waitv unaligned: %s\n", said(wait_for(2, 0, &past, CLOCK_MONOTONIC)));
    waiters[1].address = 0x10;
    printf("waitv of a hole: %s\n", said(wait_for(2, 0, &past, CLOCK_MONOTONIC)));
    good_waiters();
    waiters[127].value = 5;
    printf("waitv other value: %s\n", said(wait_for(128, 0, 0, 0)));
    good_waiters();
    printf("waitv over: %s, %s\n", said(wait_for(128, 0, &past, CLOCK_MONOTONIC)), said(wait_for(1, 0, &past, 0)));
    pthread_t thread;
    pthread_create(&thread, 0, wake, &words[77]);
    printf("waitv woken: %ld\n", wait_for(128, 0, 0, 0));
    pthread_join(thread, 0);
    for (int restart = 0; restart < 2; restart++) {
        struct sigaction action = { .sa_handler = nothing, .sa_flags = restart ? SA_RESTART : 0 };
        sigaction(SIGALRM, &action, 0);
        clock_gettime(CLOCK_MONOTONIC, &later);
        later.tv_nsec += SECOND / 5;
        later.tv_sec += later.tv_nsec / SECOND + (restart ? 0 : 60);
        later.tv_nsec %= SECOND;
        struct itimerval soon = { { 0, 20000 }, { 0, 20000 } }, never = { { 0, 0 }, { 0, 0 } };
        setitimer(ITIMER_REAL, &soon, 0);
        printf("waitv and a signal, restart %d: %s\n", restart, said(wait_for(2, 0, &later, CLOCK_MONOTONIC)));
        setitimer(ITIMER_REAL, &never, 0);
    }
}

static void of_the_vm(void)
{
    char room[32];
    struct stat root;
    stat("/", &root);
    printf("CPUID off: %s\n", said(syscall(SYS_arch_prctl, 0x1012, 0)));
    printf("chroot: %s\n", said(chroot("/")));
    printf("adjtimex, single: %s\n", said(syscall(SYS_adjtimex, &(struct timex){ .modes = 0x8001 })));
    printf("ustat of the root: %s\n", said(syscall(SYS_ustat, root.st_dev, room)));
    printf("ustat to nowhere: %s\n", said(syscall(SYS_ustat, root.st_dev, -1L)));
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IONBF, 0);
    if (argc < 2 || chdir(argv[1]))
        return 2;
    int file = open("file", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (write(file, argv[0], 3) != 3 || (symlink("loop", "loop") && errno != EEXIST))
        return 2;
    if (argc > 2) {
        of_the_vm();
        return 0;
    }
    directories();
    protection_keys();
    settings();
    personalities();
    systems();
    groups();
    clocks();
    files();
    more_than_room();
    residence();
    waits();
    return 0;
}

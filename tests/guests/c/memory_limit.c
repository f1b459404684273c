/* Tries to hold four times the memory it may, in one of many ways: memory_limit WAY MIB, where MIB
 * is its limit (--memory).
 *
 * Prints `WAY: ERROR after N`, the error and the number of steps before it, keeps what it has until
 * its standard input ends, and exits with 0. If nothing stops it, ERROR is `nothing`. */
#define _GNU_SOURCE
#define SPACEJMP_HEADER_ONLY
#include <spacejmp.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ul << 20)
#define PAGE 4096ul
#define SLOT (2 * MIB)

static unsigned long limit;

static void stopped(const char *way, int error, unsigned long steps)
{
    printf("%s: %s after %lu\n", way, error ? strerrorname_np(error) : "nothing", steps);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    exit(0);
}

static char *map(unsigned long len, int prot, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    char *at = mmap(0, len, prot, flags, fd, 0);
    return at == MAP_FAILED ? 0 : at;
}

static void touch(char *at, unsigned long len)
{
    for (unsigned long i = 0; i < len; i += PAGE)
        ((volatile char *)at)[i] = 1;
}

/* Pages that were written and are then made inaccessible. */
static void none(void)
{
    for (unsigned long n = 0; n < 4 * limit; n++) {
        char *at = map(MIB, PROT_READ | PROT_WRITE, -1);
        if (!at)
            stopped("none", errno, n);
        touch(at, MIB);
        mprotect(at, MIB, PROT_NONE);
    }
    stopped("none", 0, 4 * limit);
}

/* The same by first touches of existing mappings: ends the program. */
static void first_touch(void)
{
    char *at = mmap(0, 4 * limit * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                    0);
    for (unsigned long n = 0; n < 4 * limit; n++)
        for (unsigned long i = 0; i < MIB; i += PAGE)
            (void)*(volatile char *)(at + n * MIB + i);
    stopped("first-touch", 0, 4 * limit);
}

/* One page in each 2 MiB, which a host that prefers huge pages would turn into 2 MiB. */
static void scattered(void)
{
    unsigned long n;
    for (n = 0; n < 4 * limit; n++) {
        char *want = (char *)(0x200000000000ul / 32 + n * SLOT);
        char *at = mmap(want, PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (at == MAP_FAILED)
            stopped("scattered", errno, n);
        touch(at, PAGE);
    }
    stopped("scattered", 0, n);
}

/* Memory that only a system call ever writes. */
static void by_read(void)
{
    int zero = open("/dev/zero", O_RDONLY);
    char *at = map(4 * limit * MIB, PROT_NONE, -1);
    for (unsigned long n = 0; n < 4 * limit; n++) {
        /* Larger than what is made present in one step. */
        if (n % 16 == 0 && mprotect(at + n * MIB, 16 * MIB, PROT_READ | PROT_WRITE))
            stopped("by-read", errno, n);
        if (read(zero, at + n * MIB, MIB) != (ssize_t)MIB)
            stopped("by-read", errno, n);
    }
    stopped("by-read", 0, 4 * limit);
}

static int new_file(const char *way, unsigned long n)
{
    char name[64];
    snprintf(name, sizeof name, "/limit-%lu", n);
    return *way == 's' ? shm_open(name, O_CREAT | O_RDWR, 0600) : memfd_create("limit", 0);
}

/* Files in memory, written. */
static void written(const char *way)
{
    static char block[MIB];
    memset(block, 1, sizeof block);
    for (unsigned long n = 0; n < 4 * limit; n++) {
        static int fd = -1;
        if (n % 16 == 0)
            fd = new_file(way, n);
        if (fd < 0 || write(fd, block, MIB) != (ssize_t)MIB)
            stopped(way, errno, n);
    }
    stopped(way, 0, 4 * limit);
}

/* Files in memory, given a length, mapped and touched. */
static void mapped(const char *way)
{
    for (unsigned long n = 0; n < 4 * limit; n += 8) {
        int fd = new_file(way, n);
        if (fd < 0 || ftruncate(fd, 8 * MIB))
            stopped(way, errno, n);
        char *at = map(8 * MIB, PROT_READ | PROT_WRITE, fd);
        if (!at)
            stopped(way, errno, n);
        touch(at, 8 * MIB);
    }
    stopped(way, 0, 4 * limit);
}

/* Mapped and touched, truncated to nothing, extended again, and touched again, with pages that are
 * present already. */
static void regrown(void)
{
    char *at[64];
    int fd[64];
    unsigned long n;
    for (n = 0; n * 8 < 4 * limit && n < 64; n++) {
        fd[n] = memfd_create("limit", 0);
        if (fd[n] < 0 || ftruncate(fd[n], 8 * MIB))
            stopped("regrown", errno, n);
        at[n] = map(8 * MIB, PROT_READ | PROT_WRITE, fd[n]);
        if (!at[n])
            stopped("regrown", errno, n);
        touch(at[n], 8 * MIB);
        if (ftruncate(fd[n], 0))
            stopped("regrown", errno, n);
    }
    for (unsigned long i = 0; i < n; i++) {
        if (ftruncate(fd[i], 8 * MIB))
            stopped("regrown", errno, n + i);
        touch(at[i], 8 * MIB);
    }
    stopped("regrown", 0, n);
}

/* Segments, attached and touched; the thread leaves each one before the next. */
static void segments(const char *way, int lifetime)
{
    vasid_t vid = vas_create("limit", 0600);
    vhandle_t vh = vas_attach(vid, 0);
    for (unsigned long n = 0; n < 4 * limit; n += 8) {
        char name[32];
        snprintf(name, sizeof name, "limit-%lu", n);
        struct seg_params params = {.size_bytes = 8 * MIB, .mode = 0600, .lifetime = lifetime};
        segid_t sid = seg_alloc_params(name, &params);
        struct seg_stat stat;
        if (!sid || seg_stat(sid, &stat) || seg_attach_local(vh, sid, SEG_WRITE))
            stopped(way, errno, n);
        vas_switch(vh);
        touch((char *)(uintptr_t)stat.base, 8 * MIB);
        vas_switch(0);
        if (lifetime == SEG_PERSISTENT && seg_detach_local(vh, sid))
            stopped("detach", errno, n);
    }
    stopped(way, 0, 4 * limit);
}

/* Copies of a segment that no program attaches. */
static void clones(void)
{
    struct seg_params params = {.size_bytes = 8 * MIB, .mode = 0600};
    segid_t sid = seg_alloc_params("original", &params);
    vasid_t vid = vas_create("limit", 0600);
    struct seg_stat stat;
    if (!sid || seg_attach(vid, sid, SEG_WRITE) || seg_stat(sid, &stat))
        stopped("clones", errno, 0);
    vas_switch(vas_attach(vid, 0));
    touch((char *)(uintptr_t)stat.base, 8 * MIB);
    vas_switch(0);
    for (unsigned long n = 8; n < 4 * limit; n += 8) {
        char name[32];
        snprintf(name, sizeof name, "clone-%lu", n);
        if (!seg_clone(sid, name))
            stopped("clones", errno, n);
    }
    stopped("clones", 0, 4 * limit);
}

/* Segments that are filled and then deleted. */
static void deleted(void)
{
    vasid_t vid = vas_create("limit", 0600);
    vhandle_t vh = vas_attach(vid, 0);
    for (unsigned long n = 0; n < 4 * limit; n += 8) {
        struct seg_params params = {.size_bytes = 4 * MIB, .reserve_bytes = 8 * MIB, .mode = 0600};
        segid_t sid = seg_alloc_params("again", &params);
        struct seg_stat stat;
        if (!sid || seg_grow(sid, 8 * MIB) || seg_stat(sid, &stat) ||
            seg_attach_local(vh, sid, SEG_WRITE))
            stopped("deleted", errno, n);
        vas_switch(vh);
        touch((char *)(uintptr_t)stat.base, 8 * MIB);
        vas_switch(0);
        if (seg_detach_local(vh, sid) || seg_delete(sid))
            stopped("deleted", errno, n);
    }
    stopped("deleted", 0, 4 * limit);
}

/* A page at a new address each time, unmapped immediately. */
static void addresses(unsigned long cycles)
{
    for (unsigned long n = 0; n < cycles; n++) {
        char *want = (char *)(0x10000000000ul + n % 4000000 * SLOT);
        char *at = mmap(want, PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (at == MAP_FAILED)
            stopped("addresses", errno, n);
        touch(at, PAGE);
        munmap(at, PAGE);
    }
    stopped("addresses", 0, cycles);
}

/* More and more areas, by changing the protection of every other page. */
static void areas(void)
{
    unsigned long pages = 100000;
    char *at = map(pages * PAGE, PROT_NONE, -1);
    for (unsigned long n = 0; n < pages; n += 2)
        if (mprotect(at + n * PAGE, PAGE, PROT_READ))
            stopped("areas", errno, n);
    stopped("areas", 0, pages);
}

/* Many mappings of one file, page by page with gaps. */
static void mappings(void)
{
    int fd = memfd_create("limit", 0);
    char *base = map(200000 * PAGE, PROT_NONE, -1);
    munmap(base, 200000 * PAGE);
    if (ftruncate(fd, PAGE))
        stopped("mappings", errno, 0);
    for (unsigned long n = 0; n < 100000; n++)
        if (mmap(base + 2 * n * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
            stopped("mappings", errno, n);
    stopped("mappings", 0, 100000);
}

/* One mapping each of many files, which are then closed. */
static void descriptors(void)
{
    for (unsigned long n = 0; n < 10000; n++) {
        int fd = memfd_create("limit", 0);
        if (fd < 0 || ftruncate(fd, PAGE) || !map(PAGE, PROT_READ, fd))
            stopped("descriptors", errno, n);
        close(fd);
    }
    stopped("descriptors", 0, 10000);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    const char *way = argv[1];
    limit = strtoul(argv[2], 0, 10);
    if (!strcmp(way, "none"))
        none();
    if (!strcmp(way, "first-touch"))
        first_touch();
    if (!strcmp(way, "scattered"))
        scattered();
    if (!strcmp(way, "by-read"))
        by_read();
    if (!strcmp(way, "memfd-written") || !strcmp(way, "shm-written"))
        written(way);
    if (!strcmp(way, "memfd-mapped") || !strcmp(way, "shm-mapped"))
        mapped(way);
    if (!strcmp(way, "regrown"))
        regrown();
    if (!strcmp(way, "segments"))
        segments(way, SEG_VOLATILE);
    if (!strcmp(way, "kept-segments"))
        segments(way, SEG_PERSISTENT);
    if (!strcmp(way, "clones"))
        clones();
    if (!strcmp(way, "deleted"))
        deleted();
    if (!strcmp(way, "addresses"))
        addresses(argc > 3 ? strtoul(argv[3], 0, 10) : 20000);
    if (!strcmp(way, "areas"))
        areas();
    if (!strcmp(way, "mappings"))
        mappings();
    if (!strcmp(way, "descriptors"))
        descriptors();
    return 2;
}

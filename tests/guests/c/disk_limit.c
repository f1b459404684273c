/* Tries to add four times as much to the disk as it may, in one of many ways: disk_limit WAY MIB, in
 * the current directory, where MIB is its limit (--disk).
 *
 * Prints `WAY: ERROR`, the error that stopped it, or `nothing`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ul << 20)

static unsigned long limit;
static char block[MIB];

static const char *name_of(int error)
{
    return error ? strerrorname_np(error) : "nothing";
}

static int new_file(const char *name, int flags)
{
    int fd = open(name, O_RDWR | O_CREAT | flags, 0644);
    if (fd < 0) {
        printf("open: %s\n", name_of(errno));
        exit(1);
    }
    return fd;
}

/* The error of the first step that fails, of `steps` MiB. */
static int until(unsigned long steps, long (*step)(int, unsigned long), int fd)
{
    for (unsigned long n = 0; n < steps; n++)
        if (step(fd, n) < 0)
            return errno;
    return 0;
}

static long by_write(int fd, unsigned long n) { (void)n; return write(fd, block, MIB); }
static long by_pwrite(int fd, unsigned long n) { return pwrite(fd, block, MIB, n * MIB); }
static long by_fallocate(int fd, unsigned long n) { return fallocate(fd, 0, n * MIB, MIB); }
static long by_keep(int fd, unsigned long n) { return fallocate(fd, FALLOC_FL_KEEP_SIZE, n * MIB, MIB); }

static long by_writev(int fd, unsigned long n)
{
    struct iovec parts[2] = {{block, MIB / 2}, {block, MIB / 2}};
    return n % 2 ? writev(fd, parts, 2) : pwritev2(fd, parts, 2, 0, RWF_APPEND);
}

static long by_truncate(int fd, unsigned long n)
{
    return n % 2 ? ftruncate(fd, (n + 1) * MIB) : truncate("f", (n + 1) * MIB);
}

static int source;

static long by_sendfile(int fd, unsigned long n)
{
    off_t from = 0;
    (void)n;
    return sendfile(fd, source, &from, MIB);
}

static long by_copy(int fd, unsigned long n)
{
    off_t from = 0;
    (void)n;
    return copy_file_range(source, &from, fd, 0, MIB, 0);
}

static long by_splice(int fd, unsigned long n)
{
    int ends[2];
    long moved = 0;
    (void)n;
    if (pipe(ends))
        return -1;
    for (int part = 0; part < 16 && moved >= 0; part++) {
        if (write(ends[1], block, 65536) != 65536)
            return -1;
        moved = splice(ends[0], 0, fd, 0, 65536, 0);
    }
    close(ends[0]);
    close(ends[1]);
    return moved;
}

/* A file that grows by its length, and is filled through a mapping. */
static long by_mmap(int fd, unsigned long n)
{
    if (ftruncate(fd, (n + 1) * MIB))
        return -1;
    char *at = mmap(0, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, n * MIB);
    if (at == MAP_FAILED)
        return -1;
    memset(at, 1, MIB);
    return munmap(at, MIB);
}

/* Removed and open: still there. */
static long by_removed(int fd, unsigned long n)
{
    char name[32];
    (void)fd;
    sprintf(name, "removed%lu", n);
    int other = open(name, O_RDWR | O_CREAT, 0644);
    if (other < 0 || write(other, block, MIB) < 0)
        return -1;
    return unlink(name);
}

/* In a file that was there, and has no content. */
static long by_hole(int fd, unsigned long n) { return pwrite(fd, block, MIB, n * MIB); }

static long by_names(int fd, unsigned long n)
{
    char name[32];
    (void)fd;
    for (int i = 0; i < 256; i++) {
        sprintf(name, "name%lu.%d", n, i);
        int failed;
        switch (i % 4) {
        case 0: failed = mkdir(name, 0755); break;
        case 1: failed = symlink("to", name); break;
        case 2: failed = link("f", name); break;
        default: failed = open(name, O_CREAT | O_WRONLY, 0644); failed = failed < 0 || close(failed); break;
        }
        if (failed)
            return -1;
    }
    return 0;
}

/* Threads that write, cut, move the place and the flag, all at once. */
static int ended;

static void *writes(void *fd)
{
    for (unsigned long n = 0; n < 40 * limit; n++) {
        if (n % 3 == 0)
            pwrite((long)fd, block, MIB, n % 7 * MIB);
        else
            write((long)fd, block, MIB);
    }
    return 0;
}

static void *disturbs(void *fd)
{
    unsigned long n = 0;
    for (; !__atomic_load_n(&ended, __ATOMIC_RELAXED); n++) {
        switch (n % 5) {
        case 0: ftruncate((long)fd, n % 3 * MIB); break;
        case 1: lseek((long)fd, n % 11 * 2 * MIB, SEEK_SET); break;
        case 2: fcntl((long)fd, F_SETFL, O_APPEND); break;
        case 3: fcntl((long)fd, F_SETFL, 0); break;
        default: read((long)fd, &(char[4096]){0}, 4096); break;
        }
    }
    return 0;
}

static void race(void)
{
    pthread_t threads[3];
    long one = new_file("race1", 0), other = new_file("race2", 0);
    pthread_create(&threads[2], 0, disturbs, (void *)one);
    pthread_create(&threads[0], 0, writes, (void *)one);
    pthread_create(&threads[1], 0, writes, (void *)other);
    pthread_join(threads[0], 0);
    pthread_join(threads[1], 0);
    __atomic_store_n(&ended, 1, __ATOMIC_RELAXED);
    pthread_join(threads[2], 0);
    printf("race: done\n");
}

/* Several processes, each of which is stopped. */
static void children(void)
{
    int stopped = 0;
    for (int i = 0; i < 4; i++) {
        if (fork() == 0) {
            char name[32];
            sprintf(name, "child%d", i);
            int error = until(4 * limit, by_write, new_file(name, O_APPEND));
            _exit(error == EDQUOT ? 7 : 1);
        }
    }
    for (int i = 0, status; i < 4; i++)
        stopped += wait(&status) > 0 && WEXITSTATUS(status) == 7;
    printf("children: %d stopped\n", stopped);
}

/* Writes and makes room again, many times. */
static void room(void)
{
    int fd = new_file("f", 0);
    for (unsigned long n = 0; n < 40 * limit; n++)
        if ((n % 4 == 0 && ftruncate(fd, 0)) || by_pwrite(fd, n % 4) < 0) {
            printf("room: %s\n", name_of(errno));
            return;
        }
    close(fd);
    for (unsigned long n = 0; n < 8 * limit; n++) {
        fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
        if (fd < 0 || by_pwrite(fd, 0) < 0) {
            printf("room: %s\n", name_of(errno));
            return;
        }
        close(fd);
    }
    printf("room: nothing\n");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        long (*step)(int, unsigned long);
        int flags;
    } ways[] = {
        {"write", by_write, 0}, {"append", by_write, O_APPEND}, {"pwrite", by_pwrite, 0},
        {"writev", by_writev, 0}, {"truncate", by_truncate, 0}, {"fallocate", by_fallocate, 0},
        {"keep", by_keep, 0}, {"sendfile", by_sendfile, 0}, {"copy", by_copy, 0},
        {"splice", by_splice, 0}, {"mmap", by_mmap, 0}, {"removed", by_removed, 0},
        {"names", by_names, 0},
    };
    const char *way = argv[1];
    if (argc < 3)
        return 2;
    limit = atol(argv[2]);
    source = memfd_create("source", 0);
    if (!strcmp(way, "copy"))
        source = new_file("source", 0);
    if (write(source, block, MIB) != (long)MIB)
        return 2;
    if (!strcmp(way, "hole")) {
        printf("hole: %s\n", name_of(until(4 * limit, by_hole, open("sparse", O_RDWR))));
        int fd = open("sparse", O_RDWR);
        char *at = mmap(0, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        printf("mapped: %s\n", name_of(at == MAP_FAILED ? errno : 0));
        return 0;
    }
    if (!strcmp(way, "race"))
        return race(), 0;
    if (!strcmp(way, "children"))
        return children(), 0;
    if (!strcmp(way, "room"))
        return room(), 0;
    for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
        if (!strcmp(way, ways[i].name)) {
            int error = until(4 * limit, ways[i].step, new_file("f", ways[i].flags));
            printf("%s: %s\n", way, name_of(error));
            return 0;
        }
    return 2;
}

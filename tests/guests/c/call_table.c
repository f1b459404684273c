/* Every served call with valid arguments, then with one argument at a time invalid: each flag
 * bit flipped, bad descriptors, pointers, paths, sizes, offsets. Prints one line per case,
 * `call argument=value -> result | state`, for a test to compare with the host's answers.
 *
 *     call_table DIR [NAME]     in the empty directory DIR; only rows whose name begins so
 *
 * Raw calls throughout: the library would refuse or change some of the arguments. The table
 * leaves out what it cannot try: calls that end the program, block, or change what follows. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

#include "../include/call_table.h"
static const char *const paths[] = {
    "", "missing", "missing/x", "dir", "dir/", "dir/sub", "file/", "file/x", "link", "link/",
    "dangling", "loop", "loop/x", "dirlink", "dirlink/", ".", "..", "./", "dir/.", "dir/..",
};
static char long_name[300], long_path[5000];

#include "../include/call_table_files.h"
#include "../include/call_table_memory.h"
#include "../include/call_table_rest.h"

static const struct table {
    const struct row *rows;
    size_t count;
} tables[] = {
    { data_rows, sizeof data_rows / sizeof *data_rows },
    { file_rows, sizeof file_rows / sizeof *file_rows },
    { memory_rows, sizeof memory_rows / sizeof *memory_rows },
    { rest_rows, sizeof rest_rows / sizeof *rest_rows },
};

static char hash_buffer[4 * PAGE];

static void fail(const char *what)
{
    printf("cannot prepare: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void put(int from, int to)
{
    if (from < 0)
        fail("a descriptor");
    if (from == to)
        return;
    if (dup3(from, to, 0) < 0 || close(from) < 0)
        fail("a descriptor's number");
}

static int remove_one(const char *path, const struct stat *meta, int kind, struct FTW *at)
{
    (void)meta, (void)kind;
    return at->level == 0 ? 0 : remove(path);
}

static void make_files(void)
{
    if (nftw(".", remove_one, 10, FTW_DEPTH | FTW_PHYS))
        fail("the files of before");
    static char text[10000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = 'a' + i % 23;
    for (int i = 0; i < 2; i++) {
        int fd = open(i ? "file2" : "file", O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || write(fd, text, sizeof text) != sizeof text)
            fail("a file");
        close(fd);
    }
    if (mkdir("dir", 0755) || mkdir("dir/sub", 0755) || symlink("file", "link") || symlink("nowhere", "dangling") ||
        symlink("loop", "loop") || symlink("dir", "dirlink") || mkfifo("fifo", 0644))
        fail("the files");
}

static void open_files(void)
{
    int pipes[2];
    syscall(SYS_close_range, HOME + 1, ~0u, 0);
    put(open("file", O_RDWR), RW);
    put(open("file", O_RDONLY), RO);
    put(open("file", O_WRONLY), WO);
    put(open("dir", O_RDONLY | O_DIRECTORY), DIR);
    put(open("file", O_PATH), PATH_FD);
    if (pipe2(pipes, O_NONBLOCK))
        fail("a pipe");
    put(pipes[1], PIPE_W + 40);
    put(pipes[0], PIPE_R);
    put(PIPE_W + 40, PIPE_W);
    if (write(PIPE_W, "0123456789abcdef", 16) != 16)
        fail("a pipe");
    put(eventfd(3, EFD_NONBLOCK), EVENT);
    put(memfd_create("memory", MFD_ALLOW_SEALING), MEMFD);
    if (ftruncate(MEMFD, 10000))
        fail("a memory file");
    put(open("/dev/null", O_RDWR), NULL_FD);
    put(open("file2", O_RDWR | O_APPEND), APPEND);
    if (pipe2(pipes, O_NONBLOCK))
        fail("a pipe");
    put(pipes[1], EMPTY_W + 40);
    put(pipes[0], EMPTY_R);
    put(EMPTY_W + 40, EMPTY_W);
    put(open("/dev/zero", O_RDONLY), ZERO);
    put(open("file2", O_RDWR), FILE2);
}

static void must_map(long at, int pages, int prot, int flags, int fd, long offset)
{
    if (mmap((void *)at, pages * PAGE, prot, flags | MAP_FIXED, fd, offset) != (void *)at)
        fail("memory");
}

static void make_areas(void)
{
    munmap((void *)AT(0), 64 * PAGE);
    must_map(AT(0), 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must_map(AT(5), 2, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must_map(AT(7), 2, PROT_READ | PROT_WRITE, MAP_SHARED, RW, 0);
    must_map(AT(9), 2, PROT_READ | PROT_WRITE, MAP_PRIVATE, RW, 0);
    must_map(AT(11), 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset((void *)AT(0), 'm', 4 * PAGE);
    *(char *)AT(9) = 'p';
}

static void fill_arguments(void)
{
    memset((void *)ARENA, 0, 4 * PAGE);
    memset((void *)OUT, '.', 2 * PAGE);
    inputs((char *)IN);
}

static unsigned hash(const char *bytes, long len)
{
    unsigned h = 2166136261u;
    for (long i = 0; i < len; i++)
        h = (h ^ (unsigned char)bytes[i]) * 16777619u;
    return h;
}

/* What the areas allow and hold, page by page, determined without touching them. */
static void print_areas(void)
{
    char text[40];
    int pages = 24;
    for (int i = 0; i < pages; i++) {
        char byte = '?';
        struct iovec page = { (void *)AT(i), 1 }, copy = { &byte, 1 };
        (void)copy;
        int fd = EMPTY_W;
        text[i] = syscall(SYS_writev, fd, &page, 1) == 1 && read(EMPTY_R, &byte, 1) == 1 ? byte : '-';
        if (text[i] == 0)
            text[i] = '0';
        /* Writable? The same byte is written back. */
        if (text[i] != '-' && write(EMPTY_W, &byte, 1) == 1) {
            if (read(EMPTY_R, (void *)AT(i), 1) == 1)
                text[i] = text[i] >= 'a' ? text[i] - 32 : 'Z';
            else if (read(EMPTY_R, &byte, 1) != 1)
                fail("the pipe");
        }
    }
    text[pages] = 0;
    printf(" %s", text);
}

static void print_result(const struct row *row, long result, int err)
{
    if (result == -1)
        printf("%s", strerrorname_np(err));
    else if (strchr(row->options, 'v'))
        printf("%ld", result);
    else
        printf("ok");
    if (strchr(row->options, 'o'))
        printf(" %08x", hash((char *)OUT, 2 * PAGE));
    if (strchr(row->options, 'w')) {
        struct stat meta;
        fstat(RW, &meta);
        long at = lseek(RW, 0, SEEK_CUR), len = pread(RW, hash_buffer, sizeof hash_buffer, 0);
        printf(" | size %ld mode %o links %ld at %ld hash %08x flags %x", (long)meta.st_size, meta.st_mode,
               (long)meta.st_nlink, at, hash(hash_buffer, len), fcntl(RW, F_GETFL));
        fstat(FILE2, &meta);
        len = pread(FILE2, hash_buffer, sizeof hash_buffer, 0);
        printf(" 2nd %ld %08x", (long)meta.st_size, hash(hash_buffer, len));
    }
    if (strchr(row->options, 'f'))
        printf(" | flags %x cloexec %x", fcntl((int)result, F_GETFL), fcntl((int)result, F_GETFD));
    if (strchr(row->options, 'm'))
        print_areas();
    printf("\n");
}

static void try(const struct row *row, int which, long value, const char *shown)
{
    static int first = 1;
    long a[6];
    for (int i = 0; i < 6; i++)
        a[i] = i == which ? value : row->args[i].good;
    if (fchdir(HOME))
        fail("the directory");
    if (first || strchr(row->options, 'w') || strchr(row->options, 'n'))
        make_files();
    first = 0;
    open_files();
    if (strchr(row->options, 'm'))
        make_areas();
    fill_arguments();
    errno = 0;
    printf("%s", row->name);
    if (which >= 0 && shown)
        printf(" %d=\"%s\"", which + 1, shown);
    else if (which >= 0)
        printf(" %d=%#lx", which + 1, value);
    printf(" -> ");
    fflush(stdout);
    long result = syscall(row->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    print_result(row, result, errno);
}

static void try_list(const struct row *row, int which, const long *list, size_t count)
{
    for (size_t i = 0; i < count && list[i] != LAST; i++)
        if (list[i] != row->args[which].good)
            try(row, which, list[i], 0);
}

#define TRY(...)                                                                                  \
    do {                                                                                          \
        static const long list[] = { __VA_ARGS__ };                                               \
        try_list(row, i, list, sizeof list / sizeof *list);                                       \
    } while (0)

static void try_argument(const struct row *row, int i)
{
    const struct arg *arg = &row->args[i];
    switch (arg->kind) {
    case INT:
        break;
    case BITS:
    case LONG_BITS:
        for (int bit = 0; bit < 32; bit++)
            try(row, i, (long)((unsigned long)arg->good ^ 1ul << bit), 0);
        if (arg->kind == LONG_BITS) {
            try(row, i, (long)((unsigned long)arg->good | 1ul << 32), 0);
            try(row, i, (long)((unsigned long)arg->good | 1ul << 63), 0);
        }
        TRY(-1);
        break;
    case FD:
        TRY(-1, CLOSED, 1 << 30, RW, RO, WO, DIR, PATH_FD, PIPE_R, PIPE_W, EVENT, MEMFD, NULL_FD, APPEND, EMPTY_R,
            EMPTY_W, ZERO, FILE2);
        break;
    case DIRFD:
        TRY(-1, CLOSED, RW, DIR, PATH_FD, PIPE_R, NULL_FD);
        break;
    case PATH:
        for (size_t p = 0; p < sizeof paths / sizeof *paths; p++)
            try(row, i, (long)paths[p], paths[p]);
        try(row, i, (long)long_name, "a long name");
        try(row, i, (long)long_path, "a long path");
        TRY(0, 16, HOLE, HOLE - 3, KERNEL);
        break;
    case BUF:
        TRY(0, 16, HOLE, HOLE - 4, READ_ONLY, KERNEL, -1, 1L << 62);
        break;
    case SIZE:
        TRY(0, 1, 7, 100, 4095, 3 * PAGE, 1L << 20, INT_MAX, 1L << 31, 1L << 32, LONG_MAX, LONG_MIN, -1);
        break;
    case OFF:
        TRY(-1, 0, 1, 100, PAGE, INT_MAX, 1L << 40, LONG_MAX, LONG_MIN);
        break;
    case RANGE:
        for (long v = arg->from; v <= arg->to; v++)
            if (v != arg->good)
                try(row, i, v, 0);
        TRY(INT_MAX, INT_MIN);
        break;
    case ADDR:
        TRY(1, AT(0), AT(0) + 1, AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7), AT(8), AT(9), AT(10),
            AT(11), AT(12), AT(20), 0x7ffffffff000, KERNEL, -PAGE);
        break;
    case LIST:
        try_list(row, i, arg->list, ~0ul);
        break;
    }
}

static void try_row(const struct row *row, const char *wanted)
{
    if (strncmp(row->name, wanted, strlen(wanted)))
        return;
    try(row, -1, 0, 0);
    for (int i = 0; i < 6; i++)
        try_argument(row, i);
}

int main(int argc, char **argv)
{
    if (argc < 2 || chdir(argv[1]))
        fail("the directory");
    if (mkdir("w", 0755) || chdir("w"))
        fail("a directory");
    const char *wanted = argc > 2 ? argv[2] : "";
    memset(long_name, 'n', 299);
    memset(long_path, '/', 4999);
    must_map(ARENA, 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must_map(READ_ONLY, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    setvbuf(stdout, malloc(1 << 20), _IOFBF, 1 << 20);
    umask(022);
    put(open(".", O_RDONLY | O_DIRECTORY), HOME);
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (size_t r = 0; r < tables[t].count; r++)
            try_row(&tables[t].rows[r], wanted);
    fflush(stdout);
    return 0;
}

/* The type of a row in the table of calls, and the memory and descriptors that its arguments name.
 * The rows are in the headers next to this one; ../c/call_table.c uses them. */
#define PAGE 4096L
/* Memory for arguments: four readable and writable pages, a hole, a read-only page. */
#define ARENA 0x10000000000L
#define HOLE (ARENA + 4 * PAGE)
#define READ_ONLY (ARENA + 5 * PAGE)
#define IN (ARENA + 256)       /* arguments that a call reads, refilled before each case */
#define OUT (ARENA + PAGE)     /* and where it writes */
/* Memory for memory calls: 0-3 private, 4 a hole, 5-6 read-only, 7-8 the file, shared, 9-10 the
 * file, private, 11 no access, then free. */
#define AREA 0x10010000000L
#define AT(page) (AREA + (page) * PAGE)
#define KERNEL 0xffff800000000000L

enum kind { INT, BITS, LONG_BITS, FD, DIRFD, PATH, BUF, SIZE, OFF, RANGE, ADDR, LIST };
struct arg {
    enum kind kind;
    long good;
    const long *list;
    int from, to;
};
struct row {
    const char *name;
    long number;
    const char *options; /* w: changes files; v: the value counts; o: so does what was written */
    struct arg args[6];
};

#define I(value) { INT, (long)(value), 0, 0, 0 }
#define B(value) { BITS, (long)(value), 0, 0, 0 }
#define LB(value) { LONG_BITS, (long)(value), 0, 0, 0 }
#define F(fd) { FD, fd, 0, 0, 0 }
#define D { DIRFD, AT_FDCWD, 0, 0, 0 }
#define P(path) { PATH, (long)(path), 0, 0, 0 }
#define BF(address) { BUF, (long)(address), 0, 0, 0 }
#define S(size) { SIZE, (long)(size), 0, 0, 0 }
#define O(offset) { OFF, offset, 0, 0, 0 }
#define R(good, from, to) { RANGE, good, 0, from, to }
#define A(address) { ADDR, address, 0, 0, 0 }
#define L(good, ...) { LIST, (long)(good), (const long[]){ __VA_ARGS__, LAST }, 0, 0 }
#define LAST 0x5ac3f1e7dL
#define ROW(call, options, ...) { #call, SYS_##call, options, { __VA_ARGS__ } }
#define MORE(call, what, options, ...) { #call ":" what, SYS_##call, options, { __VA_ARGS__ } }

/* The descriptors of every case. */
enum {
    HOME = 9, RW, RO, WO, DIR, PATH_FD, PIPE_R, PIPE_W, EVENT, MEMFD, NULL_FD, APPEND, EMPTY_R, EMPTY_W,
    ZERO, FILE2, CLOSED = 99,
};


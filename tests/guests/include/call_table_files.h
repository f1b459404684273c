/* Rows of the table of calls: data, descriptors, files. */

/* Structures that calls read, at IN. */
#define IOV IN
#define POLLS (IN + 64)
#define LOCK (IN + 128)
#define TIMES (IN + 192)
#define MASK (IN + 256)
#define OFFSET (IN + 320)
#define RLIMIT (IN + 384)
#define CPUS (IN + 448)
#define PARAM (IN + 640)
#define ATTR (IN + 704)
#define CAPS (IN + 832)
#define SETS (IN + 1024) /* three fd_sets of 128 bytes */
#define MOMENT (IN + 1408)
#define NAME (IN + 1472)
#define EIGHT (IN + 1536)
#define OPEN_HOW (IN + 1600)
#define ACTION (IN + 1664)
#define STACK (IN + 1728)
#define PIPES (IN + 1792)

static void inputs(char *at)
{
#define FILL(type, where, ...) (*(type *)(at + (where - IN)) = (type)__VA_ARGS__)
    FILL(struct iovec, IOV, { (void *)OUT, 16 });
    FILL(struct iovec, IOV + 16, { (void *)(OUT + 100), 7 });
    FILL(struct pollfd, POLLS, { RW, POLLIN | POLLOUT, 0 });
    FILL(struct pollfd, POLLS + 8, { PIPE_R, POLLIN, 0 });
    FILL(struct pollfd, POLLS + 16, { CLOSED, POLLIN, 0 });
    FILL(struct flock, LOCK, { F_WRLCK, SEEK_SET, 3, 10, 0 });
    FILL(struct timespec, TIMES, { 1000000000, 5000 });
    FILL(struct timespec, TIMES + 16, { 1100000000, 6000 });
    FILL(long, MASK, 0x200);
    FILL(long, OFFSET, 5);
    FILL(long, OFFSET + 8, 7);
    FILL(struct rlimit, RLIMIT, { 512, 600 });
    memset(at + (CPUS - IN), 0xff, 128);
    FILL(int, PARAM, 0);
    FILL(int, ATTR, 48);
    FILL(struct __user_cap_header_struct, CAPS, { _LINUX_CAPABILITY_VERSION_3, 0 });
    FILL(long, SETS, 1l << RW | 1l << PIPE_R);
    FILL(long, SETS + 128, 1l << RW | 1l << EVENT);
    FILL(struct timespec, MOMENT, { 0, 1000 });
    strcpy(at + (NAME - IN), "a-name");
    FILL(long, EIGHT, 5);
    FILL(struct rlimit, PIPES, { 0, 0 });
#undef FILL
}

static const struct row data_rows[] = {
    ROW(read, "wvo", F(RW), BF(OUT), S(16)),
    MORE(read, "pipe", "vo", F(PIPE_R), BF(OUT), S(16)),
    MORE(read, "empty pipe", "vo", F(EMPTY_R), BF(OUT), S(16)),
    MORE(read, "event", "vo", F(EVENT), BF(OUT), S(8)),
    MORE(read, "null", "vo", F(NULL_FD), BF(OUT), S(8)),
    ROW(write, "wv", F(RW), BF(OUT), S(16)),
    MORE(write, "pipe", "v", F(PIPE_W), BF(OUT), S(16)),
    MORE(write, "event", "v", F(EVENT), BF(EIGHT), S(8)),
    MORE(write, "append", "wv", F(APPEND), BF(OUT), S(8)),
    MORE(write, "null", "v", F(NULL_FD), BF(OUT), S(8)),
    ROW(pread64, "wvo", F(RW), BF(OUT), S(16), O(3)),
    MORE(pread64, "event", "vo", F(EVENT), BF(OUT), S(8), O(0)),
    ROW(pwrite64, "wv", F(RW), BF(OUT), S(16), O(3)),
    MORE(pwrite64, "append", "wv", F(APPEND), BF(OUT), S(16), O(3)),
    ROW(readv, "wvo", F(RW), BF(IOV), L(2, 0, 1, -1, 1024, 1025, INT_MAX, 1L << 32, (1L << 32) + 1)),
    MORE(readv, "pipe", "vo", F(PIPE_R), BF(IOV), L(2, 0, 1)),
    ROW(writev, "wv", F(RW), BF(IOV), L(2, 0, 1, -1, 1024, 1025, INT_MAX, 1L << 32, (1L << 32) + 1)),
    MORE(writev, "pipe", "v", F(PIPE_W), BF(IOV), L(2, 0, 1)),
    ROW(preadv, "wvo", F(RW), BF(IOV), L(2, 0, 1, -1, 1024, 1025), O(3), L(0, 1, -1, 1L << 32)),
    ROW(pwritev, "wv", F(RW), BF(IOV), L(2, 0, 1, -1, 1024, 1025), O(3), L(0, 1, -1, 1L << 32)),
    ROW(preadv2, "wvo", F(RW), BF(IOV), L(2, 0, 1, -1, 1025), O(3), L(0, 1, -1), LB(0)),
    MORE(preadv2, "where it is", "wvo", F(RW), BF(IOV), I(2), I(-1), I(0), LB(0)),
    MORE(preadv2, "pipe", "vo", F(PIPE_R), BF(IOV), I(2), I(-1), I(0), LB(0)),
    MORE(preadv2, "empty pipe", "vo", F(EMPTY_R), BF(IOV), I(2), I(-1), I(0), LB(8)),
    ROW(pwritev2, "wv", F(RW), BF(IOV), L(2, 0, 1, -1, 1025), O(3), L(0, 1, -1), LB(0)),
    MORE(pwritev2, "where it is", "wv", F(RW), BF(IOV), I(2), I(-1), I(0), LB(0)),
    MORE(pwritev2, "append", "wv", F(APPEND), BF(IOV), I(2), O(3), I(0), LB(0)),
    MORE(pwritev2, "at the end", "wv", F(RW), BF(IOV), I(2), O(3), I(0), LB(0x10)),
    MORE(pwritev2, "pipe", "v", F(PIPE_W), BF(IOV), I(2), I(-1), I(0), LB(0)),
    ROW(lseek, "wv", F(RW), O(5), R(SEEK_SET, -1, 8)),
    MORE(lseek, "from the end", "wv", F(RW), O(5), I(SEEK_END)),
    MORE(lseek, "data", "wv", F(RW), O(5), I(SEEK_DATA)),
    MORE(lseek, "hole", "wv", F(RW), O(5), I(SEEK_HOLE)),
    MORE(lseek, "directory", "", F(DIR), O(0), R(SEEK_SET, -1, 8)),
    ROW(sendfile, "wv", F(RW), F(FILE2), BF(OFFSET), S(16)),
    MORE(sendfile, "pipe", "wv", F(PIPE_W), F(FILE2), I(0), S(16)),
    ROW(copy_file_range, "wv", F(FILE2), BF(OFFSET), F(RW), BF(OFFSET + 8), S(16), LB(0)),
    MORE(copy_file_range, "same", "wv", F(RW), BF(OFFSET), F(RW), BF(OFFSET + 8), S(16), I(0)),
    ROW(splice, "wv", F(PIPE_R), BF(0), F(RW), BF(OFFSET), S(16), LB(0)),
    MORE(splice, "into a pipe", "wv", F(RW), BF(OFFSET), F(PIPE_W), BF(0), S(16), LB(0)),
    MORE(splice, "pipes", "v", F(PIPE_R), BF(0), F(EMPTY_W), BF(0), S(16), LB(0)),
    ROW(vmsplice, "v", F(PIPE_W), BF(IOV), L(2, 0, 1, 1025, -1), LB(2)),
    MORE(vmsplice, "from a pipe", "v", F(PIPE_R), BF(IOV), I(2), I(2)),
    MORE(vmsplice, "an empty pipe", "", F(EMPTY_R), BF(IOV), I(2), I(2)),
    MORE(vmsplice, "a file", "", F(RW), BF(IOV), I(2), I(2)),
    ROW(tee, "v", F(PIPE_R), F(EMPTY_W), S(16), LB(0)),
    MORE(tee, "a file", "", F(RW), F(EMPTY_W), S(16), LB(0)),
    MORE(tee, "to itself", "", F(PIPE_R), F(PIPE_W), S(16), LB(2)),
    ROW(truncate, "w", P("file"), O(1000)),
    ROW(ftruncate, "w", F(RW), O(1000)),
    ROW(fallocate, "w", F(RW), LB(0), L(100, -1, 0, LONG_MAX, LONG_MIN), L(20000, -1, 0, 1, LONG_MAX, LONG_MIN)),
    MORE(fallocate, "hole", "w", F(RW), B(3), L(4096, -1, 1, LONG_MAX), L(4096, -1, 0, 1, LONG_MAX)),
    ROW(fsync, "", L(RW, -1, CLOSED, DIR, PATH_FD, PIPE_R, EVENT, NULL_FD)),
    ROW(fdatasync, "", L(RW, -1, CLOSED, DIR, PATH_FD, PIPE_R, EVENT, NULL_FD)),
    ROW(syncfs, "", L(RW, -1, CLOSED, DIR, PATH_FD, PIPE_R, EVENT, NULL_FD)),
    ROW(sync_file_range, "", L(RW, -1, CLOSED, DIR, PATH_FD, PIPE_R, EVENT, NULL_FD), L(100, -1, LONG_MAX), L(200, -1, 0, LONG_MAX), B(2)),
    ROW(fadvise64, "", F(RW), O(100), O(200), R(0, -2, 10)),
    ROW(readahead, "", F(RW), O(100), S(4096)),
    ROW(flock, "", F(RW), B(LOCK_SH)),
    MORE(flock, "un", "", F(RW), B(LOCK_UN)),
    MORE(flock, "ex, not waiting", "", F(RW), R(LOCK_EX | LOCK_NB, -1, 40)),
    ROW(poll, "v", BF(POLLS), L(3, 0, 1, -1, 1025, 1 << 20, INT_MAX, 1L << 31, 1L << 32), L(0, INT_MIN, -1, 1)),
    ROW(ppoll, "v", BF(POLLS), L(3, 0, 1, -1, 1025, 1 << 20, INT_MAX, 1L << 32), BF(MOMENT), BF(MASK), S(8)),
    ROW(select, "vo", L(20, 0, 1, 11, 16, 18, 64, 100, 1024, 1025, 100000, -1, INT_MIN, 1L << 32), BF(SETS), BF(SETS + 128),
        BF(SETS + 256), BF(MOMENT)),
    ROW(pselect6, "vo", L(20, 0, 1, 11, 16, 18, 64, 100, 1024, 1025, 100000, -1), BF(SETS), BF(SETS + 128),
        BF(SETS + 256), BF(MOMENT), BF(0)),
};

/* Descriptors whose attributes may be changed: not those of the machine's devices. */
#define OWN L(RW, -1, CLOSED, RO, DIR, PATH_FD, MEMFD, APPEND)
#define IOCTL(request, arg) MORE(ioctl, #request, "o", F(RW), I(request), arg)
#define FCNTL(command, options, ...) MORE(fcntl, #command, options, F(RW), I(command), __VA_ARGS__)

static const struct row file_rows[] = {
    ROW(open, "nf", P("file"), B(O_RDONLY), I(0644)),
    MORE(open, "O_CREAT", "nf", P("new"), B(O_CREAT | O_WRONLY), B(0644)),
    MORE(open, "O_PATH", "nf", P("file"), B(O_PATH), I(0)),
    MORE(open, "O_PATH a link", "nf", P("link"), B(O_PATH | O_NOFOLLOW), I(0)),
    MORE(open, "O_EXCL", "nf", P("file"), B(O_CREAT | O_EXCL | O_RDWR), I(0644)),
    MORE(open, "O_TRUNC", "w", P("file"), B(O_TRUNC | O_WRONLY), I(0)),
    MORE(open, "O_TMPFILE", "nf", P("dir"), B(O_TMPFILE | O_RDWR), I(0600)),
    MORE(open, "O_DIRECTORY", "nf", P("dir"), B(O_DIRECTORY), I(0)),
    MORE(open, "null", "f", I("/dev/null"), B(O_RDWR), I(0)),
    MORE(open, "a fifo", "nf", I("fifo"), L(O_RDWR | O_NONBLOCK, O_RDONLY | O_NONBLOCK, O_WRONLY | O_NONBLOCK), I(0)),
    ROW(creat, "nf", P("new"), B(0644)),
    ROW(openat, "nf", D, P("file"), LB(O_RDWR), LB(0644)),
    ROW(close, "", F(RW)),
    ROW(close_range, "", L(30, 99, ~0u, -1), L(40, 29, 30, 1L << 32, ~0u, -1), LB(0)),
    ROW(dup, "f", F(RW)),
    ROW(dup2, "vf", F(RW), L(50, 10, -1, 1023, 1024, 1 << 20, INT_MAX)),
    ROW(dup3, "vf", F(RW), L(50, 10, -1, 1023, 1024, 1 << 20, INT_MAX), LB(0)),
    FCNTL(F_DUPFD, "vf", L(30, -1, 1023, 1024, INT_MAX)),
    FCNTL(F_DUPFD_CLOEXEC, "vf", L(30, -1, 1023, 1024)),
    FCNTL(F_GETFD, "v", LB(0)),
    FCNTL(F_SETFD, "w", LB(1)),
    FCNTL(F_GETFL, "v", LB(0)),
    FCNTL(F_SETFL, "w", LB(O_RDWR)),
    FCNTL(F_GETLK, "o", BF(LOCK)),
    FCNTL(F_SETLK, "", BF(LOCK)),
    FCNTL(F_SETLKW, "", BF(LOCK)),
    FCNTL(F_OFD_GETLK, "o", BF(LOCK)),
    FCNTL(F_OFD_SETLK, "", BF(LOCK)),
    FCNTL(F_OFD_SETLKW, "", BF(LOCK)),
    FCNTL(F_GETOWN, "v", I(0)),
    FCNTL(F_GETSIG, "v", I(0)),
    FCNTL(F_GETLEASE, "v", I(0)),
    FCNTL(F_GETPIPE_SZ, "v", I(0)),
    MORE(fcntl, "F_SETPIPE_SZ", "v", F(PIPE_R), I(F_SETPIPE_SZ), S(8192)),
    MORE(fcntl, "F_GET_SEALS", "v", F(MEMFD), I(F_GET_SEALS), I(0)),
    MORE(fcntl, "F_ADD_SEALS", "v", F(MEMFD), I(F_ADD_SEALS), LB(F_SEAL_GROW)),
    MORE(fcntl, "command", "v", F(RW), R(F_GETFD, -1, 60), I(LOCK)),
    MORE(fcntl, "a pipe's command", "v", F(PIPE_R), R(F_GETFD, 1000, 1050), I(4096)),
    MORE(fcntl, "O_PATH", "v", I(PATH_FD), R(F_GETFD, 0, 40), I(LOCK)),
    MORE(ioctl, "request", "", F(RW), R(FIONREAD, 0x5400, 0x5470), BF(OUT)),
    IOCTL(FIONREAD, BF(OUT)),
    IOCTL(FIONBIO, BF(EIGHT)),
    IOCTL(FIOCLEX, I(0)),
    IOCTL(FIONCLEX, I(0)),
    IOCTL(TCGETS, BF(OUT)),
    IOCTL(TIOCGWINSZ, BF(OUT)),
    MORE(ioctl, "a pipe's FIONREAD", "o", F(PIPE_R), I(FIONREAD), BF(OUT)),
    ROW(pipe, "", BF(PIPES)),
    ROW(pipe2, "", BF(PIPES), LB(0)),
    ROW(eventfd, "f", L(3, -1, 1L << 32, 0xffffffff)),
    ROW(eventfd2, "f", L(3, -1, 0xffffffff), LB(0)),
    ROW(epoll_create, "f", L(1, 0, -1, 1L << 32)),
    ROW(epoll_create1, "f", LB(0)),
    ROW(timerfd_create, "f", L(1, 0, 2, 7, 8, 9, 11, 99, -1), LB(0)),
    ROW(inotify_init1, "f", LB(0)),
    ROW(memfd_create, "f", BF(NAME), LB(0)),
    MORE(memfd_create, "long name", "f", I(long_name), I(0)),
    ROW(stat, "", P("file"), BF(OUT)),
    MORE(stat, "a fifo", "", I("fifo"), BF(OUT)),
    ROW(lstat, "", P("link"), BF(OUT)),
    ROW(fstat, "", F(RW), BF(OUT)),
    ROW(newfstatat, "", D, P("link"), BF(OUT), LB(0)),
    MORE(newfstatat, "empty path", "", F(RW), I(""), BF(OUT), B(AT_EMPTY_PATH)),
    ROW(statx, "", D, P("link"), LB(0), LB(0x7ff), BF(OUT)),
    MORE(statx, "empty path", "", F(RW), I(""), B(AT_EMPTY_PATH), I(0x7ff), BF(OUT)),
    ROW(statfs, "", P("file"), BF(OUT)),
    ROW(fstatfs, "", F(RW), BF(OUT)),
    ROW(access, "", P("file"), LB(R_OK)),
    ROW(faccessat, "", D, P("file"), LB(R_OK), LB(0)),
    ROW(faccessat2, "", D, P("file"), B(R_OK), LB(0)),
    MORE(faccessat2, "empty path", "", F(RW), I(""), B(R_OK), B(AT_EMPTY_PATH)),
    ROW(getdents64, "", F(DIR), BF(OUT), S(4096)),
    ROW(readlink, "vo", P("link"), BF(OUT), S(100)),
    ROW(readlinkat, "vo", D, P("link"), BF(OUT), S(100)),
    ROW(mkdir, "n", P("new"), B(0755)),
    ROW(mkdirat, "n", D, P("new"), B(0755)),
    ROW(mknod, "n", P("new"), L(S_IFIFO | 0644, 0644, S_IFREG, S_IFSOCK | 0644, S_IFDIR, S_IFLNK, 0170000, 0xffff, 1L << 32), LB(0)),
    ROW(mknodat, "n", D, P("new"), L(S_IFIFO | 0644, 0644, S_IFDIR, S_IFLNK, 0xffff), LB(0)),
    ROW(unlink, "w", P("file")),
    ROW(rmdir, "n", P("dir/sub")),
    ROW(unlinkat, "w", D, P("file"), LB(0)),
    MORE(unlinkat, "directory", "w", D, P("dir/sub"), B(AT_REMOVEDIR)),
    ROW(rename, "w", P("file"), P("new")),
    MORE(rename, "directory", "n", P("dir/sub"), P("new")),
    ROW(renameat, "w", D, P("file"), D, P("new")),
    ROW(renameat2, "w", D, P("file"), D, P("new"), LB(0)),
    MORE(renameat2, "exchange", "w", D, P("file"), D, P("file2"), B(2)),
    MORE(renameat2, "no replacing", "w", D, P("file"), D, P("file2"), B(1)),
    ROW(link, "w", P("file"), P("new")),
    ROW(linkat, "w", D, P("file"), D, P("new"), LB(0)),
    MORE(linkat, "follow", "w", D, P("link"), D, P("new"), B(AT_SYMLINK_FOLLOW)),
    ROW(symlink, "n", P("file"), P("new")),
    ROW(symlinkat, "n", P("file"), D, P("new")),
    ROW(chdir, "", P(".")),
    ROW(fchdir, "", F(DIR)),
    ROW(getcwd, "", BF(OUT), L(2000, 0, 1, 2, -1, 1L << 32)),
    ROW(umask, "v", I(022)),
    ROW(chmod, "w", P("file"), L(0600, 0, 0777, 010600, 0100644, -1)),
    ROW(fchmod, "w", OWN, L(0600, 0, 0777, 010600, 0100644)),
    ROW(fchmodat, "w", D, P("file"), L(0600, 010600), LB(0)),
    ROW(fchmodat2, "w", D, P("file"), L(0600, 010600), LB(0)),
    ROW(chown, "w", P("file"), L(-1, 0), L(-1, 0)),
    ROW(lchown, "w", P("link"), L(-1, 0), L(-1, 0)),
    ROW(fchown, "w", OWN, I(-1), I(-1)),
    ROW(fchownat, "w", D, P("file"), I(-1), I(-1), LB(0)),
    MORE(fchownat, "empty path", "w", OWN, I(""), I(-1), I(-1), B(AT_EMPTY_PATH)),
    ROW(utimensat, "w", D, P("file"), BF(TIMES), LB(0)),
    MORE(utimensat, "a descriptor's", "w", OWN, I(0), BF(TIMES), B(0)),
    MORE(utimensat, "empty path", "w", OWN, I(""), BF(TIMES), B(AT_EMPTY_PATH)),
    ROW(utimes, "w", P("file"), BF(TIMES)),
};

/* What programs read from /proc, descriptors by name, and attributes: procfs WHAT [ARG]...
 * Prints what it found, for the test to compare with a native run. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *why(long result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

/* Each file with a heading, as bytes. */
static void cat(char **paths) {
    static char bytes[1 << 16];
    for (; *paths; paths++) {
        int fd = open(*paths, O_RDONLY);
        printf("== %s %s\n", *paths, why(fd));
        ssize_t got;
        while (fd >= 0 && (got = read(fd, bytes, sizeof bytes)) > 0) fwrite(bytes, 1, got, stdout);
        if (fd >= 0) close(fd);
    }
}

static void list(char **paths) {
    for (; *paths; paths++) {
        struct dirent **names;
        int count = scandir(*paths, &names, NULL, alphasort);
        printf("== %s %s\n", *paths, why(count));
        for (int i = 0; i < count; i++) printf("%d %s\n", names[i]->d_type, names[i]->d_name);
    }
}

static void links(char **paths) {
    for (; *paths; paths++) {
        char text[512];
        ssize_t len = readlink(*paths, text, sizeof text);
        printf("%s %s %.*s\n", *paths, why(len), len < 0 ? 0 : (int)len, text);
    }
}

/* The line of maps that begins at `at`. */
static void map_line(const char *what, void *at) {
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to, offset, inode;
        unsigned major, minor;
        char rights[8], name[256] = "";
        sscanf(line, "%lx-%lx %7s %lx %x:%x %lu %255[^\n]", &from, &to, rights, &offset, &major,
               &minor, &inode, name);
        if (from == (unsigned long)at)
            printf("%s %s %lx %s%s\n", what, rights, offset, name, inode ? " inode" : "");
    }
    fclose(maps);
}

static void maps(char **paths) {
    int fd = open(paths[0], O_RDWR | O_CREAT, 0600);
    ftruncate(fd, 8192);
    int prot = PROT_READ | PROT_WRITE;
    /* Holes between them keep neighbours from becoming one line. */
    char *at = mmap(NULL, 64 << 12, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct { const char *what; int flags, fd, offset; } kinds[] = {
        {"shared-file", MAP_SHARED, fd, 4096},
        {"private-file", MAP_PRIVATE, fd, 0},
        {"shared-anonymous", MAP_SHARED | MAP_ANONYMOUS, -1, 0},
        {"private-anonymous", MAP_PRIVATE | MAP_ANONYMOUS, -1, 0},
        {"memfd", MAP_SHARED, memfd_create("mine", 0), 0},
    };
    ftruncate(kinds[4].fd, 4096);
    for (int i = 0; i < 5; i++) {
        void *here = at + (i * 8 + 4) * 4096;
        mmap(here, 4096, prot, kinds[i].flags | MAP_FIXED, kinds[i].fd, kinds[i].offset);
        map_line(kinds[i].what, here);
    }
}

static void *second(void *barrier) {
    pthread_setname_np(pthread_self(), "second");
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier);
    return NULL;
}

static void print_comm(const char *path) {
    char name[32] = "";
    FILE *file = fopen(path, "r");
    if (file && fgets(name, sizeof name, file)) printf("%s", name);
    else printf("%s\n", why(-1));
    if (file) fclose(file);
}

static void threads(void) {
    pthread_barrier_t barrier;
    pthread_t thread;
    char path[64];
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, second, &barrier);
    pthread_barrier_wait(&barrier);
    DIR *tasks = opendir("/proc/self/task");
    int count = 0, tid = 0;
    for (struct dirent *entry; (entry = readdir(tasks));)
        if (entry->d_name[0] != '.') {
            count++;
            if (atoi(entry->d_name) != getpid()) tid = atoi(entry->d_name);
        }
    printf("threads %d\n", count);
    print_comm("/proc/self/comm");
    sprintf(path, "/proc/self/task/%d/comm", tid);
    print_comm(path);
    /* What pthread_setname_np does for another thread. */
    printf("set %d\n", pthread_setname_np(thread, "renamed-by-other"));
    printf("set %d\n", pthread_setname_np(thread, "renamed"));
    print_comm(path);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    while (access(path, F_OK) == 0) usleep(1000);
    print_comm(path);
}

static void names(char **paths) {
    char path[64], text[8] = "", to[300];
    struct stat named, opened;
    chdir(paths[0]);
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    sprintf(path, "/proc/self/fd/%d", fd);
    printf("link %s\n", why(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW)));
    write(fd, "hello", 5);
    int again = open(path, O_RDONLY);
    printf("again %s %ld %s\n", why(again), (long)read(again, text, 7), text);
    stat("named", &named);
    stat(path, &opened);
    printf("same %d\n", named.st_ino == opened.st_ino && named.st_dev == opened.st_dev);
    printf("chmod %s\n", why(chmod(path, 0640)));
    stat("named", &named);
    printf("mode %o\n", named.st_mode & 0777);
    int dir = open(".", O_PATH | O_DIRECTORY);
    sprintf(to, "/proc/self/fd/%d/named", dir);
    printf("through %s\n", why(open(to, O_RDONLY)));
    printf("gone %s\n", why(open("/proc/self/fd/77", O_RDONLY)));
    /* A pipe is reopened by its name, too. */
    int ends[2];
    pipe(ends);
    sprintf(path, "/dev/fd/%d", ends[0]);
    write(ends[1], "pipe", 4);
    again = open(path, O_RDONLY);
    memset(text, 0, sizeof text);
    printf("pipe %ld %s\n", (long)read(again, text, 7), text);
}

static void attributes(char **paths) {
    char value[64];
    chdir(paths[0]);
    close(open("f", O_CREAT | O_RDWR, 0600));
    errno = 0;
    getxattr("f", "system.posix_acl_access", value, sizeof value);
    printf("%s\n", errno == ENODATA || errno == EOPNOTSUPP ? "none" : strerrorname_np(errno));
    printf("get %s\n", why(getxattr("f", "user.none", value, sizeof value)) );
    printf("list %ld\n", (long)listxattr("f", value, sizeof value));
    printf("flags %s\n", why(setxattr("f", "user.x", "v", 1, 8)));
    printf("name %s\n", why(getxattr("f", "", value, sizeof value)));
    printf("file %s\n", why(lgetxattr("none", "user.x", value, sizeof value)));
    printf("fd %s\n", why(fgetxattr(99, "user.x", value, sizeof value)));
}

/* Older variants of calls, and some that are refused. */
static void legacy(char **paths) {
    char bytes[4096];
    chdir(paths[0]);
    int fd = open("f", O_CREAT | O_RDWR, 0600), dir = open(".", O_RDONLY);
    long got = syscall(SYS_getdents, dir, bytes, sizeof bytes), at = 0;
    int found = 0;
    while (at < got) {
        unsigned short len = *(unsigned short *)(bytes + at + 16);
        found |= !strcmp(bytes + at + 18, "f") && bytes[at + len - 1] == DT_REG;
        at += len;
    }
    printf("getdents %d %d\n", found, at == got);
    long pair[2] = {11, 22}, four[4] = {33, 444, 55, 666}, bad[4] = {0, 1000000, 0, 0};
    struct stat now;
    printf("utime %s", why(syscall(SYS_utime, "f", pair)));
    stat("f", &now);
    printf(" %ld %ld\n", now.st_atim.tv_sec, now.st_mtim.tv_sec);
    printf("futimesat %s", why(syscall(SYS_futimesat, dir, "f", four)));
    stat("f", &now);
    printf(" %ld.%ld %ld.%ld\n", now.st_atim.tv_sec, now.st_atim.tv_nsec, now.st_mtim.tv_sec,
           now.st_mtim.tv_nsec);
    printf("futimesat %s\n", why(syscall(SYS_futimesat, fd, NULL, four)));
    printf("futimesat %s\n", why(syscall(SYS_futimesat, dir, "f", bad)));
    printf("readahead %s\n", why(readahead(fd, 0, 4096)));
    printf("readahead %s\n", why(readahead(dir, 0, 4096)));
    printf("readahead %s\n", why(readahead(99, 0, 4096)));
    sync();
    printf("syncfs %s\n", why(syncfs(fd)));
    printf("ustat %s\n", why(syscall(SYS_ustat, 0xffffff, bytes)));
    printf("sysfs %d %s\n", syscall(SYS_sysfs, 3) > 0, why(syscall(SYS_sysfs, 9)));
    struct statfs fs;
    printf("statfs %lx %lx\n", (long)(statfs("/proc", &fs), fs.f_type),
           (long)(statfs("/proc/self/status", &fs), fs.f_type));
}

static void devices(void) {
    const char *names[] = {"null", "zero", "full", "random", "urandom"};
    for (int i = 0; i < 5; i++) {
        char path[32], bytes[4] = "abc";
        sprintf(path, "/dev/%s", names[i]);
        int fd = open(path, O_RDWR), only = open(path, O_RDONLY);
        struct stat what;
        fstat(fd, &what);
        printf("%s %o %lx", names[i], what.st_mode & S_IFMT, (long)what.st_rdev);
        printf(" write %s", why(write(fd, "x", 1)));
        long got = read(fd, bytes, 4);
        printf(" read %ld %d", got, i == 1 && !bytes[0] && !bytes[3]);
        printf(" seek %ld", (long)lseek(fd, 100, SEEK_SET));
        char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        printf(" map %s", at == MAP_FAILED ? why(-1) : at[7] ? "full" : "ok");
        at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, only, 0);
        printf(" shared %s\n", why(at == MAP_FAILED ? -1 : 0));
    }
}

/* Read from the beginning again, a file shows the current values. */
static void reread(void) {
    char before[4096], after[4096];
    int fd = open("/proc/self/status", O_RDONLY);
    before[read(fd, before, sizeof before - 1)] = 0;
    pthread_barrier_t barrier;
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, second, &barrier);
    pthread_barrier_wait(&barrier);
    lseek(fd, 0, SEEK_SET);
    after[read(fd, after, sizeof after - 1)] = 0;
    printf("%.10s %.10s", strstr(before, "Threads:"), strstr(after, "Threads:"));
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    char path[64];
    int count = 2;
    while (count > 1) {
        DIR *tasks = opendir("/proc/self/task");
        for (count = -2; readdir(tasks); count++) {}
        closedir(tasks);
    }
    after[pread(fd, after, sizeof after - 1, 0)] = 0;
    sprintf(path, "%.10s", strstr(after, "Threads:"));
    printf(" %s\n", path);
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    char **rest = argv + 2;
    if (!strcmp(argv[1], "cat")) cat(rest);
    else if (!strcmp(argv[1], "list")) list(rest);
    else if (!strcmp(argv[1], "links")) links(rest);
    else if (!strcmp(argv[1], "maps")) maps(rest);
    else if (!strcmp(argv[1], "threads")) threads();
    else if (!strcmp(argv[1], "names")) names(rest);
    else if (!strcmp(argv[1], "attributes")) attributes(rest);
    else if (!strcmp(argv[1], "legacy")) legacy(rest);
    else if (!strcmp(argv[1], "devices")) devices();
    else if (!strcmp(argv[1], "reread")) reread();
    else if (!strcmp(argv[1], "pid")) printf("%d\n", getpid());
    else return 2;
    return 0;
}

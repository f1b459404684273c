/* stdio and raw file calls in the directory given. Prints "fileio: fine" and exits with 0,
 * or names the line that failed and exits with 1. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno);                      \
            return 1;                                                                             \
        }                                                                                         \
    } while (0)

int main(int argc, char **argv)
{
    char text[100];
    void *volatile wild = (void *)16;
    struct stat meta;
    CHECK(argc == 2 && chdir(argv[1]) == 0);
    FILE *file = fopen("numbers", "w+");
    CHECK(file);
    for (int i = 0; i < 10000; i++)
        fprintf(file, "%d\n", i);
    rewind(file);
    long sum = 0, number, count = 0;
    while (fscanf(file, "%ld", &number) == 1) {
        sum += number;
        count++;
    }
    CHECK(count == 10000 && sum == 49995000);
    CHECK(fseek(file, -5, SEEK_END) == 0 && fgets(text, sizeof text, file));
    CHECK(strcmp(text, "9999\n") == 0);
    CHECK(fclose(file) == 0 && stat("numbers", &meta) == 0 && meta.st_size == 48890);

    int fd = open("raw", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && open("raw", O_CREAT | O_EXCL, 0600) == -1 && errno == EEXIST);
    struct iovec parts[2] = {{"one ", 4}, {"two", 3}};
    CHECK(writev(fd, parts, 2) == 7 && lseek(fd, 0, SEEK_CUR) == 7);
    CHECK(pwrite(fd, "ONE", 3, 0) == 3 && pread(fd, text, 100, 0) == 7);
    CHECK(memcmp(text, "ONE two", 7) == 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    int copy = dup(fd), high = fcntl(fd, F_DUPFD, 50);
    CHECK(copy >= 0 && high >= 50 && dup2(fd, copy) == copy && close(copy) == 0 && close(high) == 0);
    CHECK(read(copy, text, 1) == -1 && errno == EBADF);
    CHECK(read(fd, wild, 5) == 0 && lseek(fd, 0, SEEK_SET) == 0);
    CHECK(read(fd, wild, 5) == -1 && errno == EFAULT);
    CHECK(ftruncate(fd, 3) == 0 && fstat(fd, &meta) == 0 && meta.st_size == 3);
    CHECK(fsync(fd) == 0 && close(fd) == 0);
    CHECK(isatty(0) == 0 || errno == 0);

    CHECK(mkdir("sub", 0755) == 0 && mkdir("sub", 0755) == -1 && errno == EEXIST);
    int dir = open("sub", O_RDONLY | O_DIRECTORY);
    CHECK(dir >= 0 && renameat(AT_FDCWD, "raw", dir, "raw") == 0);
    CHECK(faccessat(dir, "raw", R_OK, 0) == 0 && access("raw", F_OK) == -1 && errno == ENOENT);
    DIR *entries = fdopendir(dir);
    int seen = 0;
    for (struct dirent *entry; (entry = readdir(entries));)
        seen += strcmp(entry->d_name, "raw") == 0 ? 100 : 1;
    CHECK(seen == 102 && closedir(entries) == 0);
    CHECK(rmdir("sub") == -1 && errno == ENOTEMPTY);
    CHECK(unlink("sub/raw") == 0 && rmdir("sub") == 0 && unlink("numbers") == 0);
    printf("fileio: fine\n");
    return 0;
}

/* Maps something else where a vDSO has its data, after the clock was used, and runs on: the first
   argument says what ("cut": a memfd that is truncated; "read-only": a file opened for reading;
   "unmap": nothing), the second how many pages, the third a file to read. Everything after it is
   by system calls: natively the vDSO must not be called any more. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec now;
    if (argc != 4)
        return 2;
    for (int i = 0; i < 100; i++)
        clock_gettime(CLOCK_MONOTONIC, &now);
    size_t bytes = 4096 * (size_t)atoi(argv[2]);
    char *data = (char *)getauxval(AT_SYSINFO_EHDR) - bytes;
    if (strcmp(argv[1], "cut") == 0) {
        int fd = memfd_create("cut", 0);
        if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
            return 3;
        /* A kernel may refuse: then its own data stays. */
        mmap(data, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        if (ftruncate(fd, 0) != 0)
            return 4;
    } else if (strcmp(argv[1], "read-only") == 0) {
        int fd = open(argv[3], O_RDONLY);
        if (fd < 0)
            return 5;
        mmap(data, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    } else {
        munmap(data, bytes);
    }
    /* The clock's words are updated once a second. */
    for (int i = 0; i < 3; i++) {
        struct timespec second = {1, 0};
        syscall(SYS_nanosleep, &second, 0);
        if (write(1, "still here\n", 11) != 11)
            return 6;
    }
    return 0;
}

/* MAP_HUGETLB: anonymous memory in pages of 2 MiB, opened step by step as allocators do it.
   In a VM only: a host without a pool of huge pages refuses. Exit status 0 on success. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define MB (1ul << 20)

static int check(const char *what, int good)
{
    if (!good)
        printf("wrong: %s\n", what);
    return !good;
}

int main(void)
{
    int bad = 0;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_HUGETLB;
    char *at = mmap(0, 8 * MB, PROT_NONE, flags, -1, 0);
    bad |= check("a reservation", at != MAP_FAILED);
    if (bad)
        return 1;
    bad |= check("alignment", (unsigned long)at % (2 * MB) == 0);
    for (int i = 0; i < 4; i++) {
        bad |= check("opening", mprotect(at + i * 2 * MB, 2 * MB, PROT_READ | PROT_WRITE) == 0);
        bad |= check("zeroes", at[i * 2 * MB] == 0 && at[i * 2 * MB + 2 * MB - 1] == 0);
        memset(at + i * 2 * MB, i + 1, 2 * MB);
    }
    for (int i = 0; i < 4; i++)
        bad |= check("content", at[i * 2 * MB + MB] == i + 1);
    bad |= check("closing", munmap(at, 8 * MB) == 0);
    char *odd = mmap(0, 3 * MB, PROT_READ, flags, -1, 0);
    bad |= check("a length that is no multiple", odd == MAP_FAILED && errno == EINVAL);
    char *giant = mmap(0, 1024 * MB, PROT_READ, flags | (30 << 26), -1, 0);
    bad |= check("a size that is not offered", giant == MAP_FAILED && errno == EINVAL);
    puts(bad ? "done" : "huge pages: fine");
    return bad;
}

// mixed_protect FILE: write-protects memory and a read-only mapping of FILE behind it in one call,
// makes the memory writable again, and writes there. Prints "fine 7".

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    int all = open(argv[1], O_RDWR | O_CREAT, 0600);
    int reader = open(argv[1], O_RDONLY);
    if (all < 0 || reader < 0 || ftruncate(all, 4096) != 0)
        return 3;
    char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 4;
    p[0] = 1;
    if (mmap(p + 4096, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, reader, 0) == MAP_FAILED)
        return 5;
    if (mprotect(p, 8192, PROT_READ) != 0 || mprotect(p, 4096, PROT_READ | PROT_WRITE) != 0)
        return 6;
    p[0] = 7;
    printf("fine %d\n", p[0]);
    return 0;
}

/* Files that are smaller, or may become smaller, than the program assumes.
   "cut FILE": maps FILE beyond its end, touches pages there, and one that is truncated after it
   was used; the handler of SIGBUS says whether it was told the address.
   "write FILE" and "ignore FILE": write to FILE until that fails, with SIGXFSZ as it is and
   ignored; "still alive" at the end. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static sigjmp_buf back;
static void *volatile told;

static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    told = info->si_addr;
    siglongjmp(back, 1);
}

static void touch(const char *what, char *at)
{
    told = NULL;
    if (!sigsetjmp(back, 1)) {
        *(volatile char *)at = 1;
        printf("%s: no signal\n", what);
    } else {
        printf("%s: the address is %s\n", what, told == at ? "right" : told ? "wrong" : "missing");
    }
}

static void cut(const char *path)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, 8192))
        exit(2);
    char *map = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    map[0x1123] = 1;
    touch("behind the end", map + 0x3123);
    touch("far behind it", map + 0x7fff);
    if (ftruncate(file, 4096))
        exit(2);
    touch("truncated", map + 0x1123);
    if (ftruncate(file, 8192))
        exit(2);
    touch("there again", map + 0x1123);
}

static void fill(const char *path)
{
    int file = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    static char block[65536];
    ssize_t written;
    do
        written = write(file, block, sizeof block);
    while (written == sizeof block);
    if (written >= 0)
        written = write(file, block, sizeof block);
    printf("write: %s\n", written < 0 ? strerror(errno) : "done");
    puts("still alive");
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc != 3)
        return 2;
    if (!strcmp(argv[1], "cut"))
        return cut(argv[2]), 0;
    if (!strcmp(argv[1], "ignore"))
        signal(SIGXFSZ, SIG_IGN);
    return fill(argv[2]), 0;
}

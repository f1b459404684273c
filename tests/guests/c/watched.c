/* Uses memory that a debugger watches, as its argument says:
 *
 *   far       writes and reads it, with instructions between that use no memory: ten million, or as many as the next
 *             argument says
 *   await     says where it is, and a function, and does the same when it has read a byte
 *   beside    the same, but with as many uses of what is beside it
 *   join      the same, and does what follows
 *   threads   two threads use what is beside it, one of them it, too
 *   hidden    looks whether anything shows that it is watched: calls, rights, faults, children
 *
 * Status 7; 1 when something is wrong. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* In a page of its own with its neighbours. */
struct page {
    volatile long watched;
    volatile long beside[3];
    char rest[4096 - 4 * sizeof(long)];
};
struct page page __attribute__((aligned(4096)));
static sigjmp_buf back;
/* Instructions between two uses. */
static long between = 10000000;

__attribute__((noinline)) void begins(void)
{
    __asm__ volatile("" ::: "memory");
}

static int is_beside;

static void compute(void)
{
    long turns = between / 2;
    for (; is_beside && turns > 0; turns--)
        page.beside[1]++;
    if (is_beside)
        return;
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(turns) : : "cc");
}

static int far(void)
{
    long read = 0;
    for (int round = 1; round <= 4; round++) {
        compute();
        page.beside[0] += round;
        compute();
        page.watched = 10 * round;
        compute();
        read += page.watched;
    }
    return read == 100 && page.beside[0] == 10 ? 7 : 1;
}

static void *uses(void *number)
{
    long own = (long)number;
    for (int turn = 0; turn < 300; turn++) {
        page.beside[own]++;
        if (own == 2 && turn % 100 == 99)
            page.watched++;
    }
    return NULL;
}

static int threads(void)
{
    pthread_t both[2];
    for (long number = 0; number < 2; number++)
        if (pthread_create(&both[number], NULL, uses, (void *)(number + 1)) != 0)
            return 1;
    for (int number = 0; number < 2; number++)
        pthread_join(both[number], NULL);
    return page.beside[1] == 300 && page.beside[2] == 300 && page.watched == 3 ? 7 : 1;
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)context;
    siglongjmp(back, signal == SIGSEGV && info->si_addr == &page.watched && info->si_code == SEGV_ACCERR ? 1 : 2);
}

/* The rights that /proc has for the page. */
static int rights(char *to)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    int found = 0;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        unsigned long from, end;
        found = sscanf(line, "%lx-%lx %4s", &from, &end, to) == 3 && from <= (unsigned long)&page
                && (unsigned long)&page < end;
    }
    if (maps)
        fclose(maps);
    return found;
}

static int hidden(void)
{
    char shown[8] = "", bytes[64];
    int pipes[2], status;
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, NULL);
    /* What calls do is not seen, and does not fail. */
    if (pipe(pipes) != 0 || write(pipes[1], "12345678", 8) != 8
        || read(pipes[0], (void *)&page.watched, 8) != 8)
        return 1;
    if (write(pipes[1], (void *)&page, 64) != 64 || read(pipes[0], bytes, 64) != 64
        || memcmp(bytes, "12345678", 8) != 0)
        return 2;
    if (!rights(shown) || strcmp(shown, "rw-p") != 0)
        return 3;
    /* A child has it, and nobody sees what it does. */
    pid_t child = fork();
    if (child == 0) {
        page.watched = 99;
        _exit(page.watched == 99 ? 9 : 1);
    }
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 9)
        return 4;
    if (memcmp((void *)&page.watched, "12345678", 8) != 0)
        return 5;
    page.watched = 1;
    /* A page that may not be written is a fault as natively, with no write seen. */
    mprotect(&page, sizeof page, PROT_READ);
    int got = sigsetjmp(back, 1);
    if (got == 0) {
        page.watched = 2;
        return 6;
    }
    if (got != 1 || page.watched != 1 || !rights(shown) || strcmp(shown, "r--p") != 0)
        return 8;
    mprotect(&page, sizeof page, PROT_NONE);
    got = sigsetjmp(back, 1);
    if (got == 0) {
        page.watched = 2;
        return 9;
    }
    if (got != 1 || mprotect(&page, sizeof page, PROT_READ | PROT_WRITE) != 0 || page.watched != 1)
        return 10;
    page.watched = 3;
    /* Other memory in its place. */
    if (mmap(&page, sizeof page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
        != &page || page.beside[0] != 0)
        return 11;
    page.watched = 4;
    page.beside[0] = 5;
    if (madvise(&page, sizeof page, MADV_DONTNEED) != 0 || page.watched != 0 || page.beside[0] != 0)
        return 12;
    /* By an instruction that uses it many times, and memory beyond it. */
    static char source[sizeof page];
    memset(source, 6, sizeof source);
    char *to = (char *)&page, *from = source;
    size_t count = sizeof page;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return memcmp((void *)&page, source, sizeof page) == 0 ? 7 : 13;
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    if (argc > 2)
        between = atol(argv[2]);
    is_beside = !strcmp(how, "beside");
    int joins = !strcmp(how, "join");
    if (is_beside || joins || !strcmp(how, "await")) {
        char byte;
        printf("%lx %lx\n", (unsigned long)&page.watched, (unsigned long)begins);
        fflush(stdout);
        if (read(0, &byte, 1) != 1)
            return 1;
        how = joins ? "threads" : "far";
    }
    begins();
    int status = !strcmp(how, "far") ? far() : !strcmp(how, "threads") ? threads() : hidden();
    printf("%s\n", status == 7 ? "as natively" : "otherwise");
    return status;
}

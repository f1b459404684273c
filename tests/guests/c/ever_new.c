/* Maps and frees new addresses again and again.
 *
 *   cycles N     N times; prints `warm` after a thousand and `done` at the end, and both times
 *                waits for a line
 *   content      new addresses with their own content, each checked before it is freed
 *   stale        a thread that has used addresses and comes back when they are freed
 *   blocked      an address freed while a call waits to store there */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define SLOT (2ul << 20)
#define BASE (1ul << 40)
/* 14 TiB: after as many cycles as this has 2 MiB ranges, they start over. */
#define SPAN (7ul << 20)

static void fail(const char *what, unsigned long n)
{
    printf("%s at %lu: %s\n", what, n, strerror(errno));
    exit(1);
}

static unsigned long *place(unsigned long n)
{
    return (unsigned long *)(BASE + n % SPAN * SLOT);
}

static unsigned long *map(unsigned long n)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void *at = mmap(place(n), PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (at != place(n))
        fail("cannot map", n);
    return at;
}

static void unmap(unsigned long n)
{
    if (munmap(place(n), PAGE))
        fail("cannot unmap", n);
}

static void wait_for_a_line(const char *said)
{
    puts(said);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) == 1 && byte != '\n')
        ;
}

static pthread_t start(void *(*body)(void *), void *argument)
{
    /* The usual stack is half of what the tests give. */
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16 * PAGE);
    pthread_t thread;
    errno = pthread_create(&thread, &attributes, body, argument);
    if (errno)
        fail("no thread", 0);
    return thread;
}

static void cycles(unsigned long count)
{
    for (unsigned long n = 0; n < count; n++) {
        unsigned long *at = map(n);
        if (at[0] || at[511])
            fail("not zero", n);
        at[0] = n + 1;
        at[511] = ~n;
        unmap(n);
        if (n == 999)
            wait_for_a_line("warm");
    }
    wait_for_a_line("done");
}

/* How many exist at a time, and how many in all: blocks are recycled by the hundred. */
#define LIVE 64ul
#define CONTENT 4000ul

static _Atomic int is_over;

/* Reads its own memory all the time, so that its processor caches every translation. */
static void *keep_looking(void *argument)
{
    unsigned long of = (unsigned long)argument;
    unsigned long *own[8];
    for (unsigned long n = 0; n < 8; n++) {
        own[n] = map(SPAN - 1 - of * 8 - n);
        own[n][0] = own[n][511] = of * 8 + n + 1;
    }
    while (!is_over)
        for (unsigned long n = 0; n < 8; n++)
            if (own[n][0] != of * 8 + n + 1 || own[n][511] != of * 8 + n + 1)
                fail("a bystander's memory changed", n);
    return NULL;
}

static void content(void)
{
    pthread_t threads[2];
    for (unsigned long n = 0; n < 2; n++)
        threads[n] = start(keep_looking, (void *)n);
    for (unsigned long n = 0; n < CONTENT + LIVE; n++) {
        if (n < CONTENT) {
            unsigned long *at = map(n);
            if (at[0] || at[511])
                fail("not zero", n);
            at[0] = n + 1;
            at[511] = ~n;
        }
        if (n >= LIVE) {
            unsigned long *old = place(n - LIVE);
            if (old[0] != n - LIVE + 1 || old[511] != ~(n - LIVE))
                fail("content changed", n - LIVE);
            unmap(n - LIVE);
        }
    }
    is_over = 1;
    for (unsigned long n = 0; n < 2; n++)
        pthread_join(threads[n], NULL);
    puts("content ok");
}

static __thread sigjmp_buf back;

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(back, 1);
}

static pthread_barrier_t turn;
#define USED 200ul
/* More than are ever left idle under the limit that the test sets. */
#define BETWEEN 600ul

static void *come_back(void *argument)
{
    unsigned long sum = 0;
    for (unsigned long n = 0; n < USED; n++)
        sum += place(n)[0];
    pthread_barrier_wait(&turn);
    /* They are freed, and their blocks reused. */
    pthread_barrier_wait(&turn);
    for (volatile unsigned long n = 0; n < USED; n++) {
        if (sigsetjmp(back, 1))
            continue;
        place(n)[1] = 0xbad;
        fail("a freed place can be used", n);
    }
    *(unsigned long *)argument = sum;
    return NULL;
}

static void stale(void)
{
    struct sigaction action = {.sa_handler = on_fault};
    sigaction(SIGSEGV, &action, NULL);
    pthread_barrier_init(&turn, NULL, 2);
    for (unsigned long n = 0; n < USED; n++)
        map(n)[0] = n;
    unsigned long sum = 0;
    pthread_t thread = start(come_back, &sum);
    pthread_barrier_wait(&turn);
    for (unsigned long n = 0; n < USED; n++)
        unmap(n);
    for (unsigned long n = USED; n < USED + BETWEEN; n++) {
        map(n)[0] = 7;
        unmap(n);
    }
    for (unsigned long n = 0; n < USED + BETWEEN; n++)
        map(n + USED + BETWEEN);
    pthread_barrier_wait(&turn);
    pthread_join(thread, NULL);
    if (sum != USED * (USED - 1) / 2)
        fail("wrong content", sum);
    for (unsigned long n = 0; n < USED + BETWEEN; n++)
        if (place(n + USED + BETWEEN)[1])
            fail("written through a freed place", n);
    puts("stale ok");
}

static int ends[2];
static _Atomic int is_reading;

static void *wait_to_store(void *argument)
{
    is_reading = 1;
    *(long *)argument = read(ends[0], place(0), PAGE);
    return NULL;
}

static void blocked(void)
{
    static char bytes[PAGE];
    memset(bytes, 0x5a, sizeof bytes);
    if (pipe(ends))
        fail("no pipe", 0);
    map(0)[0] = 1;
    long done = -1;
    pthread_t thread = start(wait_to_store, &done);
    while (!is_reading)
        ;
    /* Nothing tells when it waits; a call that began later fails with EFAULT, which is harmless. */
    usleep(200000);
    unmap(0);
    for (unsigned long n = 1; n < 1000; n++) {
        map(n)[0] = 7;
        unmap(n);
    }
    for (unsigned long n = 1000; n < 1700; n++)
        map(n)[0] = 1;
    if (write(ends[1], bytes, PAGE) != (long)PAGE)
        fail("cannot write", 0);
    pthread_join(thread, NULL);
    for (unsigned long n = 1000; n < 1700; n++)
        if (place(n)[0] != 1 || place(n)[1] || place(n)[511])
            fail("another thread's bytes", n);
    printf("blocked ok: %ld\n", done);
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "cycles"))
        cycles(strtoul(argv[2], NULL, 10));
    else if (argc > 1 && !strcmp(argv[1], "content"))
        content();
    else if (argc > 1 && !strcmp(argv[1], "stale"))
        stale();
    else if (argc > 1 && !strcmp(argv[1], "blocked"))
        blocked();
    else
        return 2;
    return 0;
}

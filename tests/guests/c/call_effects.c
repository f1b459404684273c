/* Calls whose effect is visible only through other calls: what was set holds and is read back.
 *
 *     call_effects DIR     prints the same natively and in a VM */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096

static cpu_set_t mine;
static atomic_int outside;

static const char *said(int failed)
{
    return failed ? strerrorname_np(errno) : "ok";
}

static void *look_where(void *unused)
{
    if (!CPU_ISSET(sched_getcpu(), &mine))
        outside++;
    return unused;
}

static void scheduling(void)
{
    pthread_t threads[16];
    sched_getaffinity(0, sizeof mine, &mine);
    for (int i = 0; i < 16; i++)
        pthread_create(threads + i, 0, look_where, 0);
    for (int i = 0; i < 16; i++)
        pthread_join(threads[i], 0);
    printf("threads outside their processors: %d\n", outside);
    int first = 0;
    while (!CPU_ISSET(first, &mine))
        first++;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    printf("one processor: %s", said(sched_setaffinity(0, sizeof one, &one)));
    CPU_ZERO(&one);
    sched_getaffinity(0, sizeof one, &one);
    printf(", now %d, on it: %d\n", CPU_COUNT(&one), sched_getcpu() == first);
    printf("nice: %s", said(setpriority(PRIO_PROCESS, 0, 7)));
    printf(", now %d\n", getpriority(PRIO_PROCESS, 0));
    struct sched_param none = { 0 };
    printf("batch: %s", said(sched_setscheduler(0, SCHED_BATCH, &none)));
    printf(", now %d\n", sched_getscheduler(0) == SCHED_BATCH);
}

static void memory(void)
{
    int file = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (ftruncate(file, 40 * PAGE))
        printf("no file\n");
    char *all = mmap(0, 35 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    mmap(all, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0);
    all[0] = 'x';
    all[34 * PAGE] = 'y';
    char *moved = mremap(all, 35 * PAGE, 36 * PAGE, MREMAP_MAYMOVE);
    printf("equal neighbours: %s", said(moved == MAP_FAILED));
    printf(", content %c %c\n", moved[0], moved[34 * PAGE]);
    char *zeroes = mmap(0, PAGE, PROT_READ, MAP_SHARED, open("/dev/zero", O_RDONLY), 0);
    printf("zeroes to write: %s, still %d\n", said(mprotect(zeroes, PAGE, PROT_READ | PROT_WRITE)), zeroes[7]);
    char *low = mmap(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    printf("in the second gigabyte: %d\n", (unsigned long)low >> 30 == 1);
    printf("heap on a page: %d\n", (int)((unsigned long)sbrk(0) % 16));
}

static void limits(void)
{
    struct rlimit limit = { 40, 50 }, now;
    printf("files: %s", said(setrlimit(RLIMIT_NOFILE, &limit)));
    int highest = 0;
    for (int fd; (fd = open("/dev/null", O_RDONLY)) >= 0;)
        highest = fd;
    printf(", highest %d, then %s", highest, said(1));
    getrlimit(RLIMIT_NOFILE, &now);
    printf(", now %ld %ld\n", (long)now.rlim_cur, (long)now.rlim_max);
    limit.rlim_cur = 60;
    printf("soft above hard: %s\n", said(setrlimit(RLIMIT_NOFILE, &limit)));
    limit = (struct rlimit){ 64 << 20, RLIM_INFINITY };
    printf("memory: %s", said(setrlimit(RLIMIT_AS, &limit)));
    int refused = mmap(0, 128 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
    printf(", too much: %s", said(refused));
    refused = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
    printf(", little: %s\n", said(refused));
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IONBF, 0);
    if (argc < 2 || chdir(argv[1]))
        return 2;
    int ends[2];
    char byte;
    if (pipe(ends))
        return 2;
    printf("nothing from an empty pipe: %ld\n", (long)read(ends[0], &byte, 0));
    printf("from a place in a pipe: %s\n", said(pread(ends[0], &byte, 1, 0) < 0));
    int bad = setuid(getuid()) | setgid(getgid()) | setresuid(-1, -1, -1) | setregid(getgid(), -1);
    printf("the same ids: %s\n", said(bad));
    personality(ADDR_NO_RANDOMIZE);
    printf("personality: %x\n", personality(0xffffffff));
    memory();
    scheduling();
    limits();
    return 0;
}

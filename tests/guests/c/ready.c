/* A program that takes long to begin, and says where copies of it are to begin. What it prints then: who it is, its
 * arguments, and of its environment COLOUR.
 *
 *     ready MIB HOW ARGS
 *
 * with so much memory filled before, and HOW one of
 *   once    it is ready, and ends
 *   twice   it is ready, and once more
 *   asked   when it has read a line
 *   shared  with memory that other processes may have
 *   child   a process that it has started is ready, and not it itself
 *   exec    the program that takes its place is
 *   threads it is ready with three other threads: one computes, one waits for a condition, one sleeps
 *   caller  the same, and it is another thread that says so
 *   vas     the same, and the thread that says so is inside the VAS `books`, reading
 *   never
 * Status 7, of a copy 8; 1 when something is wrong, 3 outside a VM. */
#ifndef LINKED
#define SPACEJMP_HEADER_ONLY
#endif
#define _GNU_SOURCE
#include <spacejmp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static unsigned char *table;
static size_t pages;

static void tell(int who, int argc, char **argv, char **envp)
{
    size_t wrong = 0;
    for (size_t page = 0; page < pages; page++)
        wrong += table[page << 12] != page % 251 + 1;
    if (who < 0)
        printf("failed: %s", strerror(errno));
    else
        printf("%s", who ? "copy" : "original");
    for (int i = 1; i < argc; i++)
        printf(" [%s]", argv[i]);
    for (; *envp; envp++)
        if (!strncmp(*envp, "COLOUR=", 7))
            printf(" %s", *envp);
    printf(" %zu of %zu wrong\n", wrong, pages);
    /* What is left in a buffer would be in each copy. */
    fflush(stdout);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int is_told;
static atomic_int stops;
static atomic_ulong turns, sleeps;

static void *computes(void *unused)
{
    while (!stops)
        turns++;
    return unused;
}

static void *waits(void *unused)
{
    pthread_mutex_lock(&mutex);
    while (!is_told)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    return unused;
}

static void *naps(void *unused)
{
    for (; !stops; sleeps++)
        usleep(1000);
    return unused;
}

struct call {
    int *argc, who;
    char ***argv;
};

static void *calls(void *arg)
{
    struct call *call = arg;
    call->who = sj_ready(call->argc, call->argv, &environ);
    return NULL;
}

/* Is ready with other threads, and says how they went on. */
static int with_threads(const char *how, int argc, char **argv)
{
    void *(*const bodies[])(void *) = {computes, waits, naps};
    pthread_t threads[3], caller;
    struct call call = {&argc, 0, &argv};
    vhandle_t vh = VAS_HOME;
    volatile uint64_t *word = NULL;
    for (int i = 0; i < 3; i++)
        if (pthread_create(&threads[i], NULL, bodies[i], NULL))
            return 1;
    if (!strcmp(how, "vas")) {
        struct vas_attachment attached;
        struct seg_stat stat;
        vasid_t vid = vas_find("books");
        if (!vid || vas_segments(vid, &attached, 1, 0) != 1 || seg_stat(attached.sid, &stat))
            return 1;
        word = (volatile uint64_t *)(uintptr_t)stat.base;
        vh = vas_attach(vid, VAS_ATTACH_READ_ONLY);
        if (vh <= 0 || vas_switch(vh))
            return 1;
    }
    if (!strcmp(how, "caller")) {
        if (pthread_create(&caller, NULL, calls, &call) || pthread_join(caller, NULL))
            return 1;
    } else {
        calls(&call);
    }
    uint64_t inside = word ? *word : 0, after = 0;
    int is_inside = vas_current() == vh;
    if (word) {
        if (vas_switch(VAS_HOME) || vas_switch(vh))
            return 1;
        after = *word;
        vas_switch(VAS_HOME);
    }
    unsigned long then = turns, slept = sleeps;
    while (turns == then || sleeps == slept)
        usleep(100);
    tell(call.who, argc, argv, environ);
    stops = 1;
    pthread_mutex_lock(&mutex);
    is_told = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("all have ended\n");
    if (word)
        printf("%s saw %llu and sees %llu\n", is_inside ? "inside" : "outside",
               (unsigned long long)inside, (unsigned long long)after);
    return call.who > 0 ? 8 : call.who == 0 ? 7 : 9;
}

int main(int argc, char **argv)
{
    const char *how = argc > 2 ? argv[2] : "once";
    pages = argc > 1 ? (size_t)atoi(argv[1]) << 8 : 0;
    table = malloc(pages << 12);
    for (size_t page = 0; page < pages; page++)
        table[page << 12] = page % 251 + 1;
    printf("warm %s\n", argv[0]);
    fflush(stdout);
    char line[16];
    if (!strcmp(how, "asked") && !fgets(line, sizeof line, stdin))
        return 1;
    if (!strcmp(how, "shared")
        && mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        return 1;
    if (!strcmp(how, "threads") || !strcmp(how, "caller") || !strcmp(how, "vas"))
        return with_threads(how, argc, argv);
    if (!strcmp(how, "exec")) {
        execl(argv[0], argv[0], argv[1], "once", (char *)NULL);
        return 1;
    }
    if (!strcmp(how, "child")) {
        int status;
        pid_t child = fork();
        if (child == 0)
            _exit(sj_ready(NULL, NULL, NULL) == 0 ? 7 : 1);
        return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
    int who = 0;
    if (strcmp(how, "never")) {
        who = sj_ready(&argc, &argv, &environ);
        if (who < 0 && errno == ENOSYS)
            return 3;
        tell(who, argc, argv, environ);
    }
    char few[8];
    if (sj_ready_arguments(few, sizeof few) != -1 || errno != (who > 0 ? EINVAL : ENOENT))
        return 1;
    if (!strcmp(how, "twice")) {
        int again = sj_ready(&argc, &argv, &environ);
        tell(again, argc, argv, environ);
    }
    if (who > 0 && argc > 1 && !strcmp(argv[1], "cmdline")) {
        char bytes[4096];
        FILE *file = fopen("/proc/self/cmdline", "r");
        size_t count = file ? fread(bytes, 1, sizeof bytes - 1, file) : 0;
        for (size_t i = 0; i + 1 < count; i++)
            if (!bytes[i])
                bytes[i] = ' ';
        bytes[count] = 0;
        printf("%s\n", bytes);
    }
    return who > 0 ? 8 : 7;
}

/* Ends by a signal in a function that is known by name, while another thread waits in one. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int answer = 41;
char *large;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static int ready[2];

__attribute__((noinline)) static void wait_for_ever(int *begun)
{
    *begun = 1;
    if (write(ready[1], "x", 1) != 1)
        abort();
    pthread_mutex_lock(&held);
}

static void *waiting_thread(void *begun)
{
    wait_for_ever(begun);
    return NULL;
}

__attribute__((noinline)) static void crash_here(volatile int *at)
{
    *at = answer;
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "segv";
    if (strcmp(how, "child") == 0) {
        pid_t child = fork();
        if (child == 0) {
            answer = 43;
            abort();
        }
        int status = 0;
        if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status))
            return 1;
        printf("%d\n", child);
        return WTERMSIG(status) == SIGABRT ? 0 : 2;
    }
    /* 256 MiB of which three pages are used. */
    large = mmap(NULL, 256 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (large == MAP_FAILED)
        return 1;
    strcpy(large + (1 << 20), "in the middle");
    strcpy(large + (200 << 20), "far behind");
    /* What the kernel writes is there, too. */
    int pipes[2];
    if (pipe(pipes) != 0 || write(pipes[1], "by a call", 10) != 10 || read(pipes[0], large + (100 << 20), 10) != 10)
        return 1;
    pthread_mutex_lock(&held);
    pthread_t thread;
    int begun = 0;
    char byte;
    if (pipe(ready) != 0 || pthread_create(&thread, NULL, waiting_thread, &begun) != 0 || read(ready[0], &byte, 1) != 1)
        return 1;
    answer = 42;
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "term") == 0)
        raise(SIGTERM);
    crash_here(NULL);
    return 0;
}

/* Does what it is told, a line each, so that a test knows where it is when it is snapshotted.
 *
 *     snapshotted FILE MIB     with a file that it writes, and memory that it has filled */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t told;

static void on_signal(int signal)
{
    told = signal;
}

static void *wait_forever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void print_hex(const char *what, const unsigned char *bytes, int count)
{
    printf("%s ", what);
    for (int i = 0; i < count; i++)
        printf("%02x", bytes[i]);
    printf("\n");
}

int main(int argc, char **argv)
{
    char line[64];
    int counter = 0;
    size_t pages = argc > 2 ? (size_t)atoi(argv[2]) << 8 : 0;
    unsigned char *memory = malloc(pages << 12);
    for (size_t page = 0; page < pages; page++)
        memory[page << 12] = page % 251 + 1;
    int file = open(argv[1], O_RDWR | O_CREAT, 0600);
    if (file < 0 || dup2(file, 77) != 77)
        return 1;
    signal(SIGUSR1, on_signal);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "step")) {
            counter++;
            /* By the one descriptor and by the other: they share an offset. */
            dprintf(counter % 2 ? file : 77, "%d\n", counter);
            printf("%d by %d\n", counter, getpid());
        } else if (!strcmp(line, "memory")) {
            size_t wrong = 0;
            for (size_t page = 0; page < pages; page++)
                wrong += memory[page << 12] != page % 251 + 1;
            printf("%zu of %zu pages are wrong\n", wrong, pages);
        } else if (!strcmp(line, "write")) {
            for (size_t page = 0; page < pages; page += 3)
                memory[(page << 12) + 8] = counter + 1;
            printf("written\n");
        } else if (!strcmp(line, "random")) {
            unsigned char bytes[16];
            print_hex("started with", (unsigned char *)getauxval(AT_RANDOM), 16);
            if (getrandom(bytes, 16, 0) != 16)
                return 1;
            print_hex("got", bytes, 16);
        } else if (!strcmp(line, "thread number")) {
            printf("%s\n", pthread_kill(pthread_self(), SIGUSR1) == 0 && told == SIGUSR1
                               ? "its own" : "another's");
        } else if (!strcmp(line, "fork")) {
            int status;
            pid_t child = fork();
            if (child == 0)
                _exit(memory && memory[0] == 1 && counter < 100 ? 40 + counter : 1);
            waitpid(child, &status, 0);
            printf("child %d\n", WEXITSTATUS(status));
        } else if (!strcmp(line, "spin")) {
            told = 0;
            printf("spinning\n");
            unsigned long long turns = 0;
            while (!told)
                turns++;
            printf("%s after some turns\n", turns ? "told" : "stopped");
        } else if (!strcmp(line, "sleep masked")) {
            sigset_t none, usr1;
            sigemptyset(&none);
            sigemptyset(&usr1);
            sigaddset(&usr1, SIGUSR1);
            sigprocmask(SIG_BLOCK, &usr1, NULL);
            printf("sleeping\n");
            sigsuspend(&none);
            sigset_t now;
            sigprocmask(SIG_SETMASK, NULL, &now);
            printf("SIGUSR1 is %s\n", sigismember(&now, SIGUSR1) ? "blocked again" : "open");
            sigprocmask(SIG_UNBLOCK, &usr1, NULL);
        } else if (!strcmp(line, "thread")) {
            pthread_t thread;
            printf("%d\n", pthread_create(&thread, NULL, wait_forever, NULL));
        } else if (!strcmp(line, "leave")) {
            printf("left\n");
            pthread_exit(NULL);
        } else if (!strcmp(line, "share")) {
            void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            printf("%d\n", at == MAP_FAILED);
        } else if (!strcmp(line, "things")) {
            int pair[2];
            struct itimerval long_time = {.it_value = {.tv_sec = 100000}};
            printf("%d\n", socketpair(AF_UNIX, SOCK_STREAM, 0, pair) | pipe(pair)
                               | setitimer(ITIMER_REAL, &long_time, NULL));
        } else if (!strcmp(line, "descriptors")) {
            for (int fd = 0; fd < 100; fd++)
                if (fcntl(fd, F_GETFD) >= 0)
                    printf("%d ", fd);
            printf("\n");
        } else if (!strcmp(line, "end")) {
            return 5;
        }
    }
    return 0;
}

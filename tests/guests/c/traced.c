/* Calls of every kind that a trace has to show: what fails, what is nowhere, what would steer a
 * terminal, what lasts, signals, several threads. The test knows the lines. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void on_signal(int number)
{
    (void)number;
}

static void *waits(void *pipe)
{
    char byte;
    syscall(SYS_read, ((int *)pipe)[0], &byte, 1);
    return NULL;
}

int main(void)
{
    int ends[2];
    struct stat stat;
    struct iovec parts[2] = {{"two ", 4}, {"parts\n", 6}};
    struct timespec a_while = {0, 300 * 1000 * 1000};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    pthread_t thread;
    char byte;

    syscall(SYS_openat, AT_FDCWD, "/none/\033[2J\"name\"", O_RDWR | O_CREAT, 0640);
    syscall(SYS_openat, AT_FDCWD, (char *)1, O_RDONLY);
    syscall(SYS_writev, 1, parts, 2);
    syscall(SYS_write, 1, "a text that is longer than what a trace shows of it\n", 52);
    syscall(SYS_fstat, 99, &stat);
    syscall(999, 1, 2, 3, 4, 5, 6);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    if (pipe2(ends, O_CLOEXEC))
        return 1;
    pthread_create(&thread, NULL, waits, ends);
    nanosleep(&a_while, NULL);
    /* Whoever reads the trace has seen the two that wait. */
    syscall(SYS_read, 0, &byte, 1);
    syscall(SYS_write, ends[1], "x", 1);
    pthread_join(thread, NULL);
    syscall(SYS_exit_group, 3);
}

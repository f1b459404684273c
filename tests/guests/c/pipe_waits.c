/* Pipes that are full, or empty: which call waits, for what, and what it moves. One line each. The
   other thread comes late enough that this one waits; coming early would be no error. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define PAGE 4096
#define LONG (1 << 20)

static int ends[2];
static char buffer[LONG], sink[LONG];

static void say(const char *what, ssize_t result)
{
    printf("%s: %zd %s\n", what, result, result < 0 ? strerrorname_np(errno) : "");
}

static void nonblocking(int on)
{
    for (int end = 0; end < 2; end++)
        fcntl(ends[end], F_SETFL, on ? O_NONBLOCK : 0);
}

/* Leaves the pipe full, or empty. */
static ssize_t fill(void)
{
    ssize_t sum = 0, n;
    nonblocking(1);
    while ((n = write(ends[1], buffer, PAGE)) > 0)
        sum += n;
    say("write to a full pipe, not waiting", n);
    nonblocking(0);
    return sum;
}

static ssize_t drain(void)
{
    ssize_t sum = 0, n;
    nonblocking(1);
    while ((n = read(ends[0], sink, LONG)) > 0)
        sum += n;
    say("read of an empty pipe, not waiting", n);
    nonblocking(0);
    return sum;
}

static void *read_later(void *bytes)
{
    usleep(50000);
    for (ssize_t done = 0, n; done < (long)bytes; done += n)
        if ((n = read(ends[0], sink + done, (long)bytes - done)) <= 0)
            break;
    return NULL;
}

static void *write_later(void *bytes)
{
    usleep(50000);
    return (void *)write(ends[1], buffer, (long)bytes);
}

static void on_alarm(int signal)
{
    (void)signal;
}

static void interrupted(const char *what, int is_write)
{
    struct sigaction action = { .sa_handler = on_alarm };
    struct itimerval soon = { .it_interval = { 0, 100000 }, .it_value = { 0, 100000 } }, off = { 0 };
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    ssize_t n = is_write ? write(ends[1], buffer, 32) : read(ends[0], sink, 32);
    int error = errno;
    setitimer(ITIMER_REAL, &off, NULL);
    errno = error;
    say(what, n);
}

int main(void)
{
    pthread_t other;
    void *written;
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 0; i < LONG; i++)
        buffer[i] = (char)(i % 251);
    if (pipe(ends) != 0)
        return 2;
    ssize_t room = fill();
    say("room", room);
    interrupted("write to a full pipe, and a signal", 1);
    pthread_create(&other, NULL, read_later, (void *)PAGE);
    say("write to a full pipe, read by another thread", write(ends[1], buffer, 32));
    pthread_join(other, NULL);
    say("what was in it", drain());
    say("its end", memcmp(sink + room - PAGE, buffer, 32));
    interrupted("read of an empty pipe, and a signal", 0);
    pthread_create(&other, NULL, write_later, (void *)32);
    say("read of an empty pipe, written by another thread", read(ends[0], sink, LONG));
    pthread_join(other, &written);
    say("what the other thread wrote", (ssize_t)written);
    pthread_create(&other, NULL, read_later, (void *)LONG);
    say("a write longer than the pipe", write(ends[1], buffer, LONG));
    pthread_join(other, NULL);
    say("its content", memcmp(sink, buffer, LONG));
    say("write that just has room", write(ends[1], buffer, room - 32));
    pthread_create(&other, NULL, read_later, (void *)room);
    say("a write of which a part has room", write(ends[1], buffer, PAGE + 1));
    pthread_join(other, NULL);
    say("what was in it", drain());
    signal(SIGPIPE, SIG_IGN);
    close(ends[0]);
    say("write without a reader", write(ends[1], buffer, 32));
    ends[0] = open("/dev/null", O_RDONLY);
    close(ends[1]);
    if (pipe(ends) != 0)
        return 2;
    close(ends[1]);
    say("read without a writer", read(ends[0], sink, 32));
    return 0;
}

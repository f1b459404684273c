/* Pairs of UNIX sockets, and descriptors that are passed through them: what each call returns, one line
 * each. A test compares a native run with one in a VM. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../include/say.h"

static void refusals(void)
{
    int pair[2], file = open("/proc/self/exe", O_RDONLY);
    SAY(socketpair(AF_INET, SOCK_STREAM, 0, pair));
    SAY(socketpair(AF_UNIX, SOCK_RDM, 0, pair));
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 7, pair));
    SAY(socketpair(AF_UNIX, 15, 0, pair));
    SAY(socketpair(AF_UNIX, SOCK_STREAM | 0x100, 0, pair));
    SAY(socketpair(1000, SOCK_STREAM, 0, pair));
    SAY(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, 1));
    SAY(dup(file));
    SAY(socket(AF_UNIX, SOCK_RDM, 0));
    SAY(socket(AF_UNIX, SOCK_STREAM, 9));
    SAY(socket(AF_UNIX, 11, 0));
    SAY(send(file, "x", 1, 0));
    SAY(recv(77, &pair, 1, 0));
    close(4);
    close(file);
}

static void kinds(void)
{
    const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
    for (int i = 0; i < 3; i++) {
        int pair[2], type = 0;
        socklen_t len = sizeof type;
        char buffer[16] = "";
        printf("type %d\n", types[i]);
        SAY(socketpair(AF_UNIX, types[i] | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
        SAY(fcntl(pair[0], F_GETFD));
        SAY(fcntl(pair[1], F_GETFL));
        SAY(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &type, &len));
        printf("SO_TYPE %d %u\n", type, len);
        SAY(recv(pair[0], buffer, sizeof buffer, 0));
        SAY(send(pair[1], "abc", 3, 0));
        SAY(write(pair[1], "defg", 4));
        SAY(recv(pair[0], buffer, 2, MSG_PEEK));
        SAY(recv(pair[0], buffer, 2, MSG_TRUNC));
        SAY(read(pair[0], buffer, sizeof buffer));
        SAY(recv(pair[0], buffer, sizeof buffer, MSG_DONTWAIT));
        printf("%.16s\n", buffer);
        SAY(send(pair[0], "", 0, 0));
        SAY(recv(pair[1], buffer, sizeof buffer, 0));
        struct iovec parts[2] = { { "12", 2 }, { "345", 3 } };
        struct iovec into[2] = { { buffer, 1 }, { buffer + 8, 8 } };
        struct msghdr out = { .msg_iov = parts, .msg_iovlen = 2 };
        struct sockaddr_un from;
        struct msghdr in = { .msg_iov = into, .msg_iovlen = 2, .msg_name = &from, .msg_namelen = sizeof from };
        SAY(sendmsg(pair[0], &out, 0));
        SAY(recvmsg(pair[1], &in, MSG_CMSG_CLOEXEC));
        printf("%c %.4s name %u flags %x\n", buffer[0], buffer + 8, in.msg_namelen, in.msg_flags);
        out.msg_iovlen = 1025;
        SAY(sendmsg(pair[0], &out, 0));
        SAY(syscall(SYS_sendmsg, pair[0], 1, 0));
        SAY(syscall(SYS_sendto, pair[0], 1, 4, 0, 0, 0));
        SAY(syscall(SYS_recvfrom, pair[0], 1, 4, 0, 0, 0));
        struct mmsghdr many[3] = { { { .msg_iov = parts, .msg_iovlen = 1 }, 0 }, { { .msg_iov = parts + 1, .msg_iovlen = 1 }, 0 } };
        SAY(sendmmsg(pair[0], many, 2, 0));
        printf("%u %u\n", many[0].msg_len, many[1].msg_len);
        many[0].msg_hdr.msg_iov = many[1].msg_hdr.msg_iov = many[2].msg_hdr.msg_iov = into + 1;
        many[2].msg_hdr.msg_iovlen = 1;
        SAY(recvmmsg(pair[1], many, 3, MSG_WAITFORONE, NULL));
        printf("%u\n", many[0].msg_len);
        union { struct sockaddr_un un; char bytes[200]; } name;
        len = sizeof name;
        SAY(getsockname(pair[0], (void *)&name, &len));
        printf("%u %d\n", len, name.un.sun_family);
        len = 1;
        SAY(getpeername(pair[0], (void *)&name, &len));
        printf("%u\n", len);
        len = (socklen_t)-1;
        SAY(getsockname(pair[0], (void *)&name, &len));
        SAY(connect(pair[0], (void *)&name, 1));
        SAY(listen(pair[0], 1));
        SAY(accept(pair[0], NULL, NULL));
        struct ucred cred;
        len = sizeof cred;
        SAY(getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &cred, &len));
        printf("own %d\n", cred.pid == getpid() && cred.uid == getuid());
        SAY(getsockopt(pair[0], SOL_SOCKET, 9999, &cred, &len));
        SAY(setsockopt(pair[0], SOL_SOCKET, 9999, &cred, len));
        SAY(getsockopt(pair[0], 6, 9999, &cred, &len));
        SAY(getsockopt(pair[0], 77, 1, &cred, &len));
        SAY(shutdown(pair[0], 7));
        SAY(shutdown(pair[0], SHUT_WR));
        SAY(recv(pair[1], buffer, sizeof buffer, 0));
        SAY(send(pair[0], "x", 1, MSG_NOSIGNAL));
        close(pair[0]);
        SAY(send(pair[1], "x", 1, MSG_NOSIGNAL));
        struct pollfd poll_one = { pair[1], POLLIN | POLLOUT | POLLRDHUP, 0 };
        SAY(poll(&poll_one, 1, 0));
        printf("%x\n", poll_one.revents);
        close(pair[1]);
    }
}

static int handled;
static void on_signal(int number) { handled = number; }

static void signals(void)
{
    int pair[2], datagrams[2];
    char byte;
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams);
    struct timespec soon = { 0, 20000000 };
    /* Again and again: the first may come before the call that it is for. */
    struct itimerspec at = { .it_value = soon, .it_interval = soon };
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, NULL, &timer);
    timer_settime(timer, 0, &at, NULL);
    SAY(recv(pair[0], &byte, 1, 0));
    at = (struct itimerspec){ .it_value = soon };
    printf("handled %d\n", handled);
    handled = 0;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    timer_settime(timer, 0, &at, NULL);
    struct timeval limit = { 0, 100000 };
    SAY(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    limit.tv_usec = 0;
    socklen_t len = sizeof limit;
    SAY(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, &len));
    printf("%ld\n", (long)limit.tv_usec / 1000);
    handled = 0;
    timer_delete(timer);
    SAY(recv(pair[0], &byte, 1, 0));
    close(pair[0]);
    SAY(send(pair[1], "x", 1, 0));
    printf("handled %d\n", handled);
    handled = 0;
    close(datagrams[0]);
    SAY(send(datagrams[1], "x", 1, 0));
    printf("handled %d\n", handled);
    close(pair[1]);
    close(datagrams[1]);
}

#define BIG (4 << 20)
static void *drain(void *at)
{
    int fd = *(int *)at;
    static char into[1 << 16];
    uint64_t sum = 0, total = 0;
    long got;
    while ((got = recv(fd, into, sizeof into, 0)) > 0) {
        for (long i = 0; i < got; i++)
            sum += (unsigned char)into[i];
        total += (uint64_t)got;
    }
    printf("drained %llu sum %llu\n", (unsigned long long)total, (unsigned long long)sum);
    return NULL;
}

static void streams(void)
{
    int pair[2];
    pthread_t thread;
    char *bytes = malloc(BIG);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    for (int i = 0; i < BIG; i++)
        bytes[i] = (char)(i * 7);
    pthread_create(&thread, NULL, drain, &pair[1]);
    SAY(send(pair[0], bytes, BIG, 0));
    SAY(write(pair[0], bytes, BIG));
    shutdown(pair[0], SHUT_WR);
    pthread_join(thread, NULL);
    close(pair[0]);
    close(pair[1]);
    free(bytes);
}

static int send_fds(int to, const int *fds, int count)
{
    union { struct cmsghdr head; char bytes[CMSG_SPACE(300 * sizeof(int))]; } control;
    struct iovec byte = { "f", 1 };
    struct msghdr out = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control };
    memset(&control, 0, sizeof control);
    out.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    control.head.cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&control.head), fds, (size_t)count * sizeof(int));
    return (int)sendmsg(to, &out, 0);
}

static int receive_fds(int from, int *fds, int room, int flags, int *told)
{
    union { struct cmsghdr head; char bytes[CMSG_SPACE(300 * sizeof(int))]; } control;
    char byte;
    struct iovec into = { &byte, 1 };
    struct msghdr in = { .msg_iov = &into, .msg_iovlen = 1, .msg_control = room ? &control : NULL };
    in.msg_controllen = room ? CMSG_LEN((size_t)room * sizeof(int)) : 0;
    if (recvmsg(from, &in, flags) < 0)
        return -1;
    *told = in.msg_flags;
    if (!in.msg_controllen)
        return 0;
    int count = (int)((control.head.cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(&control.head), (size_t)count * sizeof(int));
    printf("controllen %zu of level %d type %d\n", (size_t)in.msg_controllen, control.head.cmsg_level,
           control.head.cmsg_type);
    return count;
}

static void passing(void)
{
    int pair[2], pipes[2], got[300] = { 0 }, told = 0;
    char bytes[8] = "";
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    if (pipe(pipes))
        exit(2);
    SAY(send_fds(pair[0], pipes, 2));
    SAY(receive_fds(pair[1], got, 10, 0, &told));
    printf("flags %x cloexec %d\n", told, fcntl(got[0], F_GETFD));
    close(pipes[1]);
    SAY(write(got[1], "hello", 5));
    SAY(read(pipes[0], bytes, 8));
    SAY(read(got[0], bytes, 0));
    close(got[1]);
    /* The last writer is gone. */
    SAY(read(got[0], bytes, 8));
    close(got[0]);
    close(pipes[0]);
    /* Closed by the sender before it arrives; the offset is shared. */
    int file = open("/proc/self/exe", O_RDONLY), memory = memfd_create("m", MFD_CLOEXEC);
    int event = eventfd(5, EFD_NONBLOCK);
    if (write(memory, "0123456789", 10) != 10)
        exit(2);
    lseek(memory, 4, SEEK_SET);
    int three[3] = { memory, event, file };
    SAY(send_fds(pair[0], three, 3));
    close(file);
    close(memory);
    close(event);
    SAY(receive_fds(pair[1], got, 10, MSG_CMSG_CLOEXEC, &told));
    printf("flags %x cloexec %d %d\n", told, fcntl(got[0], F_GETFD), fcntl(got[2], F_GETFD));
    SAY(read(got[0], bytes, 3));
    printf("%.3s\n", bytes);
    SAY(ftruncate(got[0], 100));
    uint64_t count = 0;
    SAY(read(got[1], &count, 8));
    printf("%llu\n", (unsigned long long)count);
    SAY(read(got[1], &count, 8));
    SAY(read(got[2], bytes, 4));
    printf("%.3s\n", bytes + 1);
    SAY(write(got[2], bytes, 1));
    for (int i = 0; i < 3; i++)
        close(got[i]);
    /* Room for one of two, and for none. */
    int two[2] = { 0, 1 };
    SAY(send_fds(pair[0], two, 2));
    SAY(receive_fds(pair[1], got, 1, 0, &told));
    printf("flags %x\n", told);
    close(got[0]);
    SAY(send_fds(pair[0], two, 2));
    SAY(receive_fds(pair[1], got, 0, 0, &told));
    printf("flags %x\n", told);
    two[1] = 77;
    SAY(send_fds(pair[0], two, 2));
    int many[300] = { 0 };
    SAY(send_fds(pair[0], many, 254));
    SAY(send_fds(pair[0], many, 253));
    SAY(receive_fds(pair[1], got, 253, 0, &told));
    printf("flags %x\n", told);
    for (int i = 0; i < 253; i++)
        close(got[i]);
    /* A socket through itself, and used. */
    SAY(send_fds(pair[0], pair, 1));
    SAY(receive_fds(pair[1], got, 1, 0, &told));
    SAY(send(got[0], "via", 3, 0));
    SAY(recv(pair[1], bytes, 8, 0));
    SAY(getsockopt(got[0], SOL_SOCKET, SO_TYPE, &many, &(socklen_t){ 4 }));
    close(got[0]);
    close(pair[0]);
    close(pair[1]);
}

static void credentials(void)
{
    int pair[2], on = 1;
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    SAY(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    union { struct cmsghdr head; char bytes[CMSG_SPACE(sizeof(struct ucred))]; } control;
    struct ucred own = { getpid(), getuid(), getgid() };
    char byte;
    struct iovec part = { "c", 1 }, into = { &byte, 1 };
    struct msghdr out = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    memset(&control, 0, sizeof control);
    control.head = (struct cmsghdr){ CMSG_LEN(sizeof own), SOL_SOCKET, SCM_CREDENTIALS };
    memcpy(CMSG_DATA(&control.head), &own, sizeof own);
    SAY(sendmsg(pair[0], &out, 0));
    SAY(send(pair[0], "d", 1, 0));
    for (int i = 0; i < 2; i++) {
        memset(&control, 0, sizeof control);
        struct msghdr in = { .msg_iov = &into, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
        SAY(recvmsg(pair[1], &in, 0));
        struct ucred *told = (void *)CMSG_DATA(&control.head);
        printf("%c %zu %d %d\n", byte, (size_t)in.msg_controllen, told->pid == getpid(), told->uid == getuid());
    }
    control.head.cmsg_len = 3;
    SAY(sendmsg(pair[0], &out, 0));
    control.head.cmsg_len = 1 << 20;
    SAY(sendmsg(pair[0], &out, 0));
    control.head = (struct cmsghdr){ CMSG_LEN(4), SOL_SOCKET, 99 };
    SAY(sendmsg(pair[0], &out, 0));
    out.msg_controllen = 1 << 30;
    SAY(sendmsg(pair[0], &out, 0));
    close(pair[0]);
    close(pair[1]);
}

static void waiting(void)
{
    int pair[2], ep = epoll_create1(0);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    struct epoll_event event = { EPOLLIN | EPOLLET | EPOLLRDHUP, { .u32 = 9 } }, got[2];
    SAY(epoll_ctl(ep, EPOLL_CTL_ADD, pair[0], &event));
    SAY(epoll_wait(ep, got, 2, 0));
    SAY(send(pair[1], "x", 1, 0));
    SAY(epoll_wait(ep, got, 2, -1));
    printf("%x\n", got[0].events);
    SAY(epoll_wait(ep, got, 2, 0));
    close(pair[1]);
    SAY(epoll_wait(ep, got, 2, 0));
    printf("%x\n", got[0].events);
    close(pair[0]);
    close(ep);
}

/* One that does not wait takes all there is room for, although it polls as not ready long before. */
static void full(void)
{
    int pair[2], room = 0, byte;
    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair);
    SAY(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &(int){ 8192 }, 4));
    while (write(pair[1], "a", 1) == 1)
        room++;
    printf("room for some: %d, %s\n", room, strerrorname_np(errno));
    SAY(send(pair[1], "a", 1, 0));
    int file = open("/proc/self/exe", O_RDONLY);
    SAY(sendfile(pair[1], file, NULL, 1));
    SAY(read(pair[0], &byte, 1));
    SAY(write(pair[1], "a", 1));
    close(file);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    refusals();
    kinds();
    signals();
    streams();
    passing();
    credentials();
    waiting();
    full();
    puts("done");
    return 0;
}

/* TCP, UDP and UNIX sockets by loopback and in a directory: what each call returns, one line each. A test
 * compares a native run with one in a VM. The argument is a directory that may be written. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../include/say.h"
#define ANY(address) ((struct sockaddr *)(address))

static struct sockaddr_in v4(unsigned port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static struct sockaddr_in6 v6(unsigned port)
{
    struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port) };
    a.sin6_addr = in6addr_loopback;
    return a;
}

static void refusals(void)
{
    SAY(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    SAY(socket(AF_INET, SOCK_SEQPACKET, 0));
    SAY(socket(AF_INET, SOCK_STREAM | 0x100, 0));
    SAY(socket(AF_INET, 11, 0));
    SAY(socket(46, SOCK_STREAM, 0));
    SAY(socket(-1, SOCK_STREAM, 0));
    int s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = v4(1);
    struct sockaddr_in6 at6 = v6(1);
    char byte;
    SAY(bind(s, ANY(&at), 15));
    SAY(bind(s, ANY(&at), -1));
    SAY(bind(s, ANY(&at), 129));
    SAY(bind(s, ANY(1), 16));
    SAY(bind(s, ANY(&at6), sizeof at6));
    SAY(connect(s, ANY(&at), 3));
    SAY(connect(s, ANY(&at6), 16));
    SAY(accept(s, NULL, NULL));
    SAY(accept4(s, NULL, NULL, 0x7));
    SAY(getpeername(s, ANY(&at), &(socklen_t){ 16 }));
    SAY(send(s, "x", 1, MSG_NOSIGNAL));
    SAY(recv(s, &byte, 1, 0));
    SAY(shutdown(s, SHUT_RD));
    close(s);
}

static void *echo(void *at)
{
    int s = accept4(*(int *)at, NULL, NULL, SOCK_CLOEXEC);
    char bytes[4096];
    long got;
    while ((got = read(s, bytes, sizeof bytes)) > 0)
        if (write(s, bytes, (size_t)got) != got)
            break;
    close(s);
    return NULL;
}

static void tcp(int family)
{
    int on = 1, value = 0, file = open("/proc/self/exe", O_RDONLY);
    socklen_t len = sizeof value;
    union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_in6 in6; } at, peer;
    socklen_t name = family == AF_INET ? sizeof at.in : sizeof at.in6;
    memset(&at, 0, sizeof at);
    if (family == AF_INET)
        at.in = v4(0);
    else
        at.in6 = v6(0);
    printf("family %d\n", family);
    int s = socket(family, SOCK_STREAM, IPPROTO_TCP);
    SAY(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    SAY(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, 1));
    SAY(getsockopt(s, SOL_SOCKET, SO_REUSEADDR, &value, &len));
    printf("%d %u\n", value, len);
    SAY(bind(s, &at.any, name));
    SAY(bind(s, &at.any, name));
    SAY(listen(s, 4));
    SAY(getsockname(s, &at.any, &name));
    printf("port %d length %u\n", (family == AF_INET ? at.in.sin_port : at.in6.sin6_port) != 0, name);
    SAY(getsockopt(s, SOL_SOCKET, SO_ACCEPTCONN, &value, &len));
    printf("%d\n", value);
    int second = socket(family, SOCK_STREAM, 0);
    SAY(bind(second, &at.any, name));
    close(second);
    pthread_t thread;
    pthread_create(&thread, NULL, echo, &s);
    int c = socket(family, SOCK_STREAM, 0);
    SAY(connect(c, &at.any, name));
    SAY(connect(c, &at.any, name));
    SAY(getpeername(c, &peer.any, &(socklen_t){ sizeof peer }));
    printf("same %d\n", !memcmp(&peer, &at, name));
    SAY(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    SAY(getsockopt(c, IPPROTO_TCP, TCP_NODELAY, &value, &len));
    printf("%d\n", value);
    SAY(setsockopt(c, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    struct linger linger = { 1, 5 };
    SAY(setsockopt(c, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    SAY(setsockopt(c, IPPROTO_TCP, TCP_KEEPIDLE, &(int){ 60 }, 4));
    SAY(setsockopt(c, IPPROTO_TCP, 12345, &on, 4));
    SAY(getsockopt(c, IPPROTO_TCP, 12345, &value, &len));
    SAY(getsockopt(c, IPPROTO_UDP, 12345, &value, &len));
    SAY(getsockopt(c, IPPROTO_IP, -1, &value, &len));
    SAY(getsockopt(c, IPPROTO_IPV6, -1, &value, &len));
    SAY(getsockopt(c, 500, SO_OOBINLINE, &value, &len));
    struct sockaddr_un path = { AF_UNIX, "elsewhere" };
    second = socket(family, SOCK_STREAM, 0);
    SAY(bind(second, (void *)&path, sizeof path));
    SAY(bind(second, (void *)&path, 5));
    close(second);
    char bytes[4096] = "";
    SAY(send(c, "hello", 5, 0));
    SAY(recv(c, bytes, 5, MSG_WAITALL));
    printf("%s\n", bytes);
    SAY(sendfile(c, file, NULL, 4096));
    SAY(recv(c, bytes, 4096, MSG_WAITALL));
    printf("%.3s\n", bytes + 1);
    SAY(fcntl(c, F_SETFL, O_NONBLOCK));
    SAY(recv(c, bytes, 1, 0));
    SAY(read(c, bytes, 1));
    SAY(shutdown(c, SHUT_WR));
    struct pollfd in = { c, POLLIN, 0 };
    SAY(poll(&in, 1, 10000));
    SAY(recv(c, bytes, 1, 0));
    SAY(send(c, "x", 1, MSG_NOSIGNAL));
    close(c);
    pthread_join(thread, NULL);
    /* Nobody listens any more. */
    close(s);
    c = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int result = connect(c, &at.any, name);
    printf("refused or on its way %d\n", result == -1 && (errno == EINPROGRESS || errno == ECONNREFUSED));
    in = (struct pollfd){ c, POLLOUT, 0 };
    poll(&in, 1, 10000);
    getsockopt(c, SOL_SOCKET, SO_ERROR, &value, &len);
    printf("%d\n", result == -1 && (value == ECONNREFUSED || value == 0));
    close(c);
    close(file);
}

static void udp(void)
{
    struct sockaddr_in at = v4(0), from, none = { .sin_family = AF_UNSPEC };
    socklen_t len = sizeof at;
    char bytes[64] = "";
    int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    SAY(bind(a, ANY(&at), sizeof at));
    SAY(getsockname(a, ANY(&at), &len));
    SAY(sendto(b, "ping", 4, 0, ANY(&at), sizeof at));
    SAY(recvfrom(a, bytes, sizeof bytes, 0, ANY(&from), &len));
    printf("%s %u\n", bytes, len);
    SAY(sendto(a, "pong", 4, 0, ANY(&from), len));
    struct pollfd in = { b, POLLIN, 0 };
    SAY(poll(&in, 1, 10000));
    SAY(recvfrom(b, bytes, 2, MSG_TRUNC, NULL, NULL));
    SAY(recv(b, bytes, 2, 0));
    SAY(send(b, "x", 1, 0));
    SAY(connect(b, ANY(&at), sizeof at));
    SAY(send(b, "one", 3, 0));
    SAY(send(b, "", 0, 0));
    SAY(recv(a, bytes, sizeof bytes, 0));
    SAY(recv(a, bytes, sizeof bytes, 0));
    SAY(connect(b, ANY(&none), sizeof none));
    SAY(send(b, "x", 1, 0));
    /* An address without a family is IPv4's, when something is sent. */
    none = at;
    none.sin_family = AF_UNSPEC;
    SAY(sendto(b, "unspec", 6, 0, ANY(&none), sizeof none));
    SAY(recv(a, bytes, sizeof bytes, 0));
    SAY(sendto(b, "x", 1, 0, ANY(&none), 2));
    SAY(sendto(b, "x", 1, 0, ANY(&none), 200));
    int on = 1;
    SAY(setsockopt(a, IPPROTO_IP, IP_PKTINFO, &on, sizeof on));
    SAY(sendto(b, "info", 4, 0, ANY(&at), sizeof at));
    union { struct cmsghdr head; char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))]; } control;
    struct iovec into = { bytes, sizeof bytes };
    struct msghdr message = { .msg_iov = &into, .msg_iovlen = 1, .msg_name = &from, .msg_namelen = sizeof from,
                              .msg_control = &control, .msg_controllen = sizeof control };
    SAY(recvmsg(a, &message, 0));
    struct in_pktinfo *info = (void *)CMSG_DATA(&control.head);
    printf("level %d type %d to %x controllen %zu namelen %u flags %x\n", control.head.cmsg_level,
           control.head.cmsg_type, ntohl(info->ipi_addr.s_addr), (size_t)message.msg_controllen,
           message.msg_namelen, message.msg_flags);
    message.msg_name = &at;
    message.msg_namelen = sizeof at;
    SAY(sendmsg(b, &message, 0));
    struct mmsghdr many[4];
    memset(many, 0, sizeof many);
    for (int i = 0; i < 4; i++)
        many[i].msg_hdr = (struct msghdr){ .msg_iov = &into, .msg_iovlen = 1 };
    into.iov_len = 3;
    struct timespec limit = { 5, 0 };
    SAY(recvmmsg(a, many, 4, MSG_WAITFORONE, &limit));
    printf("%u flags %x\n", many[0].msg_len, many[0].msg_hdr.msg_flags);
    close(a);
    close(b);
}

static struct sockaddr_un un(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    return a;
}

static void told(const char *what, int result, const struct sockaddr_un *name, socklen_t len)
{
    printf("%s %d length %u path %s\n", what, result, len, len > 2 ? name->sun_path : "");
}

static void unix_sockets(const char *folder)
{
    if (chdir(folder))
        exit(2);
    struct sockaddr_un at = un("sock"), got;
    struct stat stat_buf;
    socklen_t len = sizeof got;
    char bytes[16] = "";
    umask(027);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bind(s, ANY(&at), sizeof at));
    stat("sock", &stat_buf);
    printf("mode %o\n", stat_buf.st_mode);
    fstat(s, &stat_buf);
    printf("mode %o\n", stat_buf.st_mode);
    SAY(bind(s, ANY(&at), sizeof at));
    int again = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bind(again, ANY(&at), sizeof at));
    SAY(connect(again, ANY(&at), sizeof at));
    SAY(listen(s, 1));
    told("own", getsockname(s, ANY(&got), &len), &got, len);
    SAY(connect(again, ANY(&at), sizeof at));
    len = sizeof got;
    int c = accept(s, ANY(&got), &len);
    told("accepted", c >= 0, &got, len);
    len = sizeof got;
    told("accepted's", getsockname(c, ANY(&got), &len), &got, len);
    len = sizeof got;
    told("peer", getpeername(again, ANY(&got), &len), &got, len);
    SAY(send(again, "x", 1, 0));
    SAY(recv(c, bytes, 16, 0));
    close(c);
    close(again);
    close(s);
    again = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(connect(again, ANY(&at), sizeof at));
    at = un("none");
    SAY(connect(again, ANY(&at), sizeof at));
    SAY(open("file", O_CREAT | O_WRONLY, 0600) >= 0);
    at = un("file");
    SAY(connect(again, ANY(&at), sizeof at));
    SAY(bind(again, ANY(&at), sizeof at));
    at = un("no/such");
    SAY(bind(again, ANY(&at), sizeof at));
    SAY(connect(again, ANY(&at), 200));
    close(again);
    int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un one = un("one"), two = un("two");
    SAY(bind(a, ANY(&one), sizeof one));
    SAY(bind(b, ANY(&two), offsetof(struct sockaddr_un, sun_path) + 3));
    SAY(sendto(a, "d", 1, 0, ANY(&two), sizeof two));
    len = sizeof got;
    SAY(recvfrom(b, bytes, 16, 0, ANY(&got), &len));
    told("from", 0, &got, len);
    SAY(sendto(b, "answer", 6, 0, ANY(&got), len));
    SAY(recv(a, bytes, 16, 0));
    SAY(connect(a, ANY(&two), sizeof two));
    SAY(symlink("two", "link"));
    two = un("link");
    SAY(connect(a, ANY(&two), sizeof two));
    SAY(send(a, "e", 1, 0));
    SAY(recv(b, bytes, 16, 0));
    SAY(unlink("two"));
    two = un("two");
    SAY(connect(a, ANY(&two), sizeof two));
    close(a);
    close(b);
    unlink("sock"), unlink("file"), unlink("one"), unlink("link");
    /* In the name space of the network. */
    struct sockaddr_un hidden = { .sun_family = AF_UNIX };
    int hidden_len = snprintf(hidden.sun_path + 1, 60, "spacejmp-test-%d", getpid()) + 3;
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    c = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bind(s, ANY(&hidden), (socklen_t)hidden_len));
    SAY(listen(s, 1));
    SAY(connect(c, ANY(&hidden), (socklen_t)hidden_len));
    close(s);
    close(c);
}

static int handled;
static void on_signal(int number) { handled = number; }

static void interrupted(void)
{
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGALRM, &action, NULL);
    struct sockaddr_in at = v4(0);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    bind(s, ANY(&at), sizeof at);
    listen(s, 1);
    /* Again and again: the first may come before the call that it is for. */
    struct itimerspec soon = { { 0, 20000000 }, { 0, 20000000 } }, off = { 0 };
    timer_t timer;
    timer_create(CLOCK_MONOTONIC, NULL, &timer);
    timer_settime(timer, 0, &soon, NULL);
    SAY(accept(s, NULL, NULL));
    timer_settime(timer, 0, &off, NULL);
    printf("handled %d\n", handled);
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    bind(u, ANY(&at), sizeof at);
    char byte;
    timer_settime(timer, 0, &soon, NULL);
    SAY(recvfrom(u, &byte, 1, 0, NULL, NULL));
    timer_settime(timer, 0, &off, NULL);
    struct timeval limit = { 0, 20000 };
    SAY(setsockopt(u, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    SAY(recvfrom(u, &byte, 1, 0, NULL, NULL));
    timer_delete(timer);
    close(u);
    close(s);
}

/* What the program learns of the host's interfaces by a socket. */
static void interfaces(void)
{
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifconf list = { .ifc_len = 0, .ifc_buf = NULL };
    SAY(ioctl(s, SIOCGIFCONF, &list));
    int needed = list.ifc_len;
    char space[4096];
    list = (struct ifconf){ .ifc_len = sizeof space, .ifc_buf = space };
    SAY(ioctl(s, SIOCGIFCONF, &list));
    printf("%d bytes, as announced: %d\n", list.ifc_len, list.ifc_len == needed);
    for (int i = 0; i < list.ifc_len / (int)sizeof(struct ifreq); i++) {
        struct ifreq one = list.ifc_req[i];
        printf("%s %s\n", one.ifr_name, inet_ntoa(((struct sockaddr_in *)&one.ifr_addr)->sin_addr));
        SAY(ioctl(s, SIOCGIFINDEX, &one));
        SAY(ioctl(s, SIOCGIFNAME, &one));
        printf("by its index: %s\n", one.ifr_name);
        SAY(ioctl(s, SIOCGIFFLAGS, &one));
        printf("flags %x\n", one.ifr_flags & (IFF_UP | IFF_LOOPBACK));
        SAY(ioctl(s, SIOCGIFMTU, &one));
        printf("mtu %d\n", one.ifr_mtu);
        SAY(ioctl(s, SIOCGIFNETMASK, &one));
    }
    struct ifreq none = { .ifr_name = "no-such-one" };
    SAY(ioctl(s, SIOCGIFINDEX, &none));
    SAY(ioctl(s, SIOCGIFINDEX, NULL));
    SAY(ioctl(s, SIOCSIFFLAGS, NULL));
    SAY(ioctl(s, SIOCSIFMTU, -1L));
    list.ifc_len = -1;
    SAY(ioctl(s, SIOCGIFCONF, &list));
    close(s);
    int pair[2], queued = -1;
    SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    SAY(write(pair[0], "bytes", 5));
    SAY(ioctl(pair[1], FIONREAD, &queued));
    printf("queued: %d\n", queued);
    close(pair[0]);
    close(pair[1]);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    refusals();
    tcp(AF_INET);
    tcp(AF_INET6);
    udp();
    unix_sockets(argv[1]);
    interrupted();
    interfaces();
    puts("done");
    return 0;
}

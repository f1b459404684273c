/* What is granted of the network and what is not: one line each. The first argument says what is tried,
 * the others are ports, addresses and paths. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static void say(const char *what, long result)
{
    if (result == -1)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, result);
    fflush(stdout);
}
#define ANY(address) ((struct sockaddr *)(address))

static socklen_t address(const char *text, const char *port, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    struct sockaddr_in *in = (void *)out;
    struct sockaddr_in6 *in6 = (void *)out;
    if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons((unsigned short)atoi(port));
        return sizeof *in;
    }
    if (inet_pton(AF_INET6, text, &in6->sin6_addr) != 1)
        exit(2);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons((unsigned short)atoi(port));
    return sizeof *in6;
}

/* connect ADDRESS PORT...: by TCP, and what is read. */
static void connect_to(char **pairs)
{
    for (; pairs[0]; pairs += 2) {
        struct sockaddr_storage to;
        socklen_t len = address(pairs[0], pairs[1], &to);
        int s = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        char what[64], bytes[16] = "";
        if (s < 0) {
            say("socket", s);
            continue;
        }
        int done = connect(s, ANY(&to), len);
        snprintf(what, sizeof what, "connect %s", pairs[0]);
        say(what, done);
        if (done == 0 && read(s, bytes, sizeof bytes - 1) > 0)
            printf("read %s\n", bytes);
        close(s);
    }
}

/* send ADDRESS PORT...: a datagram by each way there is. */
static void send_to(char **pairs)
{
    for (; pairs[0]; pairs += 2) {
        struct sockaddr_storage to;
        socklen_t len = address(pairs[0], pairs[1], &to);
        int s = socket(to.ss_family, SOCK_DGRAM, 0);
        struct iovec byte = { "m", 1 };
        struct mmsghdr many = { { .msg_name = &to, .msg_namelen = len, .msg_iov = &byte, .msg_iovlen = 1 }, 0 };
        say("sendto", sendto(s, "t", 1, 0, ANY(&to), len));
        say("sendmsg", sendmsg(s, &many.msg_hdr, 0));
        say("sendmmsg", sendmmsg(s, &many, 1, 0));
        if (to.ss_family == AF_INET) {
            /* Linux takes it for IPv4. */
            to.ss_family = AF_UNSPEC;
            say("without a family", sendto(s, "u", 1, 0, ANY(&to), len));
            to.ss_family = AF_INET;
        }
        say("connect", connect(s, ANY(&to), len));
        say("send", send(s, "c", 1, MSG_DONTWAIT));
        close(s);
        s = socket(to.ss_family, SOCK_STREAM, 0);
        say("fast open", sendto(s, "f", 1, MSG_FASTOPEN, ANY(&to), len));
        close(s);
    }
}

/* listen ADDRESS PORT...: where it then is. */
static void listen_at(char **pairs)
{
    for (; pairs[0]; pairs += 2) {
        struct sockaddr_storage at;
        socklen_t len = address(pairs[0], pairs[1], &at);
        int s = socket(at.ss_family, SOCK_STREAM, 0), on = 1;
        char what[64], text[INET6_ADDRSTRLEN] = "";
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        int bound = bind(s, ANY(&at), len);
        snprintf(what, sizeof what, "bind %s", pairs[0]);
        say(what, bound);
        if (bound == 0) {
            say("listen", listen(s, 1));
            len = sizeof at;
            getsockname(s, ANY(&at), &len);
            struct sockaddr_in *in = (void *)&at;
            struct sockaddr_in6 *in6 = (void *)&at;
            const void *ip = at.ss_family == AF_INET ? (void *)&in->sin_addr : (void *)&in6->sin6_addr;
            printf("at %s\n", inet_ntop(at.ss_family, ip, text, sizeof text));
        }
        close(s);
    }
    int s = socket(AF_INET, SOCK_STREAM, 0);
    say("listen without an address", listen(s, 1));
    int accepts = 0;
    getsockopt(s, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &(socklen_t){ 4 });
    printf("accepts %d\n", accepts);
    close(s);
    s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in any = { .sin_family = AF_INET };
    say("bind datagrams anywhere", bind(s, ANY(&any), sizeof any));
    say("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    say("packet", socket(AF_PACKET, SOCK_RAW, 0));
    say("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    say("options of IP", setsockopt(s, IPPROTO_IP, IP_OPTIONS, "\1\1\1\1", 4));
    say("transparent", setsockopt(s, IPPROTO_IP, IP_TRANSPARENT, &(int){ 1 }, 4));
    say("device", setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    struct ip_mreqn group = { .imr_multiaddr.s_addr = htonl(0xe0000101) };
    say("group", setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group));
    close(s);
}

static struct sockaddr_in *shared;
static volatile int over;
/* How often the other thread has changed the address. */
static volatile unsigned turn;
static unsigned short good, bad;

static void *change(void *unused)
{
    (void)unused;
    while (!over) {
        /* Each stays for a while that differs: whenever the address is read, once or again, it may be either. */
        __atomic_store_n(&shared->sin_port, turn & 1 ? bad : good, __ATOMIC_RELAXED);
        for (volatile unsigned i = 0; i < 200 + turn % 7 * 400; i++)
            ;
        turn++;
    }
    return NULL;
}

/* Whether a socket is connected to the port that is not granted. */
static int is_at_bad(int fd)
{
    struct sockaddr_in peer = { 0 };
    socklen_t len = sizeof peer;
    return getpeername(fd, ANY(&peer), &len) == 0 && peer.sin_port == bad;
}

/* race GOOD BAD: another thread changes the port in the address while calls run. */
static void race(char **ports)
{
    pthread_t thread;
    struct sockaddr_in any = { .sin_family = AF_INET };
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *shared = any;
    good = htons((unsigned short)atoi(ports[0]));
    bad = htons((unsigned short)atoi(ports[1]));
    pthread_create(&thread, NULL, change, NULL);
    long allowed = 0, refused = 0, other = 0, wrong = 0, raced = 0;
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    struct iovec byte = { "r", 1 };
    struct msghdr message = { .msg_name = shared, .msg_namelen = sizeof *shared, .msg_iov = &byte, .msg_iovlen = 1 };
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    do {
        for (int i = 0; i < 4; i++) {
            long sent = i & 1 ? sendto(u, "r", 1, 0, ANY(shared), sizeof *shared) : sendmsg(u, &message, 0);
            sent == 1 ? allowed++ : errno == EACCES ? refused++ : other++;
        }
        for (int i = 0; i < 8; i++) {
            int type = i & 1 ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK, c = socket(AF_INET, type, 0);
            unsigned before = turn;
            int result = connect(c, ANY(shared), sizeof *shared), why = errno;
            raced += turn != before;
            if (result == 0 || why == EINPROGRESS)
                allowed++;
            else
                why == EACCES ? refused++ : other++;
            wrong += is_at_bad(c);
            close(c);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        /* On a busy machine the two seldom run at the same time: then it takes longer. */
    } while (now.tv_sec - begun.tv_sec < (raced < 1000 ? 10 : 3));
    over = 1;
    pthread_join(thread, NULL);
    /* It is no race unless both happen often. */
    printf("allowed %d refused %d\n", allowed > 20, refused > 20);
    if (wrong > 0) printf("connected %ld times where it may not\n", wrong);
}

/* answer PORT: a server of datagrams answers who asks, and nobody else. */
static void answer(char **args)
{
    struct sockaddr_storage at, from;
    socklen_t len = address("0.0.0.0", args[0], &at), from_len = sizeof from;
    char bytes[16];
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    say("bind", bind(s, ANY(&at), len));
    puts("ready");
    fflush(stdout);
    say("recvfrom", recvfrom(s, bytes, sizeof bytes, 0, ANY(&from), &from_len));
    struct sockaddr_in stranger = *(struct sockaddr_in *)&from;
    stranger.sin_port = htons((unsigned short)(ntohs(stranger.sin_port) ^ 1));
    say("to a stranger", sendto(s, "n", 1, 0, ANY(&stranger), sizeof stranger));
    say("to who asked", sendto(s, "y", 1, 0, ANY(&from), from_len));
    int other = socket(AF_INET, SOCK_DGRAM, 0);
    say("from elsewhere", sendto(other, "n", 1, 0, ANY(&from), from_len));
}

/* unix PATH...: connects and binds at each. */
static void unix_at(char **paths)
{
    for (; paths[0]; paths++) {
        struct sockaddr_un at = { .sun_family = AF_UNIX };
        char bytes[16] = "";
        snprintf(at.sun_path, sizeof at.sun_path, "%s", paths[0]);
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        int done = connect(s, ANY(&at), sizeof at);
        say("connect", done);
        if (done == 0 && read(s, bytes, sizeof bytes - 1) > 0)
            printf("read %s\n", bytes);
        close(s);
        s = socket(AF_UNIX, SOCK_STREAM, 0);
        say("bind", bind(s, ANY(&at), sizeof at));
        close(s);
        s = socket(AF_UNIX, SOCK_DGRAM, 0);
        say("sendto", sendto(s, "x", 1, 0, ANY(&at), sizeof at));
        close(s);
    }
    struct sockaddr_un hidden = { .sun_family = AF_UNIX, .sun_path = "\0spacejmp-hidden" };
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    say("connect to an abstract name", connect(s, ANY(&hidden), 20));
    say("bind an abstract name", bind(s, ANY(&hidden), 20));
    say("bind any abstract name", bind(s, ANY(&hidden), sizeof(sa_family_t)));
}

/* abstract NAME...: connects and binds at each abstract name, and sends there. */
static void abstract_at(char **names)
{
    for (; names[0]; names++) {
        struct sockaddr_un at = { .sun_family = AF_UNIX };
        snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "%s", names[0]);
        socklen_t len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(names[0]);
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        say("connect", connect(s, ANY(&at), len));
        close(s);
        s = socket(AF_UNIX, SOCK_DGRAM, 0);
        say("bind", bind(s, ANY(&at), len));
        say("sendto", sendto(s, "x", 1, 0, ANY(&at), len));
        close(s);
    }
}

static const char *link_path, *inside, *outside;
static void *relink(void *unused)
{
    (void)unused;
    char other[300];
    snprintf(other, sizeof other, "%s.new", link_path);
    while (!over) {
        if (symlink(outside, other) == 0)
            rename(other, link_path);
        if (symlink(inside, other) == 0)
            rename(other, link_path);
    }
    return NULL;
}

/* relink LINK INSIDE OUTSIDE: another thread changes where a link leads while it is connected to and bound
 * through. */
static void race_links(char **paths)
{
    pthread_t thread;
    link_path = paths[0], inside = paths[1], outside = paths[2];
    pthread_create(&thread, NULL, relink, NULL);
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    long reached = 0;
    do {
        char through[300];
        struct sockaddr_un at = { .sun_family = AF_UNIX };
        snprintf(through, sizeof through, "%s/s", link_path);
        snprintf(at.sun_path, sizeof at.sun_path, "%.100s", through);
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        reached += connect(s, ANY(&at), sizeof at) == 0;
        close(s);
        snprintf(through, sizeof through, "%s/b", link_path);
        snprintf(at.sun_path, sizeof at.sun_path, "%.100s", through);
        s = socket(AF_UNIX, SOCK_STREAM, 0);
        bind(s, ANY(&at), sizeof at);
        close(s);
        unlink(through);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begun.tv_sec < 3);
    over = 1;
    pthread_join(thread, NULL);
    printf("reached %d\n", reached > 0);
}

/* socket: whether there are any. */
static void sockets(void)
{
    say("tcp", socket(AF_INET, SOCK_STREAM, 0));
    say("udp", socket(AF_INET6, SOCK_DGRAM, 0));
    say("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    int local = socket(AF_UNIX, SOCK_STREAM, 0);
    say("unix", local >= 0);
    char asked[40] = "lo";
    say("interface", ioctl(local, SIOCGIFINDEX, asked));
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *what = argv[1];
    char **rest = argv + 2;
    if (!strcmp(what, "socket"))
        sockets();
    else if (!strcmp(what, "connect"))
        connect_to(rest);
    else if (!strcmp(what, "send"))
        send_to(rest);
    else if (!strcmp(what, "listen"))
        listen_at(rest);
    else if (!strcmp(what, "race"))
        race(rest);
    else if (!strcmp(what, "answer"))
        answer(rest);
    else if (!strcmp(what, "unix"))
        unix_at(rest);
    else if (!strcmp(what, "abstract"))
        abstract_at(argv + 2);
    else if (!strcmp(what, "relink"))
        race_links(rest);
    puts("done");
    return 0;
}

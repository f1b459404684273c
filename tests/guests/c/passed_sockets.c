// A socket that listens, made by others: `inherited` as standard input, `received` through standard input.
// The second argument is a port at which nothing may be reached. Natively and in a VM it prints the same,
// but for what only a grant decides.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../include/say.h"

static int receive(int from)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    SAY(recvmsg(from, &message, MSG_CMSG_CLOEXEC));
    int fd = -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static int option(int fd, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &len) ? -1 : value;
}

int main(int argc, char **argv)
{
    int listener = 0;
    if (argc != 3) return 2;
    if (!strcmp(argv[1], "received")) listener = receive(0);
    SAY(option(listener, SO_TYPE));
    SAY(option(listener, SO_ACCEPTCONN));
    SAY(fcntl(listener, F_SETFL, O_RDWR | O_NONBLOCK));
    SAY(accept(listener, NULL, NULL));
    SAY(fcntl(listener, F_SETFL, O_RDWR));
    printf("waiting\n");
    fflush(stdout);

    struct sockaddr_in at = {0}, peer = {0};
    socklen_t len = sizeof at;
    SAY(getsockname(listener, (struct sockaddr *)&at, &len));
    printf("loopback: %d\n", at.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    len = sizeof peer;
    int connection = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
    printf("accepted: %d, from %s\n", connection >= 0, inet_ntoa(peer.sin_addr));
    SAY(option(connection, SO_ERROR));
    char bytes[16] = {0};
    SAY(recv(connection, bytes, sizeof bytes, 0));
    SAY(send(connection, "answer", 6, MSG_NOSIGNAL));
    SAY(shutdown(connection, SHUT_WR));
    SAY(recv(connection, bytes, sizeof bytes, 0));
    SAY(accept(connection, NULL, NULL));

    /* What is passed opens no other way. */
    at.sin_port = htons(atoi(argv[2]));
    struct sockaddr unspecified = {AF_UNSPEC};
    SAY(connect(connection, &unspecified, sizeof unspecified));
    SAY(connect(connection, (struct sockaddr *)&at, sizeof at));
    SAY(socket(AF_INET, SOCK_STREAM, 0));
    SAY(shutdown(listener, SHUT_RD));
    printf("done\n");
    return 0;
}

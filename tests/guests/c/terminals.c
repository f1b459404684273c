// Pseudo-terminals. Without an argument it makes some and starts itself at one; natively and in a VM it
// prints the same. `foreign PATH` tries a terminal that it was not given.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "../include/say.h"

extern char **environ;

static void show(const char *what, int fd)
{
    char bytes[256];
    errno = 0;
    ssize_t got = read(fd, bytes, sizeof bytes);
    printf("%s:", what);
    if (got < 0) printf(" %s", strerrorname_np(errno));
    for (ssize_t i = 0; i < got; i++)
        printf(bytes[i] >= ' ' && bytes[i] <= '~' ? " %c" : " %02x", (unsigned char)bytes[i]);
    printf(" (%zd)\n", got);
    fflush(stdout);
}

static int listed(int number)
{
    DIR *dir = opendir("/dev/pts");
    int found = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        found |= entry->d_name[0] != '.' && entry->d_type == DT_CHR && atoi(entry->d_name) == number
                 && strcmp(entry->d_name, "ptmx");
    if (dir) closedir(dir);
    return found;
}

/* Both ends, by one process. */
static void ends(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY), number = -1, locked = -1;
    printf("a terminal: %d\n", master >= 0);
    SAY(ioctl(master, TIOCGPTN, &number));
    SAY(ioctl(master, TIOCGPTLCK, &locked));
    char *name = ptsname(master), expected[64];
    snprintf(expected, sizeof expected, "/dev/pts/%d", number);
    printf("its name: %d, locked %d, listed %d\n", !strcmp(name, expected), locked, listed(number));
    SAY(open(name, O_RDWR | O_NOCTTY));
    SAY(grantpt(master));
    SAY(unlockpt(master));
    int slave = open(name, O_RDWR | O_NOCTTY);
    printf("the other end: %d\n", slave >= 0);
    struct stat by_name, by_fd;
    SAY(stat(name, &by_name));
    SAY(fstat(slave, &by_fd));
    printf("the same: %d %d\n", by_name.st_ino == by_fd.st_ino, by_name.st_rdev == by_fd.st_rdev);
    printf("ttyname: %d\n", ttyname(slave) && !strcmp(ttyname(slave), name));
    printf("terminals: %d %d\n", isatty(master), isatty(slave));
    SAY(access(name, R_OK));

    struct winsize size = {.ws_row = 33, .ws_col = 99}, seen = {0};
    SAY(ioctl(master, TIOCSWINSZ, &size));
    SAY(ioctl(slave, TIOCGWINSZ, &seen));
    printf("size: %d %d\n", seen.ws_row, seen.ws_col);

    struct termio old = {0};
    SAY(ioctl(slave, TCGETA, &old));
    printf("modes: %x %x %x %x, erase %d\n", old.c_iflag, old.c_oflag, old.c_cflag, old.c_lflag, old.c_cc[VERASE]);
    old.c_cc[VERASE] ^= 1;
    SAY(ioctl(slave, TCSETAW, &old));
    struct termios new;
    SAY(tcgetattr(slave, &new));
    printf("erase %d\n", new.c_cc[VERASE]);
    old.c_cc[VERASE] ^= 1;
    SAY(ioctl(slave, TCSETA, &old));
    SAY(ioctl(slave, TCGETA, NULL));
    SAY(ioctl(slave, TCSETA, NULL));
    SAY(ioctl(0, TCGETA, NULL) == -1);

    SAY(write(master, "one\ntw", 6));
    show("a line", slave);
    show("its echo", master);
    SAY(write(slave, "answer\n", 7));
    show("an answer", master);
    SAY(write(master, "x\177o\n\4", 5));
    show("an edited line", slave);
    show("nothing more", slave);
    SAY(tcflush(slave, TCIOFLUSH));
    SAY(tcflush(master, TCIOFLUSH));

    struct termios modes;
    SAY(tcgetattr(slave, &modes));
    printf("modes: %x %x %x %x\n", modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag);
    cfmakeraw(&modes);
    SAY(tcsetattr(slave, TCSADRAIN, &modes));
    SAY(tcgetattr(master, &modes));
    printf("raw: %x %x %x %x\n", modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag);
    SAY(write(master, "a\3\n", 3));
    int waiting = -1;
    struct pollfd arrived = {.fd = slave, .events = POLLIN};
    SAY(poll(&arrived, 1, -1));
    SAY(ioctl(slave, FIONREAD, &waiting));
    printf("waiting: %d\n", waiting);
    show("raw", slave);
    SAY(tcdrain(slave));
    SAY(ioctl(slave, TIOCOUTQ, &waiting));

    int other = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    printf("opened by the master: %d, %d\n", other >= 0, fcntl(other, F_GETFD));
    SAY(ioctl(slave, TIOCGPTPEER, O_RDWR) == -1 ? -1 : 0);
    close(other);

    int on = 1;
    SAY(ioctl(master, TIOCPKT, &on));
    SAY(tcflush(slave, TCIOFLUSH));
    show("a packet", master);
    SAY(write(slave, "data", 4));
    show("a packet of data", master);

    SAY(fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK));
    char byte;
    SAY(read(master, &byte, 1));
    SAY(tcgetpgrp(slave));
    SAY(tcsetpgrp(slave, getpgrp()));
    close(slave);
    struct pollfd poll_of = {.fd = master, .events = POLLIN};
    SAY(poll(&poll_of, 1, 0));
    printf("events: %x\n", poll_of.revents);
    show("all closed", master);

    int again = open(name, O_RDWR | O_NOCTTY);
    printf("opened again: %d\n", again >= 0);
    close(master);
    SAY(write(again, "x", 1));
    show("without a master", again);
    close(again);
    SAY(open(name, O_RDWR | O_NOCTTY));
    printf("listed: %d\n", listed(number));
}

static volatile sig_atomic_t came;
static void note(int signal) { came = signal; }

static void await(int signal)
{
    sigset_t none;
    sigemptyset(&none);
    while (came != signal) sigsuspend(&none);
    printf("signal: %s\n", strsignal(signal));
    fflush(stdout);
}

/* The leader of a session, at a terminal that becomes its own. Its output is a pipe. */
static int leader(const char *name)
{
    int signals[] = {SIGINT, SIGWINCH, SIGQUIT, SIGHUP, SIGCONT};
    sigset_t all;
    sigemptyset(&all);
    struct sigaction action = {.sa_handler = note};
    for (int i = 0; i < 5; i++) {
        sigaction(signals[i], &action, NULL);
        sigaddset(&all, signals[i]);
    }
    sigprocmask(SIG_BLOCK, &all, NULL);
    printf("leads: %d\n", getsid(0) == getpid());
    SAY(open("/dev/tty", O_RDWR));
    int fd = open(name, O_RDWR);
    printf("open: %d\n", fd >= 0);
    printf("its session: %d, its group: %d\n", tcgetsid(fd) == getpid(), tcgetpgrp(fd) == getpid());
    int tty = open("/dev/tty", O_RDWR);
    printf("the terminal: %d, its session: %d\n", tty >= 0, tcgetsid(tty) == getpid());
    SAY(tcsetpgrp(tty, getpgrp()));
    SAY(ioctl(tty, TIOCSCTTY, 0));
    SAY(tcsetpgrp(tty, 1));
    SAY(write(tty, "ready\n", 6));
    await(SIGINT);
    SAY(write(tty, "ready\n", 6));
    await(SIGQUIT);
    SAY(write(tty, "ready\n", 6));
    await(SIGWINCH);
    SAY(write(tty, "ready\n", 6));
    await(SIGHUP);
    SAY(write(fd, "x", 1));
    return 7;
}

/* Waits until the other end has written a line. */
static void ready(int master)
{
    char bytes[64];
    ssize_t got = 0;
    while (got < 1 || bytes[got - 1] != '\n') {
        got = read(master, bytes, sizeof bytes);
        if (got <= 0) { printf("no answer\n"); exit(1); }
    }
}

static void session(const char *self)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    grantpt(master);
    unlockpt(master);
    char *name = strdup(ptsname(master));
    struct termios modes;
    int slave = open(name, O_RDWR | O_NOCTTY);
    tcgetattr(slave, &modes);
    modes.c_lflag &= ~ECHO;
    tcsetattr(slave, TCSANOW, &modes);

    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    char *args[] = {(char *)self, "leader", name, NULL};
    pid_t child;
    int error = posix_spawn(&child, self, NULL, &attributes, args, environ);
    if (error) { printf("spawn: %s\n", strerrorname_np(error)); return; }
    close(slave);
    ready(master);
    write(master, "\3", 1);
    ready(master);
    write(master, "\34", 1);
    ready(master);
    struct winsize size = {.ws_row = 10, .ws_col = 20};
    ioctl(master, TIOCSWINSZ, &size);
    ready(master);
    close(master);
    int status;
    waitpid(child, &status, 0);
    printf("ended: %d %d\n", WIFEXITED(status), WEXITSTATUS(status));
}

static int foreign(const char *name)
{
    struct stat stat_of;
    SAY(open(name, O_RDWR | O_NOCTTY));
    SAY(open(name, O_PATH));
    SAY(stat(name, &stat_of));
    SAY(access(name, F_OK));
    printf("listed: %d\n", listed(atoi(strrchr(name, '/') + 1)));
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && !strcmp(argv[1], "leader")) return leader(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "foreign")) return foreign(argv[2]);
    ends();
    session(argv[0]);
    printf("done\n");
}

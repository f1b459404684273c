/* Handles SIGINT, SIGTERM and, with "quit", SIGQUIT: prints "ready", then "caught N" for each signal N that comes.
   With "exit" it ends with status 3 after the first one, otherwise it never ends. */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int exits;

/* Only async-signal-safe calls: the signal can come before pause(). */
static void handler(int signal)
{
    char text[] = "caught 00\n";
    text[7] = '0' + signal / 10;
    text[8] = '0' + signal % 10;
    if (write(1, text, sizeof text - 1) < 0 || exits)
        _exit(3);
}

int main(int argc, char **argv)
{
    struct sigaction action;
    exits = argc > 1 && strcmp(argv[1], "exit") == 0;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (argc > 1 && strcmp(argv[1], "quit") == 0)
        sigaction(SIGQUIT, &action, NULL);
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}

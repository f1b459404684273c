/* Starts the program `child` beside itself, waits for it, and ends with its status. */
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv)
{
    char path[4096];
    const char *end = strrchr(argv[0], '/');
    char *args[] = {path, NULL};
    pid_t pid;
    int status;

    if (argc != 1 || !end)
        return 2;
    snprintf(path, sizeof path, "%.*s/child", (int)(end - argv[0]), argv[0]);
    if (posix_spawn(&pid, path, NULL, NULL, args, environ) || waitpid(pid, &status, 0) != pid)
        return 3;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}

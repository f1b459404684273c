// ETXTBSY: what is open for writing is not executed, and what runs is not written. Natively and in a VM it prints the
// same. It works on a copy of itself, in the current directory.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../include/report.h"

static char *self;

static int copied(void) {
    int from = open(self, O_RDONLY), to = open("copy", O_CREAT | O_RDWR | O_TRUNC, 0755);
    char bytes[65536];
    ssize_t got;
    while ((got = read(from, bytes, sizeof bytes)) > 0)
        if (write(to, bytes, (size_t)got) != got) exit(1);
    close(from);
    return to;
}

// The child's status, or why it runs no program. It has none of the parent's descriptors.
static void runs(const char *what, const char *program) {
    pid_t pid = vfork();
    if (pid == 0) {
        execl(program, program, "exit", NULL);
        _exit(100 + errno);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    if (WEXITSTATUS(status) > 100) printf("%s: %s\n", what, strerrorname_np(WEXITSTATUS(status) - 100));
    else printf("%s: exited %d\n", what, WEXITSTATUS(status));
    fflush(stdout);
}

static void is_written(void) {
    int copy = copied();
    fcntl(copy, F_SETFD, FD_CLOEXEC);
    runs("open for writing", "./copy");
    int script = open("script", O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0755);
    dprintf(script, "#!./copy\n");
    runs("a script that is open for writing", "./script");
    close(script);
    runs("a script whose interpreter is", "./script");
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
    close(copy);
    runs("mapped to be written", "./copy");
    munmap(memory, 4096);
    runs("let go of", "./copy");
    runs("the script", "./script");
}

static void is_run(void) {
    int ready[2], go[2], status;
    char byte;
    if (pipe(ready) || pipe(go)) exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        close(ready[0]);
        close(go[1]);
        char to[2][16];
        snprintf(to[0], 16, "%d", ready[1]);
        snprintf(to[1], 16, "%d", go[0]);
        execl("./copy", "./copy", "wait", to[0], to[1], NULL);
        _exit(9);
    }
    close(ready[1]);
    close(go[0]);
    if (read(ready[0], &byte, 1) != 1) exit(1);
    link("copy", "same");
    struct { const char *what, *name; int flags; } ways[] = {
        {"write", "copy", O_WRONLY}, {"another name", "same", O_RDWR}, {"cut when opened", "copy", O_RDONLY | O_TRUNC},
        {"create", "copy", O_WRONLY | O_CREAT | O_TRUNC}, {"create only", "copy", O_WRONLY | O_CREAT | O_EXCL},
        {"this program", self, O_WRONLY},
    };
    for (size_t n = 0; n < sizeof ways / sizeof *ways; n++) {
        int file = open(ways[n].name, ways[n].flags, 0755);
        answer(ways[n].what, file < 0 ? -1 : 0);
    }
    answer("cut", truncate("copy", 10));
    int file = open("copy", O_RDONLY);
    answer("read", file < 0 ? -1 : 0);
    char name[32];
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    answer("once more, to write", open(name, O_WRONLY) < 0 ? -1 : 0);
    answer("its mode", chmod("copy", 0700));
    runs("once more", "./copy");
    // When it has ended it is free: when its descriptors are closed, and before it is waited for.
    close(go[1]);
    say("end of file", read(ready[0], &byte, 1));
    answer("after its end", (file = open("copy", O_WRONLY)) < 0 ? -1 : 0);
    runs("and now", "./copy");
    close(file);
    waitpid(pid, &status, 0);
    say("status", WEXITSTATUS(status));
    answer("cut at last", truncate("copy", 0));
    runs("without content", "./copy");
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    self = getenv("SELF") ? getenv("SELF") : argv[0];
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "exit")) return 3;
    // As a script's interpreter.
    if (!strcmp(mode, "./script")) return 4;
    if (!strcmp(mode, "wait")) {
        char byte = 'r';
        if (write(atoi(argv[2]), &byte, 1) != 1) return 1;
        return (int)read(atoi(argv[3]), &byte, 1) + 5;
    }
    is_written();
    is_run();
    return 0;
}

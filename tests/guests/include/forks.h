/* What the guests that fork have in common. */
#define PAGE 4096ul

// How a child ended: its status, or 1000 and the signal.
static int end_of(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// Runs `body` in a child; 0 to 99 are its answers.
#define CHILD(name, ...)                                   \
    do {                                                   \
        fflush(stdout);                                    \
        pid_t child_pid = fork();                          \
        if (child_pid == 0) {                              \
            int result = 0;                                \
            __VA_ARGS__;                                   \
            fflush(stdout);                                \
            _exit(result);                                 \
        }                                                  \
        if (child_pid < 0) answer(name, -1);               \
        else say(name, end_of(child_pid));                 \
    } while (0)

__attribute__((unused)) static void *anonymous(size_t bytes, int flags) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        answer("mmap", -1);
        exit(1);
    }
    return at;
}

/* Forks with address spaces attached: the child has them under the same handles, from outside. Prints
 * what it finds; a wait for a lock that never comes free would be ended by the alarm. */
#define SPACEJMP_HEADER_ONLY
#include <spacejmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, long value)
{
    printf("%s: %ld\n", what, value);
    fflush(stdout);
}

static int end_of(pid_t pid)
{
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static volatile uint64_t *word_of(segid_t sid)
{
    struct seg_stat stat;
    return seg_stat(sid, &stat) == 0 ? (volatile uint64_t *)(uintptr_t)stat.base : NULL;
}

static void add(vhandle_t vh, volatile uint64_t *word, int times)
{
    for (int n = 0; n < times; n++) {
        if (vas_switch(vh) != 0)
            _exit(90);
        *word += 1;
        if (vas_switch(VAS_HOME) != 0)
            _exit(91);
    }
}

int main(void)
{
    alarm(60);
    struct seg_params raw = {.size_bytes = 4096, .reserve_bytes = 2 << 20, .mode = 0600, .lockable = 1};
    struct seg_params versioned = raw, memory = raw;
    versioned.lifetime = SEG_VERSIONED;
    memory.lifetime = SEG_VOLATILE;
    memory.lockable = 0;
    segid_t kept = seg_alloc_params("kept", &raw), whole = seg_alloc_params("whole", &versioned),
            gone = seg_alloc_params("gone", &memory);
    vasid_t first = vas_create("first", 0600), second = vas_create("second", 0600),
            third = vas_create("third", 0600);
    if (!kept || !whole || !gone || !first || !second || !third) {
        perror("make");
        return 3;
    }
    say("members", seg_attach(first, kept, SEG_WRITE) + seg_attach(second, whole, SEG_WRITE));
    vhandle_t low = vas_attach(third, 0), one = vas_attach(first, 0), two = vas_attach(second, 0),
              reader = vas_attach(first, VAS_ATTACH_READ_ONLY);
    say("handles", low * 1000 + one * 100 + two * 10 + reader);
    say("a local one", seg_attach_local(one, gone, SEG_WRITE));
    say("detached", vas_detach(low));
    volatile uint64_t *in_first = word_of(kept), *in_second = word_of(whole), *in_memory = word_of(gone);

    say("inside", vas_switch(one));
    *in_first = 1;
    *in_memory = 5;
    pid_t pid = fork();
    if (pid == 0)
        _exit(1);
    say("no fork inside", pid == -1 && errno == EBUSY);
    say("home", vas_switch(VAS_HOME));
    add(two, in_second, 1);

    pid = fork();
    if (pid == 0) {
        say("the child is outside", vas_current() == VAS_HOME);
        say("it enters", vas_switch(one));
        say("and finds", (long)(*in_first * 10 + *in_memory));
        *in_first = 2;
        *in_memory = 6;
        say("then", vas_switch(two));
        say("and there", (long)*in_second);
        say("to read", vas_switch(reader));
        say("it reads", (long)*in_first);
        say("home again", vas_switch(VAS_HOME));
        say("the free handle", vas_attach(third, 0));
        _exit(7);
    }
    say("it ended", end_of(pid));
    say("inside again", vas_switch(one));
    say("there is", (long)(*in_first * 10 + *in_memory));
    say("home again", vas_switch(VAS_HOME));

    pid_t all[3];
    for (int n = 0; n < 3; n++) {
        all[n] = fork();
        if (all[n] == 0) {
            add(one, in_first, 50);
            add(two, in_second, 20);
            _exit(0);
        }
    }
    add(one, in_first, 50);
    add(two, in_second, 20);
    for (int n = 0; n < 3; n++)
        say("ended", end_of(all[n]));
    vas_switch(one);
    say("added", (long)*in_first);
    vas_switch(two);
    say("in whole changes", (long)*in_second);
    return vas_switch(VAS_HOME);
}

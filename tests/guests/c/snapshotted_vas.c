/* A program with address spaces attached, which does what it is told, a line each, so that a test knows where it is when
 * it is snapshotted.
 *
 *     snapshotted_vas NAME...     VASes, each with one segment, whose first word it counts up and reads
 *
 * Each NAME has two handles: one that may write, unless the name ends in `?`, and one that only reads. */
#define SPACEJMP_HEADER_ONLY
#include <spacejmp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 8

static struct {
    const char *name;
    vasid_t vid;
    segid_t sid;
    vhandle_t write, read;
    volatile uint64_t *word;
} all[MOST];
static int count;

static int open_all(char **names)
{
    for (; names[count] && count < MOST; count++) {
        char *name = names[count];
        size_t end = strlen(name);
        int reads_only = end && name[end - 1] == '?';
        if (reads_only)
            name[end - 1] = 0;
        vasid_t vid = vas_find(name);
        struct vas_attachment attached;
        struct seg_stat stat;
        if (!vid || vas_segments(vid, &attached, 1, 0) != 1 || seg_stat(attached.sid, &stat))
            return 0;
        all[count].name = name;
        all[count].vid = vid;
        all[count].sid = attached.sid;
        all[count].word = (volatile uint64_t *)(uintptr_t)stat.base;
        all[count].read = vas_attach(vid, VAS_ATTACH_READ_ONLY);
        all[count].write = reads_only ? 0 : vas_attach(vid, 0);
        if (all[count].read < 0 || all[count].write < 0)
            return 0;
    }
    return 1;
}

static void say(const char *what, long value)
{
    printf("%s %ld\n", what, value);
}

/* What the thread is told that asks for something, or its error as a word. */
static void say_result(const char *what, long value)
{
    if (value < 0)
        printf("%s %s\n", what, errno == EBUSY ? "EBUSY" : errno == EBADF ? "EBADF" : strerror(errno));
    else
        say(what, value);
}

int main(int argc, char **argv)
{
    char line[64], what[32];
    if (argc < 2 || !open_all(argv + 1)) {
        perror("open");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        unsigned which = 0;
        long number = 0;
        if (sscanf(line, "%31s %u %ld", what, &which, &number) < 1 || which >= (unsigned)count)
            return 1;
        if (!strcmp(what, "add")) {
            uint64_t sum = 0;
            if (!vas_switch(all[which].write)) {
                sum = *all[which].word += (uint64_t)number;
                if (vas_switch(VAS_HOME))
                    return 1;
            }
            say("is", (long)sum);
        } else if (!strcmp(what, "get")) {
            if (vas_switch(all[which].read))
                return 1;
            uint64_t word = *all[which].word;
            vas_switch(VAS_HOME);
            say("is", (long)word);
        } else if (!strcmp(what, "in")) {
            say_result("in", vas_switch(all[which].read));
        } else if (!strcmp(what, "write")) {
            say_result("in", vas_switch(all[which].write));
        } else if (!strcmp(what, "nest")) {
            say_result("in", vas_nest(all[which].read, 0));
        } else if (!strcmp(what, "nest-home")) {
            say_result("in", vas_nest(VAS_HOME, 0));
        } else if (!strcmp(what, "return")) {
            vhandle_t back = vas_return();
            say_result("back in", back < 0 ? -1 : back == all[which].read);
        } else if (!strcmp(what, "out")) {
            say_result("out", vas_switch(VAS_HOME));
        } else if (!strcmp(what, "look")) {
            say("sees", (long)*all[which].word);
        } else if (!strcmp(what, "set")) {
            *all[which].word = (uint64_t)number;
            say("set", number);
        } else if (!strcmp(what, "where")) {
            vhandle_t here = vas_current();
            printf("%s\n", here == VAS_HOME           ? "at home"
                           : here == all[which].read  ? "reading"
                           : here == all[which].write ? "writing"
                                                      : "elsewhere");
        } else if (!strcmp(what, "root")) {
            struct seg_root root;
            say_result("root", seg_root_get(all[which].sid, &root) ? -1 : (long)root.fingerprint[0]);
        } else if (!strcmp(what, "set-root")) {
            struct seg_root root = {(uint64_t)(uintptr_t)all[which].word, {(uint64_t)number, 0}};
            say_result("root", seg_root_set(all[which].sid, &root));
        } else if (!strcmp(what, "detach")) {
            say_result("detached", vas_detach(all[which].read));
        } else if (!strcmp(what, "attach")) {
            say_result("handle", vas_attach(all[which].vid, VAS_ATTACH_READ_ONLY));
        } else if (!strcmp(what, "end")) {
            return 5;
        } else {
            return 1;
        }
    }
    return 2;
}

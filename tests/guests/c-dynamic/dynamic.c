/* A dynamic program, for tests of its loading. Its first argument is what it does:
 *   check        what its loader and its C library rely on; prints `ok`
 *   greet        calls the function of libgreet.so, which RUNPATH or the environment leads to
 *   read FILE    prints the file, or why it cannot be read
 *   write FILE   makes a file, or prints why it cannot */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("FAILED line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
            exit(1); \
        } \
    } while (0)

static _Thread_local int own = 1;

static void *in_thread(void *argument)
{
    own += 1;
    return own == 2 ? argument : NULL;
}

struct seen {
    unsigned long loader;
    unsigned long program;
    int objects;
};

static int look(struct dl_phdr_info *info, size_t size, void *data)
{
    struct seen *seen = data;
    (void)size;
    if (seen->objects++ == 0)
        seen->program = (unsigned long)info->dlpi_phdr;
    if (strstr(info->dlpi_name, "ld-"))
        seen->loader = info->dlpi_addr;
    return 0;
}

static void check(void)
{
    struct seen seen = {0, 0, 0};
    pthread_t thread;
    void *result = NULL;
    MUST(dl_iterate_phdr(look, &seen) == 0);
    MUST(seen.objects >= 3 && getauxval(AT_PHDR) == seen.program);
    MUST(getauxval(AT_BASE) != 0 && getauxval(AT_BASE) == seen.loader);
    MUST(strcmp((const char *)getauxval(AT_PLATFORM), "x86_64") == 0);
    MUST(strstr((const char *)getauxval(AT_EXECFN), "dynamic"));
    MUST(pthread_create(&thread, NULL, in_thread, &seen) == 0);
    MUST(pthread_join(thread, &result) == 0 && result == &seen && own == 1);
    void *library = dlopen("libm.so.6", RTLD_NOW);
    MUST(library);
    double (*root)(double) = (double (*)(double))dlsym(library, "sqrt");
    MUST(root && root(49) == 7);
    puts("ok");
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "check";
    if (strcmp(what, "check") == 0) {
        check();
    } else if (strcmp(what, "greet") == 0) {
        void *library = dlopen("libgreet.so", RTLD_NOW);
        if (!library) {
            puts(dlerror());
            return 1;
        }
        const char *(*greet)(void) = (const char *(*)(void))dlsym(library, "greet");
        MUST(greet);
        puts(greet());
    } else if (argc > 2) {
        FILE *file = fopen(argv[2], strcmp(what, "read") == 0 ? "r" : "w");
        char line[200];
        if (!file) {
            puts(strerror(errno));
            return 1;
        }
        while (strcmp(what, "read") == 0 && fgets(line, sizeof line, file))
            fputs(line, stdout);
    }
    return 0;
}

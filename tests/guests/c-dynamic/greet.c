/* libgreet.so: a library that is where the test puts it. Preloaded, it says so by itself. */
#include <stdio.h>
#include <stdlib.h>

const char *greet(void)
{
    return "greetings";
}

__attribute__((constructor)) static void loaded(void)
{
    if (getenv("LD_PRELOAD"))
        puts("preloaded");
}

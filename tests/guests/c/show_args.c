/* Prints its arguments, one to a line, and the file that it was started as: a script's interpreter. */
#include <stdio.h>
#include <sys/auxv.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        puts(argv[i]);
    const char *file = (const char *)getauxval(AT_EXECFN);
    FILE *script = argc > 1 ? fopen(argv[argc > 2 ? 2 : 1], "r") : NULL;
    printf("execfn %s, script %s\n", file, script ? "readable" : "hidden");
    return 0;
}

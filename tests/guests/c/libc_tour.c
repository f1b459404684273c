/* printf, strings, malloc, qsort, floating point, time, environment, longjmp, atexit.
 * Prints lines that do not vary and exits with 5. */
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static jmp_buf back;

static void leave(int depth);
static void (*volatile again)(int) = leave;

static void leave(int depth)
{
    if (depth == 0)
        longjmp(back, 42);
    again(depth - 1);
}

static void at_exit(void) { printf("at exit\n"); }

static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

int main(void)
{
    atexit(at_exit);
    printf("%d %5.2f %-6s| %08lx %e %a\n", -7, 3.14159, "left", 0xbeefUL, 12345.678, 1.5);
    printf("sqrt %.6f, sin %.6f, pow %.3f\n", sqrt(2), sin(1), pow(2, 0.5));

    unsigned long state = 1, sum = 0;
    char *live[64] = {0};
    for (int i = 0; i < 20000; i++) {
        state = state * 6364136223846793005UL + 1442695040888963407UL;
        int slot = (int)(state >> 58);
        size_t size = (state >> 40) % (i % 100 ? 2000 : 500000) + 1;
        if (live[slot] && i % 3 == 0)
            live[slot] = realloc(live[slot], size);
        else {
            free(live[slot]);
            live[slot] = malloc(size);
        }
        live[slot][0] = live[slot][size - 1] = (char)i;
        sum += size;
    }
    for (int i = 0; i < 64; i++)
        free(live[i]);
    printf("allocated %lu\n", sum);

    int numbers[1000];
    for (int i = 0; i < 1000; i++)
        numbers[i] = i * 7919 % 1000;
    qsort(numbers, 1000, sizeof *numbers, compare);
    printf("sorted %d %d %d\n", numbers[0], numbers[500], numbers[999]);

    if (setjmp(back) == 0)
        leave(100);
    else
        printf("jumped back\n");

    time_t moment = 1000000000;
    char text[64];
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", gmtime(&moment));
    printf("%s, now %s\n", text, time(NULL) > 1577836800 ? "later" : "earlier");
    setenv("COLOUR", "green", 1);
    printf("COLOUR=%s, NONE=%s\n", getenv("COLOUR"), getenv("NONE_SUCH") ? "set" : "unset");
    char *end;
    double number = strtod("2.5e3xyz", &end);
    printf("%g %s, %.3s %zu\n", number, end, "abcdef", strlen("four"));
    exit(5);
}

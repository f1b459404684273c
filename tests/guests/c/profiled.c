/* Programs whose profiles are known.

   "time": three_parts() computes three times as long as one_part(), over and over for a second and a half.
   "threads": one thread computes for a second, another one waits for it in read().
   "exits": from_a() makes 1000 calls, from_b() 100, from_c() 50 by the C library's function.
   "fork": a child makes 70 calls in in_child(), and becomes "exec" by execve, which makes 30 in in_next().
   "hostile": calls with stack and frame pointers that lead nowhere, in circles and out of the address space.

   Functions that call others have a frame: what they use of it makes the compiler keep one. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))
#define HAS_FRAME() __asm__ volatile("" : : "r"(__builtin_frame_address(0)))
/* Against a jump instead of the last call. */
#define ENDS_HERE() __asm__ volatile("" : : : "memory")

enum { PART = 10 * 1000 * 1000 };

static void compute(long steps)
{
    for (long step = 0; step < steps; step++)
        __asm__ volatile("" : "+r"(step));
}

FUNCTION void three_parts(void)
{
    HAS_FRAME();
    for (long step = 0; step < 3L * PART; step++)
        __asm__ volatile("" : "+r"(step));
}

FUNCTION void one_part(void)
{
    HAS_FRAME();
    for (long step = 0; step < PART; step++)
        __asm__ volatile("" : "+r"(step));
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

FUNCTION void all_parts(void)
{
    HAS_FRAME();
    for (double end = now() + 1.5; now() < end;) {
        three_parts();
        one_part();
    }
    ENDS_HERE();
}

static int ends[2];

static inline __attribute__((always_inline)) long call(long number, long a, long b, long c)
{
    long result = number;
    __asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

FUNCTION void waits_in_read(void)
{
    char byte;
    HAS_FRAME();
    call(SYS_read, ends[0], (long)&byte, 1);
}

FUNCTION void computes_meanwhile(void)
{
    HAS_FRAME();
    for (double end = now() + 1; now() < end;)
        compute(PART);
    ENDS_HERE();
}

static void *waiting_thread(void *unused)
{
    HAS_FRAME();
    waits_in_read();
    ENDS_HERE();
    return unused;
}

static void *computing_thread(void *unused)
{
    HAS_FRAME();
    computes_meanwhile();
    ENDS_HERE();
    return unused;
}

FUNCTION void from_a(int times)
{
    HAS_FRAME();
    while (times-- > 0)
        call(SYS_getppid, 0, 0, 0);
}

FUNCTION void from_b(int times)
{
    HAS_FRAME();
    while (times-- > 0)
        call(SYS_getppid, 0, 0, 0);
}

FUNCTION void from_c(int times)
{
    HAS_FRAME();
    while (times-- > 0)
        getppid();
    ENDS_HERE();
}

FUNCTION void in_child(int times)
{
    HAS_FRAME();
    while (times-- > 0)
        call(SYS_getppid, 0, 0, 0);
}

FUNCTION void in_next(int times)
{
    HAS_FRAME();
    while (times-- > 0)
        call(SYS_getppid, 0, 0, 0);
}

/* A call with these registers. */
static void call_with(uint64_t frame, uint64_t stack)
{
    long result = SYS_getppid;
    __asm__ volatile("mov %%rbp, %%r12; mov %%rsp, %%r13; mov %[frame], %%rbp; mov %[stack], %%rsp; syscall;"
                     "mov %%r13, %%rsp; mov %%r12, %%rbp"
                     : "+a"(result)
                     : [frame] "r"(frame), [stack] "r"(stack)
                     : "rcx", "r11", "r12", "r13", "memory");
}

FUNCTION void hostile(void)
{
    uint64_t *circle = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t at = (uint64_t)circle;
    /* A frame that is its own caller, and a long way up in steps of two words. */
    for (int frame = 0; frame < 500; frame++) {
        circle[2 * frame] = at + 16 * (frame + 1);
        circle[2 * frame + 1] = (uint64_t)hostile + 16;
    }
    circle[1000] = at + 8000;
    circle[1001] = (uint64_t)hostile + 16;
    uint64_t frames[] = {0, 1, 8, at, at + 4, at + 8000, at + 8184, at + 8192, at - 8, UINT64_MAX,
                         UINT64_MAX - 7, 1UL << 47, (1UL << 47) - 8, (1UL << 46), 0xffff800000000000};
    uint64_t here = (uint64_t)__builtin_frame_address(0) - 4096;
    uint64_t stacks[] = {here, at, at + 8, at + 8184, at + 8189, 0, 8, (1UL << 47) - 8};
    for (unsigned frame = 0; frame < sizeof frames / sizeof *frames; frame++)
        for (unsigned stack = 0; stack < sizeof stacks / sizeof *stacks; stack++)
            call_with(frames[frame], stacks[stack]);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    HAS_FRAME();
    if (strcmp(mode, "time") == 0) {
        all_parts();
    } else if (strcmp(mode, "threads") == 0) {
        pthread_t waiting, computing;
        if (pipe(ends) != 0 || pthread_create(&waiting, NULL, waiting_thread, NULL) != 0 ||
            pthread_create(&computing, NULL, computing_thread, NULL) != 0)
            return 1;
        pthread_join(computing, NULL);
        if (write(ends[1], "x", 1) != 1)
            return 2;
        pthread_join(waiting, NULL);
    } else if (strcmp(mode, "exits") == 0) {
        from_a(1000);
        from_b(100);
        from_c(50);
    } else if (strcmp(mode, "fork") == 0) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            in_child(70);
            execl(argv[2], argv[2], "exec", NULL);
            _exit(9);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            return 3;
        from_a(20);
    } else if (strcmp(mode, "exec") == 0) {
        in_next(30);
    } else if (strcmp(mode, "hostile") == 0) {
        hostile();
    } else {
        fprintf(stderr, "profiled: give a mode\n");
        return 4;
    }
    return 0;
}

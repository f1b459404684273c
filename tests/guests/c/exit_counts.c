/* For counting exits. Without arguments main() ends the program directly. "version" prints the
   C library's. "threads N" makes N threads, one after another, each of which ends immediately;
   the calls are made here and not by the library, and nothing waits in the VMM, so that
   the exits are those of a thread and no others. */

#define _GNU_SOURCE
#include <gnu/libc-version.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char stack[4096] __attribute__((aligned(16)));
static _Atomic int child;

static void make_thread(void)
{
    long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                 CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    long result = SYS_clone;
    register void *tid __asm__("r10") = &child;
    register long tls __asm__("r8") = 0;
    __asm__ volatile("syscall; test %%rax, %%rax; jnz 1f;"
                     "mov %[exit], %%eax; xor %%edi, %%edi; syscall; ud2; 1:"
                     : "+a"(result)
                     : "D"(flags), "S"(stack + sizeof stack), "d"(&child), "r"(tid), "r"(tls),
                       [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory", "cc");
    if (result < 0)
        _exit(9);
    /* Cleared when the thread ends. */
    while (atomic_load(&child) != 0)
        __builtin_ia32_pause();
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        puts(gnu_get_libc_version());
        return 0;
    }
    if (argc == 3) {
        stack[0] = 1;
        for (int n = atoi(argv[2]); n > 0; n--)
            make_thread();
    }
    syscall(SYS_exit_group, 0);
}

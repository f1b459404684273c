/* Handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL on an alternate stack that recover with
 * siglongjmp. Each must get the right si_code and si_addr. Prints one line per fault and
 * "recovered"; exits with 0, or 1 if something was wrong. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static sigjmp_buf back;
static volatile sig_atomic_t number, code, on_alternate;
static void *volatile address;
static char stack[65536];

static void handler(int signo, siginfo_t *info, void *context)
{
    char here;
    (void)context;
    number = signo;
    code = info->si_code;
    address = info->si_addr;
    on_alternate = &here >= stack && &here < stack + sizeof stack;
    siglongjmp(back, 1);
}

static int bad;

static void expect(const char *what, int signo, int want_code, void *want_address)
{
    int fine = number == signo && code == want_code && on_alternate &&
               (want_address == NULL || address == want_address);
    printf("%s: signal %d, %s\n", what, (int)number, fine ? "fine" : "wrong");
    if (!fine) {
        printf("  code %d (want %d), address %p (want %p), alternate %d\n", (int)code, want_code,
               address, want_address, (int)on_alternate);
        bad = 1;
    }
}

static int deeper(int depth)
{
    volatile char room[4096];
    room[0] = (char)depth;
    return depth < 0 ? 0 : deeper(depth + 1) + room[0];
}

int main(void)
{
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (sigaltstack(&alternate, NULL))
        return 2;
    int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (int i = 0; i < 4; i++)
        if (sigaction(signals[i], &action, NULL))
            return 2;

    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (volatile int round = 0; round < 3; round++) {
        if (!sigsetjmp(back, 1))
            *(volatile char *)0x10 = 1;
        expect("unmapped write", SIGSEGV, SEGV_MAPERR, (void *)0x10);
    }
    if (!sigsetjmp(back, 1))
        *(volatile char *)(page + 100) = 1;
    expect("write to read-only", SIGSEGV, SEGV_ACCERR, page + 100);
    if (!sigsetjmp(back, 1))
        ((void (*)(void))page)();
    expect("execute data", SIGSEGV, SEGV_ACCERR, page);
    if (!sigsetjmp(back, 1))
        *(volatile char *)0x8000000000000000UL = 1;
    /* A general protection fault has no address. */
    expect("not canonical", SIGSEGV, SI_KERNEL, NULL);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("xorl %%edx, %%edx; xorl %%ecx, %%ecx; movl $1, %%eax; divl %%ecx" ::
                             : "eax", "ecx", "edx");
    expect("divide", SIGFPE, FPE_INTDIV, NULL);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("ud2");
    expect("ud2", SIGILL, ILL_ILLOPN, NULL);
    if (!sigsetjmp(back, 1))
        deeper(0);
    expect("stack overflow", SIGSEGV, SEGV_MAPERR, NULL);

    /* siglongjmp restored the mask: the signal is delivered again. */
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    if (sigismember(&mask, SIGSEGV))
        bad = 1;
    printf("recovered\n");
    return bad;
}

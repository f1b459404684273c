/* A handler fixes the context and returns; every integer, SSE and (if the CPU has it) AVX
 * register and the flags are as before. Prints "preserved", exits with 0; 1 if not. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

static volatile sig_atomic_t handled;

static void handler(int signo, siginfo_t *info, void *context)
{
    ucontext_t *frame = context;
    (void)signo;
    (void)info;
    handled++;
    /* Past the ud2, with every register clobbered before returning. */
    frame->uc_mcontext.gregs[REG_RIP] += 2;
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; pcmpeqd %%xmm7, %%xmm7;"
                     "pcmpeqd %%xmm8, %%xmm8; pcmpeqd %%xmm15, %%xmm15; std; cld" ::
                         : "xmm0", "xmm1", "xmm7", "xmm8", "xmm15");
}

/* Not on the stack: the assembly below pushes. */
static uint64_t before[14], after[14], flags;
static uint8_t vectors_in[16][32] __attribute__((aligned(32)));
static uint8_t vectors_out[16][32] __attribute__((aligned(32)));

static int integers(void)
{
    for (int i = 0; i < 14; i++)
        before[i] = 0x1111111111111111UL * (unsigned)(i + 1);
    __asm__ volatile(
        "push %%rbp; push %%rbx;"
        "lea %1, %%rbp; mov (%%rbp), %%rax; mov 8(%%rbp), %%rbx; mov 16(%%rbp), %%rcx;"
        "mov 24(%%rbp), %%rdx; mov 32(%%rbp), %%rsi; mov 40(%%rbp), %%rdi; mov 48(%%rbp), %%r8;"
        "mov 56(%%rbp), %%r9; mov 64(%%rbp), %%r10; mov 72(%%rbp), %%r11; mov 80(%%rbp), %%r12;"
        "mov 88(%%rbp), %%r13; mov 96(%%rbp), %%r14; mov 104(%%rbp), %%r15;"
        "stc; std; ud2;"
        "lea %0, %%rbp; mov %%rax, (%%rbp); mov %%rbx, 8(%%rbp); mov %%rcx, 16(%%rbp);"
        "mov %%rdx, 24(%%rbp); mov %%rsi, 32(%%rbp); mov %%rdi, 40(%%rbp); mov %%r8, 48(%%rbp);"
        "mov %%r9, 56(%%rbp); mov %%r10, 64(%%rbp); mov %%r11, 72(%%rbp); mov %%r12, 80(%%rbp);"
        "mov %%r13, 88(%%rbp); mov %%r14, 96(%%rbp); mov %%r15, 104(%%rbp);"
        "pushfq; pop %%rax; cld; pop %%rbx; pop %%rbp; mov %%rax, %2;"
        : "=m"(after), "+m"(before), "=m"(flags)
        :
        : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
          "memory", "cc");
    /* Carry and direction were set. */
    return memcmp(before, after, sizeof before) == 0 && (flags & 0x401) == 0x401;
}

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

__attribute__((target("avx"))) static void avx(void)
{
#define LOAD(n) "vmovdqu " #n "*32(%0), %%ymm" #n ";"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%1);"
    __asm__ volatile(EACH(LOAD) "ud2;" EACH(STORE) "vzeroupper" ::"r"(vectors_in), "r"(vectors_out)
                     : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void sse(void)
{
#define LOAD16(n) "movdqu " #n "*32(%0), %%xmm" #n ";"
#define STORE16(n) "movdqu %%xmm" #n ", " #n "*32(%1);"
    __asm__ volatile(EACH(LOAD16) "ud2;" EACH(STORE16)::"r"(vectors_in), "r"(vectors_out)
                     : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static int vectors(void (*through_a_signal)(void), size_t width)
{
    memset(vectors_out, 0, sizeof vectors_out);
    through_a_signal();
    int same = 1;
    for (int i = 0; i < 16; i++)
        same &= memcmp(vectors_in[i], vectors_out[i], width) == 0;
    return same;
}

int main(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, NULL);
    for (int i = 0; i < 16 * 32; i++)
        vectors_in[i / 32][i % 32] = (uint8_t)(i * 37 + 11);
    int has_avx = __builtin_cpu_supports("avx");
    for (int round = 0; round < 100; round++) {
        if (!integers() || !vectors(sse, 16) || (has_avx && !vectors(avx, 32))) {
            printf("lost in round %d\n", round);
            return 1;
        }
    }
    if (handled != (has_avx ? 300 : 200))
        return 1;
    printf("preserved\n");
    return 0;
}

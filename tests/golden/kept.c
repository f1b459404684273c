/*
 * A program that is built once and then kept: `kept` beside this file, as version 0.1 of the ABI has it. Every later
 * version has to run it, and it has to find what it stored before. It has no library below it and includes no header of
 * ours: what it knows of the calls is written out here, as it is in programs that people have built.
 *
 *     gcc -Os -ffreestanding -fno-stack-protector -fno-pic -mno-red-zone -nostdlib -static -no-pie \
 *         -Wl,--build-id=none -s kept.c -o kept
 *
 * It is never built again. A later version of the ABI gets a program of its own beside it.
 */
typedef unsigned long u64;
typedef long i64;

static u64 page;

static i64 call(u64 number, u64 a, u64 b, u64 c, u64 d)
{
    i64 result;
    register u64 r10 __asm__("r10") = d;
    register u64 r8 __asm__("r8") = 0;
    register u64 r9 __asm__("r9") = 0;
    __asm__ volatile("call *%[page]"
                     : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8), "+r"(r9)
                     : "0"(number), [page] "m"(page)
                     : "rcx", "r11", "cc", "memory");
    return result;
}

static i64 linux_call(u64 number, u64 a, u64 b, u64 c)
{
    i64 result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static u64 length(const char *text)
{
    u64 count = 0;
    while (text[count]) count++;
    return count;
}

static void say(const char *what, u64 number)
{
    char line[64], digits[20];
    u64 at = 0, count = 0;
    while (*what) line[at++] = *what++;
    do digits[count++] = (char)('0' + number % 10); while (number /= 10);
    while (count) line[at++] = digits[--count];
    line[at++] = '\n';
    linux_call(1, 1, (u64)line, at);
}

/* Ends the program with the number of the line when a call has failed. */
#define NEED(result) need(result, __LINE__)
static u64 need(i64 result, int line)
{
    if (result < 0) {
        say("failed in line ", (u64)line);
        say("error ", (u64)-result);
        linux_call(231, 1, 0, 0);
    }
    return (u64)result;
}

enum {
    NULL_CALL = 0x534a0000, SWITCH, VAS_COMMIT = 0x534a0006, VAS_SYNC = 0x534a0008, VAS_VERSION,
    VAS_CREATE = 0x534a0010, VAS_FIND, VAS_CLONE, VAS_ATTACH, VAS_DETACH, VAS_STAT = 0x534a0018, VAS_SEGMENTS,
    VAS_TAG, SEG_ALLOC = 0x534a0020, SEG_FIND, SEG_ATTACH = 0x534a0023, SEG_GROW = 0x534a002b, SEG_STAT = 0x534a002a,
    SEG_SYNC = 0x534a002c, ROOT_GET, ROOT_SET,
};

static u64 named(u64 number, const char *name, u64 more, u64 bytes)
{
    return (u64)call(number, (u64)name, length(name), more, bytes);
}

/* A VAS of this name with one segment of this name and lifetime; made if it is not there. */
static u64 opened(const char *name, u64 lifetime)
{
    i64 vid = (i64)named(VAS_FIND, name, 0, 0);
    if (vid != -2) return NEED(vid);
    struct { u64 base, size, reserve; unsigned mode; unsigned char lifetime, pages, lockable, zero; u64 rest; } params =
        { 0, 4096, 16 << 20, 0600, (unsigned char)lifetime, 0, 1, 0, 0 };
    u64 sid = NEED((i64)named(SEG_ALLOC, name, (u64)&params, sizeof params));
    vid = (i64)NEED((i64)named(VAS_CREATE, name, 0600, 0));
    NEED(call(SEG_ATTACH, (u64)vid, sid, 3, 0));
    return (u64)vid;
}

static u64 base_of(const char *name)
{
    u64 stat[5];
    NEED(call(SEG_STAT, NEED((i64)named(SEG_FIND, name, 0, 0)), (u64)stat, sizeof stat, 0));
    return stat[1];
}

/* One more at the root object of the VAS, which is the count, and what it is then. */
static u64 counted(const char *name, u64 vid)
{
    u64 root[3], sid = NEED((i64)named(SEG_FIND, name, 0, 0));
    u64 vh = NEED(call(VAS_ATTACH, vid, 0, 0, 0));
    NEED(call(SWITCH, vh, 0, 0, 0));
    NEED(call(ROOT_GET, sid, (u64)root, 0, 0));
    if (!root[0]) {
        root[0] = base_of(name) + 64, root[1] = 0x6b657074, root[2] = 1;
        NEED(call(ROOT_SET, sid, (u64)root, 0, 0));
    }
    if (root[1] != 0x6b657074 || root[2] != 1) return 0;
    u64 count = ++*(volatile u64 *)root[0];
    NEED(call(SWITCH, 0, 0, 0, 0));
    NEED(call(VAS_DETACH, vh, 0, 0, 0));
    return count;
}

static int run(void)
{
    NEED(call(NULL_CALL, 0, 0, 0, 0));
    u64 raw = opened("kept-raw", 0), versioned = opened("kept", 2);
    u64 times = counted("kept-raw", raw);
    say("raw ", times);
    NEED(call(SEG_SYNC, NEED((i64)named(SEG_FIND, "kept-raw", 0, 0)), 0, 0, 0));
    if (counted("kept", versioned) != times) return 2;
    say("versioned ", times);
    u64 vh = NEED(call(VAS_ATTACH, versioned, 0, 0, 0));
    NEED(call(VAS_SYNC, vh, 0, 0, 0));
    if (times == 1) NEED(call(VAS_TAG, versioned, (u64)"first", 5, 0));
    NEED(call(VAS_DETACH, vh, 0, 0, 0));
    /* What it was at the tag. */
    vh = NEED(call(VAS_ATTACH, NEED((i64)named(VAS_FIND, "kept@first", 0, 0)), 1, 0, 0));
    NEED(call(SWITCH, vh, 0, 0, 0));
    u64 first = *(volatile u64 *)(base_of("kept") + 64);
    NEED(call(SWITCH, 0, 0, 0, 0));
    say("at the tag ", first);
    return 0;
}

__attribute__((used)) static void start(u64 *stack)
{
    u64 *word = stack + 1 + *stack + 1;
    while (*word++) ;
    for (; word[0]; word += 2) if (word[0] == 0x534a0001) page = word[1];
    linux_call(231, page ? (u64)run() : 3, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");

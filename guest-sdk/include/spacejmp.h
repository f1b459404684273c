/* spacejmp.h: SpaceJMP's calls for C and C++ programs that run under `spacejmp`.
 *
 * This file is all a program needs: every function is `static inline`, nothing is linked.
 * C11 or C++11 with GCC or Clang, x86-64 Linux. Numbers, structures and errors are described
 * in docs/src/abi.md, what the calls mean in docs/src/address-spaces.md; the Rust twin is the
 * crate `spacejmp`, module `sys`, whose comments list the errors of each call.
 *
 *     vasid_t vid = vas_create("v0", 0660);
 *     segid_t sid = seg_alloc("s0", 0, 1ull << 35, 0660);
 *     seg_attach(vid, sid, SEG_WRITE);
 *     vhandle_t vh = vas_attach(vid, 0);
 *     vas_switch(vh);
 *     ... the segment is there, at struct seg_stat's `base`, in every process that switches in
 *     vas_switch(VAS_HOME);
 *
 * Names are the paper's (ASPLOS 2016, figure 3). Where the arguments differ:
 *   - vas_clone and seg_clone take the new name; vas_attach and vas_clone take flags
 *   - seg_attach takes the right, SEG_READ or SEG_WRITE; for one process's instance (the
 *     paper's seg_attach with a vh) it is seg_attach_local, likewise seg_detach_local
 *   - modes are octal, as for open(2)
 *
 * Errors: functions that return an id return 0, all others -1, and set errno. Outside a VM
 * every call fails with ENOSYS. One special case: vas_switch and its kin fail with EOWNERDEAD
 * when the thread *is* inside, with its locks, but an earlier holder died: see abi.md.
 *
 * A pointer into a segment may be used only while the calling thread is in a VAS that has it.
 * The compiler is told that a switch may change all memory, so it keeps no values across one.
 */
#ifndef SPACEJMP_H
#define SPACEJMP_H

#if !defined(__x86_64__) || !defined(__linux__)
#error "spacejmp.h is for x86-64 Linux programs"
#endif

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>

#ifdef __cplusplus
#define SJ_STATIC_ASSERT static_assert
extern "C" {
#else
#define SJ_STATIC_ASSERT _Static_assert
#endif

/* ---- numbers: abi/src/call.rs ---- */

#define AT_SPACEJMP 0x534a0001ul
/* Or'ed to a number: the VMM serves the call even if the guest kernel could. */
#define SJ_CALL_HYPER 0x8000u

#define SJ_CALL_NULL 0x534a0000u
#define SJ_CALL_VAS_SWITCH 0x534a0001u
#define SJ_CALL_HYPER_NULL 0x534a0002u
#define SJ_CALL_VAS_TRY_SWITCH 0x534a0003u
#define SJ_CALL_VAS_SWITCH_TIMEOUT 0x534a0004u
#define SJ_CALL_VAS_CURRENT 0x534a0005u
#define SJ_CALL_VAS_CREATE 0x534a0010u
#define SJ_CALL_VAS_FIND 0x534a0011u
#define SJ_CALL_VAS_CLONE 0x534a0012u
#define SJ_CALL_VAS_ATTACH 0x534a0013u
#define SJ_CALL_VAS_DETACH 0x534a0014u
#define SJ_CALL_VAS_CTL 0x534a0015u
#define SJ_CALL_VAS_DELETE 0x534a0016u
#define SJ_CALL_VAS_LIST 0x534a0017u
#define SJ_CALL_VAS_STAT 0x534a0018u
#define SJ_CALL_VAS_SEGMENTS 0x534a0019u
#define SJ_CALL_SEG_ALLOC 0x534a0020u
#define SJ_CALL_SEG_FIND 0x534a0021u
#define SJ_CALL_SEG_CLONE 0x534a0022u
#define SJ_CALL_SEG_ATTACH 0x534a0023u
#define SJ_CALL_SEG_ATTACH_LOCAL 0x534a0024u
#define SJ_CALL_SEG_DETACH 0x534a0025u
#define SJ_CALL_SEG_DETACH_LOCAL 0x534a0026u
#define SJ_CALL_SEG_CTL 0x534a0027u
#define SJ_CALL_SEG_DELETE 0x534a0028u
#define SJ_CALL_SEG_LIST 0x534a0029u
#define SJ_CALL_SEG_STAT 0x534a002au
#define SJ_CALL_SEG_GROW 0x534a002bu
#define SJ_CALL_SEG_SYNC 0x534a002cu
#define SJ_CALL_SEG_ROOT_GET 0x534a002du
#define SJ_CALL_SEG_ROOT_SET 0x534a002eu

/* ---- types and constants: abi/src/objects.rs ---- */

typedef uint64_t vasid_t;  /* a VAS of the store; 0 is none */
typedef uint64_t segid_t;  /* a segment of the store; 0 is none */
typedef int64_t vhandle_t; /* an instance in this process; -1 is none */

#define VAS_HOME ((vhandle_t)0) /* the process's own address space */
#define SJ_NAME_MAX 255

/* Rights of a segment in a VAS. */
#define SEG_READ 1u
#define SEG_WRITE 3u

/* Flags of vas_attach. */
#define VAS_ATTACH_READ_ONLY 1u
#define VAS_ATTACH_NO_TAG 2u
#define VAS_ATTACH_POPULATE 4u

/* Commands of vas_ctl. */
#define VAS_CTL_SET_MODE 1u
#define VAS_CTL_SET_TAGGED 2u
#define VAS_CTL_SET_INSTANCE_TAGGED 3u /* its object is a vhandle_t */

/* Commands of seg_ctl. */
#define SEG_CTL_SET_MODE 1u
#define SEG_CTL_SET_LOCKABLE 2u
#define SEG_CTL_SET_PAGES 3u
#define SEG_CTL_RECOVER 4u
#define SEG_CTL_SET_LIFETIME 5u

/* Page policies. */
#define SEG_PAGES_LARGEST 0u
#define SEG_PAGES_4K 1u
#define SEG_PAGES_2M 2u

/* Lifetimes. */
#define SEG_PERSISTENT 0u
#define SEG_VOLATILE 1u

/* What seg_alloc_params is to make. */
struct seg_params {
    uint64_t base;          /* 2 MiB-aligned, or 0: where no segment of the store lies */
    uint64_t size_bytes;    /* rounded up to 4 KiB */
    uint64_t reserve_bytes; /* how far it may grow; 0: as size_bytes */
    uint32_t mode;
    uint8_t lifetime;
    uint8_t pages;
    uint8_t lockable; /* 1: switching into a VAS that has it takes its lock */
    uint8_t reserved; /* 0 */
};

struct seg_stat {
    uint64_t sid;
    uint64_t base;
    uint64_t size_bytes;
    uint64_t reserve_bytes;
    uint64_t stored_bytes;
    uint32_t mode;
    uint8_t lifetime;
    uint8_t pages;
    uint8_t lockable;
    uint8_t dirty;        /* its last writer did not end properly, nobody writes now */
    uint8_t inconsistent; /* a holder of its lock died, nobody has recovered it */
    uint8_t access;       /* what the caller may do: 0, SEG_READ or SEG_WRITE */
    uint8_t reserved[2];
    uint32_t attachers;
    char name[256];
};

struct vas_stat {
    uint64_t vid;
    uint32_t mode;
    uint32_t segments;
    uint32_t attachers;
    uint8_t tagged;
    uint8_t access;
    uint8_t reserved[2];
    char name[256];
};

/* One segment of a VAS. */
struct vas_attachment {
    uint64_t sid;
    uint64_t right;
};

/* Where to begin to read in a segment. */
struct seg_root {
    uint64_t address;        /* 0: none */
    uint64_t fingerprint[2]; /* the caller's; the system never compares it */
};

SJ_STATIC_ASSERT(sizeof(struct seg_params) == 32, "seg_params is part of the ABI");
SJ_STATIC_ASSERT(offsetof(struct seg_params, mode) == 24, "seg_params is part of the ABI");
SJ_STATIC_ASSERT(offsetof(struct seg_params, lockable) == 30, "seg_params is part of the ABI");
SJ_STATIC_ASSERT(sizeof(struct seg_stat) == 312, "seg_stat is part of the ABI");
SJ_STATIC_ASSERT(offsetof(struct seg_stat, dirty) == 47, "seg_stat is part of the ABI");
SJ_STATIC_ASSERT(offsetof(struct seg_stat, attachers) == 52, "seg_stat is part of the ABI");
SJ_STATIC_ASSERT(offsetof(struct seg_stat, name) == 56, "seg_stat is part of the ABI");
SJ_STATIC_ASSERT(sizeof(struct vas_stat) == 280, "vas_stat is part of the ABI");
SJ_STATIC_ASSERT(offsetof(struct vas_stat, name) == 24, "vas_stat is part of the ABI");
SJ_STATIC_ASSERT(sizeof(struct vas_attachment) == 16, "vas_attachment is part of the ABI");
SJ_STATIC_ASSERT(sizeof(struct seg_root) == 24, "seg_root is part of the ABI");

/* ---- how a call is made ---- */

/* The call page's address, 0 outside a VM. Looked up once in each source file that includes
 * this one; two threads that do so at once store the same value. */
static inline uint64_t sj_call_page(void)
{
    static uint64_t page;
    uint64_t found = __atomic_load_n(&page, __ATOMIC_RELAXED);
    if (__builtin_expect(found == 0, 0)) {
        int kept = errno; /* getauxval sets ENOENT where there is none */
        found = getauxval(AT_SPACEJMP);
        errno = kept;
        __atomic_store_n(&page, found, __ATOMIC_RELAXED);
    }
    return found;
}

/* Every caller-saved register that is not an argument. */
#ifdef __AVX512F__
#define SJ_CLOBBERS_512                                                                        \
    , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",         \
        "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", \
        "k5", "k6", "k7"
#else
#define SJ_CLOBBERS_512
#endif

/* Makes any call and gives RAX: a result, or a negated error number. */
static inline int64_t sj_call(uint32_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                              uint64_t a4, uint64_t a5, uint64_t a6)
{
    uint64_t page = sj_call_page();
    if (__builtin_expect(page == 0, 0))
        return -ENOSYS;
    uint64_t rax = number;
    uint64_t rdi = a1, rsi = a2, rdx = a3;
    register uint64_t r10 __asm__("r10") = a4;
    register uint64_t r8 __asm__("r8") = a5;
    register uint64_t r9 __asm__("r9") = a6;
    /* The compiler does not know that the call pushes: step over the red zone first. */
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                     "call *%[page]\n\t"
                     "leaq 128(%%rsp), %%rsp"
                     : "+a"(rax), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8), "+r"(r9),
                       [page] "+c"(page)
                     :
                     : "r11", "memory", "cc", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)",
                       "st(6)", "st(7)", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                       "xmm15" SJ_CLOBBERS_512);
    return (int64_t)rax;
}

/* RAX in C's manner: -1 and errno, or the result. */
static inline int64_t sj_result(int64_t rax)
{
    if (__builtin_expect(rax < 0 && rax >= -4095, 0)) {
        errno = (int)-rax;
        return -1;
    }
    return rax;
}

/* The same for ids: 0 and errno, or the id. */
static inline uint64_t sj_id(int64_t rax)
{
    int64_t result = sj_result(rax);
    return result == -1 ? 0 : (uint64_t)result;
}

static inline uint64_t sj_address(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

/* ---- calls that do nothing, and switching ---- */

static inline int sj_null(void)
{
    return (int)sj_result(sj_call(SJ_CALL_NULL, 0, 0, 0, 0, 0, 0));
}

static inline int sj_hyper_null(void)
{
    return (int)sj_result(sj_call(SJ_CALL_HYPER_NULL, 0, 0, 0, 0, 0, 0));
}

/* The calling thread enters the instance, or VAS_HOME; waits for locks. */
static inline int vas_switch(vhandle_t vh)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_SWITCH, (uint64_t)vh, 0, 0, 0, 0, 0));
}

/* As vas_switch; EAGAIN instead of waiting. */
static inline int vas_try_switch(vhandle_t vh)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_TRY_SWITCH, (uint64_t)vh, 0, 0, 0, 0, 0));
}

/* As vas_switch; ETIMEDOUT after so many nanoseconds of waiting. */
static inline int vas_switch_timeout(vhandle_t vh, uint64_t nanoseconds)
{
    return (int)sj_result(
        sj_call(SJ_CALL_VAS_SWITCH_TIMEOUT, (uint64_t)vh, nanoseconds, 0, 0, 0, 0));
}

/* The instance the calling thread is in. */
static inline vhandle_t vas_current(void)
{
    return sj_result(sj_call(SJ_CALL_VAS_CURRENT, 0, 0, 0, 0, 0, 0));
}

/* ---- address spaces ---- */

static inline vasid_t vas_create(const char *name, uint32_t mode)
{
    return sj_id(sj_call(SJ_CALL_VAS_CREATE, sj_address(name), strlen(name), mode, 0, 0, 0));
}

static inline vasid_t vas_find(const char *name)
{
    return sj_id(sj_call(SJ_CALL_VAS_FIND, sj_address(name), strlen(name), 0, 0, 0, 0));
}

/* A new VAS with the same segments; flags 0. */
static inline vasid_t vas_clone(vasid_t vid, const char *name, uint64_t flags)
{
    return sj_id(
        sj_call(SJ_CALL_VAS_CLONE, vid, sj_address(name), strlen(name), flags, 0, 0));
}

/* An instance for this process; flags VAS_ATTACH_... */
static inline vhandle_t vas_attach(vasid_t vid, uint64_t flags)
{
    return sj_result(sj_call(SJ_CALL_VAS_ATTACH, vid, flags, 0, 0, 0, 0));
}

static inline int vas_detach(vhandle_t vh)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_DETACH, (uint64_t)vh, 0, 0, 0, 0, 0));
}

/* cmd is a VAS_CTL_...; object a vasid_t or, where the command says so, a vhandle_t. */
static inline int vas_ctl(uint64_t cmd, uint64_t object, uint64_t arg)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_CTL, cmd, object, arg, 0, 0, 0));
}

/* Not the segments in it. */
static inline int vas_delete(vasid_t vid)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_DELETE, vid, 0, 0, 0, 0, 0));
}

/* How many of `count` were filled, by name, from number `cursor` on. */
static inline int64_t vas_list(struct vas_stat *buffer, size_t count, uint64_t cursor)
{
    return sj_result(sj_call(SJ_CALL_VAS_LIST, sj_address(buffer), count * sizeof *buffer, cursor,
                             0, 0, 0));
}

static inline int vas_stat(vasid_t vid, struct vas_stat *stat)
{
    return (int)sj_result(
        sj_call(SJ_CALL_VAS_STAT, vid, sj_address(stat), sizeof *stat, 0, 0, 0));
}

static inline int64_t vas_segments(vasid_t vid, struct vas_attachment *buffer, size_t count,
                                   uint64_t cursor)
{
    return sj_result(sj_call(SJ_CALL_VAS_SEGMENTS, vid, sj_address(buffer),
                             count * sizeof *buffer, cursor, 0, 0));
}

/* ---- segments ---- */

static inline segid_t seg_alloc_params(const char *name, const struct seg_params *params)
{
    return sj_id(sj_call(SJ_CALL_SEG_ALLOC, sj_address(name), strlen(name), sj_address(params),
                         sizeof *params, 0, 0));
}

/* The paper's call: persistent, largest pages, not lockable, no room to grow. */
static inline segid_t seg_alloc(const char *name, uint64_t base, uint64_t size_bytes,
                                uint32_t mode)
{
    struct seg_params params;
    memset(&params, 0, sizeof params);
    params.base = base;
    params.size_bytes = size_bytes;
    params.mode = mode;
    return seg_alloc_params(name, &params);
}

static inline segid_t seg_find(const char *name)
{
    return sj_id(sj_call(SJ_CALL_SEG_FIND, sj_address(name), strlen(name), 0, 0, 0, 0));
}

static inline segid_t seg_clone(segid_t sid, const char *name)
{
    return sj_id(sj_call(SJ_CALL_SEG_CLONE, sid, sj_address(name), strlen(name), 0, 0, 0));
}

/* Into the VAS, for all who have it attached; right SEG_READ or SEG_WRITE. */
static inline int seg_attach(vasid_t vid, segid_t sid, uint64_t right)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_ATTACH, vid, sid, right, 0, 0, 0));
}

/* Into this process's instance only. */
static inline int seg_attach_local(vhandle_t vh, segid_t sid, uint64_t right)
{
    return (int)sj_result(
        sj_call(SJ_CALL_SEG_ATTACH_LOCAL, (uint64_t)vh, sid, right, 0, 0, 0));
}

static inline int seg_detach(vasid_t vid, segid_t sid)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_DETACH, vid, sid, 0, 0, 0, 0));
}

static inline int seg_detach_local(vhandle_t vh, segid_t sid)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_DETACH_LOCAL, (uint64_t)vh, sid, 0, 0, 0, 0));
}

/* cmd is a SEG_CTL_... */
static inline int seg_ctl(segid_t sid, uint64_t cmd, uint64_t arg)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_CTL, sid, cmd, arg, 0, 0, 0));
}

static inline int seg_delete(segid_t sid)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_DELETE, sid, 0, 0, 0, 0, 0));
}

/* How many of `count` were filled, by name, from number `cursor` on. */
static inline int64_t seg_list(struct seg_stat *buffer, size_t count, uint64_t cursor)
{
    return sj_result(sj_call(SJ_CALL_SEG_LIST, sj_address(buffer), count * sizeof *buffer, cursor,
                             0, 0, 0));
}

static inline int seg_stat(segid_t sid, struct seg_stat *stat)
{
    return (int)sj_result(
        sj_call(SJ_CALL_SEG_STAT, sid, sj_address(stat), sizeof *stat, 0, 0, 0));
}

/* In place, up to the reserve. */
static inline int seg_grow(segid_t sid, uint64_t bytes)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_GROW, sid, bytes, 0, 0, 0, 0));
}

/* Returns when what was written is on stable storage. */
static inline int seg_sync(segid_t sid)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_SYNC, sid, 0, 0, 0, 0, 0));
}

static inline int seg_root_get(segid_t sid, struct seg_root *root)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_ROOT_GET, sid, sj_address(root), 0, 0, 0, 0));
}

static inline int seg_root_set(segid_t sid, const struct seg_root *root)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_ROOT_SET, sid, sj_address(root), 0, 0, 0, 0));
}

#ifdef __cplusplus
}
#endif
#endif

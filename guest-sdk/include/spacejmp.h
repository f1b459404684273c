/* spacejmp.h: SpaceJMP's calls for C and C++ programs that run under `spacejmp`.
 *
 * Link with libspacejmp.a (`cargo build -p spacejmp-c --release`):
 *
 *     cc -static -I guest-sdk/include program.c -lspacejmp
 *
 * C11 or C++11 with GCC or Clang, x86-64 Linux. With SPACEJMP_HEADER_ONLY defined the calls are
 * `static inline` and nothing is linked, but there is no heap then: which one is the current
 * one the library knows because every switch goes through it. One program must not mix both.
 * The book's page c.md is an introduction; abi.md has numbers and structures, address-spaces.md
 * says what the calls mean.
 *
 *     vasid_t vid = vas_create("v0", 0660);
 *     segid_t sid = seg_alloc("s0", 0, 1ull << 35, 0660);
 *     seg_attach(vid, sid, SEG_WRITE);
 *     vhandle_t vh = vas_attach(vid, 0);
 *     vas_switch(vh);
 *     vas_heap_init(sid);
 *     char *text = vas_malloc(100);    ... there for every process that switches in
 *     vas_switch(VAS_HOME);
 *
 * Names are the paper's (ASPLOS 2016, figure 3). Where the arguments differ:
 *   - vas_clone and seg_clone take the new name; vas_attach and vas_clone take flags
 *   - seg_attach takes the right, SEG_READ or SEG_WRITE; for one process's instance (the
 *     paper's seg_attach with a vh) it is seg_attach_local, likewise seg_detach_local
 *   - modes are octal, as for open(2)
 *
 * Errors: functions that return an id return 0, all others -1, and set errno. Outside a VM
 * every call fails with ENOSYS. One special case: vas_switch and its variants fail with EOWNERDEAD
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
#include <stdlib.h>
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
#define SJ_CALL_VAS_COMMIT 0x534a0006u
#define SJ_CALL_VAS_ABORT 0x534a0007u
#define SJ_CALL_VAS_SYNC 0x534a0008u
#define SJ_CALL_VAS_VERSION 0x534a0009u
#define SJ_CALL_VAS_WAIT 0x534a000au
#define SJ_CALL_VAS_NEST 0x534a000bu
#define SJ_CALL_VAS_RETURN 0x534a000cu
#define SJ_CALL_VAS_MESSAGE 0x534a000du
#define SJ_CALL_READY 0x534a000eu
#define SJ_CALL_READY_ARGUMENTS 0x534a000fu
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
#define SJ_CALL_VAS_TAG 0x534a001au
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
#define SJ_CALL_SEG_RESERVE 0x534a002fu

/* ---- types and constants: abi/src/objects.rs ---- */

typedef uint64_t vasid_t;  /* a VAS of the store; 0 is none */
typedef uint64_t segid_t;  /* a segment of the store; 0 is none */
typedef int64_t vhandle_t; /* an instance in this process; -1 is none */

#define VAS_HOME ((vhandle_t)0) /* the process's own address space */
#define VAS_NO_LIMIT UINT64_MAX     /* for vas_nest */
#define SJ_NAME_MAX 255

/* Rights of a segment in a VAS. */
#define SEG_READ 1u
#define SEG_WRITE 3u

/* Flags of vas_attach. */
#define VAS_ATTACH_READ_ONLY 1u
#define VAS_ATTACH_NO_TAG 2u
#define VAS_ATTACH_POPULATE 4u
#define VAS_CLONE_COPY 1u /* vas_clone: copies of the segments, which are shared otherwise */
#define VAS_ATTACH_OWNED 8u /* the Rust library's: vas_detach is EBUSY */
#define VAS_ATTACH_PINNED 16u /* the segments stay; ESTALE at the switch when the VAS lost one */

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
#define SEG_CTL_MARK_INCONSISTENT 6u
#define SEG_CTL_SET_DURABILITY 7u

/* Page policies. */
#define SEG_PAGES_LARGEST 0u
#define SEG_PAGES_4K 1u
#define SEG_PAGES_2M 2u

/* Lifetimes. */
#define SEG_PERSISTENT 0u
#define SEG_VOLATILE 1u
#define SEG_VERSIONED 2u /* changed by whole commits; always lockable */

/* Durabilities of a versioned segment: when a commit survives a power cut. Whichever, a killed
 * program loses nothing that it has committed, and a power cut leaves a complete version. */
#define SEG_DURABLE_DEFAULT 0u        /* SEG_DURABLE_EVERY(100) */
#define SEG_DURABLE_EVERY(ms) (ms)    /* so many milliseconds after it, 1 to 60000 */
#define SEG_DURABLE_MANUAL 0xfffeu    /* after vas_sync, detaching, exit */
#define SEG_DURABLE_EACH 0xffffu      /* before it returns, and others see it */

/* Parameters of seg_alloc_params. */
struct seg_params {
    uint64_t base;          /* 2 MiB-aligned, or 0: where no segment of the store lies */
    uint64_t size_bytes;    /* rounded up to 4 KiB */
    uint64_t reserve_bytes; /* how far it may grow; 0: as size_bytes */
    uint32_t mode;
    uint8_t lifetime;
    uint8_t pages;
    uint8_t lockable; /* 1: switching into a VAS that has it acquires its lock */
    uint8_t reserved; /* 0 */
    uint16_t durability; /* of a versioned segment; 0 for others */
    uint8_t reserved_end[6]; /* 0 */
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
    uint8_t dirty;        /* its last writer did not end properly, none writes now */
    uint8_t inconsistent; /* a holder of its lock died, and it was not recovered */
    uint8_t access;       /* what the caller may do: 0, SEG_READ or SEG_WRITE */
    uint16_t durability;  /* of a versioned segment; 0 for others */
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

/* The root object of a segment. */
struct seg_root {
    uint64_t address;        /* 0: none */
    uint64_t fingerprint[2]; /* the caller's; the system never compares it */
};

SJ_STATIC_ASSERT(sizeof(struct seg_params) == 40, "seg_params is part of the ABI");
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

/* ---- the calls ----
 *
 * "Fails with" lists a call's errors besides these:
 *   - names: EINVAL for one that is empty, `.`, `..`, not UTF-8 or has a `/`; ENAMETOOLONG
 *   - whatever touches the store: EUCLEAN for a damaged file, ENODATA for one that is too short,
 *     EOPNOTSUPP for one that a newer spacejmp or another architecture made, and EIO, ENOSPC,
 *     EDQUOT, EROFS, EMFILE, ENFILE, ENOMEM as the host says
 *   - ENOSYS, and nothing else, outside a VM
 */

#ifdef SPACEJMP_HEADER_ONLY
#define SJ_API static inline
#else
#define SJ_API
#endif

/* Any call by its number; RAX as it comes back: a result, or a negated error number. */
SJ_API int64_t sj_call(uint32_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                       uint64_t a5, uint64_t a6);

/* Into the guest kernel and back: the least that a call costs. Returns 0. */
SJ_API int sj_null(void);

/* To the VMM and back: the least that a hypercall costs. Returns 0. */
SJ_API int sj_hyper_null(void);

/* sj_ready: says that the program has prepared what takes long, and has not looked yet at what is
 * different from one run to the next: copies of it are to begin here. `spacejmp run
 * --snapshot-at-ready NAME` makes a snapshot at the first such call, and the program goes on;
 * without that option nothing happens. `spacejmp run --from NAME ARGS` starts a copy, which comes
 * back from this call.
 * Returns 0 in the program itself. Returns 1 in a copy, with its own arguments and environment in
 * `*argc`, `*argv` and `*envp`, as main gets them (each of the three may be NULL; they stay until the
 * program ends). argv[0] is the program as it was called at first. What main got before, `environ` and
 * /proc/self/cmdline are as they were: `environ = envp` changes what getenv finds.
 * Fails with EBUSY, the process cannot be snapshotted as it is now; EEXIST, there is a snapshot NAME
 * by now; ENOSPC, EDQUOT, EIO and store errors. The reason is on the run's stderr, and the program
 * can go on: it is no copy. In a copy: ENOMEM. */
SJ_API int sj_ready(int *argc, char ***argv, char ***envp);

/* sj_ready_arguments: fills `buffer` with what sj_ready gives a copy: two words, how many arguments
 * there are and how many variables, then these, each with a 0 after it. Returns the bytes.
 * Fails with ENOENT, the process is no such copy; EINVAL, `size` is too small; EFAULT. */
SJ_API int64_t sj_ready_arguments(void *buffer, size_t size);

/* vas_switch: the calling thread enters the instance `vh`, or VAS_HOME; waits for the locks of its
 * lockable segments (shared where the right is SEG_READ, exclusive where it is SEG_WRITE). Where the
 * thread is already, nothing happens. Returns 0.
 * Fails with EBADF, no such instance; EINTR, a signal came while it waited; ENOMEM; ESTALE, a failed
 * disk has lost versions that this process has seen (detach and attach anew); EBUSY, it reads
 * versioned segments that it would write, and there is a newer version than it sees. The thread is
 * where it was, with the locks it had.
 * EOWNERDEAD: the thread IS inside, with all locks, but a writer died, or ended inside: look
 * at the content, repair it, then seg_ctl(sid, SEG_CTL_RECOVER, 0). */
SJ_API int vas_switch(vhandle_t vh);

/* vas_try_switch: as vas_switch without waiting. Fails with EAGAIN, a lock is not free. */
SJ_API int vas_try_switch(vhandle_t vh);

/* vas_switch_timeout: as vas_switch; waits no longer than so many nanoseconds for all locks
 * together. Fails with ETIMEDOUT. */
SJ_API int vas_switch_timeout(vhandle_t vh, uint64_t nanoseconds);

/* vas_nest: enters `vh`, or VAS_HOME, in a nested visit: where the thread is now is suspended, and stays
 * as it is, with its locks, the version that it sees, and what it has changed and not committed, until
 * vas_return brings it back. vas_switch, vas_commit and vas_abort concern the nested visit only. A
 * thread that ends loses what it has not committed in any of them. Waits no longer than so many
 * nanoseconds for locks; 0: not at all, VAS_NO_LIMIT: as long as it takes, but 10 seconds at most for
 * a thread that holds locks, here or in suspended visits. Returns 0.
 * Fails as vas_switch_timeout; with EAGAIN, a lock is not free and there was no time; EDEADLK, the
 * thread has a lock in the way itself, or waited for 10 seconds with others in hand; EBUSY, also if a
 * suspended visit reads versioned segments that it would write, and there is a newer version; ELOOP,
 * 16 visits are suspended. */
SJ_API int vas_nest(vhandle_t vh, uint64_t nanoseconds);

/* vas_return: leaves the visit that began with the last vas_nest, commits what was changed in it, and
 * goes on with the one that was suspended. Returns where the thread is then.
 * Fails with EPERM, there is none; else as vas_commit, and the thread stays where it is. */
SJ_API vhandle_t vas_return(void);

/* vas_current: returns the instance the calling thread is in, VAS_HOME at home. */
SJ_API vhandle_t vas_current(void);

/* vas_commit: what the calling thread has changed in versioned segments since it entered, or since
 * its last commit, is a version from now on, as if it left; it stays inside. Returns 0.
 * Fails with EPERM, it may not write a versioned segment where it is; ENOSPC, EDQUOT, EIO, the
 * changes cannot be stored; EFBIG, a file would be longer than ulimit -f allows, or several segments
 * were changed and one of them in more than 63 MiB; ESTALE, a failed disk has lost the version that
 * they are to. Nothing has changed then: make room and try again, or abort. */
SJ_API int vas_commit(void);

/* vas_abort: throws away what it has changed in versioned segments since it entered, or since its
 * last commit: content, size, root object. It stays inside; pointers to what it has allocated since
 * are invalid. Returns 0.
 * Fails with EPERM, it may not write a versioned segment where it is; EIO, what was there cannot be
 * read. */
SJ_API int vas_abort(void);

/* vas_message: what the next version that the thread's visit makes says that it is for: a line that
 * `spacejmp vas log` shows with it. An empty one takes it back; it is forgotten with an abort, and with
 * the end of a visit that has changed nothing. Returns 0.
 * Fails with EPERM, it may not write a versioned segment where it is; EFAULT; EINVAL, more than 120
 * bytes, not UTF-8, or control characters. */
SJ_API int vas_message(const char *text);

/* vas_sync: all that was published of the versioned segments of `vh` survives a power cut from now
 * on, whoever has committed it. What the thread has changed and not committed is no part of it.
 * Returns its version, as vas_version.
 * Fails with EBADF, no such instance; EINVAL, home, or an instance without versioned segments; EIO,
 * the disk has failed, in this program or another: the next commit, or visit to write, stores anew
 * what can be read back; if all of it can, the next vas_sync succeeds. */
SJ_API int64_t vas_sync(vhandle_t vh);

/* vas_version: returns the newest version that a visit of `vh` would see: of one versioned segment
 * its number, of several the sum of their numbers. It rises with every commit.
 * Fails with EBADF, no such instance; EINVAL, home, or an instance without versioned segments. */
SJ_API int64_t vas_version(vhandle_t vh);

/* vas_wait: waits until vas_version(vh) is more than `after`, and returns it. The thread may be
 * inside: what it sees does not move. It wakes an eighth of the time it has waited later than the
 * commit, and a tenth of a second later at most.
 * Fails as vas_version; with ETIMEDOUT after so many nanoseconds; EINTR, a signal was handled;
 * EDEADLK, the thread is inside where it may write versioned segments, and keeps others from
 * committing. */
SJ_API int64_t vas_wait(vhandle_t vh, uint64_t after, uint64_t nanoseconds);

/* vas_create: makes an empty VAS with permission bits `mode` (umask applies). It lives until it is
 * deleted. Returns its id.
 * Fails with EEXIST; EINVAL, a mode beyond 0777; EACCES, the store may not be written to. */
SJ_API vasid_t vas_create(const char *name, uint32_t mode);

/* vas_find: returns the id of the VAS `name`; also of a tag, `NAME@TAG`, or of the version of its only
 * versioned segment with a number, `NAME@NUMBER`, which is then kept for a while.
 * Fails with ENOENT, there is no such VAS, tag or version; EACCES, it may not be read; for a number
 * also as vas_tag does. */
SJ_API vasid_t vas_find(const char *name);

/* vas_clone: makes a VAS `name` with the same segments, which are shared; with VAS_CLONE_COPY in
 * `flags` it gets copies of them, called `name.SEGMENT`, all as they are at one moment between two
 * visits of writers. Returns its id.
 * Fails with ENOENT, no VAS `vid`; EEXIST; EINVAL, unknown flags, or a version without a tag that is
 * to be shared; EACCES; for copies also as seg_clone does. */
SJ_API vasid_t vas_clone(vasid_t vid, const char *name, uint64_t flags);

/* vas_tag: keeps what was committed last to the versioned segments of VAS `vid`, of one moment, as
 * the VAS `NAME@tag`, which can only be read; durable when it returns, in constant time. Raw segments
 * are left out, and so is what the calling thread has not committed. Returns the id of that VAS.
 * Fails with ENOENT, no VAS `vid`; EINVAL, the tag is a number or contains `@`, or there is no versioned
 * segment; EEXIST; EACCES; EPERM, a segment is another user's; EINTR; ETIMEDOUT after 10 s, for a
 * thread that holds other locks. */
SJ_API vasid_t vas_tag(vasid_t vid, const char *tag);

/* vas_attach: makes an instance of the VAS for this process; `flags` are 0 or VAS_ATTACH_... Rights
 * are checked here and never again. Returns its handle.
 * Fails with ENOENT, no VAS `vid`, or a segment of it is gone; EINVAL; EACCES; EMFILE, too many
 * instances; ENOMEM. */
SJ_API vhandle_t vas_attach(vasid_t vid, uint64_t flags);

/* vas_detach: drops an instance. Returns 0. Fails with EBADF; EINVAL, it is home; EBUSY, a thread
 * is inside. */
SJ_API int vas_detach(vhandle_t vh);

/* vas_ctl: a command VAS_CTL_... on `object`, a vasid_t or, where the command says so, a
 * vhandle_t. Returns 0. Fails with EINVAL; ENOENT; EBADF; EACCES, EPERM, not yours to change; EBUSY,
 * a thread is inside. */
SJ_API int vas_ctl(uint64_t cmd, uint64_t object, uint64_t arg);

/* vas_delete: deletes the VAS, not its segments. Returns 0. Fails with ENOENT; EBUSY, a live process
 * has it attached; EACCES. */
SJ_API int vas_delete(vasid_t vid);

/* vas_list: fills `buffer` with up to `count` VASes in the order of their names, from number `cursor`
 * on. Returns how many; 0 is the end. Fails with EINVAL, no room for one; EACCES. */
SJ_API int64_t vas_list(struct vas_stat *buffer, size_t count, uint64_t cursor);

/* vas_stat: what is known of the VAS. Returns 0. Fails with ENOENT. */
SJ_API int vas_stat(vasid_t vid, struct vas_stat *stat);

/* vas_segments: as vas_list, the segments of a VAS in the order of their addresses. Fails with
 * ENOENT; EINVAL; EACCES. */
SJ_API int64_t vas_segments(vasid_t vid, struct vas_attachment *buffer, size_t count,
                            uint64_t cursor);

/* seg_alloc_params: makes a segment of zeros as `params` says; it takes no room until it is
 * written to. Returns its id.
 * Fails with EEXIST; EINVAL, a parameter that cannot be; ENOMEM, no free addresses; EACCES. */
SJ_API segid_t seg_alloc_params(const char *name, const struct seg_params *params);

/* seg_alloc: the paper's call: as seg_alloc_params, persistent, with the largest pages, not
 * lockable, without room to grow. `base` 0: where no segment of the store is. */
SJ_API segid_t seg_alloc(const char *name, uint64_t base, uint64_t size_bytes, uint32_t mode);

/* seg_find: returns the id of the segment `name`. Fails with ENOENT; EACCES. */
SJ_API segid_t seg_find(const char *name);

/* seg_clone: copies the segment, at the same addresses, under a new name. Returns the copy's id.
 * Waits for the segment's lock, shared, unless the thread holds it: a consistent snapshot.
 * Fails with ENOENT; EEXIST; EACCES; EBUSY; EINTR; ETIMEDOUT. */
SJ_API segid_t seg_clone(segid_t sid, const char *name);

/* seg_attach: puts the segment into the VAS, with the right SEG_READ or SEG_WRITE, for all who have
 * it attached. Returns 0. Fails with ENOENT; EEXIST, it overlaps another; EACCES. */
SJ_API int seg_attach(vasid_t vid, segid_t sid, uint64_t right);

/* seg_attach_local: the same for this process's instance only. Fails with EBADF; EINVAL, home;
 * ENOENT; EEXIST; EBUSY, it is lockable and a thread is inside; EACCES; ENOMEM. */
SJ_API int seg_attach_local(vhandle_t vh, segid_t sid, uint64_t right);

/* seg_detach: takes the segment out of the VAS. Returns 0. Fails with ENOENT; EBUSY, a thread is
 * inside; EACCES. */
SJ_API int seg_detach(vasid_t vid, segid_t sid);

/* seg_detach_local: undoes seg_attach_local. Fails with EBADF; EINVAL; ENOENT; EBUSY. */
SJ_API int seg_detach_local(vhandle_t vh, segid_t sid);

/* seg_ctl: a command SEG_CTL_... Returns 0. Fails with EINVAL; ENOENT; EACCES, EPERM, not yours to
 * change, or RECOVER or MARK_INCONSISTENT without the exclusive lock; EBUSY; EOPNOTSUPP. */
SJ_API int seg_ctl(segid_t sid, uint64_t cmd, uint64_t arg);

/* seg_delete: deletes the segment and its content. Returns 0. Fails with ENOENT; EBUSY, a live
 * process has it attached or a VAS lists it; EACCES. */
SJ_API int seg_delete(segid_t sid);

/* seg_list: as vas_list, the segments of the store. */
SJ_API int64_t seg_list(struct seg_stat *buffer, size_t count, uint64_t cursor);

/* seg_stat: what is known of the segment. Returns 0. Fails with ENOENT. */
SJ_API int seg_stat(segid_t sid, struct seg_stat *stat);

/* seg_grow: grows the segment in place to `bytes`. Returns 0. Fails with ENOENT; EINVAL, it is larger;
 * EFBIG, its reserve is smaller; EACCES; EPERM, it is versioned and the caller not inside to write it. */
SJ_API int seg_grow(segid_t sid, uint64_t bytes);

/* seg_reserve: reserves storage for `bytes` bytes at `offset`, so that a full disk is an error
 * here and not SIGBUS when they are touched. Returns 0. Fails with ENOENT; EINVAL, no bytes or not
 * all of the segment's; ENOSPC; EACCES, not yours to write; EPERM, it is versioned and the caller not inside;
 * store errors. */
SJ_API int seg_reserve(segid_t sid, uint64_t offset, uint64_t bytes);

/* seg_sync: returns 0 when all that was written before is on stable storage. Fails with ENOENT;
 * EACCES; EPERM, it is versioned and not attached in this process. */
SJ_API int seg_sync(segid_t sid);

/* seg_root_get, seg_root_set: the root object: its address and type. Return 0. Fail with ENOENT;
 * EINVAL, an address outside the segment; EACCES; EPERM, to set that of a versioned segment when not inside to write it. See also vas_root and vas_set_root. */
SJ_API int seg_root_get(segid_t sid, struct seg_root *root);
SJ_API int seg_root_set(segid_t sid, const struct seg_root *root);

#ifndef SPACEJMP_HEADER_ONLY

/* ---- the heap of a VAS ----
 *
 * A segment can hold a heap: memory in pieces, all of whose state lies in the segment, so that the
 * next program goes on allocating. Rust programs have the same heap. The functions work on the heap
 * of the VAS that the calling thread is in, which is the first segment of it, in the order of
 * addresses, that holds one. A thread that allocates or frees must be the only one inside: make the
 * segment lockable (struct seg_params), or ensure it yourself.
 *
 * Where to allocate fails with
 *   EPERM    the thread is at home
 *   ENOENT   the VAS has no heap: vas_heap_init
 *   EACCES   the segment is attached for reading only
 *   EUCLEAN  the heap is damaged
 *   EOPNOTSUPP  the heap is of another version
 *   ENOMEM   there is no room, and the segment cannot grow
 */

/* vas_heap_init: makes an empty heap in the segment `sid`, which is in the VAS that the thread
 * is in; what was in the segment is lost. Returns 0.
 * Fails with EPERM, at home; ENOENT, the segment is not in this VAS; EACCES, for reading only; EEXIST,
 * it holds a heap; ENOMEM, it is smaller than 128 KiB and cannot grow. */
int vas_heap_init(segid_t sid);

/* vas_malloc: returns `size` bytes at a multiple of 16, with any content; NULL and errno if there
 * are none. vas_malloc(0) gives a pointer that can be freed. */
void *vas_malloc(size_t size);

/* vas_calloc: the same for `count` objects of `size` bytes, all zeros. */
void *vas_calloc(size_t count, size_t size);

/* vas_aligned_alloc: the same at a multiple of `alignment`, a power of two up to 2 MiB (EINVAL). */
void *vas_aligned_alloc(size_t alignment, size_t size);

/* vas_realloc: changes the size of a block, which may move; NULL and errno if that cannot be, and
 * then the block is as it was. NULL for a block is vas_malloc. A moved block is aligned to 16. */
void *vas_realloc(void *block, size_t size);

/* vas_free: frees a block of the heap of the VAS that the thread is in. NULL is nothing. What is
 * no block, or was freed already, ends the program with a message. errno stays. */
void vas_free(void *block);

/* vas_usable_size: bytes of a block, at least what was asked for; 0 for what is no block. */
size_t vas_usable_size(const void *block);

/* What is in a heap. */
struct vas_heap_stat {
    uint64_t size_bytes;      /* what it has of its segment */
    uint64_t blocks;          /* allocated */
    uint64_t allocated_bytes; /* rounding included */
    uint64_t free_bytes;      /* without growing */
    uint64_t damages;         /* 0 in a sound heap */
    uint64_t leaked_blocks;   /* nothing leads to these from the root object, if there is one */
    uint64_t leaked_bytes;
};

/* vas_heap_check: walks the whole heap as untrusted data and fills `stat`. Returns 0 if
 * it is sound, 1 if it is damaged. Fails (-1) as above, but reading is enough. */
int vas_heap_check(struct vas_heap_stat *stat);

/* ---- root objects with a type ----
 *
 * A program that finds a root object must know what it is. It says so with a description of the
 * type; the one that was used to set the root is kept in the heap, and the two must agree. The
 * description is that of the Rust type with the same `#[repr(C)]` layout, names included, so C
 * and Rust programs can read each other's:
 *
 *     struct note { uint64_t id; char text[24]; struct note *next; };
 *
 *     extern const struct sj_type note_type;
 *     static const struct sj_field note_fields[] = {
 *         SJ_FIELD(struct note, id, sj_u64),
 *         SJ_ARRAY(struct note, text, sj_u8, 24),
 *         SJ_SHARED(struct note, next, note_type),
 *     };
 *     const struct sj_type note_type = SJ_STRUCT("Note", struct note, note_fields);
 *
 * is the type of
 *
 *     #[derive(Storable)]
 *     #[storable(vas = Notes)]
 *     #[repr(C)]
 *     struct Note { id: u64, text: [u8; 24], next: Option<VPtr<Note, Notes>> }
 *
 * SJ_OWNED is an `Option<VBox<..>>`: the Rust side frees it with the object.
 */

struct sj_field;

/* A type. Made by SJ_STRUCT, or one of those below. */
struct sj_type {
    const char *name;
    uint64_t size;
    uint64_t align;
    const struct sj_field *fields; /* NULL for a number */
    uint64_t field_count;
};

/* A field. */
struct sj_field {
    const char *name;
    uint64_t offset;
    const struct sj_type *type;
    uint32_t kind;  /* SJ_KIND_... */
    uint32_t count; /* of an array */
};

#define SJ_KIND_PLAIN 0u
#define SJ_KIND_ARRAY 1u
#define SJ_KIND_SHARED 2u
#define SJ_KIND_OWNED 3u

extern const struct sj_type sj_u8, sj_u16, sj_u32, sj_u64, sj_i8, sj_i16, sj_i32, sj_i64, sj_f32,
    sj_f64;

#define SJ_FIELD(object, field, type) { #field, offsetof(object, field), &type, SJ_KIND_PLAIN, 1 }
#define SJ_ARRAY(object, field, type, count) \
    { #field, offsetof(object, field), &type, SJ_KIND_ARRAY, count }
#define SJ_SHARED(object, field, type) { #field, offsetof(object, field), &type, SJ_KIND_SHARED, 1 }
#define SJ_OWNED(object, field, type) { #field, offsetof(object, field), &type, SJ_KIND_OWNED, 1 }
#define SJ_STRUCT(name, object, fields) \
    { name, sizeof(object), SJ_ALIGNOF(object), fields, sizeof(fields) / sizeof(fields)[0] }

#ifdef __cplusplus
#define SJ_ALIGNOF(object) alignof(object)
#else
#define SJ_ALIGNOF(object) _Alignof(object)
#endif

/* vas_set_root: makes `root`, an object in the heap of the VAS that the thread is in, the root object
 * of its segment, of type `type`. NULL removes the root object. Returns 0.
 * Fails as allocating does; EINVAL, an object that does not lie in the segment, or a type that
 * cannot be. */
int vas_set_root(const void *root, const struct sj_type *type);

/* vas_root: returns the root object of the heap of the VAS that the thread is in; NULL and errno
 * otherwise. Reading is enough.
 * Fails as allocating does; ENODATA, no root object was set; EPROTOTYPE, it is of another type. */
void *vas_root(const struct sj_type *type);

/* vas_root_is: returns whether `root`, as seg_root_get returned it, is still the root object of the heap of
 * the VAS that the thread is in: 1 or 0. A version that was rolled back to may have another. Most times it
 * makes no call, so that each visit can ask. Fails (-1) as vas_root, but for ENODATA and EPROTOTYPE. */
int vas_root_is(const struct seg_root *root);

/* vas_root_text: as vas_type_text, the description that was kept when the root object was set. Fails (-1)
 * as allocating does; reading is enough. */
int64_t vas_root_text(char *buffer, size_t size);

/* vas_type_text: writes the description of a type to `buffer`, with a 0 after it, truncated if it has
 * no room; returns its length. It works anywhere. Fails (-1) with EINVAL. */
int64_t vas_type_text(const struct sj_type *type, char *buffer, size_t size);

#else /* SPACEJMP_HEADER_ONLY */

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

/* RAX by C's conventions: -1 and errno, or the result. */
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

static inline int64_t sj_ready_arguments(void *buffer, size_t size)
{
    return sj_result(sj_call(SJ_CALL_READY_ARGUMENTS, sj_address(buffer), size, 0, 0, 0, 0));
}

static inline int sj_ready(int *argc, char ***argv, char ***envp)
{
    int64_t bytes = sj_result(sj_call(SJ_CALL_READY, 0, 0, 0, 0, 0, 0));
    if (bytes <= 0)
        return (int)bytes;
    uint64_t *counts = (uint64_t *)malloc((size_t)bytes);
    if (!counts)
        return -1;
    if (sj_ready_arguments(counts, (size_t)bytes) < 0)
        goto failed;
    {
        size_t args = counts[0], all = args + counts[1];
        char *text = (char *)(counts + 2);
        char **list = (char **)malloc((all + 2) * sizeof *list);
        if (!list)
            goto failed;
        for (size_t i = 0; i < all; i++) {
            list[i < args ? i : i + 1] = text;
            text += strlen(text) + 1;
        }
        list[args] = list[all + 1] = NULL;
        if (argc)
            *argc = (int)args;
        if (argv)
            *argv = list;
        if (envp)
            *envp = list + args + 1;
    }
    return 1;
failed:
    free(counts);
    return -1;
}

static inline int vas_switch(vhandle_t vh)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_SWITCH, (uint64_t)vh, 0, 0, 0, 0, 0));
}

static inline int vas_try_switch(vhandle_t vh)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_TRY_SWITCH, (uint64_t)vh, 0, 0, 0, 0, 0));
}

static inline int vas_switch_timeout(vhandle_t vh, uint64_t nanoseconds)
{
    return (int)sj_result(
        sj_call(SJ_CALL_VAS_SWITCH_TIMEOUT, (uint64_t)vh, nanoseconds, 0, 0, 0, 0));
}

static inline int vas_nest(vhandle_t vh, uint64_t nanoseconds)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_NEST, (uint64_t)vh, nanoseconds, 0, 0, 0, 0));
}

static inline vhandle_t vas_return(void)
{
    return sj_result(sj_call(SJ_CALL_VAS_RETURN, 0, 0, 0, 0, 0, 0));
}

static inline vhandle_t vas_current(void)
{
    return sj_result(sj_call(SJ_CALL_VAS_CURRENT, 0, 0, 0, 0, 0, 0));
}

static inline int vas_commit(void)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_COMMIT, 0, 0, 0, 0, 0, 0));
}

static inline int64_t vas_sync(vhandle_t vh)
{
    return (int64_t)sj_result(sj_call(SJ_CALL_VAS_SYNC, (uint64_t)vh, 0, 0, 0, 0, 0));
}

static inline int64_t vas_version(vhandle_t vh)
{
    return (int64_t)sj_result(sj_call(SJ_CALL_VAS_VERSION, (uint64_t)vh, 0, 0, 0, 0, 0));
}

static inline int64_t vas_wait(vhandle_t vh, uint64_t after, uint64_t nanoseconds)
{
    return (int64_t)sj_result(
        sj_call(SJ_CALL_VAS_WAIT, (uint64_t)vh, after, nanoseconds, 0, 0, 0));
}

static inline int vas_abort(void)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_ABORT, 0, 0, 0, 0, 0, 0));
}

static inline int vas_message(const char *text)
{
    return (int)sj_result(
        sj_call(SJ_CALL_VAS_MESSAGE, sj_address(text), strlen(text), 0, 0, 0, 0));
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

static inline vasid_t vas_tag(vasid_t vid, const char *tag)
{
    return sj_id(sj_call(SJ_CALL_VAS_TAG, vid, sj_address(tag), strlen(tag), 0, 0, 0));
}

static inline vasid_t vas_clone(vasid_t vid, const char *name, uint64_t flags)
{
    return sj_id(
        sj_call(SJ_CALL_VAS_CLONE, vid, sj_address(name), strlen(name), flags, 0, 0));
}

static inline vhandle_t vas_attach(vasid_t vid, uint64_t flags)
{
    return sj_result(sj_call(SJ_CALL_VAS_ATTACH, vid, flags, 0, 0, 0, 0));
}

static inline int vas_detach(vhandle_t vh)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_DETACH, (uint64_t)vh, 0, 0, 0, 0, 0));
}

static inline int vas_ctl(uint64_t cmd, uint64_t object, uint64_t arg)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_CTL, cmd, object, arg, 0, 0, 0));
}

static inline int vas_delete(vasid_t vid)
{
    return (int)sj_result(sj_call(SJ_CALL_VAS_DELETE, vid, 0, 0, 0, 0, 0));
}

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

static inline int seg_attach(vasid_t vid, segid_t sid, uint64_t right)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_ATTACH, vid, sid, right, 0, 0, 0));
}

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

static inline int seg_ctl(segid_t sid, uint64_t cmd, uint64_t arg)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_CTL, sid, cmd, arg, 0, 0, 0));
}

static inline int seg_delete(segid_t sid)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_DELETE, sid, 0, 0, 0, 0, 0));
}

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

static inline int seg_grow(segid_t sid, uint64_t bytes)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_GROW, sid, bytes, 0, 0, 0, 0));
}

static inline int seg_reserve(segid_t sid, uint64_t offset, uint64_t bytes)
{
    return (int)sj_result(sj_call(SJ_CALL_SEG_RESERVE, sid, offset, bytes, 0, 0, 0));
}

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

#endif /* SPACEJMP_HEADER_ONLY */

#ifdef __cplusplus
}
#endif
#endif

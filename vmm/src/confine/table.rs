//! What the threads of a VMM may ask of the host's kernel after set-up: the one table that the filters
//! are made from. Whatever is not in it is forbidden.
//!
//! A call that is here because the code can come to it, and not because a test has been seen to make it,
//! says so: a program that is ended although nothing was wrong is worse than one more harmless call.
#![forbid(unsafe_code)]
#![allow(clippy::wildcard_imports, reason = "a table of the numbers of another crate")]

use libc::*;

use super::{Kinds, Kinds as K};

/// A list of calls, and who may make them.
pub(super) struct Group {
    /// What they are for.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers, and what tests print"))]
    pub(super) what: &'static str,
    /// Whose they are.
    pub(super) kinds: Kinds,
    /// On which condition; what becomes of them without.
    pub(super) when: When,
    /// The calls.
    pub(super) calls: &'static [c_long],
}

/// On which condition a call is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// On none.
    Always,
    /// The program may have something to do with sockets. Without, the call is `EACCES`: a program may ask.
    Sockets,
    /// It is granted something of the network.
    Network,
    /// It may start others.
    Children,
}

const RUNTIME: &[c_long] = &[
    // Waiting, and ending.
    SYS_futex,
    SYS_sched_yield,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_restart_syscall,
    SYS_exit,
    SYS_exit_group,
    // A thread's first and last steps in the C library, and its handlers for signals.
    SYS_set_robust_list,
    SYS_rseq,
    SYS_set_tid_address,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_sched_getaffinity,
    SYS_gettid,
    SYS_getpid,
    SYS_tgkill,
    SYS_prctl,
    SYS_clone,
    SYS_clone3,
    SYS_rt_sigaction,
    SYS_get_robust_list,
    SYS_arch_prctl,
    // Its allocator.
    SYS_brk,
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
    SYS_getrandom,
    // Time, on hosts whose vDSO does not tell it.
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_time,
    SYS_getcpu,
    // Messages; and what a panic prints, with names from the executable.
    SYS_write,
    SYS_writev,
    SYS_read,
    SYS_open,
    SYS_openat,
    SYS_close,
    SYS_fstat,
    SYS_stat,
    SYS_newfstatat,
    SYS_statx,
    SYS_lseek,
    SYS_readlink,
    SYS_getcwd,
];

const FILES: &[c_long] = &[
    // Of the program, of the store, and in /proc.
    SYS_openat2,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_lstat,
    SYS_statfs,
    SYS_fstatfs,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_mkdir,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_unlink,
    SYS_rmdir,
    SYS_unlinkat,
    SYS_rename,
    SYS_renameat,
    SYS_renameat2,
    SYS_link,
    SYS_linkat,
    SYS_symlink,
    SYS_symlinkat,
    SYS_chmod,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchmodat2,
    SYS_chown,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_umask,
    // Their contents.
    SYS_readv,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_copy_file_range,
    SYS_sendfile,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_ftruncate,
    SYS_truncate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_syncfs,
    SYS_sync_file_range,
    SYS_msync,
    SYS_flock,
    // Descriptors. Their table belongs to the VMM, so the program's are duplicates.
    SYS_fcntl,
    SYS_dup,
    SYS_dup3,
    SYS_close_range,
    SYS_memfd_create,
    SYS_eventfd2,
    SYS_pipe2,
    SYS_ioctl,
    // Waiting for them.
    SYS_poll,
    SYS_ppoll,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_signalfd4,
    // Memory over which a file may be mapped is copied by the kernel, which does not fault.
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    // Stores of other processors become visible, or all pages locked.
    SYS_membarrier,
    SYS_mincore,
    SYS_mlock,
    SYS_mlock2,
    SYS_munlock,
];

const IDENTITY: &[c_long] = &[
    SYS_getppid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getgroups,
    SYS_getresuid,
    SYS_getresgid,
    SYS_getpgrp,
    SYS_getpgid,
    SYS_getsid,
    SYS_uname,
    SYS_sysinfo,
    SYS_getrusage,
    SYS_prlimit64,
    SYS_getrlimit,
    // Timers of the program, which the host keeps and the event loop reads.
    SYS_timer_create,
    SYS_timer_settime,
    SYS_timer_gettime,
    SYS_timer_delete,
    // Of children, and of what is left of them.
    SYS_waitid,
    SYS_wait4,
    // What is sent by a descriptor that is there.
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_recvmmsg,
    SYS_shutdown,
    SYS_accept4,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_socketpair,
];

/// The table.
#[rustfmt::skip]
pub(super) const TABLE: &[Group] = &[
    Group {
        what: "what every thread needs",
        kinds: ALL, when: When::Always,
        calls: RUNTIME,
    },
    Group {
        what: "files, descriptors and memory",
        kinds: K::VCPU.and(K::EVENTS).and(K::KEEPER), when: When::Always,
        calls: FILES,
    },
    Group {
        what: "who and when the process is, and what it is connected to",
        kinds: K::VCPU.and(K::EVENTS).and(K::KEEPER), when: When::Always,
        calls: IDENTITY,
    },
    Group {
        what: "the connection to gdb",
        kinds: K::DEBUGGER, when: When::Always,
        calls: &[SYS_accept4, SYS_poll, SYS_ppoll, SYS_recvfrom, SYS_sendto, SYS_shutdown,
            SYS_getsockopt, SYS_setsockopt, SYS_ioctl, SYS_fcntl],
    },
    Group {
        what: "what only the program itself asks for",
        kinds: K::VCPU.and(K::KEEPER), when: When::Always,
        calls: &[
            SYS_splice, SYS_tee, SYS_futex_waitv, SYS_rt_sigpending, SYS_rt_sigtimedwait,
            SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
            SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr,
            SYS_listxattr, SYS_llistxattr, SYS_flistxattr, SYS_removexattr, SYS_lremovexattr,
            SYS_fremovexattr,
            SYS_sched_setaffinity, SYS_sched_setparam, SYS_sched_getparam, SYS_sched_setscheduler,
            SYS_sched_getscheduler, SYS_sched_setattr, SYS_sched_getattr,
            SYS_sched_rr_get_interval, SYS_sched_get_priority_min, SYS_sched_get_priority_max,
            SYS_getpriority, SYS_setpriority, SYS_ioprio_get, SYS_ioprio_set, SYS_adjtimex,
            // It leads no group and no session of others, with children or without.
            SYS_setpgid, SYS_setsid, SYS_pidfd_open, SYS_socket, SYS_listen,
        ],
    },
    Group {
        what: "sockets of its own",
        kinds: K::VCPU.and(K::KEEPER), when: When::Sockets,
        calls: &[SYS_connect, SYS_bind],
    },
    Group {
        what: "signals to other processes of the run",
        kinds: K::VCPU.and(K::EVENTS).and(K::KEEPER), when: When::Children,
        calls: &[SYS_pidfd_send_signal, SYS_pidfd_open],
    },
    Group {
        // It becomes a process that releases locks when this one is killed, and ends by an alarm
        // (`linux::survivor`).
        what: "the survivor",
        kinds: K::EVENTS.and(K::KEEPER), when: When::Always,
        calls: &[SYS_setsid, SYS_alarm],
    },
    Group {
        what: "new processes: with a VM, threads and a filter of their own",
        kinds: K::KEEPER, when: When::Children,
        calls: &[SYS_fork, SYS_seccomp, SYS_alarm, SYS_socket, SYS_bind,
            SYS_listen],
    },
];

/// What becomes of a call that is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    /// It fails with this number and the thread goes on.
    Fail(c_int),
    Forbid,
}

/// A question to an argument: whether these bits of its low half have this value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) argument: u32,
    pub(super) mask: u32,
    pub(super) value: Value,
    pub(super) when: When,
    pub(super) then: Verdict,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Is(u32),
    OneOf(&'static [u32]),
    /// The number of the process that has the filter.
    OwnPid,
}

/// What a call's arguments are asked, one question after the other, and what becomes of it if none is
/// answered with yes.
pub(super) struct Check {
    pub(super) call: c_long,
    pub(super) kinds: Kinds,
    pub(super) questions: &'static [Question],
    pub(super) otherwise: Verdict,
}

const fn allow(argument: u32, mask: u32, value: Value) -> Question {
    Question { argument, mask, value, when: When::Always, then: Verdict::Allow }
}

const ALL: Kinds = K::VCPU.and(K::EVENTS).and(K::WATCH).and(K::DEBUGGER).and(K::KEEPER);
const NOT_KEEPER: Kinds = K::VCPU.and(K::EVENTS).and(K::WATCH).and(K::DEBUGGER);
const WHOLE: u32 = u32::MAX;
const EXEC: u32 = PROT_EXEC as u32;
const WRITE_EXEC: u32 = (PROT_WRITE | PROT_EXEC) as u32;

/// The checks. A call without one may have any arguments.
pub(super) const CHECKS: &[Check] = &[
    Check {
        call: SYS_ioctl,
        kinds: K::VCPU,
        questions: &[
            allow(1, WHOLE, Value::OneOf(VCPU_REQUESTS)),
            allow(1, WHOLE, Value::OneOf(REQUESTS)),
        ],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_ioctl,
        kinds: K::EVENTS,
        questions: &[allow(1, WHOLE, Value::OneOf(REQUESTS))],
        otherwise: Verdict::Forbid,
    },
    // The standard library looks, when it closes a descriptor, in a build with assertions.
    Check {
        call: SYS_fcntl,
        kinds: K::DEBUGGER,
        questions: &[allow(1, WHOLE, Value::Is(F_GETFD as u32))],
        otherwise: Verdict::Forbid,
    },
    // A connection's reads wait (FIONBIO).
    Check {
        call: SYS_ioctl,
        kinds: K::DEBUGGER,
        questions: &[allow(1, WHOLE, Value::Is(0x5421))],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_ioctl,
        kinds: K::KEEPER,
        questions: &[
            allow(1, WHOLE, Value::OneOf(VCPU_REQUESTS)),
            allow(1, WHOLE, Value::OneOf(REQUESTS)),
            allow(1, WHOLE, Value::OneOf(MACHINE_REQUESTS)),
        ],
        otherwise: Verdict::Forbid,
    },
    // Nothing that the VMM maps is ever run: the guest's memory is run by the guest, whose page tables
    // are not the host's.
    Check {
        call: SYS_mmap,
        kinds: ALL,
        questions: &[allow(2, EXEC, Value::Is(0))],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_mprotect,
        kinds: ALL,
        questions: &[
            allow(2, EXEC, Value::Is(0)),
            // `GuestMem::forget_translations` takes any right that it gets: as from a file system that is
            // mounted noexec.
            Question { then: Verdict::Fail(EACCES), ..allow(2, WRITE_EXEC, Value::Is(EXEC)) },
        ],
        otherwise: Verdict::Forbid,
    },
    // Another process has other memory. What the event loop makes is a process that has this one's, after
    // its end, under a number of its own.
    Check {
        call: SYS_process_vm_readv,
        kinds: K::VCPU,
        questions: &[allow(0, WHOLE, Value::OwnPid)],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_process_vm_writev,
        kinds: K::VCPU,
        questions: &[allow(0, WHOLE, Value::OwnPid)],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_tgkill,
        kinds: NOT_KEEPER,
        questions: &[allow(0, WHOLE, Value::OwnPid)],
        otherwise: Verdict::Forbid,
    },
    // Threads; of the event loop, also the survivor.
    Check {
        call: SYS_clone,
        kinds: K::VCPU.and(K::WATCH).and(K::DEBUGGER),
        questions: &[allow(0, CLONE_THREAD as u32, Value::Is(CLONE_THREAD as u32))],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_clone,
        kinds: K::EVENTS,
        questions: &[
            allow(0, CLONE_THREAD as u32, Value::Is(CLONE_THREAD as u32)),
            allow(0, WHOLE, Value::Is(CLONE_VM as u32)),
        ],
        otherwise: Verdict::Forbid,
    },
    // Its flags are in memory, where a filter does not see them. The C library goes on with `clone`.
    Check { call: SYS_clone3, kinds: ALL, questions: &[], otherwise: Verdict::Fail(ENOSYS) },
    Check {
        call: SYS_prctl,
        kinds: NOT_KEEPER,
        questions: &[allow(0, WHOLE, Value::OneOf(PRCTL))],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_prctl,
        kinds: K::KEEPER,
        questions: &[
            allow(0, WHOLE, Value::OneOf(PRCTL)),
            allow(0, WHOLE, Value::Is(PR_SET_NO_NEW_PRIVS as u32)),
            allow(0, WHOLE, Value::Is(PR_SET_CHILD_SUBREAPER as u32)),
        ],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_prlimit64,
        kinds: ALL,
        questions: &[allow(0, WHOLE, Value::Is(0))],
        otherwise: Verdict::Forbid,
    },
    Check {
        call: SYS_socket,
        kinds: K::VCPU.and(K::KEEPER),
        questions: &[
            allow(0, WHOLE, Value::Is(AF_UNIX as u32)),
            Question { when: When::Network, ..allow(0, WHOLE, Value::OneOf(FAMILIES)) },
        ],
        otherwise: Verdict::Fail(EACCES),
    },
    Check {
        call: SYS_socketpair,
        kinds: ALL,
        questions: &[allow(0, WHOLE, Value::Is(AF_UNIX as u32))],
        otherwise: Verdict::Forbid,
    },
];

const FAMILIES: &[u32] = &[AF_INET as u32, AF_INET6 as u32, AF_NETLINK as u32];

const PR_GET_AUXV: u32 = 0x4155_5856;
const PRCTL: &[u32] = &[
    PR_SET_NAME as u32,
    PR_GET_NAME as u32,
    // Timer slack of a thread of the program is its host thread's.
    PR_SET_TIMERSLACK as u32,
    PR_GET_TIMERSLACK as u32,
    // A process that dies by a signal, as its program did, leaves no core file.
    PR_SET_DUMPABLE as u32,
    PR_GET_DUMPABLE as u32,
    // `fork_sibling`.
    PR_GET_TID_ADDRESS as u32,
    // The standard library asks what the processor can do; newer C libraries name their mappings.
    PR_GET_AUXV,
    PR_SET_VMA as u32,
];

/// Requests to a vCPU, and those by which one is made and gets memory.
const VCPU_REQUESTS: &[u32] = &[
    0xae80,      // KVM_RUN
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
    0xae41,      // KVM_CREATE_VCPU
    0x4008_ae90, // KVM_SET_CPUID2
    0x8138_ae83,
    0x4138_ae84, // KVM_GET_SREGS, KVM_SET_SREGS
    0x8090_ae81,
    0x4090_ae82, // KVM_GET_REGS, KVM_SET_REGS
    0x8188_aea6,
    0x4188_aea7, // KVM_GET_XCRS, KVM_SET_XCRS
    0x8040_ae9f,
    0x4040_aea0, // KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS
    0xc008_ae88,
    0x4008_ae89, // KVM_GET_MSRS, KVM_SET_MSRS
    0x9000_aea4,
    0x5000_aea5,
    0x9000_aecf, // KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XSAVE2
    0xaea3,      // KVM_GET_TSC_KHZ
    0x4048_ae9b, // KVM_SET_GUEST_DEBUG
    0x4018_aee3, // KVM_HAS_DEVICE_ATTR: of a vCPU's TSC
];

/// Requests by which a VM is made.
const MACHINE_REQUESTS: &[u32] = &[
    0xae00,
    0xae01,
    0xae03,
    0xae04,      // KVM_{GET_API_VERSION, CREATE_VM, CHECK_EXTENSION, GET_VCPU_MMAP_SIZE}
    0xc008_ae05, // KVM_GET_SUPPORTED_CPUID
    0xae47,
    0x4008_ae48, // KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR
    0x4068_aea3, // KVM_ENABLE_CAP
];

/// Requests that the other threads make, too.
const REQUESTS: &[u32] = &[
    // Memory that is mapped or given back while the VM runs, and which of it was written.
    0x4020_ae46,
    0x4010_ae42, // KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG
    0xae03,
    0xaece, // KVM_CHECK_EXTENSION, KVM_GET_STATS_FD
    // Files: blocks that two share, close-on-exec and non-blocking, what can be read, sizes, entropy.
    0x4004_9409,
    0x4020_940d, // FICLONE, FICLONERANGE
    0x5450,
    0x5451,
    0x5421,
    0x5452,
    0x541b,
    0x5460,
    0x8004_5200,
    // Terminals: modes (TCGETS … TCSETAF, and with speeds TCGETS2 …).
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x5405,
    0x5406,
    0x5407,
    0x5408,
    0x802c_542a,
    0x402c_542b,
    0x402c_542c,
    0x402c_542d,
    // Breaks, flow, queues: TCSBRK, TCXONC, TCFLSH, TCSBRKP, TIOCOUTQ.
    0x5409,
    0x540a,
    0x540b,
    0x5425,
    0x5411,
    // Size, group and session in the foreground, discipline: TIOC{G,S}WINSZ, TIOC{G,S}PGRP, TIOCGSID,
    // TIOCGETD, TIOCGDEV.
    0x5413,
    0x5414,
    0x540f,
    0x5410,
    0x5429,
    0x5424,
    0x8004_5432,
    // Of the run's own: TIOC{EXCL,NXCL,GEXCL,SCTTY,NOTTY}, pseudo-terminals, TIOCSIG.
    0x540c,
    0x540d,
    0x8004_5440,
    0x540e,
    0x5422,
    0x8004_5430,
    0x4004_5431,
    0x8004_5439,
    0x5420,
    0x8004_5438,
    0x5441,
    0x4004_5436,
    // Sockets: the mark, and questions about interfaces (`linux::net::interfaces`).
    0x8905,
    0x8910,
    0x8912,
    0x8913,
    0x8915,
    0x8917,
    0x8919,
    0x891b,
    0x891d,
    0x8921,
    0x8927,
    0x8933,
    0x8942,
];

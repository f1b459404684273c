//! Every served Linux call, argument by argument, compared with the host's own kernel.
//!
//! `call_table` (tests/guests/c) makes each call with valid arguments and then with one at a time
//! invalid. It runs natively and in a VM, in identical directories; the lines it prints
//! must be the same, except for those that [`DIFFERENT`] lists with the reason, which
//! `docs/src/limits.md` or `docs/src/linux-calls.md` gives, too.

use std::collections::{BTreeMap, BTreeSet};

use tests::guests;
use tests::skip_without_kvm;
use tests::vm::Run;
use vmm::process::Outcome;

const DISPATCH: &str = include_str!("../../vmm/src/linux/mod.rs");

/// Whether a difference occurs on every host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Differs {
    /// It does: an exception for a line that does not differ is an error.
    Always,
    /// It depends on the host's kernel, on its configuration, or on the user who runs the tests.
    ByHost,
}
use Differs::{Always, ByHost};

/// How a line of the table begins (or, with `$`, the whole line), and why it may differ.
const DIFFERENT: &[(&str, Differs, &str)] = &[
    ("connect 2=", ByHost, "newer kernels look at the address first"),
    ("connect 3=", ByHost, "the same"),
    ("recvfrom 2=0x4000000000000000$", Always, "the descriptor is looked at first"),
    ("recvfrom 2=0xf", Always, "the same"),
    ("sendto 2=0x4000000000000000$", Always, "the same"),
    ("sendto 2=0xf", Always, "the same"),
    ("readv 3=0x400$", Always, "an array half outside memory is refused as a whole"),
    ("writev 3=0x400$", Always, "the same"),
    ("preadv 3=0x400$", Always, "the same"),
    ("pwritev 3=0x400$", Always, "the same"),
    (
        "mmap:private file 4=0x80012$",
        ByHost,
        "MAP_SYNC without MAP_SHARED_VALIDATE: older kernels ignore it",
    ),
    ("mmap:shared file 4=0x80011$", ByHost, "the same"),
    (
        "mremap 1=0x10010003000$",
        ByHost,
        "from Linux 6.17 on a range of several mappings may be given",
    ),
    ("mremap 1=0x10010006000$", ByHost, "the same"),
    ("mremap 1=0x10010008000$", ByHost, "the same"),
    ("mremap 1=0x1001000a000$", ByHost, "the same"),
    ("mremap 1=0x1001000b000$", ByHost, "the same"),
    ("mremap:a private file 1=0x1001000a000$", ByHost, "the same"),
    ("mremap:a shared file 1=0x10010008000$", ByHost, "the same"),
    ("mremap 3=0x7fffffffffffffff$", ByHost, "too large to exist: ENOMEM, as older kernels say"),
    ("mremap 3=0x800000000000$", ByHost, "the same"),
    ("msync 2=0xffffffffffffffff$", Always, "a length that wraps is no length for Linux"),
    (
        "mlock 2=0xfffffffffffff000$",
        ByHost,
        "no privilege to lock more than the limit, which is looked at first",
    ),
    ("mlock2 2=0xfffffffffffff000$", ByHost, "the same"),
    (
        "write:pipe 3=0x7fffffff$",
        Always,
        "a buffer that is mostly not memory reaches the host as less of it",
    ),
    ("write:pipe 3=0x80000000$", Always, "the same"),
    ("write:pipe 3=0x100000000$", Always, "the same"),
    ("write:null 3=0x7fffffff$", Always, "likewise 4 MiB of it"),
    ("write:null 3=0x80000000$", Always, "the same"),
    ("write:null 3=0x100000000$", Always, "the same"),
    ("write:event 2=0x10000003ffc$", Always, "the host gets the half of a word that is memory"),
    ("preadv2:empty pipe 1=0xd$", ByHost, "a directory is refused before the flags are looked at"),
    ("flock 2=0x21$", ByHost, "LOCK_MAND: some kernels take it and do nothing"),
    ("flock 2=0xffffffffffffffff$", ByHost, "the same"),
    ("flock:un 2=0x28$", ByHost, "the same"),
    ("flock:un 2=0xffffffffffffffff$", ByHost, "the same"),
    ("flock:ex, not waiting 2=0x2", ByHost, "the same"),
    ("flock:ex, not waiting 2=0x7fffffff$", ByHost, "the same"),
    ("flock:ex, not waiting 2=0xffffffffffffffff$", ByHost, "the same"),
    ("open:null 2=0x1002$", Always, "a device is opened for its access mode alone"),
    ("open:null 2=0x2002$", Always, "the same"),
    ("open:null 2=0x4002$", Always, "the same"),
    ("open:null 2=0x20002$", Always, "the same"),
    ("open:null 2=0x40002$", Always, "the same"),
    ("open:null 2=0x100002$", Always, "the same"),
    (
        "getpriority 1=0x2$",
        ByHost,
        "a user's other processes count, which a program in a VM cannot see",
    ),
    ("ioprio_get 1=0x3$", ByHost, "the same"),
    (
        "ioprio_get$",
        ByHost,
        "0 once a thread has done I/O on a disk itself, which depends on what the host has in memory",
    ),
    ("fcntl:command 2=0x11$", ByHost, "F_GETOWNER_UIDS: not in every kernel"),
    ("fcntl:a pipe's command 2=0x402$", ByHost, "no notification can be asked for"),
    ("fcntl:a pipe's command 2=0x403$", ByHost, "not in every kernel"),
    ("fcntl:a pipe's command 2=0x404$", ByHost, "the same"),
    ("fcntl:a pipe's command 2=0x40b$", ByHost, "hints, which not every kernel has"),
    ("fcntl:a pipe's command 2=0x40c$", ByHost, "the same"),
    ("pipe2 2=0x80$", ByHost, "O_NOTIFICATION_PIPE: not in every kernel"),
    ("newfstatat:empty path 4=", ByHost, "from Linux 6.11 on the flags are not looked at"),
    ("statx:empty path 3=", ByHost, "the same"),
    ("renameat2 5=0x4$", ByHost, "RENAME_WHITEOUT makes a device, where the file system has it"),
    ("renameat2:no replacing 5=0x5$", ByHost, "the same"),
    ("mmap 4=0x132$", Always, "MAP_GROWSDOWN"),
    ("mmap:anywhere 4=0x122$", Always, "the same"),
    ("mmap:anywhere 4=0x40022$", ByHost, "MAP_HUGETLB: multiples of 2 MiB, without a pool"),
    ("madvise 3=0x8$", ByHost, "MADV_FREE drops pages immediately; the host, when it chooses"),
    ("madvise:free 1=0x10010000000$", ByHost, "the same"),
    ("madvise:free 1=0x10010001000$", ByHost, "the same"),
    ("madvise:free 1=0x10010002000$", ByHost, "the same"),
    ("madvise:free 1=0x10010003000$", ByHost, "the same"),
    ("madvise:a hole's advice 3=0x8$", ByHost, "the same"),
    ("madvise 3=0x16$", ByHost, "MADV_POPULATE_READ and _WRITE: not in every kernel"),
    ("madvise 3=0x17$", ByHost, "the same"),
    ("madvise:a hole's advice 3=0x16$", ByHost, "the same"),
    ("madvise:a hole's advice 3=0x17$", ByHost, "the same"),
    ("madvise:a file's advice 3=0x16$", ByHost, "the same"),
    ("madvise:a file's advice 3=0x17$", ByHost, "the same"),
    ("madvise 3=0x19$", ByHost, "MADV_COLLAPSE: not in every kernel"),
    ("madvise:a hole's advice 3=0x19$", ByHost, "the same"),
    ("madvise:a file's advice 3=0x19$", ByHost, "the same"),
    ("membarrier$", ByHost, "what the VMM's host has of it"),
    ("membarrier 2=0x100000000$", ByHost, "the same"),
    ("membarrier 2=0x8000000000000000$", ByHost, "the same"),
    ("get_mempolicy", ByHost, "as a kernel without NUMA"),
    ("set_mempolicy", ByHost, "the same"),
    ("mbind", ByHost, "the same"),
    ("getrlimit$", ByHost, "descriptors that the VMM needs, and no more threads than vCPUs"),
    ("getrlimit 1=0x6$", ByHost, "the same"),
    ("timerfd_create 1=0x8$", ByHost, "clocks that wake the machine need a capability"),
    ("timerfd_create 1=0x9$", ByHost, "the same"),
    ("setgroups", ByHost, "no capabilities, whichever user runs the VMM"),
    ("prctl 1=0x17$", ByHost, "the same"),
    ("prctl 1=0x18$", ByHost, "the same"),
    ("prctl:PR_CAPBSET_READ", ByHost, "the same"),
    ("prctl 1=0x1c$", ByHost, "what a kernel has depends on how it was configured"),
    ("prctl 1=0x1f$", ByHost, "the same"),
    ("prctl 1=0x20$", ByHost, "the same"),
    ("prctl 1=0x21$", ByHost, "the same"),
    ("prctl 1=0x22$", ByHost, "the same"),
    ("prctl 1=0x23$", ByHost, "the same"),
    ("prctl 1=0x29$", ByHost, "the same"),
    ("prctl 1=0x34$", ByHost, "the same"),
    ("prctl 1=0x35$", ByHost, "the same"),
    ("prctl 1=0x39$", ByHost, "the same"),
    ("prctl 1=0x3a$", ByHost, "the same"),
    ("prctl 1=0x3b$", ByHost, "the same"),
    ("prctl 1=0x41$", ByHost, "the same"),
    ("prctl 1=0x42$", ByHost, "the same"),
    ("prctl 1=0x43$", ByHost, "the same"),
    ("prctl 1=0x44$", ByHost, "the same"),
    ("prctl 1=0x4d$", ByHost, "the same"),
    ("prctl:PR_SET_PDEATHSIG 2=0xf$", Always, "no parent is visible whose death could be reported"),
    ("prctl:PR_SET_PDEATHSIG 2=0x40$", Always, "the same"),
    ("prctl:PR_SET_THP_DISABLE$", ByHost, "not served"),
    ("prctl:PR_MCE_KILL_GET$", ByHost, "the same"),
    ("prctl:PR_SET_VMA", ByHost, "names of mappings: not in every kernel"),
    ("arch_prctl 1=0x1011$", ByHost, "CPUID faults are not served"),
    ("arch_prctl 1=0x1022$", ByHost, "extended states are not served"),
    ("chmod 2=0xffffffffffffffff$", Always, "set-ID bits"),
    ("creat 2=0x5a4$", Always, "the same"),
    ("creat 2=0x9a4$", Always, "the same"),
    ("creat 2=0xffffffffffffffff$", Always, "the same"),
    ("open:O_CREAT 3=0x5a4$", Always, "the same"),
    ("open:O_CREAT 3=0x9a4$", Always, "the same"),
    ("open:O_CREAT 3=0xffffffffffffffff$", Always, "the same"),
    ("mkdir 2=0x5ed$", Always, "the same"),
    ("mkdir 2=0x9ed$", Always, "the same"),
    ("mkdir 2=0xffffffffffffffff$", Always, "the same"),
    ("mkdirat 3=0x5ed$", Always, "the same"),
    ("mkdirat 3=0x9ed$", Always, "the same"),
    ("mkdirat 3=0xffffffffffffffff$", Always, "the same"),
    ("memfd_create 2=0x4$", ByHost, "MFD_HUGETLB: the host's pool is not the run's"),
    ("memfd_create 2=0xffffffffffffffff$", Always, "the same"),
];

/// Calls of the dispatch table that no row makes, and why.
const NOT_IN_THE_TABLE: &[(&str, &str)] = &[
    ("exit", "ends"),
    ("exit_group", "ends"),
    ("clone", "starts a thread"),
    ("clone3", "starts a thread"),
    ("fork", "`forks` compares it with the host's own"),
    ("vfork", "`processes` compares it with the host's own"),
    ("execveat", "`processes` compares it with the host's own"),
    ("futex", "waits"),
    ("futex_waitv", "waits"),
    ("shmget", "`sysv` compares it with the host's own"),
    ("shmat", "`sysv` compares it with the host's own"),
    ("shmdt", "`sysv` compares it with the host's own"),
    ("shmctl", "`sysv` compares it with the host's own"),
    ("semget", "`sysv` compares it with the host's own"),
    ("semop", "`sysv` compares it with the host's own"),
    ("semtimedop", "`sysv` compares it with the host's own"),
    ("semctl", "`sysv` compares it with the host's own"),
    ("msgget", "`sysv` compares it with the host's own"),
    ("msgsnd", "`sysv` compares it with the host's own"),
    ("msgrcv", "`sysv` compares it with the host's own"),
    ("msgctl", "`sysv` compares it with the host's own"),
    ("set_tid_address", "belongs to the library"),
    ("get_robust_list", "belongs to the library"),
    ("rseq", "refused"),
    ("rt_sigreturn", "needs a frame"),
    ("rt_sigsuspend", "waits"),
    ("rt_sigtimedwait", "waits"),
    ("pause", "waits"),
    ("sync", "slow, and cannot fail"),
    ("getppid", "cannot fail"),
    ("getpgrp", "cannot fail"),
    ("setpgid", "`processes` compares it with the host's own"),
    ("setsid", "refused"),
    ("capset", "sets"),
    ("epoll_ctl", "`waiting` compares it with the host's own"),
    ("epoll_wait", "`waiting` compares it with the host's own"),
    ("epoll_pwait", "`waiting` compares it with the host's own"),
    ("epoll_pwait2", "`waiting` compares it with the host's own"),
    ("timerfd_settime", "`waiting` compares it with the host's own"),
    ("timerfd_gettime", "`waiting` compares it with the host's own"),
    ("inotify_init", "`waiting` compares it with the host's own"),
    ("inotify_add_watch", "`waiting` compares it with the host's own"),
    ("inotify_rm_watch", "`waiting` compares it with the host's own"),
    ("pkey_mprotect", "`rare_calls` compares it with the host's own"),
    ("pkey_alloc", "`rare_calls` compares it with the host's own"),
    ("pkey_free", "`rare_calls` compares it with the host's own"),
    ("mlockall", "`keeps` compares it with the host's own"),
    ("migrate_pages", "as a kernel without NUMA"),
    ("move_pages", "as a kernel without NUMA"),
    ("socketpair", "`network` compares it with the host's own"),
    ("signalfd", "`waiting` compares it with the host's own"),
    ("signalfd4", "`waiting` compares it with the host's own"),
    ("pidfd_open", "`waiting` compares it with the host's own"),
    ("pidfd_send_signal", "`waiting` compares it with the host's own"),
    ("pidfd_getfd", "`waiting` compares it with the host's own"),
    ("sendmmsg", "as sendmsg"),
    ("recvmmsg", "as recvmsg"),
    ("acct", "privileged"),
    ("chroot", "`rare_calls` compares it with the host's own"),
    ("delete_module", "privileged"),
    ("finit_module", "privileged"),
    ("init_module", "privileged"),
    ("ioperm", "privileged"),
    ("iopl", "privileged"),
    ("kexec_load", "privileged"),
    ("pivot_root", "privileged"),
    ("reboot", "privileged"),
    ("swapoff", "privileged"),
    ("swapon", "privileged"),
    ("syslog", "privileged"),
    ("vhangup", "privileged"),
    ("rt_sigqueueinfo", "signals have separate tests"),
    ("rt_tgsigqueueinfo", "signals have separate tests"),
    ("clock_settime", "clocks and timers have separate tests"),
    ("settimeofday", "clocks and timers have separate tests"),
    ("adjtimex", "clocks and timers have separate tests"),
    ("clock_adjtime", "clocks and timers have separate tests"),
    ("alarm", "clocks and timers have separate tests"),
    ("setitimer", "clocks and timers have separate tests"),
    ("getitimer", "clocks and timers have separate tests"),
    ("timer_create", "clocks and timers have separate tests"),
    ("timer_settime", "clocks and timers have separate tests"),
    ("timer_gettime", "clocks and timers have separate tests"),
    ("timer_getoverrun", "clocks and timers have separate tests"),
    ("timer_delete", "clocks and timers have separate tests"),
    ("getdents", "`procfs` compares it with the host's own"),
    ("utime", "`procfs` compares it with the host's own"),
    ("futimesat", "`procfs` compares it with the host's own"),
    ("getxattr", "`procfs` compares it with the host's own"),
    ("lgetxattr", "`procfs` compares it with the host's own"),
    ("fgetxattr", "`procfs` compares it with the host's own"),
    ("setxattr", "`procfs` compares it with the host's own"),
    ("lsetxattr", "`procfs` compares it with the host's own"),
    ("fsetxattr", "`procfs` compares it with the host's own"),
    ("listxattr", "`procfs` compares it with the host's own"),
    ("llistxattr", "`procfs` compares it with the host's own"),
    ("flistxattr", "`procfs` compares it with the host's own"),
    ("removexattr", "`procfs` compares it with the host's own"),
    ("lremovexattr", "`procfs` compares it with the host's own"),
    ("fremovexattr", "`procfs` compares it with the host's own"),
    ("sysfs", "`procfs` compares it with the host's own"),
    ("ustat", "`procfs` compares it with the host's own"),
    ("name_to_handle_at", "refused"),
    ("sethostname", "privileged"),
    ("setdomainname", "privileged"),
    ("open_by_handle_at", "privileged"),
];

/// The results by call.
fn lines(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(" -> ")).collect()
}

fn excuses(pattern: &str, case: &str) -> bool {
    match pattern.strip_suffix('$') {
        Some(whole) => case == whole,
        None => case.starts_with(pattern),
    }
}

fn is_excused(case: &str) -> bool {
    DIFFERENT.iter().any(|(pattern, ..)| excuses(pattern, case))
}

/// Exceptions for lines that do not differ, or do not exist.
fn stale<'a>(first: &str, native: &BTreeMap<&'a str, &str>, differing: &[&'a str]) -> Vec<String> {
    let mut stale = Vec::new();
    for (pattern, kind, _) in DIFFERENT.iter().filter(|(pattern, ..)| pattern.starts_with(first)) {
        let covered: Vec<_> = native.keys().filter(|case| excuses(pattern, case)).collect();
        if covered.is_empty() {
            stale.push(format!("{pattern}: there is no such line"));
        }
        let same = covered.iter().find(|case| !differing.contains(case));
        if let (Always, Some(case)) = (kind, same) {
            stale.push(format!("{pattern}: {case} does not differ"));
        }
    }
    stale
}

/// Runs the rows whose names begin with `first` both ways and compares them.
#[track_caller]
fn compare(first: &str) {
    let native_dir = tempfile::tempdir().expect("a temporary directory");
    let vm_dir = tempfile::tempdir().expect("a temporary directory");
    let program = guests::c("call_table");
    let text = |dir: &tempfile::TempDir| dir.path().to_string_lossy().into_owned();
    let native = Run::new(&program).args(&[&text(&native_dir), first]).native();
    let vm = Run::new(&program).args(&[&text(&vm_dir), first]).dir(text(&vm_dir)).in_vm();
    assert_eq!(native.outcome, Outcome::Exited(0), "{native:?}");
    assert_eq!(vm.outcome, Outcome::Exited(0), "{vm:?}");
    let (native, vm) = (native.out(), vm.out());
    let (native, vm) = (lines(&native), lines(&vm));
    assert!(native.len() > 20, "only {} cases", native.len());
    let mut differing = Vec::new();
    let mut wrong = Vec::new();
    for (case, expected) in &native {
        let got = vm.get(case).copied().unwrap_or("not made");
        if got != *expected {
            differing.push(*case);
            if !is_excused(case) {
                wrong.push(format!("{case}\n  native {expected}\n  VM     {got}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), native.len(), wrong.join("\n"));
    let stale = stale(first, &native, &differing);
    assert!(stale.is_empty(), "excuses that excuse nothing:\n{}", stale.join("\n"));
}

macro_rules! compare {
    ($($test:ident: $first:expr),* $(,)?) => {$(
        #[test]
        fn $test() {
            skip_without_kvm!();
            $first.iter().for_each(|first| compare(first));
        }
    )*};
}

compare! {
    calls_from_a_to_e_answer_as_natively: ["a", "b", "c", "d", "e"],
    calls_with_f_answer_as_natively: ["f"],
    calls_from_g_to_l_answer_as_natively: ["g", "i", "k", "l"],
    calls_with_m_answer_as_natively: ["m"],
    calls_from_n_to_o_answer_as_natively: ["n", "o"],
    calls_with_p_answer_as_natively: ["p"],
    calls_with_r_answer_as_natively: ["r"],
    calls_with_s_answer_as_natively: ["s"],
    calls_from_t_to_w_answer_as_natively: ["t", "u", "w"],
}

#[test]
fn what_is_set_holds_and_is_read_back() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_string_lossy().into_owned();
    let run = Run::new(guests::c("call_effects")).args(&[&path]).dir(path.clone());
    run.same_as_native();
}

#[test]
fn every_call_of_the_dispatch_table_is_tried_or_excused() {
    let rows = include_str!("../guests/include/call_table_files.h").to_owned()
        + include_str!("../guests/include/call_table_memory.h")
        + include_str!("../guests/include/call_table_rest.h");
    let tried: BTreeSet<_> = rows
        .split(['(', ' '])
        .zip(rows.split(['(', ' ']).skip(1))
        .filter(|(before, _)| before.ends_with("ROW") || before.ends_with("MORE"))
        .filter_map(|(_, name)| name.split(',').next())
        .collect();
    let excused: BTreeSet<_> = NOT_IN_THE_TABLE.iter().map(|(name, _)| *name).collect();
    let start = DISPATCH.find("fn dispatch(").expect("the dispatch table is there");
    let end = DISPATCH.find("fn unserved(").expect("it ends before `unserved`");
    let mut missing = Vec::new();
    for after in DISPATCH[start..end].split("libc::SYS_").skip(1) {
        let name = after.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
        let name = name.expect("a name follows");
        if !tried.contains(name) && !excused.contains(name) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "neither tried nor excused: {missing:?}");
}

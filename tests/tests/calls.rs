//! Every served Linux call, argument by argument, as the host's own kernel answers it.
//!
//! `call_table` (tests/guests/c) makes each call with good arguments and then with one at a time
//! gone wrong. It runs natively and in a VM, in directories that are alike; the lines it prints
//! have to be the same, but for those that [`DIFFERENT`] lists with the reason, which
//! `docs/src/limits.md` or `docs/src/linux-calls.md` gives too.

use std::collections::{BTreeMap, BTreeSet};

use tests::guests;
use tests::skip_without_kvm;
use tests::vm::Run;
use vmm::process::Outcome;

const DISPATCH: &str = include_str!("../../vmm/src/linux/mod.rs");

/// How a line of the table begins, and why what it says may differ.
const DIFFERENT: &[(&str, &str)] = &[
    ("connect", "the descriptor is looked at first"),
    ("bind", "the same"),
    ("accept", "the same"),
    ("recvfrom 2=", "the same"),
    ("readv 3=0x400", "an array half outside memory is refused as a whole"),
    ("writev 3=0x400", "the same"),
    ("preadv 3=0x400", "the same"),
    ("pwritev 3=0x400", "the same"),
    (
        "mmap:private file 4=0x80012",
        "MAP_SYNC without MAP_SHARED_VALIDATE: older kernels ignore it",
    ),
    ("mmap:shared file 4=0x80011", "the same"),
    ("mremap 1=", "from Linux 6.17 on a range of several mappings may be given"),
    ("mremap 3=0x", "too large to exist: ENOMEM"),
    ("mremap:moved 1=", "the same as for a private file"),
    ("mremap:a private file", "a private mapping of a file cannot move"),
    ("mremap:a shared file 1=", "from Linux 6.17 on a range of several mappings may be given"),
    ("msync 2=0xffffffffffffffff", "a length that wraps is no length for Linux"),
    ("munlock 2=0xffffffffffffffff", "the same"),
    ("write:pipe 3=0x", "a buffer that is mostly not memory reaches the host as less of it"),
    ("write:null 3=0x", "the same: 4 MiB of it"),
    ("read:event 2=", "the host gets the half of a word that is memory"),
    ("write:event 2=", "the same"),
    ("preadv2:empty pipe 1=0xd", "a directory is refused before the flags are looked at"),
    ("flock", "LOCK_MAND: some kernels take it and do nothing"),
    ("open:null 2=", "a device is opened for its access mode alone"),
    ("fcntl:command", "no owner of signals, lease or notification can be set"),
    ("fcntl:a pipe's command", "the same, and hints, which not every kernel has"),
    ("pipe2 2=0x80", "O_NOTIFICATION_PIPE: not in every kernel"),
    ("newfstatat:empty path 4=", "from Linux 6.11 on the flags are not looked at"),
    ("statx:empty path 3=", "the same"),
    ("renameat2 5=0x4", "RENAME_WHITEOUT makes a device"),
    ("renameat2:no replacing 5=0x5", "the same"),
    ("mmap 4=0x132", "MAP_GROWSDOWN"),
    ("mmap:anywhere 4=0x122", "the same"),
    ("mmap 4=0x2032", "MAP_LOCKED: nothing can be locked"),
    ("mmap:anywhere 4=0x2022", "the same"),
    ("mmap:private file 4=0x2012", "the same"),
    ("mmap:shared file 4=0x2011", "the same"),
    ("mmap:shared anonymous 4=0x2031", "the same"),
    ("mmap:validated 4=0x2013", "the same"),
    ("mmap:anywhere 4=0x40022", "MAP_HUGETLB: multiples of 2 MiB, without a pool"),
    ("madvise 3=0x8", "MADV_FREE drops at once"),
    ("madvise:free", "the same"),
    ("madvise:a hole's advice 3=0x8", "the same"),
    ("madvise 3=0x16", "MADV_POPULATE_READ: not in every kernel"),
    ("madvise 3=0x17", "MADV_POPULATE_WRITE"),
    ("madvise 3=0x19", "MADV_COLLAPSE"),
    ("madvise:a hole's advice 3=0x1", "POPULATE and COLLAPSE"),
    ("madvise:a file's advice 3=0x1", "POPULATE and COLLAPSE"),
    ("mincore", "a file's pages count as resident"),
    ("mlock", "nothing can be locked"),
    ("mremap:left mapped", "MREMAP_DONTUNMAP is not served"),
    ("mremap:a shared file 2=0", "no second mapping of the same memory"),
    ("mremap 4=0x4", "MREMAP_DONTUNMAP is not served"),
    ("mremap:moved 4=0x7", "the same"),
    ("mremap:a private file 4=0x7", "the same"),
    ("mremap:a shared file 4=0x7", "the same"),
    ("membarrier", "the host's, for the VMM"),
    ("get_mempolicy", "as a kernel without NUMA"),
    ("set_mempolicy", "the same"),
    ("mbind", "the same"),
    ("getrlimit", "the limits of the VM"),
    ("setgroups", "no capabilities"),
    ("prctl 1=0x17", "no capabilities"),
    ("prctl 1=0x18", "no capabilities"),
    ("prctl:PR_CAPBSET_READ", "no capabilities"),
    ("prctl 1=0x", "what a kernel has depends on how it was configured"),
    ("prctl:PR_SET_PDEATHSIG 2=", "no parent is seen whose death could be told"),
    ("prctl:PR_SET_THP_DISABLE", "not served"),
    ("prctl:PR_MCE_KILL_GET", "not served"),
    ("prctl:PR_SET_VMA", "not in every kernel"),
    ("arch_prctl 1=0x1022", "extended states are not served"),
    ("arch_prctl 1=0x2001", "not in every kernel"),
    ("arch_prctl 1=0x3001", "not in every kernel"),
    ("tkill", "signals have tests of their own"),
    ("tgkill", "signals have tests of their own"),
    ("rt_sig", "signals have tests of their own"),
    ("kill", "signals have tests of their own"),
    ("sigaltstack", "signals have tests of their own"),
    ("clock_", "clocks have tests of their own"),
    ("times", "clocks have tests of their own"),
    ("getsid", "one process, which leads its group and session"),
    ("getpgid", "one process, which leads its group and session"),
    ("socket", "there are no sockets"),
    ("sendto 2=", "the descriptor is looked at first"),
    ("chmod 2=0xffffffffffffffff", "set-ID bits"),
    ("creat 2=0x5a4", "set-ID bits"),
    ("creat 2=0x9a4", "set-ID bits"),
    ("creat 2=0xffffffffffffffff", "set-ID bits"),
    ("open:O_CREAT 3=0x5a4", "set-ID bits"),
    ("open:O_CREAT 3=0x9a4", "set-ID bits"),
    ("open:O_CREAT 3=0xffffffffffffffff", "set-ID bits"),
    ("mkdir 2=0x5ed", "set-ID bits"),
    ("mkdir 2=0x9ed", "set-ID bits"),
    ("mkdir 2=0xffffffffffffffff", "set-ID bits"),
    ("mkdirat 3=0x5ed", "set-ID bits"),
    ("mkdirat 3=0x9ed", "set-ID bits"),
    ("mkdirat 3=0xffffffffffffffff", "set-ID bits"),
    ("memfd_create 2=0x4", "MFD_HUGETLB: the host's pool is not the run's"),
    ("memfd_create 2=0xffffffffffffffff", "the same"),
    ("execve", "one process in a VM"),
];

/// Calls of the dispatch table that no row makes, and why.
const NOT_IN_THE_TABLE: &[(&str, &str)] = &[
    ("exit", "ends"),
    ("exit_group", "ends"),
    ("clone", "starts a thread"),
    ("clone3", "starts a thread"),
    ("fork", "refused"),
    ("vfork", "refused"),
    ("execveat", "refused"),
    ("futex", "waits"),
    ("futex_waitv", "waits"),
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
    ("setpgid", "one process, which leads its group"),
    ("setsid", "refused"),
    ("capset", "sets"),
    ("mlockall", "nothing can be locked"),
    ("migrate_pages", "as a kernel without NUMA"),
    ("move_pages", "as a kernel without NUMA"),
    ("socketpair", "there are no sockets"),
    ("sendmmsg", "as sendmsg"),
    ("recvmmsg", "as recvmsg"),
    ("acct", "privileged"),
    ("chroot", "`rare_calls` tests it beside the host's own"),
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
    ("rt_sigqueueinfo", "signals have tests of their own"),
    ("rt_tgsigqueueinfo", "signals have tests of their own"),
    ("clock_settime", "clocks and timers have tests of their own"),
    ("settimeofday", "clocks and timers have tests of their own"),
    ("adjtimex", "clocks and timers have tests of their own"),
    ("clock_adjtime", "clocks and timers have tests of their own"),
    ("alarm", "clocks and timers have tests of their own"),
    ("setitimer", "clocks and timers have tests of their own"),
    ("getitimer", "clocks and timers have tests of their own"),
    ("timer_create", "clocks and timers have tests of their own"),
    ("timer_settime", "clocks and timers have tests of their own"),
    ("timer_gettime", "clocks and timers have tests of their own"),
    ("timer_getoverrun", "clocks and timers have tests of their own"),
    ("timer_delete", "clocks and timers have tests of their own"),
    ("getdents", "`procfs` tests it beside the host's own"),
    ("utime", "`procfs` tests it beside the host's own"),
    ("futimesat", "`procfs` tests it beside the host's own"),
    ("getxattr", "`procfs` tests it beside the host's own"),
    ("lgetxattr", "`procfs` tests it beside the host's own"),
    ("fgetxattr", "`procfs` tests it beside the host's own"),
    ("setxattr", "`procfs` tests it beside the host's own"),
    ("lsetxattr", "`procfs` tests it beside the host's own"),
    ("fsetxattr", "`procfs` tests it beside the host's own"),
    ("listxattr", "`procfs` tests it beside the host's own"),
    ("llistxattr", "`procfs` tests it beside the host's own"),
    ("flistxattr", "`procfs` tests it beside the host's own"),
    ("removexattr", "`procfs` tests it beside the host's own"),
    ("lremovexattr", "`procfs` tests it beside the host's own"),
    ("fremovexattr", "`procfs` tests it beside the host's own"),
    ("sysfs", "`procfs` tests it beside the host's own"),
    ("ustat", "`procfs` tests it beside the host's own"),
    ("name_to_handle_at", "refused"),
    ("sethostname", "privileged"),
    ("setdomainname", "privileged"),
    ("open_by_handle_at", "privileged"),
];

/// The calls' results, by what was called.
fn lines(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(" -> ")).collect()
}

fn reason(case: &str) -> Option<usize> {
    DIFFERENT.iter().position(|(start, _)| case.starts_with(start))
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
    let mut wrong = Vec::new();
    for (case, expected) in &native {
        let got = vm.get(case).copied().unwrap_or("not made");
        if got != *expected && reason(case).is_none() {
            wrong.push(format!("{case}\n  native {expected}\n  VM     {got}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), native.len(), wrong.join("\n"));
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

//! The VMM's threads, confined (`run --confine`). Needs /dev/kvm.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use vmm::confine::{Confine, Kind, Policy, allowed};

fn hostile(kind: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hostile_vmm")).arg(kind).output();
    let Output { status, stdout, stderr } = output.expect("it starts");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{status}\n{text}\n{}", String::from_utf8_lossy(&stderr));
    assert!(text.contains("Exited("), "the program ended by itself: {text}");
    text
}

#[test]
fn a_hostile_thread_of_the_vmm_gets_nowhere_whichever_it_is() {
    skip_without_kvm!();
    const OUTSIDE: &str = "open a file outside: ";
    for (kind, least) in [("vcpu", 29), ("events", 28), ("keeper", 23)] {
        let text = hostile(kind);
        let outside = text.lines().find(|line| line.starts_with(OUTSIDE)).expect("a line");
        let rest: Vec<&str> = text.lines().filter(|line| *line != outside).collect();
        match vmm::host::landlock_version() {
            Some(_) => assert!(outside.contains("Permission denied"), "{kind}: {outside}"),
            None => eprintln!("SKIPPED: this host has no Landlock: {kind}: {outside}"),
        }
        let caught = rest.iter().filter(|line| line.contains(": caught")).count();
        let failed: Vec<&&str> = rest.iter().filter(|line| line.contains(": failed")).collect();
        assert!(!rest.iter().any(|line| line.contains("DONE")), "{kind}: {text}");
        // What a program might ask for fails, and does not end the VMM.
        let may_fail = [
            "socket of packets",
            "socket of the network",
            "mprotect, executable",
            "process_vm_readv",
        ];
        for line in &failed {
            assert!(may_fail.iter().any(|may| line.starts_with(may)), "{kind}: {line}");
        }
        assert!(caught + failed.len() + 1 >= least, "{kind}: {text}");
    }
}

/// Calls of the table that the runs below need not make, by why they are in it.
const BY_READING: &[(&str, &[&str])] = &[
    (
        "the C library and the standard library make them on some hosts, and may come to",
        &[
            "arch_prctl",
            "chmod",
            "chown",
            "dup",
            "dup3",
            "epoll_pwait2",
            "fork",
            "get_robust_list",
            "getcpu",
            "getcwd",
            "getresgid",
            "getresuid",
            "getrlimit",
            "gettimeofday",
            "link",
            "lstat",
            "mincore",
            "mlock",
            "preadv",
            "readv",
            "rename",
            "restart_syscall",
            "rmdir",
            "sched_get_priority_max",
            "sched_get_priority_min",
            "sched_yield",
            "set_tid_address",
            "stat",
            "statfs",
            "symlink",
            "sync_file_range",
            "time",
            "umask",
            "unlink",
            "writev",
        ],
    ),
    ("the C library makes an allocation of more than 2 MiB larger by it", &["mremap"]),
    (
        "programs ask for them that have other tests",
        &[
            "copy_file_range",
            "fchmodat2",
            "fchownat",
            "fgetxattr",
            "flistxattr",
            "fremovexattr",
            "fsetxattr",
            "fstatfs",
            "getpgid",
            "getxattr",
            "inotify_add_watch",
            "ioprio_get",
            "ioprio_set",
            "lgetxattr",
            "linkat",
            "listxattr",
            "llistxattr",
            "lremovexattr",
            "lsetxattr",
            "mknodat",
            "mlock2",
            "msync",
            "munlock",
            "pidfd_open",
            "pidfd_send_signal",
            "recvfrom",
            "recvmmsg",
            "removexattr",
            "rt_sigpending",
            "rt_sigtimedwait",
            "sched_getattr",
            "sched_getparam",
            "sched_rr_get_interval",
            "sched_setaffinity",
            "sched_setattr",
            "sched_setparam",
            "sendmmsg",
            "setpriority",
            "setsid",
            "setxattr",
            "splice",
            "syncfs",
            "tee",
            "truncate",
            "utimensat",
            "wait4",
        ],
    ),
    ("limits of a run are read before it, and later when a program asks", &["prlimit64"]),
    ("what is left when a VMM is killed while its program holds locks", &["alarm"]),
    ("a segment that several VMs change", &["membarrier"]),
];

/// Runs a program under strace, which writes to `trace`.
fn traced(trace: &Path, options: &[&str], program: &Path, args: &[&str]) {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(trace);
    command.arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev)).arg("run").args(options);
    command.arg(program).args(args).stdin(Stdio::null());
    let output = command.output().expect("strace starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{options:?} {args:?}: {complaint}");
    assert!(!complaint.contains("made the call"), "{complaint}");
}

/// The calls of threads that have a filter, or were started by one that has.
fn calls_under_filters(trace: &str) -> BTreeSet<String> {
    let mut confined = BTreeSet::new();
    let mut calls = BTreeSet::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let name = rest.strip_prefix("<... ").unwrap_or(rest);
        let name: String =
            name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if name == "seccomp" && rest.contains("SET_MODE_FILTER") {
            confined.insert(thread.to_owned());
        }
        if !confined.contains(thread) {
            continue;
        }
        if let Some((_, new)) = rest.rsplit_once(" = ")
            && ["clone", "fork"].contains(&name.as_str())
        {
            confined.insert(new.trim().to_owned());
        }
        calls.insert(name);
    }
    calls
}

#[test]
fn every_call_of_the_table_is_made_by_a_test_or_says_why_it_is_there() {
    skip_without_kvm!();
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: strace is not installed: which calls are made is not known");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let (files, trace) = (path("files"), path("trace"));
    std::fs::create_dir(&files).expect("a folder");
    let (inside, store) = (text(&files), text(&path("store")));
    let mut seen = BTreeSet::new();
    let mut run = |options: &[&str], program: &Path, args: &[&str]| {
        traced(&trace, options, program, args);
        let trace = std::fs::read(&trace).expect("a trace");
        seen.append(&mut calls_under_filters(&String::from_utf8_lossy(&trace)));
    };
    let alone = ["--processes", "1", "--no-store"];
    let granted = ["--dir", &inside, "--cwd", &inside];
    run(&alone, &guests::c("threads"), &[]);
    run(&[&alone[..], &granted, &["--net"]].concat(), &guests::c("net_calls"), &[&inside]);
    run(&[&alone[..], &granted].concat(), &guests::c("rare_calls"), &[&inside]);
    run(&[&alone[..], &granted].concat(), &guests::c("fileio"), &[&inside]);
    for what in ["intervals", "posix", "clocks"] {
        run(&alone, &guests::c("timers"), &[what]);
    }
    run(&["--no-store", "--strace=/dev/null"], &guests::c("waiting"), &[]);
    for args in [&["bank", "make"][..], &["bank", "many", "2"]] {
        run(&["--store", &store], &guests::rust("vas_versions"), args);
    }
    run(&["--store", &store], &guests::rust("vas_durable"), &["space", "0", "fill", "8"]);
    let program = files.join("processes");
    guests::copy_program(guests::c("processes"), &program);
    run(&granted, &program, &["spawn"]);
    let policy = Policy { mode: Confine::On, children: true, sockets: true, network: true };
    let table: BTreeSet<&str> = [Kind::Vcpu, Kind::Events, Kind::Keeper, Kind::Watch]
        .into_iter()
        .flat_map(|kind| allowed(kind, &policy))
        .collect();
    let known: BTreeSet<&str> = BY_READING.iter().flat_map(|(_, calls)| *calls).copied().collect();
    let stale: Vec<_> = known.difference(&table).collect();
    assert!(stale.is_empty(), "not in the table: {stale:?}");
    let unused: Vec<_> =
        table.iter().filter(|call| !known.contains(*call) && !seen.contains(**call)).collect();
    assert!(unused.is_empty(), "in the table, and no run has made them: {unused:?}");
}

//! Files on a process or one of its threads, except its memory and its mounts.
//!
//! Formats: `proc_pid_stat(5)`, `proc_pid_status(5)` and their neighbours; the order of fields
//! is Linux's, because programs read these files by position, too.

use std::fmt::Write;

use abi::PAGE_SIZE;

use super::host::{self, Stat};
use super::maps::Usage;
use super::{Content, Subject};
use crate::linux::{credentials, limits, pid as pids, sched};

pub(super) fn loginuid(_: &Subject<'_>) -> Content {
    // Not set: there are no logins to the VM.
    Ok(u32::MAX.to_string().into_bytes())
}

pub(super) fn personality(of: &Subject<'_>) -> Content {
    Ok(format!("{:08x}\n", of.process.settings.personality()).into_bytes())
}

pub(super) fn wchan(_: &Subject<'_>) -> Content {
    Ok(b"0".to_vec())
}

/// A range of the program's memory, as it is now: programs change their arguments to be seen.
fn memory(of: &Subject<'_>, range: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    match of.process.private.copy_in(range.start, &mut bytes) {
        Ok(()) => bytes,
        // As on Linux when the memory is unmapped: an empty file.
        Err(_) => Vec::new(),
    }
}

pub(super) fn cmdline(of: &Subject<'_>) -> Content {
    Ok(memory(of, of.process.facts.args.clone()))
}

pub(super) fn environ(of: &Subject<'_>) -> Content {
    Ok(memory(of, of.process.facts.env.clone()))
}

/// The thread's name. For a first thread that has ended, the program's.
fn name(of: &Subject<'_>) -> Vec<u8> {
    match &of.thread {
        Some(thread) => thread.name(),
        None => of.process.program.short.bytes().take(15).collect(),
    }
}

pub(super) fn comm(of: &Subject<'_>) -> Content {
    let mut name = name(of);
    name.push(b'\n');
    Ok(name)
}

/// The host's figures for the thread, or for all.
fn host_stat(of: &Subject<'_>) -> Stat {
    match &of.thread {
        Some(thread) if of.alone => Stat::of_thread(thread),
        _ => Stat::of_process(),
    }
}

/// `R` for the asking thread and others that run; `Z` for a first thread that has ended.
fn state(of: &Subject<'_>) -> char {
    of.thread.as_ref().map_or('Z', |thread| Stat::of_thread(thread).state())
}

fn signals(of: &Subject<'_>) -> [u64; 5] {
    let all = &of.process.signals;
    let (pending, mask) =
        of.thread.as_ref().map_or((0, 0), |t| (t.signals.pending_set(), t.signals.mask()));
    [pending, all.pending_set(), mask, all.ignored_set(), all.handled_set()]
}

pub(super) fn stat(of: &Subject<'_>) -> Content {
    let process = of.process;
    let (host, usage) = (host_stat(of), Usage::of(process));
    let [_, pending, blocked, ignored, caught] = signals(of);
    let facts = &process.facts;
    let code = usage.code.clone();
    let ids = pids::parents();
    let n = |field| host.number(field);
    let mut text = format!("{} (", of.tid).into_bytes();
    text.extend(name(of));
    text.extend(format!(") {}", state(of)).bytes());
    // Parent, group, session, controlling terminal and its group; flags; faults; times of the process, and
    // of children it has none; priority, threads, start; size.
    let signed = [
        i64::from(ids.parent),
        i64::from(ids.group),
        i64::from(ids.session),
        n(7),
        n(8),
        0,
        n(10),
        0,
        n(12),
        0,
        n(14),
        n(15),
        0,
        0,
        n(18),
        n(19),
        threads(of) as i64,
        0,
    ];
    text.extend(signed.iter().flat_map(|value| format!(" {value}").into_bytes()));
    let (data, args, env) = (&usage.data, &facts.args, &facts.env);
    let host = |field| n(field).unsigned_abs();
    // The old form of the sets has 31 signals.
    let [pending, blocked, ignored, caught] =
        [pending, blocked, ignored, caught].map(|set| set & 0x7fff_ffff);
    let resident = usage.resident / PAGE_SIZE;
    let unsigned: [&[u64]; 6] = [
        // The limit on resident memory; code; stack; the registers are not shown.
        &[facts.start_ticks, usage.size, resident, u64::MAX, code.start, code.end],
        &[facts.stack, 0, 0, pending, blocked, ignored, caught, 0, 0, 0],
        &[libc::SIGCHLD as u64, host(39), host(40), host(41), 0, 0, 0],
        &[data.start, data.end, usage.heap_start],
        &[args.start, args.end, env.start, env.end],
        &[0],
    ];
    let unsigned = unsigned.concat();
    text.extend(unsigned.iter().flat_map(|value| format!(" {value}").into_bytes()));
    text.push(b'\n');
    Ok(text)
}

pub(super) fn statm(of: &Subject<'_>) -> Content {
    let usage = Usage::of(of.process);
    let pages = |bytes: u64| bytes / PAGE_SIZE;
    let code = pages(usage.code.end - usage.code.start);
    let (size, resident) = (pages(usage.size), pages(usage.resident));
    let (shared, data) = (pages(usage.shared_resident), pages(usage.data_bytes));
    Ok(format!("{size} {resident} {shared} {code} 0 {data} 0\n").into_bytes())
}

pub(super) fn status(of: &Subject<'_>) -> Content {
    let process = of.process;
    let ids = pids::parents();
    let pid = process.pid();
    let state = match state(of) {
        'R' => "R (running)",
        'D' => "D (disk sleep)",
        'Z' => "Z (zombie)",
        _ => "S (sleeping)",
    };
    let mut text = b"Name:\t".to_vec();
    text.extend(name(of));
    let mut rest = String::new();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let files = process.files.highest_descriptor().map_or(64, |fd| (fd + 1).next_power_of_two());
    // Writing to a string cannot fail.
    let _ = write!(
        rest,
        "\nUmask:\t{:04o}\nState:\t{state}\nTgid:\t{pid}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\n\
         TracerPid:\t0\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n\
         FDSize:\t{}\nGroups:\t{}\nNStgid:\t{pid}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\n",
        !process.files.masked(0o777) & 0o777,
        of.tid,
        ids.parent,
        files.max(64),
        credentials::listed_groups(),
        of.tid,
        ids.group,
        ids.session,
    );
    put_memory(&mut rest, &Usage::of(process));
    let _ = writeln!(rest, "CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}", threads(of));
    put_signals(&mut rest, of);
    put_processors(&mut rest, of);
    text.extend(rest.bytes());
    Ok(text)
}

fn threads(of: &Subject<'_>) -> usize {
    of.process.threads.counts().0
}

fn put_memory(text: &mut String, usage: &Usage) {
    let anonymous = usage.resident - usage.file_resident - usage.shared_resident;
    let file = usage.file_resident;
    let code = usage.code.end - usage.code.start;
    let rows = [
        ("VmPeak", usage.size),
        ("VmSize", usage.size),
        ("VmLck", usage.locked),
        ("VmPin", 0),
        ("VmHWM", usage.resident_peak),
        ("VmRSS", usage.resident),
        ("RssAnon", anonymous),
        ("RssFile", file),
        ("RssShmem", usage.shared_resident),
        ("VmData", usage.data_bytes),
        ("VmStk", usage.stack_bytes),
        ("VmExe", code),
        ("VmLib", 0),
        ("VmPTE", usage.tables),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, bytes) in rows {
        let _ = writeln!(text, "{name}:\t{:8} kB", bytes / 1024);
    }
}

fn put_signals(text: &mut String, of: &Subject<'_>) {
    let [limit, _] =
        limits::limit(&of.process.limits, libc::RLIMIT_SIGPENDING).unwrap_or([u64::MAX; 2]);
    let [pending, shared, blocked, ignored, caught] = signals(of);
    let queued = (pending.count_ones() + shared.count_ones()).to_string();
    let limit = limit.to_string();
    let _ = write!(
        text,
        "SigQ:\t{queued}/{limit}\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
         SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
    );
    // A program has no capabilities in the VM, whatever its user may do on the host.
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let _ = writeln!(text, "{name}:\t{:016x}", 0);
    }
    let no_new = u32::from(of.process.settings.no_new_privileges());
    let _ = writeln!(text, "NoNewPrivs:\t{no_new}\nSeccomp:\t0\nSeccomp_filters:\t0");
}

fn put_processors(text: &mut String, of: &Subject<'_>) {
    let tid = of.thread.as_ref().map_or(of.tid, |thread| thread.host.raw());
    let cpus = sched::allowed(tid).unwrap_or_else(|_| of.process.facts.cpus.clone());
    let (mask, list) = (super::machine::cpu_mask(&cpus), super::machine::list(&cpus));
    let [voluntary, involuntary] =
        of.thread.as_ref().map_or([0; 2], |thread| host::context_switches(thread));
    let _ = write!(
        text,
        "Cpus_allowed:\t{mask}\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n\
         Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t{voluntary}\n\
         nonvoluntary_ctxt_switches:\t{involuntary}\n"
    );
}

pub(super) fn io(of: &Subject<'_>) -> Content {
    let thread = of.thread.as_deref().filter(|_| of.alone);
    Ok(host::put_io(&host::io(thread)))
}

pub(super) fn schedstat(of: &Subject<'_>) -> Content {
    let [on, waiting, turns] = of.thread.as_ref().map_or([0; 3], |thread| host::schedstat(thread));
    Ok(format!("{on} {waiting} {turns}\n").into_bytes())
}

/// Name, number and unit of each limit, in the file's order.
const LIMITS: [(&str, u32, &str); 16] = [
    ("Max cpu time", libc::RLIMIT_CPU, "seconds"),
    ("Max file size", libc::RLIMIT_FSIZE, "bytes"),
    ("Max data size", libc::RLIMIT_DATA, "bytes"),
    ("Max stack size", libc::RLIMIT_STACK, "bytes"),
    ("Max core file size", libc::RLIMIT_CORE, "bytes"),
    ("Max resident set", libc::RLIMIT_RSS, "bytes"),
    ("Max processes", libc::RLIMIT_NPROC, "processes"),
    ("Max open files", libc::RLIMIT_NOFILE, "files"),
    ("Max locked memory", libc::RLIMIT_MEMLOCK, "bytes"),
    ("Max address space", libc::RLIMIT_AS, "bytes"),
    ("Max file locks", libc::RLIMIT_LOCKS, "locks"),
    ("Max pending signals", libc::RLIMIT_SIGPENDING, "signals"),
    ("Max msgqueue size", libc::RLIMIT_MSGQUEUE, "bytes"),
    ("Max nice priority", libc::RLIMIT_NICE, ""),
    ("Max realtime priority", libc::RLIMIT_RTPRIO, ""),
    ("Max realtime timeout", libc::RLIMIT_RTTIME, "us"),
];

pub(super) fn limits(of: &Subject<'_>) -> Content {
    let mut text = format!("{:26}{:21}{:21}{:10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let shown = |limit: u64| match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    };
    for (name, number, unit) in LIMITS {
        let [soft, hard] = limits::limit(&of.process.limits, number).unwrap_or([u64::MAX; 2]);
        let (soft, hard) = (shown(soft), shown(hard));
        let _ = writeln!(text, "{name:<25} {soft:<20} {hard:<20} {unit:<10}");
    }
    Ok(text.into_bytes())
}

//! `store-trace COMMAND...`, natively: runs a command whose program makes marks (`marks`), and tells
//! what its process asks the host for between each two of them: how often it enters a vCPU, how often
//! it waits for the disk, all calls, and how many bytes it writes.
//!
//! Every thread is traced, as by `strace`: who waits for the disk must not matter. Nothing is timed. Threads
//! that waited for something when the tracing began make their calls once more, and are not counted.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus};

use crate::json::Object;

/// The call that marks, `KVM_RUN`, and the flags of `pwritev2` that make it wait for the disk.
const MARK: u64 = libc::SYS_getpriority as u64;
const KVM_RUN: u64 = 0xae80;
const DURABLE: u64 = (libc::RWF_DSYNC | libc::RWF_SYNC) as u64;
/// How a stop at a system call looks, with `PTRACE_O_TRACESYSGOOD`.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// Of the flags in `/proc/PID/stat`: a thread that KVM has made in the process and that stays in the kernel.
const PF_USER_WORKER: u64 = 0x4000;
/// How long threads may take until they wait again: they have nothing to do, but others may have the processors.
const SETTLING: Duration = Duration::from_secs(60);

/// What was asked for between two marks.
#[derive(Debug, Default, Clone, Copy)]
struct Span {
    entries: u64,
    syncs: u64,
    calls: u64,
    written_bytes: u64,
}

/// Runs the command to its end.
///
/// # Errors
/// When it cannot be started or traced, fails, or makes no two marks.
pub(crate) fn run(command: &[String]) -> Result<Object, String> {
    let [program, arguments @ ..] = command else { return Err("a command is missing".into()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|err| format!("{program}: {err}"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { return Err("no pipes".into()) };
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    let read = stdout.read_line(&mut line);
    let pid = Pid::from_raw(child.id().cast_signed());
    let settled = read
        .map_err(|err| err.to_string())
        .and_then(|_| if line == "ready\n" { Ok(()) } else { Err(format!("it said {line:?}")) })
        .and_then(|()| seize(pid).map_err(|err| format!("it cannot be traced: {err}")))
        .and_then(|()| settle(pid));
    let inside = match settled {
        Ok(inside) => inside,
        Err(problem) => {
            // It waits for a byte.
            let _ = child.kill();
            reap(pid);
            return Err(problem);
        }
    };
    stdin.write_all(b"x").map_err(|err| err.to_string())?;
    drop(stdin);
    // One line follows, which fits into the pipe.
    let spans = follow(pid, inside)?;
    answer(spans)
}

fn answer(spans: Vec<Span>) -> Result<Object, String> {
    if spans.is_empty() {
        return Err("it made no two marks".into());
    }
    let all = |of: fn(&Span) -> u64| {
        let mut all: Vec<u64> = spans.iter().map(of).collect();
        all.sort_unstable();
        all
    };
    let mut object = Object::new("store-trace").number("spans", spans.len() as u64);
    for (name, of) in [
        // Of the entries one ends with the mark itself.
        ("exits", (|span| span.entries.saturating_sub(1)) as fn(&Span) -> u64),
        ("syncs", |span| span.syncs),
        ("calls", |span| span.calls - span.entries),
        ("written_bytes", |span| span.written_bytes),
    ] {
        let all = all(of);
        object = object
            .number(&format!("{name}_sum"), all.iter().sum::<u64>())
            .number(&format!("{name}_least"), all[0])
            .number(&format!("{name}_median"), all[all.len() / 2])
            .number(&format!("{name}_most"), all[all.len() - 1]);
    }
    Ok(object)
}

/// Begins to trace every thread of a process.
fn seize(process: Pid) -> Result<(), String> {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    for tid in tasks(process)? {
        let done = ptrace::seize(tid, options).and_then(|()| ptrace::interrupt(tid));
        done.map_err(|err| err.to_string())?;
    }
    Ok(())
}

/// All threads of a process.
fn tasks(process: Pid) -> Result<Vec<Pid>, String> {
    let tasks =
        std::fs::read_dir(format!("/proc/{process}/task")).map_err(|err| err.to_string())?;
    let tid = |task: std::io::Result<DirEntry>| {
        let name = task.map_err(|err| err.to_string())?.file_name();
        let tid = name.to_str().and_then(|tid| tid.parse().ok()).ok_or("no thread")?;
        Ok(Pid::from_raw(tid))
    };
    tasks.map(tid).collect()
}

/// Which threads are in a call: it stops twice, at its beginning and at its end.
type Inside = BTreeMap<Pid, bool>;

/// Lets the threads go on until each waits in a call of the host again, as before the tracing began. What
/// they call until then, since a wait is interrupted when a thread is seized, is not the program's doing,
/// and how late it comes depends on who else uses the processors.
fn settle(process: Pid) -> Result<Inside, String> {
    let mut inside = Inside::new();
    let give_up = Instant::now() + SETTLING;
    loop {
        let Some((tid, status)) = next_stop(WaitOptions::NOHANG).map_err(say)? else {
            if wait_all(process, &inside)? {
                return Ok(inside);
            }
            if Instant::now() > give_up {
                return Err(format!("its threads do not wait after {} s", SETTLING.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let Some(signal) = status.stopping_signal() else {
            return Err(format!("it was ended: {status:?}"));
        };
        if signal == SYSCALL_STOP {
            let is_inside = inside.entry(tid).or_default();
            *is_inside = !*is_inside;
        }
        resume(tid, status, signal)?;
    }
}

/// Whether every thread of the program's is asleep in a call.
fn wait_all(process: Pid, inside: &Inside) -> Result<bool, String> {
    for tid in tasks(process)? {
        let path = format!("/proc/{process}/task/{tid}/stat");
        let stat = std::fs::read_to_string(&path).map_err(|err| format!("{path}: {err}"))?;
        // The name may have spaces and brackets of its own.
        let after_name: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let [state, _, _, _, _, _, flags, ..] = after_name[..] else {
            return Err(format!("{path}: {stat:?}"));
        };
        let is_of_the_kernel = flags.parse().is_ok_and(|flags: u64| flags & PF_USER_WORKER != 0);
        if !is_of_the_kernel && (state != "S" || inside.get(&tid) != Some(&true)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for the end of a process that was killed. Its first thread ends after the others, each of which
/// has to be waited for by whoever traces it.
fn reap(process: Pid) {
    while let Ok(next) = next_stop(WaitOptions::empty()) {
        let is_end = |status: WaitStatus| status.stopping_signal().is_none();
        if next.is_some_and(|(tid, status)| tid == process && is_end(status)) {
            return;
        }
    }
}

fn say(errno: Errno) -> String {
    format!("ptrace: {errno}")
}

/// Follows the process to its end.
fn follow(process: Pid, mut inside: Inside) -> Result<Vec<Span>, String> {
    let (mut spans, mut now): (Vec<Span>, Option<(Span, u64)>) = (Vec::new(), None);
    loop {
        let Some((tid, status)) = next_stop(WaitOptions::empty()).map_err(say)? else { continue };
        if let (true, Some(status)) = (tid == process, status.exit_status()) {
            return if status == 0 { Ok(spans) } else { Err(format!("it ended with {status}")) };
        }
        let signal = match status.stopping_signal() {
            // A thread has ended: others go on.
            None if tid != process => continue,
            None => return Err(format!("it was ended: {status:?}")),
            Some(signal) => signal,
        };
        let is_inside = inside.entry(tid).or_default();
        if signal == SYSCALL_STOP {
            *is_inside = !*is_inside;
        }
        if signal == SYSCALL_STOP && *is_inside {
            let regs = ptrace::getregs(tid).map_err(say)?;
            if regs.orig_rax == MARK {
                let written = written_bytes(process)?;
                if let Some((mut span, before)) = now.take() {
                    span.written_bytes = written - before;
                    spans.push(span);
                }
                now = Some((Span::default(), written));
            } else if let Some((span, _)) = &mut now {
                span.count(regs.orig_rax, regs.rsi, regs.r9);
            }
        }
        resume(tid, status, signal)?;
    }
}

/// Lets a thread go on that has stopped with `signal`.
fn resume(tid: Pid, status: WaitStatus, signal: i32) -> Result<(), String> {
    // Calls, the requested stop, and new threads stop with signals that nobody has sent.
    let is_sent = signal != SYSCALL_STOP && status.as_raw() >> 16 == 0;
    match go_on(tid, if is_sent { signal } else { 0 }) {
        // It has ended in the meantime.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(say(errno)),
    }
}

impl Span {
    fn count(&mut self, number: u64, second: u64, sixth: u64) {
        let is = |call: libc::c_long| number == call as u64;
        if is(libc::SYS_fcntl) && second == libc::F_GETFD as u64 {
            // Without optimisation Rust's library asks whether a descriptor is open before it closes it.
            return;
        }
        self.calls += 1;
        self.entries += u64::from(is(libc::SYS_ioctl) && second == KVM_RUN);
        let waits = [
            libc::SYS_fdatasync,
            libc::SYS_fsync,
            libc::SYS_msync,
            libc::SYS_sync,
            libc::SYS_syncfs,
            libc::SYS_sync_file_range,
        ];
        let is_durable_write = is(libc::SYS_pwritev2) && sixth & DURABLE != 0;
        self.syncs += u64::from(waits.into_iter().any(is) || is_durable_write);
    }
}

/// What the process has written so far that goes to a device.
fn written_bytes(process: Pid) -> Result<u64, String> {
    let path = format!("/proc/{process}/io");
    let text = std::fs::read_to_string(&path).map_err(|err| format!("{path}: {err}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).ok_or_else(|| format!("{path}: {text:?}"))
}

/// A thread that is traced by this one, and why it has stopped; none if `how` says not to wait for one.
fn next_stop(how: WaitOptions) -> Result<Option<(Pid, WaitStatus)>, Errno> {
    let which = WaitOptions::from_bits_retain((libc::__WALL | libc::__WNOTHREAD).cast_unsigned());
    let next = rustix::process::wait(which | how).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    Ok(next.map(|(pid, status)| (Pid::from_raw(pid.as_raw_nonzero().get()), status)))
}

/// Resumes a thread until its next call, or the end of this one, with a signal if not 0. Kicks are
/// real-time signals, for which `nix` has no name.
fn go_on(tid: Pid, signal: i32) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    let signal = libc::c_long::from(signal);
    // SAFETY: this request reads and writes no memory of this process.
    let done = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid.as_raw(), none, signal) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_for_the_disk_is_a_sync_and_only_kvm_run_is_an_entry() {
        let mut span = Span::default();
        span.count(libc::SYS_fdatasync as u64, 0, 0);
        span.count(libc::SYS_pwritev2 as u64, 0, libc::RWF_DSYNC as u64);
        span.count(libc::SYS_pwritev2 as u64, 0, 0);
        span.count(libc::SYS_ioctl as u64, KVM_RUN, 0);
        span.count(libc::SYS_ioctl as u64, KVM_RUN + 1, 0);
        assert_eq!((span.syncs, span.entries, span.calls), (2, 1, 5));
    }

    #[test]
    fn an_answer_has_sum_and_extremes_and_no_span_is_an_error() {
        let span = |entries, syncs| Span { entries, syncs, calls: 9, written_bytes: 4096 };
        let text = answer(vec![span(3, 1), span(2, 1), span(5, 2)]).expect("spans").to_string();
        for part in ["exits_median\":2", "exits_most\":4", "syncs_sum\":4", "syncs_most\":2"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(answer(Vec::new()).is_err());
    }

    #[test]
    fn a_command_that_is_not_ready_is_an_error_that_says_what_it_said() {
        let command =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let problem = run(&command(&["/bin/echo", "hello"])).expect_err("it never waits");
        assert!(problem.contains("hello"), "{problem}");
        assert!(run(&command(&["/no/such/program"])).is_err() && run(&[]).is_err());
    }
}

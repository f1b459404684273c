//! The exact number of host system calls that the VMM makes for one system call of the
//! program, against `resources/counts.toml`: each costs as much as the program's own call
//! would on Linux.
//!
//! `spacejmp` is traced as with `strace`. Only the calls of the program's thread between two
//! distinctive calls count; other threads of the VMM serve no calls.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use tests::counts::{Table, compare};
use tests::guests::{self, Profile};
use tests::kvm::other_kind_of_host;
use tests::skip_without_kvm;
use tests::traced::{SYSCALL_STOP, go_on, next_stop, seize};
use tests::vm::Run;

/// How often each call is made, in a short run and in a long one.
const FEW: u64 = 16;
const MANY: u64 = 48;

/// Calls by their number.
type Calls = BTreeMap<u64, u64>;

/// The call before and after those that count.
const MARK: u64 = libc::SYS_getpriority as u64;

/// A thread that is traced.
#[derive(Default)]
struct Thread {
    is_inside: bool,
    marks: u32,
    /// Between the marks.
    calls: Calls,
}

impl Thread {
    fn calls(&mut self, number: u64) {
        match (number, self.marks) {
            (MARK, _) => self.marks += 1,
            (_, 1) => *self.calls.entry(number).or_default() += 1,
            _ => {}
        }
    }
}

/// Follows every thread of `process` to its end, and counts the calls of the one that runs the
/// program's.
fn trace(process: Pid, mut stdin: ChildStdin) -> Result<Calls, Errno> {
    seize(process)?;
    // The byte that it waits for, and everything it reads after that.
    stdin.write_all(&[b'x'; 1 + MANY as usize]).expect("it reads");
    drop(stdin);
    // A call stops twice, at its beginning and at its end.
    let mut threads: BTreeMap<Pid, Thread> = BTreeMap::new();
    loop {
        let (tid, status) = next_stop()?;
        if let (true, Some(status)) = (tid == process, status.exit_status()) {
            assert_eq!(status, 0, "how spacejmp ended");
            let marked = threads.into_values().find(|thread| thread.marks == 2);
            return Ok(marked.expect("the program's thread makes the call twice").calls);
        }
        let signal = match status.stopping_signal() {
            // A thread has ended: others go on.
            None if tid != process => continue,
            None => panic!("spacejmp was ended: {status:?}"),
            Some(SYSCALL_STOP) => {
                let thread = threads.entry(tid).or_default();
                thread.is_inside = !thread.is_inside;
                if thread.is_inside {
                    thread.calls(ptrace::getregs(tid)?.orig_rax);
                }
                0
            }
            // The requested stop, and new threads.
            Some(_) if status.as_raw() >> 16 != 0 => 0,
            Some(signal) => signal,
        };
        match go_on(tid, signal) {
            // It has ended in the meantime.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The host calls of a run that makes `what` this many times.
fn calls(folder: &Path, what: &str, count: u64) -> Calls {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    // One store, which is looked up once.
    command.env_clear().env("SPACEJMP_STORE", folder.join("store"));
    command.args(["run", "--log", "error", "--timeout", "120", "--cwd", "/granted", "--dir"]);
    command.arg(format!("{}:/granted", folder.join("granted").display()));
    command.arg(guests::c("host_calls")).args([what, &count.to_string()]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("spacejmp starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("it writes");
    assert_eq!(line, "ready\n");
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut counted = trace(pid, child.stdin.take().expect("piped")).expect("it can be traced");
    // The tracer has already waited for it, which the library cannot know: this error is expected.
    let _ = child.wait();
    // The VMM's own locks: whether the thread contends with another depends on timing.
    if !what.starts_with("futex") {
        counted.remove(&(libc::SYS_futex as u64));
    }
    // Without optimisation Rust's library asks whether a descriptor is open before it closes it.
    if cfg!(debug_assertions) {
        let close = counted.get(&(libc::SYS_close as u64)).copied().unwrap_or(0);
        let asked = counted.entry(libc::SYS_fcntl as u64).or_default();
        *asked = asked.checked_sub(close).unwrap_or(*asked);
    }
    counted
}

/// Host calls for one `what`, if the number is the same for each.
fn each(folder: &Path, what: &str) -> u64 {
    let sum = |calls: &Calls| calls.values().sum::<u64>();
    // The minimum of several, since other things happen now and then.
    let least = |count| {
        let tries = (0..6).map(|_| calls(folder, what, count));
        tries.min_by_key(sum).expect("some")
    };
    let (few, many) = (least(FEW), least(MANY));
    let more = sum(&many).checked_sub(sum(&few)).expect("more is more");
    println!("{what}: {FEW} times {few:?}, {MANY} times {many:?}");
    assert_eq!(more % (MANY - FEW), 0, "{what}: {few:?} for {FEW}, {many:?} for {MANY}");
    more / (MANY - FEW)
}

/// Whether the host can be asked to read from a pipe without waiting.
fn pipes_know_nowait() -> bool {
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    rustix::io::write(&write, b"x").expect("there is room");
    let mut byte = [0];
    let mut buffers = [rustix::io::IoSliceMut::new(&mut byte)];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    rustix::io::preadv2(&read, &mut buffers, u64::MAX, flags).is_ok()
}

/// A folder with a store and files to grant.
fn prepare(folder: &Path) {
    vmm::store::Store::open_or_create(&folder.join("store")).expect("a store");
    std::fs::create_dir_all(folder.join("granted/below")).expect("a folder");
    for file in ["granted/file", "granted/below/file"] {
        std::fs::write(folder.join(file), "x").expect("a file");
    }
}

/// A process that one test starts has copies of this one's descriptors for a moment: also of the end of a
/// pipe that another test's VM, which is in this process, has just closed.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_call_takes_as_many_calls_of_the_host_as_recorded() {
    skip_without_kvm!();
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary directory");
    prepare(folder.path());
    let each = |what| each(folder.path(), what);
    let mut table = Table::new("host-calls");
    let mut add_own = |family: &str, path: &str, what| {
        if !table.add_own(family, path, || each(what)) {
            other_kind_of_host(
                "a_call_takes_as_many_calls_of_the_host_as_recorded",
                &format!("resources/counts.toml does not have {path}"),
            );
        }
    };
    let host = if pipes_know_nowait() { "" } else { ", Linux before 6.4" };
    add_own("read, of a pipe", &format!("read, of a pipe{host}"), "read");
    add_own("write, to a pipe", &format!("write, to a pipe{host}"), "write");
    let device = std::fs::metadata(folder.path()).expect("it is there").dev();
    let disk = if rustix::fs::major(device) == 0 { " without a device" } else { "" };
    add_own("open and close, on a disk", &format!("open and close, on a disk{disk}"), "open");
    let in_memory = tempfile::tempdir_in("/dev/shm").expect("Linux has it");
    prepare(in_memory.path());
    table.add("open and close, in memory", self::each(in_memory.path(), "open"));
    table.add("stat", each("stat"));
    table.add("stat, a directory further down", each("stat-below"));
    table.add("sched_yield", each("yield"));
    table.add("futex, wake", each("futex-wake"));
    table.add("futex, wait for what has changed", each("futex-wait"));
    compare([table]);
}

/// Saving calls changes no behaviour: a thread that finds a pipe full or empty still waits, or
/// returns, as before.
#[test]
fn a_pipe_that_is_not_ready_is_waited_for_as_on_linux() {
    skip_without_kvm!();
    let _alone = alone();
    let ended = Run::new(guests::c("pipe_waits")).same_as_native();
    assert!(ended.out().ends_with("read without a writer: 0 \n"), "{ended:?}");
}

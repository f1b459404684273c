//! The other processes of the run, in `/proc`: what they show of themselves, and what the host says of their
//! VMMs. What only their own VMMs know (memory, descriptors, signals) is refused, as Linux refuses it where the process
//! is another user's.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use super::host::{self, Stat};
use super::{Content, Errno};
use crate::files::{Seen, View};
use crate::linux::credentials;
use crate::linux::task::Process;
use crate::process_tree::Member;
use crate::process_tree::shown::Shown;

/// Another process.
#[derive(Debug)]
pub(super) struct Other {
    pid: i32,
    /// The thread, in whose directory the file is; the process's number in its own.
    tid: i32,
    shown: Shown,
    threads: u32,
    held_bytes: u64,
    host: Stat,
}

impl Other {
    /// # Errors
    /// `ESRCH` for one that is none of the run, or has ended.
    pub(super) fn of(process: &Process, pid: i32) -> Result<Other, Errno> {
        let host = Stat::of_host_process(pid);
        Other::with(process, [pid; 2], host)
    }

    /// In the directory of one of its threads.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn thread_of(process: &Process, pid: i32, tid: i32) -> Result<Other, Errno> {
        // The process says which threads it has. Whatever it says, the host knows whether that is one of its.
        Other::with(process, [pid, tid], Stat::of_host_thread(pid, tid))
    }

    fn with(process: &Process, [pid, tid]: [i32; 2], host: Stat) -> Result<Other, Errno> {
        let registry = process.children.member().ok_or(Errno::ESRCH)?.registry();
        let (shown, threads) = registry.shown(pid).ok_or(Errno::ESRCH)?;
        let held_bytes = registry.held_by(pid);
        // As long as it is there, its number is no other process's.
        if !registry.contains(pid) || host.is_empty() {
            return Err(Errno::ESRCH);
        }
        Ok(Other { pid, tid, shown, threads, held_bytes, host })
    }

    /// The path of its program.
    pub(super) fn program(self) -> Result<Vec<u8>, Errno> {
        Some(self.shown.program).filter(|path| !path.is_empty()).ok_or(Errno::ENOENT)
    }

    /// The path of its current directory.
    pub(super) fn directory(self) -> Result<Vec<u8>, Errno> {
        Some(self.shown.directory).filter(|path| !path.is_empty()).ok_or(Errno::ENOENT)
    }

    /// Until it has begun to run, the host knows it by its starter's name.
    fn name(&self) -> &[u8] {
        if self.shown.name.is_empty() { b"starter" } else { &self.shown.name }
    }

    fn has_ended(&self) -> bool {
        self.host.letter() == 'Z'
    }

    /// Its state. Until it has begun to run, it sleeps for its VMM, and not for itself.
    fn state(&self) -> char {
        match self.host.letter() {
            'S' | 'D' if self.threads == 0 => 'R',
            letter => letter,
        }
    }

    fn held_pages(&self) -> u64 {
        if self.has_ended() { 0 } else { self.held_bytes / abi::PAGE_SIZE }
    }
}

pub(super) fn io(of: &Other) -> Content {
    Ok(host::put_io(&host::io_of_other([of.pid, of.tid])))
}

/// What only the process may know.
pub(super) fn withheld(_: &Other) -> Content {
    Err(Errno::EACCES)
}

pub(super) fn cmdline(of: &Other) -> Content {
    // A process that has ended has no memory to have arguments in.
    Ok(if of.has_ended() { Vec::new() } else { of.shown.args.clone() })
}

pub(super) fn comm(of: &Other) -> Content {
    Ok([of.name(), b"\n"].concat())
}

pub(super) fn stat(of: &Other) -> Content {
    let n = |field| of.host.number(field);
    let mut text = format!("{} (", of.tid).into_bytes();
    text.extend(of.name());
    // Parent, group, session, terminal and its group; flags; faults; times, and those of children; priority,
    // threads, start.
    let signed = [
        n(4),
        n(5),
        n(6),
        n(7),
        n(8),
        0,
        n(10),
        0,
        n(12),
        0,
        n(14),
        n(15),
        n(16),
        n(17),
        n(18),
        n(19),
        i64::from(of.threads.max(1)),
        0,
        n(22),
    ];
    let signed: String = signed.iter().map(|value| format!(" {value}")).collect();
    let pages = of.held_pages();
    // Of its addresses and signals nothing is known; 38 and 39 are the signal at its end and the processor.
    let (size, none) = (pages * abi::PAGE_SIZE, |count| " 0".repeat(count));
    let rest = format!(
        " {size} {pages} {}{} {} {}{}\n",
        u64::MAX,
        none(12),
        libc::SIGCHLD,
        n(39),
        none(13)
    );
    text.extend(format!(") {}{signed}{rest}", of.state()).bytes());
    Ok(text)
}

pub(super) fn statm(of: &Other) -> Content {
    let pages = of.held_pages();
    super::line(format!("{pages} {pages} 0 0 0 {pages} 0"))
}

pub(super) fn status(of: &Other) -> Content {
    let state = match of.state() {
        'R' => "R (running)",
        'D' => "D (disk sleep)",
        'T' => "T (stopped)",
        'Z' => "Z (zombie)",
        _ => "S (sleeping)",
    };
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let (pid, tid, n) = (of.pid, of.tid, |field| of.host.number(field));
    let kilobytes = of.held_pages() * abi::PAGE_SIZE / 1024;
    let mut text = [b"Name:\t", of.name()].concat();
    let rest = format!(
        "\nState:\t{state}\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\nGroups:\t{}\nNStgid:\t{pid}\n\
         NSpid:\t{tid}\nNSpgid:\t{}\nNSsid:\t{}\nVmSize:\t{kilobytes:8} kB\nVmRSS:\t{kilobytes:8} kB\n\
         Threads:\t{}\n",
        n(4),
        credentials::listed_groups(),
        n(5),
        n(6),
        of.threads.max(1),
    );
    text.extend(rest.bytes());
    Ok(text)
}

/// Whoever shows something of this process: one thread at a time.
static SHOWING: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Process {
    /// Shows the other processes of the run, if there are any, what this one is now. To be called when it begins, and
    /// when something of that changes.
    pub(crate) fn show(&self) {
        if !self.others().is_empty() {
            self.show_to_first();
        }
    }

    /// The threads of another process, as it shows them.
    pub(super) fn tids_of(&self, pid: i32) -> Vec<i32> {
        let Some(member) = self.children.member() else { return Vec::new() };
        let registry = member.registry();
        match registry.threads_of(pid) {
            // Its program does not run yet, or no more.
            none if none.is_empty() && registry.contains(pid) => vec![pid],
            tids => tids,
        }
    }

    /// The open descriptors of another process, as it shows them.
    pub(super) fn descriptors(&self, pid: i32) -> Vec<u32> {
        let Some(member) = self.children.member() else { return Vec::new() };
        match Stat::of_host_process(pid).letter() {
            'Z' | 'X' => Vec::new(),
            _ => member.registry().descriptors_of(pid),
        }
    }

    /// The host's name of one of them. Whatever descriptor of its VMM the process says it is, only what grants show
    /// has a name inside.
    pub(super) fn descriptor(&self, pid: i32, fd: u32) -> Result<Vec<u8>, Errno> {
        let member = self.children.member().ok_or(Errno::ENOENT)?;
        let host = match member.registry().descriptor_of(pid, fd) {
            Seen::Closed => return Err(Errno::ENOENT),
            Seen::Nameless => return Err(Errno::EACCES),
            Seen::Host(number) => number,
        };
        let name = std::fs::read_link(format!("/proc/{pid}/fd/{host}"));
        let name = name.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Errno::ENOENT,
            _ => Errno::EACCES,
        })?;
        Ok(name.into_os_string().into_vec())
    }

    /// Device and inode of the file that this process runs.
    fn executable_id(&self) -> [u64; 2] {
        let data = self.files.executable().and_then(|file| file.metadata().ok());
        data.map_or([0; 2], |data| [data.dev(), data.ino()])
    }

    /// Whether this process or another one of the run runs a file.
    pub(super) fn is_run(&self, file: [u64; 2]) -> bool {
        let ended = |pid: &i32| {
            let host = Stat::of_host_process(*pid);
            host.is_empty() || matches!(host.letter(), 'Z' | 'X')
        };
        let elsewhere = |member: &Member| {
            // One that has ended and was not waited for still has its place.
            let mut runners = member.registry().runners(file).into_iter();
            runners.any(|pid| pid != self.pid() && !ended(&pid))
        };
        self.executable_id() == file || self.children.member().is_some_and(elsewhere)
    }

    /// No longer shows that this process runs its program: it has ended, and others learn of that by the files that it
    /// closes.
    pub(crate) fn show_no_executable(&self) {
        if let Some(member) = self.children.member() {
            member.show_executable([0; 2]);
        }
    }

    /// The same, before there is another one.
    pub(in crate::linux) fn show_to_first(&self) {
        let Some(member) = self.children.member() else { return };
        let _one = SHOWING.lock().unwrap_or_else(|poison| poison.into_inner());
        let first = self.threads.get(self.pid());
        let name = first.map_or_else(|| self.program.short.clone().into_bytes(), |t| t.name());
        let mut args = vec![0; self.facts.args.end.saturating_sub(self.facts.args.start) as usize];
        if self.private.copy_in(self.facts.args.start, &mut args).is_err() {
            args.clear();
        }
        let directory = self.files.getcwd().unwrap_or_default();
        member.show(&Shown { name, args, program: self.files.program_path(), directory });
        member.show_executable(self.executable_id());
    }
}

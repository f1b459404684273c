//! The content of the files of `/proc` and `/sys`: one table from path to the function that writes
//! the content, when the file is opened.
//!
//! A file describes the VM, the program and its threads: nothing of the host's `/proc` is
//! passed through. What only the host knows (how much processor time a thread has had) is
//! asked of it about the VMM's own threads, and read as numbers.
//!
//! `files` decides where the files are in the tree, and how they are opened, listed and read.
//!
//! - `task`: a process or a thread: `status`, `stat` and most others
//! - `others`: the other processes of the run
//! - `maps`: its memory; `mounts`: its name space
//! - `machine`: processors, memory, time; `tunables`: `/proc/sys` and `/sys`
//! - `host`: numbers from the host's files on our own threads

mod cpu_flags;
mod host;
mod machine;
mod maps;
mod mounts;
mod others;
mod task;
mod tunables;

use std::ops::Range;
use std::sync::Arc;

use abi::layout::PRIVATE_START;
use abi::{Errno, PAGE_SIZE, PAGE_SIZE_2M};
use others::Other;
use tunables::of_host;

use crate::files::{NOFILE_MAX, TextFile, View, Whose};
use crate::linux::sysv;
use crate::linux::task::{Process, Thread};
use crate::vm::kick::HostTid;

/// What a file describes.
#[derive(Debug)]
struct Subject<'a> {
    process: &'a Process,
    /// The thread: the one whose directory the file is in, or the process's first.
    tid: i32,
    /// That thread, while it lives: the first one may have ended before the others.
    thread: Option<Arc<Thread>>,
    /// Whether the file is in the thread's directory, not in that of the process.
    alone: bool,
}

type Content = Result<Vec<u8>, Errno>;
type Make = fn(&Subject<'_>) -> Content;
type MakeOther = fn(&Other) -> Content;

/// One file.
struct Row {
    path: &'static str,
    mode: u32,
    make: Make,
    /// The same of another process of the run.
    other: Others,
}

/// What another process of the run has for a file of the process.
enum Others {
    /// No such file.
    Nothing,
    /// What the process has: it is the same for the whole run.
    Same,
    /// Its own.
    Each(MakeOther),
}

/// A file of one line.
fn line(text: impl std::fmt::Display) -> Content {
    Ok(format!("{text}\n").into_bytes())
}

const fn row(path: &'static str, make: Make) -> Row {
    Row { path, mode: 0o444, make, other: Others::Nothing }
}

/// One that is the same for all processes.
const fn same(path: &'static str, make: Make) -> Row {
    Row { path, mode: 0o444, make, other: Others::Same }
}

/// One that other processes have, too.
const fn each(path: &'static str, make: Make, other: MakeOther) -> Row {
    Row { path, mode: 0o444, make, other: Others::Each(other) }
}

/// One that only its owner may read.
const fn own(path: &'static str, make: Make) -> Row {
    Row { path, mode: 0o400, make, other: Others::Each(others::withheld) }
}

/// All of them; `#` is the process or a thread. Ascending in each folder, as they are listed.
const ROWS: &[Row] = &[
    own("/proc/#/auxv", |of| Ok(of.process.facts.auxv.clone())),
    same("/proc/#/cgroup", |_| line("0::/")),
    each("/proc/#/cmdline", task::cmdline, others::cmdline),
    Row { path: COMM, mode: 0o644, make: task::comm, other: Others::Each(others::comm) },
    // There are no core files, whatever the filter.
    same("/proc/#/coredump_filter", |_| line("00000000")),
    own("/proc/#/environ", task::environ),
    Row { path: "/proc/#/io", mode: 0o400, make: task::io, other: Others::Each(others::io) },
    row("/proc/#/limits", task::limits),
    same("/proc/#/loginuid", task::loginuid),
    each("/proc/#/maps", maps::maps, others::withheld),
    same("/proc/#/mountinfo", mounts::mountinfo),
    same("/proc/#/mounts", mounts::mounts),
    same("/proc/#/oom_adj", |_| line(0)),
    same("/proc/#/oom_score", |_| line(0)),
    same("/proc/#/oom_score_adj", |_| line(0)),
    own("/proc/#/personality", task::personality),
    row("/proc/#/schedstat", task::schedstat),
    same("/proc/#/sessionid", task::loginuid),
    each("/proc/#/smaps", maps::smaps, others::withheld),
    each("/proc/#/smaps_rollup", maps::smaps_rollup, others::withheld),
    each("/proc/#/stat", task::stat, others::stat),
    each("/proc/#/statm", task::statm, others::statm),
    each("/proc/#/status", task::status, others::status),
    same("/proc/#/wchan", task::wchan),
    // There is no boot loader, and so no command line.
    row("/proc/cmdline", |_| line("")),
    row("/proc/cpuinfo", machine::cpuinfo),
    row("/proc/filesystems", machine::filesystems),
    row("/proc/loadavg", machine::loadavg),
    row("/proc/meminfo", machine::meminfo),
    row("/proc/stat", machine::stat),
    row("/proc/swaps", machine::swaps),
    row("/proc/sys/fs/file-max", |_| line(NOFILE_MAX)),
    row("/proc/sys/fs/inotify/max_queued_events", |_| of_host("inotify/max_queued_events", 16384)),
    row("/proc/sys/fs/inotify/max_user_instances", |_| of_host("inotify/max_user_instances", 128)),
    row("/proc/sys/fs/inotify/max_user_watches", |_| of_host("inotify/max_user_watches", 8192)),
    row("/proc/sys/fs/nr_open", |_| line(NOFILE_MAX)),
    row("/proc/sys/fs/pipe-max-size", |_| of_host("pipe-max-size", 1 << 20)),
    row("/proc/sys/fs/pipe-user-pages-hard", |_| of_host("pipe-user-pages-hard", 0)),
    row("/proc/sys/fs/pipe-user-pages-soft", |_| of_host("pipe-user-pages-soft", 16384)),
    // `CAP_CHECKPOINT_RESTORE`, the last one that exists.
    row("/proc/sys/kernel/cap_last_cap", |_| line(40)),
    row("/proc/sys/kernel/domainname", |_| line("(none)")),
    row("/proc/sys/kernel/hostname", tunables::hostname),
    // Of System V IPC: what `IPC_INFO` says, too.
    row("/proc/sys/kernel/msgmax", |_| line(8192)),
    row("/proc/sys/kernel/msgmnb", |_| line(16384)),
    row("/proc/sys/kernel/msgmni", |_| line(32000)),
    row("/proc/sys/kernel/ngroups_max", |_| line(65536)),
    row("/proc/sys/kernel/osrelease", tunables::osrelease),
    row("/proc/sys/kernel/ostype", |_| line("Linux")),
    row("/proc/sys/kernel/overflowgid", |_| line(65534)),
    row("/proc/sys/kernel/overflowuid", |_| line(65534)),
    // Linux's highest, `PID_MAX_LIMIT`: no number a process can have is above it.
    row("/proc/sys/kernel/pid_max", |_| line(4 << 20)),
    row("/proc/sys/kernel/random/boot_id", tunables::boot_id),
    row("/proc/sys/kernel/random/entropy_avail", |_| line(256)),
    row("/proc/sys/kernel/random/poolsize", |_| line(256)),
    row("/proc/sys/kernel/random/uuid", tunables::uuid),
    row("/proc/sys/kernel/randomize_va_space", |_| line(0)),
    row("/proc/sys/kernel/sem", |_| line("32000\t1024000000\t500\t32000")),
    row("/proc/sys/kernel/shmall", |_| line((u64::MAX - (1 << 24)) / PAGE_SIZE)),
    row("/proc/sys/kernel/shmmax", |_| line(u64::MAX - (1 << 24))),
    row("/proc/sys/kernel/shmmni", |_| line(4096)),
    row("/proc/sys/kernel/tainted", |_| line(0)),
    row("/proc/sys/kernel/threads-max", |of| line(of.process.machine.max_vcpus())),
    row("/proc/sys/kernel/version", |_| line("spacejmp")),
    // Linux's default. Areas are not limited by number here, only by what they hold.
    row("/proc/sys/vm/max_map_count", |_| line(65530)),
    row("/proc/sys/vm/mmap_min_addr", |_| line(PRIVATE_START.raw())),
    row("/proc/sys/vm/nr_hugepages", |_| line(0)),
    row("/proc/sys/vm/overcommit_memory", |_| line(0)),
    row("/proc/sys/vm/overcommit_ratio", |_| line(50)),
    row("/proc/sys/vm/swappiness", |_| line(0)),
    row("/proc/sysvipc/msg", |of| Ok(sysv::queues(of.process.children.sysv()).into_bytes())),
    row("/proc/sysvipc/sem", |of| Ok(sysv::sets(of.process.children.sysv()).into_bytes())),
    row("/proc/sysvipc/shm", |of| Ok(sysv::segments(of.process.children.sysv()).into_bytes())),
    row("/proc/uptime", machine::uptime),
    row("/proc/version", machine::version),
    row("/sys/devices/system/cpu/kernel_max", machine::cpu_max),
    row("/sys/devices/system/cpu/offline", |_| line("")),
    row("/sys/devices/system/cpu/online", machine::cpu_list),
    row("/sys/devices/system/cpu/possible", machine::cpu_list),
    row("/sys/devices/system/cpu/present", machine::cpu_list),
    row("/sys/devices/system/node/online", |_| line(0)),
    row("/sys/devices/system/node/possible", |_| line(0)),
    // Large pages are used automatically, and cannot be switched off.
    row("/sys/kernel/mm/transparent_hugepage/enabled", |_| line("[always] madvise never")),
    row("/sys/kernel/mm/transparent_hugepage/defrag", tunables::huge_defrag),
    row("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", |_| line(PAGE_SIZE_2M)),
];

/// The only file that can be written: a thread's name.
const COMM: &str = "/proc/#/comm";

/// The files, in the order of their rows: what the name space needs to know of them.
#[must_use]
pub fn text_files() -> Vec<TextFile> {
    let file = |row: &Row| {
        let (path, mode, of_others) = (row.path, row.mode, !matches!(row.other, Others::Nothing));
        TextFile { path, mode, of_others }
    };
    ROWS.iter().map(file).collect()
}

/// What some files show of a process and is known when it starts.
#[derive(Debug)]
pub struct Facts {
    /// Where its arguments are in its memory.
    pub args: Range<u64>,
    /// Where its environment is.
    pub env: Range<u64>,
    /// Its first stack pointer.
    pub stack: u64,
    /// Its auxiliary vector.
    pub auxv: Vec<u8>,
    /// The processors it may use.
    pub cpus: Vec<usize>,
    /// When it was started: hundredths of a second since the host was.
    pub start_ticks: u64,
}

impl Facts {
    /// The facts on a process that starts now.
    #[must_use]
    pub fn new(stack: crate::guest::stack::Built) -> Facts {
        let crate::guest::stack::Built { rsp, args, env, auxv } = stack;
        let auxv = auxv.iter().flat_map(|word| word.to_le_bytes()).collect();
        let cpus = machine::cpus();
        Facts { args, env, stack: rsp, auxv, cpus, start_ticks: machine::uptime_ticks() }
    }

    /// Those on a copy of a process, which starts now.
    #[must_use]
    pub fn of_copy([args, env]: [Range<u64>; 2], stack: u64, auxv: Vec<u8>) -> Facts {
        let cpus = machine::cpus();
        Facts { args, env, stack, auxv, cpus, start_ticks: machine::uptime_ticks() }
    }
}

impl Process {
    fn subject(&self, tid: Option<i32>) -> Result<Subject<'_>, Errno> {
        let (number, alone) = (tid.unwrap_or_else(|| self.pid()), tid.is_some());
        let thread = self.threads.get(number);
        if alone && thread.is_none() {
            return Err(Errno::ESRCH);
        }
        Ok(Subject { process: self, tid: number, thread, alone })
    }
}

impl View for Process {
    fn pid(&self) -> i32 {
        self.pid()
    }

    fn tids(&self) -> Vec<i32> {
        self.threads.all().iter().map(|thread| thread.tid).collect()
    }

    fn caller(&self) -> i32 {
        self.threads.run_by(HostTid::own()).map_or_else(|| self.pid(), |thread| thread.tid)
    }

    fn others(&self) -> Vec<i32> {
        let member = self.children.member();
        let pids = member.map(|member| member.registry().pids()).unwrap_or_default();
        pids.into_iter().filter(|pid| *pid != self.pid()).collect()
    }

    fn threads_of(&self, pid: i32) -> Vec<i32> {
        self.tids_of(pid)
    }

    fn descriptors_of(&self, pid: i32) -> Vec<u32> {
        self.descriptors(pid)
    }

    fn descriptor_of(&self, pid: i32, fd: u32) -> Result<Vec<u8>, Errno> {
        self.descriptor(pid, fd)
    }

    fn program_of(&self, pid: i32) -> Result<Vec<u8>, Errno> {
        Other::of(self, pid).map_err(|_| Errno::ENOENT)?.program()
    }

    fn directory_of(&self, pid: i32) -> Result<Vec<u8>, Errno> {
        Other::of(self, pid).map_err(|_| Errno::ENOENT)?.directory()
    }

    fn runs(&self, device: u64, inode: u64) -> bool {
        self.is_run([device, inode])
    }

    fn process_group(&self) -> i32 {
        crate::host::process_group()
    }

    fn text(&self, row: usize, whose: Whose) -> Result<Vec<u8>, Errno> {
        let row = ROWS.get(row).ok_or(Errno::ENOENT)?;
        let other = match whose {
            Whose::Process => return (row.make)(&self.subject(None)?),
            Whose::Thread(tid) => return (row.make)(&self.subject(Some(tid))?),
            Whose::Other(pid) => Other::of(self, pid)?,
            Whose::ThreadOf(pid, tid) => Other::thread_of(self, pid, tid)?,
        };
        match row.other {
            Others::Nothing => Err(Errno::ENOENT),
            Others::Same => (row.make)(&self.subject(None)?),
            Others::Each(make) => make(&other),
        }
    }

    fn take(&self, row: usize, whose: Whose, bytes: &[u8]) -> Result<(), Errno> {
        let row = ROWS.get(row).ok_or(Errno::ENOENT)?;
        let tid = match whose {
            Whose::Process => None,
            Whose::Thread(tid) => Some(tid),
            // As on Linux: only its own threads may name one.
            Whose::Other(_) | Whose::ThreadOf(..) => return Err(Errno::EINVAL),
        };
        if row.path != COMM {
            return Err(Errno::EINVAL);
        }
        let subject = self.subject(tid)?;
        let thread = subject.thread.ok_or(Errno::ESRCH)?;
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        thread.set_name(name.get(..15).unwrap_or(name));
        self.show();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ROWS;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_has_a_path_of_its_own_in_our_part_of_the_tree() {
        let paths: BTreeSet<&str> = ROWS.iter().map(|row| row.path).collect();
        assert_eq!(paths.len(), ROWS.len());
        for path in &paths {
            assert!(path.starts_with("/proc/") || path.starts_with("/sys/"), "{path}");
            assert!(!path.ends_with('/') && !path.contains("//"), "{path}");
            let inside = |other: &&&str| other.starts_with(&format!("{path}/"));
            assert_eq!(paths.iter().find(inside), None, "{path} is a file and a folder");
        }
        for row in ROWS {
            assert!(row.mode & 0o222 == 0 || row.path == super::COMM, "{}", row.path);
        }
    }
}

//! Snapshots of a process, from its own side: `spacejmp snapshot` asks by the control socket, one of the process's
//! threads makes it while the others stand.
//!
//! - here: where threads do that, and when they do not; `gather`: how they come to a stand; [`head`]: what is written
//! - [`ready`]: the program itself says where, and no one asks
//!
//! A thread stands where its registers are all that there is of it: before it enters the guest, or in a call that
//! waits, which the copy makes again. So nothing has to be undone, and the process goes on as if nothing had been.
//! In a copy, threads other than the first keep the numbers that memory has for them ([`super::task::thread`]).
//! What is written is what a child would inherit (`children::forked`), but for open files, which have to be opened
//! again: by path. Whoever asks brings the file for the memory, so nothing of the host's is opened here.
#![forbid(unsafe_code)]

mod gather;
pub mod head;
pub mod ready;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use abi::addr::LOWER_HALF_END;
use abi::call::CALL_READY;
use abi::{Errno, GuestVirt};
use rustix::fs::{FileType, OFlags};

pub(crate) use self::gather::SnapshotDesk;
use self::gather::{By, Left, Stands};
use self::head::{Head, KeptExecutable, KeptThread, Parts};
use super::SYSCALL_BYTES;
use super::children::forked::ForkedThread;
use super::signal::name::signal_name;
use super::signal::pending_for_any;
use super::task::{Process, ThreadCtx};
use crate::files::{KeptMapping, identity_of};
use crate::host::process_group;
use crate::private::fork::RegionCopy;
use crate::private::snapshot::NotKept;
use crate::process_tree::Channel;
use crate::vas::attach::kept::{KeptVases, NotKept as NotKeptVases};

/// How long whoever asks may take to send what is needed, and to take what is sent: the program waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a message of the process's begins with.
pub mod answer {
    /// The memory's file is wanted.
    pub const READY: u8 = 0;
    /// There is none: the reason follows.
    pub const REFUSED: u8 = 1;
    /// It is done: the head follows, with the executable's descriptor.
    pub const DONE: u8 = 2;
}

/// Why a process cannot be snapshotted now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "its other threads have not come to where a snapshot can be made: one may wait for a lock of a segment"
    )]
    NoPlace,
    #[error("it is ending")]
    Ending,
    #[error("its first thread has ended, and others go on")]
    FirstEnded,
    #[error("a debugger has it, or has had it")]
    Debugged,
    #[error(transparent)]
    Vases(#[from] NotKeptVases),
    #[error(
        "it has attached segments of System V shared memory, which other processes may have, too"
    )]
    Sysv,
    #[error(
        "a thread of it runs a child in its own memory (vfork): ask again when that runs a program"
    )]
    Vfork,
    #[error("the registers of a thread cannot be read")]
    Registers(#[source] crate::vm::VmError),
    #[error("the thread pointer of a thread is no address of a program's")]
    Base,
    #[error("its current directory is gone, or its files cannot be looked at")]
    Files(#[source] Errno),
    #[error("it has mapped a file that has no path it could be found by again")]
    Unnamed,
    #[error(transparent)]
    Memory(NotKept),
    #[error("whoever asked has sent no file for its memory")]
    NoFile,
}

impl Process {
    /// Somebody wants a snapshot, and is answered on this connection. Returns whether nobody else does.
    pub(crate) fn want_snapshot(&self, by: UnixStream) -> bool {
        // Its other side is the event loop's, which does not wait.
        if by.set_nonblocking(false).is_err() || !self.snapshots.ask(By::Outside(by)) {
            return false;
        }
        self.look_for_snapshot();
        true
    }
}

/// The calling thread stands for a snapshot, if one is wanted, where it would enter the guest next.
pub(crate) fn before_guest(ctx: &ThreadCtx<'_>) {
    if ctx.process.snapshots.is_wanted() {
        stand(ctx, None);
    }
}

/// The same in the middle of a call that waits.
pub(crate) fn in_call(ctx: &ThreadCtx<'_>) {
    if !ctx.process.snapshots.is_wanted() {
        return;
    }
    let makes_process =
        |call| [libc::SYS_fork, libc::SYS_vfork, libc::SYS_clone, libc::SYS_clone3].contains(&call);
    // A copy that makes the call again would start a process that is started already: until that is done.
    match ctx.thread.call() {
        Some(call) if !makes_process(call.cast_signed()) => stand(ctx, Some(call)),
        _ => {}
    }
}

/// Stands until all threads do; the last one makes the snapshot.
fn stand(ctx: &ThreadCtx<'_>, call: Option<u64>) {
    // Before looking: a later kick is another one.
    ctx.thread.signals.acknowledge_kick();
    let desk = &ctx.process.snapshots;
    if !desk.is_open() || ctx.process.is_stopping() {
        return;
    }
    let Some((by, threads)) = desk.stand(ctx, thread(ctx, call)) else { return };
    // However it ends, or none of the threads would go on.
    let _goes_on = GoesOn(desk);
    if let By::Outside(stream) = by {
        make(ctx, threads, stream);
    }
}

/// Lets all threads go on when it is dropped.
struct GoesOn<'a>(&'a SnapshotDesk);

impl Drop for GoesOn<'_> {
    fn drop(&mut self) {
        self.0.done();
    }
}

fn make(ctx: &ThreadCtx<'_>, threads: BTreeMap<i32, Left>, stream: UnixStream) {
    if ctx.process.is_stopping() {
        return;
    }
    let _span = tracing::debug_span!("snapshot").entered();
    let to = Channel::from_fd(OwnedFd::from(stream));
    if to.limit(PATIENCE).is_err() {
        return;
    }
    let no_file = |_| Refusal::NoFile;
    let memory = || {
        to.send(&[answer::READY], &[]).map_err(no_file)?;
        let sent = to.receive().map_err(no_file)?.and_then(|sent| sent.fds.into_iter().next());
        Ok(File::from(sent.ok_or(Refusal::NoFile)?))
    };
    let told = match write(ctx.process, threads, memory) {
        Ok((head, executable)) => {
            let bytes = [&[answer::DONE], head.encode().as_slice()].concat();
            let sent = to.send(&bytes, &[executable.as_fd()]);
            sent.inspect_err(|_| give_up(ctx.process, head.vases.as_ref()))
        }
        Err(refusal) => {
            let text = crate::error::chain(&refusal);
            to.send(&[&[answer::REFUSED], text.as_bytes()].concat(), &[])
        }
    };
    if let Err(error) = told {
        tracing::debug!(%error, "whoever wanted a snapshot has not waited for it");
    }
}

fn check(process: &Process) -> Result<(), Refusal> {
    if process.debugger().is_some() {
        return Err(Refusal::Debugged);
    }
    if !process.sysv.is_empty() {
        return Err(Refusal::Sysv);
    }
    Ok(())
}

/// Writes the memory to a file, which is asked for when nothing is in the way; returns what else there is, and the
/// executable.
fn write(
    process: &Process,
    mut threads: BTreeMap<i32, Left>,
    memory: impl FnOnce() -> Result<File, Refusal>,
) -> Result<(Head, std::sync::Arc<File>), Refusal> {
    check(process)?;
    let first = threads.remove(&process.pid()).ok_or(Refusal::FirstEnded)??;
    let others = threads.into_values().collect::<Result<Vec<_>, _>>()?;
    let all = [&first].into_iter().chain(&others);
    let seen = all.filter_map(|it| Some((it.thread.tid, it.inside.clone()?)));
    let seen: Vec<_> = seen.collect();
    let vases = process.vases.keep(&seen, &|| process.is_stopping())?;
    let others: Vec<_> = others.into_iter().map(|it| it.thread).collect();
    let written = write_beside(process, &first.thread, &others, vases.clone(), memory);
    if written.is_err() {
        give_up(process, vases.as_ref());
    }
    written
}

/// A snapshot has come to nothing.
fn give_up(process: &Process, vases: Option<&KeptVases>) {
    if let Some(vases) = vases {
        process.vases.give_up(vases);
    }
}

/// The same beside the threads and the address spaces.
fn write_beside(
    process: &Process,
    first: &KeptThread,
    others: &[KeptThread],
    vases: Option<KeptVases>,
    memory: impl FnOnce() -> Result<File, Refusal>,
) -> Result<(Head, std::sync::Arc<File>), Refusal> {
    let (files, mut lost) = process.files.keep().map_err(Refusal::Files)?;
    lost.extend(lost_of(process));
    let region = process.private.keep(memory()?).map_err(Refusal::Memory)?;
    let mapped = mapped(process, &region)?;
    let executable = &process.executable;
    let parts = Parts {
        first,
        others,
        limits: &process.limits,
        actions: &process.signals,
        settings: &process.settings,
        program: &process.program,
        loaded: [executable.bias, executable.end],
        facts: &process.facts,
        files: &files,
        mapped: &mapped,
        region: &region,
    };
    let made_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let head = Head {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        processor: head::processor(&process.machine),
        made_at: made_at.as_secs(),
        pid: process.pid().cast_unsigned(),
        // Whoever has the file knows that.
        memory_bytes: 0,
        program: process.program.path.clone(),
        executable: KeptExecutable {
            // The same: it is sent as a descriptor, which names no file that this VMM could not open.
            host: Vec::new(),
            inside: process.files.program_path(),
            identity: identity_of(&executable.file).map_err(Refusal::Files)?,
        },
        lost,
        vases,
        process: parts.encode(),
        ready: None,
    };
    Ok((head, executable.file.clone()))
}

/// The same by the calling thread, which stands in a call that a copy comes back from; the others stand wherever they can.
fn write_by_itself(
    ctx: &ThreadCtx<'_>,
    memory: File,
) -> Result<(Head, std::sync::Arc<File>), Refusal> {
    let (process, desk, tid) = (ctx.process, &ctx.process.snapshots, ctx.thread.tid);
    // Somebody else's comes first; there, a copy makes the call again.
    while !desk.ask(By::Thread(tid)) {
        stand(ctx, Some(u64::from(CALL_READY)));
        if process.is_stopping() {
            return Err(Refusal::Ending);
        }
        desk.pause();
    }
    let _asks = Asks(desk, tid);
    // The event loop kicks the others.
    process.threads.notify();
    loop {
        // Before looking: a later kick is another one.
        ctx.thread.signals.acknowledge_kick();
        if let Some((_, threads)) = desk.stand(ctx, thread(ctx, None)) {
            let _goes_on = GoesOn(desk);
            return write(process, threads, || Ok(memory));
        }
        if process.is_stopping() {
            return Err(Refusal::Ending);
        }
        if !desk.is_asked_by(tid) {
            return Err(Refusal::NoPlace);
        }
        desk.pause();
    }
}

/// Withdraws a thread's question when it is dropped.
struct Asks<'a>(&'a SnapshotDesk, i32);

impl Drop for Asks<'_> {
    fn drop(&mut self) {
        self.0.withdraw(self.1);
    }
}

/// The calling thread as it goes on in a copy: a call that it is in is made again.
fn thread(ctx: &ThreadCtx<'_>, call: Option<u64>) -> Left {
    if ctx.child.is_some() {
        return Err(Refusal::Vfork);
    }
    let inside = ctx.process.vases.seen_by(ctx.vcpu)?;
    let mut regs = ctx.vcpu.regs;
    if let Some(call) = call {
        regs.rip = regs.rip.wrapping_sub(SYSCALL_BYTES);
        regs.rax = call;
    }
    let signals = &ctx.thread.signals;
    let base = |raw: u64| GuestVirt::new(raw).map_err(|_| Refusal::Base);
    let fs = base(ctx.vcpu.fs_base()).ok().filter(|base| base.raw() < LOWER_HALF_END);
    let state = ForkedThread {
        regs,
        fs_base: fs.ok_or(Refusal::Base)?,
        gs_base: base(ctx.vcpu.gs_base())?,
        fpu: Box::new(ctx.vcpu.fpu_state().map_err(Refusal::Registers)?),
        // A call that waits with another mask sets it itself.
        mask: signals.mask_outside_wait(),
        alt: signals.alt_stack(),
        name: ctx.thread.name(),
        set_tid: 0,
        clear_tid: ctx.thread.clear_child_tid.load(Ordering::Relaxed),
    };
    let robust_list = ctx.thread.robust_list.load(Ordering::Relaxed);
    // The number that memory has.
    let thread = KeptThread { tid: ctx.thread.owner.cast_unsigned(), robust_list, state };
    Ok(Stands { thread, inside })
}

fn mapped(process: &Process, region: &RegionCopy) -> Result<Vec<KeptMapping>, Refusal> {
    let kept = |mapped: crate::private::snapshot::MappedFile| {
        let path = process.files.path_of_mapped(&mapped.file).ok_or(Refusal::Unnamed)?;
        let identity = mapped.is_fixed.then(|| identity_of(&mapped.file)).transpose();
        let identity = identity.map_err(Refusal::Files)?;
        Ok(KeptMapping { path, writable: mapped.writable, identity })
    };
    region.mapped_files().into_iter().map(kept).collect()
}

/// What a snapshot has not, besides open files.
fn lost_of(process: &Process) -> Vec<String> {
    let mut lost = Vec::new();
    let children = process.children.all().len();
    if children > 0 {
        lost.push(format!("{children} processes that it has started"));
    }
    if process.timers.has_any() {
        lost.push("its timers".to_owned());
    }
    let pending = pending_for_any(process);
    for number in (1..=64_u8).filter(|number| pending & (1 << (number - 1)) != 0) {
        lost.push(format!("{}, which is pending", signal_name(number)));
    }
    let group = process_group();
    let numbers = format!("{} (its process group {group})", process.pid());
    lost.push(format!("where the program has stored its number: it was {numbers}"));
    lost
}

/// The path of a regular file that is open to be read: whoever has only a path cannot have such a descriptor.
pub(crate) fn readable_path(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let is_readable = !flags.contains(OFlags::PATH) && flags & OFlags::RWMODE != OFlags::WRONLY;
    let stat = rustix::fs::fstat(file)?;
    if !is_readable || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its executable is no file"));
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(path.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;

    use rustix::fs::{Mode, OFlags};

    use super::readable_path;

    #[test]
    fn only_what_can_be_read_has_a_path_to_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let path = folder.join("program");
        std::fs::write(&path, "x").unwrap();
        let open = |flags| File::from(rustix::fs::open(&path, flags, Mode::empty()).unwrap());
        assert_eq!(
            readable_path(open(OFlags::RDONLY).as_fd()).unwrap(),
            path.as_os_str().as_bytes()
        );
        assert!(readable_path(open(OFlags::WRONLY).as_fd()).is_err());
        assert!(
            readable_path(open(OFlags::PATH).as_fd()).is_err(),
            "opening it needs no right to read"
        );
        assert!(readable_path(File::open(&folder).unwrap().as_fd()).is_err());
    }
}

//! `signalfd`: signals that are read.
//!
//! Signals are queued here, not in the host, so what the host polls is a counter of events: it is set when a
//! signal of the set is sent, and cleared when none is pending any more. To `poll` and `epoll` it is ready for
//! all threads, also when the signal was sent to one of them; a read finds what is pending for the reader.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use abi::Errno;
use rustix::event::EventfdFlags;

use super::signal::{self, SigInfo};
use super::transfer::wait_for;
use super::{CallResult, Fail, value};
use crate::access::MemoryAccess;
use crate::files::{FileKind, OpenFile, host};
use crate::linux::task::{Process, ThreadCtx};

/// Bytes of the kernel's signal set.
const SIGSET_BYTES: u64 = 8;
/// Bytes of a `struct signalfd_siginfo`.
const INFO_BYTES: usize = 128;
/// Signals returned by one read.
const AT_ONCE: u64 = 64;
/// How long a reader waits that found only what another thread can take.
const OTHERS_TURN: Duration = Duration::from_millis(1);
/// They cannot be blocked, so they are never left to be read.
const NEVER: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// All of a process.
#[derive(Debug, Default)]
pub(crate) struct SignalFiles(Mutex<Vec<Weak<OpenFile>>>);

impl SignalFiles {
    fn all(&self) -> Vec<Arc<OpenFile>> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.is_empty() {
            return Vec::new();
        }
        files.retain(|file| file.strong_count() > 0);
        files.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn add(&self, file: &Arc<OpenFile>) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(Arc::downgrade(file));
    }

    /// A signal was sent: after it was queued.
    pub(super) fn note(&self, signo: i32) {
        for file in self.all() {
            if file.signals() & 1 << (signo - 1) != 0 {
                set(&file);
            }
        }
    }

    /// Makes all ready for what is pending, and for nothing else.
    pub(crate) fn settle(&self, process: &Process) {
        for file in self.all() {
            settle(process, &file);
        }
    }
}

fn set(file: &OpenFile) {
    // A counter that is full is set.
    let _ = rustix::io::write(file.host_fd(), &1_u64.to_ne_bytes());
}

/// Sets or clears the counter according to what is pending. It is cleared before that is looked at: a
/// signal sent in between sets it again.
fn settle(process: &Process, file: &OpenFile) {
    // Nothing to clear is as good.
    let _ = rustix::io::read(file.host_fd(), &mut [0_u8; 8]);
    if signal::pending_for_any(process) & file.signals() != 0 {
        set(file);
    }
}

/// `signalfd4(2)`, and `signalfd(2)` without flags.
pub(super) fn signalfd(ctx: &mut ThreadCtx<'_>, a: &[u64; 6], flags: i32) -> CallResult {
    let [fd, set, bytes, ..] = *a;
    if bytes != SIGSET_BYTES {
        return Err(Errno::EINVAL.into());
    }
    let signals = ctx.user().read_u64(set)? & !NEVER;
    if flags & !(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if fd as i32 != -1 {
        let file = ctx.files().for_io(fd as i32)?;
        if file.kind() != FileKind::SignalFd {
            return Err(Errno::EINVAL.into());
        }
        file.set_signals(signals);
        settle(ctx.process, &file);
        return value(u64::from(fd as u32));
    }
    let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let cloexec = flags & libc::SFD_CLOEXEC != 0;
    let files = ctx.files();
    let (fd, file) = files.own_of_kind(made.map_err(host)?, FileKind::SignalFd, cloexec)?;
    if flags & libc::SFD_NONBLOCK == 0 {
        file.pretend_blocking();
    }
    file.set_signals(signals);
    ctx.process.signal_files.add(&file);
    settle(ctx.process, &file);
    value(fd as u64)
}

/// `read` and its kin. There is nothing to write.
pub(super) fn transfer(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    parts: &[[u64; 2]],
    access: MemoryAccess,
) -> CallResult {
    if access == MemoryAccess::Read {
        return Err(Errno::EINVAL.into());
    }
    let room: u64 = parts.iter().map(|[_, len]| len / INFO_BYTES as u64).sum();
    if room == 0 {
        return Err(Errno::EINVAL.into());
    }
    let first = loop {
        if let Some(info) = ctx.take(file.signals()) {
            break info;
        }
        // Ready for another thread: this one looks again after a while.
        wait_for(ctx, file, libc::POLLIN)?;
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
        }
        if file.nonblocking() && signal::pending_for_any(ctx.process) & file.signals() != 0 {
            return Err(Errno::EAGAIN.into());
        }
        std::thread::sleep(OTHERS_TURN);
    };
    let more = std::iter::from_fn(|| ctx.take(file.signals()));
    let infos: Vec<SigInfo> =
        std::iter::once(first).chain(more.take(room.min(AT_ONCE) as usize - 1)).collect();
    settle(ctx.process, file);
    let mut infos = infos.iter();
    let mut moved = 0;
    for &[base, len] in parts {
        let fitting = (len / INFO_BYTES as u64) as usize;
        let bytes: Vec<u8> = infos.by_ref().take(fitting).flat_map(encode).collect();
        ctx.user().copy_out(base, &bytes)?;
        moved += bytes.len() as u64;
    }
    value(moved)
}

/// As a `struct signalfd_siginfo`: of the union, the fields that Linux fills in for the code.
fn encode(info: &SigInfo) -> [u8; INFO_BYTES] {
    /// The fields of a code: where each goes.
    const PID: usize = 12;
    const UID: usize = 16;
    const FD: usize = 20;
    const TIMER: usize = 24;
    const BAND: usize = 28;
    const OVERRUN: usize = 32;
    const STATUS: usize = 40;
    const INT: usize = 44;
    const PTR: usize = 48;
    const UTIME: usize = 56;
    const STIME: usize = 64;
    const ADDR: usize = 72;
    let head = info.head_bytes();
    let word = |at: usize| -> [u8; 4] { [head[at], head[at + 1], head[at + 2], head[at + 3]] };
    let mut out = [0; INFO_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in out.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &word(0));
    put(4, &word(4));
    put(8, &word(8));
    let (low, high) = (word(16), word(20));
    let value = &head[24..32];
    match (info.signo, info.code) {
        (_, signal::info::SI_TIMER) => {
            put(TIMER, &low);
            put(OVERRUN, &high);
            put(PTR, value);
            put(INT, &value[..4]);
        }
        (libc::SIGCHLD, 1..=6) => {
            put(PID, &low);
            put(UID, &high);
            put(STATUS, &value[..4]);
            put(UTIME, &head[32..40]);
            put(STIME, &head[40..48]);
        }
        (libc::SIGPOLL, 1..=6) => {
            put(BAND, &low);
            put(FD, &value[..4]);
        }
        (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP, 1..=15) => {
            put(ADDR, &head[16..24])
        }
        (_, signal::info::SI_USER | signal::info::SI_TKILL | signal::info::SI_KERNEL) => {
            put(PID, &low);
            put(UID, &high);
        }
        _ => {
            put(PID, &low);
            put(UID, &high);
            put(PTR, value);
            put(INT, &value[..4]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_in_signalfds_own_layout() {
        let queued = SigInfo::new(34, -1, 7 | 9 << 32).with_sigval(0x1_0000_0005);
        let bytes = encode(&queued);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8).cast_signed(), word(12), word(16)), (34, -1, 7, 9));
        assert_eq!((word(44), word(48), word(52)), (5, 5, 1));
        let timer = encode(&SigInfo::new(14, -2, 3 | 2 << 32).with_sigval(8));
        assert_eq!((timer[12], timer[24], timer[32], timer[48]), (0, 3, 2, 8));
    }
}

//! System V IPC: the calls. The objects are another process's ([`crate::process_tree::sysv`]).
#![forbid(unsafe_code)]

mod list;
mod msg;
mod sem;
mod shm;

use std::time::{Duration, Instant};

use abi::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(super) use list::{queues, segments, sets};
pub(super) use msg::{msgctl, msgget, msgrcv, msgsnd};
pub(super) use sem::{semctl, semget, semop, semtimedop};
pub use shm::Attached;
pub(super) use shm::{noting, shmat, shmctl, shmdt, shmget};

use super::task::ThreadCtx;
use crate::process_tree::sysv::Answer;
use crate::process_tree::sysv::server::{Asked, Client};
use crate::process_tree::wire::Writer;

/// The first fields of each structure: `struct ipc64_perm`.
const PERMISSIONS: [usize; 7] = [0, 4, 8, 12, 16, 20, 24];

fn client<'a>(ctx: &'a ThreadCtx<'_>) -> Result<&'a Client, Errno> {
    ctx.process.children.sysv().ok_or_else(|| {
        tracing::warn!("System V IPC needs a run that may have several processes (--processes)");
        Errno::ENOSYS
    })
}

fn words(words: &[u64]) -> Vec<u8> {
    let mut question = Writer::default();
    question.words(words);
    question.finish()
}

/// Asks what is answered at once.
fn ask(ctx: &ThreadCtx<'_>, question: &[u8]) -> Result<Answer, Errno> {
    client(ctx)?.ask(question)?.answer(false).map(|(answer, _)| answer)
}

/// Asks what may wait: until `limit`, and until a signal.
fn ask_and_wait(
    ctx: &ThreadCtx<'_>,
    question: &[u8],
    limit: Option<Instant>,
) -> Result<(Answer, Vec<u8>), Errno> {
    let asked = client(ctx)?.ask(question)?;
    match wait(ctx, &asked, limit) {
        None => asked.answer(false),
        Some(errno) => {
            asked.cancel();
            asked.answer(true).map_err(|answer| if answer == Errno::EINTR { errno } else { answer })
        }
    }
}

/// Waits for an answer; why not any longer, if there is none.
fn wait(ctx: &ThreadCtx<'_>, asked: &Asked<'_>, limit: Option<Instant>) -> Option<Errno> {
    let descriptor = asked.descriptor()?;
    loop {
        if ctx.is_interrupted() {
            return Some(Errno::EINTR);
        }
        let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| {
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
        });
        let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0)
                if left.is_some_and(|left| {
                    left <= Duration::from_nanos(1)
                        || limit.is_some_and(|limit| limit <= Instant::now())
                }) =>
            {
                return Some(Errno::EAGAIN);
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            // The answer, or the end of who gives it.
            _ => return None,
        }
    }
}

/// A structure of `size` bytes: `fields` are where the words go, and how many bytes each has.
fn structure(size: usize, words: &[u64], fields: &[(usize, usize)]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (word, (at, len)) in words.iter().zip(fields) {
        if let Some(field) = bytes.get_mut(*at..at + len) {
            field.copy_from_slice(word.to_le_bytes().get(..*len).unwrap_or_default());
        }
    }
    bytes
}

/// The fields of a structure that begins with permissions.
fn after_permissions(rest: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let permissions = PERMISSIONS.iter().map(|at| (*at, if *at == 24 { 2 } else { 4 }));
    permissions.chain(rest.iter().copied()).collect()
}

/// The user, group and mode of such a structure in the program's memory (`IPC_SET`).
fn read_permissions(ctx: &ThreadCtx<'_>, at: u64) -> Result<[u64; 3], Errno> {
    let mut bytes = [0; 24];
    ctx.user().copy_in(at, &mut bytes)?;
    let word = |at: usize| {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
        u64::from(u32::from_le_bytes(field.copied().unwrap_or_default()))
    };
    Ok([word(4), word(8), word(20)])
}

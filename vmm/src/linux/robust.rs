//! Robust futexes: what a thread held when it ended is marked, so that the next owner learns of it.
//!
//! A thread keeps a list of the locks it holds in its own memory (`set_robust_list`); Linux
//! walks it when the thread ends, however it ends. So does the VMM, for locks in private memory, in
//! files that other processes map, and in segments. Everything in the list comes from the program
//! and can be anything.

use abi::layout::is_of_segments;
use abi::{Errno, SegId};

use super::{CallResult, done, futex, value};
use crate::linux::task::{Process, Thread, ThreadCtx};
use crate::user_memory::UserMemory;

/// Maximum number of list entries walked (Linux's ROBUST_LIST_LIMIT).
const LIMIT: usize = 2048;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// Bytes of `struct robust_list_head`.
const HEAD_BYTES: u64 = 24;
/// Flag in a pointer to an entry: the lock is a priority-inheritance one.
const PI: u64 = 1;

/// `set_robust_list(2)`.
pub(super) fn set_robust_list(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[1] != HEAD_BYTES {
        return Err(Errno::EINVAL.into());
    }
    ctx.thread.robust_list.store(a[0], std::sync::atomic::Ordering::Relaxed);
    value(0)
}

/// `get_robust_list(2)`: of the program's own threads.
pub(super) fn get_robust_list(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [tid, head_at, len_at, ..] = *a;
    let thread = match tid as i32 {
        0 => ctx.thread.clone(),
        tid => ctx.process.threads.get(tid).ok_or(Errno::ESRCH)?,
    };
    let head = thread.robust_list.load(std::sync::atomic::Ordering::Relaxed);
    ctx.user().copy_out(len_at, &HEAD_BYTES.to_le_bytes())?;
    done(ctx.user().copy_out(head_at, &head.to_le_bytes()))
}

/// Whether an entry is the one that the thread was about to add or to remove.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Listed,
    Pending,
}

/// Marks what `thread`, which has ended in instance `vh`, still holds. For locks with priority
/// inheritance that have waiters, the host kernel does the rest when the host thread ends.
pub(crate) fn release(process: &Process, thread: &Thread, vh: u32) {
    let head = thread.robust_list.load(std::sync::atomic::Ordering::Relaxed);
    if head != 0 {
        // An error ends the walk, as on Linux: the list is untrusted.
        let _ = Walk { process, vh, tid: thread.owner.cast_unsigned() }.run(head);
    }
}

struct Walk<'a> {
    process: &'a Process,
    /// The instance the thread ended in.
    vh: u32,
    tid: u32,
}

impl<'a> Walk<'a> {
    fn run(&self, head: u64) -> Result<(), Errno> {
        let user = self.process.user_in(self.vh);
        let [mut entry, offset, pending] = user.read_words(head)?;
        for _ in 0..LIMIT {
            if entry & !PI == head {
                break;
            }
            let at = entry & !PI;
            let word = at.wrapping_add(offset);
            let user = self.where_held(word);
            // Read before the lock passes to the next owner, which may remove the entry.
            let next = user.read_u64(at);
            if at != pending & !PI {
                self.let_go(user, word, entry & PI, Entry::Listed)?;
            }
            entry = next?;
        }
        if pending != 0 {
            let word = (pending & !PI).wrapping_add(offset);
            self.let_go(self.where_held(word), word, pending & PI, Entry::Pending)?;
        }
        Ok(())
    }

    fn is_held(&self, user: UserMemory<'_>, word: u64) -> bool {
        user.read_u32(word).is_ok_and(|old| old & FUTEX_TID_MASK == self.tid)
    }

    /// The memory that the lock is in. A thread can acquire one in a segment and leave the VAS with
    /// it; the list then has an address of another instance. Among those with a segment there, the
    /// thread's number in the word identifies it, unless two segments match.
    fn where_held(&self, word: u64) -> UserMemory<'a> {
        let here = self.process.user_in(self.vh);
        if !is_of_segments(word) || self.is_held(here, word) {
            return here;
        }
        let mut found: Vec<(u32, SegId)> = Vec::new();
        for (vh, sid) in self.process.vases.instances_at(word) {
            let known = found.iter().any(|(_, other)| *other == sid);
            if !known && self.is_held(self.process.user_in(vh), word) {
                found.push((vh, sid));
            }
        }
        match found.as_slice() {
            [(vh, _)] => self.process.user_in(*vh),
            _ => here,
        }
    }

    fn let_go(&self, user: UserMemory<'_>, word: u64, pi: u64, entry: Entry) -> Result<(), Errno> {
        if !word.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let old = user.read_u32(word)?;
        if old & FUTEX_TID_MASK == self.tid {
            return futex::mark_owner_died(user, word);
        }
        // It had released the lock and not yet woken the next waiter.
        if entry == Entry::Pending && pi == 0 && old == 0 {
            futex::wake(user, word, 1);
        }
        Ok(())
    }
}

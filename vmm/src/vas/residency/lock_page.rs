//! The words of a segment's lock, as the VMM reaches them, and how a thread of the VMM waits.
//!
//! The lock page of an attached lockable segment is mapped over a page of guest memory, which
//! the guest kernel sees at a fixed address; the VMM uses the same page through its own
//! mapping of that guest memory. The algorithm is `seg_lock`'s.

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use abi::layout::LOCK_PAGES;
use abi::switch::LockRef;
use abi::{GuestPhys, LeaseId, PAGE_SIZE};
use seg_lock::{AtomicWords, LockOutcome, LockView, Member, Patience, WORDS, Waiting};

use crate::store::{SegmentFile, Store};
use crate::vas::VasError;
use crate::vm::Machine;
use crate::vm::memory::FileMapping;

/// The lock of a segment that the VM has attached.
#[derive(Clone, Debug)]
pub(crate) struct LockPage {
    number: u32,
    gpa: GuestPhys,
    words: MappedWords,
    member: Member,
    lease: LeaseId,
}

/// A mapped lock page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappedWords(*const AtomicU64);

// SAFETY: all access is by atomics; the address belongs to no thread.
unsafe impl Send for MappedWords {}
// SAFETY: as for `Send`.
unsafe impl Sync for MappedWords {}

impl AtomicWords for MappedWords {
    fn word(&self, index: usize) -> &AtomicU64 {
        let at = self.0.wrapping_add(index % WORDS);
        // SAFETY: a page of 512 aligned words that stays mapped as long as these `MappedWords` are
        // used: in a memory region, with the machine, which lives as long as any holder of a
        // `LockPage`; else with `content.rs`'s mapping. All access is by atomics.
        unsafe { &*at }
    }
}

impl MappedWords {
    /// The words of a lock page mapped at `page`. The caller keeps it mapped as long as they
    /// are used: with the machine, or with the hold of `content.rs`.
    pub(crate) fn at(page: *const AtomicU64) -> MappedWords {
        MappedWords(page)
    }

    /// The half of a word that futexes compare.
    fn low_half(&self, index: usize) -> *const AtomicU32 {
        std::ptr::from_ref(self.word(index)).cast()
    }
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Waits for a lock for that long, from now on.
#[must_use]
pub fn at_most(limit: Duration) -> Patience {
    let limit = u64::try_from(limit.as_nanos()).ok().and_then(|ns| monotonic_ns().checked_add(ns));
    limit.map_or(Patience::Forever, Patience::Until)
}

/// How a thread of the VMM waits for a lock: in a host futex on the page, which threads of
/// every VM that maps it share.
pub(crate) struct Host<'a> {
    words: MappedWords,
    store: &'a Store,
    stopping: &'a dyn Fn() -> bool,
}

impl<'a> Host<'a> {
    pub(crate) fn new(
        words: MappedWords,
        store: &'a Store,
        stopping: &'a dyn Fn() -> bool,
    ) -> Host<'a> {
        Host { words, store, stopping }
    }
}

impl Waiting for Host<'_> {
    fn wait(&self, index: usize, expected: u32, timeout_ns: u64) {
        let time = Duration::from_nanos(timeout_ns);
        let limit = libc::timespec {
            tv_sec: time.as_secs().min(1 << 30) as libc::time_t,
            tv_nsec: libc::c_long::from(time.subsec_nanos() as i32),
        };
        let word = self.words.low_half(index);
        // SAFETY: waits on an aligned, mapped word with a time limit; not private, since
        // waiters are in other processes too. A kick or a changed word ends it early.
        unsafe {
            libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, expected, &raw const limit)
        };
    }

    fn wake(&self, index: usize, count: u32) {
        let word = self.words.low_half(index);
        // SAFETY: FUTEX_WAKE reads no memory; the address names the futex.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, count) };
    }

    fn pause(&self, timeout_ns: u64) {
        let end = Instant::now() + Duration::from_nanos(timeout_ns);
        while !self.should_stop() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
    }

    fn is_alive(&self, lease: LeaseId) -> bool {
        self.store.is_alive(lease)
    }

    fn should_stop(&self) -> bool {
        (self.stopping)()
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

impl LockPage {
    /// Maps the lock page of `file` over `gpa`, the page of number `number`, and makes the VM a
    /// member.
    pub(crate) fn map(
        number: u32,
        gpa: GuestPhys,
        file: &SegmentFile,
        lease: LeaseId,
        store: &Store,
        machine: &Machine,
    ) -> Result<LockPage, VasError> {
        let (fd, offset) = file.lock_page();
        machine.mem.map_file(gpa, PAGE_SIZE, fd, offset, FileMapping::Shared)?;
        let range = machine.mem.host_range(gpa, PAGE_SIZE as usize)?;
        let words = MappedWords(range.as_ptr().cast_const().cast());
        let host = Host { words, store, stopping: &|| false };
        let member = seg_lock::join(&words, &host, lease)
            .map_err(|_| VasError::Full { what: "slots in a segment's lock" })?;
        Ok(LockPage { number, gpa, words, member, lease })
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// What the kernel needs to know.
    pub(crate) fn reference(&self, exclusive: bool) -> LockRef {
        LockRef {
            page: LOCK_PAGES.raw() + u64::from(self.number) * PAGE_SIZE,
            slot: self.member.raw(),
            exclusive: u32::from(exclusive),
        }
    }

    /// Number of the lock page a reference names.
    pub(crate) fn number_of(reference: &LockRef) -> u32 {
        (reference.page.saturating_sub(LOCK_PAGES.raw()) / PAGE_SIZE) as u32
    }

    fn host<'a>(&self, store: &'a Store, stopping: &'a dyn Fn() -> bool) -> Host<'a> {
        Host { words: self.words, store, stopping }
    }

    /// The lock, to be used by the calling thread.
    pub(crate) fn user<'a>(
        &'a self,
        store: &'a Store,
        stopping: &'a dyn Fn() -> bool,
    ) -> LockUser<'a> {
        LockUser { page: self, host: self.host(store, stopping) }
    }

    /// Who has the lock, and who waits for it.
    pub(crate) fn inspect(&self) -> LockView {
        seg_lock::inspect(&self.words)
    }

    /// Whether a thread of this VM has the lock, exclusively.
    pub(crate) fn is_ours(&self) -> bool {
        self.inspect().owner == Some(self.member)
    }

    /// Declares the content consistent; `false` unless the VM holds the lock exclusively.
    pub(crate) fn recover(&self) -> bool {
        seg_lock::recover(&self.words, self.member)
    }

    /// Whether a holder died inside, or somebody has declared the content inconsistent.
    pub(crate) fn is_inconsistent(&self) -> bool {
        seg_lock::inspect(&self.words).inconsistent
    }

    /// Declares the content inconsistent.
    pub(crate) fn mark_inconsistent(&self) {
        seg_lock::mark_inconsistent(&self.words);
    }

    /// Ends the VM's membership and unmaps the page from guest memory.
    pub(crate) fn give_up(self, store: &Store, machine: &Machine) -> Result<(), VasError> {
        let host = self.host(store, &|| false);
        seg_lock::leave(&self.words, &host, self.member, self.lease);
        machine.mem.unmap_file(self.gpa, PAGE_SIZE)?;
        Ok(())
    }
}

/// One lock and the thread that uses it.
pub(crate) struct LockUser<'a> {
    page: &'a LockPage,
    host: Host<'a>,
}

impl LockUser<'_> {
    pub(crate) fn acquire(&self, mode: seg_lock::Mode, patience: Patience) -> LockOutcome {
        let page = self.page;
        seg_lock::acquire(&page.words, &self.host, page.member, page.lease, mode, patience)
    }

    pub(crate) fn release(&self, mode: seg_lock::Mode) {
        let page = self.page;
        seg_lock::release(&page.words, &self.host, page.member, page.lease, mode);
    }

    pub(crate) fn upgrade(&self, patience: Patience) -> LockOutcome {
        let page = self.page;
        seg_lock::upgrade(&page.words, &self.host, page.member, page.lease, patience)
    }

    pub(crate) fn downgrade(&self) {
        let page = self.page;
        seg_lock::downgrade(&page.words, &self.host, page.member, page.lease);
    }

    pub(crate) fn wake_waiters(&self) {
        seg_lock::wake_waiters(&self.page.words, &self.host, self.page.lease);
    }
}

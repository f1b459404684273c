//! Holding the locks of segments without having them attached: shared for copies and archives of raw
//! ones, which must not be torn by a program that writes meanwhile; alone to recover one, and to make
//! something of a version of a versioned one (`kept`).
//!
//! A holder of a lock must have a lease, by which others see whether it is alive; one is made for
//! the time of the hold. The locks are those that switches acquire (`seg_lock`): a writer inside is
//! waited for, and one that comes later waits.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use abi::{LeaseId, PAGE_SIZE, Right, SegId, VasId};
use seg_lock::{LockOutcome, Member, Mode, Patience};

use crate::store::{
    CopiedVas, HeldAlone, Lease, LeaseInfo, MemberHeld, Name, SegmentFile, SegmentState, Store,
    StoreError, VasRecord,
};
use crate::vas::VasError;
use crate::vas::residency::lock_page::{Host, MappedWords, at_most};
use crate::vas::state::Vases;
use crate::vm::Vcpu;

/// The locks of some segments, held. Dropping it releases them.
#[derive(Debug)]
pub struct ContentHold<'a> {
    store: &'a Store,
    held: Vec<Held>,
    /// Of those without a lock: no VM had them writable when the hold began.
    unlocked: Vec<SegId>,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Held {
    sid: SegId,
    page: Mapped,
    member: Member,
    mode: Mode,
    owner_died: bool,
}

/// A lock page, mapped for this hold alone.
#[derive(Debug)]
struct Mapped(NonNull<AtomicU64>);

impl Mapped {
    fn of(file: &SegmentFile) -> Result<Mapped, StoreError> {
        let (fd, offset) = file.lock_page();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping of one page, wherever the host puts it.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_SIZE as usize,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match NonNull::new(at.cast()).filter(|_| at != libc::MAP_FAILED) {
            Some(at) => Ok(Mapped(at)),
            None => Err(file.error("map the lock of", std::io::Error::last_os_error())),
        }
    }

    fn words(&self) -> MappedWords {
        MappedWords::at(self.0.as_ptr())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the page mapped by `of`; `MappedWords` of it live no longer than the hold does.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE_SIZE as usize) };
    }
}

/// Holds the locks of `segments` in the order of their ids: of raw ones shared, of versioned ones
/// alone, unless they can only be copied. What cannot be locked, since it has no lock or the user may
/// not write it, must not be open for writing anywhere.
/// `mine` is the lease of a VM that asks about what its own threads have without a lock.
///
/// # Errors
/// [`StoreError::Locked`] when a lock is not free within `limit`; [`StoreError::Busy`] when a VM
/// has a segment writable that cannot be locked; [`LockOutcome::Interrupted`].
pub fn hold_content<'a, 's>(
    store: &'a Store,
    segments: impl IntoIterator<Item = &'s SegmentFile>,
    mine: Option<LeaseId>,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<ContentHold<'a>, VasError> {
    let mut hold = ContentHold::new(store);
    let mut sorted: Vec<&SegmentFile> = segments.into_iter().collect();
    sorted.sort_by_key(|segment| segment.sid());
    let patience = limit.map_or(Patience::Forever, at_most);
    for segment in sorted {
        if segment.is_versioned() {
            // Of others a version is read, which does not change.
            if segment.is_linked_by_clones() && segment.right() == Right::Write {
                hold.lock(segment, Mode::Exclusive, patience, stopping)?;
            }
        } else if segment.header().lockable && segment.right() == Right::Write {
            hold.lock(segment, Mode::Shared, patience, stopping)?;
        } else {
            store.check_unwritten(segment.sid(), mine)?;
            hold.unlocked.push(segment.sid());
        }
    }
    Ok(hold)
}

impl<'a> ContentHold<'a> {
    pub(crate) fn new(store: &'a Store) -> ContentHold<'a> {
        ContentHold { store, held: Vec::new(), unlocked: Vec::new(), lease: None }
    }

    /// How a segment's lock is held, for what is done with its versions.
    pub(crate) fn held(&self, sid: SegId) -> HeldAlone {
        let held = self.held.iter().find(|held| held.sid == sid);
        HeldAlone { owner_died: held.is_some_and(|held| held.owner_died) }
    }

    /// The versioned segments whose locks are held.
    pub(crate) fn members(&self) -> Vec<MemberHeld> {
        let alone = self.held.iter().filter(|held| held.mode == Mode::Exclusive);
        alone.map(|held| MemberHeld { sid: held.sid, held: self.held(held.sid) }).collect()
    }

    /// Takes note of how a change of versioned segments ended. What dead writers have left was taken in
    /// by one that succeeded: nobody has to do so any more. One that the host has ended may have made a
    /// version that it could not make known: whoever has the lock next looks for it.
    pub(crate) fn settle<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        for held in self.held.iter().filter(|held| held.mode == Mode::Exclusive) {
            match &done {
                Ok(_) if held.owner_died => {
                    let _ = seg_lock::recover(&held.page.words(), held.member);
                }
                Err(StoreError::Io { .. } | StoreError::Versions { .. }) => {
                    seg_lock::mark_inconsistent(&held.page.words());
                }
                Ok(_) | Err(_) => {}
            }
        }
        done
    }

    /// To be asked when the copy is made.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when a VM has meanwhile attached a segment without a lock for writing:
    /// the copy may be torn.
    pub fn check(&self, mine: Option<LeaseId>) -> Result<(), StoreError> {
        self.unlocked.iter().try_for_each(|&sid| self.store.check_unwritten(sid, mine))
    }

    /// Takes note of a segment that cannot be locked.
    pub(crate) fn watch(&mut self, segment: &SegmentFile) -> Result<(), StoreError> {
        self.store.check_unwritten(segment.sid(), None)?;
        self.unlocked.push(segment.sid());
        Ok(())
    }

    /// Releases the locks of some segments.
    pub(crate) fn give_back(&mut self, sids: &[SegId]) {
        let Some(lease) = self.lease.as_ref().map(Lease::id) else { return };
        let (given, kept) = self.held.drain(..).partition(|held| sids.contains(&held.sid));
        self.held = kept;
        release(self.store, lease, given);
    }

    pub(crate) fn lock(
        &mut self,
        segment: &SegmentFile,
        mode: Mode,
        patience: Patience,
        stopping: &dyn Fn() -> bool,
    ) -> Result<(), VasError> {
        self.store.note_another_boot(segment)?;
        let lease = match &self.lease {
            Some(lease) => lease.id(),
            None => {
                let program = match mode {
                    Mode::Shared => "spacejmp, copying a segment",
                    Mode::Exclusive => "spacejmp, changing a segment",
                };
                let program = program.to_owned();
                let info = LeaseInfo { program, pid: std::process::id() };
                self.lease.insert(Lease::create(self.store, &info)?).id()
            }
        };
        let page = Mapped::of(segment)?;
        let words = page.words();
        let host = Host::new(words, self.store, stopping);
        let member = seg_lock::join(&words, &host, lease)
            .map_err(|_| VasError::Full { what: "slots in a segment's lock" })?;
        match seg_lock::acquire(&words, &host, member, lease, mode, patience) {
            // What a dead writer left stays marked, in the copy too.
            outcome @ (LockOutcome::Acquired | LockOutcome::OwnerDied) => {
                let owner_died = outcome == LockOutcome::OwnerDied;
                self.held.push(Held { sid: segment.sid(), page, member, mode, owner_died });
                Ok(())
            }
            refused => {
                seg_lock::leave(&words, &host, member, lease);
                Err(match refused {
                    LockOutcome::Interrupted => VasError::Lock(refused),
                    _ => self.store.locked(segment).into(),
                })
            }
        }
    }
}

impl Drop for ContentHold<'_> {
    fn drop(&mut self) {
        let Some(lease) = self.lease.as_ref().map(Lease::id) else { return };
        release(self.store, lease, self.held.drain(..).collect());
    }
}

fn release(store: &Store, lease: LeaseId, held: Vec<Held>) {
    for Held { page, member, mode, .. } in held.into_iter().rev() {
        let words = page.words();
        let host = Host::new(words, store, &|| false);
        seg_lock::release(&words, &host, member, lease, mode);
        seg_lock::leave(&words, &host, member, lease);
    }
}

/// How long a thread that is inside somewhere may wait for the lock of what it copies: it keeps the
/// locks it has meanwhile, and two that do this to each other would wait forever.
pub(crate) const INSIDE_WAIT: Duration = Duration::from_secs(10);

/// Copies a segment as it is between two visits of writers ([`Store::clone_segment`]); a versioned one
/// as it is at a version, by default its newest, if that can be by links ([`Store::clone_version`]).
///
/// # Errors
/// As [`hold_content`], and errors of copying; then there is no copy.
pub fn clone_segment(
    store: &Store,
    sid: SegId,
    number: Option<u64>,
    name: &Name,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<SegId, VasError> {
    let source = store.open_segment(sid)?;
    let _span = tracing::debug_span!("clone", segment = %source.name(), to = %name).entered();
    let hold = hold_content(store, [&source], None, limit, stopping)?;
    copy(store, &source, number, name, &hold, None)
}

fn copy(
    store: &Store,
    source: &SegmentFile,
    number: Option<u64>,
    name: &Name,
    hold: &ContentHold<'_>,
    mine: Option<LeaseId>,
) -> Result<SegId, VasError> {
    let sid = source.sid();
    if source.is_versioned() {
        if !source.is_linked_by_clones() {
            return Ok(store.copy_version(sid, number, name)?);
        }
        return Ok(hold.settle(store.clone_version(sid, number, name, hold.held(sid)))?);
    }
    if let Some(number) = number {
        return Err(StoreError::Unversioned { segment: source.name().clone(), number }.into());
    }
    let made = store.clone_segment(sid, name)?;
    if let Err(error) = hold.check(mine) {
        store.delete_segment(made)?;
        return Err(error.into());
    }
    Ok(made)
}

/// Copies a VAS and its segments as they are between two visits of writers, all at one moment
/// ([`Store::copy_vas`]).
///
/// # Errors
/// As [`hold_content`], and errors of copying; then there is no copy.
pub fn copy_vas(
    store: &Store,
    vid: VasId,
    name: &Name,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<CopiedVas, VasError> {
    copy_vas_beside(store, store.vas(vid)?, name, &Beside::default(), limit, stopping)
}

/// What a thread that copies has itself.
#[derive(Debug, Default)]
struct Beside {
    /// The lease of its VM.
    mine: Option<LeaseId>,
    /// Segments whose locks it holds.
    held: Vec<SegId>,
}

fn copy_vas_beside(
    store: &Store,
    vas: VasRecord,
    name: &Name,
    beside: &Beside,
    limit: Option<Duration>,
    stopping: &dyn Fn() -> bool,
) -> Result<CopiedVas, VasError> {
    let mut segments = store.open_listed(&vas)?;
    let others = segments.iter().filter(|segment| !beside.held.contains(&segment.sid()));
    let hold = hold_content(store, others, beside.mine, limit, stopping)?;
    // Writers that were waited for may have grown them.
    segments.iter_mut().try_for_each(|segment| store.refresh(segment))?;
    let mut members = hold.members();
    // A kept one needs no lock, and one that the thread holds itself has it.
    let free = |it: &&SegmentFile| {
        it.is_linked_by_clones() && (it.header().kept.is_some() || beside.held.contains(&it.sid()))
    };
    let held = HeldAlone { owner_died: false };
    members.extend(segments.iter().filter(free).map(|it| MemberHeld { sid: it.sid(), held }));
    let copied = hold.settle(store.copy_vas(&vas, &segments, name, &members))?;
    if let Err(error) = hold.check(beside.mine) {
        store.delete_vas(copied.vid)?;
        copied.segments.iter().try_for_each(|sid| store.delete_segment(*sid))?;
        return Err(error.into());
    }
    Ok(copied)
}

/// How a segment was before it was recovered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Its last writer was killed, or the host lost power.
    pub was_dirty: bool,
    /// Programs that enter were told so.
    pub was_inconsistent: bool,
}

/// Declares that a segment's content is whole, for a user who has looked at it: as a program does
/// from inside, which holds the lock alone. It is clean on stable storage then.
///
/// # Errors
/// As [`Store::check_recoverable`]; then the segment is as it was.
pub fn recover_segment(store: &Store, sid: SegId) -> Result<Recovered, VasError> {
    let segment = store.open_segment(sid)?;
    store.check_recoverable(&segment)?;
    let was_dirty = segment.header().state == SegmentState::Dirty;
    let mut hold = ContentHold::new(store);
    hold.lock(&segment, Mode::Exclusive, Patience::Try, &|| false)?;
    let words = hold.held.iter().map(|held| (held.page.words(), held.member));
    let was_inconsistent = words.clone().any(|(words, _)| seg_lock::inspect(&words).inconsistent);
    for (words, member) in words.clone() {
        // It is held, so it cannot fail.
        let _ = seg_lock::recover(&words, member);
    }
    if let Err(error) = store.declare_clean(&segment) {
        if was_inconsistent {
            words.for_each(|(words, _)| seg_lock::mark_inconsistent(&words));
        }
        return Err(error.into());
    }
    Ok(Recovered { was_dirty, was_inconsistent })
}

impl Vases {
    /// `vas_clone` with copies: as [`copy_vas`], for a thread of the program, which may hold locks
    /// itself.
    ///
    /// # Errors
    /// As [`copy_vas`].
    pub fn copy_vas(
        &self,
        vcpu: &Vcpu,
        vid: VasId,
        name: &Name,
        stopping: &dyn Fn() -> bool,
    ) -> Result<VasId, VasError> {
        let (mine, held) = self.lease_and_locks(vcpu)?;
        let beside = Beside { mine, held };
        self.granted()?.copy_vas(vid, name, |store, vas| {
            let limit = (!beside.held.is_empty()).then_some(INSIDE_WAIT);
            copy_vas_beside(store, vas, name, &beside, limit, stopping)
        })
    }

    /// `seg_clone`: as [`clone_segment`], for a thread of the program, which may hold the lock
    /// itself.
    ///
    /// # Errors
    /// As [`clone_segment`].
    pub fn clone_segment(
        &self,
        vcpu: &Vcpu,
        sid: SegId,
        name: &Name,
        stopping: &dyn Fn() -> bool,
    ) -> Result<SegId, VasError> {
        let (mine, held) = self.lease_and_locks(vcpu)?;
        self.granted()?.clone_segment(sid, name, |store| {
            let source = store.open_segment(sid)?;
            let limit = (!held.is_empty()).then_some(INSIDE_WAIT);
            let wanted = (!held.contains(&sid)).then_some(&source);
            let hold = hold_content(store, wanted, mine, limit, stopping)?;
            copy(store, &source, None, name, &hold, mine)
        })
    }
}

//! Slots of VMs in a lock page: given, taken back, and wiped when their VM is dead.
//!
//! Also everything that looks at or changes a page as a whole. Waiting is not here.

use crate::queue::{Desk, Entry, NoMutex, Waiting, Want};
use crate::{LockWords, SLOTS, Slot, WORDS, state, word};
use abi::LeaseId;

/// Why a VM got no slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimError {
    /// [`SLOTS`] living VMs have the segment attached.
    NoSlot,
    /// A VM that lives but does not run kept the page's mutex for ten seconds.
    Busy,
    /// [`Waiting::should_stop`].
    Stopped,
}

/// How long to wait for the mutex; it is held for microseconds.
const MUTEX_NS: u64 = 10_000_000_000;

impl core::fmt::Display for ClaimError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ClaimError::NoSlot => {
                write!(f, "{SLOTS} VMs have the segment attached, and no more can")
            }
            ClaimError::Busy => f.write_str("a stopped VM keeps the segment's lock page"),
            ClaimError::Stopped => f.write_str("stopped while waiting for the lock page"),
        }
    }
}

impl core::error::Error for ClaimError {}

fn slots() -> impl Iterator<Item = Slot> {
    (0..SLOTS as u32).map(Slot::wrapping)
}

fn lease_word(slot: Slot) -> usize {
    word::LEASES + slot.raw() as usize
}

/// Gives the VM `me` its slot, for its first attachment of the segment; the same one again if
/// it has one. Slots of dead VMs are wiped and taken.
///
/// # Errors
/// See [`ClaimError`].
pub fn claim_slot<W: LockWords, H: Waiting>(
    words: &W,
    host: &H,
    me: LeaseId,
) -> Result<Slot, ClaimError> {
    let limit = host.now_ns().saturating_add(MUTEX_NS);
    let claimed = Desk { words, host, me }.with_mutex(Some(limit), |desk| {
        for slot in slots() {
            let lease = words.load(lease_word(slot));
            if lease == me.raw() {
                return Some(slot);
            }
            if lease != 0 && !desk.alive(lease) {
                bury(desk, slot);
            }
        }
        let slot = slots().find(|&slot| words.load(lease_word(slot)) == 0)?;
        bury(desk, slot);
        if words.load(word::SLOTS_USED) <= u64::from(slot.raw()) {
            words.store(word::SLOTS_USED, u64::from(slot.raw()) + 1);
        }
        let alone =
            slots().all(|slot| words.load(lease_word(slot)) == 0 && words.load(slot.lane()) == 0);
        words.store(lease_word(slot), me.raw());
        desk.dispatch(false);
        let now = words.load(word::STATE);
        if alone && now & (state::OWNER | state::WAITERS) == 0 {
            // Nobody but this VM could be a reader, and it begins only now.
            let _ = words.compare_exchange(word::STATE, now, now & !state::READERS);
        }
        Some(slot)
    });
    match claimed {
        Ok(slot) => slot.ok_or(ClaimError::NoSlot),
        Err(NoMutex::Late) => Err(ClaimError::Busy),
        Err(NoMutex::Stopped) => Err(ClaimError::Stopped),
    }
}

/// Gives the slot back, after the VM's last attachment. Whatever the VM still holds is treated
/// as if it had died. If the page's mutex is not to be had, the slot is taken back when the VM
/// is dead.
pub fn free_slot<W: LockWords, H: Waiting>(words: &W, host: &H, slot: Slot, me: LeaseId) {
    let limit = host.now_ns().saturating_add(MUTEX_NS);
    let _ = Desk { words, host, me }.with_mutex(Some(limit), |desk| {
        if words.load(lease_word(slot)) == me.raw() {
            bury(desk, slot);
            desk.dispatch(false);
        }
    });
}

/// Wipes the dead VMs that hold something or wait. With the mutex held.
pub(super) fn bury_the_dead<W: LockWords, H: Waiting>(desk: &Desk<'_, W, H>) {
    let seen = desk.words.load(word::STATE);
    let owner = seen & state::OWNER;
    if owner > SLOTS as u64 {
        // Nobody's number: not written by this algorithm.
        desk.words.fetch_or(word::STATE, state::INCONSISTENT);
        desk.words.fetch_and(word::STATE, !(state::OWNER | state::CLAIM));
    }
    let mut concerned = if owner > 0 && owner <= SLOTS as u64 { 1u64 << (owner - 1) } else { 0 };
    desk.entries().for_each(|(_, entry)| concerned |= 1 << entry.slot().raw());
    for slot in slots() {
        let concerned = concerned >> slot.raw() & 1 != 0 || desk.words.load(slot.lane()) != 0;
        if concerned && !desk.alive(desk.words.load(lease_word(slot))) {
            bury(desk, slot);
        }
    }
}

/// Wipes what the owner of a slot left behind; that one is dead, or wants it so. With the
/// mutex held. May be broken off anywhere and begun anew by the next.
fn bury<W: LockWords, H: Waiting>(desk: &Desk<'_, W, H>, slot: Slot) {
    let words = desk.words;
    let seen = words.load(word::STATE);
    if seen & state::OWNER == slot.owner() {
        // Still looking for readers, or still in the queue: it has not come to touch anything.
        let entering = seen & state::CLAIM != 0
            || desk.entries().any(|(_, entry)| {
                entry.slot() == slot && entry.may_go() && entry.want() != Want::Shared
            });
        if !entering {
            words.fetch_or(word::STATE, state::INCONSISTENT);
        }
        words.fetch_sub(word::STATE, slot.owner() | seen & state::CLAIM);
    }
    words.store(slot.lane(), 0);
    for (index, entry) in desk.entries() {
        if entry.slot() == slot {
            words.store(index, Entry::FREE);
        }
    }
    words.store(lease_word(slot), 0);
}

/// Declares the content consistent again. `false`, and nothing done, unless the VM of `slot`
/// holds the lock exclusively.
pub fn recover<W: LockWords>(words: &W, slot: Slot) -> bool {
    let owns = words.load(word::STATE) & (state::OWNER | state::CLAIM) == slot.owner();
    if owns {
        words.fetch_and(word::STATE, !state::INCONSISTENT);
    }
    owns
}

/// Declares the content inconsistent; whoever takes the lock from now on is told.
pub fn mark_inconsistent<W: LockWords>(words: &W) {
    words.fetch_or(word::STATE, state::INCONSISTENT);
}

/// Empties a page that nobody uses: no living VM has a slot, or the machine has booted since.
/// Returns whether the content is inconsistent: it was so, or a holder died inside.
pub fn reset<W: LockWords>(words: &W) -> bool {
    let seen = words.load(word::STATE);
    let entering = (word::QUEUE..word::QUEUE_END)
        .filter_map(|index| Entry::read(words.load(index)))
        .any(|entry| {
            entry.may_go()
                && entry.want() != Want::Shared
                && entry.slot().owner() == seen & state::OWNER
        });
    let died_inside = seen & state::OWNER != 0 && seen & state::CLAIM == 0 && !entering;
    let inconsistent = died_inside || seen & state::INCONSISTENT != 0;
    // The state first: a reset that is broken off is repeated, and must come to the same end.
    words.store(word::STATE, if inconsistent { state::INCONSISTENT } else { 0 });
    (0..WORDS).filter(|&index| index != word::STATE).for_each(|index| words.store(index, 0));
    inconsistent
}

/// A lock page, for people. Words are read one after the other while others work on them.
#[derive(Clone, Debug)]
pub struct LockView {
    /// Who holds it exclusively.
    pub owner: Option<Slot>,
    /// The owner is about to enter, but not inside.
    pub entering: bool,
    /// A holder died inside.
    pub inconsistent: bool,
    /// The VMs that have slots, by slot.
    pub leases: [Option<LeaseId>; SLOTS],
    /// Threads inside shared, by slot.
    pub readers: [u64; SLOTS],
    /// Threads waiting to share.
    pub waiting_shared: u32,
    /// Threads waiting to be alone.
    pub waiting_exclusive: u32,
}

impl LockView {
    /// Lease of the exclusive holder.
    #[must_use]
    pub fn owner_lease(&self) -> Option<LeaseId> {
        self.owner.and_then(|slot| self.leases.get(slot.raw() as usize).copied().flatten())
    }
}

/// Reads a page without changing it; dead VMs are still in it.
pub fn inspect<W: LockWords>(words: &W) -> LockView {
    let seen = words.load(word::STATE);
    let mut view = LockView {
        owner: (seen & state::OWNER).checked_sub(1).and_then(|slot| Slot::new(slot as u32)),
        entering: seen & state::CLAIM != 0,
        inconsistent: seen & state::INCONSISTENT != 0,
        leases: core::array::from_fn(|slot| LeaseId::new(words.load(word::LEASES + slot))),
        readers: core::array::from_fn(|slot| words.load(word::LANES + slot)),
        waiting_shared: 0,
        waiting_exclusive: 0,
    };
    for entry in (word::QUEUE..word::QUEUE_END).filter_map(|index| Entry::read(words.load(index))) {
        match entry.want() {
            Want::Shared => view.waiting_shared += 1,
            Want::Exclusive | Want::Upgrade => view.waiting_exclusive += 1,
        }
    }
    view
}

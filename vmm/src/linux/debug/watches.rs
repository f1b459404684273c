//! Watchpoints: memory of which a debugger wants to know when the program uses it.
//!
//! By the pages that they are in: an access there is a fault, and the instruction that makes it is looked at, and made
//! while its thread is alone in the guest (`private::guards`, `alone`). So only what uses those pages costs something, and
//! nothing is missed.
//!
//! What cannot be done so is done by single steps, of all threads, which is slow, an exit for an instruction: watchpoints
//! in memory of attached address spaces, and in more pages than are reasonable. Either is the same on every host, and
//! exact about the thread. What the VMM writes and reads for a call is not seen, as natively.

use std::collections::BTreeMap;

use abi::PAGE_SIZE;
use abi::layout::is_of_segments;

use crate::linux::operands::Operand;
use crate::private::guards::Guard;

/// How many there may be, and how long.
const WATCHES_MAX: usize = 64;
const LEN_MAX: u64 = 1 << 20;
/// In how many pages they may be that are watched as such.
const PAGES_MAX: usize = 64;

/// What a watchpoint is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Writing.
    Write,
    /// Reading.
    Read,
    /// Both.
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Watch {
    at: u64,
    len: u64,
    access: Access,
}

impl Watch {
    fn concerns(&self, operand: &Operand) -> bool {
        let meets = operand.at < self.at.saturating_add(self.len)
            && self.at < operand.at.saturating_add(operand.len);
        meets
            && match self.access {
                Access::Write => operand.writes,
                Access::Read => operand.reads,
                Access::Any => true,
            }
    }
}

/// Those that there are.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<Watch>);

impl Watches {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes one, or removes it; returns whether that can be done.
    pub(super) fn set(&mut self, at: u64, len: u64, access: Access, is_set: bool) -> bool {
        let watch = Watch { at, len, access };
        self.0.retain(|known| *known != watch);
        if !is_set {
            return true;
        }
        let fits = self.0.len() < WATCHES_MAX && (1..=LEN_MAX).contains(&len);
        if fits {
            self.0.push(watch);
        }
        fits
    }

    /// The pages that they are in, and what is to be seen of each; `None` if it takes steps to see all.
    pub(super) fn pages(&self) -> Option<BTreeMap<u64, Guard>> {
        let mut pages = BTreeMap::new();
        for Watch { at, len, access } in &self.0 {
            let last = at.checked_add(len - 1)?;
            let guard = match access {
                Access::Write => Guard::Writing,
                Access::Read | Access::Any => Guard::All,
            };
            for page in at / PAGE_SIZE..=last / PAGE_SIZE {
                let known = pages.entry(page * PAGE_SIZE).or_insert(guard);
                *known = guard.max(*known);
                if is_of_segments(page * PAGE_SIZE) || pages.len() > PAGES_MAX {
                    return None;
                }
            }
        }
        Some(pages)
    }

    /// The one that an instruction with these operands concerns.
    pub(super) fn hit(&self, operands: &[Operand]) -> Option<(u64, Access)> {
        let watch = self.0.iter().find(|watch| operands.iter().any(|it| watch.concerns(it)))?;
        Some((watch.at, watch.access))
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Guard, LEN_MAX, Operand, WATCHES_MAX, Watches};

    fn operand(at: u64, reads: bool, writes: bool) -> Operand {
        Operand { at, len: 8, reads, writes }
    }

    #[test]
    fn a_watchpoint_is_met_by_any_byte_of_it_and_by_its_kind_of_access() {
        let mut watches = Watches::default();
        assert!(watches.set(0x1004, 4, Access::Write, true));
        let write = |at| watches.hit(&[operand(0, true, false), operand(at, false, true)]);
        assert_eq!(write(0x1000), Some((0x1004, Access::Write)));
        assert_eq!(write(0x1007), Some((0x1004, Access::Write)));
        assert_eq!((write(0xffc), write(0x1008)), (None, None));
        assert_eq!(watches.hit(&[operand(0x1004, true, false)]), None);
        assert!(watches.set(0x1004, 4, Access::Write, false) && watches.is_empty());
        for (access, reads, writes) in
            [(Access::Read, true, false), (Access::Any, true, true), (Access::Write, false, true)]
        {
            let mut watches = Watches::default();
            watches.set(u64::MAX - 1, 2, access, true);
            let at = u64::MAX - 8;
            assert_eq!(watches.hit(&[operand(at, true, false)]).is_some(), reads, "{access:?}");
            assert_eq!(watches.hit(&[operand(at, false, true)]).is_some(), writes, "{access:?}");
        }
    }

    #[test]
    fn pages_are_watched_for_all_that_is_in_them_and_steps_are_for_what_is_not_the_programs_own() {
        let mut watches = Watches::default();
        watches.set(0x1ffc, 8, Access::Write, true);
        watches.set(0x2008, 4, Access::Read, true);
        watches.set(0x2010, 4, Access::Write, true);
        let pages = watches.pages().unwrap();
        assert_eq!(pages, [(0x1000, Guard::Writing), (0x2000, Guard::All)].into());
        watches.set(0x10_0000, 64 << 12, Access::Write, true);
        assert_eq!(watches.pages(), None, "too many");
        watches.set(0x10_0000, 64 << 12, Access::Write, false);
        assert!(watches.pages().is_some());
        watches.set(abi::layout::VAS_START.raw(), 1, Access::Write, true);
        assert_eq!(watches.pages(), None);
        let mut watches = Watches::default();
        watches.set(u64::MAX, 2, Access::Write, true);
        assert_eq!(watches.pages(), None);
        assert_eq!(Watches::default().pages(), Some([].into()));
    }

    #[test]
    fn there_is_a_limited_number_of_a_limited_length() {
        let mut watches = Watches::default();
        assert!(!watches.set(0, 0, Access::Any, true));
        assert!(!watches.set(0, LEN_MAX + 1, Access::Any, true));
        for at in 0..WATCHES_MAX as u64 {
            assert!(watches.set(at, 1, Access::Any, true));
        }
        assert!(watches.set(0, 1, Access::Any, true), "it is there already");
        assert!(!watches.set(99, 1, Access::Any, true));
    }
}

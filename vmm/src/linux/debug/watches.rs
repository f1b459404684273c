//! Watchpoints: memory of which a debugger wants to know when the program uses it.
//!
//! By single steps: before each instruction of each thread it is looked at which memory that will use, and
//! when it has, the thread stands. So they are the same on every host, exact about the thread, and slow: an exit for an
//! instruction. What the VMM writes and reads for a call is not seen, as natively.

use crate::linux::operands::Operand;

/// How many there may be, and how long.
const WATCHES_MAX: usize = 64;
const LEN_MAX: u64 = 1 << 20;

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

    /// The one that an instruction with these operands concerns.
    pub(super) fn hit(&self, operands: &[Operand]) -> Option<(u64, Access)> {
        let watch = self.0.iter().find(|watch| operands.iter().any(|it| watch.concerns(it)))?;
        Some((watch.at, watch.access))
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, LEN_MAX, Operand, WATCHES_MAX, Watches};

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

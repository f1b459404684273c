//! Counts the periods in which guest memory has reduced rights, so that a failed access can tell
//! whether it coincided with one. `memory.rs` creates such periods, and explains why.
#![forbid(unsafe_code)]

/// Periods in which some mapping has reduced rights: how many are current, in the lower half, and
/// how many there have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Withheld(pub(super) u64);

impl Withheld {
    pub(super) const BEGUN: u64 = 1;
    pub(super) const ENDED: u64 = (1 << 32) - 1;

    /// Whether an access that began at `before` and has failed by now may have coincided with such
    /// a period.
    #[must_use]
    pub fn may_have_hit(self, before: Withheld) -> bool {
        self != before || self.0 & u64::from(u32::MAX) != 0
    }
}

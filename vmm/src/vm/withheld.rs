//! The count of moments in which guest memory has less than its rights, and what it tells those
//! whose access failed. Who makes such moments, and why, is `memory.rs`'s.
#![forbid(unsafe_code)]

/// Moments in which some mapping has less than its rights: how many there are now, in the lower
/// half, and how many there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Withheld(pub(super) u64);

impl Withheld {
    pub(super) const BEGUN: u64 = 1;
    pub(super) const ENDED: u64 = (1 << 32) - 1;

    /// Whether an access that began at `before` and failed by now may have met such a moment.
    #[must_use]
    pub fn may_have_hit(self, before: Withheld) -> bool {
        self != before || self.0 & u64::from(u32::MAX) != 0
    }
}

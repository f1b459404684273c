//! Page faults of the program: which accesses are allowed, and what is made present for them.

use abi::PAGE_SIZE;

use super::region::{BLOCK, PrivateRegion};
use super::vma::Backing;
use crate::access::{FaultCause, FaultOutcome};

/// Most blocks mapped ahead of a sequence of faults.
const MAX_AHEAD_BLOCKS: u64 = 32;

impl PrivateRegion {
    /// Resolves a page fault at `gva`, or returns why it cannot.
    #[must_use]
    pub fn fault(&self, gva: u64, cause: FaultCause) -> FaultOutcome {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some((start, vma)) = inner.areas.find(gva) else { return FaultOutcome::Unmapped };
        let vma = vma.clone();
        let allowed = match cause {
            FaultCause::Data(access) => vma.prot.allows(access),
            FaultCause::Fetch => vma.prot.can_execute(),
        };
        if !allowed {
            return FaultOutcome::Forbidden;
        }
        let mut end = vma.end;
        if let Backing::File { file, offset, .. } = &vma.backing {
            let size = file.metadata().map_or(0, |m| m.len());
            let bytes = size.saturating_sub(*offset).next_multiple_of(PAGE_SIZE);
            end = end.min(start.saturating_add(bytes));
            if gva >= end {
                return FaultOutcome::BeyondFile;
            }
        }
        if let Some(outcome) = self.image_fault(inner, gva, cause, start..end, &vma) {
            return outcome;
        }
        let first = gva / BLOCK * BLOCK;
        inner.ahead_blocks = if first == inner.next_fault {
            (inner.ahead_blocks * 2).min(MAX_AHEAD_BLOCKS)
        } else {
            1
        };
        let wanted = first.max(start)..(first + inner.ahead_blocks * BLOCK).min(end);
        inner.next_fault = wanted.end;
        if self.populate(inner, wanted, &vma).is_ok() {
            return FaultOutcome::Resolved;
        }
        // Short of memory: only the page itself.
        let page = gva & !(PAGE_SIZE - 1);
        let page = page..page + PAGE_SIZE;
        match self.populate(inner, page.clone(), &vma) {
            Err(_) if self.recycle(inner, &page) && self.populate(inner, page, &vma).is_ok() => {
                FaultOutcome::Resolved
            }
            Ok(()) => FaultOutcome::Resolved,
            Err(_) => FaultOutcome::OutOfMemory,
        }
    }
}

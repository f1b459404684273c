//! Looking at a program's areas without changing them, for crash reports.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

use super::private::Space;
use super::vma::{Prot, Vma};

/// An area as a report shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Where it lies.
    pub range: Range<u64>,
    /// What the program may do there.
    pub prot: Prot,
    /// What it is for.
    pub label: &'static str,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        write!(f, "{start:#x}-{end:#x} {} {}", self.prot, self.label)
    }
}

/// An address and what lies around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The nearest area that ends at or below the address.
    pub below: Option<Area>,
    /// The area that holds it.
    pub at: Option<Area>,
    /// The nearest area that begins above it.
    pub above: Option<Area>,
}

impl Space {
    /// What lies at and around `gva`.
    #[must_use]
    pub fn surroundings(&self, gva: u64) -> Surroundings {
        let mut around = Surroundings::default();
        let area = |range: Range<u64>, vma: &Vma| Area { range, prot: vma.prot, label: vma.label };
        for (range, vma) in self.lock().areas.iter() {
            if range.end <= gva {
                around.below = Some(area(range, vma));
            } else if range.start <= gva {
                around.at = Some(area(range, vma));
            } else {
                around.above = Some(area(range, vma));
                break;
            }
        }
        around
    }
}

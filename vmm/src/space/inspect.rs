//! Looking at a program's areas without changing them, for reports and `/proc/self/maps`.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

use super::private::Space;
use super::vma::{Backing, Prot, Vma};
use crate::vm::memory::FileMapping;

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
    /// The areas in the format of `/proc/self/maps`.
    #[must_use]
    pub fn maps(&self) -> String {
        use std::fmt::Write;
        let inner = self.lock();
        let mut text = String::new();
        for (range, vma) in inner.areas.iter() {
            let (share, offset) = match &vma.backing {
                Backing::File { offset, kind: FileMapping::Private, .. } => ('p', *offset),
                Backing::File { offset, .. } => ('s', *offset),
                Backing::Anonymous => ('p', 0),
            };
            let name = match vma.label {
                "stack" => "[stack]",
                "heap" => "[heap]",
                "vdso" => "[vdso]",
                _ => "",
            };
            let (start, end) = (range.start, range.end);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{start:08x}-{end:08x} {}{share} {offset:08x} 00:00 0 {name:>27}",
                vma.prot
            );
        }
        text
    }

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

//! [`Space::check`](crate::Space::check): whether all that is stored is what its types say.
//!
//! A walk from the root object, by types, through all that it owns and points to, which trusts nothing that it reads: bytes become
//! a value only when they were looked at as bytes. `spacejmp seg check` knows the heap, and which blocks something like a pointer
//! leads to; this knows what lies in them.
//!
//! - `report`: what is found; `checker`: the walk, and the ways of owners; `shared`: values of several owners, and pointers; `parts`: structs and
//!   enums, as `#[derive(Storable)]` describes them
//! - `place`: bytes, the only way to them; `blocks`: which blocks there are; `niche`: how `None` is written
//! - The types have their own part of it beside them: [`Storable::check_stored`].

pub(crate) mod blocks;
mod checker;
mod niche;
mod parts;
mod place;
mod report;
mod shared;
#[cfg(test)]
mod tests;

pub use checker::Checker;
pub(crate) use checker::{Needed, Walk, elements, numbered, unnamed};
pub use place::Place;
pub use report::{CheckReport, Expected, Finding, MAX_LISTED, Problem};

use blocks::Blocks;
use checker::{Frame, Label};
use seg_heap::check::Report;

use crate::brand::Brand;
use crate::storable::Storable;
use crate::token::{At, Read};

/// Checks all that is reached from the root object, an `R` at `root`; `heap` says what is wrong with the heap.
pub(crate) fn check_from<V: Brand, R: Storable<V>>(
    at: &At<V, Read>,
    blocks: &mut dyn Blocks,
    heap: Option<&Report>,
    root: usize,
) -> CheckReport {
    let mut checker = Checker::new(at, blocks);
    for damage in heap.map_or(&[][..], |heap| &heap.damage) {
        let problem = Problem::Heap(*damage);
        checker.report.findings.push(Finding { path: "heap".to_owned(), problem });
    }
    checker.report.damages = heap.map_or(0, |heap| heap.damages);
    checker.all_from::<R>(root);
    let miscounted = checker.miscounted();
    if heap.is_none_or(Report::sound) {
        checker.report.leaks = checker.blocks.unreached();
    }
    let mut report = std::mem::take(&mut checker.report);
    if !miscounted.is_empty() {
        // Once more, to find the way to them: to remember all ways would take more than all values.
        blocks.forget();
        let mut again = Checker::new(at, blocks);
        again.wanted = miscounted.iter().map(|&(address, ..)| (address, None)).collect();
        again.all_from::<R>(root);
        let ways = std::mem::take(&mut again.wanted);
        again.report = report;
        for (address, found, recorded) in miscounted {
            let way = ways.get(&address).cloned().flatten();
            let way = way.unwrap_or_else(|| format!("(value at {address:#x})"));
            again.tell_miscounted(way, found, recorded);
        }
        report = again.report;
    }
    report
}

impl<V: Brand> Checker<'_, V> {
    fn all_from<R: Storable<V>>(&mut self, root: usize) {
        // A root object without a size has a byte.
        let needed = Needed { bytes: size_of::<R>().max(1) as u128, ..Needed::of::<R>() };
        let labels: Box<[Label]> = Box::new([Label::Name("root".to_owned())]);
        let nothing = Frame {
            parent: None,
            labels,
            step: elements::<R, V>,
            show: unnamed,
            walk: Walk::new(Place::nowhere(1), 0),
        };
        // So that there is a path if it is not there.
        self.frames.push(nothing);
        match self.claim(root, needed) {
            Some(place) => *self.walk() = Walk::new(place, 1),
            None => drop(self.frames.pop()),
        }
        self.run();
        self.run_pending();
    }
}

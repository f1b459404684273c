//! A reader's pages that lie in several files, gathered: a copy of 2 MiB in one piece of anonymous memory, which one
//! large page shows. Otherwise each of the 512 pages takes a fault of the host's, and an entry in the processor's
//! TLB. The copy costs memory, so it is made only where a thread goes through pages one after the other, and as
//! long as there is plenty.
//!
//! Whether a thread has read most of a table's pages the table says: its entries are made with the accessed bit clear, which
//! the processor, or KVM, sets. It is the guest's memory: whoever sets them all gets copies sooner.
#![forbid(unsafe_code)]

use std::sync::Arc;

use abi::{Entry, PAGE_SIZE, PAGE_SIZE_2M};
use spacejmp_versions::segment::Source;

use super::copies::{Copies, Frame};
use super::leaf::Leaf;
use super::segment::VersionedSegment;
use super::view::{READ, View};
use crate::vas::VasError;
use crate::vas::tables::TableFrames;

/// So many pages are copied at once: as much as is in the cache meanwhile.
const AT_ONCE: usize = 16;
/// With more pages of zeros among 512 it is a waste of memory.
const ZEROS_MAX: usize = 256;
/// Pages of a table that were read, if a thread goes through it: a copy costs what 300 faults do.
const READ_MIN: usize = 256;
/// With fewer runs of pages in files it is not worth a copy.
const RUNS_MIN: usize = 8;
/// Large pages of files between one place and the next, at most.
const APART_MAX: u64 = 4;

impl View {
    /// Shows the 2 MiB of `gva`, which has no entry yet, as a copy of its own, if that is worth it. Returns whether
    /// it does.
    pub(super) fn gather(
        &mut self,
        gva: u64,
        segment: &VersionedSegment,
        copies: &mut Copies,
        frames: &mut TableFrames,
    ) -> Result<bool, VasError> {
        let Some((end, pages)) = self.unshown_group(gva) else { return Ok(false) };
        if !copies.has_room_to_gather() || !self.is_gone_through(gva, frames)? {
            return Ok(false);
        }
        let sources = segment.log().sources(pages, self.version)?;
        if !is_worth_it(&sources) {
            return Ok(false);
        }
        // Near the limit of memory single pages have to do.
        let Ok(made) = copies.zeroed_group(frames.machine()) else { return Ok(false) };
        let entry = Entry::Page(copies.gpa(made[0]), READ);
        let linked = fill(&sources, &made, segment, copies)
            .and_then(|()| Ok(self.link_leaf(gva, entry, frames)?));
        if let Err(error) = linked {
            copies.give_back(made);
            return Err(error);
        }
        self.leaves.insert(gva / PAGE_SIZE_2M, Arc::new(Leaf::gathered(entry, end, made)));
        Ok(true)
    }

    /// Whether a thread that has come to `gva` has read most of what lies before it, or behind.
    fn is_gone_through(&self, gva: u64, frames: &TableFrames) -> Result<bool, VasError> {
        let group = gva / PAGE_SIZE_2M;
        // What one layer has whole is one large page: nothing is known of how much of it was read.
        let is_known = |group: u64| {
            let leaf = self.leaves.get(&group)?;
            (leaf.table().is_some() || leaf.is_gathered()).then_some((group, leaf))
        };
        let before = (group.saturating_sub(APART_MAX)..group).rev();
        let before = before.take_while(|it| self.leaves.contains_key(it)).find_map(is_known);
        let behind = group + 1..=group + APART_MAX;
        let behind = behind.take_while(|it| self.leaves.contains_key(it)).find_map(is_known);
        for (group, leaf) in before.into_iter().chain(behind) {
            let Some(table) = leaf.table() else { return Ok(true) };
            let start = group * PAGE_SIZE_2M;
            let mut read = 0;
            for at in (start..start + PAGE_SIZE_2M).step_by(PAGE_SIZE as usize) {
                let entry = table.get(frames.mem(), at)?;
                read += usize::from(entry.is_present() && entry.raw() & abi::pte::PTE_A != 0);
            }
            if read >= READ_MIN {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether pages are there, and lie in so many pieces that a copy is better.
fn is_worth_it(sources: &[Source]) -> bool {
    let zeros = sources.iter().filter(|source| **source == Source::Zero).count();
    let runs = sources.chunk_by(|page, next| page.is_followed_by(*next)).count();
    zeros <= ZEROS_MAX && runs >= RUNS_MIN
}

/// Copies what the pages have into frames.
fn fill(
    sources: &[Source],
    frames: &[Frame],
    segment: &VersionedSegment,
    copies: &mut Copies,
) -> Result<(), VasError> {
    for (sources, frames) in sources.chunks(AT_ONCE).zip(frames.chunks(AT_ONCE)) {
        let content = segment.log().read_all(sources)?;
        for ((frame, source), page) in frames.iter().zip(sources).zip(&content) {
            if *source != Source::Zero {
                copies.write(*frame, page);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use spacejmp_versions::log::header::LogId;

    use super::*;
    use crate::vas::versioned::world::{BASE, PAGES, World};

    fn gathered(view: &View) -> Vec<u64> {
        let leaves = view.leaves.iter().filter(|(_, leaf)| leaf.is_gathered());
        leaves.map(|(group, _)| group - BASE / PAGE_SIZE_2M).collect()
    }

    #[test]
    fn who_goes_through_scattered_pages_gets_copies_of_2_mib_behind_those_that_were_read() {
        let mut world = World::new(5);
        let some: Vec<u64> = (0..PAGES).step_by(8).collect();
        world.commit(&some);
        let mut view = world.view(None);
        (0..512).for_each(|page| world.touch(&mut view, page));
        world.touch(&mut view, 512);
        assert_eq!(gathered(&view), [1]);
        // Of the last one there are not 2 MiB.
        (513..PAGES).for_each(|page| world.touch(&mut view, page));
        assert_eq!((gathered(&view), world.held()), (vec![1, 2], 2 * PAGE_SIZE_2M));
        let content = world.newest.clone();
        world.assert_shows(&view, &content, "gathered");
        // A newer version shares them where nothing has changed.
        world.commit(&[512]);
        let newer = world.view(Some(&view));
        assert_eq!(gathered(&newer), [2]);
        world.drop_view(view);
        assert_eq!(world.held(), PAGE_SIZE_2M);
        world.drop_view(newer);
        assert_eq!(world.held(), 0);
    }

    #[test]
    fn who_reads_here_and_there_gets_none() {
        let mut world = World::new(6);
        let some: Vec<u64> = (0..PAGES).step_by(8).collect();
        world.commit(&some);
        let mut view = world.view(None);
        for page in [3, 900, 1030, 40, 600, 1500] {
            world.touch(&mut view, page);
        }
        assert_eq!((gathered(&view), world.held()), (vec![], 0));
    }

    #[test]
    fn what_lies_in_few_pieces_or_is_mostly_zeros_is_shown_where_it_is() {
        let home = |page: u64| Source::Home(page * PAGE_SIZE);
        let log = |page: u64| Source::Log(LogId(1), page * PAGE_SIZE);
        let whole: Vec<Source> = (0..512).map(home).collect();
        assert!(!is_worth_it(&whole));
        let some = |every: u64| -> Vec<Source> {
            (0..512)
                .map(|page| if page % every == 1 { log(page / every) } else { home(page) })
                .collect()
        };
        assert!(is_worth_it(&some(16)));
        assert!(!is_worth_it(&some(300)));
        let sparse: Vec<Source> =
            (0..512).map(|page| if page % 3 == 0 { log(page) } else { Source::Zero }).collect();
        assert!(!is_worth_it(&sparse));
    }
}

//! A writer's pages where its version has nothing. They are absent until they are touched, and then
//! made in growing numbers: who fills a range meets a fault for each 2 MiB, and who writes here and
//! there gets at most about twice the memory that it uses.
//!
//! Entries that are present are left alone, so that no translation becomes wrong. All of 2 MiB is one large
//! page, which stays until the tables go: the thread has all that it shows, and nobody else.
#![forbid(unsafe_code)]

use std::sync::Arc;

use abi::{Entry, PAGE_SIZE, PAGE_SIZE_2M, Table};
use spacejmp_versions::PageIndex;
use spacejmp_versions::segment::Source;

use super::copies::Copies;
use super::leaf::Leaf;
use super::segment::VersionedSegment;
use super::view::{READ, View, WRITE};
use crate::vas::VasError;
use crate::vas::tables::TableFrames;

/// Pages in 2 MiB.
const GROUP_PAGES: u64 = PAGE_SIZE_2M / PAGE_SIZE;

impl View {
    /// Gives the thread own zeros in all 2 MiB of `gva`, which has no entry yet, if it is to write all of it and
    /// the version has nothing there. Returns whether it has.
    pub(super) fn make_fresh_group(
        &mut self,
        gva: u64,
        segment: &VersionedSegment,
        copies: &mut Copies,
        frames: &mut TableFrames,
    ) -> Result<bool, VasError> {
        let Some((end, pages)) = self.unshown_group(gva) else { return Ok(false) };
        if self.worth_making(gva) < GROUP_PAGES || !copies.has_room_for_group() {
            return Ok(false);
        }
        let sources = segment.log().sources(pages.clone(), self.version)?;
        let is_nothing = sources.iter().all(|source| *source == Source::Zero);
        if !is_nothing || self.absent.range(pages.clone()).next().is_some() {
            return Ok(false);
        }
        // Near the limit of memory single pages have to do.
        let Ok(made) = copies.zeroed_group(frames.machine()) else { return Ok(false) };
        let entry = Entry::Page(copies.gpa(made[0]), WRITE);
        if let Err(error) = self.link_leaf(gva, entry, frames) {
            copies.give_back(made);
            return Err(error.into());
        }
        self.leaves.insert(gva / PAGE_SIZE_2M, Arc::new(Leaf::whole(entry, end)));
        self.copies.extend((pages.start.0..).map(PageIndex).zip(made));
        Ok(true)
    }

    /// Gives the thread own pages of zeros at `gva`, whose entry in `table` is absent, and around it.
    pub(super) fn make_fresh(
        &mut self,
        gva: u64,
        table: Table,
        copies: &mut Copies,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let absent = self.absent_around(gva, self.worth_making(gva), table, frames)?;
        let made = copies.zeroed(absent.len(), frames.machine());
        let (absent, made) = match made {
            Ok(made) => (absent, made),
            // Near the limit of memory the page alone has to do.
            Err(_) => (vec![gva / PAGE_SIZE * PAGE_SIZE], copies.zeroed(1, frames.machine())?),
        };
        let mut rest = absent.into_iter().zip(made);
        for (at, frame) in rest.by_ref() {
            let set = table.set(frames.mem(), at, Entry::Page(copies.gpa(frame), WRITE));
            if let Err(error) = set {
                copies.give_back([frame].into_iter().chain(rest.map(|(_, frame)| frame)));
                return Err(error.into());
            }
            self.copies.insert(self.page(at), frame);
        }
        Ok(())
    }

    /// Shows zeros at `gva`, whose entry in `table` is absent, and around it. Where the thread has written
    /// nothing nearby it is not likely to, and sees all of the 2 MiB.
    pub(super) fn show_zeros(
        &mut self,
        gva: u64,
        table: Table,
        segment: &mut VersionedSegment,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let pages = match self.copied_in(gva) {
            0 => GROUP_PAGES,
            some => some,
        };
        let place = segment.place(self.page(gva), Source::Zero, frames.machine())?;
        for at in self.absent_around(gva, pages, table, frames)? {
            table.set(frames.mem(), at, Entry::Page(segment.gpa(place), READ))?;
        }
        Ok(())
    }

    /// How many pages a thread will write that has come to `gva`: as many as it has written in these
    /// 2 MiB, or all if those before are full.
    fn worth_making(&self, gva: u64) -> u64 {
        let before = gva.checked_sub(PAGE_SIZE_2M);
        match self.copied_in(gva) {
            0 if before.is_some_and(|before| self.copied_in(before) == GROUP_PAGES) => GROUP_PAGES,
            some => some.max(1),
        }
    }

    /// How many own pages the thread has in the 2 MiB of `gva`.
    fn copied_in(&self, gva: u64) -> u64 {
        let within = self.within(gva);
        if within.is_empty() {
            return 0;
        }
        let pages = self.page(within.start)..self.page(within.end);
        // Some may be in both: what is in memory counts then, and it is a guess.
        let spilled = self.spill.as_ref().map_or(0, |spill| spill.count_in(pages.clone()));
        self.copies.range(pages).count().max(spilled) as u64
    }

    /// Addresses of absent pages among `pages` around `gva`, rounded down to a power of two; `gva`'s own
    /// among them. Of pages that the thread has removed the version may have something.
    fn absent_around(
        &self,
        gva: u64,
        pages: u64,
        table: Table,
        frames: &TableFrames,
    ) -> Result<Vec<u64>, VasError> {
        let within = self.within(gva);
        let bytes = PAGE_SIZE << pages.min(GROUP_PAGES).ilog2();
        let start = gva / bytes * bytes;
        let around = start.max(within.start)..(start + bytes).min(within.end);
        let mut absent = Vec::new();
        for at in around.step_by(PAGE_SIZE as usize) {
            let removed = self.absent.contains_key(&self.page(at));
            if !removed && !table.get(frames.mem(), at)?.is_present() {
                absent.push(at);
            }
        }
        Ok(absent)
    }
}

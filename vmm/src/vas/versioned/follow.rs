//! Tables that nobody is in come to show a newer version: of all that they lead to, only the pages that
//! have changed get another entry. The rest stays as it is in the processor, and in KVM's shadow tables, which know a table
//! by its frame: in a new one each page would fault again.
//!
//! This is the one place where an entry of a reader's view is replaced. No thread is on the tables, and the
//! kernel is not shown them; with the mapping of the old page go all translations to it, and nothing is left that the
//! old entry could be known from. Large pages are never replaced. Of one that shows what was gathered the memory is this view's
//! alone: the pages that have changed are written there, and no translation changes.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use abi::{Entry, PAGE_SIZE, PAGE_SIZE_2M, SegId};
use spacejmp_versions::log::record::VersionFacts;
use spacejmp_versions::segment::Source;
use spacejmp_versions::{PageIndex, VersionNumber};

use super::copies::{Copies, Frame};
use super::segment::{VersionedSegment, WindowId, lock};
use super::view::{READ, View};
use super::visits::TablesId;
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::state::State;
use crate::vas::tables::TableFrames;
use crate::vm::Machine;

/// With more pages than these a view is built anew, as threads touch it.
const PAGES_MAX: usize = 256;

/// What a view becomes.
#[derive(Debug)]
pub(super) struct Steps {
    version: VersionNumber,
    facts: VersionFacts,
    pages: Vec<Step>,
    /// Frames of gathered pages, and what they come to show.
    gathered: Vec<(Frame, Source)>,
}

/// One page of it.
#[derive(Debug)]
struct Step {
    gva: u64,
    source: Source,
    from: (WindowId, u64),
    to: (WindowId, u64),
}

impl State {
    /// Has tables for reading that nobody is in show these versions, if not much has changed since those that
    /// they show. The thread on `vcpu` is about to get them.
    pub(super) fn follow(
        &mut self,
        vcpu: u32,
        vh: u32,
        versions: &BTreeMap<SegId, VersionNumber>,
    ) -> Option<TablesId> {
        let id = self.visits.newest_to_read(vh)?;
        let steps = self.steps(id, versions).unwrap_or_else(|error| {
            tracing::debug!("tables are built anew: {}", crate::error::chain(&error));
            None
        })?;
        // Only now: who comes meanwhile waits for the state.
        self.hide_view(vh);
        self.take_from_kernel(vh, Some(vcpu));
        let State { residency, visits, tables, .. } = self;
        let (visit, copies) = visits.idle(id)?;
        let followed = steps.into_iter().try_for_each(|(sid, steps)| {
            let segment = residency.of_member_mut(sid);
            segment.set_size(steps.facts.size_bytes)?;
            let Some(view) = visit.views.get_mut(&sid) else { return Ok(()) };
            view.follow(steps, segment.versioned_mut(), copies, tables)
        });
        if let Err(error) = followed {
            // Some of it shows the newer version.
            warn_if_failed("bring tables to a newer version", Err::<(), VasError>(error));
            visits.drop_tables(id, tables);
            return None;
        }
        Some(id)
    }

    /// What is to be done for that; `None` if they are not fit for it.
    fn steps(
        &mut self,
        id: TablesId,
        versions: &BTreeMap<SegId, VersionNumber>,
    ) -> Result<Option<Vec<(SegId, Steps)>>, VasError> {
        let State { residency, visits, tables, .. } = self;
        let Some(visit) = visits.get(id) else { return Ok(None) };
        if !visit.views.keys().eq(versions.keys()) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for ((&sid, view), &version) in visit.views.iter().zip(versions.values()) {
            let segment = residency.of_member_mut(sid).versioned_mut();
            let Some(steps) = view.steps_to(version, segment, tables)? else { return Ok(None) };
            all.push((sid, steps));
        }
        Ok(Some(all))
    }
}

impl View {
    /// What has to be done so that it shows `version`; `None` if it has to be built anew: too much has
    /// changed, or in a large page, or in a table that another view has, too, or where there was nothing; or it
    /// keeps a log or layer that could go.
    fn steps_to(
        &self,
        version: VersionNumber,
        segment: &mut VersionedSegment,
        frames: &TableFrames,
    ) -> Result<Option<Steps>, VasError> {
        let shared = segment.shared_log();
        let log = lock(&shared);
        let Some(facts) = log.facts(version).cloned() else { return Ok(None) };
        let is_there = self.leaves.values().all(|leaf| leaf.is_kept_by(&log));
        if version < self.version || facts.size_bytes != self.facts.size_bytes || !is_there {
            return Ok(None);
        }
        let Some(changed) = log.changed_between(self.version, version) else { return Ok(None) };
        let Some(shown) = self.shown_of(&changed) else { return Ok(None) };
        let mut found = Vec::with_capacity(shown.len());
        for page in shown {
            found.push((page, log.locate(page, self.version)?, log.locate(page, version)?));
        }
        drop(log);
        let (mut pages, mut gathered) = (Vec::with_capacity(found.len()), Vec::new());
        for (page, from, source) in found {
            if let Some(frame) = self.gathered_frame(page) {
                gathered.push((frame, source));
                continue;
            }
            // All pages of zeros are one: forgetting it would cost every place where there is none.
            if from == Source::Zero {
                return Ok(None);
            }
            if from == source {
                continue;
            }
            let step = self.step(page, from, source, segment, frames.machine())?;
            // What the entry leads to may be elsewhere by now.
            if !self.leads_to(step.gva, segment.gpa(step.from), frames)? {
                return Ok(None);
            }
            pages.push(step);
        }
        Ok(Some(Steps { version, facts, pages, gathered }))
    }

    /// The frame that a page was gathered in, if it was.
    fn gathered_frame(&self, page: PageIndex) -> Option<Frame> {
        let gva = self.address(page);
        let leaf = self.leaves.get(&(gva / PAGE_SIZE_2M))?;
        leaf.gathered.get((gva % PAGE_SIZE_2M / PAGE_SIZE) as usize).copied()
    }

    fn step(
        &self,
        page: PageIndex,
        from: Source,
        source: Source,
        segment: &mut VersionedSegment,
        machine: &Machine,
    ) -> Result<Step, VasError> {
        let from = segment.place(page, from, machine)?;
        let to = segment.place(page, source, machine)?;
        Ok(Step { gva: self.address(page), source, from, to })
    }

    /// Those of some pages that entries lead to; `None` if there are too many, or one of them is not to be
    /// replaced.
    fn shown_of(&self, pages: &BTreeSet<PageIndex>) -> Option<Vec<PageIndex>> {
        let mut shown = Vec::new();
        for &page in pages {
            let gva = self.address(page);
            let leaf = self.leaves.get(&(gva / PAGE_SIZE_2M)).filter(|leaf| gva < leaf.filled);
            let Some(leaf) = leaf else { continue };
            if !super::leaf::is_replaceable(leaf) || shown.len() == PAGES_MAX {
                return None;
            }
            shown.push(page);
        }
        Some(shown)
    }

    /// Carries steps out. Nobody is on the tables.
    ///
    /// # Errors
    /// The host's: then it shows no one version, and translations may be left. It has to go.
    fn follow(
        &mut self,
        steps: Steps,
        segment: &mut VersionedSegment,
        copies: &mut Copies,
        frames: &TableFrames,
    ) -> Result<(), VasError> {
        let (gathered, sources): (Vec<_>, Vec<_>) = steps.gathered.into_iter().unzip();
        if !gathered.is_empty() {
            let content = segment.log().read_all(&sources)?;
            gathered.iter().zip(&content).for_each(|(frame, page)| copies.write(*frame, page));
        }
        let mut left = Vec::with_capacity(steps.pages.len());
        for Step { gva, source, from, to } in steps.pages {
            let entry = Entry::Page(segment.gpa(to), READ);
            self.set_entry(gva, entry, Some(source), frames)?;
            left.push(from);
        }
        left.sort_unstable();
        for run in left.chunk_by(|a, b| a.0 == b.0 && a.1 + PAGE_SIZE == b.1) {
            segment.forget(run[0], run.len() as u64, frames.machine())?;
        }
        self.shows(steps.version, steps.facts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use spacejmp_versions::Sharing;
    use spacejmp_versions::segment::Commit;

    use super::*;
    use crate::vas::versioned::world::{BASE, PAGES, World};

    fn follow(world: &mut World, view: &mut View) -> bool {
        let version = world.segment.log().appended();
        let steps = view.steps_to(version, &mut world.segment, &world.frames).unwrap();
        let Some(steps) = steps else { return false };
        view.follow(steps, &mut world.segment, &mut world.copies, &world.frames).unwrap();
        true
    }

    #[test]
    fn only_entries_of_pages_that_have_changed_are_replaced() {
        let mut world = World::new(1);
        let mut view = world.view(None);
        world.touch(&mut view, 3);
        let table = view.leaves.values().next().unwrap().entry;
        let before = world.shown(&view, 5);
        world.commit(&[3, 4, 700]);
        assert!(follow(&mut world, &mut view));
        assert_eq!(view.version, VersionNumber(2));
        assert_eq!([3, 4, 5].map(|page| world.shown(&view, page)), [Some(2), Some(2), before]);
        assert_eq!(world.shown(&view, 700), None, "nobody has looked there");
        assert_eq!(view.leaves.values().next().unwrap().entry, table, "the table stays");
    }

    #[test]
    fn what_was_gathered_is_written_where_it_is_unless_another_view_shows_it_too() {
        let mut world = World::new(5);
        let some: Vec<u64> = (0..PAGES).step_by(8).collect();
        world.commit(&some);
        let mut view = world.view(None);
        (0..=512).for_each(|page| world.touch(&mut view, page));
        let group = BASE / PAGE_SIZE_2M + 1;
        let entry = view.leaves[&group].entry;
        assert!(view.leaves[&group].is_gathered());
        world.commit(&[513, 514, 3]);
        assert!(follow(&mut world, &mut view));
        let content = world.newest.clone();
        world.assert_shows(&view, &content, "gathered");
        assert_eq!(world.shown(&view, 514), Some(3));
        assert!(view.leaves[&group].entry == entry && world.held() == PAGE_SIZE_2M);
        // Somebody inside goes on to see it as it is.
        world.commit(&[2]);
        let mut newer = world.view(Some(&view));
        world.commit(&[515]);
        assert!(!follow(&mut world, &mut newer));
        world.assert_shows(&view, &content, "an older view");
        world.drop_view(newer);
        world.drop_view(view);
        assert_eq!(world.held(), 0);
    }

    #[test]
    fn large_pages_zeros_other_sizes_and_tables_that_others_have_are_built_anew() {
        let mut world = World::new(2);
        let mut view = world.view(None);
        world.touch(&mut view, 0);
        world.commit(&[1]);
        let mut other = world.view(Some(&view));
        world.touch(&mut other, 600);
        let mut third = world.view(Some(&other));
        world.commit(&[601]);
        assert!(!follow(&mut world, &mut third), "the other has the table, too");
        assert_eq!(world.shown(&other, 601), Some(1));
        drop(third);
        assert!(follow(&mut world, &mut other));
        assert_eq!(world.shown(&other, 601), Some(3));
        // In the home file 2 MiB are one page.
        let newest = world.segment.log().appended();
        world.segment.log().checkpoint(newest, Sharing::Alone).unwrap();
        let mut view = world.view(None);
        world.touch(&mut view, 0);
        assert!(view.is_in_large_page(BASE));
        world.commit(&[2]);
        assert!(!follow(&mut world, &mut view));
        let mut facts = world.segment.log().next_facts();
        facts.size_bytes += PAGE_SIZE;
        let mut view = world.view(None);
        let commit = Commit { facts, pages: Vec::new() };
        world.segment.log().append(&commit).unwrap();
        assert!(!follow(&mut world, &mut view));
    }

    #[test]
    fn whatever_happens_entries_lead_to_what_the_version_has_and_those_of_others_stay() {
        let (mut followed, mut gathered) = (0, 0);
        for seed in 0..4 {
            let mut world = World::new(seed);
            let mut view = world.view(None);
            let mut content = world.newest.clone();
            // As somebody who is inside has it.
            let mut kept: Option<(View, Vec<u64>)> = None;
            for round in 0..120 {
                let when = format!("seed {seed}, round {round}");
                match world.draw(12) {
                    0 if kept.is_none() => {
                        let next = world.view(Some(&view));
                        kept = Some((std::mem::replace(&mut view, next), content));
                        content = world.newest.clone();
                    }
                    1 => {
                        if let Some((view, _)) = kept.take() {
                            world.drop_view(view);
                        }
                    }
                    2 => {
                        let versions = kept.iter().map(|(view, _)| view.version);
                        let oldest = versions.chain([view.version]).min().unwrap();
                        world.segment.log().checkpoint(oldest, Sharing::Alone).unwrap();
                    }
                    3..5 => {
                        let page = world.draw(PAGES);
                        world.touch(&mut view, page);
                    }
                    5 => (0..PAGES).for_each(|page| world.touch(&mut view, page)),
                    _ => {
                        let count = world.draw(6) + 1;
                        let pages: Vec<u64> = (0..count).map(|_| world.draw(PAGES)).collect();
                        world.commit(&pages);
                        match follow(&mut world, &mut view) {
                            true => followed += 1,
                            false => {
                                let next = world.view(Some(&view));
                                world.drop_view(std::mem::replace(&mut view, next));
                            }
                        }
                        content = world.newest.clone();
                    }
                }
                gathered += view.leaves.values().filter(|leaf| leaf.is_gathered()).count();
                world.assert_shows(&view, &content, &when);
                if let Some((kept, content)) = &kept {
                    world.assert_shows(kept, content, &when);
                }
            }
            let views = kept.into_iter().map(|(view, _)| view).chain([view]);
            views.for_each(|view| world.drop_view(view));
            assert_eq!(world.held(), 0, "seed {seed}: copies that nobody has");
        }
        assert!(followed > 20 && gathered > 20, "{followed}, {gathered}");
    }
}

//! What of a writer's copies differs from the version that it began with: compared byte by byte, since
//! equal checksums prove nothing about content that somebody may have chosen.
#![forbid(unsafe_code)]

use std::time::SystemTime;

use abi::PAGE_SIZE;
use spacejmp_versions::log::record::{VersionFacts, note_of};
use spacejmp_versions::page::{PAGE_BYTES, Page};
use spacejmp_versions::segment::Source;
use spacejmp_versions::{PageIndex, VersionsError};

use super::append::{Change, NewPage};
use super::copies::{Copies, Frame};
use super::segment::{Log, VersionedSegment};
use super::spill::Spill;
use super::view::View;
use super::visits::KEPT_COPIES_MAX;
use crate::vas::VasError;
use crate::vas::residency::segment::VmSegment;
use crate::vm::Machine;
use crate::vm::host_range::{HostRange, own_number};
use crate::vm::windows::PinnedRange;

/// Pages whose committed content is read at once.
const READ_AT_ONCE: usize = 256;

/// From so many copies on that were not changed it is worth a little of the guest's time to know which ones it
/// writes, instead of comparing all of them,
const IDLE_MIN: usize = 32;
/// if they are so many times as many as those that were [of late](Lately): about what a fault in KVM costs, in comparisons of pages.
const IDLE_TO_CHANGED: usize = 8;

/// Of so many pages that differ the content is taken as they are compared; of further ones when they are
/// written.
const TAKEN_MAX: usize = KEPT_COPIES_MAX;

/// How many pages a writer's latest commits have changed: the most of them, of which each further commit takes
/// an eighth. A commit of little, or of nothing, between large ones is not to make each page that the next
/// one writes a fault.
#[derive(Debug, Default)]
pub(super) struct Lately(usize);

impl Lately {
    /// One more commit has changed so many.
    fn takes_in(&mut self, changed: usize) -> usize {
        self.0 = changed.max(self.0 - self.0.div_ceil(8));
        self.0
    }
}

/// Pages that are to become part of a version.
#[derive(Default)]
struct Differing {
    pages: Vec<(PageIndex, NewPage)>,
    /// How many of them are where nothing was.
    new: usize,
}

/// What a thread has changed in the segment that it writes in `view`; `None` if nothing. `program` is who
/// will have made the version.
pub(super) fn change(
    program: &str,
    message: &str,
    view: &mut View,
    segment: &mut VmSegment,
    copies: &mut Copies,
    machine: &Machine,
) -> Result<Option<Change>, VasError> {
    let file = segment.file.clone();
    let versioned = segment.versioned_mut();
    let mut differing = Differing::default();
    differing.add_copies(view, versioned, copies, machine)?;
    differing.add_removed(view, versioned, machine)?;
    let Differing { mut pages, new: new_pages } = differing;
    pages.sort_unstable_by_key(|(page, _)| *page);
    if pages.is_empty() && !view.has_new_facts() && view.spill.is_none() {
        return Ok(None);
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // People know a program by its file's name.
    let name = program.rsplit('/').next().unwrap_or_default();
    let note = note_of(name, message);
    let facts = VersionFacts {
        time_ns: since.as_nanos() as u64,
        pid: own_number().cast_unsigned(),
        note,
        entry: None,
        ..view.facts.clone()
    };
    let log = versioned.shared_log();
    let (sid, durability, base) = (view.sid, file.durability()?, view.version);
    let spilled = view.spill.as_ref().map(Spill::shared_layer);
    let is_looked_at = false;
    let change =
        Change { sid, log, file, durability, base, is_looked_at, facts, pages, new_pages, spilled };
    Ok(Some(change))
}

impl Differing {
    fn add_copies(
        &mut self,
        view: &mut View,
        versioned: &mut VersionedSegment,
        copies: &mut Copies,
        machine: &Machine,
    ) -> Result<(), VasError> {
        copies.take_in_writes();
        let mut own = [0; PAGE_BYTES];
        let (mut unknown, mut same, mut differing) = (Vec::new(), Vec::new(), Vec::new());
        let has = |(page, _): &(PageIndex, Frame)| page.0 * PAGE_SIZE < view.facts.size_bytes;
        for (page, frame) in view.copies().filter(has) {
            let is_spilled = view.is_spilled(page);
            if !is_spilled && !copies.may_differ(frame) {
                continue;
            }
            let Some(original) = view.originals.get(page) else {
                unknown.push((page, frame));
                continue;
            };
            match is_spilled || !copies.has(frame, original) {
                true => differing.push((page, frame)),
                false => same.push(frame),
            }
        }
        for some in unknown.chunks(READ_AT_ONCE) {
            let pages = some.iter().map(|(page, _)| *page);
            let located = located(&versioned.log(), view, pages)?;
            // What is where nothing was is compared with nothing that would have to be read.
            let was_there = located.iter().filter(|(_, source)| *source != Source::Zero);
            let was_there: Vec<_> = was_there.copied().collect();
            let mut committed = committed(versioned, &was_there, machine)?.into_iter();
            for ((page, frame), (_, source)) in some.iter().zip(&located) {
                let is_new = *source == Source::Zero;
                let is_same = if is_new {
                    own = [0; PAGE_BYTES];
                    copies.has(*frame, &own)
                } else {
                    copies.read_into(*frame, &mut own);
                    own == committed.next().unwrap_or([0; PAGE_BYTES])
                };
                if view.is_spilled(*page) || !is_same {
                    differing.push((*page, *frame));
                    self.new += usize::from(is_new);
                } else {
                    view.originals.keep(*page, Box::new(own));
                    same.push(*frame);
                }
            }
        }
        let idle = view.copied() - differing.len();
        let changed = view.lately.takes_in(differing.len());
        let is_worth_it = idle >= IDLE_MIN && idle >= IDLE_TO_CHANGED * changed;
        let is_kept = view.copied() <= KEPT_COPIES_MAX;
        copies.note_writes_near(view.copies().map(|(_, frame)| frame), is_worth_it && is_kept);
        // Only this thread writes them, and it is here.
        copies.settle(same);
        for (page, frame) in differing {
            let content = if self.pages.len() < TAKEN_MAX {
                let mut content = view.originals.spare();
                copies.read_into(frame, &mut content);
                NewPage::Taken(content)
            } else {
                NewPage::There(copies.pin(frame))
            };
            self.pages.push((page, content));
        }
        Ok(())
    }

    fn add_removed(
        &mut self,
        view: &View,
        versioned: &mut VersionedSegment,
        machine: &Machine,
    ) -> Result<(), VasError> {
        let removed = view.removed().filter(|page| page.0 * PAGE_SIZE < view.facts.size_bytes);
        let removed: Vec<_> = removed.collect();
        for some in removed.chunks(READ_AT_ONCE) {
            let located = located(&versioned.log(), view, some.iter().copied())?;
            let committed = committed(versioned, &located, machine)?;
            let is_changed = |(page, committed): &(&PageIndex, &Page)| {
                view.is_spilled(**page) || **committed != [0; PAGE_BYTES]
            };
            let changed = some.iter().zip(&committed).filter(is_changed);
            for (page, _) in changed {
                // Mapped when pages were removed; without it the changes are not whole.
                let zeros = versioned.mapped_page(*page, Source::Zero).ok_or(VasError::Spoilt)?;
                self.pages.push((*page, NewPage::There(zeros)));
            }
        }
        Ok(())
    }
}

/// Where pages lie in the view's version.
pub(super) fn located(
    log: &Log,
    view: &View,
    pages: impl Iterator<Item = PageIndex>,
) -> Result<Vec<(PageIndex, Source)>, VersionsError> {
    pages.map(|page| Ok((page, log.locate(page, view.version)?))).collect()
}

/// What is in pages where they lie. They are mapped, if they are not yet and if that can be: then one
/// call to the host reads them all. What this thread has committed itself nobody may have seen since.
pub(super) fn committed(
    versioned: &mut VersionedSegment,
    pages: &[(PageIndex, Source)],
    machine: &Machine,
) -> Result<Vec<Page>, VasError> {
    if pages.is_empty() {
        return Ok(Vec::new());
    }
    let pin = |(page, source): &(PageIndex, Source)| {
        let place = versioned.place(*page, *source, machine).ok()?;
        Some(versioned.pin(place))
    };
    if let Some(pinned) = pages.iter().map(pin).collect::<Option<Vec<PinnedRange>>>() {
        let ranges: Vec<_> = pinned.iter().map(PinnedRange::range).collect();
        let mut content = vec![[0; PAGE_BYTES]; ranges.len()];
        if HostRange::read_all_faultable(&ranges, content.as_flattened_mut()).is_ok() {
            return Ok(content);
        }
    }
    // A file has been cut short, which this gives a name; or nothing more can be mapped.
    let sources: Vec<Source> = pages.iter().map(|(_, source)| *source).collect();
    Ok(versioned.log().read_all(&sources)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_of_nothing_between_large_ones_counts_as_nearly_as_large() {
        let mut lately = Lately::default();
        for _ in 0..10 {
            assert_eq!(lately.takes_in(64), 64);
            assert_eq!(lately.takes_in(0), 56);
        }
        assert_eq!(lately.takes_in(100), 100);
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let mut lately = Lately::default();
        lately.takes_in(1000);
        let counted: Vec<usize> = (0..60).map(|_| lately.takes_in(1)).collect();
        assert!(counted.is_sorted_by(|a, b| a >= b), "{counted:?}");
        assert_eq!(counted.last(), Some(&1));
    }
}

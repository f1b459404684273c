//! Changed pages of a visit for which there is no memory: they are written to a layer in the making, and
//! seen there.
//!
//! Tables lead to the layer's file to be read only. A thread that stores to such a page again faults and gets
//! a copy in memory, as of any page; if that is written out as well, the file has what is newest. So a file is
//! never written by the guest, a full disk is an error of a call of the VMM's, and when the commit has made the
//! layer a version, the tables show it already.
//!
//! Which pages are written out goes round by address: no host tells for which copies there was no use lately. Only the
//! visit's own thread does it, while it is not in the guest, so nothing stores to a page between its being copied
//! and its entry being replaced. What a system call of that thread has in use stays, and so do large pages, whose
//! entries are never replaced: of those there are no more than leave room for others (`copies`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{Entry, GuestPhys, PAGE_SIZE, Right};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::page::{PAGE_BYTES, Page};
use spacejmp_versions::segment::Source;
use spacejmp_versions::{LargeCommit, LayerId, PageIndex, VersionsError};

use super::append::group_of;
use super::compare::{committed, located};
use super::copies::{Copies, Frame};
use super::segment::{LAYER_PIECE_BYTES, Log, VersionedSegment, forget, lock, piece_of};
use super::view::{READ, View};
use crate::vas::VasError;
use crate::vas::state::State;
use crate::vas::tables::TableFrames;
use crate::vm::Machine;
use crate::vm::windows::{FilePiece, PinnedRange, Usage, Window};

/// So many pages are written out together, if there are as many.
const AT_ONCE: usize = 1024;
/// Fewer are not worth it: each time costs host calls.
const LEAST: usize = 64;

/// A layer in the making, shared with the commit that makes it a version.
pub(super) type Layer = Arc<Mutex<LargeCommit<HostFolder>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Spill {
    id: LayerId,
    layer: Layer,
    log: Arc<Mutex<Log>>,
    /// Of its file, by number of the piece.
    windows: BTreeMap<u64, Arc<Window>>,
}

impl Spill {
    fn begin(log: Arc<Mutex<Log>>) -> Result<Spill, VersionsError> {
        let layer = LargeCommit::begin(&lock(&log))?;
        let (id, layer, windows) = (layer.id(), Arc::new(Mutex::new(layer)), BTreeMap::new());
        Ok(Spill { id, layer, log, windows })
    }

    fn layer(&self) -> MutexGuard<'_, LargeCommit<HostFolder>> {
        self.layer.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The layer, to be made a version without the state locked.
    pub(super) fn shared_layer(&self) -> Layer {
        self.layer.clone()
    }

    /// Whether a page was written out. If there is a copy in memory as well, that counts.
    pub(super) fn has(&self, page: PageIndex) -> bool {
        self.layer().has(page)
    }

    /// How many of some pages were written out.
    pub(super) fn count_in(&self, pages: std::ops::Range<PageIndex>) -> usize {
        self.layer().count_in(pages)
    }

    /// A page that was written out.
    pub(super) fn read(&self, page: PageIndex) -> Result<Page, VersionsError> {
        self.layer().read(page)
    }

    /// Has the file have these pages.
    fn write(&self, pages: &[(PageIndex, Page)]) -> Result<(), VersionsError> {
        let (has_failed, durable) = {
            let log = lock(&self.log);
            (log.has_failed(), log.durable())
        };
        if has_failed {
            // A root record that could not be stored may name the layer.
            return Err(VersionsError::Failed { durable });
        }
        let mut layer = self.layer();
        pages.iter().try_for_each(|(page, content)| layer.write(*page, content))?;
        layer.flush()
    }

    /// The window that shows a page that was written out, mapped if it was not, and the page's offset there.
    fn window(
        &mut self,
        page: PageIndex,
        machine: &Machine,
    ) -> Result<(&Arc<Window>, u64), VasError> {
        let (piece, offset) = piece_of(page, Some(self.id));
        if !self.windows.contains_key(&piece) {
            let layer = self.layer.lock().unwrap_or_else(|poison| poison.into_inner());
            let gone = || VersionsError::Damaged {
                file: self.id.file_name(),
                what: "a page was written there, but it is not open".to_owned(),
            };
            let file = layer.file().ok_or_else(gone)?.as_fd();
            let (at, bytes) = (piece * LAYER_PIECE_BYTES, LAYER_PIECE_BYTES);
            let piece_of_file =
                FilePiece { file, offset: at, bytes, writable: false, usage: Usage::Sparse };
            let window = machine.shared.of_file(&machine.windows, piece_of_file, None)?;
            self.windows.insert(piece, window);
        }
        Ok((&self.windows[&piece], offset))
    }

    fn gpa(&mut self, page: PageIndex, machine: &Machine) -> Result<GuestPhys, VasError> {
        let (window, offset) = self.window(page, machine)?;
        Ok(window.gpa().offset(offset))
    }

    /// The page where it was written out, for a system call.
    pub(super) fn pin(
        &mut self,
        page: PageIndex,
        machine: &Machine,
    ) -> Result<PinnedRange, VasError> {
        let (window, offset) = self.window(page, machine)?;
        Ok(window.pin(offset, PAGE_SIZE))
    }

    /// Drops every translation to the page where it was written out.
    pub(super) fn forget(&mut self, page: PageIndex, machine: &Machine) -> Result<(), VasError> {
        let (window, offset) = self.window(page, machine)?;
        forget(window, offset, 1, machine)
    }

    /// What it maps, once it is a layer of the segment's.
    pub(super) fn into_windows(self) -> (LayerId, BTreeMap<u64, Arc<Window>>) {
        (self.id, self.windows)
    }

    /// Throws it away. No entry leads there that a vCPU may use before it has forgotten all translations.
    pub(super) fn discard(self, frames: &mut TableFrames) {
        let windows = frames.machine().shared.give_back(self.windows.into_values());
        if !windows.is_empty() {
            frames.machine().windows.unmap(windows);
            frames.all_is_forgotten();
        }
        let log = lock(&self.log);
        let mut layer = self.layer.lock().unwrap_or_else(|poison| poison.into_inner());
        layer.abort(&log);
    }
}

/// Pages, rising, and what they have.
type Contents = Vec<(PageIndex, Page)>;

/// Where a page is seen of which the copy goes.
enum Place {
    /// In the layer in the making.
    Layer,
    /// Where the view's version has it: it was not changed.
    Committed(Source),
}

impl View {
    /// Whether it has changed pages that are in the layer in the making.
    pub(super) fn is_spilled(&self, page: PageIndex) -> bool {
        self.spill.as_ref().is_some_and(|spill| spill.has(page))
    }

    /// Writes copies out, about `most`, and gives their memory back; returns how many.
    ///
    /// # Errors
    /// The host's: all that is not written stays in memory.
    fn spill(
        &mut self,
        most: usize,
        segment: &mut VersionedSegment,
        copies: &mut Copies,
        frames: &mut TableFrames,
    ) -> Result<usize, VasError> {
        let end = PageIndex(self.facts.size_bytes.div_ceil(PAGE_SIZE));
        let hand = self.hand.min(end);
        let behind = self.copies.range(hand..end);
        let around = behind.chain(self.copies.range(..hand));
        let free = around.filter(|(page, frame)| {
            !copies.is_in_use(**frame) && !self.is_in_large_page(self.address(**page))
        });
        let mut chosen: Vec<(PageIndex, Frame)> =
            free.map(|(&page, &frame)| (page, frame)).take(most).collect();
        if chosen.len() < LEAST.min(most) {
            return Ok(0);
        }
        if let Some((last, _)) = chosen.last() {
            self.hand = PageIndex(last.0 + 1);
        }
        chosen.sort_unstable_by_key(|(page, _)| *page);
        let mut given_back = Vec::with_capacity(chosen.len());
        let mut groups = chosen.chunk_by(|a, b| group_of(a.0) == group_of(b.0));
        let spilled = groups.try_for_each(|group| {
            self.spill_group(group, segment, copies, frames, &mut given_back)
        });
        let count = given_back.len();
        // With the memory go the translations to it.
        copies.give_back(given_back);
        spilled.map(|()| count)
    }

    /// Some pages of 2 MiB.
    fn spill_group(
        &mut self,
        group: &[(PageIndex, Frame)],
        segment: &mut VersionedSegment,
        copies: &Copies,
        frames: &mut TableFrames,
        given_back: &mut Vec<Frame>,
    ) -> Result<(), VasError> {
        let (places, changed) = self.sort_out(group, segment, copies, frames.machine())?;
        if !changed.is_empty() {
            if self.spill.is_none() {
                self.spill = Some(Spill::begin(segment.shared_log())?);
            }
            if let Some(spill) = &self.spill {
                spill.write(&changed)?;
            }
        }
        for (&(page, frame), place) in group.iter().zip(places) {
            self.show(page, &place, segment, frames)?;
            self.copies.remove(&page);
            given_back.push(frame);
        }
        Ok(())
    }

    /// Where each page is to be seen, and what has to be written for that. Zeros where nothing was are left
    /// out; with most of 2 MiB that are new they are written, so that the layer has them all.
    fn sort_out(
        &self,
        group: &[(PageIndex, Frame)],
        segment: &mut VersionedSegment,
        copies: &Copies,
        machine: &Machine,
    ) -> Result<(Vec<Place>, Contents), VasError> {
        let located = located(&segment.log(), self, group.iter().map(|(page, _)| *page))?;
        let committed = committed(segment, &located, machine)?;
        let log = segment.log();
        let (mut places, mut changed, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
        for (&(page, frame), committed) in group.iter().zip(&committed) {
            let content = copies.read(frame);
            let spill = self.spill.as_ref().filter(|spill| spill.has(page));
            let is_there = match spill {
                Some(spill) => spill.read(page)? == content,
                None => false,
            };
            if !is_there && (spill.is_some() || content != *committed) {
                changed.push((page, content));
            }
            if spill.is_some() || content != *committed {
                places.push(Place::Layer);
                continue;
            }
            let source = log.locate(page, self.version)?;
            if source == Source::Zero {
                zeros.push((places.len(), page));
            }
            places.push(Place::Committed(source));
        }
        if changed.len() as u64 >= super::append::GROUP_PAGES / 2 {
            for (index, page) in zeros {
                places[index] = Place::Layer;
                changed.push((page, [0; PAGE_BYTES]));
            }
            changed.sort_unstable_by_key(|(page, _)| *page);
        }
        Ok((places, changed))
    }

    /// Has the entry of a page, whose copy's translations the caller has forgotten, lead to another place.
    fn show(
        &mut self,
        page: PageIndex,
        place: &Place,
        segment: &mut VersionedSegment,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let gva = self.address(page);
        let entry = match (place, &mut self.spill) {
            (Place::Layer, Some(spill)) => Entry::Page(spill.gpa(page, frames.machine())?, READ),
            // Absent as before it was touched.
            (Place::Layer, None) | (Place::Committed(Source::Zero), _) => Entry::Empty,
            (Place::Committed(source), _) => {
                let place = segment.place(page, *source, frames.machine())?;
                Entry::Page(segment.gpa(place), READ)
            }
        };
        let source = match place {
            Place::Layer => self.spill.as_ref().map(|spill| Source::Layer(spill.id, 0)),
            Place::Committed(source) => Some(*source),
        };
        self.set_entry(gva, entry, source, frames)
    }

    /// The layer in the making is thrown away, or is not to be what the tables show: they show what the
    /// view's version has.
    pub(super) fn leave_spill(
        &mut self,
        segment: &mut VersionedSegment,
        frames: &mut TableFrames,
    ) -> Result<(), VasError> {
        let Some(spill) = &self.spill else { return Ok(()) };
        let pages: Vec<PageIndex> = spill.layer().pages().collect();
        for page in pages {
            if !self.copies.contains_key(&page) && !self.absent.contains_key(&page) {
                let source = segment.log().locate(page, self.version)?;
                self.show(page, &Place::Committed(source), segment, frames)?;
            }
        }
        if let Some(spill) = self.spill.take() {
            spill.discard(frames);
        }
        Ok(())
    }

    /// The layer in the making is a version that the segment has, and the tables show it.
    pub(super) fn keep_spill(&mut self, segment: &mut VersionedSegment) {
        if let Some(spill) = self.spill.take() {
            segment.take_over_layer(spill);
        }
    }
}

impl State {
    /// Whether the thread on `vcpu` can change pages more without others staying in memory that should not.
    pub(crate) fn finds_room(&mut self, vcpu: u32) -> bool {
        self.make_room(vcpu).is_ok() && self.visits.copies.has_room()
    }

    /// Makes room for the pages that the thread on `vcpu` is about to change, by writing out others that it
    /// has changed: in the visit that it makes, or else in those that are suspended.
    ///
    /// # Errors
    /// The host's, when they cannot be written. There may be room all the same.
    pub(crate) fn make_room(&mut self, vcpu: u32) -> Result<(), VasError> {
        if self.visits.copies.has_room() {
            return Ok(());
        }
        let State { residency, visits, tables: frames, .. } = self;
        let suspended = visits.suspended(vcpu).iter().rev().filter_map(|it| it.tables());
        let ids: Vec<_> =
            visits.of(vcpu).map(|it| it.tables).into_iter().chain(suspended).collect();
        let mut left = AT_ONCE;
        for id in ids {
            let Some((tables, copies)) = visits.with_copies(id) else { continue };
            let written = tables.views.values_mut().filter(|view| view.right == Right::Write);
            for view in written {
                let segment = residency.of_member_mut(view.sid).versioned_mut();
                let sid = view.sid;
                let spilled = view.spill(left, segment, copies, frames);
                left = left.saturating_sub(spilled.map_err(|error| no_room(sid, error))?);
                if left < LEAST {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn no_room(sid: abi::SegId, error: VasError) -> VasError {
    match error {
        VasError::Versions(source) => VasError::NoRoom { sid, source },
        other => other,
    }
}

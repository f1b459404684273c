//! A versioned segment as this VM has it: its files, and the windows through which guests and system
//! calls see the pages of its layers and its logs.
//!
//! All windows are read-only and shared by all versions, and by all segments that have the same file, as copies
//! do: nothing that a version shows is overwritten.
//! A page that no log and no layer has is seen in a page of zeros.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use spacejmp_versions::disk::File as _;
use spacejmp_versions::disk::host::{HostFile, HostFolder};
use spacejmp_versions::layer::HOME_FILE_NAME;
use spacejmp_versions::log::LOG_BYTES_MAX;
use spacejmp_versions::log::header::LogId;
use spacejmp_versions::segment::Source;
use spacejmp_versions::{LayerId, PageIndex, Segment, VersionNumber, VersionsError};

use super::spill::Spill;
use crate::store::{OtherWriters, Publication, SegmentFile, StoreError, Tidings};
use crate::vas::VasError;
use crate::vm::Machine;
use crate::vm::windows::{FilePiece, PinnedRange, Usage, Window};

/// The segment's log and home file, shared by the threads of the VM.
pub(crate) type Log = Segment<HostFolder>;

/// See [`piece_bytes`].
pub(super) const LAYER_PIECE_BYTES: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct VersionedSegment {
    log: Arc<Mutex<Log>>,
    /// Of layers, the home file among them, by number of the piece and length: the files grow.
    layers: BTreeMap<(Option<LayerId>, u64, u64), Arc<Window>>,
    logs: BTreeMap<LogId, Arc<Window>>,
    zeros: Option<Arc<Window>>,
    pub(crate) news: News,
}

/// What this VM knows of the words that VMs tell each other, besides the versions themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// Words that were written so often are not looked at.
    pub(crate) ignored: Option<u64>,
    /// How often versions had been lost when it last looked.
    pub(crate) losses: u64,
    /// How often the words had been written then.
    looked_at: Option<u64>,
    /// How often they had been written when this VM came to write, and nobody else could: as long as it is so
    /// many times, there is no newer version.
    joined: Option<u64>,
    /// The newest version that a thread of this VM has seen or made.
    pub(crate) seen: VersionNumber,
    /// That one is lost. The program is told until it attaches the segment anew.
    pub(crate) is_stale: bool,
    /// A version that this VM has committed, and could not write the words for: its own threads see it,
    /// others do when the next one has taken the lock.
    pub(crate) untold: VersionNumber,
}

impl News {
    /// What somebody knows who comes now, and has just been `told` this.
    pub(crate) fn of(told: &Tidings, others: OtherWriters) -> News {
        let ignored = match others {
            OtherWriters::Live => None,
            OtherWriters::None => told.count,
        };
        let losses = told.lost.map_or(0, |lost| lost.count);
        News { ignored, losses, looked_at: told.count, ..News::default() }
    }

    /// The same of a VM that came to write, when the words had been written so often and nobody else could.
    pub(crate) fn joined_at(self, count: Option<u64>) -> News {
        News { joined: count, ..self }
    }

    /// Whether nothing was published since this VM came, and nobody else could write then.
    pub(crate) fn is_as_joined(&self, told: &Tidings) -> bool {
        told.count.is_some() && told.count == self.joined && told.failed_log.is_none()
    }

    /// This VM, which has the segment's lock, has published: nothing was lost since it looked, if nobody else
    /// has published.
    pub(crate) fn has_published(&mut self, Publication { before, now }: Publication) {
        if self.looked_at == Some(before) {
            self.looked_at = Some(now);
        }
    }

    /// Looks whether versions were lost that this VM has seen. `told` was read before what it sees now.
    pub(crate) fn look_for_losses(
        &mut self,
        file: &SegmentFile,
        told: &Tidings,
    ) -> Result<(), StoreError> {
        // Losses are told of before the version behind them.
        let is_known = told.count.is_some() && told.count == self.looked_at;
        let lost = if is_known { told.lost } else { file.lost_versions()? };
        self.looked_at = told.count;
        let Some(lost) = lost.filter(|lost| lost.count != self.losses) else { return Ok(()) };
        // Of several losses only the last is told of.
        let is_next = self.losses.checked_add(1) == Some(lost.count);
        let is_lost = (lost.after + 1..=lost.up_to).contains(&self.seen.0);
        self.is_stale |= is_lost || !is_next;
        self.losses = lost.count;
        Ok(())
    }
}

/// Where a page is seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum WindowId {
    /// A piece of a layer's file, by its number, and how much of it; of the home file without a
    /// layer's number.
    Layer(Option<LayerId>, u64, u64),
    /// A log.
    Log(LogId),
    /// The page of zeros.
    Zeros,
}

impl VersionedSegment {
    pub(crate) fn new(log: Log, news: News) -> VersionedSegment {
        let (layers, logs) = Default::default();
        VersionedSegment { log: Arc::new(Mutex::new(log)), layers, logs, zeros: None, news }
    }

    /// The log, alone.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Bytes of its logs; `None` while another thread has them.
    pub(crate) fn log_bytes(&self) -> Option<u64> {
        self.log.try_lock().ok().map(|log| log.log_bytes())
    }

    /// The log, to be used without the state locked.
    pub(crate) fn shared_log(&self) -> Arc<Mutex<Log>> {
        self.log.clone()
    }

    /// Puts a log that was opened anew, with more rights, in the place of this one.
    pub(crate) fn replace_log(&mut self, log: Log, news: News) {
        *self.log() = log;
        // What it has seen may have been lost since it looked last.
        self.news = News { ignored: news.ignored, joined: news.joined, ..self.news };
    }

    /// The window of a page and the page's offset in it, mapped if it was not.
    pub(crate) fn place(
        &mut self,
        page: PageIndex,
        source: Source,
        machine: &Machine,
    ) -> Result<(WindowId, u64), VasError> {
        let place = match source {
            Source::Zero => (WindowId::Zeros, 0),
            Source::Log(id, offset) => (WindowId::Log(id), offset),
            Source::Home(_) => self.place_in_layer(page, None)?,
            Source::Layer(id, _) => self.place_in_layer(page, Some(id))?,
        };
        self.map(place.0, machine)?;
        let (id, offset) = place;
        // A log says where its pages lie, and its file is not ours: behind the window is other memory.
        if offset.checked_add(PAGE_SIZE).is_none_or(|end| end > self.mapped(id).bytes()) {
            let what = format!("a page lies at {offset:#x}, where no log reaches");
            return Err(VersionsError::Damaged { file: "a log".to_owned(), what }.into());
        }
        Ok(place)
    }

    /// Where 2 MiB from page `first` on lie, mapped if they were not, if a layer has them all: each at its
    /// own offset, so that they follow each other.
    pub(crate) fn place_whole(
        &mut self,
        first: PageIndex,
        sources: &[Source],
        machine: &Machine,
    ) -> Result<Option<GuestPhys>, VasError> {
        let layer = match sources.first() {
            Some(Source::Home(_)) => None,
            Some(Source::Layer(id, _)) => Some(*id),
            Some(Source::Log(..) | Source::Zero) | None => return Ok(None),
        };
        let is_there = |source: &Source| match source {
            Source::Home(_) => layer.is_none(),
            Source::Layer(id, _) => layer == Some(*id),
            Source::Log(..) | Source::Zero => false,
        };
        let is_whole =
            sources.len() as u64 * PAGE_SIZE == PAGE_SIZE_2M && sources.iter().all(is_there);
        if !is_whole || !(first.0 * PAGE_SIZE).is_multiple_of(PAGE_SIZE_2M) {
            return Ok(None);
        }
        let place = self.place(first, sources[0], machine)?;
        let file_bytes = file_of(&self.log(), layer)?.bytes().unwrap_or(u64::MAX);
        if let WindowId::Layer(layer, piece, bytes) = place.0
            && machine.windows.is_dense(file_bytes)
            && let Some(window) = self.layers.get(&(layer, piece, bytes))
        {
            window.prefer_huge();
        }
        Ok(Some(self.gpa(place)))
    }

    /// The window of a page that a layer has, mapped or to be mapped.
    fn place_in_layer(
        &self,
        page: PageIndex,
        layer: Option<LayerId>,
    ) -> Result<(WindowId, u64), VasError> {
        let most = piece_bytes(layer);
        let (piece, offset) = piece_of(page, layer);
        let bytes = match self.mapped_piece(layer, piece, offset) {
            Some((bytes, _)) => bytes,
            None => {
                let bytes = file_of(&self.log(), layer)?.bytes();
                let bytes = bytes.map_err(|source| VersionsError::Io {
                    action: "measure",
                    file: name_of(layer),
                    source,
                })?;
                let left = bytes.saturating_sub(piece * most);
                // Kernel memory and time go by a window's length.
                left.next_power_of_two().clamp(PAGE_SIZE_2M, most)
            }
        };
        Ok((WindowId::Layer(layer, piece, bytes), offset))
    }

    /// A window that has an offset in a piece of a layer, and its length.
    fn mapped_piece(
        &self,
        layer: Option<LayerId>,
        piece: u64,
        offset: u64,
    ) -> Option<(u64, &Window)> {
        let most = piece_bytes(layer);
        let mut mapped = self.layers.range((layer, piece, offset + 1)..=(layer, piece, most));
        mapped.next().map(|(&(_, _, bytes), window)| (bytes, &**window))
    }

    fn map(&mut self, id: WindowId, machine: &Machine) -> Result<(), VasError> {
        if self.window(id).is_some() {
            return Ok(());
        }
        let shared = self.log.clone();
        let log = lock(&shared);
        let map = |file: &HostFile, identity, offset, bytes, usage| {
            let file = file.as_fd();
            let piece = FilePiece { file, offset, bytes, writable: false, usage };
            machine.shared.of_file(&machine.windows, piece, identity)
        };
        match id {
            WindowId::Zeros => self.zeros = Some(machine.shared.zeros(&machine.windows)?),
            WindowId::Layer(layer, piece, bytes) => {
                let (file, at) = (file_of(&log, layer)?, piece * piece_bytes(layer));
                let window = map(file, None, at, bytes, Usage::Sparse)?;
                self.layers.insert((layer, piece, bytes), window);
            }
            WindowId::Log(id) => {
                let gone = VersionsError::Damaged {
                    file: id.file_name(),
                    what: "a page lies in it, but it is not open".to_owned(),
                };
                let file = log.log_file(id).ok_or(gone)?;
                // It was just written, or read.
                let (identity, usage) = (log.log_identity(id), Usage::InMemory);
                let window = map(file, identity, 0, LOG_BYTES_MAX, usage)?;
                self.logs.insert(id, window);
            }
        }
        Ok(())
    }

    fn window(&self, id: WindowId) -> Option<&Window> {
        match id {
            WindowId::Layer(layer, piece, bytes) => {
                self.layers.get(&(layer, piece, bytes)).map(Arc::as_ref)
            }
            WindowId::Log(id) => self.logs.get(&id).map(Arc::as_ref),
            WindowId::Zeros => self.zeros.as_deref(),
        }
    }

    fn mapped(&self, id: WindowId) -> &Window {
        self.window(id).expect("the caller has mapped it")
    }

    /// Guest-physical address of a place that is mapped.
    pub(crate) fn gpa(&self, (id, offset): (WindowId, u64)) -> GuestPhys {
        self.mapped(id).gpa().offset(offset)
    }

    /// The page at a place that is mapped, for a system call.
    pub(crate) fn pin(&self, (id, offset): (WindowId, u64)) -> PinnedRange {
        self.mapped(id).pin(offset, PAGE_SIZE)
    }

    /// A page where it is mapped already, if it is.
    pub(crate) fn mapped_page(&self, page: PageIndex, source: Source) -> Option<PinnedRange> {
        let in_layer = |layer: Option<LayerId>| {
            let (piece, offset) = piece_of(page, layer);
            Some((self.mapped_piece(layer, piece, offset)?.1, offset))
        };
        let (window, offset) = match source {
            Source::Zero => (self.zeros.as_deref()?, 0),
            Source::Log(id, offset) => (self.logs.get(&id)?.as_ref(), offset),
            Source::Home(_) => in_layer(None)?,
            Source::Layer(id, _) => in_layer(Some(id))?,
        };
        let is_within = offset.checked_add(PAGE_SIZE).is_some_and(|end| end <= window.bytes());
        is_within.then(|| window.pin(offset, PAGE_SIZE))
    }

    /// Drops every translation to so many pages from a place on that is mapped.
    pub(crate) fn forget(
        &self,
        (id, offset): (WindowId, u64),
        pages: u64,
        machine: &Machine,
    ) -> Result<(), VasError> {
        forget(self.mapped(id), offset, pages, machine)
    }

    /// Takes out the windows of logs and layers that are gone, except those that tables show. Another segment
    /// may have them still ([`crate::vm::shared_windows`]). A system call may be using a page there: its pin keeps
    /// the mapping.
    pub(crate) fn take_stale_windows(
        &mut self,
        logs: &BTreeSet<LogId>,
        layers: &BTreeSet<LayerId>,
    ) -> Vec<Arc<Window>> {
        let shared = self.log.clone();
        let log = lock(&shared);
        let is_stale = |id: &LogId| log.log_file(*id).is_none() && !logs.contains(id);
        let of_logs = self.logs.extract_if(.., |id, _| is_stale(id));
        let is_stale = |id: LayerId| log.layer_file(id).is_none() && !layers.contains(&id);
        let of_layers = self.layers.extract_if(.., |(layer, _, _), _| layer.is_some_and(is_stale));
        let of_layers = of_layers.map(|(_, window)| window);
        of_logs.map(|(_, window)| window).chain(of_layers).collect()
    }

    /// A layer that a visit has made is the segment's: so are its windows.
    pub(super) fn take_over_layer(&mut self, spill: Spill) {
        let (id, windows) = spill.into_windows();
        let windows = windows.into_iter();
        self.layers
            .extend(windows.map(|(piece, window)| ((Some(id), piece, LAYER_PIECE_BYTES), window)));
    }

    /// All windows, when the VM no longer has the segment.
    pub(crate) fn into_windows(self) -> impl Iterator<Item = Arc<Window>> {
        self.layers.into_values().chain(self.logs.into_values()).chain(self.zeros)
    }

    /// Windows onto its files.
    pub(crate) fn windows(&self) -> impl Iterator<Item = &Window> {
        self.layers.values().chain(self.logs.values()).map(Arc::as_ref)
    }
}

/// Bytes of a file that one window shows, at most. The home file has most pages of its range; a layer
/// that lies above it may have few, far apart, and there can be many.
fn piece_bytes(layer: Option<LayerId>) -> u64 {
    if layer.is_some() { LAYER_PIECE_BYTES } else { PAGE_SIZE_1G }
}

/// The piece of a layer that a page, which it has, lies in, and where.
pub(super) fn piece_of(page: PageIndex, layer: Option<LayerId>) -> (u64, u64) {
    let offset = page.0 * PAGE_SIZE;
    (offset / piece_bytes(layer), offset % piece_bytes(layer))
}

/// The file with a layer's pages; the home file without a number.
fn file_of(log: &Log, layer: Option<LayerId>) -> Result<&HostFile, VersionsError> {
    let file = layer.map_or_else(|| log.home_file(), |id| log.layer_file(id));
    let what = || "a page lies in it, but it is not open".to_owned();
    file.ok_or_else(|| VersionsError::Damaged { file: name_of(layer), what: what() })
}

fn name_of(layer: Option<LayerId>) -> String {
    layer.map_or_else(|| HOME_FILE_NAME.to_owned(), LayerId::file_name)
}

pub(crate) fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Drops every translation to so many pages of a file. Software KVM has shadow tables, which would lose those of
/// 2 MiB with them.
pub(super) fn forget(
    window: &Window,
    offset: u64,
    pages: u64,
    machine: &Machine,
) -> Result<(), VasError> {
    let bytes = pages * PAGE_SIZE;
    if machine.is_soft_host() {
        window.map_small(offset, bytes);
    }
    Ok(window.drop_pages(offset, bytes)?)
}

#[cfg(test)]
mod tests {
    use spacejmp_versions::log::record::VersionFacts;
    use spacejmp_versions::segment::Limits;

    use super::*;

    #[test]
    fn a_page_that_is_said_to_lie_behind_a_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = HostFolder::open(dir.path()).unwrap();
        let log = Log::create(folder, 1, VersionFacts::default(), Limits::default()).unwrap();
        let mut segment = VersionedSegment::new(log, News::default());
        let machine = Machine::new().unwrap();
        let mut place = |offset| {
            let source = Source::Log(LogId(1), offset);
            segment.place(PageIndex(0), source, &machine).map(|place| place.1).ok()
        };
        let last = LOG_BYTES_MAX - PAGE_SIZE;
        assert_eq!([place(4096), place(last)], [Some(4096), Some(last)]);
        for behind in [last + 1, LOG_BYTES_MAX, 1 << 40, u64::MAX - 4095, u64::MAX] {
            assert_eq!(place(behind), None, "{behind:#x}");
        }
    }
}

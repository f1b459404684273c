//! A versioned segment as this VM has it: its files, and the windows through which guests and system
//! calls see the pages of its home file and its logs.
//!
//! All windows are read-only and shared by all versions: nothing that a version shows is overwritten.
//! A page that no log and no home file has is seen in a page of zeros.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::log::LOG_BYTES_MAX;
use spacejmp_versions::log::header::LogId;
use spacejmp_versions::segment::Source;
use spacejmp_versions::{PageIndex, Segment, VersionNumber, VersionsError};

use crate::store::{OtherWriters, SegmentFile, StoreError};
use crate::vas::VasError;
use crate::vm::Machine;
use crate::vm::windows::{FilePiece, PinnedRange, Window};

/// The segment's log and home file, shared by the threads of the VM.
pub(crate) type Log = Segment<HostFolder>;

/// See the module.
#[derive(Debug)]
pub(crate) struct VersionedSegment {
    log: Arc<Mutex<Log>>,
    /// Of the home file, by gigabyte of it and length: the file grows.
    home: BTreeMap<(u64, u64), Window>,
    logs: BTreeMap<LogId, Window>,
    zeros: Option<Window>,
    pub(crate) news: News,
}

/// What this VM knows of the words that VMs tell each other, besides the versions themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// Words that were written so often are not looked at.
    pub(crate) ignored: Option<u64>,
    /// How often versions had been lost when it last looked.
    pub(crate) losses: u64,
    /// The newest version that a thread of this VM has seen or made.
    pub(crate) seen: VersionNumber,
    /// That one is lost. The program is told until it attaches the segment anew.
    pub(crate) is_stale: bool,
}

impl News {
    /// What somebody knows who comes now.
    pub(crate) fn of(file: &SegmentFile, others: OtherWriters) -> Result<News, StoreError> {
        let ignored = match others {
            OtherWriters::Live => None,
            OtherWriters::None => file.words_count()?,
        };
        let losses = file.lost_versions()?.map_or(0, |lost| lost.count);
        Ok(News { ignored, losses, ..News::default() })
    }

    /// Looks whether versions were lost that this VM has seen.
    pub(crate) fn look_for_losses(&mut self, file: &SegmentFile) -> Result<(), StoreError> {
        let Some(lost) = file.lost_versions()?.filter(|lost| lost.count != self.losses) else {
            return Ok(());
        };
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
    /// A gigabyte of the home file, and how much of it.
    Home(u64, u64),
    /// A log.
    Log(LogId),
    /// The page of zeros.
    Zeros,
}

impl VersionedSegment {
    pub(crate) fn new(log: Log, news: News) -> VersionedSegment {
        let (home, logs) = Default::default();
        VersionedSegment { log: Arc::new(Mutex::new(log)), home, logs, zeros: None, news }
    }

    /// The log, alone.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// The log, to be used without the state locked.
    pub(crate) fn shared_log(&self) -> Arc<Mutex<Log>> {
        self.log.clone()
    }

    /// Puts a log that was opened anew, with more rights, in the place of this one.
    pub(crate) fn replace_log(&mut self, log: Log, news: News) {
        *self.log() = log;
        self.news = News { seen: self.news.seen, is_stale: self.news.is_stale, ..news };
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
            Source::Home(_) => {
                let offset = page.0 * PAGE_SIZE;
                let (gib, offset) = (offset / PAGE_SIZE_1G, offset % PAGE_SIZE_1G);
                let mut mapped = self.home.range((gib, offset + 1)..=(gib, PAGE_SIZE_1G));
                let bytes = match mapped.next() {
                    Some((&(_, bytes), _)) => bytes,
                    None => {
                        let left = self.log().home_bytes() - gib * PAGE_SIZE_1G;
                        // Kernel memory and time go by a window's length.
                        left.next_power_of_two().clamp(PAGE_SIZE_2M, PAGE_SIZE_1G)
                    }
                };
                (WindowId::Home(gib, bytes), offset)
            }
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

    fn map(&mut self, id: WindowId, machine: &Machine) -> Result<(), VasError> {
        if self.window(id).is_some() {
            return Ok(());
        }
        let shared = self.log.clone();
        let log = lock(&shared);
        let map = |file: &spacejmp_versions::disk::host::HostFile, offset, bytes| {
            let file = file.as_fd();
            machine.windows.map(FilePiece { file, offset, bytes, writable: false, dense: false })
        };
        match id {
            WindowId::Zeros => self.zeros = Some(machine.windows.map_anonymous(PAGE_SIZE)?),
            WindowId::Home(gib, bytes) => {
                let window = map(log.home_file(), gib * PAGE_SIZE_1G, bytes)?;
                self.home.insert((gib, bytes), window);
            }
            WindowId::Log(id) => {
                let gone = VersionsError::Damaged {
                    file: id.file_name(),
                    what: "a page lies in it, but it is not open".to_owned(),
                };
                let file = log.log_file(id).ok_or(gone)?;
                let window = map(file, 0, LOG_BYTES_MAX)?;
                self.logs.insert(id, window);
            }
        }
        Ok(())
    }

    fn window(&self, id: WindowId) -> Option<&Window> {
        match id {
            WindowId::Home(gib, bytes) => self.home.get(&(gib, bytes)),
            WindowId::Log(id) => self.logs.get(&id),
            WindowId::Zeros => self.zeros.as_ref(),
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

    /// Drops every translation to the page at a place that is mapped.
    pub(crate) fn forget(&self, (id, offset): (WindowId, u64)) -> Result<(), VasError> {
        Ok(self.mapped(id).drop_pages(offset, PAGE_SIZE)?)
    }

    /// Takes out the windows of logs that are gone, except those that tables show. A system call may
    /// still be using a page there: its pin keeps the mapping.
    pub(crate) fn take_stale_windows(&mut self, shown: &BTreeSet<LogId>) -> Vec<Window> {
        let shared = self.log.clone();
        let log = lock(&shared);
        let is_stale = |id: &LogId| log.log_file(*id).is_none() && !shown.contains(id);
        self.logs.extract_if(.., |id, _| is_stale(id)).map(|(_, window)| window).collect()
    }

    /// All windows, when the VM no longer has the segment.
    pub(crate) fn into_windows(self) -> impl Iterator<Item = Window> {
        self.home.into_values().chain(self.logs.into_values()).chain(self.zeros)
    }

    /// Bytes of files that are mapped.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.home.values().chain(self.logs.values()).map(Window::bytes).sum()
    }
}

pub(crate) fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Where each page of `first..first + count` of a version is, in order.
pub(crate) fn sources(
    log: &Log,
    first: PageIndex,
    count: u64,
    version: VersionNumber,
) -> Vec<Source> {
    let home_bytes = log.home_bytes();
    let end = PageIndex(first.0 + count);
    let in_home = |page: u64| match page.checked_mul(PAGE_SIZE) {
        Some(at) if at.checked_add(PAGE_SIZE).is_some_and(|end| end <= home_bytes) => {
            Source::Home(at)
        }
        _ => Source::Zero,
    };
    let mut sources: Vec<Source> = (first.0..end.0).map(in_home).collect();
    for (page, id, offset) in log.in_logs(first..end, version) {
        if let Some(source) = sources.get_mut((page.0 - first.0) as usize) {
            *source = Source::Log(id, offset);
        }
    }
    sources
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

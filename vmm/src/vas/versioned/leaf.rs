//! What a view shows in 2 MiB of addresses: a table, or one large page.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::Arc;

use abi::pte::PTE_A;
use abi::table::EntryMem as _;
use abi::{Entry, GuestPhys, Level, PAGE_SIZE, Pte, Table};
use spacejmp_versions::LayerId;
use spacejmp_versions::log::header::LogId;
use spacejmp_versions::segment::Source;

use super::copies::Frame;
use super::segment::Log;
use crate::vm::{GuestMem, MemoryError};

/// See the module. Views that only read share them: one that is full never changes again. A large page of
/// a writer's is its own copies; nothing takes its place.
#[derive(Debug)]
pub(super) struct Leaf {
    /// A table, or a large page.
    pub(super) entry: Entry,
    /// How far it is filled.
    pub(super) filled: u64,
    /// Logs, and layers above the home file, whose windows some entry leads to.
    pub(super) logs: BTreeSet<LogId>,
    pub(super) layers: BTreeSet<LayerId>,
    /// What a large page shows of pages that lie in several files: see `gather`.
    pub(super) gathered: Vec<Frame>,
}

impl Leaf {
    /// One that shows nothing yet.
    pub(super) fn new(entry: Entry) -> Leaf {
        let (logs, layers, gathered) = Default::default();
        Leaf { entry, filled: 0, logs, layers, gathered }
    }

    /// One that shows what is in no file, up to `end`.
    pub(super) fn whole(entry: Entry, end: u64) -> Leaf {
        Leaf { filled: end, ..Leaf::new(entry) }
    }

    /// One that shows these frames, up to `end`.
    pub(super) fn gathered(entry: Entry, end: u64, gathered: Vec<Frame>) -> Leaf {
        Leaf { gathered, ..Leaf::whole(entry, end) }
    }

    /// Whether it shows frames that were made for it.
    pub(super) fn is_gathered(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// What it was made of, when nobody has it: a table's frame, frames that it shows.
    pub(super) fn into_parts(self) -> (Option<GuestPhys>, Vec<Frame>) {
        (self.frame(), self.gathered)
    }

    /// It shows pages up to `end`, from these sources among others.
    pub(super) fn has_shown(&mut self, sources: &[Source], end: u64) {
        self.filled = self.filled.max(end);
        self.logs.extend(sources.iter().filter_map(|source| source.log()));
        self.layers.extend(sources.iter().filter_map(|source| source.layer()));
    }

    /// The table, if it is one.
    pub(super) fn table(&self) -> Option<Table> {
        self.frame().map(|frame| Table::new(frame, Level::Table))
    }

    /// The table's frame.
    pub(super) fn frame(&self) -> Option<GuestPhys> {
        match self.entry {
            Entry::Table(frame) => Some(frame),
            Entry::Empty | Entry::Page(..) => None,
        }
    }

    /// Whether all that its entries lead to is of use still: what is not is kept by it.
    pub(super) fn is_kept_by(&self, log: &Log) -> bool {
        self.logs.iter().all(|id| log.log_file(*id).is_some())
            && self.layers.iter().all(|id| log.layer_file(*id).is_some())
    }
}

/// Fills a table that nothing links to yet with a reader's entries, from `start` on: whether one was used is told by
/// the processor.
pub(super) fn fill_to_read(
    table: Table,
    mem: &GuestMem,
    start: u64,
    entries: Vec<Entry>,
) -> Result<(), MemoryError> {
    let entries = (start..).step_by(PAGE_SIZE as usize).zip(entries);
    let unused = entries.map(|(at, entry)| Pte::from_raw(table.encode(at, entry).raw() & !PTE_A));
    mem.write_run(table.place(start), &unused.collect::<Vec<Pte>>())
}

/// Whether it can come to show other pages, if nobody is on the tables: it is one view's, and a table, whose entries
/// are replaced, or gathered, where the frames get other content.
pub(super) fn is_replaceable(leaf: &Arc<Leaf>) -> bool {
    (leaf.table().is_some() || leaf.is_gathered()) && Arc::strong_count(leaf) == 1
}

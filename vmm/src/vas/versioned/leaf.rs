//! What a view shows in 2 MiB of addresses: a table, or one large page.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use abi::{Entry, GuestPhys, Level, Table};
use spacejmp_versions::LayerId;
use spacejmp_versions::log::header::LogId;
use spacejmp_versions::segment::Source;

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
}

impl Leaf {
    /// One that shows nothing yet.
    pub(super) fn new(entry: Entry) -> Leaf {
        let (logs, layers) = Default::default();
        Leaf { entry, filled: 0, logs, layers }
    }

    /// One that shows what is in no file, up to `end`.
    pub(super) fn whole(entry: Entry, end: u64) -> Leaf {
        Leaf { filled: end, ..Leaf::new(entry) }
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
}

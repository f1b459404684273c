//! Making versions durable while others go on appending: what a sync needs is taken along, so that
//! nobody's lock is held while the disk works.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Segment, failed};
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::log::header::LogId;
use crate::log::scan::Position;
use crate::page::VersionNumber;

/// A log's file, and whether a sync of it ever failed.
#[derive(Debug)]
pub(super) struct LogFile<F> {
    pub(super) file: F,
    /// Locked during a sync. The host tells an error once for each open file, so of two syncs at
    /// once one would succeed and say that what the other lost is durable.
    has_failed: Mutex<bool>,
    /// Whether zeros were written ahead since the last sync.
    is_filled: AtomicBool,
}

impl<F: File> LogFile<F> {
    pub(super) fn new(file: F) -> LogFile<F> {
        LogFile { file, has_failed: Mutex::new(false), is_filled: AtomicBool::new(false) }
    }

    /// Takes note that zeros were written ahead of the records.
    pub(super) fn note_filled(&self) {
        self.is_filled.store(true, Relaxed);
    }

    /// Syncs it; its records end at `end`, or behind it by now.
    fn sync(&self, end: u64) -> io::Result<()> {
        let mut has_failed = self.has_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_failed {
            return Err(io::Error::other("an earlier sync of it failed"));
        }
        let is_filled = self.is_filled.swap(false, Relaxed);
        let result = self.file.sync();
        *has_failed = result.is_err();
        if is_filled && result.is_ok() {
            self.file.uncache(end);
        }
        result
    }
}

/// What was appended up to some moment, to be made durable.
#[derive(Debug)]
pub struct SyncTicket<F> {
    id: LogId,
    file: Arc<LogFile<F>>,
    /// The file of the root record, if that may not be durable: it names the log.
    root: Option<Arc<F>>,
    position: Position,
    is_durable: bool,
}

impl<F: File> SyncTicket<F> {
    /// The newest version that is durable after it.
    #[must_use]
    pub fn version(&self) -> VersionNumber {
        self.position.version
    }

    /// The log that it syncs.
    #[must_use]
    pub fn log(&self) -> LogId {
        self.id
    }

    /// Syncs. Several may run at once; whatever it returns goes to [`Segment::synced`].
    ///
    /// # Errors
    /// The host's, and every time after one for the same log.
    pub fn run(&self) -> io::Result<()> {
        self.root.as_ref().map_or(Ok(()), |root| root.sync())?;
        if self.is_durable { Ok(()) } else { self.file.sync(self.position.offset) }
    }
}

impl<D: Folder> Segment<D> {
    /// What [`SyncTicket::run`] needs to make durable all that was appended so far.
    #[must_use]
    pub fn sync_ticket(&self) -> SyncTicket<D::File> {
        let log = self.stack.current();
        let (file, position) = (Arc::clone(&log.file), self.stack.end);
        // Its content is that of a record that was written whole. Who appends writes it anew.
        let root = (!self.is_root_durable).then(|| Arc::clone(&self.root_file));
        let is_durable = self.stack.durable == position;
        SyncTicket { id: log.header.id, file, root, position, is_durable }
    }

    /// The log that is written to.
    #[must_use]
    pub fn current_log(&self) -> LogId {
        self.stack.current().header.id
    }

    /// A sync of the current log has failed elsewhere: whatever later ones say, what is not known to be
    /// durable may not be. As after one that failed here, [`Segment::renew`] is due.
    pub fn distrust(&mut self) {
        self.has_failed = true;
    }

    /// Takes note of how a ticket's run ended; returns the newest version that is durable.
    ///
    /// # Errors The run's; then nothing more is appended before [`Segment::renew`]. One about a log
    /// that is closed by now is none: closing it made it durable.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is used once")]
    pub fn synced(
        &mut self,
        ticket: SyncTicket<D::File>,
        result: io::Result<()>,
    ) -> Result<VersionNumber> {
        if self.stack.current().header.id != ticket.id {
            return Ok(self.stack.durable.version);
        }
        if let Err(source) = result {
            self.has_failed = true;
            return Err(failed("sync", &ticket.id.file_name(), source));
        }
        // True even if an append has failed since: what it synced lay before that.
        if self.stack.durable.version < ticket.position.version {
            self.stack.durable = ticket.position;
        }
        Ok(self.stack.durable.version)
    }

    /// Makes all that was appended durable; returns the newest version that is.
    ///
    /// # Errors
    /// The host's; then nothing more is appended before [`Segment::renew`].
    pub fn sync(&mut self) -> Result<VersionNumber> {
        self.check_failed()?;
        let ticket = self.sync_ticket();
        let result = ticket.run();
        self.synced(ticket, result)
    }
}

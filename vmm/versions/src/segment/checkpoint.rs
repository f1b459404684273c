//! Bringing the home file up to date, so that logs can go.

use std::io::IoSlice;

use super::logs::OpenLog;
use super::open::home_bytes;
use super::{HOME_FILE_NAME, Segment, failed};
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::page::VersionNumber;
use crate::root::Root;

impl<D: Folder> Segment<D> {
    /// Applies to the home file what is durable and not newer than `oldest_used`, the oldest version
    /// that anybody may look at; logs that are then of no use go. A reader of an older version would
    /// see pages of a newer one.
    ///
    /// # Errors
    /// The host's; newer versions elsewhere that were not taken in. Nothing is lost: what was not
    /// finished is done again by the next.
    pub fn checkpoint(&mut self, oldest_used: VersionNumber) -> Result<()> {
        self.check_writable()?;
        self.sync()?;
        if self.logs.current().header.after < self.appended() && oldest_used >= self.appended() {
            self.begin_log(&[])?;
        }
        // A log goes as a whole, when the one behind it begins at a version that all have reached.
        let is_used = |log: &OpenLog<D::File>| log.header.after > oldest_used;
        let going = self.logs.open.iter().skip(1).take_while(|log| !is_used(log)).count();
        if going == 0 {
            return Ok(());
        }
        let applied = self.logs.open[going].header.after;
        self.oldest = self.oldest.max(oldest_used.min(self.appended()));
        self.apply(applied)?;
        self.home_bytes = home_bytes(&self.home)?;
        let logs = self.logs.root.logs[going..].to_vec();
        self.store_root(Root { applied, logs, ..self.logs.root.clone() })?;
        self.logs.forget_applied();
        for log in self.logs.drop_first(going) {
            // The root record does not name it any more: should this fail, the next opening does it.
            let _ = self.folder.remove(&log.file_name());
        }
        Ok(())
    }

    /// Writes each page's newest content up to `applied` to its place.
    fn apply(&self, applied: VersionNumber) -> Result<()> {
        for (page, placed) in &self.logs.placed {
            if placed.first().is_none_or(|first| first.version > applied) {
                continue;
            }
            let offset = page.offset().ok_or(VersionsError::NoSuchPage(*page))?;
            let content = self.read(*page, applied)?;
            self.home
                .write_at(&[IoSlice::new(&content)], offset)
                .map_err(|source| failed("write", HOME_FILE_NAME, source))?;
        }
        self.home.sync().map_err(|source| failed("sync", HOME_FILE_NAME, source))
    }
}

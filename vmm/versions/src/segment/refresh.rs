//! Living with other VMs: opening what one of them writes, taking in what they appended, and taking
//! over from one that died.
//!
//! All of it reads files that may change at any moment in one way only: a root record is replaced,
//! and then a log that it no longer names is removed. So a reader that finds something missing checks
//! whether the record is still the same.

use std::sync::Arc;

use super::decide::decide;
use super::files::Known;
use super::open::open;
use super::stack::{Followed, Stack};
use super::{Limits, Segment, Verified};
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::log::scan::Content;
use crate::page::VersionNumber;
use crate::root::{FILE_NAME, Root};

/// How often a newer root record is tried: each means that another VM filled a log, or made a
/// checkpoint, while this one opened a few files.
const ATTEMPTS: u32 = 16;

impl<D: Folder> Segment<D> {
    /// Opens a segment that another VM may have open to write, and changes nothing on disk. `up_to`
    /// is what that VM has published: what lies behind it may still be given up. Without it, for a VM
    /// that only reads, all that is whole counts.
    ///
    /// # Errors
    /// The host's; [`VersionsError::Gone`] if `up_to` is older than the last checkpoint: there is a
    /// newer one by now; [`VersionsError::Damaged`] if what was made known is not there.
    pub fn open_shared(folder: D, limits: Limits, up_to: Option<VersionNumber>) -> Result<Self> {
        Self::open_shared_beside(folder, limits, up_to, &Verified::none())
    }

    /// The same, without reading again what is known to be whole.
    ///
    /// # Errors
    /// As there.
    pub fn open_shared_beside(
        folder: D,
        limits: Limits,
        up_to: Option<VersionNumber>,
        verified: &Verified,
    ) -> Result<Self> {
        let root_file = open(&folder, FILE_NAME)?;
        let nothing = Known(Vec::new());
        let read = |root: &Root| read_anew(&folder, root, up_to, &nothing, verified);
        let stack = with_root(&root_file, read)?;
        let found = stack.open.last().map(|log| log.header.id);
        Ok(Segment {
            folder,
            limits,
            root_file: Arc::new(root_file),
            stack,
            older: Vec::new(),
            has_failed: false,
            found,
            is_root_durable: false,
        })
    }

    /// Takes in what other VMs have appended, up to `up_to`, which one of them has made known.
    /// [`Segment::appended`] is `up_to` then, or newer if this VM has appended more itself. A VM that
    /// holds the segment's lock, and has `up_to` from the last holder, may append.
    ///
    /// Whether what was taken in is durable is not known before the next [`Segment::sync`]. Versions
    /// that could be read before can be read still, until [`Segment::forget_unused`], but for those
    /// whose layer another VM's checkpoint has overwritten: that is for a VM that is alone.
    ///
    /// # Errors
    /// As [`Segment::open_shared`]. What could be read before can be read still, but for versions
    /// older than another VM's checkpoint.
    pub fn refresh(&mut self, up_to: VersionNumber) -> Result<()> {
        let root_file = Arc::clone(&self.root_file);
        with_root(&*root_file, |root| self.take_in(root, up_to))
    }

    fn read_all_anew(&mut self) -> Result<()> {
        let root_file = Arc::clone(&self.root_file);
        let verified = Verified::none();
        let read = |root: &Root| read_anew(&self.folder, root, None, &self.known(), &verified);
        let stack = with_root(&*root_file, read)?;
        self.replace_stack(stack);
        self.is_root_durable = false;
        self.has_failed = false;
        Ok(())
    }

    fn take_in(&mut self, root: &Root, up_to: VersionNumber) -> Result<()> {
        if *root != self.stack.root {
            self.take_in_root(root, up_to)?;
        }
        self.stack.read_on(Some(up_to), Content::Trusted)?;
        self.stack.check_reached(Some(up_to))
    }

    fn take_in_root(&mut self, root: &Root, up_to: VersionNumber) -> Result<()> {
        check_not_gone(root, up_to)?;
        let written = self.stack.open.last().map(|log| log.header.id);
        if self.stack.follow(&self.folder, root)? == Followed::No {
            // On the side: should it fail, what is known now stays.
            let stack =
                read_anew(&self.folder, root, Some(up_to), &self.known(), &Verified::none())?;
            self.replace_stack(stack);
        }
        // The VM that wrote it may have been killed, or have failed, before its sync.
        self.is_root_durable = false;
        if self.stack.open.last().map(|log| log.header.id) != written {
            // A log that failed is not written to any more.
            self.has_failed = false;
        }
        Ok(())
    }

    /// Takes over from a VM that died while it had the segment's lock: what it appended behind
    /// `appended` is kept as far as it is whole, and void otherwise. Writing goes on in a new log, as
    /// after [`Segment::open`]. Returns the newest version, which is durable and may be made known.
    ///
    /// # Errors
    /// As [`Segment::refresh`], and the host's. It can be tried again; after a sync that failed,
    /// [`Segment::renew`].
    pub fn take_over(&mut self, appended: VersionNumber) -> Result<VersionNumber> {
        match self.refresh(appended) {
            // The one that died made a checkpoint of what it had not made known yet.
            Err(VersionsError::Gone { .. }) => self.read_all_anew()?,
            done => done?,
        }
        self.stack.read_on(None, Content::Verified)?;
        self.stack.check_reached(None)?;
        if self.appended() > appended {
            decide(&self.folder, &mut self.stack)?;
        }
        self.sync()?;
        // Always: see there.
        self.begin_log(&[])?;
        self.remove_unnamed()?;
        Ok(self.durable())
    }
}

/// Reads all logs, as far as `up_to` or to their end.
fn read_anew<D: Folder>(
    folder: &D,
    root: &Root,
    up_to: Option<VersionNumber>,
    known: &Known<'_, D::File>,
    verified: &Verified,
) -> Result<Stack<D::File>> {
    up_to.map_or(Ok(()), |up_to| check_not_gone(root, up_to))?;
    let content = if up_to.is_some() { Content::Trusted } else { Content::Verified };
    let mut stack = Stack::open(folder, root, known, content)?;
    stack.read_on_beside(up_to, content, verified)?;
    stack.check_reached(up_to)?;
    if up_to.is_none() {
        decide(folder, &mut stack)?;
    }
    let oldest = stack.end.version;
    if let Some(version) = up_to.filter(|up_to| *up_to < oldest) {
        return Err(VersionsError::Gone { version, oldest });
    }
    if root.oldest.is_none() {
        // A checkpoint may have ended halfway: then the home file has pages of later versions.
        stack.oldest = stack.end.version;
    }
    Ok(stack)
}

/// What is older than the layers and logs go back to is not there.
pub(super) fn check_not_gone(root: &Root, version: VersionNumber) -> Result<()> {
    let lowest = root.generations.first().map(|one| one.base).unwrap_or_default();
    let oldest = root.oldest.unwrap_or_default().max(lowest);
    if version < oldest { Err(VersionsError::Gone { version, oldest }) } else { Ok(()) }
}

/// Does something with the root record that counts; again, if it fails and another counts by then.
pub(super) fn with_root<F: File, T>(
    root_file: &F,
    mut attempt: impl FnMut(&Root) -> Result<T>,
) -> Result<T> {
    let mut root = Root::read(root_file);
    for _ in 1..ATTEMPTS {
        let failed = match root.as_ref().map(&mut attempt) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => Some(error),
            // Both places were written while they were read.
            Err(VersionsError::Damaged { .. }) => None,
            Err(_) => break,
        };
        let now = Root::read(root_file);
        match failed {
            Some(error) if root.as_ref().ok() == now.as_ref().ok() => return Err(error),
            _ => root = now,
        }
    }
    attempt(&root?)
}

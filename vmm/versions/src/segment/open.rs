//! Making a segment, and opening one after whatever ended its last use.

use std::io::ErrorKind;
use std::sync::Arc;

use super::files::OpenLayer;
use super::stack::Stack;
use super::{HOME_FILE_NAME, Limits, Segment, Verified, failed};
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::layer::{Layer, LayerId};
use crate::log::header::LogId;
use crate::log::record::VersionFacts;
use crate::log::scan::Content;
use crate::page::VersionNumber;
use crate::root::{FILE_NAME, Generation, Root};

impl<D: Folder> Segment<D> {
    /// Makes the files of an empty segment in an empty folder. Durable when it returns, but for the
    /// folder's own name; what a crash leaves on the way is no segment and can be removed.
    ///
    /// # Errors
    /// The host's.
    pub fn create(folder: D, segment: u64, facts: VersionFacts, limits: Limits) -> Result<Self> {
        facts.check()?;
        let home = create(&folder, HOME_FILE_NAME)?;
        home.sync().map_err(|source| failed("sync", HOME_FILE_NAME, source))?;
        let root_file = create(&folder, FILE_NAME)?;
        let after = VersionNumber::default();
        let home = Generation {
            layer: Layer::Home,
            base: after,
            below: None,
            origin: segment,
            logs: Vec::new(),
        };
        let (oldest, generations) = (Some(after), vec![home]);
        let root = Root { counter: 0, segment, oldest, last_id: 0, generations };
        let layers = vec![Some(Arc::new(OpenLayer::open_home(&folder)?))];
        let mut made = Segment {
            folder,
            limits,
            root_file: Arc::new(root_file),
            stack: Stack::unread(root, Vec::new(), layers),
            older: Vec::new(),
            has_failed: false,
            found: None,
            // There is none yet.
            is_root_durable: true,
        };
        made.begin_first(facts)?;
        Ok(made)
    }

    /// Opens a segment that nobody else has open to write, and recovers what a crash left: every
    /// version that was durable is there, and perhaps some behind it; nothing of one that was not
    /// whole. Writing goes on in a new log, which the first commit begins.
    ///
    /// # Errors
    /// The host's; [`crate::VersionsError::Damaged`] when what was durable is not there any more.
    pub fn open(folder: D, limits: Limits) -> Result<Self> {
        Self::open_beside(folder, limits, &Verified::none())
    }

    /// The same, without reading again what is known to be whole.
    ///
    /// # Errors
    /// As there.
    pub fn open_beside(folder: D, limits: Limits, verified: &Verified) -> Result<Self> {
        Self::open_shared_beside(folder, limits, None, verified)?.recover()
    }

    /// The same with what was opened by [`Segment::open_shared_beside`], without a version to stop at, in a
    /// folder whose files may be written. `None` if the root record or the last log is another one since, or
    /// has more: then all is to be opened anew. That the record's file is still the same is for the caller to see.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn resume(mut looked_at: Self) -> Result<Option<Self>> {
        let end = looked_at.stack.end;
        if Root::read(&*looked_at.root_file)? != looked_at.stack.root {
            return Ok(None);
        }
        looked_at.stack.read_on(None, Content::Verified)?;
        if looked_at.stack.end != end {
            return Ok(None);
        }
        looked_at.recover().map(Some)
    }

    /// The same where the root record was not written since, by anybody, and nobody could write when it was looked
    /// at. Then nothing was appended either: whoever comes to write begins a log, which a root record names first.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn resume_unchanged(looked_at: Self) -> Result<Self> {
        looked_at.recover()
    }

    /// Makes what was found the state that writing goes on from.
    fn recover(mut self) -> Result<Self> {
        // The root record and its logs may be whole in the page cache and nowhere else: the program was
        // killed.
        self.confirm_root()?;
        self.sync()?;
        // No name appears or goes meanwhile but by what follows.
        let names = std::mem::take(&mut self.stack.names);
        self.remove_unnamed_of(&names)?;
        // Whoever opens it next does not ask other segments again.
        let is_decided = self.ends_together() || !self.stack.asked.is_empty();
        // A record of the first format is replaced as soon as somebody may write.
        if is_decided || self.stack.root.oldest.is_none() {
            self.begin_log(&[])?;
        }
        Ok(self)
    }

    /// Removes logs and layers that the root record does not name: what a crash left unfinished, or
    /// what was merged.
    /// The root record is durable: what an older one names is not needed any more.
    pub(super) fn remove_unnamed(&self) -> Result<()> {
        self.remove_unnamed_of(&self.folder.names().map_err(|source| failed("list", ".", source))?)
    }

    /// The same in a folder that has these names.
    fn remove_unnamed_of(&self, names: &[String]) -> Result<()> {
        for name in names.iter().filter(|name| self.is_unnamed(name)) {
            match self.folder.remove(name) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed("remove", name, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_unnamed(&self, name: &str) -> bool {
        let root = &self.stack.root;
        let has = |layer: Layer| root.generations.iter().any(|one| one.layer == layer);
        if let Some(id) = LogId::of_file_name(name) {
            !root.has_log(id)
        } else if let Some(id) = LayerId::of_file_name(name) {
            !has(Layer::File(id))
        } else {
            name == HOME_FILE_NAME && !has(Layer::Home)
        }
    }
}

pub(super) fn create<D: Folder>(folder: &D, name: &str) -> Result<D::File> {
    folder.create(name).map_err(|source| failed("create", name, source))
}

pub(super) fn open<D: Folder>(folder: &D, name: &str) -> Result<D::File> {
    folder.open(name).map_err(|source| failed("open", name, source))
}

//! A versioned segment: its generations, each a layer and the logs that follow it, and which page of
//! which version lies where.
//!
//! - `open`: making one, and what recovery makes of what a crash left
//! - `commit`: appending, and going on after a failure
//! - `begin`: the next log, the next generation, the next root record
//! - `sync`: making versions durable, without keeping others from appending
//! - `refresh`: sharing the files with other VMs
//! - `files`: logs and layers, open; `stack`: what is known of the generations' content; `find`:
//!   finding pages there
//! - `install`: another stack, made of what is there
//! - `freeze`, `rollback`, `link`, `large`: a new generation on top, or the same files in another folder
//! - `checkpoint`, `merge`: fewer logs and layers; `due`: when that is worthwhile
//! - `verified`: what was found whole is not read again
//! - `together`: a commit of several segments; `changes`: what it has to change to go back; `decide`: whether the last one was whole in all of them;
//!   `joints`: what is remembered of such commits
//!
//! *Appended* is the newest version in the log, *durable* the newest that a power cut leaves. Who may
//! see which is the caller's business; but before a freeze, a large commit or a checkpoint beside others,
//! what was appended is to be made known: these may merge, and a newcomer then finds the newest version only
//! ([`VersionsError::Gone`] names it). So is the lock: who appends, renews or makes a checkpoint has it,
//! and has refreshed since it got it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::Folder;
use crate::error::{Result, VersionsError};
use crate::layer::{Layer, LayerId};
use crate::log::LOG_BYTES_MAX;
use crate::log::header::LogId;
use crate::log::record::VersionFacts;
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};
use crate::root::Root;

mod begin;
mod changes;
mod checkpoint;
mod commit;
mod decide;
mod due;
mod files;
mod find;
mod freeze;
mod install;
mod joints;
mod large;
mod link;
mod merge;
mod open;
mod refresh;
mod rollback;
mod stack;
mod sync;
#[cfg(test)]
mod tests;
mod together;
mod verified;

pub use checkpoint::Sharing;
use files::Known;
pub use joints::Partner;
pub use large::LargeCommit;
pub use rollback::RollbackTo;
use stack::{Changed, Stack};
pub use sync::SyncTicket;
pub use together::{Part, append_together};
pub use verified::Verified;

pub use crate::layer::HOME_FILE_NAME;

/// How large logs get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of a log.
    pub log_bytes: u64,
    /// Bytes that are written with zeros ahead of the records. A commit into a file that has its
    /// length and its blocks already syncs data alone; blocks that were only reserved would be
    /// converted at the sync, which costs the same as growing.
    pub ahead_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { log_bytes: LOG_BYTES_MAX, ahead_bytes: 1 << 20 }
    }
}

/// What a commit changes.
#[derive(Clone, Debug, Default)]
pub struct Commit<'a> {
    /// What the version says besides its pages.
    pub facts: VersionFacts,
    /// The changed pages, each once.
    pub pages: Vec<(PageIndex, &'a Page)>,
}

/// Where a page of a version is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In a log's file.
    Log(LogId, u64),
    /// In a layer's file, at its own offset.
    Layer(LayerId, u64),
    /// In the home file, at its own offset.
    Home(u64),
    /// Nowhere: it is all zeros.
    Zero,
}

impl Source {
    /// The log that the page is in, if it is in one.
    #[must_use]
    pub fn log(self) -> Option<LogId> {
        match self {
            Source::Log(id, _) => Some(id),
            Source::Layer(..) | Source::Home(_) | Source::Zero => None,
        }
    }

    /// Whether the next page lies behind this one in the same file, or both are zeros.
    #[must_use]
    pub fn is_followed_by(self, next: Source) -> bool {
        let behind = |offset: u64| offset.checked_add(PAGE_BYTES as u64);
        match (self, next) {
            (Source::Log(a, at), Source::Log(b, then)) => a == b && behind(at) == Some(then),
            (Source::Layer(a, at), Source::Layer(b, then)) => a == b && behind(at) == Some(then),
            (Source::Home(at), Source::Home(then)) => behind(at) == Some(then),
            (Source::Zero, Source::Zero) => true,
            _ => false,
        }
    }

    /// The layer above the home file that the page is in, if it is in one.
    #[must_use]
    pub fn layer(self) -> Option<LayerId> {
        match self {
            Source::Layer(id, _) => Some(id),
            Source::Log(..) | Source::Home(_) | Source::Zero => None,
        }
    }
}

/// A versioned segment, open.
#[derive(Debug)]
pub struct Segment<D: Folder> {
    folder: D,
    limits: Limits,
    root_file: Arc<D::File>,
    stack: Stack<D::File>,
    /// What earlier root records named, oldest first: versions that this VM may still show, although
    /// a checkpoint went past them. Their files are open, so they are there.
    older: Vec<Stack<D::File>>,
    has_failed: bool,
    /// The log that was the last one when it was opened. Nothing is appended there: behind its end may lie a
    /// record that is whole and follows one that is torn, and were the torn one written anew, byte for byte,
    /// the other would count.
    found: Option<LogId>,
    /// Whether the root record that counts would be there after a power cut: who wrote it may have
    /// been killed before its sync.
    is_root_durable: bool,
}

impl<D: Folder> Segment<D> {
    /// The newest version in the log, durable or not.
    #[must_use]
    pub fn appended(&self) -> VersionNumber {
        self.stack.end.version
    }

    /// The newest version that a power cut leaves.
    #[must_use]
    pub fn durable(&self) -> VersionNumber {
        self.stack.durable.version
    }

    /// The folder with its files.
    #[must_use]
    pub fn folder(&self) -> &D {
        &self.folder
    }

    /// The names in it, when it was opened.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.stack.names
    }

    /// What a file that it is about took on the disk when it was opened, if that was asked for then.
    #[must_use]
    pub fn stored_bytes(&self, name: &str) -> Option<u64> {
        let log = self.stack.open.iter().find(|log| log.header.id.file_name() == name);
        let layer = || self.stack.layers.iter().flatten().find(|layer| layer.name() == name);
        log.map_or_else(|| layer()?.stored_bytes, |log| log.stored_bytes)
    }

    /// The oldest version that can be read. Between it and the newest there may be some that cannot:
    /// [`Segment::has`].
    #[must_use]
    pub fn oldest(&self) -> VersionNumber {
        let stacks = self.older.iter().chain([&self.stack]);
        let readable = |stack: &Stack<D::File>| {
            stack.versions.keys().copied().find(|version| stack.path(*version).is_some())
        };
        stacks.filter_map(readable).min().unwrap_or(self.appended())
    }

    /// Whether a write or a sync has failed, and [`Segment::renew`] is due.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Bytes that the logs take, what is prepared for further entries included.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.stack.open.iter().map(|log| log.prepared).sum()
    }

    /// What the next version says unless its commit changes it: size and root object as the newest
    /// has them, this process, this moment, no note.
    #[must_use]
    pub fn next_facts(&self) -> VersionFacts {
        now(self.facts(self.appended()).cloned().unwrap_or_default())
    }

    /// The versions that the newest root record has, rising: each with how many pages it has changed.
    /// Of one that a checkpoint or a rollback made that is not known, and 0. [`Segment::has`] tells
    /// which of them can be read.
    pub fn history(
        &self,
    ) -> impl DoubleEndedIterator<Item = (VersionNumber, &VersionFacts, usize)> {
        self.stack.versions.iter().map(|(&version, noted)| {
            (version, &noted.facts, noted.pages.as_ref().map_or(0, Changed::count))
        })
    }

    /// The highest number that a VAS may have given to a commit of this segment.
    #[must_use]
    pub fn last_number(&self, vas: u64) -> u64 {
        self.stack.marks.of(vas)
    }

    /// Takes note that no version older than `oldest_used` will be read: files that only those need
    /// are closed. Whoever reads old versions beside a writer calls it now and then.
    pub fn forget_older(&mut self, oldest_used: VersionNumber) {
        let current = &self.stack;
        self.older.retain(|stack| {
            let mut used = stack.versions.range(oldest_used..).map(|(version, _)| *version);
            used.any(|version| stack.has(version) && !current.has(version))
        });
    }

    /// Takes note that before the newest version only these will be read: files that none of them needs are closed, also
    /// those of versions in between. So who reads one version for long keeps what that consists of, and no more, however
    /// much is written meanwhile.
    pub fn forget_unused(&mut self, used: &BTreeSet<VersionNumber>) {
        let gone = used.iter().filter(|version| !self.stack.has(**version));
        // As one is looked for.
        let having = gone.filter_map(|it| self.older.iter().rposition(|stack| stack.has(*it)));
        let needed: BTreeSet<usize> = having.collect();
        let mut places = 0..;
        self.older.retain(|_| places.next().is_some_and(|place| needed.contains(&place)));
    }

    /// Puts a newer stack in the place of this one, which stays for those who look at its versions.
    fn replace_stack(&mut self, mut stack: Stack<D::File>) {
        std::mem::swap(&mut self.stack, &mut stack);
        self.older.push(stack);
        for stack in &mut self.older {
            // A checkpoint into a layer that stayed has overwritten what older versions saw there.
            for (old, new) in shared_layers(&stack.root, &self.stack.root) {
                if old < new {
                    stack.oldest = stack.oldest.max(new);
                }
            }
        }
        self.forget_older(VersionNumber(0));
    }

    fn known(&self) -> Known<'_, D::File> {
        Known(std::iter::once(&self.stack).chain(self.older.iter().rev()).collect())
    }

    /// A number that no log and no layer has or had, those of failed attempts included.
    fn next_id(&self) -> Result<u64> {
        let names = self.folder.names().map_err(|source| failed("list", ".", source))?;
        let ids = names.iter().filter_map(|name| {
            let log = LogId::of_file_name(name).map(|id| id.0);
            log.or(LayerId::of_file_name(name).map(|id| id.0))
        });
        // A name may say any number.
        let last = ids.max().unwrap_or(0).max(self.stack.root.highest_id());
        last.checked_add(1).ok_or_else(|| damaged(".", "a file has the highest number there is"))
    }
}

/// The facts of a version that this process makes now of another one's.
fn now(facts: VersionFacts) -> VersionFacts {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    VersionFacts { time_ns, pid: std::process::id(), note: Vec::new(), entry: None, ..facts }
}

/// Layers that two root records name: the versions up to which each has it.
fn shared_layers<'a>(
    old: &'a Root,
    new: &'a Root,
) -> impl Iterator<Item = (VersionNumber, VersionNumber)> + 'a {
    let old = old.generations.iter().filter(|one| one.layer != Layer::Empty);
    old.filter_map(|old| {
        let mut same = new.generations.iter().filter(|new| new.layer == old.layer);
        same.next().map(|new| (old.base, new.base))
    })
}

fn failed(action: &'static str, file: &str, source: std::io::Error) -> VersionsError {
    VersionsError::Io { action, file: file.to_owned(), source }
}

fn damaged(file: &str, what: impl Into<String>) -> VersionsError {
    VersionsError::Damaged { file: file.to_owned(), what: what.into() }
}

//! The generations that a root record names: their logs, read as far as their user needs, their layers,
//! and which page of which version lies in them. Nothing here writes: it serves who recovers, who
//! writes and who only reads. Looking for pages is in `find`.

use std::collections::BTreeMap;

use super::damaged;
use super::files::{Known, OpenLog, SharedLayer, open_layer};
use super::joints::Joints;
use super::verified::Verified;
use crate::checksum::Checksum;
use crate::disk::{File, Folder};
use crate::error::{Result, VersionsError};
use crate::layer::{Pages, Presence};
use crate::log::entry::Marks;
use crate::log::header::LogId;
use crate::log::record::VersionFacts;
use crate::log::scan::{self, Buffer, Content, Found, Position};
use crate::page::{PageIndex, VersionNumber};
use crate::root::{FILE_NAME, Generation, Root};

/// A version's page in a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) version: VersionNumber,
    pub(super) log: LogId,
    pub(super) offset: u64,
}

/// A version that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    pub(super) facts: VersionFacts,
    /// What it changed of the version one before it, if that is known.
    pub(super) pages: Option<Changed>,
}

/// Pages that a version has changed.
#[derive(Clone, Debug)]
pub(super) enum Changed {
    /// Those of a record.
    Listed(Vec<PageIndex>),
    /// All of a layer: a list of them would be larger than all else that is known of a segment.
    Layer(Presence),
}

impl Changed {
    pub(super) fn count(&self) -> usize {
        match self {
            Changed::Listed(pages) => pages.len(),
            Changed::Layer(presence) => usize::try_from(presence.count()).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = PageIndex> + '_> {
        match self {
            Changed::Listed(pages) => Box::new(pages.iter().copied()),
            Changed::Layer(presence) => Box::new(presence.iter()),
        }
    }
}

/// The generations of a segment and what is known of them.
#[derive(Debug)]
pub(super) struct Stack<F> {
    pub(super) root: Root,
    /// The oldest version that can be read.
    pub(super) oldest: VersionNumber,
    /// Of all generations, as the root record has them.
    pub(super) open: Vec<OpenLog<F>>,
    /// By generation.
    pub(super) layers: Vec<SharedLayer<F>>,
    /// The log that `end` lies in: the last, but for a reader that needs no more.
    pub(super) at: usize,
    /// By page, versions rising.
    pub(super) placed: BTreeMap<PageIndex, Vec<Placed>>,
    /// What is known of versions that can be read.
    pub(super) versions: BTreeMap<VersionNumber, Noted>,
    /// The commits of several segments that these versions are part of.
    pub(super) joints: Joints,
    /// The last numbers of VASes up to the newest version.
    pub(super) marks: Marks,
    /// Before the newest version's record, if it is the last one that was read or written, and part of
    /// such a commit.
    pub(super) tail: Option<Position>,
    /// The segments that had to be looked at to say whether the last record counts.
    pub(super) asked: Vec<u64>,
    /// Behind the newest version that was read or written.
    pub(super) end: Position,
    /// Where the log would have to end if all behind what is durable were lost.
    pub(super) durable: Position,
    /// What the folder had when all this was opened.
    pub(super) names: Vec<String>,
}

impl<F: File> Stack<F> {
    /// With nothing read.
    pub(super) fn unread(
        root: Root,
        open: Vec<OpenLog<F>>,
        layers: Vec<SharedLayer<F>>,
    ) -> Stack<F> {
        let nothing =
            Position { offset: 0, version: VersionNumber::default(), chain: Checksum::default() };
        let end = open.first().map_or(nothing, |log| log.first);
        let oldest = root.oldest.unwrap_or_default();
        let (placed, versions, joints, marks) = Default::default();
        let mut stack = Stack {
            root,
            oldest,
            open,
            layers,
            at: 0,
            placed,
            versions,
            joints,
            marks,
            tail: None,
            asked: Vec::new(),
            end,
            durable: end,
            names: Vec::new(),
        };
        stack.note_base();
        stack.marks = stack.marks_up_to(VersionNumber(u64::MAX));
        stack
    }

    /// The last numbers of VASes, as far as versions up to one have them. A log says those of all before
    /// it.
    pub(super) fn marks_up_to(&self, last: VersionNumber) -> Marks {
        let mut marks = Marks::default();
        for log in self.open.iter().filter(|log| log.header.after <= last) {
            marks.merge(&log.header.marks);
            log.header.facts.entry.iter().for_each(|entry| marks.note(entry));
        }
        let noted = self.versions.range(..=last).filter_map(|(_, it)| it.facts.entry.as_ref());
        noted.for_each(|entry| marks.note(entry));
        marks
    }

    /// Opens all that a root record names, and has read nothing of the logs; so much of their records will be
    /// read next.
    pub(super) fn open<D: Folder<File = F>>(
        folder: &D,
        root: &Root,
        known: &Known<'_, F>,
        content: Content,
    ) -> Result<Stack<F>> {
        let logs: Result<Vec<_>> =
            root.logs().map(|log| OpenLog::open(folder, root, log, known, content)).collect();
        let layers = root.generations.iter().map(|one| open_layer(folder, one, known));
        let (mut logs, layers) = (logs?, layers.collect::<Result<Vec<_>>>()?);
        settle_logs(&mut logs, root)?;
        let mut stack = Stack::unread(root.clone(), logs, layers);
        // Who wrote the root record wrote them before.
        stack.names = stack.joints.read_memos(folder)?;
        Ok(stack)
    }

    /// Takes a newer root record if it has all that this one has, and more behind it. Otherwise
    /// nothing has changed.
    pub(super) fn follow<D: Folder<File = F>>(
        &mut self,
        folder: &D,
        root: &Root,
    ) -> Result<Followed> {
        if !self.goes_on_in(root) {
            return Ok(Followed::No);
        }
        let known = Known(vec![self]);
        let new = root.logs().skip(self.open.len());
        let open = |log| OpenLog::open(folder, root, log, &known, Content::Trusted);
        let new: Result<Vec<_>> = new.map(open).collect();
        let layers = root.generations.iter().skip(self.layers.len());
        let layers: Result<Vec<_>> = layers.map(|one| open_layer(folder, one, &known)).collect();
        let (mut new, mut layers) = (new?, layers?);
        self.joints.read_memos(folder)?;
        // Only now, so that a failure leaves all as it was.
        let count = self.open.len();
        self.open.append(&mut new);
        let before: Vec<_> = self.open[..count].iter().map(|log| log.up_to).collect();
        for (log, (_, named)) in self.open.iter_mut().zip(root.logs()) {
            log.up_to = named.up_to;
        }
        if let Err(error) = settle_logs(&mut self.open, root) {
            self.open.truncate(count);
            self.open.iter_mut().zip(before).for_each(|(log, up_to)| log.up_to = up_to);
            return Err(error);
        }
        self.layers.append(&mut layers);
        self.root = root.clone();
        self.oldest = self.oldest.max(root.oldest.unwrap_or_default());
        self.marks = self.marks_up_to(VersionNumber(u64::MAX));
        Ok(Followed::Yes)
    }

    /// Whether `root` has the same generations and logs in front, and gives up nothing that was read.
    fn goes_on_in(&self, root: &Root) -> bool {
        let mut old = self.root.generations.iter().zip(&root.generations);
        let is_same = old.all(|(old, new)| {
            let key = |one: &Generation| (one.layer, one.base, one.below, one.origin);
            key(old) == key(new)
        });
        let mut logs = self.root.logs().zip(root.logs());
        let has_logs =
            logs.all(|((old_at, old), (new_at, new))| (old_at, old.id) == (new_at, new.id));
        let has_more = self.root.generations.len() <= root.generations.len()
            && self.open.len() <= root.logs().count();
        let current = root.logs().nth(self.at).and_then(|(_, log)| log.up_to);
        let keeps = current.is_none_or(|up_to| self.end.version <= up_to);
        is_same && has_logs && has_more && keeps
    }

    /// Reads on: as far as `up_to` if it is given, else to the end of the last log.
    pub(super) fn read_on(&mut self, up_to: Option<VersionNumber>, content: Content) -> Result<()> {
        self.read_on_beside(up_to, content, &Verified::none())
    }

    /// The same, without the pages of records that are `known` to be whole.
    pub(super) fn read_on_beside(
        &mut self,
        up_to: Option<VersionNumber>,
        content: Content,
        known: &Verified,
    ) -> Result<()> {
        let mut buffer = Buffer::new(content);
        while let Some(log) = self.open.get_mut(self.at) {
            let is_done = log.up_to.is_some_and(|up_to| self.end.version >= up_to);
            let generation = log.generation;
            if is_done
                && let Some(next) = self.open.get(self.at + 1)
                && up_to.is_none_or(|up_to| next.header.after <= up_to)
            {
                let fits =
                    (next.header.after, next.header.chain) == (self.end.version, self.end.chain);
                if next.generation == generation && !fits {
                    return Err(self.misfit());
                }
                let is_base = next.generation != generation;
                (self.end, self.durable) = (next.first, next.first);
                self.at += 1;
                buffer.clear();
                self.tail = None;
                if is_base {
                    self.note_base();
                }
                continue;
            }
            if is_done || up_to.is_some_and(|up_to| self.end.version >= up_to) {
                break;
            }
            let Some(log) = self.open.get_mut(self.at) else { break };
            if !log.begun.is_empty() {
                buffer.begin(std::mem::take(&mut log.begun));
            }
            let (id, identity) = (log.header.id, log.identity);
            let name = id.file_name();
            let mut scanned = scan::Log { file: &log.file.file, name: &name, bytes: log.prepared };
            let is_known = |found: &Found| known.has(identity, found);
            let next = scan::next(&mut scanned, self.end, content, &mut buffer, is_known)?;
            log.prepared = scanned.bytes;
            let Some((found, behind)) = next else { break };
            if content == Content::Verified {
                known.add(identity, &found);
            }
            self.note(id, &found);
            self.tail = found.head.joint.is_some().then_some(self.end);
            self.end = behind;
        }
        if !self.is_at_last() {
            // A log is synced before a root record names another behind it.
            self.durable = self.end;
        }
        Ok(())
    }

    /// After [`Stack::read_on`]: an error if it did not come as far as it had to.
    pub(super) fn check_reached(&self, up_to: Option<VersionNumber>) -> Result<()> {
        match up_to {
            None if !self.is_at_last() => Err(self.misfit()),
            // What another VM has merged.
            Some(up_to)
                if self.end.version < up_to
                    && let Some(next) = self.open.get(self.at + 1)
                    && next.header.after > up_to =>
            {
                Err(VersionsError::Gone { version: up_to, oldest: next.header.after })
            }
            Some(up_to) if self.end.version < up_to => {
                let what =
                    format!("version {up_to} was made known, and {} is the last", self.end.version);
                Err(damaged(&self.current().header.id.file_name(), what))
            }
            _ => Ok(()),
        }
    }

    /// The next log does not go on where the one before it ends.
    fn misfit(&self) -> VersionsError {
        let next = &self.open[(self.at + 1).min(self.open.len() - 1)].header;
        let what = format!(
            "it follows version {}, and the log before it ends at {}",
            next.after, self.end.version
        );
        damaged(&next.id.file_name(), what)
    }

    /// Whether `end` lies in the log that is written to.
    pub(super) fn is_at_last(&self) -> bool {
        self.at + 1 >= self.open.len()
    }

    /// The log that `end` lies in.
    pub(super) fn current(&self) -> &OpenLog<F> {
        self.open.get(self.at).expect("a segment has a log from the start on")
    }

    /// The same, to change it.
    pub(super) fn current_mut(&mut self) -> &mut OpenLog<F> {
        self.open.get_mut(self.at).expect("a segment has a log from the start on")
    }

    pub(super) fn find(&self, id: LogId) -> Option<&OpenLog<F>> {
        self.open.iter().find(|log| log.header.id == id)
    }

    /// Writing goes on in this log, which the root record names already, in a layer of the last
    /// generation.
    pub(super) fn begin(&mut self, root: Root, log: OpenLog<F>, layer: SharedLayer<F>) {
        self.open.retain(|log| root.has_log(log.header.id));
        for (log, (_, named)) in self.open.iter_mut().zip(root.logs()) {
            log.up_to = named.up_to.or(log.up_to);
        }
        let is_base = root.generations.len() > self.layers.len();
        self.layers.truncate(root.generations.len());
        if is_base {
            self.layers.push(layer);
        } else if let (Some(last), true) = (self.layers.last_mut(), layer.is_some()) {
            *last = layer;
        }
        (self.end, self.durable) = (log.first, log.first);
        self.tail = None;
        self.asked.clear();
        self.root = root;
        self.open.push(log);
        self.at = self.open.len() - 1;
        self.forget_behind(self.end.version);
        self.note_base();
    }

    /// Notes a whole record.
    pub(super) fn note(&mut self, log: LogId, found: &Found) {
        let version = found.head.version;
        for (page, offset) in found.places() {
            self.placed.entry(page).or_default().push(Placed { version, log, offset });
        }
        if let Some(joint) = &found.head.joint {
            self.joints.note(version, joint.clone());
        }
        found.head.facts.entry.iter().for_each(|entry| self.marks.note(entry));
        let pages = found.head.pages.iter().map(|(page, _)| *page).collect();
        let pages = Some(Changed::Listed(pages));
        self.versions.insert(version, Noted { facts: found.head.facts.clone(), pages });
    }

    /// Notes the version that the current log's generation begins with, if this is its first log.
    fn note_base(&mut self) {
        let Some(log) = self.open.get(self.at) else { return };
        let generation = &self.root.generations[log.generation];
        let (version, facts) = (generation.base, log.header.facts.clone());
        if log.header.after != version {
            return;
        }
        let before = |version: VersionNumber| version.0.checked_sub(1).map(VersionNumber);
        let pages = if generation.below == Some(version) {
            // The version itself was made below.
            self.versions.get(&version).and_then(|noted| noted.pages.clone())
        } else if generation.below.is_some() && generation.below == before(version) {
            match self.layers.get(log.generation).and_then(Option::as_deref).map(|l| &l.pages) {
                Some(Pages::Listed(presence)) => Some(Changed::Layer(presence.clone())),
                Some(Pages::Below(_)) => None,
                None => Some(Changed::Listed(Vec::new())),
            }
        } else {
            None
        };
        self.versions.insert(version, Noted { facts, pages });
    }

    /// Forgets all versions behind `last`, which were lost.
    pub(super) fn forget_behind(&mut self, last: VersionNumber) {
        self.joints.forget_behind(last);
        self.versions.retain(|version, _| *version <= last);
        self.placed.retain(|_, placed| {
            placed.retain(|placed| placed.version <= last);
            !placed.is_empty()
        });
        self.marks = self.marks_up_to(last);
    }
}

/// Whether a newer root record could be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Followed {
    /// Reading goes on.
    Yes,
    /// All must be read anew.
    No,
}

/// Each generation's first log begins where its layer is, and a log ends where the next of its
/// generation begins.
fn settle_logs<F>(logs: &mut [OpenLog<F>], root: &Root) -> Result<()> {
    let mut next: Option<(usize, VersionNumber)> = None;
    for log in logs.iter_mut().rev() {
        if let Some((generation, after)) = next
            && generation == log.generation
        {
            log.up_to = Some(log.up_to.map_or(after, |up_to| up_to.min(after)));
        }
        next = Some((log.generation, log.header.after));
    }
    let mut generation = None;
    for log in logs.iter() {
        let base = root.generations[log.generation].base;
        if generation != Some(log.generation) && log.header.after != base {
            let what = format!("a layer makes version {base}, which no log follows");
            return Err(damaged(FILE_NAME, what));
        }
        generation = Some(log.generation);
    }
    Ok(())
}

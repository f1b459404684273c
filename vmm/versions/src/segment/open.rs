//! Making a segment, and opening one after whatever ended its last use.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::{HOME_FILE_NAME, Limits, OpenLog, Segment, damaged, failed};
use crate::checksum::Checksum;
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::log::header::{LogHeader, LogId};
use crate::log::record::VersionFacts;
use crate::log::scan::{self, Position};
use crate::page::{PAGE_BYTES, VersionNumber};
use crate::root::{FILE_NAME, Root};

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
        let root = Root { counter: 0, segment, applied: after, logs: Vec::new() };
        let end = Position { offset: 0, version: after, chain: Checksum::default() };
        let mut made = Segment {
            folder,
            limits,
            root,
            root_file,
            home,
            logs: Vec::new(),
            placed: BTreeMap::new(),
            facts: BTreeMap::from([(after, facts)]),
            end,
            durable: end,
            oldest: end.version,
            has_failed: false,
        };
        made.begin_log(&[])?;
        Ok(made)
    }

    /// Opens a segment that nobody else has open to write, and recovers what a crash left: every
    /// version that was durable is there, and perhaps some behind it; nothing of one that was not
    /// whole. Writing goes on in a new log.
    ///
    /// # Errors
    /// The host's; [`crate::VersionsError::Damaged`] when what was durable is not there any more.
    pub fn open(folder: D, limits: Limits) -> Result<Self> {
        let (root, root_file) = Root::load(&folder)?;
        let home = open(&folder, HOME_FILE_NAME)?;
        let end = Position { offset: 0, version: root.applied, chain: Checksum::default() };
        let mut opened = Segment {
            folder,
            limits,
            root,
            root_file,
            home,
            logs: Vec::new(),
            placed: BTreeMap::new(),
            facts: BTreeMap::new(),
            end,
            durable: end,
            oldest: end.version,
            has_failed: false,
        };
        opened.read_logs()?;
        opened.oldest = opened.end.version;
        // Records may be whole in the page cache and nowhere else: the program was killed.
        opened.sync()?;
        // Always: behind the end may lie a record that is whole and follows one that is torn. Were the
        // torn one written anew, byte for byte, the other would count.
        opened.begin_log(&[])?;
        opened.remove_unnamed()?;
        Ok(opened)
    }

    /// Reads all logs. The last ends wherever it does; the others where the next one goes on.
    fn read_logs(&mut self) -> Result<()> {
        let ids = self.root.logs.clone();
        for (index, id) in ids.iter().enumerate() {
            let name = id.file_name();
            let file = open(&self.folder, &name)?;
            let (header, chain) = header_of(&file, *id)?;
            if header.segment != self.root.segment {
                let what = format!("it belongs to segment {:016x}", header.segment);
                return Err(damaged(&name, what));
            }
            if index == 0 {
                self.facts.insert(header.after, header.facts.clone());
            } else if (header.after, header.chain) != (self.end.version, self.end.chain) {
                let what = format!(
                    "it follows version {}, and the log before it ends at {}",
                    header.after, self.end.version
                );
                return Err(damaged(&name, what));
            }
            self.end = Position::first(&header, chain);
            let prepared = file.bytes().map_err(|source| failed("measure", &name, source))?;
            let limit = match ids.get(index + 1) {
                Some(next) => {
                    Some(header_of(&open(&self.folder, &next.file_name())?, *next)?.0.after)
                }
                None => None,
            };
            self.read_log(*id, &file, limit)?;
            let (after, follows) = (header.after, header.chain);
            self.logs.push(OpenLog { id: *id, file, after, follows, prepared });
        }
        if !self.facts.contains_key(&self.root.applied) {
            let what = format!("applied up to version {}, which no log has", self.root.applied);
            return Err(damaged(FILE_NAME, what));
        }
        Ok(())
    }

    fn read_log(&mut self, id: LogId, file: &D::File, limit: Option<VersionNumber>) -> Result<()> {
        while limit.is_none_or(|limit| self.end.version < limit) {
            let Some((found, behind)) = scan::next(file, &id.file_name(), self.end)? else { break };
            self.note(id, &found);
            self.end = behind;
        }
        Ok(())
    }

    /// Removes logs that the root record does not name: one that a crash left unfinished, or one
    /// that was applied.
    fn remove_unnamed(&self) -> Result<()> {
        let names = self.folder.names().map_err(|source| failed("list", ".", source))?;
        for name in names {
            let Some(id) = LogId::of_file_name(&name) else { continue };
            if !self.root.logs.contains(&id) {
                match self.folder.remove(&name) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(failed("remove", &name, error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn create<D: Folder>(folder: &D, name: &str) -> Result<D::File> {
    folder.create(name).map_err(|source| failed("create", name, source))
}

fn open<D: Folder>(folder: &D, name: &str) -> Result<D::File> {
    folder.open(name).map_err(|source| failed("open", name, source))
}

fn header_of<F: File>(file: &F, id: LogId) -> Result<(LogHeader, Checksum)> {
    let mut page = [0; PAGE_BYTES];
    let name = id.file_name();
    file.read_at(&mut page, 0).map_err(|source| failed("read", &name, source))?;
    let (header, checksum) = LogHeader::decode(&page).map_err(|what| damaged(&name, what))?;
    if header.id != id {
        return Err(damaged(&name, format!("it says it is {}", header.id.file_name())));
    }
    Ok((header, checksum))
}

//! What a power cut may leave of what was done to the disk.

use std::collections::BTreeMap;

use super::{Done, FileNumber, Files, Name, Random, write_into};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What is on the disk for good, and what is on its way there, after a prefix of a journal.
#[derive(Clone, Default, Debug)]
pub struct AfterCut {
    names: BTreeMap<Name, FileNumber>,
    pending_names: Vec<(Name, Option<FileNumber>)>,
    files: BTreeMap<FileNumber, Media>,
}

#[derive(Clone, Default, Debug)]
struct Media {
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl AfterCut {
    /// A disk with these files and nothing on its way.
    #[must_use]
    pub fn with_files(files: &Files) -> AfterCut {
        let media = |content: &Vec<u8>| Media { durable: content.clone(), pending: Vec::new() };
        let contents = files.contents.iter();
        let files_after = contents.map(|(number, content)| (*number, media(content))).collect();
        AfterCut { names: files.names.clone(), pending_names: Vec::new(), files: files_after }
    }

    /// One more operation was done before the cut.
    pub fn advance(&mut self, done: &Done) {
        match done {
            Done::Create(name, number) => {
                self.pending_names.push((name.clone(), Some(*number)));
                self.files.insert(*number, Media::default());
            }
            Done::Link(name, number) => self.pending_names.push((name.clone(), Some(*number))),
            Done::Remove(name) => self.pending_names.push((name.clone(), None)),
            Done::Write(number, offset, bytes) => {
                let media = self.files.entry(*number).or_default();
                media.pending.push((*offset as usize, bytes.clone()));
            }
            Done::Sync(number) => {
                let media = self.files.entry(*number).or_default();
                for (offset, bytes) in std::mem::take(&mut media.pending) {
                    write_into(&mut media.durable, offset, &bytes);
                }
            }
            Done::SyncFolder(folder) => {
                let is_of = |((of, _), _): &(Name, Option<FileNumber>)| of == folder;
                let (synced, left) =
                    std::mem::take(&mut self.pending_names).into_iter().partition(is_of);
                self.pending_names = left;
                let synced: Vec<_> = synced;
                for (name, number) in synced {
                    rename(&mut self.names, name, number);
                }
            }
            Done::Mark(_) => {}
        }
    }

    /// One of the states that a cut here may leave, chosen by `random`.
    #[must_use]
    pub fn leave(&self, random: &mut Random) -> Files {
        let taste = random.below(5);
        let chosen = |random: &mut Random| match taste {
            0 => false,
            1 => true,
            2 => random.below(16) != 0,
            3 => random.below(16) == 0,
            _ => random.below(2) == 0,
        };
        let mut names = self.names.clone();
        for (name, number) in &self.pending_names {
            if chosen(random) {
                rename(&mut names, name.clone(), *number);
            }
        }
        let mut contents = BTreeMap::new();
        for number in names.values() {
            let Some(media) = self.files.get(number).filter(|_| !contents.contains_key(number))
            else {
                continue;
            };
            let mut content = media.durable.clone();
            let whole = media.pending.iter().map(|(offset, bytes)| offset + bytes.len()).max();
            let grows = chosen(random);
            if grows {
                content.resize(content.len().max(whole.unwrap_or(0)), 0);
            }
            for (offset, bytes) in &media.pending {
                write_torn(&mut content, *offset, bytes, &mut || chosen(random));
            }
            contents.insert(*number, content);
        }
        names.retain(|_, number| contents.contains_key(number));
        Files { names, contents }
    }
}

fn rename(names: &mut BTreeMap<Name, FileNumber>, name: Name, number: Option<FileNumber>) {
    match number {
        Some(number) => names.insert(name, number),
        None => names.remove(&name),
    };
}

/// Writes some of the sectors, as far as the file is long.
fn write_torn(file: &mut [u8], offset: usize, bytes: &[u8], chosen: &mut dyn FnMut() -> bool) {
    let mut at = 0;
    while at < bytes.len() {
        let end = ((offset + at) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset;
        let end = end.min(bytes.len()).min(file.len().saturating_sub(offset));
        if end <= at {
            return;
        }
        if chosen() {
            file[offset + at..offset + end].copy_from_slice(&bytes[at..end]);
        }
        at = end;
    }
}

//! A disk in memory that keeps a journal of all that was done to it, and makes from it what a power
//! cut may leave.
//!
//! It promises less than any file system: of what was written to a file and not synced, any
//! 512-byte sectors may be there; the same of lengths; of names made and removed and not synced with
//! their folder, any subset. It does not divide a sector (disks do not), and it reads unwritten parts
//! as zeros.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;

use super::{File, Folder};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// One thing that was done.
#[derive(Clone, Debug)]
pub enum Done {
    /// A file was made.
    Create(String, FileNumber),
    /// A name was taken away.
    Remove(String),
    /// Bytes were written.
    Write(FileNumber, u64, Vec<u8>),
    /// A file was synced.
    Sync(FileNumber),
    /// The folder was.
    SyncFolder,
    /// Nothing on the disk: the workload says what it was promised.
    Mark(u64),
}

/// A file of the simulation, whatever its names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileNumber(usize);

/// What the disk does with an operation, instead of doing it.
pub type Fault = Box<dyn FnMut(&Done, &str) -> FaultKind>;

/// How an operation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// As it should.
    None,
    /// With this error, and without effect.
    Error(ErrorKind),
    /// With this error, although it has its effect.
    ErrorAfter(ErrorKind),
    /// A kill ends it: of a write, at most so many bytes are there, and anything else has no effect.
    Short(usize),
    /// Without effect, and it says that it had it: a planted defect.
    Dropped,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, FileNumber>,
    files: Vec<Vec<u8>>,
    /// The name that each had at first, for faults.
    first_names: Vec<String>,
    journal: Vec<Done>,
    fault: Option<Fault>,
    reads: u64,
}

/// A folder on the simulated disk; clones are the same folder.
#[derive(Clone, Default)]
pub struct Disk(Rc<RefCell<State>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

/// An open file on it.
#[derive(Debug)]
pub struct DiskFile(Disk, FileNumber);

impl Disk {
    /// A disk with these files, all durable.
    #[must_use]
    pub fn with_files(files: BTreeMap<String, Vec<u8>>) -> Disk {
        let mut state = State::default();
        for (name, content) in files {
            state.names.insert(name.clone(), FileNumber(state.files.len()));
            state.files.push(content);
            state.first_names.push(name);
        }
        Disk(Rc::new(RefCell::new(state)))
    }

    /// Notes in the journal what the workload was promised.
    pub fn mark(&self, promise: u64) {
        self.0.borrow_mut().journal.push(Done::Mark(promise));
    }

    /// From now on asks `fault` what to do with each operation: it gets the operation and the file's
    /// first name.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.0.borrow_mut().fault = fault;
    }

    /// All files as they are now, and all that was done from the start or the last call on.
    #[must_use]
    pub fn take(&self) -> (BTreeMap<String, Vec<u8>>, Vec<Done>) {
        let mut state = self.0.borrow_mut();
        let journal = std::mem::take(&mut state.journal);
        let content = |number: &FileNumber| state.files[number.0].clone();
        let files = state.names.iter().map(|(name, number)| (name.clone(), content(number)));
        (files.collect(), journal)
    }

    /// How often files were read so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.0.borrow().reads
    }

    fn perform(&self, mut done: Done) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let name = match &done {
            Done::Create(name, _) | Done::Remove(name) => name.clone(),
            Done::Write(number, ..) | Done::Sync(number) => state.first_names[number.0].clone(),
            Done::SyncFolder | Done::Mark(_) => String::new(),
        };
        let kind = state.fault.as_mut().map_or(FaultKind::None, |fault| fault(&done, &name));
        if let FaultKind::Error(kind) = kind {
            return Err(kind.into());
        }
        if let FaultKind::Short(most) = kind {
            match &mut done {
                Done::Write(_, _, bytes) if most > 0 => bytes.truncate(most),
                _ => return Err(ErrorKind::Interrupted.into()),
            }
        }
        match &done {
            Done::Create(name, number) => {
                state.names.insert(name.clone(), *number);
                state.files.push(Vec::new());
                state.first_names.push(name.clone());
            }
            Done::Remove(name) => {
                state.names.remove(name);
            }
            Done::Write(number, offset, bytes) => {
                write_into(&mut state.files[number.0], *offset as usize, bytes);
            }
            Done::Sync(_) | Done::SyncFolder | Done::Mark(_) => {}
        }
        // A write that is dropped can be read: it is the disk that forgets it.
        if kind != FaultKind::Dropped {
            state.journal.push(done);
        }
        match kind {
            FaultKind::ErrorAfter(kind) => Err(kind.into()),
            FaultKind::Short(_) => Err(ErrorKind::Interrupted.into()),
            _ => Ok(()),
        }
    }
}

fn write_into(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

impl Folder for Disk {
    type File = DiskFile;

    fn create(&self, name: &str) -> io::Result<DiskFile> {
        let number = {
            let state = self.0.borrow();
            if state.names.contains_key(name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            FileNumber(state.files.len())
        };
        self.perform(Done::Create(name.to_owned(), number))?;
        Ok(DiskFile(self.clone(), number))
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        let number = self.0.borrow().names.get(name).copied();
        number.map(|number| DiskFile(self.clone(), number)).ok_or(ErrorKind::NotFound.into())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.0.borrow().names.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        self.perform(Done::Remove(name.to_owned()))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().names.keys().cloned().collect())
    }

    fn sync(&self) -> io::Result<()> {
        self.perform(Done::SyncFolder)
    }
}

impl File for DiskFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.0.borrow().files[self.1.0].len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.0.borrow_mut();
        state.reads += 1;
        let file = &state.files[self.1.0];
        let from = usize::try_from(offset).ok().and_then(|offset| file.get(offset..));
        let from = from.and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.0.perform(Done::Write(self.1, offset, bytes))
    }

    fn release(&self, _: u64) {
        // The content stays what it is, and space is no concern here.
    }

    fn sync(&self) -> io::Result<()> {
        self.0.perform(Done::Sync(self.1))
    }
}

/// A process that is killed after so many operations: of the next, if it writes, so many bytes are
/// there, and nothing of those behind it. What was done stays, durable or not: a kill is no power cut.
#[must_use]
pub fn killed_after(operations: u64, bytes: usize) -> Fault {
    let (mut operations, mut bytes) = (operations, Some(bytes));
    Box::new(move |_, _| {
        if operations > 0 {
            operations -= 1;
            return FaultKind::None;
        }
        FaultKind::Short(bytes.take().unwrap_or(0))
    })
}

/// What is on the disk for good, and what is on its way there, after a prefix of a journal.
#[derive(Clone, Default, Debug)]
pub struct AfterCut {
    names: BTreeMap<String, FileNumber>,
    pending_names: Vec<(String, Option<FileNumber>)>,
    files: BTreeMap<FileNumber, Media>,
}

#[derive(Clone, Default, Debug)]
struct Media {
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl AfterCut {
    /// A disk with these files and nothing on its way. Their numbers are those that
    /// [`Disk::with_files`] gives.
    #[must_use]
    pub fn with_files(files: &BTreeMap<String, Vec<u8>>) -> AfterCut {
        let mut after = AfterCut::default();
        for (index, (name, content)) in files.iter().enumerate() {
            after.names.insert(name.clone(), FileNumber(index));
            let media = Media { durable: content.clone(), pending: Vec::new() };
            after.files.insert(FileNumber(index), media);
        }
        after
    }

    /// One more operation was done before the cut.
    pub fn advance(&mut self, done: &Done) {
        match done {
            Done::Create(name, number) => {
                self.pending_names.push((name.clone(), Some(*number)));
                self.files.insert(*number, Media::default());
            }
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
            Done::SyncFolder => {
                for (name, number) in std::mem::take(&mut self.pending_names) {
                    rename(&mut self.names, name, number);
                }
            }
            Done::Mark(_) => {}
        }
    }

    /// One of the states that a cut here may leave, chosen by `random`.
    #[must_use]
    pub fn leave(&self, random: &mut Random) -> BTreeMap<String, Vec<u8>> {
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
        let mut left = BTreeMap::new();
        for (name, number) in names {
            let Some(media) = self.files.get(&number) else { continue };
            let mut content = media.durable.clone();
            let whole = media.pending.iter().map(|(offset, bytes)| offset + bytes.len()).max();
            let grows = chosen(random);
            if grows {
                content.resize(content.len().max(whole.unwrap_or(0)), 0);
            }
            for (offset, bytes) in &media.pending {
                write_torn(&mut content, *offset, bytes, &mut || chosen(random));
            }
            left.insert(name, content);
        }
        left
    }
}

fn rename(names: &mut BTreeMap<String, FileNumber>, name: String, number: Option<FileNumber>) {
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

/// A small generator, so that a seed says everything (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit
    }
}

//! A disk in memory that keeps a journal of all that was done to it, and makes from it what a power
//! cut may leave.
//!
//! It promises less than any file system: of what was written to a file and not synced, any
//! 512-byte sectors may be there; the same of lengths; of names made and removed and not synced
//! with their folder, any subset. A file may have names in several folders. It does not divide a
//! sector (disks do not), and it reads unwritten parts as zeros.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::rc::Rc;

use super::{File, Folder};

mod cut;

pub use cut::AfterCut;

/// One thing that was done.
#[derive(Clone, Debug)]
pub enum Done {
    /// A file was made.
    Create(Name, FileNumber),
    /// A file got one more name.
    Link(Name, FileNumber),
    /// A name was taken away.
    Remove(Name),
    /// Bytes were written.
    Write(FileNumber, u64, Vec<u8>),
    /// A file was synced.
    Sync(FileNumber),
    /// A folder was.
    SyncFolder(FolderNumber),
    /// Nothing on the disk: the workload says what it was promised.
    Mark(u64),
}

/// A folder of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Debug)]
pub struct FolderNumber(pub u32);

/// A name in a folder.
pub type Name = (FolderNumber, String);

/// The files of a disk: what names there are, and what each file has.
#[derive(Clone, Default, Debug)]
pub struct Files {
    names: BTreeMap<Name, FileNumber>,
    contents: BTreeMap<FileNumber, Vec<u8>>,
}

impl Files {
    /// A file's content.
    #[must_use]
    pub fn get(&self, folder: FolderNumber, name: &str) -> Option<&[u8]> {
        let number = self.names.get(&(folder, name.to_owned()))?;
        self.contents.get(number).map(Vec::as_slice)
    }

    /// Adds a file with this content, or replaces it.
    pub fn insert(&mut self, folder: FolderNumber, name: &str, content: Vec<u8>) {
        let number = FileNumber(self.contents.keys().last().map_or(0, |last| last.0 + 1));
        self.names.insert((folder, name.to_owned()), number);
        self.contents.insert(number, content);
    }
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
    names: BTreeMap<Name, FileNumber>,
    files: BTreeMap<FileNumber, Vec<u8>>,
    next: usize,
    /// The name that each had at first, for faults.
    first_names: BTreeMap<FileNumber, String>,
    journal: Vec<Done>,
    fault: Option<Fault>,
    reads: u64,
}

/// A folder on the simulated disk; clones are the same folder.
#[derive(Clone, Default)]
pub struct Disk(Rc<RefCell<State>>, FolderNumber);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

/// An open file on it.
#[derive(Debug)]
pub struct DiskFile(Disk, FileNumber);

impl Disk {
    /// A disk with these files, all durable: its folder 0.
    #[must_use]
    pub fn with_files(files: Files) -> Disk {
        let Files { names, contents } = files;
        let mut state = State {
            next: contents.keys().last().map_or(0, |last| last.0 + 1),
            files: contents,
            ..State::default()
        };
        for ((_, name), number) in &names {
            state.first_names.entry(*number).or_insert_with(|| name.clone());
        }
        state.names = names;
        Disk(Rc::new(RefCell::new(state)), FolderNumber::default())
    }

    /// Another folder of the same disk.
    #[must_use]
    pub fn folder(&self, number: FolderNumber) -> Disk {
        Disk(self.0.clone(), number)
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
    pub fn take(&self) -> (Files, Vec<Done>) {
        let mut state = self.0.borrow_mut();
        let journal = std::mem::take(&mut state.journal);
        let named = |number: &FileNumber| state.names.values().any(|other| other == number);
        let contents = state.files.iter().filter(|(number, _)| named(number));
        let contents = contents.map(|(number, content)| (*number, content.clone())).collect();
        (Files { names: state.names.clone(), contents }, journal)
    }

    /// How often files were read so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.0.borrow().reads
    }

    fn perform(&self, mut done: Done) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let name = match &done {
            Done::Create((_, name), _) | Done::Link((_, name), _) | Done::Remove((_, name)) => {
                name.clone()
            }
            Done::Write(number, ..) | Done::Sync(number) => state.first_names[number].clone(),
            Done::SyncFolder(_) | Done::Mark(_) => String::new(),
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
                state.files.insert(*number, Vec::new());
                state.first_names.insert(*number, name.1.clone());
                state.next = number.0 + 1;
            }
            Done::Link(name, number) => {
                state.names.insert(name.clone(), *number);
            }
            Done::Remove(name) => {
                state.names.remove(name);
            }
            Done::Write(number, offset, bytes) => {
                let file = state.files.entry(*number).or_default();
                write_into(file, *offset as usize, bytes);
            }
            Done::Sync(_) | Done::SyncFolder(_) | Done::Mark(_) => {}
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

impl Disk {
    fn name(&self, name: &str) -> Name {
        (self.1, name.to_owned())
    }

    fn number(&self, name: &str) -> io::Result<FileNumber> {
        let number = self.0.borrow().names.get(&self.name(name)).copied();
        number.ok_or(ErrorKind::NotFound.into())
    }

    fn check_free(&self, name: &str) -> io::Result<()> {
        let exists = self.number(name).is_ok();
        if exists { Err(ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }
}

impl Folder for Disk {
    type File = DiskFile;

    /// The folder with the segment's number.
    fn companion(&self, segment: u64) -> io::Result<Option<Disk>> {
        let number = u32::try_from(segment).map_err(|_| ErrorKind::InvalidInput)?;
        let folder = self.folder(FolderNumber(number));
        Ok(Some(folder).filter(|folder| folder.names().is_ok_and(|names| !names.is_empty())))
    }

    fn companion_to_repair(&self, segment: u64) -> io::Result<Option<Disk>> {
        self.companion(segment)
    }

    fn create(&self, name: &str) -> io::Result<DiskFile> {
        self.check_free(name)?;
        let number = FileNumber(self.0.borrow().next);
        self.perform(Done::Create(self.name(name), number))?;
        Ok(DiskFile(self.clone(), number))
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        Ok(DiskFile(self.clone(), self.number(name)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.number(name)?;
        self.perform(Done::Remove(self.name(name)))
    }

    fn link(&self, name: &str, to: &Disk, as_name: &str) -> io::Result<()> {
        let number = self.number(name)?;
        to.check_free(as_name)?;
        self.perform(Done::Link(to.name(as_name), number))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let state = self.0.borrow();
        let here = state.names.keys().filter(|(folder, _)| *folder == self.1);
        Ok(here.map(|(_, name)| name.clone()).collect())
    }

    fn sync(&self) -> io::Result<()> {
        self.perform(Done::SyncFolder(self.1))
    }
}

impl File for DiskFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.0.borrow().files[&self.1].len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.0.borrow_mut();
        state.reads += 1;
        let file = &state.files[&self.1];
        let from = usize::try_from(offset).ok().and_then(|offset| file.get(offset..));
        let from = from.and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.0.perform(Done::Write(self.1, offset, bytes))
    }

    fn links(&self) -> io::Result<u64> {
        let state = self.0.0.borrow();
        Ok(state.names.values().filter(|number| **number == self.1).count() as u64)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((0, self.1.0 as u64))
    }

    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let bytes = self.bytes()?;
        Ok(Some(offset..bytes).filter(|range| !range.is_empty()))
    }

    fn clear(&self, range: Range<u64>) -> io::Result<()> {
        let zeros = vec![0; range.end.saturating_sub(range.start) as usize];
        self.0.perform(Done::Write(self.1, range.start, zeros))
    }

    fn uncache(&self, _: u64) {}

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

//! One directory in memory for several VMMs: a server has the names, each VMM a copy that is brought up to
//! date before it is looked at. What changes a name is done by the server, so that of two VMMs that
//! create the same name one succeeds.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use rustix::fs::RenameFlags;

use super::charge::MemoryAccount;
use super::files::Files;
use super::handover::{Reader, Writer};
use super::memory_dir::{Entries, Entry, MemoryAt, MemoryDir, MemoryFile};

/// An answer: bytes, and descriptors.
pub type Answer = (Vec<u8>, Vec<Arc<OwnedFd>>);

/// How a VMM reaches the server.
pub trait NameServer: fmt::Debug + Send + Sync {
    /// Asks, with a descriptor if there is one to be sent.
    ///
    /// # Errors
    /// `EIO`: the server is gone.
    fn ask(
        &self,
        request: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno>;
}

/// The directory as the server knows it.
#[derive(Debug)]
pub(super) struct Remote {
    server: Arc<dyn NameServer>,
    number: u64,
    account: Arc<dyn MemoryAccount>,
}

const PULL: u64 = 0;
const ADD: u64 = 1;
const UNLINK: u64 = 2;
const LINK: u64 = 3;
const RENAME: u64 = 4;
const BAD: Errno = Errno::from_raw(libc::EPROTO);

fn ino_of(file: &MemoryFile) -> Option<u64> {
    Some(rustix::fs::fstat(file.named()?).ok()?.st_ino)
}

impl Remote {
    fn ask(
        &self,
        op: u64,
        write: impl FnOnce(&mut Writer),
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
        let mut request = Writer::default();
        request.words(&[self.number, op]);
        write(&mut request);
        let (bytes, fds) = self.server.ask(&request.finish(), fd)?;
        let mut answer = Reader(&bytes);
        match answer.words() {
            Some([0]) => Ok((answer.0.to_vec(), fds)),
            Some([errno]) => Err(Errno::from_raw(errno as i32)),
            None => Err(BAD),
        }
    }

    /// Makes a new file known under a name.
    ///
    /// # Errors
    /// `EEXIST`, `ENOSPC`.
    pub(super) fn add(&self, name: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.ask(ADD, |out| out.bytes(name), Some(fd)).map(drop)
    }

    /// # Errors
    /// `ENOENT`.
    pub(super) fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        self.ask(UNLINK, |out| out.bytes(name), None).map(drop)
    }

    /// # Errors
    /// As [`MemoryAt::link`].
    pub(super) fn link(&self, old: &[u8], new: &[u8]) -> Result<(), Errno> {
        let names = |out: &mut Writer| [old, new].into_iter().for_each(|name| out.bytes(name));
        self.ask(LINK, names, None).map(drop)
    }

    /// # Errors
    /// As [`MemoryAt::rename`].
    pub(super) fn rename(&self, old: &[u8], new: &[u8], flags: RenameFlags) -> Result<(), Errno> {
        let names = |out: &mut Writer| {
            out.words(&[u64::from(flags.bits())]);
            [old, new].into_iter().for_each(|name| out.bytes(name));
        };
        self.ask(RENAME, names, None).map(drop)
    }

    /// Brings a copy up to date. Without the server it stays as it is.
    pub(super) fn pull(&self, entries: &mut Entries) {
        let mut known: HashMap<u64, Arc<MemoryFile>> = HashMap::new();
        for entry in entries.names.values() {
            known.extend(ino_of(&entry.file).map(|ino| (ino, entry.file.clone())));
        }
        let request = |out: &mut Writer| {
            out.words(&[entries.version, known.len() as u64]);
            known.keys().for_each(|ino| out.words(&[*ino]));
        };
        if let Ok((bytes, fds)) = self.ask(PULL, request, None) {
            // What is no answer changes nothing.
            let _ = self.update(entries, &mut known, &bytes, fds);
        }
    }

    fn update(
        &self,
        entries: &mut Entries,
        known: &mut HashMap<u64, Arc<MemoryFile>>,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Option<()> {
        let mut input = Reader(bytes);
        let mut fds = fds.into_iter();
        let [version, count] = input.words()?;
        if version == entries.version {
            return Some(());
        }
        let mut names = BTreeMap::new();
        for _ in 0..count {
            let [ino, cookie] = input.words()?;
            let name = input.bytes()?.to_vec();
            let file = match known.get(&ino) {
                Some(file) => file.clone(),
                None => {
                    let file = Arc::new(MemoryFile::received(fds.next()?, &self.account));
                    known.insert(ino, file.clone());
                    file
                }
            };
            names.insert(name, Entry { file, cookie });
        }
        known.values().for_each(|file| file.links.store(0, Ordering::Relaxed));
        for entry in names.values() {
            entry.file.links.fetch_add(1, Ordering::Relaxed);
            entries.last_cookie = entries.last_cookie.max(entry.cookie);
        }
        entries.names = names;
        entries.version = version;
        Some(())
    }
}

impl Files {
    /// From now on the names in `/dev/shm` and its like are the server's. With `publish`, those that are there
    /// are made known to it.
    pub fn share_names(&self, server: &Arc<dyn NameServer>, publish: bool) {
        for (number, dir) in (0..).zip(self.namespace.tree.memory_dirs()) {
            let (server, account) = (server.clone(), self.account().clone());
            dir.share(Remote { server, number, account }, publish);
        }
    }

    /// Forgets the names in a copy of the server, which is to be another VMM. Returns the descriptors of their
    /// files, which are this process's to close; what they are charged with stays the server's.
    #[must_use]
    pub fn abandon_names(&self) -> Vec<RawFd> {
        let mut fds = Vec::new();
        for dir in self.namespace.tree.memory_dirs() {
            let entries = std::mem::take(&mut *dir.local());
            let named = entries.names.values().filter_map(|entry| entry.file.named());
            fds.extend(named.map(|fd| fd.as_raw_fd()));
            std::mem::forget(entries);
        }
        fds
    }

    /// Answers a VMM, in the server.
    #[must_use]
    pub fn serve_names(&self, request: &[u8], fds: Vec<OwnedFd>) -> Answer {
        let mut out = Writer::default();
        let mut sent = Vec::new();
        match self.answer(request, fds, &mut out, &mut sent) {
            Ok(()) => {}
            Err(errno) => {
                out = Writer::default();
                out.words(&[errno.raw() as u64]);
                sent.clear();
            }
        }
        (out.finish(), sent)
    }

    fn answer(
        &self,
        request: &[u8],
        fds: Vec<OwnedFd>,
        out: &mut Writer,
        sent: &mut Vec<Arc<OwnedFd>>,
    ) -> Result<(), Errno> {
        let mut input = Reader(request);
        let [number, op] = input.words().ok_or(BAD)?;
        let dir = self.namespace.tree.memory_dirs().nth(number as usize).ok_or(BAD)?;
        out.words(&[0]);
        let at = |name: &[u8]| MemoryAt { dir: dir.clone(), name: name.to_vec() };
        match op {
            PULL => {
                let [version, count] = input.words().ok_or(BAD)?;
                let mut known = Vec::new();
                for _ in 0..count {
                    let [ino] = input.words().ok_or(BAD)?;
                    known.push(ino);
                }
                dir.tell(version, known, out, sent);
                return Ok(());
            }
            ADD => {
                let name = input.bytes().ok_or(BAD)?;
                let fd = fds.into_iter().next().ok_or(BAD)?;
                dir.receive(name, fd, self.account())?;
            }
            UNLINK => at(input.bytes().ok_or(BAD)?).unlink()?,
            LINK => {
                let (old, new) = (input.bytes().ok_or(BAD)?, input.bytes().ok_or(BAD)?);
                at(old).link(&at(new))?;
            }
            RENAME => {
                let [flags] = input.words().ok_or(BAD)?;
                let (old, new) = (input.bytes().ok_or(BAD)?, input.bytes().ok_or(BAD)?);
                let flags = RenameFlags::from_bits_retain(flags as u32);
                at(old).rename(&at(new), flags)?;
            }
            _ => return Err(BAD),
        }
        dir.changed();
        Ok(())
    }
}

impl MemoryDir {
    fn share(&self, remote: Remote, publish: bool) {
        let mut entries = self.local();
        if self.remote.get().is_some() {
            return;
        }
        if publish {
            let mut first: HashMap<u64, Vec<u8>> = HashMap::new();
            let mut all: Vec<_> = entries.names.iter().collect();
            all.sort_by_key(|(_, entry)| entry.cookie);
            for (name, entry) in all {
                let (Some(ino), Some(fd)) = (ino_of(&entry.file), entry.file.named()) else {
                    continue;
                };
                // One that cannot be made known is this VMM's alone.
                let _ = match first.get(&ino) {
                    Some(other) => remote.link(other, name),
                    None => remote.add(name, fd.as_fd()),
                };
                first.entry(ino).or_insert_with(|| name.clone());
            }
        }
        // What the server says comes next.
        entries.version = u64::MAX;
        let _ = self.remote.set(remote);
    }

    /// Says in the server what there is, unless that is known.
    fn tell(
        &self,
        version: u64,
        mut known: Vec<u64>,
        out: &mut Writer,
        sent: &mut Vec<Arc<OwnedFd>>,
    ) {
        let entries = self.local();
        let names = if version == entries.version { 0 } else { entries.names.len() };
        out.words(&[entries.version, names as u64]);
        for (name, entry) in entries.names.iter().take(names) {
            let Some(fd) = entry.file.named() else { continue };
            let ino = ino_of(&entry.file).unwrap_or(0);
            out.words(&[ino, entry.cookie]);
            out.bytes(name);
            if !known.contains(&ino) {
                known.push(ino);
                sent.push(fd.clone());
            }
        }
    }

    /// A name has changed: others have to be told, and what the files have come to hold is looked at.
    fn changed(&self) {
        let mut entries = self.local();
        entries.version += 1;
        for entry in entries.names.values() {
            if let Some(fd) = entry.file.named() {
                entry.file.charge.refresh(fd.as_fd());
            }
        }
    }

    /// A file that another VMM has made.
    fn receive(
        &self,
        name: &[u8],
        fd: OwnedFd,
        account: &Arc<dyn MemoryAccount>,
    ) -> Result<(), Errno> {
        let mut entries = self.local();
        if entries.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.add(name.to_vec(), Arc::new(MemoryFile::received(fd, account)))
    }
}

//! A program's files in a snapshot of its process: what has a path is opened again by it, with the flags and
//! the offset that it had. What has none is left out, and said to be.
//!
//! Paths are those that the program sees, so what can be opened again is decided by what is granted then, and
//! not by what is written in a snapshot.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use rustix::fs::{OFlags, SeekFrom};

use super::files::Files;
use super::handover::{Reader, Writer};
use super::open_file::{FileKind, OpenFile, Origin};
use super::{NOFILE_MAX, host};

/// The flags with which a file is opened again. None of them makes or changes one.
const KEPT: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::SYNC)
    .union(OFlags::DIRECT)
    .union(OFlags::NOATIME)
    .union(OFlags::PATH);
/// The standard streams are the new run's.
const STANDARD: u32 = 3;
/// No other descriptor.
const NONE: u64 = u64::MAX;

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// Its number.
    pub fd: u32,
    /// Another descriptor of the same open file, which comes before it or is one of the standard streams.
    pub same: Option<u32>,
    /// The path that the program sees.
    pub path: Vec<u8>,
    flags: OFlags,
    offset: u64,
    cloexec: bool,
}

/// A program's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptFiles {
    /// Its current directory.
    pub cwd: Vec<u8>,
    /// Its umask.
    pub umask: u32,
    /// Standard streams that it has closed: a bit each.
    pub closed: u64,
    /// All that can be opened again.
    pub files: Vec<KeptFile>,
}

/// A file that the program has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptMapping {
    /// The path that the program sees.
    pub path: Vec<u8>,
    /// Whether what the program writes reaches the file.
    pub writable: bool,
    /// What it has to be still ([`identity_of`]), if what the program sees of it is not to change.
    pub identity: Option<[u64; 5]>,
}

/// What tells one state of a file from another: device, number, size, time of the last change.
///
/// # Errors
/// The host's.
pub fn identity_of(file: &File) -> Result<[u64; 5], Errno> {
    let stat = rustix::fs::fstat(file).map_err(host)?;
    Ok([
        stat.st_dev,
        stat.st_ino,
        stat.st_size.cast_unsigned(),
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec,
    ])
}

impl KeptFiles {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&self.cwd);
        out.words(&[u64::from(self.umask), self.closed, self.files.len() as u64]);
        for KeptFile { fd, same, path, flags, offset, cloexec } in &self.files {
            let same = same.map_or(NONE, u64::from);
            let flags = u64::from(flags.bits());
            out.words(&[u64::from(*fd), same, flags, *offset, u64::from(*cloexec)]);
            out.bytes(path);
        }
        out.finish()
    }

    /// What [`KeptFiles::encode`] has written; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<KeptFiles> {
        let mut input = Reader(bytes);
        let cwd = absolute(input.bytes()?)?;
        let [umask, closed, count] = input.words()?;
        let mut files: Vec<KeptFile> = Vec::new();
        for _ in 0..count {
            let [fd, same, flags, offset, cloexec] = input.words()?;
            let fd = u32::try_from(fd).ok().filter(|fd| *fd < NOFILE_MAX)?;
            // Ascending, so that no two are the same.
            if files.last().is_some_and(|last| last.fd >= fd) {
                return None;
            }
            let same = (same != NONE).then(|| u32::try_from(same)).transpose().ok()?;
            let is_known = |same: u32| same < STANDARD || files.iter().any(|file| file.fd == same);
            if same.is_some_and(|same| same >= fd || !is_known(same)) {
                return None;
            }
            let bits = u32::try_from(flags).ok()?;
            let flags = OFlags::from_bits_retain(bits);
            if !(KEPT | OFlags::NONBLOCK).contains(flags) || cloexec > 1 || offset > i64::MAX as u64
            {
                return None;
            }
            let path = input.bytes()?;
            let path = if same.is_some() { Vec::new() } else { absolute(path)? };
            files.push(KeptFile { fd, same, path, flags, offset, cloexec: cloexec == 1 });
        }
        let is_whole = input.0.is_empty() && umask <= 0o777 && closed < 1 << STANDARD;
        let umask = u32::try_from(umask).ok()?;
        is_whole.then_some(KeptFiles { cwd, umask, closed, files })
    }
}

fn is_number(part: &[u8]) -> bool {
    !part.is_empty() && part.iter().all(u8::is_ascii_digit)
}

fn absolute(path: &[u8]) -> Option<Vec<u8>> {
    let is_path = path.starts_with(b"/") && path.len() < 4096 && !path.contains(&0);
    is_path.then(|| path.to_vec())
}

impl KeptMapping {
    /// As bytes.
    #[must_use]
    pub fn encode(all: &[KeptMapping]) -> Vec<u8> {
        let mut out = Writer::default();
        out.words(&[all.len() as u64]);
        for KeptMapping { path, writable, identity } in all {
            out.bytes(path);
            out.words(&[u64::from(*writable), u64::from(identity.is_some())]);
            out.words(&identity.unwrap_or_default());
        }
        out.finish()
    }

    /// What [`KeptMapping::encode`] has written; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Vec<KeptMapping>> {
        let mut input = Reader(bytes);
        let [count] = input.words()?;
        let mut all = Vec::new();
        for _ in 0..count {
            let path = absolute(input.bytes()?)?;
            let [writable, is_fixed] = input.words()?;
            let identity = input.words().map(|words| (is_fixed != 0).then_some(words))?;
            all.push(KeptMapping { path, writable: writable != 0, identity });
        }
        input.0.is_empty().then_some(all)
    }
}

/// Why an open file is not kept.
fn left_out(file: &OpenFile) -> Option<&'static str> {
    Some(match file.kind() {
        _ if file.memory().is_some() => "a file in memory",
        FileKind::Regular | FileKind::Directory => match rustix::fs::fstat(file.host_fd()) {
            _ if matches!(file.origin, Origin::Shared) => "a descriptor that was given to the run",
            Ok(stat) if stat.st_nlink > 0 => return None,
            _ => "a file without a name",
        },
        FileKind::Memory | FileKind::SyntheticDirectory | FileKind::Pseudo => return None,
        FileKind::Pipe => "a pipe or FIFO",
        FileKind::Terminal => "a terminal",
        FileKind::Device => "a device",
        FileKind::Socket | FileKind::Netlink => "a socket",
        FileKind::SignalFd => "a signalfd",
        FileKind::PidFd => "a pidfd",
        FileKind::EventFd => "an eventfd",
        FileKind::TimerFd => "a timerfd",
        FileKind::Epoll => "an epoll",
        FileKind::Link => "a link itself",
        FileKind::Other => "something without a name",
    })
}

impl Files {
    /// What can be opened again, and what of the rest is lost: a sentence each.
    ///
    /// # Errors
    /// `ENOENT` if the current directory is gone; the host's.
    pub fn keep(&self) -> Result<(KeptFiles, Vec<String>), Errno> {
        let mut kept = KeptFiles {
            cwd: self.without_number(self.getcwd()?),
            umask: self.umask.load(Ordering::Relaxed),
            ..KeptFiles::default()
        };
        let mut lost = Vec::new();
        let numbers = self.table.open();
        let is_closed = |fd: &u32| !numbers.contains(fd);
        kept.closed = (0..STANDARD).filter(is_closed).fold(0, |all, fd| all | 1 << fd);
        let mut before = HashMap::new();
        for fd in numbers {
            let file = self.get(fd.cast_signed())?;
            let cloexec = self.table.cloexec(fd.cast_signed())?;
            let is_stream = fd < STANDARD && matches!(file.origin, Origin::Shared);
            let mut one = KeptFile {
                fd,
                same: before.get(&Arc::as_ptr(&file)).copied(),
                path: Vec::new(),
                flags: OFlags::empty(),
                offset: 0,
                cloexec,
            };
            if one.same.is_some() {
                kept.files.push(one);
                continue;
            }
            if is_stream && !file.is_synthetic() {
                before.insert(Arc::as_ptr(&file), fd);
                continue;
            }
            if let Some(what) = left_out(&file) {
                lost.push(format!("descriptor {fd}: {what}"));
                continue;
            }
            one.path = self.without_number(self.name_of(&file)?);
            if absolute(&one.path).is_none() {
                lost.push(format!("descriptor {fd}: a file that no grant shows"));
                continue;
            }
            // In what is there of other processes, and of threads by their numbers.
            if one.path.starts_with(b"/proc/") && one.path.split(|b| *b == b'/').any(is_number) {
                lost.push(format!("descriptor {fd}: a file of a process or thread in /proc"));
                continue;
            }
            if file.has_locks() {
                let path = String::from_utf8_lossy(&one.path).into_owned();
                lost.push(format!("locks on {path}"));
            }
            one.flags = file.flags()? & (KEPT | OFlags::NONBLOCK);
            one.offset = match file.kind() {
                FileKind::SyntheticDirectory => file.position.load(Ordering::Relaxed),
                // What has no offset is at none.
                _ => rustix::fs::tell(file.host_fd()).unwrap_or(0),
            };
            before.insert(Arc::as_ptr(&file), fd);
            kept.files.push(one);
        }
        Ok((kept, lost))
    }

    /// A path in the program's own directory in `/proc`, by which a process with another number finds its own.
    fn without_number(&self, path: Vec<u8>) -> Vec<u8> {
        let own = format!("/proc/{}", self.namespace.pid());
        match path.strip_prefix(own.as_bytes()) {
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => {
                [b"/proc/self", rest].concat()
            }
            _ => path,
        }
    }

    /// Opens a file again, under the number that it had.
    ///
    /// # Errors
    /// As `open`; `ENXIO` for what is no file that is kept.
    pub fn open_again(&self, kept: &KeptFile) -> Result<(), Errno> {
        let fd = kept.fd.cast_signed();
        let file = match kept.same {
            Some(same) => self.get(same.cast_signed())?,
            None => self.open_kept(&kept.path, kept.flags)?,
        };
        if kept.same.is_none() && !file.path_only() {
            file.set_flags(kept.flags)?;
            match file.kind() {
                FileKind::SyntheticDirectory => file.position.store(kept.offset, Ordering::Relaxed),
                FileKind::Regular | FileKind::Directory | FileKind::Pseudo => {
                    rustix::fs::seek(file.host_fd(), SeekFrom::Start(kept.offset)).map_err(host)?;
                }
                _ => {}
            }
        }
        self.table.replace(fd, file, kept.cloexec)?;
        Ok(())
    }

    /// Opens a file again that was mapped.
    ///
    /// # Errors
    /// As `open`; `ENXIO` for what is no regular file.
    pub fn map_again(&self, kept: &KeptMapping) -> Result<Arc<File>, Errno> {
        let flags = if kept.writable { OFlags::RDWR } else { OFlags::RDONLY };
        let file = self.open_kept(&kept.path, flags)?;
        if file.kind() != FileKind::Regular {
            return Err(Errno::ENXIO);
        }
        file.for_mapping()
    }

    /// Closes the standard streams that the program had closed.
    pub fn close_again(&self, kept: &KeptFiles) {
        for fd in (0..STANDARD).filter(|fd| kept.closed & (1 << fd) != 0) {
            let _ = self.table.remove(fd.cast_signed());
        }
    }

    /// Opens a path without waiting for anybody, and without a number.
    fn open_kept(&self, path: &[u8], flags: OFlags) -> Result<Arc<OpenFile>, Errno> {
        let flags = (flags & KEPT) | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = self.openat(libc::AT_FDCWD, path, flags.bits().cast_signed(), 0)?;
        let file = self.table.remove(fd)?;
        match left_out(&file) {
            None => Ok(file),
            Some(_) => Err(Errno::from_raw(libc::ENXIO)),
        }
    }

    /// What the program calls a file of the host that it has mapped: its path, if it has one that leads there.
    #[must_use]
    pub fn path_of_mapped(&self, file: &File) -> Option<Vec<u8>> {
        let has_name = rustix::fs::fstat(file).is_ok_and(|stat| stat.st_nlink > 0);
        let path = self.name_of_host(file.as_fd()).ok().filter(|_| has_name)?;
        absolute(&path).filter(|path| !path.starts_with(b"/memfd:"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{KeptFile, KeptFiles, KeptMapping, OFlags};

    fn some() -> KeptFiles {
        let file = |fd, same, path: &[u8]| KeptFile {
            fd,
            same,
            path: path.to_vec(),
            flags: OFlags::RDWR | OFlags::APPEND | OFlags::NONBLOCK,
            offset: 77,
            cloexec: fd == 4,
        };
        let files = vec![file(1, None, b"/out"), file(4, None, b"/data/x"), file(9, Some(4), b"")];
        KeptFiles { cwd: b"/data".to_vec(), umask: 0o22, closed: 1, files }
    }

    #[test]
    fn what_is_written_is_read_and_everything_shorter_is_refused() {
        let kept = some();
        let bytes = kept.encode();
        assert_eq!(KeptFiles::decode(&bytes), Some(kept));
        for len in 0..bytes.len() {
            assert_eq!(KeptFiles::decode(&bytes[..len]), None, "{len}");
        }
        let (path, identity) = (b"/lib/c".to_vec(), Some([1; 5]));
        let mapped = vec![KeptMapping { path, writable: true, identity }];
        let bytes = KeptMapping::encode(&mapped);
        assert_eq!(KeptMapping::decode(&bytes), Some(mapped));
        assert_eq!(KeptMapping::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn what_no_program_has_is_refused() {
        let refused = |change: fn(&mut KeptFiles)| {
            let mut kept = some();
            change(&mut kept);
            assert_eq!(KeptFiles::decode(&kept.encode()), None);
        };
        refused(|kept| kept.cwd = b"data".to_vec());
        refused(|kept| kept.umask = 0o1000);
        refused(|kept| kept.closed = 8);
        refused(|kept| kept.files[1].fd = 1);
        refused(|kept| kept.files[1].fd = u32::MAX);
        refused(|kept| kept.files[1].path = b"x".to_vec());
        refused(|kept| kept.files[1].path = b"/x\0".to_vec());
        refused(|kept| kept.files[1].flags = OFlags::RDWR | OFlags::TRUNC);
        refused(|kept| kept.files[1].offset = u64::MAX);
        refused(|kept| kept.files[2].same = Some(5));
        refused(|kept| kept.files[2].same = Some(9));
    }

    proptest! {
        #[test]
        fn changed_bytes_are_read_or_refused(at in 0_usize..400, to in any::<u8>()) {
            let mut bytes = some().encode();
            let len = bytes.len();
            bytes[at % len] = to;
            let _ = KeptFiles::decode(&bytes);
        }
    }
}

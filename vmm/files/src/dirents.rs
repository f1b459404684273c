//! `getdents64`, for the host's directories and for ours.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use abi::Errno;
use rustix::fs::{FileType, RawDir};

use super::encode::dirent;
use super::files::Files;
use super::host;
use super::open_file::{FileKind, OpenFile};
use super::pseudo::leaf_ino;
use super::resolve::Base;
use super::tree::{Child, Leaf, Link, Mount, NodeId, Text};

/// The most one call returns: what the C libraries ask for is at most this.
const CAPACITY_MAX: usize = 64 << 10;

impl Files {
    /// `getdents64`: as many complete records as fit in `capacity` bytes; empty at the end.
    ///
    /// A directory of a grant lists what the host lists. The entry of an inner grant shows
    /// only if the host directory has one of that name.
    ///
    /// # Errors
    /// `EBADF`, `ENOTDIR`, `EINVAL` if not even one record fits.
    pub fn getdents64(&self, fd: i32, capacity: usize) -> Result<Vec<u8>, Errno> {
        let file = self.for_io(fd)?;
        let capacity = capacity.min(CAPACITY_MAX);
        match (file.node(), file.kind(), file.base()) {
            (Some(id), ..) => self.list(&file, id, capacity),
            (None, FileKind::Directory, Ok(Base::Host(..))) => list_host(&file, capacity),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn list(&self, file: &OpenFile, id: NodeId, capacity: usize) -> Result<Vec<u8>, Errno> {
        let mut out = Vec::new();
        let position = file.position.load(Ordering::Relaxed);
        for entry in self.entries(id).into_iter().filter(|entry| entry.next > position) {
            if !dirent(&mut out, capacity, entry.ino, entry.next, dtype(entry.kind), &entry.name) {
                if out.is_empty() {
                    return Err(Errno::EINVAL);
                }
                break;
            }
            file.position.store(entry.next, Ordering::Relaxed);
        }
        Ok(out)
    }

    /// All entries, ascending by position. Transient entries have their number as
    /// position: a program that closes the descriptors it reads of misses none.
    fn entries(&self, id: NodeId) -> Vec<Entry> {
        let namespace = &self.namespace;
        let directory = |next, ino, name: &[u8]| Entry {
            next,
            ino,
            kind: FileType::Directory,
            name: name.to_vec(),
        };
        let parent = namespace.tree.parent(id);
        let mut entries = vec![directory(1, id.ino(), b"."), directory(2, parent.ino(), b"..")];
        for (next, (name, child)) in (3..).zip(namespace.tree.children(id)) {
            let (ino, kind) = match child {
                Child::Dir(id) => (id.ino(), FileType::Directory),
                Child::Leaf(leaf) => (leaf_ino(leaf), leaf_kind(leaf)),
            };
            entries.push(Entry { next, ino, kind, name: name.to_vec() });
        }
        let leaf = |number: u32, leaf| Entry {
            next: NUMBERED + u64::from(number),
            ino: leaf_ino(leaf),
            kind: leaf_kind(leaf),
            name: number.to_string().into_bytes(),
        };
        let numbered = |number: i32, id: NodeId| {
            let name = number.to_string();
            directory(NUMBERED + u64::from(number.unsigned_abs()), id.ino(), name.as_bytes())
        };
        match &namespace.tree.node(id).mount {
            Mount::Descriptors => {
                let open = self.table.open().into_iter();
                entries.extend(open.map(|fd| leaf(fd, Leaf::Link(Link::Descriptor(fd)))));
            }
            Mount::DescriptorsOf => {
                let view = namespace.view();
                let open = view.map_or_else(Vec::new, |view| view.descriptors_of(id.process()));
                let link = |fd| leaf(fd, Leaf::Link(Link::DescriptorOf(id.process(), fd)));
                entries.extend(open.into_iter().map(link));
            }
            Mount::DescriptorInfo => {
                let open = self.table.open().into_iter();
                entries.extend(open.map(|fd| leaf(fd, Leaf::Text(Text::DescriptorInfo(fd)))));
            }
            Mount::Terminals => {
                let known = self.terminals().into_iter();
                entries.extend(known.map(|number| leaf(number, Leaf::Terminal(number))));
            }
            Mount::Processes => {
                let others = namespace.others().into_iter().map(|pid| (pid, NodeId::other(pid)));
                let mut all: Vec<_> = others.chain([(namespace.pid(), NodeId::PROCESS)]).collect();
                all.sort_unstable_by_key(|(pid, _)| *pid);
                entries.extend(all.into_iter().map(|(pid, id)| numbered(pid, id)));
            }
            Mount::Tasks => {
                let mut tids = namespace.tids();
                tids.sort_unstable();
                entries.extend(tids.into_iter().map(|tid| numbered(tid, NodeId::task(tid))));
            }
            Mount::TasksOf => {
                let mut tids = namespace.threads_of(id.process());
                tids.sort_unstable();
                tids.dedup();
                let task = |tid| numbered(tid, NodeId::other_task(id.process(), tid));
                entries.extend(tids.into_iter().map(task));
            }
            Mount::Memory(dir) => entries.extend(dir.list().into_iter().map(|file| Entry {
                next: NUMBERED + file.cookie,
                ino: file.ino,
                kind: FileType::RegularFile,
                name: file.name,
            })),
            Mount::Synthetic | Mount::Withheld | Mount::Through | Mount::Grant(_) => {}
        }
        entries
    }
}

/// Positions of entries that are numbers begin here, beyond those of all others.
const NUMBERED: u64 = 1 << 20;

struct Entry {
    /// The position after it.
    next: u64,
    ino: u64,
    kind: FileType,
    name: Vec<u8>,
}

fn leaf_kind(leaf: Leaf) -> FileType {
    match leaf {
        Leaf::Device(_) | Leaf::Terminal(_) => FileType::CharacterDevice,
        Leaf::Link(_) => FileType::Symlink,
        Leaf::Text(_) | Leaf::Shown(_) => FileType::RegularFile,
    }
}

/// Our records have the host's sizes, so what the host put in `capacity` bytes fits again.
fn list_host(file: &OpenFile, capacity: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); capacity];
    let mut out = Vec::with_capacity(capacity);
    let mut dir = RawDir::new(file.host_fd(), &mut buffer);
    while let Some(entry) = dir.next() {
        let entry = entry.map_err(host)?;
        let kind = dtype(entry.file_type());
        let (ino, next) = (entry.ino(), entry.next_entry_cookie());
        dirent(&mut out, capacity, ino, next, kind, entry.file_name().to_bytes());
        // One host call for each call by the program.
        if dir.is_buffer_empty() {
            break;
        }
    }
    Ok(out)
}

/// `d_type`: the type bits of a mode.
fn dtype(kind: FileType) -> u8 {
    match kind {
        FileType::Unknown => libc::DT_UNKNOWN,
        kind => u8::try_from(kind.as_raw_mode() >> 12).unwrap_or(libc::DT_UNKNOWN),
    }
}

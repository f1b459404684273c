//! `getdents64`, for the host's directories and for ours.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use abi::Errno;
use rustix::fs::{FileType, RawDir};

use super::encode::dirent;
use super::files::Files;
use super::host;
use super::open_file::{Kind, OpenFile};
use super::pseudo::leaf_ino;
use super::resolve::Base;
use super::tree::{Child, Leaf, Mount, NodeId};

/// The most one call returns: what the C libraries ask for is at most this.
const ROOM_MAX: usize = 64 << 10;

impl Files {
    /// `getdents64`: as many whole records as fit in `room` bytes; empty at the end.
    ///
    /// A directory of a grant lists what the host lists. The entry of an inner grant shows
    /// only if the host directory has one of that name.
    ///
    /// # Errors
    /// `EBADF`, `ENOTDIR`, `EINVAL` if not even one record fits.
    pub fn getdents64(&self, fd: i32, room: usize) -> Result<Vec<u8>, Errno> {
        let file = self.get(fd)?;
        file.check_not_path()?;
        let room = room.min(ROOM_MAX);
        match (file.node(), file.kind(), file.base()) {
            (Some(id), ..) => self.list(&file, id, room),
            (None, Kind::Directory, Ok(Base::Host(..))) => list_host(&file, room),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn list(&self, file: &OpenFile, id: NodeId, room: usize) -> Result<Vec<u8>, Errno> {
        let node = self.namespace.tree.node(id);
        let mut entries = vec![
            (id.ino(), FileType::Directory, b".".to_vec()),
            (node.parent.ino(), FileType::Directory, b"..".to_vec()),
        ];
        if let Mount::Descriptors = node.mount {
            for fd in self.table.open() {
                let leaf = Leaf::Descriptor(fd);
                let name = fd.to_string().into_bytes();
                entries.push((leaf_ino(leaf), FileType::Symlink, name));
            }
        }
        for (name, child) in &node.children {
            let (ino, kind) = match child {
                Child::Dir(id) => (id.ino(), FileType::Directory),
                Child::Leaf(leaf @ Leaf::Device(_)) => (leaf_ino(*leaf), FileType::CharacterDevice),
                Child::Leaf(leaf) => (leaf_ino(*leaf), FileType::Symlink),
            };
            entries.push((ino, kind, name.clone()));
        }
        let mut out = Vec::new();
        let mut position = file.position.load(Ordering::Relaxed);
        let fixed = entries.len() as u64;
        let mut all: Vec<(u64, u64, FileType, Vec<u8>)> = (1..)
            .zip(entries)
            .map(|(cookie, (ino, kind, name))| (cookie, ino, kind, name))
            .collect();
        if let Mount::Memory(dir) = &node.mount {
            // These come and go: each keeps its place, so that none is skipped when one goes.
            let files = dir.list().into_iter();
            all.extend(files.map(|f| (fixed + f.cookie, f.ino, FileType::RegularFile, f.name)));
        }
        let begin = position;
        for (cookie, ino, kind, name) in all.into_iter().filter(|one| one.0 > begin) {
            if !dirent(&mut out, room, ino, cookie, dtype(kind), &name) {
                if out.is_empty() {
                    return Err(Errno::EINVAL);
                }
                break;
            }
            position = cookie;
        }
        file.position.store(position, Ordering::Relaxed);
        Ok(out)
    }
}

/// Our records have the host's sizes, so what the host put in `room` bytes fits again.
fn list_host(file: &OpenFile, room: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); room];
    let mut out = Vec::with_capacity(room);
    let mut dir = RawDir::new(file.host_fd(), &mut buffer);
    while let Some(entry) = dir.next() {
        let entry = entry.map_err(host)?;
        let kind = dtype(entry.file_type());
        let (ino, next) = (entry.ino(), entry.next_entry_cookie());
        dirent(&mut out, room, ino, next, kind, entry.file_name().to_bytes());
        // One host call per call of the program.
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

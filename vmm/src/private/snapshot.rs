//! The private region of a process that is snapshotted, and of one that begins there.
//!
//! As for a child (`fork`): areas, and of the memory behind them the pages that have content of the program's,
//! which go into one image. That is a file of the store, which processes that begin there map privately: none
//! of it is read before they touch it. The program itself keeps its memory as it is.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::copying::Copying;
use super::fork::{AreaCopy, ImageCopy, RegionCopy};
use super::inspect::SHARED_LABEL;
use super::region::PrivateRegion;
use super::vma::{Backing, MemoryLock, OnFork, Vma};
use crate::vm::images::Image;
use crate::vm::memory::FileMapping;

/// Why a region cannot be in a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// Other processes may have the same memory.
    #[error(
        "its memory at {at:#x} can be shared with other processes: MAP_SHARED without a file, or a mapped memfd"
    )]
    Shared {
        /// Where.
        at: u64,
    },
    /// The host failed.
    #[error("its memory cannot be written")]
    Host(#[source] io::Error),
}

/// A file that areas are of.
#[derive(Debug)]
pub struct MappedFile {
    /// The file.
    pub file: Arc<File>,
    /// Whether what the program writes reaches it.
    pub writable: bool,
    /// Whether it must not change: the program may have changed pages between others that it has not.
    pub is_fixed: bool,
}

impl PrivateRegion {
    /// Copies the region, of which no thread may run; its content is appended to `memory`, which is empty.
    ///
    /// # Errors
    /// [`NotKept`].
    pub fn keep(&self, memory: File) -> Result<RegionCopy, NotKept> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut copy = RegionCopy {
            heap: [inner.heap_start, inner.heap_end],
            mmap_top: inner.mmap_top,
            ..RegionCopy::default()
        };
        let mut copying = Copying::all(self);
        for (range, vma) in inner.areas.iter() {
            let file = match &vma.backing {
                Backing::Anonymous if vma.label == SHARED_LABEL => {
                    return Err(NotKept::Shared { at: range.start });
                }
                Backing::File { charge: Some(_), .. } => {
                    return Err(NotKept::Shared { at: range.start });
                }
                Backing::File { file, .. } => {
                    let known = copy.files.iter().position(|other| Arc::ptr_eq(other, file));
                    Some(known.unwrap_or_else(|| {
                        copy.files.push(file.clone());
                        copy.files.len() - 1
                    }))
                }
                Backing::Anonymous => None,
            };
            // What is to be empty in a copy has secrets, or numbers that must not come twice.
            if vma.backing.is_counted() && vma.on_fork != OnFork::Emptied {
                copying.area(inner, &range, vma).map_err(NotKept::Host)?;
            }
            let vma = Vma { lock: MemoryLock::Unlocked, ..vma.clone() };
            copy.areas.push(AreaCopy { start: range.start, vma, file });
        }
        let image = Image::begin_on_disk(memory, self.mem().ledger().clone());
        copy.pieces = copying.write(&image).map_err(NotKept::Host)?;
        copy.images = vec![ImageCopy { file: image.file().clone(), place: None, _from: None }];
        drop(guard);
        Ok(copy)
    }
}

impl RegionCopy {
    /// The files that areas are of.
    #[must_use]
    pub fn mapped_files(&self) -> Vec<MappedFile> {
        let has = |number: usize, wanted: FileMapping| {
            let mut of_file = self.areas.iter().filter(|area| area.file == Some(number));
            let is_wanted = |backing: &Backing| matches!(backing, Backing::File { kind, .. } if *kind == wanted);
            of_file.any(|area| is_wanted(&area.vma.backing))
        };
        let of = |(number, file): (usize, &Arc<File>)| MappedFile {
            file: file.clone(),
            writable: has(number, FileMapping::Shared),
            is_fixed: has(number, FileMapping::Private),
        };
        self.files.iter().enumerate().map(of).collect()
    }

    /// Marks it as one that was in a snapshot: its image is a file of the store.
    #[must_use]
    pub fn of_snapshot(self) -> RegionCopy {
        RegionCopy { is_snapshot: true, ..self }
    }
}

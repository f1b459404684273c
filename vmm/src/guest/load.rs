//! Mapping a program, and the dynamic loader that it names, into its memory.
//!
//! Segments are mapped over guest memory as private file mappings, so that loading needs no copying
//! and shares the host's page cache.

use std::fs::File;
use std::sync::Arc;

use abi::layout::{PIE_BASE, PRIVATE_START};
use abi::{Errno, PAGE_SIZE};

use super::elf::{ElfError, Image, Segment, bad};
use crate::private::{Backing, PrivateRegion, Prot};
use crate::vm::memory::FileMapping;

/// What the program's first thread needs to know about the loaded image.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// First instruction.
    pub entry: u64,
    /// Address of the program headers in memory (`AT_PHDR`), 0 if not loaded.
    pub phdr: u64,
    /// Number of program headers (`AT_PHNUM`).
    pub phnum: u64,
    /// Added to every address of the file.
    pub bias: u64,
    /// One past the highest loaded byte, page-aligned: the heap may begin here.
    pub end: u64,
    /// Whether the program wants an executable stack.
    pub exec_stack: bool,
}

/// Maps `image` of `file`, the program, into `private`.
///
/// # Errors
/// [`ElfError::NoRoom`], or an address below the lowest a program may use.
pub fn load(private: &PrivateRegion, file: &Arc<File>, image: &Image) -> Result<Loaded, ElfError> {
    let bias = if image.position_independent { PIE_BASE.raw() } else { 0 };
    load_at(private, file, image, bias)
}

/// Maps `image` of `file`, the program's dynamic loader, where `mmap` would put it, as Linux does;
/// so the program's heap has room to grow.
///
/// # Errors
/// As [`load`].
pub fn load_loader(
    private: &PrivateRegion,
    file: &Arc<File>,
    image: &Image,
) -> Result<Loaded, ElfError> {
    let (Some(first), Some(last)) = (image.segments.first(), image.segments.last()) else {
        return Err(bad("entry point", "no segment to load".into()));
    };
    if !image.position_independent {
        return load_at(private, file, image, 0);
    }
    let start = first.vaddr - first.vaddr % PAGE_SIZE;
    let len_bytes = last.vaddr + last.mem_bytes - start;
    // Found by mapping all of it. The program does not run yet, so that nobody takes the place.
    let room = private
        .map_anywhere(0, len_bytes, Prot::NONE, Backing::Anonymous, "program code")
        .and_then(|at| private.unmap(at, len_bytes.next_multiple_of(PAGE_SIZE)).map(|()| at));
    let at = room.map_err(|source| ElfError::NoRoom { at: 0, len_bytes, source })?;
    load_at(private, file, image, at.wrapping_sub(start))
}

fn load_at(
    private: &PrivateRegion,
    file: &Arc<File>,
    image: &Image,
    bias: u64,
) -> Result<Loaded, ElfError> {
    let mut end = 0;
    for segment in &image.segments {
        let at = bias.wrapping_add(segment.vaddr);
        if at < PRIVATE_START.raw() {
            let found = format!("{at:#x}, below {:#x}", PRIVATE_START.raw());
            return Err(bad("segment address", found));
        }
        load_segment(private, file, segment, at).map_err(|source| ElfError::NoRoom {
            at,
            len_bytes: segment.mem_bytes,
            source,
        })?;
        end = end.max((at + segment.mem_bytes).next_multiple_of(PAGE_SIZE));
    }
    Ok(Loaded {
        entry: bias.wrapping_add(image.entry),
        phdr: image.phdr.map_or(0, |p| bias.wrapping_add(p)),
        phnum: image.phnum,
        bias,
        end,
        exec_stack: image.exec_stack,
    })
}

fn load_segment(
    private: &PrivateRegion,
    file: &Arc<File>,
    segment: &Segment,
    at: u64,
) -> Result<(), Errno> {
    let lead = at % PAGE_SIZE;
    let start = at - lead;
    let file_end = at + segment.file_bytes;
    let file_pages_end = file_end.next_multiple_of(PAGE_SIZE);
    let end = (at + segment.mem_bytes).next_multiple_of(PAGE_SIZE);
    let label = if segment.prot.can_execute() { "program code" } else { "program data" };
    if segment.file_bytes > 0 {
        let offset = segment.offset - lead;
        let kind = FileMapping::Private;
        let backing = Backing::File { file: file.clone(), offset, kind, charge: None };
        private.map_at(start, file_pages_end - start, segment.prot, backing, label)?;
        // The rest of the last file page belongs to the zeroed part.
        if segment.prot.can_write() && file_pages_end > file_end {
            let zeroes = vec![0; (file_pages_end - file_end) as usize];
            private.copy_out(file_end, &zeroes)?;
        }
    }
    let bss = if segment.file_bytes > 0 { file_pages_end } else { start };
    if end > bss {
        private.map_at(bss, end - bss, segment.prot, Backing::Anonymous, label)?;
    }
    Ok(())
}

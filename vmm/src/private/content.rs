//! What of a program's areas only this process has: for a core file, which leaves out the rest.
#![forbid(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::SeekFrom;

use super::charge::part;
use super::copying::union;
use super::inspect::{SEGMENT_LABEL, SHARED_LABEL};
use super::region::{BLOCK, PrivateRegion, blocks_of};
use super::vma::{Backing, Prot};
use crate::vm::memory::FileMapping;
use crate::vm::page_map::PageMap;

/// What of an area can be found nowhere else.
#[derive(Debug)]
pub enum Content {
    /// Nothing: all of it is in the area's file.
    InFile,
    /// These parts; the rest are zeros.
    Parts(Vec<Range<u64>>),
    /// All of it, of which some was changed and the rest is as in the file.
    Whole,
    /// What other processes may share with this one and that has no name: these parts of a file. The rest are zeros.
    Shared(Arc<File>, Vec<SharedPart>),
}

/// A file, and an offset in it.
type SharedFile = (Arc<File>, u64);

/// A part of memory that is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPart {
    /// Its addresses.
    pub range: Range<u64>,
    /// Where its first byte is in the file.
    pub offset: u64,
}

/// An area, and what it contains.
#[derive(Debug)]
pub struct AreaContent {
    /// Where it lies.
    pub range: Range<u64>,
    /// What the program may do there.
    pub prot: Prot,
    /// What is to be kept of it.
    pub content: Content,
    /// Its file, and where its first byte is there.
    file: Option<SharedFile>,
}

impl PrivateRegion {
    /// What each area contains, in ascending order. The program does not run meanwhile.
    #[must_use]
    pub fn contents(&self) -> Vec<AreaContent> {
        let pages = PageMap::open();
        let inner = self.lock();
        let areas: Vec<_> = inner.areas.iter().map(|(range, vma)| (range, vma.clone())).collect();
        drop(inner);
        let content = |(range, vma): (Range<u64>, super::vma::Vma)| {
            let content = match &vma.backing {
                Backing::Anonymous => Content::Parts(self.own(&range, pages.as_ref())),
                Backing::File { kind: FileMapping::Private, .. } => {
                    match self.own(&range, pages.as_ref()).is_empty() {
                        true => Content::InFile,
                        false => Content::Whole,
                    }
                }
                Backing::File { file, offset, .. }
                    if vma.label == SHARED_LABEL || vma.label == SEGMENT_LABEL =>
                {
                    Content::Shared(file.clone(), written(file, &range, *offset))
                }
                Backing::File { .. } => Content::InFile,
            };
            let file = match vma.backing {
                Backing::Anonymous => None,
                Backing::File { file, offset, .. } => Some((file, offset)),
            };
            AreaContent { range, prot: vma.prot, content, file }
        };
        areas.into_iter().map(content).collect()
    }

    /// The parts of a range that have content of the program's own.
    fn own(&self, range: &Range<u64>, pages: Option<&PageMap>) -> Vec<Range<u64>> {
        let inner = self.lock();
        let mut all = Vec::new();
        for (&index, block) in inner.blocks.range(blocks_of(range)) {
            let piece = part(index, range);
            let (at, len) = (piece.start, piece.end - piece.start);
            let gpa = block.gpa.offset(at % BLOCK);
            let Ok(host) = self.mem().host_range(gpa, len as usize) else { continue };
            let own = match pages {
                Some(pages) => pages.own_runs(host),
                None => std::iter::once(0..len).collect(),
            };
            // What it has in common with a process that it is a copy of.
            let images = self.mem().images_in(gpa, len).into_iter();
            let images = images.map(|(range, _)| range.start - gpa.raw()..range.end - gpa.raw());
            all.extend(union(own, images).into_iter().map(|run| at + run.start..at + run.end));
        }
        union(all, std::iter::empty())
    }

    /// Copies one page of an area, whatever the program may do there; `false` if it cannot be had, as
    /// beyond the end of a file.
    #[must_use]
    pub fn page_content(&self, area: &AreaContent, at: u64, buf: &mut [u8]) -> bool {
        let inner = self.lock();
        if let Some(block) = inner.blocks.get(&(at / BLOCK)) {
            let range = self.mem().host_range(block.gpa.offset(at % BLOCK), buf.len());
            return range.is_ok_and(|range| range.read_faultable(buf).is_ok());
        }
        drop(inner);
        // Nothing there was ever used.
        let Some((file, offset)) = &area.file else { return false };
        let part = SharedPart { range: area.range.clone(), offset: *offset };
        part.read(file, at - area.range.start, buf).is_ok()
    }
}

/// The parts of a mapping of a file in memory that were ever written.
fn written(file: &File, range: &Range<u64>, offset: u64) -> Vec<SharedPart> {
    let end = offset + (range.end - range.start);
    let mut parts = Vec::new();
    let mut at = offset;
    while at < end
        && let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at))
        && data < end
    {
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(end).min(end);
        let range = range.start + (data - offset)..range.start + (hole - offset);
        parts.push(SharedPart { range, offset: data });
        at = hole.max(data + 1);
    }
    parts
}

impl SharedPart {
    /// Copies what is there, `at` bytes behind its beginning; zeros beyond the file's end.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, file: &File, at: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, self.offset + at + done as u64)? {
                0 => {
                    rest.fill(0);
                    break;
                }
                bytes => done += bytes,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::{SharedPart, written};

    #[test]
    fn parts_of_a_file_in_memory_that_were_never_written_are_left_out() {
        let memory = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(memory);
        file.set_len(0x10000).unwrap();
        file.seek(SeekFrom::Start(0x4000)).unwrap();
        file.write_all(&[7; 0x1000]).unwrap();
        let part = SharedPart { range: 0x7000_3000..0x7000_4000, offset: 0x4000 };
        assert_eq!(
            written(&file, &(0x7000_0000..0x7000_8000), 0x1000),
            std::slice::from_ref(&part)
        );
        assert_eq!(written(&file, &(0x7000_0000..0x7000_1000), 0x1000), []);
        let mut bytes = [0; 16];
        part.read(&file, 0x10, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 16]);
    }
}

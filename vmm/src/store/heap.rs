//! The heap in a segment, as the host sees it: read from the files, and believed in nothing.
//!
//! A program that has the segment writable may be changing it meanwhile, so then it is left alone.

use abi::heap::PAGE_BYTES;
use abi::heap::check::{self, Reader, Report, Subject};
use serde::Serialize;

use super::segment::{PART_BYTES, PartFile, SegmentFile};

/// A block that nothing leads to from the root object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LeakView {
    /// Its address.
    pub address: u64,
    /// Bytes, rounding included.
    pub bytes: u64,
}

/// What is in the heap of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HeapView {
    /// Bytes that it has of the segment.
    pub size_bytes: u64,
    /// Allocated blocks.
    pub blocks: u64,
    /// Bytes of them, rounding included.
    pub allocated_bytes: u64,
    /// Bytes that can be allocated before the heap must grow.
    pub free_bytes: u64,
    /// How many things are damaged; the first of them are among the findings.
    pub damages: u64,
    /// How many blocks nothing leads to; `None` without a root object, or in a damaged heap.
    pub leaked_blocks: Option<u64>,
    /// Bytes of these.
    pub leaked_bytes: Option<u64>,
    /// The first of them.
    pub leaks: Vec<LeakView>,
}

impl HeapView {
    fn of(report: &Report, base: u64) -> HeapView {
        let leaks = report.leaks.as_ref();
        let first = leaks.map_or(&[][..], |leaks| &leaks.first);
        HeapView {
            size_bytes: report.end,
            blocks: report.blocks,
            allocated_bytes: report.bytes,
            free_bytes: report.free_bytes,
            damages: report.damages,
            leaked_blocks: leaks.map(|leaks| leaks.blocks),
            leaked_bytes: leaks.map(|leaks| leaks.bytes),
            leaks: first
                .iter()
                .map(|leak| LeakView { address: base.wrapping_add(leak.offset), bytes: leak.bytes })
                .collect(),
        }
    }
}

/// Walks the heap of `segment`, if one lies there.
pub(super) fn look(segment: &SegmentFile) -> Option<(HeapView, Report)> {
    let header = segment.header();
    let roots: &[u64] = match &header.root.address {
        0 => &[],
        address => std::slice::from_ref(address),
    };
    let subject = Subject { base: header.base, size: header.size_bytes, roots };
    let report = check::check(&mut Content::of(segment), &subject)?;
    Some((HeapView::of(&report, header.base), report))
}

/// Pages kept in memory: neighbouring descriptors and words are read together, and lists lead to
/// and fro between few of them.
const CACHED: usize = 128;

/// The content of a segment, page by page.
struct Content<'a> {
    segment: &'a SegmentFile,
    /// Parts opened so far; `None` for one that cannot be.
    parts: Vec<Option<PartFile>>,
    /// By page number: which page, and its bytes.
    cache: Vec<Option<(u64, Box<[u8]>)>>,
}

impl<'a> Content<'a> {
    fn of(segment: &'a SegmentFile) -> Content<'a> {
        let mut cache = Vec::new();
        cache.resize_with(CACHED, || None);
        Content { segment, parts: Vec::new(), cache }
    }

    fn part(&mut self, index: u64) -> Option<&PartFile> {
        while self.parts.len() as u64 <= index {
            self.parts.push(self.segment.part(self.parts.len() as u64).ok());
        }
        self.parts.get(index as usize)?.as_ref()
    }

    fn read(&mut self, page: u64, bytes: &mut [u8]) -> Option<()> {
        let start = page * PAGE_BYTES;
        // No page lies in two parts: these are multiples of a page.
        let location = self.segment.locate(start)?;
        let part = self.part(start / PART_BYTES)?;
        let wanted = (bytes.len() as u64).min(location.left_bytes) as usize;
        let mut bytes = bytes.get_mut(..wanted)?;
        let mut offset = location.file_offset;
        while !bytes.is_empty() {
            let count = match rustix::io::pread(part.fd(), &mut *bytes, offset) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            };
            bytes = bytes.get_mut(count..)?;
            offset += count as u64;
        }
        Some(())
    }
}

impl Reader for Content<'_> {
    fn word(&mut self, offset: u64) -> Option<u64> {
        if offset.checked_add(8)? > self.segment.header().size_bytes {
            return None;
        }
        let page = offset / PAGE_BYTES;
        let slot = (page % CACHED as u64) as usize;
        let kept = self.cache.get_mut(slot)?.take().filter(|(kept, _)| *kept == page);
        let bytes = match kept {
            Some((_, bytes)) => bytes,
            None => {
                let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                self.read(page, &mut bytes)?;
                bytes
            }
        };
        let within = (offset % PAGE_BYTES) as usize;
        let word = bytes.get(within..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        *self.cache.get_mut(slot)? = Some((page, bytes));
        word
    }
}

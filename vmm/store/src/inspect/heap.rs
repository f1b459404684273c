//! The heap in a segment, as the host sees it: read from the files, and untrusted.
//!
//! A segment that a program has writable is skipped, since the program may be changing it.

use seg_heap::PAGE_BYTES;
use seg_heap::check::{self, Reader, Report, Subject};
use serde::Serialize;

use crate::format::extent::PART_BYTES;
use crate::objects::newest::Newest;
use crate::objects::segment::{PartFile, SegmentFile};

/// A block that is not reachable from the root object.
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
    /// Bytes of the segment that it uses.
    pub size_bytes: u64,
    /// Allocated blocks.
    pub blocks: u64,
    /// Bytes of them, rounding included.
    pub allocated_bytes: u64,
    /// Bytes that can be allocated before the heap must grow.
    pub free_bytes: u64,
    /// Number of damages; the first of them are among the findings.
    pub damages: u64,
    /// Number of unreachable blocks; `None` without a root object, or in a damaged heap.
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

/// Walks the heap of `segment`, if one lies there; of a versioned segment, that of a version.
pub(crate) fn look(segment: &SegmentFile, newest: Option<Newest>) -> Option<(HeapView, Report)> {
    let header = segment.header();
    let roots: &[u64] = match &header.root.address {
        0 => &[],
        address => std::slice::from_ref(address),
    };
    let subject = Subject { base: header.base, size: header.size_bytes, roots };
    let report = check::check(&mut Content::of(segment, newest), &subject)?;
    Some((HeapView::of(&report, header.base), report))
}

/// Pages kept whatever memory the host has: neighbouring descriptors and words are read together,
/// and lists lead to and fro between few of them.
const LEAST_CACHED: u64 = (64 << 20) / PAGE_BYTES;

/// Pages to keep of a segment: all of them, so that each is read once however its pointers lead to
/// and fro, unless that would take more than a quarter of the memory that is free. A mapping of the
/// file would leave this to the host, but a user who may truncate the file could then end this process with
/// SIGBUS.
fn pages_to_cache(size_bytes: u64) -> usize {
    let available = spacejmp_host::memory().available_bytes.unwrap_or_default();
    let most = (available / 4 / PAGE_BYTES).max(LEAST_CACHED);
    usize::try_from(size_bytes.div_ceil(PAGE_BYTES).clamp(1, most)).unwrap_or(1)
}

/// The content of a segment, page by page.
struct Content<'a> {
    segment: &'a SegmentFile,
    /// Where the content of a versioned segment is.
    newest: Option<Newest>,
    /// Parts opened so far; `None` for one that cannot be.
    parts: Vec<Option<PartFile>>,
    /// By page number: which page, and its bytes.
    cache: Vec<Option<(u64, Box<[u8]>)>>,
    /// How often the host was asked for a page.
    reads: u64,
}

impl<'a> Content<'a> {
    fn of(segment: &'a SegmentFile, newest: Option<Newest>) -> Content<'a> {
        let mut cache = Vec::new();
        cache.resize_with(pages_to_cache(segment.header().size_bytes), || None);
        Content { segment, newest, parts: Vec::new(), cache, reads: 0 }
    }

    fn part(&mut self, index: u64) -> Option<&PartFile> {
        while self.parts.len() as u64 <= index {
            self.parts.push(self.segment.part(self.parts.len() as u64).ok());
        }
        self.parts.get(index as usize)?.as_ref()
    }

    fn read(&mut self, page: u64, bytes: &mut [u8]) -> Option<()> {
        self.reads += 1;
        let start = page * PAGE_BYTES;
        if let Some(newest) = &self.newest {
            return newest.read(start, bytes).ok();
        }
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
        let slot = (page % self.cache.len() as u64) as usize;
        if self.cache.get(slot)?.as_ref().is_none_or(|(kept, _)| *kept != page) {
            let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
            self.read(page, &mut bytes)?;
            *self.cache.get_mut(slot)? = Some((page, bytes));
        }
        let (_, bytes) = self.cache.get(slot)?.as_ref()?;
        let within = (offset % PAGE_BYTES) as usize;
        bytes.get(within..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
    }
}

#[cfg(test)]
mod tests {
    use abi::objects::Lifetime;
    use seg_heap::check::Reader;

    use super::{Content, PAGE_BYTES};
    use crate::testing::{name, store};
    use crate::{Mode, SegmentSpec};

    #[test]
    fn however_pointers_lead_to_and_fro_each_page_is_read_once() {
        let s = store();
        let size_bytes = 8 << 20;
        let spec = SegmentSpec {
            base: None,
            size_bytes,
            reserve_bytes: 0,
            mode: Mode::PRIVATE,
            lifetime: Lifetime::Persistent,
            durability: None,
            pages: abi::objects::PagePolicy::Large2M,
            lockable: true,
        };
        let sid = s.create_segment(&name("x"), &spec).unwrap();
        let segment = s.open_segment(sid).unwrap();
        let mut content = Content::of(&segment, None);
        let words = size_bytes / 8;
        let mut at = 1_u64;
        for _ in 0..4 * words {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            assert_eq!(content.word((at >> 33) % words * 8), Some(0));
        }
        assert!(content.reads <= size_bytes / PAGE_BYTES, "{} reads", content.reads);
        assert_eq!(content.word(size_bytes), None);
    }
}

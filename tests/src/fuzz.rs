//! What the fuzz targets in `fuzz/` and the smoke tests share: checking one input.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::Path;
use std::time::Duration;

use abi::PAGE_SIZE;
use abi::layout::{MMAP_TOP, PIE_BASE};
use seg_heap::check::{self, Reader, Subject};
use seg_heap::class::TABLE_VERSION;
use seg_heap::desc_offset;
use seg_heap::{HeapHeader, MAGIC, PAGE_BYTES, PageKind, VERSION, bin_of};
use spacejmp_versions::fuzz as versions;
use vmm::guest::elf::{self, Image};
use vmm::linux::net::{address, control, netlink};
use vmm::process::Outcome;
use vmm::store::fuzz as store;

use crate::vm::{Ended, Run};

/// Ends a call that blocks forever; the program interrupts all others itself.
const LIMIT: Duration = Duration::from_secs(3);

/// Has the guest program `fuzz_calls` at `program` make the calls that `input` encodes, with one
/// directory to work in, and checks how it ends.
///
/// # Panics
/// When the VMM failed: it panicked, hung, gave up on the guest, or let a file appear
/// outside the directory.
pub fn calls(program: &Path, input: &[u8]) -> Ended {
    let outside = tempfile::tempdir().expect("a temporary directory");
    let inside = outside.path().join("inside");
    std::fs::create_dir(&inside).expect("it is new");
    let canary = outside.path().join("canary");
    std::fs::write(&canary, b"sings").expect("it can be written");
    let grant = inside.to_str().expect("temporary names are ASCII").to_owned();
    let ended = Run::new(program).stdin(input).dir(grant).memory(256 << 20).timeout(LIMIT).in_vm();
    if let Outcome::HostFailed(text) = &ended.outcome {
        panic!("the VMM failed: {text}");
    }
    assert_eq!(std::fs::read(&canary).expect("it is still there"), b"sings");
    let names: Vec<_> = std::fs::read_dir(outside.path())
        .expect("it is still there")
        .map(|entry| entry.expect("it can be listed").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    ended
}

/// As [`parse`], for a fuzz target.
///
/// # Panics
/// As [`parse`].
pub fn elf(bytes: &[u8]) {
    parse(bytes);
}

/// What somebody sends to a VM's control socket: a question that is answered, or the end of the connection.
/// Returns whether it was answered.
///
/// # Panics
/// As [`vmm::control::fuzz::requests`].
#[must_use]
pub fn control_requests(bytes: &[u8]) -> bool {
    vmm::control::fuzz::requests(bytes)
}

/// What gdb, or somebody who is not, sends to a session: each packet is answered by one. Returns how many were answered with
/// something.
///
/// # Panics
/// As [`vmm::gdb::fuzz::packets`].
#[must_use]
pub fn gdb_packets(bytes: &[u8]) -> usize {
    vmm::gdb::fuzz::packets(bytes)
}

/// Names and control messages of sockets, and questions to the host kernel: refused, or written back with the
/// same meaning. Returns whether something was accepted.
///
/// # Panics
/// When what was accepted means something else once it is written back.
pub fn sockets(bytes: &[u8]) -> bool {
    let mut accepted = false;
    for domain in [libc::AF_UNSPEC, libc::AF_INET, libc::AF_INET6, libc::AF_UNIX] {
        if let Ok(name) = address::decode(bytes, domain) {
            accepted = true;
            let again = address::encode(&name);
            // A path without its NUL may be as long as the structure.
            if again.len() <= 110 {
                assert_eq!(address::decode(&again, libc::AF_UNSPEC), Ok(name));
            }
        }
    }
    if let Ok(messages) = control::decode(bytes) {
        accepted |= !messages.is_empty();
        let mut again = Vec::new();
        messages.iter().for_each(|message| control::encode(message, &mut again));
        let decoded = control::decode(&again).expect("what we write is well formed");
        assert_eq!(decoded.len(), messages.len());
        for (a, b) in decoded.iter().zip(&messages) {
            assert_eq!(a, b);
            assert_eq!(control::may_be_sent(a), control::may_be_sent(b));
        }
    }
    // What follows the questions makes none of them an order.
    if netlink::is_query(bytes) && bytes.len() >= 16 {
        accepted = true;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        assert_eq!(kind % 4, 2, "{kind}");
    }
    accepted
}

/// What must hold of any image that was accepted.
fn judge(image: &Image, file_len: u64) {
    let mut end = 0;
    for s in &image.segments {
        assert!(s.file_bytes <= s.mem_bytes, "{s:x?}");
        let last = s.offset.checked_add(s.file_bytes).expect("the file range does not wrap");
        assert!(last <= file_len, "{s:x?} in a file of {file_len} bytes");
        let top = s.vaddr.checked_add(s.mem_bytes).expect("the memory range does not wrap");
        assert!(top <= MMAP_TOP.raw() - PIE_BASE.raw(), "{s:x?}");
        assert!(s.vaddr >= end, "{s:x?} overlaps what ends at {end:#x}");
        assert!(s.vaddr / PAGE_SIZE > end.wrapping_sub(1) / PAGE_SIZE || end == 0, "{s:x?}");
        assert_eq!(s.vaddr % PAGE_SIZE, s.offset % PAGE_SIZE, "{s:x?}");
        end = top;
    }
    assert!(!image.segments.is_empty());
}

/// Parses `bytes` and checks the result: a sound image, or an error.
///
/// # Panics
/// When an image was accepted that should not have been.
pub fn parse(bytes: &[u8]) -> Option<Image> {
    match elf::parse(bytes) {
        Ok(image) => {
            judge(&image, bytes.len() as u64);
            Some(image)
        }
        Err(err) => {
            assert!(!crate::vm::all(&err).is_empty());
            None
        }
    }
}

/// A segment's header on any bytes; once its checksum is corrected, the fields decide.
///
/// # Panics
/// When an accepted one is not written back as it was read.
pub fn header(bytes: &[u8]) {
    for read in [store::header, store::header_fields] {
        assert_ne!(read(bytes).ok(), Some(false));
    }
}

/// A VAS's manifest on any bytes; once version and checksum are corrected, the lines decide.
///
/// # Panics
/// When an accepted one is not written back as it was read.
pub fn manifest(bytes: &[u8]) {
    for read in [store::manifest, store::manifest_lines] {
        assert_ne!(read(bytes).ok(), Some(false));
    }
}

/// An archive on any bytes, as zstd and as its decompressed content. Any result is accepted.
pub fn archive(bytes: &[u8]) {
    for compressed in [false, true] {
        let _ = store::archive(bytes, compressed);
    }
}

/// The files of a versioned segment that have a format: the head of a record, the first page of a log, the
/// root records and the map of a layer, on any bytes, and with the checksums that belong to them.
/// Returns how many were accepted.
///
/// # Panics
/// When an accepted one is not written back with the same meaning.
pub fn versions_files(bytes: &[u8]) -> usize {
    let mut accepted: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|sealed| {
            [
                versions::record(bytes, sealed),
                versions::log_header(bytes, sealed),
                versions::root(bytes, sealed),
            ]
        })
        .collect();
    accepted.push(versions::presence(bytes));
    assert!(!accepted.contains(&Some(false)), "{accepted:?}");
    accepted.iter().flatten().count()
}

/// A versioned segment in whose files some bytes were changed. Returns whether it opens.
///
/// # Panics
/// When it opens, and a version that is made then is not there.
pub fn versions_segment(bytes: &[u8]) -> bool {
    versions::segment(bytes).is_ok()
}

/// A heap of one area, all of whose words can be set, and the number of reads.
struct Heap {
    words: BTreeMap<u64, u64>,
    size: u64,
    reads: u64,
}

impl Reader for Heap {
    fn word(&mut self, offset: u64) -> Option<u64> {
        self.reads += 1;
        assert!(offset.is_multiple_of(8), "{offset:#x}");
        (offset < self.size).then(|| self.words.get(&offset).copied().unwrap_or(0))
    }
}

/// Address of the segment that [`Heap`] is.
const HEAP_BASE: u64 = 0x3000_0000_0000;

impl Heap {
    /// A table, one large block of a page, and a run of free pages: it is sound.
    fn new(pages: u32) -> Heap {
        let free = pages - 2;
        let size = u64::from(pages) * PAGE_BYTES;
        let bin = bin_of(free);
        let versions = u64::from(VERSION) | u64::from(TABLE_VERSION) << 32;
        let header = [(0, u64::from_le_bytes(MAGIC)), (8, versions), (16, HEAP_BASE), (24, size)];
        let mut heap = Heap { words: BTreeMap::from(header), size, reads: 0 };
        heap.words.insert(64, 1 << bin);
        let place = offset_of!(HeapHeader, bins) as u64 + bin as u64 * 4;
        heap.words.insert(place & !7, 2 << ((place & 4) * 8));
        let mut describe = |page, kind: PageKind, back: u64, pages: u32, bytes| {
            let first = kind as u64 | back << 16 | u64::from(pages) << 32;
            heap.words.insert(desc_offset(page), first);
            heap.words.insert(desc_offset(page) + 24, bytes);
        };
        describe(0, PageKind::Table, 0, 1, 0);
        describe(1, PageKind::Large, 0, 1, 50_000);
        describe(pages - 1, PageKind::Free, u64::from(free - 1), free, 0);
        describe(2, PageKind::Free, 0, free, 0);
        heap
    }

    /// Changes one word as encoded in ten bytes: the kind of word, which one, the new
    /// value.
    fn change(&mut self, edit: &[u8; 10]) {
        let [kind, which, value @ ..] = *edit;
        let value = u64::from_le_bytes(value);
        let near = u64::from(which);
        let offset = match kind % 4 {
            0 => near % (size_of::<HeapHeader>() as u64 / 8) * 8,
            1 => desc_offset(u32::from(which) / 4) + near % 4 * 8,
            2 => {
                desc_offset(u32::from(which) * 4 + u32::from(kind / 64))
                    + u64::from(kind / 4 % 4) * 8
            }
            _ => ((PAGE_BYTES + near * 1024 + u64::from(kind / 4) * 16) % self.size) & !7,
        };
        // The magic stays, otherwise there is nothing to check; tables mostly contain small
        // numbers.
        let value = if kind & 128 == 0 { value } else { value & 0x0000_00ff_00ff_00ff };
        if offset != 0 {
            self.words.insert(offset, value);
        }
    }
}

/// The heap check on a sound heap with any words changed. Returns whether it is still sound.
///
/// # Panics
/// When the check reads far more than the heap has, or contradicts itself.
pub fn heap(bytes: &[u8]) -> bool {
    let (choice, edits) = bytes.split_first().unwrap_or((&0, &[]));
    let mut heap = Heap::new([4, 32, 1024][usize::from(choice % 3)]);
    for edit in edits.as_chunks().0 {
        heap.change(edit);
    }
    let size = heap.size;
    let roots = [HEAP_BASE + PAGE_BYTES, HEAP_BASE + u64::from(*choice) * 512];
    let subject = Subject { base: HEAP_BASE, size, roots: &roots[..usize::from(choice % 2) + 1] };
    let report = check::check(&mut heap, &subject).expect("the magic is there");
    assert!(heap.reads <= size, "{} reads in a heap of {size} bytes", heap.reads);
    assert_eq!(report.damage.is_empty(), report.sound());
    assert!(report.damage.iter().all(|damage| damage.offset < size), "{report:?}");
    if report.sound() {
        assert!(report.bytes + report.free_bytes < size, "{report:?}");
        assert!(report.blocks * 16 <= report.bytes, "{report:?}");
        let leaks = report.leaks.as_ref().expect("there are roots");
        assert!(leaks.blocks <= report.blocks && leaks.bytes <= report.bytes, "{report:?}");
    } else {
        assert_eq!(report.leaks, None);
    }
    report.sound()
}

//! The layout of a core file: ELF header, program headers, notes, memory (System V ABI, chapters 4
//! and 5).

use std::ops::Range;

const HEADER_BYTES: u64 = 64;
const LOAD_BYTES: u64 = 56;
const SECTION_BYTES: u64 = 64;
/// From here on the number of program headers is in the one section header.
const MANY: usize = 0xffff;
const PAGE: u64 = 4096;

/// Memory that the file describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Load {
    /// Its addresses.
    pub(super) range: Range<u64>,
    /// How many bytes of it are in the file.
    pub(super) bytes: u64,
    /// Read, write, execute: as `mmap` has them.
    pub(super) prot: u64,
}

/// All that stands before the memory, and where each load's is in the file.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) head: Vec<u8>,
    pub(super) offsets: Vec<u64>,
    /// Length of the file.
    pub(super) end: u64,
}

/// Lays out a file with these notes and loads.
pub(super) fn layout(notes: &[u8], loads: &[Load]) -> Layout {
    let count = loads.len() + 1;
    let is_many = count >= MANY;
    let sections = if is_many { SECTION_BYTES } else { 0 };
    let notes_at = HEADER_BYTES + sections + count as u64 * LOAD_BYTES;
    let mut head = Vec::new();
    // 64 bits, little-endian, version 1, System V; a core file, of x86-64.
    head.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put16(&mut head, &[4, 62]);
    put32(&mut head, &[1]);
    let section_at = if is_many { HEADER_BYTES } else { 0 };
    put64(&mut head, &[0, HEADER_BYTES + sections, section_at]);
    put32(&mut head, &[0]);
    let shown = if is_many { MANY } else { count };
    let of_sections = if is_many { [SECTION_BYTES as u16, 1] } else { [0, 0] };
    put16(&mut head, &[HEADER_BYTES as u16, LOAD_BYTES as u16, shown as u16]);
    put16(&mut head, &of_sections);
    put16(&mut head, &[0]);
    if is_many {
        // Of no kind; `sh_info` is the number of program headers, `sh_size` that of sections.
        put32(&mut head, &[0, 0]);
        put64(&mut head, &[0, 0, 0, 1]);
        put32(&mut head, &[0, count as u32]);
        put64(&mut head, &[0, 0]);
    }
    // PT_NOTE.
    put32(&mut head, &[4, 0]);
    put64(&mut head, &[notes_at, 0, 0, notes.len() as u64, 0, 4]);
    let mut at = (notes_at + notes.len() as u64).next_multiple_of(PAGE);
    let mut offsets = Vec::new();
    for load in loads {
        let bit = |from: u64, to: u32| if load.prot & from == 0 { 0 } else { to };
        // PT_LOAD, whose flags are in the other order.
        put32(&mut head, &[1, bit(1, 4) | bit(2, 2) | bit(4, 1)]);
        let memory = load.range.end - load.range.start;
        put64(&mut head, &[at, load.range.start, 0, load.bytes, memory, PAGE]);
        offsets.push(at);
        at += load.bytes.next_multiple_of(PAGE);
    }
    head.extend(notes);
    Layout { head, offsets, end: at }
}

/// Appends a note.
pub(super) fn put_note(notes: &mut Vec<u8>, name: &str, kind: u32, content: &[u8]) {
    put32(notes, &[name.len() as u32 + 1, content.len() as u32, kind]);
    notes.extend(name.bytes());
    notes.push(0);
    notes.resize(notes.len().next_multiple_of(4), 0);
    notes.extend(content);
    notes.resize(notes.len().next_multiple_of(4), 0);
}

pub(super) fn put16(bytes: &mut Vec<u8>, values: &[u16]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

pub(super) fn put32(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

pub(super) fn put64(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use object::LittleEndian;
    use object::elf::{
        ET_CORE, FileHeader64, NoteType, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramFlags,
    };
    use object::read::elf::{FileHeader, ProgramHeader};

    use super::{Load, layout, put_note};

    fn parse(bytes: &[u8]) -> &FileHeader64<LittleEndian> {
        FileHeader64::parse(bytes).unwrap()
    }

    #[test]
    fn what_is_laid_out_is_read_back() {
        let mut notes = Vec::new();
        put_note(&mut notes, "CORE", 6, &[1, 2, 3]);
        put_note(&mut notes, "LINUX", 0x202, &[9; 8]);
        let loads = [
            Load { range: 0x1000..0x5000, bytes: 0x4000, prot: 3 },
            Load { range: 0x7000..0x9000, bytes: 0, prot: 5 },
            Load { range: 0xa000..0xb000, bytes: 0x1000, prot: 0 },
        ];
        let laid = layout(&notes, &loads);
        let mut file = laid.head.clone();
        file.resize(laid.end as usize, 0);
        let header = parse(&file);
        assert_eq!(header.e_type.get(LittleEndian), ET_CORE);
        let segments = header.program_headers(LittleEndian, &*file).unwrap();
        assert_eq!(segments.len(), 4);
        assert_eq!(segments[0].p_type(LittleEndian), PT_NOTE);
        let mut read = segments[0].notes(LittleEndian, &*file).unwrap().unwrap();
        let note = read.next().unwrap().unwrap();
        assert_eq!((note.name(), note.n_type(LittleEndian)), (&b"CORE"[..], NoteType(6)));
        assert_eq!(note.desc(), [1, 2, 3]);
        let note = read.next().unwrap().unwrap();
        assert_eq!((note.name(), note.desc()), (&b"LINUX"[..], &[9; 8][..]));
        assert!(read.next().unwrap().is_none());
        for ((segment, load), offset) in segments[1..].iter().zip(&loads).zip(&laid.offsets) {
            assert_eq!(segment.p_type(LittleEndian), PT_LOAD);
            assert_eq!(segment.p_vaddr(LittleEndian), load.range.start);
            assert_eq!(segment.p_memsz(LittleEndian), load.range.end - load.range.start);
            assert_eq!(segment.p_filesz(LittleEndian), load.bytes);
            assert_eq!(segment.p_offset(LittleEndian), *offset);
            assert!(offset.is_multiple_of(4096) && offset + load.bytes <= laid.end);
        }
        let flags: Vec<ProgramFlags> =
            segments[1..].iter().map(|it| it.p_flags(LittleEndian)).collect();
        assert_eq!(flags, [PF_R | PF_W, PF_R | PF_X, ProgramFlags(0)]);
    }

    #[test]
    fn more_areas_than_the_header_can_count_are_counted_in_a_section() {
        let loads: Vec<Load> = (1..=70_000)
            .map(|n| Load { range: n * 0x2000..n * 0x2000 + 0x1000, bytes: 0, prot: 1 })
            .collect();
        let laid = layout(&[], &loads);
        let mut file = laid.head.clone();
        file.resize(laid.end as usize, 0);
        let segments = parse(&file).program_headers(LittleEndian, &*file).unwrap();
        assert_eq!(segments.len(), 70_001);
        assert_eq!(segments[70_000].p_vaddr(LittleEndian), 70_000 * 0x2000);
    }
}

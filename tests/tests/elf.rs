//! The ELF loader handles any bytes: it refuses them with a reason or loads exactly what they say.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use abi::PAGE_SIZE;
use abi::layout::{MMAP_TOP, PIE_BASE};
use proptest::prelude::*;
use tests::elf::{Elf, Header, content};
use tests::{guests, pace, skip_without_kvm};
use vmm::guest::elf::{self, Image};
use vmm::guest::load;
use vmm::private::PrivateRegion;
use vmm::vm::Machine;

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

fn parse(bytes: &[u8]) -> Option<Image> {
    match elf::parse(bytes) {
        Ok(image) => {
            judge(&image, bytes.len() as u64);
            Some(image)
        }
        Err(err) => {
            assert!(!tests::vm::all(&err).is_empty());
            None
        }
    }
}

/// Plausible numbers, and those at which sums wrap.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..64_u64).prop_map(|n| n * 0x1000),
        2 => 0..0x4_0000_u64,
        1 => any::<u64>(),
        1 => prop_oneof![Just(0), Just(!0), Just(!0xfff), Just(1 << 63), Just(1 << 47),
            Just(MMAP_TOP.raw()), Just(MMAP_TOP.raw() - PIE_BASE.raw())],
    ]
}

fn header() -> impl Strategy<Value = Header> {
    let kind = prop_oneof![8 => Just(1_u32), 1 => Just(0x6474_e551), 1 => Just(3), 1 => 0..8_u32];
    (kind, 0..8_u32, word(), word(), word(), word()).prop_map(
        |(kind, flags, offset, vaddr, file_bytes, mem_bytes)| Header {
            kind,
            flags,
            offset,
            vaddr,
            file_bytes,
            mem_bytes,
        },
    )
}

/// Headers that are likely to be accepted: ascending, in the file, congruent.
fn good_header() -> impl Strategy<Value = (u64, u64, u64, u64, u32)> {
    (1..40_u64, 0..4096_u64, 0..0x9000_u64, 0..0x5000_u64, 0..8_u32)
}

fn likely() -> impl Strategy<Value = Elf> {
    let patches = prop::collection::vec((0..400_usize, any::<u8>()), 0..3);
    let parts = prop::collection::vec(good_header(), 1..5);
    let patches = prop_oneof![3 => Just(Vec::new()), 1 => patches];
    (parts, any::<bool>(), patches).prop_map(|(parts, pie, patches)| {
        let mut headers = Vec::new();
        let (mut vaddr, mut offset) = (0x40_0000, 0);
        for (pages, lead, file_bytes, extra, flags) in parts {
            vaddr = (vaddr / PAGE_SIZE + pages) * PAGE_SIZE + lead;
            offset = (offset / PAGE_SIZE + 1) * PAGE_SIZE + lead;
            let mem_bytes = file_bytes + extra;
            headers.push(Header { kind: 1, flags, offset, vaddr, file_bytes, mem_bytes });
            (vaddr, offset) = (vaddr + mem_bytes, offset + file_bytes);
        }
        let entry = headers[0].vaddr;
        let kind = if pie { 3 } else { 2 };
        Elf { kind, entry, headers, len: offset as usize + 1, patches }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: pace::times(4000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_sound(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        parse(&bytes);
        let magic = [&[0x7f, b'E', b'L', b'F', 2, 1, 1][..], &bytes].concat();
        parse(&magic);
    }

    #[test]
    fn any_headers_are_refused_or_sound(
        headers in prop::collection::vec(header(), 0..6),
        kind in 0..5_u16,
        entry in word(),
        len in 0..0x2_0000_usize,
        patches in prop::collection::vec((0..400_usize, any::<u8>()), 0..4),
    ) {
        parse(&Elf { kind, entry, headers, len, patches }.bytes());
    }
}

#[test]
fn mutations_of_a_real_program_are_refused_or_sound() {
    let real = std::fs::read(guests::c("hello")).unwrap();
    assert!(parse(&real).is_some(), "the real one is good");
    let mut accepted = 0;
    let headers = 64 + 56 * usize::from(real[56]);
    let mut bytes = real.clone();
    for at in 0..headers {
        for value in [0, 1, 0x7f, 0x80, 0xff, real[at] ^ 1, real[at].wrapping_add(1)] {
            bytes[at] = value;
            accepted += u32::from(parse(&bytes).is_some());
        }
        bytes[at] = real[at];
    }
    // Most bytes are padding, sizes of other things, or addresses that may differ.
    assert!(accepted > 100, "{accepted}");
    for len in (0..headers).chain([real.len() / 2, real.len() - 1]) {
        parse(&real[..len]);
    }
}

/// Loads `elf` and compares every byte with what its headers say.
fn load(elf: &Elf) -> bool {
    let bytes = elf.bytes();
    let Some(image) = parse(&bytes) else { return false };
    let total: u64 = image.segments.iter().map(|s| s.mem_bytes).sum();
    if total > 1 << 24 {
        return false;
    }
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&bytes).expect("it can be written");
    let file: Arc<File> = Arc::new(file);
    let machine = Machine::new().expect("a VM can be made here");
    let private = PrivateRegion::new(machine, 1 << 28);
    let Ok(loaded) = load::load(&private, &file, &image) else { return false };
    for s in &image.segments {
        if !s.prot.can_read() {
            continue;
        }
        let mut found = vec![0; s.mem_bytes as usize];
        private.copy_in(loaded.bias + s.vaddr, &mut found).expect("the segment is readable");
        let (data, rest) = found.split_at(s.file_bytes as usize);
        assert_eq!(data, &bytes[s.offset as usize..][..data.len()], "{s:x?}");
        // As on Linux, a read-only segment's data is followed by what follows in the file: only
        // what the program can write has to be zero.
        if s.prot.can_write() {
            assert!(rest.iter().all(|&byte| byte == 0), "{s:x?}: not zero behind its data");
        }
        assert!(loaded.end >= loaded.bias + s.vaddr + s.mem_bytes);
    }
    true
}

#[test]
fn what_is_loaded_is_what_the_headers_say() {
    skip_without_kvm!();
    let loaded = std::cell::Cell::new(0);
    let cases = pace::times(250);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(elf in likely())| {
        loaded.set(loaded.get() + u32::from(load(&elf)));
    });
    let loaded = loaded.get();
    assert!(loaded > cases / 8, "only {loaded} were good enough to load");
    assert_eq!(content(251 * 3 + 7), 7);
}

#[test]
fn a_segment_with_nothing_from_the_file_is_zero() {
    skip_without_kvm!();
    let segment = |vaddr, file_bytes, flags| Header {
        kind: 1,
        flags,
        offset: 0x1000 + vaddr % 4096,
        vaddr,
        file_bytes,
        mem_bytes: 0x3456,
    };
    for flags in 1..8 {
        let headers = vec![segment(0x40_0100, 0x200, 5), segment(0x50_0800, 0, flags)];
        let elf = Elf { kind: 2, entry: 0x40_0100, headers, len: 0x3000, patches: Vec::new() };
        assert!(load(&elf), "flags {flags}");
    }
}

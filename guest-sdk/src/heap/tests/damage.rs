//! Damaged heaps: each is reported, at the place where it is damaged, and none stops the walk.

use std::alloc::Layout;
use std::ptr::NonNull;

use proptest::prelude::*;
use seg_heap::{AREA_BYTES, AREA_PAGES, PAGE_BYTES};
use seg_heap::{desc_offset, page_offset};

use super::region::Region;
use crate::heap::RawHeap;

const MIB: u64 = 1 << 20;

/// A heap with everything in it, and where.
struct Sample {
    region: Region,
    heap: RawHeap,
    /// Blocks of 100 bytes: two allocated, then two freed, then one allocated.
    small: [NonNull<u8>; 5],
    large: NonNull<u8>,
    huge: NonNull<u8>,
    /// A run of four free pages between large blocks.
    hole: NonNull<u8>,
}

impl Sample {
    fn new() -> Sample {
        let region = Region::new(2 * MIB, 4 * AREA_BYTES);
        let heap = region.heap();
        let alloc = |bytes: u64| {
            let layout = Layout::from_size_align(bytes as usize, 16).unwrap();
            region.alloc(heap, layout).unwrap()
        };
        let small = [(); 5].map(|()| alloc(100));
        let large = alloc(3 * PAGE_BYTES);
        let hole = alloc(4 * PAGE_BYTES);
        alloc(PAGE_BYTES);
        let huge = alloc(100 * MIB);
        for block in [small[2], small[3], hole] {
            region.free(heap, block);
        }
        Sample { region, heap, small, large, huge, hole }
    }

    fn offset(&self, block: NonNull<u8>) -> u64 {
        (block.addr().get() - self.region.base().addr().get()) as u64
    }

    fn page(&self, block: NonNull<u8>) -> u32 {
        (self.offset(block) / PAGE_BYTES) as u32
    }

    /// Where the descriptor of a block's page is.
    fn desc(&self, block: NonNull<u8>) -> u64 {
        desc_offset(self.page(block))
    }

    /// Overwrites bytes and says where the check finds damage.
    fn damage(self, offset: u64, bytes: &[u8]) -> Vec<(u64, &'static str)> {
        assert_eq!(self.region.check(&[]).damage, []);
        for (place, &byte) in (offset..).zip(bytes) {
            self.region.fill(self.region.at(self.region.base(), place as usize), 1, byte);
        }
        let report = self.region.check(&[self.small[0]]);
        assert!(!report.sound());
        assert_eq!(report.leaks, None);
        report.damage.iter().map(|damage| (damage.offset, damage.field)).collect()
    }
}

#[test]
fn each_damage_is_reported_where_it_is() {
    let half = |value: u32| value.to_le_bytes().to_vec();
    type Case = (&'static str, fn(&Sample) -> u64, Vec<u8>, &'static str);
    let cases: Vec<Case> = vec![
        ("another version", |_| 8, half(7), "version"),
        ("another class table", |_| 12, half(7), "class table"),
        ("another base", |_| 16, half(7), "base"),
        ("an end beyond the segment", |_| 31, vec![1], "end"),
        ("an end that is no page", |_| 24, half(77), "end"),
        ("died in the middle", |_| 32, vec![1], "busy"),
        ("a text beyond the end", |_| 46, vec![9], "text"),
        ("something reserved", |_| 60, vec![1], "reserved"),
        ("too many huge blocks", |_| 56, vec![9], "huge"),
        ("a bin without its bit", |_| 64, vec![0; 8], "bins"),
        ("a bin with nonsense", |_| 72, half(12), "list link"),
        ("a class with nonsense", |_| 284, half(u32::MAX), "list link"),
        ("an area without a table", |_| desc_offset(0), vec![0], "page kind"),
        ("a span of no kind", |s| s.desc(s.small[0]), vec![99], "page kind"),
        ("a span of no class", |s| s.desc(s.small[0]) + 1, vec![40], "class"),
        ("a span that is too long", |s| s.desc(s.small[0]) + 4, half(3), "length"),
        ("more used than fresh", |s| s.desc(s.small[0]) + 8, vec![200], "used"),
        ("less used than not free", |s| s.desc(s.small[0]) + 8, vec![2], "used"),
        ("more fresh than fit", |s| s.desc(s.small[0]) + 11, vec![255], "fresh"),
        ("a free block between blocks", |s| s.desc(s.small[0]) + 12, vec![2], "free block"),
        ("a free block beyond the fresh", |s| s.desc(s.small[0]) + 13, vec![7], "free block"),
        ("a lost free list", |s| s.desc(s.small[0]) + 12, vec![0, 0], "used"),
        ("a span with room that is not listed", |s| s.desc(s.small[0]) + 14, vec![0], "listed"),
        ("a span's link to itself", |s| s.desc(s.small[0]) + 20, vec![1], "list link"),
        ("a freed block written to", |s| s.offset(s.small[3]), vec![1; 8], "free block"),
        ("a free list in a circle", |s| s.offset(s.small[2]), vec![22], "free block"),
        ("a large block of no pages", |s| s.desc(s.large) + 4, half(0), "length"),
        ("a large block over its area", |s| s.desc(s.large) + 4, half(1023), "length"),
        ("a large block with too many bytes", |s| s.desc(s.large) + 30, vec![1], "bytes"),
        ("a page that leads elsewhere", |s| desc_offset(s.page(s.large) + 1) + 2, vec![9], "back"),
        ("a huge block that ends anywhere", |s| s.desc(s.huge) + 4, half(1500), "length"),
        ("a huge block beyond the end", |s| s.desc(s.huge) + 4, half(8191), "length"),
        ("a free run of no pages", |s| s.desc(s.hole) + 4, half(0), "length"),
        ("a free run that is too short", |s| s.desc(s.hole) + 4, half(2), "back"),
        (
            "a free run's end that leads elsewhere",
            |s| desc_offset(s.page(s.hole) + 3) + 2,
            vec![1],
            "back",
        ),
        ("a free run's link back", |s| s.desc(s.hole) + 16, vec![5], "list link"),
        ("a free run's link", |s| s.desc(s.hole) + 20, vec![5], "list link"),
    ];
    for (name, place, bytes, field) in cases {
        let sample = Sample::new();
        let offset = place(&sample);
        let found = sample.damage(offset, &bytes);
        assert!(found.iter().any(|(_, found)| *found == field), "{name}: {found:x?}");
        let near = |at: u64| at.abs_diff(offset) < 64 || ["list link", "used"].contains(&field);
        assert!(found.iter().any(|&(at, found)| found == field && near(at)), "{name}: {found:x?}");
    }
}

#[test]
fn what_nothing_leads_to_is_a_leak() {
    let sample = Sample::new();
    let Sample { region, heap, small, large, huge, .. } = &sample;
    let write = |at: NonNull<u8>, offset: usize, target: NonNull<u8>, inside: usize| {
        let address = (target.addr().get() + inside) as u64;
        for (byte, value) in address.to_le_bytes().into_iter().enumerate() {
            region.fill(region.at(at, offset + byte), 1, value);
        }
    };
    // The root leads into the middle of the huge block, over a table's place, and so on; the
    // page-sized block is not referenced, and small[4] only by an unaligned word.
    write(small[0], 8, *huge, 90 << 20);
    write(*huge, 80 << 20, *large, 5);
    write(*large, (3 * PAGE_BYTES - 8) as usize, small[1], 99);
    write(small[1], 4, small[4], 0);
    region.set_text(*heap, "struct Root").unwrap();
    let leaks = region.check(&[small[0]]).leaks.unwrap();
    assert_eq!((leaks.blocks, leaks.bytes), (2, 112 + PAGE_BYTES));
    assert_eq!(leaks.first[0].offset, sample.offset(small[4]));
    // Words of freed blocks lead nowhere.
    write(small[2], 8, small[4], 0);
    write(small[0], 16, small[2], 0);
    assert_eq!(region.check(&[small[0]]).leaks.unwrap().blocks, 2);
    assert_eq!(region.check(&[]).leaks, None);
}

#[test]
fn a_huge_block_hides_tables_that_its_content_looks_like() {
    let sample = Sample::new();
    let first = sample.page(sample.huge);
    let table = page_offset(first / AREA_PAGES * AREA_PAGES + AREA_PAGES);
    let place = sample.region.at(sample.region.base(), table as usize);
    sample.region.fill(place, PAGE_BYTES as usize, 0x42);
    assert_eq!(sample.region.check(&[]).damage, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 300 }, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_stop_the_check(
        places in prop::collection::vec((0u64..8, 0u64..2000, any::<u8>()), 1..20)
    ) {
        let sample = Sample::new();
        let of = |block| sample.desc(block);
        let starts =
            [0, desc_offset(0), of(sample.small[0]), of(sample.huge), of(sample.large),
             of(sample.hole), sample.offset(sample.small[0]), desc_offset(AREA_PAGES)];
        for (which, offset, byte) in places {
            let place = starts[which as usize] + if which < 7 { offset % 128 } else { offset };
            // Not the magic: without it there is no heap to check.
            if place >= 8 {
                sample.region.fill(sample.region.at(sample.region.base(), place as usize), 1, byte);
            }
        }
        let report = sample.region.check(&[sample.small[0]]);
        prop_assert_eq!(report.sound(), report.damage.is_empty());
    }
}

//! The allocator over ordinary memory, against a model that knows every block.

mod damage;
mod model;
mod region;

use std::alloc::Layout;
use std::fmt::Write;

use proptest::prelude::*;
use seg_heap::desc_offset;
use seg_heap::{AREA_BYTES, AREA_PAGES, CLASSES, MIN_BYTES, PAGE_BYTES};

use super::{Growth, HeapError, RawHeap};
use model::{Model, Step};
use region::{Region, given_back};

const MIB: usize = 1 << 20;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 16).unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        6 => 0usize..256,
        4 => 0usize..5000,
        3 => 5000usize..200_000,
        1 => 200_000usize..8 * MIB,
    ];
    let align = prop_oneof![8 => Just(8usize), 1 => (0u32..=21).prop_map(|shift| 1 << shift)];
    prop_oneof![
        5 => (bytes.clone(), align).prop_map(|(bytes, align)| Step::Alloc { bytes, align }),
        4 => any::<prop::sample::Index>().prop_map(Step::Free),
        2 => (any::<prop::sample::Index>(), bytes)
            .prop_map(|(which, bytes)| Step::Realloc { which, bytes }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 32 }, ..ProptestConfig::default() })]

    #[test]
    fn blocks_do_not_overlap_keep_their_content_and_all_memory_comes_back(
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 40 } else { 400 })
    ) {
        let mut model = Model::new(2 * MIB as u64, 5 * AREA_BYTES);
        for step in steps {
            model.take(step);
        }
        model.free_all();
    }
}

#[test]
fn every_size_is_allocated_written_to_and_freed() {
    let mut model = Model::new(MIN_BYTES, 3 * AREA_BYTES);
    let large = (200..70_000).step_by(if cfg!(miri) { 9970 } else { 997 });
    for bytes in (0..200).chain(large) {
        model.take(Step::Alloc { bytes, align: 1 });
    }
    model.free_all();
}

#[test]
fn freed_blocks_are_the_next_ones_of_their_class() {
    let region = Region::new(2 * MIB as u64, 2 * MIB as u64);
    let heap = region.heap();
    let _stays = region.alloc(heap, layout(100)).unwrap();
    let one = region.alloc(heap, layout(100)).unwrap();
    let other = region.alloc(heap, layout(100)).unwrap();
    region.free(heap, one);
    region.free(heap, other);
    assert_eq!(region.alloc(heap, layout(110)), Some(other));
    assert_eq!(region.alloc(heap, layout(97)), Some(one));
}

#[test]
fn neighbouring_free_pages_merge_whatever_the_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let region = Region::new(2 * MIB as u64, 2 * MIB as u64);
        let heap = region.heap();
        let whole = region.stats(heap).free_page_bytes as usize;
        let third = whole / PAGE_BYTES as usize / 3 * PAGE_BYTES as usize;
        let blocks = [third, third, whole - 2 * third]
            .map(|bytes| region.alloc(heap, layout(bytes)).unwrap());
        assert_eq!(region.stats(heap).free_page_bytes, 0);
        assert_eq!(region.alloc(heap, layout(1)), None);
        for which in order {
            region.free(heap, blocks[which]);
        }
        assert_eq!(region.alloc(heap, layout(whole)), Some(blocks[0]), "{order:?}");
    }
}

#[test]
fn pages_that_become_free_are_given_back_once_in_whole_units() {
    let region = Region::new(8 * MIB as u64, 4 * AREA_BYTES);
    let heap = region.heap();
    assert_eq!(given_back(), 0, "what was never used");
    let large = region.alloc(heap, layout(5 * MIB)).unwrap();
    region.free(heap, large);
    // From the first whole unit behind the table's page to the last that it has a part of.
    assert_eq!(given_back(), 5 * MIB as u64);
    // Small blocks, span by span; one span stays for the next block.
    let blocks: Vec<_> =
        (0..5 * 64).map(|_| region.alloc(heap, layout(16 << 10)).unwrap()).collect();
    assert_eq!(given_back(), 0);
    for block in blocks {
        region.free(heap, block);
    }
    let given = given_back();
    assert!((3 * MIB as u64..=5 * MIB as u64).contains(&given), "{given}");
    let huge = region.alloc(heap, layout(100 * MIB)).unwrap();
    let shrunk = region.realloc(heap, huge, 16, 66 * MIB).unwrap();
    assert_eq!((shrunk, given_back()), (huge, 0), "the same areas");
    region.free(heap, huge);
    assert!((64 * MIB as u64..=66 * MIB as u64).contains(&given_back()));
}

#[test]
fn a_heap_grows_to_the_reserve_and_then_says_no() {
    let region = Region::new(MIN_BYTES, 4 * MIB as u64);
    let heap = region.heap();
    let mut blocks = 0;
    while region.alloc(heap, layout(4096)).is_some() {
        blocks += 1;
    }
    // All but the table page.
    assert_eq!(blocks, (4 * MIB - PAGE_BYTES as usize) / 4096);
    assert_eq!(region.stats(heap).end, 4 * MIB as u64);
}

/// Nothing here is touched that is not reserved: `Region` would not have it.
#[test]
fn a_heap_on_a_full_disk_says_no_and_goes_on_with_what_it_has() {
    let region = Region::on_disk(MIN_BYTES, 1 << 30, 6 * MIB as u64);
    let heap = region.heap();
    let mut blocks = Vec::new();
    while let Some(block) = region.alloc(heap, layout(MIB)) {
        region.fill(block, MIB, 7);
        blocks.push(block);
    }
    // The table's page is missing of the sixth.
    assert_eq!(blocks.len(), 5);
    assert!(region.stats(heap).end <= 6 * MIB as u64);
    assert_eq!(region.realloc(heap, blocks[4], 16, 3 * MIB), None);
    region.free(heap, blocks.pop().unwrap());
    let again = region.alloc(heap, layout(MIB)).unwrap();
    region.fill(again, MIB, 8);
    // What is left is less than a step, and enough for a small block.
    let small = region.alloc(heap, layout(100)).unwrap();
    region.fill(small, 100, 9);
}

#[test]
fn a_huge_block_reserves_what_it_has_and_its_areas_are_whole_for_the_next() {
    let region = Region::on_disk(MIN_BYTES, 10 * AREA_BYTES, 141 * MIB as u64);
    let heap = region.heap();
    let huge = region.alloc(heap, layout(100 * MIB)).unwrap();
    region.fill(huge, 100 * MIB, 1);
    // The page of tables, and not the rest of the last area.
    let stored = region.stored_bytes();
    assert!(stored <= 101 * MIB as u64, "{stored}");
    assert_eq!(region.realloc(heap, huge, 16, 110 * MIB), Some(huge));
    region.fill(huge, 110 * MIB, 2);
    assert!((9 * MIB as u64..11 * MIB as u64).contains(&(region.stored_bytes() - stored)));
    assert_eq!(region.realloc(heap, huge, 16, 160 * MIB), None);
    assert_eq!(region.realloc(heap, huge, 16, 70 * MIB), Some(huge));
    region.free(heap, huge);
    // Blocks of a few pages have all of the areas, as far as the disk reaches.
    let mut mebibytes = 0;
    while let Some(block) = region.alloc(heap, layout(MIB)) {
        region.fill(block, MIB, 3);
        mebibytes += 1;
    }
    assert!(region.stored_bytes() <= 141 * MIB as u64);
    assert!(mebibytes >= 126, "{mebibytes}");
}

#[test]
fn blocks_larger_than_an_area_lie_over_tables_and_give_them_back() {
    let region = Region::new(2 * MIB as u64, 10 * AREA_BYTES);
    let heap = region.heap();
    let small = region.alloc(heap, layout(10)).unwrap();
    let huge = region.alloc(heap, layout(100 * MIB)).unwrap();
    region.fill(huge, 100 * MIB, 0xab);
    let next = region.alloc(heap, layout(1000 * 1000)).unwrap();
    // A second one behind it, and the first may not grow over it.
    let second = region.alloc(heap, layout(70 * MIB)).unwrap();
    let moved = region.realloc(heap, huge, 16, 200 * MIB);
    assert_ne!(moved, Some(huge));
    let stats = region.stats(heap);
    assert_eq!(stats.blocks, 4);
    for block in [small, next, second, moved.unwrap()] {
        region.free(heap, block);
    }
    let stats = region.stats(heap);
    assert_eq!(stats.blocks, 0);
    let tables = stats.end / AREA_BYTES;
    let span = PAGE_BYTES;
    assert_eq!(stats.free_page_bytes + span + tables * PAGE_BYTES, stats.end);
}

#[test]
fn a_table_that_doubles_again_and_again_is_content_with_the_first_ones_memory() {
    let region = Region::new(2 * MIB as u64, 40 * AREA_BYTES);
    let heap = region.heap();
    let double = || {
        let mut table = region.alloc(heap, layout(60 * MIB)).unwrap();
        for doubling in 1..4 {
            let next = region.alloc(heap, layout((60 * MIB) << doubling)).unwrap();
            region.free(heap, table);
            table = next;
        }
        region.free(heap, table);
        region.stats(heap).end
    };
    let first = double();
    // 240 MiB and 480 MiB at a time, what is smaller before them, and tables.
    assert!(first <= 15 * AREA_BYTES, "{first}");
    assert_eq!([double(), double()], [first; 2]);
}

#[test]
fn the_last_block_grows_in_place_from_one_area_to_many() {
    let region = Region::new(AREA_BYTES, 8 * AREA_BYTES);
    let heap = region.heap();
    let mut block = region.alloc(heap, layout(100 * MIB)).unwrap();
    region.fill(block, 1000, 7);
    for bytes in [150 * MIB, 200 * MIB, 300 * MIB, 90 * MIB] {
        let resized = region.realloc(heap, block, 16, bytes).unwrap();
        assert_eq!(resized, block, "{bytes}");
        block = resized;
    }
    assert_eq!(region.read(region.at(block, 999)), 7);
}

#[test]
fn what_cannot_be_is_refused() {
    let region = Region::new(2 * MIB as u64, 4 * AREA_BYTES);
    let heap = region.heap();
    let of = |bytes, align| Layout::from_size_align(bytes, align).unwrap();
    assert_eq!(region.alloc(heap, of(16, 4 * MIB)), None);
    assert_eq!(region.alloc(heap, of(1 << 40, 16)), None);
    assert_eq!(region.alloc(heap, of(isize::MAX as usize - 15, 16)), None);
    assert!(region.alloc(heap, of(1, 2 * MIB)).is_some());
}

#[test]
fn a_block_that_was_written_to_after_it_was_freed_is_never_followed() {
    let region = Region::new(2 * MIB as u64, 2 * MIB as u64);
    let heap = region.heap();
    let blocks: Vec<_> = (0..4).map(|_| region.alloc(heap, layout(64)).unwrap()).collect();
    for &block in &blocks {
        region.free(heap, block);
    }
    region.fill(blocks[3], 8, 0x41);
    // Short by what the list had, and no block is handed out twice.
    let again: Vec<_> = (0..4).map(|_| region.alloc(heap, layout(64)).unwrap()).collect();
    let mut distinct = again.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn addresses_that_are_no_blocks_are_told() {
    let region = Region::new(2 * MIB as u64, 5 * AREA_BYTES);
    let heap = region.heap();
    for bytes in [16, 100, 5000, 20_000, 100_000, 80 * MIB] {
        let block = region.alloc(heap, layout(bytes)).unwrap();
        let other = region.alloc(heap, layout(bytes)).unwrap();
        assert!(region.is_block(heap, block), "{bytes}");
        assert!(!region.is_block(heap, region.at(block, 8)), "{bytes}");
        region.free(heap, block);
        assert!(!region.is_block(heap, block), "{bytes}: freed");
        assert!(region.is_block(heap, other), "{bytes}");
    }
    assert!(!region.is_block(heap, region.base()));
}

#[test]
fn text_is_kept_replaced_and_read() {
    let region = Region::new(2 * MIB as u64, 4 * MIB as u64);
    let heap = region.heap();
    assert_eq!(region.text(heap), "");
    for text in ["", "struct Root", &"long ".repeat(20_000), "short"] {
        region.set_text(heap, text).unwrap();
        assert_eq!(region.text(heap), text);
    }
    assert_eq!(region.stats(heap).blocks, 1);
}

#[test]
fn a_span_is_given_back_with_its_last_block_unless_it_is_the_only_one() {
    let region = Region::new(4 * MIB as u64, 4 * MIB as u64);
    let heap = region.heap();
    let before = region.stats(heap).free_page_bytes;
    for class in 0..CLASSES {
        let bytes = seg_heap::class::SIZES[class] as usize;
        let count = usize::from(seg_heap::class::CAPACITIES[class]) + 1;
        let blocks: Vec<_> =
            (0..count).map(|_| region.alloc(heap, layout(bytes)).unwrap()).collect();
        for block in blocks {
            region.free(heap, block);
        }
    }
    let spans: u64 = seg_heap::class::SPAN_PAGES.iter().map(|&pages| u64::from(pages)).sum();
    assert_eq!(region.stats(heap).free_page_bytes, before - spans * PAGE_BYTES);
}

#[test]
fn the_format_is_the_one_on_record() {
    let region = Region::new(2 * MIB as u64, 4 * AREA_BYTES);
    let heap = region.heap();
    region.set_text(heap, "struct Root { words: u64 }").unwrap();
    let blocks = [1, 16, 17, 100, 100, 100, 3000, 30_000, 70_000, 70 * MIB, 200_000]
        .map(|bytes| region.alloc(heap, layout(bytes)).unwrap());
    for which in [3, 4, 8] {
        region.free(heap, blocks[which]);
    }
    let mut found = String::new();
    let skipped = |offset: u64| {
        // The base is another one in each run; a huge block's pages are all alike.
        offset == 16
            || (offset >= desc_offset(AREA_PAGES + 8) && offset < desc_offset(AREA_PAGES * 2 - 8))
    };
    let places = (0..PAGE_BYTES)
        .chain(AREA_BYTES..AREA_BYTES + PAGE_BYTES)
        .chain((1..16).flat_map(|page| page * PAGE_BYTES..page * PAGE_BYTES + 512));
    for offset in places.step_by(8).filter(|&offset| !skipped(offset)) {
        let word = region.word(offset);
        if word != 0 {
            writeln!(found, "{offset:#09x} {word:#018x}").unwrap();
        }
    }
    let expected = include_str!("format.txt");
    assert!(found == expected, "another format needs another VERSION; this is:\n{found}");
}

#[test]
fn opening_names_what_is_wrong() {
    let region = Region::new(2 * MIB as u64, 2 * MIB as u64);
    region.grow().reserve(0, MIN_BYTES).expect("there is a disk");
    let size = 2 * MIB as u64;
    let open = |size| {
        // SAFETY: the region is ours, and large enough.
        unsafe { RawHeap::open(region.base(), size) }.map(|_| ())
    };
    assert_eq!(open(size), Err(HeapError::NotAHeap { found: 0 }));
    region.heap();
    assert_eq!(open(size), Ok(()));
    assert_eq!(open(size / 2), Err(HeapError::Damaged { field: "end", found: size }));
    assert_eq!(open(100), Err(HeapError::TooSmall { found: 100 }));
    let set = |offset, value| region.fill(region.at(region.base(), offset), 1, value);
    set(8, 2);
    assert_eq!(open(size), Err(HeapError::Version { found: 2, known: 1 }));
    set(8, 1);
    set(16, 0x12);
    assert!(matches!(open(size), Err(HeapError::Damaged { field: "base", .. })));
}

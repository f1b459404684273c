//! The book's description of the format matches the code.

use crate::format::extent::WORDS_OFFSET;
use crate::format::header::FIELDS;
use crate::{
    DATA_OFFSET, INSTANCES_OFFSET, LOCK_PAGE_OFFSET, PART_BYTES, SEGMENTS_OFFSET,
    VCPU_STATUSES_OFFSET,
};

const BOOK: &str = include_str!("../../../../docs/src/store.md");

#[test]
fn the_book_lists_every_field_of_the_header_and_no_other() {
    let start = BOOK.find("### Header").unwrap();
    let table = &BOOK[start..BOOK.find("The header fits").unwrap()];
    let rows: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let offset: usize = cells.next()?.parse().ok()?;
            Some((offset, cells.next()?.parse().unwrap(), cells.next()?))
        })
        .collect();
    let fields: Vec<_> = FIELDS.iter().map(|f| (f.offset, f.bytes, f.name)).collect();
    assert_eq!(rows, fields);
}

#[test]
fn the_book_has_the_offsets() {
    assert_eq!((LOCK_PAGE_OFFSET, DATA_OFFSET, PART_BYTES), (4096, 2 << 20, 8 << 40));
    assert_eq!(WORDS_OFFSET, 8192);
    for row in
        ["| 4096 | lock page |", "| 8192 | of a versioned", "| 2 MiB | content, up to 8 TiB |"]
    {
        assert!(BOOK.contains(row), "{row}");
    }
    for offset in [VCPU_STATUSES_OFFSET, INSTANCES_OFFSET, SEGMENTS_OFFSET] {
        let row = format!("| 0x{:x}_{:04x} |", offset >> 16, offset & 0xffff);
        assert!(BOOK.contains(&row), "{row}");
    }
}

//! The invariants of a heap.

use super::bits::Bits;
use super::reader::{Reader, Subject, desc, header};
use super::report::Report;
use crate::class::{CLASSES, Class, GRANULE, TABLE_VERSION};
use crate::geometry::{AREA_PAGES, MAX_BYTES, MIN_BYTES, PAGE_BYTES, page_offset};
use crate::layout::{
    HeapHeader, PageDesc, PageKind, RUN_BINS, VERSION, bin_of, desc_offset, next_of_free_word,
};
use alloc::vec::Vec;
use core::mem::offset_of;

/// What the walk learned and the search for leaks needs.
pub(super) struct Found {
    pub(super) pages: u32,
    pub(super) text: u64,
    /// Free blocks, by their position in granules.
    pub(super) free: Bits,
    /// Huge blocks: first area, one past the last.
    pub(super) huge: Vec<(u32, u32)>,
}

/// The state of a walk.
pub(super) struct Walk<'a, R> {
    reader: &'a mut R,
    report: &'a mut Report,
    header: HeapHeader,
    found: Found,
    /// Pages that begin a free run or a span with free blocks.
    heads: Bits,
    runs: [u32; RUN_BINS],
    spans: [u32; CLASSES],
}

const KIND: &str = "page kind";
const LINK: &str = "list link";
const COUNT: &str = "list length";

impl<'a, R: Reader> Walk<'a, R> {
    /// Checks the header; `None` if it is so damaged that the heap cannot be walked.
    pub(super) fn begin(
        reader: &'a mut R,
        subject: &Subject<'_>,
        report: &'a mut Report,
    ) -> Option<Walk<'a, R>> {
        let Some(header) = header(reader) else {
            report.damaged(0, "header", 0, "to be readable");
            return None;
        };
        let mut ok = true;
        let mut must = |good: bool, offset, field, found, expected| {
            if !good {
                report.damaged(offset as u64, field, found, expected);
            }
            ok &= good;
        };
        let HeapHeader { version, classes, base, end, text, text_bytes, .. } = header;
        must(version == VERSION, 8, "version", version.into(), "the one this program knows");
        must(classes == TABLE_VERSION, 12, "class table", classes.into(), "the one known");
        must(base == subject.base, 16, "base", base, "the segment's address");
        let fits = (MIN_BYTES..=subject.size.min(MAX_BYTES)).contains(&end);
        must(fits && end.is_multiple_of(PAGE_BYTES), 24, "end", end, "whole pages of the segment");
        if !ok {
            return None;
        }
        report.end = end;
        if header.busy != 0 {
            report.damaged(32, "busy", header.busy, "0: a program died while it changed the heap");
        }
        let text_end = text.checked_add(text_bytes);
        if text_end.is_none_or(|text_end| text_end > end) {
            report.damaged(40, "text", text, "a place in the heap");
        }
        if header.reserved != 0 {
            report.damaged(60, "reserved", header.reserved.into(), "0");
        }
        let pages = (end / PAGE_BYTES) as u32;
        let found = Found { pages, text, free: Bits::default(), huge: Vec::new() };
        let (runs, spans) = ([0; RUN_BINS], [0; CLASSES]);
        Some(Walk { reader, report, header, found, heads: Bits::default(), runs, spans })
    }

    /// What was learned.
    pub(super) fn end(self) -> Found {
        self.found
    }

    fn damaged(&mut self, page: u32, field: &'static str, found: u64, expected: &'static str) {
        self.report.damaged(desc_offset(page), field, found, expected);
    }

    /// The descriptor of `page`, which is in the heap.
    fn desc(&mut self, page: u32) -> PageDesc {
        match desc(self.reader, page) {
            Some(desc) => desc,
            None => {
                self.damaged(page, "descriptor", 0, "to be readable");
                PageDesc::default()
            }
        }
    }

    /// Checks all pages.
    pub(super) fn areas(&mut self) {
        let mut page = 0;
        let mut huge = 0;
        while page < self.found.pages {
            let table = self.desc(page);
            if table.kind() != Some(PageKind::Table) {
                self.damaged(page, KIND, table.kind.into(), "1, an area's table");
            }
            let area_end = (page + AREA_PAGES).min(self.found.pages);
            let next = self.area(page + 1, area_end);
            if next > area_end {
                huge += 1;
            }
            page = next.max(area_end);
        }
        if self.header.huge != huge && self.report.sound() {
            self.report.damaged(56, "huge", self.header.huge.into(), "the number of huge blocks");
        }
    }

    /// Checks the pages of an area; returns where the last thing that begins in it ends.
    fn area(&mut self, mut page: u32, end: u32) -> u32 {
        let mut after_free = false;
        while page < end {
            let desc = self.desc(page);
            let length = match desc.kind() {
                Some(PageKind::Free) if after_free => {
                    self.damaged(page, KIND, desc.kind.into(), "merged with the free run before");
                    None
                }
                Some(PageKind::Free) => self.free_run(page, end, desc),
                Some(PageKind::Small) => self.span(page, end, desc),
                Some(PageKind::Large) => self.large(page, end, desc),
                Some(PageKind::Huge) => self.huge(page, desc),
                _ => {
                    self.damaged(page, KIND, desc.kind.into(), "2 to 5, what begins here");
                    None
                }
            };
            // Where the next thing begins is unknown, so the rest of the area is not checked.
            let Some(length) = length else { return end };
            after_free = desc.kind() == Some(PageKind::Free);
            page += length;
        }
        page
    }

    /// The length in `desc`, if it fits.
    fn length(&mut self, page: u32, end: u32, desc: PageDesc) -> Option<u32> {
        if desc.pages == 0 || desc.pages > end - page {
            self.damaged(page, "length", desc.pages.into(), "one that ends in the area");
            return None;
        }
        Some(desc.pages)
    }

    fn free_run(&mut self, page: u32, end: u32, desc: PageDesc) -> Option<u32> {
        let pages = self.length(page, end, desc)?;
        let last = self.desc(page + pages - 1);
        if pages > 1 && (last.kind() != Some(PageKind::Free) || u32::from(last.back) != pages - 1) {
            self.damaged(page + pages - 1, "back", last.back.into(), "the way to the run's start");
        }
        self.heads.add(page.into());
        self.runs[bin_of(pages)] += 1;
        self.report.free_bytes += page_offset(pages);
        Some(pages)
    }

    fn bodies(&mut self, page: u32, pages: u32) {
        for body in page + 1..page + pages {
            let desc = self.desc(body);
            if desc.kind() != Some(PageKind::Body) || u32::from(desc.back) != body - page {
                self.damaged(body, "back", desc.back.into(), "the way to its block's first page");
                // Of a hundred wrong ones, reporting the first is enough.
                return;
            }
        }
    }

    fn large(&mut self, page: u32, end: u32, desc: PageDesc) -> Option<u32> {
        let pages = self.length(page, end, desc)?;
        self.bodies(page, pages);
        self.block(page, desc);
        Some(pages)
    }

    /// Counts a large or huge block.
    fn block(&mut self, page: u32, desc: PageDesc) {
        if desc.bytes > page_offset(desc.pages) {
            self.damaged(page, "bytes", desc.bytes, "no more than its pages hold");
        }
        self.report.blocks += 1;
        self.report.bytes += page_offset(desc.pages);
    }

    fn huge(&mut self, page: u32, desc: PageDesc) -> Option<u32> {
        let whole = page % AREA_PAGES == 1 && desc.pages % AREA_PAGES == AREA_PAGES - 1;
        if !whole || desc.pages > self.found.pages - page {
            self.damaged(page, "length", desc.pages.into(), "whole areas of the heap");
            return None;
        }
        self.bodies(page, AREA_PAGES - 1);
        self.block(page, desc);
        let area = page / AREA_PAGES;
        self.found.huge.push((area, area + (desc.pages + 1) / AREA_PAGES));
        Some(desc.pages)
    }

    fn span(&mut self, page: u32, end: u32, desc: PageDesc) -> Option<u32> {
        let Some(class) = Class::from_raw(desc.class) else {
            self.damaged(page, "class", desc.class.into(), "a size class");
            return None;
        };
        let pages = self.length(page, end, desc)?;
        if pages != class.span_pages() {
            self.damaged(page, "length", pages.into(), "that of spans of its class");
            return None;
        }
        self.bodies(page, pages);
        let PageDesc { used, fresh, listed, .. } = desc;
        if fresh > class.capacity() {
            self.damaged(page, "fresh", fresh.into(), "no more than the span holds");
            return Some(pages);
        }
        if used > fresh {
            self.damaged(page, "used", used.into(), "no more than were ever allocated");
            return Some(pages);
        }
        let free = self.free_list(page, class, desc);
        if free != u32::from(fresh - used) {
            self.damaged(page, "used", used.into(), "those that are not in the free list");
        }
        let has_free = used < class.capacity();
        if listed != u16::from(has_free) {
            self.damaged(page, "listed", listed.into(), "1 if there is room, 0 if not");
        }
        if has_free {
            self.heads.add(page.into());
            self.spans[class.index()] += 1;
        }
        let size = class.size() as u64;
        self.report.blocks += u64::from(used);
        self.report.bytes += u64::from(used) * size;
        self.report.free_bytes += u64::from(class.capacity() - used) * size;
        Some(pages)
    }

    /// Follows the list of a span's free blocks; returns their number.
    fn free_list(&mut self, page: u32, class: Class, desc: PageDesc) -> u32 {
        let start = page_offset(page);
        let (mut place, mut count) = (desc.free, 0);
        let mut from = desc_offset(page) + offset_of!(PageDesc, free) as u64;
        while place != 0 {
            let within = u64::from(place - 1) * GRANULE as u64;
            let size = class.size() as u64;
            if !within.is_multiple_of(size) || within / size >= desc.fresh.into() {
                self.report.damaged(from, "free block", within, "the place of one in the span");
                return count;
            }
            if !self.found.free.add((start + within) / GRANULE as u64) {
                self.report.damaged(from, "free block", within, "one that is not in the list yet");
                return count;
            }
            count += 1;
            from = start + within;
            let Some(word) = self.reader.word(from) else {
                self.report.damaged(from, "free block", 0, "to be readable");
                return count;
            };
            let Some(next) = next_of_free_word(word) else {
                let expected = "a free block's mark: it was written to after it was freed";
                self.report.damaged(from, "free block", word, expected);
                return count;
            };
            place = next;
        }
        count
    }

    /// Follows the lists of free runs and of spans with free blocks.
    pub(super) fn lists(&mut self) {
        let bins_used = offset_of!(HeapHeader, bins_used) as u64;
        let used = self.header.bins_used;
        for (bin, (first, expected)) in self.header.bins.into_iter().zip(self.runs).enumerate() {
            let offset = offset_of!(HeapHeader, bins) + bin * 4;
            let matches =
                |desc: PageDesc| desc.kind() == Some(PageKind::Free) && bin_of(desc.pages) == bin;
            self.list(offset, first, expected, matches);
            if (used >> bin & 1 == 1) != (first != 0) {
                self.report.damaged(bins_used, "bins", used, "a bit for each bin with runs");
            }
        }
        if used >> RUN_BINS != 0 {
            self.report.damaged(bins_used, "bins", used, "no bits beyond the bins");
        }
        let partial = self.header.partial.into_iter().zip(self.spans).enumerate();
        for (class, (first, expected)) in partial {
            let offset = offset_of!(HeapHeader, partial) + class * 4;
            let matches = |desc: PageDesc| {
                desc.kind() == Some(PageKind::Small) && usize::from(desc.class) == class
            };
            self.list(offset, first, expected, matches);
        }
    }

    /// Follows a list that must contain exactly the `expected` pages that the walk met, all
    /// satisfying `matches`.
    ///
    /// Every back link is checked, so no page is met twice: if their number is as expected, they
    /// are the same pages.
    fn list(&mut self, head: usize, first: u32, expected: u32, matches: impl Fn(PageDesc) -> bool) {
        let (mut page, mut prev, mut count) = (first, 0, 0);
        while page != 0 {
            let at = if prev == 0 { head as u64 } else { desc_offset(prev) };
            if !self.heads.has(page.into()) {
                self.report.damaged(at, LINK, page.into(), "a page that belongs in the list");
                return;
            }
            let desc = self.desc(page);
            if !matches(desc) {
                self.report.damaged(at, LINK, page.into(), "a page that belongs in this list");
                return;
            }
            if desc.prev != prev {
                self.damaged(page, LINK, desc.prev.into(), "the page before it in the list");
                return;
            }
            count += 1;
            if count > expected {
                break;
            }
            (prev, page) = (page, desc.next);
        }
        if count != expected {
            let found = u64::from(count);
            self.report.damaged(head as u64, COUNT, found, "all pages that belong in the list");
        }
    }
}

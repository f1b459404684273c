//! Which pages a layer has: a bit for each page of the segment, from the lowest bit of the file's first
//! byte on. In memory only the runs of 2 MiB that have a page; in the file the others are holes, but
//! that is never relied on.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;

use crate::disk::File;
use crate::error::{Result, VersionsError};
use crate::page::{PAGE_BYTES, PageIndex};

/// Pages of a group, and bytes of its bits.
const GROUP_PAGES: u64 = 512;
const GROUP_BYTES: usize = 64;
/// What is read at once.
const CHUNK_BYTES: u64 = 64 << 10;
/// No file has a page behind this.
const GROUPS_MAX: u64 = i64::MAX as u64 / (GROUP_PAGES * PAGE_BYTES as u64);

/// See the module.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Presence {
    groups: BTreeMap<u64, [u64; 8]>,
    count: u64,
}

impl Presence {
    /// Adds a page.
    ///
    /// # Errors
    /// [`VersionsError::NoSuchPage`] for one that no file can have.
    pub fn add(&mut self, page: PageIndex) -> Result<()> {
        let (group, bit) = (page.0 / GROUP_PAGES, page.0 % GROUP_PAGES);
        if group >= GROUPS_MAX {
            return Err(VersionsError::NoSuchPage(page));
        }
        let word = &mut self.groups.entry(group).or_default()[(bit / 64) as usize];
        self.count += u64::from(*word & (1 << (bit % 64)) == 0);
        *word |= 1 << (bit % 64);
        Ok(())
    }

    /// Adds pages that follow each other.
    ///
    /// # Errors
    /// [`VersionsError::NoSuchPage`] for one that no file can have; none is added then.
    pub fn add_range(&mut self, pages: Range<PageIndex>) -> Result<()> {
        let (mut page, end) = (pages.start.0, pages.end.0);
        if page < end && (end - 1) / GROUP_PAGES >= GROUPS_MAX {
            return Err(VersionsError::NoSuchPage(PageIndex(end - 1)));
        }
        while page < end {
            let (bit, left) = (page % 64, end - page);
            let here = left.min(64 - bit);
            let bits = (u64::MAX >> (64 - here)) << bit;
            let group = self.groups.entry(page / GROUP_PAGES).or_default();
            let word = &mut group[(page % GROUP_PAGES / 64) as usize];
            self.count += u64::from((bits & !*word).count_ones());
            *word |= bits;
            page += here;
        }
        Ok(())
    }

    /// Adds all pages of another one.
    pub fn add_all(&mut self, other: &Presence) {
        for (group, words) in &other.groups {
            for (word, others) in self.groups.entry(*group).or_default().iter_mut().zip(words) {
                self.count += u64::from((others & !*word).count_ones());
                *word |= others;
            }
        }
    }

    /// Whether it has a page.
    #[must_use]
    pub fn has(&self, page: PageIndex) -> bool {
        let bit = page.0 % GROUP_PAGES;
        let words = self.groups.get(&(page.0 / GROUP_PAGES));
        words.is_some_and(|words| words[(bit / 64) as usize] & (1 << (bit % 64)) != 0)
    }

    /// How many pages it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Those of some pages that it has, rising.
    pub fn range(&self, pages: Range<PageIndex>) -> impl Iterator<Item = PageIndex> {
        let (first, end) = (pages.start.0, pages.end.0.max(pages.start.0));
        let groups = self.groups.range(first / GROUP_PAGES..end.div_ceil(GROUP_PAGES));
        let in_group = |(group, words): (&u64, &[u64; 8])| {
            let (start, words) = (group * GROUP_PAGES, *words);
            let bits = (0..GROUP_PAGES)
                .filter(move |bit| words[(bit / 64) as usize] & (1 << (bit % 64)) != 0);
            bits.map(move |bit| start + bit)
        };
        let all = groups.flat_map(in_group);
        all.filter(move |page| (first..end).contains(page)).map(PageIndex)
    }

    /// All pages, rising.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> {
        self.range(PageIndex(0)..PageIndex(GROUPS_MAX * GROUP_PAGES))
    }

    /// Bytes that a file with all its pages has, at least.
    #[must_use]
    pub fn end_bytes(&self) -> u64 {
        let Some((group, words)) = self.groups.last_key_value() else { return 0 };
        let top = words.iter().rposition(|word| *word != 0).unwrap_or(0);
        let bits = top as u64 * 64 + (64 - u64::from(words[top].leading_zeros()));
        (group * GROUP_PAGES + bits) * PAGE_BYTES as u64
    }

    /// Writes it to a file that has no page that this has not.
    pub(crate) fn write<F: File>(&self, file: &F) -> std::io::Result<()> {
        let mut groups = self.groups.iter().peekable();
        while let Some((&first, words)) = groups.next() {
            let mut run = encode(words).to_vec();
            let mut next = first + 1;
            while let Some((_, words)) = groups.next_if(|(group, _)| **group == next) {
                run.extend(encode(words));
                next += 1;
                if run.len() as u64 >= CHUNK_BYTES {
                    break;
                }
            }
            file.write_at(&[IoSlice::new(&run)], first * GROUP_BYTES as u64)?;
        }
        Ok(())
    }

    /// What a file says.
    ///
    /// # Errors
    /// The host's; [`VersionsError::Damaged`] for a page that no file can have, or a length that is
    /// not one of whole groups.
    pub(crate) fn read<F: File>(file: &F, name: &str) -> Result<Presence> {
        let unreadable =
            |source| VersionsError::Io { action: "read", file: name.to_owned(), source };
        let damaged = |what: String| VersionsError::Damaged { file: name.to_owned(), what };
        let bytes = file.bytes().map_err(unreadable)?;
        if !bytes.is_multiple_of(GROUP_BYTES as u64) || bytes / GROUP_BYTES as u64 > GROUPS_MAX {
            return Err(damaged(format!("a map of pages does not have {bytes} bytes")));
        }
        let mut presence = Presence::default();
        let mut at = 0;
        while let Some(data) = file.data_from(at).map_err(unreadable)? {
            let start = data.start - data.start % GROUP_BYTES as u64;
            let end = data.end.next_multiple_of(GROUP_BYTES as u64).min(bytes);
            let end = end.min(start + CHUNK_BYTES);
            if end <= at {
                break;
            }
            let mut chunk = vec![0; (end - start) as usize];
            file.read_at(&mut chunk, start).map_err(unreadable)?;
            for (index, group) in chunk.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
                presence.take(start / GROUP_BYTES as u64 + index as u64, group);
            }
            at = end;
        }
        Ok(presence)
    }

    fn take(&mut self, group: u64, bytes: &[u8; GROUP_BYTES]) {
        let words = bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let words: Vec<u64> = words.collect();
        if words.iter().any(|word| *word != 0) {
            let words: [u64; 8] = words.try_into().unwrap_or_default();
            self.count += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            self.groups.insert(group, words);
        }
    }
}

fn encode(words: &[u64; 8]) -> [u8; GROUP_BYTES] {
    let mut bytes = [0; GROUP_BYTES];
    for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Folder;
    use crate::disk::host::HostFolder;
    use crate::disk::simulated::Disk;

    const PAGES: [u64; 8] = [0, 1, 63, 64, 511, 512, 1 << 20, GROUPS_MAX * GROUP_PAGES - 1];

    fn of(pages: &[u64]) -> Presence {
        let mut presence = Presence::default();
        pages.iter().for_each(|page| presence.add(PageIndex(*page)).expect("a page"));
        presence
    }

    #[test]
    fn it_has_what_was_added_and_nothing_else() {
        let presence = of(&PAGES);
        assert_eq!(presence.count(), PAGES.len() as u64);
        assert_eq!(presence.iter().map(|page| page.0).collect::<Vec<_>>(), PAGES);
        for page in PAGES {
            assert!(presence.has(PageIndex(page)));
            assert_eq!(presence.has(PageIndex(page + 2)), PAGES.contains(&(page + 2)));
        }
        let some: Vec<_> =
            presence.range(PageIndex(1)..PageIndex(512)).map(|page| page.0).collect();
        assert_eq!(some, [1, 63, 64, 511]);
        assert_eq!(presence.end_bytes(), GROUPS_MAX * GROUP_PAGES * PAGE_BYTES as u64);
        assert!(of(&[]).add(PageIndex(GROUPS_MAX * GROUP_PAGES)).is_err());
        assert!(of(&[]).add(PageIndex(u64::MAX)).is_err());
    }

    #[test]
    fn pages_added_together_are_those_added_one_by_one() {
        let before = [1, 64, 600, 5000];
        for (start, end) in [(0, 0), (0, 1), (63, 65), (64, 128), (1, 512), (500, 1700), (7, 7)] {
            let (mut together, mut alone) = (of(&before), of(&before));
            together.add_range(PageIndex(start)..PageIndex(end)).expect("pages");
            (start..end).for_each(|page| alone.add(PageIndex(page)).expect("a page"));
            assert_eq!(together, alone, "{start}..{end}");
            let (mut union, others) = (of(&before), of(&(start..end).collect::<Vec<_>>()));
            union.add_all(&others);
            assert_eq!(union, alone, "{start}..{end}");
        }
        let end = PageIndex(GROUPS_MAX * GROUP_PAGES);
        let mut last = of(&[]);
        last.add_range(PageIndex(end.0 - 1)..end).expect("the last page");
        assert!(last.add_range(PageIndex(0)..PageIndex(end.0 + 1)).is_err());
        assert_eq!(last, of(&[end.0 - 1]));
    }

    #[test]
    fn it_is_read_as_it_was_written_with_and_without_holes() {
        let pages = [0, 63, 511, 512, 5000, 1 << 20, (1 << 20) + 700];
        let folder = tempfile::tempdir().expect("a folder");
        let host = HostFolder::open(folder.path()).expect("opened");
        let file = host.create("map").expect("made");
        of(&pages).write(&file).expect("written");
        assert_eq!(Presence::read(&file, "map").expect("read"), of(&pages));
        let file = Disk::default().create("map").expect("made");
        of(&pages).write(&file).expect("written");
        assert_eq!(Presence::read(&file, "map").expect("read"), of(&pages));
        assert_eq!(
            Presence::read(&Disk::default().create("map").expect("made"), "map").expect("read"),
            of(&[])
        );
    }

    #[test]
    fn a_map_larger_than_any_segment_or_of_half_a_group_is_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = HostFolder::open(folder.path()).expect("opened");
        let file = host.create("map").expect("made");
        file.write_at(&[IoSlice::new(&[1])], 100).expect("written");
        assert!(matches!(Presence::read(&file, "map"), Err(VersionsError::Damaged { .. })));
    }
}

//! One commit in a log: a head of whole pages, then the pages themselves, in the head's order.
//!
//! The head has a fixed part, then 16 bytes a page: which one, and its checksum. Its own checksum,
//! over all that and the previous record's, so covers the content, too.

use super::{array_at, put, u16_at, u32_at, u64_at};
use crate::checksum::Checksum;
use crate::error::{Result, VersionsError};
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};

const MAGIC: u32 = u32::from_le_bytes(*b"SJRC");
const FIXED_BYTES: usize = 256;
const ENTRY_BYTES: usize = 16;
/// Where the facts lie; within them, where the note does.
const FACTS: usize = 32;
const NOTE: usize = 48;
const CHECKSUM: usize = FIXED_BYTES - 8;

/// Most bytes of a note.
pub const NOTE_BYTES_MAX: usize = CHECKSUM - FACTS - NOTE;

/// What a version says besides its pages.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VersionFacts {
    /// Bytes of the segment's content.
    pub size_bytes: u64,
    /// Where its root object is, and of which type; 0 for none.
    pub root_address: u64,
    /// The fingerprint of that type.
    pub root_fingerprint: [u8; 16],
    /// Nanoseconds since 1970 at the commit.
    pub time_ns: u64,
    /// The process that made it.
    pub pid: u32,
    /// What people see in the history: the program, a message. At most [`NOTE_BYTES_MAX`] bytes.
    pub note: Vec<u8>,
}

impl VersionFacts {
    /// Whether they fit into a head.
    pub(crate) fn check(&self) -> Result<()> {
        let (bytes, limit) = (self.note.len(), NOTE_BYTES_MAX);
        if bytes > limit { Err(VersionsError::NoteTooLong { bytes, limit }) } else { Ok(()) }
    }

    /// # Panics
    /// If [`VersionFacts::check`] would fail.
    pub(super) fn encode(&self, into: &mut [u8]) {
        assert!(self.note.len() <= NOTE_BYTES_MAX, "a note of {} bytes", self.note.len());
        put(into, 0, &self.size_bytes.to_le_bytes());
        put(into, 8, &self.root_address.to_le_bytes());
        put(into, 16, &self.root_fingerprint);
        put(into, 32, &self.time_ns.to_le_bytes());
        put(into, 40, &self.pid.to_le_bytes());
        put(into, 44, &(self.note.len() as u16).to_le_bytes());
        put(into, NOTE, &self.note);
    }

    pub(super) fn decode(from: &[u8]) -> Option<VersionFacts> {
        let note = usize::from(u16_at(from, 44));
        if note > NOTE_BYTES_MAX {
            return None;
        }
        Some(VersionFacts {
            size_bytes: u64_at(from, 0),
            root_address: u64_at(from, 8),
            root_fingerprint: array_at(from, 16),
            time_ns: u64_at(from, 32),
            pid: u32_at(from, 40),
            note: from.get(NOTE..NOTE + note)?.to_vec(),
        })
    }
}

/// The head of a record, whole and of the right chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// The version it makes.
    pub version: VersionNumber,
    /// What else it says.
    pub facts: VersionFacts,
    /// Its pages, with their checksums.
    pub pages: Vec<(PageIndex, Checksum)>,
}

/// Bytes of the head of a record of so many pages.
#[must_use]
pub fn head_bytes(pages: u64) -> Option<u64> {
    let bytes = pages.checked_mul(ENTRY_BYTES as u64)?.checked_add(FIXED_BYTES as u64)?;
    bytes.checked_next_multiple_of(PAGE_BYTES as u64)
}

/// Bytes of a record of so many pages.
#[must_use]
pub fn record_bytes(pages: u64) -> Option<u64> {
    head_bytes(pages)?.checked_add(pages.checked_mul(PAGE_BYTES as u64)?)
}

impl RecordHead {
    /// The head's bytes, and the checksum that the next record follows.
    ///
    /// # Panics
    /// If the note is longer than [`NOTE_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self, previous: Checksum) -> (Vec<u8>, Checksum) {
        let count = self.pages.len();
        let bytes = (FIXED_BYTES + count * ENTRY_BYTES).next_multiple_of(PAGE_BYTES);
        let mut head = vec![0; bytes];
        put(&mut head, 0, &MAGIC.to_le_bytes());
        put(&mut head, 8, &self.version.0.to_le_bytes());
        put(&mut head, 16, &previous.0.to_le_bytes());
        put(&mut head, 24, &(count as u64).to_le_bytes());
        self.facts.encode(&mut head[FACTS..]);
        for (index, (page, checksum)) in self.pages.iter().enumerate() {
            let at = FIXED_BYTES + index * ENTRY_BYTES;
            put(&mut head, at, &page.0.to_le_bytes());
            put(&mut head, at + 8, &checksum.0.to_le_bytes());
        }
        let checksum = checksum_of(&head, previous);
        put(&mut head, CHECKSUM, &checksum.0.to_le_bytes());
        (head, checksum)
    }

    /// How many pages the record has whose head begins with these bytes, if it may be one.
    #[must_use]
    pub fn count(first: &[u8]) -> Option<u64> {
        (u32_at(first, 0) == MAGIC).then(|| u64_at(first, 24))
    }

    /// What the bytes of a whole head say, if they follow a record with the checksum `previous`.
    /// `None` is the log's end: a head that was never written whole, or for another history.
    #[must_use]
    pub fn decode(head: &[u8], previous: Checksum) -> Option<(RecordHead, Checksum)> {
        let count = usize::try_from(u64_at(head, 24)).ok()?;
        let whole = head_bytes(count as u64)? == head.len() as u64;
        let checksum = Checksum(u64_at(head, CHECKSUM));
        if u32_at(head, 0) != MAGIC || !whole || u64_at(head, 16) != previous.0 {
            return None;
        }
        if checksum_of(head, previous) != checksum {
            return None;
        }
        let facts = VersionFacts::decode(&head[FACTS..])?;
        let pages = (0..count).map(|index| {
            let at = FIXED_BYTES + index * ENTRY_BYTES;
            (PageIndex(u64_at(head, at)), Checksum(u64_at(head, at + 8)))
        });
        let version = VersionNumber(u64_at(head, 8));
        Some((RecordHead { version, facts, pages: pages.collect() }, checksum))
    }
}

/// Of a head, but for the place of the checksum itself.
pub(crate) fn checksum_of(head: &[u8], previous: Checksum) -> Checksum {
    previous.then(&head[..CHECKSUM]).then(&head[FIXED_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(pages: u64) -> RecordHead {
        let facts = VersionFacts {
            size_bytes: 1 << 30,
            root_address: 0x1000_0000_0000,
            root_fingerprint: *b"0123456789abcdef",
            time_ns: 1,
            pid: 42,
            note: b"wordindex".to_vec(),
        };
        let pages = (0..pages).map(|page| (PageIndex(page * 3), Checksum(page)));
        RecordHead { version: VersionNumber(5), facts, pages: pages.collect() }
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_is_a_page_as_long_as_it_can() {
        for (pages, bytes) in [(0, 4096), (1, 4096), (240, 4096), (241, 8192), (1000, 16384)] {
            let (encoded, checksum) = head(pages).encode(Checksum(9));
            assert_eq!((encoded.len() as u64, Some(bytes)), (bytes, head_bytes(pages)));
            assert_eq!(RecordHead::count(&encoded), Some(pages));
            let decoded = RecordHead::decode(&encoded, Checksum(9));
            assert_eq!(decoded, Some((head(pages), checksum)));
        }
    }

    #[test]
    fn a_head_of_another_chain_or_with_any_other_byte_is_none() {
        let (encoded, _) = head(300).encode(Checksum(9));
        assert_eq!(RecordHead::decode(&encoded, Checksum(8)), None);
        for at in 0..encoded.len() {
            let mut other = encoded.clone();
            other[at] ^= 0x10;
            assert_eq!(RecordHead::decode(&other, Checksum(9)), None, "byte {at}");
        }
    }

    #[test]
    fn the_book_shows_the_head_as_it_is() {
        let book = include_str!("../../../../docs/src/internals/versions.md");
        let facts = format!("| {FACTS} | {} | facts |", CHECKSUM - FACTS);
        let checksum = format!("| {CHECKSUM} | 8 | checksum of the head");
        let entries = format!("| {FIXED_BYTES} | {ENTRY_BYTES} each | page number");
        for row in [facts, checksum, entries] {
            assert!(book.contains(&row), "{row}");
        }
    }

    #[test]
    fn sizes_beyond_all_numbers_are_none() {
        assert_eq!(head_bytes(u64::MAX), None);
        assert_eq!(record_bytes(u64::MAX / 16), None);
    }
}

//! One commit in a log: a head of whole pages, then the pages themselves, in the head's order.
//!
//! The head has a fixed part, then 16 bytes a page: which one, and its checksum. Its own checksum,
//! over all that and the previous record's, so covers the content, too.
//!
//! A record that is part of a commit of several segments names the others behind its pages. Behind
//! those is what it says of the VAS through which it was made.

use super::entry::{MEMBERS_MAX, VasEntry};
use super::{array_at, put, u16_at, u32_at, u64_at};
use crate::checksum::Checksum;
use crate::error::{Result, VersionsError};
use crate::page::{PAGE_BYTES, PageIndex, VersionNumber};

const MAGIC: u32 = u32::from_le_bytes(*b"SJRC");
/// Of a record that is part of a commit of several segments.
const MAGIC_JOINT: u32 = u32::from_le_bytes(*b"SJRJ");
const FIXED_BYTES: usize = 256;
const ENTRY_BYTES: usize = 16;
/// Where the facts lie; within them, where the note does.
const FACTS: usize = 32;
const NOTE: usize = 48;
/// And the number of segments that the entry of a VAS names; 0 without one.
const MEMBERS: usize = 46;
const CHECKSUM: usize = FIXED_BYTES - 8;

/// Most bytes of a note.
pub const NOTE_BYTES_MAX: usize = CHECKSUM - FACTS - NOTE;

/// Most bytes of the message in a note.
pub const MESSAGE_BYTES_MAX: usize = 120;
/// What separates the program, which is a file's name, from the message.
const END_OF_PROGRAM: u8 = 0;

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
    /// What people see in the history: [`VersionFacts::program`], [`VersionFacts::message`]. At most
    /// [`NOTE_BYTES_MAX`] bytes.
    pub note: Vec<u8>,
    /// What it is for the VAS through which it was made, if it was made through one.
    pub entry: Option<VasEntry>,
}

/// The note of a version by a program, for which it has a message or none. What is too long is cut off.
#[must_use]
pub fn note_of(program: &str, message: &str) -> Vec<u8> {
    let message = &message.as_bytes()[..message.len().min(MESSAGE_BYTES_MAX)];
    let room = NOTE_BYTES_MAX - if message.is_empty() { 0 } else { message.len() + 1 };
    let mut note: Vec<u8> = program.bytes().filter(|&b| b != END_OF_PROGRAM).take(room).collect();
    if !message.is_empty() {
        note.push(END_OF_PROGRAM);
        note.extend(message);
    }
    note
}

impl VersionFacts {
    /// The name of the program that made it.
    #[must_use]
    pub fn program(&self) -> String {
        let mut parts = self.note.splitn(2, |&b| b == END_OF_PROGRAM);
        String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned()
    }

    /// What that said that it is for; empty if it said nothing.
    #[must_use]
    pub fn message(&self) -> String {
        let mut parts = self.note.splitn(2, |&b| b == END_OF_PROGRAM);
        String::from_utf8_lossy(parts.nth(1).unwrap_or_default()).into_owned()
    }

    /// Whether they fit into a head.
    pub(crate) fn check(&self) -> Result<()> {
        let (bytes, limit) = (self.note.len(), NOTE_BYTES_MAX);
        if bytes > limit {
            return Err(VersionsError::NoteTooLong { bytes, limit });
        }
        let is_entry = |entry: &VasEntry| (1..=MEMBERS_MAX).contains(&entry.members.len());
        if !self.entry.as_ref().is_none_or(is_entry) {
            let (segments, limit) = (self.members(), MEMBERS_MAX);
            return Err(VersionsError::TooManyMembers { segments, limit });
        }
        Ok(())
    }

    /// How many segments its entry names.
    pub(crate) fn members(&self) -> usize {
        self.entry.as_ref().map_or(0, |entry| entry.members.len())
    }

    /// How many that of encoded facts names, which lies elsewhere.
    pub(super) fn members_of(encoded: &[u8]) -> usize {
        u16_at(encoded, MEMBERS).into()
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
        put(into, MEMBERS, &(self.members() as u16).to_le_bytes());
        put(into, NOTE, &self.note);
    }

    /// Without the entry.
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
            entry: None,
        })
    }
}

/// What the records of one commit of several segments have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joint {
    /// Drawn anew for each such commit: a version that was tried again has another one.
    pub id: u64,
    /// The other segments, and the version that the commit makes of each. Never none.
    pub others: Vec<(u64, VersionNumber)>,
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
    /// Which commit of several segments it is part of, if it is.
    pub joint: Option<Joint>,
}

/// How much room a record takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Of its head, in bytes.
    pub head: u64,
    /// Of all of it.
    pub record: u64,
}

impl Sizes {
    /// Of a record of so many pages that is part of a commit with so many other segments, and whose entry
    /// of a VAS names so many. `None` beyond all numbers.
    #[must_use]
    pub fn of(pages: u64, others: u64, members: usize) -> Option<Sizes> {
        let joint = if others == 0 { 0 } else { others.checked_add(1)? };
        let entry = VasEntry::pairs(members) as u64;
        let bytes =
            pages.checked_add(joint)?.checked_add(entry)?.checked_mul(ENTRY_BYTES as u64)?;
        let bytes = bytes.checked_add(FIXED_BYTES as u64)?;
        let head = bytes.checked_next_multiple_of(PAGE_BYTES as u64)?;
        let record = head.checked_add(pages.checked_mul(PAGE_BYTES as u64)?)?;
        Some(Sizes { head, record })
    }
}

impl RecordHead {
    /// The head's bytes, and the checksum that the next record follows.
    ///
    /// # Panics
    /// If the note is longer than [`NOTE_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self, previous: Checksum) -> (Vec<u8>, Checksum) {
        let count = self.pages.len();
        let others = self.joint.as_ref().map_or(&[][..], |joint| &joint.others);
        let joints = self.joint.as_ref().map_or(0, |joint| 1 + joint.others.len());
        let entries = count + joints + VasEntry::pairs(self.facts.members());
        let bytes = (FIXED_BYTES + entries * ENTRY_BYTES).next_multiple_of(PAGE_BYTES);
        let mut head = vec![0; bytes];
        let magic = if self.joint.is_some() { MAGIC_JOINT } else { MAGIC };
        put(&mut head, 0, &magic.to_le_bytes());
        put(&mut head, 4, &(others.len() as u32).to_le_bytes());
        put(&mut head, 8, &self.version.0.to_le_bytes());
        put(&mut head, 16, &previous.0.to_le_bytes());
        put(&mut head, 24, &(count as u64).to_le_bytes());
        self.facts.encode(&mut head[FACTS..]);
        for (index, (page, checksum)) in self.pages.iter().enumerate() {
            let at = FIXED_BYTES + index * ENTRY_BYTES;
            put(&mut head, at, &page.0.to_le_bytes());
            put(&mut head, at + 8, &checksum.0.to_le_bytes());
        }
        if let Some(joint) = &self.joint {
            let at = FIXED_BYTES + count * ENTRY_BYTES;
            put(&mut head, at, &joint.id.to_le_bytes());
            for (index, (segment, version)) in joint.others.iter().enumerate() {
                let at = at + (1 + index) * ENTRY_BYTES;
                put(&mut head, at, &segment.to_le_bytes());
                put(&mut head, at + 8, &version.0.to_le_bytes());
            }
        }
        if let Some(entry) = &self.facts.entry {
            entry.encode(&mut head, FIXED_BYTES + (count + joints) * ENTRY_BYTES);
        }
        let checksum = checksum_of(&head, previous);
        put(&mut head, CHECKSUM, &checksum.0.to_le_bytes());
        (head, checksum)
    }

    /// How long the record is whose head begins with these bytes, if it may be one.
    #[must_use]
    pub fn sizes(first: &[u8]) -> Option<Sizes> {
        let others = match (u32_at(first, 0), u32_at(first, 4)) {
            (MAGIC, _) => 0,
            (MAGIC_JOINT, others @ 1..) => others.into(),
            _ => return None,
        };
        Sizes::of(u64_at(first, 24), others, VersionFacts::members_of(&first[FACTS..]))
    }

    /// What the bytes of a whole head say, if they follow a record with the checksum `previous`.
    /// `None` is the log's end: a head that was never written whole, or for another history.
    #[must_use]
    pub fn decode(head: &[u8], previous: Checksum) -> Option<(RecordHead, Checksum)> {
        let count = usize::try_from(u64_at(head, 24)).ok()?;
        let is_whole = Self::sizes(head)?.head == head.len() as u64;
        let checksum = Checksum(u64_at(head, CHECKSUM));
        if !is_whole || u64_at(head, 16) != previous.0 {
            return None;
        }
        if checksum_of(head, previous) != checksum {
            return None;
        }
        let mut facts = VersionFacts::decode(&head[FACTS..])?;
        let pages = (0..count).map(|index| {
            let at = FIXED_BYTES + index * ENTRY_BYTES;
            (PageIndex(u64_at(head, at)), Checksum(u64_at(head, at + 8)))
        });
        let joint = (u32_at(head, 0) == MAGIC_JOINT).then(|| {
            let at = FIXED_BYTES + count * ENTRY_BYTES;
            let others = (1..=u32_at(head, 4) as usize).map(|index| {
                let at = at + index * ENTRY_BYTES;
                (u64_at(head, at), VersionNumber(u64_at(head, at + 8)))
            });
            Joint { id: u64_at(head, at), others: others.collect() }
        });
        let members = VersionFacts::members_of(&head[FACTS..]);
        if members > 0 {
            let joints = joint.as_ref().map_or(0, |joint: &Joint| 1 + joint.others.len());
            let at = FIXED_BYTES + (count + joints) * ENTRY_BYTES;
            facts.entry = Some(VasEntry::decode(head, at, members)?);
        }
        let version = VersionNumber(u64_at(head, 8));
        Some((RecordHead { version, facts, pages: pages.collect(), joint }, checksum))
    }
}

/// Of a head, but for the place of the checksum itself.
pub(crate) fn checksum_of(head: &[u8], previous: Checksum) -> Checksum {
    previous.then(&head[..CHECKSUM]).then(&head[FIXED_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::entry::Member;

    fn head(pages: u64) -> RecordHead {
        let facts = VersionFacts {
            size_bytes: 1 << 30,
            root_address: 0x1000_0000_0000,
            root_fingerprint: *b"0123456789abcdef",
            time_ns: 1,
            pid: 42,
            note: b"wordindex".to_vec(),
            entry: None,
        };
        let pages = (0..pages).map(|page| (PageIndex(page * 3), Checksum(page)));
        RecordHead { version: VersionNumber(5), facts, pages: pages.collect(), joint: None }
    }

    fn joint(pages: u64, others: u64) -> RecordHead {
        let others = (1..=others).map(|other| (other, VersionNumber(other * 7))).collect();
        RecordHead { joint: Some(Joint { id: 0x10, others }), ..head(pages) }
    }

    #[test]
    fn a_note_says_who_and_what_for_however_long_they_are() {
        let long = "x".repeat(300);
        let none = "";
        for (program, message) in [("bank", none), ("bank", "for Ada"), ("", "for Ada"), ("", none)]
        {
            let facts = VersionFacts { note: note_of(program, message), ..head(0).facts };
            assert_eq!((&facts.program()[..], &facts.message()[..]), (program, message));
        }
        let facts =
            |program, message| VersionFacts { note: note_of(program, message), ..head(0).facts };
        assert!(facts(&long, none).check().is_ok() && facts(&long, &long).check().is_ok());
        assert_eq!(facts(&long, none).program().len(), NOTE_BYTES_MAX);
        assert_eq!(facts(&long, &long).message().len(), MESSAGE_BYTES_MAX);
        assert_eq!(facts("a\0b", "c").program(), "ab", "a name cannot pass for a message");
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_is_a_page_as_long_as_it_can() {
        for (pages, bytes) in [(0, 4096), (1, 4096), (240, 4096), (241, 8192), (1000, 16384)] {
            let (encoded, checksum) = head(pages).encode(Checksum(9));
            let sizes = Sizes { head: bytes, record: bytes + pages * 4096 };
            assert_eq!(encoded.len() as u64, bytes);
            assert_eq!(Sizes::of(pages, 0, 0), Some(sizes));
            assert_eq!(RecordHead::sizes(&encoded), Some(sizes));
            let decoded = RecordHead::decode(&encoded, Checksum(9));
            assert_eq!(decoded, Some((head(pages), checksum)));
        }
    }

    #[test]
    fn a_head_that_names_other_segments_is_read_as_it_was_written() {
        for (pages, others, bytes) in
            [(0, 1, 4096), (238, 1, 4096), (239, 1, 8192), (3, 500, 12288)]
        {
            let head = joint(pages, others);
            let (encoded, checksum) = head.encode(Checksum(9));
            assert_eq!(encoded.len(), bytes);
            assert_eq!(RecordHead::sizes(&encoded), Sizes::of(pages, others, 0));
            assert_eq!(RecordHead::decode(&encoded, Checksum(9)), Some((head, checksum)));
        }
        let (mut encoded, _) = joint(3, 2).encode(Checksum(9));
        put(&mut encoded, 4, &0_u32.to_le_bytes());
        assert_eq!(RecordHead::sizes(&encoded), None, "it must name one");
    }

    fn of_vas(head: RecordHead, members: u64) -> RecordHead {
        let members = (1..=members).map(|segment| Member {
            segment,
            version: VersionNumber(segment * 3),
            time_ns: segment * 5,
        });
        let members = members.collect();
        let entry = Some(VasEntry { vas: 0x20, number: 17, members });
        RecordHead { facts: VersionFacts { entry, ..head.facts }, ..head }
    }

    #[test]
    fn a_head_that_is_the_entry_of_a_vas_is_read_as_it_was_written() {
        for (head, members) in [(head(3), 1), (joint(3, 2), 3), (joint(230, 1), MEMBERS_MAX as u64)]
        {
            let head = of_vas(head, members);
            head.facts.check().expect("it fits");
            let (encoded, checksum) = head.encode(Checksum(9));
            assert_eq!(RecordHead::sizes(&encoded).map(|it| it.head), Some(encoded.len() as u64));
            assert_eq!(RecordHead::decode(&encoded, Checksum(9)), Some((head, checksum)));
        }
        for members in [0, MEMBERS_MAX as u64 + 1] {
            let refused = of_vas(head(1), members).facts.check();
            assert!(matches!(refused, Err(VersionsError::TooManyMembers { .. })), "{members}");
        }
    }

    #[test]
    fn a_head_of_another_chain_or_with_any_other_byte_is_none() {
        for head in [head(300), joint(300, 2), of_vas(joint(300, 2), 3)] {
            let (encoded, _) = head.encode(Checksum(9));
            assert_eq!(RecordHead::decode(&encoded, Checksum(8)), None);
            for at in 0..encoded.len() {
                let mut other = encoded.clone();
                other[at] ^= 0x10;
                assert_eq!(RecordHead::decode(&other, Checksum(9)), None, "byte {at}");
            }
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
        for (pages, others) in
            [(u64::MAX, 0), (u64::MAX / 16, 0), (0, u64::MAX), (1 << 59, 1 << 59)]
        {
            assert_eq!(Sizes::of(pages, others, 0), None);
        }
    }
}

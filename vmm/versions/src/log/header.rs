//! The first page of a log.

use super::entry::{MEMBERS_MAX, Marks, PAIR_BYTES, VasEntry};
use super::record::VersionFacts;
use super::{put, u32_at, u64_at};
use crate::checksum::Checksum;
use crate::page::{PAGE_BYTES, Page, VersionNumber};

const MAGIC: &[u8; 8] = b"SJMPLOG\n";
/// The format of logs that are made now: their records may be entries of VASes.
pub const FORMAT: u32 = 3;
/// From this one on a record may name other segments.
const FORMAT_JOINT: u32 = 2;
/// The oldest that is read.
const FORMAT_OLDEST: u32 = 1;
/// Where the facts of the version it follows lie.
const FACTS: usize = 64;
/// Where the last numbers of VASes lie.
const MARKS: usize = 280;
/// Where the entry of the version that it follows lies.
const ENTRY: usize = MARKS + Marks::BYTES_MAX;
/// Where the checksum of all before it lies.
const CHECKSUM: usize = PAGE_BYTES - 8;
const _: () = assert!(ENTRY + VasEntry::pairs(MEMBERS_MAX) * PAIR_BYTES <= CHECKSUM);

/// The number of a log, part of its file's name. Never used again in a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogId(pub u64);

impl LogId {
    /// The name of its file.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("log.{:016x}", self.0)
    }

    /// The log that a file's name says.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<LogId> {
        let digits = name.strip_prefix("log.")?;
        let id = LogId(u64::from_str_radix(digits, 16).ok()?);
        (id.file_name() == name).then_some(id)
    }
}

/// Where a log goes on from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogHeader {
    /// What its records may be.
    pub format: u32,
    /// Its number.
    pub id: LogId,
    /// Of the segment, so that a log in another's folder is noticed.
    pub segment: u64,
    /// Drawn anew for each log: without it, two logs made after the same version by two recoveries
    /// would continue each other.
    pub salt: u64,
    /// The version it follows. Records of the previous log behind this one do not count.
    pub after: VersionNumber,
    /// The checksum of the record that made it; that of nothing for the first log.
    pub chain: Checksum,
    /// What that version says besides its pages: the log that made it may be gone.
    pub facts: VersionFacts,
    /// The last numbers of VASes up to that version.
    pub marks: Marks,
}

impl LogHeader {
    /// Whether a record of it may name other segments.
    #[must_use]
    pub fn takes_joints(&self) -> bool {
        self.format >= FORMAT_JOINT
    }

    /// Whether a record of it may be the entry of a VAS.
    #[must_use]
    pub fn takes_entries(&self) -> bool {
        self.format >= FORMAT
    }

    /// The page, and the checksum that the first record follows.
    #[must_use]
    pub fn encode(&self) -> (Page, Checksum) {
        let mut page = [0; PAGE_BYTES];
        put(&mut page, 0, MAGIC);
        put(&mut page, 8, &self.format.to_le_bytes());
        for (index, word) in
            [self.id.0, self.segment, self.salt, self.after.0, self.chain.0].iter().enumerate()
        {
            put(&mut page, 16 + 8 * index, &word.to_le_bytes());
        }
        self.facts.encode(&mut page[FACTS..]);
        self.marks.encode(&mut page, MARKS);
        if let Some(entry) = &self.facts.entry {
            entry.encode(&mut page, ENTRY);
        }
        let checksum = Checksum::of(&page[..CHECKSUM]);
        put(&mut page, CHECKSUM, &checksum.0.to_le_bytes());
        (page, checksum)
    }

    /// What a page says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(page: &Page) -> Result<(LogHeader, Checksum), String> {
        let checksum = Checksum::of(&page[..CHECKSUM]);
        if page[..8] != *MAGIC {
            return Err("its first bytes are not those of a log".to_owned());
        }
        if u64_at(page, CHECKSUM) != checksum.0 {
            return Err("its header does not have its checksum".to_owned());
        }
        let format = u32_at(page, 8);
        if !(FORMAT_OLDEST..=FORMAT).contains(&format) {
            return Err(format!(
                "its format is {format}, and this program knows {FORMAT_OLDEST} to {FORMAT}"
            ));
        }
        let word = |index: usize| u64_at(page, 16 + 8 * index);
        const NO_FACTS: &str = "its facts make no sense";
        let mut facts = VersionFacts::decode(&page[FACTS..]).ok_or(NO_FACTS)?;
        let members = VersionFacts::members_of(&page[FACTS..]);
        if members > 0 {
            facts.entry = Some(VasEntry::decode(page, ENTRY, members).ok_or(NO_FACTS)?);
        }
        let header = LogHeader {
            format,
            id: LogId(word(0)),
            segment: word(1),
            salt: word(2),
            after: VersionNumber(word(3)),
            chain: Checksum(word(4)),
            facts,
            marks: Marks::decode(page, MARKS).ok_or("its last numbers of VASes make no sense")?,
        };
        Ok((header, checksum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::entry::Member;

    fn header() -> LogHeader {
        let (id, after) = (LogId(3), VersionNumber(17));
        let members = [(7, 17), (8, 2)].map(|(segment, version)| Member {
            segment,
            version: VersionNumber(version),
            time_ns: 5,
        });
        let members = members.to_vec();
        let entry = VasEntry { vas: 5, number: 18, members };
        let mut marks = Marks::default();
        marks.note(&entry);
        let (note, entry) = (b"x".to_vec(), Some(entry));
        let facts = VersionFacts { size_bytes: 1 << 21, note, entry, ..VersionFacts::default() };
        LogHeader {
            format: FORMAT,
            id,
            segment: 7,
            salt: 0x1234_5678,
            after,
            chain: Checksum(99),
            facts,
            marks,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let (page, checksum) = header().encode();
        assert_eq!(LogHeader::decode(&page), Ok((header(), checksum)));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let (page, _) = header().encode();
        for at in 0..PAGE_BYTES {
            let mut other = page;
            other[at] ^= 1;
            assert!(LogHeader::decode(&other).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_older_format_is_read_and_a_newer_one_is_refused_by_name() {
        let of = |format| LogHeader::decode(&LogHeader { format, ..header() }.encode().0);
        assert_eq!(of(1).expect("read").0.format, 1);
        for (format, said) in
            [(0, "format is 0"), (4, "format is 4, and this program knows 1 to 3")]
        {
            let error = of(format).expect_err("refused");
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn file_names_and_numbers_belong_together() {
        assert_eq!(LogId::of_file_name(&LogId(0xabc).file_name()), Some(LogId(0xabc)));
        for other in ["log.", "log.1", "log.000000000000000G", "Log.0000000000000001", "root"] {
            assert_eq!(LogId::of_file_name(other), None, "{other}");
        }
    }
}

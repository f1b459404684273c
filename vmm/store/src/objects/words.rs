//! What live VMs tell each other in the file of a versioned segment: which version is in the log, and
//! which one readers may see; and what became of a sync that failed.
//!
//! They are outside the log because other VMs look at them all the time: a reader compares
//! *published* to know whether its page tables still show the newest version, and the next writer
//! builds on *appended*. They have a page of their own, so that a VM can map it read-only and compare
//! without a call.
//!
//! They are true while a live VM can write the segment, and no longer: what a power cut or the last
//! writer's death left is what the log says. So nothing syncs them, and a record that is not whole
//! is no damage.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use abi::objects::Durability;
use abi::switch::{WORDS_COUNT, WORDS_FAILURES};
use spacejmp_versions::checksum::Checksum;

use crate::format::counters::PUBLISHED;
use crate::format::error::{StoreError, bad_field, io_error};
use crate::format::extent::WORDS_OFFSET;
use crate::format::header::read_durability;
use crate::objects::segment::SegmentFile;

/// Bytes of a record: two values, how often it was written, and their checksum.
const BYTES: usize = 32;
/// Where each record lies in the page: each in a line of the cache, since each has other writers.
const VERSIONS: u64 = 0;
const FAILED: u64 = 64;
const LOST: u64 = 128;
/// All of them.
const TIDINGS_BYTES: usize = LOST as usize + BYTES;
/// A writer needs no call between two bytes of the record, but the host may take the processor from
/// it there. Nobody waits longer than this for it: it can die there, too.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_micros(100);

/// The versions of a segment that live VMs agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionWords {
    /// The newest version in the log, on which the next writer builds.
    pub appended: u64,
    /// The newest version that readers may see.
    pub published: u64,
}

/// Versions that readers have seen and that are no more: a sync had failed, and they could not be
/// read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostVersions {
    /// They are those behind this one,
    pub after: u64,
    /// up to this one.
    pub up_to: u64,
    /// How often that has happened.
    pub count: u64,
}

// The kernel compares how often these have been written.
const _: () = assert!(VERSIONS + 16 == WORDS_COUNT && FAILED + 16 == WORDS_FAILURES);

/// The store's word of published versions, in the page of change counters. Read and written as one.
pub trait StoreWord {
    /// What it is.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self) -> Result<u64, StoreError>;

    /// Makes it `value`: those who see the segment's words as they are written afterwards see that, or
    /// something newer.
    ///
    /// # Errors
    /// If it cannot be written.
    fn write(&self, value: u64) -> Result<(), StoreError>;
}

/// By calls of the host, for who has the page not mapped.
struct WordInFile<'a>(&'a SegmentFile);

impl WordInFile<'_> {
    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> StoreError {
        move |error| io_error(action, &self.0.root().path_of("live"), error)
    }
}

impl StoreWord for WordInFile<'_> {
    fn read(&self) -> Result<u64, StoreError> {
        let mut word = [0; 8];
        let read = self.0.counters.read_exact_at(&mut word, PUBLISHED);
        read.map_err(self.failed("read"))?;
        Ok(u64::from_le_bytes(word))
    }

    fn write(&self, value: u64) -> Result<(), StoreError> {
        let written = self.0.counters.write_all_at(&value.to_le_bytes(), PUBLISHED);
        written.map_err(self.failed("write"))
    }
}

/// How often a segment's versions had been published before, and have been now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publication {
    /// As [`SegmentFile::words_count`] said; 0 if nobody had written them.
    pub before: u64,
    /// As it says now.
    pub now: u64,
}

/// Two values, and how often they have been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    values: [u64; 2],
    count: u64,
}

impl Record {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let values = [self.values[0], self.values[1], self.count];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, value) in words.iter_mut().zip(values) {
            *word = value.to_le_bytes();
        }
        let checksum = checksum(&bytes);
        if let Some(last) = bytes.last_chunk_mut() {
            *last = checksum;
        }
        bytes
    }

    /// `None` unless it is whole.
    fn decode(bytes: &[u8; BYTES]) -> Option<Record> {
        let [first, second, count, sum] = bytes.as_chunks::<8>().0 else { return None };
        let values = [first, second].map(|value| u64::from_le_bytes(*value));
        let record = Record { values, count: u64::from_le_bytes(*count) };
        (*sum == checksum(bytes)).then_some(record)
    }
}

/// All that the page says, of one moment unless somebody was writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tidings {
    /// As [`SegmentFile::read_words`].
    pub words: Option<VersionWords>,
    /// As [`SegmentFile::words_count`].
    pub count: Option<u64>,
    /// As [`SegmentFile::failed_log`].
    pub failed_log: Option<u64>,
    /// As [`SegmentFile::lost_versions`].
    pub lost: Option<LostVersions>,
}

fn words([appended, published]: [u64; 2]) -> VersionWords {
    VersionWords { appended, published }
}

fn lost_by(Record { values: [after, up_to], count }: Record) -> LostVersions {
    LostVersions { after, up_to, count }
}

fn checksum(bytes: &[u8; BYTES]) -> [u8; 8] {
    let covered = bytes.first_chunk::<{ BYTES - 8 }>().map_or(&[][..], |covered| covered);
    Checksum::of(covered).0.to_le_bytes()
}

impl SegmentFile {
    /// The versions that live VMs agree on. `None` if no VM has written them, or a power cut left
    /// half of them.
    ///
    /// # Errors
    /// If the host fails; [`StoreError::Invalid`] for a segment that is not versioned.
    pub fn read_words(&self) -> Result<Option<VersionWords>, StoreError> {
        Ok(self.read_record(VERSIONS)?.map(|record| words(record.values)))
    }

    /// All of it, in one call of the host. Whoever loses versions says so before new ones are published: if
    /// the words have changed since they were read last, what was lost has to be read behind them.
    ///
    /// # Errors
    /// As [`SegmentFile::read_words`].
    pub fn read_tidings(&self) -> Result<Tidings, StoreError> {
        self.check_versioned()?;
        let mut page = [0; TIDINGS_BYTES];
        self.file()
            .read_exact_at(&mut page, WORDS_OFFSET)
            .map_err(|e| io_error("read", self.path(), e))?;
        let [versions, failed, lost] = [VERSIONS, FAILED, LOST].map(|at| {
            let bytes = page.get(at as usize..).and_then(|rest| rest.first_chunk::<BYTES>());
            match bytes {
                Some(bytes) if *bytes == [0; BYTES] => Ok(None),
                // Somebody is writing it.
                bytes => bytes
                    .and_then(Record::decode)
                    .map_or_else(|| self.read_record(at), |it| Ok(Some(it))),
            }
        });
        let versions = versions?;
        Ok(Tidings {
            words: versions.map(|record| words(record.values)),
            count: versions.map(|record| record.count),
            failed_log: failed?.map(|record| record.values[0]),
            lost: lost?.map(lost_by),
        })
    }

    /// The same, but for what was written when they had been written `ignored` times. For a VM that
    /// came when no live VM could write: a power cut, or a lost mount, may have left words that are newer
    /// than the log.
    ///
    /// # Errors
    /// As [`SegmentFile::read_words`].
    pub fn read_words_but(&self, ignored: Option<u64>) -> Result<Option<VersionWords>, StoreError> {
        let record = self.read_record(VERSIONS)?;
        let record = record.filter(|record| Some(record.count) != ignored);
        Ok(record.map(|record| words(record.values)))
    }

    /// The page of the file with all this, to be mapped read-only: [`WORDS_COUNT`] is where it says how
    /// often the versions have been written.
    #[must_use]
    pub fn words_page(&self) -> (BorrowedFd<'_>, u64) {
        (self.file().as_fd(), WORDS_OFFSET)
    }

    /// How often the versions have been written.
    ///
    /// # Errors
    /// As [`SegmentFile::read_words`].
    pub fn words_count(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.read_record(VERSIONS)?.map(|record| record.count))
    }

    /// The log whose sync has failed in some VM: what lies in it may not survive a power cut, whatever a later
    /// sync says. `None` if there is none.
    ///
    /// # Errors
    /// As [`SegmentFile::read_words`].
    pub fn failed_log(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.read_record(FAILED)?.map(|record| record.values[0]))
    }

    /// Tells all VMs that a sync of a log has failed. Needs no lock: whoever does it at the same time
    /// has seen the same.
    ///
    /// # Errors
    /// As [`SegmentFile::write_words`].
    pub fn note_failed_log(&self, log: u64) -> Result<(), StoreError> {
        self.write_record(FAILED, [log, 0])
    }

    /// Versions that were lost last.
    ///
    /// # Errors
    /// As [`SegmentFile::read_words`].
    pub fn lost_versions(&self) -> Result<Option<LostVersions>, StoreError> {
        Ok(self.read_record(LOST)?.map(lost_by))
    }

    /// Tells all VMs that the versions behind `after`, up to `up_to`, are lost. The caller holds the
    /// segment's lock, and publishes a newer one afterwards.
    ///
    /// # Errors
    /// As [`SegmentFile::write_words`].
    pub fn note_lost_versions(&self, after: u64, up_to: u64) -> Result<(), StoreError> {
        self.write_record(LOST, [after, up_to])
    }

    /// When a power cut is survived, as the header says it now.
    ///
    /// # Errors
    /// If the host fails; [`StoreError::BadField`].
    pub fn durability(&self) -> Result<Durability, StoreError> {
        let read = read_durability(self.file()).map_err(|e| io_error("read", self.path(), e))?;
        let known = "a durability";
        read.ok_or_else(|| bad_field(self.path(), "durability", "another number", known))
    }

    /// Publishes versions to all VMs. The caller holds the segment's lock for writing, or the store's
    /// in [`crate::Store::join_versioned`] while no other VM can write.
    ///
    /// # Errors
    /// [`StoreError::Denied`] for a file that is open for reading; if the host fails;
    /// [`StoreError::Invalid`] for a segment that is not versioned.
    pub fn write_words(&self, words: &VersionWords) -> Result<(), StoreError> {
        self.write_words_beside(words, &WordInFile(self)).map(drop)
    }

    /// The same, for who has the store's word mapped.
    ///
    /// # Errors
    /// As there.
    pub fn write_words_beside(
        &self,
        words: &VersionWords,
        store_word: &dyn StoreWord,
    ) -> Result<Publication, StoreError> {
        // Before, so that whoever has seen the words as they were finds another one even if this process dies
        // between the two; and afterwards, so that whoever looks meanwhile does.
        self.check_writable()?;
        let before = self.count_at(VERSIONS)?;
        let stamp = self.stamp_after(store_word.read()?, before);
        store_word.write(stamp)?;
        let now = before.wrapping_add(1);
        self.write_at(VERSIONS, Record { values: [words.appended, words.published], count: now })?;
        store_word.write(self.stamp_after(stamp, now))?;
        Ok(Publication { before, now })
    }

    /// What the store's word of published versions never was, after `before`. Others may change it at the same
    /// time: then it is one of theirs.
    fn stamp_after(&self, before: u64, count: u64) -> u64 {
        let bytes = [before, self.sid().raw(), count].map(u64::to_le_bytes);
        Checksum::of(bytes.as_flattened()).0
    }

    fn count_at(&self, at: u64) -> Result<u64, StoreError> {
        Ok(self.read_record(at)?.map_or(0, |record| record.count))
    }

    fn write_record(&self, at: u64, values: [u64; 2]) -> Result<(), StoreError> {
        self.check_writable()?;
        let count = self.count_at(at)?.wrapping_add(1);
        self.write_at(at, Record { values, count })
    }

    fn write_at(&self, at: u64, record: Record) -> Result<(), StoreError> {
        let bytes = record.encode();
        self.file()
            .write_all_at(&bytes, WORDS_OFFSET + at)
            .map_err(|e| io_error("write", self.path(), e))
    }

    fn read_record(&self, at: u64) -> Result<Option<Record>, StoreError> {
        self.check_versioned()?;
        for _ in 0..TRIES {
            let mut bytes = [0; BYTES];
            self.file()
                .read_exact_at(&mut bytes, WORDS_OFFSET + at)
                .map_err(|e| io_error("read", self.path(), e))?;
            if bytes == [0; BYTES] {
                return Ok(None);
            }
            if let Some(record) = Record::decode(&bytes) {
                return Ok(Some(record));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::os::unix::fs::FileExt;

    use abi::Errno;

    use abi::objects::Durability;

    use super::{
        BYTES, LostVersions, PUBLISHED, SegmentFile, StoreWord, Tidings, VersionWords, WORDS_COUNT,
        WORDS_FAILURES, WORDS_OFFSET,
    };
    use crate::StoreError;
    use crate::testing::{segment, store, versioned};

    const SOME: VersionWords = VersionWords { appended: 7, published: 6 };

    #[test]
    fn what_one_vm_publishes_another_reads() {
        let s = store();
        let sid = versioned(&s, "x");
        let (a, b) = (s.open_segment(sid).unwrap(), s.open_segment(sid).unwrap());
        assert_eq!(a.read_words().unwrap(), None, "never written");
        for published in 1..=3 {
            let words = VersionWords { appended: published + 1, published };
            a.write_words(&words).unwrap();
            assert_eq!(b.read_words().unwrap(), Some(words));
        }
        assert_eq!(b.words_count().unwrap(), Some(3));
        assert_eq!(b.read_words_but(Some(3)).unwrap(), None);
        assert!(b.read_words_but(Some(2)).unwrap().is_some());
    }

    #[test]
    fn the_counts_lie_where_the_kernel_looks_and_change_with_what_they_count_and_nothing_else() {
        let s = store();
        let file = s.open_segment(versioned(&s, "x")).unwrap();
        let look = |at| {
            let mut word = [0; 8];
            let (_, page) = file.words_page();
            file.file().read_exact_at(&mut word, page + at).unwrap();
            u64::from_le_bytes(word)
        };
        let looks = || (look(WORDS_COUNT), look(WORDS_FAILURES));
        assert_eq!((looks(), file.words_count().unwrap()), ((0, 0), None));
        for count in 1..=3 {
            // The same versions again are news, too: the words may have been ignored.
            file.write_words(&SOME).unwrap();
            file.note_failed_log(9).unwrap();
            file.note_lost_versions(4, 6).unwrap();
            assert_eq!((looks(), file.words_count().unwrap()), ((count, count), Some(count)));
        }
    }

    #[test]
    fn the_stores_word_is_never_again_what_it_was_when_versions_are_published() {
        let s = store();
        let files = ["x", "y"].map(|name| s.open_segment(versioned(&s, name)).unwrap());
        let word = || {
            let mut word = [0; 8];
            s.counters.read_exact_at(&mut word, PUBLISHED).unwrap();
            u64::from_le_bytes(word)
        };
        let mut seen = std::collections::BTreeSet::from([word()]);
        for round in 0..20 {
            // The same versions again are news, too.
            files[round % 2].write_words(&SOME).unwrap();
            assert!(seen.insert(word()), "{round}");
        }
        // What is not published is none.
        files[0].note_failed_log(9).unwrap();
        assert!(!seen.insert(word()));
    }

    /// The store's word, and how often the segment's words had been written each time that it was.
    struct Watched<'a> {
        file: &'a SegmentFile,
        word: Cell<u64>,
        written: RefCell<Vec<Option<u64>>>,
    }

    impl StoreWord for Watched<'_> {
        fn read(&self) -> Result<u64, StoreError> {
            Ok(self.word.get())
        }

        fn write(&self, value: u64) -> Result<(), StoreError> {
            assert_ne!(self.word.replace(value), value, "it moves");
            self.written.borrow_mut().push(self.file.words_count()?);
            Ok(())
        }
    }

    #[test]
    fn the_stores_word_moves_before_the_segments_are_written_and_again_afterwards() {
        let s = store();
        let file = s.open_segment(versioned(&s, "x")).unwrap();
        file.write_words(&SOME).unwrap();
        let word = Watched { file: &file, word: Cell::new(5), written: RefCell::default() };
        file.write_words_beside(&SOME, &word).unwrap();
        assert_eq!(*word.written.borrow(), [Some(1), Some(2)]);
    }

    #[test]
    fn failed_syncs_and_lost_versions_are_told_beside_the_versions() {
        let s = store();
        let sid = versioned(&s, "x");
        let (a, b) = (s.open_segment(sid).unwrap(), s.open_segment(sid).unwrap());
        a.write_words(&SOME).unwrap();
        assert_eq!((b.failed_log().unwrap(), b.lost_versions().unwrap()), (None, None));
        a.note_failed_log(9).unwrap();
        a.note_lost_versions(4, 6).unwrap();
        a.note_lost_versions(5, 6).unwrap();
        assert_eq!(b.failed_log().unwrap(), Some(9));
        let lost = LostVersions { after: 5, up_to: 6, count: 2 };
        assert_eq!(b.lost_versions().unwrap(), Some(lost));
        assert_eq!(b.read_words().unwrap(), Some(SOME));
        let all =
            Tidings { words: Some(SOME), count: Some(1), failed_log: Some(9), lost: Some(lost) };
        assert_eq!(b.read_tidings().unwrap(), all);
    }

    #[test]
    fn a_durability_that_is_changed_is_seen_by_whoever_has_the_segment() {
        let s = store();
        let sid = versioned(&s, "x");
        let file = s.open_segment(sid).unwrap();
        assert_eq!(file.durability().unwrap(), Durability::DEFAULT);
        for durability in [Durability::Each, Durability::Manual] {
            s.set_durability(sid, durability).unwrap();
            assert_eq!(file.durability().unwrap(), durability);
            assert_eq!(s.open_segment(sid).unwrap().header().durability, durability);
        }
        let raw = segment(&s, "raw");
        assert!(matches!(s.set_durability(raw, Durability::Each), Err(StoreError::Invalid { .. })));
    }

    #[test]
    fn the_first_versions_of_all_are_words_too() {
        let s = store();
        let file = s.open_segment(versioned(&s, "x")).unwrap();
        let none = VersionWords { appended: 0, published: 0 };
        file.write_words(&none).unwrap();
        assert_eq!(file.read_words().unwrap(), Some(none));
    }

    #[test]
    fn whatever_byte_a_power_cut_left_wrong_there_are_no_words_then() {
        let s = store();
        let file = s.open_segment(versioned(&s, "x")).unwrap();
        for at in 0..BYTES as u64 {
            file.write_words(&SOME).unwrap();
            let mut byte = [0];
            file.file().read_exact_at(&mut byte, WORDS_OFFSET + at).unwrap();
            file.file().write_all_at(&[byte[0] ^ 0x10], WORDS_OFFSET + at).unwrap();
            assert_eq!(file.read_words().unwrap(), None, "byte {at}");
        }
        file.write_words(&SOME).unwrap();
        assert_eq!(file.read_words().unwrap(), Some(SOME));
    }

    #[test]
    fn a_reader_waits_for_the_rest_of_a_record() {
        let s = store();
        let file = s.open_segment(versioned(&s, "x")).unwrap();
        file.write_words(&SOME).unwrap();
        let mut whole = [0; BYTES];
        file.file().read_exact_at(&mut whole, WORDS_OFFSET).unwrap();
        // Long enough that a reader meets halves, however it is scheduled.
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..2000 {
                    file.file().write_all_at(&[0xff; 16], WORDS_OFFSET).unwrap();
                    file.file().write_all_at(&whole, WORDS_OFFSET).unwrap();
                }
            });
            while !writer.is_finished() {
                assert_eq!(file.read_words().unwrap(), Some(SOME));
            }
        });
    }

    #[test]
    fn other_segments_have_no_words() {
        let s = store();
        let file = s.open_segment(segment(&s, "raw")).unwrap();
        for error in [file.read_words().unwrap_err(), file.write_words(&SOME).unwrap_err()] {
            assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
            assert_eq!(error.errno(), Errno::EINVAL);
        }
    }
}

//! Two numbers in the file of a versioned segment: which version is in the log, and which one
//! readers may see.
//!
//! They are outside the log because other VMs look at them all the time: a reader compares
//! *published* to know whether its page tables still show the newest version, and the next writer
//! builds on *appended*. They have a page of their own, so that a VM can map it read-only and compare
//! without a call.
//!
//! They are true while a live VM can write the segment, and no longer: what a power cut or the last
//! writer's death left is what the log says. So nothing syncs them, and a record that is not whole
//! is no damage.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use spacejmp_versions::checksum::Checksum;

use crate::format::error::{StoreError, io_error};
use crate::format::extent::WORDS_OFFSET;
use crate::objects::segment::SegmentFile;

/// Bytes of the record: appended, published, how often it was written, and their checksum.
const BYTES: usize = 32;
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

/// The words, and how often they have been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    words: VersionWords,
    count: u64,
}

impl Record {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let values = [self.words.appended, self.words.published, self.count];
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
        let [appended, published, count, sum] = bytes.as_chunks::<8>().0 else { return None };
        let words = VersionWords {
            appended: u64::from_le_bytes(*appended),
            published: u64::from_le_bytes(*published),
        };
        let record = Record { words, count: u64::from_le_bytes(*count) };
        (*sum == checksum(bytes)).then_some(record)
    }
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
        Ok(self.read_record()?.map(|record| record.words))
    }

    /// Publishes versions to all VMs. The caller holds the segment's lock for writing, or the store's
    /// in [`crate::Store::join_versioned`] while no other VM can write.
    ///
    /// # Errors
    /// [`StoreError::Denied`] for a file that is open for reading; if the host fails;
    /// [`StoreError::Invalid`] for a segment that is not versioned.
    pub fn write_words(&self, words: &VersionWords) -> Result<(), StoreError> {
        self.check_writable()?;
        let count = self.read_record()?.map_or(0, |record| record.count).wrapping_add(1);
        let bytes = Record { words: *words, count }.encode();
        self.file()
            .write_all_at(&bytes, WORDS_OFFSET)
            .map_err(|e| io_error("write", self.path(), e))
    }

    fn read_record(&self) -> Result<Option<Record>, StoreError> {
        self.check_versioned()?;
        for _ in 0..TRIES {
            let mut bytes = [0; BYTES];
            self.file()
                .read_exact_at(&mut bytes, WORDS_OFFSET)
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
    use std::os::unix::fs::FileExt;

    use abi::Errno;

    use super::{BYTES, VersionWords, WORDS_OFFSET};
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
        assert_eq!(b.read_record().unwrap().unwrap().count, 3);
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

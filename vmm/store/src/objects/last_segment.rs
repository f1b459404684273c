//! The file of the versioned segment that was opened last. A program finds a segment, asks what it is, and
//! attaches it: three calls that each look for the file by its name, and find that it is still this one.

use std::sync::PoisonError;
use std::time::SystemTime;

use rustix::fs::Stat;

use crate::format::error::StoreError;
use crate::format::header::read_header;
use crate::format::name::Name;
use crate::objects::lock::Locked;
use crate::objects::newest::FileId;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// See the module. It is open, so that no other file has its number. The file of a versioned segment is small:
/// it keeps hardly any disk space when somebody deletes it.
#[derive(Debug)]
pub(crate) struct LastSegment {
    segment: SegmentFile,
    still: Still,
    /// Whether a change of the file since its header was read would show: if it was read with the store's lock, when
    /// nobody writes headers.
    tells: bool,
}

/// Which file a name leads to, and what decides who may do what with it. A file whose rights have changed is
/// opened anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Still {
    file: FileId,
    bytes: i64,
    owner: (u32, u32),
    mode: u32,
}

impl Still {
    fn of(stat: &Stat) -> Still {
        let (file, owner) = (FileId::of(stat), (stat.st_uid, stat.st_gid));
        Still { file, bytes: stat.st_size, owner, mode: stat.st_mode }
    }
}

impl Store {
    /// The segment with this name, if it is the one that was opened last, with the header that it has now.
    pub(crate) fn last_segment(
        &self,
        name: &Name,
        lock: Option<&dyn Locked>,
    ) -> Result<Option<SegmentFile>, StoreError> {
        let mut last = self.last_segment.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = last.as_mut().filter(|last| last.segment.name() == name) else {
            return Ok(None);
        };
        let begin = SystemTime::now();
        let stat = self.segments.stat_at(name.as_str());
        let Some(stat) = stat.filter(|stat| Still::of(stat) == last.still) else { return Ok(None) };
        let header = match last.tells {
            true => last.segment.header().clone(),
            false => read_header(last.segment.file(), last.segment.path())?,
        };
        let segment = last.segment.opened_again(self, header, &stat);
        if lock.is_some() && !last.tells {
            last.tells = last.still.file.tells_of_changes_since(begin);
            last.segment = segment.clone();
        }
        Ok(Some(segment))
    }

    /// Keeps a versioned segment's file, which was just opened.
    pub(crate) fn keep_last_segment(&self, segment: &SegmentFile, stat: &Stat) {
        if segment.is_versioned() {
            let last =
                LastSegment { segment: segment.clone(), still: Still::of(stat), tells: false };
            self.set_last_segment(Some(last));
        }
    }

    pub(crate) fn forget_last_segment(&self) {
        self.set_last_segment(None);
    }

    fn set_last_segment(&self, last: Option<LastSegment>) {
        *self.last_segment.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use abi::objects::{Durability, Right};

    use crate::testing::{name, segment, store, versioned};

    #[test]
    fn a_segment_that_is_asked_for_again_has_the_same_file_and_the_header_that_it_has_by_then() {
        let s = store();
        let sid = versioned(&s, "x");
        let first = s.open_to_attach(sid).unwrap();
        let other = crate::Store::open(s.path()).unwrap();
        other.set_durability(sid, Durability::Manual).unwrap();
        let again = s.open_to_attach(sid).unwrap();
        assert_eq!(again.header().durability, Durability::Manual);
        assert_eq!(
            (again.identity(), s.find_segment(&name("x")).unwrap()),
            (first.identity(), sid)
        );
    }

    #[test]
    fn another_file_with_the_name_a_link_and_one_that_is_gone_are_never_taken_for_it() {
        let s = store();
        let sid = versioned(&s, "x");
        let first = s.open_to_attach(sid).unwrap();
        let file = s.path().join("segments/x");
        let moved = s.path().join("tmp/x");
        fs::rename(&file, &moved).unwrap();
        assert!(s.open_to_attach(sid).is_err(), "it is gone");
        std::os::unix::fs::symlink(&moved, &file).unwrap();
        assert!(s.open_to_attach(sid).is_err(), "a link");
        assert!(s.find_segment(&name("x")).is_err(), "a link");
        fs::remove_file(&file).unwrap();
        fs::copy(&moved, &file).unwrap();
        let other = s.open_to_attach(sid).unwrap();
        assert_ne!(other.identity(), first.identity());
        // A shorter one is none, whoever has read it before.
        let open = fs::File::options().write(true).open(&file).unwrap();
        open.set_len(600).unwrap();
        assert!(s.open_to_attach(sid).is_err(), "truncated");
    }

    #[test]
    fn a_right_that_was_taken_away_is_not_used_again() {
        let s = store();
        let sid = versioned(&s, "x");
        assert_eq!(s.open_to_attach(sid).unwrap().right(), Right::Write);
        let file = s.path().join("segments/x");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        let before = s.last_segment.lock().unwrap().as_ref().map(|last| last.still);
        let found = s.open_to_attach(sid).unwrap();
        let after = s.last_segment.lock().unwrap().as_ref().map(|last| last.still);
        assert_ne!(before, after, "it was opened anew");
        // The superuser may write all the same.
        let may = fs::File::options().write(true).open(&file).is_ok();
        assert_eq!(found.right() == Right::Write, may);
    }

    #[test]
    fn only_versioned_ones_are_kept_and_none_that_was_deleted() {
        let s = store();
        let raw = segment(&s, "raw");
        s.open_to_attach(raw).unwrap();
        assert!(s.last_segment.lock().unwrap().is_none());
        let sid = versioned(&s, "x");
        s.open_to_attach(sid).unwrap();
        assert!(s.last_segment.lock().unwrap().is_some());
        s.delete_segment(sid).unwrap();
        assert!(s.last_segment.lock().unwrap().is_none());
    }
}

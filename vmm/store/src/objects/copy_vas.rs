//! Copying a VAS with its segments: all of them appear at once, with the VAS, or nothing does.
//!
//! Content is copied into `tmp/` without the store's lock, as that of one segment is. Then everything
//! is moved to its place under the lock. If we are killed on the way, `gc` removes segments that have
//! appeared without their VAS: they have a second name in `tmp/`, as those of an import have.

use abi::objects::{SegId, VasId};

use crate::format::error::{Object, StoreError};
use crate::format::name::Name;
use crate::format::record::{VasRecord, VasSegment};
use crate::objects::clone::Copied;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;

/// What a copied VAS consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopiedVas {
    /// Its id.
    pub vid: VasId,
    /// Its segments, in the order of the original's.
    pub segments: Vec<SegId>,
}

/// The name that the copy of a segment gets in the copy of a VAS: `NEW.SEGMENT`. What the original
/// VAS has put before the segment's name is left out, so that copies of copies keep short names; so is
/// the version behind the name of a kept one.
fn name_in(new: &Name, vas: &Name, segment: &Name) -> Result<Name, StoreError> {
    let own = segment.as_str().split('@').next().unwrap_or_default();
    let vas = vas.as_str().split('@').next().unwrap_or_default();
    let prefix = own.strip_prefix(vas).and_then(|rest| rest.strip_prefix('.'));
    let short = prefix.filter(|short| !short.is_empty()).unwrap_or(own);
    Ok(Name::new(format!("{}.{short}", new.as_str()).as_bytes())?)
}

impl Store {
    /// A VAS `name` with copies of the segments of `vas`, opened already: at the same addresses, with
    /// the same rights and permission bits, called `NAME.SEGMENT`. What others write meanwhile may or
    /// may not be in them: a caller that wants a consistent snapshot holds the segments' locks
    /// (`vas::content`).
    ///
    /// # Errors
    /// As [`Store::create_vas`] and [`Store::clone_segment`]; then there is nothing new.
    pub fn copy_vas(
        &self,
        vas: &VasRecord,
        segments: &[SegmentFile],
        name: &Name,
    ) -> Result<CopiedVas, StoreError> {
        name.check_new()?;
        self.check_vas_name_free(name)?;
        let mut copies = Vec::new();
        for source in segments {
            let new = name_in(name, &vas.name, source.name())?;
            copies.push(self.copy_raw(source, &new, "import")?);
        }
        let lock = self.lock_exclusive()?;
        let mut published = 0;
        let made = self.publish_all(vas, name, &mut copies, &mut published, &lock);
        if made.is_err() {
            for copy in copies.iter().take(published) {
                if let Ok(segment) = self.open_named(&copy.header.name, &lock) {
                    let _ = self.remove_segment(&segment, &lock);
                }
            }
        }
        made
    }

    fn publish_all(
        &self,
        vas: &VasRecord,
        name: &Name,
        copies: &mut [Copied<'_>],
        published: &mut usize,
        lock: &Exclusive,
    ) -> Result<CopiedVas, StoreError> {
        for copy in &*copies {
            self.check_segment_name_free(&copy.header.name, lock)?;
        }
        let mut listed = Vec::new();
        for (copy, original) in copies.iter_mut().zip(&vas.segments) {
            // The second name goes with the copy, once the VAS lists the segment.
            copy.main.done = !self.publish_segment_of_many(&copy.main.name, &copy.header, lock)?;
            *published += 1;
            let (sid, name) = (copy.header.sid, copy.header.name.clone());
            listed.push(VasSegment { sid, right: original.right, name });
        }
        let vid = self.make_vas(name, vas.mode, listed, vas.tagged, None, lock)?;
        Ok(CopiedVas { vid, segments: copies.iter_mut().map(Copied::keep_parts).collect() })
    }

    /// Before gigabytes are copied.
    fn check_vas_name_free(&self, name: &Name) -> Result<(), StoreError> {
        let _lock = self.lock_shared()?;
        match self.vas.stat(name.as_str())? {
            Some(_) => Err(StoreError::Exists(Object::VasName(name.clone()))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use abi::objects::Right;

    use super::*;
    use crate::testing::{mode, name, segment, store};
    use crate::{DATA_OFFSET, Mode};

    #[test]
    fn copies_of_copies_keep_short_names() {
        let of = |vas: &str, segment: &str| {
            name_in(&name("new"), &name(vas), &name(segment)).unwrap().as_str().to_owned()
        };
        assert_eq!(of("old", "data"), "new.data");
        assert_eq!(of("old", "old.data"), "new.data");
        assert_eq!(of("old", "older.data"), "new.older.data");
        assert_eq!(of("old", "old"), "new.old");
        assert_eq!(of("old", "old."), "new.old.");
        assert_eq!(of("old@v1", "old.data@old@v1"), "new.data");
        assert!(name_in(&name(&"n".repeat(250)), &name("v"), &name("segment")).is_err());
    }

    #[test]
    fn a_copied_vas_has_segments_of_its_own() {
        let s = store();
        let (one, two) = (segment(&s, "one"), segment(&s, "two"));
        let vid = s.create_vas(&name("v"), mode(0o640)).unwrap();
        s.attach_segment(vid, one, Right::Write).unwrap();
        s.attach_segment(vid, two, Right::Read).unwrap();
        let write = |sid, text: &[u8]| {
            let file = s.open_segment(sid).unwrap();
            file.file().write_all_at(text, DATA_OFFSET).unwrap();
        };
        write(one, b"first");
        let vas = s.vas(vid).unwrap();
        let segments = s.open_listed(&vas).unwrap();
        let copied = s.copy_vas(&vas, &segments, &name("w")).unwrap();
        write(one, b"later");
        let copy = s.vas(copied.vid).unwrap();
        assert_eq!((copy.name.as_str(), copy.mode), ("w", mode(0o640)));
        let listed: Vec<_> =
            copy.segments.iter().map(|it| (it.sid, it.name.as_str(), it.right)).collect();
        let (new_one, new_two) = (copied.segments[0], copied.segments[1]);
        assert_eq!(listed, [(new_one, "w.one", Right::Write), (new_two, "w.two", Right::Read)]);
        let file = s.open_segment(new_one).unwrap();
        let mut text = [0; 5];
        file.file().read_exact_at(&mut text, DATA_OFFSET).unwrap();
        assert_eq!(&text, b"first");
        assert_eq!(file.header().base, s.open_segment(one).unwrap().header().base);
        assert_eq!(fs::read_dir(s.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(s.gc().unwrap(), crate::GcReport::default());
    }

    #[test]
    fn when_one_name_is_taken_nothing_is_copied() {
        let s = store();
        let (one, two) = (segment(&s, "one"), segment(&s, "two"));
        let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
        for sid in [one, two] {
            s.attach_segment(vid, sid, Right::Write).unwrap();
        }
        segment(&s, "w.two");
        let vas = s.vas(vid).unwrap();
        let segments = s.open_listed(&vas).unwrap();
        let error = s.copy_vas(&vas, &segments, &name("w")).unwrap_err();
        assert!(matches!(error, StoreError::Exists(Object::SegmentName(_))), "{error}");
        assert!(matches!(s.copy_vas(&vas, &segments, &name("v")), Err(StoreError::Exists(_))));
        assert_eq!(fs::read_dir(s.path().join("segments")).unwrap().count(), 3);
        assert_eq!(fs::read_dir(s.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_copy_has_published_goes_with_the_garbage() {
        let s = store();
        let one = segment(&s, "one");
        let source = s.open_segment(one).unwrap();
        let copy = s.copy_raw(&source, &name("w.one"), "import").unwrap();
        let lock = s.lock_exclusive().unwrap();
        assert!(s.publish_segment_of_many(&copy.main.name, &copy.header, &lock).unwrap());
        drop(lock);
        // Its process would be dead, and so its flock free.
        let tmp = s.path().join("tmp").join(&copy.main.name);
        rustix::fs::flock(&copy.main.file, rustix::fs::FlockOperation::Unlock).unwrap();
        assert!(tmp.exists() && s.find_segment(&name("w.one")).is_ok());
        assert_eq!(s.gc().unwrap().unfinished, 2);
        assert!(s.find_segment(&name("w.one")).is_err() && s.find_segment(&name("one")).is_ok());
        std::mem::forget(copy);
    }
}

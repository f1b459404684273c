//! Copying a VAS with its segments: all of them appear at once, with the VAS, or nothing does.
//!
//! Content is copied into `tmp/` without the store's lock, as that of one segment is. Then everything
//! is moved to its place under the lock. If we are killed on the way, `gc` removes segments that have
//! appeared without their VAS: they have a second name in `tmp/`, as those of an import have.

use abi::objects::{Right, SegId, VasId};

use crate::format::error::{Object, StoreError};
use crate::format::name::Name;
use crate::format::record::{VasRecord, VasSegment};
use crate::objects::clone::Copied;
use crate::objects::kept::content::HeldAlone;
use crate::objects::kept::link::{Becomes, HomeCopy};
use crate::objects::kept::vas::MemberHeld;
use crate::objects::lock::Exclusive;
use crate::objects::segment::SegmentFile;
use crate::objects::store::Store;
use crate::objects::view::SegmentView;

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

/// A copy on its way.
enum Prepared<'a, 's> {
    /// Of a raw segment.
    Copied(Copied<'a>),
    /// The content of a versioned one.
    Home(HomeCopy<'a>),
    /// A versioned one that takes no time.
    ToLink(&'s SegmentFile, Name, HeldAlone),
}

impl Store {
    /// A VAS `name` with copies of the segments of `vas`, opened already: at the same addresses, with
    /// the same rights and permission bits, called `NAME.SEGMENT`. Of versioned segments whose lock is
    /// held, as `members` says, the newest version is linked, in constant time; of others it is copied. Of a
    /// commit of several segments all copies have their part, or none.
    /// What others write meanwhile to raw ones may or may not be in the copy: a caller that wants a
    /// consistent snapshot holds the segments' locks (`vas::content`).
    ///
    /// # Errors
    /// As [`Store::create_vas`], [`Store::clone_segment`] and [`Store::clone_version`]; then there is
    /// nothing new.
    pub fn copy_vas(
        &self,
        vas: &VasRecord,
        segments: &[SegmentFile],
        name: &Name,
        members: &[MemberHeld],
    ) -> Result<CopiedVas, StoreError> {
        name.check_new()?;
        self.check_vas_name_free(name)?;
        let versioned = segments.iter().filter(|it| it.is_versioned());
        let versioned: Vec<_> = versioned.map(|it| (it.sid(), None)).collect();
        let is_linked = |(sid, _): &(SegId, _)| members.iter().any(|member| member.sid == *sid);
        // Of one moment, before the first is copied.
        let views = match versioned.iter().all(is_linked) {
            true => Vec::new(),
            false => self.view_segments(&versioned)?,
        };
        let pinned = |sid| {
            let mut views = views.iter().filter(|view| view.segment().sid() == sid);
            views.find_map(SegmentView::pinned).ok_or(StoreError::NotFound(Object::Segment(sid)))
        };
        let mut prepared = Vec::new();
        for source in segments {
            let new = name_in(name, &vas.name, source.name())?;
            let held = members.iter().find(|member| member.sid == source.sid());
            prepared.push(match (source.is_versioned(), held) {
                (false, _) => Prepared::Copied(self.copy_raw(source, &new, "import")?),
                (true, Some(member)) => Prepared::ToLink(source, new, member.held),
                (true, None) => {
                    Prepared::Home(self.copy_home(source, pinned(source.sid())?, &new)?)
                }
            });
        }
        let lock = self.lock_exclusive()?;
        let mut copies = Vec::new();
        for one in prepared {
            copies.push(self.finish(one, &lock)?);
        }
        let listed = copies.iter().zip(&vas.segments).map(|(copy, original)| {
            let (sid, name) = (copy.header.sid, copy.header.name.clone());
            // What could only be read, since it was kept, is the copy's own.
            let was_kept =
                segments.iter().any(|it| it.sid() == original.sid && it.header().kept.is_some());
            let right = if was_kept { Right::Write } else { original.right };
            VasSegment { sid, right, name }
        });
        let listed = listed.collect();
        let vid = self.publish_with_vas(vas, name, listed, &mut copies, &lock)?;
        Ok(CopiedVas { vid, segments: copies.iter().map(|copy| copy.header.sid).collect() })
    }

    fn finish<'a>(
        &'a self,
        one: Prepared<'a, '_>,
        lock: &Exclusive,
    ) -> Result<Copied<'a>, StoreError> {
        match one {
            Prepared::Copied(copy) => Ok(copy),
            Prepared::Home(home) => self.of_home(home, "import", lock),
            Prepared::ToLink(source, name, held) => {
                let mut content = self.open_content(source, held, lock)?;
                let newest = content.versions.appended().0;
                let clone = Becomes::Clone;
                let copy =
                    self.link_version(&mut content, source, newest, &name, clone, "import", lock)?;
                content.settle()?;
                Ok(copy)
            }
        }
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
        let copied = s.copy_vas(&vas, &segments, &name("w"), &[]).unwrap();
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
        let error = s.copy_vas(&vas, &segments, &name("w"), &[]).unwrap_err();
        assert!(matches!(error, StoreError::Exists(Object::SegmentName(_))), "{error}");
        assert!(matches!(s.copy_vas(&vas, &segments, &name("v"), &[]), Err(StoreError::Exists(_))));
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

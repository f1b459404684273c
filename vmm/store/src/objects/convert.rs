//! Converting a segment that no program has: a raw one to a versioned one, or back.
//!
//! It keeps id, name, addresses and permission bits; the VASes that list it notice nothing. Content is
//! copied into `tmp/` without the store's lock, since it may be terabytes. Then, under the lock, the
//! new content is put in its place and one rename exchanges the segment's file: before it the segment
//! is what it was, afterwards what it was to be. What a kill leaves of the other is garbage for `gc`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use abi::objects::{Durability, Lifetime, SegId};

use crate::format::error::{Busy, Object, StoreError, invalid, io_error};
use crate::format::extent::{DATA_OFFSET, PART_BYTES, part_len};
use crate::format::header::{
    HEADER_BYTES, Header, SegmentState, header_bytes, read_header, write_header,
};
use crate::format::name::Mode;
use crate::objects::clone::{Unfinished, parts_mark};
use crate::objects::create::{set_len, set_mode};
use crate::objects::lock::Exclusive;
use crate::objects::segment::{PartFiles, SegmentFile};
use crate::objects::sparse::copy_shifted;
use crate::objects::store::Store;

/// What must still be so when the content has been copied.
struct Before {
    header: [u8; HEADER_BYTES],
    /// Of a versioned segment.
    version: Option<u64>,
}

impl Store {
    /// Makes a segment versioned or persistent, durably. Of a versioned segment its newest version
    /// stays. A raw one without a lock gets one. Returns whether anything had to be done.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while a program has it attached, or has changed it meanwhile, or has another
    /// segment attached that had its last commit together with this one, which becomes raw;
    /// [`StoreError::Invalid`] from or to volatile; [`StoreError::Unsound`] for a raw segment that is
    /// dirty or inconsistent; [`StoreError::NotOwner`], [`StoreError::Denied`],
    /// [`StoreError::Kept`]; [`StoreError::Denied`] for a VAS with numbers that the segment knows, and that the
    /// caller may not change; the host's. Then it is as it was; it is converted if only the last step
    /// failed, which makes that durable.
    pub fn convert_segment(&self, sid: SegId, to: Lifetime) -> Result<bool, StoreError> {
        let mut segment = self.open_segment(sid)?;
        segment.check_writable()?;
        let from = segment.header().lifetime;
        if [from, to].contains(&Lifetime::Volatile) {
            let found = if from == to { "volatile" } else { "from or to volatile" };
            return Err(invalid("the conversion", found, "between versioned and persistent"));
        }
        if from == to {
            return Ok(false);
        }
        let before = self.begin_conversion(&mut segment)?;
        let mode = self.mode_of(&segment)?;
        match to {
            Lifetime::Versioned => self.convert_to_versioned(&segment, &before, mode)?,
            Lifetime::Persistent | Lifetime::Volatile => {
                self.convert_to_raw(&segment, &before, mode)?;
            }
        }
        Ok(true)
    }

    /// Checks that a segment can be converted, and that it will show what is done to it from now on. A
    /// raw one tells its last writer only, which may come again: the lease of its VM would be the same.
    fn begin_conversion(&self, segment: &mut SegmentFile) -> Result<Before, StoreError> {
        {
            let lock = self.lock_exclusive()?;
            self.check_still_there(segment, &lock)?;
            if !segment.is_versioned() {
                segment.set_header(read_header(segment.file(), segment.path())?);
            }
            self.check_convertible(segment)?;
            if segment.header().lease.is_some() {
                self.change_header(segment, &lock, |header| header.lease = None)?;
            }
        }
        self.before(segment)
    }

    fn check_convertible(&self, segment: &SegmentFile) -> Result<(), StoreError> {
        self.check_unattached(segment)?;
        // The new files belong to whoever makes them.
        let user = rustix::process::geteuid();
        if segment.owner() != user.as_raw() {
            return Err(StoreError::NotOwner(Object::SegmentName(segment.name().clone())));
        }
        let is_dirty = segment.header().state == SegmentState::Dirty;
        if is_dirty || self.is_inconsistent(segment)? {
            return Err(StoreError::Unsound { segment: segment.name().clone() });
        }
        Ok(())
    }

    fn before(&self, segment: &SegmentFile) -> Result<Before, StoreError> {
        let header = header_bytes(segment.file(), segment.path())?;
        let version = match segment.is_versioned() {
            true => Some(self.newest(segment)?.number()),
            false => None,
        };
        Ok(Before { header, version })
    }

    /// A program that has attached a raw segment for writing since then has left its lease in the
    /// header; one that has changed a versioned one has made a version.
    fn check_same(
        &self,
        segment: &SegmentFile,
        before: &Before,
        _lock: &Exclusive,
    ) -> Result<(), StoreError> {
        self.check_unattached(segment)?;
        let after = self.before(segment)?;
        if self.is_same_file(segment)?
            && after.header == before.header
            && after.version == before.version
        {
            return Ok(());
        }
        let object = Object::SegmentName(segment.name().clone());
        Err(StoreError::Busy { object, why: Busy::Changed })
    }

    fn convert_to_versioned(
        &self,
        segment: &SegmentFile,
        before: &Before,
        mode: Mode,
    ) -> Result<(), StoreError> {
        let sid = segment.sid();
        let mut home = self.new_copy(format!("{sid}.home"))?;
        let path = self.tmp.path_of(&home.name);
        set_len(&home.file, &path, segment.header().size_bytes)?;
        for index in 0..segment.header().parts() {
            let part = segment.part(index)?;
            let unreadable = |e| io_error("open", segment.path(), e);
            let from = File::from(part.fd().try_clone_to_owned().map_err(unreadable)?);
            let end = part.offset() + part.len_bytes();
            let shift = (part.offset(), index * PART_BYTES);
            copy_shifted(&from, &home.file, shift, end)
                .map_err(|e| io_error("copy to", &path, e))?;
        }
        set_mode(&home.file, &path, mode)?;
        home.file.sync_all().map_err(|e| io_error("sync", &path, e))?;
        let lock = self.lock_exclusive()?;
        self.check_same(segment, before, &lock)?;
        let header = Header {
            lifetime: Lifetime::Versioned,
            durability: Durability::DEFAULT,
            lockable: true,
            ..fresh(segment)
        };
        // Left there by a conversion that was killed.
        self.remove_versions(&header);
        self.make_versions(&header, mode, Some(&mut home), &lock)?;
        let exchanged = self.exchange(&header, mode, None, &lock);
        let old = || segment.place().remove(1, segment.header().parts());
        self.remove_other(segment, exchanged, old, || self.remove_versions(&header))
    }

    fn convert_to_raw(
        &self,
        segment: &SegmentFile,
        before: &Before,
        mode: Mode,
    ) -> Result<(), StoreError> {
        let header = Header {
            lifetime: Lifetime::Persistent,
            durability: Durability::Each,
            boot: self.boot_of(Lifetime::Persistent),
            ..fresh(segment)
        };
        let place = PartFiles::of(self, header.sid, header.lifetime, segment.owner());
        let _mark = self.new_copy(parts_mark(header.sid))?;
        // Left there by a conversion that was killed.
        place.remove(1, header.parts());
        let made = self.fill_raw(segment, &header, &place, mode).and_then(|main| {
            let lock = self.lock_exclusive()?;
            self.check_same(segment, before, &lock)?;
            self.settle_partners(segment, &lock)?;
            self.keep_numbers(segment, &lock)?;
            self.exchange(&header, mode, Some(main), &lock)
        });
        let old = || self.remove_versions(segment.header());
        self.remove_other(segment, made, old, || place.remove(1, header.parts()))
    }

    /// Removes the content that no file at the segment's name needs. If the new file is there and could
    /// not be made durable, either may be there after a power cut: then both stay, one for `gc`.
    fn remove_other(
        &self,
        segment: &SegmentFile,
        outcome: Result<(), StoreError>,
        old: impl FnOnce(),
        new: impl FnOnce(),
    ) -> Result<(), StoreError> {
        match (&outcome, self.is_same_file(segment)) {
            (Ok(()), _) => old(),
            (Err(_), Ok(true)) => new(),
            (Err(_), Ok(false) | Err(_)) => {}
        }
        outcome
    }

    /// The newest version's content in the layout of a raw segment.
    fn fill_raw(
        &self,
        segment: &SegmentFile,
        header: &Header,
        place: &PartFiles,
        mode: Mode,
    ) -> Result<Unfinished<'_>, StoreError> {
        let newest = self.newest(segment)?;
        let main = self.new_copy(format!("{}.clone", header.sid))?;
        let path = self.tmp.path_of(&main.name);
        set_len(&main.file, &path, header.main_len())?;
        let mut parts = Vec::new();
        for index in 1..header.parts() {
            let (file, path) = place.create(index)?;
            set_len(&file, &path, part_len(header.size_bytes, index))?;
            set_mode(&file, &path, mode)?;
            parts.push((file, path));
        }
        let written = newest.each_run(newest.number(), header.size_bytes, |at, run| {
            // A run ends with a part: pieces of a power of two are read.
            let (index, within) = (at / PART_BYTES, at % PART_BYTES);
            let part =
                index.checked_sub(1).and_then(|index| parts.get(usize::try_from(index).ok()?));
            let (file, path, start) = match part {
                None => (&main.file, &path, DATA_OFFSET + within),
                Some((file, path)) => (file, path, within),
            };
            file.write_all_at(run, start).map_err(|e| io_error("write", path, e))
        });
        written.map_err(segment.of_versions())??;
        for (file, path) in &parts {
            file.sync_all().map_err(|e| io_error("sync", path, e))?;
        }
        if !parts.is_empty() {
            place.sync_folders()?;
        }
        Ok(main)
    }

    /// Puts a file with this header, and with the content of `main`, in the place of the segment's.
    fn exchange(
        &self,
        header: &Header,
        mode: Mode,
        main: Option<Unfinished<'_>>,
        lock: &Exclusive,
    ) -> Result<(), StoreError> {
        let mut main = match main {
            Some(main) => main,
            None => self.new_copy_locked(format!("{}.clone", header.sid), lock)?,
        };
        let path = self.tmp.path_of(&main.name);
        set_len(&main.file, &path, header.main_len())?;
        write_header(&main.file, &path, header)?;
        set_mode(&main.file, &path, mode)?;
        main.file.sync_all().map_err(|e| io_error("sync", &path, e))?;
        self.replace_segment(&main.name, header, lock)?;
        main.done = true;
        Ok(())
    }
}

/// The header of what a segment becomes, as nobody has used it yet.
fn fresh(segment: &SegmentFile) -> Header {
    Header {
        name: segment.name().clone(),
        state: SegmentState::Clean,
        used: false,
        lease: None,
        ..segment.header().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use abi::objects::{Right, SegRoot};
    use spacejmp_versions::segment::HOME_FILE_NAME;

    use super::*;
    use crate::objects::durable;
    use crate::testing::{TestStore, mode, name, segment, store, versioned};
    use crate::{Lease, LeaseInfo, SegmentSpec, check_store};

    const TEXTS: [(u64, &[u8]); 3] =
        [(0, b"first"), (5 * 4096 + 7, b"middle"), ((1 << 20) - 4, b"last")];

    /// A raw segment with something in it.
    fn filled(s: &TestStore, text: &str) -> SegId {
        let sid = segment(s, text);
        let file = s.open_segment(sid).unwrap();
        for (at, text) in TEXTS {
            file.file().write_all_at(text, DATA_OFFSET + at).unwrap();
        }
        let root = SegRoot { address: file.header().base + 64, fingerprint: [7, 1 << 63] };
        s.root_set(sid, root).unwrap();
        sid
    }

    fn has_all(s: &TestStore, sid: SegId) {
        let segment = s.open_segment(sid).unwrap();
        let read = |at: u64, bytes: usize| {
            let (page, within) = (at & !4095, (at & 4095) as usize);
            let mut buffer = [0; 4096];
            if segment.is_versioned() {
                s.newest(&segment).unwrap().read(page, &mut buffer).unwrap();
            } else {
                segment.file().read_exact_at(&mut buffer, DATA_OFFSET + page).unwrap();
            }
            buffer[within..within + bytes].to_vec()
        };
        for (at, text) in TEXTS {
            assert_eq!(read(at, text.len()), text);
        }
        assert_eq!(read(4096, 4096), [0; 4096]);
        let header = segment.header();
        assert_eq!(header.size_bytes, 1 << 20);
        assert_eq!(header.root.address, header.base + 64);
        assert_eq!(header.root.fingerprint, [7, 1 << 63]);
    }

    fn is_clean(s: &TestStore) {
        let report = check_store(s.path()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_eq!(fs::read_dir(s.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn there_and_back_again_it_is_the_same_segment_with_the_same_content() {
        let s = store();
        let sid = filled(&s, "x");
        s.set_segment_mode(sid, mode(0o640)).unwrap();
        s.set_lockable(sid, false).unwrap();
        let vid = s.create_vas(&name("v"), mode(0o600)).unwrap();
        s.attach_segment(vid, sid, Right::Write).unwrap();
        let base = s.open_segment(sid).unwrap().header().base;
        assert!(!s.convert_segment(sid, Lifetime::Persistent).unwrap());
        assert!(s.convert_segment(sid, Lifetime::Versioned).unwrap());
        assert_eq!(s.find_segment(&name("x")).unwrap(), sid);
        let record = s.segment(sid).unwrap();
        assert_eq!((record.header.base, record.mode), (base, mode(0o640)));
        assert!(record.header.lockable && record.header.lifetime == Lifetime::Versioned);
        assert_eq!(record.header.durability, Durability::DEFAULT);
        let file_bytes = fs::metadata(s.path().join("segments/x")).unwrap().len();
        assert!(file_bytes < 1 << 20, "{file_bytes}");
        has_all(&s, sid);
        is_clean(&s);
        assert!(s.convert_segment(sid, Lifetime::Persistent).unwrap());
        assert_eq!(s.segment(sid).unwrap().mode, mode(0o640));
        assert_eq!(s.vas(vid).unwrap().segments[0].sid, sid);
        has_all(&s, sid);
        is_clean(&s);
        assert_eq!(fs::read_dir(s.path().join("versions")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_in_use_volatile_or_not_whole_is_not_converted() {
        let s = store();
        let (raw, log) = (filled(&s, "raw"), versioned(&s, "log"));
        let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
        lease.set_segment(0, Some((raw, Right::Read))).unwrap();
        lease.set_segment(1, Some((log, Right::Read))).unwrap();
        let busy = |sid, to| {
            let error = s.convert_segment(sid, to).unwrap_err();
            assert!(matches!(error, StoreError::Busy { why: Busy::Attached(_), .. }), "{error}");
        };
        busy(raw, Lifetime::Versioned);
        busy(log, Lifetime::Persistent);
        drop(lease);
        let spec = SegmentSpec { lifetime: Lifetime::Volatile, ..SegmentSpec::new(4096) };
        let volatile = s.create_segment(&name("v"), &spec).unwrap();
        for (sid, to) in [(volatile, Lifetime::Versioned), (raw, Lifetime::Volatile)] {
            let error = s.convert_segment(sid, to).unwrap_err();
            assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
        }
        let mut file = s.open_segment(raw).unwrap();
        let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
        s.join(&mut file, &lease, 0, Right::Write).unwrap();
        drop(lease);
        let error = s.convert_segment(raw, Lifetime::Versioned).unwrap_err();
        assert!(matches!(error, StoreError::Unsound { .. }), "{error}");
    }

    #[test]
    fn what_a_program_has_changed_meanwhile_is_not_exchanged() {
        let s = store();
        let (raw, log) = (filled(&s, "raw"), versioned(&s, "log"));
        let same = |sid, before: &Before| {
            let lock = s.lock_exclusive().unwrap();
            s.check_same(&s.open_by_id(sid, &lock).unwrap(), before, &lock).is_ok()
        };
        let lease = Lease::create(&s, &LeaseInfo { program: "p".into(), pid: 1 }).unwrap();
        // The second time by a VM that had it before.
        for _ in 0..2 {
            let mut file = s.open_segment(raw).unwrap();
            let before = s.begin_conversion(&mut file).unwrap();
            assert!(same(raw, &before));
            s.join(&mut file, &lease, 0, Right::Write).unwrap();
            s.leave(&file, &lease, 0).unwrap();
            assert!(!same(raw, &before), "it was open for writing");
        }
        let before = s.before(&s.open_segment(log).unwrap()).unwrap();
        assert!(same(log, &before));
        let folder = s.open_segment(log).unwrap().versions_folder().unwrap();
        let folder = spacejmp_versions::disk::host::HostFolder::from_fd(folder);
        let limits = spacejmp_versions::segment::Limits::default();
        let mut content = spacejmp_versions::Segment::open(folder, limits).unwrap();
        let facts = content.next_facts();
        content.append(&spacejmp_versions::Commit { facts, pages: Vec::new() }).unwrap();
        content.sync().unwrap();
        assert!(!same(log, &before), "it has another version");
    }

    #[test]
    fn when_the_exchange_cannot_be_made_durable_the_content_of_neither_is_lost() {
        let s = store();
        let sid = filled(&s, "x");
        for to in [Lifetime::Versioned, Lifetime::Persistent] {
            durable::fail_sync_of("segments");
            let error = s.convert_segment(sid, to).unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "{error}");
            assert_eq!(s.open_segment(sid).unwrap().header().lifetime, to);
            has_all(&s, sid);
            s.gc().unwrap();
            has_all(&s, sid);
            is_clean(&s);
        }
    }

    #[test]
    fn a_kill_leaves_the_old_or_the_new_and_what_is_left_goes() {
        let s = store();
        let sid = filled(&s, "x");
        // Killed behind the folder, before the exchange.
        let header =
            Header { lifetime: Lifetime::Versioned, ..fresh(&s.open_segment(sid).unwrap()) };
        s.make_versions(&header, mode(0o600), None, &s.lock_exclusive().unwrap()).unwrap();
        has_all(&s, sid);
        let report = check_store(s.path()).unwrap();
        assert!(report.sound() && report.findings.len() == 1, "{:?}", report.findings);
        assert_eq!(s.gc().unwrap().parts, 1);
        is_clean(&s);
        // Likewise, and it is tried again.
        s.make_versions(&header, mode(0o600), None, &s.lock_exclusive().unwrap()).unwrap();
        assert!(s.convert_segment(sid, Lifetime::Versioned).unwrap());
        has_all(&s, sid);
        is_clean(&s);
        // On the way back: behind the exchange, before the folder went.
        let folder = s.path().join("versions").join(sid.to_string());
        let kept = s.path().join("kept");
        fs::create_dir(&kept).unwrap();
        for file in fs::read_dir(&folder).unwrap().flatten() {
            fs::copy(file.path(), kept.join(file.file_name())).unwrap();
        }
        assert!(kept.join(HOME_FILE_NAME).exists());
        s.convert_segment(sid, Lifetime::Persistent).unwrap();
        fs::rename(&kept, &folder).unwrap();
        has_all(&s, sid);
        assert_eq!(s.gc().unwrap().parts, 1);
        has_all(&s, sid);
        is_clean(&s);
        // And a part that came before the exchange.
        s.convert_segment(sid, Lifetime::Versioned).unwrap();
        fs::write(s.path().join(format!("parts/{sid}.1")), "").unwrap();
        assert_eq!(check_store(s.path()).unwrap().findings.len(), 1);
        assert_eq!(s.gc().unwrap().parts, 1);
        has_all(&s, sid);
        is_clean(&s);
    }
}

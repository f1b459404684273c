//! Reading an archive into a store: everything in `tmp/` first, then published together.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use abi::addr::PAGE_SIZE;
use abi::objects::{Lifetime, SegId};

use crate::archive::outcome::{Imported, Progress, Survey};
use crate::archive::piece::{Piece, Reader, decompress};
use crate::format::counted::counted;
use crate::format::error::{Object, StoreError, bad_field, io_error};
use crate::format::extent::{DATA_OFFSET, PART_BYTES, first_part, part_len};
use crate::format::header::{Header, SegmentState, write_header};
use crate::format::manifest::Manifest;
use crate::format::name::{Mode, Name};
use crate::objects::clone::{Made, MadeVersions, Unfinished, mark_inconsistent, parts_mark};
use crate::objects::create::{set_len, set_mode};
use crate::objects::fresh::random_id;
use crate::objects::lock::Exclusive;
use crate::objects::segment::PartFiles;
use crate::objects::sparse::runs;
use crate::objects::store::Store;

/// A segment read completely, but not yet in the store. Dropping it leaves nothing.
struct Waiting<'a> {
    /// Its file; of a versioned segment, until it is published, the content of its first version.
    main: Unfinished<'a>,
    /// The folder of a versioned one.
    versions: Option<MadeVersions<'a>>,
    mode: Mode,
    /// Tells `gc` that the parts are in use.
    _mark: Option<Unfinished<'a>>,
    parts: Parts,
    header: Header,
}

/// Files of further parts, which are at their final place already.
struct Parts {
    place: PartFiles,
    made: Vec<(u64, File, PathBuf)>,
    keep: bool,
}

impl Drop for Parts {
    fn drop(&mut self) {
        if !self.keep {
            // Only ours: one that existed before is another process's.
            self.made.iter().for_each(|(index, ..)| self.place.remove(*index, *index + 1));
        }
    }
}

/// Reads an archive and says what importing it would write; `path` is for messages. Checks all
/// that can be checked without a store.
///
/// # Errors
/// [`StoreError::BadField`] for a damaged archive, [`StoreError::Io`].
pub fn survey_archive(from: &mut dyn Read, path: &Path) -> Result<Survey, StoreError> {
    let mut reader = Reader::new(decompress(from, path)?, path)?;
    let Piece::Vas(manifest, _) = reader.next()? else {
        return Err(reader.bad("kind of a piece", "another", "a VAS at first"));
    };
    let mut survey = Survey { name: manifest.name, segments: 0, data_bytes: 0, size_bytes: 0 };
    loop {
        match reader.next()? {
            Piece::Segment { header, .. } => {
                survey.segments += 1;
                survey.size_bytes = survey.size_bytes.saturating_add(header.size_bytes);
            }
            Piece::Data(_, bytes) => survey.data_bytes += bytes.len() as u64,
            Piece::End(_) => {}
            Piece::Done(_) => break,
            Piece::Vas(..) => {
                return Err(reader.bad("kind of a piece", "a second VAS", "a segment"));
            }
        }
    }
    reader.finish()?;
    Ok(survey)
}

impl Store {
    /// Makes a VAS and its segments from an archive; `path` is for messages. Bases stay; ids
    /// stay where they are free here. With `as_name` the VAS gets this name, and a segment
    /// whose name is taken becomes `NAME.SEGMENT`. Permission bits are the archive's without
    /// those of `umask`.
    ///
    /// # Errors
    /// [`StoreError::BadField`] for a damaged archive, [`StoreError::Exists`] for names that
    /// are taken, [`StoreError::Name`] for one that no new object may have, [`StoreError::Io`]; then nothing is
    /// left in the store.
    pub fn import_vas(
        &self,
        from: &mut dyn Read,
        path: &Path,
        as_name: Option<&Name>,
        umask: u32,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Imported, StoreError> {
        let mut reader = Reader::new(decompress(from, path)?, path)?;
        let (mut manifest, mode) = match reader.next()? {
            Piece::Vas(manifest, mode) => (manifest, mode.without(umask)),
            _ => return Err(reader.bad("kind of a piece", "another", "a VAS at first")),
        };
        if let Some(name) = as_name {
            manifest.name = name.clone();
        }
        self.check_names(&manifest, as_name)?;
        let mut waiting = Vec::new();
        let mut data_bytes = 0;
        for listed in &mut manifest.segments {
            match reader.next()? {
                Piece::Segment { header, mode, inconsistent } if header.sid == listed.sid => {
                    if header.lifetime == Lifetime::Versioned && inconsistent {
                        return Err(reader.bad("flags of a segment", 1, "0: it is versioned"));
                    }
                    if header.kept.is_some() {
                        let expected = "a segment of its own";
                        return Err(reader.bad("header of a segment", "a kept version", expected));
                    }
                    check_as_version(&header, path)?;
                    let segment =
                        self.begin(*header, mode.without(umask), inconsistent, as_name)?;
                    data_bytes += fill(&segment, &mut reader, progress)?;
                    listed.sid = segment.header.sid;
                    listed.name = segment.header.name.clone();
                    waiting.push(segment);
                }
                _ => {
                    let expected = format!("segment {}", listed.sid);
                    return Err(reader.bad("kind of a piece", "another", expected));
                }
            }
        }
        match reader.next()? {
            Piece::Done(count) if count == waiting.len() as u64 => {}
            _ => return Err(reader.bad("last piece", "another", "the count of segments")),
        }
        reader.finish()?;
        check_overlap(path, &waiting)?;
        for segment in &waiting {
            segment.round_up()?;
            let sync =
                |file: &File, path: &Path| file.sync_all().map_err(|e| io_error("sync", path, e));
            sync(&segment.main.file, &self.tmp.path_of(&segment.main.name))?;
            segment.parts.made.iter().try_for_each(|(_, file, path)| sync(file, path))?;
        }
        self.publish(&manifest, mode, waiting, data_bytes)
    }

    /// Before gigabytes are read: check for names that are already taken.
    fn check_names(&self, manifest: &Manifest, as_name: Option<&Name>) -> Result<(), StoreError> {
        manifest.name.check_new()?;
        let _lock = self.lock_shared()?;
        if self.vas.stat(manifest.name.as_str())?.is_some() {
            return Err(StoreError::Exists(Object::VasName(manifest.name.clone())));
        }
        for segment in &manifest.segments {
            if as_name.is_none() && self.segments.stat(segment.name.as_str())?.is_some() {
                return Err(StoreError::Exists(Object::SegmentName(segment.name.clone())));
            }
        }
        Ok(())
    }

    fn begin(
        &self,
        mut header: Header,
        mode: Mode,
        inconsistent: bool,
        as_name: Option<&Name>,
    ) -> Result<Waiting<'_>, StoreError> {
        {
            let lock = self.lock_exclusive()?;
            if let Some(vas) = as_name
                && self.check_segment_name_free(&header.name, &lock).is_err()
            {
                let name = format!("{}.{}", vas.as_str(), header.name.as_str());
                header.name = Name::new(name.as_bytes())?;
            }
            header.name.check_new()?;
            self.check_segment_name_free(&header.name, &lock)?;
            // A folder may be of a segment whose file is gone, or of an import that was killed.
            let is_taken = self.segment_name(header.sid, &lock)?.is_some();
            if is_taken || self.has_versions(header.sid) {
                header.sid = self.new_sid(&lock)?;
            }
        }
        (header.lease, header.used) = (None, false);
        header.boot = self.boot_of(header.lifetime);
        let has_parts = first_part(header.lifetime) < header.parts();
        let mark = has_parts.then(|| self.new_copy(parts_mark(header.sid))).transpose()?;
        let main = self.new_copy(format!("{:016x}.import", random_id()?))?;
        let owner = rustix::process::geteuid().as_raw();
        let place = PartFiles::of(self, header.sid, header.lifetime, owner);
        let mut parts = Parts { place, made: Vec::new(), keep: false };
        for index in first_part(header.lifetime)..header.parts() {
            let (file, path) = parts.place.create(index)?;
            parts.made.push((index, file, path));
            if let Some((_, file, path)) = parts.made.last() {
                set_len(file, path, part_len(header.size_bytes, index))?;
                set_mode(file, path, mode)?;
            }
        }
        if header.lifetime == Lifetime::Versioned {
            // Its file is made when its content is there.
            return Ok(Waiting { main, versions: None, mode, _mark: mark, parts, header });
        }
        let path = self.tmp.path_of(&main.name);
        set_len(&main.file, &path, header.main_len())?;
        write_header(&main.file, &path, &header)?;
        if inconsistent {
            mark_inconsistent(&main.file).map_err(|e| io_error("write", &path, e))?;
        }
        set_mode(&main.file, &path, mode)?;
        Ok(Waiting { main, versions: None, mode, _mark: mark, parts, header })
    }

    /// Everything appears, or nothing. If we are killed on the way, `gc` removes what has appeared
    /// without its VAS: those segments have a second name in `tmp/`.
    fn publish<'a>(
        &'a self,
        manifest: &Manifest,
        mode: Mode,
        mut waiting: Vec<Waiting<'a>>,
        data_bytes: u64,
    ) -> Result<Imported, StoreError> {
        let lock = self.lock_exclusive()?;
        for segment in &waiting {
            self.check_segment_name_free(&segment.header.name, &lock)?;
            if self.segment_name(segment.header.sid, &lock)?.is_some() {
                return Err(StoreError::Exists(Object::Segment(segment.header.sid)));
            }
        }
        for segment in &mut waiting {
            self.place(segment, &lock)?;
        }
        let mut published = 0;
        let made = waiting
            .iter_mut()
            .try_for_each(|segment| {
                let (main, header) = (&mut segment.main, &segment.header);
                // The second name is removed with `waiting`, once the VAS lists the segment.
                main.done = !self.publish_segment_of_many(&main.name, header, &lock)?;
                published += 1;
                Ok(())
            })
            .and_then(|()| {
                let Manifest { vid, name, tagged, segments, .. } = manifest;
                self.make_vas(name, mode, segments.clone(), *tagged, Some(*vid), &lock)
            });
        let whole = made.is_ok();
        for segment in waiting.iter_mut().take(published) {
            segment.parts.keep = whole;
            if let Some(versions) = segment.versions.take_if(|_| whole) {
                versions.leave();
            }
            if !whole && let Ok(file) = self.open_named(&segment.header.name, &lock) {
                let _ = self.remove_segment(&file, &lock);
            }
        }
        let vid = made?;
        let segments = waiting.iter().map(|s| (s.header.name.clone(), s.header.sid)).collect();
        Ok(Imported { vid, name: manifest.name.clone(), segments, data_bytes })
    }
}

impl Store {
    /// Makes folder and file of a versioned segment from its content.
    fn place<'a>(&'a self, segment: &mut Waiting<'a>, lock: &Exclusive) -> Result<(), StoreError> {
        if segment.header.lifetime != Lifetime::Versioned {
            return Ok(());
        }
        self.make_versions(&segment.header, segment.mode, Some(&mut segment.main), lock)?;
        let made = MadeVersions::new(self, &segment.header);
        let file = self.with_file(segment.header.clone(), segment.mode, made, "import", lock)?;
        segment.main = file.main;
        segment.versions = match file.made {
            Made::Versions(versions) => Some(versions),
            Made::Parts { .. } => None,
        };
        Ok(())
    }
}

impl Waiting<'_> {
    /// Has the content of a versioned segment end at a page's end, as every file of pages does.
    fn round_up(&self) -> Result<(), StoreError> {
        if self.header.lifetime != Lifetime::Versioned {
            return Ok(());
        }
        let (file, path) = (&self.main.file, self.main.store.tmp.path_of(&self.main.name));
        let len = file.metadata().map_err(|e| io_error("look at", &path, e))?.len();
        set_len(file, &path, len.next_multiple_of(PAGE_SIZE))
    }
}

/// That a versioned segment can be one with this header: what it says becomes a version, of which more is
/// demanded than of a raw segment, and could not be opened otherwise.
fn check_as_version(header: &Header, path: &Path) -> Result<(), StoreError> {
    if header.lifetime != Lifetime::Versioned {
        return Ok(());
    }
    if header.state != SegmentState::Clean {
        return Err(bad_field(path, "state", "dirty", "clean in a versioned segment"));
    }
    let address = header.root.address;
    if address != 0 && address - header.base >= header.size_bytes {
        let found = format!("{address:#x}");
        return Err(bad_field(path, "root address", found, "0 or inside the segment"));
    }
    Ok(())
}

/// Writes the content of one segment; returns its bytes.
fn fill<R: Read>(
    segment: &Waiting<'_>,
    reader: &mut Reader<'_, R>,
    progress: &mut dyn FnMut(&Progress),
) -> Result<u64, StoreError> {
    let size_bytes = segment.header.size_bytes;
    let (mut next, mut total) = (0, 0);
    loop {
        match reader.next()? {
            Piece::Data(offset, bytes) => {
                let len = bytes.len() as u64;
                let end = offset.checked_add(len).filter(|end| *end <= size_bytes);
                let Some(end) = end.filter(|_| offset >= next) else {
                    let found = format!("{len:#x} bytes at {offset:#x}");
                    let expected = format!("from {next:#x} on, below {size_bytes:#x}");
                    return Err(reader.bad("place of content", found, expected));
                };
                write(segment, offset, &bytes)?;
                (next, total) = (end, total + len);
                progress(&Progress {
                    segment: segment.header.name.clone(),
                    done_bytes: end,
                    size_bytes,
                });
            }
            Piece::End(count) if count == total => return Ok(total),
            Piece::End(count) => {
                return Err(reader.bad("content of a segment", counted(total, "byte"), count));
            }
            _ => return Err(reader.bad("kind of a piece", "another", "content or its end")),
        }
    }
}

fn write(segment: &Waiting<'_>, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
    let data_offset = match segment.header.lifetime {
        Lifetime::Versioned => 0,
        Lifetime::Persistent | Lifetime::Volatile => DATA_OFFSET,
    };
    for (skip, run) in runs(bytes) {
        let (mut at, mut rest) = (offset + skip as u64, run);
        while !rest.is_empty() {
            let (index, within) = (at / PART_BYTES, at % PART_BYTES);
            let most = usize::try_from(PART_BYTES - within).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_checked(most).unwrap_or_default();
            let part = segment.parts.made.iter().find(|(number, ..)| *number == index);
            let written = match part {
                Some((_, file, _)) => file.write_all_at(now, within),
                // All of a versioned segment's is in one file.
                None => segment.main.file.write_all_at(now, data_offset + at),
            };
            written.map_err(|e| {
                let main = segment.main.store.tmp.path_of(&segment.main.name);
                io_error("write", part.map_or(&main, |(.., path)| path), e)
            })?;
            (at, rest) = (at + most as u64, later);
        }
    }
    Ok(())
}

/// Segments of one VAS share no addresses, whatever a forged archive says.
fn check_overlap(path: &Path, waiting: &[Waiting<'_>]) -> Result<(), StoreError> {
    let mut ranges: Vec<(u64, u64, SegId)> =
        waiting.iter().map(|s| (s.header.base, s.header.reserve_end(), s.header.sid)).collect();
    ranges.sort_unstable_by_key(|(base, ..)| *base);
    for pair in ranges.windows(2) {
        if let [(_, end, one), (base, _, other)] = pair
            && base < end
        {
            let found = format!("segments {one} and {other} at the same addresses");
            return Err(bad_field(path, "base", found, "addresses of their own"));
        }
    }
    Ok(())
}

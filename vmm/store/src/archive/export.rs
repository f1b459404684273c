//! Writing an archive.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use abi::objects::Right;

use crate::archive::outcome::{Exported, Progress};
use crate::archive::piece::{CHUNK_BYTES, Writer};
use crate::format::error::{StoreError, io_error};
use crate::format::extent::PART_BYTES;
use crate::format::header::{Header, SegmentState};
use crate::format::manifest::Manifest;
use crate::format::name::Name;
use crate::format::record::{VasRecord, VasSegment};
use crate::objects::segment::SegmentFile;
use crate::objects::sparse::{next_data, runs};
use crate::objects::store::Store;
use crate::objects::view::SegmentView;

/// Quick; what compresses at all here is mostly zeros and repetition.
const LEVEL: i32 = 3;

impl Store {
    /// All segments a VAS lists.
    ///
    /// # Errors
    /// [`StoreError::Lost`] for one that is not there, and as [`Store::open_segment`].
    pub fn open_listed(&self, vas: &VasRecord) -> Result<Vec<SegmentFile>, StoreError> {
        let open = |listed: &VasSegment| match self.open_segment(listed.sid) {
            Err(StoreError::NotFound(_)) => Err(vas.lost(listed, listed.sid)),
            opened => opened,
        };
        vas.segments.iter().map(open).collect()
    }

    /// Writes a VAS and its segments, open to be read in the order in which it lists them, as one
    /// archive; `path` is for messages. A version becomes a segment of its own, as a tag of a VAS becomes a
    /// VAS: under the name of what it is a version of.
    ///
    /// A caller that wants a consistent snapshot keeps raw segments from being written meanwhile, and asks
    /// afterwards whether versions have stayed ([`SegmentView::check`]). A segment that a live VM has
    /// writable is marked clean in the archive.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Versions`]. What was written until then is not a complete archive.
    pub fn export_vas(
        &self,
        vas: VasRecord,
        segments: &[SegmentView],
        to: &mut dyn Write,
        path: &Path,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Exported, StoreError> {
        let failed = |e| io_error("write", path, e);
        let mut encoder = zstd::Encoder::new(to, LEVEL).map_err(failed)?;
        encoder.include_checksum(true).map_err(failed)?;
        let mut writer = Writer::new(encoder).map_err(failed)?;
        let (mode, described) = (vas.mode, self.described(vas, segments)?);
        writer.vas(&described.manifest, mode).map_err(failed)?;
        let mut exported = Exported::default();
        for (view, header) in segments.iter().zip(&described.headers) {
            let segment = view.segment();
            let inconsistent = !segment.is_versioned() && self.is_inconsistent(segment)?;
            let mode = self.mode_of(segment)?;
            writer.segment(header, mode, inconsistent).map_err(failed)?;
            let data_bytes = match view.pinned() {
                Some(_) => write_version(view, &mut writer, path, progress)?,
                None => write_content(segment, &mut writer, path, progress)?,
            };
            writer.end(data_bytes).map_err(failed)?;
            exported.segments += 1;
            exported.data_bytes += data_bytes;
        }
        let encoder = writer.done(exported.segments.into()).map_err(failed)?;
        encoder.finish().and_then(|to| to.flush()).map_err(failed)?;
        Ok(exported)
    }

    /// What an archive says of a VAS and its segments.
    fn described(&self, vas: VasRecord, segments: &[SegmentView]) -> Result<Described, StoreError> {
        let VasRecord { vid, name, tagged, segments: mut listed, .. } = vas;
        let is_kept = |view: &SegmentView| view.segment().header().kept.is_some();
        // The tag of a VAS has tags of its segments and nothing else.
        let original = name.as_str().rsplit_once('@').map(|(original, _)| original);
        let original = original.filter(|_| !segments.is_empty() && segments.iter().all(is_kept));
        let original = original.map(|original| Name::new(original.as_bytes())).transpose()?;
        // A tag lists what it has to be read; what comes back is what it was made from.
        let was = original.as_ref().and_then(|name| self.vas_named(name).ok());
        let mut headers = Vec::new();
        for (view, listed) in segments.iter().zip(&mut listed) {
            let mut header = view.segment().header().clone();
            // As in a copy: no program has the archive open for writing, so none would ever mark it
            // clean.
            if self.is_written(header.sid) {
                header.state = SegmentState::Clean;
            }
            if let Some(kept) = header.kept.take() {
                header.name = own_name(&header.name, &name)?;
                if original.is_some() {
                    let of = was.iter().flat_map(|vas| &vas.segments).find(|it| it.sid == kept.of);
                    listed.right = of.map_or(Right::Write, |of| of.right);
                }
            }
            listed.name = header.name.clone();
            headers.push(header);
        }
        let name = original.unwrap_or(name);
        let manifest = Manifest { vid, name, tagged, numbers_after: 0, segments: listed };
        Ok(Described { manifest, headers })
    }
}

/// The manifest and the headers of an archive.
struct Described {
    manifest: Manifest,
    headers: Vec<Header>,
}

/// What a version is called where it is a segment of its own: as the segment that `vas` is a tag of has
/// it, and otherwise without the `@` that no new name may have.
fn own_name(kept: &Name, vas: &Name) -> Result<Name, StoreError> {
    let of_tag = format!("@{}", vas.as_str());
    let name = kept.as_str().strip_suffix(&of_tag).unwrap_or(kept.as_str());
    Ok(Name::new(name.replace('@', ".").as_bytes())?)
}

/// Writes what a version has: where that may be something else than zeros.
fn write_version<W: Write>(
    view: &SegmentView,
    writer: &mut Writer<W>,
    path: &Path,
    progress: &mut dyn FnMut(&Progress),
) -> Result<u64, StoreError> {
    let segment = view.segment();
    let (name, size_bytes) = (segment.name().clone(), segment.header().size_bytes);
    let mut now = Progress { segment: name, done_bytes: 0, size_bytes };
    let mut written = 0;
    view.each_run(CHUNK_BYTES, |offset, bytes| {
        writer.data(offset, bytes).map_err(|e| io_error("write", path, e))?;
        written += bytes.len() as u64;
        now.done_bytes = offset + bytes.len() as u64;
        progress(&now);
        Ok(())
    })?;
    now.done_bytes = size_bytes;
    progress(&now);
    Ok(written)
}

fn write_content<W: Write>(
    segment: &SegmentFile,
    writer: &mut Writer<W>,
    path: &Path,
    progress: &mut dyn FnMut(&Progress),
) -> Result<u64, StoreError> {
    use std::os::unix::fs::FileExt;
    let header = segment.header();
    let mut now =
        Progress { segment: segment.name().clone(), done_bytes: 0, size_bytes: header.size_bytes };
    let (mut written, mut buffer) = (0, vec![0; CHUNK_BYTES]);
    for index in 0..header.parts() {
        let part = segment.part(index)?;
        let unreadable = |e| io_error("read", segment.path(), e);
        let file = File::from(part.fd().try_clone_to_owned().map_err(unreadable)?);
        let start = index * PART_BYTES;
        let end = part.offset() + part.len_bytes();
        let mut at = part.offset();
        while let Some((data, hole)) = next_data(&file, at, end) {
            at = data;
            while at < hole {
                let most = usize::try_from(hole - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                let chunk = buffer.get_mut(..most).unwrap_or_default();
                file.read_exact_at(chunk, at).map_err(unreadable)?;
                let offset = start + (at - part.offset());
                for (skip, run) in runs(chunk) {
                    let run_at = offset + skip as u64;
                    writer.data(run_at, run).map_err(|e| io_error("write", path, e))?;
                    written += run.len() as u64;
                }
                at += most as u64;
                now.done_bytes = offset + most as u64;
                progress(&now);
            }
        }
    }
    now.done_bytes = header.size_bytes;
    progress(&now);
    Ok(written)
}

//! Writing an archive.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::archive::outcome::{Exported, Progress};
use crate::archive::piece::{CHUNK_BYTES, Writer};
use crate::format::error::{StoreError, io_error};
use crate::format::extent::PART_BYTES;
use crate::format::header::SegmentState;
use crate::format::manifest::Manifest;
use crate::format::record::{VasRecord, VasSegment};
use crate::objects::clone::NO_COPIES;
use crate::objects::segment::SegmentFile;
use crate::objects::sparse::{next_data, runs};
use crate::objects::store::Store;

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

    /// Writes a VAS and all its segments, opened already, as one archive; `path` is for messages.
    /// Without the store's lock and the segments': a caller that wants a consistent snapshot holds
    /// those (`vas::content`). A segment that a live VM has writable is then marked clean in it.
    ///
    /// # Errors
    /// [`StoreError::Io`]. What was written until then is not a complete archive.
    /// [`StoreError::Versioned`], with nothing written.
    pub fn export_vas(
        &self,
        vas: VasRecord,
        segments: &[SegmentFile],
        to: &mut dyn Write,
        path: &Path,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Exported, StoreError> {
        if let Some(segment) = segments.iter().find(|segment| segment.is_versioned()) {
            return Err(segment.refused("export", NO_COPIES));
        }
        let failed = |e| io_error("write", path, e);
        let mut encoder = zstd::Encoder::new(to, LEVEL).map_err(failed)?;
        encoder.include_checksum(true).map_err(failed)?;
        let mut writer = Writer::new(encoder).map_err(failed)?;
        let VasRecord { vid, name, mode, tagged, segments: listed, .. } = vas;
        let manifest = Manifest { vid, name, tagged, segments: listed };
        writer.vas(&manifest, mode).map_err(failed)?;
        let mut exported = Exported::default();
        for segment in segments {
            let inconsistent = self.is_inconsistent(segment)?;
            let mode = self.mode_of(segment)?;
            let mut header = segment.header().clone();
            // As in a copy: no program has the archive open for writing, so none would ever mark it
            // clean.
            if self.is_written(segment.sid()) {
                header.state = SegmentState::Clean;
            }
            writer.segment(&header, mode, inconsistent).map_err(failed)?;
            let data_bytes = write_content(segment, &mut writer, path, progress)?;
            writer.end(data_bytes).map_err(failed)?;
            exported.segments += 1;
            exported.data_bytes += data_bytes;
        }
        let encoder = writer.done(exported.segments.into()).map_err(failed)?;
        encoder.finish().and_then(|to| to.flush()).map_err(failed)?;
        Ok(exported)
    }
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

//! The decoders of everything that comes from outside, for the fuzz targets in `fuzz/` only: any
//! bytes are either refused with a reason, or decoded to something that encodes to the same bytes.

use std::path::Path;

use crate::archive;
use crate::format::error::StoreError;
use crate::format::header::{HEADER_BYTES, Header};
use crate::format::manifest::Manifest;

/// Reads a segment's header; shorter input is filled with zeros. Returns whether what was
/// accepted survives being written and read again.
///
/// # Errors
/// What is wrong with the bytes.
pub fn header(bytes: &[u8]) -> Result<bool, StoreError> {
    let mut raw = [0; HEADER_BYTES];
    raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let header = Header::decode(&raw, Path::new("header"))?;
    Ok(header.encode() == raw)
}

/// As [`header()`] with a corrected checksum, so that the fields decide.
///
/// # Errors
/// What is wrong with the fields.
pub fn header_fields(bytes: &[u8]) -> Result<bool, StoreError> {
    let mut raw = [0; HEADER_BYTES];
    raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    if let Some((body, sum)) = raw.split_last_chunk_mut::<4>() {
        *sum = crc32fast::hash(body).to_le_bytes();
    }
    header(&raw)
}

/// Reads a manifest.
///
/// # Errors
/// What is wrong with it.
pub fn manifest(bytes: &[u8]) -> Result<bool, StoreError> {
    let manifest = Manifest::decode(bytes, Path::new("manifest"))?;
    Ok(Manifest::decode(manifest.encode().as_bytes(), Path::new("again"))? == manifest)
}

/// Reads a manifest's lines under a correct version and checksum.
///
/// # Errors
/// What is wrong with the lines.
pub fn manifest_lines(bytes: &[u8]) -> Result<bool, StoreError> {
    let mut text = b"spacejmp vas 1\n".to_vec();
    text.extend(bytes);
    text.push(b'\n');
    let sum = crc32fast::hash(&text);
    text.extend(format!("checksum {sum:08x}\n").bytes());
    manifest(&text)
}

/// Reads an archive, zstd or what is inside; returns its pieces.
///
/// # Errors
/// What is wrong with it.
pub fn archive(bytes: &[u8], compressed: bool) -> Result<u64, StoreError> {
    archive::read_any(bytes, compressed)
}

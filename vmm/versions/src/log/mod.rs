//! A log: the commits of a segment since its home file was last brought up to date.
//!
//! - [`header`]: the first page, which says where the log goes on from
//! - [`record`]: one commit: its pages' places and checksums, then the pages
//! - [`scan`]: reading a log to its end, which a power cut may have put anywhere
//!
//! Each checksum covers the previous one, from the previous log's last record on: what was written
//! for another history has another chain, however whole it is (hazard: record k + 1 torn, k + 2
//! whole, k + 1 written anew).

pub mod entry;
pub mod header;
pub mod record;
pub mod scan;

/// Most bytes of a log, its header included. Bounds what recovery reads.
pub const LOG_BYTES_MAX: u64 = 64 << 20;

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

/// Zero for what lies behind the end.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

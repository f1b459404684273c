//! The lease of a live VM: the bytes of its file.
//!
//! ```text
//! 0x00_0000  text: id and program                           4088 bytes, zero-filled
//! 0x00_0ff8  1: alive as long as there is a write lock; 0: an flock
//! 0x01_0000  abi::switch::VcpuStatus by vCPU                  64 KiB  written by the guest kernel
//! 0x20_0000  abi::switch::InstanceEntry by handle           2 MiB   written by the VMM
//! 0x40_0000  attached segments: sid u64, right u64 (1, 3)   1 MiB   written here; sid 0: free
//! ```
//!
//! The file is sparse. How it is held, and by whom, is in `objects::lease` and `liveness`.

use abi::layout::{INSTANCES, LOCK_REFS, MAX_VCPUS};
use abi::objects::LeaseId;
use abi::switch::VcpuStatus;

use crate::format::error::StoreError;
use crate::format::escape::{escape, parse_id, unescape};
use crate::format::text::{Reader, Writer};

/// Offset of the vCPU status entries.
pub const VCPU_STATUSES_OFFSET: u64 = 0x1_0000;
/// Bytes of all status entries.
pub(crate) const VCPU_STATUSES_BYTES: u64 = MAX_VCPUS as u64 * size_of::<VcpuStatus>() as u64;
/// Where the table of instances begins.
pub const INSTANCES_OFFSET: u64 = 0x20_0000;
/// Bytes of the table of instances.
pub(crate) const INSTANCES_BYTES: u64 = LOCK_REFS.raw() - INSTANCES.raw();
/// Where the table of attached segments begins.
pub const SEGMENTS_OFFSET: u64 = 0x40_0000;
/// Entries of the table of attached segments.
pub(crate) const MAX_SEGMENTS: u32 = 65536;
/// Bytes of one entry: id and right.
pub(crate) const SEGMENT_BYTES: u64 = 16;
/// Bytes of the file.
pub(crate) const LEASE_BYTES: u64 = SEGMENTS_OFFSET + MAX_SEGMENTS as u64 * SEGMENT_BYTES;
/// Bytes of the text.
pub(crate) const TEXT_BYTES: usize = 4096;
/// Longest program name kept: even with every byte escaped to three it fits the text.
const PROGRAM_BYTES: usize = 1024;

const _: () = {
    // The format on disk: change it only with a new version, together with docs/src/store.md.
    assert!(VCPU_STATUSES_OFFSET + VCPU_STATUSES_BYTES <= INSTANCES_OFFSET);
    assert!(INSTANCES_OFFSET + INSTANCES_BYTES == SEGMENTS_OFFSET);
    assert!(LEASE_BYTES == 0x50_0000);
};

/// What others see of a VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// What it runs; the first 1024 bytes are kept.
    pub program: String,
    /// Its process.
    pub pid: u32,
}

/// The text: id, process, start and program.
pub(crate) fn encode(id: LeaseId, info: &LeaseInfo, started_ns: u64) -> String {
    let mut text = Writer::new("vm", 1);
    text.line("id", id);
    text.line("pid", info.pid);
    text.line("started", started_ns);
    let mut end = info.program.len().min(PROGRAM_BYTES);
    while !info.program.is_char_boundary(end) {
        end -= 1;
    }
    text.line("program", escape(info.program.get(..end).unwrap_or_default()));
    text.finish()
}

/// Reads what `encode` wrote: program and process, and when it started (nanoseconds since 1970).
pub(crate) fn decode(
    bytes: &[u8],
    id: LeaseId,
    path: &std::path::Path,
) -> Result<(LeaseInfo, u64), StoreError> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let mut text = Reader::new(path, bytes.get(..end).unwrap_or_default(), "vm", 1)?;
    let found = text.value("id")?;
    if parse_id(found) != Some(id.raw()) {
        return Err(text.bad("id", found, "the file's name"));
    }
    let pid = text.value("pid")?;
    let pid = pid.parse().map_err(|_| text.bad("pid", pid, "a number"))?;
    let started = text.value("started")?;
    let started_ns = started.parse().map_err(|_| text.bad("started", started, "a number"))?;
    let program = text.value("program")?;
    let program = unescape(program)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| text.bad("program", program, "escaped text"))?;
    text.end()?;
    Ok((LeaseInfo { program, pid }, started_ns))
}

//! Arguments of calls: ids, names and structures in the program's memory.
//!
//! Every value comes from the program and may be anything.

use abi::objects::{NAME_MAX_BYTES, SegParams, SegRoot, SegStat, VasStat};
use abi::{Right, SegId, VasId};
use spacejmp_versions::log::record::MESSAGE_BYTES_MAX;

use crate::linux::task::ThreadCtx;
use crate::store::{Mode, Name, StoreError};
use crate::vas::VasError;

/// The least that a program can request of an object: its id.
const STAT_MIN_BYTES: u64 = 8;
/// The least that has to be specified for a segment: base and size.
const PARAMS_MIN_BYTES: u64 = 16;
/// Most bytes that one listing call fills.
const LIST_MAX_BYTES: u64 = 1 << 20;

/// A VAS id.
///
/// # Errors
/// `ENOENT`: no VAS has such an id.
pub fn vid(raw: u64) -> Result<VasId, VasError> {
    VasId::new(raw).ok_or(VasError::NoSuchId { kind: "VAS", raw })
}

/// A segment id.
///
/// # Errors
/// `ENOENT`: no segment has such an id.
pub fn sid(raw: u64) -> Result<SegId, VasError> {
    SegId::new(raw).ok_or(VasError::NoSuchId { kind: "segment", raw })
}

/// The access right of an attachment.
///
/// # Errors
/// `EINVAL`.
pub fn right(raw: u64) -> Result<Right, VasError> {
    Right::from_raw(raw).ok_or(VasError::Invalid { what: "the right" })
}

/// Permission bits.
///
/// # Errors
/// `EINVAL` for anything but the nine of `chmod`.
pub fn mode(raw: u64) -> Result<Mode, VasError> {
    let mode = u32::try_from(raw).ok().and_then(Mode::new);
    mode.ok_or(VasError::Invalid { what: "the mode" })
}

/// Permission bits of something new: the program's umask applies, as to files.
///
/// # Errors
/// As [`mode`].
pub fn new_mode(ctx: &ThreadCtx<'_>, raw: u64) -> Result<Mode, VasError> {
    mode(raw)?;
    mode(ctx.files().masked(raw as u32).into())
}

/// A flag.
///
/// # Errors
/// `EINVAL` for anything but 0 and 1.
pub fn flag(raw: u64) -> Result<bool, VasError> {
    match raw {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(VasError::Invalid { what: "the flag" }),
    }
}

/// A name of `len` bytes at `gva`.
///
/// # Errors
/// `EFAULT`, `ENAMETOOLONG`, or `EINVAL` for an invalid name.
pub fn name(ctx: &ThreadCtx<'_>, gva: u64, len: u64) -> Result<Name, VasError> {
    if len > NAME_MAX_BYTES as u64 {
        return Err(VasError::NameTooLong { bytes: len });
    }
    let mut bytes = vec![0; len as usize];
    get(ctx, gva, &mut bytes)?;
    Ok(Name::new(&bytes).map_err(StoreError::from)?)
}

/// A version's message of `len` bytes at `gva`; empty for none.
///
/// # Errors
/// `EFAULT`, or `EINVAL` for what is too long, not UTF-8, or has control characters.
pub fn message(ctx: &ThreadCtx<'_>, gva: u64, len: u64) -> Result<String, VasError> {
    if len > MESSAGE_BYTES_MAX as u64 {
        return Err(VasError::Invalid { what: "the message: it has at most 120 bytes" });
    }
    let mut bytes = vec![0; len as usize];
    get(ctx, gva, &mut bytes)?;
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control));
    text.ok_or(VasError::Invalid { what: "the message: it is one line of UTF-8" })
}

/// Reads the program's memory.
///
/// # Errors
/// `EFAULT`.
fn get(ctx: &ThreadCtx<'_>, gva: u64, bytes: &mut [u8]) -> Result<(), VasError> {
    let len = bytes.len() as u64;
    let failed = |errno| VasError::Buffer { gva, len, errno };
    ctx.user().copy_in(gva, bytes).map_err(failed)
}

/// Writes into the program's memory.
///
/// # Errors
/// `EFAULT`.
pub fn put(ctx: &ThreadCtx<'_>, gva: u64, bytes: &[u8]) -> Result<(), VasError> {
    let failed = |errno| VasError::Buffer { gva, len: bytes.len() as u64, errno };
    ctx.user().copy_out(gva, bytes).map_err(failed)
}

/// As much of `bytes` as the caller's buffer of `capacity` bytes can take.
///
/// # Errors
/// `EFAULT`; `EINVAL` for less space than the object's id needs.
pub fn put_up_to(
    ctx: &ThreadCtx<'_>,
    gva: u64,
    capacity: u64,
    bytes: &[u8],
) -> Result<(), VasError> {
    if capacity < STAT_MIN_BYTES {
        return Err(VasError::Invalid { what: "the length of the buffer" });
    }
    let len = usize::try_from(capacity).unwrap_or(usize::MAX).min(bytes.len());
    put(ctx, gva, bytes.get(..len).unwrap_or(bytes))
}

/// How many entries of `bytes` each fit into a buffer of `capacity` bytes.
///
/// # Errors
/// `EINVAL` when there is no space for one.
pub fn entries(capacity: u64, bytes: usize) -> Result<usize, VasError> {
    match (capacity.min(LIST_MAX_BYTES) / bytes as u64) as usize {
        0 => Err(VasError::Invalid { what: "the length of the buffer" }),
        entries => Ok(entries),
    }
}

/// What `seg_alloc` is to create.
///
/// # Errors
/// `EFAULT`, or `EINVAL` when the caller's structure ends before the size.
pub fn seg_params(ctx: &ThreadCtx<'_>, gva: u64, len: u64) -> Result<SegParams, VasError> {
    if len < PARAMS_MIN_BYTES {
        return Err(VasError::Invalid { what: "the length of the parameters" });
    }
    // Fields that the caller does not know are 0.
    let mut bytes = [0; size_of::<SegParams>()];
    let known = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
    let (known, _) = bytes.split_at_mut(known);
    get(ctx, gva, known)?;
    let mut fields = Fields(&bytes);
    let params = SegParams {
        base: fields.u64(),
        size_bytes: fields.u64(),
        reserve_bytes: fields.u64(),
        mode: fields.u32(),
        lifetime: fields.u8(),
        pages: fields.u8(),
        lockable: fields.u8(),
        reserved: fields.u8(),
        durability: fields.u16(),
        reserved_end: std::array::from_fn(|_| fields.u8()),
    };
    if params.reserved != 0 || params.reserved_end != [0; 6] {
        return Err(VasError::Invalid { what: "a reserved field" });
    }
    Ok(params)
}

/// A root object.
///
/// # Errors
/// `EFAULT`.
pub fn seg_root(ctx: &ThreadCtx<'_>, gva: u64) -> Result<SegRoot, VasError> {
    let mut bytes = [0; size_of::<SegRoot>()];
    get(ctx, gva, &mut bytes)?;
    let mut fields = Fields(&bytes);
    Ok(SegRoot { address: fields.u64(), fingerprint: [fields.u64(), fields.u64()] })
}

/// A root object's bytes.
#[must_use]
pub fn seg_root_bytes(root: &SegRoot) -> Vec<u8> {
    let [low, high] = root.fingerprint;
    [root.address, low, high].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The bytes of a `SegStat`.
#[must_use]
pub fn seg_stat_bytes(stat: &SegStat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<SegStat>());
    for word in [stat.sid, stat.base, stat.size_bytes, stat.reserve_bytes, stat.stored_bytes] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&stat.mode.to_le_bytes());
    let flags =
        [stat.lifetime, stat.pages, stat.lockable, stat.dirty, stat.inconsistent, stat.access];
    bytes.extend_from_slice(&flags);
    bytes.extend_from_slice(&stat.durability.to_le_bytes());
    bytes.extend_from_slice(&stat.attachers.to_le_bytes());
    bytes.extend_from_slice(&stat.name);
    // Pads to the end of the structure, whose size is a multiple of 8.
    bytes.resize(size_of::<SegStat>(), 0);
    bytes
}

/// The bytes of a `VasStat`.
#[must_use]
pub fn vas_stat_bytes(stat: &VasStat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<VasStat>());
    bytes.extend_from_slice(&stat.vid.to_le_bytes());
    for half in [stat.mode, stat.segments, stat.attachers] {
        bytes.extend_from_slice(&half.to_le_bytes());
    }
    bytes.extend_from_slice(&[stat.tagged, stat.access, 0, 0]);
    bytes.extend_from_slice(&stat.name);
    bytes.resize(size_of::<VasStat>(), 0);
    bytes
}

/// A name as in a stat structure.
#[must_use]
pub fn name_field(name: &str) -> [u8; 256] {
    let mut field = [0; 256];
    field.iter_mut().zip(name.bytes().take(NAME_MAX_BYTES)).for_each(|(to, from)| *to = from);
    field
}

/// Little-endian numbers, one after another.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.0 = tail;
                *head
            }
            None => [0; N],
        }
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }
}

//! The first 512 bytes of a segment's file.
//!
//! Little-endian, at fixed offsets, with a checksum at the end; docs/src/store.md lists them.
//! The header describes the segment completely: a copied file is a whole segment.

use std::path::Path;

use abi::layout::{VAS_END, VAS_START};
use abi::objects::{Lifetime, PagePolicy, SegRoot};
use abi::{LeaseId, PAGE_SIZE, PAGE_SIZE_2M, SegId};

use super::StoreError;
use super::name::Name;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 512;
/// Where the lock page lies in the file.
pub const LOCK_PAGE_OFFSET: u64 = PAGE_SIZE;
/// Where the data begins: at a multiple of the large page, so that host and guest can both
/// map it large.
pub const DATA_OFFSET: u64 = PAGE_SIZE_2M;
/// Bytes of data in one file; what is beyond lies in further files. Half of what ext4 takes.
pub const PART_BYTES: u64 = 8 << 40;

const MAGIC: u64 = u64::from_le_bytes(*b"SJsegmnt");
const VERSION: u64 = 1;
/// ELF's number for x86-64: what pointers and layout in the segment are made for.
const ARCHITECTURE: u64 = 62;

/// A segment's header, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The segment.
    pub sid: SegId,
    /// Its name when it was made; another one means that the file is a copy.
    pub name: Name,
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes it may grow to.
    pub reserve_bytes: u64,
    /// Which pages map it.
    pub pages: PagePolicy,
    /// Whether switching takes its lock.
    pub lockable: bool,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// The mark of a writer who has not ended properly, or is still at it: its VM.
    pub writer: Option<LeaseId>,
    /// The host's boot in which that was.
    pub boot: [u64; 2],
    /// Where to begin reading.
    pub root: SegRoot,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// The store it was made in.
    pub store: u64,
    /// Somebody had it attached: for volatile segments, which end with the last one.
    pub used: bool,
}

/// Offsets of the fields.
mod at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 8;
    pub(super) const COMPATIBLE: usize = 16;
    pub(super) const INCOMPATIBLE: usize = 24;
    pub(super) const SID: usize = 32;
    pub(super) const BASE: usize = 40;
    pub(super) const SIZE: usize = 48;
    pub(super) const RESERVE: usize = 56;
    pub(super) const PAGES: usize = 64;
    pub(super) const LOCKABLE: usize = 72;
    pub(super) const LIFETIME: usize = 80;
    pub(super) const ARCHITECTURE: usize = 88;
    pub(super) const PART: usize = 96;
    pub(super) const WRITER: usize = 104;
    pub(super) const BOOT: usize = 112;
    pub(super) const ROOT: usize = 128;
    pub(super) const FINGERPRINT: usize = 136;
    pub(super) const CREATED: usize = 152;
    pub(super) const STORE: usize = 160;
    pub(super) const USED: usize = 168;
    pub(super) const NAME_LEN: usize = 176;
    pub(super) const NAME: usize = 184;
    pub(super) const CHECKSUM: usize = 504;
}

impl Header {
    /// The bytes in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: u64| {
            if let Some(slot) = bytes.get_mut(at..at + 8) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        };
        let [low, high] = self.root.fingerprint;
        let [boot_low, boot_high] = self.boot;
        for (offset, value) in [
            (at::MAGIC, MAGIC),
            (at::VERSION, VERSION),
            (at::SID, self.sid.raw()),
            (at::BASE, self.base),
            (at::SIZE, self.size_bytes),
            (at::RESERVE, self.reserve_bytes),
            (at::PAGES, self.pages as u64),
            (at::LOCKABLE, u64::from(self.lockable)),
            (at::LIFETIME, self.lifetime as u64),
            (at::ARCHITECTURE, ARCHITECTURE),
            (at::PART, PART_BYTES),
            (at::WRITER, self.writer.map_or(0, LeaseId::raw)),
            (at::BOOT, boot_low),
            (at::BOOT + 8, boot_high),
            (at::ROOT, self.root.address),
            (at::FINGERPRINT, low),
            (at::FINGERPRINT + 8, high),
            (at::CREATED, self.created),
            (at::STORE, self.store),
            (at::USED, u64::from(self.used)),
            (at::NAME_LEN, self.name.as_str().len() as u64),
        ] {
            put(offset, value);
        }
        let name = self.name.as_str().as_bytes();
        if let Some(slot) = bytes.get_mut(at::NAME..at::NAME + name.len()) {
            slot.copy_from_slice(name);
        }
        let checksum = checksum(&bytes);
        if let Some(slot) = bytes.get_mut(at::CHECKSUM..) {
            slot.copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    }

    /// Checks the bytes found in `file`.
    ///
    /// # Errors
    /// [`StoreError::BadField`] with the first field that cannot be.
    pub fn decode(bytes: &[u8; HEADER_BYTES], file: &Path) -> Result<Header, StoreError> {
        let word = |at: usize| {
            let slot = bytes.get(at..at + 8).and_then(|slot| slot.first_chunk::<8>());
            slot.map_or(0, |slot| u64::from_le_bytes(*slot))
        };
        let bad = |field, found: u64, expected: &str| StoreError::BadField {
            file: file.to_owned(),
            field,
            found: format!("{found:#x}"),
            expected: expected.to_owned(),
        };
        let exactly = |field, at, expected: u64| match word(at) {
            found if found == expected => Ok(()),
            found => Err(bad(field, found, &format!("{expected:#x}"))),
        };
        exactly("magic", at::MAGIC, MAGIC)?;
        exactly("version", at::VERSION, VERSION)?;
        exactly("incompatible features", at::INCOMPATIBLE, 0)?;
        exactly("checksum", at::CHECKSUM, checksum(bytes))?;
        exactly("architecture", at::ARCHITECTURE, ARCHITECTURE)?;
        exactly("bytes in a part", at::PART, PART_BYTES)?;
        let flag = |field, at| match word(at) {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(bad(field, other, "0 or 1")),
        };
        let (base, size, reserve) = (word(at::BASE), word(at::SIZE), word(at::RESERVE));
        check_place(base, size, reserve).map_err(|error| match error {
            StoreError::BadPlace { field, value, rule } => bad(field, value, rule),
            other => other,
        })?;
        let sid = word(at::SID);
        let pages = word(at::PAGES);
        let lifetime = word(at::LIFETIME);
        let name_len = word(at::NAME_LEN);
        let name = usize::try_from(name_len)
            .ok()
            .and_then(|len| bytes.get(at::NAME..at::NAME.checked_add(len)?))
            .filter(|name| at::NAME + name.len() <= at::CHECKSUM)
            .and_then(|name| Name::new(name).ok())
            .ok_or_else(|| bad("length of the name", name_len, "a name of 1 to 255 bytes"))?;
        let writer = word(at::WRITER);
        let header = Header {
            sid: SegId::new(sid).ok_or_else(|| bad("sid", sid, "1 to 2^63 - 1"))?,
            name,
            base,
            size_bytes: size,
            reserve_bytes: reserve,
            pages: PagePolicy::from_raw(pages)
                .ok_or_else(|| bad("page policy", pages, "0, 1 or 2"))?,
            lockable: flag("lockable", at::LOCKABLE)?,
            lifetime: Lifetime::from_raw(lifetime)
                .ok_or_else(|| bad("lifetime", lifetime, "0 or 1"))?,
            writer: match writer {
                0 => None,
                raw => Some(LeaseId::new(raw).ok_or_else(|| bad("writer", raw, "a lease or 0"))?),
            },
            boot: [word(at::BOOT), word(at::BOOT + 8)],
            root: SegRoot {
                address: word(at::ROOT),
                fingerprint: [word(at::FINGERPRINT), word(at::FINGERPRINT + 8)],
            },
            created: word(at::CREATED),
            store: word(at::STORE),
            used: flag("used", at::USED)?,
        };
        check_root(&header, &header.root)
            .map_err(|_| bad("root", header.root.address, "0 or an address of the segment"))?;
        Ok(header)
    }

    /// Whether a writer is at it or has not ended properly.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.writer.is_some()
    }

    /// Addresses it may ever have.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.base..self.base + self.reserve_bytes
    }

    /// How many files its data lies in.
    #[must_use]
    pub fn parts(&self) -> u64 {
        self.reserve_bytes.div_ceil(PART_BYTES)
    }
}

/// The checksum of everything before the last word.
fn checksum(bytes: &[u8; HEADER_BYTES]) -> u64 {
    u64::from(crc32fast::hash(bytes.get(..at::CHECKSUM).unwrap_or_default()))
}

/// Whether a segment can lie there: `base` and `reserve` in multiples of 2 MiB, `size` of
/// 4 KiB, all within the VAS region.
///
/// # Errors
/// [`StoreError::BadPlace`].
pub fn check_place(base: u64, size: u64, reserve: u64) -> Result<(), StoreError> {
    let bad = |field, value, rule| Err(StoreError::BadPlace { field, value, rule });
    if !base.is_multiple_of(PAGE_SIZE_2M) {
        return bad("base", base, "it must be a multiple of 2 MiB");
    }
    if base < VAS_START.raw() || base >= VAS_END.raw() {
        return bad("base", base, "it must lie in the VAS region, 16 to 128 TiB");
    }
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
        return bad("size", size, "it must be a positive multiple of 4 KiB");
    }
    if reserve < size || !reserve.is_multiple_of(PAGE_SIZE_2M) {
        return bad("reserve", reserve, "it must be a multiple of 2 MiB that holds the size");
    }
    if reserve > VAS_END.raw() - base {
        return bad("reserve", reserve, "it must end in the VAS region, below 128 TiB");
    }
    if reserve > PART_BYTES && !base.is_multiple_of(abi::PAGE_SIZE_1G) {
        return bad("base", base, "with more than 8 TiB it must be a multiple of 1 GiB");
    }
    Ok(())
}

/// Whether the root lies in the segment.
///
/// # Errors
/// [`StoreError::BadPlace`].
pub fn check_root(header: &Header, root: &SegRoot) -> Result<(), StoreError> {
    if root.address == 0 || header.range().contains(&root.address) {
        return Ok(());
    }
    let rule = "it must be 0 or an address of the segment";
    Err(StoreError::BadPlace { field: "root", value: root.address, rule })
}

const _: () = {
    assert!(at::COMPATIBLE == 16 && at::NAME + 255 <= at::CHECKSUM);
    assert!(at::CHECKSUM + 8 == HEADER_BYTES);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Header {
        Header {
            sid: SegId::new(0x1122_3344_5566_7788).unwrap(),
            name: Name::new(b"reads").unwrap(),
            base: VAS_START.raw() + (3 << 30),
            size_bytes: 5 << 20,
            reserve_bytes: 64 << 20,
            pages: PagePolicy::Large2M,
            lockable: true,
            lifetime: Lifetime::Persistent,
            writer: LeaseId::new(7),
            boot: [1, 2],
            root: SegRoot { address: VAS_START.raw() + (3 << 30), fingerprint: [3, 4] },
            created: 5,
            store: 6,
            used: true,
        }
    }

    /// Sets a word and makes the checksum right again.
    fn with(at: usize, value: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = sample().encode();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let sum = checksum(&bytes);
        bytes[at::CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let file = Path::new("x");
        assert_eq!(Header::decode(&sample().encode(), file).unwrap(), sample());
    }

    #[test]
    fn the_bytes_of_the_format_do_not_change() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..8], b"SJsegmnt");
        assert_eq!(bytes[32..40], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(&bytes[184..189], b"reads");
        assert_eq!(bytes[504..512], 0x0000_0000_0d5d_6ca5_u64.to_le_bytes());
    }

    #[test]
    fn every_damaged_field_is_named() {
        for (at, value, field) in [
            (at::MAGIC, 1, "magic"),
            (at::VERSION, 2, "version"),
            (at::INCOMPATIBLE, 1, "incompatible features"),
            (at::SID, 0, "sid"),
            (at::SID, 1 << 63, "sid"),
            (at::BASE, 0x1000, "base"),
            (at::BASE, 0, "base"),
            (at::SIZE, 0, "size"),
            (at::SIZE, 17, "size"),
            (at::RESERVE, 4096, "reserve"),
            (at::RESERVE, !0 << 21, "reserve"),
            (at::PAGES, 9, "page policy"),
            (at::LOCKABLE, 2, "lockable"),
            (at::LIFETIME, 5, "lifetime"),
            (at::ARCHITECTURE, 3, "architecture"),
            (at::PART, 0, "bytes in a part"),
            (at::WRITER, 1 << 63, "writer"),
            (at::ROOT, 12, "root"),
            (at::USED, 3, "used"),
            (at::NAME_LEN, 0, "length of the name"),
            (at::NAME_LEN, 300, "length of the name"),
            (at::NAME_LEN, u64::MAX, "length of the name"),
        ] {
            match Header::decode(&with(at, value), Path::new("a file")) {
                Err(StoreError::BadField { field: named, file, .. }) => {
                    assert_eq!((named, file.as_path()), (field, Path::new("a file")));
                }
                other => panic!("{field} = {value:#x}: {other:?}"),
            }
        }
        let mut bytes = sample().encode();
        bytes[300] ^= 1;
        let error = Header::decode(&bytes, Path::new("x")).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }

    #[test]
    fn features_that_older_programs_may_ignore_are_ignored() {
        assert!(Header::decode(&with(at::COMPATIBLE, 0xff), Path::new("x")).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES), fix: bool) {
            let mut bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
            if fix {
                bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
                bytes[8..32].copy_from_slice(&sample().encode()[8..32]);
                let sum = checksum(&bytes);
                bytes[at::CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
            }
            let _ = Header::decode(&bytes, Path::new("x"));
        }
    }
}

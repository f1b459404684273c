//! The first 512 bytes of a segment file: everything about the segment but its content.
//!
//! One disk sector, so that a power failure leaves the old or the new header. All numbers
//! are little-endian. Decoding checks every field before the checksum, so that an error names
//! the damaged field where the damage shows; a [`Header`] is valid by construction.
//! `FIELDS` is the one table of the layout: `docs/src/store.md` repeats it, and a test
//! compares them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use abi::addr::{PAGE_SIZE, PAGE_SIZE_2M};
use abi::layout::{VAS_END, VAS_START};
use abi::objects::{Durability, LeaseId, Lifetime, NAME_MAX_BYTES, PagePolicy, SegId, SegRoot};

use crate::format::error::{StoreError, bad_field, io_error};
use crate::format::escape::show_bytes;
use crate::format::extent::{DATA_OFFSET, LOCK_PAGE_OFFSET, PART_BYTES, WORDS_OFFSET};
use crate::format::name::Name;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 512;
const MAGIC_VALUE: &[u8; 8] = b"SJMPSEG\n";
const VERSION_VALUE: u32 = 1;
/// The content is x86-64 memory: little-endian, 64-bit pointers of 48 bits.
const ARCH_X86_64: u32 = 1;
/// The bit of the incompatible features that a versioned segment has, so that versions which know
/// no such segment say that it is newer than they are, and not that it is damaged.
const FEATURE_VERSIONED: u64 = 1 << 0;
/// The bit of a kept version: programs that do not know it would write to it.
const FEATURE_KEPT: u64 = 1 << 1;
const KNOWN_FEATURES: u64 = FEATURE_VERSIONED | FEATURE_KEPT;

/// One field of the layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

macro_rules! fields {
    ($($ident:ident = $offset:literal, $bytes:literal, $name:literal;)*) => {
        $(const $ident: Field = Field { name: $name, offset: $offset, bytes: $bytes };)*
        /// All fields in the order of their offsets.
        pub(crate) const FIELDS: &[Field] = &[$($ident),*];
    };
}

fields! {
    MAGIC = 0, 8, "magic";
    VERSION = 8, 4, "version";
    ARCH = 12, 4, "arch";
    COMPAT = 16, 8, "compatible features";
    INCOMPAT = 24, 8, "incompatible features";
    SID = 32, 8, "sid";
    BASE = 40, 8, "base";
    SIZE = 48, 8, "size";
    RESERVE = 56, 8, "reserve";
    PART = 64, 8, "part size";
    CREATED = 72, 8, "created";
    ROOT_ADDRESS = 80, 8, "root address";
    ROOT_FINGERPRINT_0 = 88, 8, "root fingerprint, first half";
    ROOT_FINGERPRINT_1 = 96, 8, "root fingerprint, second half";
    LEASE = 104, 8, "lease";
    BOOT = 112, 16, "boot id";
    PAGES = 128, 1, "pages";
    LIFETIME = 129, 1, "lifetime";
    LOCKABLE = 130, 1, "lockable";
    STATE = 131, 1, "state";
    USED = 132, 1, "used";
    RESERVED_0 = 133, 1, "reserved, first";
    DURABILITY = 134, 2, "durability";
    RESERVED_1 = 136, 6, "reserved, second";
    NAME_LEN = 142, 2, "name length";
    NAME = 144, 256, "name";
    RESERVED_2 = 400, 92, "reserved, third";
    KEPT_OF = 492, 8, "kept version of";
    KEPT_NUMBER = 500, 8, "kept version's number";
    CHECKSUM = 508, 4, "checksum";
}

const _: () = {
    // The format on disk: change it only with a new version, together with docs/src/store.md.
    let mut next = 0;
    let mut rest = FIELDS;
    while let [field, after @ ..] = rest {
        assert!(field.offset == next);
        next += field.bytes;
        rest = after;
    }
    assert!(next == HEADER_BYTES);
    assert!(NAME.bytes > NAME_MAX_BYTES);
};

/// How the last program that could write the segment left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegmentState {
    /// Properly.
    Clean = 0,
    /// Not yet, or never: the program is running, or it was killed.
    Dirty = 1,
}

/// A versioned segment that is one version of another, kept under a name of its own: a tag. Nothing
/// changes its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeptVersion {
    /// The segment whose version it is; that one may be gone.
    pub of: SegId,
    /// The version's number.
    pub number: u64,
}

/// One boot of one host, from `/proc/sys/kernel/random/boot_id`; all zero if not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// The current boot.
    #[must_use]
    pub fn current() -> BootId {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        BootId::parse(text.trim()).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<BootId> {
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        Some(BootId(u128::from_str_radix(&hex, 16).ok()?.to_be_bytes()))
    }
}

/// A segment's header, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bits of features that older versions may ignore.
    pub compatible_features: u64,
    /// The segment's id.
    pub sid: SegId,
    /// Its name; if it is not the file's, the file was copied or renamed.
    pub name: Name,
    /// First address, a multiple of 2 MiB in the VAS region.
    pub base: u64,
    /// Bytes, a multiple of 4 KiB, not 0. On disk, of a versioned segment, those it was made with.
    pub size_bytes: u64,
    /// Bytes it may grow to, a multiple of 2 MiB; base and reserve stay in the VAS region.
    pub reserve_bytes: u64,
    /// Largest pages to map it with.
    pub pages: PagePolicy,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// When commits survive a power cut; `Each` of a segment that is not versioned.
    pub durability: Durability,
    /// Whether switching acquires its lock.
    pub lockable: bool,
    /// How it was left.
    pub state: SegmentState,
    /// Whether it was attached for writing or, if volatile, at all: only then is it removed.
    pub used: bool,
    /// The last VM that attached it for writing.
    pub lease: Option<LeaseId>,
    /// The time of that; of a volatile segment, when it was created.
    pub boot: BootId,
    /// The address of the root object.
    pub root: SegRoot,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// Set if it is a kept version of a segment, and so is only read.
    pub kept: Option<KeptVersion>,
}

impl Header {
    /// One past its last possible address.
    #[must_use]
    pub fn reserve_end(&self) -> u64 {
        self.base.saturating_add(self.reserve_bytes)
    }

    /// How many files of [`PART_BYTES`] hold its content; a versioned segment has none.
    #[must_use]
    pub fn parts(&self) -> u64 {
        match self.lifetime {
            Lifetime::Persistent | Lifetime::Volatile => self.size_bytes.div_ceil(PART_BYTES),
            Lifetime::Versioned => 0,
        }
    }

    /// The minimum length of the segment's own file.
    pub(crate) fn main_len(&self) -> u64 {
        match self.lifetime {
            Lifetime::Persistent => DATA_OFFSET + self.size_bytes.min(PART_BYTES),
            Lifetime::Volatile => LOCK_PAGE_OFFSET + PAGE_SIZE,
            Lifetime::Versioned => WORDS_OFFSET + PAGE_SIZE,
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut raw = Raw([0; HEADER_BYTES]);
        raw.put(MAGIC, MAGIC_VALUE);
        raw.put(VERSION, &VERSION_VALUE.to_le_bytes());
        raw.put(ARCH, &ARCH_X86_64.to_le_bytes());
        raw.put(COMPAT, &self.compatible_features.to_le_bytes());
        raw.put(INCOMPAT, &features_of(self.lifetime, self.kept).to_le_bytes());
        raw.put(SID, &self.sid.raw().to_le_bytes());
        raw.put(BASE, &self.base.to_le_bytes());
        raw.put(SIZE, &self.size_bytes.to_le_bytes());
        raw.put(RESERVE, &self.reserve_bytes.to_le_bytes());
        raw.put(PART, &PART_BYTES.to_le_bytes());
        raw.put(CREATED, &self.created_ns.to_le_bytes());
        raw.put(ROOT_ADDRESS, &self.root.address.to_le_bytes());
        let [first, second] = self.root.fingerprint;
        raw.put(ROOT_FINGERPRINT_0, &first.to_le_bytes());
        raw.put(ROOT_FINGERPRINT_1, &second.to_le_bytes());
        raw.put(LEASE, &self.lease.map_or(0, LeaseId::raw).to_le_bytes());
        raw.put(BOOT, &self.boot.0);
        raw.put(PAGES, &[self.pages as u8]);
        raw.put(LIFETIME, &[self.lifetime as u8]);
        raw.put(DURABILITY, &durability_word(self.durability).to_le_bytes());
        raw.put(LOCKABLE, &[u8::from(self.lockable)]);
        raw.put(STATE, &[self.state as u8]);
        raw.put(USED, &[u8::from(self.used)]);
        let name = self.name.as_str().as_bytes();
        if let Some(KeptVersion { of, number }) = self.kept {
            raw.put(KEPT_OF, &of.raw().to_le_bytes());
            raw.put(KEPT_NUMBER, &number.to_le_bytes());
        }
        // A name has at most 255 bytes.
        raw.put(NAME_LEN, &(name.len() as u16).to_le_bytes());
        raw.put(NAME, name);
        let sum = raw.sum();
        raw.put(CHECKSUM, &sum.to_le_bytes());
        raw.0
    }

    /// The id in a header that cannot be used: of another version, or damaged elsewhere. Magic,
    /// version, architecture, features and id have the same offsets in every version.
    pub(crate) fn sid_in(bytes: &[u8; HEADER_BYTES]) -> Option<SegId> {
        let raw = Raw(*bytes);
        let has_magic = raw.slice(MAGIC) == MAGIC_VALUE;
        has_magic.then(|| SegId::new(u64::from_le_bytes(raw.get(SID)))).flatten()
    }

    /// Checks every field.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], file: &Path) -> Result<Header, StoreError> {
        let raw = Checked { raw: Raw(*bytes), file };
        raw.check_format()?;
        let base = raw.base()?;
        let reserve_bytes = raw.reserve(base)?;
        let size_bytes = raw.u64(SIZE);
        if size_bytes == 0 || !size_bytes.is_multiple_of(PAGE_SIZE) || size_bytes > reserve_bytes {
            let expected = format!("a multiple of 0x1000 from 0x1000 to {reserve_bytes:#x}");
            return Err(raw.bad(SIZE, format!("{size_bytes:#x}"), expected));
        }
        let kept = raw.kept()?;
        let header = Header {
            compatible_features: raw.u64(COMPAT),
            sid: raw.checked(SID, "a positive number", SegId::new)?,
            name: raw.name()?,
            base,
            size_bytes,
            reserve_bytes,
            pages: raw.byte(PAGES, "0, 1 or 2", PagePolicy::from_raw)?,
            lifetime: raw.lifetime(kept)?,
            durability: raw.durability()?,
            lockable: raw.flag(LOCKABLE)?,
            state: if raw.flag(STATE)? { SegmentState::Dirty } else { SegmentState::Clean },
            used: raw.flag(USED)?,
            lease: match raw.u64(LEASE) {
                0 => None,
                _ => Some(raw.checked(LEASE, "a positive number or 0", LeaseId::new)?),
            },
            boot: BootId(raw.raw.get(BOOT)),
            root: raw.root(base, reserve_bytes)?,
            created_ns: raw.u64(CREATED),
            kept,
        };
        if header.lifetime == Lifetime::Versioned && !header.lockable {
            return Err(raw.bad(LOCKABLE, "0".into(), "1 in a versioned segment".into()));
        }
        if header.lifetime != Lifetime::Versioned && header.durability != Durability::Each {
            let expected = "0 in a segment that is not versioned".into();
            return Err(raw.bad(DURABILITY, header.durability.to_string(), expected));
        }
        for field in [RESERVED_0, RESERVED_1, RESERVED_2] {
            if raw.raw.slice(field).iter().any(|byte| *byte != 0) {
                return Err(raw.bad(field, "something".into(), "zeros".into()));
            }
        }
        let (found, sum) = (u32::from_le_bytes(raw.raw.get(CHECKSUM)), raw.raw.sum());
        if found != sum {
            return Err(raw.bad(CHECKSUM, format!("{found:#010x}"), format!("{sum:#010x}")));
        }
        Ok(header)
    }
}

/// Reads and checks a header. Only under the store's lock is it sure not to be torn.
pub(crate) fn read_header(file: &File, path: &Path) -> Result<Header, StoreError> {
    Header::decode(&header_bytes(file, path)?, path)
}

pub(crate) fn header_bytes(file: &File, path: &Path) -> Result<[u8; HEADER_BYTES], StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            bad_field(path, "length", "less than a header", format!("{HEADER_BYTES} or more"))
        }
        _ => io_error("read", path, e),
    })?;
    Ok(bytes)
}

pub(crate) fn write_header(file: &File, path: &Path, header: &Header) -> Result<(), StoreError> {
    file.write_all_at(&header.encode(), 0).map_err(|e| io_error("write", path, e))
}

/// The incompatible features that such a segment has.
fn features_of(lifetime: Lifetime, kept: Option<KeptVersion>) -> u64 {
    let versioned = match lifetime {
        Lifetime::Persistent | Lifetime::Volatile => 0,
        Lifetime::Versioned => FEATURE_VERSIONED,
    };
    if kept.is_some() { versioned | FEATURE_KEPT } else { versioned }
}

/// In a header, `each` is 0, as it is in those from before there was anything else.
fn durability_word(durability: Durability) -> u16 {
    if durability == Durability::Each { 0 } else { durability.raw() }
}

fn durability_of(word: u16) -> Option<Durability> {
    if word == 0 { Some(Durability::Each) } else { Durability::from_raw(word.into()) }
}

/// The durability that a header says now: two bytes of one sector, which are never torn. `None` if
/// they mean nothing.
pub(crate) fn read_durability(file: &File) -> std::io::Result<Option<Durability>> {
    let mut word = [0; 2];
    file.read_exact_at(&mut word, DURABILITY.offset as u64)?;
    Ok(durability_of(u16::from_le_bytes(word)))
}

/// The bytes, addressed by field.
struct Raw([u8; HEADER_BYTES]);

impl Raw {
    fn slice(&self, field: Field) -> &[u8] {
        self.0.get(field.offset..field.offset + field.bytes).unwrap_or_default()
    }

    fn get<const N: usize>(&self, field: Field) -> [u8; N] {
        self.slice(field).try_into().unwrap_or([0; N])
    }

    fn put(&mut self, field: Field, bytes: &[u8]) {
        if let Some(to) = self.0.get_mut(field.offset..field.offset + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    fn sum(&self) -> u32 {
        crc32fast::hash(self.0.get(..CHECKSUM.offset).unwrap_or_default())
    }
}

/// The bytes and, for messages, where they are from.
struct Checked<'a> {
    raw: Raw,
    file: &'a Path,
}

impl Checked<'_> {
    fn bad(&self, field: Field, found: String, expected: String) -> StoreError {
        bad_field(self.file, field.name, found, expected)
    }

    fn u64(&self, field: Field) -> u64 {
        u64::from_le_bytes(self.raw.get(field))
    }

    fn checked<T>(
        &self,
        field: Field,
        expected: &str,
        check: impl Fn(u64) -> Option<T>,
    ) -> Result<T, StoreError> {
        let found = self.u64(field);
        check(found).ok_or_else(|| self.bad(field, format!("{found:#x}"), expected.into()))
    }

    fn byte<T>(
        &self,
        field: Field,
        expected: &str,
        check: impl Fn(u64) -> Option<T>,
    ) -> Result<T, StoreError> {
        let [found] = self.raw.get(field);
        check(found.into()).ok_or_else(|| self.bad(field, found.to_string(), expected.into()))
    }

    fn flag(&self, field: Field) -> Result<bool, StoreError> {
        self.byte(field, "0 or 1", |byte| match byte {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        })
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let file = || self.file.to_owned();
        if self.raw.slice(MAGIC) != MAGIC_VALUE {
            let found = show_bytes(self.raw.slice(MAGIC));
            return Err(StoreError::NotA { file: file(), kind: "a segment", found });
        }
        // The checksum, which is at the same offset in every version, distinguishes damage from a
        // later version.
        let is_whole = u32::from_le_bytes(self.raw.get(CHECKSUM)) == self.raw.sum();
        let version = u32::from_le_bytes(self.raw.get(VERSION));
        if version != VERSION_VALUE {
            let (found, known) = (version.to_string(), VERSION_VALUE.to_string());
            if version > VERSION_VALUE && is_whole {
                return Err(StoreError::Newer { file: file(), field: VERSION.name, found, known });
            }
            return Err(self.bad(VERSION, found, known));
        }
        let arch = u32::from_le_bytes(self.raw.get(ARCH));
        if arch != ARCH_X86_64 {
            if is_whole {
                return Err(StoreError::Foreign { file: file(), found: arch });
            }
            return Err(self.bad(ARCH, arch.to_string(), ARCH_X86_64.to_string()));
        }
        let features = self.u64(INCOMPAT);
        if features & !KNOWN_FEATURES != 0 {
            let (found, known) = (format!("{features:#x}"), format!("{KNOWN_FEATURES:#x}"));
            if is_whole {
                return Err(StoreError::Newer { file: file(), field: INCOMPAT.name, found, known });
            }
            return Err(self.bad(INCOMPAT, found, known));
        }
        let part = self.u64(PART);
        if part != PART_BYTES {
            return Err(self.bad(PART, format!("{part:#x}"), format!("{PART_BYTES:#x}")));
        }
        Ok(())
    }

    fn kept(&self) -> Result<Option<KeptVersion>, StoreError> {
        let number = self.u64(KEPT_NUMBER);
        match self.u64(KEPT_OF) {
            0 if number == 0 => Ok(None),
            0 => {
                Err(self.bad(KEPT_NUMBER, format!("{number:#x}"), "0 with the field before".into()))
            }
            _ => {
                let of = self.checked(KEPT_OF, "a positive number or 0", SegId::new)?;
                Ok(Some(KeptVersion { of, number }))
            }
        }
    }

    fn lifetime(&self, kept: Option<KeptVersion>) -> Result<Lifetime, StoreError> {
        let lifetime = self.byte(LIFETIME, "0, 1 or 2", Lifetime::from_raw)?;
        if kept.is_some() && lifetime != Lifetime::Versioned {
            let found = format!("{:#x}", self.u64(KEPT_OF));
            return Err(self.bad(KEPT_OF, found, "0 unless it is versioned".into()));
        }
        let (found, expected) = (self.u64(INCOMPAT), features_of(lifetime, kept));
        if found != expected {
            return Err(self.bad(INCOMPAT, format!("{found:#x}"), format!("{expected:#x}")));
        }
        Ok(lifetime)
    }

    fn durability(&self) -> Result<Durability, StoreError> {
        let word = u16::from_le_bytes(self.raw.get(DURABILITY));
        let known = "0, 1 to 60000, or 0xfffe";
        durability_of(word)
            .filter(|durability| durability_word(*durability) == word)
            .ok_or_else(|| self.bad(DURABILITY, format!("{word:#x}"), known.into()))
    }

    fn base(&self) -> Result<u64, StoreError> {
        self.checked(BASE, "a multiple of 2 MiB in the VAS region", |base| {
            let inside = (VAS_START.raw()..VAS_END.raw()).contains(&base);
            (inside && base.is_multiple_of(PAGE_SIZE_2M)).then_some(base)
        })
    }

    fn reserve(&self, base: u64) -> Result<u64, StoreError> {
        self.checked(RESERVE, "a multiple of 2 MiB that ends in the VAS region", |reserve| {
            let end = base.checked_add(reserve)?;
            (reserve != 0 && reserve.is_multiple_of(PAGE_SIZE_2M) && end <= VAS_END.raw())
                .then_some(reserve)
        })
    }

    fn root(&self, base: u64, reserve_bytes: u64) -> Result<SegRoot, StoreError> {
        let address = self.checked(ROOT_ADDRESS, "0 or inside the segment", |address| {
            let inside = address.checked_sub(base).is_some_and(|offset| offset < reserve_bytes);
            (address == 0 || inside).then_some(address)
        })?;
        let fingerprint = [self.u64(ROOT_FINGERPRINT_0), self.u64(ROOT_FINGERPRINT_1)];
        Ok(SegRoot { address, fingerprint })
    }

    fn name(&self) -> Result<Name, StoreError> {
        let len = usize::from(u16::from_le_bytes(self.raw.get(NAME_LEN)));
        let all = self.raw.slice(NAME);
        let (name, rest) = all
            .split_at_checked(len)
            .filter(|_| (1..=NAME_MAX_BYTES).contains(&len))
            .ok_or_else(|| self.bad(NAME_LEN, len.to_string(), "1 to 255".into()))?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(self.bad(NAME, "bytes after the name".into(), "zeros".into()));
        }
        Name::new(name).map_err(|e| self.bad(NAME, e.to_string(), "a name".into()))
    }
}

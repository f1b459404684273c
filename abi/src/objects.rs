//! The interface between programs and the VMM for VASes and segments: ids, flags, commands, and the
//! structures that calls fill or read.
//!
//! All structures are `repr(C)`, without padding, little-endian, and only ever grow at the end: a
//! caller passes the length it knows, and that many bytes are read or written. Ids are random and
//! positive, so that a call can return either an id or a negated error number.

use core::mem::{offset_of, size_of};
use core::num::NonZeroU64;

macro_rules! id_types {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// `None` for 0 and for values that could not be told from an error in a result
            /// register.
            #[must_use]
            pub const fn new(raw: u64) -> Option<$name> {
                match NonZeroU64::new(raw) {
                    Some(id) if raw >> 63 == 0 => Some($name(id)),
                    _ => None,
                }
            }

            /// The number.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0.get()
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:016x}", self.raw())
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

id_types! {
    /// A VAS of a store; never reused for another one.
    VasId,
    /// A segment of a store; never reused for another one. Locks are acquired in the order of these
    /// numbers.
    SegId,
    /// One live VM, as identified in lock words and leases; random, and new at every start.
    LeaseId,
}

/// Longest name of a VAS or segment, in bytes: a file name.
pub const NAME_MAX_BYTES: usize = 255;
/// Maximum number of instances a process has at the same time, home included.
pub const MAX_INSTANCES: u32 = 32768;
/// The handle of the process's home instance.
pub const VH_HOME: u64 = 0;

/// What an attachment allows its users to do with a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Right {
    /// Read; a lockable segment is locked in shared mode.
    Read,
    /// Read and write; a lockable segment is locked in exclusive mode.
    Write,
}

impl Right {
    /// From a call's argument: 1 is read, 3 is write (as `PROT_READ`, `PROT_READ|PROT_WRITE`).
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Right> {
        match raw {
            1 => Some(Right::Read),
            3 => Some(Right::Write),
            _ => None,
        }
    }

    /// The value as a call's argument.
    #[must_use]
    pub const fn raw(self) -> u64 {
        match self {
            Right::Read => 1,
            Right::Write => 3,
        }
    }
}

/// Flags of `vas_attach`.
pub mod attach {
    /// Every segment read-only, whatever the VAS says: shared locks, no write permission needed.
    pub const READ_ONLY: u64 = 1 << 0;
    /// Without a TLB tag: every switch into the instance flushes.
    pub const NO_TAG: u64 = 1 << 1;
    /// Page tables for all of every segment are built immediately.
    pub const POPULATE: u64 = 1 << 2;
    /// The instance belongs to one part of the program: `vas_detach` needs
    /// [`detach::OWNED`](super::detach::OWNED), and fails with `EBUSY` without it.
    pub const OWNED: u64 = 1 << 3;
    /// The instance keeps the segments it was made with. When the VAS no longer lists one of them,
    /// or lists it with another right, switching to the instance fails with `ESTALE`; segments that
    /// the VAS gains later are not added, and nothing can be attached to the instance itself
    /// (`EBUSY`).
    pub const PINNED: u64 = 1 << 4;
    /// All flags.
    pub const ALL: u64 = READ_ONLY | NO_TAG | POPULATE | OWNED | PINNED;
}

/// Flags of `vas_clone`.
pub mod clone {
    /// The new VAS has copies of the segments, called `NAME.SEGMENT`, instead of the segments
    /// themselves.
    pub const COPY: u64 = 1 << 0;
    /// All flags.
    pub const ALL: u64 = COPY;
}

/// Flags of `vas_detach`.
pub mod detach {
    /// The caller owns the instance: required for, and only allowed for, one that was attached with
    /// [`attach::OWNED`](super::attach::OWNED).
    pub const OWNED: u64 = 1 << 0;
}

/// Commands of `vas_ctl(cmd, object, arg)`.
pub mod vas_ctl {
    /// `(vid, mode)`: permission bits, as for `chmod`.
    pub const SET_MODE: u64 = 1;
    /// `(vid, 0 or 1)`: whether instances get a TLB tag; applies to later attaches.
    pub const SET_TAGGED: u64 = 2;
    /// `(vh, 0 or 1)`: the same for one instance, immediately. Not while a thread is inside it.
    pub const SET_INSTANCE_TAGGED: u64 = 3;
}

/// Commands of `seg_ctl(sid, cmd, arg)`.
pub mod seg_ctl {
    /// `(mode)`: permission bits, as for `chmod`.
    pub const SET_MODE: u64 = 1;
    /// `(0 or 1)`: whether it is lockable. Not while it is attached anywhere; a versioned segment
    /// always is.
    pub const SET_LOCKABLE: u64 = 2;
    /// `(PagePolicy)`: for page tables built from now on.
    pub const SET_PAGES: u64 = 3;
    /// `()`: the caller, who must hold the lock exclusively, declares the contents consistent again
    /// after a lock holder died.
    pub const RECOVER: u64 = 4;
    /// `(Lifetime)`: another than it has fails with `ENOTSUP`.
    pub const SET_LIFETIME: u64 = 5;
    /// `()`: the caller, who must hold the lock exclusively, declares the contents inconsistent, as
    /// if it had died: it leaves in the middle of a change.
    pub const MARK_INCONSISTENT: u64 = 6;
    /// `(Durability)`: of a versioned segment, from the next commit on.
    pub const SET_DURABILITY: u64 = 7;
}

/// The largest pages that may map a segment, as far as alignment allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PagePolicy {
    /// The largest that fit.
    Largest = 0,
    /// 4 KiB only.
    Small4K = 1,
    /// Up to 2 MiB.
    Large2M = 2,
}

impl PagePolicy {
    /// Converts from the number.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<PagePolicy> {
        match raw {
            0 => Some(PagePolicy::Largest),
            1 => Some(PagePolicy::Small4K),
            2 => Some(PagePolicy::Large2M),
            _ => None,
        }
    }
}

/// How long a segment's contents live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Lifetime {
    /// In files, until deleted. What a killed program or a power cut leaves is what was written until
    /// then.
    Persistent = 0,
    /// In memory; lost when the last process that has it attached exits or detaches.
    Volatile = 1,
    /// In files, until deleted, and changed by whole commits only: a killed program or a power cut
    /// leaves a version that was committed. Always lockable.
    Versioned = 2,
}

impl Lifetime {
    /// Converts from the number.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Lifetime> {
        match raw {
            0 => Some(Lifetime::Persistent),
            1 => Some(Lifetime::Volatile),
            2 => Some(Lifetime::Versioned),
            _ => None,
        }
    }
}

/// From its name, as on command lines.
impl core::str::FromStr for Lifetime {
    type Err = UnknownLifetime;

    fn from_str(name: &str) -> Result<Lifetime, UnknownLifetime> {
        match name {
            "persistent" => Ok(Lifetime::Persistent),
            "volatile" => Ok(Lifetime::Volatile),
            "versioned" => Ok(Lifetime::Versioned),
            _ => Err(UnknownLifetime),
        }
    }
}

/// A text that is no [`Lifetime`]'s name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownLifetime;

impl core::fmt::Display for UnknownLifetime {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a lifetime is `persistent`, `versioned` or `volatile`")
    }
}

impl core::error::Error for UnknownLifetime {}

/// Milliseconds between a commit and its sync, at most: 1 to a minute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SyncInterval(u16);

impl SyncInterval {
    /// The longest.
    pub const MAX_MS: u16 = 60_000;

    /// `None` for 0, and for more than [`SyncInterval::MAX_MS`].
    #[must_use]
    pub const fn new(ms: u64) -> Option<SyncInterval> {
        if ms == 0 || ms > Self::MAX_MS as u64 { None } else { Some(SyncInterval(ms as u16)) }
    }

    /// The number.
    #[must_use]
    pub const fn ms(self) -> u16 {
        self.0
    }
}

/// When what was committed to a versioned segment survives a power cut. That a killed program loses
/// nothing of it, and that a power cut leaves a complete version, holds for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Before the commit returns, and before others see it.
    Each,
    /// Soon after it: the commit returns at once, and is synced after so long at the latest.
    Every(SyncInterval),
    /// After `vas_sync`, and when a program detaches or exits.
    Manual,
}

impl Durability {
    /// What a segment gets for which nothing else was said.
    pub const DEFAULT: Durability = Durability::Every(SyncInterval(100));
    const MANUAL: u16 = 0xfffe;
    const EACH: u16 = 0xffff;

    /// Converts from the number that `SegParams`, `SegStat` and `seg_ctl` have; `None` for 0, which
    /// says nothing, and for one that means nothing.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Durability> {
        if raw == Self::EACH as u64 {
            return Some(Durability::Each);
        }
        if raw == Self::MANUAL as u64 {
            return Some(Durability::Manual);
        }
        match SyncInterval::new(raw) {
            Some(interval) => Some(Durability::Every(interval)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u16 {
        match self {
            Durability::Each => Self::EACH,
            Durability::Every(interval) => interval.ms(),
            Durability::Manual => Self::MANUAL,
        }
    }
}

impl core::fmt::Display for Durability {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Durability::Each => f.write_str("each"),
            Durability::Every(interval) => write!(f, "every:{}", interval.ms()),
            Durability::Manual => f.write_str("manual"),
        }
    }
}

/// The segment that `seg_alloc` is to create.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegParams {
    /// First address, 2 MiB-aligned, in the VAS region; 0 for a range that no segment of the store
    /// uses.
    pub base: u64,
    /// Size in bytes; rounded up to 4 KiB, not 0.
    pub size_bytes: u64,
    /// How far it may grow, rounded up to 2 MiB; 0 for `size_bytes`.
    pub reserve_bytes: u64,
    /// Permission bits of its file.
    pub mode: u32,
    /// [`Lifetime`].
    pub lifetime: u8,
    /// [`PagePolicy`].
    pub pages: u8,
    /// 1 if switching into a VAS that contains it acquires its lock; always of a versioned one.
    pub lockable: u8,
    /// 0.
    pub reserved: u8,
    /// [`Durability`] of a versioned segment, 0 for the default; 0 for others.
    pub durability: u16,
    /// 0.
    pub reserved_end: [u8; 6],
}

/// A segment, as reported by `seg_stat` and `seg_list`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegStat {
    /// Its id.
    pub sid: u64,
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes it may grow to.
    pub reserve_bytes: u64,
    /// Bytes the host stores for it (sparse files store less than their size).
    pub stored_bytes: u64,
    /// Permission bits of its file.
    pub mode: u32,
    /// [`Lifetime`].
    pub lifetime: u8,
    /// [`PagePolicy`].
    pub pages: u8,
    /// 1 if lockable.
    pub lockable: u8,
    /// 1 if its last writer did not exit cleanly, and no VM has it attached writable now.
    pub dirty: u8,
    /// 1 if a holder of its lock died and it has not been recovered since.
    pub inconsistent: u8,
    /// What the caller may do: 0 nothing, 1 read, 3 write.
    pub access: u8,
    /// [`Durability`] of a versioned segment; 0 for others.
    pub durability: u16,
    /// Live VMs that have it attached.
    pub attachers: u32,
    /// Its name, NUL-terminated.
    pub name: [u8; 256],
}

/// A VAS, as reported by `vas_stat` and `vas_list`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VasStat {
    /// Its id.
    pub vid: u64,
    /// Permission bits.
    pub mode: u32,
    /// Segments in it.
    pub segments: u32,
    /// Live VMs that have it attached.
    pub attachers: u32,
    /// 1 if its instances get TLB tags.
    pub tagged: u8,
    /// What the caller may do: 0 nothing, 1 read, 3 write.
    pub access: u8,
    /// 0.
    pub reserved: [u8; 2],
    /// Its name, NUL-terminated.
    pub name: [u8; 256],
}

/// One segment of a VAS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attachment {
    /// The segment.
    pub sid: u64,
    /// [`Right`], 1 or 3.
    pub right: u64,
}

/// A segment's root object: where a program that attaches it starts reading.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegRoot {
    /// Its address, within the segment; 0 for none.
    pub address: u64,
    /// The caller's fingerprint of its type; compared by callers, never by the system.
    pub fingerprint: [u64; 2],
}

const _: () = {
    // Published in guest-sdk's C header: structs may only grow at their end.
    assert!(size_of::<SegParams>() == 40);
    assert!(offset_of!(SegStat, durability) == 50);
    assert!(size_of::<SegStat>() == 312);
    assert!(offset_of!(SegStat, name) == 56);
    assert!(size_of::<VasStat>() == 280);
    assert!(offset_of!(VasStat, name) == 24);
    assert!(size_of::<Attachment>() == 16);
    assert!(size_of::<SegRoot>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_names() {
        for (name, lifetime) in [
            ("persistent", Lifetime::Persistent),
            ("volatile", Lifetime::Volatile),
            ("versioned", Lifetime::Versioned),
        ] {
            assert_eq!(name.parse(), Ok(lifetime));
        }
        for name in ["", "Versioned", "raw"] {
            assert_eq!(name.parse::<Lifetime>(), Err(UnknownLifetime));
        }
    }

    #[test]
    fn ids_never_look_like_errors() {
        assert_eq!(VasId::new(0), None);
        assert_eq!(SegId::new(1 << 63), None);
        assert_eq!(SegId::new(255).unwrap().to_string(), "00000000000000ff");
    }

    #[test]
    fn durabilities_survive_the_register_and_have_a_text() {
        let every = |ms| Durability::Every(SyncInterval::new(ms).unwrap());
        let all = [Durability::Each, Durability::Manual, every(1), every(60_000)];
        for durability in all {
            assert_eq!(Durability::from_raw(durability.raw().into()), Some(durability));
        }
        for none in [0, 60_001, 0xfffd, 0x1_0000, u64::MAX] {
            assert_eq!(Durability::from_raw(none), None, "{none:#x}");
        }
        assert_eq!(all.map(|it| it.to_string()).join(" "), "each manual every:1 every:60000");
        assert_eq!(Durability::DEFAULT, every(100));
    }

    #[test]
    fn rights_survive_the_register() {
        for right in [Right::Read, Right::Write] {
            assert_eq!(Right::from_raw(right.raw()), Some(right));
        }
        assert_eq!(Right::from_raw(2), None);
    }
}

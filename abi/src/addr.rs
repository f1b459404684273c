//! Addresses and page sizes as types.
//!
//! A guest-virtual and a guest-physical address are both 64-bit numbers, and mixing them up is the
//! classic bug of a VMM. Here each is a type whose constructor checks what the rest of the code
//! relies on; host addresses are absent, because no shared structure may hold one.

use core::fmt;

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes in a page mapped by a page-directory entry.
pub const PAGE_SIZE_2M: u64 = 2 << 20;
/// Bytes in a page mapped by a page-directory-pointer entry.
pub const PAGE_SIZE_1G: u64 = 1 << 30;

/// One past the highest address a guest may name in the lower half.
pub const LOWER_HALF_END: u64 = 1 << 47;

/// A canonical 48-bit guest-virtual address (SDM 1, 3.3.7.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestVirt(u64);

/// The address that is not canonical.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotCanonical(pub u64);

impl fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} is not a canonical 48-bit address", self.0)
    }
}

impl core::error::Error for NotCanonical {}

impl GuestVirt {
    /// Checks that bits 63..47 are all equal.
    ///
    /// # Errors
    /// [`NotCanonical`] with the address.
    pub const fn new(raw: u64) -> Result<GuestVirt, NotCanonical> {
        let top = raw >> 47;
        if top == 0 || top == 0x1_ffff { Ok(GuestVirt(raw)) } else { Err(NotCanonical(raw)) }
    }

    /// For constants: a non-canonical literal fails to compile.
    #[must_use]
    pub const fn literal(raw: u64) -> GuestVirt {
        let Ok(gva) = GuestVirt::new(raw) else { panic!("literal address is not canonical") };
        gva
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The address `bytes` higher, or `None` if that leaves the canonical half.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<GuestVirt> {
        let sum = self.0.checked_add(bytes)?;
        (sum >> 47 == self.0 >> 47).then_some(GuestVirt(sum))
    }

    /// Start of the page of `size` that holds this address.
    #[must_use]
    pub const fn align_down(self, size: PageSize) -> GuestVirt {
        GuestVirt(self.0 & !(size.bytes() - 1))
    }
}

/// A guest-physical address below 2^52. Whether it is backed by memory is for the VMM to say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPhys(u64);

impl GuestPhys {
    /// `None` when the address needs more than 52 bits.
    #[must_use]
    pub const fn new(raw: u64) -> Option<GuestPhys> {
        if raw >> 52 == 0 { Some(GuestPhys(raw)) } else { None }
    }

    /// For constants: an impossible literal fails to compile.
    #[must_use]
    pub const fn literal(raw: u64) -> GuestPhys {
        GuestPhys::new(raw).expect("literal address is wider than 52 bits")
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The address `bytes` higher; never wraps, but saturates at the last valid address.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> GuestPhys {
        let sum = self.0.saturating_add(bytes);
        if sum >> 52 == 0 { GuestPhys(sum) } else { GuestPhys((1 << 52) - 1) }
    }
}

/// The page sizes of four-level paging.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PageSize {
    /// 4 KiB, mapped by a page-table entry.
    Small4K,
    /// 2 MiB, mapped by a page-directory entry.
    Large2M,
    /// 1 GiB, mapped by a page-directory-pointer entry.
    Huge1G,
}

impl PageSize {
    /// Bytes in a page of this size.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.level().shift()
    }

    /// The level of the table whose entry maps a page of this size.
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            PageSize::Small4K => Level::Table,
            PageSize::Large2M => Level::Directory,
            PageSize::Huge1G => Level::Pointer,
        }
    }
}

/// The four levels of tables, leaf first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Page table (PT).
    Table = 1,
    /// Page directory (PD).
    Directory = 2,
    /// Page-directory-pointer table (PDPT).
    Pointer = 3,
    /// PML4, the root.
    Root = 4,
}

impl Level {
    /// Index of the entry, in a table of this level, that covers `address` (SDM 3A, 4.5.4).
    #[must_use]
    pub const fn index(self, address: u64) -> usize {
        (address >> self.shift()) as usize & 511
    }

    /// Position of this level's nine index bits in an address.
    #[must_use]
    pub const fn shift(self) -> u32 {
        12 + 9 * (self as u32 - 1)
    }

    /// The level below, `None` at the leaf level.
    #[must_use]
    pub const fn below(self) -> Option<Level> {
        match self {
            Level::Table => None,
            Level::Directory => Some(Level::Table),
            Level::Pointer => Some(Level::Directory),
            Level::Root => Some(Level::Pointer),
        }
    }

    /// Size of a page that an entry of this level maps directly, where the architecture has one.
    #[must_use]
    pub const fn leaf(self) -> Option<PageSize> {
        match self {
            Level::Table => Some(PageSize::Small4K),
            Level::Directory => Some(PageSize::Large2M),
            Level::Pointer => Some(PageSize::Huge1G),
            Level::Root => None,
        }
    }
}

macro_rules! hex_fmt {
    ($($ty:ident)*) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($ty), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    )*};
}
hex_fmt!(GuestVirt GuestPhys);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_canonical_addresses_are_accepted() {
        for good in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(GuestVirt::new(good).map(GuestVirt::raw), Ok(good));
        }
        for bad in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert_eq!(GuestVirt::new(bad), Err(NotCanonical(bad)));
        }
    }

    #[test]
    fn adding_never_crosses_the_canonical_hole() {
        let last = GuestVirt::literal(LOWER_HALF_END - 1);
        assert_eq!(last.checked_add(1), None);
        assert_eq!(GuestVirt::literal(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn indices_are_the_manuals_nine_bit_fields() {
        let gva = GuestVirt::literal(0x0000_7f8a_1234_5678);
        assert_eq!(Level::Root.index(gva.raw()), 0xff);
        assert_eq!(Level::Pointer.index(gva.raw()), 0x28);
        assert_eq!(Level::Directory.index(gva.raw()), 0x91);
        assert_eq!(Level::Table.index(gva.raw()), 0x145);
    }

    proptest! {
        #[test]
        fn indices_and_offset_rebuild_the_address(raw in 0u64..LOWER_HALF_END) {
            let gva = GuestVirt::new(raw).unwrap();
            let mut rebuilt = raw & (PAGE_SIZE - 1);
            for level in [Level::Table, Level::Directory, Level::Pointer, Level::Root] {
                rebuilt |= (level.index(gva.raw()) as u64) << level.shift();
            }
            prop_assert_eq!(rebuilt, raw);
        }
    }
}

//! Page-table entries (SDM 3A, 4.5.4, tables 4-15 to 4-20).
//!
//! One 64-bit value with typed access to the bits we use; unknown bits are preserved. `table.rs`
//! makes entries for a position in a table; `walk.rs` walks the tables.

use core::fmt;

use crate::addr::{GuestPhys, Level};

/// A page-table entry of any level.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Pte(u64);

/// Bit 0: the entry is present.
pub const PTE_P: u64 = 1 << 0;
/// Bit 1: writes are allowed.
pub const PTE_W: u64 = 1 << 1;
/// Bit 2: ring 3 is allowed.
pub const PTE_U: u64 = 1 << 2;
/// Bit 5: set by the processor on use.
pub const PTE_A: u64 = 1 << 5;
/// Bit 6: set by the processor on a write (leaf entries).
pub const PTE_D: u64 = 1 << 6;
/// Bit 7: the entry maps a large page (levels 2 and 3).
pub const PTE_PS: u64 = 1 << 7;
/// Bit 63: instruction fetch is forbidden.
pub const PTE_NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a leaf entry allows. Execute-only is not expressible on x86: present implies readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Writes allowed.
    pub write: bool,
    /// Instruction fetch allowed.
    pub execute: bool,
    /// Ring 3 allowed.
    pub user: bool,
}

impl Rights {
    /// Supervisor, read-only data.
    pub const KERNEL_READ: Rights = Rights { write: false, execute: false, user: false };
    /// Supervisor, writable data.
    pub const KERNEL_WRITE: Rights = Rights { write: true, execute: false, user: false };
    /// Supervisor code.
    pub const KERNEL_CODE: Rights = Rights { write: false, execute: true, user: false };

    /// Whether everything `other` allows is allowed here too.
    #[must_use]
    pub const fn covers(self, other: Rights) -> bool {
        (self.write || !other.write)
            && (self.execute || !other.execute)
            && (self.user || !other.user)
    }
}

const fn bit(is_set: bool, bit: u64) -> u64 {
    if is_set { bit } else { 0 }
}

impl Pte {
    /// The entry that maps nothing.
    pub const EMPTY: Pte = Pte(0);

    /// The entry with exactly these bits.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Pte {
        Pte(raw)
    }

    /// Size of an entry in bytes.
    pub const BYTES: u64 = 8;

    /// See `table.rs`.
    pub(crate) const fn table(gpa: GuestPhys, user: bool) -> Pte {
        Pte((gpa.raw() & ADDRESS) | PTE_P | PTE_W | bit(user, PTE_U))
    }

    /// A leaf in a table of `level`. Accessed and dirty are set from the start: nothing reads them,
    /// and this saves the processor from writing them.
    pub(crate) const fn leaf(gpa: GuestPhys, rights: Rights, level: Level) -> Pte {
        let allowed =
            bit(rights.write, PTE_W) | bit(rights.user, PTE_U) | bit(!rights.execute, PTE_NX);
        let large = bit(!matches!(level, Level::Table), PTE_PS);
        Pte((gpa.raw() & ADDRESS) | PTE_P | PTE_A | PTE_D | allowed | large)
    }

    /// The bits.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether the entry is present.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & PTE_P != 0
    }

    /// Whether an entry of level 2 or 3 maps a page itself. At level 1, bit 7 means PAT.
    #[must_use]
    pub const fn is_large(self) -> bool {
        self.0 & PTE_PS != 0
    }

    /// The table or page it points to.
    #[must_use]
    pub const fn target(self) -> GuestPhys {
        GuestPhys::literal(self.0 & ADDRESS)
    }

    /// The rights that this entry alone grants.
    #[must_use]
    pub const fn rights(self) -> Rights {
        Rights {
            write: self.0 & PTE_W != 0,
            execute: self.0 & PTE_NX == 0,
            user: self.0 & PTE_U != 0,
        }
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pte({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_rights_are_read_back_as_given() {
        for bits in 0..8u8 {
            let rights =
                Rights { write: bits & 1 != 0, execute: bits & 2 != 0, user: bits & 4 != 0 };
            let pte = Pte::leaf(GuestPhys::literal(0x1234_5000), rights, Level::Table);
            assert_eq!(pte.rights(), rights);
            assert_eq!(pte.target(), GuestPhys::literal(0x1234_5000));
            assert!(pte.is_present() && !pte.is_large());
        }
    }

    #[test]
    fn empty_is_not_present() {
        assert!(!Pte::EMPTY.is_present());
    }
}

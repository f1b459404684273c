//! The alternate stack for handlers.

use abi::Errno;

const SS_ONSTACK: u32 = libc::SS_ONSTACK as u32;
const SS_DISABLE: u32 = libc::SS_DISABLE as u32;
const SS_AUTODISARM: u32 = 1 << 31;
const MINSIGSTKSZ: u64 = libc::MINSIGSTKSZ as u64;

/// The alternate stack; with size 0, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// `SS_*`, as the program gave them.
    pub flags: u32,
    /// Bytes.
    pub size: u64,
}

impl AltStack {
    /// Whether `rsp` is on it.
    #[must_use]
    pub fn holds(&self, rsp: u64) -> bool {
        self.size != 0 && rsp > self.base && rsp - self.base <= self.size
    }

    /// Whether a thread with this `rsp` is using it. A stack that is disarmed when a handler starts
    /// is never in use.
    #[must_use]
    pub fn is_in_use(&self, rsp: u64) -> bool {
        !self.disarms() && self.holds(rsp)
    }

    /// Whether it is disabled while a handler runs on it (`SS_AUTODISARM`).
    #[must_use]
    pub fn disarms(&self) -> bool {
        self.flags & SS_AUTODISARM != 0
    }

    /// The stack that the program requests with `new`, from code with this `rsp`.
    ///
    /// # Errors
    /// `EPERM` while this one is in use, `EINVAL` for unknown flags, `ENOMEM` when the new one is
    /// too small.
    pub(super) fn replaced_by(&self, new: AltStack, rsp: u64) -> Result<AltStack, Errno> {
        if self.is_in_use(rsp) {
            return Err(Errno::EPERM);
        }
        match new.flags & !SS_AUTODISARM {
            SS_DISABLE => Ok(AltStack { base: 0, size: 0, ..new }),
            0 | SS_ONSTACK if new.size < MINSIGSTKSZ => Err(Errno::ENOMEM),
            0 | SS_ONSTACK => Ok(new),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The flags that `sigaltstack` returns.
    pub(super) fn shown_flags(&self, rsp: u64) -> u32 {
        let state = match self.size {
            0 => SS_DISABLE,
            _ if self.is_in_use(rsp) => SS_ONSTACK,
            _ => 0,
        };
        state | (self.flags & SS_AUTODISARM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x10_0000;
    const SIZE: u64 = 0x4000;
    const INSIDE: u64 = BASE + SIZE;

    fn stack(flags: u32, size: u64) -> AltStack {
        AltStack { base: BASE, flags, size }
    }

    #[test]
    fn a_stack_in_use_stays_unless_it_disarms() {
        let (plain, disarms) = (stack(0, SIZE), stack(SS_AUTODISARM, SIZE));
        let new = stack(0, MINSIGSTKSZ);
        assert_eq!(plain.replaced_by(new, INSIDE), Err(Errno::EPERM));
        assert_eq!(plain.replaced_by(new, BASE), Ok(new), "its lowest address is not on it");
        assert_eq!(disarms.replaced_by(new, INSIDE), Ok(new));
        assert_eq!(plain.shown_flags(INSIDE), SS_ONSTACK);
        assert_eq!(disarms.shown_flags(INSIDE), SS_AUTODISARM);
    }

    #[test]
    fn what_is_no_stack_is_refused_and_none_can_be_asked_for() {
        let none = AltStack::default();
        assert_eq!(none.replaced_by(stack(0, MINSIGSTKSZ - 1), 0), Err(Errno::ENOMEM));
        for flags in [4, SS_ONSTACK | SS_DISABLE, 1 << 30] {
            assert_eq!(none.replaced_by(stack(flags, SIZE), 0), Err(Errno::EINVAL), "{flags:#x}");
        }
        let disabled = none.replaced_by(stack(SS_DISABLE, 1), 0).unwrap();
        assert!(!disabled.holds(BASE + 1));
        assert_eq!(disabled.shown_flags(0), SS_DISABLE);
    }
}

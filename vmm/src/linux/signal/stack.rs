//! The alternate stack for handlers.

use abi::Errno;

use super::locked;
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, value};

const SS_ONSTACK: u32 = libc::SS_ONSTACK as u32;
const SS_DISABLE: u32 = libc::SS_DISABLE as u32;
const SS_AUTODISARM: u32 = 1 << 31;
const MINSIGSTKSZ: u64 = libc::MINSIGSTKSZ as u64;

/// The alternate stack; of size 0, none.
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
    /// Whether `rsp` lies on it.
    #[must_use]
    pub fn holds(&self, rsp: u64) -> bool {
        self.size != 0 && rsp > self.base && rsp - self.base <= self.size
    }

    /// Whether a thread with this `rsp` is using it. One that a handler's start disarms is
    /// never in use.
    #[must_use]
    pub fn is_in_use(&self, rsp: u64) -> bool {
        !self.disarms() && self.holds(rsp)
    }

    /// Whether it is taken away while a handler runs on it (`SS_AUTODISARM`).
    #[must_use]
    pub fn disarms(&self) -> bool {
        self.flags & SS_AUTODISARM != 0
    }

    /// What `sigaltstack` says of it.
    fn shown_flags(&self, rsp: u64) -> u32 {
        let state = match self.size {
            0 => SS_DISABLE,
            _ if self.is_in_use(rsp) => SS_ONSTACK,
            _ => 0,
        };
        state | (self.flags & SS_AUTODISARM)
    }
}

/// Sets the calling thread's alternate stack.
///
/// # Errors
/// `EPERM` while it is in use, `EINVAL` for unknown flags, `ENOMEM` when it is too small.
pub(super) fn set(ctx: &ThreadCtx<'_>, new: AltStack) -> Result<(), Errno> {
    let mut slot = locked(&ctx.thread.signals.alt);
    if slot.is_in_use(ctx.vcpu.regs.rsp) {
        return Err(Errno::EPERM);
    }
    *slot = match new.flags & !SS_AUTODISARM {
        SS_DISABLE => AltStack { base: 0, size: 0, ..new },
        0 | SS_ONSTACK if new.size < MINSIGSTKSZ => return Err(Errno::ENOMEM),
        0 | SS_ONSTACK => new,
        _ => return Err(Errno::EINVAL),
    };
    Ok(())
}

/// `sigaltstack(2)`.
pub(in crate::linux) fn sigaltstack(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [new, old, ..] = *a;
    let user = ctx.user();
    let before = *locked(&ctx.thread.signals.alt);
    if new != 0 {
        let base = user.read_u64(new)?;
        let flags = user.read_u32(new.wrapping_add(8))?;
        let size = user.read_u64(new.wrapping_add(16))?;
        set(ctx, AltStack { base, flags, size })?;
    }
    if old != 0 {
        let flags = u64::from(before.shown_flags(ctx.vcpu.regs.rsp));
        let words = [before.base, flags, before.size];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        user.copy_out(old, &bytes)?;
    }
    value(0)
}

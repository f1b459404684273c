//! The registers of a thread that stands, to look at and to change.

use abi::GuestVirt;
use kvm_bindings::kvm_xsave;

use crate::linux::task::ThreadCtx;
use crate::vm::UserRegs;

/// In RAX where Linux would make a call again: unless a handler forbids it, or always.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
/// No call.
const NONE: u64 = u64::MAX;

/// A thread's registers.
#[derive(Clone, Debug)]
pub struct Registers {
    /// The general ones.
    pub regs: UserRegs,
    /// FS base and GS base.
    pub bases: [u64; 2],
    /// x87, SSE and further state in the XSAVE standard format; empty if KVM does not show it.
    pub xsave: Vec<u8>,
    /// The number of the call that it is in and that is made again, all ones for none, as Linux's
    /// `orig_rax`.
    pub call: u64,
}

impl Registers {
    /// Those of the calling thread. In a call that waits, they are as if a signal had interrupted it.
    pub(super) fn of(ctx: &ThreadCtx<'_>, call: Option<(u64, bool)>) -> Registers {
        let state = ctx.vcpu.fpu_state();
        let xsave =
            state.map(|state| state.region.iter().flat_map(|word| word.to_le_bytes()).collect());
        let mut regs = ctx.vcpu.regs;
        if let Some((_, always)) = call {
            let rax = if always { ERESTARTNOINTR } else { ERESTARTSYS };
            regs.rax = rax.cast_unsigned();
        }
        Registers {
            regs,
            bases: [ctx.vcpu.fs_base(), ctx.vcpu.gs_base()],
            xsave: xsave.unwrap_or_default(),
            call: call.map_or(NONE, |(number, _)| number),
        }
    }

    /// The call that is to be made again, as Linux decides it, and whether always.
    pub(super) fn call(&self) -> Option<(u64, bool)> {
        match self.regs.rax.cast_signed() {
            _ if self.call == NONE => None,
            ERESTARTSYS => Some((self.call, false)),
            ERESTARTNOINTR => Some((self.call, true)),
            _ => None,
        }
    }

    /// Gives them to the calling thread. What no program can have is left as it was: a base that is not
    /// canonical, vector state that the processor refuses.
    pub(super) fn apply(&self, ctx: &mut ThreadCtx<'_>) {
        ctx.vcpu.regs = self.regs;
        ctx.vcpu.restore_all();
        if let Ok(base) = GuestVirt::new(self.bases[0]) {
            ctx.vcpu.set_fs_base(base);
        }
        if let Ok(base) = GuestVirt::new(self.bases[1]) {
            ctx.vcpu.set_gs_base(base);
        }
        let mut state = kvm_xsave::default();
        let words = self.xsave.as_chunks().0;
        if words.len() != state.region.len() {
            return;
        }
        for (to, from) in state.region.iter_mut().zip(words) {
            *to = u32::from_le_bytes(*from);
        }
        if let Err(error) = ctx.vcpu.set_fpu_state(&state) {
            let error = crate::error::chain(&error);
            tracing::warn!(%error, "the debugger's change of vector registers is not made");
        }
    }
}

//! SpaceJMP's own calls, as far as the VMM serves them.

use abi::Errno;
use abi::call::{CALL_HYPER_NULL, CALL_NULL};

use crate::linux::signal;
use crate::process::ThreadCtx;
use crate::process::thread::Next;

/// Serves the call in the registers of `ctx`.
pub fn serve(ctx: &mut ThreadCtx<'_>) -> Next {
    let number = ctx.vcpu.regs.rax;
    ctx.vcpu.regs.rax = match u32::try_from(number) {
        Ok(CALL_NULL | CALL_HYPER_NULL) => 0,
        _ => Errno::ENOSYS.as_result(),
    };
    signal::deliver_pending(ctx)
}

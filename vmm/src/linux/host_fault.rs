//! An access by the program for which the host has no memory: its address, and the cause.
//!
//! A page of a mapped file can disappear after it was mapped (the file is truncated), or fail to
//! appear (the disk is full, or cannot be read). KVM then returns `EFAULT` without an address, and
//! the guest has raised no fault that would have left one in CR2. RIP still points to the
//! instruction, so the address is computed from it, as the processor did.

use abi::layout;

use super::fault::Fault;
use super::operands::{Operand, next_operands};
use crate::linux::task::ThreadCtx;

/// A store's disk with less free space than this counts as full for the next page touched: huge
/// pages have this size.
const FULL_BELOW_BYTES: u64 = 2 << 20;

/// The fault to report to the program.
pub(crate) fn of(ctx: &ThreadCtx<'_>) -> Fault {
    let address = touched(ctx).unwrap_or(0);
    let cause = match layout::is_of_segments(address) && is_disk_full(ctx) {
        true => "the disk of the store is full",
        false => "its file was truncated, its disk is full, or it cannot be read",
    };
    Fault::unbacked(address, cause)
}

fn is_disk_full(ctx: &ThreadCtx<'_>) -> bool {
    let free = |path: &std::path::Path| {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    };
    let store = ctx.process.vases.store_path();
    store.and_then(|path| free(&path)).is_some_and(|free| free < FULL_BELOW_BYTES)
}

fn touched(ctx: &ThreadCtx<'_>) -> Option<u64> {
    let user = ctx.user();
    let Some(candidates) = next_operands(ctx) else { return Some(ctx.vcpu.regs.rip) };
    // Of two operands it is the one that cannot be copied either. A hole for which a full disk has
    // no block can be read; then it is the one to be written, which comes first.
    let is_gone = |operand: &&Operand| user.copy_in(operand.at, &mut [0]).is_err();
    candidates.iter().find(is_gone).or(candidates.first()).map(|operand| operand.at)
}

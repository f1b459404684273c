//! An access by the program for which the host has no memory: its address, and the cause.
//!
//! A page of a mapped file can disappear after it was mapped (the file is truncated), or fail to
//! appear (the disk is full, or cannot be read). KVM then returns `EFAULT` without an address, and
//! the guest has raised no fault that would have left one in CR2. RIP still points to the
//! instruction, so the address is computed from it, as the processor did.

use abi::layout;
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};

use super::fault::Fault;
use crate::linux::task::ThreadCtx;
use crate::user_memory::UserMemory;
use crate::vm::UserRegs;

/// Longest instruction.
const CODE_BYTES: usize = 15;
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
    let (user, regs) = (ctx.user(), &ctx.vcpu.regs);
    let mut code = [0; CODE_BYTES];
    let Some(len) = fetch(&user, regs.rip, &mut code) else { return Some(regs.rip) };
    let bases = (ctx.vcpu.fs_base(), ctx.vcpu.gs_base());
    let candidates = operands(regs, bases, code.get(..len)?);
    // Of two operands it is the one that cannot be copied either. A hole for which a full disk has
    // no block can be read; then it is the one to be written, which comes first.
    let is_gone = |&&at: &&u64| user.copy_in(at, &mut [0]).is_err();
    candidates.iter().find(is_gone).or(candidates.first()).copied()
}

/// The code at `rip`, as much of it as is readable; `None` if nothing is.
fn fetch(user: &UserMemory<'_>, rip: u64, code: &mut [u8; CODE_BYTES]) -> Option<usize> {
    if user.copy_in(rip, code).is_ok() {
        return Some(CODE_BYTES);
    }
    let page = abi::PAGE_SIZE - rip % abi::PAGE_SIZE;
    let len = (page as usize).min(CODE_BYTES);
    user.copy_in(rip, code.get_mut(..len)?).ok().map(|()| len)
}

/// Addresses that the instruction uses, those it writes first.
fn operands(regs: &UserRegs, (fs, gs): (u64, u64), code: &[u8]) -> Vec<u64> {
    let one = Decoder::with_ip(64, code, regs.rip, DecoderOptions::NONE).decode();
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(&one).used_memory();
    let writes = |operand: &UsedMemory| {
        !matches!(operand.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
    };
    let address =
        |operand: &UsedMemory| operand.virtual_address(0, |it, _, _| value(regs, fs, gs, it));
    let (mut first, then): (Vec<&UsedMemory>, _) = used.iter().partition(|it| writes(it));
    first.extend(Vec::from_iter(then));
    first.into_iter().filter_map(address).collect()
}

fn value(regs: &UserRegs, fs: u64, gs: u64, register: Register) -> Option<u64> {
    let whole = match register.full_register() {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RBP => regs.rbp,
        Register::RSP => regs.rsp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::RIP => regs.rip,
        Register::FS => fs,
        Register::GS => gs,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        // A vector of addresses.
        _ => return None,
    };
    let low = |bits: u32| whole & (!0 >> (64 - bits));
    Some(match register.size() {
        4 if register.is_gpr() => low(32),
        2 if register.is_gpr() => low(16),
        1 if register.is_gpr() => low(8),
        _ => whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_one_the_instruction_uses() {
        let regs = UserRegs {
            rax: 0x10,
            rbx: 0x2000,
            rcx: 3,
            rdi: 0x5000,
            rsi: 0x6000,
            rsp: 0x9000,
            rip: 0x40_0000,
            ..UserRegs::default()
        };
        let of = |code: &[u8]| operands(&regs, (0x7000, 0), code);
        // mov byte ptr [rbx + rcx * 8 + 5], 1
        assert_eq!(of(&[0xc6, 0x44, 0xcb, 0x05, 0x01]), [0x201d]);
        // mov rax, fs:[0x28]
        assert_eq!(of(&[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0]), [0x7028]);
        // mov eax, [rip + 0x10], an instruction of six bytes
        assert_eq!(of(&[0x8b, 0x05, 0x10, 0, 0, 0]), [0x40_0016]);
        // movsb: what is written comes before what is read.
        assert_eq!(of(&[0xa4]), [0x5000, 0x6000]);
        // push qword ptr [rbx]
        assert_eq!(of(&[0xff, 0x33]), [0x8ff8, 0x2000]);
        // nop, and no instruction at all
        assert_eq!(of(&[0x90]), [0; 0]);
        assert_eq!(of(&[0x06]), [0; 0]);
    }
}

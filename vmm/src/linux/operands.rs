//! The memory that an instruction of the program is about to use.

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};

use crate::linux::task::ThreadCtx;
use crate::user_memory::UserMemory;
use crate::vm::UserRegs;

/// Longest instruction.
const CODE_BYTES: usize = 15;

/// A place in memory that an instruction uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operand {
    /// Its address.
    pub(crate) at: u64,
    /// Bytes, where that is known; 1 otherwise.
    pub(crate) len: u64,
    /// It is read, or may be.
    pub(crate) reads: bool,
    /// It is written, or may be.
    pub(crate) writes: bool,
}

/// What the instruction uses that the thread is at, what it writes first; `None` if there is none.
pub(crate) fn next_operands(ctx: &ThreadCtx<'_>) -> Option<Vec<Operand>> {
    let (user, regs) = (ctx.user(), &ctx.vcpu.regs);
    let mut code = [0; CODE_BYTES];
    let len = fetch(&user, regs.rip, &mut code)?;
    let bases = (ctx.vcpu.fs_base(), ctx.vcpu.gs_base());
    Some(operands(regs, bases, code.get(..len)?))
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

fn operands(regs: &UserRegs, (fs, gs): (u64, u64), code: &[u8]) -> Vec<Operand> {
    let one = Decoder::with_ip(64, code, regs.rip, DecoderOptions::NONE).decode();
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(&one).used_memory();
    let operand = |memory: &UsedMemory| {
        use OpAccess as A;
        let access = memory.access();
        (access != A::NoMemAccess).then_some(())?;
        Some(Operand {
            at: memory.virtual_address(0, |it, _, _| value(regs, fs, gs, it))?,
            len: (memory.memory_size().size() as u64).max(1),
            reads: !matches!(access, A::Write | A::CondWrite),
            writes: !matches!(access, A::Read | A::CondRead),
        })
    };
    let mut operands: Vec<Operand> = used.iter().filter_map(operand).collect();
    operands.sort_by_key(|operand| !operand.writes);
    operands
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
        let all = |code: &[u8]| operands(&regs, (0x7000, 0), code);
        let of = |code: &[u8]| Vec::from_iter(all(code).into_iter().map(|operand| operand.at));
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
        // add dword ptr [rbx], 1 does both, and lea neither.
        let both = Operand { at: 0x2000, len: 4, reads: true, writes: true };
        assert_eq!(all(&[0x83, 0x03, 0x01]), [both]);
        assert_eq!(of(&[0x48, 0x8d, 0x03]), [0; 0]);
        // nop, and no instruction at all
        assert_eq!(of(&[0x90]), [0; 0]);
        assert_eq!(of(&[0x06]), [0; 0]);
    }
}

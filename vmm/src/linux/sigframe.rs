//! The frame that a signal handler finds on its stack, bit for bit Linux's `struct rt_sigframe`.
//!
//! ```text
//!  old RSP - 128   red zone (System V ABI 3.2.2)
//!                  XSAVE area, 64-byte aligned, framed by two magic numbers
//!                  siginfo_t          128 bytes
//!                  ucontext           304 bytes: registers, mask, pointer to the XSAVE area
//!  new RSP         return address: the restorer, which calls rt_sigreturn
//! ```
//!
//! Everything read back comes from the program: the vCPU sanitises the registers, and KVM checks
//! the FPU state, refusing what the processor would.

use abi::Errno;
use kvm_bindings::kvm_xsave;

use super::signal::AltStack;
use super::signal::info::{SIGINFO_BYTES, SigInfo};
use crate::linux::task::ThreadCtx;
use crate::vm::vcpu::{FIXED_FLAGS, USER_FLAGS, UserRegs};

const UCONTEXT_BYTES: u64 = 304;
const FRAME_BYTES: u64 = 8 + UCONTEXT_BYTES + SIGINFO_BYTES as u64;
const RED_ZONE: u64 = 128;
/// The FPU state is in XSAVE form; SS is saved and restored.
const UC_FLAGS: u64 = 1 | 2 | 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where Linux's software bytes are in the legacy area.
const SW_BYTES: usize = 464;
const XSTATE_HEADER: usize = 512;

/// What a fault adds to the saved context.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapInfo {
    /// Vector.
    pub trapno: u64,
    /// Error code.
    pub error: u64,
    /// CR2.
    pub address: u64,
}

/// What is needed to build a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameSpec {
    /// The handler.
    pub handler: u64,
    /// Where it returns to.
    pub restorer: u64,
    /// Whether it runs on the alternate stack.
    pub on_alt_stack: bool,
    /// The `siginfo` it receives.
    pub info: SigInfo,
    /// The fault, if any.
    pub trap: TrapInfo,
    /// The mask to return to.
    pub old_mask: u64,
    /// The alternate stack.
    pub alt: AltStack,
}

/// Writes the frame and sets the registers for the handler's first instruction.
///
/// # Errors
/// `EFAULT` when the stack is not writable: the signal cannot be delivered, and the program ends.
pub fn push(ctx: &mut ThreadCtx<'_>, spec: &FrameSpec) -> Result<(), Errno> {
    let fpu = ctx.vcpu.fpu_state().map_err(|error| no_fpu_state(&error))?;
    let mut xstate = fpu_bytes(&fpu);
    let xcr0 = ctx.vcpu.machine().xcr0();
    let xstate_len = ctx.vcpu.machine().xstate_bytes().min(xstate.len());
    xstate.truncate(xstate_len);
    frame_xstate(&mut xstate, xcr0);

    let rsp = ctx.vcpu.regs.rsp;
    let alt = spec.alt;
    let nested = alt.is_in_use(rsp);
    let entering = spec.on_alt_stack && alt.size != 0 && !nested;
    let top = match entering {
        true => alt.base.wrapping_add(alt.size),
        false => rsp.wrapping_sub(RED_ZONE),
    };
    let fp = top.wrapping_sub(xstate.len() as u64) & !63;
    // At the handler's first instruction the stack is as after a CALL: RSP + 8 aligned.
    let frame = (fp.wrapping_sub(FRAME_BYTES) & !15).wrapping_sub(8);
    // A frame that leaves the alternate stack at its low end overflowed it.
    if (nested || entering) && !alt.holds(frame) {
        return Err(Errno::EFAULT);
    }

    let mut bytes = Vec::with_capacity(FRAME_BYTES as usize);
    bytes.extend_from_slice(&spec.restorer.to_le_bytes());
    bytes.extend_from_slice(&ucontext(&ctx.vcpu.regs, spec, fp));
    bytes.extend_from_slice(&spec.info.head_bytes());
    let user = ctx.user();
    user.copy_out(fp, &xstate)?;
    user.copy_out(frame, &bytes)?;

    let regs = &mut ctx.vcpu.regs;
    regs.rip = spec.handler;
    regs.rsp = frame;
    regs.rdi = spec.info.signo as u64;
    regs.rsi = frame + 8 + UCONTEXT_BYTES;
    regs.rdx = frame + 8;
    regs.rax = 0;
    // Direction, trap and resume flags are off in a handler.
    regs.rflags = FIXED_FLAGS;
    ctx.vcpu.restore_all();
    // A handler starts with the FPU in the state of a new program.
    ctx.vcpu.set_fpu_state(&initial_fpu()).map_err(|error| no_fpu_state(&error))
}

/// The host failed, not the program: the program sees a frame that could not be written, the log
/// has the reason.
fn no_fpu_state(error: &dyn std::error::Error) -> Errno {
    let error = crate::error::chain(error);
    tracing::warn!(%error, "cannot build a signal frame: KVM failed to read or set the FPU state");
    Errno::EFAULT
}

fn ucontext(regs: &UserRegs, spec: &FrameSpec, fp: u64) -> Vec<u8> {
    let segments = u64::from(abi::shared::selector::USER_CODE)
        | u64::from(abi::shared::selector::USER_DATA) << 48;
    let words = [
        UC_FLAGS,
        0,
        spec.alt.base,
        u64::from(spec.alt.flags),
        spec.alt.size,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rdi,
        regs.rsi,
        regs.rbp,
        regs.rbx,
        regs.rdx,
        regs.rax,
        regs.rcx,
        regs.rsp,
        regs.rip,
        regs.rflags,
        segments,
        spec.trap.error,
        spec.trap.trapno,
        spec.old_mask,
        spec.trap.address,
        fp,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.extend_from_slice(&[0; 64]);
    bytes.extend_from_slice(&spec.old_mask.to_le_bytes());
    debug_assert_eq!(bytes.len() as u64, UCONTEXT_BYTES);
    bytes
}

/// A frame as it was on the program's stack: it can contain anything.
#[derive(Clone, Copy, Debug)]
pub struct Frame([u64; UCONTEXT_BYTES as usize / 8]);

impl Frame {
    /// The signal mask to return to.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.0[37]
    }

    /// The alternate stack to return to.
    #[must_use]
    pub fn alt(&self) -> AltStack {
        AltStack { base: self.0[2], flags: self.0[3] as u32, size: self.0[4] }
    }
}

/// Reads the frame that `rt_sigreturn` finds at RSP.
///
/// # Errors
/// `EFAULT` when it is not readable.
pub fn read(ctx: &ThreadCtx<'_>) -> Result<Frame, Errno> {
    ctx.user().read_words(ctx.vcpu.regs.rsp).map(Frame)
}

/// Restores the registers and the FPU state of a frame.
///
/// # Errors
/// `EFAULT` when the FPU state is not readable or invalid, or the code segment is invalid; the
/// general registers are then unchanged.
pub fn restore(ctx: &mut ThreadCtx<'_>, frame: &Frame) -> Result<(), Errno> {
    let words = &frame.0;
    // The guest cannot return to another code segment: Linux's IRETQ would fault.
    if words[23] as u16 != abi::shared::selector::USER_CODE {
        return Err(Errno::EFAULT);
    }
    let fp = words[28];
    let state = if fp == 0 { initial_fpu() } else { read_fpu(ctx, fp)? };
    ctx.vcpu.set_fpu_state(&state).map_err(|_| Errno::EFAULT)?;
    ctx.vcpu.regs = UserRegs {
        r8: words[5],
        r9: words[6],
        r10: words[7],
        r11: words[8],
        r12: words[9],
        r13: words[10],
        r14: words[11],
        r15: words[12],
        rdi: words[13],
        rsi: words[14],
        rbp: words[15],
        rbx: words[16],
        rdx: words[17],
        rax: words[18],
        rcx: words[19],
        rsp: words[20],
        rip: words[21],
        rflags: (words[22] & USER_FLAGS) | FIXED_FLAGS,
    };
    ctx.vcpu.restore_all();
    Ok(())
}

fn read_fpu(ctx: &ThreadCtx<'_>, fp: u64) -> Result<kvm_xsave, Errno> {
    let machine = ctx.vcpu.machine();
    let mut legacy = [0; XSTATE_HEADER];
    ctx.user().copy_in(fp, &mut legacy)?;
    let magic = legacy.get(SW_BYTES..SW_BYTES + 4);
    let extended = magic == Some(&FP_XSTATE_MAGIC1.to_le_bytes()[..]) && machine.xcr0() > 1;
    let mut bytes = vec![0; 4096];
    if extended {
        let len = machine.xstate_bytes().min(4096) - 4;
        ctx.user().copy_in(fp, bytes.get_mut(..len).unwrap_or_default())?;
        // Only components this VM has; the rest of the header must be zero.
        let header = bytes.get_mut(XSTATE_HEADER..XSTATE_HEADER + 64).unwrap_or_default();
        let bits = header.first_chunk().map_or(0, |bits| u64::from_le_bytes(*bits));
        header.fill(0);
        let kept = (bits & machine.xcr0()).to_le_bytes();
        header.iter_mut().zip(kept).for_each(|(h, b)| *h = b);
    } else {
        bytes.iter_mut().zip(legacy).for_each(|(b, l)| *b = l);
        if let Some(header) = bytes.get_mut(XSTATE_HEADER) {
            *header = 3;
        }
    }
    // Reserved MXCSR bits would fault; Linux masks them likewise.
    bytes.get_mut(26..28).unwrap_or_default().fill(0);
    bytes.get_mut(SW_BYTES..XSTATE_HEADER).unwrap_or_default().fill(0);
    let mut state = kvm_xsave::default();
    for (word, piece) in state.region.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(piece.try_into().unwrap_or_default());
    }
    Ok(state)
}

fn fpu_bytes(state: &kvm_xsave) -> Vec<u8> {
    state.region.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Puts Linux's description of the area into its software bytes and after its end.
fn frame_xstate(xstate: &mut [u8], xcr0: u64) {
    let len = xstate.len() as u32;
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = xstate.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(SW_BYTES, &FP_XSTATE_MAGIC1.to_le_bytes());
    put(SW_BYTES + 4, &len.to_le_bytes());
    put(SW_BYTES + 8, &xcr0.to_le_bytes());
    put(SW_BYTES + 16, &(len - 4).to_le_bytes());
    put(len as usize - 4, &FP_XSTATE_MAGIC2.to_le_bytes());
}

/// FCW 0x37f, MXCSR 0x1f80, everything else zero (SDM 1, 8.1.5 and 11.6.4).
fn initial_fpu() -> kvm_xsave {
    let mut state = kvm_xsave::default();
    for (at, word) in [(0, 0x37f), (6, 0x1f80), (7, 0xffff), (128, 0)] {
        if let Some(place) = state.region.get_mut(at) {
            *place = word;
        }
    }
    // Both legacy components are set, so that MXCSR is loaded too.
    if let Some(bv) = state.region.get_mut(XSTATE_HEADER / 4) {
        *bv = 3;
    }
    state
}

//! What an exit means: the program's registers, and why it left, out of what KVM says and where the
//! guest kernel was. Nothing here enters the guest.

use abi::PAGE_SIZE;
use abi::addr::LOWER_HALF_END;
use abi::call::port;
use abi::layout::{
    GATE_PAGE, IST_STACK_BYTES, TRAP_PHYS, VCPU_AREA_BYTES, VCPU_AREAS, VCPU_IST_STACKS,
};
use abi::shared::{ExceptionFrame, selector};

use super::{FIXED_FLAGS, Position, USER_FLAGS, Vcpu};
use crate::vm::exit::{Exit, Via};

/// Exceptions that come behind their instruction: of a step, of `int3` (SDM 3A, table 6-1).
const TRAPS: [u8; 2] = [1, 3];

/// KVM's exit, stripped of borrowed data.
#[derive(Clone, Copy)]
pub(super) enum Raw {
    /// A write to a port.
    Out(u16),
    /// A read of one.
    In(u16),
    /// A use of an address without memory.
    Mmio(u64),
    /// A kick.
    Interrupted,
    /// The host could not back memory.
    HostFault,
    /// A triple fault.
    Shutdown,
    /// One of the processor's breakpoints, or a step while there are some.
    Debug,
    /// KVM could not emulate an instruction.
    Emulation,
    /// Anything else.
    Odd(&'static str),
}

impl Vcpu {
    /// Takes over the program's registers as they are after the exit `raw`, and says why it left.
    pub(super) fn store_registers(&mut self, raw: Raw) -> Exit {
        let sync = self.fd.sync_regs();
        self.regs = sync.regs;
        self.fs_base = sync.sregs.fs.base;
        self.gs_base = sync.sregs.gs.base;
        self.position = Position::Ring3;
        let address = sync.sregs.cr2;
        if sync.sregs.cs.selector & 3 == 3 {
            self.ring3_exit(raw)
        } else {
            self.kernel_exit(raw, address)
        }
    }

    fn ring3_exit(&mut self, raw: Raw) -> Exit {
        match raw {
            // At the gate the program has made its call. A handler that ran now would come before
            // the call, which would then wait unaware of the signal; so the call is served, and
            // told that it is interrupted.
            Raw::Interrupted if self.regs.rip == GATE_PAGE.raw() => {
                self.after_syscall();
                self.restore_all = true;
                Exit::Syscall(Via::Gate)
            }
            Raw::Interrupted => {
                self.restore_all = true;
                match self.take_waiting_trap() {
                    Some(vector) => {
                        Exit::Exception { vector, frame: self.frame_here(), address: 0 }
                    }
                    None => Exit::Kicked,
                }
            }
            Raw::Mmio(gpa) if self.is_gate_store(gpa) => {
                self.after_syscall();
                Exit::Syscall(Via::Gate)
            }
            // As if it had gone through the kernel.
            Raw::Debug => {
                self.restore_all = true;
                Exit::Exception { vector: 1, frame: self.frame_here(), address: 0 }
            }
            Raw::HostFault => {
                self.restore_all = true;
                Exit::HostFault
            }
            Raw::Mmio(at) => Exit::Forbidden { what: "used an address without memory", at },
            Raw::Out(at) | Raw::In(at) => {
                Exit::Forbidden { what: "used an I/O port", at: u64::from(at) }
            }
            Raw::Shutdown => Exit::Shutdown,
            // KVM emulates an instruction of ring 3 only when it uses an address without
            // memory, and not every instruction can be: the program's doing, not the host's.
            Raw::Emulation => {
                let at = self.regs.rip;
                self.restore_all = true;
                Exit::Forbidden { what: "used an address without memory at", at }
            }
            Raw::Odd(reason) => Exit::HostGaveUp { reason },
        }
    }

    fn kernel_exit(&mut self, raw: Raw, address: u64) -> Exit {
        // Unless one of the cases below sets another position.
        self.position = Position::Kernel;
        match raw {
            Raw::Out(port::SYSCALL) => {
                self.position = Position::BehindSyscall;
                self.after_syscall();
                Exit::Syscall(Via::Kernel)
            }
            Raw::Out(port::CALL) => {
                self.position = Position::BehindSyscall;
                self.after_syscall();
                Exit::Call(Via::Kernel)
            }
            Raw::Out(port::CALL_TRAPPED) => match self.exception_frame() {
                Some(frame) if frame.cs & 3 == 3 => {
                    self.set_user_state(&frame);
                    Exit::Call(Via::Trap)
                }
                _ => self.kernel_dead(None, address),
            },
            Raw::Out(at) if (port::EXCEPTION..port::EXCEPTION + 32).contains(&at) => {
                self.exception((at - port::EXCEPTION) as u8, address)
            }
            Raw::Out(port::PANIC) => self.kernel_dead(None, address),
            // What the kernel does is not seen, as in `sj_debug`: it goes on.
            Raw::Interrupted | Raw::Debug => Exit::KickedInKernel,
            Raw::HostFault => Exit::HostGaveUp { reason: "the host could not back kernel memory" },
            Raw::Shutdown => Exit::Shutdown,
            Raw::Emulation => Exit::HostGaveUp { reason: "internal error of KVM's emulator" },
            Raw::Odd(reason) => Exit::HostGaveUp { reason },
            // A host whose SYSCALL stays in ring 3 emulates it, ring 0 included, when the program's
            // stack pointer is not canonical. The gate contains only our code, so this is the
            // gate's store.
            Raw::Mmio(gpa) if self.is_gate_store(gpa) => {
                self.position = Position::Ring3;
                self.after_syscall();
                self.restore_all = true;
                Exit::Syscall(Via::Gate)
            }
            Raw::Out(_) | Raw::In(_) | Raw::Mmio(_) => self.kernel_dead(None, address),
        }
    }

    /// Whether the access to `gpa` was the gate's.
    fn is_gate_store(&self, gpa: u64) -> bool {
        gpa & !(PAGE_SIZE - 1) == TRAP_PHYS.raw()
            && self.regs.rip & !(PAGE_SIZE - 1) == GATE_PAGE.raw()
    }

    /// SYSCALL left the return address in RCX and the flags in R11 (SDM 2B). A program that jumped
    /// to the gate may have put any values there.
    fn after_syscall(&mut self) {
        self.regs.rip = self.regs.rcx;
        self.regs.rflags = (self.regs.r11 & USER_FLAGS) | FIXED_FLAGS;
    }

    fn set_user_state(&mut self, frame: &ExceptionFrame) {
        self.regs.rip = frame.rip;
        self.regs.rflags = frame.rflags;
        self.regs.rsp = frame.rsp;
        self.position = Position::Ring3;
        self.restore_all = true;
    }

    fn exception(&mut self, vector: u8, address: u64) -> Exit {
        let Some(mut frame) = self.exception_frame() else {
            return self.kernel_dead(Some(vector), address);
        };
        if frame.cs & 3 != 3 {
            // SYSRET to an impossible address faults in ring 0 (SDM 2B, SYSRET): the program's
            // fault, reported at the target address.
            if !self.kernel.sysrets.contains(&frame.rip) {
                self.regs.rip = frame.rip;
                return self.kernel_dead(Some(vector), address);
            }
            frame.rip = self.regs.rcx;
            frame.rflags = self.regs.r11;
            frame.cs = u64::from(selector::USER_CODE);
            frame.ss = u64::from(selector::USER_DATA);
        }
        self.set_user_state(&frame);
        if TRAPS.contains(&vector) {
            // It has arrived.
            self.take_waiting_trap();
        }
        Exit::Exception { vector, frame, address }
    }

    /// The trap that the program was about to get when it was kicked. On a host where KVM raises exceptions by
    /// software, it waits for the next entry, and KVM forgets it when registers are set
    /// (`kvm_arch_vcpu_ioctl_set_regs`), which is before each entry. To a fault that does nothing: its instruction is
    /// executed again, and faults again. But a trap comes behind its instruction: an `int3` would be as if it had not
    /// been there, and what a debugger has put it over would be executed from its second byte on.
    ///
    /// KVM says which vector was the last one raised, and not whether it waits. So the vector is wiped whenever it
    /// has arrived: one that is there is waiting.
    fn take_waiting_trap(&mut self) -> Option<u8> {
        if !self.machine.is_soft_host() {
            return None;
        }
        let mut events = self.fd.get_vcpu_events().ok()?;
        let vector = events.exception.nr;
        if !TRAPS.contains(&vector) {
            return None;
        }
        (events.exception.nr, events.exception.injected, events.exception.pending) = (0, 0, 0);
        self.fd.set_vcpu_events(&events).ok()?;
        Some(vector)
    }

    /// What the processor would have stored of an exception here, without an error code.
    pub(super) fn frame_here(&self) -> ExceptionFrame {
        ExceptionFrame {
            error: 0,
            rip: self.regs.rip,
            cs: u64::from(selector::USER_CODE),
            rflags: self.regs.rflags,
            rsp: self.regs.rsp,
            ss: u64::from(selector::USER_DATA),
        }
    }

    /// The frame on the exception stack that the vCPU is on, or `None` if it is elsewhere.
    fn exception_frame(&self) -> Option<ExceptionFrame> {
        let area = VCPU_AREAS.raw() + u64::from(self.index) * VCPU_AREA_BYTES;
        let offset = self.regs.rsp.checked_sub(area + VCPU_IST_STACKS)?;
        if offset > PAGE_SIZE - 48 || offset % 8 != 0 {
            return None;
        }
        let word = |i: u64| self.machine.mem.load(self.stacks.offset(offset + i * 8)).ok();
        Some(ExceptionFrame {
            error: word(0)?,
            rip: word(1)?,
            cs: word(2)?,
            rflags: word(3)?,
            rsp: word(4)?,
            ss: word(5)?,
        })
    }

    /// Where the program was when it entered the guest kernel that it is in ([`Exit::KickedInKernel`]):
    /// instruction and stack pointer. The kernel does not change RBP in its switch. Unknown while it runs on the stack for
    /// other calls. The words are the program's to choose, if it has taken over the kernel.
    pub(crate) fn program_at(&self) -> Option<(u64, u64)> {
        let stacks = VCPU_AREAS.raw() + u64::from(self.index) * VCPU_AREA_BYTES + VCPU_IST_STACKS;
        let rsp = self.regs.rsp;
        match rsp.checked_sub(stacks).filter(|offset| *offset <= PAGE_SIZE) {
            Some(offset) => {
                // What the processor has pushed is at the top: RIP, CS, RFLAGS, RSP, SS.
                let frame = offset.next_multiple_of(IST_STACK_BYTES).checked_sub(40)?;
                let word = |i: u64| self.machine.mem.load(self.stacks.offset(frame + i * 8)).ok();
                (word(1)? & 3 == 3).then_some((word(0)?, word(3)?))
            }
            // SYSCALL leaves it the program's.
            None => (rsp < LOWER_HALF_END).then_some((self.regs.rcx, rsp)),
        }
    }

    fn kernel_dead(&self, vector: Option<u8>, address: u64) -> Exit {
        Exit::KernelDead { vector, rip: self.regs.rip, address }
    }
}

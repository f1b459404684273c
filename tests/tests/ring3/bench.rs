//! A vCPU with a few bytes of code in ring 3: no program, no Linux.

use std::sync::Arc;

use abi::layout::{CALL_PAGE, CALL_PAGE_SWITCH_UD2, CALL_PAGE_UD2};
use abi::shared::ExceptionFrame;
use vmm::access::{FaultCause, FaultOutcome};
use vmm::kernel::Kernel;
use vmm::private::{Backing, PrivateRegion, Prot};
use vmm::vm::{Exit, Machine, PcidPolicy, UserRegs, Vcpu, Via};

/// Where code goes.
pub(crate) const CODE: u64 = 0x50_0000_0000;
/// Where data goes; the page after [`DATA_PAGES`] is not mapped.
pub(crate) const DATA: u64 = 0x50_1000_0000;
pub(crate) const DATA_PAGES: u64 = 4;
/// Top of a stack of one page; the page above is not mapped.
pub(crate) const STACK: u64 = 0x50_2000_1000;
/// Nothing is ever mapped here.
pub(crate) const NOWHERE: u64 = 0x60_0000_0000;

/// The carry, parity, adjust, zero, sign, direction and overflow flags.
pub(crate) const ALL_FLAGS: u64 = 0xcd5;
/// Reserved bit 1 and the interrupt flag.
pub(crate) const FIXED: u64 = 0x202;
pub(crate) const TRAP_FLAG: u64 = 0x100;

pub(crate) const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// One vCPU with its own private region.
pub(crate) struct Bench {
    pub(crate) kernel: Kernel,
    pub(crate) machine: Arc<Machine>,
    pub(crate) private: PrivateRegion,
    pub(crate) vcpu: Vcpu,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with_tags(PcidPolicy::AsOffered)
    }

    /// On processors with these TLB tags, or fewer.
    pub(crate) fn with_tags(policy: PcidPolicy) -> Bench {
        let kernel = Kernel::with_tags(policy).expect("a VM can be made here");
        let machine = kernel.machine().clone();
        let vcpu = kernel.new_vcpu().expect("and a vCPU");
        let private = PrivateRegion::new(machine.clone(), 1 << 30);
        let bench = Bench { kernel, machine, private, vcpu };
        bench.map(CODE, 0x4000, 7);
        bench.map(DATA, DATA_PAGES * 4096, 3);
        bench.map(STACK - 0x1000, 0x1000, 3);
        bench
    }

    pub(crate) fn map(&self, at: u64, len: u64, prot: u64) {
        let prot = Prot::from_bits(prot).expect("three bits");
        self.private.map_at(at, len, prot, Backing::Anonymous, "test").expect("there is room");
    }

    /// Places `code` and makes it the next to run, with tell-tale values in all registers.
    pub(crate) fn load(&mut self, code: &[u8]) {
        self.load_at(CODE, code);
    }

    pub(crate) fn load_at(&mut self, at: u64, code: &[u8]) {
        self.private.copy_out(at, code).expect("the code page is writable");
        self.vcpu.regs = marked(at);
        self.vcpu.restore_all();
    }

    /// Runs something in the code page, so that fetching from it causes no further VM exit.
    ///
    /// For single steps: Bochs 2.7 takes an EPT violation at a fetch for the end of the
    /// instruction and raises the step's #DB before the instruction has run.
    pub(crate) fn touch_code(&mut self) {
        self.load(&[0x0f, 0x0b]);
        self.run_to(6);
    }

    /// Runs to an exit that is not just an interruption, mapping what may be mapped.
    pub(crate) fn run(&mut self) -> Exit {
        for _ in 0..10_000 {
            match self.vcpu.run().expect("KVM runs the vCPU") {
                Exit::Kicked | Exit::KickedInKernel => {}
                Exit::Exception { vector: 14, frame, address }
                    if self.private.fault(address, FaultCause::of(frame.error))
                        == FaultOutcome::Resolved => {}
                exit => return exit,
            }
        }
        panic!("the vCPU does not get on: {:x?}", self.vcpu.regs);
    }

    /// Runs to an exception of `vector` and returns its frame and address.
    #[track_caller]
    pub(crate) fn run_to(&mut self, expected: u8) -> (ExceptionFrame, u64) {
        match self.run() {
            Exit::Exception { vector, frame, address } if vector == expected => (frame, address),
            other => panic!("vector {expected} expected: {other:x?}"),
        }
    }

    /// Runs to a Linux call.
    #[track_caller]
    pub(crate) fn run_to_syscall(&mut self) {
        let exit = self.run();
        assert!(matches!(exit, Exit::Syscall(Via::Kernel | Via::Gate)), "{exit:x?}");
    }
}

/// A different value in each register, RIP at `rip`.
pub(crate) fn marked(rip: u64) -> UserRegs {
    UserRegs {
        // As a call number it is one of Linux's, which are below our own.
        rax: 0x1234_5678,
        rbx: 0xaaaa_0002_0000_0002,
        rcx: 0xaaaa_0003_0000_0003,
        rdx: 0xaaaa_0004_0000_0004,
        rsi: 0xaaaa_0005_0000_0005,
        rdi: 0xaaaa_0006_0000_0006,
        rbp: 0xaaaa_0008_0000_0008,
        r8: 0xaaaa_0009_0000_0009,
        r9: 0xaaaa_000a_0000_000a,
        r10: 0xaaaa_000b_0000_000b,
        r11: 0xaaaa_000c_0000_000c,
        r12: 0xaaaa_000d_0000_000d,
        r13: 0xaaaa_000e_0000_000e,
        r14: 0xaaaa_000f_0000_000f,
        r15: 0xaaaa_0010_0000_0010,
        rsp: STACK,
        rip,
        rflags: FIXED,
    }
}

/// `mov eax, number`.
pub(crate) fn mov_eax(number: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend_from_slice(&number.to_le_bytes());
    code
}

/// `mov r11, CALL_PAGE; call r11`.
pub(crate) fn call_page() -> Vec<u8> {
    let mut code = vec![0x49, 0xbb];
    code.extend_from_slice(&CALL_PAGE.raw().to_le_bytes());
    code.extend_from_slice(&[0x41, 0xff, 0xd3]);
    code
}

/// `mov rax, value`.
pub(crate) fn mov_rax(value: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend_from_slice(&value.to_le_bytes());
    code
}

/// Where a call through the call page continues; the switch has a separate UD2.
pub(crate) fn behind_call(machine: &Machine, switch: bool) -> u64 {
    let instruction = match (machine.is_soft_host(), switch) {
        (false, _) => CALL_PAGE,
        (true, false) => CALL_PAGE_UD2,
        (true, true) => CALL_PAGE_SWITCH_UD2,
    };
    instruction.raw() + 2
}

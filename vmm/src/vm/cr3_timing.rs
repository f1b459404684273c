//! A vCPU in ring 0 without our kernel and without programs: it runs some bytes of the VMM's own
//! machine code that time loads of CR3. Such a VM never contains anything of a guest.
//!
//! It is not in the guest kernel because the kernel would then have to offer every program a call
//! that only flushes the TLB.

use abi::switch::CR3_KEEP;
use abi::walk::{PageTable, TableMem};
use abi::{GuestPhys, GuestVirt, PAGE_SIZE, PAGE_SIZE_2M, PageSize, Rights};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

use super::machine::{CR4_PCIDE, VmError, empty_vm, kvm_call, offers_pcid};
use super::memory::GuestMem;
use super::registers::{CR4_PAE, TSS_LIMIT, flat_segment};
use super::tables::{FramePool, Tables};

/// Number of loads between two readings of the time-stamp counter, half of them of each root.
pub const LOADS: u32 = 16;
/// Number of samples in one run: as many as fit in the page-sized buffer.
const SAMPLES: u32 = (PAGE_SIZE / 8) as u32;

const CR0_PE_ET_PG: u64 = 1 | 1 << 4 | 1 << 31;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;

/// Cost of CR3 loads, in cycles of the time-stamp counter.
#[derive(Debug, Clone, PartialEq)]
pub struct Cr3Loads {
    /// Per sample: [`LOADS`] loads together, including two readings of the counter.
    pub loaded: Vec<u64>,
    /// The same without loads: the readings alone.
    pub empty: Vec<u64>,
}

impl Cr3Loads {
    /// Times alternating loads of two roots. `tagged`: each has a tag and nothing is flushed, which
    /// needs PCID. `goes`: number of runs, each of some five hundred samples.
    ///
    /// `None` for `tagged` where KVM offers its guests no tags.
    ///
    /// # Errors
    /// [`VmError`]; also if the code does not finish, which is a bug in KVM or here.
    pub fn measure(tagged: bool, goes: u32) -> Result<Option<Cr3Loads>, VmError> {
        let Some(mut bare) = Bare::new(tagged)? else { return Ok(None) };
        let (mut loaded, mut empty) = (Vec::new(), Vec::new());
        // Alternately, so that drift affects both.
        for _ in 0..goes {
            empty.extend(bare.go(0)?);
            loaded.extend(bare.go(LOADS)?);
        }
        Ok(Some(Cr3Loads { loaded, empty }))
    }
}

/// The VM.
struct Bare {
    // The memory is dropped after the vCPU that uses it.
    vcpu: VcpuFd,
    mem: GuestMem,
    /// Address of the code; the buffer is one page higher.
    code: GuestPhys,
    roots: [u64; 2],
}

impl Bare {
    fn new(tagged: bool) -> Result<Option<Bare>, VmError> {
        let kvm = Kvm::new().map_err(VmError::OpenKvm)?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_call("tell what processors it offers"))?;
        if tagged && !offers_pcid(&cpuid) {
            return Ok(None);
        }
        let (fd, mem, _) = empty_vm(&kvm, &cpuid)?;
        let code = mem.alloc(PAGE_SIZE_2M)?;
        let mut pool = FramePool::default();
        // Both roots map the code at its physical address.
        let mut root = || {
            let mut tables = Tables { pool: &mut pool, mem: &mem };
            let root = tables.alloc_table()?;
            let rights = Rights { write: true, execute: true, user: false };
            let at = GuestVirt::literal(code.raw());
            PageTable::new(root, &mut tables).map(at, code, PageSize::Large2M, rights)?;
            Ok::<_, VmError>(root)
        };
        let (first, second) = (root()?, root()?);
        let tag = |n: u64| if tagged { CR3_KEEP | n } else { 0 };
        let roots = [first.raw() | tag(1), second.raw() | tag(2)];

        let vcpu = fd.create_vcpu(0).map_err(kvm_call("create a vCPU"))?;
        vcpu.set_cpuid2(&cpuid).map_err(kvm_call("set CPUID"))?;
        let mut sregs = vcpu.get_sregs().map_err(kvm_call("give system registers"))?;
        let flags = CR4_PAE | if tagged { CR4_PCIDE } else { 0 };
        ring0(&mut sregs, first, flags);
        vcpu.set_sregs(&sregs).map_err(kvm_call("set system registers"))?;
        Ok(Some(Bare { vcpu, mem, code, roots }))
    }

    /// One buffer full of samples of `loads` loads.
    fn go(&mut self, loads: u32) -> Result<Vec<u64>, VmError> {
        let buffer = self.code.offset(PAGE_SIZE);
        self.mem.write(self.code, &timed(loads))?;
        self.vcpu
            .set_regs(&kvm_regs {
                rip: self.code.raw(),
                rflags: 2,
                rbx: buffer.raw(),
                rdi: self.roots[0],
                rsi: self.roots[1],
                r8: u64::from(SAMPLES),
                ..kvm_regs::default()
            })
            .map_err(kvm_call("set registers"))?;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => break,
                Ok(VcpuExit::Intr) => {}
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(kvm_call("run a vCPU in ring 0")(error)),
                Ok(_) => return Err(VmError::Unsupported { what: "loads of CR3 in ring 0" }),
            }
        }
        (0..u64::from(SAMPLES)).map(|n| Ok(self.mem.load(buffer.offset(8 * n))?)).collect()
    }
}

/// The code. Loads of CR3 serialise (SDM 3A, 9.3), so one precedes the first reading; fences would
/// do, too, but KVM's interpreter has none.
fn timed(loads: u32) -> Vec<u8> {
    let read: &[u8] = &[0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0];
    let (load_rdi, load_rsi): (&[u8], &[u8]) = (&[0x0f, 0x22, 0xdf], &[0x0f, 0x22, 0xde]);
    let mut code = load_rsi.to_vec();
    // rdtsc; shl rdx, 32; or rax, rdx; mov r9, rax
    code.extend([read, &[0x49, 0x89, 0xc1]].concat());
    for n in 0..loads {
        code.extend(if n % 2 == 0 { load_rdi } else { load_rsi });
    }
    // sub rax, r9; mov [rbx], rax; add rbx, 8; dec r8d; jnz to the start; hlt
    code.extend([read, &[0x4c, 0x29, 0xc8, 0x48, 0x89, 0x03, 0x48, 0x83, 0xc3, 0x08]].concat());
    code.extend([0x41, 0xff, 0xc8, 0x0f, 0x85]);
    let back = -(code.len() as i32 + 4);
    code.extend(back.to_le_bytes());
    code.push(0xf4);
    code
}

/// 64-bit ring 0 with flat segments and no descriptor tables: an exception ends the VM.
fn ring0(sregs: &mut kvm_sregs, root: GuestPhys, cr4: u64) {
    sregs.cs = kvm_segment { l: 1, db: 0, ..flat_segment(8, 11) };
    let data = flat_segment(16, 3);
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    // A busy 64-bit TSS, which VMX requires (SDM 3C, 27.3.1.2).
    let tss = flat_segment(24, 11);
    sregs.tr = kvm_segment { s: 0, g: 0, db: 0, limit: TSS_LIMIT as u32, ..tss };
    (sregs.gdt.limit, sregs.idt.limit) = (0, 0);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0_PE_ET_PG, root.raw(), cr4, EFER_LME_LMA);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_filled_and_loads_take_longer_than_none() {
        let untagged = Cr3Loads::measure(false, 2).expect("KVM runs it").expect("needs no tags");
        for samples in [&untagged.loaded, &untagged.empty] {
            assert_eq!(samples.len(), 2 * SAMPLES as usize);
            // No sample took a second.
            assert!(samples.iter().all(|&cycles| cycles < 1 << 33), "{samples:?}");
        }
        let sum = |samples: &[u64]| samples.iter().sum::<u64>();
        assert!(sum(&untagged.loaded) > sum(&untagged.empty), "{untagged:?}");
    }

    #[test]
    fn tags_are_used_where_there_are_any() {
        let offered = crate::host::probe().guest_cpu.is_some_and(|cpu| cpu.pcid);
        let tagged = Cr3Loads::measure(true, 1).expect("KVM runs it");
        assert_eq!(tagged.is_some(), offered);
    }
}

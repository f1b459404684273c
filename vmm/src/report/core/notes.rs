//! The notes of a core file, as Linux writes them (its `fs/binfmt_elf.c`, `linux/elfcore.h`).

use std::ops::Range;

use abi::PAGE_SIZE;
use abi::shared::selector;

use super::elf::{put_note, put16, put32, put64};
use crate::linux::core_dump::ThreadRegisters;

const CORE: &str = "CORE";
const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const NT_X86_XSTATE: u32 = 0x202;
/// Bytes of the x87 and SSE state, with which an XSAVE area begins.
const FPU_BYTES: usize = 512;

/// What the notes tell of a process.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) signal: i32,
    pub(super) siginfo: Vec<u8>,
    /// Process, parent, group, session.
    pub(super) numbers: [i32; 4],
    /// User and group.
    pub(super) owner: [u32; 2],
    pub(super) name: Vec<u8>,
    pub(super) args: Vec<u8>,
    pub(super) auxv: Vec<u8>,
    pub(super) files: Vec<Mapped>,
}

/// A file, or a segment, that is mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) range: Range<u64>,
    pub(super) offset: u64,
    pub(super) name: Vec<u8>,
}

/// All notes, the first thread's first.
pub(super) fn notes(facts: &Facts, threads: &[ThreadRegisters]) -> Vec<u8> {
    let mut notes = Vec::new();
    for (index, thread) in threads.iter().enumerate() {
        put_note(&mut notes, CORE, NT_PRSTATUS, &status(facts, thread));
        if index == 0 {
            put_note(&mut notes, CORE, NT_PRPSINFO, &process(facts));
            put_note(&mut notes, CORE, NT_SIGINFO, &facts.siginfo);
            put_note(&mut notes, CORE, NT_AUXV, &facts.auxv);
            put_note(&mut notes, CORE, NT_FILE, &files(&facts.files));
        }
        if let Some(xsave) = &thread.xsave {
            put_note(&mut notes, CORE, NT_FPREGSET, xsave.get(..FPU_BYTES).unwrap_or_default());
            put_note(&mut notes, "LINUX", NT_X86_XSTATE, xsave);
        }
    }
    notes
}

/// `struct elf_prstatus`. Processor times are 0: nobody reads them.
fn status(facts: &Facts, thread: &ThreadRegisters) -> Vec<u8> {
    let mut bytes = Vec::new();
    let [_, parent, group, session] = facts.numbers.map(i32::cast_unsigned);
    let signal = facts.signal.cast_unsigned();
    put32(&mut bytes, &[signal, 0, 0, signal]);
    put64(&mut bytes, &thread.signals);
    put32(&mut bytes, &[thread.tid.cast_unsigned(), parent, group, session]);
    put64(&mut bytes, &[0; 8]);
    let r = &thread.regs;
    put64(&mut bytes, &[r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8]);
    // `orig_rax` is no call's: none is to be made again.
    put64(&mut bytes, &[r.rax, r.rcx, r.rdx, r.rsi, r.rdi, u64::MAX, r.rip]);
    put64(&mut bytes, &[u64::from(selector::USER_CODE), r.rflags, r.rsp]);
    put64(&mut bytes, &[u64::from(selector::USER_DATA), thread.bases[0], thread.bases[1]]);
    // DS, ES, FS, GS.
    put64(&mut bytes, &[0; 4]);
    put32(&mut bytes, &[u32::from(thread.xsave.is_some()), 0]);
    bytes
}

/// `struct elf_prpsinfo`.
fn process(facts: &Facts) -> Vec<u8> {
    let mut bytes = b"\0R\0\0\0\0\0\0".to_vec();
    put64(&mut bytes, &[0]);
    put32(&mut bytes, &facts.owner);
    put32(&mut bytes, &facts.numbers.map(i32::cast_unsigned));
    for (text, room) in [(&facts.name, 16), (&facts.args, 80)] {
        let end = bytes.len() + room;
        // Ended by a zero, if there is room for nothing else.
        bytes.extend(text.iter().take(room - 1));
        bytes.resize(end, 0);
    }
    bytes
}

/// The note on files: addresses, then names. Offsets are counted in pages.
fn files(files: &[Mapped]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put64(&mut bytes, &[files.len() as u64, PAGE_SIZE]);
    for file in files {
        put64(&mut bytes, &[file.range.start, file.range.end, file.offset / PAGE_SIZE]);
    }
    for file in files {
        bytes.extend(file.name.iter().filter(|byte| **byte != 0));
        bytes.push(0);
    }
    bytes
}

/// `siginfo_t` of a signal of which nothing is known but its number.
pub(super) fn plain_siginfo(signal: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    put32(&mut bytes, &[signal.cast_unsigned(), 0]);
    put16(&mut bytes, &[crate::linux::signal::info::SI_KERNEL as u16, 0]);
    bytes.resize(128, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Facts, Mapped, files, plain_siginfo, process, status};
    use crate::linux::core_dump::ThreadRegisters;
    use crate::vm::UserRegs;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn structures_have_linuxs_sizes_and_places() {
        let facts = Facts {
            signal: 11,
            numbers: [7, 6, 5, 4],
            name: b"a-name-of-more-than-15-bytes".to_vec(),
            args: b"prog arg".to_vec(),
            ..Facts::default()
        };
        let thread = ThreadRegisters {
            tid: 9,
            signals: [1, 2],
            regs: UserRegs { rip: 0x1234, rsp: 0x5678, r15: 15, rdi: 5, ..UserRegs::default() },
            bases: [0xf5, 0x65],
            xsave: None,
        };
        let bytes = status(&facts, &thread);
        assert_eq!(bytes.len(), 336);
        assert_eq!((word(&bytes, 16), word(&bytes, 24)), (1, 2));
        assert_eq!(bytes[12], 11);
        assert_eq!(bytes[32], 9);
        let register = |index: usize| word(&bytes, 112 + 8 * index);
        assert_eq!([register(0), register(14), register(16)], [15, 5, 0x1234]);
        assert_eq!([register(17), register(19), register(20)], [0x33, 0x5678, 0x2b]);
        assert_eq!([register(21), register(22)], [0xf5, 0x65]);
        let bytes = process(&facts);
        assert_eq!(bytes.len(), 136);
        assert_eq!(bytes[24], 7);
        assert_eq!(&bytes[40..56], b"a-name-of-more-\0");
        assert_eq!(&bytes[56..66], b"prog arg\0\0");
        assert_eq!(plain_siginfo(11).len(), 128);
    }

    #[test]
    fn files_are_listed_with_their_pages() {
        let mapped = Mapped { range: 0x1000..0x3000, offset: 0x5000, name: b"/lib/x.so".to_vec() };
        let bytes = files(&[mapped]);
        assert_eq!([0, 8, 16, 24, 32].map(|at| word(&bytes, at)), [1, 4096, 0x1000, 0x3000, 5]);
        assert_eq!(&bytes[40..], b"/lib/x.so\0");
    }
}

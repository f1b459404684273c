//! The vDSO: the clock, read by the program itself without leaving the guest.
//!
//! ```text
//!  VDSO_BASE              clock page: parameters under a sequence lock; the VMM writes it
//!  VDSO_BASE + 4096       ELF image: headers, symbols, code; AT_SYSINFO_EHDR points here
//! ```
//!
//! The image is put together here: run-time libraries want an ELF shared object with a
//! dynamic section, a System V hash table and the names of Linux's vDSO. Symbol versions are
//! left out; glibc, musl and Go take an object without them as it is. Its dynamic section is
//! marked read-only, so that nobody relocates it in place.
//!
//! The code reaches the clock page relative to itself. While the clock is not calibrated it
//! makes the system call, and tells the VMM in R8 and R9 what the time-stamp counter looks
//! like from ring 3 (see `clock.rs`).

use std::arch::global_asm;

use abi::PAGE_SIZE;

use super::clock::{HINT_MAGIC, OFFSETS_AT};

/// Pages before the image: the clock page.
pub const DATA_PAGES: u64 = 1;

// The code stands at this offset of the image's page; the clock page lies one page below the
// page's start.
const CODE_AT: u64 = 0x400;

global_asm!(
    ".section .rodata.sj_vdso, \"a\"",
    ".balign 4096",
    // Only distances inside this section matter; it is copied out and never run here.
    "sj_vdso_clock_page:",
    ".skip 4096 + {code_at}",
    ".globl sj_vdso_code",
    "sj_vdso_code:",

    // Nanoseconds of clock EDI into RAX; carry set when the call has to be made instead.
    // Clobbers RCX, RDX, R8, R9.
    "sj_vdso_now:",
    "lea r8, [rip + sj_vdso_clock_page]",
    "2:",
    "mov r9d, [r8]",
    "test r9d, 1",
    "jnz 5f",
    "cmp qword ptr [r8 + 8], 0",
    "je 4f",
    // RDTSC may run early; the fence keeps it behind the sequence number (SDM 2B, RDTSC).
    "lfence",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    // A counter a little behind the base (another processor's) reads as the base.
    "sub rax, [r8 + 16]",
    "jae 3f",
    "xor eax, eax",
    "3:",
    "mul qword ptr [r8 + 24]",
    "shrd rax, rdx, 32",
    "mov edi, edi",
    "add rax, [r8 + 8 * rdi + {offsets_at}]",
    // Loads are not reordered with loads: an unchanged number means a consistent set.
    "cmp r9d, [r8]",
    "jne 2b",
    "clc",
    "ret",
    "4:",
    "stc",
    "ret",
    "5:",
    "pause",
    "jmp 2b",

    // clock_gettime(EDI clock, RSI timespec)
    "sj_vdso_clock_gettime:",
    "cmp edi, 7",
    "ja 6f",
    // REALTIME, MONOTONIC, MONOTONIC_RAW, both COARSE, BOOTTIME.
    "mov eax, 0b11110011",
    "bt eax, edi",
    "jnc 6f",
    "call sj_vdso_now",
    "jc 6f",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "mov [rsi], rax",
    "mov [rsi + 8], rdx",
    "xor eax, eax",
    "ret",
    "6:",
    "mov r10d, {sys_clock_gettime}",
    "jmp sj_vdso_call",

    // gettimeofday(RDI timeval, RSI timezone), either may be null
    "sj_vdso_gettimeofday:",
    "mov r11, rdi",
    "xor edi, edi",
    "call sj_vdso_now",
    "mov rdi, r11",
    "jc 9f",
    "test rdi, rdi",
    "jz 7f",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "mov [rdi], rax",
    "mov rax, rdx",
    "xor edx, edx",
    "mov ecx, 1000",
    "div rcx",
    "mov [rdi + 8], rax",
    "7:",
    "test rsi, rsi",
    "jz 8f",
    "mov qword ptr [rsi], 0",
    "8:",
    "xor eax, eax",
    "ret",
    "9:",
    "mov r10d, {sys_gettimeofday}",
    "jmp sj_vdso_call",

    // time(RDI time_t), may be null
    "sj_vdso_time:",
    "mov r11, rdi",
    "xor edi, edi",
    "call sj_vdso_now",
    "mov rdi, r11",
    "jc 3f",
    "xor edx, edx",
    "mov ecx, 1000000000",
    "div rcx",
    "test rdi, rdi",
    "jz 2f",
    "mov [rdi], rax",
    "2:",
    "ret",
    "3:",
    "mov r10d, {sys_time}",

    // System call R10D with the arguments as they are, and the hint.
    "sj_vdso_call:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov r9, rax",
    "movabs r8, {hint}",
    "mov eax, r10d",
    "syscall",
    "ret",
    ".globl sj_vdso_code_end",
    "sj_vdso_code_end:",
    // Where each function starts, for the symbol table.
    ".globl sj_vdso_entries",
    ".balign 8",
    "sj_vdso_entries:",
    ".quad sj_vdso_clock_gettime - sj_vdso_code",
    ".quad sj_vdso_gettimeofday - sj_vdso_code",
    ".quad sj_vdso_time - sj_vdso_code",
    ".text",
    code_at = const CODE_AT,
    offsets_at = const OFFSETS_AT,
    hint = const HINT_MAGIC,
    sys_clock_gettime = const libc::SYS_clock_gettime,
    sys_gettimeofday = const libc::SYS_gettimeofday,
    sys_time = const libc::SYS_time,
);

unsafe extern "C" {
    static sj_vdso_code: u8;
    static sj_vdso_code_end: u8;
    static sj_vdso_entries: [u64; NAMES.len()];
}

const NAMES: [&str; 3] = ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time"];
const SONAME: &str = "linux-vdso.so.1";

fn code() -> &'static [u8] {
    let start = &raw const sj_vdso_code;
    let end = &raw const sj_vdso_code_end;
    // SAFETY: both labels are in the read-only section above, the end behind the start.
    unsafe { std::slice::from_raw_parts(start, end.byte_offset_from_unsigned(start)) }
}

fn entries() -> [u64; NAMES.len()] {
    // SAFETY: a read-only array of that length, defined above.
    unsafe { sj_vdso_entries }
}

const DT_NULL: u64 = 0;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;

/// The ELF image, one page.
#[must_use]
pub fn image() -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const DYNAMIC_BYTES: u64 = 7 * 16;
    let symbols_at = HEADERS + DYNAMIC_BYTES;
    let symbols = NAMES.len() as u64 + 1;
    let hash_at = symbols_at + symbols * 24;
    let strings_at = hash_at + 4 * (2 + 1 + symbols);

    let mut strings = vec![0u8];
    let mut add_string = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let soname = add_string(SONAME);
    let names = NAMES.map(&mut add_string);

    let mut page = Vec::with_capacity(PAGE_SIZE as usize);
    // ELF header: 64-bit, little-endian, System V, ET_DYN, x86-64.
    page.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&mut page, 3, 2);
    put(&mut page, 62, 2);
    put(&mut page, 1, 4);
    put(&mut page, CODE_AT, 8);
    put(&mut page, 64, 8);
    put(&mut page, 0, 8);
    put(&mut page, 0, 4);
    for half in [64, 56, 2, 64, 0, 0] {
        put(&mut page, half, 2);
    }
    // PT_LOAD, read and execute; PT_DYNAMIC, read.
    program_header(&mut page, 1, 5, 0, PAGE_SIZE);
    program_header(&mut page, 2, 4, HEADERS, DYNAMIC_BYTES);
    let dynamic = [
        (DT_SONAME, soname),
        (DT_HASH, hash_at),
        (DT_STRTAB, strings_at),
        (DT_SYMTAB, symbols_at),
        (DT_STRSZ, strings.len() as u64),
        (DT_SYMENT, 24),
        (DT_NULL, 0),
    ];
    for (tag, value) in dynamic {
        put(&mut page, tag, 8);
        put(&mut page, value, 8);
    }
    // Symbols: the null one, then global functions in section 1.
    page.extend_from_slice(&[0; 24]);
    for (name, entry) in names.into_iter().zip(entries()) {
        put(&mut page, name, 4);
        put(&mut page, 0x12, 1);
        put(&mut page, 0, 1);
        put(&mut page, 1, 2);
        put(&mut page, CODE_AT + entry, 8);
        put(&mut page, 0, 8);
    }
    // Hash table with one bucket: a chain of all symbols.
    put(&mut page, 1, 4);
    put(&mut page, symbols, 4);
    put(&mut page, 1, 4);
    put(&mut page, 0, 4);
    for symbol in 1..symbols {
        put(&mut page, if symbol + 1 < symbols { symbol + 1 } else { 0 }, 4);
    }
    page.extend_from_slice(&strings);
    debug_assert!(page.len() as u64 <= CODE_AT);
    page.resize(CODE_AT as usize, 0);
    page.extend_from_slice(code());
    page.resize(PAGE_SIZE as usize, 0);
    page
}

fn put(page: &mut Vec<u8>, value: u64, bytes: usize) {
    page.extend_from_slice(value.to_le_bytes().get(..bytes).unwrap_or_default());
}

fn program_header(page: &mut Vec<u8>, kind: u64, flags: u64, at: u64, bytes: u64) {
    put(page, kind, 4);
    put(page, flags, 4);
    for word in [at, at, at, bytes, bytes, if kind == 1 { PAGE_SIZE } else { 8 }] {
        put(page, word, 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::clock::{ClockPage, PAGE_WORDS};
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn the_image_is_a_shared_object_with_the_names_libraries_look_up() {
        let image = image();
        assert_eq!(image.len() as u64, PAGE_SIZE);
        for (name, entry) in NAMES.iter().zip(entries()) {
            assert_eq!(look_up(&image, name), Some(CODE_AT + entry), "{name}");
        }
        assert_eq!(look_up(&image, "__vdso_nothing"), None);
    }

    fn word(image: &[u8], at: u64, bytes: usize) -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&image[at as usize..at as usize + bytes]);
        u64::from_le_bytes(word)
    }

    /// As a run-time library does it: program headers, dynamic section, hash chain, names.
    fn look_up(image: &[u8], name: &str) -> Option<u64> {
        object::read::elf::ElfFile64::<object::Endianness>::parse(image).unwrap();
        let dynamic = (0..word(image, 56, 2))
            .map(|i| 64 + i * 56)
            .find(|&at| word(image, at, 4) == 2)
            .map(|at| word(image, at + 16, 8))?;
        let entry = |tag: u64| {
            (0..)
                .map(|i| dynamic + i * 16)
                .take_while(|&at| word(image, at, 8) != DT_NULL)
                .find(|&at| word(image, at, 8) == tag)
                .map(|at| word(image, at + 8, 8))
        };
        let (hash, strings, symbols) = (entry(DT_HASH)?, entry(DT_STRTAB)?, entry(DT_SYMTAB)?);
        assert!(entry(DT_SONAME).is_some());
        let buckets = word(image, hash, 4);
        assert_eq!(buckets, 1, "the hash value does not matter with one bucket");
        let mut symbol = word(image, hash + 8, 4);
        while symbol != 0 {
            let at = symbols + symbol * 24;
            let text = &image[(strings + word(image, at, 4)) as usize..];
            if text.split(|&b| b == 0).next() == Some(name.as_bytes()) {
                assert_ne!(word(image, at + 6, 2), 0, "undefined");
                return Some(word(image, at + 8, 8));
            }
            symbol = word(image, hash + 12 + symbol * 4, 4);
        }
        None
    }

    /// Data page and image in memory of this process, as a program finds them.
    struct Mapped {
        base: *mut u8,
    }

    impl Mapped {
        fn new() -> Mapped {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: fresh memory; the image fits its second page.
            let base = unsafe {
                let base = libc::mmap(std::ptr::null_mut(), 8192, rw, flags, -1, 0).cast::<u8>();
                std::ptr::copy_nonoverlapping(image().as_ptr(), base.add(4096), 4096);
                libc::mprotect(base.add(4096).cast(), 4096, libc::PROT_READ | libc::PROT_EXEC);
                base
            };
            Mapped { base }
        }

        fn publish(&self, page: &ClockPage) {
            for (index, word) in page.words().iter().enumerate().chain([(0, &0)]) {
                // SAFETY: PAGE_WORDS words lie in the first page; the code reads them too.
                let slot = unsafe { AtomicU64::from_ptr(self.base.cast::<u64>().add(index)) };
                let value = if index == 0 { slot.load(Ordering::Relaxed) | 1 } else { *word };
                slot.store(value, Ordering::Release);
            }
            // SAFETY: as above.
            let slot = unsafe { AtomicU64::from_ptr(self.base.cast::<u64>()) };
            slot.store((slot.load(Ordering::Relaxed) | 1) + 1, Ordering::Release);
            assert!(PAGE_WORDS <= 512);
        }

        fn clock_gettime(&self, clock: i32) -> (i64, i64) {
            let mut ts = [0i64; 2];
            let entry = CODE_AT + entries()[0];
            // SAFETY: the mapped code is a function of this type.
            let status = unsafe {
                let f: extern "sysv64" fn(i32, *mut i64) -> i64 =
                    std::mem::transmute(self.base.add(4096 + entry as usize));
                f(clock, ts.as_mut_ptr())
            };
            assert_eq!(status, 0);
            (ts[0], ts[1])
        }
    }

    fn host(clock: i32) -> i128 {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: fills the structure.
        unsafe { libc::clock_gettime(clock, &mut ts) };
        i128::from(ts.tv_sec) * 1_000_000_000 + i128::from(ts.tv_nsec)
    }

    #[test]
    fn uncalibrated_code_makes_the_system_call() {
        let mapped = Mapped::new();
        let (sec, nsec) = mapped.clock_gettime(libc::CLOCK_REALTIME);
        let got = i128::from(sec) * 1_000_000_000 + i128::from(nsec);
        assert!((host(libc::CLOCK_REALTIME) - got).abs() < 1_000_000_000);
    }

    #[test]
    fn calibrated_code_agrees_with_the_host_and_never_goes_back() {
        let mut clock = crate::guest::clock::GuestClock::new(None);
        std::thread::sleep(std::time::Duration::from_millis(50));
        let hint = crate::guest::clock::host_tsc();
        let Some(page) = clock.calibrate(hint, None) else {
            eprintln!("SKIPPED: this host's time-stamp counter is not constant");
            return;
        };
        let mapped = Mapped::new();
        mapped.publish(&page);
        let mut last = 0;
        for round in 0..20_000 {
            if round % 1000 == 0 {
                mapped.publish(&clock.refresh());
            }
            let (sec, nsec) = mapped.clock_gettime(libc::CLOCK_MONOTONIC);
            assert!((0..1_000_000_000).contains(&nsec));
            let now = i128::from(sec) * 1_000_000_000 + i128::from(nsec);
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
        for id in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME] {
            let before = host(id);
            let (sec, nsec) = mapped.clock_gettime(id);
            let got = i128::from(sec) * 1_000_000_000 + i128::from(nsec);
            // Wide, because a busy machine may take the processor away between the readings.
            assert!(got > before - 20_000_000 && got < host(id) + 20_000_000, "clock {id}");
        }
    }
}

//! Makes the system calls that standard input encodes: each byte or word decides a number, an
//! argument or the content of memory, so any input is a program. Only in a VM: natively the
//! calls would be made on the host. Ends when the input does: prints "calls: N", exits 0,
//! unless a call has ended or broken it before.
//!
//! Pointers lead into a scratch area with an inaccessible page behind it, whose words are
//! random, small or pointers into it again. A second thread interrupts calls that block.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SCRATCH: usize = 16 * 4096;
const PAGE: usize = 4096;
/// exit, rt_sigreturn, vfork, exit_group; pause and rt_sigsuspend, which would never return
/// with the signal blocked.
const NEVER: [i64; 6] = [60, 15, 58, 231, 34, 130];
/// Most numbers are those of calls on memory, files or time.
const LAST: i64 = 470;

static DONE: AtomicBool = AtomicBool::new(false);

/// The input as a source of decisions.
struct Source {
    bytes: Vec<u8>,
    at: usize,
}

impl Source {
    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn byte(&mut self) -> u64 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        u64::from(byte)
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | self.byte())
    }

    fn value(&mut self, scratch: u64) -> u64 {
        match self.byte() % 16 {
            0 => self.word(),
            1 => self.byte() << 12,
            2..5 => self.byte() % 12,
            5 => self.byte() * self.byte(),
            6 => (self.byte() as i8) as u64,
            7 => 1 << (self.byte() % 64),
            8 => scratch + SCRATCH as u64 - self.byte() % 64,
            9 => !0 << (self.byte() % 64),
            _ => scratch + (self.byte() << 8 | self.byte()) % SCRATCH as u64,
        }
    }
}

extern "C" fn on_signal(_: i32) {}

fn interrupt_main() {
    // SAFETY: all zero is a valid sigaction: no flags (so blocked calls end), empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    // SAFETY: the handler does nothing.
    unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    // SAFETY: no arguments.
    let pid = unsafe { libc::getpid() };
    // SAFETY: likewise.
    let main = unsafe { libc::gettid() };
    std::thread::spawn(move || {
        while !DONE.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(3));
            // SAFETY: the signal has a handler, until a call removes it.
            unsafe { libc::syscall(libc::SYS_tgkill, pid, main, libc::SIGUSR1) };
        }
    });
}

fn scratch() -> *mut u8 {
    let (rights, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), SCRATCH + PAGE, rights, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: the mapping's last page.
    let done = unsafe { libc::mprotect(at.wrapping_byte_add(SCRATCH), PAGE, libc::PROT_NONE) };
    assert_eq!(done, 0);
    at.cast()
}

fn main() {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).expect("standard input can be read");
    let mut source = Source { bytes, at: 0 };
    interrupt_main();
    let area = scratch();
    let base = area as u64;
    let mut calls = 0;
    while !source.is_empty() {
        for _ in 0..source.byte() % 8 {
            let at = ((source.byte() << 8 | source.byte()) as usize * 8) % (SCRATCH - 8);
            let word = match source.byte() % 4 {
                0 => u64::from_le_bytes(*b"a/../b/\0"),
                1 => u64::from_le_bytes(*b"f\0/../..").rotate_left(source.byte() as u32 & 56),
                _ => source.value(base),
            };
            let to = area.wrapping_add(at).cast::<[u8; 8]>();
            // A call may have unmapped or protected it: then the fault ends us, as it may.
            // SAFETY: inside the scratch area.
            unsafe { to.write_volatile(word.to_le_bytes()) };
        }
        let number = (source.byte() << 8 | source.byte()) as i64 % (LAST + 1);
        if NEVER.contains(&number) {
            continue;
        }
        let args = [(); 6].map(|()| source.value(base));
        // SAFETY: none: any call may do anything to this program. That is what is being tested.
        unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
        calls += 1;
    }
    DONE.store(true, Ordering::Relaxed);
    println!("calls: {calls}");
}

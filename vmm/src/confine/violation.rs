//! What happens to a call that a thread may not make: the kernel does not make it, and sends the thread
//! a signal. Its handler tells, and ends the process; or, if violations are only told, makes the call
//! itself, at an address from which the filter lets it pass.

use std::io;
use std::mem::MaybeUninit;
use std::os::raw::{c_int, c_void};
use std::sync::atomic::{AtomicU8, Ordering};

use super::filter::AUDIT_ARCH_X86_64;
use super::{Confine, Kind};
use crate::stats::names::name;

/// The exit status of a VMM that has made a call which it may not make: as if the signal had ended it.
pub const STATUS: u8 = 128 + libc::SIGSYS as u8;

std::arch::global_asm!(
    ".globl spacejmp_told_call",
    "spacejmp_told_call:",
    "mov rax, rdi",
    "mov rdi, [rsi]",
    "mov rdx, [rsi + 16]",
    "mov r10, [rsi + 24]",
    "mov r8, [rsi + 32]",
    "mov r9, [rsi + 40]",
    "mov rsi, [rsi + 8]",
    "syscall",
    ".globl spacejmp_told_call_end",
    "spacejmp_told_call_end:",
    "ret",
);

unsafe extern "C" {
    /// Makes a system call by its number.
    fn spacejmp_told_call(number: i64, arguments: *const [i64; 6]) -> i64;
    fn spacejmp_told_call_end();
}

/// Behind which instruction a call that was told is made.
pub(super) fn told_at() -> u64 {
    spacejmp_told_call_end as *const () as u64
}

/// From now on, violations by threads of this process are told.
///
/// # Errors
/// The host's.
pub(super) fn tell(mode: Confine) -> io::Result<()> {
    let handler = match mode {
        Confine::Log => on_violation_told as *const (),
        Confine::On | Confine::Off => on_violation as *const (),
    };
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid `sigaction` with an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handler as usize;
    // Within the handler, a call may be forbidden as well, or be interrupted by another signal.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the handlers are of the type SA_SIGINFO asks for, and make system calls only.
    let failed = unsafe { libc::sigaction(libc::SIGSYS, action, std::ptr::null_mut()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A violation, as the kernel tells it.
#[derive(Clone, Copy, Debug)]
struct Violation {
    kind: Option<Kind>,
    number: i32,
    is_native: bool,
    arguments: [i64; 6],
}

/// `si_code` of a signal by a filter.
const SYS_SECCOMP: c_int = 1;
/// Where `siginfo_t` has the number and the architecture of the call, in words (sigaction(2)).
const NUMBER: usize = 6;
const ARCHITECTURE: usize = 7;

/// `None` for a signal that somebody has sent.
///
/// # Safety
/// They are what the kernel has passed to a handler of SIGSYS that has not returned.
unsafe fn violation(info: *mut libc::siginfo_t, context: *mut c_void) -> Option<Violation> {
    // SAFETY: 128 bytes, of which any value is a number.
    let info = unsafe { &*info.cast::<[i32; 32]>() };
    let [_, kind, code, ..] = *info;
    if code != SYS_SECCOMP {
        return None;
    }
    // SAFETY: as above: the interrupted thread's registers.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let by =
        [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9];
    Some(Violation {
        kind: Kind::ALL.into_iter().find(|known| *known as i32 == kind),
        number: info[NUMBER],
        is_native: info[ARCHITECTURE].cast_unsigned() == AUDIT_ARCH_X86_64,
        arguments: by.map(|register| registers.get(register as usize).copied().unwrap_or(0)),
    })
}

extern "C" fn on_violation(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: called by the kernel, as the handler of SIGSYS.
    let Some(violation) = (unsafe { violation(info, context) }) else { return };
    violation.tell(b"spacejmp: the VMM was ended: ");
    // SAFETY: ends the process without running any of its code.
    unsafe { libc::_exit(c_int::from(STATUS)) }
}

extern "C" fn on_violation_told(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: called by the kernel, as the handler of SIGSYS.
    let Some(violation) = (unsafe { violation(info, context) }) else { return };
    if violation.is_first() {
        violation.tell(b"spacejmp: not confined (--confine log): ");
    }
    let result = match violation.is_native {
        // SAFETY: the call that the thread was about to make, with its arguments: nothing is different from
        // a thread without a filter. What makes threads does not come here (`filter`).
        true => unsafe { spacejmp_told_call(violation.number.into(), &violation.arguments) },
        false => -i64::from(libc::ENOSYS),
    };
    // SAFETY: as above; the register in which the thread expects the result.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    if let Some(rax) = registers.get_mut(libc::REG_RAX as usize) {
        *rax = result;
    }
}

impl Violation {
    /// Whether this kind of thread has not made this call before, or of `ioctl`, this request.
    fn is_first(self) -> bool {
        const PLACES: usize = 2048;
        static SEEN: [AtomicU8; PLACES] = [const { AtomicU8::new(0) }; PLACES];
        let place = match i64::from(self.number) {
            libc::SYS_ioctl => PLACES / 2 + (self.arguments[1] as usize % (PLACES / 2)),
            number => number as usize % (PLACES / 2),
        };
        let bit = 1 << self.kind.map_or(0, |kind| kind as u16);
        SEEN.get(place).is_none_or(|seen| seen.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Writes one line to stderr, without allocating or locking anything.
    fn tell(self, beginning: &[u8]) {
        let mut line = Line { text: [0; 512], used: 0 };
        line.add(beginning);
        line.add(b"its ");
        line.add(self.kind.map_or("", Kind::name).as_bytes());
        line.add(b" thread made the call ");
        let known =
            if self.is_native { name(u64::from(self.number.cast_unsigned())) } else { None };
        line.add(known.unwrap_or("?").as_bytes());
        line.add(b" (");
        line.decimal(u64::from(self.number.cast_unsigned()));
        line.add(b") with");
        for argument in self.arguments {
            line.add(b" ");
            line.hexadecimal(argument.cast_unsigned());
        }
        line.add(b", which it may not make: a bug in spacejmp, or an attack on it\n");
        let text = line.text.get(..line.used).unwrap_or_default();
        // SAFETY: reads `text`. If stderr is closed, only the exit status remains.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
}

/// Text of limited length.
struct Line {
    text: [u8; 512],
    used: usize,
}

impl Line {
    fn add(&mut self, text: &[u8]) {
        for (to, from) in self.text.iter_mut().skip(self.used).zip(text) {
            *to = *from;
        }
        self.used = self.text.len().min(self.used + text.len());
    }

    fn digits(&mut self, number: u64, base: u64) {
        if number >= base {
            self.digits(number / base, base);
        }
        let digit = char::from_digit((number % base) as u32, base as u32).unwrap_or('?');
        self.add(&[digit as u8]);
    }

    fn decimal(&mut self, number: u64) {
        self.digits(number, 10);
    }

    fn hexadecimal(&mut self, number: u64) {
        self.add(b"0x");
        self.digits(number, 16);
    }
}

//! What a signal carries: `siginfo_t`, as far as Linux keeps it.

/// Bytes of `siginfo_t`.
pub(crate) const SIGINFO_BYTES: usize = 128;
/// Bytes that Linux itself keeps of what a program queues (`struct kernel_siginfo`).
const KEPT_BYTES: usize = 48;

/// `si_code` of `kill`.
pub(crate) const SI_USER: i32 = 0;
/// `si_code` of a signal sent by the kernel.
pub(crate) const SI_KERNEL: i32 = 0x80;
/// `si_code` of an expired POSIX timer.
pub(crate) const SI_TIMER: i32 = -2;
/// `si_code` of `tkill` and `tgkill`.
pub(crate) const SI_TKILL: i32 = -6;
/// The lowest of Linux's own codes, except for one far below.
const SI_DETHREAD: i32 = -7;
const SI_ASYNCNL: i32 = -60;

/// `siginfo_t`, as its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigInfo {
    /// Signal number.
    pub signo: i32,
    /// Why: `SI_USER`, `SEGV_MAPERR`, ...
    pub code: i32,
    /// First word of the union: address of a fault, sender's pid and uid, or timer and overrun.
    pub value: u64,
    /// `si_errno`, which only programs set.
    errno: i32,
    /// The union's other words: for a queued signal or a timer, first its value.
    rest: [u64; 3],
}

impl SigInfo {
    /// A `siginfo_t` whose union is this word.
    #[must_use]
    pub const fn new(signo: i32, code: i32, value: u64) -> SigInfo {
        SigInfo { signo, code, value, errno: 0, rest: [0; 3] }
    }

    /// As [`SigInfo::new`], with the `sigval` of a timer or a queued signal.
    #[must_use]
    pub const fn with_sigval(self, sigval: u64) -> SigInfo {
        SigInfo { rest: [sigval, self.rest[1], self.rest[2]], ..self }
    }

    /// As [`SigInfo::new`], with the union's other words.
    #[must_use]
    pub const fn with_rest(self, rest: [u64; 3]) -> SigInfo {
        SigInfo { rest, ..self }
    }

    /// As [`SigInfo::new`], with `si_errno`.
    #[must_use]
    pub const fn with_errno(self, errno: i32) -> SigInfo {
        SigInfo { errno, ..self }
    }

    /// `si_errno`.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        self.errno
    }

    /// The union's words after the first one.
    #[must_use]
    pub const fn rest(&self) -> [u64; 3] {
        self.rest
    }

    /// What a program passed to `rt_sigqueueinfo`, for `signo`, whatever number it contains.
    #[must_use]
    pub fn from_bytes(signo: i32, bytes: &[u8; SIGINFO_BYTES]) -> SigInfo {
        let word = |at: usize| {
            let piece = bytes.get(at..at + 8).and_then(|b| b.first_chunk());
            u64::from_le_bytes(piece.copied().unwrap_or_default())
        };
        SigInfo {
            signo,
            errno: (word(0) >> 32) as i32,
            code: word(8) as i32,
            value: word(16),
            rest: [word(24), word(32), word(40)],
        }
    }

    /// Whether `bytes` contain more than is kept. Linux knows the layout of its own codes and
    /// checks only those invented by the program.
    #[must_use]
    pub fn is_too_big(&self, bytes: &[u8; SIGINFO_BYTES]) -> bool {
        let invented = self.code < SI_DETHREAD && self.code != SI_ASYNCNL;
        invented && bytes.iter().skip(KEPT_BYTES).any(|byte| *byte != 0)
    }

    /// As `siginfo_t`.
    #[must_use]
    pub fn head_bytes(&self) -> [u8; SIGINFO_BYTES] {
        let mut bytes = [0; SIGINFO_BYTES];
        bytes[..4].copy_from_slice(&self.signo.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.errno.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.value.to_le_bytes());
        for (field, word) in bytes[24..KEPT_BYTES].chunks_exact_mut(8).zip(self.rest) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{SIGINFO_BYTES, SigInfo};

    #[test]
    fn what_a_program_queues_comes_back_byte_for_byte() {
        let mut bytes = [0; SIGINFO_BYTES];
        for (at, byte) in bytes.iter_mut().enumerate().take(48) {
            *byte = at as u8;
        }
        // Padding is not kept.
        bytes[12..16].fill(0);
        bytes[8..12].copy_from_slice(&(-100_i32).to_le_bytes());
        let info = SigInfo::from_bytes(34, &bytes);
        assert!(!info.is_too_big(&bytes));
        bytes[..4].copy_from_slice(&34_i32.to_le_bytes());
        assert_eq!(info.head_bytes(), bytes);
        bytes[127] = 1;
        assert!(info.is_too_big(&bytes));
        assert!(!SigInfo::new(34, -1, 0).is_too_big(&bytes));
    }
}

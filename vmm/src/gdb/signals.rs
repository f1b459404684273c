//! gdb's numbers of signals, which are its own (gdb's `include/gdb/signals.def`).
#![forbid(unsafe_code)]

/// Linux's number and gdb's, where they are not the same. Linux's SIGSTKFLT has none.
const DIFFERENT: [(i32, u8); 16] = [
    (libc::SIGBUS, 10),
    (libc::SIGUSR1, 30),
    (libc::SIGUSR2, 31),
    (libc::SIGCHLD, 20),
    (libc::SIGCONT, 19),
    (libc::SIGSTOP, 17),
    (libc::SIGTSTP, 18),
    (libc::SIGURG, 16),
    (libc::SIGIO, 23),
    (libc::SIGPWR, 32),
    (libc::SIGSYS, 12),
    (libc::SIGSTKFLT, 143),
    (32, 77),
    (64, 78),
    (libc::SIGTTIN, 21),
    (libc::SIGTTOU, 22),
];
/// gdb's of Linux's 33, and those up to 63 follow.
const REAL_TIME: u8 = 45;

/// gdb's number of a signal.
pub(super) fn to_gdb(signal: i32) -> u8 {
    if let Some((_, gdb)) = DIFFERENT.iter().find(|(linux, _)| *linux == signal) {
        return *gdb;
    }
    match u8::try_from(signal) {
        Ok(signal @ 33..=63) => REAL_TIME + (signal - 33),
        Ok(signal) => signal,
        // gdb's "unknown".
        Err(_) => 143,
    }
}

/// The signal that gdb means.
pub(super) fn from_gdb(gdb: u64) -> Option<i32> {
    (1..=64).find(|signal| u64::from(to_gdb(*signal)) == gdb)
}

#[cfg(test)]
mod tests {
    use super::{from_gdb, to_gdb};

    #[test]
    fn each_signal_has_a_number_of_its_own_and_comes_back() {
        for signal in 1..=64 {
            assert_eq!(from_gdb(u64::from(to_gdb(signal))), Some(signal));
        }
        // As gdb prints them: SIGUSR1, SIGBUS, SIG34.
        assert_eq!([10, 7, 34, 11, 28].map(to_gdb), [30, 10, 46, 11, 28]);
        assert_eq!((from_gdb(0), from_gdb(u64::MAX)), (None, None));
    }
}

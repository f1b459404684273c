//! Names of signals.
#![forbid(unsafe_code)]

/// The name of signal `number` on x86-64 (signal(7)); real-time signals and numbers that do
/// not exist have a common one.
#[must_use]
pub fn signal_name(number: u8) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match usize::from(number).checked_sub(1).map(|index| NAMES.get(index)) {
        None => "signal 0".to_owned(),
        Some(Some(name)) => format!("SIG{name}"),
        Some(None) => "a real-time signal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::signal_name;

    #[test]
    fn names_stand_at_their_numbers() {
        for (number, name) in [
            (libc::SIGINT, "SIGINT"),
            (libc::SIGABRT, "SIGABRT"),
            (libc::SIGSEGV, "SIGSEGV"),
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGWINCH, "SIGWINCH"),
            (libc::SIGSYS, "SIGSYS"),
        ] {
            assert_eq!(signal_name(number as u8), name);
        }
        assert_eq!(signal_name(255), "a real-time signal");
    }
}

//! Names of signals.
#![forbid(unsafe_code)]

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The signal that a user means: `TERM`, `SIGTERM` or `15`. Real-time signals have no names.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number).filter(|number| (1..=NAMES.len() as i32).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let index = NAMES.iter().position(|one| *one == name)?;
    i32::try_from(index + 1).ok()
}

/// The name of signal `number` on x86-64 (signal(7)); real-time signals and numbers that do
/// not exist have a common one.
#[must_use]
pub fn signal_name(number: u8) -> String {
    match usize::from(number).checked_sub(1).map(|index| NAMES.get(index)) {
        None => "signal 0".to_owned(),
        Some(Some(name)) => format!("SIG{name}"),
        Some(None) => "a real-time signal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{signal_name, signal_number};

    #[test]
    fn a_user_may_name_a_signal_in_three_ways() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal_number(text), Some(libc::SIGTERM), "{text}");
        }
        assert_eq!(signal_number("31"), Some(libc::SIGSYS));
        for text in ["", "SIG", "0", "32", "-9", "TERMINATE"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }

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

//! Names of signals.
#![forbid(unsafe_code)]

/// The name of signal `number` on x86-64 (signal(7)); real-time signals and numbers that do
/// not exist have a common one.
#[must_use]
pub fn signal_name(number: u8) -> &'static str {
    const NAMES: [&str; 32] = [
        "signal 0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    NAMES.get(usize::from(number)).copied().unwrap_or("a real-time signal")
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

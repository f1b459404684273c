//! The exit status of the `spacejmp` command, in one table.
//!
//! A program's own status passes through unchanged, so ours have to sit where programs
//! rarely go. 124 to 127 and 128+N are what `timeout(1)`, `env(1)` and shells use for the
//! same events, so scripts that know those know us. A program can still return these
//! numbers itself: `--stats=json` and the message on stderr tell the two apart.

/// How a `spacejmp` command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// The command, or the program it ran, ended with this status of its own.
    Program(u8),
    /// 124: `--timeout` ran out and the program was ended (as `timeout(1)`).
    TimedOut,
    /// 125: `spacejmp` itself could not do it: command line, configuration or host.
    OwnFailure,
    /// 126: the program was found but cannot be executed: neither ELF nor a script, for another
    /// machine, damaged, or without its loader or interpreter.
    CannotExecute,
    /// 127: the program was not found.
    NotFound,
    /// 128+N: the program was ended by signal N: 139 for a bad memory access (SIGSEGV),
    /// 132 for an illegal instruction (SIGILL), 130 for Ctrl-C (SIGINT).
    Signal(u8),
    /// 137: the program needed more memory than the VM or the host had, and was ended
    /// (128 + SIGKILL, as after the kernel's out-of-memory kill).
    OutOfMemory,
}

impl ExitCode {
    /// The status given to `exit`. A signal above 64 (there is none) gives 125.
    pub const fn status(self) -> u8 {
        match self {
            Self::Program(status) => status,
            Self::TimedOut => 124,
            Self::OwnFailure => 125,
            Self::CannotExecute => 126,
            Self::NotFound => 127,
            Self::Signal(number) if number <= 64 => 128 + number,
            Self::Signal(_) => 125,
            Self::OutOfMemory => 137,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.status())
    }
}

/// The same table for `--help`.
pub const HELP: &str = "\
Exit status:
  the program's own status, or
  124    --timeout ran out
  125    spacejmp itself failed: command line, configuration or host
  126    the program cannot be executed (neither ELF nor script, damaged, no loader or interpreter)
  127    the program was not found
  128+N  the program was ended by signal N (139 = bad memory access, 130 = Ctrl-C)
  137    the program ran out of memory
  159    the VMM made a call that its confinement forbids (--confine)";

#[cfg(test)]
mod tests {
    use super::{ExitCode, HELP};

    #[test]
    fn a_programs_own_status_passes_through() {
        for status in 0..=255 {
            assert_eq!(ExitCode::Program(status).status(), status);
        }
    }

    #[test]
    fn signals_are_128_and_more_and_never_wrap() {
        assert_eq!(ExitCode::Signal(11).status(), 139);
        assert_eq!(ExitCode::Signal(2).status(), 130);
        assert_eq!(ExitCode::Signal(64).status(), 192);
        assert_eq!(ExitCode::Signal(200).status(), 125);
    }

    #[test]
    fn the_help_names_every_status_of_ours() {
        for code in [
            ExitCode::TimedOut,
            ExitCode::OwnFailure,
            ExitCode::CannotExecute,
            ExitCode::NotFound,
            ExitCode::OutOfMemory,
        ] {
            assert!(HELP.contains(&format!("\n  {} ", code.status())), "{code:?}");
        }
    }
}

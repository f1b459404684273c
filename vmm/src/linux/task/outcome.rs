//! How a program ended.

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this status, 0 to 255.
    Exited(u8),
    /// A signal it did not handle ended it.
    Killed {
        /// The signal's number.
        signal: u8,
        /// What happened, for a person; empty when the program sent it itself.
        report: String,
    },
    /// A signal from outside ended it: Ctrl-C, `kill`, a terminal that went away.
    Interrupted {
        /// The signal's number.
        signal: u8,
    },
    /// The time it was given ran out.
    TimedOut,
    /// The VM's memory was used up.
    OutOfMemory {
        /// What it had.
        limit_bytes: u64,
    },
    /// KVM, the guest kernel or the VMM failed; the program is not to blame.
    HostFailed(String),
}

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
        /// What happened, for a person; empty when the program asked for it itself.
        report: String,
    },
    /// The time it was given ran out.
    TimedOut,
    /// The VM's memory was used up.
    OutOfMemory {
        /// What it had.
        limit_bytes: u64,
    },
    /// KVM or the guest kernel failed; the program is not to blame.
    HostFailed(String),
}

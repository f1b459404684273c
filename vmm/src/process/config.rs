//! The caller's request.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::files::{Grant, Tty};
use crate::vas::VasGrants;

/// Everything that decides how a program runs.
#[derive(Debug)]
pub struct RunConfig {
    /// The executable, on the host.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<Vec<u8>>,
    /// Its environment, `KEY=value`.
    pub env: Vec<Vec<u8>>,
    /// Memory it may have mapped and touched at the same time.
    pub memory_bytes: u64,
    /// Host directories granted to it.
    pub grants: Vec<Grant>,
    /// Its current directory, a path inside; `None` for the host's if a grant shows it,
    /// else the first grant.
    pub cwd: Option<PathBuf>,
    /// The store its address spaces are in; `None` for the user's own.
    pub store: Option<PathBuf>,
    /// Which part of the store it may use.
    pub vases: VasGrants,
    /// Whether it may open `/dev/tty`.
    pub tty: Tty,
    /// Its umask.
    pub umask: u32,
    /// Standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// Further descriptors, with their numbers in the program.
    pub inherited: Vec<(i32, OwnedFd)>,
}

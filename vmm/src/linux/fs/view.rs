//! What the synthetic files tell of, asked for through a trait: a process has files, and
//! some of its files tell of the process.

use std::fmt;

use abi::Errno;

/// The process whose `/proc` it is.
pub trait View: fmt::Debug + Send + Sync {
    /// Its number.
    fn pid(&self) -> i32;

    /// The numbers of its threads.
    fn tids(&self) -> Vec<i32>;

    /// The thread that makes the call being served.
    fn caller(&self) -> i32;

    /// The content of the file in a row of `linux::proc`'s table, for one thread or for the
    /// process.
    ///
    /// # Errors
    /// `ESRCH` for a thread that has ended, or what the host said when it was asked.
    fn text(&self, row: usize, tid: Option<i32>) -> Result<Vec<u8>, Errno>;

    /// Takes what the program wrote to such a file.
    ///
    /// # Errors
    /// `EINVAL` where nothing can be written, `ESRCH`.
    fn take(&self, row: usize, tid: Option<i32>, bytes: &[u8]) -> Result<(), Errno>;
}

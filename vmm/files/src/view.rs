//! What the synthetic files describe, obtained through a trait: a process has files, and some of
//! its files describe the process.

use std::fmt;

use abi::Errno;

/// A file whose content is generated when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextFile {
    /// Its path: below `/proc` or `/sys`. `#` for a component is the process and each of its
    /// threads.
    pub path: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// Whether it is also there for other processes: in place of `#`.
    pub of_others: bool,
}

/// Whom a generated file describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// The process whose `/proc` it is, or the machine.
    #[default]
    Process,
    /// A thread of the process.
    Thread(i32),
    /// Another process.
    Other(i32),
    /// Of another process, one thread.
    ThreadOf(i32, i32),
}

/// The process whose `/proc` it is.
pub trait View: fmt::Debug + Send + Sync {
    /// Its number.
    fn pid(&self) -> i32;

    /// The numbers of its threads.
    fn tids(&self) -> Vec<i32>;

    /// The thread whose call is being served.
    fn caller(&self) -> i32;

    /// The other processes that have a directory now.
    fn others(&self) -> Vec<i32>;

    /// The numbers of another process's threads; none when it is gone.
    fn threads_of(&self, pid: i32) -> Vec<i32>;

    /// The open descriptors of another process; none when it is gone.
    fn descriptors_of(&self, pid: i32) -> Vec<u32>;

    /// The host's name of what one of them refers to.
    ///
    /// # Errors
    /// `ENOENT` for one that is not open, `EACCES` for one without a name.
    fn descriptor_of(&self, pid: i32, fd: u32) -> Result<Vec<u8>, Errno>;

    /// The path of the program of another process.
    ///
    /// # Errors
    /// `ENOENT` when it is gone.
    fn program_of(&self, pid: i32) -> Result<Vec<u8>, Errno>;

    /// The path of its current directory.
    ///
    /// # Errors
    /// As [`View::program_of`].
    fn directory_of(&self, pid: i32) -> Result<Vec<u8>, Errno>;

    /// Whether a process of the run runs this file, which then cannot be written.
    fn runs(&self, device: u64, inode: u64) -> bool;

    /// The process group it is in, or 0 for one outside of the PID namespace.
    fn process_group(&self) -> i32;

    /// The content of the file in a row of the table that [`Namespace::new`] was given.
    ///
    /// [`Namespace::new`]: super::Namespace::new
    ///
    /// # Errors
    /// `ESRCH` for a thread or a process that has ended, `EACCES` for what only that one may know, or the host's
    /// error.
    fn text(&self, row: usize, of: Whose) -> Result<Vec<u8>, Errno>;

    /// Processes what the program wrote to such a file.
    ///
    /// # Errors
    /// `EINVAL` where nothing can be written, `ESRCH`.
    fn take(&self, row: usize, of: Whose, bytes: &[u8]) -> Result<(), Errno>;
}

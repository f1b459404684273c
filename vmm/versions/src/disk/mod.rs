//! The one way to files: everything that a power cut could divide goes through it, so that the
//! simulation sees exactly what the host would do.

use std::io::{self, IoSlice};

pub mod host;
pub mod simulated;

/// A folder of a segment's files.
pub trait Folder {
    /// Its files.
    type File: File;

    /// Makes a file that does not exist. Durable, as a name, after [`Folder::sync`].
    ///
    /// # Errors
    /// The host's; `AlreadyExists`.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file that exists, to read and to write.
    ///
    /// # Errors
    /// The host's; `NotFound`.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Takes the name away; what is open or mapped stays.
    ///
    /// # Errors
    /// The host's; `NotFound`.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// All names, in no order.
    ///
    /// # Errors
    /// The host's.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Names made and removed so far are durable when it returns.
    ///
    /// # Errors
    /// The host's; nothing is known then.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub trait File {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The host's.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The host's; `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all pieces, one behind the other, from `offset` on.
    ///
    /// # Errors
    /// The host's; any part may have been written.
    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Gives back the space of what lies from `offset` on, which is zeros and stays so. A file system
    /// that cannot keeps it.
    fn release(&self, offset: u64);

    /// Content and length are durable when it returns.
    ///
    /// # Errors
    /// The host's. What was written since the last success may be lost although it can be read, and
    /// a second sync that succeeds says nothing about it (fsync(2), "EIO").
    fn sync(&self) -> io::Result<()>;
}

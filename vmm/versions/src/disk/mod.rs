//! The one way to files: everything that a power cut could divide goes through it, so that the
//! simulation sees exactly what the host would do.

use std::io::{self, IoSlice};
use std::ops::Range;

pub mod host;
pub mod simulated;

/// A folder of a segment's files.
pub trait Folder: Sized {
    /// Its files.
    type File: File + std::fmt::Debug;

    /// The folder of another segment of the same store, whose files are only read; `None` if there is
    /// none.
    ///
    /// # Errors
    /// The host's.
    fn companion(&self, segment: u64) -> io::Result<Option<Self>>;

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

    /// Gives a file that exists a name in `to`, which is on the same file system, beside the one it has
    /// here. Durable, as a name, after a sync of `to`.
    ///
    /// # Errors
    /// The host's; `NotFound`, `AlreadyExists`, `CrossesDevices`.
    fn link(&self, name: &str, to: &Self, as_name: &str) -> io::Result<()>;

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

/// What [`File::bytes`] and [`File::identity`] say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    /// Its length.
    pub bytes: u64,
    /// Which file it is.
    pub identity: (u64, u64),
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

    /// How many names it has, in all folders.
    ///
    /// # Errors
    /// The host's.
    fn links(&self) -> io::Result<u64>;

    /// What no other file of the host has, whatever its names.
    ///
    /// # Errors
    /// The host's.
    fn identity(&self) -> io::Result<(u64, u64)>;

    /// Length and identity at once.
    ///
    /// # Errors
    /// The host's.
    fn about(&self) -> io::Result<About> {
        Ok(About { bytes: self.bytes()?, identity: self.identity()? })
    }

    /// The first range at or behind `offset` that may have something else than zeros; `None` if there
    /// is none. It saves reading holes, and proves nothing: a file system may say that all is data.
    ///
    /// # Errors
    /// The host's.
    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>>;

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

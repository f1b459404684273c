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

    /// The same folder, whose files are written with what they have already, because an earlier sync of
    /// them may have failed; `None` if nothing is written here.
    ///
    /// # Errors
    /// The host's.
    fn companion_to_repair(&self, segment: u64) -> io::Result<Option<Self>>;

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
    /// What it takes on the disk.
    pub stored_bytes: u64,
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

    /// Length, identity and disk space at once.
    ///
    /// # Errors
    /// The host's.
    fn about(&self) -> io::Result<About> {
        let bytes = self.bytes()?;
        Ok(About { bytes, identity: self.identity()?, stored_bytes: bytes })
    }

    /// Writes all pieces, one behind the other, from `offset` on: they are durable when it returns, as after
    /// [`File::sync`].
    ///
    /// # Errors
    /// As those of both; any part may have been written.
    fn write_durably(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(pieces, offset)?;
        self.sync()
    }

    /// The first range at or behind `offset` that may have something else than zeros; `None` if there
    /// is none. It saves reading holes, and proves nothing: a file system may say that all is data.
    ///
    /// # Errors
    /// The host's.
    fn data_from(&self, offset: u64) -> io::Result<Option<Range<u64>>>;

    /// Makes zeros of what lies there, and the file as long as that, in as little space as the file
    /// system can.
    ///
    /// # Errors
    /// The host's; any part may have been done.
    fn clear(&self, range: Range<u64>) -> io::Result<()>;

    /// What lies from `offset` on is durable, and will be written before it is read: the host need not
    /// keep it in memory. It writes whole what it keeps in one piece, which may be much more than
    /// is written then.
    fn uncache(&self, offset: u64);

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

/// Bytes that the host keeps in one piece where so many are written at once (a folio): of one that a
/// record has a page of, it would write all.
pub(crate) const SMALL_PIECE_BYTES: usize = 64 << 10;

/// Writes zeros, so many bytes at once. Whole, or the file's end is where it will be tried again.
pub(crate) fn fill<F: File>(file: &F, range: Range<u64>, at_once: usize) -> io::Result<()> {
    static ZEROS: [u8; SMALL_PIECE_BYTES] = [0; SMALL_PIECE_BYTES];
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(at_once as u64));
        let mut pieces = Vec::new();
        let mut left = end - at;
        while left > 0 {
            let bytes = left.min(ZEROS.len() as u64);
            pieces.push(IoSlice::new(&ZEROS[..bytes as usize]));
            left -= bytes;
        }
        file.write_at(&pieces, at)?;
        at = end;
    }
    Ok(())
}

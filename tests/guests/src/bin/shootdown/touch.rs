//! One access to a page of the test, as `guests::touch` makes it.

use guests::touch;
pub(crate) use guests::touch::{Seen, prepare};

/// The offset in a page of its code: `mov eax, IMM; ret`.
pub(crate) const CODE_AT: usize = 0x800;

/// The value written: eight `ret`, for a thread that runs off the end of the previous page.
const RETURNS: u64 = 0xc3c3_c3c3_c3c3_c3c3;

/// How an access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads the word at the start of the page.
    Read,
    /// Writes a word of the calling thread's own.
    Write,
    /// Calls the page's code.
    Execute,
}

/// Makes the access to `page`, an address [`prepare`] was told of. Writes go to the word
/// `own` of the page.
pub(crate) fn touch(page: u64, access: Access, own: u64) -> Seen {
    // SAFETY: only an otherwise unused word is written. Code in the pages, whatever state
    // they are in, only adds to the scratch word and returns (see `stamp` in main.rs).
    unsafe {
        match access {
            Access::Read => touch::read(page),
            Access::Write => touch::write(page + 64 * (own + 1), RETURNS),
            Access::Execute => touch::execute(page + CODE_AT as u64),
        }
    }
}

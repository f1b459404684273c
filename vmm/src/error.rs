//! What every error of this crate can do beyond `std::error::Error`: say what to do.
//!
//! The error enums themselves live beside the code that raises them. An error names the
//! object it is about; its [`Remedy`] speaks to the person at the keyboard.

use std::error::Error;

/// An error that may know what its reader can do about it.
pub trait Remedy: Error {
    /// What to do, in the imperative, possibly with a command to type; `None` when we
    /// do not know. Several lines are allowed; no line ends in a blank.
    fn remedy(&self) -> Option<String> {
        None
    }
}

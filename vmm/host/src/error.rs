//! What every error of this crate offers beyond `std::error::Error`: what to do about it.
//!
//! The error enums themselves live beside the code that raises them. An error names the
//! object it is about; its [`Remedy`] addresses the user.

use std::error::Error;

/// An error that may know what its reader can do about it.
pub trait Remedy: Error {
    /// What to do, in the imperative, possibly with a command to type; `None` when we
    /// do not know. Several lines are allowed; no line ends in a blank.
    fn remedy(&self) -> Option<String> {
        None
    }
}

/// An error and its causes in one line, outermost first.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

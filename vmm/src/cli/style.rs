//! Colours: only on a terminal, and not when `NO_COLOR` is set.

use std::ffi::OsStr;
use std::io::IsTerminal;

/// Whether a stream gets colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// None.
    Plain,
    /// Escape sequences of a terminal.
    Ansi,
}

/// The few styles we use.
#[derive(Debug, Clone, Copy)]
pub enum Look {
    /// All is well, and what to do.
    Good,
    /// Worth attention.
    Warn,
    /// A failure.
    Bad,
    /// Of little interest.
    Dim,
    /// A heading.
    Bold,
}

impl Colour {
    /// Whether this stream gets colours.
    pub fn of(stream: &impl IsTerminal) -> Self {
        Self::decide(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
    }

    /// `NO_COLOR` counts when it is set and not empty (no-color.org).
    fn decide(terminal: bool, no_color: Option<&OsStr>) -> Self {
        if terminal && no_color.is_none_or(OsStr::is_empty) { Self::Ansi } else { Self::Plain }
    }

    /// The text in that style.
    pub fn paint(self, look: Look, text: &str) -> String {
        let code = match (self, look) {
            (Self::Plain, _) => return text.to_owned(),
            (Self::Ansi, Look::Good) => "32",
            (Self::Ansi, Look::Warn) => "33",
            (Self::Ansi, Look::Bad) => "31;1",
            (Self::Ansi, Look::Dim) => "2",
            (Self::Ansi, Look::Bold) => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::{Colour, Look, OsStr};

    #[test]
    fn colours_need_a_terminal_and_no_objection() {
        assert_eq!(Colour::decide(true, None), Colour::Ansi);
        assert_eq!(Colour::decide(true, Some(OsStr::new(""))), Colour::Ansi);
        assert_eq!(Colour::decide(true, Some(OsStr::new("1"))), Colour::Plain);
        assert_eq!(Colour::decide(false, None), Colour::Plain);
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        assert_eq!(Colour::Plain.paint(Look::Bad, "x"), "x");
        assert_eq!(Colour::Ansi.paint(Look::Bad, "x"), "\x1b[31;1mx\x1b[0m");
    }
}

//! Names and permission bits, as programs and people give them.
//!
//! A name is also a file name, so it is checked before any path is built from it; afterwards the
//! type proves that no path built from it leaves its folder.

use std::fmt;

use abi::Errno;
use abi::objects::NAME_MAX_BYTES;

use crate::format::escape::escape;

/// Name of a VAS or a segment: 1 to 255 bytes of UTF-8, not `.` or `..`, without `/` and NUL.
///
/// Displayed with control characters escaped, for terminals; [`Name::as_str`] is exact.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// Why a string is not a valid name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than a file name.
    #[error("the name has {len_bytes} bytes; at most {NAME_MAX_BYTES} are possible")]
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// Not UTF-8.
    #[error("the name is not UTF-8 (from byte {valid_bytes} on)")]
    NotUtf8 {
        /// Bytes before the first bad one.
        valid_bytes: usize,
    },
    /// `/` or NUL.
    #[error("the name contains {0:?}, which no file name can")]
    Forbidden(char),
    /// `.` or `..`.
    #[error("`.` and `..` cannot be names")]
    Dots,
    /// A new one with `@`, which stands between a name and a version.
    #[error("a new name cannot contain `@`, which stands between a name and a version")]
    At,
    /// A tag that is a number.
    #[error("a tag cannot be a number: numbers are those of versions")]
    Number,
    /// A new one that ends as a grant does.
    #[error("a new name cannot end in `{0}`, which stands for a right behind a name")]
    Right(&'static str),
}

impl NameError {
    /// The error number a program sees.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            NameError::TooLong { .. } => Errno::ENAMETOOLONG,
            _ => Errno::EINVAL,
        }
    }
}

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// Why it is invalid.
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        if bytes.len() > NAME_MAX_BYTES {
            return Err(NameError::TooLong { len_bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| NameError::NotUtf8 { valid_bytes: e.valid_up_to() })?;
        if let Some(bad) = text.chars().find(|c| matches!(c, '/' | '\0')) {
            return Err(NameError::Forbidden(bad));
        }
        match text {
            "" => Err(NameError::Empty),
            "." | ".." => Err(NameError::Dots),
            _ => Ok(Name(text.to_owned())),
        }
    }

    /// Checks that a new object may get this name: `NAME@VERSION` and `NAME:ro` mean something else
    /// on a command line. Objects that earlier versions made, and files that were renamed by hand,
    /// may have any name, and are found by it.
    ///
    /// # Errors
    /// Why not.
    pub fn check_new(&self) -> Result<(), NameError> {
        if self.0.contains('@') {
            return Err(NameError::At);
        }
        match [":ro", ":rw"].into_iter().find(|end| self.0.ends_with(end)) {
            Some(end) => Err(NameError::Right(end)),
            None => Ok(()),
        }
    }

    /// The name, byte for byte.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

/// Permission bits of an object: the nine of `chmod`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode(u32);

impl Mode {
    /// Read and write for the owner only.
    pub const PRIVATE: Mode = Mode(0o600);

    /// `None` if there are bits other than the nine.
    #[must_use]
    pub const fn new(bits: u32) -> Option<Mode> {
        if bits & !0o777 == 0 { Some(Mode(bits)) } else { None }
    }

    /// The nine bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Without the bits of a umask.
    pub(crate) const fn without(self, umask: u32) -> Mode {
        Mode(self.0 & !umask)
    }

    /// For a file; objects are not programs, so execute bits are dropped.
    pub(crate) const fn of_file(self) -> u32 {
        self.0 & 0o666
    }

    /// For the folder of a VAS: users that may read it may also enter it.
    pub(crate) const fn of_folder(self) -> u32 {
        self.of_file() | ((self.0 & 0o444) >> 2)
    }

    pub(crate) const fn from_stat(st_mode: u32) -> Mode {
        Mode(st_mode & 0o666)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_but_possible_names_are_names() {
        for name in [" ", "-", "...", ".x", "a b", "a\nb", "\x7f", "%41", "\u{1f980}", "a\\b", "\""]
        {
            assert_eq!(Name::new(name.as_bytes()).unwrap().as_str(), name);
        }
        assert!(Name::new(&[b'a'; 255]).is_ok());
    }

    #[test]
    fn what_cannot_be_a_file_name_is_refused_with_its_reason() {
        assert_eq!(Name::new(b""), Err(NameError::Empty));
        assert_eq!(Name::new(b"."), Err(NameError::Dots));
        assert_eq!(Name::new(b".."), Err(NameError::Dots));
        assert_eq!(Name::new(b"a/b"), Err(NameError::Forbidden('/')));
        assert_eq!(Name::new(b"a\0"), Err(NameError::Forbidden('\0')));
        assert_eq!(Name::new(b"ab\xff"), Err(NameError::NotUtf8 { valid_bytes: 2 }));
        let long = Name::new(&[b'a'; 256]).unwrap_err();
        assert_eq!(
            (long, long.errno()),
            (NameError::TooLong { len_bytes: 256 }, Errno::ENAMETOOLONG)
        );
        assert_eq!(NameError::Dots.errno(), Errno::EINVAL);
    }

    #[test]
    fn a_new_name_means_no_version_and_no_right() {
        let check = |text: &str| Name::new(text.as_bytes()).unwrap().check_new();
        for bad in ["@", "a@", "@a", "a@b", "a@b:ro"] {
            assert_eq!(check(bad), Err(NameError::At), "{bad}");
        }
        assert_eq!(check("a:ro"), Err(NameError::Right(":ro")));
        assert_eq!(check(":rw"), Err(NameError::Right(":rw")));
        assert_eq!(NameError::At.errno(), Errno::EINVAL);
        for good in ["a:", "a:rx", "ro", "a:ro.b", "a:rO"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_displayed_name_cannot_play_tricks_on_a_terminal() {
        assert_eq!(Name::new(b"a\x1b[2J%").unwrap().to_string(), "a%1b[2J%25");
    }

    #[test]
    fn readers_of_a_vas_may_enter_its_folder() {
        assert_eq!(Mode::new(0o640).unwrap().of_folder(), 0o750);
        assert_eq!(Mode::new(0o777).unwrap().of_file(), 0o666);
        assert_eq!(Mode::new(0o1777), None);
    }
}

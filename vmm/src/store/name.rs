//! Names of VASes and segments: file names that are also text.

use abi::objects::NAME_MAX_BYTES;

/// A valid name: 1 to 255 bytes of UTF-8, not `.` or `..`, without `/` and NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// What is wrong with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a name must not be empty")]
    Empty,
    /// Too long.
    #[error("a name has at most {NAME_MAX_BYTES} bytes, this has {bytes}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Not text.
    #[error("a name must be UTF-8")]
    NotText,
    /// A directory's own or parent's name.
    #[error("`.` and `..` are no names")]
    Dots,
    /// A byte no file name may have.
    #[error("a name must not contain `/` or NUL")]
    BadByte,
}

impl Name {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        let text = std::str::from_utf8(bytes).map_err(|_| NameError::NotText)?;
        match text {
            "" => Err(NameError::Empty),
            "." | ".." => Err(NameError::Dots),
            _ if bytes.len() > NAME_MAX_BYTES => Err(NameError::TooLong { bytes: bytes.len() }),
            _ if text.contains(['/', '\0']) => Err(NameError::BadByte),
            _ => Ok(Name(text.to_owned())),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One word without blanks and control characters, for manifests: those and `%` as `%XX`.
    #[must_use]
    pub fn escaped(&self) -> String {
        let mut text = String::new();
        for character in self.0.chars() {
            if character == '%' || character.is_whitespace() || character.is_control() {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes() {
                    text.push_str(&format!("%{byte:02X}"));
                }
            } else {
                text.push(character);
            }
        }
        text
    }

    /// Undoes [`Name::escaped`].
    #[must_use]
    pub fn unescape(word: &str) -> Option<Name> {
        let mut bytes = Vec::new();
        let mut rest = word.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'%' {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            } else {
                bytes.push(byte);
            }
        }
        Name::new(&bytes).ok()
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::new(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let too_long = "x".repeat(256);
        for bad in ["", ".", "..", "a/b", "a\0b", too_long.as_str()] {
            assert!(Name::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(Name::new(&[0xff]), Err(NameError::NotText));
        for good in
            ["a", "...", ".hidden", "two words", "new\nline", "\u{e9}\u{1f600}", "-rf", "%41"]
        {
            assert_eq!(Name::new(good.as_bytes()).unwrap().as_str(), good);
        }
    }

    proptest! {
        #[test]
        fn escaping_keeps_every_name_and_gives_one_word(text in "\\PC{1,40}|[ \\n\\t%a]{1,9}") {
            if let Ok(name) = Name::new(text.as_bytes()) {
                let word = name.escaped();
                prop_assert!(!word.contains(char::is_whitespace));
                prop_assert_eq!(Name::unescape(&word), Some(name));
            }
        }
    }
}

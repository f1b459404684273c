//! Names of tags, and `NAME@VERSION`.

use std::fmt;
use std::str::FromStr;

use crate::format::error::StoreError;
use crate::format::name::{Name, NameError};

/// The name of a tag: one that a new object could have, and not a number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TagName(Name);

impl TagName {
    /// Checks a name.
    ///
    /// # Errors
    /// Why it is not a tag's.
    pub fn new(bytes: &[u8]) -> Result<TagName, NameError> {
        let name = Name::new(bytes)?;
        name.check_new()?;
        if name.as_str().bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NameError::Number);
        }
        Ok(TagName(name))
    }

    /// The name that `object` has at this tag.
    ///
    /// # Errors
    /// If it is too long.
    pub fn of(&self, object: &Name) -> Result<Name, StoreError> {
        kept_name(object, self.0.as_str())
    }
}

impl TagName {
    /// The name, byte for byte.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `NAME@VERSION`.
///
/// # Errors
/// If it is too long.
pub(crate) fn kept_name(object: &Name, version: &str) -> Result<Name, StoreError> {
    Ok(Name::new(format!("{}@{version}", object.as_str()).as_bytes())?)
}

/// What stands behind the `@`, if a name is that of a version of `object`.
pub(crate) fn version_of<'a>(name: &'a Name, object: &Name) -> Option<&'a str> {
    name.as_str().strip_prefix(object.as_str())?.strip_prefix('@')
}

/// One version of an object, as people name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VersionChoice {
    /// By its number.
    Number(u64),
    /// By what stands behind the `@` of a kept one's name: a tag, or for a segment also `VAS@TAG`.
    Tag(String),
}

impl FromStr for VersionChoice {
    type Err = NameError;

    fn from_str(text: &str) -> Result<VersionChoice, NameError> {
        if let Some(number) = number(text) {
            return Ok(VersionChoice::Number(number));
        }
        // It ends a name.
        Name::new(text.as_bytes())?;
        Ok(VersionChoice::Tag(text.to_owned()))
    }
}

impl fmt::Display for VersionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionChoice::Number(number) => number.fmt(f),
            VersionChoice::Tag(tag) => f.write_str(&crate::format::escape::escape(tag)),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The ways to read a name as that of an object and one of its versions, the longest object's first.
pub(crate) fn with_version(name: &Name) -> Vec<(Name, VersionChoice)> {
    let text = name.as_str();
    let split = |(at, _): (usize, &str)| {
        let (object, version) = (text.get(..at)?, text.get(at + 1..)?);
        Some((Name::new(object.as_bytes()).ok()?, version.parse().ok()?))
    };
    text.rmatch_indices('@').filter_map(split).collect()
}

/// How the version of a VAS is called that a snapshot of a process keeps, before a number. No tag has an `@`.
pub(crate) const OF_SNAPSHOT: &str = "@snapshot-";

/// Whether a name ends as that of a version that a snapshot of a process keeps. A tag may be called the same but for
/// the `@`.
pub(crate) fn is_of_snapshot(name: &Name) -> bool {
    let split = name.as_str().rsplit_once(OF_SNAPSHOT);
    split.is_some_and(|(before, number)| {
        let is_number = number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_number && before.len() > 1 && before.ends_with('@')
    })
}

/// Whether a name ends as that of a version that was kept for a while only: in `@` and a number.
pub(crate) fn is_passing(name: &Name) -> bool {
    name.as_str().rsplit_once('@').is_some_and(|(_, version)| number(version).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[test]
    fn a_tag_is_a_new_name_and_no_number() {
        for good in ["monday", "1.0", "v1", "-", "\u{1f980}", "12a"] {
            assert!(TagName::new(good.as_bytes()).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", NameError::Empty),
            ("17", NameError::Number),
            ("0", NameError::Number),
            ("99999999999999999999999", NameError::Number),
            ("a@b", NameError::At),
            ("a:ro", NameError::Right(":ro")),
        ] {
            assert_eq!(TagName::new(bad.as_bytes()), Err(why), "{bad}");
        }
        let tag = TagName::new(b"monday").unwrap();
        assert_eq!(tag.of(&name("ledger")).unwrap().as_str(), "ledger@monday");
        assert!(tag.of(&name(&"n".repeat(250))).is_err());
    }

    #[test]
    fn a_name_with_a_version_is_read_with_the_longest_object_first() {
        let tag = |text: &str| VersionChoice::Tag(text.to_owned());
        assert_eq!(with_version(&name("a@17")), [(name("a"), VersionChoice::Number(17))]);
        assert_eq!(
            with_version(&name("a@b@c")),
            [(name("a@b"), tag("c")), (name("a"), tag("b@c"))]
        );
        for none in ["a", "a@", "@a", "@"] {
            assert_eq!(with_version(&name(none)), [], "{none}");
        }
        let of_snapshot = name("a@@snapshot-0123456789abcdef");
        assert!(is_of_snapshot(&of_snapshot) && !is_passing(&of_snapshot));
        assert!(!is_of_snapshot(&name("a@snapshot-0123456789abcdef")), "a tag may be called so");
        assert!(!is_of_snapshot(&name("a@@snapshot-0123456789abcde")));
        assert!(!is_of_snapshot(&name("@@snapshot-0123456789abcdef")), "of nothing");
        // No number that there can be.
        assert_eq!(with_version(&name("a@99999999999999999999")).len(), 1);
        assert!(
            is_passing(&name("a@b@17")) && !is_passing(&name("a@17b")) && !is_passing(&name("17"))
        );
    }
}

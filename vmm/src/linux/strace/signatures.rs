//! Which arguments a call has: the table in `signatures.txt`, read at the first use.
//!
//! Text instead of code: two hundred and fifty lines that anybody can check against a manual page,
//! and nothing to pay for in a run that is not traced. How a value looks is in `values`.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::OnceLock;

use super::names::{self, Names};

/// What an argument is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A signed number (`int`).
    Int,
    /// An unsigned number (`uint`, `size`).
    Uint,
    /// A word in hexadecimal (`hex`).
    Hex,
    /// An address, `NULL` for 0 (`ptr`).
    Ptr,
    /// A mode in octal (`mode`).
    Mode,
    /// A descriptor (`fd`), or one that may be `AT_FDCWD` (`dirfd`).
    Fd,
    /// One value of several, or bits (`one:NAME`, `bits:NAME`).
    Named(&'static Names),
    /// A text that ends with a NUL (`path`).
    Path,
    /// An array of them (`strings`).
    Strings,
    /// Bytes, as many as argument N says (`text:N`).
    Text(usize),
    /// Bytes that the call writes, as many as it returns (`out`).
    Out,
    /// Buffers, as many as argument N says (`iov:N`), also such as the call fills (`iov_out:N`).
    Buffers {
        /// Which argument says how many.
        count: usize,
        /// Whether the call writes them.
        filled: bool,
    },
    /// A signal's number (`signal`).
    Signal,
    /// A set of signals (`mask`), also one that the call writes (`mask_out`).
    Mask {
        /// Whether the call writes it.
        filled: bool,
    },
    /// A `sigaction` (`action`), also one that the call writes (`action_out`).
    Action {
        /// Whether the call writes it.
        filled: bool,
    },
    /// A `timespec` (`time`), also one that the call writes (`time_out`).
    Time {
        /// Whether the call writes it.
        filled: bool,
    },
    /// A 32-bit word that the call writes (`word_out`).
    WordOut,
    /// Two descriptors that the call writes (`pair`).
    Pair,
    /// A `stat` that the call writes (`stat`).
    Stat,
    /// An array of `pollfd` as argument N says (`polls:N`); what happened is told with the result.
    Polls(usize),
    /// An `epoll_event` (`event`).
    Event,
    /// `epoll_event`s that the call writes, as many as it returns (`events`).
    Events,
    /// A socket's address as long as argument N says (`address:N`).
    Address(usize),
}

impl Kind {
    /// Whether only the end of the call makes it known.
    pub(super) fn is_filled(self) -> bool {
        match self {
            Kind::Out | Kind::WordOut | Kind::Pair | Kind::Stat | Kind::Events => true,
            Kind::Buffers { filled, .. }
            | Kind::Mask { filled }
            | Kind::Action { filled }
            | Kind::Time { filled } => filled,
            _ => false,
        }
    }
}

/// A call's arguments and result.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub(super) args: Vec<Kind>,
    /// It returns an address, not a number.
    pub(super) returns_ptr: bool,
}

/// The signature of the call of this name.
pub(super) fn signature(name: &str) -> Option<&'static Signature> {
    static ALL: OnceLock<HashMap<&'static str, Signature>> = OnceLock::new();
    ALL.get_or_init(|| lines().filter_map(parse).collect()).get(name)
}

fn lines() -> impl Iterator<Item = &'static str> {
    let text = include_str!("signatures.txt");
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn parse(line: &'static str) -> Option<(&'static str, Signature)> {
    let (name, rest) = line.split_once('(')?;
    let (args, result) = rest.split_once(')')?;
    let words = args.split(", ").filter(|word| !word.is_empty());
    let args: Option<Vec<Kind>> = words.map(kind).collect();
    let returns_ptr = match result {
        "" | " = fd" => false,
        " = ptr" => true,
        _ => return None,
    };
    Some((name, Signature { args: args?, returns_ptr }))
}

fn kind(word: &str) -> Option<Kind> {
    let (word, detail) = word.split_once(':').unwrap_or((word, ""));
    // An argument's number in the call, from 0.
    let number = || detail.parse().ok().filter(|number| *number < 6);
    Some(match word {
        "int" => Kind::Int,
        "uint" | "size" => Kind::Uint,
        "hex" => Kind::Hex,
        "ptr" => Kind::Ptr,
        "mode" => Kind::Mode,
        "fd" | "dirfd" => Kind::Fd,
        "one" | "bits" => Kind::Named(names::by_name(detail)?),
        "path" => Kind::Path,
        "strings" => Kind::Strings,
        "text" => Kind::Text(number()?),
        "out" => Kind::Out,
        "iov" => Kind::Buffers { count: number()?, filled: false },
        "iov_out" => Kind::Buffers { count: number()?, filled: true },
        "signal" => Kind::Signal,
        "mask" => Kind::Mask { filled: false },
        "mask_out" => Kind::Mask { filled: true },
        "action" => Kind::Action { filled: false },
        "action_out" => Kind::Action { filled: true },
        "time" => Kind::Time { filled: false },
        "time_out" => Kind::Time { filled: true },
        "word_out" => Kind::WordOut,
        "pair" => Kind::Pair,
        "stat" => Kind::Stat,
        "polls" => Kind::Polls(number()?),
        "event" => Kind::Event,
        "events" => Kind::Events,
        "address" => Kind::Address(number()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{lines, parse, signature};

    #[test]
    fn every_line_is_a_signature_and_names_a_call_once() {
        let mut names = std::collections::BTreeSet::new();
        for line in lines() {
            let (name, signature) = parse(line).unwrap_or_else(|| panic!("no signature: {line}"));
            assert!(signature.args.len() <= 6, "{line}");
            assert!(names.insert(name), "{name} is there twice");
            let is_linux = (0..512).any(|n| crate::stats::names::name(n) == Some(name));
            let is_ours =
                (0..0x100).any(|n| abi::call::name(abi::call::CALL_BASE + n) == Some(name));
            assert!(is_linux || is_ours, "{name} is no call");
        }
    }

    #[test]
    fn every_call_of_ours_has_a_signature() {
        let ours = (0..0x100).filter_map(|n| abi::call::name(abi::call::CALL_BASE + n));
        for name in ours {
            assert!(signature(name).is_some(), "{name}");
        }
    }
}

//! Commands: the table of those that are served, and what their functions have in common.

mod blocking;
mod generic;
mod hashes;
mod lists;
mod scan;
mod sets;
mod sorted;
mod strings;
mod table;

use spacejmp::{Read, Write};

use crate::data::{Change, Done, Fail, View};
use crate::number;
use crate::reply::Out;
use crate::request::integer;

pub(crate) use blocking::{has_one_value as blocks_for_one, limit as blocking_limit};
pub(crate) use table::{TABLE, find};

/// The words of a command, its name first.
pub(crate) type Args<'a> = &'a [Vec<u8>];

/// A function that reads, in a visit to read or to write.
type Reader<M> = fn(View<'_, '_, M>, Args<'_>, &mut Out) -> Done;

/// What a command does.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// It reads.
    Read(Reader<Read>, Reader<Write>),
    /// It changes what is stored.
    Write(fn(&mut Change<'_, '_>, Args<'_>, &mut Out) -> Done),
    /// It concerns the connection: `session.rs`.
    Session,
    /// It concerns the server, or other connections, and stands between visits: `serve`.
    Server,
}

/// One command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// How many words it has, with its name; negative for at least so many.
    pub(crate) arity: i32,
    /// Where its keys are: the first, the last (negative from the end), and the step.
    pub(crate) keys: (i32, i32, i32),
    pub(crate) run: Run,
    /// Whether it may need memory, and is refused beyond `maxmemory`.
    pub(crate) grows: bool,
}

impl Command {
    pub(crate) fn is_write(&self) -> bool {
        matches!(self.run, Run::Write(_))
    }

    pub(crate) fn takes(&self, words: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { words >= arity } else { words == arity }
    }
}

pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NO_INTEGER: &str = "ERR value is not an integer or out of range";
pub(crate) const NO_FLOAT: &str = "ERR value is not a valid float";
pub(crate) const NO_KEY: &str = "ERR no such key";

fn int(text: &[u8]) -> Result<i64, Fail> {
    integer(text).ok_or(Fail::Said(NO_INTEGER.into()))
}

fn float(text: &[u8]) -> Result<f64, Fail> {
    number::float(text).filter(|number| !number.is_nan()).ok_or(Fail::Said(NO_FLOAT.into()))
}

fn positive(text: &[u8], message: &'static str) -> Result<usize, Fail> {
    let number =
        integer(text).filter(|&number| number >= 0).and_then(|number| usize::try_from(number).ok());
    number.ok_or(Fail::Said(message.into()))
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

pub(crate) fn wrong_number(name: &str) -> Fail {
    Fail::Said(format!("ERR wrong number of arguments for '{name}' command").into())
}

/// Indices as Redis takes them, negative from the end; an empty range where they cross.
fn range(start: i64, stop: i64, len: usize) -> std::ops::Range<usize> {
    let len = len as i64;
    let absolute = |index: i64| if index < 0 { index.saturating_add(len) } else { index };
    let (start, stop) = (absolute(start).max(0), absolute(stop).min(len - 1));
    if start > stop || start >= len { 0..0 } else { start as usize..stop as usize + 1 }
}

/// A number that nobody can guess.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

//! Profiles (`run --profile`, `--profile-exits`), from what `linux::profile` has collected to a file.
//!
//! - here: a process's stacks as lines of names, and the lines of all processes of a run together
//! - `flame`: the same as a picture
//!
//! A line is a stack, the outermost frame first, and its weight: `main;work;read [..] 12`, the form that tools
//! for flame graphs read. Names come from the program's files and from the program itself, so of both only printable characters
//! are shown, and `;` is `:`.
#![forbid(unsafe_code)]

mod flame;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use object::ReadCache;

pub use flame::picture;

use super::symbols::{self, Positioned};
use crate::linux::profile::{Place, Samples, Sheet, Stack};
use crate::linux::task::Process;

/// Files larger than this have no names for their functions.
const FILE_MAX: u64 = 512 << 20;
/// Bytes of lines that are left at once.
const AT_ONCE: usize = 1 << 20;
/// Characters of a name that are shown.
const NAME_MAX: usize = 256;

/// How a profile is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines.
    Folded,
    /// A picture.
    Flame,
}

/// Stacks and their weights.
pub type Lines = BTreeMap<String, u64>;

/// Leaves what a program that has ended has collected to the run.
#[cold]
pub fn leave(process: &Process) {
    let (Some(profile), Some(profiler)) = (&process.profile, &process.vm.profiler) else { return };
    let sheets = [profiler.time.as_ref().map(|(sheet, _)| sheet), profiler.exits.as_ref()];
    for (samples, sheet) in profile.take().into_iter().zip(sheets) {
        let (Some(samples), Some(sheet)) = (samples, sheet) else { continue };
        if let Err(error) = fold(process, &samples, |lines| sheet.add(lines)) {
            tracing::warn!("a process is missing in the profile, or a part of it: {error}");
        }
    }
}

/// What the processes of a run have left.
///
/// # Errors
/// The host's.
pub fn lines(sheet: &Sheet) -> io::Result<Lines> {
    Ok(merged(&String::from_utf8_lossy(&sheet.read()?)))
}

/// As it is written.
///
/// # Errors
/// The host's.
pub fn write(lines: &Lines, form: Form, title: &str, to: &mut dyn io::Write) -> io::Result<()> {
    match form {
        Form::Flame => to.write_all(picture(lines, title).as_bytes()),
        Form::Folded => {
            let mut text = String::new();
            for (stack, weight) in lines {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{stack} {weight}");
            }
            to.write_all(text.as_bytes())
        }
    }
}

/// Each stack once.
fn merged(text: &str) -> Lines {
    let mut lines = Lines::new();
    let parsed = text.lines().filter_map(|line| {
        let (stack, weight) = line.rsplit_once(' ')?;
        Some((stack, weight.parse::<u64>().ok()?))
    });
    for (stack, weight) in parsed {
        let sum = lines.entry(stack.to_owned()).or_default();
        *sum = sum.saturating_add(weight);
    }
    lines
}

/// A process's stacks, to `add` some at a time: a program can have long names.
fn fold(
    process: &Process,
    samples: &Samples,
    mut add: impl FnMut(&str) -> io::Result<()>,
) -> io::Result<()> {
    let names = names(process, samples);
    let unnamed = process.program.short.as_bytes();
    let mut text = String::new();
    for (stack, weight) in &samples.stacks {
        let Stack { thread, frames, served } = stack;
        text += &printable(if thread.is_empty() { unnamed } else { thread });
        if frames.len() >= Stack::DEPTH_MAX {
            text += ";[deeper]";
        }
        for at in frames.iter().rev() {
            text.push(';');
            text += names.get(at).map_or("[unmapped]", String::as_str);
        }
        if let Some(served) = served {
            let _ = write!(text, ";[{served}]");
        }
        let _ = writeln!(text, " {weight}");
        if text.len() >= AT_ONCE {
            add(&text)?;
            text.clear();
        }
    }
    add(&text)
}

/// What every address is called.
fn names(process: &Process, samples: &Samples) -> BTreeMap<u64, String> {
    let mut names = BTreeMap::new();
    let mut in_files: Vec<Vec<(u64, u64)>> = samples.files.iter().map(|_| Vec::new()).collect();
    for (at, place) in &samples.places {
        match place {
            Place::Memory(label) => drop(names.insert(*at, format!("[{label}]"))),
            Place::File(file, offset) => {
                if let Some(of_file) = in_files.get_mut(*file) {
                    of_file.push((*at, *offset));
                }
            }
        }
    }
    for (file, places) in samples.files.iter().zip(in_files) {
        let offsets: Vec<u64> = places.iter().map(|(_, offset)| *offset).collect();
        let found = functions(file, &offsets);
        let path = process.files.name_of_host(file.as_fd()).unwrap_or_default();
        let short = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let short = printable(if short.is_empty() { b"?" } else { short });
        for ((at, offset), name) in places.into_iter().zip(found) {
            let name = name
                .map_or_else(|| format!("{short}+{offset:#x}"), |name| printable(name.as_bytes()));
            names.insert(at, name);
        }
    }
    names
}

fn functions(file: &File, offsets: &[u64]) -> Vec<Option<String>> {
    match file.metadata() {
        Ok(data) if data.is_file() && data.len() <= FILE_MAX => {
            symbols::names(&ReadCache::new(Positioned::new(file)), offsets)
        }
        _ => vec![None; offsets.len()],
    }
}

/// As a part of a line, and on a terminal.
fn printable(name: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b';' => ':',
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    name.iter().take(NAME_MAX).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::{Form, Lines, merged, printable, write};

    #[test]
    fn stacks_of_several_processes_are_added_and_what_is_no_line_is_left_out() {
        let text =
            "a;b 3\na;b c 1\nno weight x\n\na;b 4\na;b -1\nmore 18446744073709551615\nmore 5\n";
        let expected = [("a;b", 7), ("a;b c", 1), ("more", u64::MAX)];
        let lines = merged(text);
        assert_eq!(lines, expected.map(|(stack, weight)| (stack.to_owned(), weight)).into());
        let mut written = Vec::new();
        write(&lines, Form::Folded, "", &mut written).unwrap();
        assert_eq!(merged(std::str::from_utf8(&written).unwrap()), lines);
        let mut none = Vec::new();
        write(&Lines::new(), Form::Folded, "", &mut none).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn a_name_of_the_programs_is_one_frame_and_no_escape_sequence() {
        assert_eq!(printable(b"<[u8; 4] as T>::f\n\x1b\xff"), "<[u8: 4] as T>::f???");
        assert_eq!(printable(&[b'x'; 1000]).len(), 256);
    }
}

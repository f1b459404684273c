//! A notebook that remembers what it is told: `notebook add buy milk +home`.
//!
//! The notes are kept in an address space, as vectors and strings. No file is read, parsed or
//! written: a program that starts finds them where the last one left them. `notes.rs` has the
//! stored types and their operations; the commands are here.

mod notes;

use std::error::Error;
use std::process::ExitCode;

use notes::{Note, Notebook, Notes};
use spacejmp::sys::Lifetime;
use spacejmp::{In, Read, Space};

const USAGE: &str = "\
usage, under `spacejmp run`:
  notebook add TEXT [+TAG]..    write a note
  notebook list [+TAG]          all notes, or those with the tag
  notebook find TEXT            notes that hold the text
  notebook remove NUMBER        forget a note";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("notebook: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), Box<dyn Error>> {
    match args {
        ["add", words @ ..] if !words.is_empty() => {
            let number = open()?.write(|v| {
                let (notes, at) = v.root_mut();
                Ok::<_, spacejmp::Error>(notes.add(at, words)?)
            })?;
            println!("note {number}");
        }
        ["list"] => show(|_, _| true)?,
        ["list", tag] if tag.starts_with('+') => show(|v, note| note.has_tag(v, tag))?,
        ["find", text] => show(|v, note| note.text(v).contains(text))?,
        ["remove", number] => {
            let number = number.parse().map_err(|_| format!("{number} is not a number"))?;
            open()?.write(|v| {
                // `spacejmp vas log notebook` shows it.
                v.message(&format!("remove note {number}"))?;
                let (notes, at) = v.root_mut();
                if notes.remove(at, number) {
                    Ok(())
                } else {
                    // Nothing is written then.
                    Err::<_, Box<dyn Error>>(format!("there is no note {number}").into())
                }
            })?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// The notebook; an empty one the first time. A program that is killed has changed nothing.
fn open() -> spacejmp::Result<Space<Notebook<'static>>> {
    let options = Space::<Notebook<'_>>::options().lifetime(Lifetime::Versioned);
    options.open_or_create("notebook", |_| Ok(Notes::new()))
}

/// Prints the notes that match.
fn show(
    wanted: impl for<'v> Fn(&In<Notebook<'v>, Read>, &Note<'v>) -> bool,
) -> spacejmp::Result<()> {
    open()?.read(|v| {
        for note in v.root().all(v).iter().filter(|note| wanted(v, note)) {
            println!("{}", note.line(v));
        }
    })
}

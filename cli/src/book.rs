//! The commands in the book, README and the folders' own pages: each that is shown with `$ spacejmp ...` has a subcommand and options that
//! there are. Pages are run, and what they print is compared, by `tests/tests/book_commands`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use crate::Cli;

/// A command line as a shell takes it apart: simple commands, without what they are redirected to.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                for inner in chars.by_ref().take_while(|inner| *inner != c) {
                    word.push(inner);
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            // A comment.
            '#' if word.is_none() => break,
            // A command of its own, whose output is one word here.
            '$' if chars.peek() == Some(&'(') => {
                let inner: String =
                    chars.by_ref().skip(1).take_while(|inner| *inner != ')').collect();
                all.extend(simple_commands(&inner));
                word.get_or_insert_default().push_str("output");
            }
            '|' | ';' | '&' | '(' | ')' => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    all.push(words);
    all.into_iter().map(without_redirections).filter(|words| !words.is_empty()).collect()
}

fn without_redirections(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(['<', '>']) {
            // What follows is the file's name.
            Some("" | ">") => drop(words.next()),
            Some(_) => {}
            None => kept.push(word),
        }
    }
    kept
}

/// The arguments of `spacejmp`, if that is what is run.
fn of_spacejmp(words: &[String]) -> Option<&[String]> {
    let is_assignment = |word: &&String| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        })
    };
    let words = &words[words.iter().take_while(is_assignment).count()..];
    let words = match words.first().map(String::as_str) {
        Some("sudo" | "time" | "exec") => &words[1..],
        _ => words,
    };
    let program = words.first()?;
    if program == "spacejmp" || program.ends_with("/spacejmp") {
        return Some(words);
    }
    // `cargo run --release -- ARGS`, of the root package.
    let is_ours = words.starts_with(&["cargo".to_owned(), "run".to_owned()])
        && !words
            .iter()
            .any(|word| ["-p", "--package", "--manifest-path"].contains(&word.as_str()));
    let at = words.iter().position(|word| word == "--").filter(|_| is_ours)?;
    Some(&words[at..])
}

/// The commands of a page's blocks for a terminal, with the lines that they are on.
fn shown(page: &str) -> Vec<(usize, String)> {
    let (mut commands, mut is_console) = (Vec::<(usize, String)>::new(), false);
    let mut goes_on = false;
    for (number, line) in (1..).zip(page.lines()) {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            is_console = kind == "console";
            goes_on = false;
        } else if is_console {
            let begins = line.trim_start().strip_prefix("$ ");
            let text = match (goes_on, begins) {
                (true, _) => line,
                (false, Some(command)) => command,
                (false, None) => continue,
            };
            let (text, more) = text.strip_suffix('\\').map_or((text, false), |text| (text, true));
            match commands.last_mut().filter(|_| goes_on) {
                Some((_, command)) => command.push_str(text),
                None => commands.push((number, text.to_owned())),
            }
            goes_on = more;
        }
    }
    commands
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in
        fs::read_dir(folder).expect("a folder of ours").map(|entry| entry.expect("readable"))
    {
        let path = entry.path();
        if entry.file_type().expect("it has one").is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "md") {
            found.push(path);
        }
    }
}

#[test]
fn commands_in_the_book_have_subcommands_and_options_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    ["docs/src", "examples"].iter().for_each(|folder| pages(&root.join(folder), &mut found));
    let (mut count, mut wrong) = (0, Vec::new());
    for path in found {
        let page = fs::read_to_string(&path).expect("a page of ours");
        for (line, command) in shown(&page) {
            for words in simple_commands(&command) {
                let Some(words) = of_spacejmp(&words) else { continue };
                count += 1;
                let told = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
                if let Err(error) = Cli::try_parse_from(words)
                    && !told.contains(&error.kind())
                {
                    let first = error.to_string().lines().next().unwrap_or_default().to_owned();
                    wrong.push(format!("{}:{line}: {command}: {first}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "only {count} commands were found");
}

#[test]
fn a_line_is_taken_apart_as_by_a_shell() {
    let line =
        "A=1 spacejmp run 'a b' \"c\" 2>err > out & x=$(spacejmp vas ls); cat <in | wc # note";
    let expected: [&[&str]; 5] = [
        &["A=1", "spacejmp", "run", "a b", "c"],
        &["spacejmp", "vas", "ls"],
        &["x=output"],
        &["cat"],
        &["wc"],
    ];
    assert_eq!(simple_commands(line), expected);
    let found: Vec<_> =
        simple_commands(line).iter().map(|it| of_spacejmp(it).map(<[_]>::len)).collect();
    assert_eq!(found, [Some(4), Some(3), None, None, None]);
}

#[test]
fn an_option_that_there_is_not_is_found() {
    let page = "```console\n$ spacejmp run --no-such \\\n    ./program\nit says\n```\n```text\n$ spacejmp no\n```\n";
    let commands = shown(page);
    assert_eq!(commands, [(2, "spacejmp run --no-such     ./program".to_owned())]);
    let words = simple_commands(&commands[0].1);
    assert!(Cli::try_parse_from(of_spacejmp(&words[0]).expect("ours")).is_err());
}

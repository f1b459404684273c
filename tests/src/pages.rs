//! Pages of the book whose commands are run: what they have their reader do, and a shell to do it in.
//!
//! What a command prints is on the lines after it; a page that shows nothing there does not care. A block of another kind than
//! `console` is a file, whose name is at the end of what comes before it: "... `src/main.rs`:".

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::pace;

/// One thing that a page has its reader do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// To go to another directory.
    Go(&'static str),
    /// To run a command, which prints these lines.
    Run(&'static str, Vec<&'static str>),
    /// To write a file.
    Write(&'static str, &'static str),
}

/// All that `page` says, in its order.
///
/// # Panics
/// With what is wrong with the page.
#[must_use]
pub fn steps(page: &'static str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = page;
    while let Some((before, block)) = rest.split_once("```") {
        let (block, after) = block.split_once("\n```").expect("a block ends");
        let (kind, text) = block.split_once('\n').expect("it has lines");
        rest = after;
        if kind != "console" {
            let name = before.trim_end().strip_suffix("`:").and_then(|it| it.rsplit('`').next());
            steps.push(Step::Write(name.expect("a file has a name"), text));
            continue;
        }
        for line in text.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(match command.strip_prefix("cd ") {
                    Some(folder) => Step::Go(folder),
                    None => Step::Run(command, Vec::new()),
                }),
                (None, Some(Step::Run(_, expected))) => expected.push(line),
                (None, _) => panic!("a command comes first: {line}"),
            }
        }
    }
    steps
}

/// A shell in `folder` that is to run `command`, for so long at most.
#[must_use]
pub fn shell(folder: &Path, command: &str, limit: Duration) -> Command {
    let limit = pace::limit(limit).as_secs().to_string();
    let mut shell = Command::new("timeout");
    shell.args(["-s", "KILL", &limit, "sh", "-c", command]).current_dir(folder);
    shell.env_remove("SPACEJMP_LOG");
    shell
}

/// Runs a command of a page.
///
/// # Panics
/// If it fails, or does not print what the page has `expected`.
#[track_caller]
pub fn run(mut shell: Command, command: &str, expected: &[&str]) {
    let output = shell.output().expect("a shell starts");
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{command}: {}\n{out}{err}", output.status);
    if !expected.is_empty() {
        assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{command}\n{err}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\n`a/b.txt`:\n\n```text\none\ntwo\n```\n\nThen:\n\n```console\n\
                        $ cd a\n$ cat b.txt\none\ntwo\n$ true\n```\n";

    #[test]
    fn files_directories_and_commands_are_found_with_what_belongs_to_them() {
        let expected = [
            Step::Write("a/b.txt", "one\ntwo"),
            Step::Go("a"),
            Step::Run("cat b.txt", vec!["one", "two"]),
            Step::Run("true", Vec::new()),
        ];
        assert_eq!(steps(PAGE), expected);
    }

    #[test]
    #[should_panic(expected = "three")]
    fn a_command_that_prints_something_else_is_an_error() {
        let folder = std::env::temp_dir();
        let command = "echo three";
        run(shell(&folder, command, Duration::from_secs(60)), command, &["two"]);
    }

    #[test]
    #[should_panic(expected = "exit status: 3")]
    fn a_command_that_fails_is_an_error() {
        let folder = std::env::temp_dir();
        run(shell(&folder, "exit 3", Duration::from_secs(60)), "exit 3", &[]);
    }
}

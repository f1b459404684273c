//! The book as something to be done: the blocks of its pages, what they show of commands, and a shell that does a whole page
//! and compares what is printed.
//!
//! A page shows what was printed once, elsewhere. So numbers, sizes, times and addresses are compared as such, not by their value;
//! of a path the last part; and a line of `...` stands for any lines. What a page's reader has beforehand, and what of a page a
//! test cannot do, the tests themselves say (`tests/tests/book_commands`).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::pace;

/// What stands between two fences.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of the page that it begins after.
    pub line: usize,
    /// What is behind the fence: `console`, `rust,no_run`, ...
    pub kind: String,
    /// The file that it is, if what comes before it ends with a name: "... `src/main.rs`:".
    pub file: Option<String>,
    /// Its lines.
    pub text: String,
}

/// All blocks of a page.
///
/// # Panics
/// If one does not end.
#[must_use]
pub fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut before) = (Vec::new(), "");
    let mut lines = (1..).zip(page.lines());
    while let Some((line, text)) = lines.next() {
        let Some(kind) = text.trim_start().strip_prefix("```") else {
            if !text.trim().is_empty() {
                before = text;
            }
            continue;
        };
        let indent = text.len() - text.trim_start().len();
        let mut inside = String::new();
        loop {
            let (_, text) = lines.next().unwrap_or_else(|| panic!("the block of line {line} ends"));
            if text.trim() == "```" {
                break;
            }
            inside.push_str(text.get(indent..).unwrap_or_default());
            inside.push('\n');
        }
        let file = before.trim_end().strip_suffix("`:").and_then(|it| it.rsplit('`').next());
        blocks.push(Block {
            line,
            kind: kind.to_owned(),
            file: file.map(str::to_owned),
            text: inside,
        });
        before = "";
    }
    blocks
}

/// Something that a page has its reader do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file to write.
    Write {
        /// The line of the page.
        line: usize,
        /// Where, from where the reader is.
        name: String,
        /// What is in it.
        text: String,
    },
    /// A command for a shell, root's if it is `# ...`, gdb's if it is `(gdb) ...`; and the lines that are shown below it.
    Run {
        /// The line of the page.
        line: usize,
        /// All of it, with what goes on in the next lines.
        command: String,
        /// What is shown below it.
        expected: Vec<String>,
    },
}

/// All that a page has its reader do, in order.
///
/// # Panics
/// If a block for a terminal begins with anything but a command.
#[must_use]
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for block in blocks(page) {
        if block.kind != "console" {
            steps.extend(block.file.map(|name| Step::Write {
                line: block.line,
                name,
                text: block.text,
            }));
            continue;
        }
        let is_roots = block.text.starts_with("# ");
        let mut shown = Vec::<Step>::new();
        let mut goes_on = false;
        for (line, text) in (block.line + 1..).zip(block.text.lines()) {
            let of_shell = text.strip_prefix("$ ");
            let of_others = ["(gdb) ", "# "].iter().any(|it| text.starts_with(it));
            let command = of_shell
                .or(Some(text).filter(|_| of_others && (is_roots || !text.starts_with("# "))));
            match (command, shown.last_mut()) {
                (_, Some(Step::Run { command, .. })) if goes_on => {
                    command.push('\n');
                    command.push_str(text);
                }
                // The prompt of a shell that waits for the rest of a command.
                (None, Some(Step::Run { command, expected, .. }))
                    if expected.is_empty() && text.starts_with("> ") =>
                {
                    command.push('\n');
                    command.push_str(&text[2..]);
                }
                (Some(command), _) => shown.push(Step::Run {
                    line,
                    command: command.to_owned(),
                    expected: Vec::new(),
                }),
                (None, Some(Step::Run { expected, .. })) => expected.push(text.to_owned()),
                (None, _) => panic!("line {line} is no command: {text}"),
            }
            goes_on = (command.is_some() || goes_on) && text.ends_with('\\');
        }
        steps.extend(shown);
    }
    steps
}

/// A command without the remark behind it.
#[must_use]
pub fn bare(command: &str) -> &str {
    command.split_once("  #").or(command.split_once(" # ")).map_or(command, |it| it.0).trim_end()
}

/// A line without what differs from one machine, and one time, to the next.
fn without_accidents(line: &str) -> String {
    let line = line.rsplit('\r').next().unwrap_or_default();
    let mut words = Vec::<String>::new();
    for word in line.split_whitespace() {
        // Of a path only its name.
        let begins = |at: &usize| !word[..*at].ends_with(|c: char| c.is_alphanumeric());
        let at = word.find('/').filter(begins);
        let word = match (at, word.rsplit_once('/')) {
            (Some(at), Some((_, name))) => format!("{}/{name}", &word[..at]),
            _ => word.to_owned(),
        };
        let is_unit = ["B", "KiB", "MiB", "GiB", "TiB", "ns", "us", "ms", "s", "min", "h", "bytes"]
            .contains(&word.trim_end_matches([',', '.', ')', ':']));
        let after_number = words.last().is_some_and(|last| last.ends_with('#'));
        words.push(if is_unit && after_number { "units".to_owned() } else { numberless(&word) });
    }
    words.join(" ")
}

/// A word with `#` for each number in it, hexadecimal ones of addresses and of eight digits or more included.
fn numberless(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let hex = rest.strip_prefix("0x").unwrap_or(rest);
        let digits = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let is_hex = rest.starts_with("0x") && digits > 0
            || digits >= 8 && hex[..digits].contains(|c: char| c.is_ascii_digit());
        if is_hex {
            out.push('#');
            rest = &hex[digits..];
        } else if c.is_ascii_digit() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && !".,_:".contains(c))
                .unwrap_or(rest.len());
            let number = rest[..end].trim_end_matches(['.', ',', ':', '_']);
            out.push('#');
            rest = &rest[number.len()..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Whether what was `printed` is what a page has `expected`: line for line, but for accidents; `...` at the end of a line, or alone, stands for
/// whatever there is.
#[must_use]
pub fn is_alike<'a>(expected: &[String], printed: impl IntoIterator<Item = &'a str>) -> bool {
    let printed: Vec<String> = printed.into_iter().map(without_accidents).collect();
    let expected: Vec<String> = expected.iter().map(|line| without_accidents(line)).collect();
    matches(&expected, &printed)
}

fn matches(expected: &[String], printed: &[String]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "..." => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        (Some((line, expected)), Some((seen, printed))) => {
            let is_same = line
                .strip_suffix("...")
                .map_or(line == seen, |start| seen.starts_with(start.trim_end()));
            is_same && matches(expected, printed)
        }
        _ => false,
    }
}

/// What a shell is to do for one step.
#[derive(Debug)]
pub struct Task {
    /// What a failure names.
    pub what: String,
    /// As bash takes it.
    pub script: String,
    /// What it is to print, if the page says.
    pub expected: Vec<String>,
    /// With which it is to end.
    pub status: i32,
}

/// Begins the lines by which the shell says where it is; no program prints it.
const MARK: char = '\u{1e}';

/// Does `tasks` one after the other, by one shell, which begins in `folder`: variables and directories stay, and so does what was
/// started by `&`, until the end.
///
/// # Panics
/// With what was printed, if a task has another status, prints something else or has not ended at the `limit` of all of them.
pub fn run(folder: &Path, env: &[(&str, &Path)], limit: Duration, tasks: &[Task]) {
    // What is left in the background is ended at the end, whatever that was.
    let mut script = String::from("trap 'trap - EXIT; kill $(jobs -p) 2> /dev/null; wait' EXIT\n");
    for (number, task) in tasks.iter().enumerate() {
        script.push_str(&format!(
            "printf '\\036{number} begins\\n'\n{}\nstatus=$?\nprintf '\\036%s ends\\n' $status\n[ $status = {} ] || exit 0\n",
            task.script, task.status
        ));
    }
    let (place, transcript) = (folder.join(".script"), folder.join(".transcript"));
    fs::write(&place, script).expect("the script is written");
    let output = fs::File::create(&transcript).expect("a file for what is printed");
    let mut shell = Command::new("timeout");
    shell.args(["-s", "KILL", &pace::limit(limit).as_secs().to_string(), "bash"]).arg(&place);
    shell.current_dir(folder).envs(env.iter().copied()).env_remove("SPACEJMP_LOG");
    // Settings of the tests' own build.
    for (key, _) in std::env::vars_os() {
        let key = key.to_string_lossy().into_owned();
        if key.starts_with("CARGO_PKG_") || ["CARGO_BUILD_TARGET", "RUSTFLAGS"].contains(&&*key) {
            shell.env_remove(key);
        }
    }
    shell.stdin(std::process::Stdio::null());
    shell.stdout(output.try_clone().expect("a second handle")).stderr(output);
    let status = shell.status().expect("a shell starts");
    let printed = fs::read(&transcript).expect("what was printed");
    let printed = String::from_utf8_lossy(&printed);

    // Of each task: what it has printed, and its status.
    let mut sections = printed.split(MARK).skip(1);
    for (number, task) in tasks.iter().enumerate() {
        let what = &task.what;
        let began = sections.next().unwrap_or_else(|| panic!("{what}: not reached: {printed}"));
        let (head, text) = began.split_once('\n').expect("a whole line");
        assert_eq!(head, format!("{number} begins"), "{what}");
        let ended =
            sections.next().unwrap_or_else(|| panic!("{what} does not end ({status}): {text}"));
        let (tail, _) = ended.split_once('\n').expect("a whole line");
        let expected = &task.expected;
        assert_eq!(tail, format!("{} ends", task.status), "{what}: {text}");
        // The shell's own word on a job that a signal has ended, which it says some time later.
        let shells = format!("{}: line ", place.display());
        let lines = text.lines().filter(|line| !line.starts_with(&shells));
        assert!(
            expected.is_empty() || is_alike(expected, lines),
            "{what} does not print what the page shows:\n{}\nbut\n{text}",
            expected.join("\n")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_differs_from_time_to_time_is_alike_and_nothing_else_is() {
        let alike = [
            ("PID   NAME\n4711  web   42 s  18.2 MiB", "PID NAME\n8 web 3 ms  1 KiB"),
            ("ok  /home/me/report", "ok  /tmp/x/report"),
            ("at 0x401136 f+0x4 in libc.so.6", "at 0x7f00aa f+0x44 in libc.so.6"),
            ("first\n...\nlast", "first\na\nb\nlast"),
            ("first\n...", "first"),
            ("gone: VVec version 1, words ...", "gone: VVec version 1, words 3 (8 bytes)"),
            ("segment 0123456789abcdef x", "segment 00c0ffee00c0ffee x"),
            ("100 killed; sum 5", "\r1 killed; \r2 killed; sum 7   "),
        ];
        for (expected, printed) in alike {
            assert!(is_alike(&lines(expected), printed.lines()), "{expected}: {printed}");
        }
        let different = [
            ("one 1", "two 1"),
            ("one", "one\ntwo"),
            ("one\ntwo", "one"),
            ("first\n...\nlast", "first\nlast\nmore"),
            ("ok /home/me/report", "ok /tmp/x/result"),
            ("3 numbers, sum 12", "3 numbers, no sum"),
            ("face", "fade"),
        ];
        for (expected, printed) in different {
            assert!(!is_alike(&lines(expected), printed.lines()), "{expected}: {printed}");
        }
    }

    #[test]
    fn files_commands_and_what_they_print_are_found() {
        let page = "# A page\n\nIn `a/b.txt`:\n\n```text\none\n```\n\n```rust\nfn f() {}\n```\n\nThen:\n\n\
                    ```console\n$ cat a/b.txt  # it is there\none\n$ printf '%s' \\\n    x\nx\n(gdb) quit\n$ for x in 1; do\n>   true\n> done\n```\n\
                    - and root:\n\n  ```console\n  # id\n  ```\n";
        let run = |line, command: &str, expected: &[&str]| Step::Run {
            line,
            command: command.to_owned(),
            expected: expected.iter().map(|line| (*line).to_owned()).collect(),
        };
        let expected = [
            Step::Write { line: 5, name: "a/b.txt".to_owned(), text: "one\n".to_owned() },
            run(16, "cat a/b.txt  # it is there", &["one"]),
            run(18, "printf '%s' \\\n    x", &["x"]),
            run(21, "(gdb) quit", &[]),
            run(22, "for x in 1; do\n  true\ndone", &[]),
            run(29, "# id", &[]),
        ];
        assert_eq!(steps(page), expected);
        assert_eq!(bare("cat a/b.txt  # it is there"), "cat a/b.txt");
    }

    fn run_one(script: &str, expected: &str, status: i32) {
        let folder = tempfile::tempdir().expect("a folder");
        let task = |script: &str| Task {
            what: "it".to_owned(),
            script: script.to_owned(),
            expected: lines(expected),
            status,
        };
        run(folder.path(), &[], Duration::from_secs(60), &[task(script)]);
    }

    #[test]
    fn a_command_that_does_as_shown_passes() {
        run_one("echo '3 files'; exit_with() { return $1; }; exit_with 4", "2 files", 4);
    }

    #[test]
    #[should_panic(expected = "does not print what the page shows")]
    fn a_command_that_prints_something_else_does_not() {
        run_one("echo three", "two", 0);
    }

    #[test]
    #[should_panic(expected = "\"3 ends\"")]
    fn a_command_that_fails_does_not() {
        run_one("(exit 3)", "", 0);
    }

    #[test]
    #[should_panic(expected = "does not end")]
    fn a_command_that_ends_the_shell_does_not() {
        run_one("exit 0", "", 0);
    }
}

//! How a failed command reports its error: one line, the numbered causes, what to do.
//!
//! ```text
//! spacejmp: cannot run demo.elf
//!   1: it is not an ELF file
//!   help: build it with ...
//! ```

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use crate::error::Remedy;
use crate::exit_code::ExitCode;
use serde::Serialize;

use super::json_lines;
use super::style::{Colour, Look};

/// Causes printed at most: a chain that leads back to itself must not hang us.
const CAUSES_MAX: usize = 16;

/// The failure of a command.
#[derive(Debug)]
pub struct Failure {
    doing: String,
    cause: Box<dyn Error>,
    remedy: Option<String>,
    code: ExitCode,
}

impl Failure {
    /// `doing` completes the sentence "spacejmp: cannot ...". The remedy comes from the cause.
    pub fn with_remedy(doing: impl Into<String>, cause: impl Remedy + 'static) -> Self {
        let remedy = cause.remedy();
        Self::new(doing, cause).help(remedy)
    }

    /// The same for an error without a remedy.
    pub fn new(doing: impl Into<String>, cause: impl Error + 'static) -> Self {
        let (doing, cause) = (doing.into(), Box::new(cause));
        Self { doing, cause, remedy: None, code: ExitCode::OwnFailure }
    }

    /// The same with another exit status than [`ExitCode::OwnFailure`].
    #[must_use]
    pub fn code(self, code: ExitCode) -> Self {
        Self { code, ..self }
    }

    /// The same with a remedy from elsewhere.
    #[must_use]
    pub fn help(self, remedy: Option<String>) -> Self {
        Self { remedy, ..self }
    }

    /// How the command ends.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        self.code
    }

    /// One line each, the nearest first.
    fn causes(&self) -> impl Iterator<Item = String> {
        let first: &dyn Error = &*self.cause;
        let all = std::iter::successors(Some(first), |&error| error.source());
        all.take(CAUSES_MAX).map(|error| one_line(&error.to_string()))
    }
}

/// Prints a failure to stderr.
pub fn print(failure: &Failure) {
    if json_lines::are_chosen() {
        let causes: Vec<String> = failure.causes().collect();
        let help = failure.remedy.iter().map(|remedy| ("help", remedy.as_str().into()));
        let message = format!("cannot {}", one_line(&failure.doing));
        json_lines::tell_error(&message, std::iter::once(("causes", causes.into())).chain(help));
        return;
    }
    let stderr = io::stderr();
    let text = render(failure, Colour::of(&stderr));
    // When stderr is closed, only the exit status remains.
    let _ = stderr.lock().write_all(text.as_bytes());
}

/// Help and version go to stdout with status 0; a wrong command line is a failure of
/// ours, never 2, which programs use themselves. Prints, and returns the exit status.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done when the terminal itself is gone.
    let _ = error.print();
    if error.use_stderr() { ExitCode::OwnFailure } else { ExitCode::Program(0) }
}

fn render(failure: &Failure, colour: Colour) -> String {
    let mut text =
        format!("{} cannot {}\n", colour.paint(Look::Bad, "spacejmp:"), one_line(&failure.doing));
    for (number, cause) in (1..).zip(failure.causes()) {
        text += &format!("  {number}: {cause}\n");
    }
    for (index, line) in failure.remedy.iter().flat_map(|remedy| remedy.lines()).enumerate() {
        let label = if index == 0 { colour.paint(Look::Good, "help:") } else { "     ".into() };
        text += &format!("  {label} {line}\n");
    }
    text
}

/// Names from outside (paths, program names) must not break the line or move the cursor.
pub fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// Writes all of a command's output. A reader that has gone away (`spacejmp ... | head`) is not
/// reported as a failure: status 141 then, as for a program ended by SIGPIPE.
///
/// # Errors
/// When writing to `to` fails for another reason.
pub fn write_all(to: &mut impl Write, bytes: &[u8]) -> Result<ExitCode, Failure> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => Ok(ExitCode::Program(0)),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::Signal(13)),
        Err(error) => Err(Failure::new("write its output", error)),
    }
}

/// One JSON object with a newline at its end; indented for a terminal.
///
/// # Errors
/// When the value has no JSON form.
pub fn json(doing: &str, value: &impl Serialize) -> Result<String, Failure> {
    let text = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    text.map(|text| text + "\n").map_err(|error| Failure::new(doing, error))
}

/// Prints what a command found: one JSON object, or text.
///
/// # Errors
/// As [`write_all`].
pub fn output(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce(Colour) -> String,
) -> Result<ExitCode, Failure> {
    let stdout = io::stdout();
    let text = if json { self::json("print", value)? } else { text(Colour::of(&stdout)) };
    write_all(&mut stdout.lock(), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::io::{self, Write};

    use super::{Colour, Error, ExitCode, Failure, Remedy, render, write_all};

    #[derive(Debug)]
    struct Nested(u32);

    impl fmt::Display for Nested {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "level {}", self.0)
        }
    }

    static INNER: Nested = Nested(0);
    static ENDLESS: Nested = Nested(9);

    impl Error for Nested {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            match self.0 {
                0 => None,
                9 => Some(&ENDLESS),
                _ => Some(&INNER),
            }
        }
    }

    impl Remedy for Nested {
        fn remedy(&self) -> Option<String> {
            Some("first do this\nthen that".into())
        }
    }

    #[test]
    fn a_failure_is_one_line_a_numbered_chain_and_help() {
        let failure = Failure::with_remedy("run x", Nested(1)).code(ExitCode::CannotExecute);
        assert_eq!(failure.exit_code(), ExitCode::CannotExecute);
        assert_eq!(
            render(&failure, Colour::Plain),
            "spacejmp: cannot run x\n  1: level 1\n  2: level 0\n  help: first do this\n        then that\n"
        );
    }

    #[test]
    fn without_a_remedy_there_is_no_help_line() {
        let failure = Failure::new("run x", Nested(0));
        assert_eq!(render(&failure, Colour::Plain), "spacejmp: cannot run x\n  1: level 0\n");
    }

    #[test]
    fn control_characters_of_a_name_do_not_reach_the_terminal() {
        let failure = Failure::new("run a\n\x1b[2Jb", Nested(0));
        assert!(render(&failure, Colour::Plain).starts_with("spacejmp: cannot run a??[2Jb\n"));
    }

    #[test]
    fn a_chain_without_end_is_cut() {
        let failure = Failure::new("run x", Nested(9));
        assert_eq!(render(&failure, Colour::Plain).lines().count(), 1 + super::CAUSES_MAX);
    }

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_quiet_and_a_full_disk_is_not() {
        let quiet = write_all(&mut Broken(io::ErrorKind::BrokenPipe), b"x").unwrap();
        assert_eq!(quiet.status(), 141);
        assert!(write_all(&mut Broken(io::ErrorKind::StorageFull), b"x").is_err());
    }
}

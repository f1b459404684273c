//! The command on a store of a test's own, and programs that it runs and that a test speaks to by lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::guests::{self, Profile};
use crate::pace;

/// The command on one store.
pub struct Commands {
    store: PathBuf,
}

impl Commands {
    /// On the store in this folder, which need not exist.
    #[must_use]
    pub fn on(store: PathBuf) -> Self {
        Commands { store }
    }

    /// The folder of the store.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// With these words, to be started.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let program = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
        let mut command = Command::new(program);
        command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", &self.store).args(words);
        command
    }

    /// How it ends with these words, with what it prints.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().expect("it starts")
    }

    /// What it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn text(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The JSON that it prints.
    ///
    /// # Panics
    /// When it fails, or prints none.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.text(words)).expect("JSON")
    }

    /// What it says when it fails with this status.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn error(&self, status: i32, words: &[&str]) -> String {
        let output = self.output(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {text}");
        text
    }

    /// A program that is run with these options, for two minutes at most.
    ///
    /// # Panics
    /// When the command cannot be started.
    #[must_use]
    pub fn run(&self, options: &[&str]) -> Running {
        let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
        let mut command = self.command(&["run", "--timeout", &limit]);
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let stdin = child.stdin.take();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child, stdin, out }
    }

    /// The same, once it has said that it is ready.
    ///
    /// # Panics
    /// When it says something else first.
    #[track_caller]
    #[must_use]
    pub fn run_until_ready(&self, options: &[&str]) -> Running {
        let mut running = self.run(options);
        assert_eq!(running.line(), "ready");
        running
    }
}

/// A program that answers lines by lines. Ended with the value.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// Its VM's number.
    #[must_use]
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The next line that it prints; empty at its end.
    ///
    /// # Panics
    /// When that is no text.
    #[must_use]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// What it answers to a line.
    ///
    /// # Panics
    /// When it does not, with what it has on its stderr.
    #[track_caller]
    pub fn tell(&mut self, line: &str) -> String {
        // One that has ended has a reason.
        let _ = writeln!(self.stdin.as_mut().expect("it is open"), "{line}");
        let answer = self.line();
        if answer.is_empty() {
            self.stdin.take();
            let mut error = String::new();
            let _ = self.child.stderr.take().expect("a pipe").read_to_string(&mut error);
            panic!("no answer to {line}: {error}");
        }
        answer
    }

    /// Waits for its end, and returns its status.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn status(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }

    /// Tells it to end, which it does with status 5.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn end(mut self) {
        writeln!(self.stdin.as_mut().expect("it is open"), "end").expect("it reads");
        assert_eq!(self.status(), Some(5));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A program that runs while others do, and obeys line by line; or a server that they talk to.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::BenchError;

/// Such a program. It is killed if nobody has waited for it.
#[derive(Debug)]
pub struct Worker {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts it, and waits for its first line, which says that it is ready; that line.
    ///
    /// # Errors
    /// [`BenchError`] when it cannot be started, or ends before.
    pub fn start(mut command: Command) -> Result<(Worker, String), BenchError> {
        let what = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |source| BenchError::Start { what: what.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let input = child.stdin.take();
        let no_pipe = || failed(std::io::ErrorKind::BrokenPipe.into());
        let output = BufReader::new(child.stdout.take().ok_or_else(no_pipe)?);
        let mut worker = Worker { what, child, input, output };
        let line = worker.line()?;
        Ok((worker, line))
    }

    /// Gives it an order.
    ///
    /// # Errors
    /// [`BenchError`] when it has ended.
    pub fn order(&mut self, line: &str) -> Result<(), BenchError> {
        let written = self.input.as_mut().map(|input| writeln!(input, "{line}"));
        match written {
            Some(Ok(())) => Ok(()),
            _ => Err(self.failure()),
        }
    }

    /// Its next line, as JSON.
    ///
    /// # Errors
    /// [`BenchError`] when it has ended, or says something else.
    pub fn answer(&mut self) -> Result<Value, BenchError> {
        let text = self.line()?;
        serde_json::from_str(&text)
            .map_err(|_| BenchError::Answer { what: self.what.clone(), text })
    }

    /// Lets it end: there are no further orders.
    ///
    /// # Errors
    /// [`BenchError`] when it fails.
    pub fn end(mut self) -> Result<(), BenchError> {
        self.input = None;
        self.wait()
    }

    /// Ends it by SIGTERM, as servers are.
    ///
    /// # Errors
    /// [`BenchError`] when it fails otherwise.
    pub fn terminate(mut self) -> Result<(), BenchError> {
        if let Some(id) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended by itself, which waiting shows.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        self.wait()
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self) -> Result<(), BenchError> {
        let status = self.child.wait();
        match status {
            Ok(status) if status.success() || is_term(status) => Ok(()),
            _ => Err(self.failure()),
        }
    }

    fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(1..) => Ok(line.trim_end().to_owned()),
            _ => Err(self.failure()),
        }
    }

    /// What it said at its end.
    fn failure(&mut self) -> BenchError {
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|error| error.to_string(), |s| s.to_string());
        let lines = self.child.stderr.take().map(|stderr| {
            BufReader::new(stderr).lines().map_while(Result::ok).take(100).collect::<Vec<_>>()
        });
        let mut lines = lines.unwrap_or_default();
        let tail = lines.split_off(lines.len().saturating_sub(3)).join("; ");
        BenchError::Failed { what: self.what.clone(), status, stderr: tail }
    }
}

/// 143 is how a VM's program says it.
fn is_term(status: std::process::ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(15) || status.code() == Some(143)
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn it_obeys_line_by_line_and_what_it_says_when_it_fails_is_told() {
        let script =
            "echo ready; while read x; do [ $x = bad ] && { echo why >&2; exit 3; }; echo $x; done";
        let (mut worker, line) = Worker::start(shell(script)).expect("it starts");
        assert_eq!(line, "ready");
        worker.order("7").expect("it is there");
        assert_eq!(worker.answer().expect("it answers"), 7);
        worker.order("bad").expect("it is there");
        let error = worker.answer().expect_err("it ends").to_string();
        assert!(error.contains("why"), "{error}");
        let (worker, _) = Worker::start(shell(script)).expect("it starts");
        worker.end().expect("it ends properly");
        assert!(Worker::start(shell("echo no >&2; exit 1")).is_err());
    }

    #[test]
    fn a_server_is_ended_by_sigterm() {
        let (worker, _) = Worker::start(shell("echo ready; exec sleep 100")).expect("it starts");
        worker.terminate().expect("it ends");
    }
}

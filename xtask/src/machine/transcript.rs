//! Reads what a machine sends on its second serial line: where the command starts, its
//! output, its status. Pure: bytes in, events out; the lines are described in
//! `resources/machines/init`, which writes them.

use anyhow::{Result, bail};

/// Longest end line: the status has at most three digits, a reason should be one line.
const LINE_LIMIT: usize = 4096;

/// What the bytes fed so far mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The machine is up and the command is about to start.
    Started,
    /// Bytes the command has printed.
    Output(Vec<u8>),
    /// The command has ended with this status; nothing of interest follows.
    Exited(u8),
    /// The machine cannot run the command.
    Failed(String),
}

enum State {
    Booting,
    Running,
    Over,
}

/// The transcript of one machine. Output may hold any bytes: the lines that are not output
/// are known by a token the command does not have.
pub(super) struct Transcript {
    token: String,
    state: State,
    /// Bytes not yet reported: in `Running` possibly the beginning of the end line.
    pending: Vec<u8>,
}

impl Transcript {
    pub(super) fn new(token: &str) -> Self {
        Self { token: token.to_owned(), state: State::Booting, pending: Vec::new() }
    }

    /// Consumes the next bytes of the line, wherever they happen to be split.
    ///
    /// # Errors
    /// When a line of the protocol is damaged.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>> {
        self.pending.extend_from_slice(bytes);
        let mut events = Vec::new();
        if matches!(self.state, State::Booting) {
            let Some(line) = self.take_boot_line()? else {
                return Ok(events);
            };
            self.state = match line {
                Event::Started => State::Running,
                _ => State::Over,
            };
            events.push(line);
        }
        if matches!(self.state, State::Running) {
            self.take_output(&mut events)?;
        }
        if matches!(self.state, State::Over) {
            self.pending.clear();
        }
        Ok(events)
    }

    fn take_boot_line(&mut self) -> Result<Option<Event>> {
        let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') else {
            return if self.pending.len() > LINE_LIMIT {
                bail!("the machine sends something other than its first line")
            } else {
                Ok(None)
            };
        };
        let line = String::from_utf8_lossy(&self.pending[..end]).into_owned();
        self.pending.drain(..=end);
        match line.strip_prefix(&self.token).map(str::trim_start) {
            Some("start") => Ok(Some(Event::Started)),
            Some(rest) if rest.starts_with("failed ") => {
                Ok(Some(Event::Failed(rest["failed ".len()..].to_owned())))
            }
            _ => bail!("the machine's first line is damaged: {line:?}"),
        }
    }

    fn take_output(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let mark = format!("\n{} exit ", self.token).into_bytes();
        let Some(at) = self.pending.windows(mark.len()).position(|window| window == mark) else {
            // The mark may have begun in the last bytes: they wait until it is known.
            let wait = (1..mark.len()).rev().find(|&n| self.pending.ends_with(&mark[..n]));
            let ready = self.pending.len() - wait.unwrap_or(0);
            push_output(events, self.pending.drain(..ready).collect());
            return Ok(());
        };
        push_output(events, self.pending.drain(..at).collect());
        let rest = &self.pending[mark.len()..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            if rest.len() > LINE_LIMIT {
                bail!("the line with the command's status is not terminated");
            }
            return Ok(());
        };
        let status = String::from_utf8_lossy(&rest[..end]).into_owned();
        let Ok(status) = status.parse() else {
            bail!("the command's status is damaged: {status:?}");
        };
        self.state = State::Over;
        events.push(Event::Exited(status));
        Ok(())
    }
}

fn push_output(events: &mut Vec<Event>, bytes: Vec<u8>) {
    if !bytes.is_empty() {
        events.push(Event::Output(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All output in one piece, and the other events.
    fn told(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Event>) {
        let mut transcript = Transcript::new("T0K");
        let mut output = Vec::new();
        let mut others = Vec::new();
        for piece in pieces {
            for event in transcript.feed(piece).expect("a good transcript") {
                match event {
                    Event::Output(bytes) => output.extend(bytes),
                    other => others.push(other),
                }
            }
        }
        (output, others)
    }

    #[test]
    fn output_and_status_come_through_wherever_the_bytes_are_cut() {
        let odd = b"one\ntwo\r\n\0\xff\n\nT0K exi\nT0K nothing\nend";
        let sent = [b"T0K start\n", &odd[..], b"\nT0K exit 7\nlater noise"].concat();
        for step in [1, 2, 3, 5, 11, sent.len()] {
            let (output, events) = told(&sent.chunks(step).collect::<Vec<_>>());
            assert_eq!(output, odd, "in pieces of {step}");
            assert_eq!(events, [Event::Started, Event::Exited(7)], "in pieces of {step}");
        }
    }

    #[test]
    fn a_newline_at_the_end_of_the_output_is_kept() {
        assert_eq!(told(&[b"T0K start\nhi\n\nT0K exit 0\n"]).0, b"hi\n");
    }

    #[test]
    fn a_silent_command_has_no_output() {
        let (output, events) = told(&[b"T0K start\n", b"\nT0K exit 255\n"]);
        assert_eq!(output, b"");
        assert_eq!(events, [Event::Started, Event::Exited(255)]);
    }

    #[test]
    fn output_is_told_before_the_command_ends() {
        let mut transcript = Transcript::new("T0K");
        transcript.feed(b"T0K start\n").expect("the first line");
        let events = transcript.feed(b"working ...").expect("output");
        assert_eq!(events, [Event::Output(b"working ...".to_vec())]);
    }

    #[test]
    fn a_machine_that_is_unfit_gives_its_reason() {
        let (_, events) = told(&[b"T0K failed no /dev/kvm\n"]);
        assert_eq!(events, [Event::Failed("no /dev/kvm".to_owned())]);
    }

    #[test]
    fn damaged_lines_are_errors() {
        for sent in
            ["hello\n", "T0K exit 0\n", "T0K start\n\nT0K exit 256\n", "T0K start\n\nT0K exit \n"]
        {
            assert!(Transcript::new("T0K").feed(sent.as_bytes()).is_err(), "{sent:?} was taken");
        }
        assert!(Transcript::new("T0K").feed(&[b'x'; LINE_LIMIT + 1]).is_err());
    }
}

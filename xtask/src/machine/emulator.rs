//! Runs an emulator, with its two serial lines as pipes, until it ends or the time is up.
//! Independent of the kind of emulator and of the content of the lines.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// How often to look whether the emulator is still alive when it is silent.
const LOOK: Duration = Duration::from_millis(100);

/// The named pipes an emulator writes the machine's serial lines to.
pub(super) struct Lines {
    /// Kernel messages.
    pub(super) console: PathBuf,
    /// What `transcript` reads.
    pub(super) output: PathBuf,
}

/// Bytes that came over one of the lines.
pub(super) enum Arrival {
    Console(Vec<u8>),
    Output(Vec<u8>),
}

/// What to do after an arrival.
pub(super) enum Next {
    Wait,
    Stop,
}

/// Why there are no more arrivals.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The receiver has finished.
    Stopped,
    TimeIsUp,
    /// The emulator ended by itself. Its status means nothing: Bochs exits with 1 after a
    /// normal power-off.
    Gone,
}

impl Lines {
    /// Makes the pipes in the folder `run`.
    ///
    /// # Errors
    /// When the file system has no named pipes.
    pub(super) fn create(run: &Path) -> Result<Self> {
        let lines = Self { console: run.join("console"), output: run.join("output") };
        for path in [&lines.console, &lines.output] {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .with_context(|| format!("cannot make the pipe {}", path.display()))?;
        }
        Ok(lines)
    }
}

/// Starts `command` and passes everything that comes over `lines` to `receive` until that
/// has finished, `deadline` has passed or the emulator has ended. The emulator has ended
/// when this returns, and also if this process dies first.
///
/// What the emulator itself prints goes to the file `emulator.out` in `run`.
///
/// # Errors
/// When the emulator cannot be started, and whatever `receive` returns.
pub(super) fn run(
    command: &Command,
    run: &Path,
    lines: &Lines,
    deadline: Instant,
    mut receive: impl FnMut(Arrival) -> Result<Next>,
) -> Result<End> {
    let (sender, arrivals) = mpsc::channel();
    let keepers = [
        listen(&lines.console, Arrival::Console, sender.clone())?,
        listen(&lines.output, Arrival::Output, sender)?,
    ];

    let mut emulator = Emulator::start(command, run)?;
    let end = watch(&mut emulator, &arrivals, deadline, &mut receive)?;
    if end != End::Gone {
        return Ok(end);
    }
    drop(keepers);
    for arrival in arrivals {
        if matches!(receive(arrival)?, Next::Stop) {
            return Ok(End::Stopped);
        }
    }
    Ok(End::Gone)
}

fn watch(
    emulator: &mut Emulator,
    arrivals: &Receiver<Arrival>,
    deadline: Instant,
    receive: &mut impl FnMut(Arrival) -> Result<Next>,
) -> Result<End> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(End::TimeIsUp);
        }
        match arrivals.recv_timeout(left.min(LOOK)) {
            Ok(arrival) => {
                if matches!(receive(arrival)?, Next::Stop) {
                    return Ok(End::Stopped);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if emulator.0.try_wait().context("cannot wait for the emulator")?.is_some() {
                    return Ok(End::Gone);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(End::Gone),
        }
    }
}

/// Starts forwarding what arrives through a pipe. Returns the pipe with both ends open:
/// thus opening it does not block, and the reader sees no end of file before the emulator
/// has opened its end. To be dropped when the emulator has ended.
fn listen(path: &Path, kind: fn(Vec<u8>) -> Arrival, to: Sender<Arrival>) -> Result<File> {
    let open = |options: &OpenOptions| {
        options.open(path).with_context(|| format!("cannot open {}", path.display()))
    };
    let keeper = open(OpenOptions::new().read(true).write(true))?;
    let mut reader = open(OpenOptions::new().read(true))?;
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if to.send(kind(buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    Ok(keeper)
}

/// A running emulator; killed when dropped. Exactly the process we started, which is the
/// emulator itself: the programs it is started through do not fork.
struct Emulator(Child);

impl Emulator {
    fn start(command: &Command, run: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let file = run.join("emulator.out");
        let out =
            File::create(&file).with_context(|| format!("cannot create {}", file.display()))?;
        let errors = out.try_clone().context("cannot duplicate a file handle")?;
        let mut words = isolation();
        // Whatever kills us also kills the emulator.
        words.extend(["setpriv", "--pdeathsig", "KILL", "--"]);
        let mut started = Command::new(words[0]);
        started.args(&words[1..]).arg(command.get_program()).args(command.get_args());
        started.stdin(Stdio::null()).stdout(out).stderr(errors);
        started.spawn().map(Self).with_context(|| format!("cannot start {program}"))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only when the emulator has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How to start a program without a network, where that is permitted: the display of Debian's
/// Bochs listens on a VNC port, open to all. Elsewhere Bochs takes the first free port
/// from 5900 up, so machines can still run side by side.
fn isolation() -> Vec<&'static str> {
    let ways: [&[&str]; 2] =
        [&["unshare", "--net"], &["unshare", "--user", "--map-root-user", "--net"]];
    let works = |way: &&&[&str]| {
        let mut attempt = Command::new(way[0]);
        attempt.args(&way[1..]).args(["--", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        attempt.status().is_ok_and(|status| status.success())
    };
    let way = ways.iter().find(works).copied().unwrap_or_default();
    let mut words = way.to_vec();
    if !words.is_empty() {
        words.push("--");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a shell script as if it were an emulator with the lines $1 and $2.
    fn played(script: &str, allowed: Duration, stop_at: &[u8]) -> (End, Vec<u8>, Vec<u8>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lines = Lines::create(folder.path()).expect("pipes");
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&lines.console).arg(&lines.output);
        let (mut console, mut output) = (Vec::new(), Vec::new());
        let end = run(&command, folder.path(), &lines, Instant::now() + allowed, |arrival| {
            match arrival {
                Arrival::Console(bytes) => console.extend(bytes),
                Arrival::Output(bytes) => output.extend(bytes),
            }
            let stop = !stop_at.is_empty() && output.ends_with(stop_at);
            Ok(if stop { Next::Stop } else { Next::Wait })
        });
        (end.expect("the script starts"), console, output)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn both_lines_are_told_apart_and_the_last_words_are_heard() {
        let script = "echo boot >$1; printf 'a\\000b' >$2; echo last >$2; exit 1";
        let (end, console, output) = played(script, LONG, b"");
        assert_eq!(
            (end, &console[..], &output[..]),
            (End::Gone, &b"boot\n"[..], &b"a\0blast\n"[..])
        );
    }

    #[test]
    fn an_emulator_that_has_said_enough_is_not_waited_for() {
        let begin = Instant::now();
        let (end, ..) = played("echo enough >$2; exec sleep 50", LONG, b"enough\n");
        assert_eq!(end, End::Stopped);
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_silent_emulator_ends_when_its_time_is_up() {
        let begin = Instant::now();
        let (end, ..) = played("exec sleep 50", Duration::from_millis(300), b"");
        assert_eq!(end, End::TimeIsUp);
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}

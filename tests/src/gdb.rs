//! Programs under the distribution's gdb: runs that wait for it or that it comes to, and what it says.
//!
//! Where there is none, as on an emulated machine, tests speak its protocol themselves: [`crate::gdb_packets`].

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::guests::{self, Profile};
use crate::{kvm, pace};

/// How long something may take that takes a second or so.
pub fn limit() -> Duration {
    pace::limit(Duration::from_secs(120))
}

/// Bytes, to be looked at.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A path, as an argument.
///
/// # Panics
/// If it is not UTF-8.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Whether there is a gdb; that there is none is reported.
///
/// # Panics
/// If every test is to run.
pub fn has_gdb(test: &str) -> bool {
    let version = Command::new("gdb").arg("--version").stdout(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        kvm::skip(test, "there is no gdb");
    }
    is_there
}

/// The command, with nothing to read.
///
/// # Panics
/// If it cannot be built.
pub fn spacejmp() -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").stdin(Stdio::null());
    command
}

/// The lines that a stream has, as they come.
fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Who does not listen any more does not receive it.
            let _ = tell.send(line);
        }
    });
    told
}

/// A run, and what it says on both of its streams.
pub struct Run {
    /// The VMM.
    pub vmm: Child,
    said: mpsc::Receiver<String>,
    told: mpsc::Receiver<String>,
}

impl Run {
    /// Begins one, with a time limit if `options` have none.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(options: &[&str], program: &Path, args: &[&str]) -> Run {
        let mut command = spacejmp();
        command.args(["run", "--no-store"]);
        if !options.contains(&"--timeout") {
            command.args(["--timeout", &limit().as_secs().to_string()]);
        }
        command.args(options).arg(program).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut vmm = command.spawn().expect("the command starts");
        let said = lines(vmm.stdout.take().expect("it is piped"));
        let told = lines(vmm.stderr.take().expect("it is piped"));
        Run { vmm, said, told }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> String {
        self.vmm.id().to_string()
    }

    /// The next line that the program prints.
    ///
    /// # Panics
    /// If it prints none.
    #[must_use]
    pub fn line(&self) -> String {
        self.said.recv_timeout(limit()).expect("the program prints something")
    }

    /// Where it waits for gdb, and after which signal, if after one.
    ///
    /// # Panics
    /// If it does not say.
    #[must_use]
    pub fn waits(&self) -> (Option<String>, String) {
        let line = self.told.recv_timeout(limit()).expect("it says where it waits");
        let said = line.strip_prefix("spacejmp: ").expect("it is our line");
        let (signal, at) = said.split_once("waiting for gdb: target remote ").expect(&line);
        (signal.strip_suffix(": ").map(str::to_owned), at.to_owned())
    }

    /// How it ended, and what else it said.
    ///
    /// # Panics
    /// If it goes on long after its own time limit.
    #[must_use]
    pub fn end(mut self) -> (ExitStatus, String, String) {
        let began = Instant::now();
        let status = loop {
            match self.vmm.try_wait().expect("it can be waited for") {
                Some(status) => break status,
                None if began.elapsed() > 2 * limit() => {
                    let _ = self.vmm.kill();
                    panic!("the run does not end");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let all = |lines: mpsc::Receiver<String>| lines.into_iter().collect::<Vec<_>>().join("\n");
        (status, all(self.said), all(self.told))
    }
}

/// A program that waits for gdb before its first instruction.
pub struct Debuggee {
    /// It.
    pub run: Run,
    /// Where it waits.
    pub at: String,
}

impl Debuggee {
    /// Begins one, with the option that has it wait.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(options: &[&str], program: &Path, args: &[&str]) -> Debuggee {
        let run = Run::start(options, program, args);
        let (signal, at) = run.waits();
        assert_eq!(signal, None);
        Debuggee { run, at }
    }

    /// What gdb says to these commands.
    ///
    /// # Panics
    /// If it does not start, or does not end.
    #[must_use]
    pub fn debug(&self, program: &Path, commands: &[&str]) -> String {
        connected(&self.at, program, commands)
    }
}

/// gdb's options, and its first commands.
pub const QUIET: [&str; 8] = [
    "-nx",
    "-batch",
    "-iex",
    "set debuginfod enabled off",
    "-ex",
    "set confirm off",
    "-ex",
    "set width 0",
];

/// The arguments for commands of gdb.
pub fn commands<'a>(commands: &'a [&str]) -> impl Iterator<Item = &'a str> {
    commands.iter().flat_map(|command| ["-ex", command])
}

/// A gdb at work, and what it says, errors where they come.
pub struct Gdb {
    /// It.
    pub process: Child,
    said: mpsc::Receiver<String>,
}

impl Gdb {
    /// Starts what runs gdb.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(command: &mut Command) -> Gdb {
        let (said, to) = std::io::pipe().expect("the host has descriptors");
        command.stdin(Stdio::null());
        command.stdout(to.try_clone().expect("the host has descriptors")).stderr(to);
        let process = command.spawn().expect("gdb starts");
        // It holds the pipe's other end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Gdb { process, said: lines(said) }
    }

    /// gdb at a place where a program waits.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn at(place: &str, program: &Path, words: &[&str]) -> Gdb {
        let mut command = Command::new("gdb");
        command.args(QUIET).arg("-ex").arg(format!("target remote {place}"));
        Gdb::start(command.args(commands(words)).arg(program))
    }

    /// What it has said when it has ended.
    ///
    /// # Panics
    /// If it does not end.
    #[must_use]
    pub fn output(mut self) -> String {
        let began = Instant::now();
        let mut is_late = false;
        while !is_late && self.process.try_wait().expect("it can be waited for").is_none() {
            std::thread::sleep(Duration::from_millis(5));
            is_late = began.elapsed() > limit();
        }
        let _ = self.process.kill();
        let said = self.said.into_iter().collect::<Vec<_>>().join("\n");
        assert!(!is_late, "gdb does not end:\n{said}");
        println!("{said}");
        said
    }
}

/// What gdb says to these commands, at a place where a program waits.
///
/// # Panics
/// If it does not start, or does not end.
#[must_use]
pub fn connected(at: &str, program: &Path, words: &[&str]) -> String {
    Gdb::at(at, program, words).output()
}

/// The same by `spacejmp gdb`, for a program that runs.
///
/// # Panics
/// As [`connected`].
#[must_use]
pub fn attached(vm: &str, program: &Path, words: &[&str]) -> String {
    let mut command = spacejmp();
    command.args(["gdb", vm, "--"]).args(QUIET).args(commands(words)).arg(program);
    Gdb::start(&mut command).output()
}

/// All of these are there, in this order.
///
/// # Panics
/// If they are not.
#[track_caller]
pub fn says(said: &str, parts: &[&str]) {
    let mut rest = said;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("no {part:?} where it belongs in:\n{said}");
        };
        rest = after;
    }
}

/// The static program of `debugged.c` under gdb: what gdb says, and the status and output of the run.
///
/// # Panics
/// If something does not start, or does not end.
pub fn run(args: &[&str], commands: &[&str]) -> (String, Option<i32>, String) {
    let program = guests::c("debugged");
    let debuggee = Debuggee::start(&["--gdb"], &program, args);
    let said = debuggee.debug(&program, commands);
    let (status, printed, told) = debuggee.run.end();
    println!("--- run: {status:?}\n{printed}\n{told}");
    (said, status.code(), printed)
}

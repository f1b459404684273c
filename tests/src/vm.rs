//! Running a program in a VM, through the library and in this process, and running it natively.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::pace;
use vmm::confine::Confine;
use vmm::files::Tty;
use vmm::linux::net::NetGrants;
use vmm::process::{Libraries, Outcome, Process, ProcessTree, RunConfig, StartError};
use vmm::vas::VasGrants;

/// The default time limit of a run. Generous: other tests and other users share the machine, and
/// the limit is there to catch hangs.
const TIMEOUT: Duration = Duration::from_secs(120);
const MEMORY_BYTES: u64 = 2 << 30;

/// A program, and how to run it.
#[derive(Debug, Clone)]
pub struct Run {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Vec<u8>,
    memory_bytes: u64,
    grants: Vec<String>,
    timeout: Duration,
    store: Option<PathBuf>,
    vases: Vec<String>,
    net: NetGrants,
    confine: Confine,
    children: bool,
}

/// How a program ended, in a VM or natively.
#[derive(Clone)]
pub struct Ended {
    /// In the VMM's terms; the report of a native death by a signal is empty.
    pub outcome: Outcome,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From before the start to after the last thread.
    pub elapsed: Duration,
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?} after {:?}", self.outcome, self.elapsed)?;
        if let Outcome::Killed { report, .. } = &self.outcome {
            writeln!(f, "--- report\n{report}")?;
        }
        writeln!(f, "--- stdout\n{}\n--- stderr\n{}", self.out(), self.err())
    }
}

impl Ended {
    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts that it exited with `status` and wrote `stdout`.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn expect(&self, status: u8, stdout: &str) -> &Ended {
        assert_eq!(self.outcome, Outcome::Exited(status), "{self:?}");
        assert_eq!(self.out(), stdout, "{}", self.err());
        self
    }

    /// Asserts that a signal ended it, and returns the report.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn expect_signal(&self, expected: i32) -> &str {
        match &self.outcome {
            Outcome::Killed { signal, report } if i32::from(*signal) == expected => report,
            _ => panic!("not ended by signal {expected}: {self:?}"),
        }
    }
}

impl Run {
    /// `program` without arguments, environment or input.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Run {
        Run {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            memory_bytes: MEMORY_BYTES,
            grants: Vec::new(),
            timeout: pace::limit(TIMEOUT),
            store: None,
            vases: Vec::new(),
            net: NetGrants::default(),
            confine: Confine::Off,
            children: false,
        }
    }

    /// Grants this directory, written as for `--dir`.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<String>) -> Run {
        self.grants.push(dir.into());
        self
    }

    /// With its address spaces in the store at `path`.
    #[must_use]
    pub fn store(mut self, path: impl Into<PathBuf>) -> Run {
        self.store = Some(path.into());
        self
    }

    /// Grants this VAS of the store, besides others granted likewise, written as for `--vas`.
    #[must_use]
    pub fn vas(mut self, grant: impl Into<String>) -> Run {
        self.vases.push(grant.into());
        self
    }

    /// With all of the network.
    #[must_use]
    pub fn net(mut self) -> Run {
        self.net.all = true;
        self
    }

    /// With the VMM's threads confined: the caller's for good, if it runs the program.
    #[must_use]
    pub fn confined(mut self) -> Run {
        self.confine = Confine::On;
        self
    }

    /// Able to start other processes. It must be started while the caller has one thread.
    #[must_use]
    pub fn with_children(mut self) -> Run {
        self.children = true;
        self
    }

    /// Grants connecting there, written as for `--connect`.
    #[must_use]
    pub fn connect(mut self, to: &str) -> Run {
        self.net.connect.push(to.parse().expect("a grant"));
        self
    }

    /// Grants listening there, written as for `--listen`.
    #[must_use]
    pub fn listen(mut self, at: &str) -> Run {
        self.net.listen.push(at.parse().expect("a grant"));
        self
    }

    /// With these arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Run {
        self.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// With `key=value` in its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Run {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With `bytes` on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: &[u8]) -> Run {
        self.stdin = bytes.to_vec();
        self
    }

    /// With this memory limit in a VM.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Run {
        self.memory_bytes = bytes;
        self
    }

    /// Stopped after `limit`.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Run {
        self.timeout = limit;
        self
    }

    fn config(&self, stdio: [OwnedFd; 3]) -> RunConfig {
        let env = self.env.iter().map(|(key, value)| format!("{key}={value}").into_bytes());
        RunConfig {
            command: vmm::process::Command {
                program: self.program.clone(),
                argv0: None,
                args: self.args.iter().map(|arg| arg.clone().into_bytes()).collect(),
            },
            env: env.collect(),
            memory_bytes: self.memory_bytes,
            limits: Vec::new(),
            grants: self.grants.iter().map(|dir| dir.parse().expect("a grant")).collect(),
            root: None,
            tmp: None,
            libraries: Libraries::default(),
            net: self.net.clone(),
            cwd: None,
            store: self.store.clone(),
            vases: VasGrants::of(
                self.vases.iter().map(|vas| vas.parse().expect("a grant")).collect(),
            ),
            tty: Tty::Withheld,
            umask: 0o022,
            stdio,
            tracer: None,
            profiler: None,
            core: None,
            backtraces: false,
            disk: None,
            debug: None,
            at_ready: None,
            socket: None,
            inherited: Vec::new(),
            tree: self.children.then(|| {
                let tree = ProcessTree::new(16, 1 << 16, None, |_, _| ());
                Arc::new(tree.expect("the host has memory"))
            }),
            confine: self.confine,
            confine_files: (self.confine == Confine::On).then(Vec::new),
        }
    }

    /// Creates a VM with the program in it, which runs once the caller calls
    /// `Process::run_to_end`. Its files are discarded.
    ///
    /// # Errors
    /// The VMM's errors.
    pub fn prepare(&self) -> Result<Arc<Process>, StartError> {
        let file = || OwnedFd::from(file_with(b""));
        Process::start(self.config([OwnedFd::from(file_with(&self.stdin)), file(), file()]))
    }

    /// Starts it in a VM, or says why that is not possible.
    ///
    /// # Errors
    /// The VMM's errors.
    pub fn start(&self) -> Result<Running, StartError> {
        let stdin = file_with(&self.stdin);
        let (stdout, stderr) = (file_with(b""), file_with(b""));
        let same = |file: &File| OwnedFd::from(file.try_clone().expect("a file can be cloned"));
        let began = Instant::now();
        let config = self.config([same(&stdin), same(&stdout), same(&stderr)]);
        // The thread that runs it does nothing else.
        let process = Process::start(RunConfig { confine: Confine::On, ..config })?;
        let (done, ended) = mpsc::channel();
        let runner = process.clone();
        let runner = std::thread::spawn(move || {
            // If nothing waits for the end of a run, nothing receives its result.
            let _ = done.send(runner.wait());
        });
        Ok(Running { process, stdout, stderr, began, ended, runner })
    }

    /// Runs it in a VM to its end.
    ///
    /// # Panics
    /// If it cannot be started, or does not end after it was told to stop.
    #[must_use]
    pub fn in_vm(&self) -> Ended {
        let running =
            self.start().unwrap_or_else(|err| panic!("{}: {}", self.program.display(), all(&err)));
        running.wait(self.timeout)
    }

    /// Runs it natively to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn native(&self) -> Ended {
        let began = Instant::now();
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::from(file_with(&self.stdin)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("cannot start {}: {err}", self.program.display()));
        let mut stderr = child.stderr.take().expect("standard error is piped");
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).map(|_| bytes)
        });
        let output = child.wait_with_output().expect("a child can be waited for");
        let outcome = match (output.status.code(), output.status.signal()) {
            (Some(status), _) => Outcome::Exited(status as u8),
            (None, signal) => {
                Outcome::Killed { signal: signal.unwrap_or_default() as u8, report: String::new() }
            }
        };
        let stderr = reader.join().expect("the reader does not panic").expect("a pipe can be read");
        Ended { outcome, stdout: output.stdout, stderr, elapsed: began.elapsed() }
    }

    /// Asserts that the VM's run writes what the native one writes and ends the same way, and
    /// returns the VM's.
    ///
    /// # Panics
    /// If they differ.
    #[track_caller]
    pub fn same_as_native(&self) -> Ended {
        let (vm, native) = (self.in_vm(), self.native());
        let how = |outcome: &Outcome| match outcome {
            Outcome::Killed { signal, .. } => {
                Outcome::Killed { signal: *signal, report: String::new() }
            }
            other => other.clone(),
        };
        assert_eq!(how(&vm.outcome), how(&native.outcome), "VM {vm:?}\nnative {native:?}");
        assert_eq!(vm.out(), native.out(), "VM {vm:?}");
        // Text that is not UTF-8 may look the same and differ.
        assert!(vm.stdout == native.stdout, "bytes differ: VM {vm:?}");
        vm
    }
}

/// A program that was started in a VM.
#[derive(Debug)]
pub struct Running {
    /// The process, to inspect or to stop.
    pub process: Arc<Process>,
    stdout: File,
    stderr: File,
    began: Instant,
    ended: mpsc::Receiver<Outcome>,
    runner: std::thread::JoinHandle<()>,
}

impl Running {
    /// Waits until the program has written `text` to standard output.
    ///
    /// # Panics
    /// If it has not after five minutes.
    pub fn wait_for_output(&mut self, text: &str) {
        let began = Instant::now();
        loop {
            let said = content(&mut self.stdout);
            let said = String::from_utf8_lossy(&said);
            if said.contains(text) {
                return;
            }
            assert!(
                began.elapsed() < pace::limit(Duration::from_secs(300)),
                "no {text:?}, but {said:?}, and on standard error {:?}",
                String::from_utf8_lossy(&content(&mut self.stderr))
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end; after `timeout` a watchdog stops the program.
    ///
    /// # Panics
    /// If it does not end then either.
    #[must_use]
    pub fn wait(mut self, timeout: Duration) -> Ended {
        const GRACE: Duration = Duration::from_secs(60);
        let outcome = self.ended.recv_timeout(timeout).or_else(|_| {
            self.process.stop(Outcome::TimedOut);
            self.ended.recv_timeout(pace::limit(GRACE))
        });
        let Ok(outcome) = outcome else {
            panic!("the VM hangs: not ended {GRACE:?} after it was stopped");
        };
        self.runner.join().expect("waiting does not panic");
        Ended {
            outcome,
            elapsed: self.began.elapsed(),
            stdout: content(&mut self.stdout),
            stderr: content(&mut self.stderr),
        }
    }
}

/// An error and its causes.
#[must_use]
pub fn all(err: &dyn std::error::Error) -> String {
    vmm::error::chain(err)
}

/// A nameless file that holds `bytes`, positioned at its start. Files rather than pipes: no
/// reader has to keep up with the program.
fn file_with(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("it can be written");
    file.seek(SeekFrom::Start(0)).expect("it can be rewound");
    file
}

/// The content of `file`, up to a limit: a program can make it any length.
/// The guest shares its offset, which is not moved.
fn content(file: &mut File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    const MOST_BYTES: u64 = 64 << 20;
    let len = file.metadata().expect("a file has metadata").len().min(MOST_BYTES);
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).expect("it can be read");
    bytes
}

//! A store for one test, and VMs in child processes.
//!
//! A VM that is to be killed cannot live in the test's own process: it is the built `spacejmp`
//! command, with its output in files. Everything a test starts ends with it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::guests::{self, Profile};
use tests::pace;
use tests::vm::Run;
use vmm::store::Store;

/// Where random moments begin. Not a clock's: a failure can be reproduced.
pub(crate) const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// A limit that catches hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A separate store.
#[derive(Debug)]
pub(crate) struct World {
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        World { folder: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Where the store is, or will be.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The store, created if needed.
    pub(crate) fn store(&self) -> Store {
        Store::open_or_create(&self.path()).expect("the store opens")
    }

    /// A run in this process.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Run {
        Run::new(guests::rust(program)).args(args).store(self.path())
    }

    /// A run in this process that must end with status 0 and without messages; its output.
    #[track_caller]
    pub(crate) fn good(&self, program: &str, args: &[&str]) -> String {
        let ended = self.run(program, args).in_vm();
        assert_eq!(
            ended.outcome,
            vmm::process::Outcome::Exited(0),
            "{program} {args:?}: {ended:?}"
        );
        assert!(!ended.out().contains("FAILED"), "{ended:?}");
        ended.out()
    }

    /// The command that runs a program in a VM.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.arg("run").arg("--store").arg(self.path()).arg(guests::rust(program)).args(args);
        command
    }

    /// A VM in a separate process.
    pub(crate) fn spawn(&self, program: &str, args: &[&str]) -> Vm {
        Vm::start(self.command(program, args), &format!("{program} {args:?}"))
    }

    /// Kills a VM in a separate process at a random moment soon after its start, when it must be running.
    #[track_caller]
    pub(crate) fn kill_at_random(&self, program: &str, args: &[&str], random: &mut u64) {
        let mut vm = self.spawn(program, args);
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(150 + (*random >> 33) % 300));
        assert!(!vm.has_ended(), "{args:?}: {}{}", vm.out(), vm.err());
        vm.kill();
    }

    /// Runs the command on this store.
    pub(crate) fn spacejmp(&self, args: &[&str]) -> Output {
        self.command_of(args).output().expect("the command starts")
    }

    /// The command on this store.
    pub(crate) fn command_of(&self, args: &[&str]) -> Command {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", self.path()).args(args);
        command
    }

    /// The output of a command that must succeed.
    #[track_caller]
    pub(crate) fn says(&self, args: &[&str]) -> String {
        let output = self.spacejmp(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.says(&[args, &["--json"]].concat())).expect("JSON")
    }

    /// Asserts that VMs that have ended left nothing behind, in the store or next to it.
    #[track_caller]
    pub(crate) fn left_clean(&self) {
        let store = self.store();
        for folder in ["vms", "tmp"] {
            let left = names(&self.path().join(folder));
            assert!(left.is_empty(), "left in {folder}: {left:?}");
        }
        let prefix = format!("spacejmp-{:016x}-", store.id());
        let mut left = names(Path::new("/dev/shm"));
        left.retain(|name| name.starts_with(&prefix));
        assert!(left.is_empty(), "left in shared memory: {left:?}");
    }

    /// The same after VMs were killed, whose remains are removed first.
    #[track_caller]
    pub(crate) fn clean_after_gc(&self) {
        self.store().gc().expect("garbage is collected");
        self.left_clean();
    }
}

/// The entries of a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder can be listed");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    entries.map(name).collect()
}

/// A VM in a separate process; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Vm {
    child: Child,
    what: String,
    output: tempfile::TempDir,
}

impl Vm {
    pub(crate) fn start(command: Command, what: &str) -> Vm {
        let output = tempfile::tempdir().expect("a temporary directory");
        let out = File::create(output.path().join("out")).expect("a file");
        Vm::start_in(output, command, what, Stdio::null(), out.into())
    }

    fn start_in(
        output: tempfile::TempDir,
        mut command: Command,
        what: &str,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Vm {
        let err = File::create(output.path().join("err")).expect("a file");
        let child = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(err)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|err| panic!("cannot start {what}: {err}"));
        Vm { child, what: what.to_owned(), output }
    }

    pub(crate) fn out(&self) -> String {
        self.text("out")
    }

    pub(crate) fn err(&self) -> String {
        self.text("err")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.output.path().join(name)).expect("the output can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has written `text`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        while !self.out().contains(text) {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                assert!(
                    self.out().contains(text),
                    "{}: {status} without {text:?}: {}{}",
                    self.what,
                    self.out(),
                    self.err()
                );
            }
            assert!(began.elapsed() < pace::limit(LIMIT), "no {text:?} from {}", self.what);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it lives");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_some()
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// Waits for its end, which must come in time; returns the status, -1 for a signal.
    #[track_caller]
    pub(crate) fn end(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code().unwrap_or(-1);
            }
            assert!(
                began.elapsed() < pace::limit(LIMIT),
                "{} hangs: {}{}",
                self.what,
                self.out(),
                self.err()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for an end with status 0; returns its output.
    #[track_caller]
    pub(crate) fn ends_well(&mut self) -> String {
        let status = self.end();
        assert_eq!(status, 0, "{}: {}{}", self.what, self.out(), self.err());
        self.out()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // If it has ended already, there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A VM in a separate process that answers each line with a line; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Talker {
    vm: Vm,
    input: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
}

impl Talker {
    /// Starts it and waits for its first line.
    pub(crate) fn start(command: Command, what: &str) -> Talker {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut vm = Vm::start_in(folder, command, what, Stdio::piped(), Stdio::piped());
        let (input, output) = (vm.child.stdin.take(), vm.child.stdout.take());
        let output = output.expect("it is a pipe");
        let (send, answers) = mpsc::channel();
        // Ends with the VM, since it reads from the VM's pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let talker = Talker { vm, input, answers };
        let ready = talker.answers.recv_timeout(pace::limit(LIMIT));
        assert!(ready.is_ok(), "{what} says nothing: {}", talker.vm.err());
        talker
    }

    /// Sends a line and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String, String> {
        let told = match &mut self.input {
            Some(input) => writeln!(input, "{line}").map_err(|error| error.to_string()),
            None => Err("its input is closed".to_owned()),
        };
        let answer = told.and_then(|()| {
            self.answers.recv_timeout(pace::limit(LIMIT)).map_err(|error| error.to_string())
        });
        answer.map_err(|why| format!("no answer to {line:?}: {why}; {}", self.vm.err()))
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.vm.pid()
    }

    /// What its VMM has printed so far.
    pub(crate) fn log(&self) -> String {
        self.vm.err()
    }

    /// Closes its input and waits for its end, which must be successful.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.input = None;
        match self.vm.end() {
            0 => Ok(()),
            status => Err(format!("it ended with status {status}: {}", self.vm.err())),
        }
    }

    /// Closes its input; all further lines, until its end, which must be successful.
    pub(crate) fn rest(&mut self) -> Result<Vec<String>, String> {
        self.end()?;
        Ok(self.answers.iter().collect())
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(&mut self) {
        self.vm.kill();
    }
}

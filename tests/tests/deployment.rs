//! What `resources/deploy` runs: the very command lines of the service and of the image, the latter in a root file
//! system that has nothing but the command and one program.

use std::io::{BufRead, Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

const LIMIT: Duration = Duration::from_secs(60);
/// The status of a run whose program SIGTERM has ended.
const ENDED: i32 = 128 + 15;
/// `nobody`.
const USER: u32 = 65534;

/// Makes a root at `$1` of the command, the program and what a container has, and runs the rest in it, as its first
/// process and as `nobody`. `$2` is where its data lie.
const IN_A_ROOT_OF_ITS_OWN: &str = "set -e
    root=$1 data=$2 spacejmp=$3 kv=$4; shift 4
    mount -t tmpfs tmpfs \"$root\"; cd \"$root\"
    mkdir proc dev dev/shm data; mount -t proc proc proc; mount -t tmpfs tmpfs dev/shm; chmod 1777 dev/shm
    mknod dev/kvm c 10 232; mknod dev/null c 1 3; mknod dev/urandom c 1 9; chmod 666 dev/kvm dev/null dev/urandom
    touch spacejmp kv; mount --bind \"$spacejmp\" spacejmp; mount --bind \"$kv\" kv; mount --bind \"$data\" data
    mount -o remount,ro \"$root\"
    exec chroot --userspec=65534:65534 \"$root\" \"$@\"";

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `spacejmp` is given there, up to the program and its words.
fn options(words: &[String]) -> Vec<String> {
    let end = words.iter().position(|word| word == "--").expect("the program follows `--`");
    words[1..end].to_vec()
}

/// A run of `kv` that ends with the test.
struct Served {
    child: Child,
    socket: PathBuf,
}

impl Served {
    fn start(mut command: Command, socket: PathBuf) -> Served {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Served { child: child.spawn().expect("it starts"), socket }
    }

    /// The answer to inline commands: so many lines.
    fn asked(&mut self, question: &str) -> String {
        let began = Instant::now();
        let mut stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    let ended = self.child.try_wait().expect("it can be asked for");
                    assert!(ended.is_none(), "{ended:?}: {}", self.said());
                    assert!(began.elapsed() < pace::limit(LIMIT), "{error}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        stream.set_read_timeout(Some(pace::limit(LIMIT))).expect("a limit");
        stream.write_all(question.as_bytes()).expect("it reads");
        let mut answers = std::io::BufReader::new(stream);
        let mut text = String::new();
        for _ in question.lines() {
            answers.read_line(&mut text).expect("it answers");
        }
        text
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().expect("it is piped");
        let _ = stderr.read_to_string(&mut said);
        said
    }

    /// SIGTERM for this process, and how the run ends.
    fn terminated(&mut self, pid: i32) -> (ExitStatus, String) {
        let pid = rustix::process::Pid::from_raw(pid).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
        (self.child.wait().expect("it has ended"), self.said())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_command_line_of_the_service_runs_and_ends_with_sigterm() {
    skip_without_kvm!();
    let unit = deployed("spacejmp-kv.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it is there");
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    assert_eq!(words[0], "/usr/bin/spacejmp");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("kv.sock");
    let store = folder.path().join("store").display().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    let places = |word: String| if word == "/var/lib/spacejmp" { store.clone() } else { word };
    command.env_remove("SPACEJMP_LOG").args(options(&words).into_iter().map(places));
    // Nothing is bound to the port of the service, which somebody may have.
    command.arg("--dir").arg(folder.path()).arg("--").arg(guests::program(
        "kv",
        "kv",
        Profile::Dev,
    ));
    command.args(["serve", "--port", "0", "--unix"]).arg(&socket);
    let mut served = Served::start(command, socket);
    assert_eq!(served.asked("PING\r\n"), "+PONG\r\n");
    let pid = served.child.id().cast_signed();
    let (status, said) = served.terminated(pid);
    assert_eq!(status.code(), Some(ENDED), "{said}");
    assert!(unit.contains(&format!("\nSuccessExitStatus={ENDED}\n")));
}

#[test]
fn in_an_image_with_nothing_else_the_command_is_the_first_process_and_ends_with_sigterm() {
    skip_without_kvm!();
    let recipe = deployed("Containerfile");
    let entry = recipe.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).expect("a line");
    let words: Vec<String> = serde_json::from_str(entry).expect("words, as JSON");
    let (root, data) = (tempfile::tempdir(), tempfile::tempdir());
    let (root, data) = (root.expect("a folder"), data.expect("a folder"));
    let wrapped = |rest: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]);
        command.args(["sh", "-c", IN_A_ROOT_OF_ITS_OWN, "sh"]).arg(root.path()).arg(data.path());
        command.arg(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.arg(guests::program("kv", "kv", Profile::Dev)).args(rest);
        command
    };
    let can_own = chown(data.path(), Some(USER), Some(USER));
    let possible = wrapped(&["/spacejmp", "version"]).output();
    if can_own.is_err() || !possible.as_ref().is_ok_and(|output| output.status.success()) {
        let reason = format!("cannot make a root file system and change to it: {possible:?}");
        kvm::other_kind_of_host("deployment: an image", &reason);
        return;
    }
    let mut command = wrapped(&[&words[0]]);
    command.args(options(&words)).args(["--dir", "/data", "--", "/kv", "serve", "--port", "0"]);
    command.args(["--unix", "/data/kv.sock"]).env("KV_PASSWORD", "much").env_remove("SPACEJMP_LOG");
    let mut served = Served::start(command, data.path().join("kv.sock"));
    assert!(served.asked("PING\r\n").starts_with("-NOAUTH"));
    let both = "AUTH much\r\nSET greeting hello\r\n";
    assert_eq!(served.asked(both), "+OK\r\n+OK\r\n");
    // Another image of the same data, in which a process has the same number.
    let mut beside = wrapped(&[&words[0]]);
    let beside = beside.args(options(&words)).args(["--", "/kv", "get", "greeting"]);
    let beside = beside.env_remove("SPACEJMP_LOG").output().expect("it starts");
    let said = String::from_utf8_lossy(&beside.stderr);
    assert_eq!((beside.status.code(), &beside.stdout[..]), (Some(0), &b"hello\n"[..]), "{said}");
    let unshare = served.child.id();
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
    let first = children.expect("its only child runs").trim().parse().expect("one number");
    let (status, said) = served.terminated(first);
    assert_eq!(status.code(), Some(ENDED), "{said}");
    assert!(data.path().join("store").is_dir());
}

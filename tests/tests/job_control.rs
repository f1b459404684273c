//! Signals and processes as shells need them, natively and in VMs: what stays over `execve`, and jobs on a
//! terminal, the user's own and one that a program of the run has made.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn limit() -> Duration {
    pace::limit(Duration::from_secs(90))
}

/// `spacejmp run` with a time limit.
fn run() -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--no-store"]);
    command.args(["--timeout", &limit().as_secs().to_string()]);
    command
}

#[test]
fn pending_signals_and_interval_timers_stay_over_execve() {
    skip_without_kvm!();
    let program = guests::c("exec_signals");
    let folder = program.parent().expect("a guest is in a folder");
    let said = |output: &Output| (text(&output.stdout), output.status.to_string());
    for mode in ["first", "thread"] {
        let native = Command::new(&program).arg(mode).output().expect("it starts");
        let here = run().arg("--dir").arg(folder).arg(&program).arg(mode).output();
        let here = here.expect("it starts");
        assert!(text(&native.stdout).ends_with("alarm: 1\nkill(getpid(), SIGUSR1): 0\n"));
        // The command's own status for a program that a signal has ended.
        assert_eq!(here.status.code(), Some(128 + libc::SIGUSR1), "{}", text(&here.stderr));
        assert_eq!(said(&here).0, said(&native).0, "{mode}: {}", text(&here.stderr));
    }
}

#[test]
fn what_a_program_starts_is_in_the_session_that_it_has_made() {
    skip_without_kvm!();
    let program = guests::c("sessions");
    let native = Command::new(&program).arg("all").output().expect("it starts");
    let here = run().arg(&program).arg("all").output().expect("it starts");
    assert_eq!(
        (text(&here.stdout), here.status.code()),
        (text(&native.stdout), Some(0)),
        "{}",
        text(&here.stderr)
    );
    assert!(text(&here.stdout).ends_with("done\n"), "{}", text(&here.stdout));
}

#[test]
fn a_child_is_in_its_parents_group_also_if_that_is_outside_of_the_pid_namespace() {
    skip_without_kvm!();
    let inside = |command: &Command| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]);
        unshare.arg(command.get_program()).args(command.get_args());
        unshare.env_remove("SPACEJMP_LOG").stdin(Stdio::null()).output()
    };
    let possible = inside(&Command::new("true"));
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        let test = "a_child_is_in_its_parents_group_also_if_that_is_outside_of_the_pid_namespace";
        kvm::skip(test, &format!("no new PID namespace can be had here: {possible:?}"));
        return;
    }
    // The one makes a session in a child, the other groups, and asks who is in them.
    for (guest, mode) in [("sessions", "all"), ("processes", "groups"), ("processes", "two-wait")] {
        let program = guests::c(guest);
        let native = inside(Command::new(&program).arg(mode)).expect("it starts");
        let folder = program.parent().expect("a guest is in a folder");
        let mut vm = run();
        vm.arg("--dir").arg(folder).arg(&program).arg(mode);
        let here = inside(&vm).expect("it starts");
        assert_eq!(
            (text(&here.stdout), here.status.code()),
            (text(&native.stdout), native.status.code()),
            "{guest} {mode}: {}",
            text(&here.stderr)
        );
        assert!(!native.stdout.is_empty(), "it says what it does");
    }
}

/// The processes that `pid` is the parent of, with their names.
fn children_of(pid: u32) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc").expect("it is there").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of = |child: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let parent: u32 = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
        (parent == pid).then(|| (child, head.split_once('(').unwrap_or_default().1.to_owned()))
    };
    numbers.filter_map(of).collect()
}

/// Whether the readable memory of a process contains these bytes.
fn contains(pid: u32, wanted: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it is ours");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("it is ours");
    maps.lines().filter(|line| line.contains(" rw-p ")).any(|line| {
        let range = line.split_ascii_whitespace().next().expect("a range");
        let (from, to) = range.split_once('-').expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("a number");
        let mut bytes = vec![0; (number(to) - number(from)) as usize];
        let got = memory.read_at(&mut bytes, number(from)).unwrap_or(0);
        bytes[..got].windows(wanted.len()).any(|window| window == wanted)
    })
}

#[test]
fn what_makes_processes_in_a_new_session_has_nothing_of_the_guests_memory() {
    skip_without_kvm!();
    let mut command = run();
    command.arg(guests::c("sessions")).arg("marked").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut first = command.spawn().expect("it starts");
    let mut said = BufReader::new(first.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it says its number");
    let vmm: u32 = line.trim().parse().expect("a number");
    let marker: Vec<u8> = b"tnednopsednoitaripsniyraicurtsni".iter().rev().copied().collect();
    assert!(contains(vmm, &marker), "it is where it should be");
    let starters = children_of(vmm);
    let starters: Vec<_> = starters.iter().filter(|(_, name)| name == "starter").collect();
    assert_eq!(starters.len(), 2, "{starters:?}");
    for (starter, _) in &starters {
        assert!(!contains(*starter, &marker), "starter {starter}");
    }
    drop(first.stdin.take());
    assert!(first.wait().expect("it was started").success());
}

/// A program at a terminal, which the test writes to and reads from.
struct AtTerminal {
    keys: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
    child: Child,
}

impl AtTerminal {
    /// The terminal is the program's controlling one.
    fn new(words: &[&std::ffi::OsStr]) -> AtTerminal {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keys).expect("it is ours");
        unlockpt(&keys).expect("it is ours");
        let name = ptsname(&keys, Vec::new()).expect("it has a name");
        let other = File::options().read(true).write(true).open(name.to_str().expect("ASCII"));
        let other: OwnedFd = other.expect("the other end").into();
        let end = || Stdio::from(other.as_fd().try_clone_to_owned().expect("a descriptor"));
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).args(words).env("PS1", "ready$ ").env("TERM", "dumb");
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("setsid (util-linux) is there");
        drop((command, other));
        let keys = File::from(keys);
        let mut from = keys.try_clone().expect("a descriptor");
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of the other end is an error here.
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                let _ = sender.send(bytes[..count].to_vec());
            }
        });
        AtTerminal { keys, screen, shown: String::new(), child }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Waits until the terminal shows this, beyond what was seen before.
    #[track_caller]
    fn sees(&mut self, wanted: &str) {
        assert!(self.sees_within(limit(), wanted), "no {wanted:?} in {:?}", self.shown);
    }

    fn sees_within(&mut self, time: Duration, wanted: &str) -> bool {
        let until = Instant::now() + time;
        loop {
            if let Some(at) = self.shown.find(wanted) {
                self.shown.drain(..at + wanted.len());
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&text(&bytes)),
                Err(_) => return false,
            }
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";
const CTRL_BACKSLASH: &str = "\x1c";

/// Jobs of an interactive bash.
fn use_jobs(shell: &mut AtTerminal) {
    shell.sees("ready$ ");
    shell.press("JOBS=/tmp/jobs-$$\n");
    shell.sees("ready$ ");
    // A job reads what is typed; stopped, it is the shell again that does.
    shell.press("cat\n");
    shell.press("one\n");
    shell.sees("one\r\none\r\n");
    shell.press(CTRL_Z);
    shell.sees("Stopped");
    shell.sees("ready$ ");
    shell.press("jobs; echo status $((18 + 2))\n");
    shell.sees("Stopped");
    shell.sees("status 20\r\n");
    shell.press("fg\n");
    shell.sees("cat\r\n");
    shell.press("two\n");
    shell.sees("two\r\ntwo\r\n");
    // In the background it is stopped when it reads.
    shell.press(CTRL_Z);
    shell.sees("Stopped");
    shell.press("bg\n");
    shell.sees("cat &");
    shell.press("until jobs > $JOBS; read -r all < $JOBS; [[ $all == *Stopped* ]]; do :; done; jobs; echo done $((1 + 1))\n");
    shell.sees("Stopped");
    shell.sees("done 2\r\n");
    // Ctrl-C ends the job in the foreground, not the shell.
    shell.press("fg\n");
    shell.sees("cat\r\n");
    shell.press("three\n");
    shell.sees("three\r\nthree\r\n");
    shell.press(CTRL_C);
    shell.sees("ready$ ");
    shell.press("echo status $?.\n");
    shell.sees("status 130.\r\n");
    // At the prompt the keys do not end or stop the shell, however often they are pressed.
    let keys = [CTRL_C, CTRL_C, CTRL_C, CTRL_Z, CTRL_BACKSLASH];
    for (key, shown) in keys.into_iter().zip(["^C", "^C", "^C", "^Z", "^\\"]) {
        shell.sees("ready$ ");
        shell.press(key);
        shell.sees(shown);
        if key == CTRL_C {
            // With a new prompt. Between its last look for a Ctrl-C and `read`, bash runs pending traps
            // (`getc_with_restart`); one that comes just then is served with the next key.
            if !shell.sees_within(pace::limit(Duration::from_secs(5)), "ready$ ") {
                shell.press(CTRL_C);
                shell.sees("ready$ ");
            }
        }
        shell.press("echo alive $((40 + 2))\n");
        shell.sees("alive 42\r\n");
    }
    // What the terminal stops in the background is ended by a signal when it is continued with it: who reads, who
    // changes modes, and who writes where that is not for all.
    for job in ["cat", "stty -parodd", "stty tostop; ls /"] {
        shell.sees("ready$ ");
        let until = |wanted: &str| {
            format!("until jobs > $JOBS; read -r all < $JOBS; [[ {wanted} ]]; do :; done")
        };
        let (stopped, ended) =
            (until("$all == *Stopped*"), until("$all != *Stopped* && $all != *Running*"));
        shell.press(&format!("{job} & {stopped}; kill %%; {ended}; echo ended $((1 + 1))\n"));
        shell.sees("ended 2\r\n");
    }
    shell.sees("ready$ ");
    shell.press("stty -tostop; echo again $((1 + 1))\n");
    shell.sees("again 2\r\n");
    // A pipeline is one job. What is typed before the prompt is shown before it.
    shell.sees("ready$ ");
    shell.press("cat | cat\n");
    shell.press("four\n");
    shell.sees("four\r\nfour\r\n");
    shell.press(CTRL_Z);
    shell.sees("Stopped");
    shell.press("kill %%; wait; jobs; echo gone $((1 + 1))\n");
    shell.sees("gone 2\r\n");
    // One that begins in the background, and is waited for.
    shell.press("sleep 0 & wait $!; echo status $?.\n");
    shell.sees("status 0.\r\n");
    shell.press("rm $JOBS; exit 7\n");
}

#[test]
fn an_interactive_shell_controls_jobs_on_the_users_terminal() {
    skip_without_kvm!();
    let bash = ["bash", "--norc", "--noprofile", "--noediting", "-i"];
    let in_vm = run();
    let mut words = vec![in_vm.get_program()];
    words.extend(in_vm.get_args());
    let options = ["--root", "/", "--env", "PS1", "--env", "TERM", "--"];
    words.extend(options.into_iter().chain(bash).map(std::ffi::OsStr::new));
    for words in [bash.map(std::ffi::OsStr::new).to_vec(), words] {
        let mut shell = AtTerminal::new(&words);
        use_jobs(&mut shell);
        assert_eq!(shell.child.wait().expect("it was started").code(), Some(7));
    }
}

#[test]
fn an_interactive_shell_controls_jobs_on_a_terminal_that_a_program_has_made() {
    skip_without_kvm!();
    let shell = "PS1='ready$ ' bash --norc --noprofile --noediting -i";
    let in_vm = run();
    let mut words = vec![in_vm.get_program()];
    words.extend(in_vm.get_args());
    let options = ["--root", "/", "--env", "TERM", "--"];
    let script = ["script", "--quiet", "--return", "--command", shell, "/dev/null"];
    words.extend(options.into_iter().chain(script).map(std::ffi::OsStr::new));
    let mut shell = AtTerminal::new(&words);
    use_jobs(&mut shell);
    assert_eq!(shell.child.wait().expect("it was started").code(), Some(7));
}

//! A program says where copies of it are to begin (`sj_ready`): they come back from there with arguments of their own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm, small_disk};

/// A store.
struct World(TempDir);

impl World {
    fn new() -> World {
        World(tempfile::tempdir().expect("a folder"))
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
        let mut command = Command::new(program);
        command.env_remove("SPACEJMP_LOG").env_remove("COLOUR").stdin(Stdio::null());
        command.env("SPACEJMP_STORE", self.store()).args(words);
        command
    }

    fn run_command(&self, words: &[&str]) -> Command {
        let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
        self.command(&[&["run", "--timeout", &limit], words].concat())
    }

    /// What a run prints that ends with this status, and what is on its stderr.
    #[track_caller]
    fn run(&self, status: i32, words: &[&str]) -> (String, String) {
        ended(status, &self.run_command(words).output().expect("it starts"))
    }

    #[track_caller]
    fn snapshots(&self) -> Vec<Value> {
        let output = self.command(&["snapshot", "ls", "--json"]).output().expect("it starts");
        let read: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        read["snapshots"].as_array().expect("a list").clone()
    }
}

#[track_caller]
fn ended(status: i32, output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    (text(&output.stdout), text(&output.stderr))
}

fn path(program: &Path) -> &str {
    program.to_str().expect("a path")
}

/// Ends it if a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_program_that_has_warmed_up_once_is_started_ten_times_with_other_arguments() {
    skip_without_kvm!();
    for program in [guests::c("ready"), guests::c_linked("ready_linked")] {
        let world = World::new();
        let at_ready = ["--env", "COLOUR=red", "--snapshot-at-ready", "warm", path(&program), "4"];
        let (said, warned) = world.run(7, &[&at_ready, ["once", "x"].as_slice()].concat());
        let warm = format!("warm {}\n", path(&program));
        assert_eq!(said, format!("{warm}original [4] [once] [x] COLOUR=red 0 of 1024 wrong\n"));
        assert_eq!(warned, "");
        let [snapshot] = world.snapshots().try_into().expect("one");
        assert_eq!((&snapshot["name"], &snapshot["at_ready"]), (&"warm".into(), &true.into()));
        let starts: Vec<_> = (0..10)
            .map(|number| {
                let mut command = world.run_command(&["--from", "warm"]);
                if number % 2 == 1 {
                    command.args(["--env", &format!("COLOUR={number}")]);
                }
                command.args(["--", &format!("-{number}"), "two words"]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
            })
            .collect();
        for (number, started) in starts.into_iter().enumerate() {
            let output = started.wait_with_output().expect("it ends");
            let colour = if number % 2 == 1 { format!(" COLOUR={number}") } else { String::new() };
            let expected = format!("copy [-{number}] [two words]{colour} 0 of 1024 wrong\n");
            assert_eq!(ended(8, &output), (expected, String::new()));
        }
        // What the program is called, and what /proc shows, stays.
        let (said, _) = world.run(8, &["--from", "warm", "cmdline"]);
        let stays = format!("{} 4 once x", path(&program));
        assert_eq!(said, format!("copy [cmdline] 0 of 1024 wrong\n{stays}\n"));
        assert_eq!(world.run(8, &["--from", "warm"]).0, "copy 0 of 1024 wrong\n");
    }
}

#[test]
fn a_program_in_rust_gets_its_arguments_and_variables() {
    skip_without_kvm!();
    let (world, program) = (World::new(), guests::rust("ready"));
    let (said, _) = world.run(0, &["--snapshot-at-ready", "warm", path(&program), "one"]);
    assert_eq!(said, "original [\"one\"] None 2890\n");
    let copy = ["--from", "warm", "--env", "COLOUR=a=b", "two", ""];
    assert_eq!(world.run(0, &copy).0, "copy [\"two\", \"\"] Some(\"a=b\") 2890\n");
}

#[test]
fn without_the_option_nothing_happens_and_the_programs_second_time_and_its_children_do_not_count() {
    skip_without_kvm!();
    let (world, program) = (World::new(), guests::c("ready"));
    let program = path(&program);
    let (said, warned) = world.run(7, &[program, "0", "once"]);
    assert!(said.ends_with("original [0] [once] 0 of 0 wrong\n"), "{said}");
    assert_eq!(warned, "");
    assert!(!world.store().exists());
    for how in ["child", "never"] {
        let (_, warned) = world.run(7, &["--snapshot-at-ready", "none", program, "0", how]);
        let expected = "there is no snapshot 'none': the program has not called sj_ready";
        assert!(warned.contains(expected), "{how}: {warned}");
    }
    assert!(world.snapshots().is_empty());
    let (_, warned) = world.run(7, &["--snapshot-at-ready", "next", program, "0", "exec"]);
    assert_eq!(warned, "", "the program that takes its place is the same process");
    let original = "original [0] [twice] 0 of 0 wrong\n";
    let (said, _) = world.run(7, &["--snapshot-at-ready", "warm", program, "0", "twice"]);
    assert!(said.ends_with(&[original, original].concat()), "{said}");
    // A copy is the original of its own copies.
    let (said, _) = world.run(8, &["--from", "warm", "--snapshot-at-ready", "hot", "1"]);
    assert_eq!(said, "copy [1] 0 of 0 wrong\noriginal [1] 0 of 0 wrong\n");
    assert_eq!(world.run(8, &["--from", "hot", "2"]).0, "copy [2] 0 of 0 wrong\n");
}

#[test]
fn other_threads_go_on_where_they_stood_and_the_one_that_was_ready_comes_back_from_its_call() {
    skip_without_kvm!();
    let program = guests::c("ready");
    for how in ["threads", "caller"] {
        let world = World::new();
        let at_ready = ["--snapshot-at-ready", "warm", path(&program), "1", how];
        let (said, warned) = world.run(7, &at_ready);
        let original = format!("original [1] [{how}] 0 of 256 wrong\nall have ended\n");
        assert_eq!((said, warned.as_str()), (format!("warm {}\n{original}", path(&program)), ""));
        assert_eq!(world.snapshots()[0]["at_ready"], true);
        let starts: Vec<_> = (0..3)
            .map(|number| {
                let mut command = world.run_command(&["--from", "warm", &number.to_string()]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
            })
            .collect();
        for (number, started) in starts.into_iter().enumerate() {
            let output = started.wait_with_output().expect("it ends");
            let expected = format!("copy [{number}] 0 of 256 wrong\nall have ended\n");
            assert_eq!(ended(8, &output), (expected, String::new()), "{how}");
        }
    }
}

#[test]
fn a_thread_that_is_ready_inside_an_address_space_comes_back_inside_the_version_that_it_saw() {
    skip_without_kvm!();
    let (world, program) = (World::new(), guests::c("ready"));
    for line in [
        "seg create ledger --size 1M --lifetime versioned",
        "vas create books",
        "vas attach books ledger",
    ] {
        let words: Vec<_> = line.split(' ').collect();
        ended(0, &world.command(&words).output().expect("it starts"));
    }
    let adder = guests::c("snapshotted_vas");
    let add = |number: &str| {
        let mut command = world.run_command(&[path(&adder), "books"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        writeln!(stdin, "add 0 {number}\nend").expect("it reads");
        ended(5, &child.wait_with_output().expect("it ends"));
    };
    add("5");
    let (said, warned) = world.run(7, &["--snapshot-at-ready", "warm", path(&program), "0", "vas"]);
    assert!(said.ends_with("all have ended\ninside saw 5 and sees 5\n"), "{said}");
    assert_eq!(warned, "");
    add("2");
    let (said, _) = world.run(8, &["--from", "warm", "1"]);
    let expected = "copy [1] 0 of 0 wrong\nall have ended\ninside saw 5 and sees 7\n";
    assert_eq!(said, expected);
}

#[test]
fn a_snapshot_that_cannot_be_made_is_told_on_stderr_and_to_the_program_which_goes_on() {
    skip_without_kvm!();
    let (world, program) = (World::new(), guests::c("ready"));
    let program = path(&program);
    let (said, warned) = world.run(7, &["--snapshot-at-ready", "warm", program, "0", "shared"]);
    assert!(said.contains("failed: Device or resource busy"), "{said}");
    assert!(warned.contains("cannot make snapshot 'warm'") && warned.contains("can be shared"));
    assert!(world.snapshots().is_empty());

    let mut command = world.run_command(&["--snapshot-at-ready", "warm", program, "0", "asked"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("it starts"));
    let mut out = BufReader::new(running.0.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, format!("warm {program}\n"));
    let pid = running.0.id().to_string();
    // It waits for a line; another one takes the name.
    ended(0, &world.command(&["snapshot", &pid, "warm"]).output().expect("it starts"));
    writeln!(running.0.stdin.take().expect("a pipe"), "go").expect("it reads");
    line.clear();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "failed: File exists [0] [asked] 0 of 0 wrong\n");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(7));
    let mut warned = String::new();
    BufReader::new(running.0.stderr.take().expect("a pipe")).read_line(&mut warned).expect("text");
    assert!(warned.contains("cannot make snapshot 'warm': snapshot 'warm' exists already"));

    // One that is known to be there is an error before anything runs.
    let (said, error) = world.run(125, &["--snapshot-at-ready", "warm", program, "0"]);
    assert_eq!(said, "");
    assert!(error.contains("snapshot 'warm' exists already"), "{error}");
    let (_, error) = world.run(125, &["--no-store", "--snapshot-at-ready", "w", program]);
    assert!(error.contains("--no-store"), "{error}");
}

#[test]
fn a_full_disk_is_an_error_of_the_call_and_leaves_nothing_behind() {
    skip_without_kvm!();
    let test = "a_full_disk_is_an_error_of_the_call_and_leaves_nothing_behind";
    let (world, program) = (World::new(), guests::c("ready"));
    // The store is on the small disk; what lists it there is the same shell.
    let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let script = "\"$1\" run --timeout 100 --store \"$2\" --snapshot-at-ready warm \"$3\" 64; \
                  echo \"status $?\"; ls -A \"$2/snapshots\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(spacejmp).arg(world.store()).arg(program);
    let Some(output) = small_disk::run(test, world.0.path(), &command) else { return };
    let (said, warned) = ended(0, &output);
    let expected = "failed: No space left on device [64] 0 of 16384 wrong\nstatus 7\n";
    assert!(said.ends_with(expected), "{said}");
    assert!(warned.contains("cannot make snapshot 'warm'"), "{warned}");
}

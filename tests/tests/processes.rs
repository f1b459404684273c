//! Programs that start others, natively and in VMs: what a child has, what its parent learns of it, what
//! the run's limits mean for all of them, and what is left when one of the VMMs is killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn limit() -> Duration {
    pace::limit(Duration::from_secs(60))
}

/// The guest in a folder of its own, which is granted.
struct World {
    _dir: TempDir,
    folder: PathBuf,
    program: PathBuf,
}

impl World {
    fn new() -> World {
        World::of("processes")
    }

    /// With another guest.
    fn of(guest: &str) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = std::fs::canonicalize(dir.path()).expect("it is there");
        let program = folder.join(guest);
        guests::copy_program(guests::c(guest), &program);
        World { _dir: dir, folder, program }
    }

    fn native(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(words).env("SELF", &self.program).current_dir(&self.folder);
        command.stdin(Stdio::null()).output().expect("it starts")
    }

    /// `spacejmp run` with these options.
    fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        let limit = limit().as_secs().to_string();
        command.env_remove("SPACEJMP_LOG").current_dir(&self.folder).stdin(Stdio::null());
        command.args(["run", "--no-store", "--timeout", &limit, "--dir"]).arg(&self.folder);
        command.arg("--env").arg(format!("SELF={}", self.program.display()));
        command.args(options).arg(&self.program).args(words);
        command
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Output {
        self.command(options, words).output().expect("it starts")
    }

    #[track_caller]
    fn says(&self, options: &[&str], words: &[&str], expected: &str) {
        let output = self.run(options, words);
        let said = (text(&output.stdout), output.status.code());
        assert_eq!(said, (expected.to_owned(), Some(0)), "{}", text(&output.stderr));
    }

    #[track_caller]
    fn same_as_native(&self, mode: &str) {
        let (native, here) = (self.native(&[mode]), self.run(&[], &[mode]));
        assert_eq!(
            (text(&here.stdout), here.status.code()),
            (text(&native.stdout), native.status.code()),
            "{}",
            text(&here.stderr)
        );
        assert!(!native.stdout.is_empty(), "it says what it does");
    }
}

/// Waits until `is_so`.
#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + limit();
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_there(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // One that nobody has waited for yet has ended all the same.
    status.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_child_has_what_it_was_given_and_its_parent_keeps_its_own() {
    skip_without_kvm!();
    let world = World::new();
    for mode in ["vfork", "spawn", "position"] {
        world.same_as_native(mode);
    }
}

#[test]
fn a_program_that_takes_the_place_of_another_keeps_number_children_and_files() {
    skip_without_kvm!();
    World::new().same_as_native("exec");
}

#[test]
fn a_program_can_be_named_by_a_descriptor() {
    skip_without_kvm!();
    World::new().same_as_native("exec-by");
}

#[test]
fn what_is_open_for_writing_does_not_run_and_what_runs_is_not_written() {
    skip_without_kvm!();
    World::of("text_busy").same_as_native("busy");
}

#[test]
fn a_parent_learns_how_its_children_end_stop_and_continue() {
    skip_without_kvm!();
    let world = World::new();
    for mode in ["signals", "ends", "two-wait"] {
        world.same_as_native(mode);
    }
}

#[test]
fn groups_are_waited_for_and_signalled_together() {
    skip_without_kvm!();
    World::new().same_as_native("groups");
}

#[test]
fn no_more_processes_than_the_run_may_have() {
    skip_without_kvm!();
    let world = World::new();
    let refused = |made| format!("spawn: EAGAIN\nmade: {made}\nafterwards: 1\n");
    world.says(&["--processes", "4"], &["many"], &refused(3));
    let alone = world.run(&["--processes", "1"], &["many"]);
    assert!(text(&alone.stdout).starts_with("spawn: ENOSYS\nmade: 0\n"), "{alone:?}");
}

#[test]
fn memory_is_limited_for_all_processes_together() {
    skip_without_kvm!();
    let expected = "alone: exited 0\ntogether: 0\n";
    World::new().says(&["--memory", "100M"], &["memory"], expected);
}

#[test]
fn programs_inherit_an_epoll_and_a_signalfd() {
    skip_without_kvm!();
    World::new().same_as_native("gives-what-waits");
}

#[test]
fn a_call_of_a_vfork_child_that_would_be_the_parents_is_refused() {
    skip_without_kvm!();
    let expected = "call that would be the parent's: exited 1\n";
    World::new().says(&[], &["not-the-parents"], expected);
}

#[test]
fn no_path_that_changes_meanwhile_leads_out_of_the_grants() {
    skip_without_kvm!();
    let world = World::new();
    let outside = tempfile::tempdir().expect("another folder");
    // Were it started, it would exit with another status.
    let forbidden = outside.path().join("false");
    std::fs::write(&forbidden, "#!/bin/false\n").expect("writable");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&forbidden, mode).expect("it is ours");
    let forbidden = forbidden.to_str().expect("paths of tests are UTF-8");
    world.says(&[], &["race", forbidden], "strange: 0 of all: 60\n");
}

#[test]
fn processes_outside_the_run_do_not_exist() {
    skip_without_kvm!();
    let world = World::new();
    let mut other = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep");
    let pid = other.id().to_string();
    let output = world.run(&[], &["outside", &pid]);
    let alive = other.try_wait().expect("it is ours").is_none();
    other.kill().expect("it is ours");
    other.wait().expect("it is ours");
    assert!(alive, "no signal reached it");
    let expected = "kill: ESRCH\nkill 1: ESRCH\ngroup: ESRCH\ngetpgid: ESRCH\ngetsid: ESRCH\n\
                    setpgid: ESRCH\nwait: ECHILD\nqueue: ESRCH\nall others: ESRCH\n";
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

/// Starts a program that leaves a child behind; the child's number.
fn leaves_one(world: &World, options: &[&str]) -> (Output, i32) {
    let output = world.run(&[options, &["--env", "TELL=1"]].concat(), &["leave"]);
    let said = text(&output.stdout);
    let pid = said.lines().nth(1).and_then(|line| line.parse().ok());
    let pid = pid.unwrap_or_else(|| panic!("{output:?}"));
    (output, pid)
}

#[test]
fn processes_that_are_left_end_with_the_run() {
    skip_without_kvm!();
    let (output, pid) = leaves_one(&World::new(), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!is_there(pid), "the run waits for their end");
}

#[test]
fn processes_that_are_left_go_on_if_the_user_wants_it() {
    skip_without_kvm!();
    let world = World::new();
    // Its standard streams are the program's: with a pipe, the reader would wait for it.
    let out = world.folder.join("out");
    let mut command = world.command(&["--detach-children", "--env", "TELL=1"], &["leave"]);
    let file = || std::fs::File::options().create(true).append(true).open(&out).expect("a file");
    let status = command.stdout(file()).stderr(file()).status().expect("it starts");
    let said = std::fs::read_to_string(&out).expect("readable");
    assert_eq!(status.code(), Some(0), "{said}");
    let pid: i32 = said.lines().nth(1).and_then(|line| line.parse().ok()).expect("a number");
    std::thread::sleep(Duration::from_millis(300));
    assert!(is_there(pid));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).expect("a number"),
        rustix::process::Signal::KILL,
    )
    .expect("it is there");
}

#[test]
fn an_orphan_is_none_of_its_grandparents_children() {
    skip_without_kvm!();
    World::new().says(
        &[],
        &["grandchild"],
        "left one: 1\nparent of an orphan: exited 0\nnone of ours: ECHILD\n",
    );
}

/// A run whose first program waits for a child; both numbers.
fn waits(world: &World) -> (Child, Vec<i32>) {
    let mut command = world.command(&["--env", "TELL=1"], &["leave-and-wait"]);
    let mut run = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(run.stdout.take().expect("a pipe")).lines();
    let mut number = || lines.next().and_then(Result::ok).and_then(|line| line.parse().ok());
    let child = number().expect("the child's number");
    // The helpers: children of the two.
    let mut pids = vec![child];
    for of in [run.id().cast_signed(), child] {
        let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children"));
        pids.extend(
            list.unwrap_or_default().split_whitespace().filter_map(|p| p.parse::<i32>().ok()),
        );
    }
    (run, pids)
}

/// A terminal: what is typed there, and what programs have of it.
fn terminal() -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let typed = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&typed).expect("it is ours");
    unlockpt(&typed).expect("it is ours");
    let name = ptsname(&typed, Vec::new()).expect("it has a name");
    let name = name.to_str().expect("names of terminals are ASCII");
    let options = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name);
    (File::from(typed), options.expect("it is ours"))
}

#[test]
fn ctrl_c_reaches_the_foreground_group_and_no_other() {
    skip_without_kvm!();
    let world = World::new();
    let native = {
        let mut command = Command::new(&world.program);
        command.arg("interrupted").env("SELF", &world.program);
        command
    };
    for command in [native, world.command(&[], &["interrupted"])] {
        let (mut typed, screen) = terminal();
        // In a session of its own, whose terminal is standard input.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        session.env("SELF", &world.program).current_dir(&world.folder);
        let mut run = session.stdin(screen).stdout(Stdio::piped()).spawn().expect("util-linux");
        let mut lines = BufReader::new(run.stdout.take().expect("a pipe")).lines();
        let mut line = || lines.next().and_then(Result::ok).unwrap_or_default();
        assert_eq!(line(), "in the foreground: 1");
        typed.write_all(&[3]).expect("the terminal is there");
        assert_eq!(line(), "in the foreground: signal 2");
        assert_eq!(line(), "in the background: 0");
        assert_eq!(line(), "in the background: signal 15");
        assert_eq!(run.wait().expect("it is ours").code(), Some(0));
    }
}

#[test]
fn the_time_limit_ends_all_processes_of_the_run() {
    skip_without_kvm!();
    let world = World::new();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", "2", "--dir"]);
    command.arg(&world.folder).arg("--env").arg(format!("SELF={}", world.program.display()));
    command.args(["--env", "TELL=1"]).arg(&world.program).arg("leave-and-wait");
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    let child = text(&output.stdout).trim().parse().expect("the child's number");
    assert!(!is_there(child), "the run waits for its end");
}

#[test]
fn when_a_vmm_is_killed_nothing_of_its_run_is_left() {
    skip_without_kvm!();
    let (mut run, pids) = waits(&World::new());
    run.kill().expect("it is there");
    run.wait().expect("it is ours");
    for pid in pids {
        soon(&format!("{pid} ends"), || !is_there(pid));
    }
}

#[test]
fn when_a_childs_vmm_is_killed_its_parent_learns_it_and_goes_on() {
    skip_without_kvm!();
    let (mut run, pids) = waits(&World::new());
    let pid = rustix::process::Pid::from_raw(pids[0]).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is there");
    // The status of the program: the signal that ended its child.
    assert_eq!(run.wait().expect("it is ours").code(), Some(9));
    for pid in pids {
        soon(&format!("{pid} ends"), || !is_there(pid));
    }
}

/// Whether programs of the distribution are there; says so if not.
fn has(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|name| !Path::new(name).exists()).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: {missing:?} not installed");
    }
    missing.is_empty()
}

#[test]
fn make_and_the_compiler_build_a_program() {
    skip_without_kvm!();
    if !has(&["/usr/bin/make", "/usr/bin/gcc"]) {
        return;
    }
    let world = World::new();
    let source = "#include <stdio.h>\nint main(void) { puts(\"built\"); return 0; }\n";
    std::fs::write(world.folder.join("built.c"), source).expect("writable");
    let rules = "all: built\n\t@./built\nbuilt: built.c\n\t@gcc -O1 -o built built.c\n";
    std::fs::write(world.folder.join("Makefile"), rules).expect("writable");
    let limit = limit().as_secs().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").current_dir(&world.folder).stdin(Stdio::null());
    command.args(["run", "--no-store", "--timeout", &limit, "--root", "/", "--dir"]);
    command.arg(&world.folder).args(["--env", "PATH=/usr/bin:/bin", "--env"]);
    command.arg(format!("TMPDIR={}", world.folder.display())).arg("make");
    let output = command.output().expect("it starts");
    let said = (text(&output.stdout), output.status.code());
    assert_eq!(said, ("built\n".to_owned(), Some(0)), "{}", text(&output.stderr));
}

#[test]
fn python_runs_other_programs_and_talks_to_them() {
    skip_without_kvm!();
    if !has(&["/usr/bin/python3"]) {
        return;
    }
    let script = "import subprocess as s, os\n\
        print(s.run(['/bin/echo', 'hi'], capture_output=True, text=True).stdout, end='')\n\
        print(s.run('exit 3', shell=True).returncode)\n\
        p = s.Popen(['/bin/cat'], stdin=s.PIPE, stdout=s.PIPE)\n\
        print(p.communicate(b'through')[0])\n\
        p = s.Popen(['/bin/sleep', '100'], start_new_session=True)\n\
        print(os.getsid(p.pid) == p.pid); p.terminate(); print(p.wait())\n\
        print(s.check_output('pwd', cwd='/usr', text=True), end='', flush=True)\n\
        os.execv('/bin/echo', ['echo', 'last'])\n";
    let limit = limit().as_secs().to_string();
    let output = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env_remove("SPACEJMP_LOG")
        .args(["run", "--no-store", "--timeout", &limit, "--root", "/"])
        .args(["/usr/bin/python3", "-c", script])
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let expected = "hi\n3\nb'through'\nTrue\n-15\n/usr\nlast\n";
    let said = (text(&output.stdout), output.status.code());
    assert_eq!(said, (expected.to_owned(), Some(0)), "{}", text(&output.stderr));
}

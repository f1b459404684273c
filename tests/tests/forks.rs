//! Programs that fork, natively and in VMs: what a child inherits, what the two share, and what the run's
//! limits mean for it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The guests, by what they try: what is inherited, what is shared, and the signals in between.
const GUESTS: [&str; 3] = ["forks", "forks_shared", "signals_between"];

/// A folder with the guests, which is granted.
struct World {
    _dir: TempDir,
    folder: PathBuf,
}

impl World {
    fn new() -> World {
        let guests = GUESTS.map(guests::c);
        let beside = guests[0].parent().expect("it is somewhere");
        let dir = tempfile::tempdir_in(beside).expect("a folder");
        let folder = std::fs::canonicalize(dir.path()).expect("it is there");
        for (name, guest) in GUESTS.iter().zip(&guests) {
            // No copy: a file that is being written cannot be run, and a thread that starts a program
            // meanwhile keeps it open for a moment.
            std::fs::hard_link(guest, folder.join(name)).expect("the guest");
        }
        World { _dir: dir, folder }
    }

    fn native(&self, guest: &str, words: &[&str]) -> Output {
        let mut command = Command::new(self.folder.join(guest));
        command.args(words).current_dir(&self.folder).stdin(Stdio::null());
        command.output().expect("it starts")
    }

    /// `spacejmp run` with these options, of the guest or another program.
    fn run_of(&self, options: &[&str], program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
        command.env_remove("SPACEJMP_LOG").current_dir(&self.folder).stdin(Stdio::null());
        command.args(["run", "--no-store", "--timeout", &limit, "--dir"]).arg(&self.folder);
        command.args(options).arg(program).args(words).output().expect("it starts")
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Output {
        self.run_of(options, "./forks", words)
    }

    /// What a child inherits.
    #[track_caller]
    fn same_as_native(&self, mode: &str) {
        self.same(GUESTS[0], mode);
    }

    /// What the two share.
    #[track_caller]
    fn shared_as_natively(&self, mode: &str) {
        self.same(GUESTS[1], mode);
    }

    #[track_caller]
    fn same(&self, guest: &str, mode: &str) {
        let native = self.native(guest, &[mode]);
        // Each run begins with the same folder.
        let _ = std::fs::remove_dir(self.folder.join("below"));
        let here = self.run_of(&[], &format!("./{guest}"), &[mode]);
        let _ = std::fs::remove_dir(self.folder.join("below"));
        assert_eq!(
            (text(&here.stdout), here.status.code()),
            (text(&native.stdout), native.status.code()),
            "{mode}: {}",
            text(&here.stderr)
        );
        assert!(!native.stdout.is_empty(), "it says what it does");
    }

    /// A shell's script, natively and in a VM that sees the host's programs.
    #[track_caller]
    fn script(&self, shell: &str, script: &str) {
        let mut native = Command::new(shell);
        native.args(["-c", script]).current_dir(&self.folder).stdin(Stdio::null());
        let native = native.output().expect("the shell");
        let here = self.run_of(&["--root", "/", "--env", "PATH"], shell, &["-c", script]);
        assert_eq!(
            (text(&here.stdout), here.status.code()),
            (text(&native.stdout), native.status.code()),
            "{script}: {}",
            text(&here.stderr)
        );
    }
}

#[test]
fn each_side_has_its_own_memory_from_the_call_on() {
    skip_without_kvm!();
    let world = World::new();
    for mode in ["plain", "registers", "deep"] {
        world.same_as_native(mode);
    }
}

#[test]
fn mappings_keep_their_rights_and_what_is_done_to_them_later_is_one_sides_alone() {
    skip_without_kvm!();
    World::new().same_as_native("memory");
}

#[test]
fn mask_actions_and_the_alternate_stack_are_inherited_and_pending_signals_and_timers_are_not() {
    skip_without_kvm!();
    World::new().same_as_native("signals");
}

#[test]
fn open_files_share_offsets_and_record_locks_stay_their_owners() {
    skip_without_kvm!();
    World::new().shared_as_natively("files");
}

#[test]
fn only_the_calling_thread_is_in_the_child() {
    skip_without_kvm!();
    World::new().same_as_native("threads");
}

#[test]
fn clone_without_shared_memory_forks() {
    skip_without_kvm!();
    World::new().same_as_native("clones");
}

#[test]
fn what_threads_write_during_a_fork_is_not_lost() {
    skip_without_kvm!();
    World::new().same_as_native("writers");
}

#[test]
fn a_process_with_much_memory_forks_again_and_again() {
    skip_without_kvm!();
    World::new().same_as_native("again");
}

#[test]
fn files_in_memory_have_the_same_names_for_parent_and_child() {
    skip_without_kvm!();
    World::new().shared_as_natively("posix-shared");
}

#[test]
fn locks_semaphores_and_futexes_in_shared_memory_work_across() {
    skip_without_kvm!();
    World::new().shared_as_natively("shared");
}

#[test]
fn descriptors_that_wait_are_inherited() {
    skip_without_kvm!();
    World::new().shared_as_natively("waiting");
}

#[test]
fn signals_of_input_and_output_reach_the_owner_and_nobody_else() {
    skip_without_kvm!();
    let world = World::new();
    world.shared_as_natively("io");
    let refused = text(&world.run_of(&[], "./forks_shared", &["no-io"]).stdout);
    let expected = [
        "group: 0",
        "asked for: EINVAL",
        "owner: 0",
        "signal: 0",
        "asked for: EINVAL",
        "signal: 0",
        "asked for: 0",
        "group: EINVAL",
        "signal: EINVAL",
        "kept: 1",
    ];
    assert_eq!(refused.lines().collect::<Vec<_>>(), expected);
    // A program without other processes cannot be told: its VMM takes no such signal.
    let alone = text(&world.run_of(&["--processes", "1"], "./forks_shared", &["io"]).stdout);
    assert!(alone.starts_with("asked for: EINVAL"), "{alone}");
}

#[test]
fn the_ends_of_a_fifo_wait_for_each_other() {
    skip_without_kvm!();
    World::new().shared_as_natively("fifo");
}

#[test]
fn groups_sessions_and_orphans_are_as_natively() {
    skip_without_kvm!();
    World::new().same_as_native("groups");
}

#[test]
fn no_more_processes_than_the_run_may_have_and_a_fork_bomb_ends_with_the_run() {
    skip_without_kvm!();
    let world = World::new();
    let few = world.run(&["--processes", "5"], &["many"]);
    let expected = "fork: EAGAIN\nmade: 4\nended: 4\nafterwards: 1\n";
    assert_eq!(text(&few.stdout), expected, "{}", text(&few.stderr));
    let bomb = world.run(&["--processes", "8"], &["bomb"]);
    // By its own alarm.
    assert_eq!(bomb.status.code(), Some(128 + libc::SIGALRM), "{}", text(&bomb.stderr));
}

#[test]
fn a_fork_that_there_is_no_memory_for_fails_and_changes_nothing() {
    skip_without_kvm!();
    let world = World::new();
    let run = world.run(&["--memory", "100M"], &["too-much", "40"]);
    let said = (text(&run.stdout), run.status.code());
    assert_eq!(
        said,
        ("fork: ENOMEM\nafterwards: 2\n".to_owned(), Some(0)),
        "{}",
        text(&run.stderr)
    );
}

#[test]
fn all_signals_reach_the_handlers_of_other_processes_and_act_without_one() {
    skip_without_kvm!();
    World::new().same(GUESTS[2], "");
}

#[test]
fn what_parent_and_children_have_in_common_is_charged_once() {
    skip_without_kvm!();
    let world = World::new();
    let run = world.run(&["--memory", "150M"], &["family", "100", "20"]);
    let said = (text(&run.stdout), run.status.code());
    let expected = "children: 20\nwrong: 0\nparent: 1\n".to_owned();
    assert_eq!(said, (expected, Some(0)), "{}", text(&run.stderr));
}

#[test]
fn what_either_of_them_writes_is_charged_to_it() {
    skip_without_kvm!();
    let world = World::new();
    let child = world.run(&["--memory", "150M"], &["child-writes", "100"]);
    let said = (text(&child.stdout), child.status.code());
    let expected = "child ended by: 9\nthe parent's sum: 1\nand as much anew: 3\n".to_owned();
    assert_eq!(said, (expected, Some(0)), "{}", text(&child.stderr));
    let parent = world.run(&["--memory", "150M"], &["parent-writes", "100"]);
    assert_eq!(parent.status.code(), Some(137), "{}", text(&parent.stderr));
    assert!(text(&parent.stderr).contains("needed more than the 150 MiB"));
}

#[test]
fn shells_make_pipelines_subshells_and_jobs() {
    skip_without_kvm!();
    let world = World::new();
    let plain = "echo a b | tr a-z A-Z; x=$(echo in | sed s/in/out/); echo $x; (exit 3); echo $?
        cat <<END | sort -r
        one $x
        two
END
        f() { echo $1; }; f x | cat; for n in 1 2 3; do (echo $n); done | tail -1
        sleep 0.2 & p=$!; wait $p; echo $?; kill -9 $$ | true; echo unreached";
    world.script("/bin/sh", plain);
    let more = "set -o pipefail; false | true; echo $?; cat < <(echo substituted); coproc cat
        echo to >&${COPROC[1]}; read -u ${COPROC[0]} x; echo $x; set -m; sleep 5 & kill %1; wait %1
        echo $?; trap 'echo ends' EXIT; (trap); seq 1 100 | xargs -n 10 -P 4 echo | wc -l
        mapfile -t lines < <(printf '%s\\n' a b c); echo ${#lines[@]}";
    if std::path::Path::new("/bin/bash").exists() {
        world.script("/bin/bash", more);
    }
}

#[test]
fn attached_address_spaces_are_attached_in_the_child_and_it_is_outside_of_them() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a folder");
    let store = dir.path().join("store");
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    command.env_remove("SPACEJMP_LOG").stdin(Stdio::null());
    command.args(["run", "--timeout", &limit, "--store"]).arg(&store).arg(guests::c("vas_forks"));
    let run = command.output().expect("it starts");
    let expected = "members: 0\nhandles: 1234\na local one: 0\ndetached: 0\ninside: 0\n\
        no fork inside: 1\nhome: 0\nthe child is outside: 1\nit enters: 0\nand finds: 15\nthen: 0\n\
        and there: 1\nto read: 0\nit reads: 2\nhome again: 0\nthe free handle: 1\nit ended: 7\n\
        inside again: 0\nthere is: 26\nhome again: 0\nended: 0\nended: 0\nended: 0\nadded: 202\n\
        in whole changes: 81\n";
    assert_eq!(
        (text(&run.stdout).as_str(), run.status.code()),
        (expected, Some(0)),
        "{}",
        text(&run.stderr)
    );
}

#[test]
fn a_working_directory_may_be_deeper_than_a_path_can_be() {
    skip_without_kvm!();
    let world = World::new();
    let program = guests::c("deep_directory");
    let folder = || {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("beside")).expect("a folder");
        dir
    };
    let native = folder();
    let mut command = Command::new(&program);
    let native = command.arg(native.path()).stdin(Stdio::null()).output().expect("it starts");
    assert_eq!(native.status.code(), Some(0), "{native:?}");
    // Alone, and with something else mounted in it, which relative names lead to.
    for mounted in [false, true] {
        let (dir, other) = (folder(), folder());
        let grant = format!("{}:/w", dir.path().display());
        let inner = format!("{}:/w/beside", other.path().display());
        let options = ["--dir", &grant, "--dir", &inner];
        let program = program.to_str().expect("paths of tests are UTF-8");
        let here = world.run_of(&options[..if mounted { 4 } else { 2 }], program, &["/w"]);
        let complaint = text(&here.stderr);
        assert_eq!(text(&here.stdout), text(&native.stdout), "{mounted}: {complaint}");
        assert_eq!(here.status.code(), Some(0), "{complaint}");
    }
}

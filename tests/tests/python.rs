//! The package `python`: what it promises, in VMs, by programs in `python/tests`. They are run by the `python3`
//! of the distribution, whose NumPy one of them uses.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tests::book::{self, Step};
use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

/// Where the distribution's Python is: another one may be first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../python")
}

/// Whether this Python runs `code` without an error.
fn succeeds(code: &str) -> bool {
    let run = Command::new(PYTHON).args(["-c", code]).output();
    run.is_ok_and(|output| output.status.success())
}

fn has_python() -> bool {
    succeeds("import sys; sys.exit(sys.version_info < (3, 11))")
}

macro_rules! skip_without_python {
    () => {
        if !has_python() {
            kvm::skip("python", "there is no Python 3.11 or later in /usr/bin");
            return;
        }
        skip_without_kvm!();
    };
}

/// The package, built, in a folder for `PYTHONPATH`, with the test programs.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<TempDir> = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().expect("a folder");
        let package = folder.path().join("spacejmp");
        fs::create_dir(&package).expect("it is empty");
        for name in ["__init__.py", "_errors.py"] {
            fs::copy(sources().join("spacejmp").join(name), package.join(name))
                .expect("a file of ours");
        }
        for entry in fs::read_dir(sources().join("tests")).expect("a folder of ours") {
            let entry = entry.expect("readable");
            if entry.path().extension().is_some_and(|kind| kind == "py") {
                fs::copy(entry.path(), folder.path().join(entry.file_name()))
                    .expect("a file of ours");
            }
        }
        fs::copy(native(), package.join("_core.abi3.so")).expect("it was just built");
        folder
    };
    PACKAGE.get_or_init(make).path()
}

/// Builds the native half, as `python/build_wheel.py` has it built.
fn native() -> PathBuf {
    let target = guests::target().join("python");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Instead of the workspace's flags, which link statically.
    command.env("RUSTFLAGS", "-C target-feature=-crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.args(["build", "-q", "--locked", "--target-dir"]).arg(&target).current_dir(sources());
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("x86_64-unknown-linux-gnu/debug/lib_core.so")
}

/// `spacejmp run` of a test program, with the store in `store`.
fn in_vm(store: &Path, words: &[&str]) -> Command {
    let limit = pace::limit(Duration::from_secs(240)).as_secs().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command
        .env_remove("SPACEJMP_LOG")
        .args(["run", "--timeout", &limit, "--root", "/", "--store"])
        .arg(store);
    command.arg("--dir").arg(format!("{}:ro", package().display()));
    command.arg("--env").arg(format!("PYTHONPATH={}", package().display()));
    // Nothing is written beside the sources, which the VM sees read-only.
    command.args(["--env", "PYTHONDONTWRITEBYTECODE=1", "--env", "PATH=/usr/bin:/bin"]);
    command.arg(PYTHON).arg("-X").arg("faulthandler").args(words).stdin(Stdio::null());
    command.current_dir(package());
    command
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// What a program prints that has to succeed.
#[track_caller]
fn run(store: &Path, words: &[&str]) -> String {
    let output = in_vm(store, words).output().expect("the command starts");
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn values_of_every_kind_are_there_for_the_next_program_and_containers_are_what_pythons_are() {
    skip_without_python!();
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    run(&store, &["test_values.py", "fill"]);
    assert_eq!(run(&store, &["test_values.py", "look"]), "found all\n");
    run(&store, &["test_values.py"]);
    // The heap is whole, and every block that is not free can be reached.
    let mut check = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    check.args(["seg", "check", "values", "--store"]).arg(&store);
    let output = check.output().expect("the command starts");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("leaks    0 blocks"), "{}", said(&output));
}

/// All that the page of the book shows, but for the installation, which the page on the first hour has, too.
#[test]
fn the_programs_of_the_page_on_python_run_and_print_what_it_shows() {
    skip_without_python!();
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let page = include_str!("../../docs/src/python.md");
    let mut steps = book::steps(page).into_iter();
    let Some(Step::Write { name, text: shelf, .. }) = steps.next() else { panic!("a program") };
    assert_eq!(name, "shelf.py");
    let mut shown = steps.map(|step| match step {
        Step::Run { command, expected, .. } => (command, expected),
        Step::Write { name, .. } => panic!("{name} is run by nobody"),
    });
    assert_eq!(shown.next(), Some(("pip install ./python".to_owned(), vec![])));
    let (command, expected) = shown.next().expect("it is run");
    assert!(command.ends_with("python3 shelf.py"), "{command}");
    assert_eq!(run(&store, &["-c", &shelf]).lines().collect::<Vec<_>>(), expected);
    assert_eq!(shown.next(), Some(("spacejmp vas log shelf".to_owned(), vec![])));
    let mut log = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    let log = log.args(["vas", "log", "shelf", "--store"]).arg(&store).output();
    let log = said(&log.expect("the command starts"));
    assert!(log.contains("two books"), "{log}");
    assert_eq!(shown.next(), None);

    if !succeeds("import numpy") {
        kvm::skip("the page on Python", "there is no NumPy for /usr/bin/python3");
        return;
    }
    let blocks = book::blocks(page);
    let arrays = blocks.iter().filter(|block| block.kind == "python").nth(1).expect("another one");
    let before = "import numpy, spacejmp\nspace = spacejmp.open('arrays')\n\
                  with space.write() as root:\n    root['samples'] = numpy.ones(40)\n";
    let after = "with space.read() as root:\n    print(mean(root))\n";
    let printed = run(&store, &["-c", &format!("{before}{}{after}", arrays.text)]);
    assert_eq!(printed, "1.0\n0.75\n");
}

#[test]
fn no_misuse_ends_the_interpreter() {
    skip_without_python!();
    let folder = tempfile::tempdir().expect("a folder");
    run(&folder.path().join("store"), &["test_misuse.py"]);
}

#[test]
fn a_python_program_that_is_killed_leaves_whole_transactions_and_readers_beside_it_see_only_those()
{
    skip_without_python!();
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    run(&store, &["bank.py", "make"]);
    let mut moves = 0;
    for round in 0..2 {
        let mut moving =
            in_vm(&store, &["bank.py", "move"]).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(moving.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "moving");
        let watch = |()| {
            let mut command = in_vm(&store, &["bank.py", "watch"]);
            command.stdout(Stdio::null()).spawn().expect("it starts")
        };
        let mut readers = [(); 2].map(watch);
        for reader in &mut readers {
            assert!(reader.wait().expect("it is ours").success(), "round {round}");
        }
        moving.kill().expect("it is ours");
        moving.wait().expect("it is ours");
        let sum = run(&store, &["bank.py", "sum"]);
        let words: Vec<&str> = sum.split_whitespace().collect();
        assert_eq!(words[..2], ["20000", "True"], "{sum}");
        let now: u64 = words[2].parse().expect("a number");
        assert!(now > moves, "round {round}: {sum}");
        moves = now;
    }
}

#[test]
fn threads_that_look_at_a_buffer_see_its_version_whatever_other_programs_commit() {
    skip_without_python!();
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    run(&store, &["hold.py", "make"]);
    let mut holding = in_vm(&store, &["hold.py", "hold"]);
    let mut holding =
        holding.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(holding.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "[1000, 1000, 1000, 1000]");
    run(&store, &["hold.py", "change"]);
    holding.stdin.take().expect("a pipe").write_all(b"\n").expect("it reads");
    assert_eq!(line(), "[1000, 1000, 1000, 1000] 5000000");
    assert_eq!(line(), "[2000, 2000, 2000, 2000]");
    assert!(holding.wait().expect("it is ours").success());
}

#[test]
fn numpy_reads_arrays_where_they_lie_with_all_its_threads() {
    skip_without_python!();
    if !succeeds("import numpy") {
        kvm::skip("python", "there is no NumPy for the Python in /usr/bin (package python3-numpy)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(run(&folder.path().join("store"), &["numpy_arrays.py"]), "numbers are right\n");
}

#[test]
fn outside_a_vm_the_package_can_be_imported_and_says_how_to_run_the_program() {
    if !has_python() {
        kvm::skip("python", "there is no Python 3.11 or later in /usr/bin");
        return;
    }
    let code = "import spacejmp\nassert not spacejmp.in_vm()\nspacejmp.open('x')";
    let mut command = Command::new(PYTHON);
    command.args(["-c", code]).env("PYTHONPATH", package()).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let expected = "spacejmp._errors.NotInVMError: this Python does not run in a SpaceJMP VM, which address spaces \
                    need: start it by `spacejmp run --root / --dir . python3 PROGRAM.py`";
    assert!(said(&output).contains(expected), "{}", said(&output));
}

/// There is no free-threaded interpreter to try it with: this one says that it is one.
#[test]
fn an_interpreter_that_has_given_up_the_gil_is_refused_and_one_that_has_it_is_not() {
    if !has_python() {
        kvm::skip("python", "there is no Python 3.11 or later in /usr/bin");
        return;
    }
    let import = |has_gil: &str| {
        let code = format!("import sys\nsys._is_gil_enabled = lambda: {has_gil}\nimport spacejmp");
        let mut command = Command::new(PYTHON);
        command.args(["-c", &code]).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PYTHONPATH", package()).output().expect("Python starts")
    };
    let refused = import("False");
    assert!(!refused.status.success());
    assert!(said(&refused).contains("ImportError: spacejmp needs the GIL"), "{}", said(&refused));
    let taken = import("True");
    assert!(taken.status.success(), "{}", said(&taken));
}

#[test]
fn what_is_no_python_data_is_refused_by_name() {
    skip_without_python!();
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let mut shelf = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    shelf
        .args(["run", "--timeout", "120", "--store"])
        .arg(&store)
        .arg(guests::c_linked("shelf"))
        .arg("make");
    let output = shelf.output().expect("it starts");
    assert!(output.status.success(), "{}", said(&output));
    let code = "import spacejmp\ntry:\n    spacejmp.open('shelf')\nexcept spacejmp.WrongTypeError as e: print(e)";
    let printed = run(&store, &["-c", code]);
    assert!(printed.starts_with("the content of space `shelf` is no Python data"), "{printed}");
}

#[test]
fn programs_that_are_started_use_the_store_that_their_parent_has_made() {
    skip_without_python!();
    let folder = tempfile::tempdir().expect("a folder");
    let code = "import array, subprocess, sys, spacejmp
with spacejmp.open('numbers') as space, space.write() as root:
    root['large'] = array.array('q', [6]) * 4_500_000
child = '''import spacejmp
with spacejmp.open('numbers') as space, space.write() as root: root['sum'] = sum(memoryview(root['large'])[:10])'''
print([subprocess.run([sys.executable, '-c', child]).returncode for _ in range(2)])
with spacejmp.open('numbers') as space, space.read() as root: print(root['sum'])";
    // There is no store when the run begins: it comes while it is watched for.
    assert_eq!(run(&folder.path().join("store"), &["-c", code]), "[0, 0]\n60\n");
}

//! `spacejmp.hpp`: spaces in C++, data that C++ shares with C and Rust, and what must not compile.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::guests::{self, Profile};
use tests::pace;
use tests::skip_without_kvm;
use tests::vm::{Ended, Run};
use vmm::process::Outcome;

macro_rules! skip_without_cxx {
    () => {
        if !guests::has_cxx() {
            eprintln!("skipped: there is no C++ compiler here");
            return;
        }
        skip_without_kvm!();
    };
}

/// Runs `spaces` on this store; it must succeed.
#[track_caller]
fn spaces(store: &Path, args: &[&str]) -> Ended {
    let ended = Run::new(guests::c_linked("spaces")).args(args).store(store).in_vm();
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    ended
}

#[test]
fn spaces_and_visits_do_what_the_header_says() {
    skip_without_cxx!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(spaces(&folder.path().join("store"), &["all"]).out(), "ok\n");
}

#[test]
fn containers_of_a_space_are_in_every_program_what_the_same_changes_make_of_ordinary_ones() {
    skip_without_cxx!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    for steps in ["1", "3", "10", "10", "40"] {
        assert_eq!(spaces(&folder.path().join("store"), &["model", steps]).out(), "equal\n");
    }
}

#[test]
fn a_cxx_program_that_is_killed_leaves_whole_transactions() {
    skip_without_cxx!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = folder.path().join("store");
    for round in 1..=5 {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.args(["run", "--timeout", "120", "--store"]).arg(&store);
        command.arg(guests::c_linked("spaces")).arg("move").stdout(Stdio::piped());
        let mut moving = command.spawn().expect("it starts");
        let mut lines = BufReader::new(moving.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "moving");
        // In the middle of one of many changes, more of them each time.
        std::thread::sleep(pace::limit(std::time::Duration::from_millis(40 * round)));
        moving.kill().expect("it is ours");
        moving.wait().expect("it is ours");
        let sum = spaces(&store, &["sum"]).out();
        assert_eq!(sum, "50000 0\n");
    }
}

#[test]
fn what_c_makes_cxx_reads_and_changes_and_rust_after_it() {
    skip_without_cxx!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let run = |program: PathBuf, args: &[&str]| {
        let ended = Run::new(program).args(args).store(folder.path().join("store")).in_vm();
        assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
        ended.out()
    };
    run(guests::c_linked("shelf"), &["make"]);
    run(guests::c_linked("shelf"), &["add", "Emma", "474"]);
    run(guests::c_linked("shelf-hpp"), &["add", "Ulysses", "730"]);
    run(guests::rust("c_shelf"), &["add", "Dubliners", "152"]);
    let expected = "3 books\nDubliners, 152 pages, like Ulysses\nUlysses, 730 pages, like Emma\n\
                    Emma, 474 pages\n";
    for program in
        [guests::c_linked("shelf"), guests::c_linked("shelf-hpp"), guests::rust("c_shelf")]
    {
        // `c_shelf add` puts no book's like.
        let shown = run(program, &["list"]);
        assert_eq!(shown, expected.replace(", like Ulysses", ""), "{shown}");
    }
    let text = |program: PathBuf| Run::new(program).args(&["text"]).native().out();
    assert_eq!(text(guests::c_linked("shelf-hpp")), text(guests::c_linked("shelf")));
}

#[test]
fn outside_a_vm_a_cxx_program_is_told_so() {
    if !guests::has_cxx() {
        eprintln!("skipped: there is no C++ compiler here");
        return;
    }
    let ended = Run::new(guests::c_linked("spaces")).args(&["sum"]).native();
    assert_eq!(ended.outcome, Outcome::Exited(1));
    let expected = "open space 'bank': not in a VM: start the program with `spacejmp run`";
    assert!(ended.err().contains(expected), "{ended:?}");
}

/// The C++ compilers that are here.
fn compilers() -> Vec<OsString> {
    let own = std::env::var_os("CXX").unwrap_or_else(|| OsString::from("c++"));
    let is_there = |compiler: &OsString| {
        Command::new(compiler).arg("--version").output().is_ok_and(|it| it.status.success())
    };
    let mut found: Vec<OsString> = [own, "clang++".into()].into_iter().filter(is_there).collect();
    found.dedup();
    found
}

/// Whether a compiler takes the program, and what it says.
fn compiles(compiler: &OsString, source: &Path, more: &[&str]) -> (bool, String) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/include");
    let output = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"])
        .args(more)
        .arg("-I")
        .arg(include)
        .arg(source)
        .output()
        .expect("it was there");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_header_compiles_without_warnings_by_every_compiler_and_standard_that_is_here() {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/cxx");
    if compilers().is_empty() {
        eprintln!("skipped: there is no C++ compiler here");
    }
    for compiler in compilers() {
        for (standard, source) in [("-std=c++17", "shelf.cpp"), ("-std=c++20", "spaces.cpp")] {
            let (taken, said) = compiles(&compiler, &guests.join(source), &[standard]);
            assert!(taken, "{compiler:?} {standard}: {said}");
        }
    }
}

#[test]
fn what_cannot_be_stored_or_leave_a_visit_does_not_compile_and_the_reason_is_given() {
    let cases = [
        ("struct root { char *text; }; SJ_FIELDS(root, text)", "use sj::vas_ptr"),
        (
            "struct root { std::string text; }; SJ_FIELDS(root, text)",
            "memory would be the program's own",
        ),
        (
            "struct root { sj::vector<std::string> texts; }; SJ_FIELDS(root, texts)",
            "memory would be the program's own",
        ),
        (
            "struct root { std::pmr::vector<int> numbers; }; SJ_FIELDS(root, numbers)",
            "memory would be the program's own",
        ),
        (
            "struct root { sj::map<int, int, std::function<bool(int, int)>> m; }; SJ_FIELDS(root, m)",
            "comparison or hash with state",
        ),
        ("struct root { virtual ~root() {} int n = 0; }; SJ_FIELDS(root, n)", "covers<"),
        (
            "struct base { virtual ~base() {} }; struct root { sj::unique<base> b; }; SJ_FIELDS(root, b)",
            "virtual functions cannot be stored",
        ),
        (
            "struct part { int n; }; struct root { sj::map<int, part> parts; }; SJ_FIELDS(root, parts)",
            "say what it consists of",
        ),
        ("struct root { std::shared_ptr<int> p; }; SJ_FIELDS(root, p)", "say what it consists of"),
        (
            "struct root { std::string_view text; }; SJ_FIELDS(root, text)",
            "say what it consists of",
        ),
        ("struct root { int a; int b; }; SJ_FIELDS(root, a)", "leaves a field out"),
        ("struct root { int a; int b; }; SJ_FIELDS(root, b, a)", "leaves a field out"),
        (
            "struct root { sj::string text; }; SJ_FIELDS(root, text) COPIED_OUT",
            "cannot return memory",
        ),
        ("struct root { int number; }; SJ_FIELDS(root, number) REFERENCE_OUT", "return a copy"),
        // This one does: the harness can tell.
        ("struct root { sj::string text; int number; }; SJ_FIELDS(root, text, number)", ""),
    ];
    let folder = tempfile::tempdir().expect("a temporary directory");
    if compilers().is_empty() {
        eprintln!("skipped: there is no C++ compiler here");
    }
    for compiler in compilers() {
        let try_case = |index: usize| {
            let (types, reason) = cases[index];
            let (types, result) = match types.rsplit_once(' ') {
                Some((types, "COPIED_OUT")) => {
                    (types, "auto copy = it.read([](const root &r) { return r.text; });")
                }
                Some((types, "REFERENCE_OUT")) => {
                    (types, "it.read([](const root &r) -> const int & { return r.number; });")
                }
                _ => (types, ""),
            };
            let source = format!(
                "#include <spacejmp.hpp>\n#include <functional>\n#include <memory_resource>\n{types}\n\
                 int main() {{ auto it = sj::space<root>::open(\"x\"); {result} }}\n"
            );
            let file = folder.path().join(format!("case{index}.cpp"));
            fs::write(&file, &source).expect("write the source");
            let (taken, said) = compiles(&compiler, &file, &["-std=c++17"]);
            assert_eq!(taken, reason.is_empty(), "{compiler:?}: {source}\n{said}");
            assert!(said.contains(reason), "{compiler:?}: {source}\n{said}");
        };
        std::thread::scope(|scope| {
            scope.spawn(|| (0..cases.len()).step_by(2).for_each(try_case));
            (1..cases.len()).step_by(2).for_each(try_case);
        });
    }
}

//! Projects made by `spacejmp new` build, run in a VM, and pass their own tests; without network,
//! using what building this workspace has downloaded. A project in Rust names a version of the SDK, which
//! cargo is told to find in this workspace.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::skip_without_kvm;

fn spacejmp() -> PathBuf {
    guests::program("spacejmp-cli", "spacejmp", Profile::Dev)
}

/// A folder that stays between runs, so that a project's dependencies are built once.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("cargo has made the folder around it");
    folder
}

fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("..").canonicalize().expect("this package is in the workspace")
}

/// Makes the project `diary` in `folder`, which may hold an older one.
fn new(folder: &Path, options: &[&str]) -> (PathBuf, Value) {
    let path = folder.join("diary");
    if path.exists() {
        fs::remove_dir_all(&path).expect("it is ours");
    }
    let mut command = Command::new(spacejmp());
    command.current_dir(folder).args(["new", "diary", "--json"]).args(options);
    let output = succeed(&mut command);
    (path, serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|err| panic!("cannot run {command:?}: {err}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

/// What the program prints in a VM with a new store.
#[track_caller]
fn in_vm(store: &Path, program: &Path, args: &[&str]) -> String {
    let mut command = Command::new(spacejmp());
    command.args(["run", "--timeout", "120", "--store"]).arg(store).arg(program).args(args);
    String::from_utf8(succeed(&mut command).stdout).expect("text")
}

#[test]
fn a_rust_project_builds_runs_passes_its_test_and_becomes_what_the_tutorial_makes_of_it() {
    skip_without_kvm!();
    let folder = folder("new-rust");
    let (path, made) = new(&folder, &[]);
    let files: Vec<_> = made["files"].as_array().expect("a list").iter().collect();
    assert!(files.contains(&&Value::from("src/main.rs")), "{made}");
    assert_eq!(made["sdk"]["version"], env!("CARGO_PKG_VERSION"), "all packages have one version");
    let registry = checkout().join("guest-sdk");
    let registry =
        format!("patch.crates-io.spacejmp.path = {:?}", registry.to_str().expect("UTF-8"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let target = folder.join("target");
    let command = |args: &[&str]| {
        let mut command = Command::new(&cargo);
        // Without the settings of the tests' own build.
        for (key, _) in std::env::vars_os().filter(|(key, _)| is_setting_of_cargo(key)) {
            command.env_remove(key);
        }
        command.current_dir(&path).env("CARGO_TARGET_DIR", &target).env("SPACEJMP", spacejmp());
        let (cargos, own) =
            args.split_at(args.iter().position(|arg| *arg == "--").unwrap_or(args.len()));
        command.args(cargos).args(["--offline", "--quiet", "--config", &registry]).args(own);
        command
    };
    let run = |args: &[&str]| succeed(&mut command(args));
    let warned = run(&["build"]).stderr;
    assert!(warned.is_empty(), "{}", String::from_utf8_lossy(&warned));
    let program = target.join("x86_64-unknown-linux-gnu/debug/diary");
    let store = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(in_vm(store.path(), &program, &["3", "4", "5"]), "run 1: 3 numbers, sum 12\n");
    assert_eq!(in_vm(store.path(), &program, &["6"]), "run 2: 4 numbers, sum 18\n");
    let mut by_cargo = command(&["run", "--", "7"]);
    let runner = format!("{} run --store {}", spacejmp().display(), store.path().display());
    by_cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    assert_eq!(succeed(&mut by_cargo).stdout, b"run 3: 5 numbers, sum 25\n");
    let tested = run(&["test"]);
    let errors = String::from_utf8_lossy(&tested.stderr);
    assert!(!errors.contains("SKIPPED"), "its test found no VM: {errors}");

    // The tutorial continues with this project.
    let tutorial = include_str!("../../docs/src/tutorial.md");
    let (_, source) = tutorial.split_once("```rust,no_run\n").expect("it has one whole program");
    let (source, _) = source.split_once("```").expect("which ends");
    fs::write(path.join("src/main.rs"), source).expect("written");
    run(&["build"]);
    assert_eq!(in_vm(store.path(), &program, &["add", "to", "be", "or", "not", "to", "be"]), "");
    assert_eq!(in_vm(store.path(), &program, &["count", "be"]), "be: 2\n");
    assert_eq!(in_vm(store.path(), &program, &[]), "4 words\n");
}

/// The variables that cargo sets for the programs it runs, including tests, and a flag
/// that would override the project's.
fn is_setting_of_cargo(key: &std::ffi::OsStr) -> bool {
    let key = key.to_string_lossy();
    key.starts_with("CARGO_PKG_") || key == "CARGO_BUILD_TARGET" || key == "RUSTFLAGS"
}

/// Makes a project with a Makefile, builds it, and lets `used` use the program; then its own test has to pass.
fn by_make(option: &str, flags: &str, used: impl Fn(&Path, &Path)) {
    // Builds the library, in the profile of the other tests.
    guests::c_linked("figure4");
    let folder = folder(&format!("new{option}"));
    let checkout = checkout();
    let checkout = checkout.to_str().expect("UTF-8");
    let (path, made) = new(&folder, &[option, "--sdk", checkout]);
    assert_eq!(made["sdk"]["path"], checkout, "{made}");
    let own = spacejmp();
    let library = own.parent().expect("cargo's folder").join("libspacejmp.a");
    assert!(library.is_file(), "cargo puts both into one folder: {}", library.display());
    let make = |target: &str| {
        let mut command = Command::new("make");
        command.current_dir(&path).arg(target).arg(flags);
        command.arg(format!("LIB={}", own.parent().expect("cargo's folder").display()));
        succeed(command.arg(format!("SPACEJMP={}", own.display())))
    };
    make("diary");
    let store = tempfile::tempdir().expect("a temporary directory");
    used(store.path(), &path.join("diary"));
    let tested = make("test");
    assert!(String::from_utf8_lossy(&tested.stdout).contains("texts stay: ok"), "{tested:?}");
}

#[test]
fn a_c_project_builds_runs_and_passes_its_test() {
    skip_without_kvm!();
    by_make("--c", "CFLAGS=-std=gnu11 -Wall -Wextra -Werror", |store, diary| {
        assert_eq!(in_vm(store, diary, &["one"]), "1 text\none\n");
        assert_eq!(in_vm(store, diary, &["two"]), "2 texts\ntwo\none\n");
    });
}

#[test]
fn a_cxx_project_builds_runs_and_passes_its_test() {
    if !guests::has_cxx() {
        eprintln!("skipped: there is no C++ compiler here");
        return;
    }
    skip_without_kvm!();
    by_make("--cxx", "CXXFLAGS=-std=c++17 -Wall -Wextra -Werror", |store, diary| {
        assert_eq!(in_vm(store, diary, &["one"]), "1 text\n1 x one\n");
        assert_eq!(in_vm(store, diary, &["two", "one"]), "2 texts\n2 x one\n1 x two\n");
    });
}

#[test]
fn a_folder_that_exists_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(folder.path().join("mine")).expect("a folder");
    let mut command = Command::new(spacejmp());
    let output = command.current_dir(&folder).args(["new", "mine"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(125));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("exists already") && error.contains("help:"), "{error}");
    assert_eq!(fs::read_dir(folder.path().join("mine")).expect("a folder").count(), 0);
}

//! The SDK and the C library in dynamic programs: `libspacejmp.so`, and a Rust program that is not
//! linked statically. They share a store with static ones.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("a package of the workspace").to_owned()
}

/// Runs cargo as the page on C says, into a folder of its own: other flags than the workspace's.
fn cargo(words: &[&str]) -> PathBuf {
    let folder = guests::target().join("shared");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Instead of the workspace's flags, which link statically.
    command.env("RUSTFLAGS", "-C link-arg=-Wl,-soname,libspacejmp.so.0");
    command.current_dir(workspace()).args(words).arg("--target-dir").arg(&folder);
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("x86_64-unknown-linux-gnu/debug")
}

/// The C program `shelf`, linked with the library in `dir`, which it finds beside itself.
fn dynamic_shelf(dir: &Path) -> PathBuf {
    let built = cargo(&["rustc", "-q", "-p", "spacejmp-c", "--crate-type", "cdylib"]);
    let library = dir.join("libspacejmp.so.0");
    std::fs::copy(built.join("libspacejmp.so"), &library).expect("it was just built");
    let program = dir.join("shelf");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-I"]);
    command.arg(workspace().join("guest-sdk/include"));
    command.arg(workspace().join("tests/guests/c-linked/shelf.c")).arg(&library);
    command.args(["-Wl,--enable-new-dtags,-rpath,$ORIGIN", "-o"]).arg(&program);
    let output = command.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// What `program` prints in a VM, with the store in `dir`.
#[track_caller]
fn run(dir: &Path, program: &Path, args: &[&str]) -> String {
    let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--timeout", &limit, "--store"]);
    command.arg(dir.join("store")).arg(program).args(args).stdin(Stdio::null());
    let output = command.output().expect("the command starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", program.display());
    String::from_utf8(output.stdout).expect("it prints texts")
}

#[test]
fn dynamic_and_static_programs_in_c_and_rust_keep_a_list_together() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let dir = std::fs::canonicalize(folder.path()).expect("it is there");
    let c = dynamic_shelf(&dir);
    let built = cargo(&["build", "-q", "-p", "guests", "--bin", "c_shelf"]);
    let rust = built.join("c_shelf");
    for program in [&c, &rust] {
        let bytes = std::fs::read(program).expect("it was just built");
        let loader = b"/lib64/ld-linux-x86-64.so.2";
        assert!(bytes.windows(loader.len()).any(|part| part == loader), "it is dynamic");
    }
    run(&dir, &c, &["make"]);
    run(&dir, &c, &["add", "Emma", "474"]);
    run(&dir, &rust, &["add", "Ulysses", "730"]);
    run(&dir, &guests::rust("c_shelf"), &["add", "Persuasion", "249"]);
    run(&dir, &guests::c_linked("shelf"), &["add", "Dubliners", "152"]);
    let all = [&c, &rust, &guests::rust("c_shelf"), &guests::c_linked("shelf")];
    for program in all {
        let listed = run(&dir, program, &["list"]);
        let titles: Vec<&str> =
            listed.lines().map(|line| line.split(',').next().unwrap()).collect();
        let expected = ["4 books", "Dubliners", "Persuasion", "Ulysses", "Emma"];
        assert_eq!(titles, expected, "{listed}");
    }
}

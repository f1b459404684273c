//! Building the programs that tests run: the Rust ones with the cargo that runs the tests,
//! the C ones of `guests/c` with the C compiler. Each is built at most once in a test
//! process; a lock on a file keeps processes apart.
//!
//! Everything here panics when a program cannot be built: a test without its program has
//! failed, it is not skipped.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

/// Names the folder of programs built before.
pub const PREBUILT: &str = "SPACEJMP_GUESTS";
/// Packages whose programs tests run.
const PACKAGES: [&str; 10] = [
    "bank",
    "genome",
    "graph",
    "guests",
    "kv",
    "mkgraph",
    "notebook",
    "spacejmp-bench",
    "spacejmp-cli",
    "wordindex",
];

/// How a C program is linked; always statically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// At a fixed address (`-static -no-pie`).
    Fixed,
    /// Relocatable (`-static-pie`).
    Pie,
}

impl Link {
    fn file_name(self, program: &str) -> String {
        match self {
            Link::Fixed => format!("{program}-fixed"),
            Link::Pie => format!("{program}-pie"),
        }
    }
}

/// With or without optimisation, for the programs of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// `cargo build`.
    Dev,
    /// `cargo build --release`.
    Release,
}

/// The path of the Rust guest program `name` (a file or folder in `guests/src/bin`).
///
/// # Panics
/// If it cannot be built or there is none of that name.
pub fn rust(name: &str) -> PathBuf {
    program("guests", name, Profile::Dev)
}

/// The path of the program `name` of the workspace's package `package`.
///
/// # Panics
/// If it cannot be built or there is none of that name.
pub fn program(package: &str, name: &str, profile: Profile) -> PathBuf {
    if let Some(path) = prebuilt(&package_folder(package).join(name)) {
        assert_eq!(profile, Profile::Dev, "only those are built before");
        return path;
    }
    type Built = HashMap<(String, Profile), HashMap<String, PathBuf>>;
    static BUILT: OnceLock<Mutex<Built>> = OnceLock::new();
    // A failed build poisons the lock: the other tests that need it must fail, too.
    let mut built = BUILT.get_or_init(Mutex::default).lock().expect("an earlier build failed");
    let programs = built
        .entry((package.to_owned(), profile))
        .or_insert_with(|| build_package(package, profile));
    let Some(path) = programs.get(name) else {
        panic!("package {package} has no program {name}, only {:?}", programs.keys());
    };
    path.clone()
}

/// The path of `guests/c/NAME.c` compiled and linked at a fixed address.
///
/// # Panics
/// If there is no such file, no C compiler, or the compiler complains.
pub fn c(name: &str) -> PathBuf {
    c_with(name, Link::Fixed)
}

/// As [`c`], with a choice of linking.
///
/// # Panics
/// As [`c`].
pub fn c_with(name: &str, link: Link) -> PathBuf {
    if let Some(path) = prebuilt(&Path::new("c").join(link.file_name(name))) {
        return path;
    }
    static BUILT: OnceLock<Mutex<HashMap<(String, Link), PathBuf>>> = OnceLock::new();
    let mut built = BUILT.get_or_init(Mutex::default).lock().expect("an earlier build failed");
    let key = (name.to_owned(), link);
    built.entry(key).or_insert_with(|| compile(name, link)).clone()
}

/// C programs that are linked with `libspacejmp.a`, and where they are in the workspace.
const LINKED: [(&str, &str); 8] = [
    ("figure4", "examples/figure4/figure4.c"),
    ("full_disk", "tests/guests/c-linked/full_disk.c"),
    ("heap_calls", "tests/guests/c-linked/heap_calls.c"),
    ("heap_space", "tests/guests/c-linked/heap_space.c"),
    ("shelf", "tests/guests/c-linked/shelf.c"),
    (SHELF_IN_CXX, "tests/guests/c-linked/shelf.c"),
    ("shelf-hpp", "tests/guests/cxx/shelf.cpp"),
    ("spaces", "tests/guests/cxx/spaces.cpp"),
];

/// Whether the C++ compiler builds it.
fn is_cxx(name: &str, source: &Path) -> bool {
    name == SHELF_IN_CXX || source.extension().is_some_and(|extension| extension == "cpp")
}

/// The same program by the C++ compiler.
pub const SHELF_IN_CXX: &str = "shelf-cxx";

/// The path of a C program that is linked with `libspacejmp.a`.
///
/// # Panics
/// If there is none of that name, or it or the library cannot be built.
pub fn c_linked(name: &str) -> PathBuf {
    if let Some(path) = prebuilt(&Path::new("c-linked").join(name)) {
        return path;
    }
    static BUILT: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut built = BUILT.get_or_init(Mutex::default).lock().expect("an earlier build failed");
    built.entry(name.to_owned()).or_insert_with(|| link_c(name)).clone()
}

/// Builds every program and copies it into `folder`, for [`PREBUILT`] to name: `rust/NAME`,
/// `c/NAME-fixed`, `c/NAME-pie`, `c-linked/NAME`, and `PACKAGE/NAME` for the other packages.
/// Returns the paths of the copies.
///
/// # Panics
/// If one cannot be built or copied.
pub fn prebuild(folder: &Path) -> Vec<PathBuf> {
    let mut built = Vec::new();
    for package in PACKAGES {
        for (name, path) in build_package(package, Profile::Dev) {
            built.push((package_folder(package).join(name), path));
        }
    }
    let sources = workspace().join("tests/guests/c");
    let entries = fs::read_dir(&sources)
        .unwrap_or_else(|err| panic!("cannot list {}: {err}", sources.display()));
    for entry in entries {
        let source = entry.expect("a listed folder has entries").path();
        let name = source.file_stem().and_then(|name| name.to_str()).expect("names are ASCII");
        for link in [Link::Fixed, Link::Pie] {
            built.push((Path::new("c").join(link.file_name(name)), compile(name, link)));
        }
    }
    for (name, source) in LINKED {
        if is_cxx(name, Path::new(source)) && !has_cxx() {
            continue;
        }
        built.push((Path::new("c-linked").join(name), link_c(name)));
    }
    let copy = |(name, from): &(PathBuf, PathBuf)| {
        let to = folder.join(name);
        let parent = to.parent().expect("it lies in a folder of its own");
        fs::create_dir_all(parent)
            .and_then(|()| fs::copy(from, &to))
            .unwrap_or_else(|err| panic!("cannot copy {}: {err}", from.display()));
        to
    };
    built.iter().map(copy).collect()
}

/// Copies a program that is going to be executed, its mode with it (`-p`, which all kinds of `cp` have). Another process does it: what this one writes, a
/// process that another test starts in that moment has open for an instant, and what is open for writing is not executed.
///
/// # Panics
/// If it cannot be copied.
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    let status = Command::new("cp").arg("-p").arg(from).arg(to).status();
    let copied = status.is_ok_and(|status| status.success());
    assert!(copied, "cannot copy {} to {}", from.display(), to.display());
}

/// The program `name` of the folder [`PREBUILT`] names, `None` when it names none.
fn prebuilt(name: &Path) -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os(PREBUILT)?).join(name);
    assert!(path.is_file(), "{PREBUILT} names a folder without {}", name.display());
    Some(path)
}

fn package_folder(package: &str) -> PathBuf {
    PathBuf::from(if package == "guests" { "rust" } else { package })
}

fn build_package(package: &str, profile: Profile) -> HashMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args(["build", "--message-format=json-render-diagnostics"]);
    // As the tests themselves are built: the dependencies of one package alone have fewer features, and all of them
    // would be compiled once more.
    command.args(["--workspace", "--exclude", "spacejmp-seg-lock"]);
    for name in programs_of(package) {
        command.args(["--bin", &name]);
    }
    if profile == Profile::Release {
        command.arg("--release");
    }
    // Cargo has its own lock on the target directory.
    let output = run(&mut command);
    let lines = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let path = message.get("executable")?.as_str()?;
        let name = message.get("target")?.get("name")?.as_str()?;
        Some((name.to_owned(), PathBuf::from(path)))
    };
    lines.lines().filter_map(executable).collect()
}

/// The names of a package's programs. No other package has one of the same name.
///
/// # Panics
/// If there is no such package.
#[must_use]
pub fn programs_of(package: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args(["metadata", "--no-deps", "--format-version", "1"]);
    let told: serde_json::Value =
        serde_json::from_slice(&run(&mut command).stdout).expect("cargo writes JSON");
    let packages = told["packages"].as_array().expect("there are packages");
    let known = packages.iter().find(|known| known["name"] == package);
    let targets =
        known.unwrap_or_else(|| panic!("there is no package {package}"))["targets"].as_array();
    let is_program = |target: &&serde_json::Value| target["kind"] == serde_json::json!(["bin"]);
    let programs = targets.expect("it has targets").iter().filter(is_program);
    programs.filter_map(|target| Some(target["name"].as_str()?.to_owned())).collect()
}

fn compile(name: &str, link: Link) -> PathBuf {
    let source = workspace().join("tests/guests/c").join(name).with_extension("c");
    let folder = target().join("guests-c");
    fs::create_dir_all(&folder)
        .unwrap_or_else(|err| panic!("cannot create {}: {err}", folder.display()));
    let lock = File::create(folder.join("lock")).expect("the folder was just created");
    // Held until the end: another process must not run a program that is being written.
    lock.lock().expect("this file system has locks");

    let flags = match link {
        Link::Fixed => ["-static", "-no-pie"],
        Link::Pie => ["-static-pie", "-fPIE"],
    };
    let path = folder.join(link.file_name(name));
    let include = workspace().join("guest-sdk/include");
    let own = workspace().join("tests/guests/include");
    let headers = fs::read_dir(&own).unwrap_or_else(|err| panic!("{}: {err}", own.display()));
    let mut headers = headers.map(|entry| entry.expect("a listed folder has entries").path());
    let is_fresh = is_newer(&path, &source) && is_newer(&path, &include.join("spacejmp.h"));
    if is_fresh && headers.all(|header| is_newer(&path, &header)) {
        return path;
    }
    let fresh = path.with_extension("new");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| OsString::from("cc"));
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g"]).args(flags);
    command.arg("-I").arg(&include);
    command.arg("-o").arg(&fresh).arg(&source).args(["-pthread", "-lm"]);
    run(&mut command);
    // Programs that run keep the old file; a failed compilation leaves none.
    fs::rename(&fresh, &path).expect("both are in the folder that is locked");
    path
}

/// Whether there is a C++ compiler, or a program built by one.
#[must_use]
pub fn has_cxx() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| OsString::from("c++"));
    std::env::var_os(PREBUILT)
        .map(|folder| Path::new(&folder).join("c-linked").join(SHELF_IN_CXX).is_file())
        .unwrap_or_else(|| Command::new(compiler).arg("--version").output().is_ok())
}

fn link_c(name: &str) -> PathBuf {
    let (_, source) = LINKED
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap_or_else(|| panic!("there is no C program {name}"));
    let source = workspace().join(source);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args([
        "build",
        "--message-format=json-render-diagnostics",
        "--package",
        "spacejmp-c",
    ]);
    let output = run(&mut command);
    let lines = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let library = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("filenames")?.get(0)?.as_str().map(PathBuf::from))
        .find(|path| path.ends_with("libspacejmp.a"))
        .expect("cargo says where the library is");
    let folder = target().join("guests-c-linked");
    fs::create_dir_all(&folder)
        .unwrap_or_else(|err| panic!("cannot create {}: {err}", folder.display()));
    let lock = File::create(folder.join("lock")).expect("the folder was just created");
    lock.lock().expect("this file system has locks");
    let path = folder.join(name);
    let include = workspace().join("guest-sdk/include");
    let headers = [include.join("spacejmp"), include.clone()].map(|folder| {
        let entries = fs::read_dir(&folder).unwrap_or_else(|err| panic!("{folder:?}: {err}"));
        entries.map(|entry| entry.expect("a listed folder has entries").path()).collect::<Vec<_>>()
    });
    let mut from = headers.iter().flatten().chain([&source, &library]);
    if from.all(|from| is_newer(&path, from)) {
        return path;
    }
    let fresh = path.with_extension("new");
    let (variable, compiler, language) = if is_cxx(name, &source) {
        ("CXX", "c++", ["-x", "c++", "-std=gnu++17"].as_slice())
    } else {
        ("CC", "cc", ["-std=gnu11"].as_slice())
    };
    let compiler = std::env::var_os(variable).unwrap_or_else(|| OsString::from(compiler));
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Werror", "-O2", "-g", "-static"]).args(language).arg("-I");
    // The library is no source, whatever the language.
    command.arg(&include).arg("-o").arg(&fresh).arg(&source).args(["-x", "none"]).arg(&library);
    run(&mut command);
    fs::rename(&fresh, &path).expect("both are in the folder that is locked");
    path
}

fn is_newer(path: &Path, source: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    let changed =
        time(source).unwrap_or_else(|err| panic!("cannot read {}: {err}", source.display()));
    time(path).is_ok_and(|built| built > changed)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|err| panic!("cannot run {command:?}: {err}"));
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        panic!("{command:?} failed with {}:\n{complaint}", output.status);
    }
    output
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is in the workspace")
}

/// The directory cargo builds into.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

//! `spacejmp new`: a project that builds, runs and has a test.
//!
//! The files are in `cli/templates`, embedded, so the command works wherever it was copied to. The
//! SDK is not embedded: a project names a version of it, an address of git, or, for whoever works on
//! SpaceJMP itself, a checkout.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vmm::error::Remedy;
use vmm::exit_code::ExitCode;

use crate::errors::{self, Failure};

/// Make a project: a small program that keeps its data in an address space, with a test
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp new diary            a Rust project in the new folder `diary`
  spacejmp new diary --cxx      the same in C++, with a Makefile
  spacejmp new diary --c        the same in C
  spacejmp new diary --git https://example.org/spacejmp.git
  spacejmp new diary --sdk ../spacejmp
                                against a checkout: also before the SDK is published

Then `cd diary`; its README.md says how to build, run and test it.")]
pub(crate) struct Args {
    /// The new folder; its last part is the project's name: ASCII letters, digits, `-` and `_`
    path: PathBuf,
    /// In C instead of Rust
    #[arg(long)]
    c: bool,
    /// In C++ instead of Rust
    #[arg(long, conflicts_with = "c")]
    cxx: bool,
    /// Depend on the SDK in a git repository, instead of on its version of this command
    #[arg(long, value_name = "URL", conflicts_with_all = ["c", "cxx", "sdk"])]
    git: Option<String>,
    /// Depend on the SDK in a checkout of SpaceJMP: for who works on both
    ///
    /// Without it a project in C or C++ takes the headers and the library from /usr/local; `make SDK=DIR`
    /// names another folder.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A template: its path and its text. `{{name}}`, `{{sdk}}` and `{{library}}` are replaced.
type Template = (&'static str, &'static str);

const RUST: [Template; 6] = [
    ("Cargo.toml", include_str!("../templates/rust/Cargo.toml.in")),
    (".cargo/config.toml", include_str!("../templates/rust/config.toml")),
    (".gitignore", "/target\n"),
    ("README.md", include_str!("../templates/rust/README.md")),
    ("src/main.rs", include_str!("../templates/rust/main.rs")),
    ("tests/in_a_vm.rs", include_str!("../templates/rust/in_a_vm.rs")),
];

const C: [Template; 5] = [
    ("Makefile", include_str!("../templates/c/Makefile")),
    (".gitignore", "/{{name}}\n/test-store\n"),
    ("README.md", include_str!("../templates/c/README.md")),
    ("main.c", include_str!("../templates/c/main.c")),
    ("test.sh", include_str!("../templates/c/test.sh")),
];

const CXX: [Template; 5] = [
    ("Makefile", include_str!("../templates/cxx/Makefile")),
    (".gitignore", "/{{name}}\n/test-store\n"),
    ("README.md", include_str!("../templates/cxx/README.md")),
    ("main.cpp", include_str!("../templates/cxx/main.cpp")),
    ("test.sh", include_str!("../templates/cxx/test.sh")),
];

/// The language of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    C,
    Cxx,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Language::Rust => "Rust",
            Language::C => "C",
            Language::Cxx => "C++",
        }
    }

    fn templates(self) -> &'static [Template] {
        match self {
            Language::Rust => &RUST,
            Language::C => &C,
            Language::Cxx => &CXX,
        }
    }
}

impl Args {
    fn language(&self) -> Language {
        match (self.c, self.cxx) {
            (true, _) => Language::C,
            (_, true) => Language::Cxx,
            _ => Language::Rust,
        }
    }
}

/// What a project depends on.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Sdk {
    /// This version, from the registry or, for C, installed.
    Version(&'static str),
    /// What is in a git repository.
    Git(String),
    /// A checkout, by its absolute path.
    Path(PathBuf),
}

/// Lines of a Makefile: where the SDK is, and how the library is made, which is not there.
const INSTALLED: [&str; 2] = [
    "\
# SDK is the folder with SpaceJMP's headers and library for C (a release has it as spacejmp-c-VERSION),
# SPACEJMP the command.

SDK = /usr/local
INCLUDE = $(SDK)/include
LIB = $(SDK)/lib",
    "\
$(LIB)/libspacejmp.a:
\t@echo \"there is no $@: make SDK=DIR names the folder that has SpaceJMP's include and lib\" >&2; exit 1",
];
const IN_A_CHECKOUT: [&str; 2] = [
    "\
# SDK is a checkout of SpaceJMP, LIB where libspacejmp.a is in it, SPACEJMP the command.

SDK = {{path}}
INCLUDE = $(SDK)/guest-sdk/include
LIB = $(SDK)/target/x86_64-unknown-linux-gnu/release",
    "\
# Cargo takes the settings of the folder it is started in.
$(LIB)/libspacejmp.a:
\tcd $(SDK) && cargo build --release -p spacejmp-c",
];

impl Sdk {
    fn new(args: &Args) -> Result<Self, NewError> {
        if let Some(git) = &args.git {
            return Ok(Self::Git(git.clone()));
        }
        let Some(asked) = &args.sdk else { return Ok(Self::Version(env!("CARGO_PKG_VERSION"))) };
        let path = fs::canonicalize(asked)
            .map_err(|source| NewError::File { path: asked.clone(), source })?;
        let is_whole = path.join("guest-sdk/Cargo.toml").is_file();
        if is_whole { Ok(Self::Path(path)) } else { Err(NewError::NoSdk(path)) }
    }

    /// As a dependency in Cargo.toml.
    fn for_cargo(&self) -> Result<String, NewError> {
        match self {
            Self::Version(version) => Ok(format!("\"{version}\"")),
            Self::Git(url) => Ok(format!("{{ git = {} }}", for_toml(Path::new(url))?)),
            Self::Path(path) => Ok(format!("{{ path = {} }}", for_toml(&path.join("guest-sdk"))?)),
        }
    }

    /// As lines of a Makefile: at its head, and how the library is made.
    fn for_make(&self) -> Result<[String; 2], NewError> {
        match self {
            Self::Path(path) => {
                let path = for_make(path)?;
                Ok(IN_A_CHECKOUT.map(|lines| lines.replace("{{path}}", &path)))
            }
            Self::Version(_) | Self::Git(_) => Ok(INSTALLED.map(str::to_owned)),
        }
    }
}

/// Names that have another meaning for cargo or the Makefile.
const RESERVED: [&str; 15] = [
    "alloc",
    "build",
    "clean",
    "core",
    "deps",
    "examples",
    "incremental",
    "main",
    "proc_macro",
    "run",
    "spacejmp",
    "std",
    "target",
    "test",
    "test-store",
];

/// Why no project was created.
#[derive(Debug, thiserror::Error)]
enum NewError {
    #[error("`{0}` is not a valid project name: {1}")]
    Name(String, &'static str),
    #[error("{0} exists already")]
    Exists(PathBuf),
    #[error("{0} is not a checkout of SpaceJMP: it has no guest-sdk/Cargo.toml")]
    NoSdk(PathBuf),
    #[error("where the SDK is, {0}, has a character that {1} cannot represent")]
    SdkPath(PathBuf, &'static str),
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
}

impl Remedy for NewError {
    fn remedy(&self) -> Option<String> {
        let text = match self {
            NewError::Name(..) => "take ASCII letters, digits, `-` and `_`, a letter first",
            NewError::Exists(_) => "choose another name; nothing was changed",
            NewError::NoSdk(_) => {
                "name a checkout of SpaceJMP, or leave `--sdk` out: then it is the version of this command"
            }
            NewError::SdkPath(..) => {
                "make a link to it at a plainer path, and name that: `--sdk DIR`"
            }
            NewError::File { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// The project that was created.
#[derive(Debug, Serialize)]
struct Project {
    name: String,
    path: PathBuf,
    language: &'static str,
    sdk: Sdk,
    files: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let doing = format!("make project '{}'", args.path.display());
    let project = make(args).map_err(|error| Failure::with_remedy(doing, error))?;
    errors::output(args.json, &project, |_| project.text())
}

impl Project {
    fn text(&self) -> String {
        let mut text = format!("made {}, a project in {}:\n", self.path.display(), self.language);
        for file in &self.files {
            let _ = writeln!(text, "  {file}");
        }
        let name = &self.name;
        let _ = write!(text, "Next:\n  cd {}\n", self.path.display());
        text += &if self.language != Language::Rust.name() {
            // What is needed before is not there by itself.
            let sdk = if matches!(self.sdk, Sdk::Path(_)) { "" } else { " SDK=/usr/local" };
            format!("  make{sdk}\n  spacejmp run ./{name} hello\n  make{sdk} test\n")
        } else {
            format!(
                "  cargo build\n  spacejmp run target/x86_64-unknown-linux-gnu/debug/{name} 3 4 5\n  \
                 cargo test\n"
            )
        };
        text
    }
}

/// Everything is decided before anything is written.
fn make(args: &Args) -> Result<Project, NewError> {
    let name = project_name(&args.path)?;
    if fs::symlink_metadata(&args.path).is_ok() {
        return Err(NewError::Exists(args.path.clone()));
    }
    let sdk = Sdk::new(args)?;
    let language = args.language();
    let [from, library] = match language {
        Language::Rust => [sdk.for_cargo()?, String::new()],
        Language::C | Language::Cxx => sdk.for_make()?,
    };
    let fill = |text: &str| {
        let text = text.replace("{{sdk}}", &from).replace("{{library}}", &library);
        text.replace("{{name}}", &name)
    };
    let mut files: Vec<(&str, Vec<u8>)> =
        language.templates().iter().map(|(file, text)| (*file, fill(text).into_bytes())).collect();
    if let (Language::Rust, Sdk::Path(checkout)) = (language, &sdk) {
        // The versions that the SDK is tested with, which are also those downloaded for it.
        let lock = checkout.join("Cargo.lock");
        let bytes = fs::read(&lock).map_err(|source| NewError::File { path: lock, source })?;
        files.push(("Cargo.lock", bytes));
    }
    write(&args.path, &files)?;
    Ok(Project {
        name,
        path: args.path.clone(),
        language: language.name(),
        sdk,
        files: files.iter().map(|(file, _)| (*file).to_owned()).collect(),
    })
}

fn project_name(path: &Path) -> Result<String, NewError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let wrong = if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "it does not begin with a letter"
    } else if !name.chars().all(allowed) {
        "it has other characters than letters, digits, `-` and `_`"
    } else if name.len() > 64 {
        "it is longer than 64 characters"
    } else if RESERVED.contains(&name.as_str()) {
        "the build takes it for something else"
    } else {
        return Ok(name);
    };
    Err(NewError::Name(name, wrong))
}

/// A path, or an address, as a TOML string: JSON's escapes are among TOML's.
fn for_toml(path: &Path) -> Result<String, NewError> {
    let wrong = || NewError::SdkPath(path.to_owned(), "Cargo.toml");
    let text = path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(wrong)?;
    serde_json::to_string(text).map_err(|_| wrong())
}

/// A path that `make` and its shell accept unquoted.
fn for_make(path: &Path) -> Result<String, NewError> {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@,".contains(c);
    let text = path.to_str().filter(|text| text.chars().all(plain));
    text.map(str::to_owned).ok_or_else(|| NewError::SdkPath(path.to_owned(), "make"))
}

/// Writes a folder that did not exist. If that fails, what was written is removed again.
fn write(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), NewError> {
    let failed = |path: &Path, source: io::Error| NewError::File { path: path.to_owned(), source };
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
    }
    fs::create_dir(folder).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => NewError::Exists(folder.to_owned()),
        _ => failed(folder, source),
    })?;
    let written = files.iter().try_for_each(|(file, text)| {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
        let open = OpenOptions::new().write(true).create_new(true).open(&path);
        open.and_then(|mut to| to.write_all(text)).map_err(|source| failed(&path, source))
    });
    if written.is_err() {
        // The first error is the one to report; this folder is ours.
        let _ = fs::remove_dir_all(folder);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_cargo_make_and_the_store_take() {
        for good in ["diary", "word-index_2", "some/where/else"] {
            assert!(project_name(Path::new(good)).is_ok(), "{good}");
        }
        for bad in ["", "2fast", "a b", "a/..", "caf\u{e9}", "test", "std", "-x", "a\nb", "a$b"] {
            assert!(project_name(Path::new(bad)).is_err(), "{bad:?}");
        }
        assert!(project_name(Path::new(&"x".repeat(65))).is_err());
    }

    fn args(path: &Path) -> Args {
        Args { path: path.to_owned(), c: false, cxx: false, git: None, sdk: None, json: false }
    }

    /// Something like a checkout, as far as a project refers to one.
    fn checkout(folder: &Path) -> PathBuf {
        let checkout = folder.join("checkout");
        fs::create_dir_all(checkout.join("guest-sdk")).unwrap();
        fs::write(checkout.join("guest-sdk/Cargo.toml"), "").unwrap();
        fs::write(checkout.join("Cargo.lock"), "version = 4\n").unwrap();
        checkout
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = checkout(folder.path());
        for (c, cxx) in [(false, false), (true, false), (false, true)] {
            for sdk in [None, Some(checkout.clone())] {
                let path = folder.path().join(format!("project{c}{cxx}{}", sdk.is_some()));
                let project = make(&Args { c, cxx, sdk, ..args(&path) }).unwrap();
                for file in project.files {
                    let text = fs::read_to_string(path.join(&file)).unwrap();
                    assert!(!text.contains("{{") && !text.contains("}}"), "{file}: {text}");
                }
            }
        }
    }

    #[test]
    fn a_project_names_a_version_an_address_or_a_checkout_and_no_path_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = checkout(folder.path());
        let dependency = |name: &str, more: &dyn Fn(&mut Args)| {
            let path = folder.path().join(name);
            let mut args = args(&path);
            more(&mut args);
            let files = make(&args).unwrap().files;
            let text = fs::read_to_string(path.join("Cargo.toml")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("spacejmp = "));
            (line.unwrap().to_owned(), files.iter().any(|file| file == "Cargo.lock"))
        };
        let version = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");
        assert_eq!(dependency("a", &|_| ()), (version.to_owned(), false));
        let url = "https://example.org/spacejmp.git";
        let git = dependency("b", &|args| args.git = Some(url.to_owned()));
        assert_eq!(git, (format!("{{ git = \"{url}\" }}"), false));
        let sdk = checkout.canonicalize().unwrap().join("guest-sdk");
        let path = dependency("c", &|args| args.sdk = Some(checkout.clone()));
        assert_eq!(path, (format!("{{ path = \"{}\" }}", sdk.display()), true));
    }

    #[test]
    fn what_exists_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine");
        fs::create_dir(&path).unwrap();
        assert!(matches!(make(&args(&path)), Err(NewError::Exists(_))));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
        assert!(matches!(make(&args(&folder.path().join("link"))), Err(NewError::Exists(_))));
    }

    #[test]
    fn a_project_that_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half");
        let twice = [("a", Vec::new()), ("a", Vec::new())];
        assert!(matches!(write(&path, &twice), Err(NewError::File { .. })));
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_without_the_sdk_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("project");
        let asked = Args { sdk: Some(folder.path().to_owned()), ..args(&path) };
        let error = make(&asked).unwrap_err();
        assert!(matches!(error, NewError::NoSdk(_)));
        assert!(error.remedy().unwrap().contains("--sdk") && !path.exists());
    }

    #[test]
    fn paths_that_make_would_misread_are_refused() {
        assert_eq!(for_make(Path::new("/a/b-1.0")).unwrap(), "/a/b-1.0");
        for bad in ["/a b", "/a$b", "/a#b", "/a:b", "/a'b", "/a%b"] {
            assert!(for_make(Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(for_toml(Path::new("/a \"b\"")).unwrap(), r#""/a \"b\"""#);
    }
}

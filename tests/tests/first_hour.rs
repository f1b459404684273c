//! The book's page on the first hour: its files are written and its commands are run, in their order, and print what it says;
//! without network, using what building this workspace has downloaded, but for the part on Python, which needs `pip`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::pages::{self, Step};
use tests::{kvm, skip_without_kvm};

const PAGE: &str = include_str!("../../docs/src/first-hour.md");

/// Where its part on Python begins, which is the last.
const PYTHON: &str = "\n## The same in Python\n";

/// Where the reader is, and with what.
struct Reader {
    folder: PathBuf,
    env: Vec<(&'static str, OsString)>,
}

impl Reader {
    fn shell(&self, command: &str) -> Command {
        let mut shell = pages::shell(&self.folder, command, Duration::from_secs(300));
        // Without the settings of the tests' own build.
        let cargos = |key: &str| {
            key.starts_with("CARGO_PKG_") || ["CARGO_BUILD_TARGET", "RUSTFLAGS"].contains(&key)
        };
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_str().is_some_and(cargos)) {
            shell.env_remove(key);
        }
        shell.envs(self.env.iter().cloned());
        shell
    }

    /// Does what the page says next. Projects of cargo's have `target` in common.
    fn take(&mut self, step: &Step, target: &Path) {
        match step {
            Step::Go(folder) => {
                self.folder = self.folder.join(folder).canonicalize().expect("it is there");
                let (own, is_cargos) =
                    (self.folder.join("target"), self.folder.join("Cargo.toml").exists());
                if is_cargos && !own.exists() {
                    std::os::unix::fs::symlink(target, own).expect("a link");
                }
            }
            Step::Write(name, text) => {
                fs::write(self.folder.join(name), text).expect("it is written");
            }
            Step::Run(command, expected) => pages::run(self.shell(command), command, expected),
        }
    }

    /// Why the package for Python cannot be built here, if so: there is no Python that is new enough and has `venv`, or
    /// nowhere to get maturin from.
    fn lacks_python(&self) -> Option<String> {
        let fetch = "python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
                     && python3 -m venv probe \
                     && probe/bin/pip download --quiet --no-deps --dest probe 'maturin>=1.7,<2'";
        let output = self.shell(fetch).output().expect("a shell starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().last().unwrap_or("python3 is older than 3.11 or missing");
        (!output.status.success()).then(|| last.to_owned())
    }
}

#[test]
fn what_the_page_on_the_first_hour_says_can_be_done_as_it_says() {
    if !guests::has_cxx() {
        eprintln!("skipped: there is no C++ compiler here");
        return;
    }
    skip_without_kvm!();
    // Builds the C library, which C++ is linked with, in the profile of the other tests.
    guests::c_linked("figure4");
    let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let programs = spacejmp.parent().expect("cargo's folder").as_os_str().to_owned();
    let mut path = programs.clone();
    path.push(":");
    path.push(std::env::var_os("PATH").expect("there is one"));
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace");
    let place = tempfile::tempdir().expect("a folder");
    let mut make = OsString::from("LIB=");
    make.push(&programs);
    let mut reader = Reader {
        folder: place.path().to_owned(),
        env: vec![
            ("PATH", path),
            ("SDK", checkout.into()),
            ("SPACEJMP_STORE", place.path().join("store").into()),
            ("CARGO_NET_OFFLINE", "true".into()),
            ("MAKEFLAGS", make),
        ],
    };
    // Stays between runs, so that what the project depends on is built once: the tests of `spacejmp new` have it, too.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-rust/target");
    fs::create_dir_all(&target).expect("cargo has made the folder around it");
    let (first, python) = PAGE.split_once(PYTHON).expect("the page has a part on Python");
    let (first, python) = (pages::steps(first), pages::steps(python));
    assert!(first.len() > 30 && python.len() > 5, "the page has lost its commands");
    first.iter().for_each(|step| reader.take(step, &target));

    reader.folder = place.path().join("python");
    fs::create_dir(&reader.folder).expect("a folder");
    if let Some(reason) = reader.lacks_python() {
        kvm::other_kind_of_host("the first hour in Python", &reason);
        return;
    }
    // As `pip` builds it, but not optimised, into a folder that stays.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("first-hour-python");
    reader.env.extend([
        ("CARGO_NET_OFFLINE", "false".into()),
        ("CARGO_TARGET_DIR", built.into()),
        ("MATURIN_PEP517_ARGS", "--profile dev".into()),
    ]);
    python.iter().for_each(|step| reader.take(step, &target));
}

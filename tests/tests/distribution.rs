//! Programs of a distribution, from a list that is fixed in `programs/list.toml`: each does in a VM what
//! it does natively, standard output and status, or the list says why not. Those that are not installed
//! are skipped, and listed as skipped; `.ci/run` installs them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm, web};
use toml_edit::{DocumentMut, Table};

const SEARCHED: &str = "/usr/bin:/bin:/usr/sbin:/sbin";
/// How many of the list have to do as natively.
const WANTED: usize = 57;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// An entry of the list.
#[derive(Debug, Clone)]
struct Program {
    package: String,
    command: Vec<String>,
    options: String,
    /// What it reads from standard input: a file's name, or a text.
    input: Option<String>,
    text: Option<String>,
    /// What it ends with natively.
    status: i32,
    /// Why it does not do as natively.
    fails: Option<String>,
}

fn list() -> Vec<Program> {
    let text = std::fs::read_to_string(folder().join("list.toml")).expect("the list is there");
    let list: DocumentMut = text.parse().expect("the list is TOML");
    let entries = list["program"].as_array_of_tables().expect("an array of tables");
    entries.iter().map(Program::of).collect()
}

impl Program {
    fn of(entry: &Table) -> Program {
        let known = ["package", "command", "options", "input", "text", "status", "fails"];
        for (key, _) in entry {
            assert!(known.contains(&key), "{key} is no key of the list");
        }
        let text = |key: &str| entry.get(key).map(|item| item.as_str().expect(key).to_owned());
        let command = entry["command"].as_array().expect("a command").iter();
        Program {
            package: text("package").expect("a package"),
            command: command.map(|word| word.as_str().expect("a word").to_owned()).collect(),
            options: text("options").expect("options"),
            input: text("input"),
            text: text("text"),
            status: entry
                .get("status")
                .map_or(0, |item| item.as_integer().expect("a number") as i32),
            fails: text("fails"),
        }
    }

    fn line(&self) -> String {
        let plain = |word: &String| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=@+%{}*".contains(&byte);
            let word = word.replace('\n', "\\n");
            if word.bytes().all(plain) { word } else { format!("'{word}'") }
        };
        let line = self.command.iter().map(plain).collect::<Vec<_>>().join(" ");
        match &self.input {
            Some(input) => format!("{line} < {input}"),
            None => line,
        }
    }

    fn is_installed(&self) -> bool {
        SEARCHED.split(':').any(|dir| Path::new(dir).join(&self.command[0]).exists())
    }

    fn native(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }

    fn in_vm(&self) -> Command {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        let limit = pace::limit(Duration::from_secs(100)).as_secs().to_string();
        command.args(["run", "--no-store", "--timeout", &limit]);
        command.args(self.options.split_whitespace()).args(&self.command);
        command
    }

    /// Its output and status, in a fresh copy of the files at `work`.
    fn ends(&self, mut command: Command, work: &Path, scratch: &Path) -> Ended {
        let _ = std::fs::remove_dir_all(work);
        copy(&folder().join("files"), work);
        let input = match (&self.input, &self.text) {
            (Some(name), _) => Stdio::from(File::open(work.join(name)).expect("a file of ours")),
            (None, Some(text)) => {
                std::fs::write(scratch, text).expect("writable");
                Stdio::from(File::open(scratch).expect("just written"))
            }
            (None, None) => Stdio::null(),
        };
        command.env_clear().env("PATH", SEARCHED).env("HOME", work).env("LANG", "C.UTF-8");
        command.env("TZ", "UTC").env("TERM", "dumb").current_dir(work).stdin(input);
        let output = command.output().expect("the command starts");
        Ended {
            stdout: output.stdout,
            status: output.status.code(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

struct Ended {
    stdout: Vec<u8>,
    status: Option<i32>,
    stderr: String,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("a folder of ours") {
        let entry = entry.expect("a folder of ours");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("an entry of ours").is_dir() {
            true => copy(&entry.path(), &to),
            false => {
                std::fs::copy(entry.path(), &to).expect("a file can be copied");
                // Archives contain it.
                let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
                let file = File::options().append(true).open(to).expect("it is ours");
                file.set_modified(time).expect("it is ours");
            }
        }
    }
}

/// Each fourth program of the list.
fn some(first: usize) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = std::fs::canonicalize(dir.path()).map(|path| (path, dir)).expect("it is there");
    let (work, scratch) = (dir.0.join("work"), dir.0.join("input"));
    let port = web::one_page().to_string();
    let (mut ran, mut missing, mut wrong) = (0, 0, Vec::new());
    for mut program in list().into_iter().skip(first).step_by(4) {
        let line = program.line();
        if !program.is_installed() {
            let reason = format!("package {} is not installed", program.package);
            kvm::other_kind_of_host(&format!("distribution: {line}"), &reason);
            missing += 1;
            continue;
        }
        for word in &mut program.command {
            *word = word.replace("{port}", &port);
        }
        let native = program.ends(program.native(), &work, &scratch);
        let vm = program.ends(program.in_vm(), &work, &scratch);
        // Otherwise both might fail for a reason that says nothing.
        let Ended { status, stderr, .. } = &native;
        assert_eq!(*status, Some(program.status), "natively: {line}\n{stderr}");
        let is_same = (&native.stdout, native.status) == (&vm.stdout, vm.status);
        ran += 1;
        if is_same == program.fails.is_some() {
            let text =
                |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(600).collect::<String>();
            wrong.push(format!(
                "{line}\n--- natively {:?}\n{}\n{}\n--- in a VM {:?}\n{}\n{}\n--- expected to fail: {:?}",
                native.status,
                text(&native.stdout),
                native.stderr,
                vm.status,
                text(&vm.stdout),
                vm.stderr,
                program.fails
            ));
        }
    }
    println!("{ran} programs ran, {missing} are not installed");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn programs_of_a_distribution_do_as_natively_1() {
    skip_without_kvm!();
    some(0);
}

#[test]
fn programs_of_a_distribution_do_as_natively_2() {
    skip_without_kvm!();
    some(1);
}

#[test]
fn programs_of_a_distribution_do_as_natively_3() {
    skip_without_kvm!();
    some(2);
}

#[test]
fn programs_of_a_distribution_do_as_natively_4() {
    skip_without_kvm!();
    some(3);
}

#[test]
fn the_list_is_whole_and_grants_no_more_than_it_may() {
    let list = list();
    assert_eq!(list.len(), 60);
    for program in &list {
        let words: Vec<&str> = program.options.split_whitespace().collect();
        let line = program.line();
        let known = ["--root", "/", "--dir", ".", "--env", "*", "--net"];
        assert!(words.iter().all(|word| known.contains(word)), "{line}: {words:?}");
        let dirs = words.iter().filter(|word| **word == "--dir").count();
        assert!(dirs <= 1, "{line}: {dirs} directories");
        let is_about_network = line.contains("{port}") || line.contains("tasks.py");
        assert!(!words.contains(&"--net") || is_about_network, "{line}");
    }
    let same = list.iter().filter(|program| program.fails.is_none()).count();
    assert!(same >= WANTED, "only {same} do as natively");
}

#[test]
fn the_books_table_is_the_lists() {
    let mut table = "| package | command | options | |\n|---|---|---|---|\n".to_owned();
    for program in list() {
        let escaped = program.line().replace('|', "\\|");
        let options = match program.options.as_str() {
            "" => String::new(),
            options => format!("`{}`", options.replace('*', "'*'")),
        };
        let outcome = match &program.fails {
            None => "as natively".to_owned(),
            Some(why) => format!("not yet: {why}"),
        };
        table += &format!("| {} | `` {escaped} `` | {options} | {outcome} |\n", program.package);
    }
    let book = folder().join("../../docs/src/distribution-programs.md");
    let page = std::fs::read_to_string(book).expect("the page is there");
    assert!(
        page.contains(&table),
        "docs/src/distribution-programs.md has another table than:\n{table}"
    );
}

#[test]
fn ci_installs_what_the_list_needs() {
    let script = std::fs::read_to_string(folder().join("../../.ci/run")).expect("it is there");
    let words: Vec<&str> = script.split_whitespace().collect();
    // Every Debian has these.
    let base = [
        "coreutils",
        "findutils",
        "grep",
        "sed",
        "mawk",
        "diffutils",
        "tar",
        "gzip",
        "dash",
        "bash",
    ];
    for program in list() {
        let package = program.package.as_str();
        assert!(base.contains(&package) || words.contains(&package), "{package}");
    }
}

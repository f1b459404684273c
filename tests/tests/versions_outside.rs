//! Versions from outside, by the command: `seg diff` and `vas diff`, and archives of versioned segments,
//! also while a program writes; and completion of names and tags in a shell.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use abi::objects::SegId;
use serde_json::{Value, json};
use spacejmp_versions::disk::host::HostFolder;
use spacejmp_versions::segment::Limits;
use spacejmp_versions::{Commit, PageIndex, Segment};
use tests::guests::{Profile, program};
use tests::{pace, skip_without_kvm};
use vmm::store::{Name, Store};
use vmm::vas::content::hold_content;

fn command(store: &Path) -> Command {
    let mut command = Command::new(program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").env("SPACEJMP_STORE", store);
    command
}

fn run<S: AsRef<OsStr>>(store: &Path, args: &[S]) -> Output {
    command(store).args(args).output().expect("the command starts")
}

/// What it says if it ends with `status` and no error.
#[track_caller]
fn says<S: AsRef<OsStr>>(store: &Path, args: &[S], status: i32) -> String {
    let output = run(store, args);
    assert!(output.status.code() == Some(status) && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn json_of(store: &Path, args: &[&str], status: i32) -> Value {
    let args: Vec<_> = args.iter().chain(&["--json"]).collect();
    serde_json::from_str(&says(store, &args, status)).expect("JSON")
}

#[track_caller]
fn error_of(store: &Path, args: &[&str]) -> String {
    let output = run(store, args);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn sid(store: &Store, text: &str) -> SegId {
    store.find_segment(&Name::new(text.as_bytes()).expect("a name")).expect("it is there")
}

/// Makes a version with these pages, each full of a byte.
fn commit(path: &Path, text: &str, pages: &[(u64, u8)]) {
    let store = Store::open(path).expect("a store");
    let file = store.open_segment(sid(&store, text)).expect("it opens");
    let folder = HostFolder::from_fd(file.versions_folder().expect("a folder"));
    let mut content = Segment::open(folder, Limits::default()).expect("it opens");
    let facts = content.next_facts();
    let filled: Vec<_> = pages.iter().map(|(at, byte)| (PageIndex(*at), [*byte; 4096])).collect();
    let pages = filled.iter().map(|(at, page)| (*at, page)).collect();
    content.append(&Commit { facts, pages }).expect("appended");
    content.sync().expect("synced");
}

/// A VAS `books` with the versioned segment `ledger`, which has three versions, and a raw one.
fn books(path: &Path) -> String {
    for args in [
        &["seg", "create", "ledger", "--size", "1M", "--lifetime", "versioned"][..],
        &["seg", "create", "scratch", "--size", "1M", "--lifetime", "persistent"],
        &["vas", "create", "books"],
        &["vas", "attach", "books", "ledger"],
        &["vas", "attach", "books", "scratch"],
    ] {
        says(path, args, 0);
    }
    commit(path, "ledger", &[(0, 1), (1, 1)]);
    commit(path, "ledger", &[(1, 2), (2, 2), (9, 2)]);
    let base = json_of(path, &["seg", "show", "ledger"], 0)["base"].as_str().map(str::to_owned);
    base.expect("an address")
}

#[test]
fn diff_shows_the_addresses_that_differ_and_says_by_its_status_whether_any_do() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = &folder.path().join("store");
    let base = books(path);
    let base = u64::from_str_radix(base.trim_start_matches("0x"), 16).expect("an address");
    let expected = format!(
        "ledger@1 and ledger@2: differ in 3 pages (12 KiB), in 2 runs\n  \
         {:#x}-{:#x}  8 KiB\n  {:#x}-{:#x}  4 KiB\n",
        base + 0x1000,
        base + 0x3000,
        base + 0x9000,
        base + 0xa000
    );
    // The newest by default, and the one before it.
    for args in [&["ledger"][..], &["ledger@1"], &["ledger@1", "ledger"], &["ledger@1", "@2"]] {
        assert_eq!(says(path, &[&["seg", "diff"], args].concat(), 1), expected, "{args:?}");
    }
    let same = says(path, &["seg", "diff", "ledger", "@2"], 0);
    assert_eq!(same, "ledger@2 and ledger@2: no page differs\n");
    let found = json_of(path, &["seg", "diff", "ledger@0", "@1"], 1);
    assert_eq!(
        (&found["differ"], &found["pages"], &found["bytes"]),
        (&json!(true), &json!(2), &json!(8192))
    );
    assert_eq!(found["compared_pages"], 2);
    let range = json!({"address": format!("{base:#x}"), "offset_bytes": 0, "len_bytes": 8192});
    assert_eq!(found["ranges"], json!([range]));
    assert_eq!((&found["from"]["version"], &found["to"]["name"]), (&json!(0), &json!("ledger")));
    let found = json_of(path, &["seg", "diff", "ledger", "scratch"], 1);
    assert_eq!((&found["pages"], &found["to"]["version"]), (&json!(4), &Value::Null));
    // Many runs are cut short, unless they are asked for.
    commit(path, "ledger", &(0..60).map(|at| (2 * at, 9)).collect::<Vec<_>>());
    let short = says(path, &["seg", "diff", "ledger"], 1);
    assert!(short.ends_with("  and 40 more, which --all lists\n"), "{short}");
    assert_eq!(says(path, &["seg", "diff", "--all", "ledger"], 1).lines().count(), 61);
    for (args, why) in [
        (&["ledger@77"][..], "has no version 77"),
        (&["ledger@nothing"], "has no tag 'nothing'"),
        (&["scratch@1"], "is not versioned"),
        (&["scratch"], "versioned"),
        (&["ledger", "@nothing"], "has no tag 'nothing'"),
        (&["none"], "no segment 'none'"),
    ] {
        let error = error_of(path, &[&["seg", "diff"], args].concat());
        assert!(error.contains(why), "{args:?}: {error}");
    }
}

#[test]
fn tags_and_vases_are_compared_segment_by_segment() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = &folder.path().join("store");
    books(path);
    // The raw segment is left out, and that is said.
    assert!(run(path, &["vas", "tag", "books", "monday"]).status.success());
    let same = json_of(path, &["vas", "diff", "books@monday"], 0);
    assert_eq!(
        (&same["differ"], &same["segments"][0]["compared_pages"]),
        (&json!(false), &json!(0))
    );
    commit(path, "ledger", &[(5, 5)]);
    let now = json_of(path, &["vas", "diff", "books@monday"], 1);
    assert_eq!(now["segments"].as_array().map(Vec::len), Some(1), "raw ones have no versions");
    assert_eq!((&now["segments"][0]["pages"], &now["only_to"]), (&json!(1), &json!([])));
    let says_so = says(path, &["vas", "diff", "books", "@monday"], 1);
    assert!(says_so.starts_with("ledger@3 and ledger@books@monday: differ in 1 page"), "{says_so}");
    assert_eq!(json_of(path, &["vas", "diff", "books@2"], 1)["segments"][0]["pages"], 1);
    assert_eq!(json_of(path, &["vas", "diff", "books"], 1)["segments"][0]["pages"], 1);
    assert_eq!(json_of(path, &["vas", "diff", "books@2", "@monday"], 0)["differ"], false);
    assert_eq!(json_of(path, &["seg", "diff", "ledger@books@monday"], 1)["pages"], 1);
    // Copies are at the same addresses, whatever their names; the raw one is compared, too.
    assert!(run(path, &["vas", "clone", "books", "trial"]).status.success());
    let copies = json_of(path, &["vas", "diff", "books", "trial"], 0);
    assert_eq!(copies["segments"].as_array().map(Vec::len), Some(2));
    says(path, &["vas", "detach", "trial", "trial.scratch"], 0);
    let lacking = says(path, &["vas", "diff", "books", "trial"], 1);
    assert!(lacking.ends_with("scratch: only in the first\n"), "{lacking}");
    let error = error_of(path, &["vas", "diff", "books@77"]);
    assert!(error.contains("has no version 77"), "{error}");
}

#[test]
fn an_archive_of_any_version_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = &folder.path().join("store");
    let other = &folder.path().join("other");
    books(path);
    says(path, &["vas", "detach", "books", "scratch"], 0);
    says(path, &["vas", "tag", "books", "monday"], 0);
    commit(path, "ledger", &[(5, 5)]);
    let file = |text: &str| folder.path().join(text).to_str().expect("ASCII").to_owned();
    for (what, archive) in [("books", "now"), ("books@monday", "tag"), ("books@1", "old")] {
        says(path, &["vas", "export", what, &file(archive)], 0);
    }
    for (archive, same_as, differs) in
        [("now", "books", "books@2"), ("tag", "books@monday", "books"), ("old", "books@1", "books")]
    {
        says(path, &["vas", "import", &file(archive), "--as", archive, "--json"], 0);
        says(path, &["vas", "diff", same_as, archive], 0);
        says(path, &["vas", "diff", differs, archive], 1);
        let shown = json_of(path, &["seg", "show", &format!("{archive}.ledger")], 0);
        assert_eq!((&shown["lifetime"], &shown["version"]), (&json!("versioned"), &json!(0)));
    }
    // Where nothing has its name, it has its own.
    says(other, &["vas", "import", &file("tag"), "--json"], 0);
    assert_eq!(json_of(other, &["vas", "show", "books"], 0)["segments"][0]["name"], "ledger");
    let error = error_of(path, &["vas", "export", "books@77", &file("none")]);
    assert!(error.contains("has no version 77"), "{error}");
    assert!(!Path::new(&file("none")).exists(), "nothing is left of it");
    for store in [path, other] {
        assert_eq!(json_of(store, &["store", "check"], 0)["findings"], json!([]));
    }
    let whole = fs::read(file("now")).expect("there");
    fs::write(file("cut"), &whole[..whole.len() / 2]).expect("written");
    let error = error_of(path, &["vas", "import", &file("cut"), "--as", "cut"]);
    assert!(error.contains("ends in the middle"), "{error}");
    assert!(error_of(path, &["vas", "show", "cut"]).contains("no VAS 'cut'"));
}

#[test]
fn one_versioned_segment_is_exported_while_it_is_written_and_several_at_one_moment() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = &folder.path().join("store");
    let file = |text: &str| folder.path().join(text).to_str().expect("ASCII").to_owned();
    books(path);
    says(path, &["vas", "detach", "books", "scratch"], 0);
    says(path, &["seg", "create", "index", "--size", "1M", "--lifetime", "versioned"], 0);
    says(path, &["vas", "create", "both"], 0);
    says(path, &["vas", "attach", "both", "ledger"], 0);
    says(path, &["vas", "attach", "both", "index"], 0);
    let store = Store::open(path).expect("a store");
    let ledger = store.open_segment(sid(&store, "ledger")).expect("it opens");
    // As a program that is in the middle of a change.
    let inside = hold_content(&store, [&ledger], None, None, &|| false).expect("the lock");
    says(path, &["vas", "export", "books", &file("one")], 0);
    says(path, &["seg", "diff", "ledger"], 1);
    let waiting = ["vas", "export", "both", &file("two"), "--timeout", "0.1"];
    let error = error_of(path, &waiting);
    assert!(error.contains("ledger") && error.contains("lock"), "{error}");
    assert!(!Path::new(&file("two")).exists());
    let error = error_of(path, &["vas", "diff", "both", "both", "--timeout", "0.1"]);
    assert!(error.contains("ledger"), "{error}");
    drop(inside);
    says(path, &waiting, 0);
    // The lock was given back as it was.
    let again = hold_content(&store, [&ledger], None, Some(Duration::ZERO), &|| false);
    again.expect("it is free");
}

/// A program that writes, killed at the end.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_export_beside_a_writer_has_the_right_sum_every_time_and_stops_nobody() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = &folder.path().join("store");
    let timeout = pace::limit(Duration::from_secs(300)).as_secs().to_string();
    let bank = program("bank", "bank", Profile::Dev);
    let run_bank = |args: &[&str]| {
        let mut command = command(path);
        command.args(["run", "--log", "error", "--timeout", &timeout]).arg(&bank).args(args);
        command
    };
    let sum = |vas: &str| {
        let ended = run_bank(&["sum", "--vas", vas]).output().expect("the command starts");
        assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
        String::from_utf8(ended.stdout).expect("text")
    };
    let opened = run_bank(&["open", "100", "1000"]).status();
    assert!(opened.expect("the command starts").success());
    let newest = || json_of(path, &["seg", "log", "bank"], 0)["versions"][0]["number"].as_u64();
    let first = newest();
    let mut writer =
        Writer(run_bank(&["move", "100000000"]).stdout(Stdio::null()).spawn().expect("it starts"));
    // Not before it writes.
    while newest() == first {
        assert!(writer.0.try_wait().expect("it can be asked").is_none(), "it has ended");
    }
    let archive = |at: u32| folder.path().join(at.to_string()).to_str().expect("ASCII").to_owned();
    let count = pace::times(12).max(4);
    let mut seen = Vec::new();
    for at in 0..count {
        says(path, &["vas", "export", "bank", &archive(at)], 0);
        seen.push(newest());
    }
    assert!(writer.0.try_wait().expect("it can be asked").is_none(), "it has ended");
    seen.dedup();
    assert!(seen.len() > 1, "it went on: {seen:?}");
    drop(writer);
    let mut moves = Vec::new();
    for at in 0..count {
        let name = format!("copy{at}");
        says(path, &["vas", "import", &archive(at), "--as", &name, "--json"], 0);
        let said = sum(&name);
        assert!(said.starts_with("sum 100000 in 1 visits"), "{at}: {said}");
        moves.push(said);
    }
    moves.dedup();
    assert!(moves.len() > 1, "different versions: {moves:?}");
    assert_eq!(json_of(path, &["store", "check"], 0)["sound"], true);
}

/// What bash offers at the end of a command line, with the words behind `spacejmp`.
fn bash_offers(store: &Path, line: &str) -> Vec<String> {
    let program = program("spacejmp-cli", "spacejmp", Profile::Dev);
    let script = r#"
        source <("$0" completions bash)
        COMP_WORDBREAKS=$' \t\n"\'@><=;|&(:' COMP_LINE="$0 $1" COMP_TYPE=9
        COMP_POINT=${#COMP_LINE}
        read -ra COMP_WORDS <<< "$COMP_LINE"
        [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        [[ $(complete -p spacejmp) =~ -F\ ([^ ]+) ]]
        "${BASH_REMATCH[1]}" "$0" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", script]).arg(program).arg(line).env("SPACEJMP_STORE", store);
    let output = command.output().expect("bash starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_shell_completes_names_and_tags_and_evaluates_none_of_them() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = &folder.path().join("store");
    books(path);
    says(path, &["vas", "create", "boots"], 0);
    let odd = format!("$(touch {})", folder.path().join("gone").display()).replace('/', "%");
    says(path, &["seg", "create", &odd, "--size", "4K"], 0);
    says(path, &["seg", "tag", "ledger", "monday"], 0);
    says(path, &["seg", "tag", "ledger", "may"], 0);
    for (line, expected) in [
        ("vas show bo", &["books", "boots"][..]),
        ("vas show boo", &["books", "boots"]),
        ("vas show book", &["books"]),
        ("seg show l", &["ledger", "ledger@may", "ledger@monday"]),
        ("seg show ledger@mo", &["monday"]),
        ("seg untag ledger ", &["may", "monday"]),
        ("seg rollback ledger ma", &["may"]),
        ("vas attach books sc", &["scratch"]),
        ("vas attach bo", &["books", "boots"]),
        ("run --vas book", &["books"]),
        ("seg diff ledger @", &["may", "monday"]),
    ] {
        assert_eq!(bash_offers(path, line), expected, "{line}");
    }
    let quoted = bash_offers(path, "seg show $");
    assert!(matches!(&quoted[..], [one] if one.starts_with("\\$\\(touch\\ ")), "{quoted:?}");
    assert!(!folder.path().join("gone").exists());
    // Where no name belongs, it is what it was.
    assert!(bash_offers(path, "seg cre").contains(&"create".to_owned()));
    assert!(bash_offers(path, "seg show --j").contains(&"--json".to_owned()));
    let none = folder.path().join("none");
    assert_eq!(says(&none, &["__complete", "--", "vas", "show", ""], 0), "");
    assert!(!none.exists(), "it makes no store");
}

//! The commands that the book, README and the pages of the folders for users show: each is run, page by page and in the page's order, by one shell in a folder of
//! its own with a store of its own; what the page shows as printed is compared, and so are exit statuses.
//!
//! What a test cannot do, each page's table says, with the reason, and what is done instead: [`table`]. Pages that are run by tests of
//! their own are [`ELSEWHERE`]. That no page is forgotten, and no entry of a table is left of what a page no longer says, is tested, too.
//!
//! A page's `cargo build --release` is a build without optimisation here, which the other tests need anyway, and `cargo run --release`
//! runs what it has built. What a page tells gdb is passed to it by `-ex`. Projects are made for this checkout's SDK, whatever the page says, as no version is published.

mod table;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use tests::book::{self, Step, Task};
use tests::guests::{self, Profile};
use tests::{kvm, skip_without_kvm};

/// Pages that other tests run, and which.
const ELSEWHERE: [(&str, &str); 3] = [
    ("docs/src/first-hour.md", "first_hour.rs"),
    ("docs/src/backup.md", "backup.rs"),
    ("docs/src/python.md", "python.rs"),
];

/// What a test has to know about a page.
struct Page {
    /// In the repository.
    name: &'static str,
    /// In seconds, for all of it.
    limit: u64,
    /// Programs of the host, without which the page is skipped.
    needs: &'static [&'static str],
    /// Commands that need one more, without which they are skipped.
    commands_need: &'static [(&'static str, &'static str)],
    /// Packages of this workspace whose programs are in the folder, too.
    programs: &'static [&'static str],
    /// What its reader has beforehand: a script that makes it.
    before: &'static str,
    /// A VM's name on it, of which there can be one at a time for a user.
    vm: &'static str,
    /// Commands that are not run, and why.
    left_out: &'static [(&'static str, &'static str)],
    /// Commands for which another script is run, and why. `{}` is the command.
    instead: &'static [(&'static str, &'static str, &'static str)],
    /// Commands whose exit status is not 0.
    ends: &'static [(&'static str, i32)],
}

impl Page {
    /// Most pages.
    const OF: Page = Page {
        name: "",
        limit: 300,
        needs: &[],
        commands_need: &[],
        programs: &[],
        before: "",
        vm: "",
        left_out: &[],
        instead: &[],
        ends: &[],
    };

    fn steps(&self) -> Vec<Step> {
        let path = checkout().join(self.name);
        let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path:?}: {err}"));
        book::steps(&text)
    }

    /// What is left out of it or done otherwise, or ends otherwise, but is not there.
    fn stale(&self) -> Vec<&'static str> {
        let steps = self.steps();
        let shown: Vec<_> = steps.iter().filter_map(command).collect();
        let listed = self.left_out.iter().map(|it| it.0);
        let listed = listed.chain(self.instead.iter().map(|it| it.0));
        let listed = listed.chain(self.ends.iter().map(|it| it.0));
        let listed = listed.chain(self.commands_need.iter().map(|it| it.0));
        listed.filter(|command| !shown.contains(command)).collect()
    }
}

fn command(step: &Step) -> Option<&str> {
    match step {
        Step::Run { command, .. } => Some(book::bare(command)),
        Step::Write { .. } => None,
    }
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace")
}

/// Where a page's reader is: a folder that looks like a checkout in which everything was built.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place { folder };
        fs::create_dir_all(place.built()).expect("a folder");
        fs::create_dir(place.folder.path().join("bin")).expect("a folder");
        let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
        symlink(spacejmp, place.folder.path().join("bin/spacejmp")).expect("a link");
        for name in ["Cargo.toml", "examples", "guest-sdk", "python", "resources"] {
            symlink(checkout().join(name), place.here().join(name)).expect("a link");
        }
        place
    }

    fn here(&self) -> PathBuf {
        self.folder.path().join("here")
    }

    fn built(&self) -> PathBuf {
        self.here().join("target/x86_64-unknown-linux-gnu/release")
    }

    /// As `cargo build --release -p PACKAGE` would leave it.
    fn build(&self, package: &str) {
        if package == "spacejmp-c" {
            guests::c_linked("figure4");
            let library = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
            self.link(&library.with_file_name("libspacejmp.a"));
            return;
        }
        for name in guests::programs_of(package) {
            self.link(&guests::program(package, &name, Profile::Dev));
        }
    }

    fn link(&self, file: &Path) {
        let place = self.built().join(file.file_name().expect("it has a name"));
        if !place.exists() {
            symlink(file, place).expect("a link");
        }
    }

    /// What a shell is to do for a command of a page.
    fn script(&self, command: &str) -> String {
        let release = command.strip_prefix("cargo build --release");
        if let Some(packages) = release.and_then(|it| it.trim().strip_prefix("-p ")) {
            packages.split(" -p ").for_each(|package| self.build(package.trim()));
            return "true".to_owned();
        }
        if let Some(args) = command.strip_prefix("cargo run --release -- ") {
            return format!("spacejmp {args}");
        }
        let run = command.strip_prefix("cargo run --release -p ");
        if let Some((package, args)) = run.and_then(|it| it.split_once(" -- ")) {
            self.build(package);
            return format!("target/x86_64-unknown-linux-gnu/release/{package} {args}");
        }
        let Some((before, new)) = command.split_once("spacejmp new ") else {
            return command.to_owned();
        };
        let (new, after) = new.find(" && ").map_or((new, ""), |at| new.split_at(at));
        let (name, options) = new.split_once(' ').unwrap_or((new, ""));
        let options = options.replace("--sdk .", "");
        // They share what they depend on.
        format!(
            "{before}spacejmp new {name} {options} --sdk \"$SDK\" && ln -s \"$TARGETS\" {name}/target{after}"
        )
    }
}

/// Whether the host lacks a program that something needs; if so, it is reported as skipped.
fn is_missing(program: &str, what: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\" > /dev/null", program]).status();
    let is_missing = !found.expect("a shell starts").success();
    if is_missing {
        kvm::other_kind_of_host(what, &format!("{program} is not installed"));
    }
    is_missing
}

/// Does what `page` says.
fn follow(page: &Page) {
    if page.needs.iter().any(|program| is_missing(program, page.name)) {
        return;
    }
    let place = Place::new();
    for package in page.programs {
        for name in guests::programs_of(package) {
            let program = guests::program(package, &name, Profile::Dev);
            guests::copy_program(program, place.here().join(name));
        }
    }
    let stem = Path::new(page.name).file_stem().expect("a page has a name").display();
    let own_name = format!("{}-{}-{stem}", page.vm, std::process::id());
    let renamed = |text: &str| match page.vm {
        "" => text.to_owned(),
        vm => text.replace(vm, &own_name),
    };
    let task =
        |what: String, script: String| Task { what, script, expected: Vec::new(), status: 0 };
    let before = format!("set -e\ncd here\n{}\nset +e", renamed(page.before));
    let mut tasks = vec![task(format!("{}: what its reader has", page.name), before)];
    let mut makes_projects = page.before.contains("spacejmp new ");
    for step in page.steps() {
        match step {
            Step::Write { line, name, text } => {
                assert!(!text.contains("\nEND\n"), "{}:{line}", page.name);
                let script =
                    format!("mkdir -p \"$(dirname {name})\"; cat > {name} <<'END'\n{text}END");
                tasks.push(task(format!("{}:{line}: {name}", page.name), script));
            }
            Step::Run { line, command, expected } if command.starts_with("(gdb) ") => {
                let (_, input) = command.split_once(' ').expect("it begins so");
                let instead = page.instead.iter().find(|it| it.0 == command);
                let input =
                    instead.map_or_else(|| format!("'{input}'"), |it| format!("\"{}\"", it.2));
                let task = tasks.last_mut().expect("gdb was started");
                if !task.script.contains(" -batch") {
                    task.script.push_str(if task.script.contains("spacejmp gdb") {
                        " -- -batch"
                    } else {
                        " -batch"
                    });
                }
                task.script.push_str(&format!(" -ex {input}"));
                task.expected.extend(expected);
                task.what.push_str(&format!(", {line}: {input}"));
            }
            Step::Run { line, command, expected } => {
                let bare = book::bare(&command);
                if page.left_out.iter().any(|it| it.0 == bare) {
                    continue;
                }
                let need = page.commands_need.iter().find(|it| it.0 == bare);
                if need.is_some_and(|it| is_missing(it.1, &format!("{}: {bare}", page.name))) {
                    continue;
                }
                makes_projects |= bare.contains("spacejmp new ");
                let instead = page.instead.iter().find(|it| it.0 == bare);
                let script = place.script(&renamed(bare));
                let script =
                    instead.map_or(script.clone(), |it| renamed(it.2).replace("{}", &script));
                let status = page.ends.iter().find(|it| it.0 == bare).map_or(0, |it| it.1);
                let expected = expected.iter().map(|line| renamed(line)).collect();
                let what = format!("{}:{line}: {command}", page.name);
                tasks.push(Task { what, script, expected, status });
            }
        }
    }
    let root = place.folder.path();
    let path = format!(
        "{}:{}",
        root.join("bin").display(),
        std::env::var("PATH").expect("there is one, in UTF-8")
    );
    let store = root.join("store");
    let targets = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-rust/target");
    // Where the test of the shared library builds it, too.
    let shared = guests::target().join("shared");
    fs::create_dir_all(&targets).expect("cargo has made the folder around it");
    let env = [
        ("PATH", Path::new(&path)),
        ("SPACEJMP_STORE", &store),
        ("SDK", checkout()),
        ("TARGETS", &targets),
        ("SHARED", &shared),
        ("CARGO_NET_OFFLINE", Path::new("true")),
        ("CARGO_TERM_QUIET", Path::new("true")),
    ];
    // One after the other, as they have one name and one place.
    static PROJECTS: Mutex<()> = Mutex::new(());
    let _alone = makes_projects.then(|| PROJECTS.lock().unwrap_or_else(|one| one.into_inner()));
    book::run(root, &env, Duration::from_secs(page.limit), &tasks);
}

/// A test for each page, and the list of all.
macro_rules! pages {
    ($($test:ident: $page:ident,)*) => {
        const PAGES: &[&Page] = &[$(&table::$page),*];
        $(
            #[test]
            fn $test() {
                skip_without_kvm!();
                follow(&table::$page);
            }
        )*
    };
}

pages! {
    what_readme_says_can_be_done: README,
    what_the_page_on_the_examples_says_can_be_done: EXAMPLES,
    what_the_sdk_s_own_page_says_can_be_done: SDK,
    what_the_python_package_s_own_page_says_can_be_done: PYTHON,
    what_the_page_on_getting_started_says_can_be_done: GETTING_STARTED,
    what_the_page_on_tutorial_says_can_be_done: TUTORIAL,
    what_the_page_on_versioned_segments_says_can_be_done: VERSIONED,
    what_the_page_on_looking_at_vms_says_can_be_done: OBSERVING,
    what_the_page_on_snapshots_says_can_be_done: SNAPSHOTS,
    what_the_page_on_debugging_says_can_be_done: DEBUGGING,
    what_the_page_on_running_programs_says_can_be_done: RUNNING_PROGRAMS,
    what_the_page_on_running_what_you_have_says_can_be_done: RUNNING_WHAT_YOU_HAVE,
    what_the_page_on_the_network_says_can_be_done: NETWORK,
    what_the_page_on_commands_for_the_store_says_can_be_done: STORE_COMMANDS,
    what_the_page_on_changing_types_says_can_be_done: CHANGING_TYPES,
    what_the_page_on_kv_says_can_be_done: KV,
    what_the_page_on_genome_says_can_be_done: GENOME,
    what_the_page_on_c_says_can_be_done: C,
    what_the_page_on_cxx_says_can_be_done: CXX,
    what_the_page_on_profiles_says_can_be_done: PROFILES,
    what_the_page_on_porting_says_can_be_done: PORTING,
    what_the_page_on_doctor_says_can_be_done: DOCTOR,
    what_the_page_on_benchmarks_says_can_be_done: BENCHMARKS,
    what_the_page_on_deployment_says_can_be_done: DEPLOYMENT,
    what_the_page_on_hosts_says_can_be_done: HOSTS,
    what_the_page_on_suites_says_can_be_done: SUITES,
    what_the_page_on_teaching_says_can_be_done: TEACHING,
    what_the_page_on_planted_defects_says_can_be_done: PLANTED_DEFECTS,
}

fn pages_in(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("a folder of ours");
    for path in entries.map(|entry| entry.expect("readable").path()) {
        if path.is_dir() {
            pages_in(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "md") {
            found.push(path);
        }
    }
}

#[test]
fn every_page_that_shows_commands_is_run() {
    let own = ["README.md", "examples/README.md", "guest-sdk/README.md", "python/README.md"];
    let mut pages = Vec::from(own.map(|name| checkout().join(name)));
    pages_in(&checkout().join("docs/src"), &mut pages);
    assert!(pages.len() > 50, "the book has lost its pages");
    let mut forgotten = Vec::new();
    for path in pages {
        let text = fs::read_to_string(&path).expect("a page of ours");
        let name = path.strip_prefix(checkout()).expect("it is in there").to_str().expect("ASCII");
        let is_known = PAGES.iter().any(|page| page.name == name)
            || ELSEWHERE.iter().any(|(page, _)| *page == name);
        let shows = book::blocks(&text).iter().any(|block| block.kind == "console");
        if shows && !is_known {
            forgotten.push(name.to_owned());
        }
    }
    assert!(forgotten.is_empty(), "no test runs {forgotten:?}");
    for (page, test) in ELSEWHERE {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(test);
        let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path:?}: {err}"));
        assert!(text.contains(&format!("include_str!(\"../../{page}\")")), "{test}: {page}");
    }
}

#[test]
fn tables_name_only_what_pages_say_and_reasons_for_it() {
    for page in PAGES {
        assert_eq!(page.stale(), [""; 0], "{} does not say that", page.name);
        let reasons = page.left_out.iter().map(|it| it.1).chain(page.instead.iter().map(|it| it.1));
        for reason in reasons {
            assert!(reason.len() > 10, "{}: {reason:?} is no reason", page.name);
        }
    }
    let mut names: Vec<_> = PAGES.iter().map(|page| page.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), PAGES.len(), "a page is there twice");
}

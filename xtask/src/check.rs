//! `cargo xtask check`: what CI runs, as jobs that a contributor can run one by one. A job
//! that cannot do its work fails; nothing is skipped.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::crashtest::{self, CrashtestArgs};
use crate::suites::Part;
use crate::workspace::{TARGET, Workspace, files, read, succeed};
use crate::{dist, layers, packages, peers, processor_time, ratchet, results, suites, versions};

/// One job: its name on the command line, what it checks, the function that does it.
struct Job {
    name: &'static str,
    about: &'static str,
    run: fn(&Workspace) -> Result<()>,
}

const fn job(name: &'static str, about: &'static str, run: fn(&Workspace) -> Result<()>) -> Job {
    Job { name, about, run }
}

const JOBS: &[Job] = &[
    job("fmt", "all source is formatted", fmt),
    job("clippy", "no lint complains in the workspace", clippy),
    job("clippy-guest-kernel", "no lint complains in the guest kernel", clippy_guest_kernel),
    job("clippy-python", "no lint complains in the package for Python", clippy_python),
    job("unsafe", "`unsafe` is where it may be, no more of it", ratchet::check),
    job("layers", "imports follow the layers in xtask/layers.txt", layers::check),
    job("one-version", "each rust-vmm crate is there once", versions::check),
    job("crates", "the command compiles the recorded number of crates", packages::count),
    job(
        "packages",
        "what is for others builds as packages, outside of the checkout",
        packages::check,
    ),
    job("install", "the command installs from its packages, offline", packages::install_quickly),
    job("docs", "the documentation of all crates has no broken link", docs),
    job("test", "all tests pass on this computer's KVM", test),
    job("crashes", "what kills and power cuts leave of versioned segments is whole", crashes),
    job("asan", "the SDK's tests, hostile ones among them, under AddressSanitizer", asan),
    job("release", "the optimised build runs, demo and benchmark", release),
    job(
        "machines",
        "the end-to-end tests pass on an emulated machine, a selection on three others",
        machines,
    ),
];

/// Jobs that take too long for every change; only run when named.
const ON_REQUEST: &[Job] = &[
    job("machines-e2e", "the whole end-to-end suite passes on those three, too", machines_e2e),
    job("install-release", "the same, as it is installed by users", packages::install),
    job("dist", "the files of a release can be made, and used elsewhere", dist::check),
    job("peers", "what `bench store` compares with builds and passes its tests", peers::check),
];

/// What a job took. Where it took less of the processors than it could, they waited for something.
struct Took {
    time: Duration,
    processors: Duration,
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (time, processors) = (self.time.as_secs_f64(), self.processors.as_secs_f64());
        write!(f, "{time:>7.1} s, {processors:>7.1} s of processors")
    }
}

/// Prints the jobs, one per line. Always succeeds.
pub(crate) fn list() -> bool {
    for job in JOBS {
        println!("{:<20} {}", job.name, job.about);
    }
    for job in ON_REQUEST {
        println!("{:<20} {} (only when named)", job.name, job.about);
    }
    true
}

/// Runs the jobs `named`, or all, each whether or not others fail. Returns whether all have
/// passed; prints which have failed and why.
///
/// # Errors
/// When there is no job of that name; then nothing has been run.
pub(crate) fn run(workspace: &Workspace, named: &[String]) -> Result<bool> {
    let jobs = select(named)?;
    let mut results: Vec<(&Job, Took, Result<()>)> = Vec::new();
    for job in jobs {
        println!("== {}: {}", job.name, job.about);
        let (begin, before) = (Instant::now(), processor_time::so_far());
        let result = (job.run)(workspace);
        let processors = Duration::from_millis(processor_time::so_far() - before);
        let took = Took { time: begin.elapsed(), processors };
        if let Err(error) = &result {
            println!("{}: {error:#}", job.name);
        }
        println!("== {} took {took}", job.name);
        results.push((job, took, result));
    }
    println!();
    for (job, took, result) in &results {
        let verdict = if result.is_ok() { "PASS" } else { "FAIL" };
        println!("{verdict} {:<20} {took}", job.name);
    }
    // Once more, at the end: what is printed between is thousands of lines.
    for (job, _, result) in &results {
        let Err(error) = result else { continue };
        let text = format!("{error:#}");
        let last = text.lines().count().saturating_sub(REASON_LINES);
        text.lines().skip(last).for_each(|line| println!("{}: {line}", job.name));
    }
    let failed = results.iter().filter(|(.., result)| result.is_err()).count();
    // No job is ever skipped, but readers of this line expect the number.
    println!("{} passed, {failed} failed, 0 skipped", results.len() - failed);
    Ok(results.iter().all(|(.., result)| result.is_ok()))
}

/// Lines of the reason of a failure that are repeated at the end.
const REASON_LINES: usize = 12;

fn select(named: &[String]) -> Result<Vec<&'static Job>> {
    if named.is_empty() {
        return Ok(JOBS.iter().collect());
    }
    let all = || JOBS.iter().chain(ON_REQUEST);
    let find = |name: &String| match all().find(|job| job.name == name) {
        Some(job) => Ok(job),
        None => {
            let names: Vec<_> = all().map(|job| job.name).collect();
            bail!("there is no job {name}; there are {}", names.join(", "))
        }
    };
    named.iter().map(find).collect()
}

/// All workspaces: the guest kernel, the fuzz targets and the benchmark's peers are separate ones.
fn fmt(workspace: &Workspace) -> Result<()> {
    let mut manifests = Vec::new();
    for path in files(workspace.root())? {
        if path.file_name().is_some_and(|name| name == "Cargo.toml")
            && read(&path)?.lines().any(|line| line == "[workspace]")
        {
            manifests.push(path);
        }
    }
    ensure!(!manifests.is_empty(), "no Cargo.toml has a [workspace]");
    manifests.sort();
    // Each runs even if another fails, so that the complete list is shown.
    let results: Vec<_> = manifests
        .iter()
        .map(|path| {
            let mut cargo = workspace.cargo(&["fmt", "--check", "--manifest-path"]);
            cargo.arg(path);
            // With `--all`, cargo would follow paths into the neighbouring workspace.
            if path.parent() == Some(workspace.root()) {
                cargo.arg("--all");
            }
            succeed(&mut cargo)
        })
        .collect();
    results.into_iter().collect()
}

/// Wrong or ambiguous links and invalid markup make rustdoc warn.
fn docs(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
    cargo.env("RUSTDOCFLAGS", "--deny warnings");
    succeed(&mut cargo)
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo(&["clippy", "--quiet", "--workspace", "--all-targets"]);
    cargo.args(["--features", "spacejmp/chrono,spacejmp/jiff,spacejmp/uuid"]);
    succeed(cargo.args(["--", "--deny", "warnings"]))
}

/// The guest kernel compiles only with its own flags; `vmm/build.rs` reads the same file.
fn clippy_guest_kernel(workspace: &Workspace) -> Result<()> {
    let kernel = workspace.root().join("guest-kernel");
    let flags = read(&kernel.join("flags"))?.replace("{dir}", &kernel.display().to_string());
    let mut cargo = workspace.cargo(&["clippy", "--quiet", "--release", "--target", TARGET]);
    cargo.args(["--manifest-path", "guest-kernel/Cargo.toml"]);
    cargo.args(["--target-dir", "target/guest-kernel-clippy", "--", "--deny", "warnings"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.lines().collect::<Vec<_>>().join("\x1f"));
    succeed(&mut cargo)
}

/// The package for Python is a workspace of its own, and no static library as others here.
fn clippy_python(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo(&["clippy", "--quiet", "--locked", "--all-targets"]);
    cargo.args(["--manifest-path", "python/Cargo.toml", "--target-dir", "target/python"]);
    cargo.args(["--", "--deny", "warnings"]);
    cargo.env("RUSTFLAGS", "-C target-feature=-crt-static");
    succeed(&mut cargo)
}

/// The size of the file that users copy to other machines and start often. A start maps it, and reads
/// what it uses.
const BINARY_MAX_BYTES: u64 = 10 << 20;

/// What users run: tests use the other profile, and would miss what goes wrong only when
/// optimised and linked as a whole.
fn release(workspace: &Workspace) -> Result<()> {
    workspace.build_bench()?;
    let binary = workspace.spacejmp();
    let bytes = fs::metadata(&binary)?.len();
    ensure!(
        bytes <= BINARY_MAX_BYTES,
        "{} has {bytes} bytes: the limit is 10 MiB",
        binary.display()
    );
    let results = workspace.target().join("bench-quick");
    let dir = results.to_string_lossy();
    // Not by `cargo run`, which takes another selection of packages, and compiles all of them again.
    let run = |arguments: &[&str]| {
        succeed(Command::new(&binary).args(arguments).current_dir(workspace.root()))
    };
    run(&["doctor"])?;
    run(&["demo"])?;
    run(&["bench", "all", "--quick", "--out", &dir])?;
    // Counts do not depend on sizes, so a quick run can be compared with the committed one. `test`
    // compares the cost of each path (resources/counts.toml); this is the whole program.
    let kind = results::kind(&results.join("results.json"))?;
    let committed = results::committed(workspace, &kind);
    if committed.exists() {
        return run(&["bench", "compare", "--counts", &committed.to_string_lossy(), &dir]);
    }
    println!("no run of a host of kind {kind} is committed: counts were not compared");
    Ok(())
}

/// The packages that are tested together: all but the one whose tests need `loom`, and with it
/// other features of `tracing-subscriber`. With those, `spacejmp-vmm` would differ from the one that the
/// tests build to run, and be compiled twice.
pub(crate) const TOGETHER: [&str; 3] = ["--workspace", "--exclude", "spacejmp-seg-lock"];

fn test(workspace: &Workspace) -> Result<()> {
    succeed(workspace.cargo(&["test"]).args(TOGETHER))?;
    succeed(&mut workspace.cargo(&["test", "--package", "spacejmp-seg-lock"]))
}

/// A small part of each campaign on real VMs; the simulated disk is a unit test, and the long ones are for
/// `cargo xtask crashtest`. Without the rights to mount, or without a tool, one says that it was skipped.
fn crashes(workspace: &Workspace) -> Result<()> {
    let few = CrashtestArgs {
        states: 0,
        workload: None,
        kills: 8,
        cuts: 8,
        blocklog: 16,
        seed: 0,
        record: false,
        json: false,
    };
    crashtest::run(workspace, few)
}

/// Use after free, out-of-bounds accesses and double frees in the SDK, whose spaces over plain
/// memory use blocks of the process. The pinned toolchain has the sanitizer, but calls its flag
/// unstable. With `--target`, build scripts and macros are built without it: they could not be
/// loaded. With all features, whose conversions are tested here and nowhere else: that would be one more build of the SDK.
/// Not optimised, as users' programs are at first and unlike in the job `test`: what the SDK knows of how the compiler writes values
/// has to be true both ways.
fn asan(workspace: &Workspace) -> Result<()> {
    let target = workspace.target().join("asan");
    let mut cargo =
        workspace.cargo(&["test", "--quiet", "--package", "spacejmp", "--all-features"]);
    cargo.args(["--lib", "--test", "hostile", "--test", "scope", "--test", "attacks"]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(target);
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", "-Zsanitizer=address");
    // Leaks by design are not findings.
    cargo.env("ASAN_OPTIONS", "detect_leaks=0");
    succeed(&mut cargo)
}

fn machines(workspace: &Workspace) -> Result<()> {
    suites::run_all(workspace, Part::Always)
}

fn machines_e2e(workspace: &Workspace) -> Result<()> {
    suites::run_all(workspace, Part::OnRequest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_jobs_are_run_unless_some_are_named() {
        let names = |jobs: Vec<&Job>| jobs.iter().map(|job| job.name).collect::<Vec<_>>();
        assert_eq!(select(&[]).map(|jobs| jobs.len()).ok(), Some(JOBS.len()));
        let named = ["test", "fmt"].map(str::to_owned);
        assert_eq!(names(select(&named).expect("both exist")), ["test", "fmt"]);
    }

    #[test]
    fn a_job_that_does_not_exist_is_an_error_that_names_the_others() {
        let error = select(&["tset".to_owned()]).err().expect("no such job").to_string();
        assert!(error.contains("tset") && error.contains("clippy"), "{error}");
    }
}

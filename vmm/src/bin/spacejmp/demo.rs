//! `spacejmp demo`: a tour that explains itself while it runs.
//!
//! Everything it needs is inside this binary: the program it runs and the texts it reads.
//! Each step does something real and shows the result; if a step fails, so does the demo.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vmm::exit_code::ExitCode;
use vmm::files::{Grant, GrantAccess, Tty, take_over_umask};
use vmm::host;
use vmm::process::{Outcome, Process, RunConfig, Supervise};
use vmm::stats::StatsReport;
use vmm::vas::VasGrants;

use crate::errors::{self, Failure};
use crate::start_error::start_failure;

/// A guided tour: run a real program in a VM and see what happens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  spacejmp demo")]
pub(crate) struct Args {}

include!(concat!(env!("OUT_DIR"), "/texts.rs"));

/// The example `wordindex`, an ordinary static executable built by `build.rs`.
static WORDINDEX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wordindex"));

/// The demo's queries to `wordindex`.
const QUERIES: &str = "segment\naddress space\nkernel fault\n:top 5\n:stats\n:quit\n";
/// Where the program sees the texts.
const GUEST_DIR: &str = "/book";
const MEMORY_BYTES: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A folder with the program, its texts and what it prints; removed when dropped.
struct Unpacked(PathBuf);

impl Unpacked {
    fn new() -> io::Result<Unpacked> {
        let dir = std::env::temp_dir().join(format!("spacejmp-demo-{}", std::process::id()));
        // Not `create_dir_all`: an existing directory belongs to another user and must not be used.
        fs::create_dir(&dir)?;
        let unpacked = Unpacked(dir);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o755);
        options.open(unpacked.path("wordindex"))?.write_all(WORDINDEX)?;
        fs::create_dir(unpacked.path("book"))?;
        for (name, text) in TEXTS {
            fs::write(unpacked.path("book").join(name), text)?;
        }
        Ok(unpacked)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Errors of the demo itself.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("the program failed: {0:?}")]
    Ended(Outcome),
    #[error("the program printed one thing in the VM and another natively")]
    Differs,
    #[error("the program failed natively: {0}")]
    Native(std::process::ExitStatus),
}

fn cannot_show(error: impl std::error::Error + 'static) -> Failure {
    Failure::new("show the demo", error)
}

pub(crate) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    let mut say = |text: &str| errors::write_all(&mut out, text.as_bytes());
    say("spacejmp demo: an ordinary program in a virtual machine of its own\n\n")?;
    say("1. This machine\n")?;
    let report = host::probe();
    say(&format!("   {}\n\n", host::summary(&report)))?;

    say("2. The program\n")?;
    let programs = Unpacked::new().map_err(|error| Failure::new("unpack the demo", error))?;
    let bytes: usize = TEXTS.iter().map(|(_, text)| text.len()).sum();
    say(&format!(
        "   wordindex is plain Rust: std, threads, channels, files. It is a static Linux\n   \
         executable and knows nothing of VMs. It will read our own documentation,\n   \
         {} files of {} KiB in all, with two threads, and answer a few questions.\n\n",
        TEXTS.len(),
        bytes / 1024
    ))?;

    say(&format!(
        "3. In the VM\n   One process, one VM; one thread, one virtual processor. There is no guest\n   \
         operating system: the program's system calls are served by this process, and of\n   \
         the host's files it sees one directory, read-only, as {GUEST_DIR}.\n\n"
    ))?;
    let began = Instant::now();
    let (answers, stats) = in_vm(&programs)?;
    let wall = began.elapsed();
    for line in answers.lines() {
        say(&format!("   | {line}\n"))?;
    }
    say("\n")?;

    say("4. What it took\n")?;
    say(&figures(&stats, wall))?;

    say("5. The same program, natively\n")?;
    if natively(&programs)? != answers {
        return Err(cannot_show(DemoError::Differs));
    }
    say("   The same bytes came out.\n\n")?;
    say("Next: `spacejmp run ./your-program` (static; see `spacejmp help run`),\n      \
         `spacejmp doctor` for this machine, `spacejmp bench run --quick` for figures.\n")
}

fn in_vm(programs: &Unpacked) -> Result<(String, StatsReport), Failure> {
    let file = |name: &str| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).open(programs.path(name))
    };
    let mut input = file("queries").map_err(cannot_show)?;
    input.write_all(QUERIES.as_bytes()).map_err(cannot_show)?;
    input.rewind().map_err(cannot_show)?;
    let mut output = file("answers").map_err(cannot_show)?;
    let program = programs.path("wordindex");
    let config = RunConfig {
        program: program.clone(),
        args: ["--threads", "2", GUEST_DIR].map(|arg| arg.as_bytes().to_vec()).to_vec(),
        env: Vec::new(),
        memory_bytes: MEMORY_BYTES,
        grants: vec![Grant {
            host: programs.path("book"),
            guest: GUEST_DIR.into(),
            access: GrantAccess::ReadOnly,
        }],
        cwd: None,
        store: None,
        vases: VasGrants::All,
        tty: Tty::Withheld,
        umask: take_over_umask(),
        stdio: [
            OwnedFd::from(input),
            OwnedFd::from(output.try_clone().map_err(cannot_show)?),
            OwnedFd::from(file("complaints").map_err(cannot_show)?),
        ],
        inherited: Vec::new(),
    };
    let process = Process::start(config).map_err(|error| start_failure(&program, error))?;
    let options = Supervise { timeout: Some(LIMIT), signals: None };
    match process.run_to_end(options) {
        Outcome::Exited(0) => {}
        other => return Err(cannot_show(DemoError::Ended(other))),
    }
    let stats = process.stats.snapshot();
    output.rewind().map_err(cannot_show)?;
    let mut answers = String::new();
    output.read_to_string(&mut answers).map_err(cannot_show)?;
    Ok((answers, stats))
}

fn natively(programs: &Unpacked) -> Result<String, Failure> {
    // Absolute names appear in the answers: run it where the texts have the same name.
    let output = Command::new(programs.path("wordindex"))
        .args(["--threads", "2"])
        .arg(programs.path("book"))
        .stdin(File::open(programs.path("queries")).map_err(cannot_show)?)
        .stderr(Stdio::null())
        .output()
        .map_err(cannot_show)?;
    if !output.status.success() {
        return Err(cannot_show(DemoError::Native(output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.replace(&*programs.path("book").to_string_lossy(), GUEST_DIR))
}

fn figures(stats: &StatsReport, wall: Duration) -> String {
    let ms = |ns: u64| ns as f64 / 1e6;
    let exits: u64 = stats.exits.iter().map(|exit| exit.count).sum();
    let calls: u64 = stats.calls.iter().map(|call| call.count).sum();
    let phases = &stats.phases;
    format!(
        "   {:6.2} ms  to make the VM and its first processor\n   \
         {:6.2} ms  to map the program\n   \
         {:6.2} ms  running, on {} threads ({} at once)\n   \
         {:6.2} ms  in all; {calls} system calls, {exits} exits from the guest\n\n",
        ms(phases.machine_ns + phases.vcpu_ns),
        ms(phases.load_ns),
        ms(phases.run_ns),
        stats.threads_started,
        stats.threads_peak,
        wall.as_secs_f64() * 1e3,
    )
}

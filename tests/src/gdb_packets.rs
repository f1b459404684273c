//! gdb's protocol, spoken by a test: an emulated machine has no gdb. With a run of `watched.c` to debug.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::guests::{self, Profile};
use crate::pace;

fn spacejmp(words: &[&str]) -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Whether this host has breakpoints and watchpoints of the processor, as `spacejmp doctor` says.
///
/// # Panics
/// If it does not say.
pub fn has_processor_points() -> bool {
    let output = spacejmp(&["doctor", "--json"]).stdin(Stdio::null()).output().expect("it starts");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["kvm"]["debug_registers"].as_bool().expect("it was tried")
}

/// A connection to what gdb talks to. Whoever is at the other end of it goes when it does.
pub struct Gdb {
    pipe: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Gdb {
    fn attach(vm: u32) -> Gdb {
        let mut pipe = spacejmp(&["gdb", "--pipe", &vm.to_string()]).spawn().expect("it starts");
        let to = pipe.stdin.take().expect("a pipe");
        let from = pipe.stdout.take().expect("a pipe");
        Gdb { pipe, to, from }
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.from.read_exact(&mut byte).expect("it is there");
        byte[0]
    }

    /// What it answers to a packet.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn ask(&mut self, packet: &str) -> String {
        let sum = packet.bytes().fold(0_u8, |sum, byte| sum.wrapping_add(byte));
        write!(self.to, "${packet}#{sum:02x}").expect("it reads");
        while self.byte() != b'$' {}
        let mut answer = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                byte => answer.push(byte),
            }
        }
        // The sum, which a pipe does not change.
        self.byte();
        self.byte();
        // Whoever is told that the debugger leaves need not wait for that.
        let _ = self.to.write_all(b"+");
        String::from_utf8(answer).expect("text")
    }

    /// Asks for something that is to be done.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn have(&mut self, packet: &str) {
        assert_eq!(self.ask(packet), "OK", "{packet}");
    }

    /// Lets the program go on until it stops for `reason`, as in a packet that tells of a stop.
    ///
    /// # Panics
    /// If it stops for another one.
    #[track_caller]
    pub fn goes_on_to(&mut self, reason: &str) {
        let told = self.ask("vCont;c");
        let mut names = told.strip_prefix("T05").unwrap_or_default().split(';');
        assert!(names.any(|name| name == reason), "{told}, not {reason}");
    }

    /// A word of the program's memory.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn word(&mut self, at: u64) -> u64 {
        from_hex(&self.ask(&format!("m{at:x},8")))
    }

    /// Where the thread is that was told of last.
    ///
    /// # Panics
    /// If it does not say.
    #[track_caller]
    pub fn rip(&mut self) -> u64 {
        from_hex(&self.ask("p10"))
    }
}

/// A little-endian number.
fn from_hex(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).expect("a number").swap_bytes()
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.pipe.kill();
        let _ = self.pipe.wait();
    }
}

/// A run of `watched.c`, which waits for a byte; its end takes it along if a test fails.
pub struct Watched {
    vmm: Child,
    /// It prints something at its end, too.
    out: BufReader<ChildStdout>,
    folder: TempDir,
    /// Of what it writes.
    pub at: u64,
    /// Of a function that it calls once, after it has waited.
    pub begins: u64,
}

impl Watched {
    /// Begins one, with so much between two uses.
    ///
    /// # Panics
    /// If that does not work.
    #[must_use]
    pub fn start(how: &str, between: u64) -> Watched {
        let folder = tempfile::tempdir().expect("a folder");
        let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
        let stats = Watched::stats(&folder);
        let to = stats.to_str().expect("a path");
        let options = ["run", "--no-store", "--timeout", &limit, "--stats=json", "--stats-to", to];
        let mut run = spacejmp(&options);
        run.arg(guests::c("watched")).args([how, &between.to_string()]);
        let mut vmm = run.spawn().expect("it starts");
        let out = BufReader::new(vmm.stdout.take().expect("a pipe"));
        let mut watched = Watched { vmm, out, folder, at: 0, begins: 0 };
        let mut line = String::new();
        watched.out.read_line(&mut line).expect("a line");
        let numbers = line.split_whitespace().map(|digits| u64::from_str_radix(digits, 16));
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().expect("addresses");
        [watched.at, watched.begins] = numbers[..].try_into().expect("two addresses");
        watched
    }

    fn stats(folder: &TempDir) -> PathBuf {
        folder.path().join("stats")
    }

    /// A debugger that has come to it: it stands.
    ///
    /// # Panics
    /// If it cannot be reached.
    #[must_use]
    pub fn debugged(&self) -> Gdb {
        let mut gdb = Gdb::attach(self.vmm.id());
        assert!(gdb.ask("?").starts_with('T'));
        gdb
    }

    /// Gives it the byte.
    ///
    /// # Panics
    /// If it does not read it.
    pub fn begin(&mut self) {
        self.vmm.stdin.take().expect("a pipe").write_all(b"x").expect("it reads");
    }

    /// It has ended well; returns how often it left the guest.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn exits(mut self) -> u64 {
        assert_eq!(self.vmm.wait().expect("it ends").code(), Some(7));
        let read = fs::read_to_string(Watched::stats(&self.folder)).expect("statistics");
        let read: Value = serde_json::from_str(&read).expect("JSON");
        let exits = read["exits"].as_array().expect("a list").iter();
        exits.filter_map(|exit| exit["count"].as_u64()).sum()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
    }
}

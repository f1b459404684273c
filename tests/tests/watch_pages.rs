//! Watchpoints by pages, on every kind of KVM: by gdb's protocol, spoken here, as an emulated machine has no gdb.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn spacejmp(words: &[&str]) -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// A connection to what gdb talks to. Whoever is at the other end of it goes when it does.
struct Gdb {
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
    #[track_caller]
    fn ask(&mut self, packet: &str) -> String {
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
        self.to.write_all(b"+").expect("it reads");
        String::from_utf8(answer).expect("text")
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.pipe.kill();
        let _ = self.pipe.wait();
    }
}

/// A run; its end takes it along if a test fails.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets the program of `watched.c` write a page four times, with a watchpoint of this kind on what is in it; tells what
/// happened at each stop, and returns how often it left the guest.
fn watched(kind: u8, len: u64, stops: &[(&str, u64)]) -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let stats = folder.path().join("stats");
    let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
    let to = stats.to_str().expect("a path");
    let options = ["run", "--no-store", "--timeout", &limit, "--stats=json", "--stats-to", to];
    let between = pace::times(10_000_000).to_string();
    let run = spacejmp(&options).arg(guests::c("watched")).args(["await", &between]).spawn();
    let mut run = Run(run.expect("it starts"));
    let mut out = BufReader::new(run.0.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    let at = u64::from_str_radix(line.trim_end(), 16).expect("an address");

    let mut gdb = Gdb::attach(run.0.id());
    assert!(gdb.ask("?").starts_with('T'));
    assert_eq!(gdb.ask(&format!("Z{kind},{at:x},{len:x}")), "OK");
    run.0.stdin.take().expect("a pipe").write_all(b"x").expect("it reads");
    for (stop, value) in stops {
        let told = gdb.ask("vCont;c");
        let mut names = told.strip_prefix("T05").unwrap_or_default().split(';');
        let expected = format!("{stop}:{at:x}");
        assert!(names.any(|name| name == expected), "{told}");
        let bytes: String = value.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(gdb.ask(&format!("m{at:x},8")), bytes);
    }
    assert_eq!(gdb.ask(&format!("z{kind},{at:x},{len:x}")), "OK");
    assert_eq!(gdb.ask("D"), "OK");
    assert_eq!(run.0.wait().expect("it ends").code(), Some(7));
    let read = fs::read_to_string(&stats).expect("statistics");
    let read: Value = serde_json::from_str(&read).expect("JSON");
    let exits = read["exits"].as_array().expect("a list").iter();
    exits.filter_map(|exit| exit["count"].as_u64()).sum()
}

/// Steps would take tens of millions.
const FEW: u64 = 20_000;

#[test]
fn writing_reading_and_both_are_told_and_what_is_beside_is_not() {
    skip_without_kvm!();
    let writes = [("watch", 10), ("watch", 20), ("watch", 30), ("watch", 40)];
    assert!(watched(2, 8, &writes) < FEW);
    assert!(watched(3, 8, &[("rwatch", 10), ("rwatch", 20)]) < FEW);
    let both = [("awatch", 10), ("awatch", 10), ("awatch", 20)];
    assert!(watched(4, 1, &both) < FEW);
}

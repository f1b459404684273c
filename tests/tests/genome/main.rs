//! The example `genome`: what it prints is what samtools prints, byte for byte.

mod alike;
mod damaged;
mod transactions;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::guests::{Profile, program};
use tests::kvm;
use tests::vm::{Ended, Run};

/// A folder with files of reads, and a store.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab { folder: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let file = self.file(name);
        std::fs::write(&file, content).expect("write a file");
        file.to_string_lossy().into_owned()
    }

    /// A file of generated reads.
    fn generate(&self, name: &str, args: &[&str]) -> String {
        let made = run(Command::new(genome()).arg("generate").args(args));
        self.write(name, made)
    }

    /// `genome` in a VM, however it ends.
    fn genome(&self, args: &[&str]) -> Ended {
        let folder = self.path().to_string_lossy();
        Run::new(genome())
            .args(args)
            .dir(format!("{folder}:{folder}"))
            .store(self.file("store"))
            .timeout(Duration::from_secs(120))
            .in_vm()
    }

    /// Its standard output, of a run that succeeds.
    #[track_caller]
    fn ask(&self, args: &[&str]) -> Vec<u8> {
        let ended = self.genome(args);
        ended.expect(0, &ended.out());
        ended.stdout
    }

    /// What samtools writes to standard output.
    fn samtools(&self, args: &[&str]) -> Vec<u8> {
        run(Command::new("samtools").current_dir(self.path()).args(args))
    }
}

fn genome() -> PathBuf {
    program("genome", "genome", Profile::Dev)
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    output.stdout
}

/// Whether there is no samtools to compare with; says so.
fn without_samtools(test: &str) -> bool {
    let is_there = Command::new("samtools").arg("--version").output().is_ok();
    !is_there && kvm::skip(test, "there is no samtools (Debian: `apt-get install samtools`)")
}

/// Shows the first line that differs: whole files would say nothing.
#[track_caller]
fn same(ours: &[u8], theirs: &[u8], what: &str) {
    let lines = |text: &[u8]| -> Vec<String> {
        text.split(|&byte| byte == b'\n')
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    };
    if ours != theirs {
        let (ours, theirs) = (lines(ours), lines(theirs));
        let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        panic!(
            "{what}: line {} of {} and {}\nours:     {:?}\nsamtools: {:?}",
            at + 1,
            ours.len(),
            theirs.len(),
            ours.get(at),
            theirs.get(at)
        );
    }
}

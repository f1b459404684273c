//! A disk that fills up quickly, or that cannot be written: a small file system that only some commands and their
//! children see.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::kvm;

/// Runs a command with a file system of 12 MiB at `folder`. Where none can be mounted, returns
/// `None` and reports `test` as skipped.
///
/// # Panics
/// When the command does not start.
#[must_use]
pub fn run(test: &str, folder: &Path, command: &Command) -> Option<Output> {
    let small = |command: &Command| {
        let mut private = Command::new("unshare");
        private.args(["--mount", "sh", "-c"]);
        private.arg("mount -t tmpfs -o size=12m tmpfs \"$0\" && exec \"$@\"").arg(folder);
        private.arg(command.get_program()).args(command.get_args());
        private.output()
    };
    let possible = small(&Command::new("true"));
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        kvm::skip(test, &format!("cannot mount a small file system: {possible:?}"));
        return None;
    }
    Some(small(command).expect("it starts"))
}

/// A file system in memory, mounted where only the commands see it that are run by [`Disk::within`]. It goes with this.
#[derive(Debug)]
pub struct Disk {
    /// Has the mount name space.
    keeper: Child,
    folder: PathBuf,
}

impl Disk {
    /// Mounts one of so many MiB at `folder`. Where none can be mounted, returns `None` and reports `test` as skipped.
    ///
    /// # Panics
    /// If what is to mount it cannot be started.
    #[must_use]
    pub fn mount(test: &str, folder: &Path, mib: u32) -> Option<Disk> {
        let mount =
            format!("mount -t tmpfs -o size={mib}m tmpfs \"$0\" && echo mounted && exec cat");
        let mut keeper = Command::new("unshare");
        keeper.args(["--mount", "sh", "-c", &mount]).arg(folder);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = keeper.spawn().expect("`unshare` starts");
        let mut said = String::new();
        let out = keeper.stdout.take().expect("it is a pipe");
        let read = BufReader::new(out).read_line(&mut said);
        let disk = Disk { keeper, folder: folder.to_owned() };
        let entered = disk.within(&Command::new("true")).status();
        if read.is_err() || said != "mounted\n" || !entered.as_ref().is_ok_and(|it| it.success()) {
            kvm::skip(
                test,
                &format!("cannot mount a file system and enter its name space: {said} {entered:?}"),
            );
            return None;
        }
        Some(disk)
    }

    /// The command, which sees it.
    #[must_use]
    pub fn within(&self, command: &Command) -> Command {
        let mut within = Command::new("nsenter");
        within.arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id())).arg("--");
        within.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }

    fn shell(&self, script: &str, args: &[&Path]) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).args(args);
        self.within(&shell).output().expect("a shell")
    }

    /// Writes until it takes no more.
    ///
    /// # Panics
    /// If there is no end to it.
    pub fn fill(&self) {
        let filled = self.shell("cat /dev/zero > \"$0/filler\"", &[&self.folder]);
        assert!(!filled.status.success(), "{filled:?}");
    }

    /// Gives back so many KiB of what [`Disk::fill`] has written.
    ///
    /// # Panics
    /// If that fails.
    pub fn give_back(&self, kib: u32) {
        let script = format!("truncate -s -{kib}K \"$0/filler\"");
        let given = self.shell(&script, &[&self.folder]);
        assert!(given.status.success(), "{given:?}");
    }

    /// Removes what [`Disk::fill`] has written.
    ///
    /// # Panics
    /// If that fails.
    pub fn empty(&self) {
        let emptied = self.shell("rm \"$0/filler\"", &[&self.folder]);
        assert!(emptied.status.success(), "{emptied:?}");
    }

    /// Has nobody write it from now on.
    ///
    /// # Panics
    /// If somebody does.
    pub fn make_read_only(&self) {
        let mounted = self.shell("mount -o remount,ro \"$0\"", &[&self.folder]);
        assert!(mounted.status.success(), "{mounted:?}");
    }

    /// Mounts a folder of it at another place, to be read there only.
    ///
    /// # Panics
    /// If that fails.
    pub fn show_read_only(&self, folder: &Path, at: &Path) {
        let script = "mount --bind \"$0\" \"$1\" && mount -o remount,bind,ro \"$1\"";
        let mounted = self.shell(script, &[folder, at]);
        assert!(mounted.status.success(), "{mounted:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If it has ended already, there is nothing to kill.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

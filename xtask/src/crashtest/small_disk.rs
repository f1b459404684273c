//! Small file systems in files: made, mounted, and unmounted when dropped.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::ledger::whole;

/// How long files may be open still.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kind of file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(super) const ALL: [Kind; 2] = [Kind::Ext4, Kind::Xfs];

    /// XFS makes none that is smaller.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Kind::Ext4 => 192 << 20,
            Kind::Xfs => 320 << 20,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        })
    }
}

/// Makes an empty file system in a file or device.
pub(super) fn make(kind: Kind, image: &Path) -> Result<()> {
    let mut mkfs = Command::new(format!("mkfs.{kind}"));
    whole(&mkfs.arg("-q").arg(image).output()?, "making a file system").map(drop)
}

/// A file system that is mounted.
pub(super) struct Mounted {
    at: PathBuf,
    image: PathBuf,
}

impl Mounted {
    /// Mounts an image. Replays its journal, if it has one to replay.
    pub(super) fn mount(kind: Kind, image: &Path, at: &Path) -> Result<Mounted> {
        std::fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", &kind.to_string(), "-o"]);
        // Copies of one image have one identity.
        mount.arg(if kind == Kind::Xfs { "loop,nouuid" } else { "loop" });
        whole(&mount.arg(image).arg(at).output()?, "mounting an image")?;
        Ok(Mounted { at: at.to_owned(), image: image.to_owned() })
    }

    /// A store in it.
    pub(super) fn store(&self) -> PathBuf {
        self.at.join("store")
    }

    /// Cuts it off from its device at once: nothing more is written, its journal neither.
    pub(super) fn shut_down(&self) -> Result<()> {
        // The call is the same for ext4 (EXT4_IOC_SHUTDOWN). Without -f the journal is not flushed.
        let mut shutdown = Command::new("xfs_io");
        whole(&shutdown.args(["-x", "-c", "shutdown"]).arg(&self.at).output()?, "shutting down")
            .map(drop)
    }
}

impl Mounted {
    /// Unmounts it. The host closes the last files of a process that was killed a moment after its end. And whoever has made a
    /// mount namespace of their own meanwhile has it mounted there: as long as they have, mounting the image again would
    /// bring back what is in memory.
    pub(super) fn unmount(self) -> Result<()> {
        let (began, image) = (Instant::now(), self.image.clone());
        self.unmount_here(began)?;
        loop {
            let mut devices = Command::new("losetup");
            let devices = whole(&devices.arg("-j").arg(&image).output()?, "looking for it")?;
            if devices.trim().is_empty() {
                return Ok(());
            }
            let image = image.display();
            ensure!(began.elapsed() < PATIENCE, "{image} is still mounted elsewhere: {devices}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn unmount_here(self, began: Instant) -> Result<()> {
        loop {
            let done = whole(&Command::new("umount").arg(&self.at).output()?, "unmounting");
            if done.is_ok() || began.elapsed() > PATIENCE {
                std::mem::forget(self);
                return done.map(drop);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Only after a failure: as soon as nobody uses it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
    }
}

/// Why this host cannot do it, if it cannot.
pub(super) fn cannot(kind: Kind, tools: &[&str]) -> Option<String> {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return Some(error.to_string()),
    };
    for tool in tools {
        if Command::new(tool).arg("--version").output().is_err() {
            return Some(format!("{tool} cannot be run"));
        }
    }
    let image = folder.path().join("image");
    let tried = image_of(kind, &image)
        .and_then(|()| Mounted::mount(kind, &image, &folder.path().join("at")))
        .and_then(Mounted::unmount);
    let error = tried.err()?;
    Some(format!(
        "cannot mount {kind} in a file: {}",
        format!("{error:#}").trim().replace('\n', ": ")
    ))
}

/// Makes an empty file system in a new file.
pub(super) fn image_of(kind: Kind, image: &Path) -> Result<()> {
    std::fs::File::create(image)?.set_len(kind.bytes())?;
    make(kind, image)
}

//! `/tmp` of a tree: one directory for all programs of a run, which nobody else sees.
//!
//! It is a tmpfs that is mounted nowhere: the VMMs hold it open, and when the last of them ends,
//! whatever ends it, nothing is left. Its size is limited, since what programs store there is the
//! host's memory. Mounting takes a privilege, which a process has in a user namespace of its own. Where
//! the host allows neither, a directory that only this user can enter takes its place: it is removed at
//! the end of the run, or, if that did not come to it, before the next one.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::files::{Grant, GrantAccess};
use crate::process_tree::fork::{self, Forked};
use crate::process_tree::{Channel, wait};

/// Where a program finds it.
pub const GUEST_PATH: &str = "/tmp";
/// What the directory is called in its file system: the host's names of files in it begin so.
const NAME: &str = "spacejmp-tmp";
/// A file or directory takes the kernel about a kilobyte, empty or not.
const BYTES_PER_FILE: u64 = 8 << 10;
/// How often a name on the host is tried.
const ATTEMPTS: u32 = 100;

/// The directory, as long as it is open.
#[derive(Debug)]
pub struct PrivateTmp {
    dir: OwnedFd,
    on_host: Option<OnHost>,
}

/// A directory that is removed at the end.
#[derive(Debug)]
struct OnHost {
    path: PathBuf,
    /// Open in every process of the run: as long as one is left, nobody else removes it.
    lock: File,
    /// Processes may go on after the run.
    outlives_run: bool,
}

impl PrivateTmp {
    /// Makes one, for at most `bytes` of content if it is memory that is mounted nowhere. If processes
    /// may go on after the run, the next run that finds none of them left removes what is on the host.
    /// The caller has one thread.
    ///
    /// # Errors
    /// The host allows none of the ways.
    pub fn create(bytes: u64, outlives_run: bool) -> io::Result<PrivateTmp> {
        match detached(bytes).or_else(|_| in_user_namespace(bytes)) {
            Ok(dir) => Ok(PrivateTmp { dir, on_host: None }),
            Err(error) => {
                let folder = host_folder();
                tracing::info!(
                    "/tmp is a directory in {}, and has no limit of its own: the host lets this user \
                     mount no memory ({error})",
                    folder.display()
                );
                on_host(&folder, outlives_run)
            }
        }
    }

    /// What the programs are granted: valid as long as this exists.
    #[must_use]
    pub fn grant(&self) -> Grant {
        Grant {
            host: PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd())),
            guest: PathBuf::from(GUEST_PATH),
            access: GrantAccess::ReadWrite,
        }
    }

    /// Makes the directories in it at which others will be mounted, so that they are listed.
    ///
    /// # Errors
    /// The host's.
    pub fn make_way(&self, to: &Path) -> io::Result<()> {
        let Ok(below) = to.strip_prefix(GUEST_PATH) else { return Ok(()) };
        let mut at = self.dir.try_clone()?;
        for name in below {
            match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = open_dir(at.as_fd(), Path::new(name))?;
        }
        Ok(())
    }

    /// The directory that is removed when this is dropped.
    #[must_use]
    pub fn removed_at_end(&self) -> Option<&Path> {
        self.on_host.as_ref().map(|on_host| on_host.path.as_path())
    }

    /// A descriptor that every process of the run has to keep.
    ///
    /// # Errors
    /// The host has no free descriptor.
    pub fn kept(&self) -> io::Result<Vec<OwnedFd>> {
        self.on_host.iter().map(|on_host| Ok(on_host.lock.try_clone()?.into())).collect()
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        if !self.outlives_run {
            // What cannot be removed now, the next run tries again.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn open_dir(at: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// A tmpfs that is mounted nowhere, by a process that may do that.
fn detached(bytes: u64) -> io::Result<OwnedFd> {
    let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, c"size", bytes.to_string())?;
    fsconfig_set_string(&fs, c"nr_inodes", (bytes / BYTES_PER_FILE).max(64).to_string())?;
    fsconfig_set_string(&fs, c"mode", c"0700")?;
    fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // The host calls the root of such a mount `/`, as its own. A name of its own tells them apart.
    rustix::fs::mkdirat(&mount, NAME, Mode::RWXU)?;
    let dir = open_dir(&mount, Path::new(NAME))?;
    open_to_all(&dir)?;
    Ok(dir)
}

/// Gives it the mode that programs expect of `/tmp`.
fn open_to_all(dir: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::chmodat(dir, ".", Mode::from_raw_mode(0o1777), rustix::fs::AtFlags::empty())?)
}

/// The same by a process in a user namespace of its own, which sends the directory and ends.
fn in_user_namespace(bytes: u64) -> io::Result<OwnedFd> {
    let (here, there) = Channel::pair()?;
    let pid = match fork::fork()? {
        Forked::Parent(pid) => pid,
        Forked::Child => {
            drop(here);
            let sent = enter_user_namespace().and_then(|()| detached(bytes));
            let error = match sent.and_then(|dir| there.send(&[], &[dir.as_fd()])) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            fork::exit_now(error)
        }
    };
    drop(there);
    let message = here.receive();
    let ended = wait::wait(libc::P_PID, pid, libc::WEXITED)?;
    match message?.and_then(|message| message.fds.into_iter().next()) {
        Some(dir) => Ok(dir),
        None => Err(io::Error::from_raw_os_error(ended.map_or(libc::EIO, |ended| ended.status))),
    }
}

/// In the namespace this user is the only one, with the number that it has outside.
fn enter_user_namespace() -> io::Result<()> {
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    fork::own_user_namespace()?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Where a directory for this user goes: memory, if the host has it.
fn host_folder() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }
}

/// A directory in `folder`, after those that earlier runs have left there.
fn on_host(folder: &Path, outlives_run: bool) -> io::Result<PrivateTmp> {
    let prefix = format!("{NAME}-{}-", rustix::process::geteuid().as_raw());
    sweep(folder, &prefix);
    let mut attempt = 0;
    loop {
        let path = folder.join(format!("{prefix}{}-{attempt}", std::process::id()));
        match make_on_host(path, outlives_run) {
            // An earlier process of this number; or another run has just swept.
            Err(error) if is_again(&error) && attempt < ATTEMPTS => attempt += 1,
            made => return made,
        }
    }
}

fn is_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound)
}

fn make_on_host(path: PathBuf, outlives_run: bool) -> io::Result<PrivateTmp> {
    DirBuilder::new().mode(0o700).create(&path)?;
    let on_host = OnHost { lock: open_to_lock(&path)?, path, outlives_run };
    flock(&on_host.lock, FlockOperation::LockShared)?;
    // Inside it is open to all, as programs expect of `/tmp`: nobody else gets there.
    std::fs::create_dir(on_host.path.join(NAME))?;
    let dir = open_dir(&on_host.lock, Path::new(NAME))?;
    open_to_all(&dir)?;
    Ok(PrivateTmp { dir, on_host: Some(on_host) })
}

/// Removes the directories of runs that have ended.
fn sweep(folder: &Path, prefix: &str) {
    let user = rustix::process::geteuid().as_raw();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let Ok(dir) = open_to_lock(&entry.path()) else { continue };
        let is_ours = dir.metadata().is_ok_and(|meta| meta.uid() == user);
        if is_ours && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn open_to_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::*;

    /// Where the directory is for this process.
    fn at(tmp: &PrivateTmp) -> PathBuf {
        tmp.grant().host
    }

    fn fill(dir: &Path, mebibytes: u64) -> io::Result<()> {
        let file = File::create(dir.join("file"))?;
        (0..mebibytes).try_for_each(|number| file.write_all_at(&[7; 1 << 20], number << 20))
    }

    #[test]
    fn memory_that_is_mounted_nowhere_has_a_limit_and_a_name_of_its_own() {
        for make in [detached, in_user_namespace] {
            let dir = match make(4 << 20) {
                Ok(dir) => dir,
                // Not for this user on this host: another of the ways is taken.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => continue,
                Err(error) => panic!("{error}"),
            };
            let tmp = PrivateTmp { dir, on_host: None };
            let link = std::fs::read_link(at(&tmp)).unwrap();
            assert_eq!(link, Path::new("/spacejmp-tmp"));
            fill(&at(&tmp), 3).unwrap();
            assert_eq!(fill(&at(&tmp), 5).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
            std::fs::remove_file(at(&tmp).join("file")).unwrap();
            let made = (0..10_000).map(|number| File::create(at(&tmp).join(number.to_string())));
            assert!(made.take_while(Result::is_ok).count() < 1000, "files cost memory, too");
        }
    }

    #[test]
    fn the_way_to_what_is_mounted_below_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let tmp = on_host(folder.path(), false).unwrap();
        tmp.make_way(Path::new("/tmp/a/b")).unwrap();
        tmp.make_way(Path::new("/tmp/a/c")).unwrap();
        tmp.make_way(Path::new("/home/d")).unwrap();
        assert!(at(&tmp).join("a/b").is_dir() && at(&tmp).join("a/c").is_dir());
        assert_eq!(std::fs::read_dir(at(&tmp)).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_on_the_host_is_the_users_alone_and_goes_with_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let tmp = on_host(folder.path(), false).unwrap();
        let path = tmp.on_host.as_ref().unwrap().path.clone();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fill(&at(&tmp), 1).unwrap();
        drop(tmp);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_run_left_is_removed_by_the_next_and_what_is_used_is_not() {
        let folder = tempfile::tempdir().unwrap();
        // Neither removes anything at its end, as if killed.
        let killed = on_host(folder.path(), true).unwrap();
        let used = on_host(folder.path(), true).unwrap();
        let path = |tmp: &PrivateTmp| tmp.on_host.as_ref().unwrap().path.clone();
        let [left, kept] = [&killed, &used].map(path);
        let child_that_goes_on = used.kept().unwrap();
        drop((killed, used));
        assert!(left.exists() && kept.exists());
        drop(on_host(folder.path(), false).unwrap());
        assert!(!left.exists() && kept.exists());
        drop(child_that_goes_on);
        drop(on_host(folder.path(), false).unwrap());
        assert!(!kept.exists());
    }
}

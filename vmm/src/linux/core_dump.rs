//! Core files: where one goes, and how the threads of a process that dies are brought to a stand for it.
//!
//! The thread that a signal ends ([`Dying`]) waits until each other thread has come out of the guest and
//! has left its registers, and those wait until the file is written: the memory is as it
//! was. What is in the file is `report::core`'s.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};

use super::task::{Process, Thread, ThreadCtx};
use crate::vm::{UserRegs, Vcpu};

/// How long a thread may take to come out of the guest, or of a call. Otherwise it is left out.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often they are counted meanwhile: one that ends leaves no registers.
const LOOK: Duration = Duration::from_millis(2);

/// What the name of a file ends in that is to be compressed, by zstd.
const COMPRESSED: &str = "zst";

/// Where core files go: a file for the first process of a run, one with its number for each other.
#[derive(Debug)]
pub struct CorePlace {
    folder: OwnedFd,
    name: OsString,
    path: PathBuf,
    first: u32,
}

/// A place where no core file can be.
#[derive(Debug, thiserror::Error)]
pub enum CorePlaceError {
    /// It cannot be written.
    #[error("cannot write core files in {}", folder.display())]
    Folder {
        /// The directory.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is something else.
    #[error("{} is no file: name one for --core", .0.display())]
    NoFile(PathBuf),
}

impl CorePlace {
    /// For a run whose first process is this one.
    ///
    /// # Errors
    /// [`CorePlaceError`].
    pub fn at(path: &Path) -> Result<CorePlace, CorePlaceError> {
        let Some(name) = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"))
        else {
            return Err(CorePlaceError::NoFile(path.to_owned()));
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new("."));
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
            rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
            Ok::<_, io::Error>(opened)
        };
        let failed = |source| CorePlaceError::Folder { folder: folder.to_owned(), source };
        let opened = open().map_err(failed)?;
        let there = rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile) {
            return Err(CorePlaceError::NoFile(path.to_owned()));
        }
        let (name, path) = (name.to_owned(), path.to_owned());
        Ok(CorePlace { folder: opened, name, path, first: std::process::id() })
    }

    /// The directory.
    #[must_use]
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The file of the calling process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.with_file_name(self.own_name())
    }

    /// Whether the name asks for a compressed file.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.path.extension() == Some(OsStr::new(COMPRESSED))
    }

    fn own_name(&self) -> OsString {
        if std::process::id() == self.first {
            return self.name.clone();
        }
        let mut name = match self.path.file_stem() {
            Some(stem) if self.is_compressed() => stem.to_owned(),
            _ => self.name.clone(),
        };
        name.push(format!(".{}", std::process::id()));
        if self.is_compressed() {
            name.push(".");
            name.push(COMPRESSED);
        }
        name
    }

    /// Has `write` write the file, for its owner only. There is none of that name, or the one that was there
    /// before, until it is whole.
    ///
    /// # Errors
    /// The host's, and those of `write`.
    pub fn create(&self, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let mut unfinished = OsString::from(".");
        unfinished.push(self.own_name());
        unfinished.push(format!(".{}.unfinished", std::process::id()));
        // Left by a process of that number that was killed in the middle of it.
        let _ = rustix::fs::unlinkat(&self.folder, &unfinished, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let open = || rustix::fs::openat(&self.folder, &unfinished, flags, mode);
        let file = File::from(rustix::io::retry_on_intr(open)?);
        let written = write(&file).and_then(|()| {
            let rename =
                || rustix::fs::renameat(&self.folder, &unfinished, &self.folder, self.own_name());
            Ok(rustix::io::retry_on_intr(rename)?)
        });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&self.folder, &unfinished, AtFlags::empty());
        }
        written
    }
}

/// Whether `signal` asks for a core file unless the program handles it (signal(7)).
#[must_use]
pub fn dumps_core(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGQUIT
            | libc::SIGILL
            | libc::SIGTRAP
            | libc::SIGABRT
            | libc::SIGBUS
            | libc::SIGFPE
            | libc::SIGSEGV
            | libc::SIGXCPU
            | libc::SIGXFSZ
            | libc::SIGSYS
    )
}

/// The registers of a thread that has come to a stand.
#[derive(Debug, Clone)]
pub struct ThreadRegisters {
    /// Its number.
    pub tid: i32,
    /// Signals that are pending for it, and that it blocks.
    pub signals: [u64; 2],
    /// The general registers.
    pub regs: UserRegs,
    /// FS base and GS base.
    pub bases: [u64; 2],
    /// The XSAVE area, if KVM has shown it.
    pub xsave: Option<Vec<u8>>,
}

impl ThreadRegisters {
    /// Those of `thread`, which is the caller and runs on `vcpu`.
    #[must_use]
    pub fn of(thread: &Thread, vcpu: &Vcpu) -> ThreadRegisters {
        /// Where Linux puts XCR0 into an XSAVE area: in bytes that the processor leaves to it.
        const XCR0: std::ops::Range<usize> = 464..472;
        let machine = vcpu.machine();
        let xsave = vcpu.fpu_state().ok().map(|state| {
            let mut bytes: Vec<u8> =
                state.region.iter().flat_map(|word| word.to_le_bytes()).collect();
            // As many as the program's handlers of signals are given, without the word behind it.
            bytes.truncate(machine.xstate_bytes() - 4);
            if let Some(place) = bytes.get_mut(XCR0) {
                place.copy_from_slice(&machine.xcr0.to_le_bytes());
            }
            bytes
        });
        ThreadRegisters {
            tid: thread.tid,
            signals: [thread.signals.pending_set(), thread.signals.mask()],
            regs: vcpu.regs,
            bases: [vcpu.fs_base(), vcpu.gs_base()],
            xsave,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Stage {
    /// No thread is dying.
    #[default]
    None,
    /// One is, and others wait for it.
    Gathering,
    /// The file is written, or there is none.
    Over,
}

/// Threads that wait for a core file.
#[derive(Debug, Default)]
pub(crate) struct CoreState {
    inner: Mutex<(Stage, Vec<ThreadRegisters>)>,
    changed: Condvar,
}

impl CoreState {
    fn lock(&self) -> MutexGuard<'_, (Stage, Vec<ThreadRegisters>)> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// A thread that has left the guest for good waits here, if its process's core file is being written, or the
    /// backtraces of its threads are being taken.
    pub(crate) fn leave_registers(&self, thread: &Thread, vcpu: &Vcpu) {
        if self.lock().0 != Stage::Gathering {
            return;
        }
        let registers = ThreadRegisters::of(thread, vcpu);
        let mut inner = self.lock();
        inner.1.push(registers);
        self.changed.notify_all();
        while inner.0 == Stage::Gathering {
            inner = self.changed.wait(inner).unwrap_or_else(|poison| poison.into_inner());
        }
    }
}

/// The thread whose signal ends the process. Others go on when it is dropped.
#[derive(Debug)]
pub struct Dying<'a>(&'a Process);

impl<'a> Dying<'a> {
    /// For `signal`, if a core file or all backtraces are wanted and no other thread is dying already. Before the process is
    /// stopped: no thread may end unseen.
    #[must_use]
    pub fn begin(process: &'a Process, signal: i32) -> Option<Dying<'a>> {
        let is_wanted = process.vm.core.is_some() || process.vm.backtraces;
        if !is_wanted || !dumps_core(signal) || process.is_stopping() {
            return None;
        }
        let mut inner = process.core.lock();
        if inner.0 != Stage::None {
            return None;
        }
        inner.0 = Stage::Gathering;
        Some(Dying(process))
    }

    /// The registers of all threads, once the process is stopping; the dying one's first.
    #[must_use]
    pub fn gather(&self, ctx: &ThreadCtx<'_>) -> Vec<ThreadRegisters> {
        let own = ThreadRegisters::of(ctx.thread, ctx.vcpu);
        let (core, limit) = (&self.0.core, Instant::now() + PATIENCE);
        let mut inner = core.lock();
        loop {
            // One that ends has left none, and is in this list no longer.
            let is_here = |tid: i32, here: &[ThreadRegisters]| here.iter().any(|it| it.tid == tid);
            let all = self.0.threads.all();
            let mut missing =
                all.iter().filter(|it| it.tid != own.tid && !is_here(it.tid, &inner.1));
            if missing.next().is_none() || Instant::now() >= limit {
                break;
            }
            let waited = core.changed.wait_timeout(inner, LOOK);
            inner = waited.unwrap_or_else(|poison| poison.into_inner()).0;
        }
        let mut others = std::mem::take(&mut inner.1);
        others.sort_by_key(|thread| thread.tid);
        std::iter::once(own).chain(others).collect()
    }
}

impl Drop for Dying<'_> {
    fn drop(&mut self) {
        self.0.core.lock().0 = Stage::Over;
        self.0.core.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::{CorePlace, CorePlaceError, dumps_core};

    #[test]
    fn a_file_is_the_owners_and_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("core");
        std::fs::write(&path, "before").unwrap();
        let place = CorePlace::at(&path).unwrap();
        let failed = place.create(|mut file| {
            file.write_all(b"half")?;
            Err(Error::from_raw_os_error(libc::ENOSPC))
        });
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        place
            .create(|mut file| {
                assert_eq!(std::fs::read(&path).unwrap(), b"before");
                file.write_all(b"whole")
            })
            .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(place.path(), path);
        let other = CorePlace { first: 1, ..CorePlace::at(&path).unwrap() };
        let name = format!("core.{}", std::process::id());
        assert_eq!(other.path(), folder.path().join(name), "of another process of the run");
        let packed = CorePlace::at(&folder.path().join("core.zst")).unwrap();
        assert!(packed.is_compressed() && !other.is_compressed());
        let other = CorePlace { first: 1, ..packed };
        let name = format!("core.{}.zst", std::process::id());
        assert_eq!(other.path(), folder.path().join(name));
    }

    #[test]
    fn places_where_none_can_be_are_refused_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| CorePlace::at(&folder.path().join(name)).unwrap_err();
        assert!(matches!(at("missing/core"), CorePlaceError::Folder { .. }));
        assert!(matches!(CorePlace::at(folder.path()), Err(CorePlaceError::NoFile(_))));
        assert!(matches!(at("core/"), CorePlaceError::NoFile(_)));
    }

    #[test]
    fn signals_that_only_end_a_program_leave_no_core() {
        for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGPIPE, libc::SIGALRM, 40] {
            assert!(!dumps_core(signal));
        }
        assert!(dumps_core(libc::SIGABRT));
    }
}

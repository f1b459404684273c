//! How long to wait for the store's lock, and which process holds it when the wait fails.
//!
//! Every process that can read the file `lock` can hold an flock on it forever. So every wait is
//! bounded: it is given up after a while, or sooner when the waiting process is to end, and the
//! error names the holder.
//!
//! The flock is polled, not waited for: a wait in the host kernel can be ended only by a signal to
//! exactly the waiting thread, and the commands have no signals.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::format::error::{StoreError, io_error};

/// What the store does under its lock takes milliseconds; collecting garbage and checking
/// thousands of objects, seconds.
const MOST: Duration = Duration::from_secs(30);
/// The first pause between two tries, and the longest.
const PAUSE: Duration = Duration::from_micros(20);
const PAUSE_MOST: Duration = Duration::from_millis(5);

/// How long the users of a store wait for its lock.
#[derive(Debug)]
pub struct Patience {
    most: Duration,
    end: Mutex<Option<Instant>>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience::new(MOST)
    }
}

impl Patience {
    /// Every wait ends after `most`.
    #[must_use]
    pub fn new(most: Duration) -> Patience {
        Patience { most, end: Mutex::new(None) }
    }

    /// From now on all waits together end after `rest`, those that have begun included: the process
    /// is ending.
    pub fn ends_in(&self, rest: Duration) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_add(rest);
    }

    /// Whether a wait that began then is over.
    fn is_over(&self, began: Instant) -> bool {
        let end = *self.end.lock().unwrap_or_else(PoisonError::into_inner);
        began.elapsed() >= self.most || end.is_some_and(|end| Instant::now() >= end)
    }

    /// Takes an flock; `operation` is one that does not block.
    pub(crate) fn lock(
        &self,
        file: &File,
        path: &Path,
        operation: FlockOperation,
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let mut pause = PAUSE;
        loop {
            match rustix::fs::flock(file, operation) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(io_error("lock", path, error.into())),
            }
            if self.is_over(began) {
                return Err(StoreError::LockHeld { file: path.to_owned(), holder: holder(file) });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}

/// The process that holds an flock on the file, if the host reports it.
fn holder(file: &File) -> String {
    let unknown = || "a process that this user cannot see".to_owned();
    let (Ok(meta), Ok(locks)) = (file.metadata(), std::fs::read_to_string("/proc/locks")) else {
        return unknown();
    };
    let Some(pid) = holder_in(&locks, meta.dev(), meta.ino()) else { return unknown() };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim_end() {
        "" => format!("process {pid}"),
        name => format!("process {pid} ({})", name.escape_debug()),
    }
}

/// Looks a file up in the text of `/proc/locks` (proc_locks(5)): its exclusive holder, else the
/// first that shares it.
fn holder_in(locks: &str, dev: u64, ino: u64) -> Option<i32> {
    let mut found = None;
    for line in locks.lines() {
        let mut fields = line.split_whitespace().skip(1);
        // Waiting processes have an arrow here.
        if fields.next() != Some("FLOCK") {
            continue;
        }
        let (kind, pid, place) = (fields.nth(1), fields.next(), fields.next());
        let Some((major, rest)) = place.and_then(|place| place.split_once(':')) else { continue };
        let Some((minor, inode)) = rest.split_once(':') else { continue };
        // Some file systems give files another device number than their mount.
        let number = |text| u32::from_str_radix(text, 16).ok();
        let devices = (number(major), number(minor));
        let same = devices == (Some(rustix::fs::major(dev)), Some(rustix::fs::minor(dev)))
            || rustix::fs::major(dev) == 0;
        let pid = pid.and_then(|pid| pid.parse().ok()).filter(|pid: &i32| *pid > 0);
        if same && inode.parse() == Ok(ino) && pid.is_some() {
            if kind == Some("WRITE") {
                return pid;
            }
            found = found.or(pid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use abi::Errno;
    use rustix::fs::FlockOperation;

    use super::{Patience, holder_in};
    use crate::testing::{name, store};
    use crate::{Mode, Store, StoreError};

    #[test]
    fn a_stranger_who_holds_the_lock_is_named_and_not_waited_for_long() {
        let s = store();
        // Reading is enough to lock.
        let stranger = std::fs::File::open(s.path().join("lock")).unwrap();
        rustix::fs::flock(&stranger, FlockOperation::LockExclusive).unwrap();
        let patience = Arc::new(Patience::new(Duration::from_millis(20)));
        let store = Store::open(s.path()).unwrap().with_patience(patience);
        let error = store.list_vases().unwrap_err();
        assert_eq!(error.errno(), Errno::ETIMEDOUT);
        let StoreError::LockHeld { file, holder } = error else { panic!("{error}") };
        assert_eq!(file, s.path().join("lock"));
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        rustix::fs::flock(&stranger, FlockOperation::LockShared).unwrap();
        store.list_vases().unwrap();
        let made = store.create_vas(&name("v"), Mode::PRIVATE);
        assert!(matches!(made, Err(StoreError::LockHeld { .. })));
        drop(stranger);
        store.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    }

    #[test]
    fn a_process_that_ends_stops_waiting_however_patient_it_was() {
        let s = store();
        let stranger = std::fs::File::open(s.path().join("lock")).unwrap();
        rustix::fs::flock(&stranger, FlockOperation::LockExclusive).unwrap();
        let patience = Arc::new(Patience::new(Duration::from_secs(3600)));
        let store = Store::open(s.path()).unwrap().with_patience(patience.clone());
        let began = Instant::now();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.list_vases().map(drop));
            patience.ends_in(Duration::from_millis(10));
            assert!(matches!(waiting.join().unwrap(), Err(StoreError::LockHeld { .. })));
        });
        assert!(began.elapsed() < Duration::from_secs(600));
    }

    #[test]
    fn of_all_locks_the_one_on_the_file_is_found() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 08:02:77 0 EOF
2: FLOCK  ADVISORY  WRITE 12 08:02:78 0 EOF
3: FLOCK  ADVISORY  READ 13 08:02:77 0 EOF
3: -> FLOCK  ADVISORY  WRITE 14 08:02:77 0 EOF
4: FLOCK  ADVISORY  WRITE 15 08:02:77 0 EOF
5: FLOCK  ADVISORY  WRITE -1 08:02:79 0 EOF
6: FLOCK  ADVISORY";
        let dev = rustix::fs::makedev(8, 2);
        assert_eq!(holder_in(locks, dev, 77), Some(15));
        assert_eq!(holder_in(locks, dev, 78), Some(12));
        assert_eq!(holder_in(locks, rustix::fs::makedev(8, 3), 78), None);
        assert_eq!(holder_in(locks, dev, 79), None);
        assert_eq!(holder_in("", dev, 77), None);
    }
}

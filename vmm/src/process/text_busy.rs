//! `ETXTBSY`: a file that is open for writing is not executed.
//!
//! Whether it is, the host's kernel knows, and tells only to who executes the file or asks for a lease for reading,
//! which it does not grant of such a file. So a lease is taken, and given back at once. It is granted to the file's owner
//! only; where it is refused for that or another reason, as by a file system that knows no leases, the file is executed.
//!
//! The other half, that a program which runs is not written, is `Namespace::check_not_run`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use abi::Errno;
use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};

/// How long a file may go on being open for writing. What a thread has written and closed, a process that another thread
/// has made meanwhile has open until it runs its program: on Linux a moment, here as long as a VM takes.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often is looked.
const PERIOD: Duration = Duration::from_millis(5);

/// Checks a file that is open for reading, by a descriptor of its own.
///
/// # Errors
/// `ETXTBSY`.
pub(super) fn check(file: &File) -> Result<(), Errno> {
    check_for(file, PATIENCE)
}

fn check_for(file: &File, patience: Duration) -> Result<(), Errno> {
    let since = Instant::now();
    while is_written(file) {
        let period = Timespec { tv_sec: 0, tv_nsec: i64::from(PERIOD.subsec_nanos()) };
        // A kick ends the waiting: the program may be about to end.
        let is_kicked = !matches!(nanosleep(&period), NanosleepRelativeResult::Ok);
        if is_kicked || since.elapsed() >= patience {
            return Err(Errno::ETXTBSY);
        }
    }
    Ok(())
}

/// Whether somebody has it open for writing, as far as the host tells.
fn is_written(file: &File) -> bool {
    // `F_SETSIG`, which the C library's crate does not name. Who opens the file for writing in this moment makes the
    // host tell who has the lease: by a signal that means nothing to a program, where SIGIO ends it.
    const F_SETSIG: i32 = 10;
    let ask = |command: i32, value: i32| {
        // SAFETY: takes numbers.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            0.. => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let granted = ask(F_SETSIG, libc::SIGURG).and_then(|()| ask(libc::F_SETLEASE, libc::F_RDLCK));
    if granted.is_ok() {
        // It is there: this cannot fail.
        let _ = ask(libc::F_SETLEASE, libc::F_UNLCK);
    }
    granted.is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::time::Duration;

    use abi::Errno;

    use super::check_for;

    #[test]
    fn a_file_is_busy_as_long_as_somebody_has_it_open_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let check = |file| check_for(file, Duration::ZERO);
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"text").unwrap();
        let readers: Vec<File> = (0..2).map(|_| File::open(&path).unwrap()).collect();
        for reader in &readers {
            assert_eq!(check(reader), Err(Errno::ETXTBSY));
        }
        let again = writer.try_clone().unwrap();
        drop(writer);
        assert_eq!(check(&readers[0]), Err(Errno::ETXTBSY));
        drop(again);
        for reader in readers.iter().chain(&readers) {
            assert_eq!(check(reader), Ok(()));
        }
        // Who closes it in time is waited for.
        let writer = File::options().write(true).open(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(writer));
            assert_eq!(check_for(&readers[0], Duration::MAX), Ok(()));
        });
        // The lease is given back: this does not wait for anybody.
        assert!(File::options().write(true).open(&path).is_ok());
    }
}

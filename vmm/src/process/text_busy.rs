//! `ETXTBSY`: a file that is open for writing is not executed.
//!
//! Whether it is, the host's kernel knows, and tells only to who executes the file or asks for a lease for reading,
//! which it does not grant of such a file. So a lease is taken, and given back at once. It is granted to the file's owner
//! only; where it is refused for that or another reason, as by a file system that knows no leases, the file is executed.
//!
//! The other half, that a program which runs is not written, is `Namespace::check_not_run`.

use std::fs::File;
use std::os::fd::AsRawFd;

use abi::Errno;

/// Checks a file that is open for reading, by a descriptor of its own.
///
/// # Errors
/// `ETXTBSY`.
pub(super) fn check(file: &File) -> Result<(), Errno> {
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
    if ask(F_SETSIG, libc::SIGURG).is_err() {
        return Ok(());
    }
    match ask(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            // It is there: this cannot fail.
            let _ = ask(libc::F_SETLEASE, libc::F_UNLCK);
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(Errno::ETXTBSY),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use abi::Errno;

    use super::check;

    #[test]
    fn a_file_is_busy_as_long_as_somebody_has_it_open_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
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
        // The lease is given back: this does not wait for anybody.
        assert!(File::options().write(true).open(&path).is_ok());
    }
}

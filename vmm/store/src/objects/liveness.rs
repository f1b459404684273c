//! Whether the VM behind a lease is alive: whether a process has a *write* lock on the file.
//!
//! A VM holds an open-file-description lock for writing (`F_OFD_SETLK`) on the whole of its
//! lease, until its last descriptor goes with it. The host grants such a lock only to a
//! descriptor open for writing, and a lease is writable for its owner alone. An flock is not
//! enough: every process that can read the file can take one, or queue for one, and thereby keep a
//! dead VM "alive", its segments undeletable and its locks held.
//!
//! The check asks for a conflict with a lock for reading: locks that readers can take do not
//! conflict, and asking takes no lock that could conflict with others.
//!
//! A word in the lease records that this is the rule. Without it (an earlier version, or a file
//! system without such locks) the flock decides, which every VM holds as well, so that earlier
//! versions see it alive.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, fcntl};

use crate::objects::dir::held_by_another;

/// Offset of the word: after the text, which ends with a zero long before.
const RULE_OFFSET: u64 = 0xff8;
/// The write lock decides.
const WRITE_LOCK: u64 = 1;

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes the lock on a new lease, and adds to the text that it begins with that it counts; no other process
/// knows the file yet.
pub(crate) fn begin(lease: &File, text: &mut Vec<u8>) -> io::Result<()> {
    match fcntl(lease, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => {
            text.resize(RULE_OFFSET as usize, 0);
            text.extend(WRITE_LOCK.to_le_bytes());
            Ok(())
        }
        // The file system cannot: the flock has to suffice.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOLCK | nix::errno::Errno::ENOTSUP) => {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the VM that made a lease is alive; the file may be open for reading only.
pub(crate) fn is_alive(lease: &File) -> bool {
    let mut rule = [0; 8];
    let read = lease.read_exact_at(&mut rule, RULE_OFFSET);
    if read.is_err() || u64::from_le_bytes(rule) != WRITE_LOCK {
        return held_by_another(lease);
    }
    let mut lock = whole_file(libc::F_RDLCK);
    match fcntl(lease, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => i32::from(lock.l_type) != libc::F_UNLCK,
        // Taking a live VM for dead would be the worse mistake.
        Err(_) => true,
    }
}

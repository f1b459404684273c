//! Descriptors beyond the standard three that a shell opened for the program: `3<file`,
//! `<(command)`.
//!
//! A program gets those that `--fd` names, and those that one of its arguments names as
//! `/dev/fd/N`, which is what a shell makes of `<(command)`: the user wrote it into this command.
//! All others stay inaccessible: callers leave descriptors open that they do not know of.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::errors::Failure;

/// The first number that is not a standard stream's.
const FIRST: i32 = 3;

/// A `--fd` argument.
pub(crate) fn parse(text: &str) -> Result<i32, String> {
    match text.parse::<i32>() {
        Ok(fd) if fd >= FIRST => Ok(fd),
        Ok(0..FIRST) => Err("the program has its standard streams anyway".to_owned()),
        _ => Err("it is the number of an open descriptor, 3 or more".to_owned()),
    }
}

/// The descriptor that an argument names.
fn named(argument: &OsString) -> Option<i32> {
    let text = argument.to_str()?;
    let number = text.strip_prefix("/dev/fd/").or_else(|| text.strip_prefix("/proc/self/fd/"))?;
    parse(number).ok()
}

fn is_open(fd: i32) -> bool {
    std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()
}

/// Takes ownership of the descriptors `wanted`, and those that the program's `arguments` name, with
/// their numbers. To be called once, before this process has opened any file itself.
///
/// # Errors
/// A wanted one is not open. One that an argument names need not be open: then it is just text.
pub(crate) fn take(wanted: &[i32], arguments: &[OsString]) -> Result<Vec<(i32, OwnedFd)>, Failure> {
    if let Some(fd) = wanted.iter().find(|&&fd| !is_open(fd)) {
        let error = io::Error::from_raw_os_error(libc::EBADF);
        let help = format!("open it for the command, as in: spacejmp run --fd {fd} ./x {fd}<file");
        let failure = Failure::new(format!("pass on descriptor {fd}"), error);
        return Err(failure.help(Some(help)));
    }
    let by_name = arguments.iter().filter_map(named).filter(|&fd| is_open(fd));
    let all: BTreeSet<i32> = wanted.iter().copied().chain(by_name).collect();
    let owned = all.into_iter().map(|fd| {
        // SAFETY: it is open, as was just seen. It was inherited: nothing in this process has
        // opened a file yet (see above), so nothing else owns it; the set contains each once, and
        // this is called once.
        (fd, unsafe { OwnedFd::from_raw_fd(fd) })
    });
    Ok(owned.collect())
}

#[cfg(test)]
mod tests {
    use super::{named, parse};

    #[test]
    fn only_numbers_beyond_the_standard_streams_name_a_descriptor() {
        assert_eq!(parse("63"), Ok(63));
        for text in ["2", "0", "-1", "x", "", "99999999999"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(named(&"/dev/fd/63".into()), Some(63));
        assert_eq!(named(&"/proc/self/fd/3".into()), Some(3));
        for text in ["/dev/fd/", "/dev/fd/2", "/dev/fd/63/x", "dev/fd/63", "63"] {
            assert_eq!(named(&text.into()), None, "{text}");
        }
    }
}

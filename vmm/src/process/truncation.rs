//! Reports that a mapped file of the store was truncated under a running VM.
//!
//! Locks, leases and the change counters are mapped files, accessed by atomics. A process that may
//! write such a file can truncate it, and the next access raises SIGBUS in this process. There is
//! no recovery then: the words that record which thread holds what are gone. So the process ends
//! immediately, as if killed, which the other VMs can cope with, but not silently: one error names
//! the file. Content of segments is not affected: it is copied by calls that return an error
//! instead (`vm::host_range`), and a program that touches a missing page gets the signal.
//!
//! The handler allocates nothing, acquires no lock, and finds the name in `/proc/self/maps`: a list
//! of our own would have to be kept consistent while other threads map files.

use std::io;
use std::mem::MaybeUninit;
use std::os::raw::{c_int, c_void};

use crate::exit_code::ExitCode;

/// `si_code` of an access beyond the end of a file, or to data that the disk could not return
/// (sigaction(2)).
const BUS_ADRERR: c_int = 2;
/// Longest line of the list that is read; a longer path is truncated.
const LINE_BYTES: usize = 1024;

/// From now on an access to a mapped file beyond its end ends the process with status 125 and
/// an error that names the file. Meant for the `spacejmp` command: a handler is the whole
/// process's.
///
/// # Errors
/// The host's error.
pub fn report_truncation() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid `sigaction` with an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler is of the type SA_SIGINFO asks for, and makes system calls only.
    let failed = unsafe { libc::sigaction(libc::SIGBUS, action, std::ptr::null_mut()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes it to a handler with SA_SIGINFO, for its duration.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS comes with an address.
    let (code, address) = (info.si_code, unsafe { info.si_addr() } as u64);
    let mut file = [0; LINE_BYTES];
    let len = if code == BUS_ADRERR { mapped_file(address, &mut file) } else { None };
    let Some(path) = len.and_then(|len| file.get(..len)) else {
        // Another cause: the access is repeated, and ends the process.
        // SAFETY: sets the default action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    say(b"spacejmp: cannot go on\n  1: ");
    say(path);
    say(b" was truncated, or cannot be read any more, while it was in use\n");
    say(b"  help: `spacejmp store check` tells what can still be used\n");
    // SAFETY: ends the process without running any of its code.
    unsafe { libc::_exit(c_int::from(ExitCode::OwnFailure.status())) }
}

/// Writes to stderr; if that is closed, the message is lost.
fn say(text: &[u8]) {
    // SAFETY: reads `text`.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// Writes the path of the file mapped at `address` to `path`; its length.
fn mapped_file(address: u64, path: &mut [u8; LINE_BYTES]) -> Option<usize> {
    // SAFETY: the path is a literal.
    let fd = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut line = [0; LINE_BYTES];
    let mut used = 0;
    let mut chunk = [0; 512];
    loop {
        // SAFETY: writes to `chunk`, no more than it holds; an invalid fd is an error.
        let count = unsafe { libc::read(fd, chunk.as_mut_ptr().cast(), chunk.len()) };
        let count = usize::try_from(count).ok().filter(|&count| count > 0)?;
        for &byte in chunk.get(..count)? {
            if byte != b'\n' {
                if let Some(place) = line.get_mut(used) {
                    (*place, used) = (byte, used + 1);
                }
                continue;
            }
            if let Some(found) = path_at(line.get(..used)?, address) {
                let shown = path.get_mut(..found.len())?;
                shown.copy_from_slice(found);
                // Names must not break the line or move the cursor.
                shown.iter_mut().filter(|byte| byte.is_ascii_control()).for_each(|b| *b = b'?');
                return Some(found.len());
            }
            used = 0;
        }
    }
}

/// The path in a line of `/proc/self/maps`, if the line is about `address` and a file.
fn path_at(line: &[u8], address: u64) -> Option<&[u8]> {
    let mut fields = line.splitn(2, |byte| *byte == b' ');
    let mut range = fields.next()?.splitn(2, |byte| *byte == b'-');
    let [start, end] = [range.next()?, range.next()?].map(hexadecimal);
    if !(start?..end?).contains(&address) {
        return None;
    }
    let rest = fields.next()?;
    rest.get(rest.iter().position(|byte| *byte == b'/')?..)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        number.checked_mul(16)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES, mapped_file, path_at};

    #[test]
    fn a_line_gives_its_path_to_addresses_it_is_about() {
        let line = b"7f01-7f03 rw-s 00001000 fe:00 123   /a store/segments/x y (deleted)";
        let path = &b"/a store/segments/x y (deleted)"[..];
        assert_eq!(path_at(line, 0x7f01), Some(path));
        assert_eq!(path_at(line, 0x7f02), Some(path));
        assert_eq!(path_at(line, 0x7f03), None);
        assert_eq!(path_at(b"7f01-7f03 rw-p 00000000 00:00 0  [heap]", 0x7f01), None);
        for odd in [&b""[..], b"-", b"xyz-7f 1", b"1-", b"fffffffffffffffff-1 /x", b"1-2"] {
            assert_eq!(path_at(odd, 1), None);
        }
    }

    #[test]
    fn a_file_mapped_here_is_found_by_its_address() {
        let mut path = [0; LINE_BYTES];
        // This program's code is a mapped file.
        let here = path_at as *const () as u64;
        let len = mapped_file(here, &mut path).unwrap();
        let ours = std::env::current_exe().unwrap();
        assert_eq!(&path[..len], ours.as_os_str().as_encoded_bytes());
        assert_eq!(mapped_file(8, &mut path), None);
    }
}

//! Who is at the other end of a UNIX socket, and the addresses that are kept for the VMMs' own.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use super::host::getsockopt;

/// What the abstract names of VMMs' control sockets begin with (`crate::control`). No program may use
/// them, whatever it is granted: a VM shows itself to its user, not to programs in other VMs.
pub const CONTROL_PREFIX: &str = "spacejmp/vm/";

/// Whether an abstract name is a VMM's.
pub(super) fn is_control(name: &[u8]) -> bool {
    name.starts_with(CONTROL_PREFIX.as_bytes())
}

/// The process at the other end, as it was when it connected or listened, and its user. The process is 0
/// if it is in a PID namespace that is not seen from here: rustix's `socket_peercred` has no form for
/// that.
///
/// # Errors
/// The host's.
pub(crate) fn peer(socket: &impl AsFd) -> std::io::Result<(i32, u32)> {
    let mut bytes = [0; 12];
    let option = [libc::SOL_SOCKET, libc::SO_PEERCRED];
    getsockopt(socket.as_fd(), option, &mut bytes)
        .map_err(|errno| std::io::Error::from_raw_os_error(errno.raw()))?;
    let word = |at: usize| {
        bytes.iter().skip(at).take(4).rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
    };
    Ok((word(0).cast_signed(), word(4)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{is_control, peer};

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(peer(&one).unwrap(), (std::process::id().cast_signed(), uid));
    }

    #[test]
    fn only_our_names_are_kept_for_us() {
        assert!(is_control(b"spacejmp/vm/0/12"));
        assert!(
            !is_control(b"spacejmp/vms") && !is_control(b"x\0spacejmp/vm/") && !is_control(b"")
        );
    }
}

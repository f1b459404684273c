//! The host's socket calls, with bytes for names and control messages. Policy is elsewhere: what comes
//! here has been checked, and is passed on as it is.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use abi::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::files::host;
use crate::linux::time::{checked, last_errno};

/// Bytes of the longest name of a socket (`sockaddr_storage`).
pub(super) const NAME_MAX: usize = 128;

/// A `sockaddr_storage`, aligned as the host expects.
#[repr(C, align(8))]
struct Name([u8; NAME_MAX]);

/// A control buffer, likewise.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Word([u8; 8]);

fn owned(fd: libc::c_int) -> Result<OwnedFd, Errno> {
    checked(fd.into())?;
    // SAFETY: the host has just made it, and nothing else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `socket`, close-on-exec.
pub(super) fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    owned(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// `socketpair`, close-on-exec.
pub(super) fn socketpair(domain: i32, kind: i32, protocol: i32) -> Result<[OwnedFd; 2], Errno> {
    let mut pair = [0; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: the host writes two numbers.
    checked(unsafe { libc::socketpair(domain, kind, protocol, pair.as_mut_ptr()) }.into())?;
    let [a, b] = pair;
    Ok([owned(a)?, owned(b)?])
}

/// `bind`.
pub(super) fn bind(fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let (at, len) = (name.as_ptr().cast(), name.len() as libc::socklen_t);
    // SAFETY: the host reads `len` bytes, which are there.
    checked(unsafe { libc::bind(fd.as_raw_fd(), at, len) }.into()).map(drop)
}

/// `connect`.
pub(super) fn connect(fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let (at, len) = (name.as_ptr().cast(), name.len() as libc::socklen_t);
    // SAFETY: the host reads `len` bytes, which are there.
    checked(unsafe { libc::connect(fd.as_raw_fd(), at, len) }.into()).map(drop)
}

/// `listen`.
pub(super) fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    checked(unsafe { libc::listen(fd.as_raw_fd(), backlog) }.into()).map(drop)
}

/// `shutdown`.
pub(super) fn shutdown(fd: BorrowedFd<'_>, how: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    checked(unsafe { libc::shutdown(fd.as_raw_fd(), how) }.into()).map(drop)
}

/// Whether a connection waits to be accepted.
pub(super) fn is_ready(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut poll = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let ready = rustix::event::poll(&mut poll, Some(&Timespec::default()));
    ready.map(|count| count > 0).map_err(host)
}

/// `accept4`, close-on-exec: the connection and the peer's name.
pub(super) fn accept(fd: BorrowedFd<'_>, flags: i32) -> Result<(OwnedFd, Vec<u8>), Errno> {
    let mut name = Name([0; NAME_MAX]);
    let mut len = NAME_MAX as libc::socklen_t;
    let at = std::ptr::from_mut(&mut name).cast();
    // SAFETY: the host writes at most `len` bytes of the name, and its length.
    let new =
        unsafe { libc::accept4(fd.as_raw_fd(), at, &raw mut len, flags | libc::SOCK_CLOEXEC) };
    Ok((owned(new)?, front(&name.0, len as usize)))
}

/// Which name of a socket is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// `getsockname`.
    Own,
    /// `getpeername`.
    Peer,
}

/// The name of a socket, or of its peer.
pub(super) fn name(fd: BorrowedFd<'_>, whose: Whose) -> Result<Vec<u8>, Errno> {
    let mut name = Name([0; NAME_MAX]);
    let mut len = NAME_MAX as libc::socklen_t;
    let at = std::ptr::from_mut(&mut name).cast();
    let call = match whose {
        Whose::Own => libc::getsockname,
        Whose::Peer => libc::getpeername,
    };
    // SAFETY: the host writes at most `len` bytes of the name, and its length.
    checked(unsafe { call(fd.as_raw_fd(), at, &raw mut len) }.into())?;
    Ok(front(&name.0, len as usize))
}

/// `getsockopt` into `value`: how many bytes there are.
pub(in crate::linux) fn getsockopt(
    fd: BorrowedFd<'_>,
    [level, option]: [i32; 2],
    value: &mut [u8],
) -> Result<usize, Errno> {
    let mut len = value.len() as libc::socklen_t;
    let at = value.as_mut_ptr().cast();
    // SAFETY: the host writes at most `len` bytes of the value, and its length.
    let done = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, at, &raw mut len) };
    checked(done.into())?;
    Ok(len as usize)
}

/// `setsockopt`.
pub(super) fn setsockopt(
    fd: BorrowedFd<'_>,
    [level, option]: [i32; 2],
    value: &[u8],
) -> Result<(), Errno> {
    let (at, len) = (value.as_ptr().cast(), value.len() as libc::socklen_t);
    // SAFETY: the host reads `len` bytes, which are there.
    checked(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, at, len) }.into()).map(drop)
}

/// An option of one int.
pub(super) fn int_option(fd: BorrowedFd<'_>, option: i32) -> Result<i32, Errno> {
    let mut value = [0; 4];
    getsockopt(fd, [libc::SOL_SOCKET, option], &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// A message to send.
#[derive(Debug, Default)]
pub(super) struct Outgoing<'a> {
    pub(super) name: &'a [u8],
    pub(super) control: &'a [u8],
    pub(super) flags: i32,
}

/// Sends the ranges `iov`, which are guest memory that the caller has pinned, or unreachable.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    iov: &[libc::iovec],
    message: &Outgoing<'_>,
) -> Result<usize, Errno> {
    let control = words(message.control);
    // SAFETY: all zeroes is an empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = message.name.as_ptr().cast_mut().cast();
    header.msg_namelen = message.name.len() as libc::socklen_t;
    header.msg_iov = iov.as_ptr().cast_mut();
    header.msg_iovlen = iov.len();
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = message.control.len();
    // SAFETY: the host reads what the header names: slices that outlive the call, and guest memory that
    // stays mapped in this process as long as the caller's pins, to which no Rust reference points.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, message.flags) };
    usize::try_from(sent).map_err(|_| last_errno())
}

/// What arrived, beside the bytes.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pub(super) bytes: usize,
    pub(super) name: Vec<u8>,
    pub(super) control: Vec<u8>,
    pub(super) flags: i32,
}

/// Receives into the ranges `iov`, which are guest memory that the caller has pinned, or unreachable.
/// There is room for `control` bytes of control messages. The descriptors in them are close-on-exec, and
/// belong to the caller.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    iov: &[libc::iovec],
    control: usize,
    flags: i32,
) -> Result<Incoming, Errno> {
    let mut name = Name([0; NAME_MAX]);
    let mut room = words(&vec![0; control]);
    // SAFETY: all zeroes is an empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = std::ptr::from_mut(&mut name).cast();
    header.msg_namelen = NAME_MAX as libc::socklen_t;
    header.msg_iov = iov.as_ptr().cast_mut();
    header.msg_iovlen = iov.len();
    if control > 0 {
        header.msg_control = room.as_mut_ptr().cast();
        header.msg_controllen = control;
    }
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the host writes what the header names: buffers that outlive the call, and guest memory that
    // stays mapped in this process as long as the caller's pins, to which no Rust reference points.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let bytes = usize::try_from(got).map_err(|_| last_errno())?;
    let all: Vec<u8> = room.iter().flat_map(|word| word.0).collect();
    Ok(Incoming {
        bytes,
        name: front(&name.0, header.msg_namelen as usize),
        control: front(&all, header.msg_controllen.min(control)),
        flags: header.msg_flags,
    })
}

/// A descriptor that came with a control message.
pub(super) fn arrived(fd: i32) -> Result<OwnedFd, Errno> {
    owned(if fd < 0 { -1 } else { fd })
}

fn front(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes.iter().take(len).copied().collect()
}

fn words(bytes: &[u8]) -> Vec<Word> {
    let mut words = vec![Word([0; 8]); bytes.len().div_ceil(8)];
    for (word, piece) in words.iter_mut().zip(bytes.chunks(8)) {
        for (to, from) in word.0.iter_mut().zip(piece) {
            *to = *from;
        }
    }
    words
}

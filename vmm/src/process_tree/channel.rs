//! Messages between the VMMs of a run, with descriptors. Both ends are ours; what the other one
//! sends is checked as far as a message's form, since it may have died half-way.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The most that one message contains: the arguments and the environment of a program, at most 6
/// MiB on Linux, and its descriptors' records.
const BYTES_MAX: usize = 64 << 20;
/// Descriptors at one time (SCM_MAX_FD is 253).
const FDS_AT_ONCE: usize = 200;
/// Descriptors of one message.
const FDS_MAX: usize = 1 << 20;
const HEADER_BYTES: usize = 8;

/// One end of a connection. The other one's end is the end of it, too.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message.
#[derive(Debug, Default)]
pub struct Message {
    /// What it says.
    pub bytes: Vec<u8>,
    /// What comes with it.
    pub fds: Vec<OwnedFd>,
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Again, as long as only a kick has interrupted it: messages are answered immediately.
fn whole<T>(mut call: impl FnMut() -> Result<T, rustix::io::Errno>) -> io::Result<T> {
    Ok(rustix::io::retry_on_intr(&mut call)?)
}

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// The host has no free descriptor.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let made = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let (one, other) = made?;
        Ok((Channel(one), Channel(other)))
    }

    /// From now on receiving fails when nothing has come for so long.
    ///
    /// # Errors
    /// The host's.
    pub fn limit(&self, time: std::time::Duration) -> io::Result<()> {
        let receives = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&self.0, receives, Some(time))?;
        let sends = rustix::net::sockopt::Timeout::Send;
        Ok(rustix::net::sockopt::set_socket_timeout(&self.0, sends, Some(time))?)
    }

    /// The end that another process has sent.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// Two ends for single descriptors, of which many processes may have the first.
    ///
    /// # Errors
    /// The host has no free descriptor.
    pub fn for_descriptors() -> io::Result<(Channel, Channel)> {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let made = rustix::net::socketpair(family, SocketType::SEQPACKET, flags, None);
        let (one, other) = made?;
        Ok((Channel(one), Channel(other)))
    }

    /// Sends one descriptor, in one step.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send_descriptor(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let one = [fd];
        if !control.push(SendAncillaryMessage::ScmRights(&one)) {
            return Err(broken("there is no room for a descriptor"));
        }
        let byte = [IoSlice::new(&[0])];
        whole(|| rustix::net::sendmsg(&self.0, &byte, &mut control, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The descriptors that have been sent in one step.
    ///
    /// # Errors
    /// The host's.
    pub fn receive_descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let mut fds = Vec::new();
        self.receive_some(&mut fds)?;
        Ok(fds)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() > BYTES_MAX || fds.len() > FDS_MAX {
            return Err(broken("the message is too large"));
        }
        let counts = [bytes.len() as u32, fds.len() as u32].map(u32::to_le_bytes);
        self.write(counts.as_flattened())?;
        for some in fds.chunks(FDS_AT_ONCE) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(some)) {
                return Err(broken("too many descriptors at one time"));
            }
            let byte = [IoSlice::new(&[0])];
            whole(|| rustix::net::sendmsg(&self.0, &byte, &mut control, SendFlags::NOSIGNAL))?;
        }
        self.write(bytes)
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = whole(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL))?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// The next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// It was not complete.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut header = [0; HEADER_BYTES];
        let (first, _) = header.split_at_mut(1);
        if whole(|| rustix::io::read(&self.0, &mut *first))? == 0 {
            return Ok(None);
        }
        self.read(header.get_mut(1..).unwrap_or_default())?;
        let [bytes, fds] = [0, 4].map(|at| {
            let word = header.get(at..).and_then(|rest| rest.first_chunk());
            u32::from_le_bytes(word.copied().unwrap_or_default()) as usize
        });
        if bytes > BYTES_MAX || fds > FDS_MAX {
            return Err(broken("the message is too large"));
        }
        let mut message = Message::default();
        while message.fds.len() < fds {
            let before = message.fds.len();
            self.receive_some(&mut message.fds)?;
            if message.fds.len() == before {
                return Err(broken("descriptors are missing"));
            }
        }
        message.bytes = vec![0; bytes];
        self.read(&mut message.bytes)?;
        Ok(Some(message))
    }

    fn receive_some(&self, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        whole(|| {
            let mut into = [IoSliceMut::new(&mut byte)];
            rustix::net::recvmsg(&self.0, &mut into, &mut control, flags)
        })?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = part {
                fds.extend(some);
            }
        }
        Ok(())
    }

    fn read(&self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let got = whole(|| rustix::io::read(&self.0, &mut *into))?;
            if got == 0 {
                return Err(broken("the message is cut off"));
            }
            into = into.get_mut(got..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use super::Channel;

    #[test]
    fn a_message_arrives_whole_with_all_its_descriptors() {
        let (here, there) = Channel::pair().unwrap();
        let mut file = std::fs::File::from(
            rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap(),
        );
        file.write_all(b"content").unwrap();
        let fds = vec![file.as_fd(); 450];
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let received = std::thread::scope(|scope| {
            let received = scope.spawn(|| there.receive().unwrap().unwrap());
            here.send(&bytes, &fds).unwrap();
            received.join().unwrap()
        });
        assert_eq!((received.bytes, received.fds.len()), (bytes, 450));
        let mut same = std::fs::File::from(received.fds.into_iter().next_back().unwrap());
        same.rewind().unwrap();
        let mut text = String::new();
        same.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
    }

    #[test]
    fn the_other_ends_death_is_seen_between_messages_and_within_one() {
        let (here, there) = Channel::pair().unwrap();
        here.send(b"", &[]).unwrap();
        drop(here);
        assert!(there.receive().unwrap().is_some());
        assert!(there.receive().unwrap().is_none());
        let (here, there) = Channel::pair().unwrap();
        here.write(&[9, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
        drop(here);
        assert!(there.receive().is_err());
    }
}

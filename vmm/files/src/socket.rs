//! UNIX sockets as names in directories: where a program may connect, where it may bind, and what
//! such a name is called inside and outside. The sockets themselves are the host's, made by the caller.
//!
//! The host is never given the program's path. To connect, the socket is pinned first, beneath its
//! grant, and named by the pinned descriptor. To bind, the name is one component in a directory that is
//! open, which the host does not follow. Both only in a grant that may be written: who is connected to a
//! server can make it act.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::Errno;
use cap_std::fs::Dir;
use rustix::fs::FileType;

use super::attr::by_number;
use super::disk;
use super::files::Files;
use super::host;
use super::open::pin;
use super::resolve::{Found, Step};

/// Bytes of a socket's name on Linux, its NUL included.
const NAME_BYTES: usize = 108;
/// Names and directories of sockets that are kept, so that one can be told by the other.
const NAMES_MAX: usize = 1 << 16;
const DIRECTORIES_MAX: usize = 256;
/// Senders that a socket remembers.
const PEERS_MAX: usize = 1024;

/// A place of a UNIX socket. What its name on the host leads to stays the same as long as this is kept.
#[derive(Debug)]
pub struct SocketPlace {
    name: Vec<u8>,
    #[expect(dead_code, reason = "keeps the number in the name taken")]
    pin: Pin,
}

#[derive(Debug)]
#[expect(dead_code, reason = "keeps the number in the name taken")]
enum Pin {
    Socket(OwnedFd),
    Directory(Arc<Dir>),
}

impl SocketPlace {
    /// The name for the host.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

/// The addresses from which something came to a socket that may answer.
#[derive(Debug, Default)]
pub struct Peers(Mutex<VecDeque<SocketAddr>>);

impl Peers {
    /// Notes that something came from there.
    pub fn note(&self, from: SocketAddr) {
        let mut known = lock(&self.0);
        if known.contains(&from) {
            return;
        }
        if known.len() >= PEERS_MAX {
            known.pop_front();
        }
        known.push_back(from);
    }

    /// Whether something came from there, not long ago.
    #[must_use]
    pub fn knows(&self, address: SocketAddr) -> bool {
        lock(&self.0).contains(&address)
    }
}

/// The sockets that the program has bound: names on the host, and what the program calls them.
#[derive(Debug, Default)]
pub(super) struct SocketNames(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Kept open, so that the number in a name always means the same directory.
    directories: HashMap<(u64, u64), Arc<Dir>>,
    names: HashMap<Vec<u8>, Vec<u8>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// The socket at `path`, to be connected to.
    ///
    /// # Errors
    /// As Linux: `ENOENT`, `ECONNREFUSED` for what is no socket. `EACCES` in a grant that is read-only.
    pub fn socket_to_connect(&self, path: &[u8]) -> Result<SocketPlace, Errno> {
        if self.memory(libc::AT_FDCWD, path)?.is_some_and(|at| at.exists()) {
            return Err(Errno::from_raw(libc::ECONNREFUSED));
        }
        let base = self.base(libc::AT_FDCWD, path)?;
        let found = self.lookup(&base, path, true, |at, follow| {
            let read_only = at.grant.read_only;
            Ok(match pin(at, follow)? {
                Step::Done(fd) => Step::Done((fd, read_only)),
                Step::Link => Step::Link,
            })
        })?;
        match found {
            Found::Host((fd, read_only)) => {
                let stat = rustix::fs::fstat(&fd).map_err(host)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
                    return Err(Errno::from_raw(libc::ECONNREFUSED));
                }
                if read_only {
                    return Err(Errno::EACCES);
                }
                let name = by_number(fd.as_fd()).into_bytes();
                Ok(SocketPlace { name, pin: Pin::Socket(fd) })
            }
            Found::Node(_) | Found::Leaf(_) => Err(Errno::from_raw(libc::ECONNREFUSED)),
            Found::Absent => Err(Errno::ENOENT),
        }
    }

    /// The place for a new socket at `path`.
    ///
    /// # Errors
    /// As Linux, `EADDRINUSE` among them; `ENAMETOOLONG` if the last component has more than some 85
    /// bytes; `ENOBUFS` when sockets were bound in very many directories.
    pub fn socket_to_bind(&self, path: &[u8]) -> Result<SocketPlace, Errno> {
        let at = self.new_entry(libc::AT_FDCWD, path, false).map_err(|errno| match errno {
            Errno::EEXIST => Errno::from_raw(libc::EADDRINUSE),
            errno => errno,
        })?;
        let stat = rustix::fs::fstat(at.dir()).map_err(host)?;
        let mut known = lock(&self.socket_names.0);
        let is_full = known.directories.len() >= DIRECTORIES_MAX;
        let key = (stat.st_dev, stat.st_ino);
        if is_full && !known.directories.contains_key(&key) || known.names.len() >= NAMES_MAX {
            return Err(Errno::from_raw(libc::ENOBUFS));
        }
        let dir = known.directories.entry(key).or_insert_with(|| at.dir.clone()).clone();
        let way = format!("/proc/self/fd/{}/", dir.as_raw_fd());
        let name = [way.as_bytes(), at.name().as_bytes()].concat();
        if name.len() >= NAME_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        // Whether it is made is seen elsewhere.
        self.naming(disk::NAME_BYTES, || Ok(SocketPlace { name, pin: Pin::Directory(dir) }))
    }

    /// Notes that a socket was bound there, by the program's name.
    pub fn note_bound(&self, place: &SocketPlace, path: &[u8]) {
        lock(&self.socket_names.0).names.insert(place.name.clone(), path.to_vec());
    }

    /// What the program knows a socket by that has this name on the host: empty if by nothing.
    #[must_use]
    pub fn socket_name_inside(&self, name: &[u8]) -> Vec<u8> {
        if let Some(inside) = lock(&self.socket_names.0).names.get(name) {
            return inside.clone();
        }
        match self.namespace.inside(name) {
            inside if inside == b"(unreachable)" => Vec::new(),
            inside => inside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_forgets_the_oldest_sender_when_there_are_too_many() {
        let peers = Peers::default();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        for port in 0..=PEERS_MAX as u16 {
            peers.note(address(port));
            peers.note(address(port));
        }
        assert!(!peers.knows(address(0)) && peers.knows(address(1)));
        assert!(peers.knows(address(PEERS_MAX as u16)));
    }
}

//! Where a server listens.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::epoll;

use super::Options;
use super::connection::Stream;

/// A socket that is listened to.
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

/// Numbers of listeners among events; those of connections are smaller.
const FIRST: u64 = 1 << 63;

/// Which listener an event is about, if it is one.
pub(super) fn index(id: u64) -> Option<usize> {
    id.checked_sub(FIRST).and_then(|index| usize::try_from(index).ok())
}

/// All that the options name.
pub(super) fn all(options: &Options, epoll: &OwnedFd) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for &address in &options.tcp {
        let listener = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok(Listener::Tcp(listener, bound))
        });
        listeners.push(listener.map_err(|error| {
            format!(
                "cannot listen at {address}: {error}; is it granted (`spacejmp run --listen {}`)?",
                address.port()
            )
        })?);
    }
    if let Some(path) = &options.unix {
        listeners.push(unix(path).map_err(|error| {
            format!(
                "cannot listen at {}: {error}; is its directory granted (`--dir`)?",
                path.display()
            )
        })?);
    }
    for (number, listener) in (FIRST..).zip(&listeners) {
        epoll::add(epoll, listener, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
            .map_err(|error| format!("cannot wait for connections: {error}"))?;
    }
    Ok(listeners)
}

fn unix(path: &Path) -> std::io::Result<Listener> {
    // One that was left by a server that was killed.
    let is_socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Listener::Unix(listener, path.to_owned()))
}

impl Listener {
    /// The next connection, if there is one.
    pub(super) fn accept(&self) -> Option<Stream> {
        match self {
            Listener::Tcp(listener, _) => {
                let (stream, _) = listener.accept().ok()?;
                // Replies are small and wanted at once.
                let _ = stream.set_nodelay(true);
                stream.set_nonblocking(true).ok()?;
                Some(Stream::Tcp(stream))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(true).ok()?;
                Some(Stream::Unix(stream))
            }
        }
    }

    pub(super) fn place(&self) -> String {
        match self {
            Listener::Tcp(_, address) => address.to_string(),
            Listener::Unix(_, path) => path.display().to_string(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener, _) => listener.as_fd(),
            Listener::Unix(listener, _) => listener.as_fd(),
        }
    }
}

//! The names of files in memory (`/dev/shm`), which all VMMs of a run have in common: the first VMM's starter
//! keeps them, and the run's System V objects ([`sysv`]). A VMM that needs them connects ([`door`](super::door)).
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use abi::Errno;
use rustix::event::{PollFd, PollFlags, poll};

use super::door::{Bell, Door, PATIENCE};
use super::{Channel, Registry, sysv};
use crate::files::{Files, MemoryAccount, NameServer, OverLimit};

/// A way to the server.
#[must_use]
pub fn client(door: &Door) -> Arc<dyn NameServer> {
    Arc::new(Client { bell: door.bell(), channel: Mutex::default() })
}

#[derive(Debug)]
struct Client {
    bell: Bell,
    /// With the process that has connected: a copy of it has to do so itself.
    channel: Mutex<Option<(u32, Channel)>>,
}

impl Client {
    fn connect(&self) -> io::Result<Channel> {
        let channel = self.bell.connect()?;
        channel.limit(PATIENCE)?;
        Ok(channel)
    }
}

impl NameServer for Client {
    fn ask(
        &self,
        request: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |error: io::Error| {
            tracing::warn!(%error, "names of files in memory are not shared with other processes");
            Errno::EIO
        };
        let this = std::process::id();
        let at = match channel.take() {
            Some((of, at)) if of == this => at,
            other => {
                // A copy's descriptor is closed, and its number may be another one's.
                std::mem::forget(other);
                self.connect().map_err(gone)?
            }
        };
        at.send(request, &fd.into_iter().collect::<Vec<_>>()).map_err(gone)?;
        let answer = at.receive().and_then(|answer| answer.ok_or(io::ErrorKind::BrokenPipe.into()));
        let answer = answer.map_err(gone)?;
        *channel = Some((this, at));
        Ok((answer.bytes, answer.fds))
    }
}

/// Whom the server charges: the run, no process of it.
#[derive(Debug)]
struct OfRun(Arc<Registry>);

impl MemoryAccount for OfRun {
    fn charge(&self, bytes: u64) -> Result<(), OverLimit> {
        self.note(bytes);
        Ok(())
    }

    fn note(&self, bytes: u64) {
        self.0.note(bytes);
    }

    fn release(&self, bytes: u64) {
        self.0.release(bytes);
    }

    fn used_bytes(&self) -> u64 {
        self.0.total_bytes()
    }

    fn limit_bytes(&self) -> u64 {
        u64::MAX
    }
}

/// The server's side.
#[derive(Debug)]
pub struct Server {
    knocks: Channel,
    connections: Vec<Channel>,
    /// The same process has the run's System V objects.
    sysv: sysv::server::Server,
}

impl Server {
    /// For the names in these files, and for System V objects.
    #[must_use]
    pub fn new(
        knocks: Channel,
        files: &Files,
        registry: &Arc<Registry>,
        sysv: sysv::server::Server,
    ) -> Server {
        files.charge_to(Arc::new(OfRun(registry.clone())));
        Server { knocks, connections: Vec::new(), sysv }
    }

    /// All its descriptors, for a copy of this process to close.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let own = self.connections.iter().chain([&self.knocks]).map(AsRawFd::as_raw_fd);
        own.chain(self.sysv.descriptors()).collect()
    }

    /// Answers questions until something comes from `other`, or that is closed.
    pub fn serve_until(&mut self, other: &Channel, files: &Files) {
        loop {
            let ready: Vec<bool> = {
                let all = [other, &self.knocks].into_iter().chain(&self.connections);
                let all = all.map(AsFd::as_fd).chain(self.sysv.waits_for());
                let mut fds: Vec<_> =
                    all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
                if rustix::io::retry_on_intr(|| poll(&mut fds, None)).is_err() {
                    return;
                }
                fds.iter().map(|fd| !fd.revents().is_empty()).collect()
            };
            let [is_other, is_knock, rest @ ..] = ready.as_slice() else { return };
            let (connections, sysv) = rest.split_at(self.connections.len().min(rest.len()));
            self.sysv.serve(sysv);
            let mut asked = connections.iter();
            self.connections.retain(|at| match asked.next() {
                Some(true) => answer(at, files).is_some(),
                _ => true,
            });
            if *is_knock && let Ok(fds) = self.knocks.receive_descriptors() {
                let new = fds.into_iter().map(Channel::from_fd);
                self.connections.extend(new.filter(|at| at.limit(PATIENCE).is_ok()));
            }
            if *is_other {
                return;
            }
        }
    }
}

/// Answers one question; `None` for a VMM that is gone.
fn answer(at: &Channel, files: &Files) -> Option<()> {
    let message = at.receive().ok()??;
    let (bytes, fds) = files.serve_names(&message.bytes, message.fds);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    at.send(&bytes, &fds).ok()
}

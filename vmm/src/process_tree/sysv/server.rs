//! Questions about System V objects, and their answers, between the VMMs of a run and the one process that has them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use abi::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Account, Answer, Outcome, State};
use crate::process_tree::door::{Bell, Door, PATIENCE};
use crate::process_tree::wire::{Reader, Writer};
use crate::process_tree::{Channel, Registry};

/// A VMM's connections: one for each thread that asks at the same time.
#[derive(Debug)]
pub struct Client {
    bell: Bell,
    /// With the process that has connected: a copy of it has to do so itself.
    idle: Mutex<Vec<(u32, Channel)>>,
}

/// A question that was asked.
#[derive(Debug)]
pub struct Asked<'a> {
    client: &'a Client,
    channel: Option<Channel>,
}

impl Client {
    /// A way to the server.
    #[must_use]
    pub fn new(door: &Door) -> Client {
        Client { bell: door.bell(), idle: Mutex::default() }
    }

    /// Asks.
    ///
    /// # Errors
    /// `ENOSYS` if the server is gone.
    pub fn ask(&self, question: &[u8]) -> Result<Asked<'_>, Errno> {
        let gone = |error: io::Error| {
            tracing::warn!(%error, "System V IPC has ended with the run's first program");
            Errno::ENOSYS
        };
        let this = std::process::id();
        let channel = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // A copy's descriptors are closed, and their numbers may be others'.
            while let Some(other) = idle.pop_if(|(of, _)| *of != this) {
                std::mem::forget(other);
            }
            idle.pop().map(|(_, channel)| channel)
        };
        let channel = match channel {
            Some(channel) => channel,
            None => self.bell.connect().map_err(gone)?,
        };
        channel.send(question, &[]).map_err(gone)?;
        Ok(Asked { client: self, channel: Some(channel) })
    }

    /// A child has the segments that this process has attached.
    ///
    /// # Errors
    /// `ESRCH` for one that has ended.
    pub fn forked(&self, child: i32) -> Result<(), Errno> {
        let mut question = Writer::default();
        question.words(&[super::question::FORKED, child as u64]);
        self.ask(&question.finish())?.answer(false).map(drop)
    }

    /// This process has none attached any longer: it runs another program.
    pub fn executed(&self) {
        let mut question = Writer::default();
        question.words(&[super::question::EXECUTED]);
        // Without the server there is nothing to be attached.
        let _ = self.ask(&question.finish()).and_then(|asked| asked.answer(false));
    }
}

impl Asked<'_> {
    /// What becomes readable with the answer.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Asks to wait no longer. The answer may be on its way all the same.
    pub fn cancel(&self) {
        let mut question = Writer::default();
        question.words(&[super::question::CANCEL]);
        if let Some(channel) = &self.channel {
            let _ = channel.send(&question.finish(), &[]);
        }
    }

    /// The answer, and what a message says. `cancelled`: it is followed by that of the cancellation if it was not that.
    ///
    /// # Errors
    /// What was answered; `EINTR` if it was cancelled, `ENOSYS` if the server is gone.
    pub fn answer(mut self, cancelled: bool) -> Result<(Answer, Vec<u8>), Errno> {
        let channel = self.channel.take().ok_or(Errno::ENOSYS)?;
        let next = || {
            let message = channel.receive().ok().flatten().ok_or(Errno::ENOSYS)?;
            Ok::<_, Errno>(decode(&message.bytes, message.fds))
        };
        let (of_cancel, mut answer) = next()?;
        if cancelled && !of_cancel {
            // It came before; the other one says nothing more.
            let _ = next()?;
        }
        if cancelled && of_cancel {
            answer = Err(Errno::EINTR);
        }
        let mut idle = self.client.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((std::process::id(), channel));
        answer
    }
}

fn encode(is_cancel: bool, answer: &Result<Answer, Errno>, content: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    let (errno, value, words): (u64, u64, &[u64]) = match answer {
        Ok(answer) => (0, answer.value, &answer.words),
        Err(errno) => (errno.raw() as u64, 0, &[]),
    };
    out.words(&[u64::from(is_cancel), errno, value, words.len() as u64]);
    out.words(words);
    out.bytes(content);
    out.finish()
}

type Decoded = (bool, Result<(Answer, Vec<u8>), Errno>);

fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Decoded {
    let mut input = Reader(bytes);
    let mut whole = || {
        let [is_cancel, errno, value] = input.words()?;
        let count = input.count(8)?;
        let mut words = Vec::with_capacity(count);
        for _ in 0..count {
            let [word] = input.words()?;
            words.push(word);
        }
        let content = input.bytes()?.to_vec();
        Some((is_cancel != 0, errno, Answer { value, words, file: None }, content))
    };
    match whole() {
        Some((is_cancel, 0, mut answer, content)) => {
            answer.file = fds.into_iter().next().map(Into::into);
            (is_cancel, Ok((answer, content)))
        }
        Some((is_cancel, errno, ..)) => (is_cancel, Err(Errno::from_raw(errno as i32))),
        None => (false, Err(Errno::from_raw(libc::EPROTO))),
    }
}

/// The run's memory, up to its limit.
#[derive(Debug)]
struct OfRun {
    registry: Arc<Registry>,
    limit_bytes: u64,
}

impl Account for OfRun {
    fn charge(&self, bytes: u64) -> bool {
        self.registry.charge(bytes, self.limit_bytes)
    }

    fn release(&self, bytes: u64) {
        self.registry.release(bytes);
    }
}

#[derive(Debug)]
struct Connection {
    number: u64,
    pid: i32,
    channel: Channel,
}

/// The server's side.
#[derive(Debug)]
pub struct Server {
    knocks: Channel,
    connections: Vec<Connection>,
    next: u64,
    /// What becomes readable at the end of each process that has asked.
    processes: BTreeMap<i32, OwnedFd>,
    state: State,
    account: OfRun,
}

impl Server {
    /// For a run's processes, which may hold so much.
    #[must_use]
    pub fn new(knocks: Channel, registry: &Arc<Registry>, limit_bytes: u64) -> Server {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        Server {
            knocks,
            connections: Vec::new(),
            next: 0,
            processes: BTreeMap::new(),
            state: State::new(uid.as_raw(), gid.as_raw()),
            account: OfRun { registry: registry.clone(), limit_bytes },
        }
    }

    /// What it waits for.
    pub fn waits_for(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let connections = self.connections.iter().map(|connection| connection.channel.as_fd());
        let processes = self.processes.values().map(AsFd::as_fd);
        [self.knocks.as_fd()].into_iter().chain(connections).chain(processes)
    }

    /// Deals with what is ready, in the order of [`Server::waits_for`].
    pub fn serve(&mut self, ready: &[bool]) {
        let Some((is_knock, ready)) = ready.split_first() else { return };
        let (connections, processes) = ready.split_at(self.connections.len().min(ready.len()));
        let ended: Vec<i32> = self
            .processes
            .keys()
            .zip(processes)
            .filter_map(|(pid, ready)| ready.then_some(*pid))
            .collect();
        let asking: Vec<u64> = self
            .connections
            .iter()
            .zip(connections)
            .filter_map(|(connection, ready)| ready.then_some(connection.number))
            .collect();
        // First: who asks may have waited for such an end. Connections are looked at before processes, so it is
        // among these.
        for pid in ended {
            self.processes.remove(&pid);
            self.connections.retain(|connection| connection.pid != pid);
            self.state.end_of(&self.account, pid);
        }
        for number in asking {
            if self.answer(number).is_none() {
                self.connections.retain(|connection| connection.number != number);
                self.state.forget(&self.account, number);
            }
        }
        self.settle();
        if *is_knock && let Ok(fds) = self.knocks.receive_descriptors() {
            fds.into_iter().for_each(|fd| self.connect(fd));
        }
    }

    fn connect(&mut self, fd: OwnedFd) {
        // Whose it is says the host.
        let peer =
            rustix::net::sockopt::socket_peercred(&fd).map(|peer| peer.pid.as_raw_nonzero().get());
        let channel = Channel::from_fd(fd);
        if let Ok(pid) = peer
            && channel.limit(PATIENCE).is_ok()
            && self.knows(pid)
        {
            self.next += 1;
            self.connections.push(Connection { number: self.next, pid, channel });
        }
    }

    /// Watches a process of the run for its end.
    fn knows(&mut self, pid: i32) -> bool {
        if self.processes.contains_key(&pid) {
            return true;
        }
        let opened = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        // Asked once the number is bound to a process.
        match opened {
            Some(Ok(fd)) if self.account.registry.contains(pid) => {
                self.processes.insert(pid, fd);
                true
            }
            _ => false,
        }
    }

    fn answer(&mut self, number: u64) -> Option<()> {
        let connection = self.connections.iter().find(|connection| connection.number == number)?;
        let pid = connection.pid;
        let mut message = connection.channel.receive().ok()??;
        let mut question = Reader(&message.bytes);
        let [what] = question.words()?;
        if what == super::question::FORKED
            && let Some([child]) = question.words()
        {
            let child = i32::try_from(child).ok()?;
            if !self.knows(child) {
                return self.send(number, false, Err(Errno::ESRCH), Vec::new());
            }
        }
        let outcome = self.state.ask(&self.account, (number, pid), &message.bytes);
        // Nothing that a program has sent stays here.
        message.bytes.fill(0);
        match outcome {
            Outcome::Waits => Some(()),
            Outcome::Done(answer, content) => {
                self.send(number, what == super::question::CANCEL, answer, content)
            }
        }
    }

    fn send(
        &self,
        number: u64,
        is_cancel: bool,
        answer: Result<Answer, Errno>,
        mut content: Vec<u8>,
    ) -> Option<()> {
        let connection = self.connections.iter().find(|connection| connection.number == number)?;
        let mut bytes = encode(is_cancel, &answer, &content);
        let file = answer.as_ref().ok().and_then(|answer| answer.file.as_ref());
        let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        let sent = connection.channel.send(&bytes, &fds);
        bytes.fill(0);
        content.fill(0);
        sent.ok()
    }

    fn settle(&mut self) {
        for (number, answer, content) in self.state.settle(&self.account) {
            // One that is gone is seen when its connection is looked at.
            let _ = self.send(number, false, answer, content);
        }
    }

    /// All its descriptors, for a copy of this process to close.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let files = self.state.files().map(AsRawFd::as_raw_fd);
        self.waits_for().map(|fd| fd.as_raw_fd()).chain(files).collect()
    }
}

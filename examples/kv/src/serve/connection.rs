//! One connection: its socket, what has arrived, and what is to be sent.

use std::collections::{BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::reply::Out;
use crate::request::{Limits, Parser, Words};
use crate::session::Session;

/// A connected socket.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client that waits.
pub(super) struct Blocked {
    pub(super) request: Words,
    pub(super) since: Instant,
    pub(super) until: Option<Instant>,
}

/// A client.
pub(super) struct Connection {
    pub(super) id: u64,
    stream: Stream,
    parser: Parser,
    /// When the first of its requests arrived: connections are served in this order.
    pub(super) arrived: u64,
    /// Requests that are whole.
    pub(super) pending: VecDeque<Words>,
    pub(super) out: Out,
    /// What of `out` was sent.
    pub(super) sent: usize,
    pub(super) session: Session,
    /// It has to give a password first.
    pub(super) is_stranger: bool,
    pub(super) blocked: Option<Blocked>,
    pub(super) channels: BTreeSet<Vec<u8>>,
    pub(super) patterns: BTreeSet<Vec<u8>>,
    pub(super) name: Vec<u8>,
    /// It ends when everything is sent.
    pub(super) is_closing: bool,
    is_gone: bool,
    /// What `epoll` waits for.
    interest: EventFlags,
}

/// With more to be sent, no further requests are carried out.
pub(super) const OUTPUT: usize = 1 << 20;
/// With more to be sent that it has not asked for, a subscriber is given up.
const UNASKED: usize = 32 << 20;
/// So many requests are taken at a time.
const PENDING: usize = 1000;
const PIECE: usize = 64 << 10;

impl Connection {
    pub(super) fn new(id: u64, stream: Stream, is_stranger: bool) -> Connection {
        Connection {
            id,
            stream,
            parser: Parser::default(),
            arrived: 0,
            pending: VecDeque::new(),
            out: Out::default(),
            sent: 0,
            session: Session::default(),
            is_stranger,
            blocked: None,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            name: Vec::new(),
            is_closing: false,
            is_gone: false,
            interest: EventFlags::IN,
        }
    }

    pub(super) fn watch(&self, epoll: &OwnedFd) -> rustix::io::Result<()> {
        epoll::add(epoll, self, EventData::new_u64(self.id), self.interest)
    }

    /// Takes what has arrived.
    pub(super) fn receive(&mut self, known: Limits) {
        if self.is_closing {
            // Who does not read its last reply is not waited for.
            self.is_gone = true;
            return;
        }
        let mut piece = [0; PIECE];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut piece),
            Stream::Unix(stream) => stream.read(&mut piece),
        };
        match read {
            Ok(0) => self.is_gone = true,
            Ok(len) => {
                self.parser.push(&piece[..len]);
                self.parse(known);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.is_gone = true,
        }
    }

    /// Takes whole requests from what has arrived; `known` are the limits of who has given the password.
    pub(super) fn parse(&mut self, known: Limits) {
        while self.pending.len() < PENDING && !self.is_closing {
            let limits = if self.is_stranger { Limits::STRANGER } else { known };
            match self.parser.next(limits) {
                Ok(Some(request)) => self.pending.push_back(request),
                Ok(None) => return,
                Err(message) => {
                    // Replies to what came before it come first.
                    if self.pending.is_empty() {
                        self.out.error(&format!("ERR Protocol error: {message}"));
                        self.is_closing = true;
                    } else {
                        self.pending.push_back(vec![Vec::new(), message.into_bytes()]);
                    }
                    return;
                }
            }
        }
    }

    /// Whether requests can be carried out now.
    pub(super) fn can_go_on(&self) -> bool {
        !self.pending.is_empty()
            && self.blocked.is_none()
            && !self.is_gone
            && !self.is_closing
            && self.unsent() <= OUTPUT
    }

    pub(super) fn unsent(&self) -> usize {
        self.out.bytes.len() - self.sent
    }

    /// How many channels and patterns it listens to.
    pub(super) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Sends what can be sent. Whether the connection is still there.
    pub(super) fn flush(&mut self, epoll: &OwnedFd) -> bool {
        while self.unsent() > 0 && !self.is_gone {
            let bytes = &self.out.bytes[self.sent..];
            let written = match &mut self.stream {
                Stream::Tcp(stream) => stream.write(bytes),
                Stream::Unix(stream) => stream.write(bytes),
            };
            match written {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_gone = true,
            }
        }
        if self.unsent() == 0 {
            self.out.bytes.clear();
            self.sent = 0;
            self.out.bytes.shrink_to(OUTPUT);
            self.is_gone |= self.is_closing;
        } else if self.sent > OUTPUT {
            self.out.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.is_gone |= self.subscriptions() > 0 && self.unsent() > UNASKED;
        if self.is_gone {
            return false;
        }
        let mut interest = EventFlags::empty();
        // Who has requests left, or does not read, is not read from; it is noticed if it goes.
        interest.set(EventFlags::IN, self.pending.len() < PENDING && self.unsent() <= OUTPUT);
        interest.set(EventFlags::OUT, self.unsent() > 0);
        if interest != self.interest {
            self.interest = interest;
            return epoll::modify(epoll, &*self, EventData::new_u64(self.id), interest).is_ok();
        }
        true
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

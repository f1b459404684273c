//! A server for those who come over a socket. It is a client like others: it enters the address space, as programs
//! beside it do at the same time.
//!
//! One thread waits for all connections. What has arrived meanwhile is carried out in two visits: one
//! to read, for connections that only read, and one to write, which is one change and one sync, however
//! many connections there are. Replies to what writes are sent when it is stored.
//!
//! - here: options and the loop; `connection`: sockets and buffers; `listen`: where it listens
//! - `round`: visits; `admin`: commands about the server and the connection; `config`: `CONFIG`;
//!   `channels`: `PUBLISH`

mod admin;
mod channels;
mod config;
mod connection;
mod listen;
mod round;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::Store;
use config::Settings;
use connection::Connection;
use listen::Listener;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen by TCP.
    pub tcp: Vec<SocketAddr>,
    /// Where to listen by a UNIX socket.
    pub unix: Option<PathBuf>,
    /// What clients have to know.
    pub password: Option<String>,
    /// How many there may be.
    pub max_clients: usize,
}

/// A server, and all its connections.
struct Server<'a> {
    store: &'a Store,
    settings: Settings,
    epoll: OwnedFd,
    listeners: Vec<Listener>,
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    began: Instant,
    /// Commands carried out, and connections accepted.
    commands: u64,
    accepted: u64,
    /// How often something has arrived.
    arrivals: u64,
    /// The version at which the last attempt for those who wait was made.
    tried: u64,
}

/// How long the loop sleeps if there is nothing to do: keys expire meanwhile.
const IDLE: Duration = Duration::from_millis(100);
/// The same while clients wait for what another program may store.
const WAITING: Duration = Duration::from_millis(10);

/// Bytes, or the end.
const ARRIVED: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);

/// Serves until the program is ended. `ready` is called once it listens.
///
/// # Errors
/// Nothing can be listened to, or the address space not be entered.
pub fn run(
    store: &Store,
    options: Options,
    ready: impl FnOnce(&[String]),
) -> Result<(), Box<dyn std::error::Error>> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let listeners = listen::all(&options, &epoll)?;
    let places: Vec<String> = listeners.iter().map(Listener::place).collect();
    let mut server = Server {
        store,
        settings: Settings::new(&options),
        epoll,
        listeners,
        connections: BTreeMap::new(),
        next_id: 1,
        began: Instant::now(),
        commands: 0,
        accepted: 0,
        arrivals: 0,
        tried: 0,
    };
    // Whoever cannot enter should know now.
    store.keyspace()?;
    ready(&places);
    loop {
        server.turn()?;
    }
}

impl Server<'_> {
    /// Waits for something to do, and does it.
    fn turn(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let mut events = Vec::with_capacity(256);
        let limit = self.sleep();
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (id, flags) = (event.data.u64(), event.flags);
            if let Some(index) = listen::index(id) {
                self.accept(index);
            } else if flags.intersects(ARRIVED)
                && let Some(connection) = self.connections.get_mut(&id)
            {
                self.arrivals += 1;
                if connection.pending.is_empty() {
                    connection.arrived = self.arrivals;
                }
                connection.receive(self.settings.limits);
            }
        }
        while self.round()? {}
        self.wake()?;
        self.flush();
        if events.is_empty() {
            self.store.purge()?;
        }
        Ok(())
    }

    fn sleep(&self) -> Duration {
        let now = Instant::now();
        if self.connections.values().any(Connection::can_go_on) {
            return Duration::ZERO;
        }
        let blocked =
            self.connections.values().filter_map(|connection| connection.blocked.as_ref());
        let next = blocked.map(|blocked| {
            blocked.until.map_or(WAITING, |until| until.saturating_duration_since(now)).min(WAITING)
        });
        next.min().unwrap_or(IDLE)
    }

    fn accept(&mut self, index: usize) {
        while let Some(stream) = self.listeners.get(index).and_then(Listener::accept) {
            let is_full = self.connections.len() >= self.settings.max_clients;
            let id = self.next_id;
            self.next_id += 1;
            self.accepted += 1;
            let needs_password = self.settings.password.is_some();
            let mut connection = Connection::new(id, stream, needs_password);
            if is_full {
                connection.out.error("ERR max number of clients reached");
                connection.is_closing = true;
            }
            if connection.watch(&self.epoll).is_ok() {
                self.connections.insert(id, connection);
            }
        }
    }

    /// Sends what can be sent, and lets go of those who are gone.
    fn flush(&mut self) {
        let epoll = &self.epoll;
        self.connections.retain(|_, connection| connection.flush(epoll));
    }
}

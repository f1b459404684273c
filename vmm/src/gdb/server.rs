//! The debugger's thread: it waits for gdb, reads its packets, and tells it what happened.
//!
//! It is confined more than all others: it waits, reads and writes. Whatever concerns the program, a thread of
//! the program does. After `detach`, or when the connection ends, the program goes on as if there were no
//! debugger, and the next gdb that connects stops it again.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::packet::{Reader, Received, frame};
use super::place::{Connection, Listener};
use super::program::{Program, ended};
use super::session::{self, Next, Session};
use super::target::Target as _;
use crate::confine::{self, Kind, Policy};
use crate::linux::debug::Debugger;

/// While threads are on their way to a stand.
const LOOK_MS: i64 = 10;
/// How many times until they are kicked again.
const LOOKS: u64 = 16;
/// How long gdb may take to hang up once it was told of the end.
const HANG_UP: Duration = Duration::from_secs(1);

/// What a gdb is told that is connected by the control socket, before its first packet.
pub const BEGUN: &str = "gdb\n";

/// Starts the thread that waits for gdb, once.
///
/// # Errors
/// The host has no thread left.
pub fn start(
    debugger: &Arc<Debugger>,
    listener: &Arc<Listener>,
    policy: &Policy,
) -> io::Result<()> {
    let at = listener.clone();
    spawn(debugger, policy, move |server| server.run(&at)).map(drop)
}

/// Starts a thread that serves one gdb, which is at the other end of `stream`. Returns whether it does: another gdb
/// may be there already, or be waited for.
///
/// # Errors
/// The host's.
pub(crate) fn attach(
    debugger: &Arc<Debugger>,
    stream: UnixStream,
    policy: &Policy,
) -> io::Result<bool> {
    let connection = Connection::given(stream)?;
    spawn(debugger, policy, move |server| {
        if connection.write(BEGUN.as_bytes()).is_ok() {
            server.serve_one(&connection, true);
        }
        server.debugger.served();
    })
}

fn spawn(
    debugger: &Arc<Debugger>,
    policy: &Policy,
    serve: impl FnOnce(&Server<'_>) + Send + 'static,
) -> io::Result<bool> {
    let (policy, served) = (*policy, debugger.clone());
    debugger.serve_by(|| {
        let thread = std::thread::Builder::new().name("gdb".to_owned());
        thread.spawn(move || match confine::enter(Kind::Debugger, &policy) {
            Ok(()) => serve(&Server { debugger: &served }),
            Err(error) => {
                tracing::error!("the program is not debugged: {error}");
                served.let_go();
            }
        })
    })
}

struct Server<'a> {
    debugger: &'a Arc<Debugger>,
}

/// How a session ended.
enum Over {
    /// gdb has left, or is gone.
    Left,
    /// The program has ended.
    Ended,
}

impl Server<'_> {
    /// Serves those that connect, one at a time.
    fn run(&self, listener: &Listener) {
        let mut attached = !self.debugger.is_from_start();
        while self.debugger.end().is_none() {
            self.wait(listener.as_fd(), None);
            let Some(connection) = listener.accept() else { continue };
            self.serve_one(&connection, attached);
            attached = true;
        }
    }

    fn serve_one(&self, connection: &Connection, attached: bool) {
        self.debugger.halt();
        match self.serve(connection, attached) {
            Ok(Over::Ended) => return,
            Ok(Over::Left) => {}
            Err(error) => tracing::info!("the connection to gdb has ended: {error}"),
        }
        self.debugger.let_go();
    }

    /// Waits until something has happened, or `source` can be read; returns whether that is so.
    fn wait(&self, source: BorrowedFd<'_>, limit_ms: Option<i64>) -> bool {
        let bell = self.debugger.bell();
        let mut fds = [
            PollFd::from_borrowed_fd(source, PollFlags::IN),
            PollFd::from_borrowed_fd(bell, PollFlags::IN),
        ];
        let limit =
            limit_ms.map(|ms| Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 });
        // A signal ends it early.
        if poll(&mut fds, limit.as_ref()).is_err() {
            return false;
        }
        let [source, bell] = fds.map(|fd| !fd.revents().is_empty());
        if bell {
            self.debugger.silence_bell();
        }
        source
    }

    fn serve(&self, connection: &Connection, attached: bool) -> io::Result<Over> {
        let program = Program(self.debugger);
        let mut session = Session::new(attached);
        let mut reader = Reader::default();
        let (mut acknowledges, mut last) = (true, Vec::new());
        // Whether gdb waits for the program to stand, and is told when it does.
        let mut is_told = false;
        let mut runs = true;
        let mut bytes = [0; 4096];
        let mut looks = 0_u64;
        loop {
            if let Some(outcome) = self.debugger.end() {
                if is_told {
                    connection.write(&frame(&session::ended(program.pid(), ended(&outcome))))?;
                    self.await_hang_up(connection);
                }
                return Ok(Over::Ended);
            }
            if runs && self.debugger.is_still() {
                runs = false;
                let event = self.debugger.next_event();
                if is_told {
                    last = frame(&session.stopped(&program, event));
                    connection.write(&last)?;
                } else if let Some((tid, _)) = event {
                    // What it stood at when gdb came.
                    session.begins_at(tid);
                }
                is_told = false;
            }
            let limit_ms = (runs && self.debugger.is_halted()).then_some(LOOK_MS);
            if limit_ms.is_some() {
                looks += 1;
                if looks.is_multiple_of(LOOKS) {
                    // A thread may have missed it.
                    self.debugger.halt();
                }
            }
            if !self.wait(connection.as_fd(), limit_ms) || (runs && !is_told) {
                continue;
            }
            let read = connection.read(&mut bytes)?;
            if read == 0 {
                return Ok(Over::Left);
            }
            for byte in bytes.iter().take(read) {
                let packet = match reader.take(*byte) {
                    Some(Received::Packet(packet)) => packet,
                    Some(Received::Interrupt) => {
                        self.debugger.halt();
                        continue;
                    }
                    Some(Received::Again) => {
                        connection.write(&last)?;
                        continue;
                    }
                    Some(Received::Damaged) => {
                        connection.write(b"-")?;
                        continue;
                    }
                    None => continue,
                };
                if acknowledges {
                    connection.write(b"+")?;
                }
                if runs {
                    // gdb sends none until it is told.
                    continue;
                }
                match session.handle(&program, &packet) {
                    Next::Answer(answer) => last = frame(&answer),
                    Next::AnswerWithoutAcks(answer) => {
                        acknowledges = false;
                        last = frame(&answer);
                    }
                    Next::Wait => {
                        (runs, is_told) = (true, true);
                        continue;
                    }
                    Next::Detach(answer) => {
                        self.debugger.let_go();
                        connection.write(&frame(&answer))?;
                        return Ok(Over::Left);
                    }
                    Next::Kill(answer) => {
                        program.kill();
                        if !answer.is_empty() {
                            connection.write(&frame(&answer))?;
                        }
                        return Ok(Over::Left);
                    }
                }
                connection.write(&last)?;
            }
        }
    }

    /// What is closed with something unread in it takes back what was sent (tcp(7)).
    fn await_hang_up(&self, connection: &Connection) {
        connection.finish();
        let limit = Instant::now() + HANG_UP;
        let mut bytes = [0; 256];
        while let left = limit.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            let left_ms = left.as_millis() as i64 + 1;
            if self.wait(connection.as_fd(), Some(left_ms))
                && !matches!(connection.read(&mut bytes), Ok(1..))
            {
                return;
            }
        }
    }
}

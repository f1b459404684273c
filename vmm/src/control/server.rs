//! A VM's side of its control socket: a source of the event loop.
//!
//! Nothing here waits. A question is a line, the answer is made at once and sent as the other side
//! takes it; who does neither loses its place to the next one when all are taken.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use event_manager::{EventOps, EventSet, Events};

use super::address::{VmName, VmRef, listen, own_uid};
use super::report::VmReport;
use crate::gdb;
use crate::linux::net::peer;
use crate::linux::task::Process;

/// Connections at the same time.
const CONNECTIONS: usize = 8;
/// A question has no more bytes.
pub(super) const QUESTION_BYTES_MAX: usize = 64;

/// What is asked of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// A report as JSON.
    Report,
    /// Nothing but whether it lives.
    Alive,
    /// Its calls from now on, on this connection.
    Trace,
    /// To be debugged, by this connection.
    Gdb,
    /// A snapshot: what comes then is a conversation with the process's thread (`linux::snapshot`).
    Snapshot,
}

/// What follows from a question.
pub(super) enum Reply {
    /// This is sent, and that is all.
    Answer(Vec<u8>),
    /// The connection has a viewer, until it is closed.
    Viewed,
    /// Somebody else has it.
    HandedOver,
}

impl Question {
    pub(super) fn line(self) -> &'static str {
        match self {
            Question::Report => "report",
            Question::Alive => "alive",
            Question::Trace => "trace",
            Question::Gdb => "gdb",
            Question::Snapshot => "snapshot",
        }
    }

    pub(super) fn parse(line: &[u8]) -> Option<Question> {
        let all =
            [Question::Report, Question::Alive, Question::Trace, Question::Gdb, Question::Snapshot];
        all.into_iter().find(|question| question.line().as_bytes() == line)
    }
}

/// The control sockets of a VM: by its process's number, and by its name.
#[derive(Debug)]
pub struct Control {
    name: Option<VmName>,
    listeners: Vec<UnixListener>,
}

impl Control {
    /// Listens as the calling process, and as `name` if it is given one.
    ///
    /// # Errors
    /// Another VM of this user has that name ([`io::ErrorKind::AddrInUse`]), or the host's.
    pub fn listen(name: Option<VmName>) -> io::Result<Control> {
        let pid = VmRef::Pid(std::process::id().cast_signed());
        let by_name = name.clone().map(VmRef::Name);
        let listeners = [pid].into_iter().chain(by_name).map(|vm| listen(&vm));
        Ok(Control { name, listeners: listeners.collect::<io::Result<_>>()? })
    }

    /// The name it was given.
    #[must_use]
    pub fn name(&self) -> Option<&VmName> {
        self.name.as_ref()
    }
}

/// Serves [`Control`] to the event loop.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    control: &'a Control,
    /// The `data` of the first listener's events; those of further ones and of connections follow.
    first: u32,
    connections: [Option<Connection>; CONNECTIONS],
    next: usize,
}

impl<'a> Server<'a> {
    /// Its events are those with `first` and higher.
    pub(crate) fn new(control: &'a Control, first: u32) -> Server<'a> {
        Server { control, first, connections: Default::default(), next: 0 }
    }

    /// What is to be watched from the start.
    pub(crate) fn events(&self) -> impl Iterator<Item = Events> {
        let events = |(listener, data)| Events::with_data(listener, data, EventSet::IN);
        self.control.listeners.iter().zip(self.first..).map(events)
    }

    /// Something happened to what is watched as `data`.
    pub(crate) fn on_event(&mut self, data: u32, process: &Process, ops: &mut EventOps<'_>) {
        let index = data.saturating_sub(self.first) as usize;
        if let Some(listener) = self.control.listeners.get(index) {
            while let Ok((stream, _)) = listener.accept() {
                self.take(stream, process, ops);
            }
            return;
        }
        let Some(place) = self.connections.get_mut(index - self.control.listeners.len()) else {
            return;
        };
        let Some(connection) = place else { return };
        let name = self.control.name();
        let told = connection.go_on(|question, stream| answer(question, stream, process, name));
        let data = |events| Events::with_data(&connection.stream, data, events);
        let watched = match told {
            Ok(Wants::Question) => Ok(()),
            Ok(Wants::Room) => ops.modify(data(EventSet::OUT)),
            Ok(Wants::Nothing) | Err(_) => {
                let _ = ops.remove(data(EventSet::IN));
                connection.end(process);
                *place = None;
                Ok(())
            }
        };
        if watched.is_err()
            && let Some(connection) = place.take()
        {
            connection.end(process);
        }
    }

    fn take(&mut self, stream: UnixStream, process: &Process, ops: &mut EventOps<'_>) {
        // Who may end this process may look at it.
        let is_allowed = peer(&stream).is_ok_and(|(_, uid)| uid == own_uid() || uid == 0);
        if !is_allowed || stream.set_nonblocking(true).is_err() {
            return;
        }
        let free = self.connections.iter().position(Option::is_none);
        let index = free.unwrap_or(self.next % CONNECTIONS);
        self.next = index + 1;
        let data = self.first + (self.control.listeners.len() + index) as u32;
        if let Some(old) = self.connections[index].take() {
            let _ = ops.remove(Events::empty(&old.stream));
            old.end(process);
        }
        let events = Events::with_data_raw(stream.as_raw_fd(), data, EventSet::IN);
        if ops.add(events).is_ok() {
            self.connections[index] = Some(Connection::new(stream));
        }
    }
}

fn answer(
    question: Question,
    stream: &UnixStream,
    process: &Process,
    name: Option<&VmName>,
) -> Reply {
    let busy = || Reply::Answer(b"busy\n".to_vec());
    let report = match question {
        Question::Alive => return Reply::Answer(b"alive\n".to_vec()),
        Question::Trace => {
            let is_viewed = stream.try_clone().is_ok_and(|stream| process.view(stream));
            return if is_viewed { Reply::Viewed } else { busy() };
        }
        Question::Gdb => {
            let is_served = stream.try_clone().is_ok_and(|stream| is_debugged(process, stream));
            return if is_served { Reply::HandedOver } else { busy() };
        }
        Question::Snapshot => {
            let is_begun = stream.try_clone().is_ok_and(|stream| process.want_snapshot(stream));
            // Without a word: who asks expects a conversation.
            return if is_begun { Reply::HandedOver } else { Reply::Answer(Vec::new()) };
        }
        Question::Report => VmReport::of(process, name),
    };
    // Numbers and texts have a JSON form.
    let mut text = serde_json::to_vec(&report).unwrap_or_default();
    text.push(b'\n');
    Reply::Answer(text)
}

/// Has a gdb at the other end of `stream` debug the process, if that is possible.
fn is_debugged(process: &Process, stream: UnixStream) -> bool {
    // A profile's samples would be steps.
    let debugger = process.vm.debug.as_ref().filter(|_| process.profile.is_none());
    let Some(debugger) = debugger else { return false };
    gdb::server::attach(debugger, stream, &process.vm.confined).unwrap_or_else(|error| {
        tracing::warn!("cannot start a thread for gdb: {error}");
        false
    })
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wants {
    Question,
    Room,
    Nothing,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    asked: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    /// The other side looks at the process's calls, until it hangs up.
    is_viewer: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Connection {
        let (asked, answer) = (Vec::new(), Vec::new());
        Connection { stream, asked, answer, sent: 0, is_viewer: false }
    }

    /// Bytes of a question that it keeps.
    pub(super) fn kept(&self) -> usize {
        self.asked.len()
    }

    fn end(&self, process: &Process) {
        if self.is_viewer {
            process.viewed.end();
        }
    }

    /// Reads or writes as far as that goes without waiting.
    pub(super) fn go_on(
        &mut self,
        answer: impl FnOnce(Question, &UnixStream) -> Reply,
    ) -> io::Result<Wants> {
        if self.answer.is_empty() {
            let mut bytes = [0; QUESTION_BYTES_MAX];
            let read = match self.stream.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Wants::Question);
                }
                read => read?,
            };
            if self.is_viewer {
                return Ok(if read == 0 { Wants::Nothing } else { Wants::Question });
            }
            self.asked.extend(bytes.iter().take(read));
            let Some(end) = self.asked.iter().position(|byte| *byte == b'\n') else {
                let is_over = read == 0 || self.asked.len() > QUESTION_BYTES_MAX;
                return Ok(if is_over { Wants::Nothing } else { Wants::Question });
            };
            let question = self.asked.get(..end).and_then(Question::parse);
            let Some(question) = question else { return Ok(Wants::Nothing) };
            match answer(question, &self.stream) {
                Reply::Answer(answer) => self.answer = answer,
                Reply::Viewed => {
                    self.is_viewer = true;
                    return Ok(Wants::Question);
                }
                Reply::HandedOver => return Ok(Wants::Nothing),
            }
        }
        while let Some(rest) = self.answer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Wants::Room),
                Err(error) => return Err(error),
            }
        }
        Ok(Wants::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::{Connection, Question, Reply, Wants};

    fn connected() -> (UnixStream, Connection) {
        let (other, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        (other, Connection::new(stream))
    }

    fn never(_: Question, _: &UnixStream) -> Reply {
        panic!("nothing was asked")
    }

    #[test]
    fn a_question_may_come_in_pieces() {
        let (mut other, mut connection) = connected();
        assert_eq!(connection.go_on(never).unwrap(), Wants::Question);
        other.write_all(b"rep").unwrap();
        assert_eq!(connection.go_on(never).unwrap(), Wants::Question);
        other.write_all(b"ort\n").unwrap();
        let told = connection.go_on(|question, _| {
            assert_eq!(question, Question::Report);
            Reply::Answer(b"all".to_vec())
        });
        assert_eq!(told.unwrap(), Wants::Nothing);
        drop(connection);
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all");
    }

    #[test]
    fn what_is_no_question_ends_the_connection() {
        for bytes in [&b"halt\n"[..], b"\n", b"report ", &[0xff; 100]] {
            let (mut other, mut connection) = connected();
            other.write_all(bytes).unwrap();
            drop(other);
            let mut wants = Wants::Question;
            for _ in 0..4 {
                if wants == Wants::Question {
                    wants = connection.go_on(never).unwrap();
                }
            }
            assert_eq!(wants, Wants::Nothing, "{bytes:?}");
        }
    }

    #[test]
    fn a_viewer_is_one_until_it_hangs_up() {
        let (mut other, mut connection) = connected();
        other.write_all(b"trace\n").unwrap();
        let told = connection.go_on(|question, _| {
            assert_eq!(question, Question::Trace);
            Reply::Viewed
        });
        assert_eq!(told.unwrap(), Wants::Question);
        other.write_all(b"report\n").unwrap();
        assert_eq!(connection.go_on(never).unwrap(), Wants::Question);
        assert!(connection.is_viewer);
        drop(other);
        assert_eq!(connection.go_on(never).unwrap(), Wants::Nothing);
    }

    #[test]
    fn a_connection_that_is_handed_over_is_read_no_more() {
        let (mut other, mut connection) = connected();
        other.write_all(b"gdb\n").unwrap();
        let mut kept = None;
        let told = connection.go_on(|question, stream| {
            assert_eq!(question, Question::Gdb);
            kept = stream.try_clone().ok();
            Reply::HandedOver
        });
        assert_eq!(told.unwrap(), Wants::Nothing);
        drop(connection);
        other.write_all(b"+").unwrap();
        let mut byte = [0];
        assert_eq!(kept.unwrap().read(&mut byte).unwrap(), 1, "it is open still");
    }

    #[test]
    fn a_long_answer_is_sent_as_the_other_side_takes_it() {
        let (mut other, mut connection) = connected();
        other.write_all(b"report\n").unwrap();
        let long = vec![b'x'; 8 << 20];
        let mut wants = connection.go_on(|_, _| Reply::Answer(long.clone())).unwrap();
        assert_eq!(wants, Wants::Room);
        let mut got = 0;
        let mut bytes = vec![0; 1 << 20];
        while wants == Wants::Room {
            got += other.read(&mut bytes).unwrap();
            wants = connection.go_on(never).unwrap();
        }
        drop(connection);
        while let Ok(more @ 1..) = other.read(&mut bytes) {
            got += more;
        }
        assert_eq!(got, long.len());
    }
}

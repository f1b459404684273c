//! What gdb's packets mean, and the answers (gdb's manual, "Packets" and "General Query Packets").
//!
//! Whatever is in a packet, the answer is a packet: an empty one for what is not served, which gdb
//! then does without, and an error for what cannot be done.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use abi::Errno;

use super::packet::{PACKET_BYTES, hex, number, unhex};
use super::registers::Layout;
use super::signals::{from_gdb, to_gdb};
use super::target::{Ended, File, Target};
use crate::linux::debug::seats::{Action, Event, Pass};
use crate::linux::debug::watches::Access;

/// Files that gdb may have open at the same time.
const FILES_MAX: usize = 64;
/// What fits into an answer, in hexadecimal digits and with all of it escaped.
const ANSWER_BYTES: usize = PACKET_BYTES / 2 - 64;

/// What is to be done after a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Send this.
    Answer(Vec<u8>),
    /// Send this, and from then on acknowledge nothing.
    AnswerWithoutAcks(Vec<u8>),
    /// Nothing is sent until the threads stand again.
    Wait,
    /// Send this if there is something; gdb leaves, and the program goes on.
    Detach(Vec<u8>),
    /// The same; the program is to be ended.
    Kill(Vec<u8>),
}

/// What is known of a connection.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The thread that registers and memory are of: 0 for any.
    general: i32,
    /// The thread that was told of last.
    last: i32,
    /// Whether the program was running before gdb came.
    attached: bool,
    files: BTreeMap<u64, File>,
    next_file: u64,
}

impl Session {
    /// A new connection; to a program that was running before gdb came, or not.
    pub(super) fn new(attached: bool) -> Session {
        Session { attached, ..Session::default() }
    }

    /// Something has happened to that thread before gdb came.
    pub(super) fn begins_at(&mut self, tid: i32) {
        self.last = tid;
    }

    /// The answer to a packet.
    pub(super) fn handle(&mut self, target: &impl Target, packet: &[u8]) -> Next {
        match self.answer(target, packet) {
            Ok(next) => next,
            Err(Refused::Unknown) => Next::Answer(Vec::new()),
            Err(Refused::Error(number)) => Next::Answer(format!("E{number:02x}").into_bytes()),
            Err(Refused::Because(text)) => Next::Answer(format!("E.{text}").into_bytes()),
        }
    }

    /// What is told of a thread that something happened to, or none: it is one that gdb has interrupted.
    pub(super) fn stopped(&mut self, target: &impl Target, at: Option<(i32, Event)>) -> Vec<u8> {
        let (tid, event) = match at {
            Some((tid, event)) => (tid, Some(event)),
            None => (self.some_thread(target).unwrap_or(self.last), None),
        };
        (self.last, self.general) = (tid, tid);
        let (signal, more) = match event {
            None => (libc::SIGINT, String::new()),
            Some(Event::Breakpoint) => (libc::SIGTRAP, "swbreak:;".to_owned()),
            Some(Event::ProcessorBreakpoint) => (libc::SIGTRAP, "hwbreak:;".to_owned()),
            Some(Event::Step) => (libc::SIGTRAP, String::new()),
            Some(Event::Watch(at, access)) => {
                let kind = match access {
                    Access::Write => "watch",
                    Access::Read => "rwatch",
                    Access::Any => "awatch",
                };
                (libc::SIGTRAP, format!("{kind}:{at:x};"))
            }
            Some(Event::Replaced) => {
                let path = String::from_utf8(hex(&target.executable())).unwrap_or_default();
                (libc::SIGTRAP, format!("exec:{path};"))
            }
            Some(Event::Signal(info)) => (info.signo, String::new()),
        };
        let (signal, pid) = (to_gdb(signal), target.pid());
        format!("T{signal:02x}thread:p{pid:x}.{tid:x};{more}").into_bytes()
    }

    fn answer(&mut self, target: &impl Target, packet: &[u8]) -> Result<Next, Refused> {
        let Some((kind, rest)) = packet.split_first() else { return Err(Refused::Unknown) };
        let layout = Layout { avx: target.avx() };
        let answer = match kind {
            b'?' => {
                let tid = self.thread(target)?;
                self.initial(target, tid)
            }
            b'g' => {
                let registers = target.registers(self.thread(target)?).ok_or(GONE)?;
                hex(&layout.values(&registers))
            }
            b'G' => {
                let tid = self.thread(target)?;
                let mut registers = target.registers(tid).ok_or(GONE)?;
                let values = unhex(rest).ok_or(BAD)?;
                ok(layout.set_values(&mut registers, &values)
                    && target.set_registers(tid, registers))?
            }
            b'p' => {
                let registers = target.registers(self.thread(target)?).ok_or(GONE)?;
                hex(&layout.value(&registers, number(rest).ok_or(BAD)?).ok_or(BAD)?)
            }
            b'P' => {
                let (which, value) = split(rest, b'=').ok_or(BAD)?;
                let tid = self.thread(target)?;
                let mut registers = target.registers(tid).ok_or(GONE)?;
                let value = unhex(value).ok_or(BAD)?;
                let is_set = layout.set_value(&mut registers, number(which).ok_or(BAD)?, &value);
                ok(is_set && target.set_registers(tid, registers))?
            }
            b'm' => {
                let (at, len) = address_and_length(rest)?;
                let bytes = target.read(self.thread(target)?, at, len.min(ANSWER_BYTES));
                if bytes.is_empty() && len > 0 {
                    return Err(Refused::Error(FAULT));
                }
                hex(&bytes)
            }
            b'M' | b'X' => {
                let (place, data) = split(rest, b':').ok_or(BAD)?;
                let (at, len) = address_and_length(place)?;
                let data = if *kind == b'M' { unhex(data).ok_or(BAD)? } else { data.to_vec() };
                if data.len() != len {
                    return Err(BAD);
                }
                let is_written = data.is_empty() || target.write(self.thread(target)?, at, data);
                if !is_written {
                    return Err(Refused::Error(FAULT));
                }
                b"OK".to_vec()
            }
            b'Z' | b'z' => return self.set_point(target, *kind == b'Z', rest),
            b'H' => {
                let (what, id) = rest.split_first().ok_or(BAD)?;
                if *what == b'g' {
                    self.general = match thread_id(id)? {
                        Which::One(tid) if target.tids().contains(&tid) => tid,
                        Which::One(_) => return Err(Refused::Error(GONE_NUMBER)),
                        Which::All | Which::Any => 0,
                    };
                }
                b"OK".to_vec()
            }
            b'T' => match thread_id(rest)? {
                Which::One(tid) => ok(target.tids().contains(&tid))?,
                Which::All | Which::Any => b"OK".to_vec(),
            },
            b'k' => return Ok(Next::Kill(Vec::new())),
            b'D' => return Ok(Next::Detach(b"OK".to_vec())),
            b'v' => return self.verbose(target, rest),
            b'q' => self.query(target, rest)?,
            b'Q' => return set(target, rest),
            _ => return Err(Refused::Unknown),
        };
        Ok(Next::Answer(answer))
    }

    fn initial(&mut self, target: &impl Target, tid: i32) -> Vec<u8> {
        let told = target.told(tid);
        // As natively: what stands for gdb stands at SIGTRAP.
        self.stopped(target, Some((tid, told.unwrap_or(Event::Step))))
    }

    /// The thread that a packet is about.
    fn thread(&self, target: &impl Target) -> Result<i32, Refused> {
        match self.general {
            0 => self.some_thread(target).ok_or(GONE),
            tid => Ok(tid),
        }
    }

    fn some_thread(&self, target: &impl Target) -> Option<i32> {
        let tids = target.tids();
        let first = tids.first().copied();
        tids.into_iter().find(|tid| *tid == self.last).or(first)
    }

    fn set_point(&self, target: &impl Target, is_set: bool, rest: &[u8]) -> Result<Next, Refused> {
        let mut parts = rest.split(|byte| *byte == b',');
        let kind = parts.next().unwrap_or_default();
        let at = parts.next().and_then(number);
        let mut watch = |access| {
            let len = parts.next().and_then(number).ok_or(BAD)?;
            Ok(target.set_watch(at.ok_or(BAD)?, len, access, is_set))
        };
        let is_done = match kind {
            b"0" => target.set_point(self.thread(target)?, at.ok_or(BAD)?, is_set),
            b"1" => target.set_processor_point(self.thread(target)?, at.ok_or(BAD)?, is_set),
            b"2" => watch(Access::Write)?,
            b"3" => watch(Access::Read)?,
            b"4" => watch(Access::Any)?,
            _ => return Err(Refused::Unknown),
        };
        match is_done {
            true => Ok(Next::Answer(b"OK".to_vec())),
            false => Err(Refused::Error(FAULT)),
        }
    }

    fn verbose(&mut self, target: &impl Target, rest: &[u8]) -> Result<Next, Refused> {
        let (name, arguments) = split(rest, b';').unwrap_or((rest, b""));
        match name {
            b"Cont?" => Ok(Next::Answer(b"vCont;c;C;s;S".to_vec())),
            b"Cont" => self.resume(target, arguments),
            b"Kill" => Ok(Next::Kill(b"OK".to_vec())),
            _ => match rest.strip_prefix(b"File:") {
                Some(operation) => self.file(target, operation).map(Next::Answer),
                None => Err(Refused::Unknown),
            },
        }
    }

    fn resume(&mut self, target: &impl Target, arguments: &[u8]) -> Result<Next, Refused> {
        let tids = target.tids();
        let mut actions: Vec<(i32, Action)> = Vec::new();
        let mut rest = None;
        for part in arguments.split(|byte| *byte == b';') {
            let (action, which) = match split(part, b':') {
                Some((action, id)) => (action, thread_id(id)?),
                None => (part, Which::All),
            };
            let (kind, signal) = action.split_first().ok_or(BAD)?;
            let pass = match kind {
                b'c' | b's' => Pass::Nothing,
                b'C' | b'S' => match number(signal).ok_or(BAD)? {
                    0 => Pass::Nothing,
                    signal => Pass::Signal(from_gdb(signal).ok_or(BAD)?),
                },
                _ => return Err(Refused::Unknown),
            };
            let action = Action { step: matches!(kind, b's' | b'S'), pass };
            // What comes first holds.
            match which {
                Which::One(tid) if actions.iter().all(|(known, _)| *known != tid) => {
                    actions.push((tid, action));
                }
                Which::One(_) => {}
                Which::All | Which::Any => rest = rest.or(Some(action)),
            }
        }
        if rest.is_none() && !actions.iter().any(|(tid, _)| tids.contains(tid)) {
            return Err(GONE);
        }
        target.resume(&actions, rest);
        Ok(Next::Wait)
    }

    fn query(&mut self, target: &impl Target, rest: &[u8]) -> Result<Vec<u8>, Refused> {
        let (name, arguments) = match rest.iter().position(|byte| matches!(byte, b':' | b',')) {
            Some(at) => rest.split_at(at),
            None => (rest, &b""[..]),
        };
        let arguments = arguments.get(1..).unwrap_or_default();
        match name {
            b"Supported" => Ok(format!(
                "PacketSize={PACKET_BYTES:x};QStartNoAckMode+;multiprocess+;vContSupported+;\
                 swbreak+;hwbreak+;exec-events+;QPassSignals+;qXfer:features:read+;qXfer:auxv:read+;\
                 qXfer:exec-file:read+;qXfer:threads:read+;qXfer:siginfo:read+"
            )
            .into_bytes()),
            b"Attached" => Ok(if self.attached { b"1".to_vec() } else { b"0".to_vec() }),
            b"C" => {
                let tid = self.thread(target)?;
                Ok(format!("QCp{:x}.{tid:x}", target.pid()).into_bytes())
            }
            b"fThreadInfo" => {
                let pid = target.pid();
                let ids: Vec<String> =
                    target.tids().iter().map(|tid| format!("p{pid:x}.{tid:x}")).collect();
                // Of so many that they do not fit, the rest is in qXfer:threads.
                let mut list = format!("m{}", ids.join(","));
                list.truncate(ANSWER_BYTES);
                if list.len() == ANSWER_BYTES {
                    list.truncate(list.rfind(',').unwrap_or_default());
                }
                Ok(list.into_bytes())
            }
            b"sThreadInfo" => Ok(b"l".to_vec()),
            b"Rcmd" => {
                let command = unhex(arguments).ok_or(BAD)?;
                let command = String::from_utf8_lossy(&command).into_owned();
                let text = target.monitor(self.thread(target)?, command.trim());
                let mut text = text.unwrap_or_else(|| {
                    format!("`{}` is no command; there is: monitor vas\n", command.trim())
                });
                while text.len() > ANSWER_BYTES {
                    text.truncate(text.rfind('\n').unwrap_or_default());
                    text.truncate(text.len().min(ANSWER_BYTES + 1));
                }
                Ok(hex(text.as_bytes()))
            }
            b"Xfer" => self.transfer(target, arguments),
            _ => Err(Refused::Unknown),
        }
    }

    /// `qXfer`: parts of what is told as a whole.
    fn transfer(&self, target: &impl Target, arguments: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut parts = arguments.splitn(4, |byte| *byte == b':');
        let mut next = || parts.next().unwrap_or_default();
        let (object, operation, annex, place) = (next(), next(), next(), next());
        if operation != b"read" {
            return Err(Refused::Unknown);
        }
        let whole = match object {
            b"features" if annex == b"target.xml" => {
                Layout { avx: target.avx() }.description().into_bytes()
            }
            b"auxv" => target.auxv(),
            b"exec-file" => target.executable(),
            b"threads" => threads(target).into_bytes(),
            b"siginfo" => match target.told(self.thread(target)?) {
                Some(Event::Signal(info)) => info.head_bytes().to_vec(),
                _ => return Err(Refused::Error(GONE_NUMBER)),
            },
            _ => return Err(Refused::Unknown),
        };
        let (at, len) = address_and_length(place)?;
        let rest = usize::try_from(at).ok().and_then(|at| whole.get(at..)).unwrap_or_default();
        let part = rest.get(..len.min(ANSWER_BYTES)).unwrap_or(rest);
        let more = if part.len() < rest.len() { b"m" } else { b"l" };
        Ok([more, part].concat())
    }

    /// `vFile`: files, as the program sees them, to read (gdb's manual, "Host I/O Packets").
    fn file(&mut self, target: &impl Target, operation: &[u8]) -> Result<Vec<u8>, Refused> {
        let (name, arguments) = split(operation, b':').ok_or(BAD)?;
        let mut arguments = arguments.split(|byte| *byte == b',');
        let mut next = || arguments.next().unwrap_or_default();
        let answer = match name {
            b"setfs" => Ok((0, None)),
            b"open" => {
                let (path, flags) = (unhex(next()).ok_or(BAD)?, number(next()).ok_or(BAD)?);
                self.open(target, path, flags).map(|fd| (fd, None))
            }
            b"close" => match self.files.remove(&number(next()).ok_or(BAD)?) {
                Some(_) => Ok((0, None)),
                None => Err(Errno::EBADF),
            },
            b"pread" => {
                let (fd, len) = (number(next()).ok_or(BAD)?, number(next()).ok_or(BAD)?);
                let at = number(next()).ok_or(BAD)?;
                let len = usize::try_from(len).unwrap_or(usize::MAX).min(ANSWER_BYTES);
                let tid = self.thread(target)?;
                let file = self.files.get(&fd).ok_or(Errno::EBADF);
                let bytes = file.and_then(|file| target.read_file(tid, file.clone(), at, len));
                bytes.map(|bytes| (bytes.len() as u64, Some(bytes)))
            }
            b"fstat" => {
                let file = self.files.get(&number(next()).ok_or(BAD)?).ok_or(Errno::EBADF);
                file.map(|file| {
                    let stat = file.stat();
                    (stat.len() as u64, Some(stat))
                })
            }
            _ => return Err(Refused::Unknown),
        };
        Ok(match answer {
            Ok((number, None)) => format!("F{number:x}").into_bytes(),
            Ok((number, Some(bytes))) => [format!("F{number:x};").into_bytes(), bytes].concat(),
            // gdb's numbers of errors are Linux's where it knows them.
            Err(errno) => format!("F-1,{:x}", errno.raw()).into_bytes(),
        })
    }

    fn open(&mut self, target: &impl Target, path: Vec<u8>, flags: u64) -> Result<u64, Errno> {
        // To read, and nothing else.
        if flags != 0 {
            return Err(Errno::EROFS);
        }
        if self.files.len() >= FILES_MAX {
            return Err(Errno::EMFILE);
        }
        let tid = self.thread(target).map_err(|_| Errno::ESRCH)?;
        let file = target.open(tid, path)?;
        self.next_file += 1;
        self.files.insert(self.next_file, file);
        Ok(self.next_file)
    }
}

/// What gdb sets.
fn set(target: &impl Target, rest: &[u8]) -> Result<Next, Refused> {
    if rest == b"StartNoAckMode" {
        return Ok(Next::AnswerWithoutAcks(b"OK".to_vec()));
    }
    let list = rest.strip_prefix(b"PassSignals:").ok_or(Refused::Unknown)?;
    let mut set = 0;
    for text in list.split(|byte| *byte == b';').filter(|text| !text.is_empty()) {
        // Others are of other systems.
        if let Some(signal) = from_gdb(number(text).ok_or(BAD)?) {
            set |= 1 << (signal - 1);
        }
    }
    target.pass_signals(set);
    Ok(Next::Answer(b"OK".to_vec()))
}

/// How the program ended.
pub(super) fn ended(pid: i32, ended: Ended) -> Vec<u8> {
    match ended {
        Ended::Exited(status) => format!("W{status:02x};process:{pid:x}"),
        Ended::Killed(signal) => format!("X{:02x};process:{pid:x}", to_gdb(signal)),
    }
    .into_bytes()
}

/// Why there is no answer.
enum Refused {
    Unknown,
    Error(i32),
    Because(&'static str),
}

const FAULT: i32 = libc::EFAULT;
const GONE_NUMBER: i32 = libc::ESRCH;
const BAD: Refused = Refused::Error(libc::EINVAL);
const GONE: Refused = Refused::Because("the thread does not stand any more: the program is ending");

fn ok(done: bool) -> Result<Vec<u8>, Refused> {
    if done { Ok(b"OK".to_vec()) } else { Err(Refused::Error(GONE_NUMBER)) }
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = text.iter().position(|byte| *byte == at)?;
    let (before, rest) = text.split_at_checked(index)?;
    Some((before, rest.get(1..)?))
}

fn address_and_length(text: &[u8]) -> Result<(u64, usize), Refused> {
    let (at, len) = split(text, b',').ok_or(BAD)?;
    let len = usize::try_from(number(len).ok_or(BAD)?).map_err(|_| BAD)?;
    Ok((number(at).ok_or(BAD)?, len))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    All,
    Any,
    One(i32),
}

/// `TID`, `pPID.TID`, or with `-1` and `0` for all and any.
fn thread_id(text: &[u8]) -> Result<Which, Refused> {
    let text = match text.strip_prefix(b"p") {
        None => text,
        // Of all of its threads. There is one process.
        Some(process) => split(process, b'.').map_or(&b"-1"[..], |(_, thread)| thread),
    };
    match text {
        b"-1" => Ok(Which::All),
        b"0" => Ok(Which::Any),
        text => {
            let tid = number(text).and_then(|tid| i32::try_from(tid).ok());
            tid.map(Which::One).ok_or(BAD)
        }
    }
}

fn threads(target: &impl Target) -> String {
    let mut xml = "<?xml version=\"1.0\"?><threads>".to_owned();
    let pid = target.pid();
    for tid in target.tids() {
        let name = target.name(tid);
        let _ = write!(xml, "<thread id=\"p{pid:x}.{tid:x}\" name=\"");
        for letter in String::from_utf8_lossy(&name).chars().filter(|it| !it.is_control()) {
            match letter {
                '<' | '>' | '&' | '"' | '\'' => {
                    let _ = write!(xml, "&#{};", u32::from(letter));
                }
                letter => xml.push(letter),
            }
        }
        xml.push_str("\"/>");
    }
    xml.push_str("</threads>");
    xml
}

#[cfg(test)]
mod tests;

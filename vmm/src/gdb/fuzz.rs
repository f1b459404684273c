//! For fuzz targets: gdb's side of the connection on any bytes.

use std::cell::{Cell, RefCell};

use abi::Errno;

use super::packet::{PACKET_BYTES, Reader, Received, frame};
use super::session::{Next, Session};
use super::target::{File, Target};
use crate::linux::debug::registers::Registers;
use crate::linux::debug::seats::{Action, Event};
use crate::linux::debug::watches::Access;
use crate::vm::UserRegs;

/// Where the memory of [`Program`] begins, and how long it is.
const MEMORY: u64 = 0x1000;
const MEMORY_BYTES: usize = 0x1000;
/// What gdb may have said at the most before a frame begins and ends.
const FRAME_BYTES: usize = "$#00".len();

/// A program of two threads that is none.
struct Program {
    memory: RefCell<Vec<u8>>,
    registers: RefCell<Registers>,
    is_ended: Cell<bool>,
}

impl Program {
    fn new() -> Program {
        let regs = UserRegs { rip: MEMORY, ..UserRegs::default() };
        Program {
            memory: RefCell::new(vec![0x5a; MEMORY_BYTES]),
            registers: RefCell::new(Registers {
                regs,
                bases: [0; 2],
                xsave: vec![0; 4096],
                call: !0,
            }),
            is_ended: Cell::new(false),
        }
    }

    fn place(at: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(at.checked_sub(MEMORY)?).ok()?;
        (start < MEMORY_BYTES).then_some(start..start.saturating_add(len).min(MEMORY_BYTES))
    }
}

impl Target for Program {
    fn pid(&self) -> i32 {
        16
    }
    fn tids(&self) -> Vec<i32> {
        if self.is_ended.get() { Vec::new() } else { vec![16, 17] }
    }
    fn name(&self, tid: i32) -> Vec<u8> {
        if tid == 16 { b"a<\"&\xff]]>".to_vec() } else { b"b".to_vec() }
    }
    fn registers(&self, tid: i32) -> Option<Registers> {
        self.tids().contains(&tid).then(|| self.registers.borrow().clone())
    }
    fn set_registers(&self, _: i32, registers: Registers) -> bool {
        assert_eq!(registers.xsave.len(), 4096, "the area keeps its size");
        *self.registers.borrow_mut() = registers;
        true
    }
    fn avx(&self) -> Option<usize> {
        Some(576)
    }
    fn read(&self, _: i32, at: u64, len: usize) -> Vec<u8> {
        assert!(len <= PACKET_BYTES, "no more is read than an answer takes");
        let memory = self.memory.borrow();
        let read = Program::place(at, len).and_then(|place| memory.get(place).map(<[u8]>::to_vec));
        read.unwrap_or_default()
    }
    fn write(&self, _: i32, at: u64, bytes: Vec<u8>) -> bool {
        let mut memory = self.memory.borrow_mut();
        let place = Program::place(at, bytes.len()).filter(|place| place.len() == bytes.len());
        match place.and_then(|place| memory.get_mut(place)) {
            Some(there) => there.copy_from_slice(&bytes),
            None => return false,
        }
        true
    }
    fn set_point(&self, _: i32, at: u64, _: bool) -> bool {
        Program::place(at, 1).is_some()
    }
    fn set_processor_point(&self, _: i32, at: u64, _: bool) -> bool {
        Program::place(at, 1).is_some()
    }
    fn set_watch(&self, at: u64, len: u64, _: Access, _: bool) -> bool {
        Program::place(at, 1).is_some() && len > 0 && len < MEMORY
    }
    fn told(&self, tid: i32) -> Option<Event> {
        (tid == 16).then_some(Event::Breakpoint)
    }
    fn resume(&self, actions: &[(i32, Action)], rest: Option<Action>) {
        assert!(rest.is_some() || !actions.is_empty(), "somebody goes on");
    }
    fn pass_signals(&self, _: u64) {}
    fn kill(&self) {
        self.is_ended.set(true);
    }
    fn auxv(&self) -> Vec<u8> {
        vec![0; 320]
    }
    fn executable(&self) -> Vec<u8> {
        b"/bin/a".to_vec()
    }
    fn open(&self, _: i32, path: Vec<u8>) -> Result<File, Errno> {
        match path.first() {
            Some(b'/') => Ok(File::Text(path.into())),
            _ => Err(Errno::ENOENT),
        }
    }
    fn read_file(&self, _: i32, file: File, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        assert!(len <= PACKET_BYTES, "no more is read than an answer takes");
        let File::Text(text) = file else { return Err(Errno::EIO) };
        let rest = usize::try_from(at).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        Ok(rest.get(..len.min(rest.len())).unwrap_or_default().to_vec())
    }
    fn monitor(&self, _: i32, command: &str) -> Option<String> {
        command.starts_with("vas").then(|| command.to_owned())
    }
}

/// A session that gets these bytes: as they are, and each line of them as the content of a packet. An answer is one packet
/// that gdb can take, and reads as what it was made of. Returns how many packets were answered with something.
#[must_use]
pub fn packets(bytes: &[u8]) -> usize {
    let framed: Vec<u8> = bytes.split(|byte| *byte == b'\n').flat_map(frame).collect();
    [bytes, &framed].map(answers).iter().sum()
}

fn answers(bytes: &[u8]) -> usize {
    let (program, mut session, mut reader) =
        (Program::new(), Session::new(bytes.len().is_multiple_of(2)), Reader::default());
    let mut answered = 0;
    for byte in bytes {
        let Some(Received::Packet(packet)) = reader.take(*byte) else { continue };
        assert!(packet.len() <= PACKET_BYTES);
        match session.handle(&program, &packet) {
            Next::Answer(answer) | Next::AnswerWithoutAcks(answer) => {
                answered += usize::from(!answer.is_empty());
                let sent = frame(&answer);
                assert!(sent.len() <= PACKET_BYTES + FRAME_BYTES, "{} bytes", sent.len());
                let mut gdb = Reader::default();
                let read: Vec<_> = sent.iter().filter_map(|byte| gdb.take(*byte)).collect();
                assert_eq!(read, [Received::Packet(answer)]);
            }
            Next::Wait => {
                let _ = session.stopped(&program, Some((17, Event::Step)));
            }
            Next::Detach(_) => return answered,
            Next::Kill(_) => program.kill(),
        }
    }
    answered
}

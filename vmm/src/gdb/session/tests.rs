//! Packets and their answers, of a program that is none.

use std::cell::RefCell;

use abi::Errno;
use proptest::collection::vec;
use proptest::prelude::{any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};

use super::{Action, Event, File, Next, Session, ended};
use crate::gdb::target::{Ended, Target};
use crate::linux::debug::registers::Registers;
use crate::linux::debug::seats::Pass;
use crate::linux::debug::watches::Access;
use crate::linux::signal::SigInfo;
use crate::vm::UserRegs;

/// A program of two threads, with memory from 0x1000 to 0x2000.
struct Fake {
    memory: RefCell<Vec<u8>>,
    registers: RefCell<Registers>,
    log: RefCell<Vec<String>>,
    told: Option<Event>,
}

impl Fake {
    fn new() -> Fake {
        let regs = UserRegs { rip: 0x1234, ..UserRegs::default() };
        let registers = Registers { regs, bases: [0; 2], xsave: vec![0; 4096], call: !0 };
        Fake {
            memory: RefCell::new(vec![0x5a; 0x1000]),
            registers: RefCell::new(registers),
            log: RefCell::default(),
            told: None,
        }
    }

    fn note(&self, text: String) {
        self.log.borrow_mut().push(text);
    }

    fn place(at: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(at.checked_sub(0x1000)?).ok()?;
        (start < 0x1000).then_some(start..start.saturating_add(len).min(0x1000))
    }
}

impl Target for Fake {
    fn pid(&self) -> i32 {
        16
    }
    fn tids(&self) -> Vec<i32> {
        vec![16, 17]
    }
    fn name(&self, tid: i32) -> Vec<u8> {
        if tid == 16 { b"a<\"&\xff".to_vec() } else { b"b".to_vec() }
    }
    fn registers(&self, _: i32) -> Option<Registers> {
        Some(self.registers.borrow().clone())
    }
    fn set_registers(&self, _: i32, registers: Registers) -> bool {
        *self.registers.borrow_mut() = registers;
        true
    }
    fn avx(&self) -> Option<usize> {
        Some(576)
    }
    fn read(&self, _: i32, at: u64, len: usize) -> Vec<u8> {
        let place = Fake::place(at, len);
        place.map(|place| self.memory.borrow()[place].to_vec()).unwrap_or_default()
    }
    fn write(&self, _: i32, at: u64, bytes: Vec<u8>) -> bool {
        let Some(place) = Fake::place(at, bytes.len()) else { return false };
        let fits = place.len() == bytes.len();
        if fits {
            self.memory.borrow_mut()[place].copy_from_slice(&bytes);
        }
        fits
    }
    fn set_point(&self, tid: i32, at: u64, is_set: bool) -> bool {
        self.note(format!("point {tid} {at:#x} {is_set}"));
        at != 0
    }
    fn set_processor_point(&self, tid: i32, at: u64, is_set: bool) -> bool {
        self.note(format!("processor's point {tid} {at:#x} {is_set}"));
        at != 0
    }
    fn set_watch(&self, at: u64, len: u64, access: Access, is_set: bool) -> bool {
        self.note(format!("watch {at:#x} {len} {access:?} {is_set}"));
        len < 100
    }
    fn told(&self, _: i32) -> Option<Event> {
        self.told
    }
    fn resume(&self, actions: &[(i32, Action)], rest: Option<Action>) {
        self.note(format!("resume {actions:?} {rest:?}"));
    }
    fn pass_signals(&self, set: u64) {
        self.note(format!("pass {set:#x}"));
    }
    fn kill(&self) {}
    fn auxv(&self) -> Vec<u8> {
        vec![0x7d; 100]
    }
    fn executable(&self) -> Vec<u8> {
        b"/bin/it".to_vec()
    }
    fn open(&self, _: i32, path: Vec<u8>) -> Result<File, Errno> {
        if path == b"/it" { Ok(File::of("contents")) } else { Err(Errno::ENOENT) }
    }
    fn read_file(&self, _: i32, file: File, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        file.read(at, len)
    }
    fn monitor(&self, tid: i32, command: &str) -> Option<String> {
        (command == "vas").then(|| format!("{tid} is at home\n"))
    }
}

fn ask(session: &mut Session, target: &Fake, packet: &str) -> String {
    match session.handle(target, packet.as_bytes()) {
        Next::Answer(answer) => String::from_utf8_lossy(&answer).into_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn threads_memory_and_registers_are_asked_for() {
    let (mut session, target) = (Session::default(), Fake::new());
    let mut says = |packet: &str, answer: &str| {
        assert_eq!(ask(&mut session, &target, packet), answer, "{packet}");
    };
    says("qfThreadInfo", "mp10.10,p10.11");
    says("Hgp10.11", "OK");
    says("qC", "QCp10.11");
    says("Hgp10.99", "E03");
    says("m1000,2", "5a5a");
    says("M1001,1:7b", "OK");
    says("X1002,2:}z", "OK");
    says("m1ffe,9", "5a5a");
    says("m1000,4", "5a7b7d7a");
    says("m0,4", "E0e");
    says("M1fff,2:0000", "E0e");
    says("M1000,2:00", "E16");
    says("p10", "3412000000000000");
    says("P10=7856000000000000", "OK");
    says("p10", "7856000000000000");
    says("pffff", "E16");
    says("Z0,1000,1", "OK");
    says("Z0,0,1", "E0e");
    says("Z1,1000,1", "OK");
    says("z1,0,1", "E0e");
    says("Z5,1000,1", "");
    says("Z2,1000,8", "OK");
    says("Z4,1000,99", "E0e");
    says("z3,1000,4", "OK");
    says("Z3,1000", "E16");
    says("qRcmd,766173", "313720697320617420686f6d650a");
    says("vMustReplyEmpty", "");
    says("qAttached:10", "0");
    assert_eq!(
        *target.log.borrow(),
        [
            "point 17 0x1000 true",
            "point 17 0x0 true",
            "processor's point 17 0x1000 true",
            "processor's point 17 0x0 false",
            "watch 0x1000 8 Write true",
            "watch 0x1000 153 Any true",
            "watch 0x1000 4 Read false"
        ]
    );
}

#[test]
fn what_is_told_as_a_whole_comes_in_parts_and_names_are_escaped() {
    let (mut session, target) = (Session::default(), Fake::new());
    assert_eq!(ask(&mut session, &target, "qXfer:exec-file:read:10:0,3"), "m/bi");
    assert_eq!(ask(&mut session, &target, "qXfer:exec-file:read:10:3,100"), "ln/it");
    assert_eq!(ask(&mut session, &target, "qXfer:exec-file:read:10:99,100"), "l");
    let threads = ask(&mut session, &target, "qXfer:threads:read::0,1000");
    assert!(
        threads.contains("<thread id=\"p10.10\" name=\"a&#60;&#34;&#38;\u{fffd}\"/>"),
        "{threads}"
    );
    assert_eq!(ask(&mut session, &target, "qXfer:siginfo:read::0,80"), "E03");
    assert_eq!(ask(&mut session, &target, "vFile:open:2f6974,0,0"), "F1");
    assert_eq!(ask(&mut session, &target, "vFile:pread:1,4,3"), "F4;tent");
    assert_eq!(ask(&mut session, &target, "vFile:open:2f6974,1,0"), "F-1,1e");
    assert_eq!(ask(&mut session, &target, "vFile:open:2f,0,0"), "F-1,2");
    assert_eq!(ask(&mut session, &target, "vFile:close:1"), "F0");
    assert_eq!(ask(&mut session, &target, "vFile:pread:1,4,3"), "F-1,9");
}

#[test]
fn threads_go_on_as_the_first_action_that_names_them_says() {
    let (mut session, target) = (Session::default(), Fake::new());
    for (packet, expected) in [
        (
            "vCont;s:p10.11;c",
            "resume [(17, Action { step: true, pass: Nothing })] Some(Action { step: false, pass: Nothing })",
        ),
        ("vCont;C1e:p10.10", "resume [(16, Action { step: false, pass: Signal(10) })] None"),
        ("vCont;c:p10.-1", "resume [] Some(Action { step: false, pass: Nothing })"),
    ] {
        assert_eq!(session.handle(&target, packet.as_bytes()), Next::Wait);
        assert_eq!(target.log.borrow_mut().pop().as_deref(), Some(expected));
    }
    for bad in ["vCont", "vCont;", "vCont;s:99", "vCont;C:1", "vCont;Cffff:10"] {
        assert!(matches!(session.handle(&target, bad.as_bytes()), Next::Answer(_)), "{bad}");
    }
    assert_eq!(ask(&mut session, &target, "QPassSignals:e;14;2b"), "OK");
    assert_eq!(*target.log.borrow(), ["pass 0x12000"]);
}

#[test]
fn what_happened_is_told_with_gdbs_numbers() {
    let (mut session, target) = (Session::default(), Fake::new());
    let mut told = |event| String::from_utf8(session.stopped(&target, event)).unwrap();
    assert_eq!(told(Some((17, Event::Breakpoint))), "T05thread:p10.11;swbreak:;");
    let by_processor = told(Some((17, Event::ProcessorBreakpoint)));
    assert_eq!(by_processor, "T05thread:p10.11;hwbreak:;");
    let watch = Event::Watch(0x1008, Access::Any);
    assert_eq!(told(Some((17, watch))), "T05thread:p10.11;awatch:1008;");
    assert_eq!(told(None), "T02thread:p10.11;", "the same thread as before");
    assert_eq!(told(Some((16, Event::Signal(SigInfo::new(10, 0, 0))))), "T1ethread:p10.10;");
    assert_eq!(told(Some((16, Event::Replaced))), "T05thread:p10.10;exec:2f62696e2f6974;");
    assert_eq!(ended(16, Ended::Exited(7)), b"W07;process:10");
    assert_eq!(ended(16, Ended::Killed(libc::SIGBUS)), b"X0a;process:10");
    let target = Fake { told: Some(Event::Signal(SigInfo::new(11, 1, 16))), ..Fake::new() };
    assert_eq!(ask(&mut session, &target, "?"), "T0bthread:p10.10;");
    let info = session.handle(&target, b"qXfer:siginfo:read::0,80");
    assert!(matches!(info, Next::Answer(info) if info.len() == 129 && info[1] == 11));
    assert_eq!(Pass::default(), Pass::AsItWas);
}

proptest! {
    #[test]
    fn no_packet_is_too_much(packets in vec(packet(), 1..20)) {
        let (mut session, target) = (Session::default(), Fake::new());
        for packet in packets {
            if let Next::Answer(answer) = session.handle(&target, &packet) {
                assert!(answer.len() <= super::PACKET_BYTES, "{}", answer.len());
            }
        }
    }
}

/// Something like a packet: names and numbers in any order, and any bytes.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "?",
        "g",
        "G",
        "p",
        "P",
        "m",
        "M",
        "X",
        "Hg",
        "T",
        "D",
        "k",
        "vCont;",
        "vCont?",
        "vKill",
        "vFile:open:",
        "vFile:pread:",
        "vFile:close:",
        "vFile:fstat:",
        "vFile:setfs:",
        "qXfer:",
        "features:read:target.xml:",
        "auxv:read::",
        "siginfo:read::",
        "threads:read::",
        "exec-file:read:",
        "qRcmd,",
        "QPassSignals:",
        "qSupported",
        "qC",
        "qfThreadInfo",
        "Z0,",
        "z0,",
        "p10.",
        "-1",
        "s:",
        "C0b:",
        "c",
        ":",
        ",",
        ";",
        "=",
        "0",
        "10",
        "1000",
        "766173",
        "ffffffffffffffff",
        "7fffffffffffffff",
        "2f6974",
    ];
    let word = proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
    let piece = prop_oneof![8 => word, 1 => vec(any::<u8>(), 0..8), 1 => Just(vec![b'0'; 5000])];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

//! `spacejmp run --gdb` where something is wrong: packets that are none, and places where no socket can be. Needs /dev/kvm and
//! a C compiler.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tests::gdb::{Debuggee, limit, path, says, spacejmp, text};
use tests::guests;
use tests::skip_without_kvm;

/// A generator of numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // Knuth's constants.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

fn framed(content: &[u8]) -> Vec<u8> {
    let sum = content.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", content, format!("#{sum:02x}").as_bytes()].concat()
}

/// A connection; to another run, if random packets have ended the program: they change its registers and memory, and let
/// it go on.
fn connected(debuggee: &mut Debuggee, program: &Path) -> UnixStream {
    if let Ok(stream) = UnixStream::connect(&debuggee.at) {
        return stream;
    }
    let next = Debuggee::start(&["--gdb"], program, &["spin"]);
    let (status, _, told) = std::mem::replace(debuggee, next).run.end();
    assert!(status.code().is_some_and(|code| ![101, 124, 125].contains(&code)), "{status}: {told}");
    assert!(!told.contains("panicked") && !told.contains("failed"), "{told}");
    UnixStream::connect(&debuggee.at).expect("it listens")
}

#[test]
fn whatever_comes_by_the_socket_the_vmm_survives() {
    skip_without_kvm!();
    let program = guests::c("debugged");
    let mut debuggee = Debuggee::start(&["--gdb"], &program, &["spin"]);
    const WORDS: [&str; 40] = [
        "?",
        "g",
        "G",
        "p",
        "P0=",
        "m",
        "M",
        "X",
        "H",
        "Hgp-1.-1",
        "T",
        "vCont?",
        "vCont",
        "vCont;s:",
        "vFile:open:",
        "vFile:pread:",
        "vFile:fstat:",
        "vFile:close:",
        "vFile:setfs:0",
        "qXfer:features:read:target.xml:",
        "qXfer:auxv:read::",
        "qXfer:threads:read::",
        "qXfer:siginfo:read::",
        "qXfer:exec-file:read:1:",
        "qSupported:",
        "QPassSignals:",
        "qRcmd,766173",
        "qfThreadInfo",
        "qsThreadInfo",
        "qC",
        "Z0,",
        "z0,",
        "Z2,",
        "ffffffffffffffff",
        "7fffffff",
        ",",
        ";",
        ":",
        "0",
        "40",
    ];
    let mut numbers = Numbers(7);
    for round in 0..24 {
        let mut stream = connected(&mut debuggee, &program);
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a time");
        let mut bytes = vec![0; 1 << 16];
        for _ in 0..60 {
            let mut packet = Vec::new();
            for _ in 0..=numbers.next() % 4 {
                match numbers.next() % 8 {
                    0 => packet.extend((0..numbers.next() % 9).map(|_| 0).collect::<Vec<u8>>()),
                    // But for the one that ends the program.
                    1 => packet.push((numbers.next() as u8).max(b'l')),
                    _ => packet.extend(WORDS[numbers.next() as usize % WORDS.len()].bytes()),
                }
            }
            let packet = match numbers.next() % 8 {
                0 => packet,
                _ => framed(&packet),
            };
            let written = stream.write_all(&packet).and_then(|()| stream.write_all(b"+"));
            // It may have been told to run, and be interrupted again.
            if written.is_err()
                || (numbers.next().is_multiple_of(16) && stream.write_all(b"\x03").is_err())
            {
                break;
            }
            let _ = stream.read(&mut bytes);
        }
        drop(stream);
        assert!(round < 24);
    }
    let mut stream = connected(&mut debuggee, &program);
    stream.set_read_timeout(Some(limit())).expect("a time");
    stream.write_all(&framed(b"qC")).expect("it reads");
    let mut bytes = [0; 64];
    let mut answer = String::new();
    while !answer.contains('#') {
        let read = stream.read(&mut bytes).expect("it answers");
        assert!(read > 0, "it answers: {answer}");
        answer.push_str(&text(&bytes[..read]));
    }
    assert!(answer.starts_with("+$QCp"), "{answer}");
    stream.write_all(&framed(b"k")).expect("it reads");
    let (status, _, told) = debuggee.run.end();
    assert_eq!(status.code(), Some(137), "{told}");
}

#[test]
fn a_place_where_no_socket_can_be_is_an_error_before_the_program_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = dir.path().join("missing/socket");
    let taken = dir.path().join("taken");
    std::fs::write(&taken, "a file").expect("writable");
    for place in [&missing, &taken] {
        let mut command = spacejmp();
        command.args(["run", "--no-store", &format!("--gdb={}", path(place))]);
        let output = command.arg(guests::c("debugged")).output().expect("it starts");
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        says(&text(&output.stderr), &["listen for gdb"]);
    }
    assert_eq!(std::fs::read(&taken).expect("it is there"), b"a file");
}

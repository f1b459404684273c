//! Sockets that a program did not make: standard input, or received from another program. They are
//! sockets as natively, and open no way that is not granted.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

/// Runs the guest with `stdin`, connects to its listener when it waits, and returns what it said.
#[track_caller]
fn run(mut command: Command, stdin: OwnedFd, listener: &TcpListener) -> String {
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut said = String::new();
    while !said.ends_with("waiting\n") {
        assert_ne!(out.read_line(&mut said).expect("it is text"), 0, "it ended: {said}");
    }
    let mut client =
        TcpStream::connect(listener.local_addr().expect("it listens")).expect("it does");
    client.write_all(b"question").expect("it is connected");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("it answers and shuts down");
    assert_eq!(answer, "answer");
    client.shutdown(Shutdown::Both).expect("it is connected");
    out.read_to_string(&mut said).expect("it is text");
    assert!(child.wait().expect("it ends").success(), "{said}");
    said
}

fn send(fd: &TcpListener, to: &UnixStream) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(to, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("it is sent");
}

#[track_caller]
fn compare(mode: &str) {
    skip_without_kvm!();
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("it can be set");
    let port = elsewhere.local_addr().expect("it has one").port().to_string();
    let guest = guests::c("passed_sockets");
    let native = Command::new(&guest);
    let mut vm = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    vm.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--timeout", &limit]).arg(&guest);
    let said = [native, vm].map(|mut command| {
        command.args([mode, &port]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let stdin = match mode {
            "received" => {
                send(&listener, &ours);
                OwnedFd::from(theirs)
            }
            _ => OwnedFd::from(listener.try_clone().expect("a descriptor")),
        };
        run(command, stdin, &listener)
    });
    let [native, vm] = said;
    let refused = native
        .replace(
            "connect(connection, (struct sockaddr *)&at, sizeof at): 0",
            "connect(connection, (struct sockaddr *)&at, sizeof at): EACCES",
        )
        .lines()
        .map(|line| match line.starts_with("socket(AF_INET, SOCK_STREAM, 0)") {
            true => "socket(AF_INET, SOCK_STREAM, 0): EACCES\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect::<String>();
    assert_ne!(native, refused, "natively it connects");
    assert_eq!(vm, refused);
    assert!(vm.ends_with("done\n"), "{vm}");
    // The native one came.
    elsewhere.accept().expect("the native one connected");
    assert!(elsewhere.accept().is_err(), "the one in the VM connected");
}

#[test]
fn a_listening_socket_as_standard_input_accepts_and_opens_no_other_way() {
    compare("inherited");
}

#[test]
fn a_listening_socket_received_from_another_program_accepts_and_opens_no_other_way() {
    compare("received");
}

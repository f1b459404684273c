//! How a server ends, and what is there afterwards.

use std::io::Read;
use std::time::Duration;

use super::wire::{Server, encoded, kv};
use tests::vm::Run;
use tests::{pace, skip_without_kvm};

#[test]
fn after_a_kill_in_the_middle_every_change_that_was_answered_is_there() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let mut answered = 0_u64;
    for round in 0..pace::times(8) {
        let mut server = Server::kv(folder.path(), &[]);
        let mut wire = server.connect();
        // What has been answered before.
        let held = wire.say("GET n");
        let held: u64 = held.split("\r\n").nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        assert!(held >= answered, "round {round}: {answered} were answered, {held} are there");
        let len: u64 = wire.say("LLEN l").trim().trim_start_matches(':').parse().expect("a number");
        assert_eq!(len, held, "round {round}: a transaction is half done");
        let watch = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut wire, mut last) = (server_wire(&folder), held);
                let pair = [
                    encoded(&[b"MULTI"]),
                    encoded(&[b"RPUSH", b"l", &[b'x'; 500]]),
                    encoded(&[b"INCR", b"n"]),
                    encoded(&[b"EXEC"]),
                ]
                .concat();
                loop {
                    if std::io::Write::write_all(&mut wire, &pair).is_err() {
                        return last;
                    }
                    // `+OK`, `+QUEUED` twice, and two numbers, of which the last is the sum so far.
                    let Some(reply) = until_number(&mut wire, last + 1) else { return last };
                    last = reply;
                }
            });
            std::thread::sleep(Duration::from_millis(150 + 70 * u64::from(round)));
            server.kill();
            writer.join().expect("it does not panic")
        });
        answered = watch;
    }
    assert!(answered > 0, "nothing was answered in any round");
}

fn server_wire(folder: &tempfile::TempDir) -> std::os::unix::net::UnixStream {
    std::os::unix::net::UnixStream::connect(folder.path().join("kv.sock")).expect("it listens")
}

/// Reads until the reply with this number has come.
fn until_number(wire: &mut std::os::unix::net::UnixStream, number: u64) -> Option<u64> {
    let (end, mut bytes, mut piece) = (format!("\r\n:{number}\r\n"), Vec::new(), [0; 512]);
    while !bytes.ends_with(end.as_bytes()) {
        let read = match wire.read(&mut piece) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.ok().filter(|&read| read > 0)?,
        };
        bytes.extend_from_slice(&piece[..read]);
    }
    Some(number)
}

#[test]
fn sigterm_ends_a_server_after_what_it_has_answered_is_stored() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::kv(folder.path(), &["--durability", "manual"]);
    let mut wire = server.connect();
    assert_eq!(wire.say("SET k v"), "+OK\r\n");
    let status = server.terminate();
    assert_eq!(status.code(), Some(128 + 15), "{status:?}");
    Run::new(kv()).args(&["get", "k"]).store(folder.path().join("store")).in_vm().expect(0, "v\n");
}

#[test]
fn a_server_that_is_ended_leaves_a_short_log() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::kv(folder.path(), &["--durability", "manual"]);
    let mut wire = server.connect();
    // 40 pages each, so 16 MiB of a log.
    for number in 0..100_u32 {
        let value = vec![number as u8; 160_000];
        assert_eq!(wire.ask(&[b"SET", b"k", &value]), b"+OK\r\n");
    }
    assert!(logs(folder.path()) > 8 << 20, "there is nothing to be brought elsewhere");
    server.terminate();
    let left = logs(folder.path());
    assert!(left <= 8 << 20, "{left} bytes of logs");
}

/// What the logs of the store in a folder take on the disk.
fn logs(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = |folder: &std::path::Path| {
        let entries = std::fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let segments = entries(&folder.join("store/versions"));
    let files = segments.iter().flat_map(|segment| entries(segment));
    let logs = files.filter(|file| {
        file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log."))
    });
    logs.map(|log| log.metadata().map_or(0, |about| about.blocks() * 512)).sum()
}

#[test]
fn a_socket_that_a_killed_server_has_left_is_taken_over_and_one_in_use_is_not() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::kv(folder.path(), &[]);
    server.kill();
    assert!(server.socket.exists());
    let server = Server::kv(folder.path(), &[]);
    let socket = server.socket.to_str().expect("text");
    let second = super::wire::spacejmp(folder.path())
        .arg("--dir")
        .arg(folder.path())
        .arg(kv())
        .args(["serve", "--port", "0", "--unix", socket])
        .output()
        .expect("it starts");
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("cannot listen at"), "{second:?}");
    assert_eq!(server.connect().say("PING"), "+PONG\r\n");
}

//! What a server refuses.

use super::wire::{Server, encoded};
use tests::skip_without_kvm;

#[test]
fn without_the_password_nothing_is_answered() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--requirepass", "secret"]);
    let mut wire = server.connect();
    assert_eq!(wire.say("GET k"), "-NOAUTH Authentication required.\r\n");
    assert_eq!(wire.say("NOSUCH"), "-NOAUTH Authentication required.\r\n");
    assert!(wire.say("HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    for wrong in
        ["AUTH wrong", "AUTH secre", "AUTH secrets", "AUTH other secret", "HELLO 3 AUTH default x"]
    {
        assert!(wire.say(wrong).starts_with("-WRONGPASS"), "{wrong}");
    }
    assert_eq!(wire.say("AUTH secret"), "+OK\r\n");
    assert_eq!(wire.say("SET k v"), "+OK\r\n");
    let mut other = server.connect();
    assert!(other.say("HELLO 3 AUTH default secret").starts_with("%7"));
    assert_eq!(other.say("GET k"), "$1\r\nv\r\n");
    // Whoever starts anew has to give it again.
    assert_eq!(other.say("RESET"), "+RESET\r\n");
    assert_eq!(other.say("GET k"), "-NOAUTH Authentication required.\r\n");
    let mut stranger = server.connect();
    stranger.send(b"*1\r\n$100000\r\n");
    assert_eq!(stranger.rest(), b"-ERR Protocol error: unauthenticated bulk length\r\n");
}

#[test]
fn who_is_one_too_many_or_speaks_something_else_is_told_so_and_let_go() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--maxclients", "2"]);
    let mut one = server.connect();
    // The connection by which the test has found that it listens is gone.
    while !one.say("INFO clients").contains("connected_clients:1") {}
    let mut other = server.connect();
    assert_eq!(other.say("PING"), "+PONG\r\n");
    assert_eq!(server.connect().rest(), b"-ERR max number of clients reached\r\n");
    // What came before is answered.
    one.send(&[encoded(&[b"SET", b"k", b"v"]), b"*1\r\n+1\r\nPING\r\n".to_vec()].concat());
    assert_eq!(one.rest(), b"+OK\r\n-ERR Protocol error: expected '$', got '+'\r\n");
    assert_eq!(other.say("GET k"), "$1\r\nv\r\n");
}

#[test]
fn beyond_maxmemory_a_command_fails_as_a_whole_and_removing_makes_room() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--maxmemory", "8M", "--durability", "manual"]);
    let mut wire = server.connect();
    let oom = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    let value = vec![b'v'; 100_000];
    let mut held = 0;
    while wire.ask(&[b"RPUSH", b"l", &value]) != oom {
        held += 1;
        assert!(held < 100, "there is no limit");
    }
    assert!(held > 40, "{held}");
    assert_eq!(wire.say("LLEN l"), format!(":{held}\r\n"));
    // Of several commands at once the others are carried out, and of a transaction none.
    let many = [
        encoded(&[b"SET", b"a", b"1"]),
        encoded(&[b"MSET", b"b", b"1", b"c", &vec![b'v'; 2_000_000]]),
        encoded(&[b"MULTI"]),
        encoded(&[b"SET", b"d", b"1"]),
        encoded(&[b"SET", b"e", &vec![b'v'; 2_000_000]]),
        encoded(&[b"EXEC"]),
        encoded(&[b"EXISTS", b"a", b"b", b"c", b"d", b"e"]),
    ];
    wire.send(&many.concat());
    let replies: Vec<Vec<u8>> = many.iter().map(|_| wire.reply()).collect();
    assert_eq!(
        (&replies[0][..], &replies[1][..], &replies[5][..]),
        (&b"+OK\r\n"[..], &oom[..], &oom[..])
    );
    assert_eq!(replies[6], b":1\r\n");
    assert_eq!(wire.say("GET a"), "$1\r\n1\r\n");
    assert_eq!(wire.say("DEL l"), ":1\r\n");
    assert_eq!(wire.ask(&[b"SET", b"e", &vec![b'v'; 2_000_000]]), b"+OK\r\n");
}

#[test]
fn on_a_full_disk_a_change_fails_as_a_whole_and_reading_goes_on() {
    skip_without_kvm!();
    let test = "on_a_full_disk_a_change_fails_as_a_whole_and_reading_goes_on";
    let (folder, disk) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let Some(server) = Server::kv_on_a_small_disk(test, folder.path(), disk.path()) else { return };
    let mut wire = server.connect();
    // Bytes that no file system stores in less room.
    let mut noise = super::generator::Random::new(1);
    let mut value = || (0..200_000).map(|_| noise.below(256) as u8).collect::<Vec<u8>>();
    let misconf = "-MISCONF Errors writing to the disk: the change is undone\r\n";
    let mut held = 0;
    while wire.ask(&[b"RPUSH", b"l", &value()]) != misconf.as_bytes() {
        held += 1;
        assert!(held < 1000, "the disk is never full");
    }
    assert!(held > 5, "{held}");
    // A transaction, of which only a part is too large.
    wire.send(
        &[
            encoded(&[b"MULTI"]),
            encoded(&[b"SET", b"small", b"1"]),
            encoded(&[b"RPUSH", b"l", &value()]),
            encoded(&[b"EXEC"]),
        ]
        .concat(),
    );
    let replies: Vec<Vec<u8>> = (0..4).map(|_| wire.reply()).collect();
    assert_eq!(String::from_utf8_lossy(&replies[3]), misconf);
    assert_eq!(wire.say("EXISTS small"), ":0\r\n");
    assert_eq!(wire.say("LLEN l"), format!(":{held}\r\n"));
    assert_eq!(wire.ask(&[b"LINDEX", b"l", b"0"]).len(), 200_000 + 11);
}

#[test]
fn who_does_not_read_holds_nobody_up_and_a_subscriber_that_does_not_is_let_go() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let (mut wire, mut slow, mut listening) =
        (server.connect(), server.connect(), server.connect());
    let value = vec![b'v'; 1 << 20];
    assert_eq!(wire.ask(&[b"SET", b"k", &value]), b"+OK\r\n");
    let get = encoded(&[b"GET", b"k"]);
    slow.send(&get.repeat(40));
    assert_eq!(wire.say("PING"), "+PONG\r\n");
    assert_eq!(listening.say("SUBSCRIBE c"), "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    let mut sent = 0;
    while wire.ask(&[b"PUBLISH", b"c", &value]) == b":1\r\n" {
        sent += 1;
        assert!(sent < 100, "a subscriber is never let go");
    }
    assert!(sent >= 32, "let go after {sent} MiB");
    // It has what had been sent, and not all.
    assert!(listening.rest().len() < sent << 20);
    let expected = [b"$1048576\r\n", &value[..], b"\r\n"].concat();
    for number in 0..40 {
        assert!(slow.reply() == expected, "reply {number}");
    }
}

#[test]
fn a_request_that_is_too_long_ends_its_connection_and_no_other() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let (mut wire, mut other) = (server.connect(), server.connect());
    assert_eq!(wire.say("CONFIG SET client-query-buffer-limit 1mb"), "+OK\r\n");
    let half = vec![b'v'; 700_000];
    assert_eq!(other.ask(&[b"SET", b"k", &half]), b"+OK\r\n");
    // One byte too many, so that it has read all when it ends the connection.
    let mut long = encoded(&[b"MSET", b"a", &half, b"b", &half]);
    long.truncate((1 << 20) + 1);
    other.send(&long);
    let rest = String::from_utf8_lossy(&other.rest()).into_owned();
    assert!(rest.starts_with("-ERR Protocol error:"), "{rest}");
    assert_eq!(wire.say("EXISTS a b k"), ":1\r\n");
}

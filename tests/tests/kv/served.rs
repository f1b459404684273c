//! Clients of `kv serve`, several at a time and beside clients without it.

use std::path::Path;
use std::process::Command;

use super::wire::{Server, encoded, kv};
use tests::vm::Run;
use tests::{kvm, skip_without_kvm};

fn direct(folder: &Path, args: &[&str]) -> String {
    Run::new(kv()).args(args).store(folder.join("store")).in_vm().out()
}

#[test]
fn clients_with_and_without_the_server_see_the_same_data() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &[]);
    let mut wire = server.connect();
    assert_eq!(wire.say("SET k from-outside"), "+OK\r\n");
    assert_eq!(direct(folder.path(), &["get", "k"]), "from-outside\n");
    assert_eq!(direct(folder.path(), &["incr", "n"]), "1\n");
    assert_eq!(wire.say("INCR n"), ":2\r\n");
    // A transaction notices a change by a program that the server knows nothing of.
    assert_eq!(wire.say("WATCH n"), "+OK\r\n");
    assert_eq!(direct(folder.path(), &["incr", "n"]), "3\n");
    assert_eq!(wire.say("MULTI"), "+OK\r\n");
    assert_eq!(wire.say("SET n 0"), "+QUEUED\r\n");
    assert_eq!(wire.say("EXEC"), "*-1\r\n");
    // And so does one who waits.
    wire.send(&encoded(&[b"BLPOP", b"queue", b"0"]));
    assert_eq!(direct(folder.path(), &["rpush", "queue", "job"]), "1\n");
    assert_eq!(wire.reply(), b"*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
}

#[test]
fn replies_come_in_order_however_requests_arrive() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let mut wire = server.connect();
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for number in 0..3000 {
        let text = number.to_string();
        requests.extend(encoded(&[b"SET", b"k", text.as_bytes()]));
        requests.extend(encoded(&[b"GET", b"k"]));
        requests.extend(b"PING\r\n");
        requests.extend(encoded(&[b"CLIENT", b"GETNAME"]));
        replies.extend(format!("+OK\r\n${}\r\n{text}\r\n+PONG\r\n$-1\r\n", text.len()).bytes());
    }
    requests.extend(encoded(&[b"QUIT"]));
    replies.extend(b"+OK\r\n");
    for piece in requests.chunks(1009) {
        wire.send(piece);
    }
    assert!(wire.rest() == replies, "replies differ");
}

#[test]
fn no_change_of_many_clients_is_lost_with_and_without_the_server() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let mut wire = server.connect();
                for _ in 0..100 {
                    assert!(wire.say("INCR n").starts_with(':'));
                    // A transaction that is repeated until nobody came in between.
                    loop {
                        wire.say("WATCH m");
                        let held = wire.say("GET m");
                        let held: u64 = held
                            .split("\r\n")
                            .nth(1)
                            .and_then(|text| text.parse().ok())
                            .unwrap_or(0);
                        wire.say("MULTI");
                        wire.say(&format!("SET m {}", held + 1));
                        if wire.say("EXEC").starts_with("*1") {
                            break;
                        }
                    }
                }
            });
        }
        let incr = "incr n\n".repeat(100);
        let shell = Run::new(kv())
            .args(&["shell"])
            .stdin(incr.as_bytes())
            .store(folder.path().join("store"));
        assert_eq!(shell.in_vm().out().lines().count(), 100);
    });
    let mut wire = server.connect();
    assert_eq!(
        (wire.say("GET n").as_str(), wire.say("GET m").as_str()),
        ("$3\r\n900\r\n", "$3\r\n800\r\n")
    );
}

#[test]
fn whoever_waited_longest_is_served_first_and_gets_one_element() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let (mut one, mut other, mut third) = (server.connect(), server.connect(), server.connect());
    let waiting = |wire: &mut super::wire::Wire, count: usize| {
        while !wire.say("INFO clients").contains(&format!("blocked_clients:{count}")) {}
    };
    one.send(&encoded(&[b"BLPOP", b"l", b"0"]));
    waiting(&mut third, 1);
    other.send(&encoded(&[b"BRPOP", b"l", b"0"]));
    waiting(&mut third, 2);
    assert_eq!(third.say("RPUSH l a"), ":1\r\n");
    assert_eq!(one.reply(), b"*2\r\n$1\r\nl\r\n$1\r\na\r\n");
    assert_eq!(third.say("RPUSH l b c"), ":2\r\n");
    assert_eq!(other.reply(), b"*2\r\n$1\r\nl\r\n$1\r\nc\r\n");
    assert_eq!(third.say("LRANGE l 0 -1"), "*1\r\n$1\r\nb\r\n");
    assert_eq!(third.say("BLPOP nothing 0.01"), "*-1\r\n");
}

#[test]
fn who_waits_is_not_disturbed_by_other_kinds_of_values_and_can_be_told_to_go_on() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let (mut one, mut other) = (server.connect(), server.connect());
    let id = one.say("CLIENT ID");
    let id = id.trim_matches([':', '\r', '\n']);
    one.send(&encoded(&[b"BLPOP", b"k", b"l", b"0"]));
    while !other.say("INFO clients").contains("blocked_clients:1") {}
    assert_eq!(other.say("SET k v"), "+OK\r\n");
    assert_eq!(other.say("RPUSH l a"), ":1\r\n");
    assert_eq!(one.reply(), b"*2\r\n$1\r\nl\r\n$1\r\na\r\n");
    assert!(one.say("BLPOP k l 0").starts_with("-WRONGTYPE"), "it does not wait yet");
    for (how, reply) in
        [("TIMEOUT", "*-1\r\n"), ("ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]
    {
        one.send(&encoded(&[b"BLPOP", b"l", b"0"]));
        while !other.say("INFO clients").contains("blocked_clients:1") {}
        assert_eq!(other.say(&format!("CLIENT UNBLOCK {id} {how}")), ":1\r\n");
        assert_eq!(one.reply(), reply.as_bytes());
    }
    assert_eq!(other.say(&format!("CLIENT UNBLOCK {id}")), ":0\r\n");
}

#[test]
fn messages_reach_those_who_listen_to_a_channel_or_a_pattern() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &[]);
    let (mut one, mut other, mut third) = (server.connect(), server.connect(), server.connect());
    assert_eq!(one.say("SUBSCRIBE news"), "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    assert!(other.say("HELLO 3").contains("proto"));
    assert_eq!(other.say("PSUBSCRIBE n*"), ">3\r\n$10\r\npsubscribe\r\n$2\r\nn*\r\n:1\r\n");
    assert_eq!(third.say("PUBLISH news hi"), ":2\r\n");
    assert_eq!(one.reply(), b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n");
    assert_eq!(other.reply(), b">4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$2\r\nhi\r\n");
    assert!(one.say("GET k").starts_with("-ERR Can't execute 'get'"));
    assert_eq!(one.say("PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert_eq!(other.say("GET k"), "_\r\n");
    assert_eq!(one.say("UNSUBSCRIBE"), "*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n");
    assert_eq!(third.say("PUBSUB CHANNELS"), "*0\r\n");
    assert_eq!(third.say("PUBLISH news again"), ":1\r\n");
}

#[test]
fn a_transaction_publishes_when_it_is_carried_out_and_not_when_it_is_given_up() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let (mut one, mut other) = (server.connect(), server.connect());
    one.say("SUBSCRIBE news");
    one.say("PSUBSCRIBE n*");
    for end in ["DISCARD", "EXEC"] {
        assert_eq!(other.say("MULTI"), "+OK\r\n");
        assert_eq!(other.say(&format!("PUBLISH news {end}")), "+QUEUED\r\n");
        assert_eq!(other.say("PUBLISH olds x"), "+QUEUED\r\n");
        let reply = other.say(end);
        assert!(reply == "+OK\r\n" || reply == "*2\r\n:2\r\n:0\r\n", "{reply}");
    }
    assert_eq!(one.reply(), b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$4\r\nEXEC\r\n");
    assert_eq!(other.say("MULTI"), "+OK\r\n");
    let error = "-ERR Command not allowed inside a transaction\r\n";
    assert_eq!(other.say("SAVE"), error);
    assert!(other.say("EXEC").starts_with("-EXECABORT"));
}

#[test]
fn what_can_be_configured_takes_effect_and_all_of_a_request_or_nothing_does() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let mut wire = server.connect();
    assert!(wire.say("CONFIG SET maxclients 1 databases 3").starts_with("-ERR Unknown option"));
    assert_eq!(wire.say("CONFIG GET maxclients"), "*2\r\n$10\r\nmaxclients\r\n$5\r\n10000\r\n");
    assert_eq!(wire.say("CONFIG SET maxclients 1 proto-max-bulk-len 1mb"), "+OK\r\n");
    assert_eq!(server.connect().rest(), b"-ERR max number of clients reached\r\n");
    assert_eq!(wire.say("CONFIG SET maxclients 5 requirepass word"), "+OK\r\n");
    let mut other = server.connect();
    assert!(other.say("GET k").starts_with("-NOAUTH"));
    assert_eq!(other.say("AUTH word"), "+OK\r\n");
    assert_eq!(other.say("GET k"), "$-1\r\n");
    other.send(b"*2\r\n$4\r\nECHO\r\n$2000000\r\n");
    assert_eq!(other.rest(), b"-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn object_says_how_a_value_is_kept() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let mut wire = server.connect();
    wire.say("MSET i 12 s word");
    wire.ask(&[b"SET", b"t", &[b'x'; 100]]);
    wire.say("RPUSH l a");
    wire.say("ZADD z 1 a");
    for (key, encoding) in
        [("i", "int"), ("s", "embstr"), ("t", "raw"), ("l", "quicklist"), ("z", "skiplist")]
    {
        let reply = format!("${}\r\n{encoding}\r\n", encoding.len());
        assert_eq!(wire.say(&format!("OBJECT ENCODING {key}")), reply);
    }
    assert_eq!(wire.say("OBJECT REFCOUNT i"), ":1\r\n");
    assert_eq!(wire.say("OBJECT ENCODING nothing"), "$-1\r\n");
    assert!(wire.say("OBJECT FREQ i").starts_with("-ERR An LFU"));
    assert!(wire.say("OBJECT IDLETIME i").starts_with("-ERR idle times are not kept"));
}

#[test]
fn keys_expire_by_the_clock_also_while_nobody_serves() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::kv(folder.path(), &[]);
    let mut wire = server.connect();
    assert_eq!(wire.say("SET soon v PX 300"), "+OK\r\n");
    assert_eq!(wire.say("SET late v EX 1000"), "+OK\r\n");
    assert_eq!(wire.say("DBSIZE"), ":2\r\n");
    server.kill();
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(direct(folder.path(), &["exists", "soon", "late"]), "1\n");
    assert_eq!(direct(folder.path(), &["dbsize"]), "1\n");
    let server = Server::kv(folder.path(), &[]);
    let mut wire = server.connect();
    assert_eq!(wire.say("GET soon"), "$-1\r\n");
    // It is removed though nobody asks for it.
    assert_eq!(wire.say("SET again v PX 1"), "+OK\r\n");
    while !wire.say("INFO keyspace").contains("keys=1,expires=1") {}
}

#[test]
fn the_distributions_clients_work() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    if Command::new("redis-cli").arg("--version").output().is_err() {
        kvm::other_kind_of_host("the_distributions_clients_work", "there is no redis-cli");
        return;
    }
    let server = Server::kv(folder.path(), &["--durability", "manual"]);
    let said = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        let output = command.arg("-s").arg(&server.socket).args(args).output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(said("redis-cli", &["set", "k", "v"]), "OK\n");
    assert_eq!(said("redis-cli", &["-3", "hset", "h", "f", "v"]), "1\n");
    assert_eq!(said("redis-cli", &["-3", "hgetall", "h"]), "f v\n");
    assert_eq!(said("redis-cli", &["--scan", "--pattern", "k*"]), "k\n");
    let tests = "ping_inline,ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset";
    let figures =
        said("redis-benchmark", &["-t", tests, "-n", "500", "-c", "10", "-P", "4", "--csv"]);
    assert!(figures.lines().count() >= 16, "{figures}");
}

//! The `redis` crate as a client of `kv serve`: `kv-clients PATH` checks what it says to the server at a UNIX socket, by
//! RESP2 and by RESP3, and prints a line for each part. Any server of the protocol will do; all keys of its first
//! database are removed. Status 0, or 101 with the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use redis::{Client, Commands, Connection, ErrorKind, RedisResult, ServerErrorKind, Value};

fn main() -> RedisResult<()> {
    let path = std::env::args().nth(1).expect("kv-clients PATH");
    for protocol in ["resp2", "resp3"] {
        let client = Client::open(format!("redis+unix://{path}?protocol={protocol}"))?;
        let parts: [(&str, fn(&Client) -> RedisResult<()>); 6] = [
            ("strings and times of expiry", strings),
            ("collections", collections),
            ("pipelines and transactions", transactions),
            ("mistakes", mistakes),
            ("messages", messages),
            ("waiting", waiting),
        ];
        for (name, part) in parts {
            fresh(&client)?;
            part(&client)?;
            println!("{protocol}: {name}");
        }
    }
    Ok(())
}

/// A connection to a server without keys.
fn fresh(client: &Client) -> RedisResult<Connection> {
    let mut connection = client.get_connection()?;
    redis::cmd("FLUSHDB").exec(&mut connection)?;
    Ok(connection)
}

fn strings(client: &Client) -> RedisResult<()> {
    let mut c = client.get_connection()?;
    let bytes: Vec<u8> = (0..=255).collect();
    () = c.set("bytes", &bytes)?;
    assert_eq!(c.get::<_, Vec<u8>>("bytes")?, bytes);
    assert_eq!(c.get::<_, Option<String>>("none")?, None);
    assert_eq!(c.incr::<_, _, i64>("n", 41)?, 41);
    assert_eq!(c.incr::<_, _, i64>("n", 1)?, 42);
    assert_eq!(c.incr::<_, _, f64>("f", 1.5)?, 1.5);
    () = c.mset(&[("a", "1"), ("b", "2")])?;
    assert_eq!(c.mget::<_, Vec<Option<i64>>>(&["a", "none", "b"])?, [Some(1), None, Some(2)]);
    assert_eq!(c.append::<_, _, usize>("a", "23")?, 3);
    assert_eq!(c.getrange::<_, String>("a", 1, -1)?, "23");
    assert!(c.set_nx::<_, _, bool>("new", 1)? && !c.set_nx::<_, _, bool>("new", 2)?);
    () = c.set_ex("soon", "v", 100)?;
    assert!((1..=100).contains(&c.ttl::<_, i64>("soon")?));
    assert!(c.persist::<_, bool>("soon")? && c.ttl::<_, i64>("soon")? == -1);
    () = c.pset_ex("past", "v", 5)?;
    thread::sleep(Duration::from_millis(20));
    assert!(!c.exists::<_, bool>("past")?);
    assert_eq!(c.del::<_, usize>(&["a", "b", "none"])?, 2);
    let mut found: Vec<String> = c.scan()?.collect::<RedisResult<_>>()?;
    found.sort();
    assert_eq!(found, ["bytes", "f", "n", "new", "soon"]);
    Ok(())
}

fn collections(client: &Client) -> RedisResult<()> {
    let mut c = client.get_connection()?;
    assert_eq!(c.rpush::<_, _, usize>("l", &["b", "c"])?, 2);
    assert_eq!(c.lpush::<_, _, usize>("l", "a")?, 3);
    assert_eq!(c.lrange::<_, Vec<String>>("l", 0, -1)?, ["a", "b", "c"]);
    assert_eq!(c.lpop::<_, Vec<String>>("l", std::num::NonZeroUsize::new(2))?, ["a", "b"]);
    () = c.hset_multiple("h", &[("x", 1), ("y", 2)])?;
    let all: BTreeMap<String, i64> = c.hgetall("h")?;
    assert_eq!(all, BTreeMap::from([("x".into(), 1), ("y".into(), 2)]));
    assert_eq!(c.hincr::<_, _, _, i64>("h", "x", 5)?, 6);
    assert_eq!(c.hdel::<_, _, usize>("h", "x")?, 1);
    () = c.sadd("s", &["a", "b"])?;
    () = c.sadd("t", &["b", "c"])?;
    let both: BTreeSet<String> = c.sinter(&["s", "t"])?;
    assert_eq!(both, BTreeSet::from(["b".to_owned()]));
    assert!(c.sismember::<_, _, bool>("s", "a")?);
    () = c.zadd_multiple("z", &[(1.0, "a"), (2.5, "b"), (-3.0, "c")])?;
    assert_eq!(c.zrank::<_, _, Option<usize>>("z", "b")?, Some(2));
    let ranked: Vec<(String, f64)> = c.zrange_withscores("z", 0, 1)?;
    assert_eq!(ranked, [("c".to_owned(), -3.0), ("a".to_owned(), 1.0)]);
    assert_eq!(c.zcount::<_, _, _, usize>("z", 0, "+inf")?, 2);
    assert_eq!(c.zscore::<_, _, Option<f64>>("z", "none")?, None);
    let fields: Vec<(String, i64)> = c.hscan("h")?.collect::<RedisResult<_>>()?;
    assert_eq!(fields, [("y".to_owned(), 2)]);
    Ok(())
}

fn transactions(client: &Client) -> RedisResult<()> {
    let mut c = client.get_connection()?;
    let mut pipe = redis::pipe();
    for number in 0..1000 {
        pipe.set(format!("k{number}"), number).ignore();
    }
    let (sum, one): (i64, i64) = pipe.incr("k999", 1).get("k7").query(&mut c)?;
    assert_eq!((sum, one), (1000, 7));
    let both: (i64, i64) = redis::pipe().atomic().incr("a", 1).incr("b", 2).query(&mut c)?;
    assert_eq!(both, (1, 2));
    // Somebody else changes what is watched, the first time.
    let (mut other, mut attempts) = (client.get_connection()?, 0);
    let (sum,): (i64,) = redis::transaction(&mut c, &["a"], |c, pipe| {
        attempts += 1;
        let held: i64 = c.get("a")?;
        if attempts == 1 {
            () = other.incr("a", 10)?;
        }
        pipe.set("a", held + 1).ignore().get("a").query(c)
    })?;
    assert_eq!((sum, attempts), (12, 2));
    Ok(())
}

fn mistakes(client: &Client) -> RedisResult<()> {
    let mut c = client.get_connection()?;
    () = c.set("text", "word")?;
    let error = c.incr::<_, _, i64>("text", 1).expect_err("it is no number");
    assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError), "{error}");
    let error = c.lpush::<_, _, i64>("text", 1).expect_err("it is no list");
    assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
    let error = redis::cmd("NOSUCH").exec(&mut c).expect_err("there is no such command");
    assert!(error.to_string().contains("unknown command"), "{error}");
    let results = redis::pipe().atomic().incr("text", 1).set("other", 1).query::<Value>(&mut c);
    assert!(results.is_err() && c.exists::<_, bool>("other")?, "the others are carried out");
    Ok(())
}

fn messages(client: &Client) -> RedisResult<()> {
    let (mut listening, mut c) = (client.get_connection()?, client.get_connection()?);
    let mut channels = listening.as_pubsub();
    channels.subscribe("news")?;
    channels.psubscribe("n*")?;
    assert_eq!(c.publish::<_, _, usize>("news", "hello")?, 2);
    assert_eq!(c.publish::<_, _, usize>("other", "hello")?, 0);
    let patterns: BTreeSet<Option<String>> = (0..2)
        .map(|_| {
            let message = channels.get_message()?;
            assert_eq!((message.get_channel_name(), message.get_payload_bytes()), ("news", &b"hello"[..]));
            message.from_pattern().then(|| message.get_pattern()).transpose()
        })
        .collect::<RedisResult<_>>()?;
    assert_eq!(patterns, BTreeSet::from([None, Some("n*".to_owned())]));
    channels.unsubscribe("news")?;
    assert_eq!(c.publish::<_, _, usize>("news", "again")?, 1);
    drop(channels);
    assert_eq!(c.publish::<_, _, usize>("news", "nobody")?, 0);
    // The connection can be used as any other again.
    assert_eq!(listening.incr::<_, _, i64>("n", 1)?, 1);
    Ok(())
}

fn waiting(client: &Client) -> RedisResult<()> {
    let mut c = client.get_connection()?;
    assert_eq!(c.blpop::<_, Option<(String, String)>>("queue", 0.05)?, None);
    let waiting = client.clone();
    let job = thread::spawn(move || -> RedisResult<(String, String)> {
        waiting.get_connection()?.blpop(&["queue", "other"], 30.0)
    });
    // Whether it waits already does not matter.
    () = c.rpush("other", "job")?;
    let job = job.join().expect("it does not panic")?;
    assert_eq!(job, ("other".to_owned(), "job".to_owned()));
    Ok(())
}

//! The same commands, by chance, to `kv serve` and to the distribution's `redis-server`: replies are equal byte by byte,
//! but for the order of what has none.

use super::generator::{Random, command};
use super::wire::{Server, elements};
use tests::{pace, skip_without_kvm};

/// A reply in an order of its own, where Redis promises none.
fn without_order(name: &str, reply: &[u8]) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = elements(reply).iter().map(|part| part.to_vec()).collect();
    let pairs = matches!(name, "HGETALL");
    match name {
        "SMEMBERS" | "SUNION" | "SINTER" | "SDIFF" | "HKEYS" | "HVALS" | "KEYS" | "SPOP"
        | "HGETALL"
            if reply.first() != Some(&b'-') =>
        {
            if pairs && reply.first() == Some(&b'*') {
                parts = parts.chunks(2).map(<[Vec<u8>]>::concat).collect();
            }
            parts.sort();
            let head = reply.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            [&reply[..head], &parts.concat()].concat()
        }
        "SCAN" | "SSCAN" | "HSCAN" | "ZSCAN" if parts.len() == 2 => {
            let mut found: Vec<Vec<u8>> =
                elements(&parts[1]).iter().map(|part| part.to_vec()).collect();
            if matches!(name, "HSCAN" | "ZSCAN") {
                found = found.chunks(2).map(<[Vec<u8>]>::concat).collect();
            }
            found.sort();
            [parts[0].clone(), found.concat()].concat()
        }
        _ => reply.to_vec(),
    }
}

/// Times go on between one server and the other.
fn is_near(name: &str, one: &[u8], other: &[u8]) -> bool {
    let number = |reply: &[u8]| {
        std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim().parse::<i64>().ok()
    };
    let most = match name {
        "TTL" | "EXPIRETIME" => 60,
        "PEXPIRETIME" => 60_000,
        _ => 0,
    };
    matches!((number(one), number(other)), (Some(one), Some(other)) if one > 0 && other > 0 && one.abs_diff(other) <= most)
}

/// What only Redis says, and what is ours: unknown commands are not compared.
fn is_compared(name: &str) -> bool {
    name != "OBJECT"
}

/// The first difference, if there is one.
fn difference(
    ours: &Server,
    redis: &Server,
    seed: u64,
    length: u32,
    protocol: &str,
) -> Option<String> {
    let mut random = Random::new(seed);
    let (mut here, mut there) = (ours.connect(), redis.connect());
    for wire in [&mut here, &mut there] {
        wire.say(&format!("HELLO {protocol}"));
        wire.say("FLUSHALL");
    }
    let mut history = Vec::new();
    let mut queued: Vec<String> = Vec::new();
    for _ in 0..length {
        let words = command(&mut random);
        let slices: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let name = String::from_utf8_lossy(&words[0]).into_owned();
        if !is_compared(&name) {
            continue;
        }
        history.push(
            words
                .iter()
                .map(|word| word[..word.len().min(40)].escape_ascii().to_string())
                .collect::<Vec<_>>()
                .join(" "),
        );
        let (one, other) = (here.ask(&slices), there.ask(&slices));
        let alike = |name: &str, one: &[u8], other: &[u8]| {
            without_order(name, one) == without_order(name, other) || is_near(name, one, other)
        };
        let are_alike = match &name[..] {
            "EXEC" if one.first() == Some(&b'*') => {
                let (ones, others) = (elements(&one), elements(&other));
                let pairs = ones.iter().zip(&others).zip(&queued);
                ones.len() == others.len()
                    && pairs.clone().all(|((one, other), name)| alike(name, one, other))
            }
            _ => alike(&name, &one, &other),
        };
        match &one[..] {
            b"+QUEUED\r\n" => queued.push(name),
            _ if matches!(&name[..], "EXEC" | "DISCARD") => queued.clear(),
            _ => {}
        }
        if !are_alike {
            let last: Vec<&String> = history.iter().rev().take(25).rev().collect();
            let shown = |reply: &[u8]| reply[..reply.len().min(400)].escape_ascii().to_string();
            return Some(format!(
                "seed {seed}, RESP{protocol}, after {last:#?}\n ours {}\nredis {}",
                shown(&one),
                shown(&other)
            ));
        }
    }
    None
}

#[test]
fn commands_by_chance_have_the_replies_of_redis() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let Some(redis) = Server::redis("commands_by_chance_have_the_replies_of_redis", folder.path())
    else {
        return;
    };
    let ours = Server::kv(folder.path(), &["--durability", "manual"]);
    let first: u64 = std::env::var("KV_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rounds = 0..u64::from(pace::times(20));
    let differences = rounds.filter_map(|round| {
        let protocol = if round % 2 == 0 { "2" } else { "3" };
        difference(&ours, &redis, first + round, 1000, protocol)
    });
    let differences: Vec<String> = differences.collect();
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

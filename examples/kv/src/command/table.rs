//! Every command that is served: how many words it has, where its keys are, and its function.

use std::sync::LazyLock;

use super::{Command, Run, blocking, generic, hashes, lists, scan, sets, sorted, strings};
use spacejmp::{Read, Write};

/// A row of the table: reading (`r`), writing (`w`), writing with need of memory (`W`), of the connection
/// (`s`), of the server (`S`).
macro_rules! row {
    (r $name:literal $arity:literal $keys:tt $($run:tt)+) => {
        row!(@ $name $arity $keys false Run::Read($($run)+::<Read>, $($run)+::<Write>))
    };
    (w $name:literal $arity:literal $keys:tt $($run:tt)+) => {
        row!(@ $name $arity $keys false Run::Write($($run)+))
    };
    (W $name:literal $arity:literal $keys:tt $($run:tt)+) => {
        row!(@ $name $arity $keys true Run::Write($($run)+))
    };
    (s $name:literal $arity:literal $keys:tt) => { row!(@ $name $arity $keys false Run::Session) };
    (S $name:literal $arity:literal $keys:tt) => { row!(@ $name $arity $keys false Run::Server) };
    (@ $name:literal $arity:literal ($first:literal, $last:literal, $step:literal) $grows:literal $run:expr) => {
        Command { name: $name, arity: $arity, keys: ($first, $last, $step), run: $run, grows: $grows }
    };
}

/// The command of a name, in any case. A request asks several times, so it is a look at one place, not a search.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    let mut upper = [0; 24];
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    let mut place = place_of(upper);
    loop {
        let command = PLACES[place]?;
        if command.name.as_bytes() == upper {
            return Some(command);
        }
        place = (place + 1) % PLACES_LEN;
    }
}

/// Several times as many as there are commands: most are where they are looked for first.
const PLACES_LEN: usize = 1024;

/// The commands by [`place_of`] their names, or at the next place that was free.
static PLACES: LazyLock<[Option<&'static Command>; PLACES_LEN]> = LazyLock::new(|| {
    let mut places = [None; PLACES_LEN];
    for command in TABLE {
        let mut place = place_of(command.name.as_bytes());
        while places[place].is_some() {
            place = (place + 1) % PLACES_LEN;
        }
        places[place] = Some(command);
    }
    places
});

fn place_of(name: &[u8]) -> usize {
    let hash = name.iter().fold(0_u32, |hash, byte| hash.wrapping_mul(31) + u32::from(*byte));
    hash.wrapping_mul(0x9e37_79b9) as usize >> (32 - PLACES_LEN.ilog2())
}

/// In the order of their names.
#[rustfmt::skip]
pub(crate) static TABLE: &[Command] = &[
    row!(W "APPEND" 3 (1, 1, 1) strings::append),
    row!(S "AUTH" -2 (0, 0, 0)),
    row!(S "BGSAVE" -1 (0, 0, 0)),
    row!(r "BITCOUNT" -2 (1, 1, 1) strings::bitcount),
    row!(W "BLMOVE" 6 (1, 2, 1) blocking::lmove),
    row!(w "BLMPOP" -5 (0, 0, 0) blocking::lmpop),
    row!(w "BLPOP" -3 (1, -2, 1) blocking::pop),
    row!(w "BRPOP" -3 (1, -2, 1) blocking::pop),
    row!(W "BRPOPLPUSH" 4 (1, 2, 1) blocking::lmove),
    row!(w "BZMPOP" -5 (0, 0, 0) blocking::zmpop),
    row!(w "BZPOPMAX" -3 (1, -2, 1) blocking::zpop),
    row!(w "BZPOPMIN" -3 (1, -2, 1) blocking::zpop),
    row!(S "CLIENT" -2 (0, 0, 0)),
    row!(s "COMMAND" -1 (0, 0, 0)),
    row!(S "CONFIG" -2 (0, 0, 0)),
    row!(W "COPY" -3 (1, 2, 1) generic::copy),
    row!(r "DBSIZE" 1 (0, 0, 0) generic::dbsize),
    row!(S "DEBUG" -2 (0, 0, 0)),
    row!(W "DECR" 2 (1, 1, 1) strings::incr),
    row!(W "DECRBY" 3 (1, 1, 1) strings::incr),
    row!(w "DEL" -2 (1, -1, 1) generic::del),
    row!(s "DISCARD" 1 (0, 0, 0)),
    row!(s "ECHO" 2 (0, 0, 0)),
    row!(s "EXEC" 1 (0, 0, 0)),
    row!(r "EXISTS" -2 (1, -1, 1) generic::exists),
    row!(w "EXPIRE" -3 (1, 1, 1) generic::expire),
    row!(w "EXPIREAT" -3 (1, 1, 1) generic::expire),
    row!(r "EXPIRETIME" 2 (1, 1, 1) generic::ttl),
    row!(w "FLUSHALL" -1 (0, 0, 0) generic::flush),
    row!(w "FLUSHDB" -1 (0, 0, 0) generic::flush),
    row!(r "GET" 2 (1, 1, 1) strings::get),
    row!(r "GETBIT" 3 (1, 1, 1) strings::getbit),
    row!(w "GETDEL" 2 (1, 1, 1) strings::getdel),
    row!(w "GETEX" -2 (1, 1, 1) strings::getex),
    row!(r "GETRANGE" 4 (1, 1, 1) strings::getrange),
    row!(W "GETSET" 3 (1, 1, 1) strings::getset),
    row!(w "HDEL" -3 (1, 1, 1) hashes::hdel),
    row!(S "HELLO" -1 (0, 0, 0)),
    row!(r "HEXISTS" 3 (1, 1, 1) hashes::hexists),
    row!(r "HGET" 3 (1, 1, 1) hashes::hget),
    row!(r "HGETALL" 2 (1, 1, 1) hashes::hgetall),
    row!(W "HINCRBY" 4 (1, 1, 1) hashes::hincrby),
    row!(W "HINCRBYFLOAT" 4 (1, 1, 1) hashes::hincrbyfloat),
    row!(r "HKEYS" 2 (1, 1, 1) hashes::hgetall),
    row!(r "HLEN" 2 (1, 1, 1) hashes::hlen),
    row!(r "HMGET" -3 (1, 1, 1) hashes::hmget),
    row!(W "HMSET" -4 (1, 1, 1) hashes::hset),
    row!(r "HRANDFIELD" -2 (1, 1, 1) hashes::hrandfield),
    row!(r "HSCAN" -3 (1, 1, 1) scan::hscan),
    row!(W "HSET" -4 (1, 1, 1) hashes::hset),
    row!(W "HSETNX" 4 (1, 1, 1) hashes::hsetnx),
    row!(r "HSTRLEN" 3 (1, 1, 1) hashes::hstrlen),
    row!(r "HVALS" 2 (1, 1, 1) hashes::hgetall),
    row!(W "INCR" 2 (1, 1, 1) strings::incr),
    row!(W "INCRBY" 3 (1, 1, 1) strings::incr),
    row!(W "INCRBYFLOAT" 3 (1, 1, 1) strings::incrbyfloat),
    row!(S "INFO" -1 (0, 0, 0)),
    row!(r "KEYS" 2 (0, 0, 0) generic::keys),
    row!(s "LASTSAVE" 1 (0, 0, 0)),
    row!(r "LINDEX" 3 (1, 1, 1) lists::lindex),
    row!(W "LINSERT" 5 (1, 1, 1) lists::linsert),
    row!(r "LLEN" 2 (1, 1, 1) lists::llen),
    row!(W "LMOVE" 5 (1, 2, 1) lists::lmove),
    row!(w "LMPOP" -4 (0, 0, 0) lists::lmpop),
    row!(w "LPOP" -2 (1, 1, 1) lists::pop),
    row!(r "LPOS" -3 (1, 1, 1) lists::lpos),
    row!(W "LPUSH" -3 (1, 1, 1) lists::push),
    row!(W "LPUSHX" -3 (1, 1, 1) lists::push),
    row!(r "LRANGE" 4 (1, 1, 1) lists::lrange),
    row!(w "LREM" 4 (1, 1, 1) lists::lrem),
    row!(W "LSET" 4 (1, 1, 1) lists::lset),
    row!(w "LTRIM" 4 (1, 1, 1) lists::ltrim),
    row!(r "MGET" -2 (1, -1, 1) strings::mget),
    row!(w "MOVE" 3 (1, 1, 1) generic::r#move),
    row!(W "MSET" -3 (1, -1, 2) strings::mset),
    row!(W "MSETNX" -3 (1, -1, 2) strings::mset),
    row!(s "MULTI" 1 (0, 0, 0)),
    row!(r "OBJECT" -2 (0, 0, 0) generic::object),
    row!(w "PERSIST" 2 (1, 1, 1) generic::persist),
    row!(w "PEXPIRE" -3 (1, 1, 1) generic::expire),
    row!(w "PEXPIREAT" -3 (1, 1, 1) generic::expire),
    row!(r "PEXPIRETIME" 2 (1, 1, 1) generic::ttl),
    row!(s "PING" -1 (0, 0, 0)),
    row!(W "PSETEX" 4 (1, 1, 1) strings::setex),
    row!(S "PSUBSCRIBE" -2 (0, 0, 0)),
    row!(r "PTTL" 2 (1, 1, 1) generic::ttl),
    row!(S "PUBLISH" 3 (0, 0, 0)),
    row!(S "PUBSUB" -2 (0, 0, 0)),
    row!(S "PUNSUBSCRIBE" -1 (0, 0, 0)),
    row!(S "QUIT" -1 (0, 0, 0)),
    row!(r "RANDOMKEY" 1 (0, 0, 0) generic::randomkey),
    row!(w "RENAME" 3 (1, 2, 1) generic::rename),
    row!(w "RENAMENX" 3 (1, 2, 1) generic::rename),
    row!(S "RESET" 1 (0, 0, 0)),
    row!(w "RPOP" -2 (1, 1, 1) lists::pop),
    row!(W "RPOPLPUSH" 3 (1, 2, 1) lists::lmove),
    row!(W "RPUSH" -3 (1, 1, 1) lists::push),
    row!(W "RPUSHX" -3 (1, 1, 1) lists::push),
    row!(W "SADD" -3 (1, 1, 1) sets::sadd),
    row!(S "SAVE" 1 (0, 0, 0)),
    row!(r "SCAN" -2 (0, 0, 0) scan::scan),
    row!(r "SCARD" 2 (1, 1, 1) sets::scard),
    row!(r "SDIFF" -2 (1, -1, 1) sets::combined),
    row!(W "SDIFFSTORE" -3 (1, -1, 1) sets::store),
    row!(s "SELECT" 2 (0, 0, 0)),
    row!(W "SET" -3 (1, 1, 1) strings::set),
    row!(W "SETBIT" 4 (1, 1, 1) strings::setbit),
    row!(W "SETEX" 4 (1, 1, 1) strings::setex),
    row!(W "SETNX" 3 (1, 1, 1) strings::setnx),
    row!(W "SETRANGE" 4 (1, 1, 1) strings::setrange),
    row!(r "SINTER" -2 (1, -1, 1) sets::combined),
    row!(r "SINTERCARD" -3 (0, 0, 0) sets::sintercard),
    row!(W "SINTERSTORE" -3 (1, -1, 1) sets::store),
    row!(r "SISMEMBER" 3 (1, 1, 1) sets::sismember),
    row!(r "SMEMBERS" 2 (1, 1, 1) sets::smembers),
    row!(r "SMISMEMBER" -3 (1, 1, 1) sets::smismember),
    row!(w "SMOVE" 4 (1, 2, 1) sets::smove),
    row!(w "SPOP" -2 (1, 1, 1) sets::spop),
    row!(r "SRANDMEMBER" -2 (1, 1, 1) sets::srandmember),
    row!(w "SREM" -3 (1, 1, 1) sets::srem),
    row!(r "SSCAN" -3 (1, 1, 1) scan::sscan),
    row!(r "STRLEN" 2 (1, 1, 1) strings::strlen),
    row!(S "SUBSCRIBE" -2 (0, 0, 0)),
    row!(r "SUBSTR" 4 (1, 1, 1) strings::getrange),
    row!(r "SUNION" -2 (1, -1, 1) sets::combined),
    row!(W "SUNIONSTORE" -3 (1, -1, 1) sets::store),
    row!(w "SWAPDB" 3 (0, 0, 0) generic::swapdb),
    row!(s "TIME" 1 (0, 0, 0)),
    row!(r "TOUCH" -2 (1, -1, 1) generic::exists),
    row!(r "TTL" 2 (1, 1, 1) generic::ttl),
    row!(r "TYPE" 2 (1, 1, 1) generic::kind),
    row!(w "UNLINK" -2 (1, -1, 1) generic::del),
    row!(S "UNSUBSCRIBE" -1 (0, 0, 0)),
    row!(s "UNWATCH" 1 (0, 0, 0)),
    row!(s "WATCH" -2 (1, -1, 1)),
    row!(W "ZADD" -4 (1, 1, 1) sorted::zadd),
    row!(r "ZCARD" 2 (1, 1, 1) sorted::zcard),
    row!(r "ZCOUNT" 4 (1, 1, 1) sorted::zcount),
    row!(r "ZDIFF" -3 (0, 0, 0) sorted::combined),
    row!(W "ZDIFFSTORE" -4 (1, 1, 1) sorted::combined_store),
    row!(W "ZINCRBY" 4 (1, 1, 1) sorted::zincrby),
    row!(r "ZINTER" -3 (0, 0, 0) sorted::combined),
    row!(W "ZINTERSTORE" -4 (1, 1, 1) sorted::combined_store),
    row!(r "ZLEXCOUNT" 4 (1, 1, 1) sorted::zcount),
    row!(w "ZMPOP" -4 (0, 0, 0) sorted::zmpop),
    row!(r "ZMSCORE" -3 (1, 1, 1) sorted::zmscore),
    row!(w "ZPOPMAX" -2 (1, 1, 1) sorted::zpop),
    row!(w "ZPOPMIN" -2 (1, 1, 1) sorted::zpop),
    row!(r "ZRANDMEMBER" -2 (1, 1, 1) sorted::zrandmember),
    row!(r "ZRANGE" -4 (1, 1, 1) sorted::zrange),
    row!(r "ZRANGEBYLEX" -4 (1, 1, 1) sorted::zrange),
    row!(r "ZRANGEBYSCORE" -4 (1, 1, 1) sorted::zrange),
    row!(W "ZRANGESTORE" -5 (1, 2, 1) sorted::zrangestore),
    row!(r "ZRANK" 3 (1, 1, 1) sorted::zrank),
    row!(w "ZREM" -3 (1, 1, 1) sorted::zrem),
    row!(w "ZREMRANGEBYLEX" 4 (1, 1, 1) sorted::zremrange),
    row!(w "ZREMRANGEBYRANK" 4 (1, 1, 1) sorted::zremrange),
    row!(w "ZREMRANGEBYSCORE" 4 (1, 1, 1) sorted::zremrange),
    row!(r "ZREVRANGE" -4 (1, 1, 1) sorted::zrange),
    row!(r "ZREVRANGEBYLEX" -4 (1, 1, 1) sorted::zrange),
    row!(r "ZREVRANGEBYSCORE" -4 (1, 1, 1) sorted::zrange),
    row!(r "ZREVRANK" 3 (1, 1, 1) sorted::zrank),
    row!(r "ZSCAN" -3 (1, 1, 1) scan::zscan),
    row!(r "ZSCORE" 3 (1, 1, 1) sorted::zscore),
    row!(r "ZUNION" -3 (0, 0, 0) sorted::combined),
    row!(W "ZUNIONSTORE" -4 (1, 1, 1) sorted::combined_store),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_found_in_any_case() {
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        let is_found = |command: &Command| {
            find(command.name.as_bytes()).is_some_and(|found| found.name == command.name)
        };
        assert!(TABLE.iter().all(is_found));
        assert_eq!(find(b"zRangeByScore").map(|command| command.name), Some("ZRANGEBYSCORE"));
        assert!(find(b"GE").is_none() && find(b"").is_none() && find(&[b'A'; 100]).is_none());
    }

    #[test]
    fn the_book_has_every_command_and_no_other() {
        let page = include_str!("../../../../docs/src/kv.md");
        let rows =
            page.split("## Commands").nth(1).and_then(|rest| rest.split("What differs").next());
        let mut listed: Vec<&str> = rows.expect("a table").split('`').skip(1).step_by(2).collect();
        listed.sort_unstable();
        let served: Vec<&str> = TABLE.iter().map(|command| command.name).collect();
        assert_eq!(listed, served);
    }

    #[test]
    fn a_command_has_the_words_that_its_keys_need() {
        for command in TABLE {
            let (first, last, step) = command.keys;
            let least = command.arity.abs();
            assert!(first == 0 || (step > 0 && first < least && last < least), "{}", command.name);
        }
    }
}

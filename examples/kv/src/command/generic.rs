//! Keys, whatever they hold.

use spacejmp::Mode;

use super::{Args, NO_INTEGER, NO_KEY, SYNTAX, int, is, random};
use crate::data::{
    Change, DATABASES, Done, Entry, Fail, Fields, List, Members, Put, Sorted, Value, View,
};
use crate::glob;
use crate::reply::Out;
use crate::request::integer;
use spacejmp::{AllocError, VBox};

pub(super) fn exists<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(args[1..].iter().filter(|key| v.entry(key).is_some()).count());
    Ok(())
}

pub(super) fn kind<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.simple(v.value(&args[1]).map_or("none", Value::kind));
    Ok(())
}

/// `OBJECT`. Who reads changes nothing, so nobody knows when or how often that was.
pub(super) fn object<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let name = args[1].to_ascii_uppercase();
    let known = matches!(&name[..], b"ENCODING" | b"REFCOUNT" | b"IDLETIME" | b"FREQ");
    let shown = String::from_utf8_lossy(&args[1]).into_owned();
    let key = match &args[2..] {
        [key] if known => key,
        [] if name == b"HELP" => {
            let lines = [
                "OBJECT ENCODING key",
                "OBJECT FREQ key",
                "OBJECT HELP",
                "OBJECT IDLETIME key",
                "OBJECT REFCOUNT key",
            ];
            out.array(lines.len());
            lines.iter().for_each(|line| out.simple(line));
            return Ok(());
        }
        _ if known => {
            return Err(super::wrong_number(&format!("object|{}", shown.to_ascii_lowercase())));
        }
        _ => return Err(format!("ERR unknown subcommand '{shown}'. Try OBJECT HELP.").into()),
    };
    let Some(value) = v.value(key) else {
        out.null();
        return Ok(());
    };
    match &name[..] {
        b"ENCODING" => out.bulk(value.encoding().as_bytes()),
        b"REFCOUNT" => out.int(1),
        b"FREQ" => return Err("ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.".into()),
        _ => return Err("ERR idle times are not kept: reading changes nothing".into()),
    }
    Ok(())
}

pub(super) fn dbsize<M: Mode>(v: View<'_, '_, M>, _: Args<'_>, out: &mut Out) -> Done {
    out.count(v.len());
    Ok(())
}

pub(super) fn keys<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let found: Vec<&[u8]> =
        v.iter().map(|(key, _)| key).filter(|key| glob::matches(&args[1], key)).collect();
    out.array(found.len());
    found.iter().for_each(|key| out.bulk(key));
    Ok(())
}

pub(super) fn randomkey<M: Mode>(v: View<'_, '_, M>, _: Args<'_>, out: &mut Out) -> Done {
    out.bulk_or_null(v.any(random));
    Ok(())
}

/// `TTL`, `PTTL`, `EXPIRETIME`, `PEXPIRETIME`.
pub(super) fn ttl<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let name = args[0].to_ascii_uppercase();
    out.int(match v.entry(&args[1]) {
        None => -2,
        Some(Entry { expires: 0, .. }) => -1,
        Some(entry) => {
            let (time, left) = (entry.expires as i64, (entry.expires - v.now) as i64);
            match &name[..] {
                b"TTL" => (left + 500) / 1000,
                b"PTTL" => left,
                b"EXPIRETIME" => (time + 500) / 1000,
                _ => time,
            }
        }
    });
    Ok(())
}

pub(super) fn del(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(
        args[1..].iter().filter(|key| c.view().entry(key).is_some() && c.remove(key)).count(),
    );
    Ok(())
}

pub(super) fn persist(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let expires = c.view().entry(&args[1]).is_some_and(|entry| entry.expires != 0);
    if expires {
        c.expire(&args[1], 0)?;
    }
    out.int(expires.into());
    Ok(())
}

/// `EXPIRE`, `PEXPIRE`, `EXPIREAT`, `PEXPIREAT`.
pub(super) fn expire(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let name = String::from_utf8_lossy(&args[0]).to_ascii_lowercase();
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in &args[3..] {
        match &option.to_ascii_uppercase()[..] {
            b"NX" => nx = true,
            b"XX" => xx = true,
            b"GT" => gt = true,
            b"LT" => lt = true,
            _ => {
                let option = String::from_utf8_lossy(option);
                return Err(format!("ERR Unsupported option {option}").into());
            }
        }
    }
    if nx && (xx || gt || lt) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if gt && lt {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let number = integer(&args[2]).ok_or(NO_INTEGER)?;
    let scale = if name.starts_with('p') { 1 } else { 1000 };
    let base = if name.ends_with("at") { 0 } else { c.now as i64 };
    let time = number.checked_mul(scale).and_then(|time| time.checked_add(base));
    let time = time.ok_or_else(|| format!("ERR invalid expire time in '{name}' command"))?;
    let Some(before) = c.view().entry(&args[1]).map(|entry| entry.expires) else {
        out.int(0);
        return Ok(());
    };
    let is_later = before != 0 && time > before as i64;
    let is_earlier = before == 0 || time < before as i64;
    if (nx && before != 0) || (xx && before == 0) || (gt && !is_later) || (lt && !is_earlier) {
        out.int(0);
        return Ok(());
    }
    // One that has passed is no zero, which would be never.
    c.expire(&args[1], u64::try_from(time).unwrap_or(1).max(1))?;
    out.int(1);
    Ok(())
}

/// `RENAME` and `RENAMENX`.
pub(super) fn rename(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let only_new = is(&args[0], "RENAMENX");
    if c.view().entry(&args[1]).is_none() {
        return Err(NO_KEY.into());
    }
    if only_new && c.view().entry(&args[2]).is_some() {
        out.int(0);
        return Ok(());
    }
    if args[1] != args[2]
        && let Some(entry) = c.take(&args[1])
    {
        let put = if entry.expires == 0 { Put::Forever } else { Put::Until(entry.expires) };
        c.put(&args[2], entry.value, put)?;
    }
    if only_new {
        out.int(1)
    } else {
        out.ok()
    }
    Ok(())
}

pub(super) fn flush(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    if args.len() > 2 || args.get(1).is_some_and(|word| !is(word, "ASYNC") && !is(word, "SYNC")) {
        return Err(SYNTAX.into());
    }
    let here = c.db;
    let all = is(&args[0], "FLUSHALL");
    for db in if all { 0..DATABASES } else { here..here + 1 } {
        c.db = db;
        c.clear();
    }
    c.db = here;
    out.ok();
    Ok(())
}

fn database(text: &[u8], message: &'static str) -> Result<usize, Fail> {
    let db = integer(text).ok_or(message)?;
    usize::try_from(db)
        .ok()
        .filter(|&db| db < DATABASES)
        .ok_or(Fail::Said("ERR DB index is out of range".into()))
}

pub(super) fn swapdb(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let one = database(&args[1], "ERR invalid first DB index")?;
    let other = database(&args[2], "ERR invalid second DB index")?;
    if one != other {
        c.swap(one, other);
    }
    out.ok();
    Ok(())
}

pub(super) fn r#move(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (from, to) = (c.db, int(&args[2])?);
    let to = usize::try_from(to)
        .ok()
        .filter(|&to| to < DATABASES)
        .ok_or("ERR DB index is out of range")?;
    if from == to {
        return Err("ERR source and destination objects are the same".into());
    }
    let there = View { db: to, ..c.view() }.entry(&args[1]).is_some();
    let moved = if there { None } else { c.take(&args[1]) };
    out.int(moved.is_some().into());
    if let Some(entry) = moved {
        let put = if entry.expires == 0 { Put::Forever } else { Put::Until(entry.expires) };
        c.db = to;
        let stored = c.put(&args[1], entry.value, put);
        c.db = from;
        stored?;
    }
    Ok(())
}

pub(super) fn copy(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (from, mut to, mut replace) = (c.db, c.db, false);
    let mut options = args[3..].iter();
    while let Some(option) = options.next() {
        if is(option, "REPLACE") {
            replace = true;
        } else if is(option, "DB")
            && let Some(db) = options.next()
        {
            to = database(db, NO_INTEGER)?;
        } else {
            return Err(SYNTAX.into());
        }
    }
    if from == to && args[1] == args[2] {
        return Err("ERR source and destination objects are the same".into());
    }
    let there = View { db: to, ..c.view() }.entry(&args[2]).is_some();
    let copied = match c.view().entry(&args[1]) {
        Some(entry) if replace || !there => Some((duplicate(c, &entry.value)?, entry.expires)),
        _ => None,
    };
    out.int(copied.is_some().into());
    if let Some((value, expires)) = copied {
        let put = if expires == 0 { Put::Forever } else { Put::Until(expires) };
        c.db = to;
        let stored = c.put(&args[2], value, put);
        c.db = from;
        stored?;
    }
    Ok(())
}

fn duplicate<'v>(c: &Change<'_, 'v>, value: &Value<'v>) -> Result<Value<'v>, AllocError> {
    let at = c.at;
    Ok(match value {
        Value::Short(..) | Value::String(_) => {
            Value::string(at, value.text(at).unwrap_or_default())?
        }
        Value::List(list) => {
            let (list, mut copy) = (list.get(at), List::new());
            list.range(at, 0..list.len()).try_for_each(|element| copy.push_back(at, element))?;
            Value::List(VBox::new(at, copy)?)
        }
        Value::Hash(hash) => {
            let mut copy = Fields::new();
            for (field, value) in hash.get(at).at(at) {
                copy.at_mut(at).insert(c.bytes(field)?, c.bytes(value.at(at))?)?;
            }
            Value::Hash(VBox::new(at, copy)?)
        }
        Value::Set(set) => {
            let mut copy = Members::new();
            for member in set.get(at).at(at).keys() {
                copy.at_mut(at).insert(c.bytes(member)?, ())?;
            }
            Value::Set(VBox::new(at, copy)?)
        }
        Value::Sorted(sorted) => {
            let mut copy = Sorted::new();
            for (member, score) in sorted.get(at).iter(at) {
                copy.set(at, member, score)?;
            }
            Value::Sorted(VBox::new(at, copy)?)
        }
    })
}

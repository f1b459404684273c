//! Hashes.

use spacejmp::Mode;

use super::{Args, NO_INTEGER, SYNTAX, int, is, random, wrong_number};
use crate::data::{Change, Done, View};
use crate::reply::Out;
use crate::request::integer;

pub(super) fn hget<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let value = v.hash(&args[1])?.and_then(|hash| hash.at(v.at).get(&args[2]));
    out.bulk_or_null(value.map(|value| value.at(v.at)));
    Ok(())
}

pub(super) fn hmget<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let hash = v.hash(&args[1])?;
    out.array(args.len() - 2);
    for field in &args[2..] {
        let value = hash.and_then(|hash| hash.at(v.at).get(field));
        out.bulk_or_null(value.map(|value| value.at(v.at)));
    }
    Ok(())
}

/// `HGETALL`, `HKEYS`, `HVALS`.
pub(super) fn hgetall<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let (with_fields, with_values) = (!is(&args[0], "HVALS"), !is(&args[0], "HKEYS"));
    let hash = v.hash(&args[1])?;
    let len = hash.map_or(0, |hash| hash.len());
    if with_fields && with_values {
        out.map(len)
    } else {
        out.array(len)
    }
    for (field, value) in hash.into_iter().flat_map(|hash| hash.at(v.at).iter()) {
        if with_fields {
            out.bulk(field);
        }
        if with_values {
            out.bulk(value.at(v.at));
        }
    }
    Ok(())
}

pub(super) fn hlen<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(v.hash(&args[1])?.map_or(0, |hash| hash.len()));
    Ok(())
}

pub(super) fn hexists<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let hash = v.hash(&args[1])?;
    out.int(hash.is_some_and(|hash| hash.at(v.at).contains_key(&args[2])).into());
    Ok(())
}

pub(super) fn hstrlen<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let value = v.hash(&args[1])?.and_then(|hash| hash.at(v.at).get(&args[2]));
    out.count(value.map_or(0, |value| value.len()));
    Ok(())
}

pub(super) fn hrandfield<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let Some(count) = args.get(2) else {
        let hash = v.hash(&args[1])?;
        let any = hash.and_then(|hash| hash.at(v.at).any(random()));
        out.bulk_or_null(any.map(|(field, _)| field));
        return Ok(());
    };
    let count = int(count)?;
    let with_values = match &args[3..] {
        [] => false,
        [option] if is(option, "WITHVALUES") => true,
        _ => return Err(SYNTAX.into()),
    };
    let hash = v.hash(&args[1])?;
    let fields = hash.map(|hash| hash.at(v.at));
    let all = fields.into_iter().flat_map(|fields| fields.iter());
    let chosen =
        super::sets::choose(count, all, || fields.and_then(|fields| fields.any(random())))?;
    if with_values && !out.is_resp3 {
        out.array(chosen.len() * 2)
    } else {
        out.array(chosen.len())
    }
    for (field, value) in chosen {
        if with_values && out.is_resp3 {
            out.array(2);
        }
        out.bulk(field);
        if with_values {
            out.bulk(value.at(v.at));
        }
    }
    Ok(())
}

/// `HSET` and `HMSET`.
pub(super) fn hset(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let is_hmset = is(&args[0], "HMSET");
    if args.len() % 2 == 1 {
        return Err(wrong_number(if is_hmset { "hmset" } else { "hset" }));
    }
    let mut new = 0;
    for pair in args[2..].chunks_exact(2) {
        let (field, value) = (c.bytes(&pair[0])?, c.bytes(&pair[1])?);
        let at = c.at;
        new += usize::from(c.hash_or_new(&args[1])?.at_mut(at).insert(field, value)?.is_none());
    }
    if is_hmset {
        out.ok()
    } else {
        out.count(new)
    }
    Ok(())
}

pub(super) fn hsetnx(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let view = c.view();
    let is_there = view.hash(&args[1])?.is_some_and(|hash| hash.at(view.at).contains_key(&args[2]));
    if !is_there {
        let (field, value) = (c.bytes(&args[2])?, c.bytes(&args[3])?);
        let at = c.at;
        c.hash_or_new(&args[1])?.at_mut(at).insert(field, value)?;
    }
    out.int((!is_there).into());
    Ok(())
}

pub(super) fn hdel(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (at, mut removed, mut is_empty) = (c.at, 0, false);
    let view = c.view();
    let hash = view.hash(&args[1])?;
    if hash.is_some_and(|hash| args[2..].iter().any(|field| hash.at(at).contains_key(field)))
        && let Some(hash) = c.hash(&args[1])?
    {
        let mut fields = hash.at_mut(at);
        removed = args[2..].iter().filter(|field| fields.remove(field).is_some()).count();
        is_empty = fields.is_empty();
    }
    c.remove_if(&args[1], is_empty);
    out.count(removed);
    Ok(())
}

pub(super) fn hincrby(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let by = integer(&args[3]).ok_or(NO_INTEGER)?;
    let held = match held(c, args)? {
        Some(text) => integer(&text).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let sum = held.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    set_field(c, args, sum.to_string().as_bytes())?;
    out.int(sum);
    Ok(())
}

pub(super) fn hincrbyfloat(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    if super::float(&args[3])?.is_infinite() {
        return Err("ERR value is NaN or Infinity".into());
    }
    let held = held(c, args)?.unwrap_or_else(|| b"0".to_vec());
    let sum = super::strings::float_sum(&held, &args[3], "ERR hash value is not a float")?;
    set_field(c, args, sum.as_bytes())?;
    out.bulk(sum.as_bytes());
    Ok(())
}

fn held(c: &Change<'_, '_>, args: Args<'_>) -> Result<Option<Vec<u8>>, crate::data::Fail> {
    let view = c.view();
    let value = view.hash(&args[1])?.and_then(|hash| hash.at(view.at).get(&args[2]));
    Ok(value.map(|value| value.at(view.at).to_vec()))
}

fn set_field(c: &mut Change<'_, '_>, args: Args<'_>, value: &[u8]) -> Done {
    let (field, value, at) = (c.bytes(&args[2])?, c.bytes(value)?, c.at);
    c.hash_or_new(&args[1])?.at_mut(at).insert(field, value)?;
    Ok(())
}

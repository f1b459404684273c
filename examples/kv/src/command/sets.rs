//! Sets.

use std::collections::BTreeSet;

use spacejmp::{Mode, VBox};

use super::{Args, SYNTAX, int, is, lists, positive, random};
use crate::data::{Change, Done, Fail, Members, Put, Value, View};
use crate::reply::Out;

pub(super) fn scard<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(v.set(&args[1])?.map_or(0, |set| set.len()));
    Ok(())
}

pub(super) fn sismember<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.int(v.set(&args[1])?.is_some_and(|set| set.at(v.at).contains_key(&args[2])).into());
    Ok(())
}

pub(super) fn smismember<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let set = v.set(&args[1])?;
    out.array(args.len() - 2);
    for member in &args[2..] {
        out.int(set.is_some_and(|set| set.at(v.at).contains_key(member)).into());
    }
    Ok(())
}

pub(super) fn smembers<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let set = v.set(&args[1])?;
    out.set(set.map_or(0, |set| set.len()));
    set.into_iter().flat_map(|set| set.at(v.at).keys()).for_each(|member| out.bulk(member));
    Ok(())
}

/// So many of some values: different ones, or for a negative number any, perhaps the same more than once.
pub(super) fn choose<T>(
    count: i64,
    all: impl Iterator<Item = T>,
    mut any: impl FnMut() -> Option<T>,
) -> Result<Vec<T>, Fail> {
    if count < 0 {
        // As many replies as this fit no buffer.
        if count < -(1 << 30) {
            return Err("ERR value is out of range".into());
        }
        return Ok((0..count.unsigned_abs()).map_while(|_| any()).collect());
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut chosen = Vec::new();
    for (seen, value) in all.enumerate() {
        if seen < count {
            chosen.push(value);
            continue;
        }
        let place = (random() % (seen as u64 + 1)) as usize;
        if let Some(held) = chosen.get_mut(place) {
            *held = value;
        }
    }
    Ok(chosen)
}

pub(super) fn srandmember<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let Some(count) = args.get(2) else {
        let any = v.set(&args[1])?.and_then(|set| set.at(v.at).any(random()));
        out.bulk_or_null(any.map(|(member, ())| member));
        return Ok(());
    };
    if args.len() > 3 {
        return Err(SYNTAX.into());
    }
    let count = int(count)?;
    let set = v.set(&args[1])?;
    let all = set.into_iter().flat_map(|set| set.at(v.at).keys());
    let any = || set.and_then(|set| set.at(v.at).any(random())).map(|(member, ())| member);
    let chosen = choose(count, all, any)?;
    out.array(chosen.len());
    chosen.iter().for_each(|member| out.bulk(member));
    Ok(())
}

pub(super) fn sadd(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let mut added = 0;
    let view = c.view();
    let new: Vec<&Vec<u8>> = match view.set(&args[1])? {
        Some(set) => {
            args[2..].iter().filter(|member| !set.at(view.at).contains_key(member)).collect()
        }
        None => args[2..].iter().collect(),
    };
    let at = c.at;
    for member in new {
        let bytes = c.bytes(member)?;
        added += usize::from(c.set_or_new(&args[1])?.at_mut(at).insert(bytes, ())?.is_none());
    }
    out.count(added);
    Ok(())
}

/// Removes members that are there; how many.
fn remove(c: &mut Change<'_, '_>, key: &[u8], members: &[Vec<u8>]) -> Result<usize, Fail> {
    let at = c.at;
    if !c
        .view()
        .set(key)?
        .is_some_and(|set| members.iter().any(|member| set.at(at).contains_key(member)))
    {
        return Ok(0);
    }
    let Some(set) = c.set(key)? else { return Ok(0) };
    let mut set = set.at_mut(at);
    let removed = members.iter().filter(|member| set.remove(member).is_some()).count();
    let is_empty = set.is_empty();
    c.remove_if(key, is_empty);
    Ok(removed)
}

pub(super) fn srem(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(remove(c, &args[1], &args[2..])?);
    Ok(())
}

pub(super) fn spop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    if args.len() > 3 {
        return Err(SYNTAX.into());
    }
    let count = match args.get(2) {
        Some(count) => Some(positive(count, "ERR value is out of range, must be positive")?),
        None => None,
    };
    let view = c.view();
    let set = view.set(&args[1])?;
    let members = set.map(|set| set.at(view.at));
    let chosen: Vec<Vec<u8>> = match count {
        None => members
            .and_then(|set| set.any(random()))
            .map(|(member, ())| member.to_vec())
            .into_iter()
            .collect(),
        Some(count) => {
            let all = members.into_iter().flat_map(|set| set.keys());
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            choose(count, all, || None)?.into_iter().map(<[u8]>::to_vec).collect()
        }
    };
    remove(c, &args[1], &chosen)?;
    match count {
        None => out.bulk_or_null(chosen.first().map(|member| &member[..])),
        Some(_) => {
            out.set(chosen.len());
            chosen.iter().for_each(|member| out.bulk(member));
        }
    }
    Ok(())
}

pub(super) fn smove(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let view = c.view();
    let Some(from) = view.set(&args[1])? else {
        out.int(0);
        return Ok(());
    };
    view.set(&args[2])?;
    let is_there = from.at(view.at).contains_key(&args[3]);
    if is_there && args[1] != args[2] {
        remove(c, &args[1], &args[3..])?;
        // Who watches the other set is told only of a change.
        let view = c.view();
        let has = view.set(&args[2])?.is_some_and(|to| to.at(view.at).contains_key(&args[3]));
        if !has {
            let (member, at) = (c.bytes(&args[3])?, c.at);
            c.set_or_new(&args[2])?.at_mut(at).insert(member, ())?;
        }
    }
    out.int(is_there.into());
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

impl Operation {
    fn of(name: &[u8]) -> Operation {
        match name.get(1).map(u8::to_ascii_uppercase) {
            Some(b'U') => Operation::Union,
            Some(b'I') => Operation::Intersection,
            _ => Operation::Difference,
        }
    }
}

fn combine<'a, 'v, M: Mode>(
    v: View<'a, 'v, M>,
    keys: &[Vec<u8>],
    operation: Operation,
) -> Result<BTreeSet<&'a [u8]>, Fail> {
    let sets = keys.iter().map(|key| v.set(key)).collect::<Result<Vec<_>, _>>()?;
    let has = |set: &Option<&'a Members<'v>>, member: &[u8]| {
        set.is_some_and(|set| set.at(v.at).contains_key(member))
    };
    let members =
        |set: Option<&'a Members<'v>>| set.into_iter().flat_map(|set| set.at(v.at).keys());
    let Some((&first, others)) = sets.split_first() else { return Ok(BTreeSet::new()) };
    Ok(match operation {
        Operation::Union => sets.iter().flat_map(|&set| members(set)).collect(),
        Operation::Intersection => {
            // The smallest one decides.
            let smallest = sets
                .iter()
                .copied()
                .min_by_key(|set| set.map_or(0, |set| set.len()))
                .unwrap_or(first);
            members(smallest).filter(|member| sets.iter().all(|set| has(set, member))).collect()
        }
        Operation::Difference => {
            members(first).filter(|member| !others.iter().any(|set| has(set, member))).collect()
        }
    })
}

/// `SUNION`, `SINTER`, `SDIFF`.
pub(super) fn combined<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let members = combine(v, &args[1..], Operation::of(&args[0]))?;
    out.set(members.len());
    members.iter().for_each(|member| out.bulk(member));
    Ok(())
}

pub(super) fn sintercard<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    const TOO_FEW: &str = "ERR Number of keys can't be greater than number of args";
    let none = "ERR numkeys should be greater than 0";
    let (keys, rest) = lists::numbered(&args[1..], none).map_err(|fail| match fail {
        Fail::Said(text) if text == none => Fail::Said(text),
        _ => TOO_FEW.into(),
    })?;
    let limit = match rest {
        [] => 0,
        [word, limit] if is(word, "LIMIT") => positive(limit, "ERR LIMIT can't be negative")?,
        _ => return Err(SYNTAX.into()),
    };
    let len = combine(v, keys, Operation::Intersection)?.len();
    out.count(if limit == 0 { len } else { len.min(limit) });
    Ok(())
}

/// `SUNIONSTORE`, `SINTERSTORE`, `SDIFFSTORE`.
pub(super) fn store(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let view = c.view();
    let members = combine(view, &args[2..], Operation::of(&args[0]))?;
    let mut set = Members::new();
    for member in &members {
        set.at_mut(c.at).insert(c.bytes(member)?, ())?;
    }
    out.count(members.len());
    if members.is_empty() {
        if c.view().entry(&args[1]).is_some() {
            c.remove(&args[1]);
        }
        return Ok(());
    }
    let value = Value::Set(VBox::new(c.at, set)?);
    Ok(c.put(&args[1], value, Put::Forever)?)
}

//! Sorted sets.

use std::collections::BTreeMap;
use std::ops::Range;

use spacejmp::{Mode, VBox};

use super::{Args, SYNTAX, float, int, is, lists, positive, random, range};
use crate::data::{Bound, Change, Done, Fail, Put, Sorted, Value, View};
use crate::number;
use crate::reply::Out;

pub(super) fn zcard<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(v.sorted(&args[1])?.map_or(0, |sorted| sorted.len()));
    Ok(())
}

fn double_or_null(out: &mut Out, score: Option<f64>) {
    match score {
        Some(score) => out.double(score),
        None => out.null(),
    }
}

pub(super) fn zscore<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    double_or_null(out, v.sorted(&args[1])?.and_then(|sorted| sorted.score(v.at, &args[2])));
    Ok(())
}

pub(super) fn zmscore<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let sorted = v.sorted(&args[1])?;
    out.array(args.len() - 2);
    for member in &args[2..] {
        double_or_null(out, sorted.and_then(|sorted| sorted.score(v.at, member)));
    }
    Ok(())
}

/// `ZRANK` and `ZREVRANK`.
pub(super) fn zrank<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let sorted = v.sorted(&args[1])?;
    let rank = sorted.and_then(|sorted| Some((sorted.rank(v.at, &args[2])?, sorted.len())));
    match rank {
        Some((rank, len)) if is(&args[0], "ZREVRANK") => out.count(len - 1 - rank),
        Some((rank, _)) => out.count(rank),
        None => out.null(),
    }
    Ok(())
}

fn score_bound(text: &[u8]) -> Result<Bound<f64>, Fail> {
    let (text, excluding) = match text.strip_prefix(b"(") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let score = number::float(text)
        .filter(|score| !score.is_nan())
        .ok_or("ERR min or max is not a float")?;
    Ok(if excluding { Bound::Excluding(score) } else { Bound::Including(score) })
}

fn member_bound(text: &[u8]) -> Result<Bound<Vec<u8>>, Fail> {
    match text {
        b"-" => Ok(Bound::Lowest),
        b"+" => Ok(Bound::Highest),
        [b'(', member @ ..] => Ok(Bound::Excluding(member.to_vec())),
        [b'[', member @ ..] => Ok(Bound::Including(member.to_vec())),
        _ => Err("ERR min or max not valid string range item".into()),
    }
}

/// What a range is a range of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Member,
}

type Scored = (Vec<u8>, f64);

/// A sorted set and the ranks of those of its members that are in a range; `None` if there is no such set.
fn find<'a, 'v, M: Mode>(
    v: View<'a, 'v, M>,
    key: &[u8],
    [start, stop]: [&[u8]; 2],
    by: By,
    reverse: bool,
) -> Result<Option<(&'a Sorted<'v>, Range<usize>)>, Fail> {
    let (low, high) = if reverse { (stop, start) } else { (start, stop) };
    Ok(match by {
        By::Rank => {
            let (start, stop) = (int(start)?, int(stop)?);
            v.sorted(key)?.map(|sorted| {
                let (len, ranks) = (sorted.len(), range(start, stop, sorted.len()));
                (sorted, if reverse { len - ranks.end..len - ranks.start } else { ranks })
            })
        }
        By::Score => {
            let (low, high) = (score_bound(low)?, score_bound(high)?);
            v.sorted(key)?.map(|sorted| (sorted, sorted.by_score(v.at, &low, &high)))
        }
        By::Member => {
            let (low, high) = (member_bound(low)?, member_bound(high)?);
            v.sorted(key)?.map(|sorted| (sorted, sorted.by_member(v.at, &low, &high)))
        }
    })
}

/// The members of a range, in the order asked for.
fn select<M: Mode>(
    v: View<'_, '_, M>,
    key: &[u8],
    ends: [&[u8]; 2],
    asked: &Asked,
) -> Result<Vec<Scored>, Fail> {
    let Some((sorted, mut ranks)) = find(v, key, ends, asked.by, asked.reverse)? else {
        return Ok(Vec::new());
    };
    if let Some((offset, count)) = asked.limit {
        let Ok(offset) = usize::try_from(offset) else { return Ok(Vec::new()) };
        let offset = offset.min(ranks.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(ranks.len() - offset);
        if asked.reverse {
            ranks.end -= offset;
            ranks.start = ranks.end - count;
        } else {
            ranks.start += offset;
            ranks.end = ranks.start + count;
        }
    }
    let owned = |(member, score): (&[u8], f64)| (member.to_vec(), score);
    let found = sorted.slice(v.at, ranks).map(owned);
    Ok(if asked.reverse { found.rev().collect() } else { found.collect() })
}

fn reply(out: &mut Out, found: &[Scored], with_scores: bool) {
    match (with_scores, out.is_resp3) {
        (true, false) => out.array(found.len() * 2),
        _ => out.array(found.len()),
    }
    for (member, score) in found {
        if with_scores && out.is_resp3 {
            out.array(2);
        }
        out.bulk(member);
        if with_scores {
            out.double(*score);
        }
    }
}

/// What the options of a range ask for.
struct Asked {
    by: By,
    reverse: bool,
    with_scores: bool,
    limit: Option<(i64, i64)>,
}

/// The options of `ZRANGE`, `ZRANGESTORE` and those that came before them.
fn asked(name: &[u8], options: &[Vec<u8>]) -> Result<Asked, Fail> {
    let name = name.to_ascii_uppercase();
    let is_new = name == b"ZRANGE" || name == b"ZRANGESTORE";
    let by = if name.ends_with(b"SCORE") {
        By::Score
    } else if name.ends_with(b"LEX") {
        By::Member
    } else {
        By::Rank
    };
    let mut asked =
        Asked { by, reverse: name.starts_with(b"ZREV"), with_scores: false, limit: None };
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match &option.to_ascii_uppercase()[..] {
            b"WITHSCORES" if name != b"ZRANGESTORE" => asked.with_scores = true,
            b"LIMIT" => {
                let (Some(offset), Some(count)) = (options.next(), options.next()) else {
                    return Err(SYNTAX.into());
                };
                asked.limit = Some((int(offset)?, int(count)?));
            }
            b"REV" if is_new => asked.reverse = true,
            b"BYSCORE" if is_new => asked.by = By::Score,
            b"BYLEX" if is_new => asked.by = By::Member,
            _ => return Err(SYNTAX.into()),
        }
    }
    if asked.limit.is_some() && asked.by == By::Rank {
        return Err(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
                .into(),
        );
    }
    if asked.with_scores && asked.by == By::Member {
        return Err("ERR syntax error, WITHSCORES not supported in combination with BYLEX".into());
    }
    Ok(asked)
}

/// `ZRANGE`, `ZREVRANGE`, `ZRANGEBYSCORE`, `ZREVRANGEBYSCORE`, `ZRANGEBYLEX`, `ZREVRANGEBYLEX`.
pub(super) fn zrange<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let asked = asked(&args[0], &args[4..])?;
    let found = select(v, &args[1], [&args[2], &args[3]], &asked)?;
    reply(out, &found, asked.with_scores);
    Ok(())
}

pub(super) fn zrangestore(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let asked = asked(&args[0], &args[5..])?;
    let found = select(c.view(), &args[2], [&args[3], &args[4]], &asked)?;
    out.count(found.len());
    store(c, &args[1], &found)
}

/// `ZCOUNT` and `ZLEXCOUNT`.
pub(super) fn zcount<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let by = if is(&args[0], "ZCOUNT") { By::Score } else { By::Member };
    let found = find(v, &args[1], [&args[2], &args[3]], by, false)?;
    out.count(found.map_or(0, |(_, ranks)| ranks.len()));
    Ok(())
}

pub(super) fn zrandmember<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let Some(count) = args.get(2) else {
        let any = v.sorted(&args[1])?.and_then(|sorted| sorted.any(v.at, random()));
        out.bulk_or_null(any.map(|(member, _)| member));
        return Ok(());
    };
    let count = int(count)?;
    let with_scores = match &args[3..] {
        [] => false,
        [option] if is(option, "WITHSCORES") => true,
        _ => return Err(SYNTAX.into()),
    };
    let sorted = v.sorted(&args[1])?;
    let all = sorted.into_iter().flat_map(|sorted| sorted.iter(v.at));
    let chosen =
        super::sets::choose(count, all, || sorted.and_then(|sorted| sorted.any(v.at, random())))?;
    let chosen: Vec<Scored> =
        chosen.into_iter().map(|(member, score)| (member.to_vec(), score)).collect();
    reply(out, &chosen, with_scores);
    Ok(())
}

pub(super) fn zadd(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (mut nx, mut xx, mut gt, mut lt, mut ch, mut incr) =
        (false, false, false, false, false, false);
    let mut pairs = &args[2..];
    while let [option, rest @ ..] = pairs {
        match &option.to_ascii_uppercase()[..] {
            b"NX" => nx = true,
            b"XX" => xx = true,
            b"GT" => gt = true,
            b"LT" => lt = true,
            b"CH" => ch = true,
            b"INCR" => incr = true,
            _ => break,
        }
        pairs = rest;
    }
    if pairs.is_empty() || pairs.len() % 2 == 1 {
        return Err(SYNTAX.into());
    }
    if nx && xx {
        return Err("ERR XX and NX options at the same time are not compatible".into());
    }
    if [gt, lt, nx].into_iter().filter(|&given| given).count() > 1 {
        return Err("ERR GT, LT, and/or NX options at the same time are not compatible".into());
    }
    if incr && pairs.len() > 2 {
        return Err("ERR INCR option supports a single increment-element pair".into());
    }
    let scores =
        pairs.chunks_exact(2).map(|pair| float(&pair[0])).collect::<Result<Vec<_>, _>>()?;
    let (at, mut added, mut changed, mut last) = (c.at, 0, 0, None);
    c.view().sorted(&args[1])?;
    for (pair, mut score) in pairs.chunks_exact(2).zip(scores) {
        let member = &pair[1];
        let before = c.view().sorted(&args[1])?.and_then(|sorted| sorted.score(at, member));
        if before.is_some() && nx || before.is_none() && xx {
            continue;
        }
        if let Some(before) = before {
            if incr {
                score += before;
                if score.is_nan() {
                    return Err("ERR resulting score is not a number (NaN)".into());
                }
            }
            if (gt && score <= before) || (lt && score >= before) {
                continue;
            }
        }
        last = Some(score);
        if before == Some(score) {
            continue;
        }
        c.sorted_or_new(&args[1])?.set(at, member, score)?;
        added += usize::from(before.is_none());
        changed += 1;
    }
    match (incr, ch) {
        (true, _) => double_or_null(out, last),
        (false, true) => out.count(changed),
        (false, false) => out.count(added),
    }
    Ok(())
}

pub(super) fn zincrby(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let by = float(&args[2])?;
    let at = c.at;
    let before = c.view().sorted(&args[1])?.and_then(|sorted| sorted.score(at, &args[3]));
    let score = before.unwrap_or(0.0) + by;
    if score.is_nan() {
        return Err("ERR resulting score is not a number (NaN)".into());
    }
    c.sorted_or_new(&args[1])?.set(at, &args[3], score)?;
    out.double(score);
    Ok(())
}

/// Removes members; how many there were.
fn remove<'m, 'v>(
    c: &mut Change<'_, 'v>,
    key: &[u8],
    members: impl Iterator<Item = &'m [u8]> + Clone,
) -> Result<usize, Fail> {
    let at = c.at;
    let is_there =
        |sorted: &Sorted<'v>| members.clone().any(|member| sorted.score(at, member).is_some());
    if !c.view().sorted(key)?.is_some_and(is_there) {
        return Ok(0);
    }
    let Some(sorted) = c.sorted(key)? else { return Ok(0) };
    let removed = members.filter(|member| sorted.remove(at, member).is_some()).count();
    let is_empty = sorted.len() == 0;
    c.remove_if(key, is_empty);
    Ok(removed)
}

pub(super) fn zrem(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(remove(c, &args[1], args[2..].iter().map(|member| &member[..]))?);
    Ok(())
}

/// `ZREMRANGEBYRANK`, `ZREMRANGEBYSCORE`, `ZREMRANGEBYLEX`.
pub(super) fn zremrange(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let name = args[0].to_ascii_uppercase();
    let by = match &name[..] {
        b"ZREMRANGEBYRANK" => By::Rank,
        b"ZREMRANGEBYSCORE" => By::Score,
        _ => By::Member,
    };
    let asked = Asked { by, reverse: false, with_scores: false, limit: None };
    let found = select(c.view(), &args[1], [&args[2], &args[3]], &asked)?;
    out.count(remove(c, &args[1], found.iter().map(|(member, _)| &member[..]))?);
    Ok(())
}

/// Takes up to `count` members from an end.
pub(super) fn take(
    c: &mut Change<'_, '_>,
    key: &[u8],
    lowest: bool,
    count: usize,
) -> Result<Vec<Scored>, Fail> {
    let view = c.view();
    let Some(sorted) = view.sorted(key)? else { return Ok(Vec::new()) };
    let owned = |(member, score): (&[u8], f64)| (member.to_vec(), score);
    let (len, count) = (sorted.len(), count.min(sorted.len()));
    let taken: Vec<Scored> = if lowest {
        sorted.slice(view.at, 0..count).map(owned).collect()
    } else {
        sorted.slice(view.at, len - count..len).rev().map(owned).collect()
    };
    remove(c, key, taken.iter().map(|(member, _)| &member[..]))?;
    Ok(taken)
}

/// `ZPOPMIN` and `ZPOPMAX`.
pub(super) fn zpop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let count = match &args[2..] {
        [] => None,
        [count] => Some(positive(count, "ERR value is out of range, must be positive")?),
        _ => return Err(SYNTAX.into()),
    };
    let taken = take(c, &args[1], is(&args[0], "ZPOPMIN"), count.unwrap_or(1))?;
    if count.is_none() && out.is_resp3 {
        // One pair, not a list of pairs.
        out.array(taken.len() * 2);
        for (member, score) in &taken {
            out.bulk(member);
            out.double(*score);
        }
        return Ok(());
    }
    reply(out, &taken, true);
    Ok(())
}

/// `ZMPOP`; whether there was a member.
pub(super) fn pop_first(
    c: &mut Change<'_, '_>,
    args: &[Vec<u8>],
    out: &mut Out,
) -> Result<bool, Fail> {
    let (keys, rest) = lists::numbered(args, "ERR numkeys should be greater than 0")?;
    let (end, rest) = rest.split_first().ok_or(SYNTAX)?;
    let lowest = match &end.to_ascii_uppercase()[..] {
        b"MIN" => true,
        b"MAX" => false,
        _ => return Err(SYNTAX.into()),
    };
    let count = lists::count_of(rest)?;
    for key in keys {
        if c.is_there(c.view().sorted(key))? {
            let taken = take(c, key, lowest, count)?;
            out.array(2);
            out.bulk(key);
            out.array(taken.len());
            for (member, score) in &taken {
                out.array(2);
                out.bulk(member);
                out.double(*score);
            }
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn zmpop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    if !pop_first(c, &args[1..], out)? {
        out.null_array();
    }
    Ok(())
}

fn store(c: &mut Change<'_, '_>, key: &[u8], members: &[Scored]) -> Done {
    if members.is_empty() {
        if c.view().entry(key).is_some() {
            c.remove(key);
        }
        return Ok(());
    }
    let mut sorted = Sorted::new();
    for (member, score) in members {
        sorted.set(c.at, member, *score)?;
    }
    let value = Value::Sorted(VBox::new(c.at, sorted)?);
    Ok(c.put(key, value, Put::Forever)?)
}

/// Scores of a set or a sorted set.
fn scores<M: Mode>(v: View<'_, '_, M>, key: &[u8]) -> Result<BTreeMap<Vec<u8>, f64>, Fail> {
    Ok(match v.value(key) {
        Some(Value::Set(set)) => {
            set.get(v.at).at(v.at).keys().map(|member| (member.to_vec(), 1.0)).collect()
        }
        _ => match v.sorted(key)? {
            Some(sorted) => {
                sorted.iter(v.at).map(|(member, score)| (member.to_vec(), score)).collect()
            }
            None => BTreeMap::new(),
        },
    })
}

/// The result of `ZUNION`, `ZINTER`, `ZDIFF`, in order; and whether scores were asked for.
fn combine<M: Mode>(
    v: View<'_, '_, M>,
    name: &str,
    args: &[Vec<u8>],
    may_show: bool,
) -> Result<(Vec<Scored>, bool), Fail> {
    let count = crate::request::integer(&args[0]).ok_or(super::NO_INTEGER)?;
    if count < 1 {
        return Err(format!("ERR at least 1 input key is needed for '{name}' command").into());
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > args.len() - 1 {
        return Err(SYNTAX.into());
    }
    let (keys, mut options) = args[1..].split_at(count);
    let sets = keys.iter().map(|key| scores(v, key)).collect::<Result<Vec<_>, _>>()?;
    let is_difference = name.starts_with("zdiff");
    let (mut weights, mut with_scores) = (vec![1.0; count], false);
    let mut merge: fn(f64, f64) -> f64 = |one, other| {
        let sum = one + other;
        // Infinities of both signs.
        if sum.is_nan() { 0.0 } else { sum }
    };
    while let [option, rest @ ..] = options {
        options = rest;
        if is(option, "WEIGHTS") && !is_difference && rest.len() >= count {
            for (weight, text) in weights.iter_mut().zip(rest) {
                *weight = number::float(text)
                    .filter(|weight| !weight.is_nan())
                    .ok_or("ERR weight value is not a float")?;
            }
            options = &rest[count..];
        } else if is(option, "AGGREGATE") && !is_difference && !rest.is_empty() {
            merge = match &rest[0].to_ascii_uppercase()[..] {
                b"SUM" => merge,
                b"MIN" => f64::min,
                b"MAX" => f64::max,
                _ => return Err(SYNTAX.into()),
            };
            options = &rest[1..];
        } else if is(option, "WITHSCORES") && may_show {
            with_scores = true;
        } else {
            return Err(SYNTAX.into());
        }
    }
    let mut result: Option<BTreeMap<Vec<u8>, f64>> = None;
    for (set, weight) in sets.into_iter().zip(weights) {
        let weigh = |score: f64| if (score * weight).is_nan() { 0.0 } else { score * weight };
        let set: BTreeMap<_, _> =
            set.into_iter().map(|(member, score)| (member, weigh(score))).collect();
        result = Some(match result {
            None => set,
            Some(mut so_far) if name.starts_with("zunion") => {
                for (member, score) in set {
                    so_far
                        .entry(member)
                        .and_modify(|held| *held = merge(*held, score))
                        .or_insert(score);
                }
                so_far
            }
            Some(so_far) if is_difference => {
                so_far.into_iter().filter(|(member, _)| !set.contains_key(member)).collect()
            }
            Some(so_far) => {
                let both = |(member, held): (Vec<u8>, f64)| {
                    set.get(&member).map(|score| (member.clone(), merge(held, *score)))
                };
                so_far.into_iter().filter_map(both).collect()
            }
        });
    }
    let mut result: Vec<Scored> = result.unwrap_or_default().into_iter().collect();
    result.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
    Ok((result, with_scores))
}

/// `ZUNION`, `ZINTER`, `ZDIFF`.
pub(super) fn combined<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let name = String::from_utf8_lossy(&args[0]).to_ascii_lowercase();
    let (found, with_scores) = combine(v, &name, &args[1..], true)?;
    reply(out, &found, with_scores);
    Ok(())
}

/// `ZUNIONSTORE`, `ZINTERSTORE`, `ZDIFFSTORE`.
pub(super) fn combined_store(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let name = String::from_utf8_lossy(&args[0]).to_ascii_lowercase();
    let (found, _) = combine(c.view(), &name, &args[2..], false)?;
    out.count(found.len());
    store(c, &args[1], &found)
}

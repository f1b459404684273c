//! Lists. Those that wait are in `blocking`.

use spacejmp::Mode;

use super::{Args, NO_KEY, SYNTAX, int, is, positive, range};
use crate::data::{Change, Done, Fail, View};
use crate::reply::Out;

pub(super) fn llen<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(v.list(&args[1])?.map_or(0, |list| list.len()));
    Ok(())
}

pub(super) fn lrange<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let (start, stop) = (int(&args[2])?, int(&args[3])?);
    let list = v.list(&args[1])?;
    let range = range(start, stop, list.map_or(0, |list| list.len()));
    out.array(range.len());
    if let Some(list) = list {
        list.range(v.at, range).for_each(|element| out.bulk(element));
    }
    Ok(())
}

/// The place of an index, if there is one.
fn place(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < len)
}

pub(super) fn lindex<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let list = v.list(&args[1])?;
    let Some(list) = list else {
        out.null();
        return Ok(());
    };
    let place = place(int(&args[2])?, list.len());
    out.bulk_or_null(place.and_then(|place| list.get(v.at, place)));
    Ok(())
}

pub(super) fn lpos<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let (mut rank, mut count, mut most) = (1, None, 0);
    if args[3..].len() % 2 == 1 {
        return Err(SYNTAX.into());
    }
    for pair in args[3..].chunks_exact(2) {
        match &pair[0].to_ascii_uppercase()[..] {
            b"RANK" => {
                rank = int(&pair[1])?;
                if rank == 0 {
                    return Err("ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list".into());
                }
                if rank == i64::MIN {
                    return Err("ERR value is out of range, must be between -9223372036854775807 and 9223372036854775807".into());
                }
            }
            b"COUNT" => count = Some(positive(&pair[1], "ERR COUNT can't be negative")?),
            b"MAXLEN" => most = positive(&pair[1], "ERR MAXLEN can't be negative")?,
            _ => return Err(SYNTAX.into()),
        }
    }
    let mut found = Vec::new();
    if let Some(list) = v.list(&args[1])? {
        let len = list.len();
        let limit = if most == 0 { len } else { most };
        let wanted = count.map_or(1, |count| if count == 0 { len } else { count });
        let skip = rank.unsigned_abs() as usize - 1;
        let elements = list.range(v.at, 0..len);
        found = if rank > 0 {
            let places = elements.enumerate().take(limit);
            let equal = places.filter(|(_, element)| *element == args[2]).map(|(place, _)| place);
            equal.skip(skip).take(wanted).collect()
        } else {
            let places = elements.rev().zip((0..len).rev()).take(limit);
            let equal = places.filter(|(element, _)| *element == args[2]).map(|(_, place)| place);
            equal.skip(skip).take(wanted).collect()
        };
    }
    match (count, found.first()) {
        (Some(_), _) => {
            out.array(found.len());
            found.iter().for_each(|place| out.count(*place));
        }
        (None, Some(place)) => out.count(*place),
        (None, None) => out.null(),
    }
    Ok(())
}

/// `LPUSH`, `RPUSH`, `LPUSHX`, `RPUSHX`.
pub(super) fn push(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (at_front, only_there) = (args[0][0].eq_ignore_ascii_case(&b'l'), args[0].len() == 6);
    if c.view().list(&args[1])?.is_none() && only_there {
        out.int(0);
        return Ok(());
    }
    let at = c.at;
    let list = c.list_or_new(&args[1])?;
    for element in &args[2..] {
        if at_front { list.push_front(at, element)? } else { list.push_back(at, element)? }
    }
    out.count(list.len());
    Ok(())
}

/// Takes up to `count` elements from an end of a list that is there.
pub(super) fn take(
    c: &mut Change<'_, '_>,
    key: &[u8],
    at_front: bool,
    count: usize,
) -> Result<Vec<Vec<u8>>, Fail> {
    let at = c.at;
    let Some(list) = c.list(key)? else { return Ok(Vec::new()) };
    let mut taken = Vec::new();
    while taken.len() < count
        && let Some(element) = if at_front { list.pop_front(at) } else { list.pop_back(at) }
    {
        taken.push(element);
    }
    let is_empty = list.len() == 0;
    c.remove_if(key, is_empty);
    Ok(taken)
}

/// `LPOP` and `RPOP`.
pub(super) fn pop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let at_front = is(&args[0], "LPOP");
    let count = match args.get(2) {
        Some(count) => Some(positive(count, "ERR value is out of range, must be positive")?),
        None => None,
    };
    if args.len() > 3 {
        return Err(super::wrong_number(if at_front { "lpop" } else { "rpop" }));
    }
    let is_there = c.view().list(&args[1])?.is_some();
    let taken = if is_there && count != Some(0) {
        take(c, &args[1], at_front, count.unwrap_or(1))?
    } else {
        Vec::new()
    };
    match count {
        Some(_) if !is_there => out.null_array(),
        Some(_) => {
            out.array(taken.len());
            taken.iter().for_each(|element| out.bulk(element));
        }
        None => out.bulk_or_null(taken.first().map(|element| &element[..])),
    }
    Ok(())
}

pub(super) fn lset(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let Some(len) = c.view().list(&args[1])?.map(|list| list.len()) else {
        return Err(NO_KEY.into());
    };
    let place = place(int(&args[2])?, len).ok_or("ERR index out of range")?;
    let at = c.at;
    if let Some(list) = c.list(&args[1])? {
        list.set(at, place, &args[3])?;
    }
    out.ok();
    Ok(())
}

pub(super) fn linsert(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let after = match &args[2].to_ascii_uppercase()[..] {
        b"BEFORE" => 0,
        b"AFTER" => 1,
        _ => return Err(SYNTAX.into()),
    };
    let view = c.view();
    let Some(list) = view.list(&args[1])? else {
        out.int(0);
        return Ok(());
    };
    let pivot = list.range(view.at, 0..list.len()).position(|element| element == args[3]);
    let Some(pivot) = pivot else {
        out.int(-1);
        return Ok(());
    };
    let at = c.at;
    if let Some(list) = c.list(&args[1])? {
        list.insert(at, pivot + after, &args[4])?;
        out.count(list.len());
    }
    Ok(())
}

pub(super) fn lrem(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let count = int(&args[2])?;
    let most = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let (at, mut removed, mut is_empty) = (c.at, 0, false);
    let view = c.view();
    let has = |list: &crate::data::List<'_>| list.len() > 0;
    if view.list(&args[1])?.is_some_and(has)
        && let Some(list) = c.list(&args[1])?
    {
        removed = list.remove(at, &args[3], most, count < 0)?;
        is_empty = list.len() == 0;
    }
    c.remove_if(&args[1], is_empty);
    out.count(removed);
    Ok(())
}

pub(super) fn ltrim(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (start, stop) = (int(&args[2])?, int(&args[3])?);
    let at = c.at;
    if let Some(list) = c.list(&args[1])? {
        let range = range(start, stop, list.len());
        list.trim(at, range);
        let is_empty = list.len() == 0;
        c.remove_if(&args[1], is_empty);
    }
    out.ok();
    Ok(())
}

/// Which end a word names: whether the left one.
pub(super) fn side(word: &[u8]) -> Result<bool, Fail> {
    match &word.to_ascii_uppercase()[..] {
        b"LEFT" => Ok(true),
        b"RIGHT" => Ok(false),
        _ => Err(SYNTAX.into()),
    }
}

/// `LMOVE`, `RPOPLPUSH`.
pub(super) fn lmove(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (from_left, to_left) =
        if args.len() == 5 { (side(&args[3])?, side(&args[4])?) } else { (false, true) };
    if !move_one(c, &args[1], &args[2], from_left, to_left, out)? {
        out.null();
    }
    Ok(())
}

/// Moves an element; whether there was one.
pub(super) fn move_one(
    c: &mut Change<'_, '_>,
    from: &[u8],
    to: &[u8],
    from_left: bool,
    to_left: bool,
    out: &mut Out,
) -> Result<bool, Fail> {
    if c.view().list(from)?.is_none() {
        return Ok(false);
    }
    c.view().list(to)?;
    let taken = take(c, from, from_left, 1)?;
    let Some(element) = taken.first() else { return Ok(false) };
    let at = c.at;
    let list = c.list_or_new(to)?;
    if to_left {
        list.push_front(at, element)?
    } else {
        list.push_back(at, element)?
    }
    out.bulk(element);
    Ok(true)
}

/// `numkeys key [key ...]` and what comes behind.
pub(super) fn numbered<'a>(
    args: &'a [Vec<u8>],
    message: &'static str,
) -> Result<(Args<'a>, Args<'a>), Fail> {
    let count = crate::request::integer(&args[0]).filter(|count| *count > 0).ok_or(message)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > args.len() - 1 {
        return Err(SYNTAX.into());
    }
    Ok(args[1..].split_at(count))
}

/// `[COUNT count]`, of what is popped: 1 without it.
pub(super) fn count_of(rest: Args<'_>) -> Result<usize, Fail> {
    match rest {
        [] => Ok(1),
        [word, count] if is(word, "COUNT") => {
            let count = crate::request::integer(count).filter(|count| *count > 0);
            Ok(count.ok_or("ERR count should be greater than 0")? as usize)
        }
        _ => Err(SYNTAX.into()),
    }
}

/// `LMPOP`; whether there was an element.
pub(super) fn pop_first(
    c: &mut Change<'_, '_>,
    args: &[Vec<u8>],
    out: &mut Out,
) -> Result<bool, Fail> {
    let (keys, rest) = numbered(args, "ERR numkeys should be greater than 0")?;
    let (end, rest) = rest.split_first().ok_or(SYNTAX)?;
    let from_left = side(end)?;
    let count = count_of(rest)?;
    for key in keys {
        if c.is_there(c.view().list(key))? {
            let taken = take(c, key, from_left, count)?;
            out.array(2);
            out.bulk(key);
            out.array(taken.len());
            taken.iter().for_each(|element| out.bulk(element));
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn lmpop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    if !pop_first(c, &args[1..], out)? {
        out.null_array();
    }
    Ok(())
}

//! Commands that wait until there is something to take. Here they try once, and fail with `Fail::Wait`; who waits,
//! and how, is the caller's affair. In a transaction none waits.

use super::{Args, lists, sorted};
use crate::data::{Change, Done, Fail};
use crate::number;
use crate::reply::Out;

/// How long a command waits, in milliseconds; 0 for ever. `None` if it is not one that waits.
///
/// # Errors
/// The time is no time.
pub(crate) fn limit(args: Args<'_>) -> Option<Result<u64, &'static str>> {
    let word = match super::find(&args[0])?.name {
        "BLPOP" | "BRPOP" | "BZPOPMIN" | "BZPOPMAX" | "BLMOVE" | "BRPOPLPUSH" => args.last()?,
        "BLMPOP" | "BZMPOP" => &args[1],
        _ => return None,
    };
    Some(match number::float(word) {
        Some(seconds) if seconds < 0.0 => Err("ERR timeout is negative"),
        Some(seconds) if seconds * 1000.0 <= i64::MAX as f64 => {
            Ok((seconds * 1000.0).ceil() as u64)
        }
        Some(_) => Err("ERR timeout is out of range"),
        None => Err("ERR timeout is not a float or out of range"),
    })
}

/// Whether such a command has no value in a transaction, rather than no list of values.
pub(crate) fn has_one_value(args: Args<'_>) -> bool {
    super::is(&args[0], "BLMOVE") || super::is(&args[0], "BRPOPLPUSH")
}

fn checked(args: Args<'_>) -> Done {
    match limit(args) {
        Some(Err(message)) => Err(message.into()),
        _ => Ok(()),
    }
}

/// `BLPOP` and `BRPOP`.
pub(super) fn pop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    checked(args)?;
    for key in &args[1..args.len() - 1] {
        if c.is_there(c.view().list(key))? {
            let taken = lists::take(c, key, super::is(&args[0], "BLPOP"), 1)?;
            out.array(2);
            out.bulk(key);
            out.bulk(taken.first().map_or(&[], |element| &element[..]));
            return Ok(());
        }
    }
    Err(Fail::Wait)
}

/// `BLMOVE` and `BRPOPLPUSH`.
pub(super) fn lmove(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (from_left, to_left) = match args {
        [_, _, _, from, to, _] => (lists::side(from)?, lists::side(to)?),
        _ => (false, true),
    };
    checked(args)?;
    if c.is_retry && !c.is_there(c.view().list(&args[1]))? {
        return Err(Fail::Wait);
    }
    match lists::move_one(c, &args[1], &args[2], from_left, to_left, out)? {
        true => Ok(()),
        false => Err(Fail::Wait),
    }
}

pub(super) fn lmpop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    checked(args)?;
    if lists::pop_first(c, &args[2..], out)? { Ok(()) } else { Err(Fail::Wait) }
}

/// `BZPOPMIN` and `BZPOPMAX`.
pub(super) fn zpop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    checked(args)?;
    for key in &args[1..args.len() - 1] {
        if c.is_there(c.view().sorted(key))? {
            let taken = sorted::take(c, key, super::is(&args[0], "BZPOPMIN"), 1)?;
            let Some((member, score)) = taken.first() else { continue };
            out.array(3);
            out.bulk(key);
            out.bulk(member);
            out.double(*score);
            return Ok(());
        }
    }
    Err(Fail::Wait)
}

pub(super) fn zmpop(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    checked(args)?;
    if sorted::pop_first(c, &args[2..], out)? { Ok(()) } else { Err(Fail::Wait) }
}

//! Strings.

use spacejmp::Mode;

use super::{Args, NO_INTEGER, SYNTAX, int, is, positive, range, wrong_number};
use crate::data::{Change, Done, Fail, Put, View};
use crate::number;
use crate::reply::Out;
use crate::request::{Limits, integer};

const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

pub(super) fn get<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.bulk_or_null(v.string(&args[1])?);
    Ok(())
}

pub(super) fn mget<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.array(args.len() - 1);
    for key in &args[1..] {
        // A value of another kind is none.
        out.bulk_or_null(v.string(key).unwrap_or(None));
    }
    Ok(())
}

pub(super) fn strlen<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(v.string(&args[1])?.map_or(0, <[u8]>::len));
    Ok(())
}

pub(super) fn getrange<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let (start, end) = (int(&args[2])?, int(&args[3])?);
    let text = v.string(&args[1])?.unwrap_or_default();
    out.bulk(&text[part(start, end, text.len())]);
    Ok(())
}

/// A range of bytes. What ends before the first one ends with it.
fn part(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let end = if end < 0 { end.saturating_add(len as i64).max(0) } else { end };
    range(start, end, len)
}

/// When something expires, in milliseconds since 1970.
pub(super) fn deadline(
    c: &Change<'_, '_>,
    number: &[u8],
    in_seconds: bool,
    is_relative: bool,
    command: &str,
) -> Result<u64, Fail> {
    let invalid = || Fail::Said(format!("ERR invalid expire time in '{command}' command").into());
    let number = int(number)?;
    let scale = if in_seconds { 1000 } else { 1 };
    let base = if is_relative { c.now as i64 } else { 0 };
    let time =
        Some(number).filter(|number| *number > 0).and_then(|number| number.checked_mul(scale));
    let time = time.and_then(|time| time.checked_add(base));
    time.map(|time| time as u64).ok_or_else(invalid)
}

/// The options `EX`, `PX`, `EXAT` and `PXAT`: whether in seconds, and whether from now on.
fn unit(option: &[u8]) -> Option<(bool, bool)> {
    let option = option.to_ascii_uppercase();
    match &option[..] {
        b"EX" => Some((true, true)),
        b"PX" => Some((false, true)),
        b"EXAT" => Some((true, false)),
        b"PXAT" => Some((false, false)),
        _ => None,
    }
}

pub(super) fn set(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, value) = (&args[1], &args[2]);
    let (mut nx, mut xx, mut get, mut put) = (false, false, false, Put::Forever);
    let mut time = None;
    let mut options = args[3..].iter();
    while let Some(option) = options.next() {
        if is(option, "NX") && !xx {
            nx = true;
        } else if is(option, "XX") && !nx {
            xx = true;
        } else if is(option, "GET") {
            get = true;
        } else if is(option, "KEEPTTL") && put == Put::Forever && time.is_none() {
            put = Put::Keep;
        } else if let Some(unit) = unit(option)
            && put == Put::Forever
            && time.is_none()
        {
            let Some(number) = options.next() else { return Err(SYNTAX.into()) };
            time = Some((number, unit));
        } else {
            return Err(SYNTAX.into());
        }
    }
    if let Some((number, (in_seconds, is_relative))) = time {
        put = Put::Until(deadline(c, number, in_seconds, is_relative, "set")?);
    }
    let before = if get { c.view().string(key)?.map(<[u8]>::to_vec) } else { None };
    let exists = c.view().entry(key).is_some();
    let is_set = if exists { !nx } else { !xx };
    if is_set {
        store(c, key, value, put)?;
    }
    match (get, is_set) {
        (true, _) => out.bulk_or_null(before.as_deref()),
        (false, true) => out.ok(),
        (false, false) => out.null(),
    }
    Ok(())
}

/// A time that has passed means no value.
fn store(c: &mut Change<'_, '_>, key: &[u8], value: &[u8], put: Put) -> Done {
    if let Put::Until(time) = put
        && time <= c.now
    {
        c.remove(key);
        return Ok(());
    }
    Ok(c.put_bytes(key, value, put)?)
}

pub(super) fn setnx(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let is_new = c.view().entry(&args[1]).is_none();
    if is_new {
        c.put_bytes(&args[1], &args[2], Put::Forever)?;
    }
    out.int(is_new.into());
    Ok(())
}

pub(super) fn setex(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let in_seconds = is(&args[0], "SETEX");
    let name = if in_seconds { "setex" } else { "psetex" };
    let time = deadline(c, &args[2], in_seconds, true, name)?;
    c.put_bytes(&args[1], &args[3], Put::Until(time))?;
    out.ok();
    Ok(())
}

pub(super) fn getset(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    out.bulk_or_null(c.view().string(&args[1])?);
    Ok(c.put_bytes(&args[1], &args[2], Put::Forever)?)
}

pub(super) fn getdel(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    out.bulk_or_null(c.view().string(&args[1])?);
    c.remove(&args[1]);
    Ok(())
}

pub(super) fn getex(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let time = match &args[2..] {
        [] => None,
        [option] if is(option, "PERSIST") => Some(None),
        [option, number] => Some(Some((unit(option).ok_or(SYNTAX)?, number))),
        _ => return Err(SYNTAX.into()),
    };
    let held = c.view().string(&args[1])?.map(<[u8]>::to_vec);
    out.bulk_or_null(held.as_deref());
    match time {
        Some(time) if held.is_some() => {
            let time = match time {
                Some(((in_seconds, is_relative), number)) => {
                    deadline(c, number, in_seconds, is_relative, "getex")?
                }
                None => 0,
            };
            c.expire(&args[1], time)?;
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn mset(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let only_new = is(&args[0], "MSETNX");
    if args.len().is_multiple_of(2) {
        return Err(wrong_number(if only_new { "msetnx" } else { "mset" }));
    }
    let pairs = args[1..].chunks_exact(2);
    if only_new && pairs.clone().any(|pair| c.view().entry(&pair[0]).is_some()) {
        out.int(0);
        return Ok(());
    }
    for pair in pairs {
        c.put_bytes(&pair[0], &pair[1], Put::Forever)?;
    }
    if only_new {
        out.int(1)
    } else {
        out.ok()
    }
    Ok(())
}

pub(super) fn append(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let before = c.view().string(&args[1])?.map(<[u8]>::len);
    let len = before.unwrap_or(0) + args[2].len();
    if len > Limits::KNOWN.bulk {
        return Err(TOO_LONG.into());
    }
    let at = c.at;
    match c.string(&args[1])? {
        Some(text) => text.at_mut(at).extend_from_slice(&args[2])?,
        None => c.put_bytes(&args[1], &args[2], Put::Forever)?,
    }
    out.count(len);
    Ok(())
}

pub(super) fn setrange(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let offset = int(&args[2])?;
    let offset = usize::try_from(offset).map_err(|_| "ERR offset is out of range")?;
    let len = c.view().string(&args[1])?.map(<[u8]>::len);
    if args[3].is_empty() {
        out.count(len.unwrap_or(0));
        return Ok(());
    }
    let end = offset.saturating_add(args[3].len());
    if end > Limits::KNOWN.bulk {
        return Err(TOO_LONG.into());
    }
    if len.is_none() {
        c.put_bytes(&args[1], b"", Put::Forever)?;
    }
    let at = c.at;
    let Some(text) = c.string(&args[1])? else { return Err(Fail::Full) };
    let mut text = text.at_mut(at);
    if text.len() < end {
        text.resize(end, 0)?;
    }
    text[offset..end].copy_from_slice(&args[3]);
    out.count(text.len());
    Ok(())
}

pub(super) fn incr(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let name = args[0].to_ascii_uppercase();
    let by = match &name[..] {
        b"INCR" => 1,
        b"DECR" => -1,
        b"INCRBY" => int(&args[2])?,
        _ => int(&args[2])?.checked_neg().ok_or("ERR decrement would overflow")?,
    };
    let held = match c.view().string(&args[1])? {
        Some(text) => integer(text).ok_or(NO_INTEGER)?,
        None => 0,
    };
    let sum = held.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    c.put_bytes(&args[1], sum.to_string().as_bytes(), Put::Keep)?;
    out.int(sum);
    Ok(())
}

pub(super) fn incrbyfloat(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let held = c.view().string(&args[1])?.unwrap_or(b"0").to_vec();
    let sum = float_sum(&held, &args[2], super::NO_FLOAT)?;
    c.put_bytes(&args[1], sum.as_bytes(), Put::Keep)?;
    out.bulk(sum.as_bytes());
    Ok(())
}

/// The sum of what is held and of an argument.
pub(super) fn float_sum(held: &[u8], by: &[u8], not_held: &'static str) -> Result<String, Fail> {
    number::float(held).filter(|number| !number.is_nan()).ok_or(not_held)?;
    super::float(by)?;
    Ok(number::sum(held, by).ok_or("ERR increment would produce NaN or Infinity")?)
}

pub(super) fn bitcount<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let Some(text) = v.string(&args[1])? else {
        out.count(0);
        return Ok(());
    };
    let bits = match &args[2..] {
        [] => 0..text.len() * 8,
        [start, end, unit] if super::is(unit, "BIT") => {
            part(int(start)?, int(end)?, text.len() * 8)
        }
        [start, end, rest @ ..]
            if rest.is_empty() || matches!(rest, [unit] if super::is(unit, "BYTE")) =>
        {
            let bytes = part(int(start)?, int(end)?, text.len());
            bytes.start * 8..bytes.end * 8
        }
        _ => return Err(SYNTAX.into()),
    };
    // Whole bytes, but for those at both ends.
    let of = |place: usize| {
        let from = bits.start.saturating_sub(place * 8).min(8);
        let to = bits.end.saturating_sub(place * 8).min(8);
        let mask = (0xff_u32 >> from) & !(0xff_u32 >> to);
        (u32::from(text[place]) & mask).count_ones() as usize
    };
    out.count((bits.start / 8..bits.end.div_ceil(8)).map(of).sum());
    Ok(())
}

pub(super) fn getbit<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let bit = bit(&args[2])?;
    let byte = v.string(&args[1])?.and_then(|text| text.get(bit / 8)).copied().unwrap_or(0);
    out.int((byte >> (7 - bit % 8) & 1).into());
    Ok(())
}

pub(super) fn setbit(c: &mut Change<'_, '_>, args: Args<'_>, out: &mut Out) -> Done {
    let bit = bit(&args[2])?;
    let on = match &args[3][..] {
        b"0" => false,
        b"1" => true,
        _ => return Err("ERR bit is not an integer or out of range".into()),
    };
    if c.view().string(&args[1])?.is_none() {
        c.put_bytes(&args[1], b"", Put::Forever)?;
    }
    let at = c.at;
    let Some(text) = c.string(&args[1])? else { return Err(Fail::Full) };
    let mut text = text.at_mut(at);
    if text.len() <= bit / 8 {
        text.resize(bit / 8 + 1, 0)?;
    }
    let (byte, mask) = (&mut text[bit / 8], 0x80 >> (bit % 8));
    out.int((*byte & mask != 0).into());
    *byte = if on { *byte | mask } else { *byte & !mask };
    Ok(())
}

fn bit(text: &[u8]) -> Result<usize, Fail> {
    let message = "ERR bit offset is not an integer or out of range";
    let bit = positive(text, message)?;
    if bit / 8 >= Limits::KNOWN.bulk { Err(message.into()) } else { Ok(bit) }
}

//! `SCAN`, `SSCAN`, `HSCAN`, `ZSCAN`. A cursor is a place among the hashes: it needs no memory in between, and means
//! the same to every client.

use spacejmp::Mode;

use super::{Args, SYNTAX, int, is};
use crate::data::{Done, Fail, View};
use crate::glob;
use crate::reply::Out;

struct Options<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    kind: Option<&'a [u8]>,
}

fn options(words: &[Vec<u8>]) -> Result<Options<'_>, Fail> {
    let mut options = Options { pattern: None, count: 10, kind: None };
    if words.len() % 2 == 1 {
        return Err(SYNTAX.into());
    }
    for pair in words.chunks_exact(2) {
        if is(&pair[0], "MATCH") {
            options.pattern = Some(&pair[1]);
        } else if is(&pair[0], "COUNT") {
            let count = int(&pair[1])?;
            options.count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(SYNTAX)?;
        } else if is(&pair[0], "TYPE") {
            options.kind = Some(&pair[1]);
        } else {
            return Err(SYNTAX.into());
        }
    }
    Ok(options)
}

fn cursor(word: &[u8]) -> Result<u64, Fail> {
    let text = std::str::from_utf8(word).ok();
    text.and_then(|text| text.parse().ok()).ok_or(Fail::Said("ERR invalid cursor".into()))
}

impl Options<'_> {
    fn takes(&self, key: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, key))
    }

    /// Goes on until so many were met, or ten times as many places were empty.
    fn walk(&self, mut cursor: u64, mut piece: impl FnMut(u64) -> (u64, usize)) -> u64 {
        let (mut met, mut pieces) = (0, 0);
        loop {
            let (next, found) = piece(cursor);
            (cursor, met, pieces) = (next, met + found, pieces + 1);
            if cursor == 0 || met >= self.count || pieces >= self.count.saturating_mul(10) {
                return cursor;
            }
        }
    }
}

fn reply(out: &mut Out, cursor: u64, found: &[Vec<u8>]) {
    out.array(2);
    out.bulk(cursor.to_string().as_bytes());
    out.array(found.len());
    found.iter().for_each(|word| out.bulk(word));
}

pub(super) fn scan<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let start = cursor(&args[1])?;
    let options = options(&args[2..])?;
    let mut found = Vec::new();
    let end = options.walk(start, |cursor| {
        let mut met = 0;
        let next = v.scan(cursor, |key, entry| {
            met += 1;
            let is_kind = options.kind.is_none_or(|kind| is(kind, entry.value.kind()));
            if is_kind && options.takes(key) {
                found.push(key.to_vec());
            }
        });
        (next, met)
    });
    reply(out, end, &found);
    Ok(())
}

pub(super) fn sscan<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let start = cursor(&args[2])?;
    let Some(set) = v.set(&args[1])? else {
        reply(out, 0, &[]);
        return Ok(());
    };
    let (options, mut found) = (options(&args[3..])?, Vec::new());
    let end = options.walk(start, |cursor| {
        let mut met = 0;
        let next = set.at(v.at).scan(cursor, |member, ()| {
            met += 1;
            if options.takes(member) {
                found.push(member.to_vec());
            }
        });
        (next, met)
    });
    reply(out, end, &found);
    Ok(())
}

pub(super) fn hscan<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let start = cursor(&args[2])?;
    let Some(hash) = v.hash(&args[1])? else {
        reply(out, 0, &[]);
        return Ok(());
    };
    let (options, mut found) = (options(&args[3..])?, Vec::new());
    let end = options.walk(start, |cursor| {
        let mut met = 0;
        let next = hash.at(v.at).scan(cursor, |field, value| {
            met += 1;
            if options.takes(field) {
                found.extend([field.to_vec(), value.at(v.at).to_vec()]);
            }
        });
        (next, met)
    });
    reply(out, end, &found);
    Ok(())
}

pub(super) fn zscan<M: Mode>(v: View<'_, '_, M>, args: Args<'_>, out: &mut Out) -> Done {
    let start = cursor(&args[2])?;
    let Some(sorted) = v.sorted(&args[1])? else {
        reply(out, 0, &[]);
        return Ok(());
    };
    let (options, mut found) = (options(&args[3..])?, Vec::new());
    let end = options.walk(start, |cursor| {
        let mut met = 0;
        let next = sorted.scan(v.at, cursor, |member, score| {
            met += 1;
            if options.takes(member) {
                let score = crate::number::seventeen(score).into_bytes();
                found.extend([member.to_vec(), score]);
            }
        });
        (next, met)
    });
    reply(out, end, &found);
    Ok(())
}

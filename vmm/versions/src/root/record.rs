//! The bytes of a root record, a page: words of 8 bytes, the last of them the checksum of all before.

use super::{GENERATIONS_MAX, Generation, LOGS_MAX, LogRef, Root};
use crate::checksum::Checksum;
use crate::layer::{Layer, LayerId};
use crate::log::header::LogId;
use crate::page::{PAGE_BYTES, Page, VersionNumber};

const MAGIC: &[u8; 8] = b"SJMPRT2\n";
/// Of the first format: one generation, on `home`.
const MAGIC_1: &[u8; 8] = b"SJMPROT\n";
const CHECKSUM: usize = PAGE_BYTES - 8;
const WORDS: usize = CHECKSUM / 8;
/// Logs of a record of the first format, at most.
const LOGS_1: usize = WORDS - 6;

/// Words of the head, a generation, a log.
const HEAD: usize = 6;
const GENERATION: usize = 5;
const LOG: usize = 2;
const _: () = assert!(HEAD + GENERATIONS_MAX * GENERATION + LOGS_MAX * LOG <= WORDS);

/// A word for "none", and for a layer that is empty. Number 0 is `home`'s.
const NONE: u64 = u64::MAX;

pub(super) fn encode(root: &Root) -> Page {
    let mut page = [0; PAGE_BYTES];
    page[..8].copy_from_slice(MAGIC);
    let number = |version: Option<VersionNumber>| version.map_or(NONE, |version| version.0);
    let count = root.generations.len() as u64;
    let mut words = vec![root.counter, root.segment, number(root.oldest), root.last_id, count];
    for one in &root.generations {
        let layer = match one.layer {
            Layer::Empty => NONE,
            Layer::Home => 0,
            Layer::File(id) => id.0,
        };
        words.extend([layer, one.base.0, number(one.below), one.origin, one.logs.len() as u64]);
        words.extend(one.logs.iter().flat_map(|log| [log.id.0, number(log.up_to)]));
    }
    for (index, word) in words.into_iter().enumerate() {
        page[8 + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
    }
    let checksum = Checksum::of(&page[..CHECKSUM]);
    page[CHECKSUM..].copy_from_slice(&checksum.0.to_le_bytes());
    page
}

/// What a page says; `None` if it is not whole, or cannot be true.
pub(super) fn decode(page: &Page) -> Option<Root> {
    let mut words = page.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    if words.next_back() != Some(Checksum::of(&page[..CHECKSUM]).0) {
        return None;
    }
    let magic = words.next()?.to_le_bytes();
    let root = if magic == *MAGIC {
        current(words)?
    } else if magic == *MAGIC_1 {
        first(words)?
    } else {
        return None;
    };
    root.fault().is_none().then_some(root)
}

fn current(mut words: impl Iterator<Item = u64>) -> Option<Root> {
    let mut word = || words.next();
    let version = |word: u64| Some(VersionNumber(word)).filter(|_| word != NONE);
    let (counter, segment, oldest, last_id) = (word()?, word()?, version(word()?), word()?);
    let count = usize::try_from(word()?).ok().filter(|count| *count <= GENERATIONS_MAX)?;
    let mut generations = Vec::new();
    for _ in 0..count {
        let layer = match word()? {
            NONE => Layer::Empty,
            0 => Layer::Home,
            id => Layer::File(LayerId(id)),
        };
        let (base, below, origin) = (VersionNumber(word()?), version(word()?), word()?);
        let count = usize::try_from(word()?).ok().filter(|count| *count <= LOGS_MAX)?;
        let mut logs = Vec::new();
        for _ in 0..count {
            logs.push(LogRef { id: LogId(word()?), up_to: version(word()?) });
        }
        generations.push(Generation { layer, base, below, origin, logs });
    }
    Some(Root { counter, segment, oldest, last_id, generations })
}

fn first(words: impl Iterator<Item = u64>) -> Option<Root> {
    let words: Vec<u64> = words.collect();
    let [counter, segment, applied, count, _, logs @ ..] = &words[..] else { return None };
    let count = usize::try_from(*count).ok().filter(|count| (1..=LOGS_1).contains(count))?;
    let logs = logs.get(..count)?.iter().map(|id| LogRef { id: LogId(*id), up_to: None });
    let generation = Generation {
        layer: Layer::Home,
        base: VersionNumber(*applied),
        below: None,
        origin: *segment,
        logs: logs.collect(),
    };
    let (counter, segment, generations) = (*counter, *segment, vec![generation]);
    Some(Root { counter, segment, oldest: None, last_id: 0, generations })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Option<VersionNumber> {
        Some(VersionNumber(number))
    }

    fn example() -> Root {
        let log = |id, up_to| LogRef { id: LogId(id), up_to };
        let lowest = Generation {
            layer: Layer::Home,
            base: VersionNumber(3),
            below: None,
            origin: 7,
            logs: vec![log(1, version(5)), log(2, version(9))],
        };
        let middle = Generation {
            layer: Layer::File(LayerId(4)),
            base: VersionNumber(10),
            below: version(9),
            origin: 7,
            logs: Vec::new(),
        };
        let top = Generation {
            layer: Layer::Empty,
            base: VersionNumber(11),
            below: version(8),
            origin: 8,
            logs: vec![log(5, None)],
        };
        let generations = vec![lowest, middle, top];
        Root { counter: 4, segment: 8, oldest: version(3), last_id: 5, generations }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_with_any_other_byte_is_none() {
        let page = encode(&example());
        assert_eq!(decode(&page), Some(example()));
        for at in 0..PAGE_BYTES {
            let mut other = page;
            other[at] ^= 0x40;
            assert_eq!(decode(&other), None, "byte {at}");
        }
    }

    #[test]
    fn the_longest_record_fits() {
        let mut root = example();
        let logs = |from: u64, count: u64| {
            (from..from + count).map(|id| LogRef { id: LogId(id), up_to: None }).collect()
        };
        let one = root.generations.remove(0);
        root.generations = vec![Generation { logs: logs(1, LOGS_MAX as u64 - 15), ..one.clone() }];
        let more = (1..16).map(|id| Generation { logs: logs(1000 + id, 1), ..one.clone() });
        root.generations.extend(more);
        assert_eq!(decode(&encode(&root)), Some(root));
    }

    #[test]
    fn what_cannot_be_true_is_none() {
        let broken: [fn(&mut Root); 7] = [
            |root| root.generations.clear(),
            |root| root.generations.truncate(2),
            |root| root.generations.swap(0, 1),
            |root| root.generations[0].below = version(2),
            |root| root.generations[2].below = version(2),
            |root| root.generations[2].below = version(12),
            |root| root.generations[2].logs[0].id = LogId(1),
        ];
        for (index, broken) in broken.into_iter().enumerate() {
            let mut root = example();
            broken(&mut root);
            assert_eq!(decode(&encode(&root)), None, "{index}");
        }
    }
}

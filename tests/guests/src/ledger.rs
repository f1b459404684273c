//! An ordered map and a ring in an arena, changed by steps that depend only on their number, and a
//! model of both at home that takes the same steps.
//!
//! A program that knows how many steps were made, by whichever VMs, knows the expected content.

use std::collections::BTreeMap;
use std::ops::Bound;

use spacejmp::{
    AllocError, At, Error, Mode, Space, Storable, VArena, VBTreeMap, VId, VString, VVec, Write,
    brand,
};

use crate::random::Random;

/// A link of the ring.
#[derive(Storable, Debug)]
pub struct Link {
    value: u64,
    before: Option<VId<Link>>,
    after: Option<VId<Link>>,
}

/// The root object.
#[derive(Storable)]
#[storable(vas = Books)]
pub struct Ledger {
    /// Steps made.
    pub steps: u64,
    /// Keys are numbers, values own memory.
    pub entries: VBTreeMap<u64, VString<Books>, Books>,
    /// Keys own memory: the texts of the entries, with the number of entries that have them.
    pub texts: VBTreeMap<VString<Books>, u64, Books>,
    /// Links that lead around, both ways.
    pub ring: VArena<Link, Books>,
    /// The first link of the ring.
    pub first: Option<VId<Link>>,
    /// Ids of removed links.
    pub gone: VVec<VId<Link>, Books>,
}

brand! {
    /// The ledger `books`.
    pub Books => Ledger
}

/// The same in private memory.
#[derive(Debug, Default)]
pub struct Model {
    /// Entries.
    pub entries: BTreeMap<u64, String>,
    /// The ring's values, from the first on.
    pub ring: Vec<u64>,
    /// How many links were removed.
    pub gone: usize,
}

/// A change.
#[derive(Debug, Clone, Copy)]
enum Step {
    Set { key: u64, text: u64 },
    Append { key: u64, text: u64 },
    Remove { key: u64 },
    PopFirst,
    PopLast,
    ClearRange { from: u64, keys: u64 },
    Thin { rest: u64 },
    Link { behind: u64, value: u64 },
    Unlink { at: u64 },
}

/// Number of keys, so small that many steps find an entry.
const KEYS: u64 = 3000;
/// How far from its beginning the ring is changed.
const NEAR: u64 = 40;

impl Step {
    fn of(number: u64) -> Step {
        let mut random = Random::new(number);
        let (kind, key, text) = (random.below(1000), random.below(KEYS), random.below(700));
        let near = random.below(NEAR);
        match kind {
            0..400 => Step::Set { key, text },
            400..500 => Step::Append { key, text },
            500..650 => Step::Remove { key },
            650..670 => Step::PopFirst,
            670..690 => Step::PopLast,
            690..695 => Step::ClearRange { from: key, keys: 60 },
            695 => Step::Thin { rest: key % 5 },
            696..900 => Step::Link { behind: near, value: number },
            _ => Step::Unlink { at: near },
        }
    }
}

/// A text, short or long.
fn text(number: u64) -> String {
    format!("text {number}{}", ".".repeat((number % 90) as usize))
}

impl Model {
    /// Makes step `number`.
    pub fn take(&mut self, number: u64) {
        let entries = &mut self.entries;
        match Step::of(number) {
            Step::Set { key, text: t } => drop(entries.insert(key, text(t))),
            Step::Append { key, text: t } => entries.entry(key).or_default().push_str(&text(t)),
            Step::Remove { key } => drop(entries.remove(&key)),
            Step::PopFirst => drop(entries.pop_first()),
            Step::PopLast => drop(entries.pop_last()),
            Step::ClearRange { from, keys } => {
                entries.range_mut(from..from + keys).for_each(|(_, text)| text.clear());
            }
            Step::Thin { rest } => entries.retain(|key, _| key % 5 != rest),
            Step::Link { behind, value } => {
                let place = if self.ring.is_empty() { 0 } else { self.place(behind) + 1 };
                self.ring.insert(place, value);
            }
            Step::Unlink { at } if !self.ring.is_empty() => {
                self.ring.remove(self.place(at));
                self.gone += 1;
            }
            Step::Unlink { .. } => {}
        }
    }

    /// In a non-empty ring, the position `links` after the first.
    fn place(&self, links: u64) -> usize {
        links as usize % self.ring.len()
    }

    /// How many entries have each text.
    fn texts(&self) -> BTreeMap<&str, u64> {
        let mut texts = BTreeMap::new();
        self.entries.values().for_each(|text| *texts.entry(text.as_str()).or_insert(0) += 1);
        texts
    }
}

impl Ledger {
    fn new() -> Ledger {
        Ledger {
            steps: 0,
            entries: VBTreeMap::new(),
            texts: VBTreeMap::new(),
            ring: VArena::new(),
            first: None,
            gone: VVec::new(),
        }
    }

    /// Makes the next step.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn step(&mut self, at: &At<Books, Write>) -> Result<(), AllocError> {
        let step = Step::of(self.steps);
        self.steps += 1;
        let Ledger { entries, texts, .. } = self;
        let (mut entries, mut texts) = (entries.at_mut(at), texts.at_mut(at));
        match step {
            Step::Set { key, text: t } => {
                let fresh = text(t);
                count(&mut texts, at, &fresh)?;
                if let Some(old) = entries.insert(key, VString::new(at, &fresh)?)? {
                    discount(&mut texts, old.at(at));
                }
            }
            Step::Append { key, text: t } => {
                let old = entries.get(&key).map(|old| old.at(at).to_owned());
                let held = entries.entry(key).or_insert_with(VString::empty)?;
                held.at_mut(at).push_str(&text(t))?;
                count(&mut texts, at, held.at(at))?;
                if let Some(old) = old {
                    discount(&mut texts, &old);
                }
            }
            Step::Remove { key } => {
                if let Some(old) = entries.remove(&key) {
                    discount(&mut texts, old.at(at));
                }
            }
            Step::PopFirst => {
                if let Some((_, old)) = entries.pop_first() {
                    discount(&mut texts, old.at(at));
                }
            }
            Step::PopLast => {
                if let Some((_, old)) = entries.pop_last() {
                    discount(&mut texts, old.at(at));
                }
            }
            Step::ClearRange { from, keys } => {
                for (_, held) in entries.range_mut(from..from + keys) {
                    discount(&mut texts, held.at(at));
                    held.at_mut(at).clear();
                    count(&mut texts, at, "")?;
                }
            }
            Step::Thin { rest } => {
                entries.retain(|key, held| {
                    let is_kept = key % 5 != rest;
                    if !is_kept {
                        discount(&mut texts, held.at(at));
                    }
                    is_kept
                });
            }
            Step::Link { behind, value } => self.link(at, behind, value)?,
            Step::Unlink { at: place } => self.unlink(at, place)?,
        }
        Ok(())
    }

    /// The link `links` after the first, in a ring that may be shorter.
    fn place<M: Mode>(&self, at: &At<Books, M>, links: u64) -> Option<VId<Link>> {
        let ring = self.ring.at(at);
        let links = links.checked_rem(ring.len() as u64)?;
        (0..links).try_fold(self.first?, |id, _| ring.get(id)?.after)
    }

    fn link(&mut self, at: &At<Books, Write>, behind: u64, value: u64) -> Result<(), AllocError> {
        let before = self.place(at, behind);
        let mut ring = self.ring.at_mut(at);
        let after = before.and_then(|before| ring[before].after);
        let id = ring.insert(Link { value, before, after })?;
        match before.zip(after) {
            Some((before, after)) => {
                ring[before].after = Some(id);
                ring[after].before = Some(id);
            }
            None => {
                (ring[id].before, ring[id].after) = (Some(id), Some(id));
                self.first = Some(id);
            }
        }
        Ok(())
    }

    fn unlink(&mut self, at: &At<Books, Write>, place: u64) -> Result<(), AllocError> {
        let Some(id) = self.place(at, place) else { return Ok(()) };
        let mut ring = self.ring.at_mut(at);
        if let Some(Link { before: Some(before), after: Some(after), .. }) = ring.remove(id)
            && before != id
        {
            ring[before].after = Some(after);
            ring[after].before = Some(before);
            if self.first == Some(id) {
                self.first = Some(after);
            }
        } else {
            self.first = None;
        }
        self.gone.at_mut(at).push(id)
    }

    /// The differences from the model; empty if there are none.
    pub fn differences<M: Mode>(&self, at: &At<Books, M>, model: &Model) -> Vec<String> {
        let (entries, texts, ring) = (self.entries.at(at), self.texts.at(at), self.ring.at(at));
        let mut found = Vec::new();
        let mut expect = |what: &str, holds: bool| {
            if !holds {
                found.push(what.to_owned());
            }
        };
        let wanted = || model.entries.iter().map(|(&key, text)| (key, text.as_str()));
        let held = || entries.iter().map(|(&key, text)| (key, text.at(at)));
        expect("how many entries", entries.len() == model.entries.len());
        expect("the entries in order", held().eq(wanted()));
        expect("and backwards", held().rev().eq(wanted().rev()));
        let same = |key: u64| {
            entries.get(&key).map(|text| text.at(at)) == model.entries.get(&key).map(String::as_str)
        };
        expect("every key that could be there", (0..KEYS).all(same));
        let (low, high) = (KEYS / 3, KEYS / 3 * 2);
        let range = entries.range(low..high).map(|(&key, _)| key);
        expect("a range", range.eq(model.entries.range(low..high).map(|(&key, _)| key)));
        let counted = model.texts();
        let all = texts.iter().map(|(text, &count)| (text, count));
        expect("the texts in order", all.eq(counted.iter().map(|(&text, &count)| (text, count))));
        let from = (Bound::Excluded("text 3"), Bound::Unbounded);
        let rest = texts.range(from).count();
        expect("a range of texts", rest == counted.range::<str, _>(from).count());

        expect("how many links", ring.len() == model.ring.len());
        let walk = |next: fn(&Link) -> Option<VId<Link>>| {
            let links = std::iter::successors(self.first, move |&id| ring.get(id).and_then(next));
            let values = links.map(move |id| ring.get(id).map(|link| link.value));
            values.take(model.ring.len()).collect::<Option<Vec<u64>>>()
        };
        expect("the ring", walk(|link| link.after).as_ref() == Some(&model.ring));
        // From the first one back to the last.
        let (first, rest) = model.ring.split_at(model.ring.len().min(1));
        let backwards = first.iter().chain(rest.iter().rev()).copied().collect();
        expect("and around the other way", walk(|link| link.before) == Some(backwards));
        let mut values: Vec<u64> = ring.values().map(|link| link.value).collect();
        let mut wanted = model.ring.clone();
        values.sort_unstable();
        wanted.sort_unstable();
        expect("every value of the arena", values == wanted);
        let gone = self.gone.at(at);
        expect("how many links are gone", gone.len() == model.gone);
        expect("their ids find nothing", gone.iter().all(|&id| ring.get(id).is_none()));
        found
    }
}

type Texts<'a> = spacejmp::collections::btree::BTreeMut<'a, VString<Books>, u64, Books>;

/// One more entry has a text.
fn count(texts: &mut Texts<'_>, at: &At<Books, Write>, text: &str) -> Result<(), AllocError> {
    *texts.get_or_insert_with(text, || Ok((VString::new(at, text)?, 0)))? += 1;
    Ok(())
}

/// One entry fewer has it.
fn discount(texts: &mut Texts<'_>, text: &str) {
    let left = texts.get_mut(text).map(|count| {
        *count -= 1;
        *count
    });
    if left == Some(0) {
        texts.remove(text);
    }
}

/// The ledger, created empty if there is none.
///
/// # Errors
/// The errors of opening a space.
pub fn open() -> Result<Space<Books>, Error> {
    Space::options().reserve(256 << 20).open_or_create("books", |_| Ok(Ledger::new()))
}

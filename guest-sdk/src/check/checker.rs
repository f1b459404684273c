//! The walk from the root object through all that it owns, and what is common to all types on the way.
//!
//! A type looks at the bytes of one value ([`Storable::check_stored`]). What a value owns elsewhere becomes a *frame*, which goes through its
//! values one after another; frames are a list of their own and not on the thread's stack, so a chain of
//! a million boxes is as good as any. What a frame's value has found is done with before the frame goes on, so at its end it knows
//! whether all below it is sound (`taint`), and may hash and compare keys then.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::blocks::{Block, Blocks};
use super::niche::{self, NoneForm};
use super::place::{Place, settle};
use super::report::{CheckReport, Expected, Finding, MAX_LISTED, Problem};
use super::shared::{Counted, Shared};
use crate::brand::Brand;
use crate::storable::Storable;
use crate::token::{At, Read};
use crate::type_id;

/// A check of a space that is going on; passed to [`Storable::check_stored`].
pub struct Checker<'a, V: Brand> {
    pub(super) at: &'a At<V, Read>,
    pub(super) blocks: &'a mut dyn Blocks,
    pub(super) report: CheckReport,
    pub(super) frames: Vec<Frame<V>>,
    /// The frame whose value is looked at.
    pub(super) current: usize,
    /// The way from there to the part that is looked at.
    labels: Vec<Label>,
    /// Only whether bytes may be those of a value, without a report, and nothing that it owns.
    is_shallow: bool,
    /// Grows with all that is wrong.
    taint: u64,
    forms: HashMap<TypeId, Option<NoneForm>>,
    pub(super) counted: HashMap<usize, Counted>,
    pub(super) shared: HashMap<usize, Shared>,
    /// What pointers point to, for later.
    pub(super) pending: Vec<Frame<V>>,
    /// Values with several owners that are to be found, and the way to them once they are.
    pub(super) wanted: BTreeMap<usize, Option<String>>,
}

/// A step of a frame: looks at one value more, or several until one has given rise to other frames, which come first then. Returns
/// whether there is more to do.
pub(crate) type Step<V> = fn(&mut Checker<'_, V>) -> bool;
/// What a frame's value is called.
pub(crate) type Show<V> = fn(&mut Checker<'_, V>, usize) -> Option<String>;

/// Values one after another that something owns.
pub(crate) struct Frame<V: Brand> {
    pub(super) parent: Option<usize>,
    pub(super) labels: Box<[Label]>,
    pub(super) step: Step<V>,
    pub(super) show: Show<V>,
    pub(crate) walk: Walk,
}

/// How far a frame is.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) place: Place,
    /// The value after the one that is looked at.
    pub(crate) next: usize,
    pub(crate) count: usize,
    /// Collections go through their entries several times.
    pub(crate) phase: u8,
    /// The taint when the phase began.
    pub(crate) mark: u64,
    /// Whatever the step needs.
    pub(crate) numbers: [usize; 2],
    pub(crate) nodes: Vec<Place>,
}

impl Walk {
    pub(crate) fn new(place: Place, count: usize) -> Walk {
        Walk { place, next: 0, count, phase: 0, mark: 0, numbers: [0; 2], nodes: Vec::new() }
    }
}

/// A part of a path.
#[derive(Debug, Clone)]
pub(super) enum Label {
    Name(String),
    Field(&'static str),
    Index(usize),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Name(name) => f.write_str(name),
            Label::Field(name) => write!(f, ".{name}"),
            Label::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// For frames of one value.
pub(crate) fn unnamed<V: Brand>(_: &mut Checker<'_, V>, _: usize) -> Option<String> {
    None
}

/// For values by number.
pub(crate) fn numbered<V: Brand>(checker: &mut Checker<'_, V>, frame: usize) -> Option<String> {
    let index = checker.frames.get(frame)?.walk.next.checked_sub(1)?;
    Some(format!("[{index}]"))
}

/// The most parts of a path at either end that are written.
const ENDS: usize = 12;

impl<'a, V: Brand> Checker<'a, V> {
    pub(super) fn new(at: &'a At<V, Read>, blocks: &'a mut dyn Blocks) -> Checker<'a, V> {
        Checker {
            at,
            blocks,
            report: CheckReport::default(),
            frames: Vec::new(),
            current: 0,
            labels: Vec::new(),
            is_shallow: false,
            taint: 0,
            forms: HashMap::new(),
            counted: HashMap::new(),
            shared: HashMap::new(),
            pending: Vec::new(),
            wanted: BTreeMap::new(),
        }
    }

    /// Looks at a field of the value at `place`, which is of type `T` and lies `offset` bytes from its start.
    pub fn field<T: Storable<V>>(&mut self, place: Place, name: &'static str, offset: usize) {
        self.labels.push(Label::Field(name));
        self.part::<T>(place, offset);
        self.labels.pop();
    }

    /// The same of an element by number.
    pub fn element<T: Storable<V>>(&mut self, place: Place, index: usize, offset: usize) {
        self.labels.push(Label::Index(index));
        self.part::<T>(place, offset);
        self.labels.pop();
    }

    /// The same of a part without a name.
    pub fn part<T: Storable<V>>(&mut self, place: Place, offset: usize) {
        let part = place.part(offset, size_of::<T>());
        match part.filter(|part| part.address().is_multiple_of(align_of::<T>())) {
            Some(part) => T::check_stored(part, self),
            None => self.damaged(Problem::BadCheck),
        }
    }

    /// What is looked at until `leave` is called is part of what has this name.
    pub(super) fn enter(&mut self, name: &'static str) {
        self.labels.push(Label::Field(name));
    }

    pub(super) fn leave(&mut self) {
        self.labels.pop();
    }

    /// Notes that something is wrong with the part that is looked at.
    pub fn damaged(&mut self, problem: Problem) {
        self.taint += 1;
        if self.is_shallow {
            return;
        }
        self.report.damages += 1;
        if self.report.findings.len() < MAX_LISTED {
            let path = self.path();
            self.report.findings.push(Finding { path, problem });
        }
    }

    /// Notes that bytes are of no value of the type that is called `of`.
    pub fn no_value(&mut self, of: &'static str, found: u128) {
        self.damaged(Problem::Value { of, found });
    }

    /// Notes that a number is not what it should be.
    pub(crate) fn wrong_number(&mut self, what: &'static str, found: usize, expected: Expected) {
        self.damaged(Problem::Number { what, found: found as u128, expected });
    }

    /// Notes that nothing is known of values of this type.
    pub fn unknown<T: ?Sized>(&mut self) {
        // It may be anything, so no key with it may be hashed.
        self.taint += 1;
        if !self.is_shallow {
            *self.report.unknown.entry(std::any::type_name::<T>()).or_default() += 1;
        }
    }

    /// Counts something.
    pub(crate) fn count(&mut self, kind: &'static str) {
        if !self.is_shallow {
            *self.report.counts.entry(kind).or_default() += 1;
        }
    }

    pub(crate) fn at(&self) -> &'a At<V, Read> {
        self.at
    }

    pub(crate) fn is_shallow(&self) -> bool {
        self.is_shallow
    }

    pub(crate) fn taint(&self) -> u64 {
        self.taint
    }

    /// What is wrong below is wrong here, too.
    pub(super) fn add_taint(&mut self) {
        self.taint += 1;
    }

    /// Whether `look`, which reports nothing, finds that all bytes may be those of values, whatever these own.
    pub(crate) fn could_be(&mut self, look: impl FnOnce(&mut Self)) -> bool {
        let (was_shallow, before) = (std::mem::replace(&mut self.is_shallow, true), self.taint);
        look(self);
        self.is_shallow = was_shallow;
        self.taint == before
    }

    /// The walk of the current frame.
    pub(crate) fn walk(&mut self) -> &mut Walk {
        &mut self.frames[self.current].walk
    }

    /// The walk of a frame.
    pub(crate) fn walk_of(&self, frame: usize) -> Option<&Walk> {
        self.frames.get(frame).map(|frame| &frame.walk)
    }

    /// Whether the current frame's value has given rise to others.
    pub(crate) fn has_more_below(&self) -> bool {
        self.frames.len() > self.current + 1
    }

    /// Adds a frame for what the part that is looked at owns.
    pub(crate) fn push(&mut self, step: Step<V>, show: Show<V>, walk: Walk) {
        let labels = self.labels.clone().into_boxed_slice();
        let parent = Some(self.current);
        self.frames.push(Frame { parent, labels, step, show, walk });
    }

    /// Goes through all frames that there are, and those that they give rise to.
    pub(super) fn run(&mut self) {
        while let Some(current) = self.frames.len().checked_sub(1) {
            self.current = current;
            self.labels.clear();
            let has_more = (self.frames[current].step)(self);
            match &mut self.frames[current + 1..] {
                [] if !has_more => drop(self.frames.pop()),
                // The first one first.
                below => below.reverse(),
            }
        }
    }

    /// The way to what is looked at.
    pub(super) fn path(&mut self) -> String {
        let mut way = Vec::new();
        let mut frame = (!self.frames.is_empty()).then_some(self.current);
        while let Some(index) = frame {
            way.push(index);
            frame = self.frames.get(index).and_then(|frame| frame.parent);
        }
        way.reverse();
        let mut path = String::new();
        for (number, &index) in way.iter().enumerate() {
            if number >= ENDS && number + ENDS < way.len() {
                if number == ENDS {
                    path.push_str("...");
                }
                continue;
            }
            for label in &self.frames[index].labels {
                path.push_str(&label.to_string());
            }
            let show = self.frames[index].show;
            path.push_str(&show(self, index).unwrap_or_default());
        }
        for label in &self.labels {
            path.push_str(&label.to_string());
        }
        path
    }

    /// The block at an address that owns or points to `needed` bytes from there on, whose multiple it is; says what is wrong otherwise.
    pub(super) fn block(&mut self, address: usize, needed: Needed) -> Option<Block> {
        let Needed { bytes, align, .. } = needed;
        let found = self.blocks.block_at(address);
        let problem = match found {
            _ if address == 0 => Problem::NoBlock { address },
            _ if !address.is_multiple_of(align) => Problem::Misaligned { address, align },
            None => Problem::NoBlock { address },
            Some(block) if needed.from_start && block.address() != address => {
                Problem::NotAtStart { address, start: block.address() }
            }
            Some(block) => {
                let there = block.bytes - (address - block.address());
                if there as u128 >= bytes {
                    settle(block.start);
                    return Some(block);
                }
                Problem::TooSmall { address, bytes: there, needed: bytes }
            }
        };
        self.damaged(problem);
        None
    }

    /// Takes the block at `address` for its one owner. `None` if that is impossible, which is reported, or not wanted.
    pub(crate) fn claim(&mut self, address: usize, needed: Needed) -> Option<Place> {
        if self.is_shallow {
            if address == 0 {
                self.taint += 1;
            }
            return None;
        }
        let block = self.block(address, needed)?;
        if !self.blocks.reach(block) {
            self.damaged(Problem::TwoOwners { address });
            return None;
        }
        self.report.blocks += 1;
        self.report.bytes += block.bytes as u64;
        Some(block.place())
    }

    /// Looks at `len` values of which an owner says that they are at `address`, with room for `capacity`.
    pub(crate) fn values<T: Storable<V>>(
        &mut self,
        address: usize,
        len: usize,
        capacity: usize,
        show: Show<V>,
    ) {
        if let Some((place, count)) = self.claim_values::<T>(address, len, capacity)
            && !T::ANY_BITS
            && count > 0
        {
            self.push(elements::<T, V>, show, Walk::new(place, count));
        }
    }

    /// Takes the block of an owner's values, if they have one, and returns where and how many to look at: one, if they have no
    /// size.
    pub(crate) fn claim_values<T>(
        &mut self,
        address: usize,
        len: usize,
        capacity: usize,
    ) -> Option<(Place, usize)> {
        let (size, align) = (size_of::<T>(), align_of::<T>());
        if address == 0 || !address.is_multiple_of(align) {
            self.damaged(match address {
                0 => Problem::NoBlock { address },
                _ => Problem::Misaligned { address, align },
            });
            return None;
        }
        if size == 0 {
            return (!self.is_shallow).then_some((Place::nowhere(align), len.min(1)));
        }
        if len > capacity {
            self.wrong_number("its length", len, Expected::AtMost(capacity as u128));
            return None;
        }
        if capacity == 0 {
            return None;
        }
        let bytes = capacity as u128 * size as u128;
        let place = self.claim(address, Needed { bytes, align, from_start: true })?;
        Some((place, len))
    }

    /// How `None` of a type is written, if that can be told.
    pub(super) fn none_form<T>(&mut self) -> Option<NoneForm> {
        *self.forms.entry(type_id::of::<T>()).or_insert_with(niche::form_of::<T>)
    }

    /// Looks at an `Option<T>`; returns whether there is a value, if that is known.
    pub(crate) fn option<T: Storable<V>>(&mut self, place: Place) -> Option<bool> {
        let Some(form) = self.none_form::<T>() else {
            self.unknown::<Option<T>>();
            return None;
        };
        let found = place.number(form.offset, form.bytes);
        if found == form.none {
            return Some(false);
        }
        if form.is_tag && found != 1 {
            self.no_value("Option", found);
            return None;
        }
        self.part::<T>(place, form.content);
        Some(true)
    }

    /// Looks at text of which an owner says that it is at `address`.
    pub(crate) fn text(&mut self, address: usize, len: usize, capacity: usize) {
        let Some((place, len)) = self.claim_values::<u8>(address, len, capacity) else { return };
        let text = place.part(0, len).map_or(&[][..], Place::as_bytes);
        if let Err(error) = std::str::from_utf8(text) {
            self.damaged(Problem::NotUtf8 { valid: error.valid_up_to() });
        }
    }

    /// What a program's own code for keys gives; `None` if it panics.
    pub(crate) fn guarded<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).ok()
    }

    /// Looks at the values of an array.
    pub(crate) fn elements_of<T: Storable<V>>(&mut self, place: Place, count: usize) {
        /// More than these have a frame, so that there is one frame for what they own, and not one for each.
        const FEW: usize = 16;
        if count > FEW && !self.is_shallow && size_of::<T>() > 0 {
            return self.push(elements::<T, V>, numbered, Walk::new(place, count));
        }
        let different = if size_of::<T>() == 0 { count.min(1) } else { count };
        for index in 0..different {
            self.element::<T>(place, index, index * size_of::<T>());
        }
    }

    /// Whether an `Option<T>` has no value, if that can be told.
    pub(crate) fn is_none<T>(&mut self, place: Place) -> Option<bool> {
        let form = self.none_form::<T>()?;
        Some(place.number(form.offset, form.bytes) == form.none)
    }

    /// What an `Option<T>` is called in a path.
    pub(crate) fn show_option<T: Storable<V>>(&mut self, place: Place) -> Option<String> {
        let form = self.none_form::<T>()?;
        if place.number(form.offset, form.bytes) == form.none {
            return Some("None".to_owned());
        }
        let value = T::show_stored(place.part(form.content, size_of::<T>())?, self)?;
        Some(format!("Some({value})"))
    }

    /// What text or bytes at an address are called in a path: their beginning.
    pub(crate) fn show_bytes(&mut self, address: usize, len: usize) -> Option<String> {
        /// As much as one reads.
        const SHOWN: usize = 40;
        if len == 0 {
            return Some("\"\"".to_owned());
        }
        let block = self.blocks.block_at(address)?;
        let place = block.place().part(address - block.address(), len)?;
        let shown = place.part(0, len.min(SHOWN))?;
        let text = String::from_utf8_lossy(shown.as_bytes()).into_owned();
        let more = if len > SHOWN { "..." } else { "" };
        Some(format!("{text:?}{more}"))
    }
}

/// What a block has to have room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needed {
    pub(crate) bytes: u128,
    pub(crate) align: usize,
    /// Whether the address is that of the block.
    pub(crate) from_start: bool,
}

impl Needed {
    /// A block of one value.
    pub(crate) fn of<T>() -> Needed {
        Needed { bytes: size_of::<T>() as u128, align: align_of::<T>(), from_start: true }
    }
}

/// The step of a frame of values one after another.
pub(crate) fn elements<T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    loop {
        let walk = checker.walk();
        if walk.next >= walk.count {
            return false;
        }
        let (place, offset) = (walk.place, walk.next * size_of::<T>());
        walk.next += 1;
        checker.part::<T>(place, offset);
        if checker.has_more_below() {
            return true;
        }
    }
}

impl<V: Brand> fmt::Debug for Checker<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checker<{}>({} frames)", V::NAME, self.frames.len())
    }
}

//! Dicts and sets: entries in the order in which they were made, and an index of their hashes.
//!
//! The index is open addressing with linear probing: short words, 0 for free, else an entry's number plus one.
//! An entry that was removed stays, dead, until there is no room for another: then all are written anew.

use crate::key::Key;
use crate::memory::{Fault, Memory};
use crate::stored::{CELL, Cell, Kind};

/// Bytes of a header: entries, used, capacity, live, index, slots, seed, changes.
const HEADER: u64 = 64;

/// The header of a dict or set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    at: u64,
    kind: Kind,
    entries: u64,
    /// Entries that were made, dead ones among them.
    used: u64,
    capacity: u64,
    /// Entries that are there.
    pub(crate) live: u64,
    index: u64,
    slots: u64,
    seed: u64,
    /// How often an entry was made or removed.
    pub(crate) changes: u64,
}

impl Table {
    /// A new dict or set with room for so many.
    pub(crate) fn create(
        memory: &mut Memory,
        kind: Kind,
        room: u64,
        seed: u64,
    ) -> Result<Table, Fault> {
        let at = memory.allocate(HEADER, 8)?;
        let mut table = Table {
            at,
            kind,
            entries: 0,
            used: 0,
            capacity: 0,
            live: 0,
            index: 0,
            slots: 0,
            seed,
            changes: 0,
        };
        let made = table
            .store(memory)
            .and_then(|()| if room > 0 { table.rebuild(memory, room) } else { Ok(()) });
        if let Err(fault) = made {
            memory.free(at)?;
            return Err(fault);
        }
        Ok(table)
    }

    pub(crate) fn cell(self) -> Cell {
        Cell::new(self.kind, self.at)
    }

    pub(crate) fn load(memory: &Memory, cell: Cell) -> Result<Table, Fault> {
        let at = cell.word;
        let [entries, used, capacity, live, index, slots, seed, changes] = memory.words(at)?;
        let is_whole = live <= used && used <= capacity && capacity <= slots && slots <= 1 << 32;
        if !is_whole || (slots != 0 && !slots.is_power_of_two()) {
            return Err(Fault::Damaged("no dict or set", at));
        }
        let kind = cell.kind;
        Ok(Table { at, kind, entries, used, capacity, live, index, slots, seed, changes })
    }

    fn store(&self, memory: &mut Memory) -> Result<(), Fault> {
        let Table { entries, used, capacity, live, index, slots, seed, changes, .. } = *self;
        memory.set_words(self.at, [entries, used, capacity, live, index, slots, seed, changes])
    }

    fn is_dict(&self) -> bool {
        self.kind == Kind::Dict
    }

    /// Bytes of an entry: hash, key, and a dict's value.
    fn entry_bytes(&self) -> u64 {
        if self.is_dict() { 8 + 2 * CELL } else { 8 + CELL }
    }

    fn entry(&self, number: u64) -> Result<u64, Fault> {
        let offset = number.checked_mul(self.entry_bytes());
        let at = offset.and_then(|offset| self.entries.checked_add(offset));
        at.ok_or(Fault::Damaged("no dict or set", self.at))
    }

    /// Hash and key of an entry.
    fn key_of(&self, memory: &Memory, number: u64) -> Result<(u64, Cell), Fault> {
        let at = self.entry(number)?;
        let [hash, first, second] = memory.words(at)?;
        Ok((hash, Cell::from_words([first, second], at)?))
    }

    /// The value of a dict's entry.
    pub(crate) fn value(&self, memory: &Memory, number: u64) -> Result<Cell, Fault> {
        Cell::load(memory, self.entry(number)? + 8 + CELL)
    }

    /// Another value for a dict's entry; returns the one that was there.
    pub(crate) fn set_value(
        &self,
        memory: &mut Memory,
        number: u64,
        cell: Cell,
    ) -> Result<Cell, Fault> {
        let old = self.value(memory, number)?;
        cell.store(memory, self.entry(number)? + 8 + CELL)?;
        Ok(old)
    }

    /// The next entry from number `from` on that is there, and its key.
    pub(crate) fn next(&self, memory: &Memory, from: u64) -> Result<Option<(u64, Cell)>, Fault> {
        for number in from..self.used {
            let (_, key) = self.key_of(memory, number)?;
            if key.kind != Kind::Dead {
                return Ok(Some((number, key)));
            }
        }
        Ok(None)
    }

    /// The last entry that is there.
    pub(crate) fn last(&self, memory: &Memory) -> Result<Option<(u64, Cell)>, Fault> {
        for number in (0..self.used).rev() {
            let (_, key) = self.key_of(memory, number)?;
            if key.kind != Kind::Dead {
                return Ok(Some((number, key)));
            }
        }
        Ok(None)
    }

    fn slot(&self, slot: u64) -> u64 {
        // Bounded by `memory`; wraps only if the index is damaged.
        self.index.wrapping_add(4 * (slot & (self.slots - 1)))
    }

    /// The number of the entry with this key.
    pub(crate) fn find(&self, memory: &Memory, key: &Key<'_>) -> Result<Option<u64>, Fault> {
        if self.live == 0 {
            return Ok(None);
        }
        let wanted = key.hash(self.seed);
        for probe in 0..self.slots {
            let number = match memory.short(self.slot(wanted.wrapping_add(probe)))? {
                0 => return Ok(None),
                number => u64::from(number) - 1,
            };
            if number >= self.used {
                return Err(Fault::Damaged("no dict or set", self.at));
            }
            let (hash, cell) = self.key_of(memory, number)?;
            if hash == wanted && cell.kind != Kind::Dead && Key::stored(memory, cell)? == *key {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Makes room for one entry more.
    pub(crate) fn reserve(&mut self, memory: &mut Memory) -> Result<(), Fault> {
        if self.used < self.capacity {
            return Ok(());
        }
        let room = (self.live * 2).max(8);
        if room > 1 << 31 {
            return Err(Fault::NoRoom(room * self.entry_bytes(), spacejmp::sys::Errno::E2BIG));
        }
        self.rebuild(memory, room)
    }

    /// Writes the entries that are there anew, with an index for so many.
    fn rebuild(&mut self, memory: &mut Memory, room: u64) -> Result<(), Fault> {
        let bytes = self.entry_bytes();
        let slots = (room + room / 2 + 1).next_power_of_two();
        let entries = memory.allocate(room * bytes, 8)?;
        let index = match memory.allocate(slots * 4, 8) {
            Ok(index) => index,
            Err(fault) => {
                memory.free(entries)?;
                return Err(fault);
            }
        };
        memory.clear(index, slots * 4)?;
        let old = *self;
        (self.entries, self.index, self.slots, self.capacity) = (entries, index, slots, room);
        (self.used, self.live) = (0, 0);
        let mut from = 0;
        while let Some((number, _)) = old.next(memory, from)? {
            let (hash, _) = old.key_of(memory, number)?;
            memory.copy(old.entry(number)?, self.entry(self.used)?, bytes)?;
            self.enter(memory, hash)?;
            from = number + 1;
        }
        self.store(memory)?;
        if old.capacity > 0 {
            memory.free(old.entries)?;
            memory.free(old.index)?;
        }
        Ok(())
    }

    /// Enters the entry behind the last in the index.
    fn enter(&mut self, memory: &mut Memory, hash: u64) -> Result<(), Fault> {
        for probe in 0..self.slots {
            let slot = self.slot(hash.wrapping_add(probe));
            if memory.short(slot)? == 0 {
                memory.set_short(slot, self.used as u32 + 1)?;
                self.used += 1;
                self.live += 1;
                return Ok(());
            }
        }
        // There are more slots than entries.
        Err(Fault::Damaged("no dict or set", self.at))
    }

    /// An entry for a key that is not there, after [`reserve`](Table::reserve).
    pub(crate) fn insert(
        &mut self,
        memory: &mut Memory,
        hash: u64,
        key: Cell,
        value: Option<Cell>,
    ) -> Result<(), Fault> {
        let at = self.entry(self.used)?;
        memory.set_words(at, [hash])?;
        key.store(memory, at + 8)?;
        if self.is_dict() {
            value.unwrap_or(Cell::NONE).store(memory, at + 8 + CELL)?;
        }
        self.enter(memory, hash)?;
        self.changes += 1;
        self.store(memory)
    }

    /// Takes an entry out; returns its key and value.
    pub(crate) fn remove(
        &mut self,
        memory: &mut Memory,
        number: u64,
    ) -> Result<(Cell, Option<Cell>), Fault> {
        let (_, key) = self.key_of(memory, number)?;
        let value = if self.is_dict() { Some(self.value(memory, number)?) } else { None };
        let at = self.entry(number)?;
        Cell::DEAD.store(memory, at + 8)?;
        if self.is_dict() {
            Cell::NONE.store(memory, at + 8 + CELL)?;
        }
        self.live -= 1;
        self.changes += 1;
        if self.live == 0 {
            self.used = 0;
            memory.clear(self.index, self.slots * 4)?;
        }
        self.store(memory)?;
        Ok((key, value))
    }

    /// The hash of a key in this table.
    pub(crate) fn hash(&self, key: &Key<'_>) -> u64 {
        key.hash(self.seed)
    }
}

/// Adds keys and values to `cells`, and frees the blocks that the header owns.
pub(crate) fn take_apart(
    memory: &mut Memory,
    cell: Cell,
    cells: &mut Vec<Cell>,
) -> Result<(), Fault> {
    let table = Table::load(memory, cell)?;
    let mut from = 0;
    while let Some((number, key)) = table.next(memory, from)? {
        cells.push(key);
        if table.is_dict() {
            cells.push(table.value(memory, number)?);
        }
        from = number + 1;
    }
    if table.capacity > 0 {
        memory.free(table.entries)?;
        memory.free(table.index)?;
    }
    Ok(())
}

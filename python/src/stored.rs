//! How Python's values lie in a space.
//!
//! A value is a *cell* of two words: the kind in the low byte of the first, a length above it, and a number or
//! an address in the second. Texts, integers of any size and tuples are blocks that the cell owns; lists,
//! dicts, sets and arrays are a header, whose address stays as long as they live, and blocks that the header
//! owns. Addresses are absolute, so that `spacejmp seg check` can follow them.
//!
//! Lists are here, tables in `table.rs`. What is written down here is a format that outlives the program:
//! a change of it is a new version of [`TEXT`].

use crate::memory::{Fault, Memory};
use crate::table;

/// What the type of the root object is called; its fingerprint is stored with the root's address.
pub(crate) const TEXT: &str = "Python data version 1 (48 bytes)\n";
/// Bytes of the root object: a cell, the number of visits that have written, a random stamp of the last, 0.
pub(crate) const ROOT_BYTES: u64 = 48;
/// Where the stamp is in it.
pub(crate) const STAMP: u64 = 16;
/// Bytes of a cell.
pub(crate) const CELL: u64 = 16;
/// Bytes of a list's header: items, length, capacity, changes.
const LIST: u64 = 32;

/// What a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    None,
    False,
    True,
    Int,
    /// Bytes of two's complement, the least first.
    BigInt,
    Float,
    Str,
    Bytes,
    Tuple,
    List,
    Dict,
    Set,
    Array,
    /// Where there was a key.
    Dead,
}

impl Kind {
    fn of(raw: u8) -> Option<Kind> {
        use Kind::*;
        let kinds = [
            None, False, True, Int, BigInt, Float, Str, Bytes, Tuple, List, Dict, Set, Array, Dead,
        ];
        kinds.get(usize::from(raw)).copied()
    }

    /// Whether cells of the kind own a header that stays where it is.
    pub(crate) fn is_container(self) -> bool {
        matches!(self, Kind::List | Kind::Dict | Kind::Set | Kind::Array)
    }
}

/// A value in a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    /// Bytes of a text, or members of a tuple.
    pub(crate) len: u64,
    pub(crate) word: u64,
}

impl Cell {
    pub(crate) const NONE: Cell = Cell { kind: Kind::None, len: 0, word: 0 };
    pub(crate) const DEAD: Cell = Cell { kind: Kind::Dead, len: 0, word: 0 };

    pub(crate) fn new(kind: Kind, word: u64) -> Cell {
        Cell { kind, len: 0, word }
    }

    pub(crate) fn words(self) -> [u64; 2] {
        [self.len << 8 | self.kind as u64, self.word]
    }

    /// A cell from its words at `at`.
    pub(crate) fn from_words(words: [u64; 2], at: u64) -> Result<Cell, Fault> {
        let kind = Kind::of(words[0] as u8).ok_or(Fault::Damaged("no value", at))?;
        Ok(Cell { kind, len: words[0] >> 8, word: words[1] })
    }

    pub(crate) fn load(memory: &Memory, at: u64) -> Result<Cell, Fault> {
        Cell::from_words(memory.words(at)?, at)
    }

    pub(crate) fn store(self, memory: &mut Memory, at: u64) -> Result<(), Fault> {
        memory.set_words(at, self.words())
    }

    /// Where member `index` of a tuple is.
    pub(crate) fn member(self, index: u64) -> Result<u64, Fault> {
        let offset = index.checked_mul(CELL).and_then(|offset| self.word.checked_add(offset));
        offset.ok_or(Fault::Damaged("no tuple", self.word))
    }
}

/// Is told of each header that is freed.
pub(crate) type Freed<'a> = dyn FnMut(u64) + 'a;

/// Frees what a cell owns, and what that owns, and so on: in a list of its own, since values may be nested as
/// deeply as their makers like.
pub(crate) fn free(memory: &mut Memory, cell: Cell, freed: &mut Freed<'_>) -> Result<(), Fault> {
    let mut cells = vec![cell];
    while let Some(cell) = cells.pop() {
        match cell.kind {
            Kind::BigInt | Kind::Str | Kind::Bytes if cell.len > 0 => memory.free(cell.word)?,
            Kind::Tuple if cell.len > 0 => {
                for index in 0..cell.len {
                    cells.push(Cell::load(memory, cell.member(index)?)?);
                }
                memory.free(cell.word)?;
            }
            Kind::List => {
                let list = List::load(memory, cell.word)?;
                for index in 0..list.len {
                    cells.push(list.get(memory, index)?);
                }
                if list.capacity > 0 {
                    memory.free(list.items)?;
                }
            }
            Kind::Dict | Kind::Set => table::take_apart(memory, cell, &mut cells)?,
            Kind::Array => {
                let data = memory.word(cell.word)?;
                if data != 0 {
                    memory.free(data)?;
                }
            }
            _ => {}
        }
        if cell.kind.is_container() {
            memory.free(cell.word)?;
            freed(cell.word);
        }
    }
    Ok(())
}

/// The header of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    at: u64,
    items: u64,
    pub(crate) len: u64,
    capacity: u64,
}

impl List {
    /// A new list with room for so many.
    pub(crate) fn create(memory: &mut Memory, capacity: u64) -> Result<List, Fault> {
        let at = memory.allocate(LIST, 8)?;
        memory.set_words(at, [0; 4])?;
        let mut list = List { at, items: 0, len: 0, capacity: 0 };
        if capacity > 0
            && let Err(fault) = list.grow(memory, capacity)
        {
            memory.free(at)?;
            return Err(fault);
        }
        Ok(list)
    }

    pub(crate) fn cell(self) -> Cell {
        Cell::new(Kind::List, self.at)
    }

    pub(crate) fn load(memory: &Memory, at: u64) -> Result<List, Fault> {
        let [items, len, capacity, _] = memory.words(at)?;
        if len > capacity {
            return Err(Fault::Damaged("no list", at));
        }
        Ok(List { at, items, len, capacity })
    }

    fn store(self, memory: &mut Memory) -> Result<(), Fault> {
        memory.set_words(self.at, [self.items, self.len, self.capacity])
    }

    fn place(self, index: u64) -> Result<u64, Fault> {
        let offset = index.checked_mul(CELL).and_then(|offset| self.items.checked_add(offset));
        offset.ok_or(Fault::Damaged("no list", self.at))
    }

    fn grow(&mut self, memory: &mut Memory, capacity: u64) -> Result<(), Fault> {
        let bytes = capacity.checked_mul(CELL).ok_or(Fault::Damaged("no list", self.at))?;
        let items = memory.allocate(bytes, 16)?;
        memory.copy(self.items, items, self.len * CELL)?;
        let old = std::mem::replace(&mut self.items, items);
        let had = std::mem::replace(&mut self.capacity, capacity);
        self.store(memory)?;
        if had > 0 { memory.free(old) } else { Ok(()) }
    }

    pub(crate) fn get(self, memory: &Memory, index: u64) -> Result<Cell, Fault> {
        Cell::load(memory, self.place(index)?)
    }

    /// Another value at `index`; returns the one that was there.
    pub(crate) fn set(self, memory: &mut Memory, index: u64, cell: Cell) -> Result<Cell, Fault> {
        let old = self.get(memory, index)?;
        cell.store(memory, self.place(index)?)?;
        Ok(old)
    }

    /// Puts a value before the one at `index`, which is the length at most.
    pub(crate) fn insert(
        &mut self,
        memory: &mut Memory,
        index: u64,
        cell: Cell,
    ) -> Result<(), Fault> {
        if self.len == self.capacity {
            self.grow(memory, (self.capacity + self.capacity / 2).max(4))?;
        }
        let rest = (self.len - index) * CELL;
        memory.copy(self.place(index)?, self.place(index + 1)?, rest)?;
        cell.store(memory, self.place(index)?)?;
        self.len += 1;
        self.store(memory)
    }

    /// Takes the value at `index`, which is below the length, out.
    pub(crate) fn remove(&mut self, memory: &mut Memory, index: u64) -> Result<Cell, Fault> {
        let cell = self.get(memory, index)?;
        let rest = (self.len - index - 1) * CELL;
        memory.copy(self.place(index + 1)?, self.place(index)?, rest)?;
        self.len -= 1;
        self.store(memory)?;
        Ok(cell)
    }
}

//! From an address in a program to the line of its source: what `.debug_line` says (DWARF 2 to 5).
//!
//! Nothing else of the debug information is read: neither which functions were inlined, nor what is in files of its own or
//! compressed. The table is the program's, and so untrusted. It is read once, from start to end,
//! for all addresses together, and nothing is kept but what was found: a table's lists of files are looked
//! into where they lie. For that no crate is used: those that read DWARF well take up to a hundred bytes of memory for one of the
//! file, and count with checks that a debug build of ours would turn into a panic.
#![forbid(unsafe_code)]

use std::ops::Range;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader};
use object::{LittleEndian, ReadRef};

/// The largest table that is read. A large browser has as much.
const TABLE_MAX: u64 = 128 << 20;
/// The longest lists of files and directories of a compilation unit that are searched.
const LISTS_MAX: usize = 2 << 20;
/// Bytes of such lists that are searched for all addresses together.
const SEARCHED_MAX: usize = 256 << 20;
/// Bytes of a path that are shown; the last ones of a longer one.
const PATH_MAX: usize = 200;

type Header = FileHeader64<LittleEndian>;

/// A line of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    /// Its file, as the compiler was told, or below the directory in which it ran: printable characters only.
    pub file: String,
    /// The line, from 1 on.
    pub line: u64,
}

impl std::fmt::Display for SourceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The lines of these addresses of a 64-bit little-endian ELF file, as far as they are known.
///
/// Never panics; the work is at most proportional to the file's size and the number of addresses.
pub fn lines<'data, R: ReadRef<'data>>(file: R, addresses: &[u64]) -> Vec<Option<SourceLine>> {
    let mut found = vec![None; addresses.len()];
    let mut wanted: Vec<(u64, usize)> =
        addresses.iter().enumerate().map(|(index, at)| (*at, index)).collect();
    wanted.sort_unstable();
    if let Some(sections) = Sections::of(file)
        && let Some(table) = sections.table(file)
    {
        let strings = |form, offset| sections.string(file, form, offset);
        read_table(table, wanted, &strings, &mut found);
    }
    found
}

/// Where in the file they lie.
struct Sections {
    line: Range<u64>,
    /// Of the table's own strings, and of those that all of the debug information has.
    line_strings: Range<u64>,
    strings: Range<u64>,
}

impl Sections {
    fn of<'data, R: ReadRef<'data>>(file: R) -> Option<Sections> {
        let header = Header::parse(file).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, file).ok()?;
        let place = |name: &[u8]| {
            let (_, section) = sections.section_by_name(endian, name)?;
            let is_plain = !section.sh_flags(endian).contains(elf::SHF_COMPRESSED);
            let (start, len) = section.file_range(endian).filter(|_| is_plain)?;
            Some(start..start.checked_add(len)?)
        };
        Some(Sections {
            line: place(b".debug_line")?,
            line_strings: place(b".debug_line_str").unwrap_or_default(),
            strings: place(b".debug_str").unwrap_or_default(),
        })
    }

    fn table<'data, R: ReadRef<'data>>(&self, file: R) -> Option<&'data [u8]> {
        let len = self.line.end - self.line.start;
        if len > TABLE_MAX {
            return None;
        }
        file.read_bytes_at(self.line.start, len).ok()
    }

    fn string<'data, R: ReadRef<'data>>(
        &self,
        file: R,
        form: u64,
        offset: u64,
    ) -> Option<&'data [u8]> {
        let section = if form == form::LINE_STRP { &self.line_strings } else { &self.strings };
        let start = section.start.checked_add(offset)?;
        (start < section.end).then_some(())?;
        file.read_bytes_at_until(start..section.end, 0).ok()
    }
}

/// Strings of other sections, by form and offset.
type Strings<'a, 'data> = &'a dyn Fn(u64, u64) -> Option<&'data [u8]>;

/// Forms of values (DWARF 5, 7.5.6).
mod form {
    pub(super) const BLOCK2: u64 = 0x03;
    pub(super) const BLOCK4: u64 = 0x04;
    pub(super) const DATA2: u64 = 0x05;
    pub(super) const DATA4: u64 = 0x06;
    pub(super) const DATA8: u64 = 0x07;
    pub(super) const STRING: u64 = 0x08;
    pub(super) const BLOCK: u64 = 0x09;
    pub(super) const BLOCK1: u64 = 0x0a;
    pub(super) const DATA1: u64 = 0x0b;
    pub(super) const STRP: u64 = 0x0e;
    pub(super) const UDATA: u64 = 0x0f;
    pub(super) const DATA16: u64 = 0x1e;
    pub(super) const LINE_STRP: u64 = 0x1f;
}

/// What a value of a list's entry is (DWARF 5, 7.22).
const CONTENT_PATH: u64 = 1;
const CONTENT_DIRECTORY: u64 = 2;

/// Bytes that are read from the front.
#[derive(Clone, Copy)]
struct Bytes<'data>(&'data [u8]);

impl<'data> Bytes<'data> {
    fn take(&mut self, len: u64) -> Option<&'data [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// An offset or a length, as long as the unit's format has them.
    fn word(&mut self, is_long: bool) -> Option<u64> {
        if is_long { self.u64() } else { self.u32().map(u64::from) }
    }

    /// A number of seven bits a byte, of which those above 64 are dropped.
    fn uleb(&mut self) -> Option<u64> {
        let (value, _) = self.leb()?;
        Some(value)
    }

    fn sleb(&mut self) -> Option<u64> {
        let (value, sign) = self.leb()?;
        Some(value | sign)
    }

    /// The number, and what its sign adds.
    fn leb(&mut self) -> Option<(u64, u64)> {
        let (mut value, mut shift) = (0_u64, 0_u32);
        loop {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift = shift.saturating_add(7);
            if byte & 0x80 == 0 {
                let is_negative = byte & 0x40 != 0;
                let sign = if is_negative { u64::MAX.checked_shl(shift).unwrap_or(0) } else { 0 };
                return Some((value, sign));
            }
        }
    }

    fn string(&mut self) -> Option<&'data [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let string = self.take(end as u64)?;
        self.u8()?;
        Some(string)
    }

    /// The bytes of the unit that begins here, and whether its lengths have 64 bits.
    fn unit(&mut self) -> Option<(Bytes<'data>, bool)> {
        let (len, is_long) = match self.u32()? {
            u32::MAX => (self.u64()?, true),
            len => (u64::from(len), false),
        };
        Some((Bytes(self.take(len)?), is_long))
    }
}

fn read_table<'data>(
    table: &'data [u8],
    mut wanted: Vec<(u64, usize)>,
    strings: Strings<'_, 'data>,
    found: &mut [Option<SourceLine>],
) {
    let (mut table, mut searched) = (Bytes(table), 0);
    // A damaged unit is left out: its length tells where the next one is.
    while let Some((unit, is_long)) = table.unit() {
        let Some(program) = Program::parse(unit, is_long) else { continue };
        let mut hits = Vec::new();
        program.run(&mut wanted, &mut hits);
        // Mostly the same file again.
        let mut known: Option<(u64, Option<String>)> = None;
        for (index, row) in hits {
            if known.as_ref().is_none_or(|(file, _)| *file != row.file) {
                searched += program.lists.0.len();
                let may_search = searched <= SEARCHED_MAX && program.lists.0.len() <= LISTS_MAX;
                let path = may_search.then(|| program.path(row.file, strings)).flatten();
                known = Some((row.file, path.as_deref().map(shown)));
            }
            if let (Some(place), Some((_, Some(file)))) = (found.get_mut(index), &known) {
                *place = Some(SourceLine { file: file.clone(), line: row.line });
            }
        }
    }
}

/// A unit's program, from which the lines come.
struct Program<'data> {
    version: u16,
    is_long: bool,
    instruction_bytes: u8,
    line_base: i8,
    line_range: u8,
    opcode_base: u8,
    /// How many operands the opcodes from 1 on have.
    operands: &'data [u8],
    /// The lists of directories and files.
    lists: Bytes<'data>,
    code: Bytes<'data>,
}

/// An instruction's place in the sources.
#[derive(Clone, Copy)]
struct Row {
    address: u64,
    file: u64,
    line: u64,
}

const START: Row = Row { address: 0, file: 1, line: 1 };

impl<'data> Program<'data> {
    fn parse(mut unit: Bytes<'data>, is_long: bool) -> Option<Program<'data>> {
        let version = unit.u16().filter(|version| (2..=5).contains(version))?;
        if version >= 5 {
            // Bytes of an address, and of a segment's number.
            (unit.array()? == [8, 0]).then_some(())?;
        }
        let len = unit.word(is_long)?;
        let mut header = Bytes(unit.take(len)?);
        let instruction_bytes = header.u8()?;
        // More than one operation an instruction has no processor of ours.
        if version >= 4 && header.u8()? != 1 {
            return None;
        }
        let [_is_statement, line_base, line_range, opcode_base] = header.array()?;
        let operands = header.take(u64::from(opcode_base.checked_sub(1)?))?;
        (line_range != 0).then_some(())?;
        let line_base = line_base.cast_signed();
        Some(Program {
            version,
            is_long,
            instruction_bytes,
            line_base,
            line_range,
            opcode_base,
            operands,
            lists: header,
            code: unit,
        })
    }

    /// Runs it as far as it makes sense. Addresses that a row holds are taken out of those wanted.
    fn run(&self, wanted: &mut Vec<(u64, usize)>, hits: &mut Vec<(usize, Row)>) {
        // Its end is where it has none any more, or makes no sense.
        let _ = self.run_to_end(wanted, hits);
    }

    fn run_to_end(
        &self,
        wanted: &mut Vec<(u64, usize)>,
        hits: &mut Vec<(usize, Row)>,
    ) -> Option<()> {
        const SET_ADDRESS: u8 = 2;
        const END_SEQUENCE: u8 = 1;
        let mut code = self.code;
        let (mut row, mut before) = (START, None::<Row>);
        // Code that the linker has left out is said to be at 0, where a file's header is.
        let mut is_left_out = true;
        let advance = |row: &mut Row, instructions: u64| {
            let bytes = instructions.wrapping_mul(u64::from(self.instruction_bytes));
            row.address = row.address.wrapping_add(bytes);
        };
        loop {
            let opcode = code.u8()?;
            let mut ends = false;
            let is_row = match opcode {
                _ if opcode >= self.opcode_base => {
                    let step = opcode - self.opcode_base;
                    advance(&mut row, u64::from(step / self.line_range));
                    let lines = i64::from(self.line_base) + i64::from(step % self.line_range);
                    row.line = row.line.wrapping_add_signed(lines);
                    true
                }
                0 => {
                    let len = code.uleb()?;
                    let mut extended = Bytes(code.take(len)?);
                    match extended.u8() {
                        Some(END_SEQUENCE) => ends = true,
                        Some(SET_ADDRESS) => {
                            row.address = extended.u64()?;
                            is_left_out = row.address == 0;
                        }
                        _ => {}
                    }
                    ends
                }
                1 => true,
                2 => {
                    advance(&mut row, code.uleb()?);
                    false
                }
                3 => {
                    row.line = row.line.wrapping_add(code.sleb()?);
                    false
                }
                4 => {
                    row.file = code.uleb()?;
                    false
                }
                8 => {
                    advance(&mut row, u64::from((255 - self.opcode_base) / self.line_range));
                    false
                }
                9 => {
                    row.address = row.address.wrapping_add(u64::from(code.u16()?));
                    false
                }
                _ => {
                    let operands = self.operands.get(usize::from(opcode) - 1)?;
                    for _ in 0..*operands {
                        code.uleb()?;
                    }
                    false
                }
            };
            if !is_row {
                continue;
            }
            if let Some(before) = before.filter(|_| !is_left_out) {
                hold(before, row.address, wanted, hits);
            }
            before = (!ends).then_some(row);
            if ends {
                (row, is_left_out) = (START, true);
            }
        }
    }

    /// The path of a file of the unit.
    fn path(&self, file: u64, strings: Strings<'_, 'data>) -> Option<Vec<u8>> {
        let (directory, name) = match self.version {
            5 => self.of_lists(file, strings)?,
            _ => self.of_old_lists(file)?,
        };
        let is_whole = directory.is_empty() || name.starts_with(b"/");
        Some(if is_whole { name.to_vec() } else { [directory, b"/", name].concat() })
    }

    /// Up to version 4: directory 0, which is not in the list, is where the compiler ran.
    fn of_old_lists(&self, file: u64) -> Option<(&'data [u8], &'data [u8])> {
        let mut lists = self.lists;
        let directories = lists;
        while !lists.string()?.is_empty() {}
        let (mut name, mut directory) = (&[][..], 0);
        // From 1 on.
        for _ in 0..file {
            name = lists.string().filter(|name| !name.is_empty())?;
            directory = lists.uleb()?;
            // When it was changed, and its length.
            lists.uleb()?;
            lists.uleb()?;
        }
        (!name.is_empty()).then_some(())?;
        let mut path = &[][..];
        let mut lists = directories;
        for _ in 0..directory {
            path = lists.string().filter(|path| !path.is_empty())?;
        }
        Some((path, name))
    }

    /// Version 5: directory 0 is where the compiler ran, and the first in the list.
    fn of_lists(
        &self,
        file: u64,
        strings: Strings<'_, 'data>,
    ) -> Option<(&'data [u8], &'data [u8])> {
        let mut lists = self.lists;
        let directories = lists;
        self.skip_list(&mut lists)?;
        let (name, directory) = self.entry(&mut lists, file)?;
        let name = name.read(strings)?;
        if directory == 0 {
            return Some((&[], name));
        }
        let (path, _) = self.entry(&mut { directories }, directory)?;
        Some((path.read(strings)?, name))
    }

    /// Reads a list's format and the number of its entries.
    fn format(lists: &mut Bytes<'data>) -> Option<(Vec<(u64, u64)>, u64)> {
        let kinds = lists.u8()?;
        let format = (0..kinds).map(|_| Some((lists.uleb()?, lists.uleb()?)));
        let format: Vec<_> = format.collect::<Option<_>>()?;
        // Without one, entries would take no bytes, and any number of them would do.
        (!format.is_empty()).then_some(())?;
        Some((format, lists.uleb()?))
    }

    fn skip_list(&self, lists: &mut Bytes<'data>) -> Option<()> {
        let (format, count) = Self::format(lists)?;
        for _ in 0..count {
            for (_, form) in &format {
                self.value(lists, *form)?;
            }
        }
        Some(())
    }

    /// The path and the directory of an entry of the list that begins here.
    fn entry(&self, lists: &mut Bytes<'data>, index: u64) -> Option<(Value<'data>, u64)> {
        let (format, count) = Self::format(lists)?;
        (index < count).then_some(())?;
        let mut entry = (Value::Other, 0);
        for _ in 0..=index {
            for (content, form) in &format {
                match (*content, self.value(lists, *form)?) {
                    (CONTENT_PATH, path) => entry.0 = path,
                    (CONTENT_DIRECTORY, Value::Number(number)) => entry.1 = number,
                    _ => {}
                }
            }
        }
        Some(entry)
    }

    fn value(&self, from: &mut Bytes<'data>, form: u64) -> Option<Value<'data>> {
        let skipped = match form {
            form::STRING => return from.string().map(Value::Here),
            form::STRP | form::LINE_STRP => {
                return from.word(self.is_long).map(|offset| Value::There(form, offset));
            }
            form::UDATA => return from.uleb().map(Value::Number),
            form::DATA1 => return from.u8().map(|number| Value::Number(number.into())),
            form::DATA2 => return from.u16().map(|number| Value::Number(number.into())),
            form::DATA4 => return from.u32().map(|number| Value::Number(number.into())),
            form::DATA8 => return from.u64().map(Value::Number),
            form::DATA16 => 16,
            form::BLOCK => from.uleb()?,
            form::BLOCK1 => from.u8()?.into(),
            form::BLOCK2 => from.u16()?.into(),
            form::BLOCK4 => from.u32()?.into(),
            _ => return None,
        };
        from.take(skipped)?;
        Some(Value::Other)
    }
}

/// Takes the addresses from `row` to `end` out.
fn hold(row: Row, end: u64, wanted: &mut Vec<(u64, usize)>, hits: &mut Vec<(usize, Row)>) {
    // Line 0 is none.
    if row.line == 0 || row.address >= end {
        return;
    }
    let first = wanted.partition_point(|(at, _)| *at < row.address);
    let behind = wanted.partition_point(|(at, _)| *at < end);
    if first < behind {
        hits.extend(wanted.drain(first..behind).map(|(_, index)| (index, row)));
    }
}

/// What an entry has.
#[derive(Clone, Copy)]
enum Value<'data> {
    Here(&'data [u8]),
    /// In the strings of that form.
    There(u64, u64),
    Number(u64),
    Other,
}

impl<'data> Value<'data> {
    fn read(self, strings: Strings<'_, 'data>) -> Option<&'data [u8]> {
        match self {
            Value::Here(string) => Some(string),
            Value::There(form, offset) => strings(form, offset),
            Value::Number(_) | Value::Other => None,
        }
    }
}

/// A path as it may be printed.
fn shown(path: &[u8]) -> String {
    let start = path.len().saturating_sub(PATH_MAX);
    let text = String::from_utf8_lossy(path.get(start..).unwrap_or_default());
    let safe = |c: char| if c.is_control() { '?' } else { c };
    let front = if start > 0 { "..." } else { "" };
    front.chars().chain(text.chars().map(safe)).collect()
}

#[cfg(test)]
mod tests;

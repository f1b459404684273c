//! From an address in a program to the name of the function there.
//!
//! The bytes are the program's ELF file, which is untrusted: every read is checked (`object` does
//! that), the number of symbols read and the length of a name are bounded, and what a name prints
//! is restricted, since it ends up on a terminal. Nothing is cached: a crash ([`located`]), or a profile ([`names`]),
//! looks up all that it has met in a file, once.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};
use std::fs::File;
use std::os::unix::fs::FileExt;

use object::elf::{self, FileHeader64, Sym64};
use object::read::elf::{FileHeader, ProgramHeader, SectionTable, Sym, SymbolTable};
use object::read::{ReadCacheOps, StringTable};
use object::{LittleEndian, ReadRef};

/// Symbols read in one file. The largest programs have some hundred thousand.
const SYMBOLS_MAX: usize = 4 << 20;
/// Bytes of a mangled name that are demangled; longer ones are truncated and shown as they are.
const MANGLED_MAX: usize = 4096;
/// Bytes of a name that are shown.
const NAME_MAX: usize = 256;
/// How far after a symbol without a size (assembly) an address may be.
const UNSIZED_REACH: u64 = 4096;

type Header = FileHeader64<LittleEndian>;

/// A location in a program: `core::panicking::panic+0x12`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolOffset {
    /// The function, demangled, at most 256 bytes, printable characters only.
    pub name: String,
    /// Bytes from its start.
    pub offset: u64,
}

impl fmt::Display for SymbolOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// A file to be read without moving its offset, which the program, and other processes, may share.
#[derive(Debug)]
pub struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl<'a> Positioned<'a> {
    /// From its start.
    #[must_use]
    pub fn new(file: &'a File) -> Positioned<'a> {
        Positioned { file, at: 0 }
    }

    fn advance(&mut self, read: usize) {
        self.at = self.at.saturating_add(read as u64);
    }
}

impl ReadCacheOps for Positioned<'_> {
    fn len(&mut self) -> Result<u64, ()> {
        self.file.metadata().map(|data| data.len()).map_err(drop)
    }

    fn seek(&mut self, pos: u64) -> Result<u64, ()> {
        self.at = pos;
        Ok(pos)
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize, ()> {
        let read = self.file.read_at(buf, self.at).map_err(drop)?;
        self.advance(read);
        Ok(read)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ()> {
        self.file.read_exact_at(buf, self.at).map_err(drop)?;
        self.advance(buf.len());
        Ok(())
    }
}

/// The names of the functions that contain these bytes of a file, each by its offset. `.symtab` has them, or
/// `.dynsym` in a stripped file; what neither knows, or a damaged file, has no name. Never panics.
///
/// Each table of symbols is read once: the work is at most in proportion to the file's size and the number of
/// offsets.
pub fn names<'data, R: ReadRef<'data>>(file: R, offsets: &[u64]) -> Vec<Option<String>> {
    let located = located(file, offsets).into_iter();
    located.map(|(_, symbol)| symbol.map(|symbol| symbol.name)).collect()
}

/// The addresses that these bytes of a file are loaded at, before it is moved, and the functions there.
pub fn located<'data, R: ReadRef<'data>>(file: R, offsets: &[u64]) -> Vec<Located> {
    located_known(file, offsets).unwrap_or_else(|| vec![(None, None); offsets.len()])
}

/// An address, and what is there, as far as they are known.
pub type Located = (Option<u64>, Option<SymbolOffset>);

fn located_known<'data, R: ReadRef<'data>>(file: R, offsets: &[u64]) -> Option<Vec<Located>> {
    let header = Header::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let loaded = header.program_headers(endian, file).ok()?;
    let address = |&offset: &u64| {
        let of_segment = |segment: &elf::ProgramHeader64<LittleEndian>| {
            let behind = offset.checked_sub(segment.p_offset(endian))?;
            let is_in = segment.p_type(endian) == elf::PT_LOAD && behind < segment.p_filesz(endian);
            is_in.then(|| segment.p_vaddr(endian).checked_add(behind)).flatten()
        };
        loaded.iter().find_map(of_segment)
    };
    let addresses: Vec<Option<u64>> = offsets.iter().map(address).collect();
    let functions = functions_at(file, &addresses);
    let functions = functions.unwrap_or_else(|| vec![None; offsets.len()]);
    Some(addresses.into_iter().zip(functions).collect())
}

/// The functions at these addresses.
fn functions_at<'data, R: ReadRef<'data>>(
    file: R,
    addresses: &[Option<u64>],
) -> Option<Vec<Option<SymbolOffset>>> {
    let header = Header::parse(file).ok()?;
    let endian = header.endian().ok()?;
    // Not `header.sections`: that requires section names, which we do not need.
    let headers = header.section_headers(endian, file).ok()?;
    let sections = SectionTable::<Header, R>::new(headers, StringTable::default());
    let mut found = vec![None; addresses.len()];
    for kind in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
        let Ok(table) = sections.symbols(endian, file, kind) else { continue };
        let functions = Functions::of(&table, endian);
        for (place, address) in found.iter_mut().zip(addresses) {
            let Some(address) = address.filter(|_| place.is_none()) else { continue };
            let Some(symbol) = functions.at(address) else { continue };
            let name = table.symbol_name(endian, symbol).ok().filter(|name| !name.is_empty());
            let offset = address.wrapping_sub(symbol.st_value(endian));
            *place = name.map(|name| SymbolOffset { name: readable(name), offset });
        }
    }
    Some(found)
}

/// How many symbols may begin between an address and the one that reaches it. In a file that is not made to
/// take time, these are aliases and labels.
const BEFORE_MAX: usize = 64;

/// The functions of a table, by their addresses.
struct Functions<'data> {
    endian: LittleEndian,
    all: Vec<&'data Sym64<LittleEndian>>,
}

impl<'data> Functions<'data> {
    fn of<R: ReadRef<'data>>(
        table: &SymbolTable<'data, Header, R>,
        endian: LittleEndian,
    ) -> Functions<'data> {
        let symbols = table.iter().take(SYMBOLS_MAX);
        let mut all: Vec<_> = symbols.filter(|symbol| is_function(symbol, endian)).collect();
        all.sort_unstable_by_key(|symbol| symbol.st_value(endian));
        Functions { endian, all }
    }

    fn at(&self, address: u64) -> Option<&'data Sym64<LittleEndian>> {
        let behind = self.all.partition_point(|symbol| symbol.st_value(self.endian) <= address);
        let near = self.all.get(behind.saturating_sub(BEFORE_MAX)..behind).unwrap_or_default();
        let reaches = near.iter().filter(|symbol| reaches(symbol, self.endian, address));
        reaches.max_by_key(|symbol| rank(symbol, self.endian)).copied()
    }
}

fn is_function(symbol: &Sym64<LittleEndian>, endian: LittleEndian) -> bool {
    let kind = symbol.st_type();
    let is_code = kind == elf::STT_FUNC || kind == elf::STT_GNU_IFUNC || kind == elf::STT_NOTYPE;
    let section = symbol.st_shndx(endian);
    is_code && section != elf::SHN_UNDEF && section != elf::SHN_ABS
}

fn reaches(symbol: &Sym64<LittleEndian>, endian: LittleEndian, address: u64) -> bool {
    let size = match symbol.st_size(endian) {
        0 => UNSIZED_REACH,
        size => size,
    };
    address.checked_sub(symbol.st_value(endian)).is_some_and(|behind| behind < size)
}

/// A symbol with a size is a fact, one without is a guess: facts first, then the nearest, then the name other
/// files may use.
fn rank(symbol: &Sym64<LittleEndian>, endian: LittleEndian) -> (bool, u64, bool) {
    let global = symbol.st_bind() != elf::STB_LOCAL;
    (symbol.st_size(endian) != 0, symbol.st_value(endian), global)
}

/// The name demangled and made safe to print.
fn readable(mangled: &[u8]) -> String {
    let cut = mangled.len() > MANGLED_MAX;
    let mangled = String::from_utf8_lossy(&mangled[..mangled.len().min(MANGLED_MAX)]);
    let mut name = Bounded::default();
    // The writer refuses what exceeds its capacity: back references in a mangled name can
    // expand without end. An error therefore only means that the name was truncated.
    let written = match rustc_demangle::try_demangle(&mangled) {
        Ok(demangled) if !cut => write!(name, "{demangled:#}"),
        _ => name.write_str(&mangled),
    };
    if cut || written.is_err() {
        name.text.push_str("...");
    }
    name.text
}

/// A string that stops growing at [`NAME_MAX`] bytes and contains no control characters.
#[derive(Default)]
struct Bounded {
    text: String,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for character in part.chars() {
            let shown =
                if character.is_ascii_graphic() || character == ' ' { character } else { '?' };
            if self.text.len() >= NAME_MAX {
                return Err(fmt::Error);
            }
            self.text.push(shown);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BEFORE_MAX, NAME_MAX, Positioned, ReadRef, SymbolOffset, UNSIZED_REACH, functions_at,
        names, readable,
    };
    use proptest::prelude::{any, prop, proptest};

    const FUNC: u8 = 2;
    const OBJECT: u8 = 1;

    /// An ELF file with a symbol table: header, three section headers, symbols, names.
    fn elf(symbols: &[(&str, u8, u64, u64)]) -> Vec<u8> {
        let mut names = vec![0_u8];
        let mut table = vec![0_u8; 24];
        for (name, kind, value, size) in symbols {
            table.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
            table.extend([*kind, 0, 1, 0]);
            table.extend(value.to_le_bytes());
            table.extend(size.to_le_bytes());
            names.extend(name.as_bytes());
            names.push(0);
        }
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend([0; 16]);
        file.extend(64_u64.to_le_bytes());
        file.extend([0; 4]);
        for half in [64_u16, 56, 0, 64, 3, 0] {
            file.extend(half.to_le_bytes());
        }
        let start = 64 + 3 * 64;
        file.extend([0; 64]);
        file.extend(section(2, start, table.len(), 2, 24));
        file.extend(section(3, start + table.len(), names.len(), 0, 0));
        file.extend(table);
        file.extend(names);
        file
    }

    fn section(kind: u32, start: usize, size: usize, link: u32, entry: u64) -> Vec<u8> {
        let mut header = vec![0; 4];
        header.extend(kind.to_le_bytes());
        header.extend([0; 16]);
        header.extend((start as u64).to_le_bytes());
        header.extend((size as u64).to_le_bytes());
        header.extend(link.to_le_bytes());
        header.extend([0; 12]);
        header.extend(entry.to_le_bytes());
        header
    }

    /// The same, all of which is loaded at 0x10_0000.
    fn loaded(symbols: &[(&str, u8, u64, u64)]) -> Vec<u8> {
        let mut file = elf(symbols);
        let (header, end) = (file.len() as u64, file.len() + 56);
        file[32..40].copy_from_slice(&header.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
        let words = [0, 0x10_0000, 0x10_0000, end as u64, end as u64, 0x1000];
        file.extend(words.map(u64::to_le_bytes).as_flattened());
        file
    }

    fn locate<'data, R: ReadRef<'data>>(file: R, address: u64) -> Option<SymbolOffset> {
        functions_at(file, &[Some(address)])?.pop().flatten()
    }

    fn place(name: &str, offset: u64) -> Option<SymbolOffset> {
        Some(SymbolOffset { name: name.into(), offset })
    }

    #[test]
    fn the_function_that_contains_the_address_is_found() {
        let file = elf(&[
            ("first", FUNC, 0x1000, 0x10),
            ("data", OBJECT, 0x1010, 0x100),
            ("last", FUNC, 0x1020, 8),
        ]);
        assert_eq!(locate(&*file, 0x1000), place("first", 0));
        assert_eq!(locate(&*file, 0x100f), place("first", 0xf));
        assert_eq!(locate(&*file, 0x1010), None, "data is no function");
        assert_eq!(locate(&*file, 0x1027), place("last", 7));
        assert_eq!(locate(&*file, 0x1028), None);
        assert_eq!(locate(&*file, 0xfff), None);
        assert_eq!(locate(&*file, u64::MAX), None);
    }

    #[test]
    fn a_symbol_without_size_reaches_a_little_and_yields_to_one_with_size() {
        let file =
            elf(&[("sized", FUNC, 0x1000, 0x100), ("label", 0, 0x1010, 0), ("lone", 0, 0x8000, 0)]);
        assert_eq!(locate(&*file, 0x1020), place("sized", 0x20));
        assert_eq!(locate(&*file, 0x1100), place("label", 0xf0));
        assert_eq!(locate(&*file, 0x8000 + UNSIZED_REACH), None);
    }

    #[test]
    fn names_of_many_offsets_are_those_of_each() {
        let file = loaded(&[
            ("_ZN1a5firstE", FUNC, 0x10_0000, 0x10),
            ("data", OBJECT, 0x10_0010, 0x10),
            ("outer", FUNC, 0x10_0020, 0x40),
            ("label", 0, 0x10_0030, 0),
            ("last", FUNC, 0x10_0070, 1),
        ]);
        let expected = [
            (0, Some("a::first")),
            (0xf, Some("a::first")),
            // Data is no function.
            (0x10, None),
            (0x20, Some("outer")),
            // A label yields to what has a size.
            (0x31, Some("outer")),
            (0x5f, Some("outer")),
            (0x60, Some("label")),
            (0x70, Some("last")),
            (0x71, Some("label")),
        ];
        let found = names(&*file, &expected.map(|(offset, _)| offset));
        for (found, (offset, name)) in found.iter().zip(expected) {
            assert_eq!(found.as_deref(), name, "{offset:#x}");
            let located = locate(&*file, 0x10_0000 + offset).map(|place| place.name);
            assert_eq!(located.as_deref(), name, "{offset:#x}");
        }
        // Behind what is loaded.
        assert_eq!(names(&*file, &[file.len() as u64, u64::MAX]), [None, None]);
    }

    #[test]
    fn a_table_made_to_take_time_takes_none() {
        // A function that contains all others, which are in front of every address.
        let many: Vec<_> = (0..100_000).map(|at| ("f", FUNC, 0x10_0000 + at, 1)).collect();
        let file = loaded(&[&[("all", FUNC, 0x10_0000, 1 << 20)], many.as_slice()].concat());
        let offsets: Vec<u64> = (100_001..200_000).collect();
        let found = names(&*file, &offsets);
        assert!(found.iter().all(Option::is_none), "what is far in front is not found");
        let few = loaded(&[&[("all", FUNC, 0x10_0000, 1 << 20)], &many[..BEFORE_MAX - 1]].concat());
        assert_eq!(names(&*few, &[0x400]), [Some("all".to_owned())]);
    }

    #[test]
    fn a_file_is_read_without_moving_its_offset() {
        use std::io::{Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&loaded(&[("only", FUNC, 0x10_0010, 16)])).unwrap();
        let before = file.stream_position().unwrap();
        let read = object::ReadCache::new(Positioned::new(&file));
        assert_eq!(names(&read, &[0x10]), [Some("only".to_owned())]);
        assert_eq!(file.stream_position().unwrap(), before);
    }

    #[test]
    fn rust_names_are_demangled_without_their_hash() {
        let file = elf(&[("_ZN4core9panicking5panic17h0123456789abcdefE", FUNC, 16, 16)]);
        assert_eq!(locate(&*file, 18).unwrap().to_string(), "core::panicking::panic+0x2");
    }

    #[test]
    fn a_name_cannot_reach_the_terminal_with_control_characters_or_at_any_length() {
        assert_eq!(readable(b"a\x1b[31mb\x07\xff"), "a?[31mb??");
        assert!(readable(&[b'x'; 1 << 20]).len() <= NAME_MAX + 3);
        // A v0 name whose back references double it at every step.
        let mut bomb = String::from("_RINvC1a1bTuu");
        for _ in 0..60 {
            bomb.push_str("TB8_B8_E");
        }
        bomb.push_str("EE");
        assert!(readable(bomb.as_bytes()).len() <= NAME_MAX + 3);
    }

    #[test]
    fn no_truncation_of_a_file_panics_and_only_the_whole_file_has_the_name() {
        let file = elf(&[("only", FUNC, 16, 16)]);
        for length in 0..file.len() - 1 {
            assert_eq!(locate(&file[..length], 16), None, "{length} of {} bytes", file.len());
        }
        assert_eq!(locate(&*file, 16), place("only", 0));
    }

    #[test]
    fn this_test_finds_itself_in_its_own_executable() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let here = super::readable as fn(&[u8]) -> String as usize as u64;
        // The test executable is position-independent: it was loaded at the nearest mapping of its
        // first byte below our code. Other tests map the file, too.
        let path = std::env::current_exe().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let of_us = |line: &&str| {
            line.ends_with(path.to_str().unwrap()) && line.split(' ').nth(2) == Some("00000000")
        };
        let start = |line: &str| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let starts = maps.lines().filter(of_us).map(start);
        let base = starts.filter(|&start| start <= here).max().unwrap();
        assert_eq!(locate(&*file, here - base).unwrap().name, "vmm::report::symbols::readable");
    }

    proptest! {
        #[test]
        fn garbage_and_damaged_files_never_panic(
            garbage in prop::collection::vec(any::<u8>(), 0..512),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16),
            address in any::<u64>(),
        ) {
            let _ = locate(garbage.as_slice(), address);
            let _ = readable(&garbage);
            let _ = names(garbage.as_slice(), &[address, 0]);
            let mut file = loaded(&[("one", FUNC, 0x10, 0x10), ("_ZN1a1bE", FUNC, 0x20, 0)]);
            for (index, byte) in damage {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let _ = locate(&*file, address);
            let _ = locate(&*file, 0x18);
            let _ = names(&*file, &[address, 0x18]);
        }
    }
}

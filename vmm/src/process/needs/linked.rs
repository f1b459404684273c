//! What an ELF file says of its libraries and of the functions that it imports.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};
use object::{Endianness, ReadRef};

use super::calls;

/// Functions whose names have at most so many bytes can be calls.
const NAME_BYTES: usize = 64;

/// What a file is linked with. What cannot be read is not there: the loader will complain.
#[derive(Debug, Default)]
pub(super) struct Linked {
    /// Its libraries (DT_NEEDED), in order.
    pub(super) needed: Vec<Vec<u8>>,
    /// Where it says they are (DT_RUNPATH).
    pub(super) runpath: Vec<u8>,
    /// Likewise, for what its libraries need, too (DT_RPATH).
    pub(super) rpath: Vec<u8>,
    /// The functions that it imports, as far as they are asked for here.
    imports: BTreeSet<String>,
}

impl Linked {
    pub(super) fn of<'d, R: ReadRef<'d>>(data: R) -> Linked {
        let mut linked = Linked::default();
        linked.read(data);
        linked
    }

    fn read<'d, R: ReadRef<'d>>(&mut self, data: R) -> Option<()> {
        let header = FileHeader64::<Endianness>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let all = header.program_headers(endian, data).ok()?;
        if let Ok(sections) = header.sections(endian, data)
            && let Ok(symbols) = sections.symbols(endian, data, elf::SHT_DYNSYM)
        {
            let undefined = symbols.iter().filter(|symbol| symbol.is_undefined(endian));
            let names = undefined.filter_map(|symbol| symbol.name(endian, symbols.strings()).ok());
            let short = names.filter(|name| name.len() <= NAME_BYTES);
            self.imports.extend(short.map(|name| String::from_utf8_lossy(name).into_owned()));
        }
        let entries = all.iter().find_map(|header| header.dynamic(endian, data).ok()?)?;
        let value = |tag: elf::DynamicTag| {
            let found = entries.iter().find(|entry| entry.d_tag(endian) == tag)?;
            Some(found.d_val(endian))
        };
        let (table, bytes) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?);
        let load = all.iter().find(|header| {
            let start = header.p_vaddr(endian);
            header.p_type(endian) == elf::PT_LOAD
                && table >= start
                && table - start < header.p_filesz(endian)
        })?;
        let start = load.p_offset(endian).checked_add(table - load.p_vaddr(endian))?;
        let text = |at: u64| {
            let left = bytes.checked_sub(at)?.min(crate::files::PATH_MAX as u64);
            let rest = data.read_bytes_at(start.checked_add(at)?, left).ok()?;
            rest.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
        };
        let texts = |tag: elf::DynamicTag| {
            let found = entries.iter().filter(move |entry| entry.d_tag(endian) == tag);
            found.filter_map(|entry| text(entry.d_val(endian)))
        };
        self.needed = texts(elf::DT_NEEDED).filter(|name| !name.is_empty()).collect();
        self.runpath = texts(elf::DT_RUNPATH).next().unwrap_or_default();
        self.rpath = texts(elf::DT_RPATH).next().unwrap_or_default();
        Some(())
    }

    /// The calls not served that its imports make.
    pub(super) fn calls(&self) -> impl Iterator<Item = &'static str> {
        self.imports.iter().filter_map(|name| calls::by_function(name))
    }

    /// Its run-time library that needs addresses which a VM does not have.
    pub(super) fn sanitizer(&self) -> Option<&'static str> {
        let imported = |start: &str| self.imports.iter().any(|name| name.starts_with(start));
        let needed = |part: &str| {
            self.needed.iter().any(|name| String::from_utf8_lossy(name).starts_with(part))
        };
        let known = [
            ("AddressSanitizer", "__asan_init", "libasan."),
            ("ThreadSanitizer", "__tsan_init", "libtsan."),
            ("MemorySanitizer", "__msan_init", "libmsan."),
        ];
        let found = known.iter().find(|(_, init, library)| imported(init) || needed(library));
        found.map(|(name, ..)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::Linked;

    #[test]
    fn a_file_that_is_no_elf_or_is_cut_off_anywhere_has_nothing() {
        assert!(Linked::of(&b"#!/bin/sh\n"[..]).needed.is_empty());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for bytes in [0, 1, 63, 64, 100, 4096, 10_000] {
            let cut = own.get(..bytes).unwrap();
            assert!(Linked::of(cut).sanitizer().is_none(), "{bytes}");
        }
    }
}

//! What an ELF file says of its libraries and of the functions that it imports.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, Sym};
use object::{Endianness, ReadRef};

use super::calls;
use crate::guest::dynamic::Dynamic;
use crate::guest::elf::SANITIZERS;

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
        let dynamic = Dynamic::of(data, endian, all)?;
        let all_of = |tag| dynamic.texts(tag).map(<[u8]>::to_vec);
        self.needed = all_of(elf::DT_NEEDED).filter(|name| !name.is_empty()).collect();
        self.runpath = all_of(elf::DT_RUNPATH).next().unwrap_or_default();
        self.rpath = all_of(elf::DT_RPATH).next().unwrap_or_default();
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
        let found = SANITIZERS.iter().find(|(_, init, library)| imported(init) || needed(library));
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

//! The texts of an ELF file's dynamic section (PT_DYNAMIC): its libraries, and where it says they are.
//!
//! What cannot be read is not there: the dynamic loader will complain, in its own words.

use object::elf::{self, DynamicTag, ProgramHeader64};
use object::read::elf::{Dyn, ProgramHeader};
use object::{Endianness, ReadRef};

use crate::files::PATH_MAX;

/// The dynamic section of a file.
#[derive(Clone, Copy)]
pub(crate) struct Dynamic<'d, R> {
    data: R,
    endian: Endianness,
    entries: &'d [elf::Dyn64<Endianness>],
    /// Where the file has its texts, and how many bytes of them.
    texts: (u64, u64),
}

impl<'d, R: ReadRef<'d>> Dynamic<'d, R> {
    /// Of the file with these program headers.
    pub(crate) fn of(
        data: R,
        endian: Endianness,
        headers: &'d [ProgramHeader64<Endianness>],
    ) -> Option<Dynamic<'d, R>> {
        let entries = headers.iter().find_map(|header| header.dynamic(endian, data).ok()?)?;
        let value = |tag: DynamicTag| {
            let found = entries.iter().find(|entry| entry.d_tag(endian) == tag)?;
            Some(found.d_val(endian))
        };
        let (table, bytes) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?);
        let load = headers.iter().find(|header| {
            let start = header.p_vaddr(endian);
            header.p_type(endian) == elf::PT_LOAD
                && table >= start
                && table - start < header.p_filesz(endian)
        })?;
        let start = load.p_offset(endian).checked_add(table - load.p_vaddr(endian))?;
        Some(Dynamic { data, endian, entries, texts: (start, bytes) })
    }

    /// The texts of all entries with this tag, in order.
    pub(crate) fn texts(self, tag: DynamicTag) -> impl Iterator<Item = &'d [u8]> {
        let found = self.entries.iter().filter(move |entry| entry.d_tag(self.endian) == tag);
        found.filter_map(move |entry| self.text(entry.d_val(self.endian)))
    }

    fn text(self, at: u64) -> Option<&'d [u8]> {
        let (start, bytes) = self.texts;
        let left = bytes.checked_sub(at).filter(|left| *left > 0)?.min(PATH_MAX as u64);
        let rest = self.data.read_bytes_at(start.checked_add(at)?, left).ok()?;
        rest.split(|byte| *byte == 0).next()
    }
}

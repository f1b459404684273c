//! The vDSO: the clock, read by the program itself without leaving the guest.
//!
//! ```text
//!  VDSO_BASE    ELF image: headers, symbols, code; AT_SYSINFO_EHDR points here
//!  CLOCK_PAGE   parameters under a sequence lock, written by the VMM
//! ```
//!
//! This module builds the ELF shared object that run-time libraries search, with a dynamic section,
//! a System V hash table, the names of Linux's vDSO and their version `LINUX_2.6`. glibc, musl and
//! Go find them. It is not relocated in place: the dynamic section's segment is not writable, and
//! there are no relocations. There are no section headers and no unwind tables either.
//! `vdso_code.rs` has the code, `clock_page.rs` the data that it reads.

use abi::PAGE_SIZE;
use abi::layout::{CLOCK_PAGE, VDSO_BASE};

use super::vdso_code::{NAMES, code, entries};

/// The clock page lies at this distance from the image's start: among the VMM's own pages, where
/// the program can neither map nor unmap anything.
pub(crate) const CLOCK_PAGE_AT: u64 = CLOCK_PAGE.raw() - VDSO_BASE.raw();

/// Offset of the code in the image.
pub(crate) const CODE_AT: u64 = 0x400;

const SONAME: &str = "linux-vdso.so.1";
const VERSION: &str = "LINUX_2.6";

const ELF_HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const SYMBOL_BYTES: u64 = 24;
const VERDEF_BYTES: u64 = 20;
const VERDAUX_BYTES: u64 = 8;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PF_X: u64 = 1;
const PF_R: u64 = 4;
const ET_DYN: u64 = 3;
const EM_X86_64: u64 = 62;
const STB_GLOBAL_STT_FUNC: u64 = 0x12;
const VER_FLG_BASE: u64 = 1;

const DT_NULL: u64 = 0;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERDEFNUM: u64 = 0x6fff_fffd;

/// Version indices: 1 names the object itself, 2 the symbols' version.
const VERSION_BASE: u64 = 1;
const VERSION_LINUX: u64 = 2;

/// The ELF image, a multiple of the page size: readable and executable, never written.
#[must_use]
pub fn image() -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut add_string = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let soname = add_string(SONAME);
    let version = add_string(VERSION);
    let names = NAMES.map(&mut add_string);

    let dynamic_at = ELF_HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES;
    let dynamic = |parts: &Parts| {
        [
            (DT_SONAME, soname),
            (DT_HASH, parts.hash),
            (DT_STRTAB, parts.strings),
            (DT_STRSZ, strings.len() as u64),
            (DT_SYMTAB, parts.symbols),
            (DT_SYMENT, SYMBOL_BYTES),
            (DT_VERSYM, parts.versions),
            (DT_VERDEF, parts.definitions),
            (DT_VERDEFNUM, 2),
            (DT_NULL, 0),
        ]
    };
    let dynamic_bytes = 16 * dynamic(&Parts::default()).len() as u64;
    let parts = Parts::behind(dynamic_at + dynamic_bytes);

    let mut page = Vec::with_capacity(PAGE_SIZE as usize);
    elf_header(&mut page);
    program_header(&mut page, PT_LOAD, PF_R | PF_X, 0, PAGE_SIZE);
    program_header(&mut page, PT_DYNAMIC, PF_R, dynamic_at, dynamic_bytes);
    for (tag, value) in dynamic(&parts) {
        put(&mut page, tag, 8);
        put(&mut page, value, 8);
    }
    symbols(&mut page, names);
    hash_table(&mut page);
    version_definitions(&mut page, soname, version);
    symbol_versions(&mut page);
    page.extend_from_slice(&strings);
    debug_assert!(page.len() as u64 <= CODE_AT, "tables reach into the code");
    page.resize(CODE_AT as usize, 0);
    page.extend_from_slice(code());
    debug_assert!(page.len() as u64 <= PAGE_SIZE, "code reaches beyond the page");
    page.resize(PAGE_SIZE as usize, 0);
    page
}

/// Number of symbols, including the null symbol.
const SYMBOLS: u64 = NAMES.len() as u64 + 1;

/// Offset of each table, in this order.
#[derive(Default)]
struct Parts {
    symbols: u64,
    hash: u64,
    definitions: u64,
    versions: u64,
    strings: u64,
}

impl Parts {
    fn behind(symbols: u64) -> Parts {
        let hash = symbols + SYMBOLS * SYMBOL_BYTES;
        let definitions = hash + 4 * (2 + 1 + SYMBOLS);
        let versions = definitions + 2 * (VERDEF_BYTES + VERDAUX_BYTES);
        Parts { symbols, hash, definitions, versions, strings: versions + 2 * SYMBOLS }
    }
}

fn put(page: &mut Vec<u8>, value: u64, bytes: usize) {
    page.extend_from_slice(value.to_le_bytes().get(..bytes).unwrap_or_default());
}

fn elf_header(page: &mut Vec<u8>) {
    // 64-bit, little-endian, version 1, System V.
    page.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(page, ET_DYN, 2);
    put(page, EM_X86_64, 2);
    put(page, 1, 4);
    // No entry point; program headers follow this header; no section headers.
    put(page, 0, 8);
    put(page, ELF_HEADER_BYTES, 8);
    put(page, 0, 8);
    put(page, 0, 4);
    for half in [ELF_HEADER_BYTES, PROGRAM_HEADER_BYTES, 2, 64, 0, 0] {
        put(page, half, 2);
    }
}

fn program_header(page: &mut Vec<u8>, kind: u64, flags: u64, at: u64, bytes: u64) {
    put(page, kind, 4);
    put(page, flags, 4);
    let align = if kind == PT_LOAD { PAGE_SIZE } else { 8 };
    for word in [at, at, at, bytes, bytes, align] {
        put(page, word, 8);
    }
}

fn symbols(page: &mut Vec<u8>, names: [u64; NAMES.len()]) {
    let ends = entries().into_iter().skip(1).chain([code().len() as u64]);
    page.extend_from_slice(&[0; SYMBOL_BYTES as usize]);
    for ((name, entry), end) in names.into_iter().zip(entries()).zip(ends) {
        put(page, name, 4);
        put(page, STB_GLOBAL_STT_FUNC, 1);
        put(page, 0, 1);
        // Any section will do but "undefined".
        put(page, 1, 2);
        put(page, CODE_AT + entry, 8);
        put(page, end - entry, 8);
    }
}

/// One bucket: a chain of all symbols.
fn hash_table(page: &mut Vec<u8>) {
    put(page, 1, 4);
    put(page, SYMBOLS, 4);
    put(page, 1, 4);
    put(page, 0, 4);
    for symbol in 1..SYMBOLS {
        put(page, if symbol + 1 < SYMBOLS { symbol + 1 } else { 0 }, 4);
    }
}

fn version_definitions(page: &mut Vec<u8>, soname: u64, version: u64) {
    let mut definition = |flags, index, text: &str, name, next| {
        for half in [1, flags, index, 1] {
            put(page, half, 2);
        }
        for word in [u64::from(sysv_hash(text)), VERDEF_BYTES, next] {
            put(page, word, 4);
        }
        // Its only name, and no parent.
        put(page, name, 4);
        put(page, 0, 4);
    };
    definition(VER_FLG_BASE, VERSION_BASE, SONAME, soname, VERDEF_BYTES + VERDAUX_BYTES);
    definition(0, VERSION_LINUX, VERSION, version, 0);
}

fn symbol_versions(page: &mut Vec<u8>) {
    put(page, 0, 2);
    for _ in NAMES {
        put(page, VERSION_LINUX, 2);
    }
}

/// The hash of the System V ABI's symbol tables.
fn sysv_hash(text: &str) -> u32 {
    text.bytes().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(byte));
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::LittleEndian as LE;
    use object::elf::{Dyn64, FileHeader64, Sym64};
    use object::pod;
    use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};

    #[test]
    fn the_image_is_one_page_with_room_between_tables_and_code() {
        let image = image();
        assert_eq!(image.len() as u64, PAGE_SIZE);
        let code_end = CODE_AT as usize + code().len();
        assert_eq!(&image[CODE_AT as usize..code_end], code());
        assert!(image[code_end..].iter().all(|&byte| byte == 0));
        assert_eq!(image[CODE_AT as usize - 1], 0, "the string table ends before the code");
    }

    #[test]
    fn libraries_find_the_functions_by_name_and_version() {
        let image = image();
        for (name, entry) in NAMES.iter().zip(entries()) {
            assert_eq!(look_up(&image, name, VERSION), Some(CODE_AT + entry), "{name}");
            assert_eq!(look_up(&image, name, "LINUX_2.7"), None, "{name}");
        }
        assert_eq!(look_up(&image, "__vdso_nothing", VERSION), None);
    }

    #[test]
    fn the_version_hash_is_the_one_glibc_asks_for() {
        assert_eq!(sysv_hash(VERSION), 61_765_110);
    }

    #[test]
    fn nothing_in_the_image_asks_to_be_written() {
        let image = image();
        let header = FileHeader64::<LE>::parse(&*image).unwrap();
        let segments = header.program_headers(LE, &*image).unwrap();
        assert!(segments.iter().all(|s| !s.p_flags(LE).contains(object::elf::PF_W)));
        let load = segments.iter().find(|s| s.p_type(LE) == object::elf::PT_LOAD).unwrap();
        assert_eq!((load.p_vaddr(LE), load.p_offset(LE), load.p_memsz(LE)), (0, 0, PAGE_SIZE));
        let relocating = [
            object::elf::DT_RELA,
            object::elf::DT_REL,
            object::elf::DT_JMPREL,
            object::elf::DT_TEXTREL,
            object::elf::DT_PLTGOT,
        ];
        assert!(dynamic(&image).iter().all(|d| !relocating.contains(&d.d_tag(LE))));
    }

    fn dynamic(image: &[u8]) -> &[Dyn64<LE>] {
        let header = FileHeader64::<LE>::parse(image).unwrap();
        let segments = header.program_headers(LE, image).unwrap();
        segments.iter().find_map(|s| s.dynamic(LE, image).unwrap()).unwrap()
    }

    fn words<const N: usize>(image: &[u8], at: u64) -> [u32; N] {
        let (words, _) = image[at as usize..].as_chunks::<4>();
        std::array::from_fn(|i| u32::from_le_bytes(words[i]))
    }

    fn half(image: &[u8], at: u64) -> u16 {
        u16::from_le_bytes(image[at as usize..][..2].try_into().unwrap())
    }

    /// Looks up a symbol as a run-time library does: program headers, dynamic section, hash bucket
    /// and chain, name, version index, version's hash and name.
    fn look_up(image: &[u8], name: &str, version: &str) -> Option<u64> {
        let entry = |tag: u64| {
            dynamic(image).iter().find(|d| d.d_tag(LE).0 as u64 == tag).map(|d| d.d_val(LE))
        };
        let strings_at = entry(DT_STRTAB)?;
        let strings = &image[strings_at as usize..][..entry(DT_STRSZ)? as usize];
        let text = |at: u64| strings[at as usize..].split(|&b| b == 0).next().unwrap();
        assert_eq!(text(entry(DT_SONAME)?), SONAME.as_bytes());

        let hash = entry(DT_HASH)?;
        let [buckets, chains] = words(image, hash);
        let (symbols, _) = pod::slice_from_bytes::<Sym64<LE>>(
            &image[entry(DT_SYMTAB)? as usize..],
            chains as usize,
        )
        .unwrap();
        let bucket = u64::from(sysv_hash(name) % buckets);
        let [mut index] = words(image, hash + 8 + 4 * bucket);
        while index != 0 {
            let symbol = &symbols[index as usize];
            let versym = half(image, entry(DT_VERSYM)? + 2 * u64::from(index));
            if text(u64::from(symbol.st_name(LE))) == name.as_bytes()
                && version_name(image, entry(DT_VERDEF)?, versym, version)
                    .is_some_and(|at| text(u64::from(at)) == version.as_bytes())
            {
                assert!(!symbol.is_undefined(LE));
                assert_eq!(symbol.st_type(), object::elf::STT_FUNC);
                return Some(symbol.st_value(LE));
            }
            [index] = words(image, hash + 8 + 4 * u64::from(buckets + index));
        }
        None
    }

    /// The name of version `index`, if its hash is `version`'s.
    fn version_name(image: &[u8], mut at: u64, index: u16, version: &str) -> Option<u32> {
        loop {
            let [hash, aux, next] = words(image, at + 8);
            let is_base = u64::from(half(image, at + 2)) & VER_FLG_BASE != 0;
            if !is_base && half(image, at + 4) == index && hash == sysv_hash(version) {
                let [name] = words(image, at + u64::from(aux));
                return Some(name);
            }
            if next == 0 {
                return None;
            }
            at += u64::from(next);
        }
    }
}

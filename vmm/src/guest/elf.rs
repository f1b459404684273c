//! What an ELF executable for Linux on x86-64 asks for. Mapping it is in `load`.
//!
//! The file is untrusted: `object` parses it with bounds checks, and all values are checked here
//! against the private region before a byte is mapped.

use abi::layout::{MMAP_TOP, PIE_BASE};
use abi::{Errno, PAGE_SIZE};
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};

use super::dynamic::Dynamic;
use crate::files::PATH_MAX;
use crate::private::Prot;

/// A file that cannot be run, and why.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Reading failed.
    #[error("cannot read it")]
    Read(#[source] std::io::Error),
    /// No ELF magic.
    #[error("it is not an ELF file")]
    NotElf,
    /// It is not for 64-bit little-endian x86-64.
    #[error("it is for {what}, not for x86-64")]
    WrongMachine {
        /// The architecture it is for.
        what: String,
    },
    /// Not an executable.
    #[error("it is {what}, not an executable")]
    NotExecutable {
        /// What it is.
        what: &'static str,
    },
    /// It was built to find errors by memory that a VM does not have.
    #[error("it was built with {name}, which needs addresses above 16 TiB")]
    Sanitizer {
        /// What of.
        name: &'static str,
    },
    /// A field has an impossible value.
    #[error("its {field} is impossible: {found}")]
    BadField {
        /// The field.
        field: &'static str,
        /// Its value, or what is wrong with it.
        found: String,
    },
    /// Mapping it failed.
    #[error("its segment at {at:#x} ({len_bytes} bytes) does not fit into the VM's memory")]
    NoRoom {
        /// Address of the segment.
        at: u64,
        /// Its size.
        len_bytes: u64,
        /// The memory's error.
        #[source]
        source: Errno,
    },
}

impl ElfError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            ElfError::NotElf | ElfError::WrongMachine { .. } => Some(
                "give an ELF executable for x86-64 Linux, or a script that begins with #!".into(),
            ),
            ElfError::Sanitizer { .. } => Some("build it without, or run it natively".into()),
            ElfError::NoRoom { .. } => Some("give the VM more with --memory".into()),
            _ => None,
        }
    }
}

pub(super) fn bad(field: &'static str, found: String) -> ElfError {
    ElfError::BadField { field, found }
}

/// What needs addresses that a VM does not have: its name, how those of its functions begin that a program calls at its
/// start, and its library.
pub const SANITIZERS: [(&str, &str, &str); 3] = [
    ("AddressSanitizer", "__asan_init", "libasan."),
    ("ThreadSanitizer", "__tsan_init", "libtsan."),
    ("MemorySanitizer", "__msan_init", "libmsan."),
];

/// One checked PT_LOAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Address as given in the file.
    pub vaddr: u64,
    /// Offset in the file; congruent to `vaddr` modulo the page size.
    pub offset: u64,
    /// Bytes from the file.
    pub file_bytes: u64,
    /// Bytes in memory, at least `file_bytes`.
    pub mem_bytes: u64,
    /// What the program may do there.
    pub prot: Prot,
}

/// A parsed and checked executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// PT_LOADs, in ascending order; their pages do not overlap except for shared edge pages.
    pub segments: Vec<Segment>,
    /// The dynamic loader that it asks for (PT_INTERP), without NUL.
    pub interpreter: Option<Vec<u8>>,
    /// Where it says its libraries are (DT_RUNPATH, else DT_RPATH), as written.
    pub library_path: Option<Vec<u8>>,
    /// That of [`SANITIZERS`] whose library it names.
    pub sanitizer: Option<&'static str>,
    pub(super) entry: u64,
    pub(super) phdr: Option<u64>,
    pub(super) phnum: u64,
    pub(super) position_independent: bool,
    pub(super) exec_stack: bool,
}

/// Parses and checks `data`. Does not read outside it, whatever its contents.
///
/// # Errors
/// [`ElfError`], saying what is wrong with the file.
pub fn parse<'d, R: ReadRef<'d>>(data: R) -> Result<Image, ElfError> {
    let ident = data.read_bytes_at(0, 20).map_err(|()| ElfError::NotElf)?;
    if !ident.starts_with(&elf::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    let wrong = |what: &str| ElfError::WrongMachine { what: what.into() };
    if ident.get(4) != Some(&elf::ELFCLASS64.0) {
        return Err(wrong("a 32-bit processor"));
    }
    if ident.get(5) != Some(&elf::ELFDATA2LSB.0) {
        return Err(wrong("a big-endian processor"));
    }
    let unread = |field: &'static str| move |e: object::read::Error| bad(field, e.to_string());
    let header = elf::FileHeader64::<Endianness>::parse(data).map_err(unread("ELF header"))?;
    let endian = header.endian().map_err(unread("ELF header"))?;
    let machine = header.e_machine(endian);
    if machine != elf::EM_X86_64 {
        return Err(ElfError::WrongMachine { what: format!("ELF machine {}", machine.0) });
    }
    let position_independent = match header.e_type(endian) {
        elf::ET_EXEC => false,
        elf::ET_DYN => true,
        elf::ET_REL => return Err(ElfError::NotExecutable { what: "an object file" }),
        elf::ET_CORE => return Err(ElfError::NotExecutable { what: "a core dump" }),
        other => return Err(bad("type", other.0.to_string())),
    };
    let headers = header.program_headers(endian, data).map_err(unread("program header table"))?;
    let size = data.len().map_err(|()| ElfError::NotElf)?;
    let mut segments = Vec::new();
    let (mut interpreter, mut exec_stack) = (None, false);
    let phoff = header.e_phoff(endian);
    let mut phdr = None;
    for h in headers {
        let kind = h.p_type(endian);
        if kind == elf::PT_INTERP && interpreter.is_none() {
            let text = h.data(endian, data).unwrap_or_default();
            interpreter = Some(loader_name(text)?);
        }
        if kind == elf::PT_GNU_STACK {
            exec_stack = h.p_flags(endian).0 & elf::PF_X.0 != 0;
        }
        if kind != elf::PT_LOAD || h.p_memsz(endian) == 0 {
            continue;
        }
        let segment = check_segment(h, endian, size)?;
        if (segment.offset..segment.offset + segment.file_bytes).contains(&phoff) {
            phdr = Some(segment.vaddr + (phoff - segment.offset));
        }
        segments.push(segment);
    }
    check_order(&segments)?;
    let entry = header.e_entry(endian);
    let inside = |s: &Segment| (s.vaddr..s.vaddr + s.mem_bytes).contains(&entry);
    if !segments.iter().any(inside) {
        let what = if segments.is_empty() { "no segment to load" } else { "outside the program" };
        return Err(bad("entry point", format!("{entry:#x}, {what}")));
    }
    let phnum = headers.len() as u64;
    let dynamic = Dynamic::of(data, endian, headers);
    let library_path = dynamic.and_then(|dynamic| {
        dynamic.texts(elf::DT_RUNPATH).chain(dynamic.texts(elf::DT_RPATH)).next()
    });
    let sanitizer = |library: &[u8]| {
        let known = |(_, _, name): &&(_, _, &str)| library.starts_with(name.as_bytes());
        SANITIZERS.iter().find(known).map(|(name, ..)| *name)
    };
    let sanitizer = dynamic.and_then(|dynamic| dynamic.texts(elf::DT_NEEDED).find_map(sanitizer));
    Ok(Image {
        segments,
        interpreter,
        library_path: library_path.map(<[u8]>::to_vec),
        sanitizer,
        entry,
        phdr,
        phnum,
        position_independent,
        exec_stack,
    })
}

/// The text of PT_INTERP, of which Linux asks what is asked here (binfmt_elf.c).
fn loader_name(text: &[u8]) -> Result<Vec<u8>, ElfError> {
    match text.split_last() {
        Some((0, name)) if !name.is_empty() && name.len() < PATH_MAX && !name.contains(&0) => {
            Ok(name.to_vec())
        }
        _ => {
            let found = String::from_utf8_lossy(text).chars().take(200).collect();
            Err(bad("interpreter", found))
        }
    }
}

fn check_segment(
    h: &elf::ProgramHeader64<Endianness>,
    endian: Endianness,
    size: u64,
) -> Result<Segment, ElfError> {
    let flags = h.p_flags(endian).0;
    let bit = |flag: u32, value: u64| if flags & flag != 0 { value } else { 0 };
    let bits = bit(elf::PF_R.0, 1) | bit(elf::PF_W.0, 2) | bit(elf::PF_X.0, 4);
    let segment = Segment {
        vaddr: h.p_vaddr(endian),
        offset: h.p_offset(endian),
        file_bytes: h.p_filesz(endian),
        mem_bytes: h.p_memsz(endian),
        prot: Prot::from_bits(bits).unwrap_or(Prot::NONE),
    };
    let Segment { vaddr, offset, file_bytes, mem_bytes, .. } = segment;
    if file_bytes > mem_bytes {
        let found = format!("{file_bytes} bytes of file in {mem_bytes} of memory");
        return Err(bad("segment size", found));
    }
    if offset.checked_add(file_bytes).is_none_or(|end| end > size) {
        let found = format!(
            "{file_bytes} bytes at offset {offset}, but the file has {size}: it is truncated"
        );
        return Err(bad("segment", found));
    }
    // The end of the last page must be representable after rounding up, also when moved to
    // PIE_BASE.
    let most = MMAP_TOP.raw() - PIE_BASE.raw();
    if vaddr.checked_add(mem_bytes).is_none_or(|end| end > most) {
        return Err(bad("segment address", format!("{vaddr:#x} + {mem_bytes:#x}")));
    }
    if vaddr % PAGE_SIZE != offset % PAGE_SIZE {
        return Err(bad("segment alignment", format!("address {vaddr:#x}, offset {offset:#x}")));
    }
    Ok(segment)
}

fn check_order(segments: &[Segment]) -> Result<(), ElfError> {
    for pair in segments.windows(2) {
        let [a, b] = pair else { continue };
        if b.vaddr < a.vaddr + a.mem_bytes {
            return Err(bad("segment", format!("{:#x} overlaps the one before it", b.vaddr)));
        }
        // Two segments may share a page of the file at their edges, but not a page of memory: the
        // second mapping would hide the first one's bytes.
        if b.vaddr / PAGE_SIZE == (a.vaddr + a.mem_bytes - 1) / PAGE_SIZE {
            let found = format!("{:#x} begins in the last page of the one before it", b.vaddr);
            return Err(bad("segment", found));
        }
    }
    Ok(())
}

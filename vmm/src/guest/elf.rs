//! Loading a program: a static ELF executable for Linux on x86-64.
//!
//! The file is untrusted: `object` parses it with bounds checks, and all values are checked here
//! against the private region before a byte is mapped. Segments are mapped over guest memory as
//! private file mappings, so that loading needs no copying and shares the host's page cache.

use std::fs::File;
use std::sync::Arc;

use abi::layout::{MMAP_TOP, PIE_BASE, PRIVATE_START};
use abi::{Errno, PAGE_SIZE};
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};

use crate::private::{Backing, PrivateRegion, Prot};
use crate::vm::memory::FileMapping;

/// A file that cannot be run, and why.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Reading failed.
    #[error("cannot read it")]
    Read(#[source] std::io::Error),
    /// No ELF magic.
    #[error("it is not an ELF file")]
    NotElf,
    /// A script.
    #[error("it is a script; its interpreter has to be run instead")]
    Script,
    /// It is not for 64-bit little-endian x86-64.
    #[error("it is for {what}, not for x86-64")]
    WrongMachine {
        /// The architecture it is for.
        what: String,
    },
    /// It needs a dynamic loader.
    #[error("it is dynamically linked (interpreter {interpreter})")]
    Dynamic {
        /// The loader that it requests.
        interpreter: String,
    },
    /// Not an executable.
    #[error("it is {what}, not an executable")]
    NotExecutable {
        /// What it is.
        what: &'static str,
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
            ElfError::Dynamic { .. } => Some(
                "link it statically: for Rust, RUSTFLAGS='-C target-feature=+crt-static' cargo \
                 build --target x86_64-unknown-linux-gnu; for C, cc -static"
                    .into(),
            ),
            ElfError::NotElf | ElfError::WrongMachine { .. } => {
                Some("give a static ELF executable for x86-64 Linux".into())
            }
            ElfError::NoRoom { .. } => Some("give the VM more with --memory".into()),
            _ => None,
        }
    }
}

fn bad(field: &'static str, found: String) -> ElfError {
    ElfError::BadField { field, found }
}

/// What the program's first thread needs to know about the loaded image.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// First instruction.
    pub entry: u64,
    /// Address of the program headers in memory (`AT_PHDR`), 0 if not loaded.
    pub phdr: u64,
    /// Number of program headers (`AT_PHNUM`).
    pub phnum: u64,
    /// Added to every address of the file.
    pub bias: u64,
    /// One past the highest loaded byte, page-aligned: the heap may begin here.
    pub end: u64,
    /// Whether the program wants an executable stack.
    pub exec_stack: bool,
}

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
    entry: u64,
    phdr: Option<u64>,
    phnum: u64,
    position_independent: bool,
    exec_stack: bool,
}

/// Parses and checks `data`. Does not read outside it, whatever its contents.
///
/// # Errors
/// [`ElfError`], saying what is wrong with the file.
pub fn parse<'d, R: ReadRef<'d>>(data: R) -> Result<Image, ElfError> {
    let ident = data.read_bytes_at(0, 20).map_err(|()| ElfError::NotElf)?;
    if ident.starts_with(b"#!") {
        return Err(ElfError::Script);
    }
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
    let mut exec_stack = false;
    let phoff = header.e_phoff(endian);
    let mut phdr = None;
    for h in headers {
        let kind = h.p_type(endian);
        if kind == elf::PT_INTERP {
            let name = h.data(endian, data).unwrap_or(b"?");
            let text = String::from_utf8_lossy(name);
            let interpreter = text.trim_end_matches('\0').chars().take(200).collect();
            return Err(ElfError::Dynamic { interpreter });
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
    Ok(Image { segments, entry, phdr, phnum, position_independent, exec_stack })
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

/// Maps `image` of `file` into `private`.
///
/// # Errors
/// [`ElfError::NoRoom`], or an address below the lowest a program may use.
pub fn load(private: &PrivateRegion, file: &Arc<File>, image: &Image) -> Result<Loaded, ElfError> {
    let bias = if image.position_independent { PIE_BASE.raw() } else { 0 };
    let mut end = 0;
    for segment in &image.segments {
        let at = bias + segment.vaddr;
        if at < PRIVATE_START.raw() {
            let found = format!("{at:#x}, below {:#x}", PRIVATE_START.raw());
            return Err(bad("segment address", found));
        }
        load_segment(private, file, segment, at).map_err(|source| ElfError::NoRoom {
            at,
            len_bytes: segment.mem_bytes,
            source,
        })?;
        end = end.max((at + segment.mem_bytes).next_multiple_of(PAGE_SIZE));
    }
    Ok(Loaded {
        entry: bias + image.entry,
        phdr: image.phdr.map_or(0, |p| bias + p),
        phnum: image.phnum,
        bias,
        end,
        exec_stack: image.exec_stack,
    })
}

fn load_segment(
    private: &PrivateRegion,
    file: &Arc<File>,
    segment: &Segment,
    at: u64,
) -> Result<(), Errno> {
    let lead = at % PAGE_SIZE;
    let start = at - lead;
    let file_end = at + segment.file_bytes;
    let file_pages_end = file_end.next_multiple_of(PAGE_SIZE);
    let end = (at + segment.mem_bytes).next_multiple_of(PAGE_SIZE);
    let label = if segment.prot.can_execute() { "program code" } else { "program data" };
    if segment.file_bytes > 0 {
        let offset = segment.offset - lead;
        let kind = FileMapping::Private;
        let backing = Backing::File { file: file.clone(), offset, kind, charge: None };
        private.map_at(start, file_pages_end - start, segment.prot, backing, label)?;
        // The rest of the last file page belongs to the zeroed part.
        if segment.prot.can_write() && file_pages_end > file_end {
            let zeroes = vec![0; (file_pages_end - file_end) as usize];
            private.copy_out(file_end, &zeroes)?;
        }
    }
    let bss = if segment.file_bytes > 0 { file_pages_end } else { start };
    if end > bss {
        private.map_at(bss, end - bss, segment.prot, Backing::Anonymous, label)?;
    }
    Ok(())
}

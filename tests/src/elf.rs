//! Custom ELF files: headers with arbitrary values, for a loader to refuse or accept.

/// One program header, every field free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `p_type`; 1 is PT_LOAD.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_offset`.
    pub offset: u64,
    /// `p_vaddr`.
    pub vaddr: u64,
    /// `p_filesz`.
    pub file_bytes: u64,
    /// `p_memsz`.
    pub mem_bytes: u64,
}

/// A file: headers, then bytes of ascending value.
#[derive(Debug, Clone)]
pub struct Elf {
    /// `e_type`; 2 is ET_EXEC, 3 ET_DYN.
    pub kind: u16,
    /// `e_entry`.
    pub entry: u64,
    /// The program headers.
    pub headers: Vec<Header>,
    /// Length of the file, if it is longer than its headers.
    pub len: usize,
    /// Bytes changed at the end: where and to what.
    pub patches: Vec<(usize, u8)>,
}

/// The byte that the file holds at `offset`, after its headers.
#[must_use]
pub fn content(offset: u64) -> u8 {
    (offset % 251) as u8
}

impl Elf {
    /// As bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(&self.kind.to_le_bytes());
        file.extend_from_slice(&62_u16.to_le_bytes());
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&self.entry.to_le_bytes());
        file.extend_from_slice(&64_u64.to_le_bytes());
        file.extend_from_slice(&[0; 12]);
        for half in [64, 56, self.headers.len() as u16, 64, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        for h in &self.headers {
            file.extend_from_slice(&h.kind.to_le_bytes());
            file.extend_from_slice(&h.flags.to_le_bytes());
            for word in [h.offset, h.vaddr, h.vaddr, h.file_bytes, h.mem_bytes, 4096] {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        let start = file.len() as u64;
        file.extend((start..self.len as u64).map(content));
        for &(at, byte) in &self.patches {
            if let Some(slot) = file.get_mut(at) {
                *slot = byte;
            }
        }
        file
    }
}

//! KVM's own statistics of a VM and its vCPUs (`KVM_GET_STATS_FD`), by name.
//!
//! A header describes the layout of a statistics file: every offset and length is checked before it
//! is used, and an inconsistent file is an error. Histograms are skipped. Our own counters of exits
//! to the VMM are in `stats`; these count all exits, including those that KVM handles itself, so
//! they can show that something causes none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use super::vcpu::Vcpu;

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// `struct kvm_stats_header`, and `struct kvm_stats_desc` up to the name.
const HEADER_BYTES: usize = 24;
const DESC_BYTES: usize = 16;
/// Limits that no kernel comes near: kernels have some hundred statistics of one or a few words.
const MOST_STATS: u32 = 4096;
const MOST_NAME_BYTES: u32 = 512;
const MOST_OFFSET: u32 = 1 << 24;

/// Why there are no statistics.
#[derive(Debug, thiserror::Error)]
pub enum KvmStatsError {
    /// A kernel before 5.14, or one built without statistics.
    #[error("this KVM keeps no statistics that can be asked for (KVM_GET_STATS_FD)")]
    Missing(#[source] io::Error),
    /// Reading failed.
    #[error("cannot read the {part} of KVM's statistics")]
    Read {
        /// Header, descriptors or data.
        part: &'static str,
        /// The host's error.
        #[source]
        source: io::Error,
    },
    /// It does not match the kernel's documentation.
    #[error("KVM's statistics are malformed: {field} is {found}")]
    BadField {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// The statistics of one VM or vCPU: their names and the offsets of their values.
#[derive(Debug)]
pub struct KvmStats<F = File> {
    file: F,
    data_offset: u64,
    /// Names, and offsets from the start of the data.
    stats: Vec<(String, u64)>,
}

/// Something that can be read at an offset: a KVM statistics file, or bytes in a test.
pub trait ReadAt {
    /// Fills `buffer`, starting at `offset`.
    ///
    /// # Errors
    /// When `buffer` cannot be filled completely.
    fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl KvmStats {
    /// Opens the statistics of `fd`, a VM or a vCPU.
    pub(crate) fn of(fd: &impl AsRawFd) -> Result<KvmStats, KvmStatsError> {
        // SAFETY: this request takes no argument and returns a new file descriptor or -1.
        let raw = unsafe { libc::ioctl(fd.as_raw_fd(), KVM_GET_STATS_FD, 0) };
        if raw < 0 {
            return Err(KvmStatsError::Missing(io::Error::last_os_error()));
        }
        // SAFETY: KVM has just created it for the caller, and nothing else uses it.
        let file = unsafe { File::from_raw_fd(raw) };
        KvmStats::parse(file)
    }
}

impl<F: ReadAt> KvmStats<F> {
    /// Reads the list of statistics.
    ///
    /// # Errors
    /// [`KvmStatsError`].
    pub fn parse(file: F) -> Result<KvmStats<F>, KvmStatsError> {
        let read = |part, bytes: &mut [u8], offset| {
            let done = file.read_exact(bytes, offset);
            done.map_err(|source| KvmStatsError::Read { part, source })
        };
        let at_most = |field, found: u32, most: u32| match found {
            found if found <= most => Ok(found),
            found => Err(KvmStatsError::BadField { field, found: found.into() }),
        };
        let mut header = [0; HEADER_BYTES];
        read("header", &mut header, 0)?;
        let name_bytes = at_most("name_size", word(&header, 4), MOST_NAME_BYTES)?;
        let count = at_most("num_desc", word(&header, 8), MOST_STATS)?;
        let desc_offset = at_most("desc_offset", word(&header, 16), MOST_OFFSET)?;
        let data_offset = at_most("data_offset", word(&header, 20), MOST_OFFSET)?;

        let stride = DESC_BYTES + name_bytes as usize;
        let mut descs = vec![0; stride * count as usize];
        read("descriptors", &mut descs, desc_offset.into())?;
        let mut stats = Vec::new();
        for desc in descs.chunks_exact(stride) {
            let kind = word(desc, 0) & kvm_bindings::KVM_STATS_TYPE_MASK;
            let items = word(desc, 4) >> 16;
            let offset = at_most("offset", word(desc, 8), MOST_OFFSET)?;
            let name = desc.get(DESC_BYTES..).unwrap_or_default();
            let end = name.iter().position(|&byte| byte == 0);
            let name = end.and_then(|end| std::str::from_utf8(name.get(..end)?).ok());
            let Some(name) = name else {
                return Err(KvmStatsError::BadField { field: "name", found: offset.into() });
            };
            if kind <= kvm_bindings::KVM_STATS_TYPE_PEAK && items == 1 {
                stats.push((name.to_owned(), offset.into()));
            }
        }
        Ok(KvmStats { file, data_offset: data_offset.into(), stats })
    }

    /// All current values, by their names in the kernel's documentation (`exits`, `irq_exits`,
    /// ...).
    ///
    /// # Errors
    /// [`KvmStatsError::Read`].
    pub fn read(&self) -> Result<BTreeMap<&str, u64>, KvmStatsError> {
        let mut all = BTreeMap::new();
        for (name, offset) in &self.stats {
            let mut bytes = [0; 8];
            let done = self.file.read_exact(&mut bytes, self.data_offset + offset);
            done.map_err(|source| KvmStatsError::Read { part: "data", source })?;
            all.insert(name.as_str(), u64::from_le_bytes(bytes));
        }
        Ok(all)
    }
}

impl Vcpu {
    /// KVM's statistics of this vCPU: all its exits, including those that never reach the VMM.
    ///
    /// # Errors
    /// [`KvmStatsError`]; older KVMs have no statistics.
    pub fn kvm_stats(&self) -> Result<KvmStats, KvmStatsError> {
        KvmStats::of(&self.fd)
    }
}

/// The little-endian word at `at`; 0 beyond the end, which no caller reaches.
fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{DESC_BYTES, HEADER_BYTES, KvmStats, KvmStatsError, ReadAt};
    use crate::kernel::Kernel;
    use proptest::prelude::*;
    use std::io;

    impl ReadAt for Vec<u8> {
        fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let start = usize::try_from(offset).ok();
            let piece = start.and_then(|start| self.get(start..start.checked_add(buffer.len())?));
            buffer.copy_from_slice(piece.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    const NAME_BYTES: usize = 8;

    /// Two numbers and a histogram.
    fn made_up() -> Vec<u8> {
        let stats = [(0_u32, 1_u16, "exits"), (4, 2, "histo"), (1, 1, "pages")];
        let data = HEADER_BYTES + stats.len() * (DESC_BYTES + NAME_BYTES);
        let header = [0, NAME_BYTES as u32, 3, 0, HEADER_BYTES as u32, data as u32];
        let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
        for (index, (kind, items, name)) in stats.into_iter().enumerate() {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(0_u16.to_le_bytes());
            bytes.extend(items.to_le_bytes());
            bytes.extend((index as u32 * 8).to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend(name.bytes().chain([0; NAME_BYTES]).take(NAME_BYTES));
        }
        bytes.extend([11_u64, 22, 33, 44].map(u64::to_le_bytes).concat());
        bytes
    }

    #[test]
    fn numbers_are_found_by_name_and_histograms_left_out() {
        let stats = KvmStats::parse(made_up()).expect("it is well-formed");
        let numbers = stats.read().expect("all of it is there");
        assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [("exits", 11), ("pages", 33)]);
    }

    #[test]
    fn a_file_cut_short_or_with_wild_lengths_is_an_error() {
        let whole = made_up();
        for len in 0..whole.len() - 8 {
            let cut = KvmStats::parse(whole[..len].to_vec());
            assert!(cut.and_then(|stats| stats.read().map(drop)).is_err(), "{len} bytes");
        }
        for (at, field) in [
            (4, "name_size"),
            (8, "num_desc"),
            (16, "desc_offset"),
            (20, "data_offset"),
            (32, "offset"),
        ] {
            let mut bytes = whole.clone();
            bytes[at..at + 4].fill(0xff);
            match KvmStats::parse(bytes) {
                Err(KvmStatsError::BadField { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{field}: {:?}", other.map(|stats| stats.stats)),
            }
        }
        let mut unended = whole;
        unended[HEADER_BYTES + DESC_BYTES..][..NAME_BYTES].fill(b'x');
        assert!(KvmStats::parse(unended).is_err(), "a name without an end");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(changes in prop::collection::vec((0..128_usize, any::<u8>()), 0..12)) {
            let mut bytes = made_up();
            for (at, byte) in changes {
                if let Some(slot) = bytes.get_mut(at) {
                    *slot = byte;
                }
            }
            let _ = KvmStats::parse(bytes).and_then(|stats| stats.read().map(drop));
        }
    }

    #[test]
    fn this_hosts_kvm_counts_exits_or_says_that_it_does_not() {
        if std::fs::File::open("/dev/kvm").is_err() {
            eprintln!("SKIPPED: there is no /dev/kvm");
            return;
        }
        let kernel = Kernel::load().unwrap();
        let vcpu = kernel.new_vcpu().unwrap();
        match vcpu.kvm_stats() {
            // The probe of the host's kind caused at least one.
            Ok(stats) => assert!(stats.read().unwrap()["exits"] > 0),
            Err(error) => assert!(matches!(error, KvmStatsError::Missing(_)), "{error:?}"),
        }
    }
}

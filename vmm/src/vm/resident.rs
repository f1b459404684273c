//! How much of a VM's memory is resident on the host.
//!
//! Read from `/proc/self/smaps`, which counts the pages in *our* page table: what the guest, or we
//! on its behalf, accessed. `mincore` would count a file's pages in the page cache even if this
//! process never accessed them. The kernel walks the tables to answer, so this is read once, at the
//! end, and only for statistics.
#![forbid(unsafe_code)]

use std::ops::Range;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::memory::GuestMem;

impl GuestMem {
    /// Bytes of guest memory resident on the host: the program's, its page tables and the guest
    /// kernel's. `None` when `/proc` does not provide it.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let regions: Vec<Range<u64>> = self
            .backend()
            .iter()
            .filter_map(|region| {
                let start = region.get_host_address(MemoryRegionAddress(0)).ok()? as u64;
                Some(start..start + region.len())
            })
            .collect();
        Some(sum(&std::fs::read_to_string("/proc/self/smaps").ok()?, &regions))
    }
}

/// Adds up `Rss` of the mappings that lie in one of `regions`.
fn sum(smaps: &str, regions: &[Range<u64>]) -> u64 {
    let mut inside = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if let Some(start) = mapping_start(line) {
            inside = regions.iter().any(|region| region.contains(&start));
        } else if let Some(rest) = line.strip_prefix("Rss:")
            && inside
        {
            let kib = rest.trim().trim_end_matches("kB").trim().parse().unwrap_or(0_u64);
            bytes += kib << 10;
        }
    }
    bytes
}

/// `7f00-8000 rw-p ...`: the start address; lines with a mapping's fields give `None`.
fn mapping_start(line: &str) -> Option<u64> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    u64::from_str_radix(end, 16).ok()?;
    u64::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn only_mappings_inside_the_regions_count() {
        let smaps = "\
1000-2000 rw-p 00000000 00:00 0
Size:                  4 kB
Rss:                   4 kB
3000-9000 rw-p 00000000 00:00 0
Rss:                   8 kB
Anonymous:             8 kB
9000-a000 r-xp 00000000 08:01 7 /some file
Rss:                   4 kB
";
        assert_eq!(sum(smaps, std::slice::from_ref(&(0x3000..0x9000))), 8 << 10);
        assert_eq!(sum(smaps, &[0x1000..0x2000, 0x9000..0xa000]), 8 << 10);
        assert_eq!(sum(smaps, &[]), 0);
    }
}

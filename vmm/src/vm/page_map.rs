//! Which pages of a mapping are this process's own, as the host's page tables have them: content of
//! anonymous memory, and copies that were made of a file's pages (`/proc/self/pagemap`).
#![forbid(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use abi::PAGE_SIZE;

use super::host_range::HostRange;

/// In memory.
const PRESENT: u64 = 1 << 63;
/// Swapped out.
const SWAPPED: u64 = 1 << 62;
/// Of a file, or shared.
const OF_FILE: u64 = 1 << 61;
/// Entries read at once.
const AT_ONCE: usize = 4096;

/// The host's record of this process's pages.
#[derive(Debug)]
pub struct PageMap(File);

impl PageMap {
    /// `None` where the host does not show it.
    #[must_use]
    pub fn open() -> Option<PageMap> {
        File::open("/proc/self/pagemap").ok().map(PageMap)
    }

    /// The runs of own pages in a range of whole pages, as offsets in it. All of it where the host's
    /// record cannot be read.
    pub fn own_runs(&self, range: HostRange<'_>) -> Vec<Range<u64>> {
        let first = range.as_ptr() as u64 / PAGE_SIZE;
        let pages = range.len() as u64 / PAGE_SIZE;
        let mut runs = Vec::new();
        let mut entries = vec![0; AT_ONCE * 8];
        let mut page = 0;
        while page < pages {
            let now = (pages - page).min(AT_ONCE as u64);
            let entries = entries.get_mut(..now as usize * 8).unwrap_or_default();
            if self.0.read_exact_at(entries, (first + page) * 8).is_err() {
                push(&mut runs, page * PAGE_SIZE..pages * PAGE_SIZE);
                break;
            }
            for (entry, at) in entries.as_chunks().0.iter().zip(page..) {
                if is_own(u64::from_le_bytes(*entry)) {
                    push(&mut runs, at * PAGE_SIZE..(at + 1) * PAGE_SIZE);
                }
            }
            page += now;
        }
        runs
    }
}

fn is_own(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
}

/// Appends a run, or extends the last one.
fn push(runs: &mut Vec<Range<u64>>, run: Range<u64>) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::{OF_FILE, PRESENT, SWAPPED, is_own, push};

    #[test]
    fn pages_of_files_and_pages_without_content_are_not_own() {
        for (entry, own) in [
            (0, false),
            (PRESENT | 7, true),
            (SWAPPED | 7, true),
            (PRESENT | OF_FILE, false),
            (SWAPPED | OF_FILE, false),
        ] {
            assert_eq!(is_own(entry), own, "{entry:#x}");
        }
    }

    #[test]
    fn runs_that_touch_are_one() {
        let mut runs = Vec::new();
        for run in [0..1, 1..2, 4..5] {
            push(&mut runs, run);
        }
        assert_eq!(runs, [0..2, 4..5]);
    }
}

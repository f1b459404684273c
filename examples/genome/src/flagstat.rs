//! How many reads have which flags, as `samtools flagstat` says it.

use crate::record::{
    DUPLICATE, FIRST, LAST, MAPPED_WELL, MATE_ELSEWHERE, MATE_UNMAPPED, PAIRED, PROPER_PAIR,
    QC_FAIL, SECONDARY, SUPPLEMENTARY, UNMAPPED,
};

/// Counts of reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    all: u64,
    primary: u64,
    secondary: u64,
    supplementary: u64,
    duplicates: u64,
    primary_duplicates: u64,
    mapped: u64,
    primary_mapped: u64,
    paired: u64,
    first: u64,
    last: u64,
    proper: u64,
    both_mapped: u64,
    singletons: u64,
    elsewhere: u64,
    elsewhere_surely: u64,
}

/// Those that passed the checks of quality, and those that failed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flagstat([Counts; 2]);

/// How many different marks there are.
const MARKS: usize = 1 << 14;

impl Flagstat {
    /// Counts reads by their [`Core::mark`](crate::record::Core::mark).
    pub fn count<'a>(marks: impl IntoIterator<Item = &'a [u16]>) -> Flagstat {
        // There are few different ones. Those that follow each other are often the same, so two tables: the
        // processor need not wait for one count to write the next.
        let mut tables = vec![[0u32; 2]; MARKS];
        let mut all = Flagstat::default();
        // No count is larger than its type.
        for marks in marks.into_iter().flat_map(|marks| marks.chunks(u32::MAX as usize)) {
            let (pairs, last) = marks.as_chunks::<2>();
            for [a, b] in pairs {
                tables[usize::from(*a) % MARKS][0] += 1;
                tables[usize::from(*b) % MARKS][1] += 1;
            }
            for mark in last {
                tables[usize::from(*mark) % MARKS][0] += 1;
            }
            for (mark, counts) in (0..).zip(&mut tables).filter(|(_, counts)| **counts != [0; 2]) {
                all.add(mark, u64::from(counts[0]) + u64::from(counts[1]));
                *counts = [0; 2];
            }
        }
        all
    }

    /// Counts so many reads with the same mark.
    fn add(&mut self, mark: u16, times: u64) {
        let is = |flags: u16| if mark & flags == 0 { 0 } else { times };
        let both = |a: u64, b: u64| a.min(b);
        let counts = &mut self.0[usize::from(mark & QC_FAIL != 0)];
        let mapped = times - is(UNMAPPED);
        counts.all += times;
        counts.mapped += mapped;
        counts.duplicates += is(DUPLICATE);
        if mark & SECONDARY != 0 {
            counts.secondary += times;
        } else if mark & SUPPLEMENTARY != 0 {
            counts.supplementary += times;
        } else {
            counts.primary += times;
            counts.primary_mapped += mapped;
            counts.primary_duplicates += is(DUPLICATE);
            if mark & PAIRED != 0 {
                let both_mapped = both(mapped, times - is(MATE_UNMAPPED));
                let elsewhere = both(both_mapped, is(MATE_ELSEWHERE));
                counts.paired += times;
                counts.proper += both(is(PROPER_PAIR), mapped);
                counts.first += is(FIRST);
                counts.last += is(LAST);
                counts.singletons += mapped - both_mapped;
                counts.both_mapped += both_mapped;
                counts.elsewhere += elsewhere;
                counts.elsewhere_surely += both(elsewhere, is(MAPPED_WELL));
            }
        }
    }
}

impl std::fmt::Display for Flagstat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [passed, failed] = &self.0;
        let mut line = |of: fn(&Counts) -> u64, what: &str, whole: Option<fn(&Counts) -> u64>| {
            write!(f, "{} + {} {what}", of(passed), of(failed))?;
            if let Some(whole) = whole {
                let [a, b] = [passed, failed].map(|counts| percent(of(counts), whole(counts)));
                write!(f, " ({a} : {b})")?;
            }
            writeln!(f)
        };
        line(|c| c.all, "in total (QC-passed reads + QC-failed reads)", None)?;
        line(|c| c.primary, "primary", None)?;
        line(|c| c.secondary, "secondary", None)?;
        line(|c| c.supplementary, "supplementary", None)?;
        line(|c| c.duplicates, "duplicates", None)?;
        line(|c| c.primary_duplicates, "primary duplicates", None)?;
        line(|c| c.mapped, "mapped", Some(|c| c.all))?;
        line(|c| c.primary_mapped, "primary mapped", Some(|c| c.primary))?;
        line(|c| c.paired, "paired in sequencing", None)?;
        line(|c| c.first, "read1", None)?;
        line(|c| c.last, "read2", None)?;
        line(|c| c.proper, "properly paired", Some(|c| c.paired))?;
        line(|c| c.both_mapped, "with itself and mate mapped", None)?;
        line(|c| c.singletons, "singletons", Some(|c| c.paired))?;
        line(|c| c.elsewhere, "with mate mapped to a different chr", None)?;
        line(|c| c.elsewhere_surely, "with mate mapped to a different chr (mapQ>=5)", None)
    }
}

/// In the precision of samtools, which is a float's.
fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "N/A".to_owned(),
        whole => format!("{:.2}%", f64::from(part as f32 / whole as f32) * 100.0),
    }
}

//! What was counted becomes text.

use std::io::{self, Write};

use super::coverage::Depth;
use super::{Bases, Directions, GC_STEPS, INDEL_MAX, Part, Stats};

/// Of the pairs those with the largest insert sizes are left out, which are unlikely.
const MAIN_BULK: f32 = 0.99;
/// A part of a reference, as in `coverage`.
const PART_BASES: f32 = 20_000.0;

const CONTENT: &str =
    "The columns are: cycle; A,C,G,T base counts as a percentage of all A/C/G/T bases [%]";
const OTHERS: &str = "; and N and O counts as a percentage of all A/C/G/T bases [%]";
const LENGTHS: &str = "The columns are: read length, count";

fn section(out: &mut impl Write, what: &str, name: &str, columns: &str) -> io::Result<()> {
    let columns = if columns.is_empty() { String::new() } else { format!(" {columns}") };
    writeln!(out, "# {what}. Use `grep ^{name} | cut -f 2-` to extract this part.{columns}")
}

/// As `%e` of C.
fn exponent(number: f64) -> String {
    let text = format!("{number:.6e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// The quotient of two counts, in the precision of samtools; 0 of none.
fn over(part: u64, whole: u64) -> f32 {
    if whole == 0 { 0.0 } else { part as f32 / whole as f32 }
}

impl Stats {
    /// Writes all but the lines about who made it.
    ///
    /// # Errors
    /// Those of the output.
    pub fn show(mut self, out: &mut impl Write) -> io::Result<()> {
        self.coverage.flush(None);
        writeln!(out, "# CHK, Checksum\t[2]Read Names\t[3]Sequences\t[4]Qualities")?;
        writeln!(
            out,
            "# CHK, CRC32 of reads which passed filtering followed by addition (32bit overflow)"
        )?;
        let [names, sequences, qualities] = self.checksums;
        writeln!(out, "CHK\t{names:08x}\t{sequences:08x}\t{qualities:08x}")?;
        // Each pair was counted twice.
        for directions in &mut self.insert_sizes {
            directions.iter_mut().for_each(|count| *count /= 2);
        }
        let bulk = Bulk::of(&self.insert_sizes);
        self.show_summary(&bulk, out)?;
        // Of samtools' tables the last row is beyond the longest read, as long as there is room.
        let longest = self.longest + usize::from(self.longest < self.cycles);
        let best = self.best_quality + usize::from(self.best_quality < 255);
        for (part, which, name) in [(&self.first, "First", "FFQ"), (&self.last, "Last", "LFQ")] {
            section(out, &format!("{which} Fragment Qualities"), name, "")?;
            writeln!(
                out,
                "# Columns correspond to qualities and rows to cycles. First column is the cycle number."
            )?;
            show_qualities(part, name, best, out)?;
        }
        for (part, which, name) in [(&self.first, "first", "GCF"), (&self.last, "last", "GCL")] {
            section(out, &format!("GC Content of {which} fragments"), name, "")?;
            show_gc(part, name, out)?;
        }
        self.show_cycles(longest, out)?;
        section(
            out,
            "Insert sizes",
            "IS",
            "The columns are: insert size, pairs total, inward oriented pairs, outward oriented pairs, other pairs",
        )?;
        for (size, [inward, outward, other]) in self.insert_sizes[..bulk.sizes].iter().enumerate() {
            let all = inward + outward + other;
            writeln!(out, "IS\t{size}\t{all}\t{inward}\t{outward}\t{other}")?;
        }
        section(out, "Read lengths", "RL", LENGTHS)?;
        show_lengths(&self.lengths, "RL", out)?;
        section(out, "Read lengths - first fragments", "FRL", LENGTHS)?;
        show_lengths(&self.first.lengths, "FRL", out)?;
        section(out, "Read lengths - last fragments", "LRL", LENGTHS)?;
        show_lengths(&self.last.lengths, "LRL", out)?;
        self.show_indels(out)?;
        self.show_coverage(out)
    }

    fn show_summary(&self, bulk: &Bulk, out: &mut impl Write) -> io::Result<()> {
        section(out, "Summary Numbers", "SN", "")?;
        let reads = self.first.reads + self.last.reads + self.others;
        let mut line = |name: &str, value: String, note: &str| {
            let note = if note.is_empty() { String::new() } else { format!("\t# {note}") };
            writeln!(out, "SN\t{name}:\t{value}{note}")
        };
        let clipping = "ignores clipping";
        let rounded = |number: f32| format!("{number:.0}");
        let quality = self.quality_sum as f64 / self.bases.max(1) as f64;
        let error_rate = exponent(over(self.mismatches, self.bases_aligned).into());
        let proper = over(100 * self.proper, reads);
        let lines = [
            ("raw total sequences", reads, "excluding supplementary and secondary reads"),
            ("filtered sequences", 0, ""),
            ("sequences", reads, ""),
            ("is sorted", self.coverage.is_sorted.into(), ""),
            ("1st fragments", self.first.reads, ""),
            ("last fragments", self.last.reads, ""),
            ("reads mapped", self.mapped_in_pairs + self.mapped_alone, ""),
            (
                "reads mapped and paired",
                self.mapped_in_pairs,
                "paired-end technology bit set + both mates mapped",
            ),
            ("reads unmapped", self.unmapped, ""),
            ("reads properly paired", self.proper, "proper-pair bit set"),
            ("reads paired", self.paired, "paired-end technology bit set"),
            ("reads duplicated", self.duplicates, "PCR or optical duplicate bit set"),
            ("reads MQ0", self.without_quality, "mapped and MQ=0"),
            ("reads QC failed", self.failed, ""),
            ("non-primary alignments", self.secondary, ""),
            ("supplementary alignments", self.supplementary, ""),
            ("total length", self.bases, clipping),
            ("total first fragment length", self.first.bases, clipping),
            ("total last fragment length", self.last.bases, clipping),
            ("bases mapped", self.bases_mapped, clipping),
            ("bases mapped (cigar)", self.bases_aligned, "more accurate"),
            ("bases trimmed", 0, ""),
            ("bases duplicated", self.bases_duplicated, ""),
            ("mismatches", self.mismatches, "from NM fields"),
        ];
        for (name, value, note) in lines {
            line(name, value.to_string(), note)?;
        }
        line("error rate", error_rate, "mismatches / bases mapped (cigar)")?;
        let lines = [
            ("average length", self.bases.checked_div(reads).unwrap_or(0).to_string()),
            ("average first fragment length", rounded(over(self.first.bases, self.first.reads))),
            ("average last fragment length", rounded(over(self.last.bases, self.last.reads))),
            ("maximum length", self.longest.to_string()),
            ("maximum first fragment length", self.first.longest.to_string()),
            ("maximum last fragment length", self.last.longest.to_string()),
            ("average quality", format!("{quality:.1}")),
            ("insert size average", format!("{:.1}", bulk.average)),
            ("insert size standard deviation", format!("{:.1}", bulk.deviation)),
            ("inward oriented pairs", bulk.pairs[0].to_string()),
            ("outward oriented pairs", bulk.pairs[1].to_string()),
            ("pairs with other orientation", bulk.pairs[2].to_string()),
            ("pairs on different chromosomes", (self.elsewhere / 2).to_string()),
            ("percentage of properly paired reads (%)", format!("{proper:.1}")),
        ];
        lines.into_iter().try_for_each(|(name, value)| line(name, value, ""))
    }

    fn show_cycles(&self, longest: usize, out: &mut impl Write) -> io::Result<()> {
        let at = |part: &Part, cycle: usize| part.cycles.get(cycle).copied().unwrap_or_default();
        section(out, "ACGT content per cycle", "GCC", &format!("{CONTENT}{OTHERS}"))?;
        for cycle in 0..longest {
            let (first, last) = (at(&self.first, cycle), at(&self.last, cycle));
            let both: Bases = std::array::from_fn(|kind| first[kind] + last[kind]);
            show_content("GCC", cycle, &both[..4], &both, out)?;
        }
        section(out, "ACGT content per cycle, read oriented", "GCT", CONTENT)?;
        for (cycle, bases) in self.as_read.iter().enumerate() {
            show_content("GCT", cycle, bases, bases, out)?;
        }
        for (part, which, name, raw) in
            [(&self.first, "first", "FBC", "FTC"), (&self.last, "last", "LBC", "LTC")]
        {
            let what = format!("ACGT content per cycle for {which} fragments");
            section(out, &what, name, &format!("{CONTENT}{OTHERS}"))?;
            let mut sums = [0; 5];
            for (cycle, bases) in part.cycles.iter().enumerate() {
                sums.iter_mut().zip(bases).for_each(|(sum, count)| *sum += count);
                show_content(name, cycle, &bases[..4], bases, out)?;
            }
            let what = format!("ACGT raw counters for {which} fragments");
            section(out, &what, raw, "The columns are: A,C,G,T,N base counters")?;
            let [a, c, g, t, n] = sums;
            writeln!(out, "{raw}\t{a}\t{c}\t{g}\t{t}\t{n}")?;
        }
        Ok(())
    }

    fn show_indels(&self, out: &mut impl Write) -> io::Result<()> {
        section(
            out,
            "Indel distribution",
            "ID",
            "The columns are: length, number of insertions, number of deletions",
        )?;
        for (length, [insertions, deletions]) in (1..=INDEL_MAX).zip(&self.indels) {
            if insertions + deletions > 0 {
                writeln!(out, "ID\t{length}\t{insertions}\t{deletions}")?;
            }
        }
        section(
            out,
            "Indels per cycle",
            "IC",
            "The columns are: cycle, number of insertions (fwd), .. (rev) , number of deletions (fwd), .. (rev)",
        )?;
        for cycle in 0..=self.cycles {
            let lists = [
                &self.first.insertions,
                &self.last.insertions,
                &self.first.deletions,
                &self.last.deletions,
            ];
            let [a, b, c, d] = lists.map(|list| list.get(cycle).copied().unwrap_or(0));
            if a + b + c + d > 0 {
                writeln!(out, "IC\t{}\t{a}\t{b}\t{c}\t{d}", cycle + 1)?;
            }
        }
        Ok(())
    }

    fn show_coverage(&mut self, out: &mut impl Write) -> io::Result<()> {
        section(out, "Coverage distribution", "COV", "")?;
        let depths = &self.coverage.depths;
        let last = depths.len() - 1;
        for (depth, positions) in depths.iter().enumerate().filter(|(_, positions)| **positions > 0)
        {
            match depth {
                _ if depth == last => writeln!(out, "COV\t[{0}<]\t{0}\t{positions}", depth - 1)?,
                _ => writeln!(out, "COV\t[{depth}-{depth}]\t{depth}\t{positions}")?,
            }
        }
        section(
            out,
            "GC-depth",
            "GCD",
            "The columns are: GC%, unique sequence percentiles, 10th, 25th, 50th, 75th and 90th depth percentile",
        )?;
        let reads = self.first.reads + self.last.reads + self.others;
        let average = self.bases.checked_div(reads).unwrap_or(0) as f32;
        let parts = &mut self.coverage.parts;
        let count = parts.len() - 1;
        // Of the last one samtools has no average.
        for part in parts[..count].iter_mut().filter(|part| part.reads > 0) {
            let content = 100.0 * f64::from(part.gc) / f64::from(part.reads);
            part.gc = content.round_ties_even() as f32;
        }
        parts.sort_by(|a, b| a.gc.total_cmp(&b.gc).then(a.reads.cmp(&b.reads)));
        let mut done = 0;
        while done < count {
            let gc = parts[done].gc;
            let alike = |part: &&Depth| f64::from((part.gc - gc).abs()) < 0.1;
            let alike = parts[done..count].iter().take_while(alike).count();
            let some = &parts[done..done + alike];
            let share = (done + alike + 1) as f64 * 100.0 / (count + 1) as f64;
            write!(out, "GCD\t{gc:.1}\t{share:.3}")?;
            for percent in [10, 25, 50, 75, 90] {
                let depth = percentile(some, percent) * average / PART_BASES;
                write!(out, "\t{depth:.3}")?;
            }
            writeln!(out)?;
            done += alike;
        }
        Ok(())
    }
}

fn show_qualities(part: &Part, name: &str, best: usize, out: &mut impl Write) -> io::Result<()> {
    for cycle in 0..part.longest {
        write!(out, "{name}\t{}", cycle + 1)?;
        for quality in 0..=best {
            let of_quality = part.qualities.get(quality).and_then(|cycles| cycles.get(cycle));
            write!(out, "\t{}", of_quality.copied().unwrap_or(0))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn show_gc(part: &Part, name: &str, out: &mut impl Write) -> io::Result<()> {
    let mut before = 0;
    for step in 0..GC_STEPS {
        if part.gc[step] != part.gc[before] {
            let percent = (step + before) as f64 * 0.5 * 100.0 / (GC_STEPS - 1) as f64;
            writeln!(out, "{name}\t{percent:.2}\t{}", part.gc[before])?;
            before = step;
        }
    }
    Ok(())
}

fn show_content(
    name: &str,
    cycle: usize,
    known: &[u64],
    shown: &[u64],
    out: &mut impl Write,
) -> io::Result<()> {
    let sum: u64 = known.iter().sum();
    if sum == 0 {
        return Ok(());
    }
    write!(out, "{name}\t{}", cycle + 1)?;
    for count in shown {
        write!(out, "\t{:.2}", 100.0 * *count as f64 / sum as f64)?;
    }
    writeln!(out)
}

fn show_lengths(lengths: &[u64], name: &str, out: &mut impl Write) -> io::Result<()> {
    let lengths = lengths.iter().enumerate().filter(|(length, count)| *length > 0 && **count > 0);
    for (length, count) in lengths {
        writeln!(out, "{name}\t{length}\t{count}")?;
    }
    Ok(())
}

/// Of the insert sizes without the largest ones.
struct Bulk {
    sizes: usize,
    average: f64,
    deviation: f64,
    /// Of all.
    pairs: Directions,
}

impl Bulk {
    fn of(insert_sizes: &[Directions]) -> Bulk {
        let mut pairs = [0; 3];
        for directions in insert_sizes {
            pairs.iter_mut().zip(directions).for_each(|(sum, count)| *sum += count);
        }
        let at = |size: usize| insert_sizes[size].iter().sum::<u64>();
        let mut all: u64 = pairs.iter().sum();
        let (mut bulk, mut sum, mut sizes) = (0u64, 0.0, 0);
        for size in 0..insert_sizes.len() {
            let count = at(size);
            if count > 0 {
                sizes = size + 1;
            }
            bulk += count;
            sum += (size as u64 * count) as f64;
            if bulk as f64 / all as f64 > f64::from(MAIN_BULK) {
                (sizes, all) = (size + 1, bulk);
                break;
            }
        }
        let all = all.max(1) as f64;
        let average = sum / all;
        let mut squares = 0.0;
        for size in 1..sizes {
            let distance = size as f64 - average;
            squares += at(size) as f64 * distance * distance / all;
        }
        Bulk { sizes, average, deviation: squares.sqrt(), pairs }
    }
}

/// The depth that so many percent of the parts do not exceed.
fn percentile(parts: &[Depth], percent: u16) -> f32 {
    let rank = f32::from(percent) * (parts.len() + 1) as f32 / 100.0;
    let below = rank as usize;
    if below == 0 {
        return parts[0].reads as f32;
    }
    if below >= parts.len() {
        return parts[parts.len() - 1].reads as f32;
    }
    let (low, high) = (parts[below - 1].reads, parts[below].reads);
    low as f32 + (rank - below as f32) * (high - low) as f32
}

//! What samtools prints of the same file.

use super::{Lab, same, without_samtools};
use tests::skip_without_kvm;

/// What a line of SAM may have that generated reads do not.
const ODD: &str = "\
@HD\tVN:1.5\tGO:query
@SQ\tSN:a\tLN:1000
@SQ\tSN:b:1-5\tLN:100000
@CO\ta comment\twith a tab
r1\t0\ta\t10\t60\t5M\t*\t0\t0\tacgtn\t*
r2\t0\ta\t20\t0\t3=1X1I\t=\t0\t7\tAC.TU\tIIIII\tXA:A:x\tXI:i:-2147483648\tXJ:i:4294967295
r3\t4\t*\t0\t0\t*\t*\t0\t0\t*\t*
r4\t0\tnowhere\t5\t9\t4M\ta\t5\t0\tACGT\t!!~~\tNM:i:+3
r5\t16\tb:1-5\t70000\t255\t2H1S3M2N2M1P1D4S\ta\t1\t-12\tMRSVWYHKDB\t**********\tZZ:Z:\tZY:Z: a b
r6\t0x1\ta\t0\t1\t*\t*\t0\t0\tA\tI
r7\t1\ta\t7\t1\t*\t=\t8\t0\tAC\tII\tF1:f:1e-10\tF2:f:0.1\tF3:f:123456.7\tF4:f:-0\tF5:f:100000.5\tF6:f:1e20
r8\t0\ta\t9\t1\t2M\tnowhere\t8\t0\tA=\tII\tB1:B:c,-128,127\tB2:B:C,0,255\tB3:B:s,-32768\tB4:B:I,4294967295\tB5:B:f,0.5,3,100000.5,0.00012345650,-0,1e-9,999999.5\tHH:H:1aF0
r9\t0\ta\t990\t1\t30M\t*\t0\t0\t*\t*
r10\t2048\ta\t1\t1\t5M5N\t*\t0\t0\tACGTA\t*
";

#[test]
fn counts_and_lines_of_sam_and_bam_are_those_of_samtools() {
    skip_without_kvm!();
    if without_samtools("counts_and_lines_of_sam_and_bam_are_those_of_samtools") {
        return;
    }
    let lab = Lab::new();
    let sam = lab.generate("a.sam", &["6k"]);
    lab.samtools(&["view", "--no-PG", "-b", "-o", "a.bam", "a.sam"]);
    let bam = lab.file("a.bam").to_string_lossy().into_owned();
    lab.samtools(&["view", "--no-PG", "-h", "-O", "sam,level=6", "-o", "a.sam.gz", "a.sam"]);
    let compressed = lab.file("a.sam.gz").to_string_lossy().into_owned();
    let flagstat = lab.samtools(&["flagstat", "a.sam"]);
    let lines = lab.samtools(&["view", "--no-PG", "-h", "a.sam"]);
    for (file, vas, threads) in [
        (&sam, "one", "1"),
        (&sam, "two", "2"),
        (&bam, "three", "1"),
        (&bam, "four", "2"),
        (&compressed, "five", "2"),
    ] {
        lab.ask(&["load", file, "--vas", vas, "--threads", threads]);
        same(&lab.ask(&["flagstat", "--vas", vas]), &flagstat, file);
        same(&lab.ask(&["view", "-h", "--vas", vas]), &lines, file);
    }
}

#[test]
fn odd_lines_are_read_and_written_as_samtools_does() {
    skip_without_kvm!();
    if without_samtools("odd_lines_are_read_and_written_as_samtools_does") {
        return;
    }
    let lab = Lab::new();
    let sam = lab.write("odd.sam", ODD);
    lab.ask(&["load", &sam]);
    same(&lab.ask(&["view", "-h"]), &lab.samtools(&["view", "-h", "--no-PG", "odd.sam"]), "lines");
    same(&lab.ask(&["flagstat"]), &lab.samtools(&["flagstat", "odd.sam"]), "counts");
}

#[test]
fn orders_regions_and_files_are_those_of_samtools() {
    skip_without_kvm!();
    if without_samtools("orders_regions_and_files_are_those_of_samtools") {
        return;
    }
    let lab = Lab::new();
    let sam = lab.generate("a.sam", &["6k", "--seed", "7"]);
    lab.ask(&["load", &sam]);
    lab.samtools(&["sort", "--no-PG", "-n", "-O", "sam", "-o", "name.sam", "a.sam"]);
    lab.ask(&["sort", "--by", "name"]);
    let lines = |file: &str| std::fs::read(lab.file(file)).expect("samtools wrote it");
    same(&lab.ask(&["view", "-h"]), &lines("name.sam"), "by name");
    // What is equal stays as it was, here by name.
    lab.samtools(&["sort", "--no-PG", "-o", "place.bam", "name.sam"]);
    lab.ask(&["sort"]);
    let sorted = lab.samtools(&["view", "--no-PG", "-h", "place.bam"]);
    same(&lab.ask(&["view", "-h"]), &sorted, "by place");

    lab.samtools(&["index", "place.bam"]);
    lab.ask(&["index"]);
    for region in [
        "chr1",
        "chr2:1-1000",
        "chr2:500,000-501,000",
        "chr3:2000000",
        "chrM",
        "HLA:A*01:01",
        "HLA:A*01:01:100-2000",
        "chrX:1499999-1500000",
        "*",
        "chr1:499990-500000",
    ] {
        let theirs = lab.samtools(&["view", "--no-PG", "place.bam", region]);
        same(&lab.ask(&["view", region]), &theirs, region);
    }

    same(&lab.ask(&["depth"]), &lab.samtools(&["depth", "place.bam"]), "depth");
    let theirs = lab.samtools(&["depth", "-r", "chr2:400,100-600,000", "place.bam"]);
    same(&lab.ask(&["depth", "chr2:400,100-600,000"]), &theirs, "depth of a region");

    for (name, threads) in [("b.sam", "1"), ("b.bam", "1"), ("c.bam", "2")] {
        let file = lab.file(name).to_string_lossy().into_owned();
        lab.ask(&["save", &file, "--threads", threads]);
        same(&lab.samtools(&["view", "--no-PG", "-h", name]), &sorted, name);
    }
    lab.samtools(&["quickcheck", "b.bam", "c.bam"]);
    lab.samtools(&["index", "c.bam"]);
    let theirs = lab.samtools(&["view", "--no-PG", "place.bam", "chr2:1-1000"]);
    same(
        &lab.samtools(&["view", "--no-PG", "c.bam", "chr2:1-1000"]),
        &theirs,
        "a saved file's index",
    );
}

#[test]
fn duplicates_are_those_of_samtools() {
    skip_without_kvm!();
    if without_samtools("duplicates_are_those_of_samtools") {
        return;
    }
    let lab = Lab::new();
    lab.generate("a.sam", &["8k", "--seed", "3"]);
    lab.samtools(&["collate", "--no-PG", "-o", "collated.bam", "a.sam"]);
    lab.samtools(&["fixmate", "--no-PG", "-m", "collated.bam", "fixed.bam"]);
    lab.samtools(&["sort", "--no-PG", "-o", "place.bam", "fixed.bam"]);
    lab.samtools(&["markdup", "--no-PG", "place.bam", "marked.bam"]);
    let theirs = lab.samtools(&["view", "--no-PG", "-h", "marked.bam"]);
    let count = lab.samtools(&["view", "-c", "-f", "1024", "marked.bam"]);
    let count: u64 = String::from_utf8_lossy(&count).trim().parse().expect("a number");
    assert!(count > 200, "only {count} duplicates show little");
    lab.ask(&["load", &lab.file("place.bam").to_string_lossy()]);
    lab.ask(&["markdup"]);
    same(&lab.ask(&["view", "-h"]), &theirs, "marks");
}

#[test]
fn statistics_are_those_of_samtools() {
    skip_without_kvm!();
    if without_samtools("statistics_are_those_of_samtools") {
        return;
    }
    let lab = Lab::new();
    // Longer reads than samtools is prepared for come in between.
    lab.generate("a.sam", &["3k", "--length", "151", "--seed", "9"]);
    lab.samtools(&["sort", "--no-PG", "-o", "place.sam", "a.sam"]);
    lab.write("odd.sam", ODD);
    lab.write("none.sam", "@SQ\tSN:a\tLN:1000\n");
    for name in ["a", "place", "odd", "none"] {
        let file = lab.file(&format!("{name}.sam")).to_string_lossy().into_owned();
        lab.ask(&["load", &file, "--vas", name]);
        let theirs = lab.samtools(&["stats", &file]);
        // Who made it, and how.
        let is_about =
            |line: &&[u8]| line.starts_with(b"# This ") || line.starts_with(b"# The command");
        let lines = theirs.split_inclusive(|byte| *byte == b'\n');
        let theirs = lines.filter(|line| !is_about(line)).collect::<Vec<_>>().concat();
        same(&lab.ask(&["stats", "--vas", name]), &theirs, name);
    }
}

/// Bases by chance for the references of a header, as FASTA.
fn fasta(header: &[u8]) -> String {
    let mut text = String::new();
    let mut state = 1u64;
    for line in String::from_utf8_lossy(header).lines().filter(|line| line.starts_with("@SQ")) {
        let field = |key: &str| line.split('\t').find_map(|field| field.strip_prefix(key));
        let (name, length) = (field("SN:").expect("a name"), field("LN:").expect("a length"));
        let length: usize = length.parse().expect("a number");
        text.push_str(&format!(">{name}\n"));
        text.extend((0..length).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b"ACGT"[(state >> 60) as usize % 4])
        }));
        text.push('\n');
    }
    text
}

#[test]
fn cram_is_read_with_and_without_a_reference() {
    skip_without_kvm!();
    if without_samtools("cram_is_read_with_and_without_a_reference") {
        return;
    }
    let lab = Lab::new();
    lab.generate("a.sam", &["2k", "--seed", "5"]);
    let references = lab.write("a.fa", fasta(&lab.samtools(&["view", "-H", "a.sam"])));
    lab.samtools(&["faidx", "a.fa"]);
    // Tags that say how a read differs from its reference, which are left out of files if they are right; and in half
    // of the pairs the right read comes first.
    let right = lab.samtools(&["calmd", "--no-PG", "a.sam", "a.fa"]);
    lab.write("right.sam", right);
    let convert = |from: &str, to: &str, how: &str| {
        lab.samtools(&["view", "--no-PG", "-O", how, "-T", "a.fa", "-o", to, from]);
        lab.file(to).to_string_lossy().into_owned()
    };
    let file = convert("a.sam", "a.cram", "cram,version=3.0");
    let refused = lab.genome(&["load", &file]);
    refused.expect(1, "");
    assert!(refused.err().contains("--reference"), "{}", refused.err());
    for (from, how, threads, needs_reference) in [
        ("a.sam", "cram,version=3.0", "1", true),
        ("right.sam", "cram,version=3.1", "2", true),
        ("right.sam", "cram,no_ref", "2", false),
    ] {
        let file = convert(from, "b.cram", how);
        let theirs = lab.samtools(&["view", "--no-PG", "-h", "-T", "a.fa", "b.cram"]);
        let mut args = vec!["load", &file, "--vas", how, "--threads", threads];
        if needs_reference {
            args.extend(["--reference", &references]);
        }
        let vas = how.replace([',', '=', '.'], "-");
        args[3] = &vas;
        lab.ask(&args);
        same(&lab.ask(&["view", "-h", "--vas", &vas]), &theirs, how);
    }
    let refused = lab.genome(&["load", &convert("a.sam", "old.cram", "cram,version=2.1")]);
    refused.expect(1, "");
    assert!(refused.err().contains("CRAM 2.1 is not read"), "{}", refused.err());
}

#[test]
fn a_long_cigar_comes_back_from_a_bam_file() {
    skip_without_kvm!();
    if without_samtools("a_long_cigar_comes_back_from_a_bam_file") {
        return;
    }
    let lab = Lab::new();
    let operators = 70_000;
    let cigar = "1M1I".repeat(operators / 2);
    let bases = "A".repeat(operators);
    let line = format!("long\t0\ta\t5\t60\t{cigar}\t*\t0\t0\t{bases}\t*\tNM:i:3\n");
    let sam = lab.write("long.sam", format!("@SQ\tSN:a\tLN:100000\n{line}"));
    let bam = lab.file("long.bam").to_string_lossy().into_owned();
    lab.ask(&["load", &sam]);
    lab.ask(&["save", &bam]);
    same(&lab.samtools(&["view", "long.bam"]), line.as_bytes(), "saved by genome");
    lab.samtools(&["view", "--no-PG", "-b", "-o", "long.bam", "long.sam"]);
    lab.ask(&["load", &bam, "--vas", "again"]);
    same(&lab.ask(&["view", "--vas", "again"]), line.as_bytes(), "saved by samtools");
}

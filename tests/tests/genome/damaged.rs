//! Files that are no files of reads: one clear error with the line or the offset, and nothing is left.

use super::Lab;
use tests::skip_without_kvm;

/// A line that is right, to be made wrong.
const LINE: &str = "r\t0\ta\t10\t60\t4M\t*\t0\t0\tACGT\tIIII\tNM:i:1";
const HEADER: &str = "@HD\tVN:1.6\n@SQ\tSN:a\tLN:1000\n";

#[track_caller]
fn refused(lab: &Lab, content: &[u8], expected: &str) {
    let file = lab.write("wrong", content);
    let ended = lab.genome(&["load", &file]);
    ended.expect(1, "");
    let error = ended.err();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(&file) && error.contains(expected), "{expected}: {error}");
    let left = lab.genome(&["flagstat"]);
    left.expect(1, "");
}

#[test]
fn a_wrong_line_is_named_and_nothing_is_kept() {
    skip_without_kvm!();
    let lab = Lab::new();
    let with = |from: &str, to: &str| format!("{HEADER}{LINE}\n{}\n", LINE.replacen(from, to, 1));
    for (from, to, expected) in [
        ("\tIIII\tNM:i:1", "", "line 4: the line has fewer than 11 fields"),
        ("4M", "5M", "line 4: CIGAR and SEQ are of different length"),
        ("IIII", "III", "line 4: SEQ and QUAL are of different length"),
        ("NM:i:1", "NM:i:x", "line 4: a tag of type i is no number"),
        ("r\t", "\t", "line 4: the name of the read is empty"),
    ] {
        refused(&lab, with(from, to).as_bytes(), expected);
    }
    refused(&lab, b"@SQ\tSN:a\n", "line 1: a line @SQ needs SN: and LN:");
    refused(&lab, b"r\t0\ta\t1\t0\t1M\t*\t0\t0\tA\tI\n", "line 1: the header has no lines @SQ");
}

#[test]
fn a_damaged_bam_file_is_refused_with_the_offset() {
    skip_without_kvm!();
    let lab = Lab::new();
    let sam = lab.write("a.sam", format!("{HEADER}{}", format!("{LINE}\n").repeat(3000)));
    let bam = lab.file("a.bam").to_string_lossy().into_owned();
    lab.ask(&["load", &sam, "--vas", "right"]);
    lab.ask(&["save", &bam, "--vas", "right"]);
    let whole = std::fs::read(&bam).expect("it was saved");
    refused(&lab, &whole[..whole.len() / 2], "offset ");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x40;
    refused(&lab, &flipped, "offset ");
    refused(&lab, &whole[..30], "offset ");
}

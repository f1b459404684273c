//! Each operation happens as a whole, and a tag takes it back.

use super::{Lab, same};
use std::process::Command;
use tests::guests::{Profile, program};
use tests::skip_without_kvm;

#[test]
fn a_tag_before_a_sort_is_an_undo() {
    skip_without_kvm!();
    let lab = Lab::new();
    let sam = lab.generate("a.sam", &["500"]);
    lab.ask(&["load", &sam]);
    let before = lab.ask(&["view", "-h"]);
    lab.ask(&["sort", "--tag", "loaded"]);
    let sorted = lab.ask(&["view", "-h"]);
    assert_ne!(before, sorted);
    same(&lab.ask(&["view", "-h", "--vas", "genome@loaded"]), &before, "the old version");
    let rolled_back = Command::new(program("spacejmp-cli", "spacejmp", Profile::Dev))
        .env("SPACEJMP_STORE", lab.file("store"))
        .args(["vas", "rollback", "genome", "loaded"])
        .output()
        .expect("run spacejmp");
    assert!(rolled_back.status.success(), "{rolled_back:?}");
    same(&lab.ask(&["view", "-h"]), &before, "rolled back");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_remedy() {
    skip_without_kvm!();
    let lab = Lab::new();
    let sam = lab.generate("a.sam", &["300"]);
    lab.ask(&["load", &sam]);
    for (args, expected) in [
        (&["index"][..], "genome sort"),
        (&["depth"], "genome sort"),
        (&["markdup"], "genome sort"),
        (&["view", "chr1"], "genome index"),
        (&["load", &sam], "spacejmp vas rm genome"),
        (&["flagstat", "--vas", "none"], "none"),
    ] {
        let ended = lab.genome(args);
        ended.expect(1, "");
        assert!(ended.err().contains(expected), "{args:?}: {}", ended.err());
    }
    let wrong = lab.genome(&["sort", "--by", "size"]);
    wrong.expect(2, "");
}

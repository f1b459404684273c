//! The examples `graph-build` and `graph-query`: a graph built by one VM is queried by others,
//! later and at the same time, and they answer what the native modes answer.

use std::path::Path;
use std::time::Duration;

use tests::guests::{Profile, program};
use tests::skip_without_kvm;
use tests::vm::{Ended, Run};

const QUERIES: [&str; 7] =
    ["stats", "degree 0", "degree 7", "reach 0 19", "reach 19 0", "reach 5 5", "degree 4000000"];

fn run(name: &str, dir: &Path, args: &[&str]) -> Run {
    let text = dir.to_string_lossy();
    Run::new(program("graph", name, Profile::Dev))
        .args(args)
        .dir(format!("{text}:{text}"))
        .store(dir.join("store"))
        .timeout(Duration::from_secs(120))
}

fn query(dir: &Path, source: &[&str]) -> Run {
    run("graph-query", dir, &[source, &QUERIES[..]].concat())
}

/// Standard output of a run that succeeded.
#[track_caller]
fn answers(ended: &Ended) -> String {
    ended.expect(0, &ended.out()).out()
}

/// Builds the graph of `edges` in VAS `links` and in a file, and queries all three forms.
fn build_and_ask(edges: &[u8]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let dir = folder.path();
    let (text, saved) = (dir.join("edges.txt"), dir.join("edges.bin"));
    std::fs::write(&text, edges).expect("write the edge list");
    let (text, saved) = (text.to_string_lossy(), saved.to_string_lossy());
    let built = answers(&run("graph-build", dir, &[&text, "--vas", "links"]).in_vm());
    let saved_too = answers(&run("graph-build", dir, &[&text, "--save", &saved]).native());
    assert_eq!(built, saved_too);

    let parsed = answers(&query(dir, &["--parse", &text]).native());
    let loaded = answers(&query(dir, &["--load", &saved]).native());
    assert_eq!(parsed, loaded);
    assert_eq!(parsed.lines().count(), QUERIES.len(), "{parsed}");
    let ours = answers(&query(dir, &["links"]).in_vm());
    assert_eq!(ours, parsed, "in the VAS, and parsed");
    (folder, parsed)
}

#[test]
fn vms_that_query_at_the_same_time_answer_as_the_native_modes_do() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let text = folder.path().join("power-law.txt");
    let made = std::process::Command::new(program("mkgraph", "mkgraph", Profile::Dev))
        .args(["20K".as_ref(), text.as_os_str()])
        .status()
        .expect("start mkgraph");
    assert!(made.success());
    let edges = std::fs::read(&text).expect("the edge list is there");
    let (folder, expected) = build_and_ask(&edges);
    assert!(expected.contains("20000 edges"), "{expected}");

    // Both are running before the test waits for either.
    let queries = QUERIES.map(|query| format!("{query}\n")).concat();
    let ask = || run("graph-query", folder.path(), &["links"]).stdin(queries.as_bytes()).start();
    let (first, second) = (ask().expect("a first VM"), ask().expect("a second VM"));
    let limit = Duration::from_secs(60);
    for asked in [first.wait(limit), second.wait(limit)] {
        assert_eq!(answers(&asked), expected);
    }
}

#[test]
fn a_graph_answers_the_same_read_only_and_with_all_rights_and_is_not_built_twice() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let dir = folder.path();
    let text = dir.join("edges.txt");
    std::fs::write(&text, "0 7\n7 19\n19 5\n").expect("write the edge list");
    let text = text.to_string_lossy();
    let args = [&text, "--vas", "links", "--lifetime", "persistent"];
    let built = run("graph-build", dir, &args).in_vm();
    built.expect(0, "4 nodes, 3 edges\n");
    let ask = |args: &[&str]| answers(&query(dir, args).in_vm());
    let expected = answers(&query(dir, &["--parse", &text]).native());
    assert_eq!(ask(&["links"]), expected);
    assert_eq!(ask(&["links", "--writable"]), expected);
    let again = run("graph-build", dir, &args).in_vm();
    again.expect(1, "");
    assert!(again.err().contains("`links`: file exists"), "the name is taken: {again:?}");
    assert_eq!(ask(&["links"]), expected, "what was there is as it was");
}

#[test]
fn edge_lists_from_the_wild_are_read() {
    skip_without_kvm!();
    let wild = b"# a comment\r\n% another\n\n0 7\r\n7\t19\n  19,5\n\r\n\t\n7 7\n0 7\n5  0 ";
    let (_, answers) = build_and_ask(wild);
    // The second `0 7` is a separate edge.
    assert!(answers.contains("4 nodes, 6 edges"), "{answers}");
    assert!(answers.contains("degree 0: 2"), "{answers}");
}

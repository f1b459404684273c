//! The example `wordindex` on real text and on a large one: what it prints in a VM is byte for
//! byte what it prints natively, from private memory and from an address space.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::guests::{Profile, program};
use tests::skip_without_kvm;
use tests::vm::Run;

const QUERIES: &[u8] =
    b"segment\naddress space\nfn self\nthe\nno such words anywhere\n:top 20\n:stats\n";

/// A run that makes the queries.
fn wordindex(args: &[&str]) -> Run {
    Run::new(program("wordindex", "wordindex", Profile::Release))
        .args(args)
        .stdin(QUERIES)
        .memory(2 << 30)
        .timeout(Duration::from_secs(240))
}

fn same(dir: &Path, threads: &str) -> String {
    let dir = dir.to_string_lossy();
    let run = wordindex(&["--threads", threads, &dir]).dir(format!("{dir}:{dir}:ro"));
    run.same_as_native().out()
}

/// The sources in this repository's folder `abi`.
fn abi() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../abi/src");
    root.canonicalize().expect("the repository is there")
}

#[test]
fn this_repositorys_own_text_gives_the_same_answers() {
    skip_without_kvm!();
    let answers = same(&abi(), "2");
    assert!(answers.contains("segment"), "{answers}");
}

#[test]
fn a_hundred_megabytes_give_the_same_answers() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let text = dir.path().join("big.txt");
    let made = std::process::Command::new(program("mktext", "mktext", Profile::Release))
        .arg("100M")
        .arg(&text)
        .status()
        .expect("start mktext");
    assert!(made.success());
    let bytes = std::fs::metadata(&text).expect("the text is there").len();
    assert!(bytes >= 100_000_000, "{bytes}");
    let answers = same(dir.path(), "2");
    assert!(answers.contains("files:"), "{answers}");
}

#[test]
fn an_index_in_an_address_space_gives_the_same_answers_in_later_vms() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = folder.path().join("store");
    let build = |grant: &Path, path: &Path| {
        let args = ["--threads", "2", "--vas", "books", &path.to_string_lossy()];
        let grant = grant.to_string_lossy();
        wordindex(&args).dir(format!("{grant}:{grant}:ro")).store(&store).in_vm()
    };
    let native = |path: &Path| {
        let ended = wordindex(&[&path.to_string_lossy()]).native();
        ended.expect(0, &ended.out()).out()
    };
    let expected = native(&abi());
    build(&abi(), &abi()).expect(0, &expected);

    // No directory is granted. Both are running before the test waits for either.
    let ask = || wordindex(&["--vas", "books"]).store(&store).start();
    let (first, second) = (ask().expect("a first VM"), ask().expect("a second VM"));
    let limit = Duration::from_secs(60);
    first.wait(limit).expect(0, &expected);
    second.wait(limit).expect(0, &expected);

    // Another index replaces it, but not an empty one.
    let other = folder.path().join("texts");
    std::fs::create_dir(&other).expect("make a directory");
    std::fs::write(other.join("a.txt"), "Self\nthe segment\nthe \u{3b1}\n").expect("write a text");
    let expected = native(&other);
    build(&other, &other).expect(0, &expected);
    let kept = build(&other, &other.join("none"));
    kept.expect(1, "");
    assert!(kept.err().contains("the index in `books` is what it was"), "{kept:?}");
    wordindex(&["--vas", "books"]).store(&store).in_vm().expect(0, &expected);
}

#[test]
fn an_index_is_replaced_as_a_whole() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = folder.path().join("store");
    let texts = ["the segment\n", "Self\nthe segment\nthe \u{3b1}\n"];
    for text in texts {
        let file = folder.path().join("a.txt");
        std::fs::write(&file, text).expect("write a text");
        let (dir, path) = (folder.path().to_string_lossy(), file.to_string_lossy());
        let native = wordindex(&[&path]).native();
        let expected = native.expect(0, &native.out()).out();
        let args = ["--vas", "books", &path];
        wordindex(&args).dir(format!("{dir}:{dir}:ro")).store(&store).in_vm().expect(0, &expected);
        wordindex(&["--vas", "books"]).store(&store).in_vm().expect(0, &expected);
    }
}

#[test]
fn an_address_space_needs_a_vm_and_an_index_in_it() {
    let text = abi();
    for args in [&["--vas", "books"][..], &["--vas", "books", &text.to_string_lossy()]] {
        let ended = wordindex(args).native();
        ended.expect(1, "");
        assert!(ended.err().contains("spacejmp run"), "{ended:?}");
    }
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ended = wordindex(&["--vas", "books"]).store(folder.path().join("store")).in_vm();
    ended.expect(1, "");
    assert!(ended.err().contains("`books`"), "{ended:?}");
}

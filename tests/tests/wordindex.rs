//! The example `wordindex` on real text and on a large one: what it prints in a VM is byte for
//! byte what it prints natively.

use std::path::Path;
use std::time::Duration;

use tests::guests::{Profile, program};
use tests::skip_without_kvm;
use tests::vm::Run;

const QUERIES: &[u8] =
    b"segment\naddress space\nfn self\nthe\nno such words anywhere\n:top 20\n:stats\n";

fn same(dir: &Path, threads: &str) -> String {
    let dir = dir.to_string_lossy().into_owned();
    Run::new(program("wordindex", "wordindex", Profile::Release))
        .args(&["--threads", threads, &dir])
        .dir(format!("{dir}:{dir}:ro"))
        .stdin(QUERIES)
        .memory(2 << 30)
        .timeout(Duration::from_secs(240))
        .same_as_native()
        .out()
}

#[test]
fn this_repositorys_own_text_gives_the_same_answers() {
    skip_without_kvm!();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../abi");
    let root = root.canonicalize().expect("the repository is there");
    let answers = same(&root, "2");
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

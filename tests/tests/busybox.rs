//! A third-party static program, Debian's busybox: what its applets print in a VM is byte for
//! byte what they print natively.
//!
//! The binary comes from the package `busybox-static`. Where it is not installed the tests are
//! skipped, with a message; with `SPACEJMP_REQUIRE_KVM=1`, as in CI, that is a failure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::vm::Run;
use tests::{pace, skip_without_kvm};

const BUSYBOX: &str = "/bin/busybox";

/// A directory with some text, some binary data, a tree and a link.
struct Data {
    dir: tempfile::TempDir,
}

impl Data {
    fn new() -> Data {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        let words = ["segment", "vas", "switch", "lock", "store", "tag", "root", "page"];
        let mut text = String::new();
        let mut state = 12345u64;
        for line in 0..pace::times(5000).max(500) {
            for _ in 0..7 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text += words[(state >> 33) as usize % words.len()];
                text.push(' ');
            }
            text += &format!("{}\n", line % 97);
        }
        std::fs::write(at("text"), &text).expect("write");
        let bytes: Vec<u8> =
            (0..pace::times(300_000).max(50_000)).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        std::fs::write(at("data"), bytes).expect("write");
        std::fs::create_dir_all(at("tree/a/b")).expect("mkdir");
        for i in 0..40 {
            std::fs::write(at(&format!("tree/a/file{i}")), format!("{i}\n")).expect("write");
        }
        std::os::unix::fs::symlink("a/file1", at("tree/link")).expect("symlink");
        Data { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn busybox() -> Option<PathBuf> {
    let candidates = [BUSYBOX, "/usr/bin/busybox"];
    candidates.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Runs `sh -c`-free applet command lines in `data`, both ways.
fn same(data: &Data, stdin: &[u8], line: &str) {
    let Some(busybox) = busybox() else {
        tests::kvm::skip("busybox", "the package busybox-static is not installed");
        return;
    };
    let dir = data.path().to_string_lossy().into_owned();
    let line = line.replace("{}", &dir);
    // A space inside an argument is written as a no-break space.
    let args: Vec<String> = line.split_whitespace().map(|a| a.replace('\u{a0}', " ")).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // User and group names come from /etc.
    let run = Run::new(busybox).args(&args).dir(dir).dir("/etc:/etc:ro").stdin(stdin);
    run.timeout(Duration::from_secs(60)).same_as_native();
}

#[test]
fn applets_print_what_they_print_natively() {
    skip_without_kvm!();
    let data = Data::new();
    for line in [
        "sha256sum {}/text {}/data",
        "md5sum {}/data",
        "sort {}/text",
        "sort -rn -k8 {}/text",
        "sort -u {}/text",
        "grep -n lock.store {}/text",
        "grep -c vas {}/text {}/data",
        "grep -r 7 {}/tree",
        "wc {}/text {}/data",
        "head -n 20 {}/text",
        "tail -c 1000 {}/data",
        "cut -d\u{a0} -f1 {}/text",
        "od -x {}/data",
        "hexdump -C {}/data",
        "cmp {}/text {}/data",
        "diff {}/tree/a/file1 {}/tree/a/file2",
        "find {}/tree -name file1* -type f",
        "ls -l {}/tree/a",
        "ls -la {}/tree/link",
        "du -s {}/tree/a/b",
        "stat -c %s%n%A {}/text",
        "readlink {}/tree/link",
        "tar -cf - -C {} tree",
        "gzip -c {}/text",
        "bzip2 -c {}/text",
        "base64 {}/data",
        "tr a-z A-Z",
        "awk {s+=$8}END{print(s,NR)} {}/text",
        "sed s/vas/VAS/g {}/text",
        "uniq -c {}/text",
        "expr 6 * 7",
        "seq 1 1000",
        "printf %08.3f\\n 3.14159",
        "dd if={}/data bs=4096 count=10 skip=3",
        "factor 1234567890123",
        "cal 2 2016",
        "date -u -d @1458000000",
        "basename {}/tree/a",
        "vi -h",
        "no-such-applet",
    ] {
        same(&data, b"some words for the applets that read them\n", line);
    }
}

#[test]
fn what_one_applet_packs_another_unpacks() {
    skip_without_kvm!();
    let Some(busybox) = busybox() else {
        tests::kvm::skip("busybox", "the package busybox-static is not installed");
        return;
    };
    let data = Data::new();
    let dir = data.path().to_string_lossy().into_owned();
    let run = |args: &[&str]| Run::new(&busybox).args(args).dir(dir.clone()).in_vm();
    // Not `tar -z`: busybox forks for it, and there is one process in a VM.
    let packed = format!("{dir}/packed.tar");
    std::fs::create_dir(data.path().join("out")).expect("mkdir");
    let out = format!("{dir}/out");
    run(&["tar", "-cf", &packed, "-C", &dir, "tree", "text"]).expect(0, "");
    run(&["gzip", &packed]).expect(0, "");
    run(&["gunzip", &format!("{packed}.gz")]).expect(0, "");
    run(&["tar", "-xf", &packed, "-C", &out]).expect(0, "");
    let native = |name: &str| std::fs::read(data.path().join(name)).expect("read");
    assert_eq!(native("out/text"), native("text"));
    assert_eq!(native("out/tree/a/file17"), b"17\n");
    assert_eq!(
        std::fs::read_link(data.path().join("out/tree/link")).expect("a link"),
        Path::new("a/file1")
    );
}

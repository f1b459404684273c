//! What a store guarantees while programs write, and when files are lost or of another version: no
//! torn copy, nothing created in place of what is lost, and errors that name the cause.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use tests::guests::rust;
use tests::skip_without_kvm;
use tests::vm::Run;
use vmm::store::{Chosen, DATA_OFFSET, Name, Store};
use vmm::vas::{content, snapshot};

/// Words of the guest's root object.
const FILLED: usize = 1 << 17;
/// How long the guest writes; copies are made at the same time.
const WRITING_MS: &str = "8000";
const COPIES: usize = 30;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn holder(store: &Path, args: &[&str]) -> Run {
    Run::new(rust("sdk_holder")).args(args).store(store)
}

/// The words of the root object of segment `segment`, read from its file.
fn root(store: &Store, segment: &str) -> Vec<u64> {
    let sid = store.find_segment(&name(segment)).expect("found");
    let record = store.segment(sid).expect("looked at");
    assert!(!record.inconsistent && !record.dirty(), "{segment} is clean");
    let offset = record.header.root.address - record.header.base;
    let file = File::open(store.path().join("segments").join(segment)).expect("opened");
    let mut bytes = vec![0; FILLED * 8];
    file.read_exact_at(&mut bytes, DATA_OFFSET + offset).expect("read");
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

#[track_caller]
fn assert_whole(words: &[u64], what: &str) -> u64 {
    let first = words[0];
    let torn = words.iter().filter(|word| **word != first).count();
    assert_eq!(torn, 0, "{what}: {torn} words are not {first}");
    first
}

#[test]
fn copies_and_archives_made_while_a_program_writes_are_of_one_moment() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    holder(&path, &["fill", "0"]).in_vm().expect(0, "");
    holder(&path, &["fill", "1"]).in_vm().expect(0, "filling\n");
    let writer = {
        let run = holder(&path, &["fill", WRITING_MS]);
        std::thread::spawn(move || run.in_vm())
    };
    let store = Store::open(&path).expect("opened");
    let sid = store.find_segment(&name("filled")).expect("found");
    let vid = store.find_vas(&name("filled")).expect("found");
    let limit = Some(Duration::from_secs(60));
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..COPIES {
        let copy = format!("copy{round}");
        content::clone_segment(&store, sid, None, &name(&copy), limit, &|| false).expect("copied");
        seen.insert(assert_whole(&root(&store, &copy), &copy));
        if round % 3 == 0 {
            let mut archive = Vec::new();
            let file = Path::new("archive");
            let whole = &Chosen::Whole(vid);
            snapshot::export(&store, whole, &mut archive, file, limit, &|| false, &mut |_| {})
                .expect("exported");
            let vas = format!("archive{round}");
            store
                .import_vas(&mut &*archive, file, Some(&name(&vas)), 0, &mut |_| {})
                .expect("imported");
            seen.insert(assert_whole(&root(&store, &format!("{vas}.filled")), &vas));
        }
    }
    writer.join().expect("no panic").expect(0, "filling\n");
    assert!(seen.len() > 1, "the program wrote meanwhile: {seen:?}");
}

#[test]
fn a_copy_waits_for_a_writer_no_longer_than_it_is_told_and_names_it() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    holder(&path, &["count", "1", "1"]).in_vm().expect(0, "entered 1 1\n");
    let store = Store::open(&path).expect("opened");
    let sid = store.find_segment(&name("shared")).expect("found");
    let writer = {
        let run = holder(&path, &["hold"]).timeout(Duration::from_secs(60));
        std::thread::spawn(move || run.in_vm())
    };
    while store.segment(sid).expect("looked at").attachers.is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // It attaches a little before it is inside.
    let limit = Some(Duration::from_millis(300));
    let error = loop {
        match content::clone_segment(&store, sid, None, &name("copy"), limit, &|| false) {
            Err(error) => break error,
            Ok(copy) => store.delete_segment(copy).expect("deleted"),
        }
    };
    let text = error.to_string();
    assert!(text.starts_with("segment 'shared' is locked by process "), "{text}");
    assert!(text.contains("sdk_holder"), "{text}");
    assert!(store.find_segment(&name("copy")).is_err(), "nothing is left of it");
    // It stays inside until its time is over; nothing waits for that.
    drop(writer);
}

#[test]
fn nothing_is_made_in_the_stead_of_a_segment_that_was_lost() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    let aside = folder.path().join("aside");
    holder(&path, &["fill", "1"]).in_vm().expect(0, "filling\n");
    let store = Store::open(&path).expect("opened");
    let (vas, filled) = (name("filled"), path.join("segments/filled"));
    let vid = store.find_vas(&vas).expect("found");
    fs::rename(&filled, &aside).expect("moved away");
    let ended = holder(&path, &["reopen"]).in_vm();
    let out = ended.out();
    assert!(out.contains("of address space `filled` is not in the store"), "{out}");
    assert!(!filled.exists(), "nothing was made");
    assert_eq!(store.vas(vid).expect("read").segments.len(), 1);
    let report = store.check_vas(&vas).expect("checked");
    let sid = store.vas(vid).expect("read").segments[0].sid;
    let told = format!("`spacejmp vas detach filled {sid}`");
    assert!(report.findings.iter().any(|f| f.expected.contains(&told)), "{report:?}");
    fs::rename(&aside, &filled).expect("moved back");
    holder(&path, &["reopen"]).in_vm().expect(0, &format!("{FILLED} words\n"));

    // Repair by id, even if another segment has the name.
    fs::rename(&filled, &aside).expect("moved away");
    let spec = vmm::store::SegmentSpec::new(4096);
    let other = store.create_segment(&name("filled"), &spec).expect("made");
    store.attach_segment(vid, other, abi::Right::Write).expect("attached");
    let error = store.listed_segment(vid, &vas).expect_err("two have the name");
    assert!(error.to_string().contains(&sid.to_string()), "{error}");
    let by_id = store.listed_segment(vid, &name(&sid.to_string())).expect("by its id");
    store.detach_segment(vid, by_id).expect("detached");
    assert_eq!(store.listed_segment(vid, &vas).expect("one has the name"), other);
}

/// Changes bytes of a segment file's header as another version would, with the right checksum.
fn change_header(file: &Path, at: usize, bytes: &[u8]) {
    let file = File::options().read(true).write(true).open(file).expect("opened");
    let mut header = [0; 512];
    file.read_exact_at(&mut header, 0).expect("read");
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32fast::hash(&header[..508]);
    header[508..].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, 0).expect("written");
}

#[test]
fn a_program_learns_why_its_space_cannot_be_opened() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    holder(&path, &["fill", "1"]).in_vm().expect(0, "filling\n");
    let filled = path.join("segments/filled");
    let whole = File::options().read(true).write(true).open(&filled).expect("opened");
    let len = whole.metadata().expect("looked at").len();
    let told = || holder(&path, &["reopen"]).in_vm().out();

    change_header(&filled, 8, &[2]);
    assert!(told().contains("made by a newer spacejmp"), "version: {}", told());
    change_header(&filled, 8, &[1]);

    whole.write_all_at(&[7], 48).expect("damaged");
    assert!(told().contains("its file is damaged"), "size: {}", told());
    whole.write_all_at(&[0], 48).expect("mended");

    whole.set_len(len - 4096).expect("shortened");
    assert!(told().contains("its file is shorter than it must be"), "length: {}", told());
    whole.set_len(len).expect("lengthened");

    // The heap's own version.
    let mut version = [0; 4];
    whole.read_exact_at(&mut version, DATA_OFFSET + 8).expect("read");
    whole.write_all_at(&[9], DATA_OFFSET + 8).expect("changed");
    let text = told();
    assert!(text.contains("the heap has format 9"), "{text}");
    whole.write_all_at(&version, DATA_OFFSET + 8).expect("changed back");

    holder(&path, &["reopen"]).in_vm().expect(0, &format!("{FILLED} words\n"));
}

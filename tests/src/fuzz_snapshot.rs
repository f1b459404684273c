//! What a snapshot says, of any bytes: refused, or written back with the same meaning.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use vmm::files::{KeptFiles, KeptMapping, MemoryAccount};
use vmm::linux::snapshot::head::{Head, KeptProcess};
use vmm::process_tree::wire::Writer;
use vmm::vas::attach::kept::KeptVases;
use vmm::vm::MemoryLedger;

/// A process whose registers, limits and signals are zeros, with these bytes for its files, its mapped files, its
/// threads besides the first, and its memory.
fn process(files: &[u8], mapped: &[u8], threads: &[u8], region: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    // 18 registers, bases and mask, the alternate stack, two addresses of the thread's number.
    out.words(&[0; 26]);
    out.bytes(b"name");
    out.bytes(&[0; 4096]);
    // Its number and its locks; 16 limits; 64 actions; settings.
    out.words(&[0; 2]);
    out.words(&[0; 32]);
    out.words(&[0; 4 * 64]);
    out.words(&[0; 3]);
    out.bytes(b"/program");
    out.bytes(b"program");
    out.words(&[0; 5]);
    out.bytes(b"auxiliary");
    for part in [files, mapped, threads, region] {
        out.bytes(part);
    }
    out.finish()
}

/// One thread, whose number, locks and registers are these bytes, as far as they go.
fn thread(bytes: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    let (words, _) = bytes.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    out.words(&[1]);
    out.words(&[(); 28].map(|()| words.next().unwrap_or(1)));
    out.bytes(b"name");
    out.bytes(&[0; 4096]);
    out.finish()
}

/// Decodes any bytes as each part of a snapshot. Returns how much of it was accepted.
///
/// # Panics
/// When what was accepted is not written back with the same meaning.
pub fn snapshot(bytes: &[u8]) -> u32 {
    let account: Arc<dyn MemoryAccount> = Arc::new(MemoryLedger::default());
    let mut accepted = 0;
    if let Ok(head) = Head::decode(bytes) {
        accepted += 1;
        assert_eq!(head.encode(), bytes);
    }
    if let Some(kept) = KeptVases::decode(bytes) {
        accepted += 1;
        assert_eq!(KeptVases::encode(kept.as_ref()), bytes);
    }
    let files = KeptFiles { cwd: b"/".to_vec(), ..KeptFiles::default() };
    if let Some(files) = KeptFiles::decode(bytes) {
        accepted += 1;
        assert_eq!(KeptFiles::decode(&files.encode()), Some(files));
    }
    if let Some(mapped) = KeptMapping::decode(bytes) {
        accepted += 1;
        assert_eq!(KeptMapping::decode(&KeptMapping::encode(&mapped)), Some(mapped));
    }
    let (files, mapped) = (files.encode(), KeptMapping::encode(&[]));
    let (none, one) = ([0; 8], thread(bytes));
    for bytes in [
        bytes.to_vec(),
        process(bytes, &mapped, &none, &[]),
        process(&files, bytes, &none, &[]),
        process(&files, &mapped, bytes, &[]),
        process(&files, &mapped, &one, &[]),
        process(&files, &mapped, &none, bytes),
    ] {
        let Ok(kept) = KeptProcess::decode(&bytes) else { continue };
        accepted += 1;
        let numbers: BTreeSet<u32> = kept.others.iter().map(|thread| thread.tid).collect();
        assert_eq!(numbers.len(), kept.others.len(), "each thread has a number of its own");
        let null = File::open("/dev/null").expect("every host has it");
        accepted += u32::from(kept.region(vec![null], &account).is_ok());
        let _ = kept.at_random();
    }
    accepted
}

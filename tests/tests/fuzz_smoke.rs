//! The fuzz targets' entry points with a few thousand random inputs, on any toolchain.
//!
//! `fuzz/` feeds the same functions from libFuzzer; the ELF loader's share is in `elf.rs`.

use std::collections::BTreeMap;

use abi::objects::Right;
use tests::skip_without_kvm;
use tests::{fuzz, fuzz_handover, fuzz_snapshot, fuzz_sysv, guests, pace};
use vmm::process::Outcome;
use vmm::store::{Mode, Name, SegmentSpec, Store};

/// Random bytes that are the same in every run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn random_system_calls_never_harm_the_vmm() {
    skip_without_kvm!();
    let program = guests::rust("fuzz_calls");
    let asked = std::env::var("SPACEJMP_FUZZ_SEEDS").ok().and_then(|n| n.parse().ok());
    let seeds = asked.unwrap_or_else(|| pace::times(60).max(8).into());
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..seeds {
        // About 25 bytes per call.
        let ended = fuzz::calls(&program, &noise(seed, 2000));
        let name = match ended.outcome {
            Outcome::Exited(status) => format!("exited {status}"),
            Outcome::Killed { signal, .. } => format!("signal {signal}"),
            other => format!("{other:?}"),
        };
        *outcomes.entry(name).or_default() += 1;
    }
    println!("{outcomes:?}");
    let whole = outcomes.get("exited 0").copied().unwrap_or(0);
    assert!(whole * 4 > seeds as u32, "too few came to the end of their input: {outcomes:?}");
}

#[test]
fn random_headers_manifests_and_archives_are_refused_or_sound() {
    for seed in 0..pace::times(3000).into() {
        fuzz::header(&noise(seed, 508));
        fuzz::manifest(&noise(seed, 200));
        fuzz::archive(&noise(seed, 300));
    }
}

#[test]
fn random_messages_between_vmms_are_refused_or_sound() {
    let mut accepted = 0;
    for seed in 0..pace::times(3000).into() {
        let mut bytes = noise(seed, 400);
        fuzz_handover::handover(&bytes, seed as u8);
        // Small words are counts, numbers of files and kinds; pages are addresses.
        for (word, at) in bytes.chunks_exact_mut(8).zip(0..) {
            let number = u64::from(word[0] % 4);
            let address = (0x40_0000 + (at + number) * 4096).to_le_bytes();
            let small = number.to_le_bytes();
            word.copy_from_slice(if word[1] % 3 == 0 { &address } else { &small });
        }
        accepted += fuzz_handover::handover(&bytes, seed as u8);
        bytes.fill(0);
        accepted += fuzz_handover::handover(&bytes, seed as u8);
    }
    assert!(accepted > 0, "nothing was accepted");
}

#[test]
fn random_snapshots_are_refused_or_sound() {
    let mut accepted = 0;
    for seed in 0..pace::times(3000).into() {
        let mut bytes = noise(seed, 400);
        fuzz_snapshot::snapshot(&bytes);
        for (word, at) in bytes.chunks_exact_mut(8).zip(0..) {
            let number = u64::from(word[0] % 4);
            let address = (0x40_0000 + (at + number) * 4096).to_le_bytes();
            let small = number.to_le_bytes();
            word.copy_from_slice(if word[1] % 3 == 0 { &address } else { &small });
        }
        accepted += fuzz_snapshot::snapshot(&bytes);
        bytes.fill(0);
        accepted += fuzz_snapshot::snapshot(&bytes);
    }
    assert!(accepted > 0, "nothing was accepted");
}

#[test]
fn random_questions_about_system_v_objects_are_refused_or_answered_once() {
    let answered: u32 =
        (0..pace::times(3000).into()).map(|seed| fuzz_sysv::questions(&noise(seed, 2000))).sum();
    assert!(answered > 0, "nothing was answered");
}

#[test]
fn random_files_of_versioned_segments_are_refused_or_sound() {
    let mut accepted = 0;
    for seed in 0..pace::times(3000).into() {
        // Of a map of pages, whole groups of 64 bytes.
        let len = [64, 300, 4096, 8192][seed as usize % 4];
        accepted += fuzz::versions_files(&noise(seed, len));
        // Behind a magic number, fields decide.
        for magic in [&b"SJRC"[..], b"SJRJ\x02", b"SJMPLOG\n\x01\0\0\0", b"SJMPRT2\n", b"SJMPROT\n"]
        {
            let mut bytes = magic.to_vec();
            bytes.extend(noise(seed, 250));
            // Small numbers are the likely ones.
            bytes[magic.len()..]
                .iter_mut()
                .skip(1)
                .step_by(1 + seed as usize % 5)
                .for_each(|it| *it = 0);
            let counts = bytes.get_mut(24..32).expect("there are so many");
            counts.fill(0);
            accepted += fuzz::versions_files(&bytes);
        }
    }
    assert!(accepted > 0, "nothing was accepted");
}

#[test]
fn a_versioned_segment_with_any_bytes_changed_is_refused_or_sound() {
    assert!(fuzz::versions_segment(&[]), "what it begins with is sound");
    let rounds: u64 = pace::times(3000).into();
    let opens = |seed: &u64| fuzz::versions_segment(&noise(*seed, 6 + *seed as usize % 5 * 6));
    let opened = (0..rounds).filter(opens).count() as u64;
    assert!(opened > 0 && opened < rounds, "{opened} of {rounds} opened");
}

#[test]
fn a_heap_with_any_words_changed_is_checked_without_harm() {
    for choice in 0..3 {
        assert!(fuzz::heap(&[choice]), "what it begins with is sound");
    }
    let rounds: u64 = pace::times(3000).into();
    // One change usually does damage, but not always: some words mean nothing.
    let sound = (0..rounds).filter(|seed| fuzz::heap(&noise(*seed, 11 + *seed as usize % 4 * 10)));
    let sound = sound.count() as u64;
    assert!(sound > 0 && sound < rounds, "{sound} of {rounds} were sound");
}

#[test]
fn random_names_and_control_messages_of_sockets_are_refused_or_mean_the_same() {
    let mut accepted = 0;
    for seed in 0..pace::times(20_000).into() {
        let mut bytes = noise(seed, seed as usize % 130);
        accepted += u32::from(fuzz::sockets(&bytes));
        // A likely family, length, level and type.
        let choice = seed as usize % 7;
        let heads = [
            &[1, 0][..],
            &[2, 0],
            &[10, 0],
            &[16, 0],
            &[0, 0],
            &[20, 0, 0, 0, 0, 0, 0, 0],
            &[24, 0, 0, 0, 18, 0],
        ];
        let head = heads[choice];
        bytes.splice(..head.len().min(bytes.len()), head.iter().copied());
        if choice == 5 && bytes.len() >= 16 {
            bytes[8..16].copy_from_slice(&[1, 0, 0, 0, 1 + seed as u8 % 2, 0, 0, 0]);
        }
        accepted += u32::from(fuzz::sockets(&bytes));
    }
    assert!(accepted > 100, "{accepted} were accepted");
}

#[test]
fn random_requests_to_a_control_socket_are_answered_or_end_the_connection() {
    let mut answered = 0;
    for seed in 0..pace::times(3000).into() {
        let mut bytes = noise(seed, 1 + seed as usize % 200);
        answered += u32::from(fuzz::control_requests(&bytes));
        // A question, whole, or with something else in front, inside or behind.
        let question: &[u8] = [&b"report\n"[..], b"alive\n", b"trace\n"][seed as usize % 3];
        let at = 1 + (seed as usize / 3 % 40).saturating_sub(30);
        let end = (at + question.len()).min(bytes.len());
        bytes.splice(at.min(end)..end, question.iter().copied());
        answered += u32::from(fuzz::control_requests(&bytes));
    }
    assert!(answered > 0, "nothing was answered");
}

#[test]
fn random_packets_of_gdb_are_answered_by_packets() {
    const STARTS: [&[u8]; 24] = [
        b"g",
        b"G",
        b"p",
        b"P1=",
        b"m1000,",
        b"M1000,2:",
        b"X1000,2:",
        b"Z0,1000,1",
        b"z0,",
        b"Hg",
        b"T",
        b"vCont;",
        b"vCont;c:",
        b"vFile:open:",
        b"vFile:pread:1,",
        b"vFile:close:",
        b"qXfer:features:read:target.xml:",
        b"qXfer:threads:read::",
        b"qXfer:siginfo:read::",
        b"qXfer:auxv:read::",
        b"qRcmd,",
        b"QPassSignals:",
        b"qThreadExtraInfo,",
        b"qfThreadInfo",
    ];
    const LIKELY: &[u8] = b"0123456789abcdef,;:=p.-\n}#$*";
    let mut answered = 0;
    for seed in 0..pace::times(3000).into() {
        let mut bytes = noise(seed, 300);
        answered += fuzz::gdb_packets(&bytes);
        for (at, byte) in bytes.iter_mut().enumerate() {
            if at % 11 != 10 {
                *byte = LIKELY[usize::from(*byte) % LIKELY.len()];
            }
        }
        let start = STARTS[seed as usize % STARTS.len()];
        bytes.splice(..start.len(), start.iter().copied());
        answered += fuzz::gdb_packets(&bytes);
    }
    assert!(answered > 0, "nothing was answered");
}

/// Random bytes hardly ever get past a magic number, so here everything but one is right.
#[test]
fn a_store_with_any_one_byte_changed_is_refused_or_sound() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open_or_create(&folder.path().join("store")).expect("a new store");
    let name = |text: &str| Name::new(text.as_bytes()).expect("a name");
    let sid = store.create_segment(&name("s"), &SegmentSpec::new(1 << 20)).expect("made");
    let file = store.open_segment(sid).expect("it is there").part(0).expect("one part");
    rustix::io::pwrite(file.fd(), b"content", file.offset()).expect("written");
    let vid = store.create_vas(&name("v"), Mode::PRIVATE).expect("made");
    store.attach_segment(vid, sid, Right::Write).expect("attached");
    let mut archive = Vec::new();
    vmm::vas::snapshot::export(
        &store,
        &vmm::store::Chosen::Whole(vid),
        &mut archive,
        "archive".as_ref(),
        None,
        &|| false,
        &mut |_| {},
    )
    .expect("exported");
    let read = |path: &str| std::fs::read(store.path().join(path)).expect("it is there");
    let manifest = read("vas/v/manifest");
    let lines = manifest.split_inclusive(|byte| *byte == b'\n').skip(1);
    let lines: Vec<u8> =
        lines.take_while(|l| !l.starts_with(b"checksum")).flatten().copied().collect();
    assert_eq!(vmm::store::fuzz::manifest_lines(&lines[..lines.len() - 1]).ok(), Some(true));
    let header = read("segments/s")[..512].to_vec();
    assert_eq!(vmm::store::fuzz::header(&header).ok(), Some(true));
    assert_eq!(vmm::store::fuzz::archive(&archive, true).ok(), Some(5));
    type Target = (Vec<u8>, fn(&[u8]));
    let targets: [Target; 4] = [
        (header, fuzz::header),
        (manifest, fuzz::manifest),
        (lines, fuzz::manifest),
        (archive, fuzz::archive),
    ];
    for (bytes, target) in targets {
        for (at, byte) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, 1 << bit))) {
            let mut changed = bytes.clone();
            changed[at] ^= byte;
            target(&changed);
            target(&bytes[..at]);
        }
    }
}

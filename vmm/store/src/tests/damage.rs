//! Damaged files: one error that names file and field, and nothing else is harmed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use abi::Errno;
use abi::layout::VAS_START;
use abi::objects::{Durability, LeaseId, Lifetime, PagePolicy, Right, SegId, SegRoot, VasId};
use proptest::prelude::*;

use crate::format::header::{
    BootId, FIELDS, Field, HEADER_BYTES, Header, KeptVersion, SegmentState,
};
use crate::format::manifest::Manifest;
use crate::testing::{name, segment, store};
use crate::{Mode, Store, StoreError, VasSegment};

fn header() -> Header {
    Header {
        compatible_features: 0,
        sid: SegId::new(0x0123_4567_89ab_cdef).unwrap(),
        name: name("graph"),
        base: VAS_START.raw() + (1 << 30),
        size_bytes: 0x5000,
        reserve_bytes: 4 << 20,
        pages: PagePolicy::Large2M,
        lifetime: Lifetime::Persistent,
        durability: Durability::Each,
        lockable: true,
        state: SegmentState::Dirty,
        used: true,
        lease: LeaseId::new(0x1122),
        boot: BootId(*b"0123456789abcdef"),
        root: SegRoot { address: VAS_START.raw() + (1 << 30) + 16, fingerprint: [7, 8] },
        created_ns: 1_700_000_000_000_000_000,
        kept: None,
    }
}

fn field(text: &str) -> Field {
    *FIELDS.iter().find(|field| field.name == text).unwrap()
}

/// With the checksum right again, as an attacker would write it.
fn forged(change: impl FnOnce(&mut [u8])) -> [u8; HEADER_BYTES] {
    let mut bytes = header().encode();
    change(&mut bytes);
    let sum = crc32fast::hash(&bytes[..508]);
    bytes[508..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn damaged_field(error: &StoreError) -> &'static str {
    match error {
        StoreError::BadField { field, file, .. } => {
            assert_eq!(error.errno(), Errno::EUCLEAN);
            assert!(error.to_string().contains(&file.display().to_string()), "{error}");
            field
        }
        StoreError::NotA { .. } => "magic",
        StoreError::Newer { field, .. } => field,
        StoreError::Foreign { .. } => "arch",
        StoreError::Short { .. } => "length",
        other => panic!("{other}"),
    }
}

/// If this fails, the format has changed: existing stores cannot be read any more. Raise the
/// version instead (docs/src/store.md), and keep reading the old one.
#[test]
fn the_header_is_these_bytes() {
    let mut golden = [0; HEADER_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        golden[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"SJMPSEG\n\x01\0\0\0\x01\0\0\0");
    put(32, &[0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]);
    put(40, &[0, 0, 0, 0x40, 0, 0x10, 0, 0]);
    put(48, &[0, 0x50]);
    put(56, &[0, 0, 0x40]);
    put(64, &[0, 0, 0, 0, 0, 8, 0, 0]);
    put(72, &0x1797_9cfe_362a_0000_u64.to_le_bytes());
    put(80, &[16, 0, 0, 0x40, 0, 0x10, 0, 0]);
    put(88, &[7]);
    put(96, &[8]);
    put(104, &[0x22, 0x11]);
    put(112, b"0123456789abcdef\x02\0\x01\x01\x01");
    put(142, b"\x05\0graph");
    let sum = golden_sum(&golden);
    golden[508..].copy_from_slice(&sum);
    assert_eq!(header().encode(), golden);
    assert_eq!(Header::decode(&golden, Path::new("x")).unwrap(), header());
}

#[test]
fn the_header_of_a_versioned_segment_is_these_bytes() {
    let versioned = || Header { lifetime: Lifetime::Versioned, ..header() };
    let mut golden = header().encode();
    golden[24] = 1;
    golden[129] = 2;
    let sum = golden_sum(&golden);
    golden[508..].copy_from_slice(&sum);
    assert_eq!(versioned().encode(), golden);
    assert_eq!(Header::decode(&golden, Path::new("x")).unwrap(), versioned());
    let without_lock = Header { lockable: false, ..versioned() }.encode();
    let error = Header::decode(&without_lock, Path::new("x")).unwrap_err();
    assert_eq!(damaged_field(&error), "lockable");
}

#[test]
fn the_header_of_a_kept_version_is_these_bytes() {
    let of = SegId::new(0x77).unwrap();
    let kept = |kept| Header { lifetime: Lifetime::Versioned, kept, ..header() };
    let mut golden = kept(None).encode();
    golden[24] = 3;
    golden[492] = 0x77;
    golden[500..502].copy_from_slice(&[0x34, 0x12]);
    let sum = golden_sum(&golden);
    golden[508..].copy_from_slice(&sum);
    let version = Some(KeptVersion { of, number: 0x1234 });
    assert_eq!(kept(version).encode(), golden);
    assert_eq!(Header::decode(&golden, Path::new("x")).unwrap(), kept(version));
    // Version 0 can be kept, too.
    let empty = kept(Some(KeptVersion { of, number: 0 }));
    assert_eq!(Header::decode(&empty.encode(), Path::new("x")).unwrap(), empty);
    let raw = Header { lifetime: Lifetime::Persistent, ..empty }.encode();
    let error = Header::decode(&raw, Path::new("x")).unwrap_err();
    assert_eq!(damaged_field(&error), "kept version of");
}

/// CRC-32 bit by bit, so that a change of the crate would show.
fn golden_sum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = !0_u32;
    for byte in &bytes[..508] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    (!crc).to_le_bytes()
}

#[test]
fn a_field_with_an_impossible_value_is_named_even_under_a_right_checksum() {
    let table: &[(&str, &[u8])] = &[
        ("magic", b"X"),
        ("version", &[2]),
        ("version", &[0]),
        ("arch", &[9]),
        ("incompatible features", &[1]),
        ("incompatible features", &[2]),
        ("incompatible features", &[4]),
        ("kept version of", &[0xff; 8]),
        ("kept version of", &[1]),
        ("kept version's number", &[1]),
        ("sid", &[0; 8]),
        ("sid", &[0xff; 8]),
        ("base", &[1]),
        ("base", &[0; 8]),
        ("base", &[0, 0, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("size", &[0; 8]),
        ("size", &[1]),
        ("size", &[0, 0, 0x41]),
        ("size", &[0xff; 8]),
        ("reserve", &[0; 8]),
        ("reserve", &[1]),
        ("reserve", &[0, 0, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("part size", &[1]),
        ("root address", &[0, 0, 0, 0x3f]),
        ("root address", &[0xff; 8]),
        ("lease", &[0xff; 8]),
        ("pages", &[3]),
        ("lifetime", &[3]),
        ("lockable", &[2]),
        ("state", &[2]),
        ("used", &[0xff]),
        ("reserved, first", &[1]),
        ("reserved, second", &[1]),
        ("reserved, third", &[1]),
        ("durability", &[1]),
        ("name length", &[0]),
        ("name length", &[0, 1]),
        ("name length", &[0xff, 0xff]),
        ("name", b"a/b"),
        ("name", b"\xff"),
        ("name", b"graphs"),
    ];
    for (text, bytes) in table {
        let at = field(text).offset;
        let bytes = forged(|raw| raw[at..at + bytes.len()].copy_from_slice(bytes));
        let error = Header::decode(&bytes, Path::new("x")).unwrap_err();
        assert_eq!(damaged_field(&error), *text, "{error}");
    }
}

#[test]
fn one_wrong_bit_anywhere_in_any_field_is_noticed() {
    let good = header().encode();
    for field in FIELDS {
        for byte in field.offset..field.offset + field.bytes {
            for bit in 0..8 {
                let mut bytes = good;
                bytes[byte] ^= 1 << bit;
                let error = Header::decode(&bytes, Path::new("x")).unwrap_err();
                let named = damaged_field(&error);
                assert!(
                    named == field.name || named == "checksum" || related(named, field.name),
                    "{} byte {byte} bit {bit}: {error}",
                    field.name
                );
            }
        }
    }
}

/// A wrong base makes size, reserve or root impossible, and so on.
fn related(named: &str, damaged: &str) -> bool {
    matches!(
        (named, damaged),
        ("reserve" | "root address", "base")
            | ("size" | "root address", "reserve")
            | ("name", "name length")
            | ("incompatible features", "lifetime")
    )
}

proptest! {
    #[test]
    fn whatever_is_in_a_header_it_is_the_same_record_or_a_named_field(
        flips in proptest::collection::vec((0..HEADER_BYTES, any::<u8>()), 0..20),
        forge in any::<bool>(),
    ) {
        let change = |raw: &mut [u8]| flips.iter().for_each(|(at, value)| raw[*at] = *value);
        let bytes = if forge { forged(change) } else {
            let mut bytes = header().encode();
            change(&mut bytes);
            bytes
        };
        match Header::decode(&bytes, Path::new("x")) {
            Ok(decoded) => prop_assert_eq!(decoded.encode(), bytes),
            Err(error) => { damaged_field(&error); }
        }
    }

    #[test]
    fn whatever_is_in_a_manifest_it_is_the_same_record_or_a_named_field(
        at in 0..400_usize, value in any::<u8>(), cut in 0..400_usize,
    ) {
        let mut bytes = manifest().encode().into_bytes();
        if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        bytes.truncate(bytes.len().max(cut) - cut / 4);
        match Manifest::decode(&bytes, Path::new("x")) {
            Ok(decoded) => prop_assert_eq!(decoded, manifest()),
            Err(error) => { damaged_field(&error); }
        }
    }

    #[test]
    fn nonsense_is_no_manifest(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        damaged_field(&Manifest::decode(&bytes, Path::new("x")).unwrap_err());
    }
}

fn manifest() -> Manifest {
    let segment =
        |sid, right, text| VasSegment { sid: SegId::new(sid).unwrap(), right, name: name(text) };
    Manifest {
        vid: VasId::new(0x00c0_ffee).unwrap(),
        name: name("m\nap"),
        tagged: true,
        numbers_after: 0,
        segments: vec![segment(1, Right::Write, "a b"), segment(0xff, Right::Read, "%")],
    }
}

/// If this fails, the format has changed; see `the_header_is_these_bytes`.
#[test]
fn the_manifest_is_this_text() {
    let text = "spacejmp vas 1\nvid 0000000000c0ffee\nname m%0aap\ntagged yes\n\
                segment 0000000000000001 write a b\nsegment 00000000000000ff read %25\n";
    let text = format!("{text}checksum {:08x}\n", crc32fast::hash(text.as_bytes()));
    assert_eq!(manifest().encode(), text);
    assert_eq!(Manifest::decode(text.as_bytes(), Path::new("x")).unwrap(), manifest());
    let numbered = Manifest { numbers_after: 17, segments: Vec::new(), ..manifest() };
    let text = "spacejmp vas 2\nvid 0000000000c0ffee\nname m%0aap\ntagged yes\nnumbers 17\n";
    let text = format!("{text}checksum {:08x}\n", crc32fast::hash(text.as_bytes()));
    assert_eq!(numbered.encode(), text);
    assert_eq!(Manifest::decode(text.as_bytes(), Path::new("x")).unwrap(), numbered);
}

#[test]
fn a_manifest_with_an_impossible_line_names_it_even_under_a_right_checksum() {
    let good = manifest().encode();
    let table = [
        ("version", "spacejmp vas 1", "spacejmp vas 3"),
        ("magic", "spacejmp vas 1", ""),
        ("vid", "vid 0000000000c0ffee", "vid 0000000000000000"),
        ("vid", "vid 0000000000c0ffee", "vid c0ffee"),
        ("vid", "vid 0000000000c0ffee", "vi 0000000000c0ffee"),
        ("name", "name m%0aap", "name a/b"),
        ("name", "name m%0aap", "name %"),
        ("name", "name m%0aap", "name "),
        ("tagged", "tagged yes", "tagged maybe"),
        ("segment", "0001 write", "0001 execute"),
        ("segment", "segment 0000000000000001", "segment 0000000000000000"),
        ("segment", "segment 0000000000000001", "segment 00000000000000ff"),
        ("segment", "read %25", "read "),
        ("line", "segment 0000000000000001", "segmint 0000000000000001"),
        ("line", "read %25", "read %25\nmore"),
        ("checksum", "checksum", "chucksum"),
    ];
    for (field, from, to) in table {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1);
        let body = &text[..text.rfind("ch").unwrap()];
        let sum = crc32fast::hash(body.as_bytes());
        let text = match field {
            "checksum" => text,
            _ => format!("{body}checksum {sum:08x}\n"),
        };
        let error = Manifest::decode(text.as_bytes(), Path::new("x")).unwrap_err();
        assert_eq!(damaged_field(&error), field, "{text}: {error}");
    }
    let short = &good[..good.len() - 1];
    assert_eq!(
        damaged_field(&Manifest::decode(short.as_bytes(), Path::new("x")).unwrap_err()),
        "checksum"
    );
}

#[test]
fn a_damaged_object_is_listed_as_damaged_and_harms_no_other() {
    let s = store();
    let (bad, good) = (segment(&s, "bad"), segment(&s, "good"));
    let vid = s.create_vas(&name("good"), Mode::PRIVATE).unwrap();
    s.create_vas(&name("bad"), Mode::PRIVATE).unwrap();
    let segments = s.path().join("segments");
    let file = fs::File::options().write(true).open(segments.join("bad")).unwrap();
    file.write_all_at(&[0xff], 52).unwrap();
    fs::write(s.path().join("vas/bad/manifest"), "spacejmp vas 1\n").unwrap();
    fs::create_dir(segments.join("folder")).unwrap();
    std::os::unix::fs::symlink("good", segments.join("link")).unwrap();
    fs::write(segments.join("empty"), "").unwrap();
    fs::write(s.path().join("vas/file"), "").unwrap();
    fs::create_dir(s.path().join("vas/empty")).unwrap();
    assert_eq!(damaged_field(&s.find_segment(&name("bad")).unwrap_err()), "size");
    assert_eq!(damaged_field(&s.open_segment(bad).unwrap_err()), "size");
    assert_eq!(damaged_field(&s.find_segment(&name("empty")).unwrap_err()), "length");
    assert_eq!(damaged_field(&s.find_segment(&name("folder")).unwrap_err()), "type");
    assert_eq!(damaged_field(&s.find_segment(&name("link")).unwrap_err()), "type");
    assert_eq!(damaged_field(&s.find_vas(&name("bad")).unwrap_err()), "checksum");
    assert_eq!(damaged_field(&s.find_vas(&name("file")).unwrap_err()), "type");
    assert!(s.find_vas(&name("empty")).is_err());
    let fine = |list: Vec<(bool, String)>| {
        list.into_iter().filter(|(ok, _)| *ok).map(|(_, name)| name).collect::<Vec<_>>()
    };
    let segments = s.list_segments().unwrap();
    assert_eq!(segments.len(), 5);
    let segments = segments.iter().map(|e| (e.record.is_ok(), e.name.to_string())).collect();
    assert_eq!(fine(segments), ["good"]);
    let vases =
        s.list_vases().unwrap().iter().map(|e| (e.record.is_ok(), e.name.to_string())).collect();
    assert_eq!(fine(vases), ["good"]);
    s.attach_segment(vid, good, Right::Write).unwrap();
    s.open_segment(good).unwrap();
    segment(&s, "new");
    assert_eq!(s.create_vas(&name("bad"), Mode::PRIVATE).unwrap_err().errno(), Errno::EEXIST);
}

#[test]
fn a_shortened_file_is_refused_before_anybody_maps_it() {
    let s = store();
    let sid = segment(&s, "x");
    let file = fs::File::options().write(true).open(s.path().join("segments/x")).unwrap();
    file.set_len((2 << 20) + 4096).unwrap();
    assert_eq!(damaged_field(&s.open_segment(sid).unwrap_err()), "length");
}

#[test]
fn a_damaged_store_is_not_opened() {
    let s = store();
    let path = s.path().join("format");
    let good = fs::read_to_string(&path).unwrap();
    let table = [
        ("version", "spacejmp store 2\nid 0000000000000001\n".to_owned()),
        ("version", String::new()),
        ("id", "spacejmp store 1\nid 1\n".to_owned()),
        ("id", good.replace('\n', "\n\n")),
        ("id", format!("{good}more\n")),
        ("id", good.trim_end().to_owned()),
        ("version", "x".repeat(10_000)),
    ];
    for (field, text) in table {
        fs::write(&path, &text).unwrap();
        assert_eq!(damaged_field(&Store::open(s.path()).unwrap_err()), field, "{text:.80}");
        assert!(Store::open_or_create(s.path()).is_err(), "and not made anew");
    }
    fs::write(&path, &good).unwrap();
    Store::open(s.path()).unwrap();
    fs::File::create(s.path().join("live")).unwrap();
    assert_eq!(damaged_field(&Store::open(s.path()).unwrap_err()), "length");
}

/// What is told about each kind of file that cannot be used, and what to do about it.
#[test]
fn what_is_whole_is_never_called_damaged_and_deleting_is_never_advised() {
    use spacejmp_host::error::Remedy;
    let s = store();
    let sid = segment(&s, "x");
    let file = s.path().join("segments/x");
    let good = fs::read(&file).unwrap();
    let with_header = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let sum = crc32fast::hash(&bytes[..508]);
        bytes[508..512].copy_from_slice(&sum.to_le_bytes());
        fs::write(&file, bytes).unwrap();
        s.open_segment(sid).unwrap_err()
    };
    let archive = |bytes: &[u8]| {
        s.import_vas(&mut &*bytes, Path::new("a"), None, 0, &mut |_| {}).unwrap_err()
    };
    let packed = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let manifest = |text: &str| Manifest::decode(text.as_bytes(), Path::new("m")).unwrap_err();
    let whole = packed(b"SJMPVAS\n\x01\0\0\0\0\0\0\0");
    let table = [
        (with_header(&|raw| raw[8] = 2), "made by a newer spacejmp", "is whole"),
        (with_header(&|raw| raw[24] = 4), "made by a newer spacejmp", "is whole"),
        (with_header(&|raw| raw[12] = 9), "another processor architecture", "is whole"),
        (manifest("spacejmp vas 3\nx\n"), "made by a newer spacejmp", "is whole"),
        (manifest("root:x:0:0\n"), "is not a VAS's manifest", "backup"),
        (archive(b"root:x:0:0:root:/root:/bin/bash\n"), "is not an archive", "name an archive"),
        (archive(&packed(b"root:x:0:0:root:/root:/bin/bash\n")), "is not an archive", "name an"),
        (archive(b""), "is not an archive", "name an archive"),
        (archive(&packed(b"SJMPVAS\n\x02\0\0\0\0\0\0\0")), "made by a newer", "is whole"),
        (archive(&whole), "ends in the middle", "copy it again"),
        (archive(&whole[..whole.len() - 3]), "ends in the middle", "copy it again"),
        (
            {
                fs::write(&file, &good[..good.len() - 4096]).unwrap();
                s.open_segment(sid).unwrap_err()
            },
            "is shorter than it must be",
            "nothing that was stored is missing",
        ),
        (
            {
                let mut bytes = good.clone();
                bytes[130] = 7;
                fs::write(&file, bytes).unwrap();
                s.open_segment(sid).unwrap_err()
            },
            "is damaged",
            "backup",
        ),
    ];
    for (error, text, remedy) in table {
        let told = error.to_string();
        let advice = error.remedy().unwrap_or_default();
        assert!(told.contains(text), "{told}, not: {text}");
        assert!(advice.contains(remedy), "{told}: {advice}, not: {remedy}");
        assert!(!advice.contains("delete"), "{told}: {advice}");
        assert_eq!(told.contains("damaged"), text.contains("damaged"), "{told}");
    }
    fs::write(&file, good).unwrap();
    s.open_segment(sid).unwrap();
}

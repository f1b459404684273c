//! Links, pipes and folders where a store has files: none is followed, waited for or taken for a file, whoever
//! put it there and when. Most names are opened by one call of the host, from the store's folder on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::testing::{name, segment, store, versioned};
use crate::{Mode, Store, StoreError};

fn is_refused<T: std::fmt::Debug>(found: Result<T, StoreError>, what: &str) {
    let error = found.expect_err(what);
    assert!(matches!(error, StoreError::BadField { field: "type", .. }), "{what}: {error}");
}

fn lead_elsewhere(path: &Path) {
    let moved = path.with_extension("moved");
    fs::rename(path, &moved).unwrap();
    symlink(&moved, path).unwrap();
}

fn lead_back(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::rename(path.with_extension("moved"), path).unwrap();
}

#[test]
fn a_folder_of_the_store_that_is_a_link_leads_to_nothing() {
    let s = store();
    let (raw, sid) = (segment(&s, "raw"), versioned(&s, "x"));
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    for folder in ["vas", "segments", "versions"] {
        let path = s.path().join(folder);
        lead_elsewhere(&path);
        // Before it opens one of them, and after it has looked for something in vain.
        let other = Store::open(s.path()).unwrap();
        for _ in 0..2 {
            match folder {
                "vas" => {
                    is_refused(other.find_vas(&name("v")), folder);
                    is_refused(other.find_vas(&name("none")), folder);
                }
                "segments" => {
                    is_refused(other.find_segment(&name("raw")), folder);
                    is_refused(other.find_segment(&name("none")), folder);
                }
                _ => is_refused(other.segment(sid), folder),
            }
        }
        lead_back(&path);
        assert_eq!(other.find_vas(&name("v")).unwrap(), vid);
        assert_eq!(other.find_segment(&name("raw")).unwrap(), raw);
        assert!(other.segment(sid).is_ok());
    }
}

#[test]
fn what_is_no_file_in_a_files_place_is_refused_at_every_look() {
    let s = store();
    let sid = versioned(&s, "x");
    let vid = s.create_vas(&name("v"), Mode::PRIVATE).unwrap();
    for (path, is_vas) in [("vas/v", true), ("vas/v/manifest", true), ("segments/x", false)] {
        // Once with nothing known, and once when all was found before.
        for is_known in [false, true] {
            let other = Store::open(s.path()).unwrap();
            if is_known {
                other.find_vas(&name("v")).unwrap();
                other.segment(sid).unwrap();
            }
            let look = |what: &str| match is_vas {
                true => is_refused(other.find_vas(&name("v")), what),
                false => is_refused(other.find_segment(&name("x")), what),
            };
            let place = s.path().join(path);
            lead_elsewhere(&place);
            if (path, is_known) == ("vas/v", true) {
                // The manifest that was read is open: the link leads to that very file.
                assert_eq!(other.find_vas(&name("v")).unwrap(), vid);
            } else {
                look("a link");
            }
            fs::remove_file(&place).unwrap();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &place,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                0,
            )
            .unwrap();
            look("a pipe");
            lead_back(&place);
        }
    }
}

#[test]
fn what_is_no_file_in_the_place_of_the_stores_own_file_() {
    let s = store();
    let format = s.path().join("format");
    lead_elsewhere(&format);
    is_refused(Store::open(s.path()), "a link");
    fs::remove_file(&format).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &format, pipe, mode, 0).unwrap();
    is_refused(Store::open(s.path()), "a pipe");
    fs::remove_file(&format).unwrap();
    fs::create_dir(&format).unwrap();
    is_refused(Store::open(s.path()), "a folder");
    fs::remove_dir(&format).unwrap();
    fs::rename(format.with_extension("moved"), &format).unwrap();
    assert!(Store::open(s.path()).is_ok());
}

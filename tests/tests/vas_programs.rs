//! Programs that make, enter, share and keep address spaces, one VM at a time: each prints what
//! it finds and checks it itself.

use std::path::Path;
use std::time::Duration;

use tests::guests::{c, rust};
use tests::skip_without_kvm;
use tests::vm::{Ended, Run};
use vmm::process::Outcome;

/// A store of the test's own, and what must be left of it: no lease, nothing half made.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn run(&self, name: &str, args: &[&str]) -> Ended {
        self.start(Run::new(rust(name)).args(args))
    }

    fn start(&self, run: Run) -> Ended {
        run.store(self.0.path()).timeout(Duration::from_secs(300)).in_vm()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for folder in ["vms", "tmp"] {
            let left: Vec<_> =
                self.0.path().join(folder).read_dir().into_iter().flatten().collect();
            assert!(left.is_empty(), "left in {folder}: {left:?}");
        }
    }
}

/// The program found everything as it should be.
#[track_caller]
fn well(ended: &Ended) -> String {
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    ended.out()
}

#[track_caller]
fn done(ended: &Ended) {
    let out = well(ended);
    assert!(out.ends_with("done\n") && !out.contains("FAILED"), "{out}");
}

#[test]
fn one_vas_lives_its_whole_life() {
    skip_without_kvm!();
    done(&Place::new().run("vas_basic", &[]));
}

#[test]
fn every_error_changes_nothing() {
    skip_without_kvm!();
    done(&Place::new().run("vas_errors", &[]));
}

#[test]
fn private_memory_is_the_same_in_every_vas() {
    skip_without_kvm!();
    let place = Place::new();
    done(&place.run("vas_threads", &[]));
    done(&place.run("vas_threads", &["6", "same"]));
}

#[test]
fn system_calls_take_pointers_into_segments() {
    skip_without_kvm!();
    let run = Run::new(rust("vas_syscalls")).stdin(b"a line\n");
    let out = well(&Place::new().start(run));
    assert!(out.contains("a line"), "{out}");
}

#[test]
fn crossing_lock_sets_do_not_deadlock() {
    skip_without_kvm!();
    done(&Place::new().run("vas_locks", &["4", "500"]));
}

#[test]
fn no_increment_under_a_lock_is_lost() {
    skip_without_kvm!();
    let place = Place::new();
    well(&place.run("vas_counter", &["count", "4", "2000"]));
    assert_eq!(well(&place.run("vas_counter", &["count", "show"])), "value 8000\n");
}

#[test]
fn ten_thousand_vases_can_be_attached() {
    skip_without_kvm!();
    done(&Place::new().run("vas_many", &[]));
}

/// 4 x 100 TiB is more than 48 bits, more than guest-physical memory, and more than this
/// process can map.
#[test]
fn four_hundred_tebibytes_at_the_same_addresses_keep_what_was_written() {
    skip_without_kvm!();
    done(&Place::new().run("vas_huge", &[]));
}

#[test]
fn a_list_with_pointers_in_it_is_found_by_the_next_program() {
    skip_without_kvm!();
    let place = Place::new();
    let written = well(&place.run("vas_persist", &["write", "list", "1000"]));
    assert!(written.starts_with("nodes 1000 sum "), "{written}");
    assert_eq!(well(&place.run("vas_persist", &["read", "list"])), written);
    let longer = well(&place.run("vas_persist", &["prepend", "list", "5"]));
    assert!(longer.starts_with("nodes 1005 "), "{longer}");
    assert_eq!(well(&place.run("vas_persist", &["read", "list"])), longer);
    assert_eq!(well(&place.run("vas_persist", &["remove", "list"])), "removed\n");
}

#[test]
fn a_copied_segment_file_is_a_whole_segment_in_another_store() {
    skip_without_kvm!();
    let (here, there) = (Place::new(), Place::new());
    let written = well(&here.run("vas_persist", &["write", "list", "300"]));
    // Another program has made the store, and a VAS of the same name with the same segment.
    well(&there.run("vas_persist", &["write", "list", "1"]));
    let file = Path::new("segments/list");
    let status = std::process::Command::new("cp")
        .arg("--sparse=always")
        .args([here.0.path().join(file), there.0.path().join(file)])
        .status()
        .unwrap();
    assert!(status.success());
    // The VAS there lists the segment that was overwritten; the new one has another id.
    let read = there.run("vas_persist", &["read", "list"]);
    let ids = |place: &Place| std::fs::read(place.0.path().join(file)).unwrap()[32..40].to_vec();
    assert_eq!(ids(&here), ids(&there));
    assert_ne!(read.outcome, Outcome::Exited(0), "a VAS shows a segment it does not list");
    assert_eq!(well(&here.run("vas_persist", &["read", "list"])), written);
}

#[test]
fn the_program_of_the_paper_runs_as_printed() {
    skip_without_kvm!();
    let place = Place::new();
    for step in ["create", "use", "read", "rest", "remove"] {
        well(&place.start(Run::new(c("vas_c")).args(&[step])));
    }
}

#[test]
fn random_calls_leave_a_store_that_goes_on_working() {
    skip_without_kvm!();
    let place = Place::new();
    for seed in ["1", "2", "3"] {
        let ended = place.run("vas_random", &[seed, "300"]);
        assert_eq!(ended.outcome, Outcome::Exited(0), "seed {seed}: {ended:?}");
    }
    done(&place.run("vas_basic", &[]));
}

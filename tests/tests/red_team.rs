//! Programs that attack the VMM: whatever they do, they get what was granted and no more, and the run ends in order.
//! Needs /dev/kvm. What each does is in `guests/c/red_team.c`; the list of all attacks, here and elsewhere, is in
//! `docs/src/red-team.md`.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::guests::{self, Profile};
use tests::{pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn spacejmp() -> Command {
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").env_remove("SPACEJMP_STORE").stdin(Stdio::null());
    command
}

/// An attack in a folder of its own, with a secret beside what is granted.
#[track_caller]
fn attack(name: &str, options: &[&str]) -> String {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("secret"), "secret\n").expect("writable");
    let granted = outside.path().join("granted");
    std::fs::create_dir(&granted).expect("writable");
    let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
    let mut command = spacejmp();
    command.current_dir(&granted).args(["run", "--no-store", "--timeout", &limit]);
    command.args(["--memory", "256M", "--processes", "32", "--dir", ".:rw"]).args(options);
    let output = command.arg(guests::c("red_team")).arg(name).output().expect("it starts");
    in_order(name, &output);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
    assert!(said.lines().any(|line| line.starts_with("survived")), "{name}: {output:?}");
    said
}

/// Nothing was reached that was not granted, and the VMM has not failed.
#[track_caller]
fn in_order(what: &str, output: &Output) {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(!said.contains("LEAK"), "{what}: {said}");
    // A program of ours in the VM may panic, and say so.
    for failure in ["panicked at vmm", "the virtual machine failed", "--timeout"] {
        assert!(!complained.contains(failure), "{what}: {complained}");
    }
    // Ended by a signal it would have none.
    assert!(output.status.code().is_some_and(|status| status != 124), "{what}: {output:?}");
}

#[track_caller]
fn says(said: &str, lines: &[&str]) {
    for line in lines {
        assert!(said.lines().any(|is| is == *line), "no {line:?} in:\n{said}");
    }
}

#[test]
fn vectors_that_change_while_a_call_reads_them() {
    skip_without_kvm!();
    attack("racing-vectors", &[]);
}

#[test]
fn control_data_that_changes_while_it_is_sent() {
    skip_without_kvm!();
    attack("racing-control-data", &[]);
}

#[test]
fn paths_and_links_that_change_on_the_way_lead_out_of_no_grant() {
    skip_without_kvm!();
    attack("racing-paths", &[]);
    attack("racing-links", &[]);
}

#[test]
fn memory_and_files_that_go_while_a_call_uses_them() {
    skip_without_kvm!();
    attack("racing-memory", &[]);
    attack("shrinking-files", &[]);
}

#[test]
fn descriptors_that_become_others_while_calls_use_them() {
    skip_without_kvm!();
    attack("racing-descriptors", &[]);
}

#[test]
fn whatever_there_can_be_too_much_of_is_an_error_of_the_call() {
    skip_without_kvm!();
    let said = attack("exhaust-descriptors", &[]);
    says(&said, &["then: EMFILE", "open: EMFILE", "socket pair: EMFILE", "forked or refused: 1"]);
    says(&attack("exhaust-threads", &[]), &["some, and then no more: 1"]);
    says(&attack("exhaust-processes", &[]), &["then: EAGAIN", "all have ended: 1"]);
    says(&attack("exhaust-ipc", &[]), &["segments: ENOSPC", "semaphores: ENOSPC"]);
    says(&attack("exhaust-timers", &[]), &["some, and then no more: 1"]);
    let said = attack("exhaust-links", &[]);
    let links = ["a chain of links: ELOOP", "a link to itself: ELOOP"];
    says(&said, &[&links[..], &["a name of 5,000 bytes: ENAMETOOLONG", "deep: 0"]].concat());
}

#[test]
fn signals_without_end_and_frames_that_no_kernel_has_made() {
    skip_without_kvm!();
    attack("storm-of-signals", &[]);
    says(&attack("forged-frames", &[]), &["strange: 0"]);
    says(&attack("robust-nonsense", &[]), &["ended: 1"]);
    let said = attack("impossible-registers", &[]);
    assert_eq!(said.matches("ended: 1").count(), 8, "{said}");
}

#[test]
fn ways_into_the_vmm_and_to_the_hosts_kernel_are_closed() {
    skip_without_kvm!();
    for options in [&[][..], &["--net"]] {
        let said = attack("ways-into-the-vmm", options);
        says(&said, &["descriptors that are not ours: 0"]);
    }
    let said = attack("privileged-calls", &[]);
    says(&said, &["served: 0"]);
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(here.join("../docs/src/red-team.md")).expect("the page");
    let named = page.split('`').filter_map(|text| text.split_once(".rs: "));
    let mut count = 0;
    for (file, test) in named {
        let source = std::fs::read_to_string(here.join(format!("tests/{file}.rs")));
        let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("\nfn {test}() {{")), "{file}.rs has no {test}");
        count += 1;
    }
    assert!(count > 30, "{count}");
}

/// One random byte of one random file of a store, changed.
fn damage(store: &Path, seed: &mut u64) {
    let mut files = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    let mut random = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    };
    if files.is_empty() {
        return;
    }
    let path = &files[random() as usize % files.len()];
    let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) else { return };
    let len = file.metadata().map_or(0, |about| about.len());
    // What counts is at the begin: headers, records, names.
    let at = if random() % 4 == 0 { random() % len.max(1) } else { random() % len.clamp(1, 8192) };
    let bytes = random().to_le_bytes();
    match random() % 8 {
        0 => drop(file.set_len(at)),
        _ => drop(std::os::unix::fs::FileExt::write_at(&file, &bytes[..1 + at as usize % 8], at)),
    }
}

#[test]
fn a_store_whose_files_change_while_they_are_used() {
    skip_without_kvm!();
    let whole = tempfile::tempdir().expect("a folder");
    let limit = pace::limit(Duration::from_secs(120)).as_secs().to_string();
    let within = |command: &Command| {
        let mut limited = Command::new("timeout");
        limited.arg(&limit).arg(command.get_program()).args(command.get_args());
        limited.env_remove("SPACEJMP_LOG").env_remove("SPACEJMP_STORE").stdin(Stdio::null());
        limited.output().expect("it starts")
    };
    let run = |store: &Path, words: &[&str]| {
        let mut command = spacejmp();
        command.args(["run", "--timeout", &limit, "--store"]).arg(store);
        within(command.arg(guests::rust("vas_versions")).args(words))
    };
    let store = whole.path().join("store");
    for words in [&["made", "make"][..], &["made", "move", "1", "50", "7"]] {
        let made = run(&store, words);
        assert_eq!(made.status.code(), Some(0), "{made:?}");
    }
    let mut seed = 0x5eed_u64;
    for round in 0..6 {
        let copy = tempfile::tempdir().expect("a folder");
        let copied = copy.path().join("store");
        let cp = Command::new("cp").arg("-a").arg(&store).arg(&copied).status();
        assert!(cp.expect("there is cp").success());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    damage(&copied, &mut seed);
                    std::thread::yield_now();
                }
            });
            for words in [
                &["vas", "ls"][..],
                &["seg", "ls", "--json"],
                &["vas", "log", "made"],
                &["vas", "export", "made", "-"],
                &["store", "check"],
                &["vas", "clone", "made", "other"],
            ] {
                let output = within(spacejmp().args(words).arg("--store").arg(&copied));
                in_order(&format!("round {round}, {words:?}"), &output);
            }
            for words in [&["made", "sums", "50"][..], &["made", "move", "2", "50", "9"]] {
                let output = run(&copied, words);
                in_order(&format!("round {round}, {words:?}"), &output);
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

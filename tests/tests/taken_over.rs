//! Nothing that a guest claims or maps reaches the VMM's own memory.
//!
//! A guest kernel that has been taken over, and a lease written by another user, may claim
//! anything about where threads are and what they hold. The safety of the VMM's own memory depends
//! only on state in the VMM.
//!
//! The test does what such a kernel could: it overwrites these words while the program runs. One
//! test for each decision that reads them; `docs/src/internals/vas.md` lists these.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use abi::layout::{
    LOCK_PAGES, LOCK_RANGES, LOCK_REFS, LOCK_REFS_BYTES, PLAIN_ROOTS, VCPU_AREA_BYTES, VCPU_AREAS,
    VIEWS,
};
use abi::shared::VcpuPage;
use abi::switch::{VIEW_WRITES, VcpuStatus, WriteRecord};
use abi::{Entry, GuestPhys, GuestVirt, Level, PAGE_SIZE, Table};
use tempfile::TempDir;
use tests::vm::{Ended, Run, Running};
use tests::{guests, pace, skip_without_kvm};
use vmm::private::inspect::{Count, Mapping, Sharing};
use vmm::process::Outcome;
use vmm::store::VCPU_STATUSES_OFFSET;

/// Stands for the root of home.
const HOME: u64 = 1 << 63 | 1;

/// How long a program that was lied to, and may get nowhere, is let run on until it is ended: what its VMM makes of the
/// lie comes at once.
const GETS_NOWHERE: Duration = Duration::from_millis(500);

/// A running program, and the folder in which it looks for completed steps.
struct Lies {
    vm: Running,
    steps: TempDir,
    store: PathBuf,
}

impl Lies {
    fn start(what: &str) -> Lies {
        let steps = tempfile::tempdir().expect("a temporary directory");
        fs::write(steps.path().join("read-only"), [0; PAGE_SIZE as usize]).expect("it is ours");
        let store = steps.path().join("store");
        let path = steps.path().to_str().expect("temporary names are ASCII").to_owned();
        let program =
            Run::new(guests::rust("vas_lies")).args(&[what, &path]).dir(format!("{path}:ro"));
        let vm = program.store(&store).start();
        Lies { vm: vm.unwrap_or_else(|err| panic!("{}", tests::vm::all(&err))), steps, store }
    }

    fn wait_for(&mut self, ready: &str) {
        self.vm.wait_for_output(&format!("{ready}\n"));
    }

    fn done(&self, step: &str) {
        File::create(self.steps.path().join(step)).expect("the folder is ours");
    }

    /// The program's lease, to be written as by any user who can write the store.
    fn lease(&self) -> File {
        let vms = fs::read_dir(self.store.join("vms")).expect("the store is there");
        let lease = vms.map(|entry| entry.expect("it can be read").path()).next();
        OpenOptions::new().write(true).open(lease.expect("there is a lease")).expect("it is ours")
    }

    /// Claims in the lease that `vcpu` is in instance `vh` and not switching.
    fn say_inside(&self, vcpu: u64, vh: u64) {
        let line = VcpuStatus { announced: vh, inside: vh, ..VcpuStatus::default() };
        let words: Vec<u8> =
            [line.announced, line.inside].iter().flat_map(|w| w.to_le_bytes()).collect();
        let at = VCPU_STATUSES_OFFSET + vcpu * size_of::<VcpuStatus>() as u64;
        self.lease().write_all_at(&words, at).expect("the lease can be written");
    }

    /// Waits until system calls and switches hold `count` references to instances.
    fn wait_for_holds(&self, count: usize) {
        while self.vm.process.vases.holds() < count {
            assert!(!self.vm.process.is_stopping(), "it has ended: {:?}", self.vm);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The address to which the guest's tables map `gva`.
    fn phys(&self, gva: u64) -> GuestPhys {
        let gva = GuestVirt::new(gva).expect("an address");
        let walk = self.vm.process.machine.edit_tables(|tables| tables.walk(gva)).expect("tables");
        walk.translation(gva).unwrap_or_else(|| panic!("{gva} is not mapped"))
    }

    fn store(&self, gpa: GuestPhys, word: u64) {
        self.vm.process.machine.mem.store(gpa, word).expect("it is guest memory");
    }

    fn load(&self, gva: u64) -> u64 {
        self.vm.process.machine.mem.load(self.phys(gva)).expect("it is guest memory")
    }

    fn ends(self) -> Ended {
        self.vm.wait(pace::limit(Duration::from_secs(120)))
    }
}

/// Asserts that the program succeeded, with `lines` in its output.
#[track_caller]
fn expect_done(ended: &Ended, lines: &[&str]) {
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    assert!(ended.out().ends_with("done\n"), "{ended:?}");
    for line in lines {
        assert!(ended.out().contains(line), "no {line:?}: {ended:?}");
    }
}

/// `detach`, `seg_detach` and eviction check which threads are inside. The lease claims none is.
#[test]
fn memory_that_a_system_call_uses_stays_whatever_the_lease_says() {
    skip_without_kvm!();
    let mut lies = Lies::start("pinned");
    lies.wait_for("inside");
    lies.wait_for_holds(4);
    (0..64).for_each(|vcpu| lies.say_inside(vcpu, 0));
    lies.done("inside");
    let ended = lies.ends();
    expect_done(&ended, &["ok: vas_detach while system calls use it: EBUSY\n"]);
}

/// A switch that waits keeps the instance that the thread may fall back to, as the lease claims.
#[test]
fn a_switch_that_waits_gives_back_only_what_it_took() {
    skip_without_kvm!();
    let mut lies = Lies::start("waiting");
    lies.wait_for("lie");
    lies.say_inside(1, 2);
    lies.done("lie");
    lies.wait_for_holds(1);
    lies.done("waits");
    expect_done(&lies.ends(), &["handle 2\n"]);
}

/// A pointer's meaning depends on where its thread is.
#[test]
fn a_lie_about_the_place_reaches_nothing_but_what_is_attached() {
    skip_without_kvm!();
    let mut lies = Lies::start("places");
    for (step, vh) in [
        ("in-the-instance", 1),
        ("in-77", 77),
        ("in-all-ones", u64::MAX),
        ("in-too-many-bits", 1 << 31 | 1),
        ("at-home", 0),
    ] {
        lies.wait_for(step);
        lies.say_inside(0, vh);
        lies.done(step);
    }
    expect_done(&lies.ends(), &[]);
}

/// The locks that a thread holds, and the waiters to wake, are in the vCPU's page and in lists.
#[test]
fn words_about_held_locks_may_say_anything() {
    skip_without_kvm!();
    for word in [u64::MAX, 1 << 32 | u64::from(u32::MAX), 16 << 32 | 4096, 8 << 32 | 2] {
        let mut lies = Lies::start("held");
        lies.wait_for("lie");
        let refs = lies.phys(LOCK_REFS.raw());
        for at in (0..LOCK_REFS_BYTES).step_by(8) {
            lies.store(refs.offset(at), !word ^ at);
        }
        let page = lies.phys(VCPU_AREAS.raw() + VCPU_AREA_BYTES);
        for field in
            [std::mem::offset_of!(VcpuPage, held), std::mem::offset_of!(VcpuPage, waited_for)]
        {
            lies.store(page.offset(field as u64), word);
        }
        lies.done("lie");
        let ended = lies.ends();
        // What it reads may kill the guest kernel, but not the VMM.
        let is_panic = |text: &String| text.contains("panicked");
        let panicked = matches!(&ended.outcome, Outcome::HostFailed(text) if is_panic(text));
        assert!(!panicked && ended.outcome != Outcome::TimedOut, "{word:#x}: {ended:?}");
    }
}

/// Which tables of versions are freed depends on where threads are, and on which view. A thread whose own
/// tables were taken away may fault, or get nowhere; it can be ended.
#[test]
fn words_about_views_of_versions_may_say_anything() {
    skip_without_kvm!();
    let view = std::mem::offset_of!(VcpuPage, view) as u64;
    let mut truth = Lies::start("views");
    truth.wait_for("lie");
    truth.done("lie");
    expect_done(&truth.ends(), &["calls: true true\n"]);
    // The truth is 2: the instance that is only read.
    for (vh, word) in [0, 1, 2, 77].into_iter().flat_map(|vh| [0, !0].map(|word| (vh, word))) {
        let mut lies = Lies::start("views");
        lies.wait_for("lie");
        lies.say_inside(0, vh);
        lies.store(lies.phys(VCPU_AREAS.raw()).offset(view), word);
        lies.done("lie");
        let ended = lies.vm.wait(pace::limit(GETS_NOWHERE));
        println!("{vh} {word:#x}: {:?}", ended.outcome);
        let is_panic = |text: &String| text.contains("panicked");
        let panicked = matches!(&ended.outcome, Outcome::HostFailed(text) if is_panic(text));
        assert!(!panicked, "{vh} {word:#x}: {ended:?}");
    }
}

/// Whether the kernel lets a writer in, and with which tables and which lock, is in a record, and what it has
/// done in the vCPU's page. Threads may get nowhere then; they can be ended.
#[test]
fn words_about_writers_of_versions_may_say_anything() {
    skip_without_kvm!();
    use std::mem::offset_of;
    let mut truth = Lies::start("writers");
    truth.wait_for("lie");
    truth.done("lie");
    expect_done(&truth.ends(), &["calls: (true, true)\n", "other: (true, true)\n"]);
    let record = VIEWS.raw() + 2 * PAGE_SIZE;
    let word = |field: usize| record + field as u64;
    let cr3 = word(offset_of!(WriteRecord, cr3));
    let page = VCPU_AREAS.raw();
    let view = page + offset_of!(VcpuPage, view) as u64;
    // Each a word, and what it says.
    let lies = [
        (word(offset_of!(WriteRecord, count)), !0),
        (word(offset_of!(WriteRecord, owner)), 7),
        (word(offset_of!(WriteRecord, lock)), LOCK_RANGES.raw()),
        (cr3, 0),
        (cr3, !0xfff & (1 << 40)),
        // Home's own tables.
        (cr3, HOME),
        (view, VIEW_WRITES),
        (view, !0),
        // The lock is free, taken, and nothing that the algorithm writes.
        (LOCK_PAGES.raw(), 2),
        (LOCK_PAGES.raw(), !0),
    ];
    for (at, says) in lies {
        let mut lies = Lies::start("writers");
        lies.wait_for("lie");
        assert_ne!(lies.load(word(offset_of!(WriteRecord, lock))), 0, "the kernel lets writers in");
        let says = if says == HOME { lies.load(PLAIN_ROOTS.raw()) } else { says };
        lies.store(lies.phys(at), says);
        lies.done("lie");
        let ended = lies.vm.wait(pace::limit(GETS_NOWHERE));
        println!("{at:#x} {says:#x}: {:?}", ended.outcome);
        let is_panic = |text: &String| text.contains("panicked");
        let panicked = matches!(&ended.outcome, Outcome::HostFailed(text) if is_panic(text));
        assert!(!panicked, "{at:#x} {says:#x}: {ended:?}");
    }
}

/// The VMM's own stores into page tables go where the tables above them point.
#[test]
fn tables_that_lead_to_a_read_only_file_do_not_kill_the_vmm() {
    skip_without_kvm!();
    let mut lies = Lies::start("tables");
    lies.wait_for("bend");
    let file = file_address(lies.steps.path(), &lies.vm);
    let page = lies.phys(file);
    let bent = GuestVirt::new(0x600_0000_0000).expect("an address");
    let machine = &lies.vm.process.machine;
    let directory = machine.edit_tables(|tables| tables.table_for(bent, Level::Directory));
    let directory = Table::new(directory.expect("tables"), Level::Directory);
    let entry = directory.encode(bent.raw(), Entry::Table(page));
    lies.store(directory.place(bent.raw()), entry.raw());
    lies.done("bend");
    expect_done(&lies.ends(), &["munmap is served"]);
}

/// This needs no kernel: the program maps over what it finds below its vDSO.
#[test]
fn nothing_a_program_maps_lies_where_the_vmm_stores_the_clock() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("file");
    fs::write(&file, [0; 5 * PAGE_SIZE as usize]).expect("it is ours");
    let [folder, file] = [folder.path(), &file].map(|path| path.to_str().expect("ASCII"));
    std::thread::scope(|scope| {
        for what in ["cut", "read-only", "unmap"] {
            for pages in ["1", "4"] {
                let run = Run::new(guests::c("clock_page")).args(&[what, pages, file]).dir(folder);
                scope.spawn(move || run.same_as_native());
            }
        }
    });
}

/// Where the program has mapped the file, according to the areas, without asking the program.
fn file_address(folder: &Path, vm: &Running) -> u64 {
    let mappings = vm.process.private.mappings(Count::Nothing);
    let shared = |mapping: &&Mapping| {
        let read_only = mapping.prot.can_read() && !mapping.prot.can_write();
        mapping.sharing == Sharing::Shared && mapping.file.is_some() && read_only
    };
    let file = mappings.iter().find(shared);
    let file = file.unwrap_or_else(|| {
        panic!("no read-only file of {} in {mappings:#?}", folder.display());
    });
    file.range.start
}

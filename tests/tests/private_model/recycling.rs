//! New addresses again and again in a `PrivateRegion`: blocks and tables are recycled, and not
//! too early.

use std::fs::File;
use std::sync::Arc;

use abi::{GuestVirt, PAGE_SIZE, PAGE_SIZE_2M};
use tests::{pace, skip_without_kvm};
use vmm::access::{FaultCause, FaultOutcome, MemoryAccess};
use vmm::private::{Backing, PrivateRegion, Prot};
use vmm::vm::memory::FileMapping;
use vmm::vm::{Machine, MemoryKind};

const BASE: u64 = 1 << 40;
/// Ranges of 2 MiB in 14 TiB.
const SPAN: u64 = 7 << 20;

const WRITE: FaultCause = FaultCause::Data(MemoryAccess::Write);

struct Twins {
    machine: Arc<Machine>,
    private: PrivateRegion,
}

/// What is held: in the ledger, of guest-physical space, and of frames of tables.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    bytes: u64,
    handed_out: u64,
    frames: u64,
}

impl Twins {
    fn new(limit_bytes: u64) -> Twins {
        let machine = Machine::new().expect("a VM can be made here");
        Twins { private: PrivateRegion::new(machine.clone(), limit_bytes), machine }
    }

    fn map(&self, at: u64, pages: u64, backing: Backing) {
        let mapped = self.private.map_at(at, pages * PAGE_SIZE, Prot::READ_WRITE, backing, "test");
        assert_eq!(mapped, Ok(()), "at {at:#x}");
    }

    fn unmap(&self, at: u64, pages: u64) {
        assert_eq!(self.private.unmap(at, pages * PAGE_SIZE), Ok(()), "at {at:#x}");
    }

    /// The guest-physical address of a page, if it is present.
    fn place(&self, at: u64) -> Option<u64> {
        let gva = GuestVirt::new(at).expect("it is canonical");
        let walk = self.machine.edit_tables(|tables| tables.walk(gva)).expect("tables");
        walk.translation(gva).map(|gpa| gpa.raw())
    }

    fn held(&self) -> Held {
        Held {
            bytes: self.machine.mem.ledger().total(),
            handed_out: self.machine.mem.handed_out_bytes(),
            frames: self.machine.table_frames(),
        }
    }
}

/// Cycles through new addresses. The last cycle ends at the same point of the recycling
/// rhythm as the thousandth, give or take a round.
fn cycles(stride: u64, times: u64) {
    let twins = Twins::new(16 << 20);
    let cycle = |n: u64| {
        let at = BASE + n * stride % SPAN * PAGE_SIZE_2M;
        twins.map(at, 1, Backing::Anonymous);
        assert_eq!(twins.private.fault(at, WRITE), FaultOutcome::Resolved, "cycle {n}");
        twins.unmap(at, 1);
    };
    (0..1000).for_each(cycle);
    let warm = twins.held();
    let mut most = 0;
    for n in 1000..times {
        cycle(n);
        most = most.max(twins.held().bytes);
    }
    let end = twins.held();
    println!("stride {stride}, {times} cycles: {warm:?}, then {end:?}, {most} bytes at most");
    assert!(most <= 2 << 20, "{most} bytes");
    assert!(end.frames <= warm.frames + 300 && end.handed_out <= warm.handed_out + (600 << 20));
    assert_eq!(twins.machine.mem.ledger().held(MemoryKind::Private), 0);
}

#[test]
fn ever_new_addresses_take_no_more_than_the_first_thousand() {
    skip_without_kvm!();
    for (stride, times) in [(1, 1_000_000), (512, 20_000), (512 * 700 + 1, 20_000)] {
        cycles(stride, u64::from(pace::times(times)).max(2500));
    }
}

#[test]
#[ignore = "minutes; a tenth of it runs each time"]
fn ten_million_new_addresses_take_no_more_than_the_first_thousand() {
    skip_without_kvm!();
    cycles(1, 10_000_000);
}

#[test]
fn what_is_idle_comes_back_before_anybody_is_refused() {
    skip_without_kvm!();
    let twins = Twins::new(4 << 20);
    // A round is limited to 29 blocks here: their number alone never starts recycling.
    for n in 0..25 {
        twins.map(BASE + n * PAGE_SIZE_2M, 1, Backing::Anonymous);
        twins.unmap(BASE + n * PAGE_SIZE_2M, 1);
    }
    let held = twins.held();
    assert!(held.bytes >= 25 * PAGE_SIZE, "{held:?}");
    // Everything but what the new address itself takes.
    let pages = ((4 << 20) - 6 * PAGE_SIZE) / PAGE_SIZE;
    let at = BASE + 2048 * PAGE_SIZE_2M;
    twins.map(at, pages, Backing::Anonymous);
    for page in 0..pages {
        let outcome = twins.private.fault(at + page * PAGE_SIZE, WRITE);
        assert_eq!(outcome, FaultOutcome::Resolved, "page {page} of {pages}");
    }
}

/// Frees idle blocks by the hundred, so that a round of recycling starts.
fn have_recycled(twins: &Twins, from: u64) {
    for n in from..from + 400 {
        twins.map(BASE + n * PAGE_SIZE_2M, 1, Backing::Anonymous);
        twins.unmap(BASE + n * PAGE_SIZE_2M, 1);
    }
}

#[test]
fn a_place_that_is_in_use_in_part_stays() {
    skip_without_kvm!();
    let twins = Twins::new(16 << 20);
    let heap = BASE + (4000 << 21) + PAGE_SIZE;
    twins.private.set_heap(heap);
    assert_eq!(twins.private.set_heap_end(heap + (3 << 20)), heap + (3 << 20));
    twins.map(BASE, 3, Backing::Anonymous);
    assert_eq!(twins.private.copy_out(BASE, b"content"), Ok(()));
    let ends = [BASE, heap, heap + (3 << 20) - PAGE_SIZE];
    let places = ends.map(|at| twins.place(at));
    assert!(places.iter().all(Option::is_some), "{places:?}");
    // A page of its 2 MiB is freed, and the heap shrinks within its 2 MiB.
    twins.unmap(BASE + PAGE_SIZE, 1);
    assert_eq!(twins.private.set_heap_end(heap + (3 << 20) - 1), heap + (3 << 20) - 1);
    have_recycled(&twins, 1);
    assert_eq!(ends.map(|at| twins.place(at)), places);
    let mut bytes = [0; 7];
    assert_eq!(twins.private.copy_in(BASE, &mut bytes), Ok(()));
    assert_eq!(&bytes, b"content");
}

#[test]
fn a_place_where_a_file_lay_is_zero_for_the_next() {
    skip_without_kvm!();
    let twins = Twins::new(16 << 20);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("file");
    std::fs::write(&path, [0x5a; 3 * PAGE_SIZE as usize]).expect("it can be written");
    let file = Arc::new(File::options().read(true).write(true).open(&path).expect("it is there"));
    for kind in [FileMapping::Shared, FileMapping::Private] {
        for n in 0..300 {
            let backing = Backing::File { file: file.clone(), offset: 0, kind, charge: None };
            twins.map(BASE + n * PAGE_SIZE_2M, 3, backing);
            let at = BASE + n * PAGE_SIZE_2M;
            assert_eq!(twins.private.copy_out(at + 8, &n.to_le_bytes()), Ok(()));
            twins.unmap(at, 3);
        }
        for n in 300..600 {
            let at = BASE + n * PAGE_SIZE_2M;
            twins.map(at, 3, Backing::Anonymous);
            let mut bytes = [1; 3 * PAGE_SIZE as usize];
            assert_eq!(twins.private.copy_in(at, &mut bytes), Ok(()));
            assert!(bytes.iter().all(|&byte| byte == 0), "place {n}");
            assert_eq!(twins.private.copy_out(at, &[7; 3 * PAGE_SIZE as usize]), Ok(()));
            twins.unmap(at, 3);
        }
    }
    let mut expected = [0x5a; 3 * PAGE_SIZE as usize];
    expected[8..16].copy_from_slice(&299_u64.to_le_bytes());
    assert!(std::fs::read(&path).expect("it is there") == expected, "nothing else wrote to it");
}

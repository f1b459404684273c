//! `PrivateRegion` against a page-by-page model, with random operations.
//!
//! After each operation every page is looked up in the page tables, and the result is
//! compared with the model: equal rights, equal content (read through the guest-physical address),
//! nothing present that the model does not have. No vCPU is needed.

mod model;
mod recycling;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use abi::{Errno, GuestVirt, PAGE_SIZE};
use model::{FILE_PAGES, Model, Page, Source, at};
use proptest::prelude::*;
use tests::{pace, skip_without_kvm};
use vmm::access::{FaultCause, FaultOutcome, MemoryAccess};
use vmm::private::{Backing, Destination, PrivateRegion, Prot, Source as MoveSource};
use vmm::vm::memory::FileMapping;
use vmm::vm::{Machine, MemoryKind};

/// First page of the window in which fixed operations work: on a 2 MiB boundary.
const WINDOW: u64 = 0x10_0000_0000 / PAGE_SIZE;
/// Pages of the window: five ranges of 2 MiB.
const WINDOW_PAGES: u64 = 5 * 512;
/// The heap begins here, inside the window, off any boundary.
const HEAP: u64 = WINDOW + 3 * 512 - 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Anonymous,
    Private,
    Shared,
    SharedReadOnly,
}

#[derive(Debug, Clone)]
enum Op {
    MapAt { page: u64, count: u64, prot: u8, kind: Kind, file_page: u64 },
    MapAnywhere { count: u64, prot: u8, kind: Kind, file_page: u64 },
    Unmap { page: u64, count: u64 },
    Protect { page: u64, count: u64, prot: u8 },
    Remap { page: u64, old: u64, new: u64, may_move: bool, fixed: Option<u64> },
    Heap { end_bytes: u64 },
    Drop { page: u64, count: u64 },
    Write { page: u64, count: u64, stamp: u64 },
    Read { page: u64, count: u64 },
    Fault { page: u64, cause: FaultCause },
    Truncate { pages: u64 },
}

fn page_in_window() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0..WINDOW_PAGES).prop_map(|n| WINDOW + n),
        (0..5_u64, 0..3_u64).prop_map(|(slot, off)| WINDOW + slot * 512 + off),
        (1..5_u64, 1..3_u64).prop_map(|(slot, off)| WINDOW + slot * 512 - off),
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![1..8_u64, 509..516_u64, 1..1100_u64, Just(512), Just(1024)]
}

fn prot() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(3), 2 => Just(1), 1 => Just(0), 1 => Just(5), 1 => Just(7)]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Anonymous),
        1 => Just(Kind::Private),
        1 => Just(Kind::Shared),
        1 => Just(Kind::SharedReadOnly),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let file_page = || 0..FILE_PAGES;
    prop_oneof![
        4 => (page_in_window(), count(), prot(), kind(), file_page()).prop_map(
            |(page, count, prot, kind, file_page)| Op::MapAt { page, count, prot, kind, file_page }
        ),
        1 => (prop_oneof![count(), Just(2500), Just(2049)], prot(), kind(), file_page()).prop_map(
            |(count, prot, kind, file_page)| Op::MapAnywhere { count, prot, kind, file_page }
        ),
        3 => (page_in_window(), count()).prop_map(|(page, count)| Op::Unmap { page, count }),
        3 => (page_in_window(), count(), prot())
            .prop_map(|(page, count, prot)| Op::Protect { page, count, prot }),
        3 => (page_in_window(), count(), count(), any::<bool>(),
            prop_oneof![Just(None), page_in_window().prop_map(Some)])
            .prop_map(|(page, old, new, may_move, fixed)| Op::Remap {
                page, old, new, may_move, fixed
            }),
        2 => (0..1200 * PAGE_SIZE).prop_map(|end_bytes| Op::Heap { end_bytes }),
        1 => (page_in_window(), count()).prop_map(|(page, count)| Op::Drop { page, count }),
        4 => (page_in_window(), count(), 1..u64::MAX / 2)
            .prop_map(|(page, count, stamp)| Op::Write { page, count, stamp }),
        1 => (page_in_window(), count()).prop_map(|(page, count)| Op::Read { page, count }),
        2 => (page_in_window(), prop_oneof![
                Just(FaultCause::Data(MemoryAccess::Read)),
                Just(FaultCause::Data(MemoryAccess::Write)),
                Just(FaultCause::Fetch),
            ])
            .prop_map(|(page, cause)| Op::Fault { page, cause }),
        1 => (0..FILE_PAGES + 50).prop_map(|pages| Op::Truncate { pages }),
    ]
}

/// Tables that exist from the start and may not have been touched then: 32 of the private
/// region's, and the kernel's.
const PRIVATE_TABLES: u64 = 40;

/// A region, its model, and the file both use.
struct Twins {
    machine: Arc<Machine>,
    private: PrivateRegion,
    model: Model,
    file: Arc<File>,
    limit_pages: u64,
}

fn stamp_of(file_page: u64) -> [u64; 2] {
    [0xf11e_0000 + file_page, 0xf11e_8000 + file_page]
}

impl Twins {
    fn new(limit_pages: u64) -> Twins {
        let machine = Machine::new().expect("a VM can be made here");
        let private = PrivateRegion::new(machine.clone(), limit_pages * PAGE_SIZE);
        private.set_heap(at(HEAP));
        let file = tempfile::tempfile().expect("a temporary file");
        let model = Model {
            file: (0..FILE_PAGES).map(stamp_of).collect(),
            heap: (at(HEAP), at(HEAP)),
            ..Model::default()
        };
        file.set_len(FILE_PAGES * PAGE_SIZE).expect("it can be given a length");
        for page in 0..FILE_PAGES {
            let [first, last] = stamp_of(page);
            file.write_all_at(&first.to_le_bytes(), at(page)).expect("it can be written");
            file.write_all_at(&last.to_le_bytes(), at(page) + PAGE_SIZE - 8).expect("likewise");
        }
        Twins { machine, private, model, file: Arc::new(file), limit_pages }
    }

    fn backing(&self, kind: Kind, file_page: u64) -> Backing {
        let kind = match kind {
            Kind::Anonymous => return Backing::Anonymous,
            Kind::Private => FileMapping::Private,
            Kind::Shared => FileMapping::Shared,
            Kind::SharedReadOnly => FileMapping::SharedReadOnly,
        };
        Backing::File { file: self.file.clone(), offset: at(file_page), kind, charge: None }
    }

    /// Applies `op` to both and compares the results. With `exact`, memory never runs out
    /// and every result is known; without, operations may fail for lack of memory.
    fn apply(&mut self, op: &Op, exact: bool) {
        match *op {
            Op::MapAt { page, count, prot, kind, file_page } => {
                let prot = if kind == Kind::SharedReadOnly { prot & !2 } else { prot };
                let done = self.private.map_at(
                    at(page),
                    at(count),
                    bits(prot),
                    self.backing(kind, file_page),
                    "test",
                );
                if done == Ok(()) {
                    self.model.unmap(page, count);
                    self.model.map(page, count, prot, source(kind, file_page));
                } else {
                    assert_eq!((done, exact), (Err(Errno::ENOMEM), false), "{op:?}");
                }
            }
            Op::MapAnywhere { count, prot, kind, file_page } => {
                let prot = if kind == Kind::SharedReadOnly { prot & !2 } else { prot };
                let backing = self.backing(kind, file_page);
                match self.private.map_anywhere(0, at(count), bits(prot), backing, "test") {
                    Ok(start) => {
                        let page = start / PAGE_SIZE;
                        assert!(self.model.is_free(page, count), "{op:?} gave used {start:#x}");
                        self.model.map(page, count, prot, source(kind, file_page));
                    }
                    Err(errno) => assert_eq!((errno, exact), (Errno::ENOMEM, false), "{op:?}"),
                }
            }
            Op::Unmap { page, count } => {
                assert_eq!(self.private.unmap(at(page), at(count)), Ok(()), "{op:?}");
                self.model.unmap(page, count);
            }
            Op::Protect { page, count, prot } => self.protect(op, page, count, prot, exact),
            Op::Remap { page, old, new, may_move, fixed } => {
                self.remap(op, [page, old, new], may_move, fixed, exact);
            }
            Op::Heap { end_bytes } => self.heap(op, at(HEAP) + end_bytes, exact),
            Op::Drop { page, count } => {
                let expected =
                    if self.model.covered(page, count) { Ok(()) } else { Err(Errno::ENOMEM) };
                assert_eq!(self.private.drop_pages(at(page), at(count)), expected, "{op:?}");
                self.model.drop_pages(page, count);
            }
            Op::Write { page, count, stamp } => self.write(op, page, count, stamp, exact),
            Op::Read { page, count } => {
                let good = (page..page + count).all(|at| {
                    let readable = |page: &Page| page.prot != 0 && self.model.words(page).is_some();
                    self.model.pages.get(&at).is_some_and(readable)
                });
                let mut bytes = vec![0; at(count) as usize];
                let expected = if good { Ok(()) } else { Err(Errno::EFAULT) };
                assert_eq!(self.private.copy_in(at(page), &mut bytes), expected, "{op:?}");
                for (n, piece) in bytes.chunks(PAGE_SIZE as usize).enumerate().filter(|_| good) {
                    let expected = self.model.words(&self.model.pages[&(page + n as u64)]);
                    assert_eq!(Some(ends(piece)), expected, "{op:?}, page {n}");
                }
            }
            Op::Fault { page, cause } => self.fault(op, page, cause, exact),
            Op::Truncate { pages } => {
                self.file.set_len(at(pages)).expect("a file can be given a length");
                self.model.truncate(pages);
            }
        }
    }

    fn protect(&mut self, op: &Op, page: u64, count: u64, prot: u8, exact: bool) {
        let read_only = |page: &Page| matches!(page.source, Source::SharedReadOnly(_));
        let mut pages = self.model.pages.range(page..page + count);
        let expected = if !self.model.covered(page, count) {
            Err(Errno::ENOMEM)
        } else if prot & 2 != 0 && pages.any(|(_, page)| read_only(page)) {
            Err(Errno::EACCES)
        } else {
            Ok(())
        };
        let done = self.private.protect(at(page), at(count), bits(prot));
        if done == Err(Errno::ENOMEM) && !exact && prot & 2 != 0 {
            return;
        }
        assert_eq!(done, expected, "{op:?}");
        if expected == Ok(()) {
            self.model.protect(page, count, prot);
        }
    }

    fn remap(
        &mut self,
        op: &Op,
        [page, old, new]: [u64; 3],
        may_move: bool,
        fixed: Option<u64>,
        exact: bool,
    ) {
        let may_move = may_move || fixed.is_some();
        let destination = match fixed {
            Some(page) => Destination::At(at(page)),
            None if may_move => Destination::Anywhere,
            None => Destination::Stay,
        };
        let done = self.private.remap(at(page), at(old), at(new), destination, MoveSource::Unmap);
        match done {
            Ok(to) => {
                let to = to / PAGE_SIZE;
                assert!(self.model.covered(page, old), "{op:?} of what is not mapped");
                if let Some(fixed) = fixed {
                    assert_eq!(to, fixed, "{op:?}");
                } else if to == page {
                    let more = new.saturating_sub(old);
                    assert!(self.model.is_free(page + old, more), "{op:?} grew over something");
                } else {
                    assert!(may_move, "{op:?} moved");
                    assert!(self.model.is_free(to, new), "{op:?} moved onto something");
                }
                self.model.remap(page, old, to, new);
            }
            Err(errno) => {
                let overlaps = fixed.is_some_and(|to| to < page + old && page < to + new);
                if exact && self.model.is_one_mapping(page, old) && !overlaps {
                    let stays = fixed.is_none() && new <= old;
                    assert!(!may_move && !stays, "{op:?} failed with {errno}");
                }
                // The target of a fixed move may be unmapped before the rest fails.
                let emptied = fixed.filter(|_| !overlaps);
                if let Some(to) = emptied
                    && (to..to + new).all(|page| !self.private.covers(at(page), PAGE_SIZE))
                {
                    self.model.unmap(to, new);
                }
            }
        }
    }

    fn heap(&mut self, op: &Op, end: u64, exact: bool) {
        let (start, old) = self.model.heap;
        let (old_top, new_top) = (old.div_ceil(PAGE_SIZE), end.div_ceil(PAGE_SIZE));
        let grows = new_top > old_top;
        let possible = !grows || self.model.is_free(old_top, new_top - old_top);
        let now = self.private.set_heap_end(end);
        if now != end {
            assert_eq!(now, old, "{op:?} stopped half-way");
            assert!(!possible || !exact, "{op:?} was possible");
            return;
        }
        assert!(possible, "{op:?} grew over something");
        self.model.heap = (start, end);
        if grows {
            self.model.map(old_top, new_top - old_top, 3, |_| Source::Memory([0; 2]));
        } else {
            self.model.unmap(new_top, old_top - new_top);
        }
    }

    fn write(&mut self, op: &Op, page: u64, count: u64, stamp: u64, exact: bool) {
        let mut bytes = vec![0; at(count) as usize];
        for (n, piece) in bytes.chunks_mut(PAGE_SIZE as usize).enumerate() {
            let words = [stamp + n as u64, !stamp + n as u64].map(u64::to_le_bytes);
            piece[..8].copy_from_slice(&words[0]);
            piece[PAGE_SIZE as usize - 8..].copy_from_slice(&words[1]);
        }
        let writable = |at: u64| {
            let good = |page: &Page| page.prot & 2 != 0 && self.model.words(page).is_some();
            self.model.pages.get(&at).is_some_and(good)
        };
        let all_good = (page..page + count).all(writable);
        let expected = if all_good { Ok(()) } else { Err(Errno::EFAULT) };
        // A failing write may write a part: check only what is known.
        if all_good || !writable(page) {
            let done = self.private.copy_out(at(page), &bytes);
            if done == Err(Errno::ENOMEM) && !exact {
                return;
            }
            assert_eq!(done, expected, "{op:?}");
        }
        if all_good {
            for (n, piece) in bytes.chunks(PAGE_SIZE as usize).enumerate() {
                self.model.write(page + n as u64, ends(piece));
            }
        }
    }

    fn fault(&mut self, op: &Op, page: u64, cause: FaultCause, exact: bool) {
        let needed = match cause {
            FaultCause::Data(MemoryAccess::Read) => 7,
            FaultCause::Data(MemoryAccess::Write) => 2,
            FaultCause::Fetch => 4,
        };
        let expected = match self.model.pages.get(&page) {
            None => FaultOutcome::Unmapped,
            Some(p) if p.prot & needed == 0 => FaultOutcome::Forbidden,
            Some(p) if self.model.words(p).is_none() => FaultOutcome::BeyondFile,
            Some(_) => FaultOutcome::Resolved,
        };
        let outcome = self.private.fault(at(page) + 0x123, cause);
        if outcome == FaultOutcome::OutOfMemory && !exact {
            return;
        }
        assert_eq!(outcome, expected, "{op:?}");
        if outcome == FaultOutcome::Resolved {
            let gva = GuestVirt::new(at(page)).expect("the window is canonical");
            let walk = self.machine.edit_tables(|tables| tables.walk(gva)).expect("a walk");
            assert!(walk.pte.is_present(), "{op:?} resolved nothing");
        }
    }

    /// Compares every page of every 2 MiB range the model has ever used.
    fn check(&self, slots: &std::collections::BTreeSet<u64>, after: &Op) {
        let ahead_from = self.model.heap.1.div_ceil(PAGE_SIZE);
        let ahead = ahead_from..ahead_from.next_multiple_of(512);
        let mut present = 0;
        let pages = slots.iter().flat_map(|slot| slot * 512..(slot + 1) * 512);
        let walks: Vec<_> = self
            .machine
            .edit_tables(|tables| {
                pages
                    .map(|page| {
                        let gva = GuestVirt::new(at(page)).expect("a slot is canonical");
                        tables.walk(gva).map(|walk| (page, gva, walk))
                    })
                    .collect::<Result<_, _>>()
            })
            .expect("the tables lie in guest memory");
        for (page, gva, walk) in walks {
            let Some(gpa) = walk.translation(gva) else { continue };
            let counts =
                |page: &Page| matches!(page.source, Source::Memory(_) | Source::Private(..));
            present += u64::from(self.model.pages.get(&page).is_none_or(counts));
            let mut bytes = vec![0; PAGE_SIZE as usize];
            let range = self.machine.mem.host_range(gpa, bytes.len()).expect("it is memory");
            let found = range.read_faultable(&mut bytes).ok().map(|()| ends(&bytes));
            let rights = walk.pte.rights();
            match self.model.pages.get(&page) {
                Some(model) => {
                    assert_eq!(
                        Some(rights),
                        bits(model.prot).rights(),
                        "rights of {gva} after {after:?}"
                    );
                    assert_eq!(found, self.model.words(model), "content of {gva} after {after:?}");
                }
                // Pages from the heap's end to the next 2 MiB boundary may be present in advance.
                None if ahead.contains(&page) => {
                    assert_eq!(found, Some([0; 2]), "ahead of the heap at {gva} after {after:?}");
                    assert!(!rights.execute, "ahead of the heap at {gva} after {after:?}");
                }
                None => panic!("{gva} is present and should not be, after {after:?}"),
            }
        }
        let held = self.machine.mem.ledger().held(MemoryKind::Private) / PAGE_SIZE;
        assert!(present <= held, "{present} pages present, {held} charged, after {after:?}");
        assert!(held <= self.limit_pages, "{held} pages are over the limit, after {after:?}");
    }

    /// The content of all pages, present or not, through the VMM's own access to it. Without `exact`,
    /// there may be no memory left for the tables of what was never touched.
    fn check_content(&self, exact: bool) {
        for (&page, model) in self.model.pages.iter().filter(|(_, model)| model.prot != 0) {
            let mut bytes = vec![0; PAGE_SIZE as usize];
            let copied = self.private.copy_in(at(page), &mut bytes);
            if !exact && copied == Err(Errno::ENOMEM) {
                continue;
            }
            let found = copied.ok().map(|()| ends(&bytes));
            assert_eq!(found, self.model.words(model), "content of {:#x}", at(page));
        }
        for (n, words) in self.model.file.iter().enumerate() {
            let mut bytes = vec![0; PAGE_SIZE as usize];
            self.file.read_exact_at(&mut bytes, at(n as u64)).expect("it is that long");
            assert_eq!(ends(&bytes), *words, "page {n} of the file");
        }
    }

    /// The host holds no more than the ledger says. Pages of a file that is mapped shared do
    /// not count, and are resident all the same.
    fn check_resident(&self, ops: &[Op], before: u64) {
        let shared = |op: &Op| match op {
            Op::MapAt { kind, .. } | Op::MapAnywhere { kind, .. } => {
                matches!(kind, Kind::Shared | Kind::SharedReadOnly)
            }
            _ => false,
        };
        if ops.iter().any(shared) {
            return;
        }
        let resident = self.machine.mem.resident_bytes().expect("/proc tells");
        let (taken, held) = (resident.saturating_sub(before), self.machine.mem.ledger().total());
        // Those of the private region that exist from the start are first touched here.
        let held = held + PRIVATE_TABLES * PAGE_SIZE;
        assert!(taken <= held, "the host holds {taken} bytes, {held} are charged: {ops:?}");
    }

    fn run(mut self, ops: &[Op], exact: bool) {
        let resident = self.machine.mem.resident_bytes().expect("/proc tells");
        let mut slots = (WINDOW / 512..(WINDOW + WINDOW_PAGES) / 512 + 3).collect();
        for op in ops {
            self.apply(op, exact);
            let extend = |slots: &mut std::collections::BTreeSet<u64>| {
                slots.extend(self.model.pages.keys().map(|page| page / 512));
            };
            extend(&mut slots);
            self.check(&slots, op);
        }
        self.check_resident(ops, resident);
        self.check_content(exact);
    }
}

fn bits(prot: u8) -> Prot {
    Prot::from_bits(u64::from(prot)).expect("three bits")
}

fn source(kind: Kind, file_page: u64) -> impl Fn(u64) -> Source {
    move |n| match kind {
        Kind::Anonymous => Source::Memory([0; 2]),
        Kind::Private => Source::Private(file_page + n, None),
        Kind::Shared => Source::Shared(file_page + n),
        Kind::SharedReadOnly => Source::SharedReadOnly(file_page + n),
    }
}

/// The first and the last word of a page.
fn ends(page: &[u8]) -> [u64; 2] {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    [word(&page[..8]), word(&page[page.len() - 8..])]
}

/// Each case makes a VM; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let cases = cases.unwrap_or_else(|| pace::times(48));
    ProptestConfig {
        cases,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn page_tables_and_content_agree_with_the_model_after_any_operations() {
    skip_without_kvm!();
    proptest!(config(), |(ops in prop::collection::vec(op(), 1..40))| {
        Twins::new(1 << 18).run(&ops, true);
    });
}

#[test]
fn short_memory_refuses_operations_and_is_never_exceeded() {
    skip_without_kvm!();
    proptest!(config(), |(limit in 1..3000_u64, ops in prop::collection::vec(op(), 1..40))| {
        Twins::new(limit).run(&ops, false);
    });
}

/// Operations that once failed, each for a different reason.
#[test]
fn sequences_that_once_failed_agree_with_the_model() {
    skip_without_kvm!();
    let anonymous =
        |page, count| Op::MapAt { page, count, prot: 3, kind: Kind::Anonymous, file_page: 0 };
    let heap = |pages: u64| Op::Heap { end_bytes: at(pages) };
    let private = Op::MapAt { page: WINDOW, count: 2, prot: 3, kind: Kind::Private, file_page: 0 };
    // Pages made present before memory ran out were not counted.
    Twins::new(1).run(&[private], false);
    // A range promoted to one large page went over the limit.
    let map = |page, count, prot| Op::MapAt {
        page: WINDOW + page,
        count,
        prot,
        kind: Kind::Anonymous,
        file_page: 0,
    };
    let ops = [
        map(2046, 3, 3),
        map(1254, 512, 3),
        map(1767, 509, 5),
        map(1277, 561, 1),
        Op::Protect { page: WINDOW + 1536, count: 512, prot: 3 },
        Op::Protect { page: WINDOW + 1534, count: 3, prot: 3 },
    ];
    Twins::new(849).run(&ops, false);
    // Pages made present ahead of the heap stayed when memory ran out half-way.
    Twins::new(757).run(&[heap(612), heap(613), heap(0)], false);
    // Pages ahead of the heap were freed although something had been moved there, or the
    // heap's own area had been grown there by `mremap`.
    let ahead = HEAP + 400;
    let grow = Op::Remap { page: HEAP, old: 300, new: 500, may_move: false, fixed: None };
    let moved = Op::Remap { page: WINDOW, old: 1, new: 50, may_move: true, fixed: Some(ahead) };
    for remap in [grow, moved] {
        let write = Op::Write { page: ahead, count: 50, stamp: 99 };
        let read = Op::Read { page: ahead, count: 50 };
        let ops = [anonymous(WINDOW, 1), heap(300), remap, write, heap(290), heap(0), read];
        Twins::new(1 << 18).run(&ops, true);
    }
}

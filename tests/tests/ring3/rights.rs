//! What the host's translation lets ring 3 do, against the bits of the tables, for all
//! combinations; accessed and dirty bits; large pages split and promoted under a program.
//!
//! `private_model` checks the content of the tables after any operation, without a
//! vCPU. Here a vCPU uses them.

use abi::layout::VAS_START;
use abi::pte::{PTE_A, PTE_D, PTE_NX, PTE_P, PTE_PS, PTE_U, PTE_W};
use abi::{GuestPhys, GuestVirt, Level, PAGE_SIZE, PAGE_SIZE_2M, Table};
use tests::skip_without_kvm;
use vmm::private::Prot;
use vmm::vm::Exit;

use crate::bench::{Bench, NOWHERE};
use crate::switch::END;

/// The first of eight PML4 entries of the VAS region, one for each combination of rights.
const FIRST_SLOT: u64 = (VAS_START.raw() >> 39) + 8;

/// Write, user and no-execute bit from the three bits of `combination`.
fn bits(combination: u64) -> u64 {
    let bit = |n: u64, bit: u64| if combination >> n & 1 != 0 { bit } else { 0 };
    bit(0, PTE_W) | bit(1, PTE_U) | bit(2, PTE_NX)
}

/// Writes any bits into the entry that covers `address`.
fn set(bench: &Bench, table: Table, address: u64, raw: u64) {
    bench.machine.mem.store(table.place(address), raw).unwrap();
}

fn frame(bench: &Bench) -> GuestPhys {
    bench.machine.table_frame().unwrap()
}

/// An address, and the rights at each level of the walk to it.
type TablePath = (u64, Vec<u64>);

/// Fills entries 0 to 7 of `table`, which maps the range from `start` on, with each combination
/// of rights: at level `leaf` with the page `page`, above with a table that is filled likewise.
fn fill(
    bench: &Bench,
    table: GuestPhys,
    level: Level,
    leaf: Level,
    page: GuestPhys,
    above: &TablePath,
    places: &mut Vec<TablePath>,
) {
    let table = Table::new(table, level);
    let first = if level == Level::Root { FIRST_SLOT } else { 0 };
    for combination in 0..8 {
        let index = first + combination;
        let at = above.0 | index << level.shift();
        let way = [&above.1[..], &[bits(combination)]].concat();
        if level == leaf {
            let large = if level == Level::Table { 0 } else { PTE_PS };
            set(bench, table, at, page.raw() | PTE_P | large | bits(combination));
            places.push((at, way));
        } else {
            let below = frame(bench);
            set(bench, table, at, below.raw() | PTE_P | bits(combination));
            let next = level.below().expect("a leaf is not below the last level");
            fill(bench, below, next, leaf, page, &(at, way), places);
        }
    }
}

/// The vCPU runs on its own root, with home's private region.
fn own_root(bench: &mut Bench) -> GuestPhys {
    let root = frame(bench);
    bench.machine.fill_root(root).unwrap();
    bench.kernel.switch.switch_root(&mut bench.vcpu, root.raw()).unwrap();
    root
}

/// Tries one access at `at`; the page fault's error code, or `None` if it succeeded.
fn access(bench: &mut Bench, code: &[u8], at: u64) -> Option<u64> {
    bench.load(&[code, &END].concat());
    bench.vcpu.regs.rbx = at;
    bench.vcpu.regs.rax = 0;
    match bench.run() {
        Exit::Exception { vector: 6, .. } => None,
        Exit::Exception { vector: 14, frame, address } => {
            assert_eq!(address & !15, at, "{code:x?}");
            Some(frame.error)
        }
        other => panic!("{code:x?} at {at:#x}: {other:x?}"),
    }
}

/// `mov eax, [rbx]`; `mov [rbx + 8], eax`, next to the code that a fetch finds; `jmp
/// rbx`.
const READ: &[u8] = &[0x8b, 0x03];
const WRITE: &[u8] = &[0x89, 0x43, 0x08];
const FETCH: &[u8] = &[0xff, 0xe3];

#[test]
fn ring_3_may_do_what_every_level_allows_and_no_more() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let gigabytes = bench.machine.has_gigabyte_pages();
    let page = bench.machine.mem.alloc(PAGE_SIZE_2M).unwrap();
    // A fetch runs UD2.
    bench.machine.mem.store(page, 0x0b0f).unwrap();
    for (leaf, combinations) in
        [(Level::Table, 4096), (Level::Directory, 512), (Level::Pointer, 64)]
    {
        if leaf == Level::Pointer && !gigabytes {
            println!("no pages of 1 GiB are offered here: not tried");
            continue;
        }
        let root = own_root(&mut bench);
        let mut places = Vec::new();
        // The only page of 1 GiB that is memory begins at 0, with the kernel's own data: there
        // ring 3 may only read.
        let target = if leaf == Level::Pointer { GuestPhys::literal(0) } else { page };
        fill(&bench, root, Level::Root, leaf, target, &(0, Vec::new()), &mut places);
        assert_eq!(places.len(), combinations);
        let mut allowed = [0; 3];
        for (at, way) in &places {
            let every = |bit: u64| way.iter().all(|rights| rights & bit != 0);
            let any = |bit: u64| way.iter().any(|rights| rights & bit != 0);
            let may = [every(PTE_U), every(PTE_U) && every(PTE_W), every(PTE_U) && !any(PTE_NX)];
            // Present, and write, user, fetch (SDM 3A, 4.7).
            let cases = [(READ, 5), (WRITE, 7), (FETCH, 0x15)];
            for (index, (code, error)) in cases.into_iter().enumerate() {
                if leaf == Level::Pointer && index != 0 && may[index] {
                    continue;
                }
                let expected = (!may[index]).then_some(error);
                let found = access(&mut bench, code, *at);
                assert_eq!(found, expected, "{code:x?} at {at:#x} by {way:x?}");
                allowed[index] += u32::from(may[index]);
            }
        }
        println!("{leaf:?}: {combinations} combinations, allowed {allowed:?}");
        assert!(allowed[0] > 0);
    }
}

#[test]
fn the_processor_sets_accessed_and_dirty_bits_where_they_are_clear() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let root = own_root(&mut bench);
    let page = bench.machine.mem.alloc(PAGE_SIZE_2M).unwrap();
    let frames = [root, frame(&bench), frame(&bench), frame(&bench), page];
    let levels = [Level::Root, Level::Pointer, Level::Directory, Level::Table];
    let at = FIRST_SLOT << 39;
    let table = |n: usize| Table::new(frames[n], levels[n]);
    for n in 0..4 {
        set(&bench, table(n), at, frames[n + 1].raw() | PTE_P | PTE_W | PTE_U);
    }
    let entry = |bench: &Bench, n: usize| {
        table(n).get(&bench.machine.mem, at).unwrap().raw() & (PTE_A | PTE_D)
    };
    assert_eq!(access(&mut bench, READ, at), None);
    for (n, level) in levels.into_iter().enumerate() {
        assert_eq!(entry(&bench, n) & PTE_A, PTE_A, "{level:?}: accessed");
    }
    assert_eq!(entry(&bench, 3), PTE_A, "read, not written");
    assert_eq!(access(&mut bench, WRITE, at), None);
    assert_eq!(entry(&bench, 3), PTE_A | PTE_D, "written");
}

#[test]
fn what_the_mapper_writes_is_accessed_and_dirty_from_the_start() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    bench.map(NOWHERE, PAGE_SIZE_2M, 3);
    assert_eq!(access(&mut bench, READ, NOWHERE), None);
    let gva = GuestVirt::literal(NOWHERE);
    let walk = bench.machine.edit_tables(|tables| tables.walk(gva)).unwrap();
    assert_eq!(walk.pte.raw() & (PTE_A | PTE_D), PTE_A | PTE_D);
}

#[test]
fn a_large_page_split_and_joined_keeps_its_content_and_forbids_exactly_one_page() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    bench.map(NOWHERE, PAGE_SIZE_2M, 3);
    let level = |bench: &Bench| {
        let gva = GuestVirt::literal(NOWHERE);
        bench.machine.edit_tables(|tables| tables.walk(gva)).unwrap().level
    };
    let protect = |bench: &Bench, page: u64, prot: u64| {
        let prot = Prot::from_bits(prot).expect("three bits");
        bench.private.protect(NOWHERE + page * PAGE_SIZE, PAGE_SIZE, prot).unwrap();
    };
    let pages = [0, 1, 2, 254, 255, 256, 510, 511];
    for &page in &pages {
        bench.private.copy_out(NOWHERE + page * PAGE_SIZE, &(0x1000 + page).to_le_bytes()).unwrap();
        assert_eq!(access(&mut bench, READ, NOWHERE + page * PAGE_SIZE), None);
    }
    assert_eq!(level(&bench), Level::Directory, "one large page");
    for &single in &pages {
        protect(&bench, single, 1);
        assert_eq!(level(&bench), Level::Table, "split");
        for &page in &pages {
            let at = NOWHERE + page * PAGE_SIZE;
            assert_eq!(access(&mut bench, READ, at), None);
            assert_eq!(bench.vcpu.regs.rax, 0x1000 + page);
            let refused = (page == single).then_some(7);
            assert_eq!(access(&mut bench, WRITE, at), refused, "page {page}, {single} read-only");
        }
        protect(&bench, single, 3);
        for &page in &pages {
            let at = NOWHERE + page * PAGE_SIZE;
            assert_eq!(access(&mut bench, WRITE, at), None, "page {page} after joining");
            assert_eq!(access(&mut bench, READ, at), None);
            assert_eq!(bench.vcpu.regs.rax, 0x1000 + page);
        }
    }
}

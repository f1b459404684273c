//! Windows come, go and change what they map, and no vCPU keeps a stale translation.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use abi::layout::VAS_START;
use abi::{Entry, GuestPhys, GuestVirt, Level, PAGE_SIZE, PAGE_SIZE_2M, PageSize, Rights, Table};
use tests::skip_without_kvm;
use vmm::vm::windows::{FilePiece, Usage, Window};

use crate::bench::Bench;

const USER: Rights = Rights { write: true, execute: false, user: true };
const BYTES: u64 = PAGE_SIZE_2M;

/// A file whose pages begin with `mark` plus the page's number.
fn marked_file(mark: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(BYTES).unwrap();
    for page in 0..BYTES / PAGE_SIZE {
        file.write_all_at(&(mark + page).to_le_bytes(), page * PAGE_SIZE).unwrap();
    }
    file
}

fn window(bench: &Bench, file: &File) -> Window {
    let piece = FilePiece {
        file: file.as_fd(),
        offset: 0,
        bytes: BYTES,
        writable: true,
        usage: Usage::Dense,
    };
    bench.machine.windows.map(piece).unwrap()
}

fn map(bench: &Bench, at: u64, gpa: GuestPhys, size: PageSize) {
    let gva = GuestVirt::new(at).unwrap();
    bench.machine.edit_tables(|tables| tables.map(gva, gpa, size, USER)).unwrap();
}

/// What ring 3 reads at `at`; must be the number of a Linux call.
fn read(bench: &mut Bench, at: u64) -> u64 {
    // mov rax, [rbx]; syscall
    bench.load(&[0x48, 0x8b, 0x03, 0x0f, 0x05]);
    bench.vcpu.regs.rbx = at;
    bench.run_to_syscall();
    bench.vcpu.regs.rax
}

#[test]
fn a_window_shows_its_file_and_writes_reach_it() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let file = marked_file(0x1000);
    let shown = window(&bench, &file);
    let at = VAS_START.raw();
    map(&bench, at, shown.gpa(), PageSize::Large2M);
    assert_eq!(read(&mut bench, at + 7 * PAGE_SIZE), 0x1007);
    // mov [rbx], rbx; syscall
    bench.load(&[0x48, 0x89, 0x1b, 0x0f, 0x05]);
    bench.vcpu.regs.rbx = at + 8;
    bench.run_to_syscall();
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 8).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), at + 8);
}

#[test]
fn an_address_can_show_another_window_after_the_first_is_gone() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let at = VAS_START.raw() + (3 << 30);
    let gva = GuestVirt::new(at).unwrap();
    for round in 0..20 {
        // Below the numbers of our own calls: `read` makes a call of what it reads.
        let mark = round << 16;
        let file = marked_file(mark);
        let shown = window(&bench, &file);
        for page in [0, 1, 511] {
            map(&bench, at, shown.gpa(), PageSize::Large2M);
            assert_eq!(read(&mut bench, at + page * PAGE_SIZE), mark + page);
        }
        bench.machine.edit_tables(|tables| tables.clear(gva, Level::Directory)).unwrap();
        // A window in between, so that the next one gets another guest-physical address.
        let other = (round % 2 == 0).then(|| window(&bench, &file));
        bench.machine.windows.unmap(vec![shown]);
        bench.machine.windows.unmap(other.into_iter().collect());
    }
    assert_eq!(bench.machine.windows.mapped_bytes(), 0);
}

#[test]
fn a_table_can_serve_another_place_once_everything_is_forgotten() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let (a, b) = (marked_file(0xa000), marked_file(0xb000));
    let (wa, wb) = (window(&bench, &a), window(&bench, &b));
    let first = VAS_START.raw() + (5 << 30);
    let second = VAS_START.raw() + (700 << 30);
    for page in 0..512 {
        map(&bench, first + page * PAGE_SIZE, wa.gpa().offset(page * PAGE_SIZE), PageSize::Small4K);
    }
    assert_eq!(read(&mut bench, first + 5 * PAGE_SIZE), 0xa005);
    let here = GuestVirt::new(first).unwrap();
    let table = bench.machine.edit_tables(|tables| tables.table_for(here, Level::Table)).unwrap();
    bench.machine.edit_tables(|tables| tables.clear(here, Level::Directory)).unwrap();
    bench.machine.windows.forget_everything().unwrap();
    for page in 0..512 {
        let entry = Entry::Page(wb.gpa().offset((511 - page) * PAGE_SIZE), USER);
        let table = Table::new(table, Level::Table);
        table.set(&bench.machine.mem, second + page * PAGE_SIZE, entry).unwrap();
    }
    let there = GuestVirt::new(second).unwrap();
    bench.machine.edit_tables(|tables| tables.link(there, Level::Directory, table)).unwrap();
    assert_eq!(read(&mut bench, second), 0xb000 + 511);
    assert_eq!(read(&mut bench, second + 5 * PAGE_SIZE), 0xb000 + 506);
    // And the first address is unmapped.
    bench.load(&[0x48, 0x8b, 0x03, 0x0f, 0x05]);
    bench.vcpu.regs.rbx = first + 5 * PAGE_SIZE;
    assert_eq!(bench.run_to(14).1, first + 5 * PAGE_SIZE);
}

/// Private memory once came from two memory regions adjacent in guest-physical space but not in
/// host memory: dropping a range across the border failed, and old content came back.
#[test]
fn memory_that_is_contiguous_for_the_guest_is_so_for_the_host() {
    skip_without_kvm!();
    let bench = Bench::new();
    let mem = &bench.machine.mem;
    let mut last = mem.alloc(PAGE_SIZE_2M).unwrap();
    let mut gaps = 0;
    for _ in 0..200 {
        let next = mem.alloc(PAGE_SIZE_2M).unwrap();
        if next == last.offset(PAGE_SIZE_2M) {
            mem.discard(last, 2 * PAGE_SIZE_2M).unwrap();
        } else {
            gaps += 1;
        }
        last = next;
    }
    assert!(gaps >= 2, "200 blocks do not fit into two memory regions");
}

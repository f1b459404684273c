//! `shootdown DIR SEED CALLS`: one thread makes CALLS random calls that change memory (unmap,
//! protect, replace, discard, move, shrink the heap, truncate a mapped file), three others touch
//! the same pages all the time. Once a call has returned, every access must see its result, on
//! every processor. Prints "shootdown: fine" and exits with 0; a violation is reported on
//! standard error and gives status 1. DIR is for a file.

#![expect(clippy::multiple_unsafe_ops_per_block, reason = "a pointer made and used is one step")]

mod state;
mod touch;

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use state::{HEAP, Page, Random, Shared, WINDOW};
use touch::{Access, CODE_AT, Seen, touch};

const PAGE: usize = 4096;
const SLOT: usize = 512;
/// Pages of the file at its full length.
const FILE_PAGES: usize = 600;
/// Accesses each thread makes after a call.
const TOUCHES: usize = 6;
/// The word of a page that the changing thread would write.
const OWN: u64 = 20;

struct Changer<'a> {
    shared: &'a Shared,
    random: Random,
    next_stamp: u32,
    file: File,
    /// Which page of the file lies where, and whether it is private.
    file_at: Vec<Option<(usize, bool)>>,
    /// A range to move memory from and to. Nothing else allocates memory while the
    /// threads run, so no other mapping gets into its holes and those of the window.
    side: usize,
}

fn check(result: libc::c_long, call: &str) {
    assert_ne!(result, -1, "{call}: {}", Error::last_os_error());
}

/// What a page with this stamp begins with, and its code.
fn write_stamp(page: usize, stamp: u32) {
    let mut code = [0xb8, 0, 0, 0, 0, 0xc3, 0, 0];
    code[1..5].copy_from_slice(&stamp.to_le_bytes());
    // SAFETY: the page is mapped and writable; the others only write their own words and
    // may read these at any time, as units.
    unsafe {
        ((page + CODE_AT) as *mut u64).write_volatile(u64::from_le_bytes(code));
        (page as *mut u64).write_volatile(state::word(stamp));
    }
}

fn map_side(pages: usize) -> usize {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: memory at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, 3, flags, -1, 0) };
    check(at as libc::c_long, "mmap");
    at as usize
}

impl Changer<'_> {
    fn at(&self, index: usize) -> usize {
        self.shared.address(index) as usize
    }

    fn stamp(&mut self) -> u32 {
        self.next_stamp += 1;
        self.next_stamp
    }

    /// Pages of the window: often few, or about 2 MiB, or exactly 2 MiB.
    fn range(&mut self) -> (usize, usize) {
        let first = match self.random.below(3) {
            0 => self.random.below(4) * SLOT,
            1 => (1 + self.random.below(3)) * SLOT - 1 - self.random.below(4),
            _ => self.random.below(WINDOW),
        };
        let count = match self.random.below(8) {
            0 => SLOT,
            1 => 2 * SLOT,
            2 => SLOT - 2 + self.random.below(4),
            3 => 1 + self.random.below(3 * SLOT),
            _ => 1 + self.random.below(6),
        };
        (first, count.min(WINDOW - first))
    }

    fn set(&mut self, first: usize, count: usize, page: Page) {
        for index in first..first + count {
            self.shared.set(index, page);
            self.file_at[index] = None;
        }
    }

    fn map_fixed(&self, first: usize, count: usize, prot: i32, file: Option<(usize, bool)>) {
        let (fd, offset, kind) = match file {
            Some((page, true)) => (self.file.as_raw_fd(), page * PAGE, libc::MAP_PRIVATE),
            Some((page, false)) => (self.file.as_raw_fd(), page * PAGE, libc::MAP_SHARED),
            None => (-1, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
        };
        let (at, flags) = (self.at(first), kind | libc::MAP_FIXED);
        // SAFETY: the window is ours; the other threads survive whatever they find there.
        let at = unsafe {
            libc::mmap(at as *mut _, count * PAGE, prot, flags, fd, offset as libc::off_t)
        };
        check(at as libc::c_long, "mmap");
    }

    fn protect_raw(&self, first: usize, count: usize, prot: u8) {
        // SAFETY: as for `map_fixed`.
        let result =
            unsafe { libc::mprotect(self.at(first) as *mut _, count * PAGE, i32::from(prot)) };
        check(result.into(), "mprotect");
    }

    /// Fresh memory with a different stamp on every page, then these rights.
    fn replace(&mut self, first: usize, count: usize, prot: u8) {
        self.map_fixed(first, count, 3, None);
        self.set(first, count, Page::Nothing);
        for index in first..first + count {
            let stamp = self.stamp();
            write_stamp(self.at(index), stamp);
            self.shared.set(index, Page::Mapped { prot, stamp });
        }
        if prot != 3 {
            self.protect_raw(first, count, prot);
        }
    }

    fn unmap(&mut self, first: usize, count: usize) {
        // SAFETY: as for `map_fixed`.
        let result = unsafe { libc::munmap(self.at(first) as *mut _, count * PAGE) };
        check(result.into(), "munmap");
        self.set(first, count, Page::Nothing);
    }

    /// `mprotect` of as much of the range as is mapped from its start on; of at least one page.
    /// Returns how many pages that is.
    fn protect(&mut self, first: usize, count: usize, prot: u8) -> usize {
        let mapped = |&index: &usize| self.shared.page(index) != Page::Nothing;
        let count = (first..first + count).take_while(mapped).count();
        if count == 0 {
            self.replace(first, 1, prot);
            return 1;
        }
        self.protect_raw(first, count, prot);
        for index in first..first + count {
            let page = match self.shared.page(index) {
                Page::Mapped { stamp, .. } => Page::Mapped { prot, stamp },
                Page::BeyondFile { .. } => Page::BeyondFile { prot },
                other => other,
            };
            self.shared.set(index, page);
        }
        count
    }

    /// What page `page` of the file holds, seen with these rights.
    fn file_page(&self, page: usize, prot: u8) -> Page {
        let mut word = [0; 8];
        match self.file.read_at(&mut word, (page * PAGE) as u64).expect("the file is readable") {
            8 => Page::Mapped { prot, stamp: (u64::from_le_bytes(word) >> 8) as u32 },
            _ => Page::BeyondFile { prot },
        }
    }

    fn discard(&mut self, first: usize, count: usize) {
        // Zeroes are not code: no thread may run them.
        let count = self.protect(first, count, 3);
        let at = self.at(first) as *mut _;
        // SAFETY: as for `map_fixed`.
        check(unsafe { libc::madvise(at, count * PAGE, libc::MADV_DONTNEED) }.into(), "madvise");
        for index in first..first + count {
            let page = match self.file_at[index] {
                Some((page, _)) => self.file_page(page, 3),
                None => Page::Mapped { prot: 3, stamp: 0 },
            };
            self.shared.set(index, page);
        }
    }

    fn lay_file(&mut self, first: usize, count: usize, prot: u8) {
        let from = self.random.below(FILE_PAGES);
        let count = count.min(FILE_PAGES - from);
        let is_private = self.random.below(2) == 0;
        self.map_fixed(first, count, prot.into(), Some((from, is_private)));
        for n in 0..count {
            self.shared.set(first + n, self.file_page(from + n, prot));
            self.file_at[first + n] = Some((from + n, is_private));
        }
    }

    /// Truncates the file, which removes pages from every mapping of it, and extends it again
    /// with new content beyond the cut.
    fn cut_file(&mut self) {
        let keep = self.random.below(FILE_PAGES);
        self.file.set_len((keep * PAGE) as u64).expect("a file can be cut");
        self.tell_file_pages();
        self.shared.end();
        self.shared.wait_for_touches(TOUCHES);
        self.shared.begin();
        self.fill_file(keep);
        self.tell_file_pages();
    }

    fn fill_file(&mut self, from: usize) {
        for page in from..FILE_PAGES {
            let stamp = self.stamp();
            let mut bytes = [0; PAGE];
            bytes[..8].copy_from_slice(&state::word(stamp).to_le_bytes());
            bytes[CODE_AT] = 0xb8;
            bytes[CODE_AT + 1..CODE_AT + 5].copy_from_slice(&stamp.to_le_bytes());
            bytes[CODE_AT + 5] = 0xc3;
            self.file.write_all_at(&bytes, (page * PAGE) as u64).expect("it can be written");
        }
    }

    fn tell_file_pages(&self) {
        for (index, at) in self.file_at.iter().enumerate() {
            let Some((page, is_private)) = *at else { continue };
            let old = self.shared.page(index);
            let (Page::Mapped { prot, .. } | Page::BeyondFile { prot }) = old else { continue };
            let new = self.file_page(page, prot);
            // A private page may have been written, and then no longer follows the file;
            // truncation removes it all the same.
            let follows = !is_private || matches!(new, Page::BeyondFile { .. }) || new == old;
            self.shared.set(index, if follows { new } else { Page::Unknown });
        }
    }

    /// Moves stamped memory from elsewhere into the window.
    fn move_in(&mut self, first: usize, count: usize) {
        let (side, flags) = (self.side, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // SAFETY: this place is kept for that.
        let at = unsafe { libc::mmap(side as *mut _, count * PAGE, 3, flags, -1, 0) };
        check(at as libc::c_long, "mmap");
        self.set(first, count, Page::Nothing);
        for n in 0..count {
            let stamp = self.stamp();
            write_stamp(side + n * PAGE, stamp);
            self.shared.set(first + n, Page::Mapped { prot: 3, stamp });
        }
        move_pages(side, self.at(first), count);
        let seen = touch(side as u64, Access::Read, OWN);
        assert_eq!(seen, Seen::NotMapped, "where the pages came from");
    }

    /// Moves fresh stamped memory out of the window.
    fn move_out(&mut self, first: usize, count: usize) {
        self.replace(first, count, 3);
        self.shared.end();
        self.shared.wait_for_touches(TOUCHES);
        self.shared.begin();
        move_pages(self.at(first), self.side, count);
        for n in 0..count {
            let Page::Mapped { stamp, .. } = self.shared.page(first + n) else { unreachable!() };
            let seen = touch((self.side + n * PAGE) as u64, Access::Read, OWN);
            assert_eq!(seen, Seen::Value(state::word(stamp)), "page {n} has been moved");
        }
        self.set(first, count, Page::Nothing);
    }

    fn shrink_mapping(&mut self, first: usize, count: usize) {
        self.replace(first, count, 3);
        let keep = 1 + self.random.below(count);
        let at = self.at(first) as *mut libc::c_void;
        // SAFETY: as for `map_fixed`.
        let same = unsafe { libc::mremap(at, count * PAGE, keep * PAGE, 0) };
        assert_eq!(same, at, "mremap: {}", Error::last_os_error());
        self.set(first + keep, count - keep, Page::Nothing);
    }

    /// Splits a 2 MiB page and promotes it again.
    fn split_and_join(&mut self, first: usize) {
        let slot = first / SLOT * SLOT;
        let (at, count) = (first, 1 + self.random.below(4.min(slot + SLOT - first)));
        self.shared.focus(at.saturating_sub(2).max(slot), count + 2.min(slot + SLOT - at - count));
        self.replace(slot, SLOT, 3);
        for prot in [1, 3, 0, 3, 5, 3] {
            self.protect(at, count, prot);
            self.shared.end();
            self.shared.wait_for_touches(TOUCHES);
            self.shared.begin();
        }
        self.protect(slot, SLOT, 1);
    }

    /// Moves the heap's end. Memory up to the next 2 MiB boundary may be present.
    fn heap(&mut self) {
        let end = self.random.below(HEAP + 1);
        // SAFETY: only memory that nothing else uses comes and goes: nothing here
        // allocates from the heap while the threads run.
        let now = unsafe { libc::syscall(libc::SYS_brk, self.at(WINDOW) + end * PAGE) };
        assert_eq!(now as usize, self.at(WINDOW) + end * PAGE, "brk");
        let old = (WINDOW..WINDOW + HEAP)
            .take_while(|&index| matches!(self.shared.page(index), Page::Mapped { .. }))
            .count();
        for n in 0..HEAP {
            let page = match n {
                _ if n < old.min(end) => continue,
                _ if n < end => {
                    // Fresh: it must be zero before anything is written.
                    let seen = touch(self.shared.address(WINDOW + n), Access::Read, OWN);
                    assert_eq!(seen, Seen::Value(0), "page {n} of the heap is fresh");
                    let stamp = self.stamp();
                    write_stamp(self.at(WINDOW + n), stamp);
                    Page::Mapped { prot: 3, stamp }
                }
                _ if end > old => Page::Unknown,
                _ if end == old => continue,
                _ => Page::Nothing,
            };
            self.shared.set(WINDOW + n, page);
        }
    }

    fn change(&mut self) {
        let (first, count) = self.range();
        let prot = [0, 1, 3, 5, 7, 3][self.random.below(6)];
        let what = self.random.below(12);
        if what == 11 {
            self.shared.focus(WINDOW, HEAP);
        } else {
            self.shared.focus(first, count);
        }
        // The pages about to change are in every thread's TLB.
        self.shared.wait_for_touches(2);
        self.shared.begin();
        match what {
            0 | 1 => self.unmap(first, count),
            2..=4 => drop(self.protect(first, count, prot)),
            5 => self.replace(first, count, prot),
            6 => self.discard(first, count),
            7 => self.lay_file(first, count, prot),
            8 => match self.random.below(2) {
                0 => self.move_in(first, count),
                _ => self.move_out(first, count),
            },
            9 => match self.random.below(2) {
                0 => self.shrink_mapping(first, count),
                _ => self.cut_file(),
            },
            10 => self.split_and_join(first),
            _ => self.heap(),
        }
        self.shared.end();
        self.shared.wait_for_touches(TOUCHES);
    }
}

fn move_pages(from: usize, to: usize, count: usize) {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both are memory of this test's own, and accesses to unmapped pages are survived.
    let at = unsafe {
        libc::mremap(from as *mut _, count * PAGE, count * PAGE, flags, to as *mut libc::c_void)
    };
    assert_eq!(at as usize, to, "mremap: {}", Error::last_os_error());
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, folder, seed, calls] = &args[..] else { panic!("DIR SEED CALLS are needed") };
    let (seed, calls): (u64, u32) = (seed.parse().unwrap(), calls.parse().unwrap());
    let path = std::path::Path::new(folder).join("shootdown");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);

    // Otherwise the other threads would run forever.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        std::process::exit(1);
    }));
    // Five times 2 MiB, so that it contains four aligned ranges.
    let window = map_side(WINDOW + SLOT).next_multiple_of(SLOT * PAGE);
    // SAFETY: asks where the heap ends.
    let heap = unsafe { libc::syscall(libc::SYS_brk, 0) } as usize;
    let shared = Shared::new(window as u64, heap.next_multiple_of(PAGE) as u64);
    // Code runs in the window and the heap; both are far below the stack.
    let ends = [window, window + WINDOW * PAGE, heap, heap + (HEAP + 1) * PAGE];
    touch::prepare(*ends.iter().min().unwrap() as u64..*ends.iter().max().unwrap() as u64);
    let mut changer = Changer {
        shared: &shared,
        random: Random(seed),
        next_stamp: 0,
        file: file.expect("a file can be made in DIR"),
        file_at: vec![None; WINDOW + HEAP],
        side: map_side(WINDOW),
    };
    changer.fill_file(0);
    changer.replace(0, WINDOW, 3);
    std::thread::scope(|scope| {
        for thread in 0..state::TOUCHERS {
            scope.spawn({
                let shared = &shared;
                move || shared.touch_all(thread)
            });
        }
        for _ in 0..calls {
            changer.change();
        }
        shared.done.store(true, Ordering::Relaxed);
    });
    let checked = shared.checked.load(Ordering::Relaxed);
    eprintln!("{checked} accesses checked, {} refused", shared.refused.load(Ordering::Relaxed));
    println!("shootdown: fine");
}

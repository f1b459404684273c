//! The expected state of every page, shared by the thread that changes pages and those that
//! touch them.
//!
//! A sequence lock around all of it: the number is odd while a call is under way. An access
//! made entirely between two readings of the same even number was made after the last call
//! had returned and before the next began, and must see exactly what the last one left.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::touch::{Access, Seen, touch};

/// Number of touching threads.
pub(crate) const TOUCHERS: usize = 3;
/// Pages of the window: four ranges of 2 MiB.
pub(crate) const WINDOW: usize = 2048;
/// Pages above the program's heap.
pub(crate) const HEAP: usize = 700;

/// The expected state of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// Nothing is mapped.
    Nothing,
    /// Mapped with these rights (1 read, 2 write, 4 execute), with this stamp, 0 for none.
    Mapped { prot: u8, stamp: u32 },
    /// Mapped beyond the end of the file, with these rights.
    BeyondFile { prot: u8 },
    /// May be in either state.
    Unknown,
}

/// The word at the start of a page with this stamp. It begins with a `ret`, in case a thread
/// runs off the end of the page before.
pub(crate) fn word(stamp: u32) -> u64 {
    if stamp == 0 { 0 } else { u64::from(stamp) << 8 | 0xc3 }
}

impl Page {
    fn pack(self) -> u64 {
        match self {
            Page::Nothing => 0,
            Page::Mapped { prot, stamp } => 1 | u64::from(prot) << 8 | u64::from(stamp) << 32,
            Page::BeyondFile { prot } => 2 | u64::from(prot) << 8,
            Page::Unknown => 3,
        }
    }

    fn unpack(raw: u64) -> Page {
        let prot = (raw >> 8) as u8;
        match raw as u8 {
            0 => Page::Nothing,
            1 => Page::Mapped { prot, stamp: (raw >> 32) as u32 },
            2 => Page::BeyondFile { prot },
            _ => Page::Unknown,
        }
    }

    /// The required outcome of the access; `None` when it is not known.
    fn expected(self, access: Access) -> Option<Seen> {
        let allows = |prot: u8| match access {
            Access::Read => prot != 0,
            Access::Write => prot & 2 != 0,
            Access::Execute => prot & 4 != 0,
        };
        Some(match self {
            Page::Unknown => return None,
            // Linux checks the file's end before this right.
            Page::BeyondFile { .. } if access == Access::Execute => return None,
            Page::Nothing => Seen::NotMapped,
            Page::Mapped { prot, .. } | Page::BeyondFile { prot } if !allows(prot) => {
                Seen::Forbidden
            }
            Page::BeyondFile { .. } => Seen::BeyondFile,
            Page::Mapped { stamp, .. } => match access {
                Access::Read => Seen::Value(word(stamp)),
                Access::Write => Seen::Value(0),
                // Without a stamp there is no code.
                Access::Execute if stamp == 0 => return None,
                Access::Execute => Seen::Value(u64::from(stamp)),
            },
        })
    }
}

/// All that the threads share.
pub(crate) struct Shared {
    window: u64,
    heap: u64,
    pages: Vec<AtomicU64>,
    sequence: AtomicU64,
    /// First page and number of pages to touch most.
    focus: AtomicU64,
    /// Accesses in focus and between calls, by each thread, whether or not their result is known.
    touched: [AtomicUsize; TOUCHERS],
    /// Accesses checked.
    pub(crate) checked: AtomicUsize,
    /// Of those, the ones that were refused.
    pub(crate) refused: AtomicUsize,
    /// Set at the end.
    pub(crate) done: AtomicBool,
}

impl Shared {
    /// A window at `window`, and the heap's end at `heap`; nothing is mapped.
    pub(crate) fn new(window: u64, heap: u64) -> Shared {
        let nothing = |_| AtomicU64::new(Page::Nothing.pack());
        Shared {
            window,
            heap,
            pages: (0..WINDOW + HEAP).map(nothing).collect(),
            sequence: AtomicU64::new(0),
            focus: AtomicU64::new(1),
            touched: Default::default(),
            checked: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            done: AtomicBool::new(false),
        }
    }

    /// Where page number `index` is: in the window, or after it in the heap.
    pub(crate) fn address(&self, index: usize) -> u64 {
        let (base, index) =
            if index < WINDOW { (self.window, index) } else { (self.heap, index - WINDOW) };
        base + index as u64 * 4096
    }

    pub(crate) fn page(&self, index: usize) -> Page {
        Page::unpack(self.pages[index].load(Ordering::Relaxed))
    }

    /// Only between [`Shared::begin`] and [`Shared::end`].
    pub(crate) fn set(&self, index: usize, page: Page) {
        self.pages[index].store(page.pack(), Ordering::Relaxed);
    }

    /// Has the other threads touch mostly these pages.
    pub(crate) fn focus(&self, first: usize, count: usize) {
        self.focus.store((first as u64) << 32 | count as u64, Ordering::Relaxed);
    }

    /// From here on no thread may rely on anything.
    pub(crate) fn begin(&self) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
    }

    /// From here on every thread must see what was [`set`](Shared::set).
    pub(crate) fn end(&self) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until every thread has made `count` more accesses in focus.
    pub(crate) fn wait_for_touches(&self, count: usize) {
        let before: Vec<_> = self.touched.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        for (n, before) in self.touched.iter().zip(before) {
            while n.load(Ordering::Relaxed) < before + count {
                std::thread::yield_now();
            }
        }
    }

    /// Touches pages until the end. Ends the process with status 1 at the first access that
    /// sees what it must not.
    pub(crate) fn touch_all(&self, thread: usize) {
        let mut random = Random(thread as u64 + 1);
        while !self.done.load(Ordering::Relaxed) {
            let focus = self.focus.load(Ordering::Relaxed);
            let (first, count) = ((focus >> 32) as usize, focus as u32 as usize);
            let near = random.below(8) != 0;
            let index = match near {
                true => first + random.below(count),
                false => random.below(self.pages.len()),
            };
            let access = match random.below(5) {
                0 | 1 => Access::Read,
                2 | 3 => Access::Write,
                _ => Access::Execute,
            };
            let before = self.sequence.load(Ordering::SeqCst);
            let page = self.page(index);
            let seen = touch(self.address(index), access, thread as u64);
            std::sync::atomic::fence(Ordering::SeqCst);
            if !before.is_multiple_of(2) || self.sequence.load(Ordering::SeqCst) != before {
                continue;
            }
            if near {
                self.touched[thread].fetch_add(1, Ordering::Relaxed);
            }
            let Some(expected) = page.expected(access) else { continue };
            if seen != expected {
                eprintln!(
                    "thread {thread}, call {}: {access:?} of page {index} ({:#x}): {seen:x?}, \
                     should be {expected:x?} for {page:x?}",
                    before / 2,
                    self.address(index)
                );
                std::process::exit(1);
            }
            if !matches!(seen, Seen::Value(_)) {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            self.checked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A stream of numbers that is the same in every run.
pub(crate) struct Random(pub u64);

impl Random {
    /// Below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % limit
    }
}

//! `heap`: allocating in a VAS against `malloc`, both in this process, alternately.
//!
//! Both get the same requests, prepared before the clock starts. The timed part is allocating
//! and freeing memory and touching it once; pages are touched before, in rounds that do not
//! count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::time::Instant;

use spacejmp::heap::RawHeap;
use spacejmp::sys::{self, PagePolicy, VasHandle};

use crate::json::Object;
use crate::random::Random;
use crate::space::{enter, make, sized, tell};

const SEGMENT_BYTES: u64 = 1 << 30;
/// Blocks alive at a time.
const LIVE: usize = 10_000;
/// Objects of 32 bytes whose memory is counted.
const OBJECTS: u64 = 1_000_000;

/// Requests: which block is freed, and how large the new one in its place is.
struct Mix {
    name: &'static str,
    steps: Vec<(u32, u32)>,
}

/// Where blocks come from.
trait Source {
    fn alloc(&mut self, layout: Layout) -> *mut u8;
    fn free(&mut self, block: NonNull<u8>, layout: Layout);
}

struct Malloc;

impl Source for Malloc {
    #[inline]
    fn alloc(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: no layout here is of size 0.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: `replay` frees what it allocated, once, with its layout.
        unsafe { System.dealloc(block.as_ptr(), layout) }
    }
}

struct Ours(RawHeap);

impl Source for Ours {
    #[inline]
    fn alloc(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: this thread is inside, and the only one.
        let block = unsafe { self.0.alloc(layout, &mut |_: u64, _: u64| None) };
        block.map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    fn free(&mut self, block: NonNull<u8>, _: Layout) {
        // SAFETY: as above; `replay` frees what it allocated, once.
        unsafe { self.0.dealloc(block) }
    }
}

fn layout(bytes: u32) -> Layout {
    Layout::from_size_align(bytes as usize, 16).unwrap_or(Layout::new::<u128>())
}

/// Performs a mix; nanoseconds.
#[inline(never)]
fn replay(source: &mut impl Source, mix: &Mix) -> Result<u64, String> {
    let mut live: Vec<Option<(NonNull<u8>, u32)>> = vec![None; LIVE];
    let start = Instant::now();
    for &(slot, bytes) in &mix.steps {
        let slot = &mut live[slot as usize];
        if let Some((block, bytes)) = slot.take() {
            source.free(block, layout(bytes));
        }
        let Some(block) = NonNull::new(source.alloc(layout(bytes))) else {
            return Err(format!("no room for {bytes} bytes"));
        };
        // SAFETY: a block of 16 bytes or more.
        unsafe { block.cast::<u64>().write(u64::from(bytes)) };
        *slot = Some((block, bytes));
    }
    for (block, bytes) in live.into_iter().flatten() {
        // SAFETY: written above.
        if unsafe { block.cast::<u64>().read() } != u64::from(bytes) {
            return Err("a block does not hold what was written to it".into());
        }
        source.free(block, layout(bytes));
    }
    Ok(start.elapsed().as_nanos() as u64)
}

fn mixes(steps: u64) -> Vec<Mix> {
    let mut random = Random::new(0x5eed);
    // As many of 16 to 32 bytes as of 2 to 4 KiB: programs ask for more small ones.
    let mut any = |most: u32| {
        let top = 32 << random.below((most / 16).ilog2());
        top / 2 + random.below(top / 2) + 1
    };
    let sizes: Vec<u32> = (0..steps).map(|_| any(4096)).collect();
    let small: Vec<u32> = (0..steps).map(|_| any(256)).collect();
    let places: Vec<u32> = (0..steps).map(|_| random.below(LIVE as u32)).collect();
    // Many, then all of them again in the same order: what batches and growing containers
    // do.
    let rows: Vec<u32> = (0..steps).map(|step| (step % LIVE as u64) as u32).collect();
    let mix = |name, places: &[u32], sizes: &[u32]| {
        let steps = places.iter().copied().zip(sizes.iter().copied()).collect();
        Mix { name, steps }
    };
    vec![mix("mixed", &places, &sizes), mix("small", &places, &small), mix("rows", &rows, &sizes)]
}

/// Runs every mix `rounds` times with each, after one that does not count.
///
/// # Errors
/// A call's error; when a heap is damaged.
pub(crate) fn run(steps: u64, rounds: u64) -> Result<Object, String> {
    let (vid, sids) = make("heap", 1, &sized(SEGMENT_BYTES, PagePolicy::Largest))?;
    let sid = *sids.first().ok_or("no segment")?;
    let base = tell("seg_stat", sys::seg_stat(sid))?.base;
    let vh = tell("vas_attach", sys::vas_attach(vid, 0))?;
    let mixes = mixes(steps);
    tell("vas_switch", enter(vh))?;
    let measured = inside(base, &mixes, rounds);
    tell("vas_switch", enter(VasHandle::HOME))?;
    measured
}

fn inside(base: u64, mixes: &[Mix], rounds: u64) -> Result<Object, String> {
    let base = NonNull::new(std::ptr::with_exposed_provenance_mut(base as usize));
    let base = base.ok_or("a segment at 0")?;
    // SAFETY: this thread is inside, the segment is ours, new, writable, and of this size.
    let heap = unsafe { RawHeap::create(base, SEGMENT_BYTES) }.map_err(|err| err.to_string())?;
    let (mut ours, mut malloc) = (Ours(heap), Malloc);
    let mut object = Object::new("heap");
    for mix in mixes {
        let (mut best_ours, mut best_malloc) = (u64::MAX, u64::MAX);
        for round in 0..=rounds {
            let (a, b) = (replay(&mut ours, mix)?, replay(&mut malloc, mix)?);
            if round > 0 {
                best_ours = best_ours.min(a);
                best_malloc = best_malloc.min(b);
            }
        }
        object = object
            .number(&format!("{}_ours_ns", mix.name), best_ours)
            .number(&format!("{}_malloc_ns", mix.name), best_malloc);
    }
    // SAFETY: as above.
    let before = unsafe { heap.stats() };
    let first = ours.alloc(layout(32)) as u64;
    let mut malloc_span = (u64::MAX, 0);
    for _ in 1..OBJECTS {
        if ours.alloc(layout(32)).is_null() {
            return Err("no room for objects".into());
        }
    }
    for _ in 0..OBJECTS {
        // Never freed: they count, and the process ends.
        let block = malloc.alloc(layout(32)) as u64;
        malloc_span = (malloc_span.0.min(block), malloc_span.1.max(block));
    }
    // SAFETY: as above.
    let after = unsafe { heap.stats() };
    // SAFETY: as above; the address of the first object serves as the root.
    let report = unsafe { RawHeap::check(base, SEGMENT_BYTES, &[first]) };
    let sound = report.is_ok_and(|report| report.sound() && report.blocks == after.blocks);
    if !sound || after.blocks != before.blocks + OBJECTS {
        return Err("the heap is damaged".into());
    }
    // Pages taken from the free ones, and the tables that describe them.
    let pages = before.free_page_bytes - after.free_page_bytes;
    let tables = pages / 1024;
    Ok(object
        .number("objects", OBJECTS)
        .number("object_bytes_ours", pages + tables)
        .number("object_bytes_malloc", malloc_span.1 - malloc_span.0))
}

//! Memory: vectors that grow, shrink and are freed in patterns, and the raw calls `mmap`,
//! `mprotect`, `mremap`, `munmap`, `madvise`. `big_alloc [STEPS]`, 4000 steps of the pattern if not
//! given. Prints "alloc: ..." lines, exits with 0.

use std::io::Error;
use std::ptr::null_mut;

const PAGE: usize = 4096;

fn patterns(steps: usize) -> u64 {
    let mut live: Vec<Vec<u8>> = Vec::new();
    let (mut state, mut sum) = (1_u64, 0_u64);
    for step in 0..steps {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let random = (state >> 33) as usize;
        match random % 3 {
            0 if !live.is_empty() => {
                let gone = live.swap_remove(random % live.len());
                assert!(gone.iter().all(|byte| *byte == gone[0]));
                sum += gone.len() as u64;
            }
            1 if !live.is_empty() => {
                let at = random % live.len();
                let (fill, length) = (live[at][0], live[at].len());
                live[at].resize(length * 2 % 3_000_000 + 1, fill);
                live[at].shrink_to_fit();
            }
            _ => live.push(vec![step as u8; 1 << (random % 21)]),
        }
    }
    sum
}

fn map(length: usize) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice affects no other memory.
    let at =
        unsafe { libc::mmap(null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED, "{}", Error::last_os_error());
    at.cast()
}

/// Asserts that a call succeeded.
fn ok(result: i32) {
    assert_eq!(result, 0, "{}", Error::last_os_error());
}

fn raw_calls() {
    let at = map(8 * PAGE);
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one mapping, one argument")]
    // SAFETY: the mapping is ours, unshared, and eight pages long until the last line; each
    // access is to pages that are mapped and writable at that point.
    unsafe {
        assert!((0..8).all(|page| *at.add(page * PAGE) == 0), "fresh pages are zero");
        (0..8).for_each(|page| *at.add(page * PAGE) = page as u8 + 1);
        ok(libc::mprotect(at.cast(), PAGE, libc::PROT_READ));
        assert_eq!(*at, 1);
        ok(libc::mprotect(at.cast(), PAGE, libc::PROT_READ | libc::PROT_WRITE));
        ok(libc::madvise(at.add(PAGE).cast(), PAGE, libc::MADV_DONTNEED));
        assert_eq!(*at.add(PAGE), 0, "discarded pages are zero");
        ok(libc::munmap(at.add(2 * PAGE).cast(), PAGE));
        assert_eq!(*at.add(3 * PAGE), 4, "a hole leaves its neighbours");
        let tail = at.add(3 * PAGE);
        let moved = libc::mremap(tail.cast(), 5 * PAGE, 500 * PAGE, libc::MREMAP_MAYMOVE);
        assert_ne!(moved, libc::MAP_FAILED);
        let moved: *mut u8 = moved.cast();
        assert_eq!((*moved, *moved.add(4 * PAGE), *moved.add(499 * PAGE)), (4, 8, 0));
        ok(libc::munmap(moved.cast(), 500 * PAGE));
        ok(libc::munmap(at.cast(), 2 * PAGE));
        assert_eq!(libc::munmap(at.add(1).cast(), PAGE), -1, "not aligned");
        assert_eq!(Error::last_os_error().raw_os_error(), Some(libc::EINVAL));
    }
}

fn main() {
    let steps = std::env::args().nth(1).map_or(4000, |arg| arg.parse().expect("a number"));
    println!("alloc: patterns {}", patterns(steps));
    raw_calls();
    println!("alloc: raw calls fine");
    let big = vec![0_u8; 256 << 20];
    println!(
        "alloc: sparse {}",
        big.iter().step_by(16 << 20).map(|byte| u32::from(*byte)).sum::<u32>()
    );
}

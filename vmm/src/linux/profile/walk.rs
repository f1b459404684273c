//! Who has called the function that a thread is in, as far as the program's memory tells.
//!
//! By frame pointers: RBP points to the caller's RBP, and the return address is above it. A function
//! that has none leaves RBP to its caller; what called *it* is then missing, unless it stands where a function that has pushed
//! nothing has it, at the top of the stack, and the call in front of it leads to that function. That is how most
//! functions are that make a system call.
//!
//! Everything here is the program's to choose: reads are checked by [`Memory`], frames only go up, and there are at
//! most [`Stack::DEPTH_MAX`].

use super::Stack;

/// How large a function may be for its caller to be recognised by its first instruction.
const FUNCTION_MAX: u64 = 16 << 10;
/// How far two frames may be apart.
const FRAME_MAX: u64 = 64 << 20;

/// A program's memory.
pub(super) trait Memory {
    /// Reads all of `buf`, if the program itself could.
    fn read(&self, at: u64, buf: &mut [u8]) -> bool;
    /// Whether instructions are there.
    fn is_code(&self, at: u64) -> bool;
    /// Whether it is in a page of the VMM's by which calls are made.
    fn is_call_page(&self, at: u64) -> bool;
}

/// Where a thread is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    /// In the instruction that it is at.
    pub(super) rip: u64,
    pub(super) rsp: u64,
    pub(super) rbp: u64,
}

/// Addresses in the functions on its stack, the innermost first.
#[inline(never)]
pub(super) fn frames(memory: &dyn Memory, site: &Site) -> Vec<u64> {
    let mut frames = Vec::new();
    let is_call_page = memory.is_call_page(site.rip);
    if !is_call_page {
        frames.push(site.rip);
    }
    let mut lowest = site.rsp;
    if let Some(caller) = leaf_caller(memory, site, is_call_page) {
        // In the call: what follows it may be another function.
        frames.push(caller.wrapping_sub(1));
        lowest = lowest.saturating_add(8);
    }
    let mut frame = site.rbp;
    while frames.len() < Stack::DEPTH_MAX {
        let is_above = frame >= lowest && frame - lowest <= FRAME_MAX && frame.is_multiple_of(8);
        let Some([next, caller]) = is_above.then(|| words(memory, frame)).flatten() else { break };
        if !memory.is_code(caller) {
            break;
        }
        frames.push(caller.wrapping_sub(1));
        lowest = frame.saturating_add(16);
        frame = next;
    }
    frames
}

/// The return address at the top of the stack, if it is that of a call of the function that the thread is in.
fn leaf_caller(memory: &dyn Memory, site: &Site, is_call_page: bool) -> Option<u64> {
    let [caller] = words(memory, site.rsp)?;
    if !memory.is_code(caller) {
        return None;
    }
    if is_call_page {
        // Its code pushes nothing.
        return Some(caller);
    }
    let called = called(memory, caller)?;
    let is_in = |start: u64| start <= site.rip && site.rip - start < FUNCTION_MAX;
    let is_it = is_in(called) || jumps_to(memory, called).is_some_and(is_in);
    is_it.then_some(caller)
}

/// What is called by the instruction in front of `caller`, if that names it.
fn called(memory: &dyn Memory, caller: u64) -> Option<u64> {
    let mut code = [0; 6];
    memory.read(caller.wrapping_sub(6), &mut code).then_some(())?;
    let [first, second, distance @ ..] = code;
    let there = caller.wrapping_add_signed(i64::from(i32::from_le_bytes(distance)));
    match (first, second) {
        // CALL through a word: FF /2 with a distance to it.
        (0xff, 0x15) => words(memory, there).map(|[to]| to),
        // CALL: E8 and the distance.
        (_, 0xe8) => Some(there),
        _ => None,
    }
}

/// Where an entry of a procedure linkage table leads.
fn jumps_to(memory: &dyn Memory, entry: u64) -> Option<u64> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let mut code = [0; 11];
    memory.read(entry, &mut code).then_some(())?;
    let skipped = if code.starts_with(&ENDBR64) { ENDBR64.len() } else { 0 };
    // BND.
    let skipped = skipped + usize::from(code.get(skipped) == Some(&0xf2));
    // JMP through a word: FF /4 with a distance to it.
    let distance = code.get(skipped..)?.strip_prefix(&[0xff, 0x25])?.first_chunk()?;
    let behind = entry.wrapping_add(skipped as u64 + 6);
    let slot = behind.wrapping_add_signed(i64::from(i32::from_le_bytes(*distance)));
    words(memory, slot).map(|[to]| to)
}

fn words<const N: usize>(memory: &dyn Memory, at: u64) -> Option<[u64; N]> {
    let mut bytes = [[0; 8]; N];
    memory.read(at, bytes.as_flattened_mut()).then(|| bytes.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::{any, prop, proptest};

    use super::{FRAME_MAX, Memory, Site, Stack, frames};

    const CODE: u64 = 0x40_0000;
    const STACK: u64 = 0x7000_0000;
    const CALL_PAGE: u64 = 0x9000_0000;

    /// A page of code and a stack.
    struct Fake {
        code: Vec<u8>,
        stack: Vec<u8>,
        reads: Cell<usize>,
    }

    impl Fake {
        fn new() -> Fake {
            Fake { code: vec![0x90; 0x8000], stack: vec![0; 0x1000], reads: Cell::new(0) }
        }

        fn code(&mut self, at: u64, bytes: &[u8]) {
            self.code[at as usize..][..bytes.len()].copy_from_slice(bytes);
        }

        fn push(&mut self, at: u64, word: u64) {
            self.stack[at as usize..][..8].copy_from_slice(&word.to_le_bytes());
        }

        fn frames(&self, rip: u64, rsp: u64, rbp: u64) -> Vec<u64> {
            frames(self, &Site { rip: CODE + rip, rsp: STACK + rsp, rbp: STACK + rbp })
        }
    }

    impl Memory for Fake {
        fn read(&self, at: u64, buf: &mut [u8]) -> bool {
            self.reads.set(self.reads.get() + 1);
            let from = |area: &[u8], start: u64, buf: &mut [u8]| {
                let from = at.checked_sub(start).and_then(|from| usize::try_from(from).ok());
                let piece = from.and_then(|from| area.get(from..from.checked_add(buf.len())?));
                piece.map(|piece| buf.copy_from_slice(piece)).is_some()
            };
            from(&self.code, CODE, buf) || from(&self.stack, STACK, buf)
        }

        fn is_code(&self, at: u64) -> bool {
            (CODE..CODE + self.code.len() as u64).contains(&at)
        }

        fn is_call_page(&self, at: u64) -> bool {
            at & !0xfff == CALL_PAGE
        }
    }

    #[test]
    fn frame_pointers_lead_to_every_caller_and_each_address_is_in_its_call() {
        let mut fake = Fake::new();
        fake.push(0x100, STACK + 0x200);
        fake.push(0x108, CODE + 0x50);
        fake.push(0x200, 0);
        fake.push(0x208, CODE + 0x90);
        assert_eq!(fake.frames(0x10, 0xf0, 0x100), [CODE + 0x10, CODE + 0x4f, CODE + 0x8f]);
    }

    #[test]
    fn what_is_no_frame_ends_the_list() {
        let mut fake = Fake::new();
        fake.push(0x108, CODE + 0x50);
        for (next, what) in [
            (0x100, "not above"),
            (0x80, "below"),
            (0x204, "not aligned"),
            (0x2000, "not there"),
            (FRAME_MAX + 0x200, "too far"),
        ] {
            fake.push(0x100, STACK.wrapping_add(next));
            assert_eq!(fake.frames(0x10, 0x100, 0x100), [CODE + 0x10, CODE + 0x4f], "{what}");
        }
        fake.push(0x100, STACK + 0x200);
        fake.push(0x208, STACK);
        assert_eq!(fake.frames(0x10, 0x100, 0x100).len(), 2, "a return to what is no code");
        assert_eq!(fake.frames(0x10, 0x100, 0x90), [CODE + 0x10], "below the stack pointer");
    }

    #[test]
    fn a_function_without_a_frame_is_under_the_call_that_leads_to_it() {
        let mut fake = Fake::new();
        fake.push(0x100, CODE + 0x1005);
        fake.push(0x200, STACK + 0x300);
        fake.push(0x208, CODE + 0x2005);
        // At 0x1000, CALL 0x40: the function is that, or begins elsewhere.
        fake.code(0x1000, &[0xe8]);
        fake.code(0x1001, &(0x40_i32 - 0x1005).to_le_bytes());
        let both = [CODE + 0x44, CODE + 0x1004, CODE + 0x2004];
        assert_eq!(fake.frames(0x44, 0x100, 0x200), both);
        assert_eq!(fake.frames(0x3f, 0x100, 0x200), [CODE + 0x3f, CODE + 0x2004], "in front of it");
        assert_eq!(fake.frames(0x7f00, 0x100, 0x200).len(), 2, "far behind it");
        // The call leads to an entry of a linkage table, and that to the function.
        for entry in [&[0xff, 0x25][..], &[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25]] {
            fake.code(0x6000, entry);
            let behind = 0x6000 + entry.len() as u64 + 4;
            let distance = (0x7000 - behind as i64) as i32;
            fake.code(behind - 4, &distance.to_le_bytes());
            fake.code(0x7000, &(CODE + 0x40).to_le_bytes());
            fake.code(0x1001, &(0x6000_i32 - 0x1005).to_le_bytes());
            assert_eq!(fake.frames(0x44, 0x100, 0x200), both);
        }
        // CALL through a word.
        fake.push(0x100, CODE + 0x1006);
        fake.code(0x1000, &[0xff, 0x15]);
        fake.code(0x1002, &(0x7000_i32 - 0x1006).to_le_bytes());
        assert_eq!(fake.frames(0x44, 0x100, 0x200)[1], CODE + 0x1005);
        fake.code(0x7000, &(CODE + 0x80).to_le_bytes());
        assert_eq!(fake.frames(0x44, 0x100, 0x200).len(), 2, "it leads elsewhere");
    }

    #[test]
    fn a_call_page_is_no_function() {
        let mut fake = Fake::new();
        fake.push(0x100, CODE + 0x50);
        let site = Site { rip: CALL_PAGE + 8, rsp: STACK + 0x100, rbp: 0 };
        assert_eq!(frames(&fake, &site), [CODE + 0x4f]);
    }

    #[test]
    fn a_stack_that_never_ends_is_cut() {
        let mut fake = Fake::new();
        for frame in (0..0x1000).step_by(16) {
            fake.push(frame, STACK + frame + 16);
            fake.push(frame + 8, CODE + 0x50);
        }
        assert_eq!(fake.frames(0, 0, 0).len(), Stack::DEPTH_MAX);
    }

    proptest! {
        #[test]
        fn registers_and_memory_of_any_content_end_in_a_short_list_of_code(
            words in prop::collection::vec((0_u64..0x200, any::<u64>(), 0_u64..0x1000), 0..256),
            code in prop::collection::vec(any::<u8>(), 0x800),
            registers in any::<[u64; 3]>(),
            near in 0_u64..0x1000,
            choice in 0_u8..4,
        ) {
            let mut fake = Fake::new();
            fake.code(0, &code);
            for (place, word, near) in words {
                let word = match word % 4 {
                    0 => word,
                    1 => CODE + near,
                    _ => STACK + near / 8 * 8,
                };
                fake.push(place * 8, word);
            }
            let [rip, rsp, rbp] = registers;
            let site = match choice {
                0 => Site { rip, rsp, rbp },
                1 => Site { rip: CODE + near, rsp: STACK + near, rbp },
                2 => Site { rip: CODE + near, rsp: STACK, rbp: STACK + near / 8 * 8 },
                _ => Site { rip: CALL_PAGE, rsp: u64::MAX, rbp: u64::MAX - 7 },
            };
            let found = frames(&fake, &site);
            assert!(found.len() <= Stack::DEPTH_MAX);
            assert!(found.iter().skip(1).all(|at| fake.is_code(at + 1)));
            assert!(fake.reads.get() <= Stack::DEPTH_MAX + 8);
        }
    }
}

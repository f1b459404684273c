//! Code for the guest kernel that takes and gives back one lock, written lock by lock.
//!
//! A host that interprets ring 0 pays for every instruction, and for memory operands most. An
//! instance with one exclusive lock is the common case of a shared VAS; for it the kernel's way
//! over lists would read what does not change from switch to switch: where the lock is, the
//! VM's slot, the mode, the root. Here these are immediates, as Synthesis did (Massalin and
//! Pu, SOSP 1989). Only hosts whose SYSCALL does not enter ring 0 get such code: where ring 0
//! is native it would save nanoseconds, and tags would double it.
//!
//! The code lies at a place of its list (`LOCK_CODE`), lives as long, and is never changed while
//! the list may be used. What it does is what `guest-kernel/src/switch.rs` does by the list, in
//! the same order; everything in its way goes on in the kernel (`TrapWays`).

use std::mem::offset_of;

use abi::layout::{LOCK_CODE, LOCK_CODE_UNIT, SWITCH_CONTROL, SWITCH_LIVE};
use abi::shared::{TRAP_TO_PAGE, TrapWays, VcpuPage};
use abi::switch::{LockRef, SwitchControl, VcpuLine};
use seg_lock::{state, word};

use super::lock_lists::range_word;

/// Bytes of the code of one lock.
pub const LEN: usize = 2 * LOCK_CODE_UNIT as usize;
/// Where in it the lock is given back.
const GIVE: usize = 80;

const HELD: i32 = TRAP_TO_PAGE + offset_of!(VcpuPage, held) as i32;
const NUDGE: i32 = TRAP_TO_PAGE + offset_of!(VcpuPage, nudge) as i32;
const LINE: i32 = TRAP_TO_PAGE + offset_of!(VcpuPage, line) as i32;
const ENTRY: i32 = TRAP_TO_PAGE + offset_of!(VcpuPage, trap_entry) as i32;
const INSIDE: u8 = offset_of!(VcpuLine, inside) as u8;

// What the encodings below take for granted.
const _: () = {
    assert!(offset_of!(VcpuLine, announced) == 0 && word::STATE == 0);
    assert!(state::OWNER == 0xff && state::WAITERS == 1 << 15);
    assert!((state::CLAIM | state::INCONSISTENT | state::READERS) >> 15 == 0);
};

/// Address of the code of the list whose first place is `first`: where the lock is taken.
#[must_use]
pub fn address(first: u32) -> u64 {
    LOCK_CODE.raw() + u64::from(first) * LOCK_CODE_UNIT
}

/// The first place of the list whose code gives its lock back at `entry`, if it is such an
/// address.
pub(crate) fn list_of(entry: u64, places: u32) -> Option<u32> {
    let first = entry.checked_sub(LOCK_CODE.raw() + GIVE as u64)? / LOCK_CODE_UNIT;
    u32::try_from(first).ok().filter(|&first| first < places)
}

/// The code for `lock`, the only one of the list at `first`, of an instance with root `cr3`: both as
/// they are to be loaded. Ends the switch, or goes on by `ways`.
#[must_use]
pub fn write(first: u32, lock: &LockRef, cr3: u64, home_cr3: u64, ways: &TrapWays) -> [u8; LEN] {
    let at = address(first);
    let owner = lock.slot as u8 + 1;
    let range = range_word(first, 1).to_le_bytes();
    let mut code = Code { at, bytes: Vec::with_capacity(LEN) };

    // Noted as held before it is: who looks after a vCPU that was stopped in between finds a
    // lock too many and not one too few. RAX is 0, what a lock without readers is when free.
    code.note(at + GIVE as u64);
    code.put(&[0x41, 0xb8]).put(&u32::from(owner).to_le_bytes()); // mov r8d, owner
    code.put(&[0xf0, 0x4c, 0x0f, 0xb1, 0x04, 0x25]).near(lock.page); // lock cmpxchg [state], r8
    let busy = code.jump(&[0x0f, 0x85]); // jne
    code.load_cr3(cr3);
    code.put(&[0x48, 0x89, 0x7a, INSIDE]); // mov [rdx + inside], rdi
    code.put(&[0x48, 0xcf]); // iretq
    code.land(busy);
    code.note(ways.free);
    code.go(ways.slow);

    // Home is the only target that has no choice in it.
    code.pad(GIVE);
    code.put(&[0x48, 0x85, 0xff]); // test rdi, rdi
    let elsewhere = code.jump(&[0x0f, 0x85]); // jnz
    code.put(&[0x48, 0x8b, 0x94, 0x24]).put(&LINE.to_le_bytes()); // mov rdx, [line]
    code.put(&[0x48, 0x87, 0x3a]); // xchg [rdx + announced], rdi
    code.put(&[0x48, 0x8b, 0x04, 0x25]).near(SWITCH_LIVE.raw()); // mov rax, [live]
    let seen = SWITCH_CONTROL.raw() + offset_of!(SwitchControl, seen) as u64;
    code.put(&[0x48, 0x2b, 0x04, 0x25]).near(seen); // sub rax, [seen]
    let changed = code.jump(&[0x0f, 0x85]); // jne
    code.put(&[0xf0, 0x66, 0x83, 0x2c, 0x25]).near(lock.page).put(&[owner]); // lock sub word
    let waiters = code.jump(&[0x0f, 0x88]); // js
    code.note(ways.free);
    code.load_cr3(home_cr3);
    code.put(&[0x48, 0xc7, 0x42, INSIDE, 0, 0, 0, 0]); // mov qword [rdx + inside], 0
    code.put(&[0x48, 0xcf]); // iretq

    code.land(changed);
    code.put(&[0x31, 0xff]); // xor edi, edi
    code.land(elsewhere);
    code.put(&[0x48, 0xb8]).put(&range); // mov rax, range
    code.put(&[0x48, 0x89, 0x84, 0x24]).put(&HELD.to_le_bytes()); // mov [held], rax
    code.note(ways.held);
    code.go(ways.held);

    code.land(waiters);
    code.put(&[0x48, 0xb8]).put(&range); // mov rax, range
    code.put(&[0x48, 0x89, 0x84, 0x24]).put(&NUDGE.to_le_bytes()); // mov [nudge], rax
    code.note(ways.free);
    code.put(&[0x31, 0xff]); // xor edi, edi
    code.go(ways.given);

    code.pad(LEN);
    let mut whole = [0; LEN];
    whole.copy_from_slice(&code.bytes);
    whole
}

/// A jump whose target is not known yet: the place of its distance.
struct Jump(usize);

struct Code {
    at: u64,
    bytes: Vec<u8>,
}

impl Code {
    fn put(&mut self, bytes: &[u8]) -> &mut Code {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// An address among the highest 2 GiB, as 32 bits that are extended by their sign.
    fn near(&mut self, address: u64) -> &mut Code {
        debug_assert_eq!(address as i32 as i64 as u64, address);
        self.put(&(address as u32).to_le_bytes())
    }

    /// `mov qword ptr [trap_entry], way`.
    fn note(&mut self, way: u64) {
        self.put(&[0x48, 0xc7, 0x84, 0x24]).put(&ENTRY.to_le_bytes()).near(way);
    }

    /// `mov rcx, cr3; mov cr3, rcx`.
    fn load_cr3(&mut self, cr3: u64) {
        self.put(&[0x48, 0xb9]).put(&cr3.to_le_bytes()).put(&[0x0f, 0x22, 0xd9]);
    }

    fn jump(&mut self, condition: &[u8]) -> Jump {
        self.put(condition).put(&[0; 4]);
        Jump(self.bytes.len() - 4)
    }

    fn land(&mut self, jump: Jump) {
        let distance = (self.bytes.len() - jump.0 - 4) as u32;
        if let Some(place) = self.bytes.get_mut(jump.0..jump.0 + 4) {
            place.copy_from_slice(&distance.to_le_bytes());
        }
    }

    /// `jmp way`.
    fn go(&mut self, way: u64) {
        let next = self.at + self.bytes.len() as u64 + 5;
        self.put(&[0xe9]).put(&(way.wrapping_sub(next) as u32).to_le_bytes());
    }

    /// INT3 up to `len`: nothing runs into what is not code.
    fn pad(&mut self, len: usize) {
        debug_assert!(self.bytes.len() <= len);
        self.bytes.resize(len, 0xcc);
    }
}

#[cfg(test)]
mod tests {
    use abi::layout::LOCK_PAGES;
    use iced_x86::{Decoder, DecoderOptions, FlowControl};

    use super::*;

    const WAYS: TrapWays = TrapWays {
        free: 0xffff_ffff_8000_1000,
        held: 0xffff_ffff_8000_2000,
        slow: 0xffff_ffff_8000_3000,
        given: 0xffff_ffff_8000_4000,
    };

    #[test]
    fn the_code_stays_in_its_place_and_leaves_it_by_the_kernels_ways_only() {
        for first in [1, 2, 77, 130_000] {
            let lock = LockRef { page: LOCK_PAGES.raw() + 4096, slot: 63, exclusive: 1 };
            let code = write(first, &lock, 0x20_3000, 0x20_1000, &WAYS);
            assert_eq!(list_of(address(first) + GIVE as u64, 1 << 17), Some(first));
            let at = address(first);
            let own = at..at + LEN as u64;
            for start in [0, GIVE] {
                let bytes = &code[start..];
                for one in Decoder::with_ip(64, bytes, at + start as u64, DecoderOptions::NONE) {
                    if one.code() == iced_x86::Code::Int3 {
                        break;
                    }
                    assert!(!one.is_invalid());
                    let target = one.near_branch_target();
                    match one.flow_control() {
                        FlowControl::ConditionalBranch => assert!(own.contains(&target)),
                        FlowControl::UnconditionalBranch => {
                            assert!([WAYS.held, WAYS.slow, WAYS.given].contains(&target));
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn an_address_elsewhere_is_no_list() {
        for entry in [0, WAYS.free, LOCK_CODE.raw(), !0] {
            assert_eq!(list_of(entry, 100), None);
        }
        assert_eq!(list_of(address(100) + GIVE as u64, 100), None);
    }
}

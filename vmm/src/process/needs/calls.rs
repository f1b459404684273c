//! Which calls a program contains that are not served.
//!
//! Of a dynamic program the functions it imports tell; of a static one the numbers before its
//! SYSCALL instructions. Neither is a proof: a call may stand in code that never runs, and one made
//! through a register (Go's `syscall.Syscall`) is not seen.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use object::ReadRef;

use crate::guest::elf::Image;
use crate::stats::names;

/// Calls that are not served, or always refused, and that a program may not be able to do without.
pub const NOT_SERVED: &[&str] = &[
    "bpf",
    "fanotify_init",
    "io_setup",
    "io_uring_setup",
    "kexec_load",
    "keyctl",
    "mount",
    "mq_open",
    "perf_event_open",
    "process_vm_readv",
    "ptrace",
    "seccomp",
    "setns",
    "unshare",
    "userfaultfd",
];

/// Functions of C libraries that make such a call by another name.
const BY_FUNCTION: &[(&str, &str)] = &[("io_uring_queue_init", "io_uring_setup")];

/// The call not served that a function of this name makes.
pub(super) fn by_function(function: &str) -> Option<&'static str> {
    let same = NOT_SERVED.iter().find(|name| **name == function).copied();
    same.or_else(|| BY_FUNCTION.iter().find(|(name, _)| *name == function).map(|(_, call)| *call))
}

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `mov eax, imm32`.
const MOV_EAX: u8 = 0xb8;
/// How far before a SYSCALL its number is loaded, at most.
const BEFORE: usize = 32;

/// Those among the calls in the code of a static program.
pub(super) fn in_code<'d, R: ReadRef<'d>>(data: R, image: &Image) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for segment in image.segments.iter().filter(|segment| segment.prot.can_execute()) {
        let Ok(code) = data.read_bytes_at(segment.offset, segment.file_bytes) else { continue };
        found.extend(numbers(code).filter_map(|number| {
            let name = names::name(number.into())?;
            NOT_SERVED.iter().find(|known| **known == name).copied()
        }));
    }
    found
}

/// The numbers loaded before SYSCALL instructions.
fn numbers(code: &[u8]) -> impl Iterator<Item = u32> {
    let places = code.windows(2).enumerate().filter(|(_, bytes)| *bytes == SYSCALL);
    places.filter_map(|(at, _)| {
        let before = code.get(at.saturating_sub(BEFORE)..at)?;
        let loads = before.windows(5).rev();
        loads.filter(|bytes| bytes.first() == Some(&MOV_EAX)).find_map(|bytes| {
            let number = bytes.last_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
            (number < names::LIMIT as u32).then_some(number)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{NOT_SERVED, by_function, numbers};

    #[test]
    fn the_number_of_a_call_is_what_was_loaded_last_before_it() {
        // mov eax, 57; syscall; mov eax, 101; mov edi, 0; syscall; syscall without a number.
        let mut code = vec![0xb8, 57, 0, 0, 0, 0x0f, 0x05, 0xb8, 101, 0, 0, 0, 0xbf, 0, 0, 0, 0];
        code.extend([0x0f, 0x05]);
        code.extend([0x90; 40]);
        code.extend([0x0f, 0x05]);
        assert_eq!(numbers(&code).collect::<Vec<_>>(), [57, 101]);
        assert_eq!(numbers(&[0x0f, 0x05]).count(), 0);
        assert_eq!(numbers(&[0xb8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x05]).count(), 0);
    }

    #[test]
    fn functions_are_calls_by_their_own_or_another_name() {
        assert_eq!(by_function("fork"), None);
        assert_eq!(by_function("ptrace"), Some("ptrace"));
        assert_eq!(by_function("io_uring_queue_init"), Some("io_uring_setup"));
        assert_eq!(by_function("printf"), None);
        assert!(NOT_SERVED.is_sorted());
    }
}

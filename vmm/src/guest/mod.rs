//! What a program is made of before its first instruction: image, stack, vDSO.

pub mod clock;
pub mod elf;
pub mod stack;
pub mod vdso;

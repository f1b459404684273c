//! A program's memory before its first instruction: image, stack, vDSO.

pub mod clock;
mod clock_page;
mod clock_rate;
pub(crate) mod dynamic;
pub mod elf;
pub mod load;
pub mod stack;
pub mod vdso;
mod vdso_code;
#[cfg(test)]
mod vdso_tests;

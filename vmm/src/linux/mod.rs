//! The Linux system calls of a program, as the VMM sees them.

pub mod names;

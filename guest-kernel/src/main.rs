//! The guest kernel: the ring-0 half of SpaceJMP on KVM, and only what must be fast.
//!
//! One `spacejmp run` is one VM; a thread is a vCPU, scheduled by the host. So there is no
//! scheduler here, no timer, no interrupt controller, no allocator, no boot code: the VMM
//! loads every register a vCPU starts with, and the kernel is what a program falls into.
//!
//! ```text
//! ring 3   SYSCALL ───────────┐   exception ──────┐   UD2 in the call page
//! ring 0   entry: our number? │   entry: stub     │   (hosts whose SYSCALL traps)
//!            yes -> calls.rs, │     one OUT       │     -> calls.rs, switch.rs,
//!                   switch.rs │                   │        or one OUT
//!                             │                   │   switch.rs -> locks.rs
//!            no  -> one OUT   │                   │
//! VMM      reads and writes the program's registers, resumes
//! ```
//!
//! 1. User memory is never touched: a wild pointer is the VMM's to judge.
//! 2. Integer instructions only, and none of those an interpreting host lacks; a test
//!    disassembles the image.
//! 3. No stack is needed to leave for the VMM; exceptions have stacks of their own (IST).
//! 4. Nothing here panics on anything a program can do; if the kernel is broken, `fail.rs`
//!    leaves an epitaph and goes.

#![no_std]
#![no_main]

mod calls;
mod entry;
mod fail;
mod locks;
mod mem;
mod switch;

//! The guest kernel: the ring-0 half of SpaceJMP on KVM, restricted to what must be fast.
//!
//! One `spacejmp run` is one VM; a thread is a vCPU, scheduled by the host. So there is no
//! scheduler here, no timer, no interrupt controller, no allocator, no boot code: the VMM loads
//! every register that a vCPU starts with, and the kernel only runs when a program enters it.
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
//! 1. User memory is never accessed: invalid pointers are the VMM's concern.
//! 2. Integer instructions only, and none that an interpreting host lacks; a test disassembles the
//!    image.
//! 3. No stack is needed to exit to the VMM; exceptions have their own stacks (IST).
//! 4. Nothing that a program does can cause a panic here; if the kernel itself is broken, `fail.rs`
//!    writes an epitaph and exits.

#![no_std]
#![no_main]

mod calls;
mod entry;
mod fail;
mod locks;
mod mem;
mod switch;

//! What we tell people about a program that runs or ran.
//!
//! [`stats`] counts while it runs and [`stats_table`] prints afterwards; [`symbols`] finds the
//! name of the place where it died; the crash report itself is here.

pub mod stats;
pub mod stats_table;
pub mod symbols;

use std::fmt::Write;

use crate::linux::signal::Fault;
use crate::process::ThreadCtx;

/// A crash report for a fault no handler took.
#[must_use]
pub fn crash(ctx: &ThreadCtx<'_>, fault: &Fault) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: {}", ctx.process.program.short, fault.what);
    let r = &ctx.vcpu.regs;
    let _ = writeln!(
        text,
        "  rip {:#x} rsp {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x}",
        r.rip, r.rsp, r.rax, r.rbx, r.rcx, r.rdx
    );
    for line in ctx.process.space.listing() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// A report for a signal whose handler's frame found no stack.
#[must_use]
pub fn lost_stack(ctx: &ThreadCtx<'_>, signal: i32) -> String {
    format!(
        "{}: signal {signal}, but its stack at {:#x} cannot take or give a frame\n",
        ctx.process.program.short, ctx.vcpu.regs.rsp
    )
}

/// The guest kernel's last words.
#[must_use]
pub fn kernel_death(ctx: &ThreadCtx<'_>, vector: Option<u8>, rip: u64, address: u64) -> String {
    let _ = ctx;
    format!("the guest kernel died: vector {vector:?} at {rip:#x}, cr2 {address:#x}")
}

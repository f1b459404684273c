//! The report on a fault without a handler, and on a guest kernel that died.
//!
//! It is bounded in size whatever the program did, contains no control characters chosen by the
//! program, and only guest addresses: host addresses are not disclosed. A cause that is inferred
//! rather than observed ends in a question mark; the list of callers is marked as a guess.
#![forbid(unsafe_code)]

use std::fmt::Write;

use abi::PAGE_SIZE;
use abi::layout::{KERNEL_BASE, is_of_segments};

use super::backtrace::{Places, frames};
use super::spaces;
use crate::kernel::Kernel;
use crate::linux::fault::Fault;
use crate::linux::signal::name::signal_name;
use crate::linux::signal::{Fatal, FatalCause};
use crate::linux::task::ThreadCtx;
use crate::private::inspect::{Area, Surroundings};
use crate::vm::UserRegs;

/// The instruction and callers shown.
const FRAMES_MAX: usize = 9;
/// Bytes of code shown; the longest instruction has 15 (SDM 2A, 2.3.11).
const CODE_BYTES: usize = 16;
/// Below this an address is a null pointer with an offset.
const NULL_END: u64 = 64 << 10;
/// How far below a stack an access counts as an overflow.
const OVERFLOW_REACH: u64 = 16 * PAGE_SIZE;
const PAGE_FAULT: u64 = 14;

/// The report on a signal that ends the program; empty if the signal was sent.
#[must_use]
pub fn death(ctx: &ThreadCtx<'_>, fatal: &Fatal) -> String {
    match &fatal.cause {
        FatalCause::Sent(_) => String::new(),
        FatalCause::Fault(fault) => crash(ctx, fault),
        FatalCause::FaultWithoutStack(fault) => {
            let why = "  (its handler could not be called: there is no space on the stack)\n";
            crash(ctx, fault) + why
        }
        FatalCause::Frame(signal) => lost_stack(ctx, *signal),
    }
}

/// The first line on a signal that was sent.
#[must_use]
pub fn ended_by(ctx: &ThreadCtx<'_>, signal: u8) -> String {
    let name = printable(ctx.process.program.short.as_bytes(), 64);
    format!("{name} was ended by {}\n", signal_name(signal))
}

/// The report on `fault` in the registers of `ctx`.
fn crash(ctx: &ThreadCtx<'_>, fault: &Fault) -> String {
    let mut text = heading(ctx, &fault.what);
    let regs = &ctx.vcpu.regs;
    let private = &ctx.process.private;
    let address =
        (fault.trap.trapno == PAGE_FAULT && !is_unknown(fault)).then_some(fault.trap.address);
    let vases = &ctx.process.vases;
    let here = ctx.vcpu.instance();
    let of_segments = address.filter(|&address| is_of_segments(address));
    let places = of_segments.map_or_else(Vec::new, |address| vases.segments_at(address, here));
    let around = address
        .filter(|_| of_segments.is_none())
        .map(|address| (address, private.surroundings(address)));
    let cause = spaces::likely_cause(here, &places).or_else(|| {
        around.as_ref().and_then(|(address, around)| likely_cause(*address, around, regs.rsp))
    });
    if let Some(cause) = cause {
        line(&mut text, "cause", cause);
    }
    line(&mut text, "thread", &thread(ctx));
    if vases.is_active() {
        line(&mut text, "VAS", &vas_name(ctx, here));
    }
    stack(&mut text, ctx);
    registers(&mut text, regs);
    line(&mut text, "code", &code_bytes(ctx, regs.rip));
    if let Some((address, around)) = &around {
        memory(&mut text, "address", *address, around);
    }
    if let Some(address) = of_segments {
        let name = printable(vases.name_of(here).as_bytes(), 64);
        let value = spaces::describe(here, &name, address, &places);
        line(&mut text, "address", &printable(value.as_bytes(), 400));
    }
    memory(&mut text, "rip", regs.rip, &private.surroundings(regs.rip));
    memory(&mut text, "rsp", regs.rsp, &private.surroundings(regs.rsp));
    status(&mut text, fault.info.signo);
    text
}

/// The report on a signal whose handler's frame did not fit on a stack.
fn lost_stack(ctx: &ThreadCtx<'_>, signal: i32) -> String {
    let name = signal_name(u8::try_from(signal).unwrap_or(0));
    let rsp = ctx.vcpu.regs.rsp;
    let what = format!("the stack at {rsp:#x} cannot take or give the frame of {name}");
    let mut text = heading(ctx, &what);
    line(&mut text, "thread", &thread(ctx));
    stack(&mut text, ctx);
    registers(&mut text, &ctx.vcpu.regs);
    memory(&mut text, "rsp", rsp, &ctx.process.private.surroundings(rsp));
    status(&mut text, libc::SIGSEGV);
    text
}

/// The report on a dead guest kernel. The program is not to blame: this is a bug in our code.
#[must_use]
pub fn kernel_death(ctx: &ThreadCtx<'_>, vector: Option<u8>, rip: u64, address: u64) -> String {
    let offset = rip.wrapping_sub(KERNEL_BASE.raw());
    let mut text = match vector {
        Some(vector) => format!("the guest kernel raised exception {vector}"),
        None => "the guest kernel panicked".to_owned(),
    };
    text += " (a bug in spacejmp)\n";
    if let Some(words) = epitaph(&ctx.process.kernel) {
        line(&mut text, "it said", &words);
    }
    line(&mut text, "at", &format!("{rip:#x} (image + {offset:#x}), CR2 {address:#x}"));
    line(&mut text, "thread", &thread(ctx));
    registers(&mut text, &ctx.vcpu.regs);
    text
}

/// Text that the kernel left in its memory. Its length is checked: whatever killed the kernel may
/// have written there too.
fn epitaph(kernel: &Kernel) -> Option<String> {
    let (machine, at) = (kernel.machine(), kernel.epitaph()?);
    let capacity = size_of::<abi::shared::Epitaph>() - 8;
    let len = usize::try_from(machine.mem.load(at).ok()?).ok()?.min(capacity);
    let mut bytes = vec![0; len];
    machine.mem.read(at.offset(8), &mut bytes).ok()?;
    (len > 0).then(|| printable(&bytes, capacity))
}

fn heading(ctx: &ThreadCtx<'_>, what: &str) -> String {
    format!("{} died: {what}\n", printable(ctx.process.program.short.as_bytes(), 64))
}

fn line(text: &mut String, label: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {label:<11}{value}");
}

fn status(text: &mut String, signal: i32) {
    let number = u8::try_from(signal).unwrap_or(0);
    let value = format!("{} (128 + {})", 128 + u32::from(number), signal_name(number));
    line(text, "status", &value);
}

fn thread(ctx: &ThreadCtx<'_>) -> String {
    let (_, _, started) = ctx.process.threads.counts();
    let name = printable(&ctx.thread.name(), 15);
    format!("{} `{name}`, of {started} started", ctx.thread.tid)
}

/// The VAS a thread was in.
fn vas_name(ctx: &ThreadCtx<'_>, here: u32) -> String {
    let name = printable(ctx.process.vases.name_of(here).as_bytes(), 64);
    if here == 0 { name } else { format!("`{name}`, handle {here}") }
}

/// A bus error whose address the host did not report.
fn is_unknown(fault: &Fault) -> bool {
    fault.info.signo == libc::SIGBUS && fault.trap.address == 0
}

fn likely_cause(address: u64, around: &Surroundings, rsp: u64) -> Option<&'static str> {
    if address < NULL_END {
        return Some("a null pointer?");
    }
    let stack = around.above.as_ref().filter(|area| {
        let near = area.range.start - address <= OVERFLOW_REACH;
        // A thread's stack has no name; then the stack pointer has to be near the address, too.
        let used = (address.saturating_sub(OVERFLOW_REACH)..area.range.end).contains(&rsp);
        near && area.prot.can_write() && (area.label == "stack" || used)
    });
    let guarded = around.at.as_ref().is_none_or(|area| !area.prot.can_read());
    (stack.is_some() && guarded).then_some("stack overflow?")
}

fn memory(text: &mut String, label: &str, address: u64, around: &Surroundings) {
    let distance = |area: &Area| match area {
        _ if area.range.end <= address => address - area.range.end,
        _ => area.range.start.saturating_sub(address),
    };
    let is_nearer =
        |below: &Area| around.above.as_ref().is_none_or(|above| distance(below) <= distance(above));
    let value = match (&around.at, &around.below, &around.above) {
        (Some(area), ..) => area.to_string(),
        (None, Some(below), _) if is_nearer(below) => {
            format!("not mapped; {:#x} bytes after {below}", distance(below))
        }
        (None, _, Some(above)) => {
            format!("not mapped; {:#x} bytes before {above}", distance(above))
        }
        (None, _, None) => "not mapped".to_owned(),
    };
    line(text, label, &format!("{address:#x}: {value}"));
}

fn registers(text: &mut String, r: &UserRegs) {
    let rows = [
        [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx)],
        [("rdx", r.rdx), ("rsi", r.rsi), ("rdi", r.rdi)],
        [("rbp", r.rbp), ("rsp", r.rsp), ("r8", r.r8)],
        [("r9", r.r9), ("r10", r.r10), ("r11", r.r11)],
        [("r12", r.r12), ("r13", r.r13), ("r14", r.r14)],
        [("r15", r.r15), ("rip", r.rip), ("rfl", r.rflags)],
    ];
    for (index, row) in rows.iter().enumerate() {
        let mut columns = String::new();
        for (name, value) in row {
            let _ = write!(columns, "{name:<3} {value:016x}  ");
        }
        line(text, if index == 0 { "registers" } else { "" }, columns.trim_end());
    }
}

/// The bytes at `rip`, as many as can be read, up to [`CODE_BYTES`].
fn code_bytes(ctx: &ThreadCtx<'_>, rip: u64) -> String {
    let mut bytes = [0; CODE_BYTES];
    for len in (1..=CODE_BYTES).rev() {
        let Some(piece) = bytes.get_mut(..len) else { continue };
        if ctx.user().copy_in(rip, piece).is_ok() {
            let hex: Vec<String> = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            return hex.join(" ");
        }
    }
    "not readable".to_owned()
}

/// Where the thread is, and its callers, if that can be told.
fn stack(text: &mut String, ctx: &ThreadCtx<'_>) {
    let frames = frames(ctx.process, &ctx.vcpu.regs, FRAMES_MAX);
    let places = Places::of(ctx.process, frames.iter());
    let mut label = "at";
    for frame in &frames {
        line(text, label, &places.show(frame));
        label = if label == "at" { "called by?" } else { "" };
    }
    if let [_alone] = frames.as_slice() {
        line(text, label, "unknown: no frame pointers to follow");
    }
}

/// At most `max` bytes of text chosen by the program, without terminal control sequences.
pub(super) fn printable(bytes: &[u8], max: usize) -> String {
    let shown = bytes.get(..max).unwrap_or(bytes);
    let safe = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(shown).chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::{Area, Surroundings, likely_cause, memory, printable, registers};
    use crate::private::Prot;
    use crate::vm::UserRegs;

    fn area(start: u64, end: u64, prot: Prot, label: &'static str) -> Option<Area> {
        Some(Area { range: start..end, prot, label })
    }

    #[test]
    fn small_addresses_are_null_pointers() {
        let nowhere = Surroundings::default();
        assert_eq!(likely_cause(0, &nowhere, 0), Some("a null pointer?"));
        assert_eq!(likely_cause(0xffff, &nowhere, 0), Some("a null pointer?"));
        assert_eq!(likely_cause(0x1_0000, &nowhere, 0), None);
    }

    #[test]
    fn just_below_the_stack_is_an_overflow() {
        let above = area(0x50_0000, 0x60_0000, Prot::READ_WRITE, "stack");
        let around = Surroundings { above, ..Surroundings::default() };
        assert_eq!(likely_cause(0x4f_fff8, &around, 0x4f_fff8), Some("stack overflow?"));
        assert_eq!(likely_cause(0x4f_0000, &around, 0), Some("stack overflow?"));
        assert_eq!(likely_cause(0x4e_fff8, &around, 0x4e_fff8), None, "17 pages below");
    }

    #[test]
    fn a_threads_guard_page_counts_only_with_the_stack_pointer_near() {
        let above = area(0x50_0000, 0x60_0000, Prot::READ_WRITE, "memory");
        let at = area(0x4f_f000, 0x50_0000, Prot::NONE, "memory");
        let around = Surroundings { at, above: above.clone(), below: None };
        assert_eq!(likely_cause(0x4f_fff8, &around, 0x50_0010), Some("stack overflow?"));
        assert_eq!(likely_cause(0x4f_fff8, &around, 0x90_0000), None);
        let at = area(0x40_0000, 0x50_0000, Prot::READ, "program data");
        let read_only = Surroundings { at, above, below: None };
        assert_eq!(likely_cause(0x4f_fff8, &read_only, 0x50_0010), None);
    }

    #[test]
    fn an_unmapped_address_is_placed_beside_the_nearest_area() {
        let around = Surroundings {
            below: area(0x1000, 0x2000, Prot::READ, "program code"),
            at: None,
            above: area(0x9000, 0xa000, Prot::READ_WRITE, "heap"),
        };
        let mut text = String::new();
        memory(&mut text, "address", 0x2010, &around);
        memory(&mut text, "address", 0x8ff0, &around);
        let expected =
            "  address    0x2010: not mapped; 0x10 bytes after 0x1000-0x2000 r-- program code
  address    0x8ff0: not mapped; 0x10 bytes before 0x9000-0xa000 rw- heap
";
        assert_eq!(text, expected);
    }

    #[test]
    fn registers_stand_in_columns() {
        let mut text = String::new();
        registers(&mut text, &UserRegs { rbx: 0x1234, ..UserRegs::default() });
        let first = "  registers  rax 0000000000000000  rbx 0000000000001234  rcx 0000000000000000";
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(text.lines().count(), 6);
    }

    #[test]
    fn names_the_program_chose_cannot_move_the_cursor_or_be_long() {
        assert_eq!(printable(b"a\x1b[2Jb\n", 15), "a?[2Jb?");
        assert_eq!(printable(&[b'x'; 100], 15).len(), 15);
    }
}

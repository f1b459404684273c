//! Core files (`run --core`): what a debugger needs to look at a program that a signal has ended.
//!
//! - `elf`: the layout of the file; `notes`: registers, signal, files; `out`: compressed or not
//! - here: which memory is in it
//!
//! All that the program itself has: its memory, and of mappings of files what it has changed. Pages that
//! it has never touched are holes. Not in it is what is elsewhere: unchanged parts of files and
//! segments of the store, which have their addresses and names in the list of files.
#![forbid(unsafe_code)]

mod elf;
mod notes;
mod out;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use abi::PAGE_SIZE;
use rustix::process::{Pid, getgid, getppid, getuid};

use self::elf::{Layout, Load, layout};
use self::notes::{Facts, Mapped, notes, plain_siginfo};
use self::out::Out;
use crate::host::{process_group, session};
use crate::linux::core_dump::{CorePlace, ThreadRegisters};
use crate::linux::signal::{Fatal, FatalCause};
use crate::linux::task::ThreadCtx;
use crate::private::Prot;
use crate::private::content::{AreaContent, Content, SharedPart};
use crate::private::inspect::Count;

/// Of an area longer than this, only what is before its last page with content is in the file, which no file
/// system could hold otherwise: programs reserve terabytes.
const HOLES_MAX: u64 = 64 << 30;
/// How much of the arguments is kept.
const ARGS_MAX: u64 = 80;
/// Pages read and written at once.
const AT_ONCE: u64 = 64;

/// Writes the core file of a process whose threads all stand still, and returns what the user is told
/// of it.
#[must_use]
pub fn write(
    ctx: &ThreadCtx<'_>,
    fatal: &Fatal,
    threads: &[ThreadRegisters],
    place: &CorePlace,
) -> String {
    let path = place.path();
    let written = place.create(|file| write_to(file, place.is_compressed(), ctx, fatal, threads));
    match written {
        Ok(()) => format!("  {:<11}{}\n", "core", path.display()),
        Err(error) => format!("  {:<11}none: cannot write {}: {error}\n", "core", path.display()),
    }
}

fn write_to(
    file: &File,
    is_compressed: bool,
    ctx: &ThreadCtx<'_>,
    fatal: &Fatal,
    threads: &[ThreadRegisters],
) -> io::Result<()> {
    let private = &ctx.process.private;
    let areas = private.contents();
    let mut loads: Vec<Load> = areas.iter().map(|area| load(ctx, area)).collect();
    let segments = ctx.process.vases.attached(ctx.vcpu.instance());
    loads.extend(segments.iter().map(|segment| Load {
        range: segment.range.clone(),
        bytes: 0,
        prot: if segment.writable { Prot::READ_WRITE } else { Prot::READ }.bits(),
    }));
    let Layout { head, offsets, end } = layout(&notes(&facts(ctx, fatal), threads), &loads);
    let mut out = Out::new(file, is_compressed, end)?;
    out.put(&head, 0)?;
    for ((area, load), offset) in areas.iter().zip(&loads).zip(offsets) {
        let start = load.range.start;
        let page = |at: u64, buf: &mut [u8]| Ok(private.page_content(area, at, buf));
        match &area.content {
            Content::Parts(parts) => {
                for part in parts {
                    put(&mut out, offset + (part.start - start), part.start..part.end, page)?;
                }
            }
            Content::Whole | Content::InFile => {
                put(&mut out, offset, start..start + load.bytes, page)?;
            }
            Content::Shared(memory, parts) => {
                for part @ SharedPart { range, .. } in parts {
                    let page = |at: u64, buf: &mut [u8]| {
                        part.read(memory, at - range.start, buf).map(|()| true)
                    };
                    put(&mut out, offset + (range.start - start), range.clone(), page)?;
                }
            }
        }
    }
    out.finish(end)
}

/// Writes pages at `offset`, but for those that are zeros or cannot be had.
fn put(
    out: &mut Out<'_>,
    offset: u64,
    range: std::ops::Range<u64>,
    page: impl Fn(u64, &mut [u8]) -> io::Result<bool>,
) -> io::Result<()> {
    let mut buf = vec![0; (AT_ONCE * PAGE_SIZE) as usize];
    // Pages that are to be written: how many bytes, and where in the file.
    let (mut len, mut to) = (0, offset);
    for at in (range.start..range.end).step_by(PAGE_SIZE as usize) {
        let next = len + PAGE_SIZE as usize;
        let room = buf.get_mut(len..next).unwrap_or_default();
        if page(at, room)? && room.iter().any(|byte| *byte != 0) {
            len = next;
            if next < buf.len() {
                continue;
            }
        }
        out.put(buf.get(..len).unwrap_or_default(), to)?;
        (len, to) = (0, offset + (at - range.start) + PAGE_SIZE);
    }
    out.put(buf.get(..len).unwrap_or_default(), to)
}

/// How much of an area is in the file.
fn load(ctx: &ThreadCtx<'_>, area: &AreaContent) -> Load {
    let AreaContent { range, prot, content, .. } = area;
    let len = range.end - range.start;
    let last = match content {
        Content::Parts(parts) => parts.last().map(|part| part.end),
        Content::Shared(_, parts) => {
            parts.last().map(|part| part.range.end.next_multiple_of(PAGE_SIZE))
        }
        Content::Whole => Some(range.end),
        Content::InFile => {
            // The first page of a program or a library has what a debugger knows it by.
            let mut magic = [0; 4];
            let is_elf = ctx.process.private.page_content(area, range.start, &mut magic)
                && magic == *b"\x7fELF";
            let bytes = if is_elf { PAGE_SIZE } else { 0 };
            return Load { range: range.clone(), bytes, prot: prot.bits() };
        }
    };
    let bytes = match last {
        None if !prot.can_read() => 0,
        last if len > HOLES_MAX => last.map_or(0, |last| last - range.start),
        _ => len,
    };
    Load { range: range.clone(), bytes, prot: prot.bits() }
}

fn facts(ctx: &ThreadCtx<'_>, fatal: &Fatal) -> Facts {
    let process = ctx.process;
    let siginfo = match &fatal.cause {
        FatalCause::Sent(info) => info.head_bytes().to_vec(),
        FatalCause::Fault(fault) => fault.info.head_bytes().to_vec(),
        FatalCause::FaultWithoutStack(_) | FatalCause::Frame(_) => plain_siginfo(fatal.signal),
    };
    let args = &process.facts.args;
    let mut text = vec![0; (args.end - args.start).min(ARGS_MAX) as usize];
    // What the program has unmapped is not shown.
    let _ = process.private.copy_in(args.start, &mut text);
    for byte in &mut text {
        *byte = if *byte == 0 { b' ' } else { *byte };
    }
    let files = process.private.mappings(Count::Nothing).into_iter().filter_map(|mapping| {
        let (file, offset) = mapping.file?;
        let name = process.files.name_of_host(file.as_fd()).ok()?;
        Some(Mapped { range: mapping.range, offset, name })
    });
    let segments = process.vases.attached(ctx.vcpu.instance()).into_iter().map(|segment| Mapped {
        range: segment.range,
        offset: 0,
        name: format!("[segment:{}]", segment.name).into_bytes(),
    });
    Facts {
        signal: fatal.signal,
        siginfo,
        numbers: [process.pid(), Pid::as_raw(getppid()), process_group(), session()],
        owner: [getuid().as_raw(), getgid().as_raw()],
        name: process.program.short.clone().into_bytes(),
        args: text.trim_ascii_end().to_vec(),
        auxv: process.facts.auxv.clone(),
        files: files.chain(segments).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    use super::{AT_ONCE, Out, PAGE_SIZE, put};

    #[test]
    fn pages_of_zeros_are_holes_and_all_others_are_where_they_belong() {
        let mut file = tempfile::tempfile().unwrap();
        let pages = 3 * AT_ONCE + 5;
        let content = |page: u64| match page {
            0 | 7 => 0,
            // In the middle, nothing.
            p if (AT_ONCE..2 * AT_ONCE).contains(&p) => 0,
            p => p as u8 | 1,
        };
        let page = |at: u64, buf: &mut [u8]| {
            let page = (at - 0x7000_0000) / PAGE_SIZE;
            buf.fill(content(page));
            Ok(page != 9)
        };
        let mut out = Out::new(&file, false, pages * PAGE_SIZE + PAGE_SIZE).unwrap();
        put(&mut out, PAGE_SIZE, 0x7000_0000..0x7000_0000 + pages * PAGE_SIZE, page).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let (all, _) = bytes.as_chunks::<4096>();
        assert_eq!(all[0], [0; 4096]);
        for (index, got) in (0..pages).zip(&all[1..]) {
            let expected = if index == 9 { 0 } else { content(index) };
            assert_eq!(*got, [expected; 4096], "page {index}");
        }
        let blocks = file.metadata().unwrap().blocks() * 512;
        assert!(blocks < (pages - AT_ONCE / 2) * PAGE_SIZE, "{blocks} bytes on disk");
    }
}

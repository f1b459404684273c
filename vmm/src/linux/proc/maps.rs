//! A process's memory, area by area and in total.
//!
//! Resident is what the page tables have present: touched, or mapped along with what was touched.
//! Asking the host which pages it has would cost a walk of all its own tables for each file opened.

use std::fmt::Write;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use super::{Content, Subject};
use crate::linux::task::{Process, Thread};
use crate::private::inspect::{Count, Mapping, Sharing};

/// Totals of a process's memory, in bytes.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) size: u64,
    pub(super) resident: u64,
    pub(super) resident_peak: u64,
    /// Of the resident bytes: private mappings of files.
    pub(super) file_resident: u64,
    /// Of the resident bytes: what is mapped shared.
    pub(super) shared_resident: u64,
    pub(super) data_bytes: u64,
    pub(super) stack_bytes: u64,
    pub(super) locked: u64,
    pub(super) tables: u64,
    pub(super) code: Range<u64>,
    pub(super) data: Range<u64>,
    pub(super) heap_start: u64,
}

impl Usage {
    pub(super) fn of(process: &Process) -> Usage {
        let mut usage = Usage::default();
        let widen = |whole: &mut Range<u64>, range: &Range<u64>| {
            let start = if whole.is_empty() { range.start } else { whole.start.min(range.start) };
            *whole = start..whole.end.max(range.end);
        };
        for mapping in process.private.mappings(Count::Present) {
            let bytes = mapping.range.end - mapping.range.start;
            usage.size += bytes;
            usage.resident += mapping.present_bytes;
            match (mapping.sharing, &mapping.file) {
                (Sharing::Shared, _) => usage.shared_resident += mapping.present_bytes,
                (Sharing::Private, Some(_)) => usage.file_resident += mapping.present_bytes,
                (Sharing::Private, None) => {}
            }
            if mapping.sharing == Sharing::Private && mapping.prot.can_write() {
                usage.data_bytes += bytes;
            }
            match mapping.label {
                "program code" => widen(&mut usage.code, &mapping.range),
                "program data" => widen(&mut usage.data, &mapping.range),
                "stack" => usage.stack_bytes += bytes,
                _ => {}
            }
        }
        usage.locked = process.private.locked_bytes();
        usage.heap_start = process.private.heap_start();
        usage.tables = process.private.table_bytes();
        // The high-water marks are not tracked. What the host records for this process's memory
        // includes the VMM, as in `getrusage`.
        let most = crate::host::rss_peak_bytes().unwrap_or(0);
        usage.resident_peak = usage.resident.max(most);
        usage
    }
}

/// Everything the thread can reach: the private region, and the segments of the VAS it is in.
fn mappings(of: &Subject<'_>, count: Count) -> Vec<Shown> {
    let process = of.process;
    let areas = process.private.mappings(count).into_iter();
    let areas = areas.map(|mapping| Shown::area(process, mapping));
    areas.chain(segments(process, asking(of).as_deref())).collect()
}

/// The thread whose view of the segments is shown: the process's own file shows the location of the
/// thread that opens it.
fn asking(of: &Subject<'_>) -> Option<std::sync::Arc<Thread>> {
    use crate::files::View;
    if of.alone { of.thread.clone() } else { of.process.threads.get(of.process.caller()) }
}

fn segments(process: &Process, thread: Option<&Thread>) -> Vec<Shown> {
    let Some(thread) = thread else { return Vec::new() };
    if !process.vases.is_active() {
        return Vec::new();
    }
    let vh = process.kernel.switch.current_instance(thread.vcpu()).unwrap_or(0);
    let attached = process.vases.attached(vh).into_iter();
    attached
        .map(|segment| Shown {
            rights: if segment.writable { "rw-" } else { "r--" }.to_owned(),
            shared: 's',
            name: format!("[segment:{}]", segment.name).into_bytes(),
            present_bytes: segment.mapped_bytes,
            is_file: true,
            range: segment.range,
            ..Shown::default()
        })
        .collect()
}

/// One line of `maps`.
#[derive(Default)]
struct Shown {
    range: Range<u64>,
    rights: String,
    shared: char,
    offset: u64,
    device: (u32, u32),
    inode: u64,
    name: Vec<u8>,
    present_bytes: u64,
    locked_bytes: u64,
    is_file: bool,
}

impl Shown {
    fn area(process: &Process, mapping: Mapping) -> Shown {
        let shared = match mapping.sharing {
            Sharing::Private => 'p',
            Sharing::Shared => 's',
        };
        let is_file = mapping.file.is_some();
        let (offset, device, inode, name) = match &mapping.file {
            Some((file, offset)) => {
                let (device, inode) = identity(file);
                let name = process.files.name_of_host(file.as_fd()).unwrap_or_default();
                (*offset, device, inode, name)
            }
            None => {
                let name: &[u8] = match mapping.label {
                    "stack" => b"[stack]",
                    "heap" => b"[heap]",
                    "vdso" => b"[vdso]",
                    // Linux's name for shared memory without a name.
                    _ if mapping.sharing == Sharing::Shared => b"/dev/zero (deleted)",
                    _ => b"",
                };
                (0, (0, 0), 0, name.to_vec())
            }
        };
        Shown {
            rights: mapping.prot.to_string(),
            range: mapping.range,
            shared,
            offset,
            device,
            inode,
            name,
            present_bytes: mapping.present_bytes,
            locked_bytes: mapping.locked_bytes,
            is_file,
        }
    }

    fn put(&self, text: &mut Vec<u8>) {
        let Range { start, end } = self.range;
        let (major, minor) = self.device;
        let head = format!(
            "{start:08x}-{end:08x} {}{} {:08x} {major:02x}:{minor:02x} {} ",
            self.rights, self.shared, self.offset, self.inode
        );
        text.extend(head.bytes());
        if !self.name.is_empty() {
            // Names are in one column where there is space, as on Linux.
            text.extend(std::iter::repeat_n(b' ', 73_usize.saturating_sub(head.len())));
            for byte in &self.name {
                match byte {
                    b'\n' => text.extend(b"\\012"),
                    byte => text.push(*byte),
                }
            }
        }
        text.push(b'\n');
    }

    fn put_sizes(&self, text: &mut Vec<u8>) {
        let size = self.range.end - self.range.start;
        put_rows(text, &[("Size", size), ("KernelPageSize", 4096), ("MMUPageSize", 4096)]);
        put_rows(text, &sizes(self));
        let flags = [("r", "rd"), ("w", "wr"), ("x", "ex")];
        let mut line = "VmFlags:".to_owned();
        for (letter, flag) in flags {
            if self.rights.contains(letter) {
                let _ = write!(line, " {flag}");
            }
        }
        if self.shared == 's' {
            line.push_str(" sh");
        }
        text.extend(line.bytes());
        text.extend(b" \n");
    }
}

fn identity(file: &File) -> ((u32, u32), u64) {
    let Ok(data) = file.metadata() else { return ((0, 0), 0) };
    ((rustix::fs::major(data.dev()), rustix::fs::minor(data.dev())), data.ino())
}

/// The lines of `smaps` with what is present. Everything mapped shared counts as shared with another process:
/// that no process shares it at the moment could not be relied on.
fn sizes(of: &Shown) -> [(&'static str, u64); 17] {
    let resident = of.present_bytes;
    let (private, shared) = if of.shared == 's' { (0, resident) } else { (resident, 0) };
    let (clean, dirty) = if of.is_file { (private, 0) } else { (0, private) };
    let anonymous = if of.is_file { 0 } else { resident };
    [
        ("Rss", resident),
        ("Pss", resident),
        ("Shared_Clean", shared),
        ("Shared_Dirty", 0),
        ("Private_Clean", clean),
        ("Private_Dirty", dirty),
        ("Referenced", resident),
        ("Anonymous", anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", of.locked_bytes),
    ]
}

fn put_rows(text: &mut Vec<u8>, rows: &[(&str, u64)]) {
    for (name, bytes) in rows {
        let name = format!("{name}:");
        text.extend(format!("{name:<16}{:8} kB\n", bytes / 1024).bytes());
    }
}

pub(super) fn maps(of: &Subject<'_>) -> Content {
    let mut text = Vec::new();
    mappings(of, Count::Nothing).iter().for_each(|shown| shown.put(&mut text));
    Ok(text)
}

pub(super) fn smaps(of: &Subject<'_>) -> Content {
    let mut text = Vec::new();
    for shown in mappings(of, Count::Present) {
        shown.put(&mut text);
        shown.put_sizes(&mut text);
    }
    Ok(text)
}

pub(super) fn smaps_rollup(of: &Subject<'_>) -> Content {
    let all = mappings(of, Count::Present);
    let mut text = Vec::new();
    let start = all.first().map_or(0, |shown| shown.range.start);
    let end = all.last().map_or(0, |shown| shown.range.end);
    let head = format!("{start:08x}-{end:08x} ---p 00000000 00:00 0 ");
    text.extend(format!("{head:<73}[rollup]\n").bytes());
    let mut total = sizes(&Shown::default());
    for shown in &all {
        total.iter_mut().zip(sizes(shown)).for_each(|((_, sum), (_, bytes))| *sum += bytes);
    }
    put_rows(&mut text, &total);
    Ok(text)
}

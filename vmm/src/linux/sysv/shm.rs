//! `shmget`, `shmat`, `shmdt`, `shmctl`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::{Errno, PAGE_SIZE};

use super::{after_permissions, ask, read_permissions, structure, words};
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, memory, value};
use crate::private::Prot;
use crate::process_tree::sysv::question;
use crate::process_tree::wire::{Reader, Writer};
use crate::vm::memory::FileMapping;

const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

/// A segment that is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// Of its file.
    inode: u64,
    bytes: u64,
    /// How often.
    count: usize,
}

/// What segments a process has attached, by number.
#[derive(Debug, Default)]
pub struct Attached(Mutex<BTreeMap<i32, Segment>>);

impl Attached {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Segment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Writes it for a child's VMM.
    pub fn encode(&self, out: &mut Writer) {
        let segments = self.lock();
        out.words(&[segments.len() as u64]);
        for (id, Segment { inode, bytes, count }) in &*segments {
            out.words(&[*id as u64, *inode, *bytes, *count as u64]);
        }
    }

    /// What [`Attached::encode`] has written.
    #[must_use]
    pub fn decode(input: &mut Reader<'_>) -> Option<Attached> {
        let count = input.count(32)?;
        let mut segments = BTreeMap::new();
        for _ in 0..count {
            let [id, inode, bytes, count] = input.words()?;
            segments.insert(id as i32, Segment { inode, bytes, count: count as usize });
        }
        Some(Attached(Mutex::new(segments)))
    }
}

/// `shmget(2)`.
pub(in crate::linux) fn shmget(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let question = words(&[question::SHM_GET, a[0] as u32 as u64, a[1], a[2] as u32 as u64]);
    value(ask(ctx, &question)?.value)
}

fn detach(ctx: &ThreadCtx<'_>, id: i32) {
    // It may be that the server is gone with the run's first program.
    let _ = ask(ctx, &words(&[question::SHM_DETACH, id as u64]));
}

/// `shmat(2)`.
pub(in crate::linux) fn shmat(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (id, mut at, flags) = (a[0] as i32, a[1], a[2] as i32);
    let has = |flag: i32| flags & flag != 0;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    if at != 0 && !at.is_multiple_of(PAGE_SIZE) {
        if !has(libc::SHM_RND) {
            return Err(Errno::EINVAL.into());
        }
        at &= !(PAGE_SIZE - 1);
    }
    if at == 0 && has(libc::SHM_REMAP) {
        return Err(Errno::EINVAL.into());
    }
    let (reads_only, executes) = (has(libc::SHM_RDONLY), has(libc::SHM_EXEC));
    let question = [question::SHM_ATTACH, id as u64, u64::from(reads_only), u64::from(executes)];
    let answer = ask(ctx, &words(&question))?;
    let bytes = answer.value.next_multiple_of(PAGE_SIZE);
    let mapped = answer.file.ok_or(Errno::EIO).and_then(|file| {
        let inode = file.metadata().map_err(|_| Errno::EIO)?.ino();
        let again = || {
            let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            File::open(path).map(|file| (file, FileMapping::SharedReadOnly))
        };
        let opened = reads_only.then(again).transpose().map_err(|_| Errno::EACCES)?;
        let (file, kind) = opened.unwrap_or((file, FileMapping::Shared));
        let bits = libc::PROT_READ
            | if reads_only { 0 } else { libc::PROT_WRITE }
            | if executes { libc::PROT_EXEC } else { 0 };
        let prot = Prot::from_bits(bits as u64).ok_or(Errno::EINVAL)?;
        let segment = memory::Segment { file: Arc::new(file), kind, bytes, prot };
        let at = memory::map_segment(ctx, (at, has(libc::SHM_REMAP)), segment)?;
        let new = Segment { inode, bytes, count: 0 };
        ctx.process.sysv.lock().entry(id).or_insert(new).count += 1;
        Ok(at)
    });
    if mapped.is_err() {
        detach(ctx, id);
    }
    if has(libc::SHM_REMAP) {
        note_changed(ctx);
    }
    value(mapped?)
}

/// `shmdt(2)`.
pub(in crate::linux) fn shmdt(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let private = &ctx.process.private;
    let mappings = private.segment_mappings();
    let Some((inode, _)) =
        mappings.iter().map(|(inode, _, at)| (*inode, *at)).find(|(_, at)| *at == a[0])
    else {
        return Err(Errno::EINVAL.into());
    };
    for (_, range, _) in mappings.iter().filter(|it| it.0 == inode && it.2 == a[0]) {
        private.unmap(range.start, range.end - range.start)?;
    }
    note_changed(ctx);
    value(0)
}

/// A call by which a segment may have been unmapped.
pub(in crate::linux) fn noting(
    ctx: &mut ThreadCtx<'_>,
    a: &[u64; 6],
    call: fn(&mut ThreadCtx<'_>, &[u64; 6]) -> CallResult,
) -> CallResult {
    let result = call(ctx, a);
    note_changed(ctx);
    result
}

/// Segments that are no longer mapped are no longer attached. To be called after a mapping has gone, however.
fn note_changed(ctx: &ThreadCtx<'_>) {
    let mut gone = Vec::new();
    {
        let mut segments = ctx.process.sysv.lock();
        if segments.is_empty() {
            return;
        }
        let mappings = ctx.process.private.segment_mappings();
        for (id, segment) in &mut *segments {
            let of = mappings.iter().filter(|(inode, ..)| *inode == segment.inode);
            let now = of.map(|(.., at)| *at).collect::<BTreeSet<u64>>().len();
            gone.extend(std::iter::repeat_n(*id, segment.count.saturating_sub(now)));
            segment.count = segment.count.min(now);
        }
        segments.retain(|_, segment| segment.count > 0);
    }
    gone.into_iter().for_each(|id| detach(ctx, id));
}

/// `shmctl(2)`.
pub(in crate::linux) fn shmctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (id, command, at) = (a[0] as i32, a[1] as i32, a[2]);
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL.into());
    }
    let [uid, gid, mode] = match command {
        libc::IPC_SET => read_permissions(ctx, at)?,
        _ => [0; 3],
    };
    let question = [question::SHM_CONTROL, id as u64, command as u64, uid, gid, mode];
    let answer = ask(ctx, &words(&question))?;
    let bytes = match command {
        libc::IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let rest = [(48, 8), (56, 8), (64, 8), (72, 8), (80, 4), (84, 4), (88, 8)];
            structure(112, &answer.words, &after_permissions(&rest))
        }
        libc::IPC_INFO => {
            structure(72, &answer.words, &[(0, 8), (8, 8), (16, 8), (24, 8), (32, 8)])
        }
        SHM_INFO => structure(48, &answer.words, &[(0, 4), (8, 8), (16, 8), (24, 8), (32, 8)]),
        _ => Vec::new(),
    };
    ctx.user().copy_out(at, &bytes)?;
    value(answer.value)
}

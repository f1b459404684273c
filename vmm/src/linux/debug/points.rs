//! Breakpoints in the program's code, and the memory that a debugger reads and writes.
//!
//! A breakpoint is the instruction `int3` over the first byte of another one, in the memory that all
//! threads share. A page of a file that is mapped gets a copy for that, as when a program writes to
//! a private mapping: the file stays as it is. Who reads the memory for the debugger is shown the byte
//! from before.

use std::collections::{BTreeMap, BTreeSet};

use abi::layout::is_of_segments;
use abi::{Errno, PAGE_SIZE};

use crate::linux::task::ThreadCtx;

/// The instruction.
const INT3: u8 = 0xcc;

/// As what the debugger has asked for a breakpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// As what it is.
    Software,
    /// As one of the processor's, which has none left.
    Processor,
}

/// Where breakpoints are, and the bytes in their places.
#[derive(Debug, Default, Clone)]
pub(super) struct Points {
    bytes: BTreeMap<u64, u8>,
    /// What was asked for: at a place there may be one of each kind.
    asked: BTreeSet<(u64, Kind)>,
}

impl Points {
    pub(super) fn has(&self, at: u64) -> bool {
        self.bytes.contains_key(&at)
    }

    pub(super) fn all(&self) -> Vec<(u64, u8)> {
        self.bytes.iter().map(|(at, byte)| (*at, *byte)).collect()
    }

    /// Whether only such a one is there.
    pub(super) fn stands_for_processor(&self, at: u64) -> bool {
        !self.asked.contains(&(at, Kind::Software))
    }

    /// Makes one.
    ///
    /// # Errors
    /// `EFAULT` where no code can be.
    pub(super) fn insert(&mut self, ctx: &ThreadCtx<'_>, at: u64, kind: Kind) -> Result<(), Errno> {
        if self.has(at) {
            self.asked.insert((at, kind));
            return Ok(());
        }
        let mut byte = [0];
        if is_of_segments(at) || peek(ctx, at, &mut byte) == 0 {
            return Err(Errno::EFAULT);
        }
        poke(ctx, at, &[INT3])?;
        self.bytes.insert(at, byte[0]);
        self.asked.insert((at, kind));
        Ok(())
    }

    /// Removes one. What the program has unmapped since, or written itself, is left alone.
    pub(super) fn remove(&mut self, ctx: &ThreadCtx<'_>, at: u64, kind: Kind) {
        self.asked.remove(&(at, kind));
        if self.asked.range((at, Kind::Software)..=(at, Kind::Processor)).next().is_some() {
            return;
        }
        let Some(before) = self.bytes.remove(&at) else { return };
        let mut byte = [0];
        if peek(ctx, at, &mut byte) == 1 && byte[0] == INT3 {
            let _ = poke(ctx, at, &[before]);
        }
    }

    pub(super) fn remove_all(&mut self, ctx: &ThreadCtx<'_>) {
        for (at, kind) in std::mem::take(&mut self.asked) {
            self.remove(ctx, at, kind);
        }
    }

    /// Shows memory that was read at `at` as it would be without them.
    pub(super) fn hide(&self, at: u64, bytes: &mut [u8]) {
        let end = at.saturating_add(bytes.len() as u64);
        for (point, before) in self.bytes.range(at..end) {
            if let Some(byte) = bytes.get_mut((point - at) as usize).filter(|byte| **byte == INT3) {
                *byte = *before;
            }
        }
    }

    /// Writes memory, under them.
    ///
    /// # Errors
    /// `EFAULT`; some of it may be written.
    pub(super) fn write(
        &mut self,
        ctx: &ThreadCtx<'_>,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        let end = at.checked_add(bytes.len() as u64).ok_or(Errno::EFAULT)?;
        let mut bytes = bytes.to_vec();
        for (point, before) in self.bytes.range_mut(at..end) {
            if let Some(byte) = bytes.get_mut((*point - at) as usize) {
                *before = std::mem::replace(byte, INT3);
            }
        }
        poke(ctx, at, &bytes)
    }
}

/// Reads memory as the calling thread sees it; returns how many bytes there are.
pub(super) fn peek(ctx: &ThreadCtx<'_>, at: u64, buf: &mut [u8]) -> usize {
    let mut done = 0;
    while done < buf.len() {
        let Some(from) = at.checked_add(done as u64) else { break };
        let left = (PAGE_SIZE - from % PAGE_SIZE) as usize;
        let end = buf.len().min(done + left);
        let Some(piece) = buf.get_mut(done..end) else { break };
        if ctx.user().copy_in(from, piece).is_err() {
            break;
        }
        done = end;
    }
    done
}

/// Writes memory as the calling thread sees it, also where the program itself may not: but for segments that it
/// has to read only, and files that others see.
fn poke(ctx: &ThreadCtx<'_>, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    match is_of_segments(at) {
        true => ctx.user().copy_out(at, bytes),
        false => ctx.process.private.poke(at, bytes),
    }
}

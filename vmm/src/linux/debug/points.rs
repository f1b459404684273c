//! Breakpoints in the program's code, and the memory that a debugger reads and writes.
//!
//! A breakpoint is the instruction `int3` over the first byte of another one, in the memory that all
//! threads share. A page of a file that is mapped gets a copy for that, as when a program writes to
//! a private mapping: the file stays as it is. Who reads the memory for the debugger is shown the byte
//! from before.

use std::collections::BTreeMap;

use abi::layout::is_of_segments;
use abi::{Errno, PAGE_SIZE};

use crate::linux::task::ThreadCtx;

/// The instruction.
const INT3: u8 = 0xcc;

/// Where breakpoints are, and the bytes in their places.
#[derive(Debug, Default, Clone)]
pub(super) struct Points(BTreeMap<u64, u8>);

impl Points {
    pub(super) fn has(&self, at: u64) -> bool {
        self.0.contains_key(&at)
    }

    pub(super) fn all(&self) -> Vec<(u64, u8)> {
        self.0.iter().map(|(at, byte)| (*at, *byte)).collect()
    }

    /// Makes one.
    ///
    /// # Errors
    /// `EFAULT` where no code can be.
    pub(super) fn insert(&mut self, ctx: &ThreadCtx<'_>, at: u64) -> Result<(), Errno> {
        if self.has(at) {
            return Ok(());
        }
        let mut byte = [0];
        if is_of_segments(at) || peek(ctx, at, &mut byte) == 0 {
            return Err(Errno::EFAULT);
        }
        poke(ctx, at, &[INT3])?;
        self.0.insert(at, byte[0]);
        Ok(())
    }

    /// Removes one. What the program has unmapped since, or written itself, is left alone.
    pub(super) fn remove(&mut self, ctx: &ThreadCtx<'_>, at: u64) {
        let Some(before) = self.0.remove(&at) else { return };
        let mut byte = [0];
        if peek(ctx, at, &mut byte) == 1 && byte[0] == INT3 {
            let _ = poke(ctx, at, &[before]);
        }
    }

    pub(super) fn remove_all(&mut self, ctx: &ThreadCtx<'_>) {
        for (at, _) in self.all() {
            self.remove(ctx, at);
        }
    }

    /// Shows memory that was read at `at` as it would be without them.
    pub(super) fn hide(&self, at: u64, bytes: &mut [u8]) {
        let end = at.saturating_add(bytes.len() as u64);
        for (point, before) in self.0.range(at..end) {
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
        for (point, before) in self.0.range_mut(at..end) {
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

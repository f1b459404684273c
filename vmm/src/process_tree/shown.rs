//! What a process of the run shows of itself in the `/proc` of the others: its name, its arguments, its program
//! and its directory, in the table that all VMMs share. Not asked for when it is wanted: a process that is stopped, or busy,
//! could not answer.
//!
//! A process that was taken over by its guest can write anything there, also while it is read. So a reader
//! takes bytes, as many as there is room for, and nothing else.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Bytes of a text: longer ones are cut.
const NAME: usize = 16;
const ARGS: usize = 2048;
const PATH: usize = 1024;
/// How often a reader tries again while it is written.
const TRIES: u32 = 1000;

/// A text of at most so many bytes.
#[derive(Debug)]
struct Text<const N: usize> {
    len: AtomicU32,
    bytes: [AtomicU8; N],
}

impl<const N: usize> Text<N> {
    fn set(&self, bytes: &[u8]) {
        let bytes = bytes.get(..N).unwrap_or(bytes);
        for (to, from) in self.bytes.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
        self.len.store(bytes.len() as u32, Ordering::Relaxed);
    }

    fn get(&self) -> Vec<u8> {
        let len = self.len.load(Ordering::Relaxed) as usize;
        self.bytes.iter().take(len).map(|byte| byte.load(Ordering::Relaxed)).collect()
    }
}

/// One process's part of the table. All zeroes are one that shows nothing.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Cell {
    /// Odd while the rest is written.
    version: AtomicU32,
    pub(super) threads: AtomicU32,
    name: Text<NAME>,
    args: Text<ARGS>,
    program: Text<PATH>,
    directory: Text<PATH>,
}

/// What it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The name of its first thread.
    pub name: Vec<u8>,
    /// Its arguments, a zero after each.
    pub args: Vec<u8>,
    /// The path of its executable.
    pub program: Vec<u8>,
    /// Its current directory.
    pub directory: Vec<u8>,
}

impl Cell {
    /// Called by one thread at a time.
    pub(super) fn show(&self, shown: &Shown) {
        let version = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(version, Ordering::SeqCst);
        self.name.set(&shown.name);
        self.args.set(&shown.args);
        self.program.set(&shown.program);
        self.directory.set(&shown.directory);
        self.version.store(version.wrapping_add(1), Ordering::SeqCst);
    }

    /// `None` if it is being written all the time.
    pub(super) fn look(&self) -> Option<Shown> {
        for _ in 0..TRIES {
            let before = self.version.load(Ordering::SeqCst);
            let shown = Shown {
                name: self.name.get(),
                args: self.args.get(),
                program: self.program.get(),
                directory: self.directory.get(),
            };
            // The loads above come before the one that follows.
            std::sync::atomic::fence(Ordering::SeqCst);
            if before & 1 == 0 && self.version.load(Ordering::SeqCst) == before {
                return Some(shown);
            }
            std::thread::yield_now();
        }
        None
    }
}

//! What a process of the run shows of itself in the `/proc` of the others: its name, its arguments, its program,
//! its directory and its threads, in the table that all VMMs share. Not asked for when it is wanted: a process that is stopped, or busy,
//! could not answer.
//!
//! A process that was taken over by its guest can write anything there, also while it is read. So a reader
//! takes bytes, as many as there is room for, and nothing else.
#![forbid(unsafe_code)]

use crate::files::Seen;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Bytes of a text: longer ones are cut.
const NAME: usize = 16;
const ARGS: usize = 2048;
const PATH: usize = 1024;
/// Threads that are shown: as many as a process may have.
const THREADS: usize = 1024;
/// Descriptors that are shown, those with the lowest numbers.
const DESCRIPTORS: usize = 1024;
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
    device: AtomicU64,
    inode: AtomicU64,
    /// Their numbers, 0 for none, each at a place that is its own as long as it runs.
    tids: [AtomicI32; THREADS],
    /// What its descriptors are: one of the host's, its number and [`HOST`] more; [`NAMELESS`]; 0 for none.
    descriptors: [AtomicI32; DESCRIPTORS],
}

const NAMELESS: i32 = 1;
const HOST: i32 = 2;

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

    /// A thread has begun at a place, which no other has until it ends.
    pub(super) fn show_thread(&self, place: u32, tid: i32) {
        if let Some(at) = self.tids.get(place as usize) {
            at.store(tid, Ordering::Relaxed);
        }
    }

    /// No thread is at any place.
    pub(super) fn show_no_thread(&self) {
        for at in self.tids.iter().filter(|at| at.load(Ordering::Relaxed) != 0) {
            at.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn show_descriptor(&self, fd: u32, seen: Seen) {
        if let Some(at) = self.descriptors.get(fd as usize) {
            let shown = match seen {
                Seen::Closed => 0,
                Seen::Nameless => NAMELESS,
                Seen::Host(number) => number.saturating_add(HOST),
            };
            at.store(shown, Ordering::Relaxed);
        }
    }

    pub(super) fn show_descriptors(&self, open: &mut dyn Iterator<Item = (u32, Seen)>) {
        for at in self.descriptors.iter().filter(|at| at.load(Ordering::Relaxed) != 0) {
            at.store(0, Ordering::Relaxed);
        }
        open.for_each(|(fd, seen)| self.show_descriptor(fd, seen));
    }

    pub(super) fn descriptor(&self, fd: u32) -> Seen {
        let shown = self.descriptors.get(fd as usize).map_or(0, |at| at.load(Ordering::Relaxed));
        match shown {
            HOST.. => Seen::Host(shown - HOST),
            NAMELESS => Seen::Nameless,
            _ => Seen::Closed,
        }
    }

    /// The numbers of those that are open.
    pub(super) fn descriptors(&self) -> Vec<u32> {
        (0..DESCRIPTORS as u32).filter(|fd| self.descriptor(*fd) != Seen::Closed).collect()
    }

    /// The numbers of its threads.
    pub(super) fn tids(&self) -> Vec<i32> {
        let all = self.tids.iter().map(|at| at.load(Ordering::Relaxed));
        all.filter(|tid| *tid > 0).collect()
    }

    /// Which file it runs: its device and its inode; zeroes for none.
    pub(super) fn show_executable(&self, [device, inode]: [u64; 2]) {
        // Between the two nobody takes it for a file that it does not run.
        self.inode.store(0, Ordering::SeqCst);
        self.device.store(device, Ordering::SeqCst);
        self.inode.store(inode, Ordering::SeqCst);
    }

    pub(super) fn runs(&self, [device, inode]: [u64; 2]) -> bool {
        inode != 0
            && self.inode.load(Ordering::SeqCst) == inode
            && self.device.load(Ordering::SeqCst) == device
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

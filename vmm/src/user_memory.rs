//! The program's memory as one of its threads sees it, for page faults and system calls.
//!
//! A pointer from a register has a meaning only together with the instance that the calling thread
//! is in: below the VAS region it belongs to the private region, above it to whatever that instance
//! has attached there. [`UserMemory`] combines both with that instance, and is made by
//! `ThreadCtx::user`; a call that takes a pointer uses nothing else. `private` and `vas` do not
//! know of each other: this module is above both.
//!
//! Memory that the host kernel is to read or write is given out as [`Pinned`]: the addresses are
//! available only from it, and it keeps them what they are until it is dropped.

use abi::layout::is_of_segments;
use abi::{Errno, PAGE_SIZE};

use crate::access::{FaultCause, FaultOutcome, MemoryAccess};
use crate::private::access::{Backed, PieceFn, copy_pieces_in, copy_pieces_out};
use crate::private::{PrivatePins, PrivateRegion};

use crate::vas::{Pins, Vases};
use crate::vm::Vcpu;
use crate::vm::memory::HostRange;

/// Longest path that Linux accepts, including its terminating NUL.
const PATH_MAX: usize = 4096;

/// The memory of a process, seen from one of its instances.
#[derive(Clone, Copy, Debug)]
pub struct UserMemory<'a> {
    private: &'a PrivateRegion,
    vases: &'a Vases,
    vh: u32,
    /// The thread's, if it has one: what it sees of versioned segments is its own.
    vcpu: Option<u32>,
}

/// Program memory that a system call may use until this is dropped.
#[derive(Debug)]
#[must_use = "the addresses may be used only as long as this is kept"]
pub struct Pinned<'a>(Parts<'a>);

#[derive(Debug)]
enum Parts<'a> {
    Private(PrivatePins<'a>),
    Segments(Pins),
}

impl Pinned<'_> {
    /// The pieces, in the order of the program's addresses.
    #[must_use]
    pub fn ranges(&self) -> Vec<HostRange<'_>> {
        let mut ranges = Vec::new();
        self.each(|range| ranges.push(range));
        ranges
    }

    /// Calls `f` with each piece, in that order.
    pub fn each<'s>(&'s self, mut f: impl FnMut(HostRange<'s>)) {
        match &self.0 {
            Parts::Private(pins) => pins.ranges().iter().for_each(|range| f(*range)),
            Parts::Segments(pins) => pins.ranges().iter().for_each(|pin| f(pin.range())),
        }
    }

    fn first(&self) -> Option<HostRange<'_>> {
        match &self.0 {
            Parts::Private(pins) => pins.ranges().first().copied(),
            Parts::Segments(pins) => pins.ranges().first().map(|pin| pin.range()),
        }
    }

    /// Total bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Parts::Private(pins) => pins.bytes(),
            Parts::Segments(pins) => pins.bytes(),
        }
    }
}

/// An aligned 32-bit word, for a host futex on it, until this is dropped.
#[derive(Debug)]
pub struct FutexWord<'a>(Pinned<'a>);

impl FutexWord<'_> {
    /// Its host address.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u32 {
        self.0.first().map_or(std::ptr::null_mut(), |range| range.as_ptr().cast())
    }
}

impl<'a> UserMemory<'a> {
    /// The memory of a process, seen from its instance `vh`. Its segments are looked up on each
    /// use: an invalid handle has none.
    #[must_use]
    pub fn new(private: &'a PrivateRegion, vases: &'a Vases, vh: u32) -> UserMemory<'a> {
        UserMemory { private, vases, vh, vcpu: None }
    }

    /// The same as the thread on a vCPU sees it.
    #[must_use]
    pub fn on(self, vcpu: u32) -> UserMemory<'a> {
        UserMemory { vcpu: Some(vcpu), ..self }
    }

    /// Resolves a page fault at `gva`, or returns why it cannot. `vcpu` is the calling thread's: it
    /// may have to load a new root.
    pub fn fault(
        &self,
        vcpu: &mut Vcpu,
        gva: u64,
        cause: FaultCause,
        stopping: &dyn Fn() -> bool,
    ) -> FaultOutcome {
        if is_of_segments(gva) {
            self.vases.fault(vcpu, self.vh, gva, cause, stopping)
        } else {
            self.private.fault(gva, cause)
        }
    }

    /// Calls `f` with each piece of the memory, up to the first byte that is not accessible;
    /// returns the number of bytes before it.
    fn pieces(
        &self,
        gva: u64,
        len: u64,
        access: MemoryAccess,
        f: &mut PieceFn<'_>,
    ) -> Result<u64, Errno> {
        if !is_of_segments(gva) {
            return self.private.pieces(gva, len, access, f);
        }
        let pins = self.vases.pin(self.vcpu, self.vh, gva, len, access)?;
        for pin in pins.ranges() {
            f(pin.range(), Backed::File)?;
        }
        Ok(pins.bytes())
    }

    /// The host ranges behind `len` bytes at `gva`, as far as the program could access them.
    ///
    /// # Errors
    /// `EFAULT` when not even the first byte is accessible (and `len` is not 0).
    pub fn ranges(&self, gva: u64, len: u64, access: MemoryAccess) -> Result<Pinned<'a>, Errno> {
        let parts = if is_of_segments(gva) {
            Parts::Segments(self.vases.pin(self.vcpu, self.vh, gva, len, access)?)
        } else {
            Parts::Private(self.private.pin(gva, len, access)?)
        };
        let pinned = Pinned(parts);
        if pinned.bytes() == 0 && len > 0 { Err(Errno::EFAULT) } else { Ok(pinned) }
    }

    /// Whether the program could access all `len` bytes at `gva` that way.
    #[must_use]
    pub fn is_accessible(&self, gva: u64, len: u64, access: MemoryAccess) -> bool {
        self.pieces(gva, len, access, &mut |_, _| Ok(())) == Ok(len)
    }

    /// Copies from the program's memory, all or nothing.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_in(&self, gva: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let len = buf.len() as u64;
        copy_pieces_in(buf, |f| self.pieces(gva, len, MemoryAccess::Read, f))
    }

    /// Copies into the program's memory. On an error some bytes may have been written, as
    /// Linux does.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn copy_out(&self, gva: u64, buf: &[u8]) -> Result<(), Errno> {
        copy_pieces_out(buf, |f| self.pieces(gva, buf.len() as u64, MemoryAccess::Write, f))
    }

    /// Reads a little-endian word.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_u64(&self, gva: u64) -> Result<u64, Errno> {
        self.read_words(gva).map(|[word]| word)
    }

    /// Reads little-endian words that follow each other, all or none.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_words<const N: usize>(&self, gva: u64) -> Result<[u64; N], Errno> {
        let mut bytes = [[0; 8]; N];
        self.copy_in(gva, bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_le_bytes))
    }

    /// Writes words that follow each other, little-endian, as [`UserMemory::copy_out`] does.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_words<const N: usize>(&self, gva: u64, words: [u64; N]) -> Result<(), Errno> {
        self.copy_out(gva, words.map(u64::to_le_bytes).as_flattened())
    }

    /// [`UserMemory::write_words`] unless `gva` is null: for what the program may not want.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn put_words<const N: usize>(&self, gva: u64, words: [u64; N]) -> Result<(), Errno> {
        if gva == 0 { Ok(()) } else { self.write_words(gva, words) }
    }

    /// Reads a little-endian half word.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_u32(&self, gva: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.copy_in(gva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a path: the bytes before the first NUL.
    ///
    /// # Errors
    /// `EFAULT`, or `ENAMETOOLONG` when there is no NUL within 4096 bytes.
    pub fn read_path(&self, gva: u64) -> Result<Vec<u8>, Errno> {
        let mut path = Vec::new();
        let mut at = gva;
        while path.len() < PATH_MAX {
            // Up to the end of the page: the next one may not be accessible.
            let left = (PAGE_SIZE - at % PAGE_SIZE).min((PATH_MAX - path.len()) as u64);
            let mut piece = vec![0; (left as usize).min(256)];
            self.copy_in(at, &mut piece)?;
            if let Some(nul) = piece.iter().position(|&b| b == 0) {
                piece.truncate(nul);
                path.extend_from_slice(&piece);
                return Ok(path);
            }
            at = at.checked_add(piece.len() as u64).ok_or(Errno::EFAULT)?;
            path.extend_from_slice(&piece);
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// An aligned 32-bit word, for a host futex that accesses it that way.
    ///
    /// # Errors
    /// `EINVAL` when unaligned, `EFAULT` when not accessible.
    pub fn futex_word(&self, gva: u64, access: MemoryAccess) -> Result<FutexWord<'a>, Errno> {
        if !gva.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        self.ranges(gva, 4, access).map(FutexWord)
    }
}

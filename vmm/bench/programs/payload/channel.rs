//! A polled channel in shared memory, one writer and one reader: a ring of slots.
//!
//! A message is cut into pieces; a slot holds one. A small message and the word that announces
//! it are in the same cache line, so that it costs the transfer of one line; for a large one
//! the reader copies a piece while the writer copies the next. Each side polls.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::mapping::Mapping;

const SLOTS: u32 = 16;
const SLOT_BYTES: usize = 4096;
/// Words for turn and length.
const HEADER: usize = 8;
/// Bytes of a piece.
const PIECE: usize = SLOT_BYTES - HEADER;
/// Reads of a word before yielding: the party waited for may not be running.
const SPINS: u32 = 10_000;

/// Bytes of memory that a channel uses, initially zero.
pub(crate) const CHANNEL_BYTES: u64 = SLOTS as u64 * SLOT_BYTES as u64;

/// One end, which only writes or only reads.
#[derive(Debug)]
pub(crate) struct End {
    memory: &'static Mapping,
    offset: usize,
    // Pieces transferred so far.
    turn: u32,
}

impl End {
    /// An end of the channel at `offset` of `memory`.
    pub(crate) fn new(memory: &'static Mapping, offset: u64) -> End {
        assert!(offset + CHANNEL_BYTES <= memory.bytes() && offset.is_multiple_of(4096));
        End { memory, offset: offset as usize, turn: 0 }
    }

    fn slot(&self) -> usize {
        self.offset + (self.turn % SLOTS) as usize * SLOT_BYTES
    }

    fn word(&self, index: usize) -> &'static AtomicU32 {
        self.memory.word(self.slot() / 4 + index)
    }

    /// The word has advanced `turn * 2 / SLOTS` laps: even when the slot is free, odd when it
    /// is full.
    fn wait(&self, is_full: bool) {
        let expected = self.turn / SLOTS * 2 + u32::from(is_full);
        let mut spins = 0_u32;
        // Acquire: the piece is read, or overwritten, after this.
        while self.word(0).load(Acquire) != expected {
            spins += 1;
            if spins.is_multiple_of(SPINS) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn pass(&mut self, is_full: bool) {
        let expected = self.turn / SLOTS * 2 + u32::from(is_full);
        // Release: all accesses to the piece come before.
        self.word(0).store(expected + 1, Release);
        self.turn += 1;
    }

    /// Writes a message; waits while the ring is full.
    pub(crate) fn send(&mut self, message: &[u8]) {
        for piece in message.chunks(PIECE) {
            self.wait(false);
            self.word(1).store(piece.len() as u32, Relaxed);
            self.memory.copy_in(self.slot() + HEADER, piece);
            self.pass(false);
        }
    }

    /// Reads a message as long as `message`; waits for it.
    ///
    /// # Errors
    /// When the pieces are not those of a message of that length.
    pub(crate) fn receive(&mut self, message: &mut [u8]) -> Result<(), String> {
        for piece in message.chunks_mut(PIECE) {
            self.wait(true);
            if self.word(1).load(Relaxed) as usize != piece.len() {
                return Err("a message of another length".into());
            }
            self.memory.copy_out(self.slot() + HEADER, piece);
            self.pass(true);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (End, End) {
        let memory = Mapping::shared_memory(2 * CHANNEL_BYTES).unwrap().kept();
        (End::new(memory, CHANNEL_BYTES), End::new(memory, CHANNEL_BYTES))
    }

    #[test]
    fn messages_of_all_sizes_arrive_whole_and_in_order_over_many_laps() {
        let (mut writer, mut reader) = ends();
        let sizes = [1, 4, 56, 57, PIECE, PIECE + 1, 5 * PIECE, 100_000];
        let message = |round: usize, size: usize| -> Vec<u8> {
            (0..size).map(|at| (at * 7 + round * 31 + size) as u8).collect()
        };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for round in 0..20 {
                    sizes.iter().for_each(|&size| writer.send(&message(round, size)));
                }
            });
            for round in 0..20 {
                for size in sizes {
                    let mut got = vec![0; size];
                    reader.receive(&mut got).unwrap();
                    assert!(got == message(round, size), "round {round}, {size} bytes");
                }
            }
        });
    }

    #[test]
    fn a_message_of_another_length_is_refused() {
        let (mut writer, mut reader) = ends();
        writer.send(&[1, 2, 3]);
        assert!(reader.receive(&mut [0; 4]).is_err());
    }
}

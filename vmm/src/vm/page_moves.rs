//! Moving pages within guest memory, without copying where the host can.
#![forbid(unsafe_code)]

use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_2M};

use super::host_pages::{copy_pages, host_move};
use super::memory::{GuestMem, MemoryError};

impl GuestMem {
    /// Moves the pages of a range without a file elsewhere, leaving zeroes behind. No vCPU keeps a
    /// translation of either range.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`]; what the host cannot move is copied.
    pub fn move_pages(&self, from: GuestPhys, to: GuestPhys, len: u64) -> Result<(), MemoryError> {
        let mut piece = len;
        let mut done = 0;
        while done < len {
            piece = piece.min(len - done);
            let source = self.host_range(from.offset(done), piece as usize)?;
            let dest = self.host_range(to.offset(done), piece as usize)?;
            let moved = match self.maps.has_room() {
                true => host_move(source, dest),
                false => Err(std::io::Error::from_raw_os_error(libc::ENOMEM)),
            };
            match moved {
                Ok(()) => {
                    self.move_images(from.offset(done), to.offset(done), piece)?;
                    done += piece;
                }
                // The range spans host mappings that differ in their advice: move less at a time.
                Err(_) if piece > PAGE_SIZE_2M => {
                    piece = (piece / 2).next_multiple_of(PAGE_SIZE_2M);
                }
                Err(_) => {
                    let mut bytes = vec![0; piece as usize];
                    let copied = source.read(&mut bytes).and_then(|()| dest.write(&bytes));
                    copied.map_err(|_| Self::not_memory(from, piece as usize))?;
                    self.discard(from.offset(done), piece)?;
                    done += piece;
                }
            }
        }
        Ok(())
    }

    /// Moves the pages of a private mapping of a file to where the same part of the file is already
    /// mapped, including copies that the program has made. The file stays mapped at the old
    /// address. No vCPU keeps a translation of either range.
    ///
    /// # Errors
    /// [`MemoryError::NotMemory`]; what the host cannot move is copied.
    pub fn move_file_pages(
        &self,
        from: GuestPhys,
        to: GuestPhys,
        len: u64,
    ) -> Result<(), MemoryError> {
        let mut piece = len;
        let mut done = 0;
        while done < len {
            piece = piece.min(len - done);
            let source = self.host_range(from.offset(done), piece as usize)?;
            let dest = self.host_range(to.offset(done), piece as usize)?;
            match self.maps.has_room().then(|| host_move(source, dest)) {
                Some(Ok(())) => done += piece,
                // The host may have several mappings for it, which move one by one.
                Some(Err(_)) if piece > PAGE_SIZE => {
                    piece = (piece / 2).next_multiple_of(PAGE_SIZE);
                }
                _ => {
                    copy_pages(source, dest);
                    done += piece;
                }
            }
        }
        Ok(())
    }
}

//! Where a core file's bytes go: to places of a file, where what is never written is a hole, or to a compressed
//! stream, in which it is zeros.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

/// As for exports of a VAS: more takes longer, and memory of programs gets hardly smaller.
const LEVEL: i32 = 3;
/// Zeros that are compressed at once.
const ZEROS: &[u8] = &[0; 1 << 16];

/// See the module.
pub(super) enum Out<'a> {
    Places(&'a File),
    /// With how many bytes it has got.
    Stream(Box<zstd::Encoder<'static, &'a File>>, u64),
}

impl<'a> Out<'a> {
    /// For a file of `bytes` in all.
    pub(super) fn new(file: &'a File, is_compressed: bool, bytes: u64) -> io::Result<Out<'a>> {
        if !is_compressed {
            file.set_len(bytes)?;
            return Ok(Out::Places(file));
        }
        let mut encoder = zstd::Encoder::new(file, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Out::Stream(Box::new(encoder), 0))
    }

    /// Puts bytes at `offset`, which is not before the end of what was put last.
    pub(super) fn put(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Out::Places(file) => file.write_all_at(bytes, offset),
            Out::Stream(..) if bytes.is_empty() => Ok(()),
            Out::Stream(encoder, at) => {
                zeros(encoder, *at, offset)?;
                *at = offset + bytes.len() as u64;
                encoder.write_all(bytes)
            }
        }
    }

    /// All is there; the file ends at `end`.
    pub(super) fn finish(self, end: u64) -> io::Result<()> {
        match self {
            Out::Places(_) => Ok(()),
            Out::Stream(mut encoder, at) => {
                zeros(&mut encoder, at, end)?;
                encoder.finish().map(drop)
            }
        }
    }
}

fn zeros(encoder: &mut impl io::Write, at: u64, to: u64) -> io::Result<()> {
    let backwards = || io::Error::other("the parts of a core file are not in their order");
    let mut missing = to.checked_sub(at).ok_or_else(backwards)?;
    while missing > 0 {
        let some = missing.min(ZEROS.len() as u64);
        encoder.write_all(ZEROS.get(..some as usize).unwrap_or(ZEROS))?;
        missing -= some;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn both_kinds_have_the_same_bytes_at_the_same_places() {
        let parts: [(&[u8], u64); 4] = [(b"head", 0), (b"", 7), (b"one", 70_000), (b"two", 70_003)];
        let end = 300_000;
        let [places, mut stream] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        for (file, is_compressed) in [(&places, false), (&stream, true)] {
            let mut out = Out::new(file, is_compressed, end).unwrap();
            parts.iter().for_each(|(bytes, offset)| out.put(bytes, *offset).unwrap());
            out.finish(end).unwrap();
        }
        let mut plain = vec![0; end as usize];
        places.read_exact_at(&mut plain, 0).unwrap();
        assert_eq!(places.metadata().unwrap().len(), end);
        stream.rewind().unwrap();
        let mut unpacked = Vec::new();
        zstd::Decoder::new(&stream).unwrap().read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain, "{} bytes", unpacked.len());
        assert!(stream.metadata().unwrap().len() < 200);
    }

    #[test]
    fn a_stream_refuses_what_comes_too_late() {
        let file = tempfile::tempfile().unwrap();
        let mut out = Out::new(&file, true, 10).unwrap();
        out.put(b"five", 5).unwrap();
        assert!(out.put(b"x", 8).is_err());
    }
}

//! How messages between the VMMs of a run are written: 64-bit words, and bytes with their number
//! before them. What is read was sent by a VMM, which may have been taken over by its guest: reading
//! returns nothing rather than what is not there.
#![forbid(unsafe_code)]

/// A message that is being written.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends words.
    pub fn words(&mut self, words: &[u64]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// Appends bytes and their number.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.words(&[bytes.len() as u64]);
        self.0.extend(bytes);
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// What is left of a message.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next words; `None` at the message's end.
    pub fn words<const N: usize>(&mut self) -> Option<[u64; N]> {
        let (words, rest) = self.0.split_at_checked(N.checked_mul(8)?)?;
        self.0 = rest;
        Some(words.as_chunks().0.first_chunk::<N>()?.map(u64::from_le_bytes))
    }

    /// The next bytes, as many as the message says; `None` if it has fewer.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let [len] = self.words()?;
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A number of records that follow, each of which takes at least `bytes_each`; `None` for more
    /// than the message has room for.
    pub fn count(&mut self, bytes_each: usize) -> Option<usize> {
        let [count] = self.words()?;
        usize::try_from(count).ok().filter(|count| *count <= self.0.len() / bytes_each.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Writer};

    #[test]
    fn what_is_written_is_read_and_nothing_beyond_it() {
        let mut out = Writer::default();
        out.words(&[7, u64::MAX]);
        out.bytes(b"abc");
        out.words(&[2, 1, 2]);
        let bytes = out.finish();
        let mut input = Reader(&bytes);
        assert_eq!(input.words(), Some([7, u64::MAX]));
        assert_eq!(input.bytes(), Some(b"abc".as_slice()));
        assert_eq!(input.count(8), Some(2));
        assert_eq!((input.words(), input.words::<1>()), (Some([1, 2]), None));
    }

    #[test]
    fn numbers_that_no_message_can_keep_are_refused() {
        for len in [1, 8, u64::MAX, u64::MAX - 7] {
            let bytes = len.to_le_bytes();
            assert!(Reader(&bytes).bytes().is_none());
            assert!(Reader(&bytes).count(1).is_none());
        }
        assert_eq!(Reader(&0_u64.to_le_bytes()).count(0), Some(0));
    }
}

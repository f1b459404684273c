//! Cutting bytes into lower-case words and lines, piece by piece: a word, a character or a
//! line may begin in one piece and end in the next.

/// Longer words are cut here: they are data, and no one looks for them.
pub(crate) const LONGEST_WORD: usize = 128;

/// What a byte means to the splitter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Separator,
    Newline,
    Word,
    /// Part of a character of several bytes, or of none.
    Wide,
}

/// Class and lower case of every byte.
const TABLE: [(Class, u8); 256] = {
    let mut table = [(Class::Separator, 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let value = byte as u8;
        if value.is_ascii_alphanumeric() || value == b'_' {
            table[byte] = (Class::Word, value.to_ascii_lowercase());
        } else if value == b'\n' {
            table[byte] = (Class::Newline, 0);
        } else if value >= 0x80 {
            table[byte] = (Class::Wide, 0);
        }
        byte += 1;
    }
    table
};

/// Cuts a stream of bytes, given in pieces of any size.
#[derive(Default)]
pub(crate) struct Splitter {
    word: Vec<u8>,
    /// A character of several bytes of which only the first have come.
    wide: Vec<u8>,
    line: u32,
}

impl Splitter {
    /// Newlines seen so far.
    pub(crate) fn newlines(&self) -> u32 {
        self.line
    }

    /// Takes the next piece; `found` gets each word that ended in it and the number of
    /// newlines before it.
    pub(crate) fn push(&mut self, piece: &[u8], mut found: impl FnMut(&[u8], u32)) {
        for &byte in piece {
            let (class, lower) = TABLE[usize::from(byte)];
            if !self.wide.is_empty() && class != Class::Wide {
                self.end_word(&mut found);
            }
            match class {
                Class::Word => {
                    if self.word.len() < LONGEST_WORD {
                        self.word.push(lower);
                    }
                }
                Class::Wide => self.push_wide(byte, &mut found),
                Class::Separator => self.end_word(&mut found),
                Class::Newline => {
                    self.end_word(&mut found);
                    self.line = self.line.saturating_add(1);
                }
            }
        }
    }

    /// Ends the stream and with it the last word.
    pub(crate) fn finish(&mut self, mut found: impl FnMut(&[u8], u32)) {
        self.end_word(&mut found);
    }

    /// Ends the word, if there is one. An unfinished character is no part of it.
    fn end_word(&mut self, found: &mut impl FnMut(&[u8], u32)) {
        self.wide.clear();
        if !self.word.is_empty() {
            found(&self.word, self.line);
            self.word.clear();
        }
    }

    #[cold]
    fn push_wide(&mut self, byte: u8, found: &mut impl FnMut(&[u8], u32)) {
        self.wide.push(byte);
        match str::from_utf8(&self.wide) {
            Ok(text) => {
                let character = text.chars().next().expect("a byte was pushed");
                if !character.is_alphanumeric() {
                    self.end_word(found);
                    return;
                }
                let mut room = [0; 4];
                for lower in character.to_lowercase() {
                    let encoded = lower.encode_utf8(&mut room).as_bytes();
                    // Never half a character, so words are UTF-8.
                    if self.word.len() + encoded.len() <= LONGEST_WORD {
                        self.word.extend_from_slice(encoded);
                    }
                }
                self.wide.clear();
            }
            // More bytes may complete it.
            Err(err) if err.error_len().is_none() => {}
            Err(_) => {
                self.end_word(found);
                // The byte that spoiled one character may begin the next.
                if byte >= 0xc2 && self.wide.is_empty() {
                    self.wide.push(byte);
                    if str::from_utf8(&self.wide).is_err_and(|err| err.error_len().is_some()) {
                        self.wide.clear();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8], piece: usize) -> Vec<(String, u32)> {
        let mut splitter = Splitter::default();
        let mut words = Vec::new();
        let mut found = |word: &[u8], line| {
            words.push((String::from_utf8(word.to_vec()).expect("words are UTF-8"), line));
        };
        for part in bytes.chunks(piece) {
            splitter.push(part, &mut found);
        }
        splitter.finish(&mut found);
        words
    }

    #[test]
    fn pieces_of_any_size_give_the_same_words() {
        let mut text = b"One two_3,\nthree\r\n\n\xc3\x84rger na\xc3\xafve \xe6\x97\xa5\xe6\x9c\xac \xe2\x80\x94x".to_vec();
        text.extend_from_slice(b" bad\xffbytes \xe6\x97 cut \xc3\xc3\xa9t\xc3\xa9 end");
        let whole = split(&text, text.len());
        let words: Vec<_> = whole.iter().map(|(word, _)| word.as_str()).collect();
        let expected = [
            "one",
            "two_3",
            "three",
            "\u{e4}rger",
            "na\u{ef}ve",
            "\u{65e5}\u{672c}",
            "x",
            "bad",
            "bytes",
            "cut",
            "\u{e9}t\u{e9}",
            "end",
        ];
        assert_eq!(words, expected);
        assert_eq!(whole[2].1, 1);
        assert_eq!(whole[3].1, 3);
        for piece in 1..9 {
            assert_eq!(split(&text, piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn a_word_of_any_length_is_cut_between_characters() {
        let long = split("\u{65e5}".repeat(1000).as_bytes(), 7);
        assert_eq!(long.len(), 1);
        assert_eq!(long[0].0.len(), LONGEST_WORD / 3 * 3);
        assert_eq!(split(&[b'a'; 100_000], 999)[0].0.len(), LONGEST_WORD);
    }

    #[test]
    fn random_bytes_give_the_same_words_in_any_pieces() {
        let mut state = 1_u64;
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..100)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            assert_eq!(split(&bytes, 1), split(&bytes, 100));
        }
    }
}

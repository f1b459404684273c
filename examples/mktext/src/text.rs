//! The text: its vocabulary, its random numbers and its lines. No input or output.

/// Syllables of the invented language; frequent words have fewer of them.
const CONSONANTS: &[u8; 15] = b"bdfghklmnprstvz";
const VOWELS: &[u8; 5] = b"aeiou";
const SYLLABLES: usize = CONSONANTS.len() * VOWELS.len();

/// Words that follow Zipf's law: the word of rank k occurs about 1/k as often as the first.
const COMMON_WORDS: usize = 20_000;
const SLOTS: usize = 1 << 17;

/// An endless text, one line at a time.
pub(crate) struct Text {
    random: Random,
    words: Vec<Vec<u8>>,
    /// Drawing a slot at random draws a word by Zipf's law.
    slots: Vec<u16>,
    starts_sentence: bool,
}

impl Text {
    /// Begins the text of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        let words = (1..=COMMON_WORDS).map(word_of_rank).collect();
        let mut slots = Vec::with_capacity(SLOTS);
        for rank in 1..=COMMON_WORDS {
            // 12,500 is SLOTS over the harmonic number of COMMON_WORDS.
            let share = (12_500 / rank).max(1);
            slots.extend(std::iter::repeat_n((rank - 1) as u16, share));
        }
        // Slots left over by rounding go to the rare words.
        slots.extend((0..COMMON_WORDS as u16).rev().cycle().take(SLOTS - slots.len()));
        Self { random: Random(seed), words, slots, starts_sentence: true }
    }

    /// Appends one line, or one paragraph break, to `out`.
    pub(crate) fn push_line(&mut self, out: &mut Vec<u8>) {
        let mut draw = self.random.next();
        let end = out.len() + 40 + (draw % 45) as usize;
        loop {
            draw = self.random.next();
            let word_at = out.len();
            out.extend_from_slice(&self.words[self.slots[draw as usize % SLOTS] as usize]);
            // One word in 64 is a rare compound: the vocabulary grows with the text.
            if (draw >> 17).is_multiple_of(64) {
                let second = (draw >> 23) as usize % SLOTS;
                out.extend_from_slice(&self.words[self.slots[second] as usize]);
            }
            if std::mem::take(&mut self.starts_sentence) {
                out[word_at].make_ascii_uppercase();
            }
            match (draw >> 40) % 128 {
                0..8 => out.push(b','),
                8..18 => {
                    out.push(b'.');
                    self.starts_sentence = true;
                }
                _ => {}
            }
            if out.len() >= end {
                break;
            }
            out.push(b' ');
        }
        out.push(b'\n');
        if self.starts_sentence && (draw >> 47).is_multiple_of(2) {
            out.push(b'\n');
        }
    }
}

/// The word of a rank: the rank in a bijective base of syllables, so no two are alike.
fn word_of_rank(rank: usize) -> Vec<u8> {
    let mut word = Vec::new();
    let mut left = rank;
    while left > 0 {
        // 32 and 75 have no common divisor: neighbours in rank do not sound alike.
        let syllable = (left * 32) % SYLLABLES;
        word.push(CONSONANTS[syllable / VOWELS.len()]);
        word.push(VOWELS[syllable % VOWELS.len()]);
        left = (left - 1) / SYLLABLES;
    }
    match rank % 12 {
        0 | 7 => word.push(b'n'),
        3 | 8 => word.push(b's'),
        _ => {}
    }
    word
}

/// The `splitmix64` sequence: short, good enough for prose, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn sample(bytes: usize, seed: u64) -> Vec<u8> {
        let mut text = Text::new(seed);
        let mut out = Vec::new();
        while out.len() < bytes {
            text.push_line(&mut out);
        }
        out
    }

    #[test]
    fn no_two_ranks_have_the_same_word() {
        let words: HashSet<_> = (1..=COMMON_WORDS).map(word_of_rank).collect();
        assert_eq!(words.len(), COMMON_WORDS);
    }

    #[test]
    fn a_seed_always_gives_the_same_text() {
        let fnv = |bytes: &[u8]| {
            bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            })
        };
        // A changed value means that every stored result about this text is invalid.
        assert_eq!(fnv(&sample(1 << 20, 1)), 15_184_069_898_353_913_957);
        assert_ne!(sample(1 << 12, 1), sample(1 << 12, 2));
    }

    #[test]
    fn words_follow_zipfs_law() {
        let text = sample(4 << 20, 1).to_ascii_lowercase();
        let mut counts: HashMap<&[u8], u32> = HashMap::new();
        for word in text.split(|byte| !byte.is_ascii_alphabetic()).filter(|w| !w.is_empty()) {
            *counts.entry(word).or_default() += 1;
        }
        let mut sorted: Vec<u32> = counts.into_values().collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let ratio = f64::from(sorted[0]) / f64::from(sorted[9]);
        assert!((8.0..12.0).contains(&ratio), "first over tenth: {ratio}");
        assert!(sorted.len() > COMMON_WORDS, "only {} distinct words", sorted.len());
    }

    #[test]
    fn lines_have_a_natural_length() {
        let text = sample(1 << 20, 1);
        let longest = text.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap();
        assert!(longest < 110, "{longest}");
    }
}

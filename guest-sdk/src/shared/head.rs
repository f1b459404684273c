//! The first page of a shared value's segment, which says what lies behind it: so that programs that were compiled at
//! other times from other sources do not take it for something else.
//!
//! A segment of a [`Space`](crate::Space) has a root object for that, which is set under the segment's lock. Here there is no
//! lock, and two programs may come first at the same time, each with a type of its own. So the words are atomics, each is
//! set once, and whoever finds another one than its own has come second.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::layout::TypeLayout;
use crate::sys::SegId;

/// Bytes of the text that are kept, to say how a type differs.
const TEXT: usize = HEAD_BYTES - 5 * 8;

/// The page's size.
pub(super) const HEAD_BYTES: usize = 4096;

/// Only zeros at first.
#[repr(C)]
pub(super) struct Head {
    fingerprint: [AtomicU64; 2],
    /// The segment it is of. A copy of a segment has another one: it was made while programs changed what they liked, and
    /// may have the mark that a value is there without the value.
    segment: AtomicU64,
    /// A mark of ours, so that other programs' data that begin with zeros are not taken for nothing.
    mark: AtomicU64,
    /// How many bytes of the text there are; written last.
    text_bytes: AtomicU64,
    text: [AtomicU8; TEXT],
}

const _: () = assert!(size_of::<Head>() == HEAD_BYTES);

const MARK: u64 = u64::from_le_bytes(*b"SJSHARED");

/// What is there instead of what was expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Other {
    /// A value of another type; its layout, as far as it is known.
    Type(String),
    /// The copy of another segment.
    Copy,
    /// Something that is no shared value.
    Foreign,
}

impl Head {
    /// Says that there is a value of this layout, unless there is another one.
    pub(super) fn agree(&self, layout: &TypeLayout, segment: SegId) -> Result<(), Other> {
        let ours = layout.fingerprint();
        if !set(&self.mark, MARK) {
            return Err(Other::Foreign);
        }
        if !set(&self.segment, segment.raw()) {
            return Err(Other::Copy);
        }
        if !self.fingerprint.iter().zip(ours.0).all(|(word, ours)| set(word, ours)) {
            return Err(Other::Type(self.text()));
        }
        self.write(layout.text());
        Ok(())
    }

    /// Several programs may do so at the same time: they write the same.
    fn write(&self, text: &str) {
        if self.text_bytes.load(Ordering::Acquire) != 0 {
            return;
        }
        let len = text.floor_char_boundary(TEXT);
        for (place, byte) in self.text.iter().zip(text.as_bytes()[..len].iter()) {
            place.store(*byte, Ordering::Relaxed);
        }
        self.text_bytes.store(len as u64, Ordering::Release);
    }

    fn text(&self) -> String {
        let len = usize::try_from(self.text_bytes.load(Ordering::Acquire)).unwrap_or(TEXT);
        let bytes: Vec<u8> =
            self.text.iter().take(len).map(|byte| byte.load(Ordering::Relaxed)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whether the word is `ours`, which it becomes if it is 0.
fn set(word: &AtomicU64, ours: u64) -> bool {
    match word.compare_exchange(0, ours, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(other) => other == ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros() -> Box<Head> {
        let zero = || AtomicU64::new(0);
        Box::new(Head {
            fingerprint: [zero(), zero()],
            segment: zero(),
            mark: zero(),
            text_bytes: zero(),
            text: std::array::from_fn(|_| AtomicU8::new(0)),
        })
    }

    fn layout(text: &str) -> TypeLayout {
        TypeLayout::written(|writer| writer.describe::<Head>(text, |_| {}))
    }

    fn segment(id: u64) -> SegId {
        SegId::new(id).expect("not 0")
    }

    #[test]
    fn the_first_to_come_says_what_it_is_and_others_agree_or_are_told() {
        let head = zeros();
        assert_eq!(head.agree(&layout("one"), segment(1)), Ok(()));
        assert_eq!(head.agree(&layout("one"), segment(1)), Ok(()));
        let text = "one (4096 bytes, align 8)\n".to_owned();
        assert_eq!(head.agree(&layout("two"), segment(1)), Err(Other::Type(text)));
        assert_eq!(head.agree(&layout("one"), segment(2)), Err(Other::Copy));
    }

    #[test]
    fn of_two_types_at_the_same_time_one_is_refused() {
        for _ in 0..500 {
            let head = zeros();
            let both = std::thread::scope(|scope| {
                let one = scope.spawn(|| head.agree(&layout("one"), segment(1)).is_ok());
                let two = head.agree(&layout("two"), segment(1)).is_ok();
                (one.join().unwrap(), two)
            });
            assert_ne!(both, (true, true));
        }
    }

    #[test]
    fn what_another_program_has_put_there_is_not_taken_for_a_value() {
        let head = zeros();
        head.mark.store(7, Ordering::Relaxed);
        assert_eq!(head.agree(&layout("one"), segment(1)), Err(Other::Foreign));
    }

    #[test]
    fn a_damaged_length_of_the_text_is_no_reason_to_read_beyond_it() {
        let head = zeros();
        head.text_bytes.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(head.text().len(), TEXT);
    }
}

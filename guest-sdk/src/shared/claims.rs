//! Who of several setters has set a value: the two words of a [`VOnce`](super::VOnce), without the values.
//!
//! A setter claims a slot, writes its value there, and then makes the slot the chosen one, unless another one is. Nobody
//! writes to a slot that is not its own or reads one that is not chosen, so a setter that ends in the middle, killed or
//! not, costs one slot and stops nobody. A single slot with a mark "being set" was the alternative: whoever dies behind the
//! mark would stop all others for good, and there is no way to see from memory whether it is dead.
//!
//! The words are behind a trait so that loom's models run this very code (`seg-lock/tests/once.rs`).

/// A word of 32 bits that several threads and programs use.
pub(crate) trait Word {
    /// What it is, with all that was written before it was put there.
    fn get(&self) -> u32;

    /// Puts `new` there if it is `old`; returns whether it was.
    fn replace(&self, old: u32, new: u32) -> bool;
}

/// A slot that belongs to the caller, who may write to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claimed(u32);

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoClaim {
    /// A slot is chosen.
    IsSet,
    /// Each slot has a setter that has not come to its end.
    NoneFree,
}

impl Claimed {
    /// Which one, from 0 on.
    pub(crate) fn slot(&self) -> usize {
        self.0 as usize
    }
}

/// The slot that is chosen.
pub(crate) fn chosen(word: &impl Word) -> Option<usize> {
    word.get().checked_sub(1).map(|slot| slot as usize)
}

/// A slot for the caller, one of `slots`.
pub(crate) fn claim(
    chosen_word: &impl Word,
    taken: &impl Word,
    slots: u32,
) -> Result<Claimed, NoClaim> {
    loop {
        if chosen(chosen_word).is_some() {
            return Err(NoClaim::IsSet);
        }
        let next = taken.get();
        if next >= slots {
            return Err(NoClaim::NoneFree);
        }
        if taken.replace(next, next + 1) {
            return Ok(Claimed(next));
        }
    }
}

/// Makes the slot, which has its value now, the chosen one. Returns whether it is: another one may have been quicker.
pub(crate) fn choose(chosen_word: &impl Word, claimed: &Claimed) -> bool {
    chosen_word.replace(0, claimed.0 + 1)
}

//! What is stored in the address space: accounts by number, and how many times money was moved.

use std::thread;
use std::time::Duration;

use spacejmp::collections::VBTreeMap;
use spacejmp::{AllocError, At, Mode, Storable, Write};

spacejmp::brand! {
    /// The address space of the bank.
    pub(crate) Bank => Accounts
}

/// The root object.
#[derive(Storable)]
#[storable(vas = Bank)]
pub(crate) struct Accounts {
    moves: u64,
    balances: VBTreeMap<u64, u64, Bank>,
}

/// A look at all accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// How many moves it has seen. Each is a version of its own.
    pub(crate) moves: u64,
    /// In the order of the accounts' numbers.
    pub(crate) balances: Vec<u64>,
}

impl Look {
    pub(crate) fn sum(&self) -> u64 {
        self.balances.iter().sum()
    }
}

impl Accounts {
    /// As many accounts, numbered from 0, with the same amount each.
    pub(crate) fn new(
        at: &At<Bank, Write>,
        count: u64,
        amount: u64,
    ) -> Result<Accounts, AllocError> {
        let mut balances = VBTreeMap::new();
        balances.at_mut(at).extend((0..count).map(|number| (number, amount)))?;
        Ok(Accounts { moves: 0, balances })
    }

    pub(crate) fn look<M: Mode>(&self, at: &At<Bank, M>) -> Look {
        Look { moves: self.moves, balances: self.balances.at(at).values().copied().collect() }
    }

    /// Moves money from one account to another, in steps between which it is nowhere.
    pub(crate) fn move_money(&mut self, at: &At<Bank, Write>, random: &mut Random) {
        let count = self.balances.len() as u64;
        let from = random.below(count);
        let to = (from + 1 + random.below(count - 1)) % count;
        let amount = random.below(*self.balance(at, from) + 1);
        *self.balance(at, from) -= amount;
        // A kill is likely to come here.
        thread::sleep(Duration::from_millis(1));
        *self.balance(at, to) += amount;
        self.moves += 1;
    }

    fn balance<'a>(&'a mut self, at: &'a At<Bank, Write>, account: u64) -> &'a mut u64 {
        let balance = self.balances.at_mut(at).into_mut(&account);
        balance.expect("accounts are numbered from 0")
    }
}

/// Numbers that look random (xorshift64), the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        // Neighbouring seeds become distant, and none becomes zero, where it would stay.
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spacejmp::Space;

    /// A space over plain memory: no VM is needed.
    #[test]
    fn every_move_changes_accounts_and_leaves_their_sum() {
        let space = Space::<Bank>::in_memory(1 << 20, |at| Accounts::new(at, 7, 10)).unwrap();
        let mut random = Random::new(1);
        let mut last = space.read(|v| v.root().look(v)).unwrap();
        assert_eq!(last, Look { moves: 0, balances: vec![10; 7] });
        for moves in 1..=50 {
            space
                .write(|v| {
                    let (accounts, at) = v.root_mut();
                    accounts.move_money(at, &mut random);
                })
                .unwrap();
            let next = space.read(|v| v.root().look(v)).unwrap();
            assert_eq!((next.moves, next.sum()), (moves, 70));
            last = next;
        }
        assert_ne!(last.balances, [10; 7]);
    }
}

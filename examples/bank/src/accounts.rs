//! What is stored in the address space: accounts by number, and how many times money was moved.

use std::thread;
use std::time::Duration;

use spacejmp::collections::VBTreeMap;
use spacejmp::{AllocError, At, Mode, Storable, Write};

spacejmp::brand! {
    /// The address space of the bank.
    pub(crate) Bank<'v> => Accounts<'v>
}

/// The root object.
#[derive(Storable)]
#[storable(vas = Bank<'v>)]
pub(crate) struct Accounts<'v> {
    moves: u64,
    balances: VBTreeMap<u64, u64, Bank<'v>>,
}

/// A look at all accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// How many moves it has seen. Each is a version of its own.
    pub(crate) moves: u64,
    /// In the order of the accounts' numbers.
    pub(crate) balances: Vec<u64>,
}

/// Money to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) amount: u64,
}

/// Why a transfer has not happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is not as much money in the account.
    Overdrawn,
    /// The address space cannot be entered, or the change not be stored.
    Space(spacejmp::Error),
}

impl From<spacejmp::Error> for Refused {
    fn from(error: spacejmp::Error) -> Refused {
        Refused::Space(error)
    }
}

impl Look {
    pub(crate) fn sum(&self) -> u64 {
        self.balances.iter().sum()
    }
}

impl<'v> Accounts<'v> {
    /// As many accounts, numbered from 0, with the same amount each.
    pub(crate) fn new(
        at: &At<Bank<'v>, Write>,
        count: u64,
        amount: u64,
    ) -> Result<Accounts<'v>, AllocError> {
        let mut balances = VBTreeMap::new();
        balances.at_mut(at).extend((0..count).map(|number| (number, amount)))?;
        Ok(Accounts { moves: 0, balances })
    }

    pub(crate) fn look<M: Mode>(&self, at: &At<Bank<'v>, M>) -> Look {
        Look { moves: self.moves, balances: self.balances.at(at).values().copied().collect() }
    }

    /// Moves money from one account to another, in steps between which there is too much of it.
    ///
    /// # Errors
    /// The first account has less than that, which shows when the second one has it already: the
    /// visit has to be undone.
    pub(crate) fn transfer(
        &mut self,
        at: &At<Bank<'v>, Write>,
        of: &Transfer,
    ) -> Result<(), Refused> {
        *self.balance(at, of.to) += of.amount;
        // A kill is likely to come here.
        thread::sleep(Duration::from_millis(1));
        let from = self.balance(at, of.from);
        *from = from.checked_sub(of.amount).ok_or(Refused::Overdrawn)?;
        self.moves += 1;
        Ok(())
    }

    /// A transfer between any two accounts, of any amount up to a little more than the first one has.
    pub(crate) fn any_transfer(
        &mut self,
        at: &At<Bank<'v>, Write>,
        random: &mut Random,
    ) -> Transfer {
        let count = self.balances.len() as u64;
        let from = random.below(count);
        let to = (from + 1 + random.below(count - 1)) % count;
        let has = *self.balance(at, from);
        Transfer { from, to, amount: random.below(has + has / 10 + 2) }
    }

    fn balance<'a>(&'a mut self, at: &'a At<Bank<'v>, Write>, account: u64) -> &'a mut u64 {
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
    fn every_transfer_changes_accounts_and_leaves_their_sum() {
        let space = Space::<Bank<'_>>::in_memory(1 << 20, |at| Accounts::new(at, 7, 10)).unwrap();
        let mut random = Random::new(1);
        let look = || space.read(|v| v.root().look(v)).unwrap();
        assert_eq!(look(), Look { moves: 0, balances: vec![10; 7] });
        for moves in 1..=50 {
            let moved = space.write(|v| {
                let (accounts, at) = v.root_mut();
                let mut transfer = accounts.any_transfer(at, &mut random);
                transfer.amount = transfer.amount.min(*accounts.balance(at, transfer.from));
                accounts.transfer(at, &transfer)
            });
            assert_eq!(moved, Ok(()));
            assert_eq!((look().moves, look().sum()), (moves, 70));
        }
        assert_ne!(look().balances, [10; 7]);
        let refused = space.write(|v| {
            let (accounts, at) = v.root_mut();
            accounts.transfer(at, &Transfer { from: 0, to: 1, amount: 71 })
        });
        assert_eq!((refused, look().moves), (Err(Refused::Overdrawn), 50));
    }
}

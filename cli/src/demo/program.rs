//! The tour's programs: each runs in a virtual machine of its own, on one address space.
//!
//! What a step has to say is its last line: how long it took in microseconds, and words.

use std::thread;
use std::time::{Duration, Instant};

use spacejmp::collections::VBTreeMap;
use spacejmp::sys::{Durability, Lifetime};
use spacejmp::{AllocError, At, Mode, Space, Storable, Write};

spacejmp::brand! {
    /// The address space of the bank.
    pub(super) Bank<'v> => Accounts<'v>
}

/// The root object.
#[derive(Storable)]
#[storable(vas = Bank<'v>)]
pub(super) struct Accounts<'v> {
    moves: u64,
    balances: VBTreeMap<u64, u64, Bank<'v>>,
}

impl<'v> Accounts<'v> {
    fn new(at: &At<Bank<'v>, Write>, count: u64, amount: u64) -> Result<Accounts<'v>, AllocError> {
        let mut balances = VBTreeMap::new();
        balances.at_mut(at).extend((0..count).map(|account| (account, amount)))?;
        Ok(Accounts { moves: 0, balances })
    }

    fn balance<'a>(&'a mut self, at: &'a At<Bank<'v>, Write>, account: u64) -> &'a mut u64 {
        let balance = self.balances.at_mut(at).into_mut(&account);
        balance.expect("accounts are numbered from 0")
    }

    /// Takes from one account, and gives it to another a moment later.
    fn move_one(&mut self, at: &At<Bank<'v>, Write>, from: u64, to: u64) {
        let amount = (*self.balance(at, from)).min(1);
        *self.balance(at, from) -= amount;
        // Most kills come here, where money is missing.
        thread::sleep(Duration::from_millis(1));
        *self.balance(at, to) += amount;
        self.moves += 1;
    }

    fn sum<M: Mode>(&self, at: &At<Bank<'v>, M>) -> u64 {
        self.balances.at(at).values().sum()
    }
}

/// The name of the address space.
pub(super) const NAME: &str = "bank";

/// One of the tour's programs, and what it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Makes so many accounts with so much in each.
    Fill { count: u64, amount: u64 },
    /// Looks at one account.
    Find { account: u64 },
    /// Moves money until it is killed; draws accounts from a seed.
    Move { seed: u64 },
    /// Takes the sum for so long, and once at least.
    Sum { milliseconds: u64 },
}

impl Step {
    /// As arguments.
    pub(super) fn words(self) -> Vec<String> {
        let (name, numbers) = match self {
            Step::Fill { count, amount } => ("fill", vec![count, amount]),
            Step::Find { account } => ("find", vec![account]),
            Step::Move { seed } => ("move", vec![seed]),
            Step::Sum { milliseconds } => ("sum", vec![milliseconds]),
        };
        [name.to_owned()].into_iter().chain(numbers.iter().map(u64::to_string)).collect()
    }

    fn of_words(words: &[String]) -> Option<Step> {
        let (name, numbers) = words.split_first()?;
        let numbers: Option<Vec<u64>> = numbers.iter().map(|word| word.parse().ok()).collect();
        match (name.as_str(), &numbers?[..]) {
            ("fill", &[count, amount]) => Some(Step::Fill { count, amount }),
            ("find", &[account]) => Some(Step::Find { account }),
            ("move", &[seed]) => Some(Step::Move { seed }),
            ("sum", &[milliseconds]) => Some(Step::Sum { milliseconds }),
            _ => None,
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("the tour has no step {0:?}")]
    NoStep(Vec<String>),
    #[error("the address space {NAME}")]
    Space(#[from] spacejmp::Error),
    #[error("the sum was {first} after {before} moves, and {other} after {moves}")]
    Sum { first: u64, before: u64, other: u64, moves: u64 },
}

/// Runs a step, and prints what it has to say.
pub(super) fn run(words: &[String]) -> Result<(), StepError> {
    let step = Step::of_words(words).ok_or_else(|| StepError::NoStep(words.to_vec()))?;
    let began = Instant::now();
    let said = match step {
        Step::Fill { count, amount } => fill(count, amount)?,
        Step::Find { account } => find(account)?,
        Step::Move { seed } => return Ok(move_money(seed)?),
        Step::Sum { milliseconds } => sum(Duration::from_millis(milliseconds))?,
    };
    println!("{} {said}", began.elapsed().as_micros());
    Ok(())
}

fn fill(count: u64, amount: u64) -> spacejmp::Result<String> {
    let options = Space::<Bank<'_>>::options().lifetime(Lifetime::Versioned).size(1 << 30);
    // What the tour compares with is durable at once, too.
    let options = options.durability(Durability::Each);
    options.create(NAME, |at| Accounts::new(at, count, amount))?;
    Ok(format!("{count} accounts with {amount} each"))
}

fn find(account: u64) -> spacejmp::Result<String> {
    let space = Space::<Bank<'_>>::open_read_only(NAME)?;
    let balance = space.read(|v| v.root().balances.at(v).get(&account).copied())?;
    Ok(format!("account {account} has {}", balance.unwrap_or(0)))
}

fn move_money(seed: u64) -> spacejmp::Result<()> {
    let space = Space::<Bank<'_>>::open(NAME)?;
    let mut random = seed;
    loop {
        space.write(|v| {
            let (accounts, at) = v.root_mut();
            let count = accounts.balances.len() as u64;
            let mut draw = || {
                // Knuth's constants; the low bits of such numbers are poor.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) % count
            };
            let (from, to) = (draw(), draw());
            accounts.move_one(at, from, to);
            Ok::<_, spacejmp::Error>(())
        })?;
    }
}

/// Says the sum, how many visits saw it, and in how many versions.
fn sum(time: Duration) -> Result<String, StepError> {
    let space = Space::<Bank<'_>>::open_read_only(NAME)?;
    let look = || space.read(|v| (v.root().moves, v.root().sum(v)));
    let (began, mut visits, mut versions) = (Instant::now(), 1, 1);
    let (mut moves, sum) = look()?;
    while began.elapsed() < time {
        let (next, other) = look()?;
        if other != sum {
            return Err(StepError::Sum { first: sum, before: moves, other, moves: next });
        }
        visits += 1;
        versions += u64::from(next != moves);
        moves = next;
    }
    Ok(format!("{sum} {moves} {visits} {versions}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_what_their_arguments_say() {
        let steps = [
            Step::Fill { count: 3, amount: 4 },
            Step::Find { account: 1 },
            Step::Move { seed: 9 },
            Step::Sum { milliseconds: 0 },
        ];
        for step in steps {
            assert_eq!(Step::of_words(&step.words()), Some(step));
        }
        for other in [&["fill", "3"][..], &["find", "x"], &["sum"], &[]] {
            let other: Vec<String> = other.iter().map(ToString::to_string).collect();
            assert_eq!(Step::of_words(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_move_changes_accounts_and_leaves_their_sum() {
        let space = Space::<Bank<'_>>::in_memory(1 << 20, |at| Accounts::new(at, 7, 10)).unwrap();
        for (from, to) in [(0, 6), (3, 3), (0, 1)] {
            space
                .write(|v| {
                    let (accounts, at) = v.root_mut();
                    accounts.move_one(at, from, to);
                    Ok::<_, spacejmp::Error>(())
                })
                .unwrap();
        }
        let seen = space.read(|v| {
            let accounts = v.root();
            let balances: Vec<u64> = accounts.balances.at(v).values().copied().collect();
            (accounts.moves, balances, accounts.sum(v))
        });
        assert_eq!(seen.unwrap(), (3, vec![8, 11, 10, 10, 10, 10, 11], 70));
    }
}

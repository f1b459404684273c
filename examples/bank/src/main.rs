//! A bank whose sum is always right: `bank open 100 1000`, `bank move 5000`, `bank sum`.
//!
//! The address space is versioned: a visit to write is a change that happens as a whole or not at
//! all, whether an error ends it or a kill. `accounts.rs` has the stored types and their operations; the
//! commands are here; `killed.sh` kills the program a hundred times and looks at the sum.

#![forbid(unsafe_code)]

mod accounts;

use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use accounts::{Accounts, Bank, Look, Random, Refused};
use spacejmp::Space;
use spacejmp::sys::Lifetime;

const USAGE: &str = "\
usage, under `spacejmp run`:
  bank open N AMOUNT         make a bank of N accounts with AMOUNT each
  bank move COUNT [SEED]     move money COUNT times from one account to another; what an account does
                             not have is noticed half-way, and undone
  bank sum [COUNT]           the sum of all accounts, COUNT times, and how many versions that saw
  bank show                  all accounts
  --vas NAME                 the address space, instead of `bank`";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (args, name) = match &args[..] {
        [args @ .., "--vas", name] | ["--vas", name, args @ ..] => (args, *name),
        args => (args, "bank"),
    };
    match run(args, name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bank: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str], name: &str) -> Result<(), Box<dyn Error>> {
    match *args {
        ["open", count, amount] => {
            let (count, amount) = (number(count)?, number(amount)?);
            if count < 2 || count.checked_mul(amount).is_none() {
                return Err("a bank has two accounts or more, and a sum below 2^64".into());
            }
            let options = Space::<Bank<'_>>::options().lifetime(Lifetime::Versioned);
            options.create(name, |at| Accounts::new(at, count, amount))?;
        }
        ["move", count] => move_money(name, number(count)?, 1)?,
        ["move", count, seed] => move_money(name, number(count)?, number(seed)?)?,
        ["sum"] => sum(name, 1)?,
        ["sum", count] => sum(name, number(count)?)?,
        ["show"] => {
            let seen = look(&Space::open_read_only(name)?)?;
            for (account, balance) in seen.balances.iter().enumerate() {
                println!("{account}: {balance}");
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

/// Each move is a visit, and with it a version. One that is refused half-way never was.
fn move_money(name: &str, count: u64, seed: u64) -> spacejmp::Result<()> {
    let space = Space::<Bank<'_>>::open(name)?;
    let mut random = Random::new(seed);
    let mut moved = 0;
    while moved < count {
        let outcome = space.write(|v| {
            let (accounts, at) = v.root_mut();
            let transfer = accounts.any_transfer(at, &mut random);
            accounts.transfer(at, &transfer)
        });
        match outcome {
            Ok(()) => moved += 1,
            Err(Refused::Overdrawn) => {}
            Err(Refused::Space(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Two looks in one visit, which see the same whatever others do in between.
fn look(space: &Space<Bank<'_>>) -> Result<Look, Box<dyn Error>> {
    let (first, second) = space.read(|v| {
        let first = v.root().look(v);
        thread::sleep(Duration::from_millis(1));
        (first, v.root().look(v))
    })?;
    if first != second {
        return Err(format!("two looks in one visit differ: {first:?}, {second:?}").into());
    }
    Ok(first)
}

/// Prints the sum, after as many visits, in each of which it must be the same.
fn sum(name: &str, count: u64) -> Result<(), Box<dyn Error>> {
    let space = Space::open_read_only(name)?;
    let first = look(&space)?;
    let (mut last, mut versions) = (first.moves, 1);
    for _ in 1..count {
        let next = look(&space)?;
        if next.sum() != first.sum() {
            return Err(format!("the sum was {}, and is {}", first.sum(), next.sum()).into());
        }
        // Versions come in order; a kill takes none back.
        if next.moves < last {
            return Err(format!("after move {last} came move {}", next.moves).into());
        }
        versions += u64::from(next.moves > last);
        last = next.moves;
    }
    let (sum, first) = (first.sum(), first.moves);
    println!("sum {sum} in {count} visits, versions seen: {versions}, from {first} to {last}");
    Ok(())
}

//! Remembers every number it was ever given.
//!
//! The numbers are a list in an address space, linked by ordinary pointers. Nothing is saved or
//! loaded: the next run goes on where this one ends.

use std::error::Error;
use std::process::ExitCode;

use spacejmp::{AllocError, At, Mode, Space, Storable, VBox, Write};

spacejmp::brand! {
    /// The address space as a type, and what everything in it is reached from. `'v` is the time a thread
    /// is inside: the compiler sees to it that nothing that is found there is kept longer.
    Memory<'v> => Numbers<'v>
}

/// The root object.
#[derive(Storable, Default)]
#[storable(vas = Memory<'v>)]
struct Numbers<'v> {
    runs: u64,
    latest: Option<VBox<Entry<'v>, Memory<'v>>>,
}

/// One number. `VBox` is `Box` for an address space.
#[derive(Storable)]
#[storable(vas = Memory<'v>)]
struct Entry<'v> {
    number: u32,
    before: Option<VBox<Entry<'v>, Memory<'v>>>,
}

impl<'v> Numbers<'v> {
    /// `at` proves that the thread is inside `Memory` and may write.
    fn push(&mut self, at: &At<Memory<'v>, Write>, number: u32) -> Result<(), AllocError> {
        // The list is not touched before there is room for one more.
        let mut entry = VBox::new(at, Entry { number, before: None })?;
        entry.get_mut(at).before = self.latest.take();
        self.latest = Some(entry);
        Ok(())
    }

    /// All numbers, the latest first.
    fn iter<'a, M: Mode>(&'a self, at: &'a At<Memory<'v>, M>) -> impl Iterator<Item = u32> {
        let latest = self.latest.as_ref().map(|entry| entry.get(at));
        std::iter::successors(latest, |entry| Some(entry.before.as_ref()?.get(at)))
            .map(|entry| entry.number)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{}: {err}", env!("CARGO_PKG_NAME"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let given = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<Vec<u32>, _>>();
    let given = given.map_err(|err| format!("it takes numbers: {err}"))?;

    let name = env!("CARGO_PKG_NAME");
    let space = Space::<Memory<'_>>::options().open_or_create(name, |_| Ok(Numbers::default()))?;

    // Alone among writers. An error that the closure returns undoes what it has changed; so does a kill.
    space.write(|v| {
        let (numbers, at) = v.root_mut();
        numbers.runs += 1;
        for number in given {
            numbers.push(at, number)?;
        }
        Ok::<_, spacejmp::Error>(())
    })?;

    // Waits for nobody, and what it sees does not change meanwhile.
    space.read(|v| {
        let numbers = v.root();
        let sum: u64 = numbers.iter(v).map(u64::from).sum();
        let count = numbers.iter(v).count();
        let noun = if count == 1 { "number" } else { "numbers" };
        println!("run {}: {count} {noun}, sum {sum}", numbers.runs);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A space over plain memory needs no VM.
    #[test]
    fn the_latest_number_comes_first() {
        let space = Space::<Memory<'_>>::in_memory(1 << 20, |_| Ok(Numbers::default())).unwrap();
        space
            .write(|v| {
                let (numbers, at) = v.root_mut();
                for number in [3, 4, 5] {
                    numbers.push(at, number)?;
                }
                Ok::<_, spacejmp::Error>(())
            })
            .unwrap();
        let all: Vec<_> = space.read(|v| v.root().iter(v).collect()).unwrap();
        assert_eq!(all, [5, 4, 3]);
    }
}

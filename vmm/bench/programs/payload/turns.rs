//! What `maps` and `trees` have in common: times, and the rounds in which a map in a VAS and one at
//! home alternate. The loops that are timed are the same code for both, in [`crate::keys`].

use spacejmp::Error;

/// Nanoseconds, and the sum of the values.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) insert: u64,
    pub(crate) get: u64,
    /// For an ordered map; 0 for others.
    pub(crate) walk: u64,
    pub(crate) sum: u64,
}

impl Times {
    fn best(self, other: Times) -> Times {
        Times {
            insert: self.insert.min(other.insert),
            get: self.get.min(other.get),
            walk: self.walk.min(other.walk),
            sum: other.sum,
        }
    }
}

/// Times of the map in the VAS, and of the one at home.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) ours: Times,
    pub(crate) home: Times,
}

/// The first round, in untouched memory, and the best times of the others. In those, our heap
/// reuses the memory it has, while the process returns large blocks to the system and allocates
/// them again. Without rounds there is only the first.
///
/// # Errors
/// A call's error; when the maps differ in content.
pub(crate) fn take(
    rounds: u64,
    ours: impl Fn() -> Result<Times, Error>,
    home: impl Fn() -> Times,
) -> Result<(Pair, Pair), String> {
    let round = || {
        let pair = Pair { ours: ours().map_err(|err| err.to_string())?, home: home() };
        match pair.ours.sum == pair.home.sum {
            true => Ok(pair),
            false => Err(String::from("the maps do not hold the same")),
        }
    };
    let fresh = round()?;
    let mut best: Option<Pair> = None;
    for _ in 0..rounds {
        let pair = round()?;
        best = Some(best.map_or(pair, |best| Pair {
            ours: best.ours.best(pair.ours),
            home: best.home.best(pair.home),
        }));
    }
    Ok((fresh, best.unwrap_or(fresh)))
}

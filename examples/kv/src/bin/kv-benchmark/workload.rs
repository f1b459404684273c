//! What a client does and how it is timed, whoever it is a client of: GETs and SETs of random keys, in batches.
//! `bench-peers` includes this file, too.

use std::fmt::Write;
use std::time::{Duration, Instant};

/// The result of a client, for people if it fails.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A request; with a value it is a SET.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) key: [u8; 16],
    pub(crate) value: Option<&'a [u8]>,
}

/// Who serves.
pub(crate) trait Side {
    /// Carries out requests in order; how many bytes the GETs have found, 0 for each key that is not there.
    fn carry_out(&mut self, requests: &[Request<'_>]) -> Result<usize>;
}

/// What one client is to do: a line of eight numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    /// How many keys there are.
    pub(crate) keys: u64,
    /// How many requests of a hundred are SETs.
    pub(crate) sets: u64,
    /// How many bytes a value has.
    pub(crate) value: usize,
    /// How many requests are handed over at once.
    pub(crate) batch: usize,
    /// How long, or if it is 0 then how many requests.
    pub(crate) millis: u64,
    pub(crate) count: u64,
    /// How many requests a second at most; 0 for as many as there can be.
    pub(crate) rate: u64,
    /// Which keys are drawn.
    pub(crate) seed: u64,
}

impl Order {
    /// The order of a line.
    pub(crate) fn parse(line: &str) -> Option<Order> {
        let numbers: Vec<u64> =
            line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let &[keys, sets, value, batch, millis, count, rate, seed] = &numbers[..] else {
            return None;
        };
        let value = usize::try_from(value).ok()?;
        let batch = usize::try_from(batch).ok().filter(|&batch| batch > 0)?;
        (keys > 0).then_some(Order { keys, sets, value, batch, millis, count, rate, seed })
    }
}

/// Times by size: an eighth of their binary order of magnitude each.
#[derive(Debug, Default)]
struct Times(Vec<u64>);

impl Times {
    fn add(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(8);
        let magnitude = u64::from(ns.ilog2());
        let place = ((magnitude << 3) | ((ns >> (magnitude - 3)) & 7)) as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] += 1;
    }
}

/// Serves one line; the answer is a line of JSON: requests, the time they have taken, and how many batches have
/// taken how long, by place: `place & 7` eighths above the `place >> 3`th power of two nanoseconds.
pub(crate) fn obey(side: &mut impl Side, line: &str) -> Result<String> {
    let order = Order::parse(line).ok_or_else(|| format!("{line:?} is no order"))?;
    let value = vec![b'v'; order.value];
    let mut requests = Vec::with_capacity(order.batch);
    let (mut random, mut times, mut done) = (order.seed | 1, Times::default(), 0);
    let began = Instant::now();
    loop {
        requests.clear();
        let mut gets = 0;
        for _ in 0..order.batch {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let is_set = (random >> 40) % 100 < order.sets;
            gets += usize::from(!is_set);
            requests.push(Request {
                key: key((random >> 8) % order.keys),
                value: is_set.then_some(&value),
            });
        }
        let since = Instant::now();
        let found = side.carry_out(&requests)?;
        times.add(since.elapsed());
        if found != gets * order.value {
            return Err(
                format!("{gets} values of {} bytes have {found} in all", order.value).into()
            );
        }
        done += order.batch as u64;
        let elapsed = began.elapsed();
        let is_over = if order.millis > 0 {
            elapsed >= Duration::from_millis(order.millis)
        } else {
            done >= order.count
        };
        if is_over {
            break;
        }
        if let Some(due) = done.saturating_mul(1_000_000_000).checked_div(order.rate) {
            std::thread::sleep(Duration::from_nanos(due).saturating_sub(elapsed));
        }
    }
    let ns = began.elapsed().as_nanos();
    let mut text = format!("{{\"requests\":{done},\"ns\":{ns},\"times\":[");
    for (number, count) in times.0.iter().enumerate() {
        write!(text, "{}{count}", if number == 0 { "" } else { "," })?;
    }
    Ok(text + "]}")
}

/// Gives every key a value of so many bytes.
pub(crate) fn fill(side: &mut impl Side, keys: u64, value: usize, batch: u64) -> Result<()> {
    let value = vec![b'v'; value];
    let mut next = 0;
    while next < keys {
        let end = keys.min(next + batch);
        let request = |number| Request { key: key(number), value: Some(&value) };
        side.carry_out(&(next..end).map(request).collect::<Vec<_>>())?;
        next = end;
    }
    Ok(())
}

/// As `redis-benchmark` names them.
pub(crate) fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key.iter_mut().skip(4).rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Map(std::collections::BTreeMap<[u8; 16], usize>, usize);

    impl Side for Map {
        fn carry_out(&mut self, requests: &[Request<'_>]) -> Result<usize> {
            let mut found = 0;
            for request in requests {
                match request.value {
                    Some(value) => {
                        self.0.insert(request.key, value.len());
                        self.1 += 1;
                    }
                    None => found += self.0.get(&request.key).copied().unwrap_or(0),
                }
            }
            Ok(found)
        }
    }

    #[test]
    fn a_mix_has_its_share_of_sets_and_a_key_that_is_missing_is_noticed() {
        let mut map = Map::default();
        fill(&mut map, 1000, 4, 300).expect("it fills");
        assert_eq!((map.0.len(), map.1), (1000, 1000));
        let answer = obey(&mut map, "1000 50 4 10 0 20000 0 3").expect("it works");
        assert!(answer.starts_with("{\"requests\":20000,\"ns\":"), "{answer}");
        assert!((10_000..12_000).contains(&map.1), "{}", map.1);
        map.0.remove(&key(7));
        assert!(obey(&mut map, "1000 0 4 10 0 20000 0 3").is_err());
        assert!(
            obey(&mut map, "1000 0 4 10 0").is_err() && obey(&mut map, "0 0 4 1 0 1 0 1").is_err()
        );
    }

    #[test]
    fn times_are_in_the_bucket_of_their_size() {
        let mut times = Times::default();
        times.add(Duration::from_nanos(1024 + 128));
        assert_eq!(times.0.len() - 1, 10 << 3 | 1);
        assert_eq!(key(42), *b"key:000000000042");
    }
}

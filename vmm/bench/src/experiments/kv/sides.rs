//! Who is compared: clients that enter the store themselves, clients of `kv serve`, of `redis-server`, and LMDB in
//! the process of each client. All obey the same orders.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::BenchError;
use crate::experiments::store::peers;
use crate::experiments::{Bench, start};
use crate::report::Origin;
use crate::sample::Environment::{Native, Vm};
use crate::worker::Worker;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Direct,
    Serve,
    Redis,
    Lmdb,
}

impl Side {
    pub(super) const ALL: [Side; 4] = [Side::Direct, Side::Serve, Side::Redis, Side::Lmdb];

    /// In the names of figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Direct => "kv",
            Side::Serve => "kv_serve",
            Side::Redis => "redis",
            Side::Lmdb => "lmdb",
        }
    }

    pub(super) fn legend(self) -> &'static str {
        match self {
            Side::Direct => "kv: each client enters the store",
            Side::Serve => "clients of kv serve",
            Side::Redis => "clients of Redis",
            Side::Lmdb => "LMDB in each client",
        }
    }

    pub(super) fn origin(self) -> Origin {
        if matches!(self, Side::Direct | Side::Serve) { Origin::Ours } else { Origin::Alternative }
    }
}

/// Where the programs are.
pub(super) struct Programs<'a> {
    pub(super) bench: &'a Bench<'a>,
    pub(super) kv: PathBuf,
    pub(super) clients: PathBuf,
    redis: Option<PathBuf>,
    peers: Option<PathBuf>,
}

/// How long a server may take until it answers: Redis loads all of its data before.
const PATIENCE: Duration = Duration::from_secs(600);

impl<'a> Programs<'a> {
    /// `None` when the programs of `kv` are not beside ours.
    pub(super) fn find(bench: &'a Bench<'a>) -> Option<Programs<'a>> {
        let ours = |name: &str| Some(bench.programs.beside(name)).filter(|path| path.is_file());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = bench.store.peers.clone();
        let peers = named.unwrap_or_else(|| bench.programs.beside(peers::PROGRAM));
        Some(Programs {
            bench,
            kv: ours("kv")?,
            clients: ours("kv-benchmark")?,
            redis: start::in_path("redis-server", &path),
            peers: peers.is_file().then_some(peers),
        })
    }

    /// Why a side has no figures; `None` if it has.
    pub(super) fn why_not(&self, side: Side) -> Option<&'static str> {
        match side {
            Side::Redis if self.redis.is_none() => Some("redis-server is not installed"),
            Side::Lmdb if self.peers.is_none() => {
                Some("there is no spacejmp-bench-peers: cargo xtask peers")
            }
            _ => None,
        }
    }

    pub(super) fn here(&self) -> impl Iterator<Item = Side> {
        Side::ALL.into_iter().filter(|side| self.why_not(*side).is_none())
    }

    /// A file of theirs, by its name.
    pub(super) fn file(&self, name: &str) -> String {
        self.bench.programs.file(name).display().to_string()
    }

    pub(super) fn in_vm(&self, program: &Path, args: &[&str]) -> Command {
        self.bench.runner.command(Vm, program, args, None)
    }

    fn natively(&self, program: &Path, args: &[&str]) -> Command {
        self.bench.runner.command(Native, program, args, None)
    }

    /// Makes a store of our own of so many keys.
    pub(super) fn fill(&self, keys: u64, value: usize, when: &str) -> Result<(), BenchError> {
        let (keys, value) = (keys.to_string(), value.to_string());
        let args = ["fill", "kv", &keys, &value, when];
        self.bench.runner.run(Vm, &self.clients, &args, false).map(|_| ())
    }

    /// Gives the keys of a server values.
    pub(super) fn fill_served(&self, at: &str, keys: u64, value: usize) -> Result<(), BenchError> {
        let (keys, value) = (keys.to_string(), value.to_string());
        let args = ["fill-socket", at, &keys, &value];
        self.bench.runner.run(Native, &self.clients, &args, false).map(|_| ())
    }

    /// Makes an environment of LMDB of so many keys.
    pub(super) fn fill_lmdb(&self, keys: u64, value: usize) -> Result<(), BenchError> {
        let Some(peers) = &self.peers else { return Ok(()) };
        let _ = std::fs::remove_dir_all(self.bench.programs.file("lmdb"));
        let (dir, keys, value) = (self.file("lmdb"), keys.to_string(), value.to_string());
        let args = ["lmdb", "fill", "--dir", &dir, "--entries", &keys, "--value", &value];
        self.bench.runner.native(peers, &args).map(|_| ())
    }

    /// Starts `kv serve`; where it listens.
    pub(super) fn serve(&self) -> Result<(Worker, String), BenchError> {
        let at = self.file("kv.sock");
        let _ = std::fs::remove_file(&at);
        let args = ["serve", "--port", "0", "--unix", &at];
        Ok((Worker::start(self.in_vm(&self.kv, &args))?.0, at))
    }

    /// Starts `redis-server`, and waits until it has loaded its data: itself, where it listens, and how
    /// long that took. `None` if it is not installed.
    pub(super) fn redis(&self, options: &[&str]) -> Result<Option<Redis>, BenchError> {
        let Some(program) = &self.redis else { return Ok(None) };
        let (at, dir) = (self.file("redis.sock"), self.bench.programs.dir().display().to_string());
        let _ = std::fs::remove_file(&at);
        let fixed = ["--port", "0", "--unixsocket", &at, "--dir", &dir, "--save", ""];
        let command = self.natively(program, &[&fixed, options].concat());
        let began = Instant::now();
        // Its first line says that it starts; it answers when its data are loaded.
        let (worker, _) = Worker::start(command)?;
        let deadline = began + PATIENCE;
        while Instant::now() < deadline {
            if ask(&at, "GET key:000000000000").is_some_and(|line| line.starts_with('$')) {
                return Ok(Some(Redis { worker, at, loaded: began.elapsed() }));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(BenchError::Answer { what: "redis-server".into(), text: "LOADING".into() })
    }

    /// Starts clients of a side, which wait for orders.
    pub(super) fn crowd(
        &self,
        side: Side,
        at: &str,
        clients: u32,
        is_durable: bool,
    ) -> Result<Crowd, BenchError> {
        let lmdb = self.file("lmdb");
        let mut durable = vec!["lmdb", "clients", "--dir", &lmdb];
        durable.extend(is_durable.then_some("--durable"));
        let each = clients.to_string();
        let one = || match (side, &self.peers) {
            (Side::Direct, _) => self.in_vm(&self.clients, &["direct", "kv"]),
            (Side::Lmdb, Some(peers)) => self.natively(peers, &durable),
            _ => self.natively(&self.clients, &["socket", at, &each]),
        };
        // Of a server all are in one program, as those of `redis-benchmark`.
        let (count, each) = match side {
            Side::Direct | Side::Lmdb => (clients, 1),
            Side::Serve | Side::Redis => (1, clients),
        };
        let workers =
            (0..count).map(|_| Ok(Worker::start(one())?.0)).collect::<Result<_, BenchError>>()?;
        Ok(Crowd { workers, each })
    }
}

/// A running `redis-server`.
pub(super) struct Redis {
    pub(super) worker: Worker,
    pub(super) at: String,
    pub(super) loaded: Duration,
}

/// Asks a server; the first line of its reply.
pub(super) fn ask(at: &str, command: &str) -> Option<String> {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(at).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}

/// A number that `INFO` tells.
pub(super) fn info(at: &str, key: &str) -> Option<f64> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(at).ok()?;
    stream.write_all(b"INFO\r\nQUIT\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
}

/// Clients of one side.
pub(super) struct Crowd {
    workers: Vec<Worker>,
    /// How many clients each of the programs has.
    each: u32,
}

/// What they are told: the fields of an order of `kv-benchmark` that differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) keys: u64,
    pub(super) sets: u64,
    pub(super) value: usize,
    pub(super) batch: usize,
    pub(super) millis: u64,
    pub(super) count: u64,
    pub(super) rate: u64,
}

impl Order {
    /// Without its last number, which differs for each program.
    fn line(&self) -> String {
        let Order { keys, sets, value, batch, millis, count, rate } = self;
        format!("{keys} {sets} {value} {batch} {millis} {count} {rate} ")
    }
}

impl Crowd {
    /// One program that is one client.
    pub(super) fn of(worker: Worker) -> Crowd {
        Crowd { workers: vec![worker], each: 1 }
    }

    /// All begin at the same time, but for the moment that it takes to tell them.
    pub(super) fn begin(&mut self, order: &Order) -> Result<(), BenchError> {
        let line = order.line();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            worker.order(&format!("{line}{}7", number + 1))?;
        }
        Ok(())
    }

    /// Waits until all have done what they were told.
    pub(super) fn answers(&mut self) -> Result<Vec<Value>, BenchError> {
        let mut answers = Vec::new();
        for worker in &mut self.workers {
            for _ in 0..self.each {
                answers.push(worker.answer()?);
            }
        }
        Ok(answers)
    }

    pub(super) fn obey(&mut self, order: &Order) -> Result<Rate, BenchError> {
        self.begin(order)?;
        Ok(Rate::of(&self.answers()?))
    }

    pub(super) fn end(self) -> Result<(), BenchError> {
        self.workers.into_iter().try_for_each(Worker::end)
    }
}

/// What clients have done together.
#[derive(Debug, Clone, Default)]
pub(super) struct Rate {
    pub(super) per_second: f64,
    /// How many batches have taken how long: `kv-benchmark`'s places.
    times: Vec<f64>,
}

impl Rate {
    pub(super) fn of(answers: &[Value]) -> Rate {
        let mut all = Rate::default();
        for answer in answers {
            let number = |key: &str| answer.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            all.per_second += number("requests") * 1e9 / number("ns").max(1.0);
            let counts = answer.get("times").and_then(Value::as_array);
            for (place, count) in counts.into_iter().flatten().enumerate() {
                if all.times.len() <= place {
                    all.times.resize(place + 1, 0.0);
                }
                all.times[place] += count.as_f64().unwrap_or(0.0);
            }
        }
        all
    }

    /// The time that so many of a hundred batches have not exceeded, in microseconds.
    pub(super) fn quantile_us(&self, percent: f64) -> Option<f64> {
        let wanted = self.times.iter().sum::<f64>() * percent / 100.0;
        let mut so_far = 0.0;
        let place = self.times.iter().position(|count| {
            so_far += count;
            *count > 0.0 && so_far >= wanted
        })?;
        let (magnitude, eighths) = (place >> 3, place & 7);
        // The middle of its bucket.
        Some(2_f64.powi(magnitude as i32) * (1.0 + (eighths as f64 + 0.5) / 8.0) / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_add_up_and_quantiles_are_of_all_clients_together() {
        let client = |place: usize, batches: u64| {
            let mut times = vec![0; place + 1];
            times[place] = batches;
            serde_json::json!({ "requests": 1000, "ns": 1_000_000_000_u64, "times": times })
        };
        // 1024 to 1152 ns, and 2048 to 2304.
        let rate = Rate::of(&[client(80, 98), client(88, 2)]);
        assert_eq!(rate.per_second, 2000.0);
        assert_eq!(rate.quantile_us(50.0), Some(1.088));
        assert_eq!(rate.quantile_us(99.0), Some(2.176));
        assert_eq!(Rate::default().quantile_us(50.0), None);
    }

    #[test]
    fn an_order_has_the_fields_that_the_clients_expect() {
        let order = Order { keys: 10, sets: 5, value: 4, batch: 2, millis: 7, count: 0, rate: 9 };
        assert_eq!(order.line(), "10 5 4 2 7 0 9 ");
    }
}

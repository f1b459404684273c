//! `kv-benchmark`: one or more clients that do what they are told, line by line, and say how long it took.
//! `spacejmp bench kv` runs it: clients of the store itself in a VM each, and clients of a server natively.

#![forbid(unsafe_code)]

mod workload;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use kv::shown::Reply;
use kv::{Client, Store};
use spacejmp::Durability;
use workload::{Request, Result, Side, fill, key, obey};

const USAGE: &str = "\
usage:
  kv-benchmark direct [VAS]              in a VM: enters the store, and does the work itself
  kv-benchmark socket PATH CLIENTS       a server's clients, over a UNIX socket, a thread each
  kv-benchmark fill VAS KEYS BYTES WHEN [BATCH]
                                         in a VM: makes a store of keys with a value each (WHEN: each, manual),
                                         BATCH in a visit, by default as few visits as memory allows
  kv-benchmark fill-socket PATH KEYS BYTES

Orders come from standard input, a line each: KEYS SETS VALUE BATCH MILLIS COUNT RATE SEED, that is how many
keys there are, how many requests of a hundred are SETs, how long a value is, how many requests are
handed over at once, for how long or, if 0, how many, how many a second at most or 0, and which keys are drawn.
The answer to each is a line of JSON.";

/// How many bytes one visit fills, with what else than its value each key has.
const FILLED: u64 = 2 << 30;
const FILLED_BESIDES: u64 = 128;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv-benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["direct", vas] => {
            let store = Store::open_or_create(vas, Durability::Each, None)?;
            let mut side = Direct(store.client());
            say("ready")?;
            for line in std::io::stdin().lock().lines() {
                say(&obey(&mut side, &line?)?)?;
            }
            Ok(())
        }
        ["fill", vas, keys, bytes, when, batch @ ..] if batch.len() < 2 => {
            let durability = if *when == "each" { Durability::Each } else { Durability::Manual };
            let store = Store::open_or_create(vas, durability, None)?;
            let bytes = bytes.parse()?;
            // Each visit stores the pages that it has changed, and keys are all over them: with many visits, most
            // of what they store is what the ones before have stored.
            let batch = match batch {
                [batch] => batch.parse()?,
                _ => FILLED / (bytes as u64 + FILLED_BESIDES),
            };
            let (keys, batch): (u64, u64) = (keys.parse()?, batch.max(1));
            let (mut client, value) = (store.client(), vec![b'v'; bytes]);
            for begin in (0..keys).step_by(usize::try_from(batch)?) {
                let numbers = begin..keys.min(begin.saturating_add(batch));
                let set = |number| vec![b"SET".to_vec(), key(number).to_vec(), value.clone()];
                let done = client.call_each(numbers.map(set))?;
                done.map_err(|reply| format!("{reply:?}"))?;
            }
            Ok(store.sync()?)
        }
        ["fill-socket", path, keys, bytes] => {
            fill(&mut Served::connect(path)?, keys.parse()?, bytes.parse()?, 1000)
        }
        ["socket", path, clients] => {
            let mut sides = (0..clients.parse()?)
                .map(|_: u32| Served::connect(path))
                .collect::<Result<Vec<_>>>()?;
            say("ready")?;
            for line in std::io::stdin().lock().lines() {
                let line = line?;
                let answers: Vec<Result<String>> = std::thread::scope(|scope| {
                    let begun: Vec<_> = sides
                        .iter_mut()
                        .enumerate()
                        .map(|(number, side)| {
                            // Clients draw different keys: the last number of the line is the seed.
                            let line = format!("{line}{number}");
                            scope.spawn(move || obey(side, &line))
                        })
                        .collect();
                    let join = |one: std::thread::ScopedJoinHandle<'_, _>| {
                        one.join().unwrap_or_else(|_| Err("a client panicked".into()))
                    };
                    begun.into_iter().map(join).collect()
                });
                for answer in answers {
                    say(&answer?)?;
                }
            }
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

/// A client that enters the address space: a batch is one visit.
struct Direct<'a>(Client<'a>);

impl Side for Direct<'_> {
    fn carry_out(&mut self, requests: &[Request<'_>]) -> Result<usize> {
        let words = |request: &Request<'_>| match request.value {
            None => vec![b"GET".to_vec(), request.key.to_vec()],
            Some(value) => vec![b"SET".to_vec(), request.key.to_vec(), value.to_vec()],
        };
        let mut found = 0;
        for reply in self.0.call_all(requests.iter().map(words).collect())? {
            match reply {
                Reply::Bulk(value) => found += value.len(),
                Reply::Simple(_) | Reply::Null => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
        Ok(found)
    }
}

/// A client of a server.
struct Served {
    stream: BufReader<UnixStream>,
    sent: Vec<u8>,
    line: Vec<u8>,
}

impl Served {
    fn connect(path: &str) -> Result<Served> {
        let stream = UnixStream::connect(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Served { stream: BufReader::new(stream), sent: Vec::new(), line: Vec::new() })
    }
}

impl Side for Served {
    fn carry_out(&mut self, requests: &[Request<'_>]) -> Result<usize> {
        self.sent.clear();
        for request in requests {
            match request.value {
                None => self.sent.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n"),
                Some(_) => self.sent.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n"),
            }
            self.sent.extend_from_slice(&request.key);
            if let Some(value) = request.value {
                write!(self.sent, "\r\n${}\r\n", value.len())?;
                self.sent.extend_from_slice(value);
            }
            self.sent.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&self.sent)?;
        let mut found = 0;
        for _ in requests {
            self.line.clear();
            self.stream.read_until(b'\n', &mut self.line)?;
            let text = String::from_utf8_lossy(&self.line);
            match text.trim_end().split_at_checked(1) {
                Some(("+", _)) | Some(("$", "-1")) => {}
                Some(("$", length)) => {
                    let length: usize = length.parse()?;
                    let mut value = vec![0; length + 2];
                    self.stream.read_exact(&mut value)?;
                    found += length;
                }
                _ => return Err(format!("the server said {text:?}").into()),
            }
        }
        Ok(found)
    }
}

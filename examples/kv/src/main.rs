//! `kv`: a key-value store without a server: `kv set greeting hello`, `kv get greeting`; and `kv serve`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use kv::shown::Reply;
use kv::{Store, request, serve};
use spacejmp::{Durability, SyncInterval};

const USAGE: &str = "\
usage, under `spacejmp run`:
  kv [OPTION].. COMMAND [WORD]..   one command of Redis: get, set, del, hset, lpush, zadd, ...
  kv [OPTION].. shell              commands from standard input, one on a line
  kv [OPTION].. serve              clients of Redis over sockets, at the same time as others
  kv commands                      what is served

options:
  --vas NAME            the address space, instead of `kv`; NAME@TAG is an old version, to be read
  --durability WHEN     when the store is made: `each` change is on the disk before it is answered (without
                        it), `every:MS` milliseconds, `manual`
  --maxmemory BYTES     when the store is made: how large it may become (K, M, G)
options of serve:
  --port PORT           instead of 6379; 0 for none (needs `spacejmp run --listen PORT`)
  --bind ADDRESS        instead of 127.0.0.1
  --unix PATH           a UNIX socket (needs `--dir` for its directory)
  --requirepass WORD    the password; or in the environment as KV_PASSWORD
  --maxclients NUMBER   instead of 10000

A command whose reply is an error, or nothing, exits with 1.";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("kv: {error}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    vas: String,
    durability: Durability,
    max_memory: Option<u64>,
    port: u16,
    bind: IpAddr,
    unix: Option<std::path::PathBuf>,
    password: Option<String>,
    max_clients: usize,
}

fn run(args: Vec<String>) -> Result<ExitCode, Box<dyn Error>> {
    let mut options = Options {
        vas: "kv".to_owned(),
        durability: Durability::Each,
        max_memory: None,
        port: 6379,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        unix: None,
        password: std::env::var("KV_PASSWORD").ok(),
        max_clients: 10_000,
    };
    let mut words = args.into_iter().peekable();
    let mut command: Option<String> = None;
    // Options come before the command; those of `serve` after it, too.
    while let Some(word) = words.next_if(|word| word.starts_with("--") || command.is_none()) {
        if !word.starts_with("--") {
            let is_serve = word == "serve";
            command = Some(word);
            if is_serve { continue } else { break }
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
        let bad = || format!("{value} is no value of {word}");
        match &word[..] {
            "--vas" => options.vas = value,
            "--durability" => options.durability = durability(&value).ok_or_else(bad)?,
            "--maxmemory" => options.max_memory = Some(bytes(&value).ok_or_else(bad)?),
            "--port" => options.port = value.parse().map_err(|_| bad())?,
            "--bind" => options.bind = value.parse().map_err(|_| bad())?,
            "--unix" => options.unix = Some(value.into()),
            "--requirepass" => options.password = Some(value),
            "--maxclients" => options.max_clients = value.parse().map_err(|_| bad())?,
            _ => return Err(format!("there is no option {word}\n{USAGE}").into()),
        }
    }
    let Some(command) = command else { return Err(USAGE.into()) };
    let rest: Vec<String> = words.collect();
    if command == "commands" {
        kv::served().iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let store = if options.vas.contains('@') {
        Store::open_read_only(&options.vas)
    } else {
        Store::open_or_create(&options.vas, options.durability, options.max_memory)
    };
    let store = store.map_err(|error| match &error {
        spacejmp::Error::WrongRoot { space, .. } => format!(
            "{error}\n{space} was made by another version of kv, or is no store of keys: serve it by that version and \
             copy the keys, or name another space with --vas"
        )
        .into(),
        _ => Box::<dyn Error>::from(error),
    })?;
    match &command[..] {
        "serve" if rest.is_empty() => serve_all(&store, options),
        "serve" => Err(format!("serve has no argument {}", rest[0]).into()),
        "shell" => shell(&store),
        _ => one(&store, &command, &rest),
    }
}

fn durability(text: &str) -> Option<Durability> {
    match text {
        "each" => Some(Durability::Each),
        "manual" => Some(Durability::Manual),
        _ => {
            let milliseconds = text.strip_prefix("every:")?.parse().ok()?;
            Some(Durability::Every(SyncInterval::new(milliseconds)?))
        }
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// One command, and its reply as it is: for people if they see it, otherwise for programs.
fn one(store: &Store, command: &str, rest: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<&[u8]> = std::iter::once(command)
        .chain(rest.iter().map(String::as_str))
        .map(str::as_bytes)
        .collect();
    let reply = store.client().call(&words)?;
    let mut output = std::io::stdout().lock();
    match &reply {
        Reply::Error(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::FAILURE);
        }
        Reply::Null if !output.is_terminal() => return Ok(ExitCode::FAILURE),
        _ if output.is_terminal() => output.write_all(reply.pretty().as_bytes())?,
        _ => output.write_all(&reply.plain())?,
    }
    Ok(if reply == Reply::Null { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Commands from standard input, with replies for people.
fn shell(store: &Store) -> Result<ExitCode, Box<dyn Error>> {
    let mut client = store.client();
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let asks = std::io::stdin().is_terminal();
    let prompt = |output: &mut std::io::StdoutLock<'_>| -> std::io::Result<()> {
        if asks {
            output.write_all(b"kv> ")?;
        }
        output.flush()
    };
    prompt(&mut output)?;
    for line in input.split(b'\n') {
        match request::split(&line?) {
            None => writeln!(output, "Invalid argument(s)")?,
            Some(words) if words.is_empty() => {}
            Some(words) if matches!(&words[0].to_ascii_lowercase()[..], b"quit" | b"exit") => break,
            Some(words) => {
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                output.write_all(client.call(&words)?.pretty().as_bytes())?;
            }
        }
        prompt(&mut output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn serve_all(store: &Store, options: Options) -> Result<ExitCode, Box<dyn Error>> {
    let tcp = if options.port == 0 {
        Vec::new()
    } else {
        vec![SocketAddr::new(options.bind, options.port)]
    };
    if tcp.is_empty() && options.unix.is_none() {
        return Err("there is nothing to listen at: give --port or --unix".into());
    }
    if !options.bind.is_loopback() && options.password.is_none() && options.port != 0 {
        return Err(format!(
            "whoever reaches {} could change everything: give --requirepass",
            options.bind
        )
        .into());
    }
    let serving = serve::Options {
        tcp,
        unix: options.unix,
        password: options.password,
        max_clients: options.max_clients,
    };
    serve::run(store, serving, |places| {
        // Whoever started it waits for this line.
        println!("ready at {}", places.join(", "));
        let _ = std::io::stdout().flush();
    })?;
    Ok(ExitCode::SUCCESS)
}

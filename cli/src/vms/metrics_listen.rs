//! `spacejmp stats --metrics-listen`: the counters for a collector that asks by HTTP, one after the other.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use vmm::exit_code::ExitCode;

use crate::errors::{self, Failure};

/// How long a collector may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(5);
/// A question has no more bytes.
const QUESTION_BYTES_MAX: u64 = 16 << 10;

/// Answers at `port` of this machine, and of no other, with what `metrics` says at each question, until it is ended.
pub(super) fn serve(
    port: u16,
    metrics: impl Fn() -> Result<String, Failure>,
) -> Result<ExitCode, Failure> {
    let doing = || format!("listen at port {port} (--metrics-listen)");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        Failure::new(doing(), error).help(Some("give another port, or 0".into()))
    })?;
    let at = listener.local_addr().map_err(|error| Failure::new(doing(), error))?;
    let said = format!("listening at http://{at}/metrics\n");
    errors::write_all(&mut io::stdout().lock(), said.as_bytes())?;
    for collector in listener.incoming() {
        let told = collector.and_then(|collector| answer(&collector, &metrics));
        if let Err(error) = told {
            tracing::info!(%error, "a collector of metrics got no answer");
        }
    }
    Ok(ExitCode::Program(0))
}

fn answer(collector: &TcpStream, metrics: &impl Fn() -> Result<String, Failure>) -> io::Result<()> {
    collector.set_read_timeout(Some(PATIENCE))?;
    collector.set_write_timeout(Some(PATIENCE))?;
    let mut question = BufReader::new(collector.take(QUESTION_BYTES_MAX));
    let mut first = String::new();
    question.read_line(&mut first)?;
    // All of it: who has something unread gets the answer cut off.
    let mut line = String::new();
    while question.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, body) = match first.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/metrics" | "/", _] => match metrics() {
            Ok(text) => ("200 OK", text),
            Err(failure) => {
                errors::print(&failure);
                ("503 Service Unavailable", "the VMs cannot be asked\n".to_owned())
            }
        },
        ["GET", ..] => ("404 Not Found", "there is only /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "there is only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut collector = collector;
    collector.write_all((head + &body).as_bytes())
}

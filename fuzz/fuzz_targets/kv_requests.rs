//! Requests to `kv serve` on any bytes: whole, and in two pieces, they are the same requests or the same
//! error, and take no more memory than what has arrived.

#![no_main]

use kv::request::{Limits, Parser, Words, split};
use libfuzzer_sys::fuzz_target;

fn requests(pieces: &[&[u8]], limits: Limits) -> (Vec<Words>, Option<String>) {
    let (mut parser, mut all) = (Parser::default(), Vec::new());
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.next(limits) {
                Ok(Some(words)) => all.push(words),
                Ok(None) => break,
                Err(error) => return (all, Some(error)),
            }
        }
    }
    (all, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&at, bytes)) = bytes.split_first() else { return };
    let (one, other) = bytes.split_at(usize::from(at).min(bytes.len()));
    for limits in [Limits::KNOWN, Limits::STRANGER] {
        let whole = requests(&[bytes], limits);
        assert_eq!(requests(&[one, other], limits), whole);
        let words: usize = whole.0.iter().flatten().map(Vec::len).sum();
        assert!(words <= bytes.len());
    }
    let _ = split(bytes);
    let _ = kv::shown::Reply::parse(bytes);
});

//! `sdk_fill N`: makes the index `shelf` of N words, or adds N to it, and prints `filled TOTAL`.
//! `sdk_find` reads it: another program, whose code and constants are at other addresses.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use guests::shelf::{Index, open, word};
use spacejmp::{Error, VString, VVec};

fn main() -> ExitCode {
    let count: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    let filled = open().and_then(|space| {
        space.write(|v| {
            let (index, at) = v.root_mut();
            let Index { title, pages, order, .. } = index;
            title.at_mut(at).clear();
            title.at_mut(at).push_str("A shelf of words")?;
            let mut pages = pages.at_mut(at);
            for page in 0..count {
                let text = word(page);
                let make = || Ok((VString::new(at, &text)?, VVec::new()));
                pages.get_or_insert_with(&text, make)?.at_mut(at).push(page)?;
                order.at_mut(at).push(page)?;
            }
            Ok::<_, Error>(pages.as_ref().values().map(|pages| pages.len()).sum::<usize>())
        })
    });
    match filled {
        Ok(total) => {
            println!("filled {total}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sdk_fill: {error}");
            ExitCode::FAILURE
        }
    }
}
